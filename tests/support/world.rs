//! Keepers over a perfect network: bytes arrive at once and whole, the coordination service answers at once.
//!
//! Time is virtual and the seed fixed, so that every run is the same run. Faults are what a test asks for by name (`faults`); those
//! that come by themselves are the simulator's business (`tests/sim`).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use datakeeper::base::clock::{Boot, Now, Wall};
use datakeeper::base::ids::{ConnId, LinkId, RunId};
use datakeeper::base::rules::LeftOut;
use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::registration::Host;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Effect, Effects, Event, Forward, Keeper, KeeperConfig, LinkPoll, Next, Work};
use datakeeper::replication::pulse::{Pulse, PulseCell};
use datakeeper::resp::{Batch, Output};
use datakeeper::shell::coordination::model::{Client, Fate, Model};

thread_local! {
    /// What nodes that are started on this thread leave out; only a build with the feature `leave-out-rules` can.
    pub static LEFT_OUT: Cell<LeftOut> = Cell::default();
    /// What commands are measured by, and how much that moves with each reading, in nanoseconds.
    static STOPWATCH: Cell<u64> = const { Cell::new(0) };
    pub static SLOWNESS: Cell<u64> = const { Cell::new(0) };
}

pub struct Node {
    /// No two processes have the same number.
    pub process: u64,
    pub keeper: Keeper,
    pub pulse: Arc<PulseCell>,
    pub coordinator: Client,
    /// Our link → its other end.
    pub links: BTreeMap<LinkId, Far>,
    pub pulse_to: Option<(usize, u128)>,
    pub notices: Vec<String>,
    pub conns: BTreeSet<ConnId>,
    /// Connections that this node closed.
    pub closed: BTreeSet<ConnId>,
    pub released: BTreeMap<ConnId, u64>,
    pub resumed: Vec<ConnId>,
    /// What was published for each connection, apart from replies.
    pub pushed: BTreeMap<ConnId, Output>,
    /// To be closed once idle.
    pub closing: Vec<ConnId>,
    /// What CONFIG REWRITE wrote last.
    pub written: Vec<(&'static str, String)>,
}

/// The other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Far {
    pub node: usize,
    pub process: u64,
    pub link: LinkId,
}

/// Something on its way to a process.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub from: usize,
    pub to: usize,
    pub process: u64,
    pub what: What,
}

/// What is in a parcel; links are the receiver's.
#[derive(Clone, Debug)]
pub enum What {
    Frame(LinkId, Bytes),
    Down(LinkId),
    /// On the pulse connection with that token, with its length prefix, as the next.
    Beat(u128, Bytes),
    Echo(u128, Bytes),
}

/// A dial that was not answered yet.
struct Dial {
    from: usize,
    process: u64,
    link: LinkId,
    addr: String,
}

pub struct World {
    pub now_ms: u64,
    pub seed: u64,
    pub model: Model,
    pub nodes: Vec<Option<Node>>,
    pub conns: u64,
    processes: u64,
    /// Nodes whose frames and pulses reach nobody, and whom nobody reaches; what is sent waits.
    pub cut_off: BTreeSet<usize>,
    /// The same for one direction, from → to.
    pub stopped: BTreeSet<(usize, usize)>,
    /// How many more parcels pass before a direction is stopped.
    pub passing: BTreeMap<(usize, usize), usize>,
    /// What waits because of that, in order.
    pub on_the_way: BTreeMap<(usize, usize), VecDeque<Parcel>>,
    dialling: Vec<Dial>,
    /// Bytes per ms that reach a node on its links, and what is left of them in this ms.
    pub bandwidth: BTreeMap<usize, (i64, i64)>,
    /// Nodes without contact to the coordination service.
    pub uncoordinated: BTreeSet<usize>,
    /// Nodes whose process stands still.
    pub asleep: BTreeSet<usize>,
    /// Nodes whose Keeper's lock is held by something long: it hears nothing, while their pulses go on.
    pub held: BTreeSet<usize>,
    /// What waits for it.
    behind_lock: VecDeque<Parcel>,
    /// Connections that do not read.
    pub deaf: BTreeSet<ConnId>,
    /// Nodes whose requests the coordination service does not get to, and whom it does not tell anything.
    pub unserved: BTreeSet<usize>,
    /// What it has to tell them.
    pub untold: BTreeMap<usize, VecDeque<CoordEvent>>,
    /// By how much a node's wall clock is ahead.
    pub wall_ahead_ms: BTreeMap<usize, i64>,
    /// Why processes ended by themselves; a test that does not expect it fails.
    pub exits: Option<Vec<String>>,
    /// Why no configuration file can be written.
    pub unwritable: Option<String>,
    /// How often each node wrote to a link.
    pub sends: BTreeMap<usize, u64>,
    /// Changes a node's settings before it starts.
    pub tune: fn(usize, &mut KeeperConfig),
    /// Where each node's links lead to.
    pub repl_addrs: Vec<String>,
}

