//! Keepers over a perfect network: bytes arrive at once and whole, the coordination service answers at once.
//!
//! Time is virtual and the seed fixed, so that every run is the same run. A node may crash, or be cut off from the others; faults
//! of every other kind are the simulator's business (`tests/sim`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use datakeeper::base::clock::{Boot, Now, Wall};
use datakeeper::base::ids::{ConnId, LinkId};
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Effect, Effects, Event, Keeper, KeeperConfig, LinkPoll, Next};
use datakeeper::replication::pulse::{Pulse, PulseCell};
use datakeeper::resp::{Batch, Output};
use datakeeper::shell::coordination::model::{Client, Fate, Model};

pub struct Node {
    pub keeper: Keeper,
    pub pulse: Arc<PulseCell>,
    pub coordinator: Client,
    /// Our link → the peer's number and its link.
    pub links: BTreeMap<LinkId, (usize, LinkId)>,
    pub pulse_to: Option<(usize, u128)>,
    pub notices: Vec<String>,
    pub released: BTreeMap<ConnId, u64>,
    pub resumed: Vec<ConnId>,
    /// To be closed once idle.
    pub closing: Vec<ConnId>,
}

pub struct World {
    pub now_ms: u64,
    pub seed: u64,
    pub model: Model,
    pub nodes: Vec<Option<Node>>,
    pub conns: u64,
    /// Nodes whose frames and pulses reach nobody, and whom nobody reaches.
    pub cut_off: BTreeSet<usize>,
    /// Bytes per ms that reach a node on its links, and what is left of them in this ms.
    pub bandwidth: BTreeMap<usize, (i64, i64)>,
    /// Nodes without contact to the coordination service.
    pub uncoordinated: BTreeSet<usize>,
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
}

impl World {
    pub fn new(n: usize) -> World {
        World {
            now_ms: 1_000,
            seed: 1,
            model: Model::new(),
            nodes: (0..n).map(|_| None).collect(),
            conns: 0,
            cut_off: BTreeSet::new(),
            uncoordinated: BTreeSet::new(),
            bandwidth: BTreeMap::new(),
            tune: |_, _| {},
            repl_addrs: vec![String::new(); n],
        }
    }

    /// Room for one more node.
    pub fn grow(&mut self) {
        self.nodes.push(None);
        self.repl_addrs.push(String::new());
    }

    pub fn now(&self) -> Now {
        Now { boot: Boot(self.now_ms * 1_000_000), wall: Wall(1_700_000_000_000 + self.now_ms) }
    }

    pub fn start(&mut self, i: usize) {
        let mut config = KeeperConfig::new(format!("n{i}").parse().unwrap(), "c");
        (config.client_addr, config.repl_addr) = (format!("client:{i}"), format!("{i}"));
        config.secret = Some(b"secret".to_vec());
        config.chunk_bytes = 256;
        config.started = self.now().wall;
        (self.tune)(i, &mut config);
        self.repl_addrs[i].clone_from(&config.repl_addr);
        self.seed += 1;
        let pulse = Arc::new(PulseCell::new(Pulse::default()));
        let mut keeper = Keeper::new(config, self.seed, self.now(), pulse.clone());
        let mut fx = Effects::new();
        keeper.start(self.now(), &mut fx);
        let mut coordinator = Client::new();
        let hello = coordinator.connect(&mut self.model);
        self.nodes[i] = Some(Node {
            keeper,
            pulse,
            coordinator,
            links: BTreeMap::new(),
            pulse_to: None,
            notices: Vec::new(),
            released: BTreeMap::new(),
            resumed: Vec::new(),
            closing: Vec::new(),
        });
        self.perform(i, fx);
        for event in hello {
            self.event(i, Event::Coord(Box::new(event)));
        }
        self.settle();
    }

    pub fn crash(&mut self, i: usize) {
        let node = self.nodes[i].take().unwrap();
        if let Some(session) = node.coordinator.session() {
            self.model.end_session(session);
        }
        for (_, (peer, link)) in node.links {
            self.event(peer, Event::LinkDown { link, reason: "peer died".into() });
        }
        self.settle();
    }