/// A batch of commands on its way.
pub struct Request {
    pub node: usize,
    pub conn: ConnId,
    batch: Batch,
    /// Commands executed.
    done: usize,
    pub out: Output,
    held: Option<u64>,
    pub next: Next,
    /// With [`Next::Forward`]: what is to be passed on.
    pub forward: Option<Box<Forward>>,
}

impl World {
    pub fn new(n: usize) -> World {
        World {
            now_ms: 1_000,
            seed: 1,
            model: Model::new(),
            nodes: (0..n).map(|_| None).collect(),
            conns: 0,
            processes: 0,
            cut_off: BTreeSet::new(),
            stopped: BTreeSet::new(),
            passing: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
            dialling: Vec::new(),
            bandwidth: BTreeMap::new(),
            uncoordinated: BTreeSet::new(),
            asleep: BTreeSet::new(),
            held: BTreeSet::new(),
            behind_lock: VecDeque::new(),
            deaf: BTreeSet::new(),
            unserved: BTreeSet::new(),
            untold: BTreeMap::new(),
            wall_ahead_ms: BTreeMap::new(),
            exits: None,
            unwritable: None,
            sends: BTreeMap::new(),
            tune: |_, _| {},
            repl_addrs: vec![String::new(); n],
        }
    }

    /// Room for one more node.
    pub fn grow(&mut self) {
        self.nodes.push(None);
        self.repl_addrs.push(String::new());
    }

    /// The time, by a clock that is right.
    pub fn now(&self) -> Now {
        Now { boot: Boot(self.now_ms * 1_000_000), wall: Wall(1_700_000_000_000 + self.now_ms) }
    }

    /// That node's clocks.
    pub fn now_of(&self, i: usize) -> Now {
        let (now, ahead) = (self.now(), self.wall_ahead_ms.get(&i).copied().unwrap_or(0));
        Now { wall: Wall(now.wall.0.saturating_add_signed(ahead)), ..now }
    }

    pub fn start(&mut self, i: usize) {
        let mut config = KeeperConfig::new(format!("n{i}").parse().unwrap(), "c");
        (config.client_addr, config.repl_addr) = (format!("client:{i}"), format!("{i}"));
        config.secret = Some(b"secret".to_vec());
        config.chunk_bytes = 256;
        config.started = self.now_of(i).wall;
        config.run = RunId(u128::from(self.processes + 1));
        config.host = Some(Host {
            boot_id: format!("machine {i}"),
            network: 1,
            machine_id: None,
            client_bound: config.client_addr.clone(),
            repl_bound: config.repl_addr.clone(),
        });
        config.stopwatch = || {
            STOPWATCH.set(STOPWATCH.get() + SLOWNESS.get());
            Boot(STOPWATCH.get())
        };
        (self.tune)(i, &mut config);
        config.rules = LEFT_OUT.get();
        self.repl_addrs[i].clone_from(&config.repl_addr);
        self.seed += 1;
        self.processes += 1;
        let now = self.now_of(i);
        let pulse = Arc::new(PulseCell::new(Pulse::default()));
        let mut keeper = Keeper::new(config, self.seed, now, pulse.clone());
        let mut fx = Effects::new();
        keeper.start(now, &mut fx);
        let mut coordinator = Client::new();
        let hello = coordinator.connect(&mut self.model);
        self.nodes[i] = Some(Node {
            process: self.processes,
            keeper,
            pulse,
            coordinator,
            links: BTreeMap::new(),
            pulse_to: None,
            notices: Vec::new(),
            conns: BTreeSet::new(),
            closed: BTreeSet::new(),
            released: BTreeMap::new(),
            resumed: Vec::new(),
            pushed: BTreeMap::new(),
            closing: Vec::new(),
            written: Vec::new(),
        });
        self.perform(i, fx);
        if self.unserved.contains(&i) {
            self.untold.insert(i, hello.into());
        } else {
            for event in hello {
                self.event(i, Event::Coord(Box::new(event)));
            }
        }
        self.settle();
    }

    /// The process ends, and its session with it.
    pub fn crash(&mut self, i: usize) {
        let client = self.kill(i);
        if let Some(session) = client.session() {
            self.model.end_session(session);
        }
        self.settle();
    }

    /// The process ends in good order: its end is recorded, and its session with it.
    pub fn end_in_good_order(&mut self, i: usize) {
        let client = self.kill(i);
        if let Some(session) = client.session() {
            self.model.record_end(session);
            self.model.end_session(session);
        }
        self.settle();
    }

    /// The process ends; its session goes on, and what it asked of the coordination service may still take effect.
    pub fn kill(&mut self, i: usize) -> Client {
        let node = self.nodes[i].take().unwrap();
        self.asleep.remove(&i);
        self.untold.remove(&i);
        for far in node.links.into_values() {
            self.send(i, far, What::Down(far.link));
        }
        node.coordinator
    }

    pub fn event(&mut self, i: usize, event: Event) {
        let now = self.now_of(i);
        let Some(node) = &mut self.nodes[i] else { return };
        let mut fx = Effects::new();
        node.keeper.handle(now, event, &mut fx);
        self.perform(i, fx);
    }

    pub fn perform(&mut self, i: usize, fx: Effects) {
        let now = self.now_of(i);
        for effect in fx {
            let Some(node) = &mut self.nodes[i] else { return };
            match effect {
                Effect::Dial { link, addr } => {
                    let process = node.process;
                    self.dial(Dial { from: i, process, link, addr });
                }
                Effect::WakeLink(link) => self.pump(i, link),
                Effect::Hangup(link) => {
                    self.dialling.retain(|d| (d.from, d.link) != (i, link));
                    self.pump(i, link);
                    self.close(i, link);
                }
                Effect::PulseTo { addr, token } => {
                    let peer = self.at(&addr);
                    self.nodes[i].as_mut().unwrap().pulse_to = Some((peer, token));
                }
                Effect::PulseStop => node.pulse_to = None,
                Effect::Coord(request) => node.coordinator.submit(*request),
                Effect::Release { conn, seq } => {
                    node.released.insert(conn, seq);
                }
                Effect::Resume(conn) => node.resumed.push(conn),
                Effect::Push(conn) if self.deaf.contains(&conn) => {}
                Effect::Push(conn) => {
                    let mut out = Output::new();
                    assert!(!node.keeper.take_pushed(conn, &mut out, usize::MAX));
                    node.pushed.entry(conn).or_default().append(&mut out);
                }
                Effect::CloseClient(conn) => _ = node.closed.insert(conn),
                Effect::CloseIdle(conn) => node.closing.push(conn),
                Effect::CloseClients => node.closed.extend(&node.conns),
                Effect::WriteConfig { id, values } => {
                    node.written = values;
                    let result = self.unwritable.clone().map_or(Ok(()), Err);
                    self.event(i, Event::ConfigWritten { id, result });
                }
                Effect::Log(_) | Effect::Shutdown { .. } => {}
                Effect::Exit { reason } => {
                    let exits = self.exits.as_mut().unwrap_or_else(|| panic!("n{i} exits: {reason}"));
                    exits.push(format!("n{i} {reason}"));
                    let session = self.kill(i).session();
                    session.into_iter().for_each(|session| self.model.end_session(session));
                }
                Effect::Notice(notice) => {
                    node.notices.push(format!("{} n{i} {:?} {notice}", now.boot.0 / 1_000_000, notice.level))
                }
            }
        }
    }