    /// The link between two nodes ends, and both notice.
    pub fn break_link(&mut self, a: usize, b: usize) {
        let links = &self.nodes[a].as_ref().unwrap().links;
        let (ours, theirs) =
            links.iter().find(|(_, (peer, _))| *peer == b).map(|(ours, (_, theirs))| (*ours, *theirs)).unwrap();
        for (node, link) in [(b, theirs), (a, ours)] {
            self.nodes[node].as_mut().unwrap().links.remove(&link);
            self.event(node, Event::LinkDown { link, reason: "broken".into() });
        }
    }

    pub fn event(&mut self, i: usize, event: Event) {
        let now = self.now();
        let Some(node) = &mut self.nodes[i] else { return };
        let mut fx = Effects::new();
        node.keeper.handle(now, event, &mut fx);
        self.perform(i, fx);
    }

    pub fn perform(&mut self, i: usize, fx: Effects) {
        let now = self.now();
        for effect in fx {
            let Some(node) = &mut self.nodes[i] else { return };
            match effect {
                Effect::Dial { link, addr } => {
                    let peer = self.at(&addr);
                    match &mut self.nodes[peer] {
                        Some(other) => {
                            let theirs = other.keeper.link_accepted(now, [7; 16], u128::from(link.0) << 64 | i as u128);
                            other.links.insert(theirs, (i, link));
                            self.nodes[i].as_mut().unwrap().links.insert(link, (peer, theirs));
                            self.event(i, Event::LinkUp { link, nonce: [9; 16] });
                            self.pump(peer, theirs);
                        }
                        None => self.event(i, Event::LinkDown { link, reason: "refused".into() }),
                    }
                }
                Effect::WakeLink(link) => self.pump(i, link),
                Effect::Hangup(link) => {
                    self.pump(i, link);
                    if let Some((peer, theirs)) = self.nodes[i].as_mut().and_then(|n| n.links.remove(&link)) {
                        if let Some(other) = &mut self.nodes[peer] {
                            other.links.remove(&theirs);
                        }
                        self.event(peer, Event::LinkDown { link: theirs, reason: "hung up".into() });
                    }
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
                Effect::CloseIdle(conn) => node.closing.push(conn),
                Effect::CloseClient(_) | Effect::CloseClients => {}
                Effect::Exit { reason } => panic!("n{i} exits: {reason}"),
                Effect::Notice(notice) => {
                    node.notices.push(format!("{} n{i} {:?} {notice}", now.boot.0 / 1_000_000, notice.level))
                }
            }
        }
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
            let links = self.nodes[i].iter().flat_map(|n| &n.links).filter(|(_, (peer, _))| bounded.contains(peer));
            for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
                self.pump(i, link);
            }
        }
    }

    /// Carries everything that one side has for a link to the other.
    pub fn pump(&mut self, i: usize, link: LinkId) {
        let now = self.now();
        loop {
            let Some(node) = &mut self.nodes[i] else { return };
            let peer = node.links.get(&link).map(|(peer, _)| *peer);
            if peer.is_some_and(|peer| self.cut_off.contains(&i) || self.cut_off.contains(&peer)) {
                return;
            }
            let budget = peer.and_then(|peer| self.bandwidth.get_mut(&peer));
            if budget.as_ref().is_some_and(|(_, left)| *left <= 0) {
                return;
            }
            let mut out: Vec<Bytes> = Vec::new();
            let poll = node.keeper.poll_link(now, link, &mut out);
            if let Some((_, left)) = budget {
                *left -= out.iter().map(Bytes::len).sum::<usize>() as i64;
            }
            let Some((peer, theirs)) = node.links.get(&link).copied() else { return };
            let mut bytes: Vec<u8> = out.concat();
            while bytes.len() >= 4 {
                let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                let frame = Bytes::copy_from_slice(&bytes[4..4 + len]);
                bytes.drain(..4 + len);
                self.event(peer, Event::LinkFrame { link: theirs, frame });
            }
            if poll == LinkPoll::Gone
                && let Some(node) = &mut self.nodes[i]
                && node.links.remove(&link).is_some()
            {
                self.event(peer, Event::LinkDown { link: theirs, reason: "closed".into() });
            }
            if poll != LinkPoll::More {
                return;
            }
        }
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
                let Some(node) = &mut self.nodes[i] else { continue };
                if node.coordinator.front().is_some() && !self.uncoordinated.contains(&i) {
                    quiet = false;
                    let answers = node.coordinator.step(&mut self.model, Fate::Answered);
                    for event in answers {
                        self.event(i, Event::Coord(Box::new(event)));
                    }
                }
            }
            let notices: VecDeque<_> = self.model.take_notices().into();
            for (session, event) in notices {
                quiet = false;
                let of = |n: &Option<Node>| n.as_ref().is_some_and(|n| n.coordinator.session() == Some(session));
                if let Some(i) = self.nodes.iter().position(of).filter(|i| !self.uncoordinated.contains(i)) {
                    self.event(i, Event::Coord(Box::new(event)));
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Lets time pass, a millisecond at a time.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.now();
            self.let_bytes_through();
            for i in 0..self.nodes.len() {
                if self.nodes[i].as_ref().is_some_and(|n| n.keeper.next_deadline() <= now.boot) {
                    self.event(i, Event::Tick);
                }
                let beat = self.nodes[i].as_ref().and_then(|n| {
                    let mut pulse = n.pulse.lock();
                    if self.now_ms.is_multiple_of(pulse.heartbeat_ms()) { pulse.beat(now) } else { None }
                });
                if let Some(beat) = beat {
                    for j in 0..self.nodes.len() {
                        let Some(token) = self.nodes[j].as_ref().and_then(|n| n.pulse_to.filter(|p| p.0 == i)) else {
                            continue;
                        };
                        if self.cut_off.contains(&i) || self.cut_off.contains(&j) {
                            continue;
                        }
                        let echo = self.nodes[j].as_ref().unwrap().pulse.lock().heard(now, &beat[4..]).unwrap();
                        if let Some(echo) = echo {
                            self.nodes[i].as_ref().unwrap().pulse.lock().echoed(now, token.1, &echo[4..]).unwrap();
                        }
                    }
                }
            }
            self.settle();
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
        let (now, peer) = (self.now(), format!("10.9.0.1:{}", 40_000 + self.conns));
        let keeper = &mut self.nodes[i].as_mut().unwrap().keeper;
        assert!(keeper.client_connected(now, conn, peer, format!("10.0.0.{i}:6379")));
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
        let mut request = Request { node: i, conn, batch, done: 0, out: Output::new(), held: None, next: Next::Again };
        self.execute(&mut request);
        request
    }

    /// Goes on with a command if it can; whether its reply may leave.
    pub fn answered(&mut self, request: &mut Request) -> bool {
        let node = self.nodes[request.node].as_mut().unwrap();
        match request.next {
            Next::Again => self.execute(request),
            Next::Wait if node.resumed.contains(&request.conn) => {
                node.resumed.retain(|conn| *conn != request.conn);
                self.execute(request);
            }
            Next::Wait | Next::Done | Next::CloseAfter => {}
        }
        let released = self.nodes[request.node].as_ref().unwrap().released.get(&request.conn).copied();
        let held = request.held.is_some_and(|seq| released.is_none_or(|released| released < seq));
        matches!(request.next, Next::Done | Next::CloseAfter) && !held
    }

    fn execute(&mut self, request: &mut Request) {
        let mut fx = Effects::new();
        let now = self.now();
        let keeper = &mut self.nodes[request.node].as_mut().unwrap().keeper;
        let done = keeper.execute(now, request.conn, &request.batch, &[], request.done, &mut request.out, &mut fx);
        request.done += done.commands;
        request.held = done.seq.or(request.held);
        request.next = done.next;
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