    fn dial(&mut self, dial: Dial) {
        let (i, link, peer) = (dial.from, dial.link, self.at(&dial.addr));
        if !self.is_open(i, peer) || !self.is_open(peer, i) {
            self.dialling.push(dial);
            return;
        }
        let now = self.now_of(peer);
        let Some(other) = &mut self.nodes[peer] else {
            self.event(i, Event::LinkDown { link, reason: "refused".into() });
            return;
        };
        let token = u128::from(dial.process) << 96 | u128::from(link.0) << 64 | i as u128;
        let mut fx = Effects::new();
        let theirs = other.keeper.link_accepted(now, [7; 16], token, &mut fx);
        other.links.insert(theirs, Far { node: i, process: dial.process, link });
        let far = Far { node: peer, process: other.process, link: theirs };
        self.nodes[i].as_mut().unwrap().links.insert(link, far);
        self.perform(peer, fx);
        self.event(i, Event::LinkUp { link, nonce: [9; 16] });
        self.pump(peer, theirs);
    }

    /// Whether what is sent arrives at once.
    fn is_open(&self, from: usize, to: usize) -> bool {
        let cut_off = self.cut_off.contains(&from) || self.cut_off.contains(&to);
        !cut_off && !self.stopped.contains(&(from, to)) && !self.asleep.contains(&to)
    }

    /// Puts something on its way.
    pub fn send(&mut self, from: usize, far: Far, what: What) {
        match self.passing.get_mut(&(from, far.node)) {
            Some(0) => {
                self.passing.remove(&(from, far.node));
                self.stopped.insert((from, far.node));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let parcel = Parcel { from, to: far.node, process: far.process, what };
        let queue = self.on_the_way.get(&(from, far.node)).is_some_and(|q| !q.is_empty());
        if queue || !self.is_open(from, far.node) {
            self.on_the_way.entry((from, far.node)).or_default().push_back(parcel);
        } else {
            self.arrive(parcel);
        }
    }

    /// A parcel reaches its process, if that still lives.
    pub fn arrive(&mut self, parcel: Parcel) {
        if self.held.contains(&parcel.to) && matches!(parcel.what, What::Frame(..) | What::Down(_)) {
            self.behind_lock.push_back(parcel);
            return;
        }
        let Parcel { from, to, process, what } = parcel;
        let now = self.now_of(to);
        let Some(node) = self.nodes[to].as_mut().filter(|n| n.process == process) else { return };
        match what {
            What::Frame(link, frame) => self.event(to, Event::LinkFrame { link, frame }),
            What::Down(link) => {
                node.links.remove(&link);
                self.event(to, Event::LinkDown { link, reason: "closed by the other side".into() });
            }
            What::Beat(token, beat) => {
                // On a pulse connection that was closed meanwhile, nothing arrives.
                if node.pulse_to != Some((from, token)) {
                    return;
                }
                let echo = node.pulse.lock().heard(now, &beat[4..]).unwrap();
                let (Some(echo), Some(other)) = (echo, &self.nodes[from]) else { return };
                let far = Far { node: from, process: other.process, link: LinkId(0) };
                self.send(to, far, What::Echo(token, echo));
            }
            What::Echo(token, echo) => _ = node.pulse.lock().echoed(now, token, &echo[4..]),
        }
    }

    /// What waited and need not any more arrives, in order; what was dialled is answered.
    pub fn flush(&mut self) {
        for parcel in std::mem::take(&mut self.behind_lock) {
            self.arrive(parcel);
        }
        let ways: Vec<(usize, usize)> = self.on_the_way.keys().copied().collect();
        for (from, to) in ways {
            while self.is_open(from, to)
                && let Some(parcel) = self.on_the_way.get_mut(&(from, to)).and_then(VecDeque::pop_front)
            {
                self.arrive(parcel);
            }
        }
        for dial in std::mem::take(&mut self.dialling) {
            if self.nodes[dial.from].as_ref().is_some_and(|n| n.process == dial.process) {
                self.dial(dial);
            }
        }
    }

    /// One side closes a link; the other learns of it behind what was sent.
    pub fn close(&mut self, i: usize, link: LinkId) {
        if let Some(far) = self.nodes[i].as_mut().and_then(|n| n.links.remove(&link)) {
            self.send(i, far, What::Down(far.link));
        }
    }

    /// Somebody opens a link to that node and says nothing.
    pub fn stranger(&mut self, i: usize, token: u128) -> LinkId {
        let (now, mut fx) = (self.now_of(i), Effects::new());
        let link = self.nodes[i].as_mut().unwrap().keeper.link_accepted(now, [7; 16], token, &mut fx);
        self.perform(i, fx);
        link
    }

    /// Whether that node's Keeper knows the link.
    pub fn has_link(&mut self, i: usize, link: LinkId) -> bool {
        let now = self.now_of(i);
        self.nodes[i].as_mut().unwrap().keeper.poll_link(now, link, &mut Vec::new()) != LinkPoll::Gone
    }

    fn at(&self, repl_addr: &str) -> usize {
        self.repl_addrs.iter().position(|addr| addr == repl_addr).expect("a node listens there")
    }

    /// A new millisecond for nodes whose bandwidth is bounded.
    fn let_bytes_through(&mut self) {
        for (rate, left) in self.bandwidth.values_mut() {
            *left = (*left + *rate).min(*rate);
        }
        let bounded: Vec<usize> = self.bandwidth.keys().copied().collect();
        for i in 0..self.nodes.len() {
            let links = self.nodes[i].iter().flat_map(|n| &n.links).filter(|(_, far)| bounded.contains(&far.node));
            for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
                self.pump(i, link);
            }
        }
    }

    /// Puts everything on its way that one side has for a link.
    pub fn pump(&mut self, i: usize, link: LinkId) {
        let now = self.now_of(i);
        loop {
            let Some(node) = &mut self.nodes[i] else { return };
            let budget = node.links.get(&link).and_then(|far| self.bandwidth.get_mut(&far.node));
            if budget.as_ref().is_some_and(|(_, left)| *left <= 0) {
                return;
            }
            let mut out: Vec<Bytes> = Vec::new();
            let poll = node.keeper.poll_link(now, link, &mut out);
            if let Some((_, left)) = budget {
                *left -= out.iter().map(Bytes::len).sum::<usize>() as i64;
            }
            let Some(far) = node.links.get(&link).copied() else { return };
            let mut bytes: Vec<u8> = out.concat();
            *self.sends.entry(i).or_default() += u64::from(!bytes.is_empty());
            while bytes.len() >= 4 {
                let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                let frame = Bytes::copy_from_slice(&bytes[4..4 + len]);
                bytes.drain(..4 + len);
                self.send(i, far, What::Frame(far.link, frame));
            }
            match poll {
                LinkPoll::More => {}
                LinkPoll::Idle => return,
                LinkPoll::Gone => return self.close(i, link),
            }
        }
    }

    /// Whether the coordination service and that node reach each other.
    fn is_served(&self, i: usize) -> bool {
        !self.unserved.contains(&i) && !self.asleep.contains(&i) && !self.uncoordinated.contains(&i)
    }

    /// A node loses the coordination service; its session goes on.
    pub fn lose_coordination(&mut self, i: usize) {
        self.uncoordinated.insert(i);
        let event = self.nodes[i].as_mut().unwrap().coordinator.disconnect("lost");
        self.event(i, Event::Coord(Box::new(event)));
    }

    /// It is back.
    pub fn regain_coordination(&mut self, i: usize) {
        self.uncoordinated.remove(&i);
        let greeting = self.nodes[i].as_mut().unwrap().coordinator.connect(&mut self.model);
        for event in greeting {
            self.event(i, Event::Coord(Box::new(event)));
        }
        self.settle();
    }

    /// Lets the coordination service answer until nobody asks any more.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for i in 0..self.nodes.len() {
                if self.is_served(i) {
                    quiet &= !self.untold.contains_key(&i);
                    self.told_all(i);
                    quiet &= !self.reconnect(i);
                    quiet &= !self.step(i);
                }
            }
            let notices = self.model.take_notices();
            for (session, event) in notices {
                quiet = false;
                let of = |n: &Option<Node>| n.as_ref().is_some_and(|n| n.coordinator.session() == Some(session));
                if let Some(i) = self.nodes.iter().position(of) {
                    if self.is_served(i) {
                        self.event(i, Event::Coord(Box::new(event)));
                    } else if !self.uncoordinated.contains(&i) {
                        self.untold.entry(i).or_default().push_back(event);
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// A node whose session is over opens another; whether it had to.
    fn reconnect(&mut self, i: usize) -> bool {
        let Some(node) = &mut self.nodes[i] else { return false };
        if node.coordinator.session().is_none_or(|s| self.model.is_open(s)) {
            return false;
        }
        let mut events = vec![node.coordinator.disconnect("session expired")];
        events.extend(node.coordinator.connect(&mut self.model));
        for event in events {
            self.event(i, Event::Coord(Box::new(event)));
        }
        true
    }

    /// The coordination service carries out one request of a node and answers it; whether there was one.
    pub fn step(&mut self, i: usize) -> bool {
        let Some(node) = self.nodes[i].as_mut().filter(|n| n.coordinator.front().is_some()) else { return false };
        for event in node.coordinator.step(&mut self.model, Fate::Answered) {
            self.event(i, Event::Coord(Box::new(event)));
        }
        true
    }

    /// Lets time pass, a millisecond at a time.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            self.let_bytes_through();
            self.flush();
            for i in 0..self.nodes.len() {
                let now = self.now_of(i);
                let awake = |n: &&Node| n.keeper.next_deadline() <= now.boot;
                let runs = !self.asleep.contains(&i) && !self.held.contains(&i);
                if runs && self.nodes[i].as_ref().filter(awake).is_some() {
                    self.event(i, Event::Tick);
                }
                self.beat(i);
            }
            self.settle();
        }
    }

    /// A leader's pulse.
    fn beat(&mut self, i: usize) {
        let now = self.now_of(i);
        let Some(node) = self.nodes[i].as_ref().filter(|_| !self.asleep.contains(&i)) else { return };
        let beat = {
            let mut pulse = node.pulse.lock();
            if self.now_ms.is_multiple_of(pulse.heartbeat_ms()) { pulse.beat(now) } else { None }
        };
        let Some(beat) = beat else { return };
        for j in 0..self.nodes.len() {
            let listens = self.nodes[j].as_ref().and_then(|n| Some((n.process, n.pulse_to.filter(|p| p.0 == i)?.1)));
            let opened = |token| self.nodes[i].as_ref().is_some_and(|n| n.pulse.lock().opened(token));
            if let Some((process, token)) = listens.filter(|(_, token)| opened(*token)) {
                self.send(i, Far { node: j, process, link: LinkId(0) }, What::Beat(token, beat.clone()));
            }
        }
    }

    pub fn keeper(&self, i: usize) -> &Keeper {
        &self.nodes[i].as_ref().unwrap().keeper
    }

    pub fn role(&self, i: usize) -> Role {
        self.nodes[i].as_ref().map_or(Role::Starting, |n| n.keeper.role())
    }

    /// Executes one command on a new connection and returns the reply once it may leave.
    pub fn ask(&mut self, i: usize, words: &[&str]) -> String {
        let conn = self.connect(i);
        let reply = self.ask_on(i, conn, words);
        self.nodes[i].as_mut().unwrap().keeper.client_gone(conn);
        String::from_utf8(reply).unwrap()
    }

    /// A new connection.
    pub fn connect(&mut self, i: usize) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let (now, peer) = (self.now_of(i), format!("10.9.0.1:{}", 40_000 + self.conns));
        let node = self.nodes[i].as_mut().unwrap();
        assert!(node.keeper.client_connected(now, conn, peer, format!("10.0.0.{i}:6379")));
        node.conns.insert(conn);
        conn
    }

    /// The same at the Sentinel port.
    pub fn connect_to_sentinel(&mut self, i: usize) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let (now, peer) = (self.now_of(i), format!("10.9.0.1:{}", 40_000 + self.conns));
        let node = self.nodes[i].as_mut().unwrap();
        assert!(node.keeper.sentinel_client_connected(now, conn, peer, format!("10.0.0.{i}:26379")));
        node.conns.insert(conn);
        conn
    }

    /// Executes one command and returns the reply once it may leave.
    pub fn ask_on(&mut self, i: usize, conn: ConnId, words: &[&str]) -> Vec<u8> {
        let deadline = self.now_ms + 3_000;
        let mut request = self.request(i, conn, words);
        while !self.answered(&mut request) {
            assert!(self.now_ms < deadline, "{words:?} was never answered: {:#?}", self.notices());
            self.run(1);
        }
        request.out.to_vec()
    }

    /// What CONFIG REWRITE wrote last at that node.
    pub fn written(&self, i: usize) -> &[(&'static str, String)] {
        &self.nodes[i].as_ref().unwrap().written
    }

    /// What was published for a connection and came apart from replies.
    pub fn pushed(&mut self, i: usize, conn: ConnId) -> Vec<u8> {
        self.nodes[i].as_mut().unwrap().pushed.remove(&conn).map_or_else(Vec::new, |out| out.to_vec())
    }

    /// Begins to execute one command.
    pub fn request(&mut self, i: usize, conn: ConnId, words: &[&str]) -> Request {
        self.pipeline(i, conn, &[words])
    }

    /// Begins to execute commands that arrived together.
    pub fn pipeline(&mut self, i: usize, conn: ConnId, commands: &[&[&str]]) -> Request {
        let mut batch = Batch::new();
        for words in commands {
            batch.push_command(&words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>());
        }
        let mut request =
            Request { node: i, conn, batch, done: 0, out: Output::new(), held: None, next: Next::Again, forward: None };
        self.execute(&mut request);
        request
    }

    /// Goes on with a command if it can; whether its reply may leave.
    pub fn answered(&mut self, request: &mut Request) -> bool {
        let Some(node) = &mut self.nodes[request.node] else { return false };
        match request.next {
            Next::Again => self.execute(request),
            Next::Wait if node.resumed.contains(&request.conn) => {
                node.resumed.retain(|conn| *conn != request.conn);
                self.execute(request);
            }
            Next::Wait | Next::Done | Next::CloseAfter | Next::Forward => {}
        }
        let released = self.nodes[request.node].as_ref().unwrap().released.get(&request.conn).copied();
        let held = request.held.is_some_and(|seq| released.is_none_or(|released| released < seq));
        matches!(request.next, Next::Done | Next::CloseAfter) && !held
    }

    fn execute(&mut self, request: &mut Request) {
        let mut fx = Effects::new();
        let now = self.now_of(request.node);
        let keeper = &mut self.nodes[request.node].as_mut().unwrap().keeper;
        STOPWATCH.set(STOPWATCH.get().max(now.boot.0)); // it does not go back, though the simulated time may stand still
        let work = Work { conn: request.conn, batch: &request.batch, input: &[], from: request.done, touch: None };
        let done = keeper.execute(now, work, &mut request.out, &mut fx);
        request.done += done.commands;
        request.held = done.seq.or(request.held);
        request.next = done.next;
        request.forward = done.forward;
        self.perform(request.node, fx);
    }

    pub fn notices(&self) -> Vec<String> {
        self.nodes.iter().flatten().flat_map(|n| n.notices.clone()).collect()
    }

    pub fn run_until(&mut self, what: &str, within_ms: u64, mut done: impl FnMut(&World) -> bool) -> u64 {
        let begin = self.now_ms;
        while !done(self) {
            assert!(self.now_ms < begin + within_ms, "not within {within_ms} ms: {what}\n{:#?}", self.notices());
            self.run(1);
        }
        self.now_ms - begin
    }

    pub fn in_sync(&self) -> usize {
        self.model.state().state.map_or(0, |(s, _)| s.in_sync.len())
    }
}

pub fn three() -> World {
    three_tuned(|_, _| {})
}

/// So many nodes with such settings, all in sync; n0 leads. There is a place for a fourth.
pub fn world(nodes: usize, tune: fn(usize, &mut KeeperConfig)) -> World {
    let mut world = World::new(4);
    world.tune = tune;
    for i in 0..nodes {
        world.start(i);
    }
    world.run_until("all in sync", 2_000, |w| w.in_sync() == nodes && w.role(0) == Role::Leader);
    world
}

/// As [`three`], with other settings.
pub fn three_tuned(tune: fn(usize, &mut KeeperConfig)) -> World {
    let mut world = World::new(3);
    world.tune = tune;
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    for i in 0..50 {
        assert_eq!(world.ask(0, &["SET", &format!("before{i}"), "x"]), "+OK\r\n");
    }
    world.start(1);
    world.start(2);
    world.run_until("all three in sync", 2_000, |w| w.in_sync() == 3);
    world
}
