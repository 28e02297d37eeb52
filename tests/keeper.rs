//! Keepers over a perfect network: bytes arrive at once and whole, the coordination service answers at once.
//!
//! What a reader should see first of the protocol: founding, joining, replicating, taking over, coming back. Faults of every
//! other kind are the simulator's business (`tests/sim`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use datakeeper::base::clock::{Boot, Now, Wall};
use datakeeper::base::ids::{ConnId, LinkId};
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Effect, Effects, Event, Keeper, KeeperConfig, LinkPoll, Next};
use datakeeper::replication::pulse::{Pulse, PulseCell};
use datakeeper::resp::{Batch, Output};
use datakeeper::shell::coordination::model::{Client, Fate, Model};

struct Node {
    keeper: Keeper,
    pulse: Arc<PulseCell>,
    coordinator: Client,
    /// Our link → the peer's number and its link.
    links: BTreeMap<LinkId, (usize, LinkId)>,
    pulse_to: Option<(usize, u128)>,
    notices: Vec<String>,
    released: BTreeMap<ConnId, u64>,
    resumed: Vec<ConnId>,
}

struct World {
    now_ms: u64,
    seed: u64,
    model: Model,
    nodes: Vec<Option<Node>>,
    conns: u64,
}

impl World {
    fn new(n: usize) -> World {
        World { now_ms: 1_000, seed: 1, model: Model::new(), nodes: (0..n).map(|_| None).collect(), conns: 0 }
    }

    fn now(&self) -> Now {
        Now { boot: Boot(self.now_ms * 1_000_000), wall: Wall(1_700_000_000_000 + self.now_ms) }
    }

    fn start(&mut self, i: usize) {
        let mut config = KeeperConfig::new(format!("n{i}").parse().unwrap(), "c");
        (config.client_addr, config.repl_addr) = (format!("client:{i}"), format!("{i}"));
        config.secret = Some(b"secret".to_vec());
        config.chunk_bytes = 256;
        config.started = self.now().wall;
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
        });
        self.perform(i, fx);
        for event in hello {
            self.event(i, Event::Coord(event.into()));
        }
        self.settle();
    }

    fn crash(&mut self, i: usize) {
        let node = self.nodes[i].take().unwrap();
        if let Some(session) = node.coordinator.session() {
            self.model.end_session(session);
        }
        for (_, (peer, link)) in node.links {
            self.event(peer, Event::LinkDown { link, reason: "peer died".into() });
        }
        self.settle();
    }

    fn event(&mut self, i: usize, event: Event) {
        let now = self.now();
        let Some(node) = &mut self.nodes[i] else { return };
        let mut fx = Effects::new();
        node.keeper.handle(now, event, &mut fx);
        self.perform(i, fx);
    }

    fn perform(&mut self, i: usize, fx: Effects) {
        let now = self.now();
        for effect in fx {
            let Some(node) = &mut self.nodes[i] else { return };
            match effect {
                Effect::Dial { link, addr } => {
                    let peer: usize = addr.parse().unwrap();
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
                Effect::PulseTo { addr, token } => node.pulse_to = Some((addr.parse().unwrap(), token)),
                Effect::PulseStop => node.pulse_to = None,
                Effect::Coord(request) => node.coordinator.submit(*request),
                Effect::Release { conn, seq } => {
                    node.released.insert(conn, seq);
                }
                Effect::Resume(conn) => node.resumed.push(conn),
                Effect::CloseClient(_) | Effect::CloseClients => {}
                Effect::Exit { reason } => panic!("n{i} exits: {reason}"),
                Effect::Notice(notice) => node.notices.push(format!("{} n{i} {notice}", now.boot.0 / 1_000_000)),
            }
        }
    }

    /// Carries everything that one side has for a link to the other.
    fn pump(&mut self, i: usize, link: LinkId) {
        let now = self.now();
        loop {
            let Some(node) = &mut self.nodes[i] else { return };
            let mut out: Vec<Bytes> = Vec::new();
            let poll = node.keeper.poll_link(now, link, &mut out);
            let Some((peer, theirs)) = node.links.get(&link).copied() else { return };
            let mut bytes: Vec<u8> = out.concat();
            while bytes.len() >= 4 {
                let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                let frame = Bytes::copy_from_slice(&bytes[4..4 + len]);
                bytes.drain(..4 + len);
                self.event(peer, Event::LinkFrame { link: theirs, frame });
            }
            if poll != LinkPoll::More {
                return;
            }
        }
    }

    /// Lets the coordination service answer until nobody asks any more.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for i in 0..self.nodes.len() {
                let Some(node) = &mut self.nodes[i] else { continue };
                if node.coordinator.front().is_some() {
                    quiet = false;
                    let answers = node.coordinator.step(&mut self.model, Fate::Answered);
                    for event in answers {
                        self.event(i, Event::Coord(event.into()));
                    }
                }
            }
            let notices: VecDeque<_> = self.model.take_notices().into();
            for (session, event) in notices {
                quiet = false;
                let of = |n: &Option<Node>| n.as_ref().is_some_and(|n| n.coordinator.session() == Some(session));
                if let Some(i) = self.nodes.iter().position(of) {
                    self.event(i, Event::Coord(event.into()));
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Lets time pass, a millisecond at a time.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.now();
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

    fn role(&self, i: usize) -> Role {
        self.nodes[i].as_ref().map_or(Role::Starting, |n| n.keeper.role())
    }

    /// Executes one command on a new connection and returns the reply once it may leave.
    fn ask(&mut self, i: usize, words: &[&str]) -> String {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let mut batch = Batch::new();
        batch.push_command(&words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>());
        let mut out = Output::new();
        let now = self.now();
        let node = self.nodes[i].as_mut().unwrap();
        assert!(node.keeper.client_connected(now, conn, "c".into(), "s".into()));
        let deadline = self.now_ms + 3_000;
        let mut held = None;
        loop {
            let now = self.now();
            let mut fx = Effects::new();
            let node = self.nodes[i].as_mut().unwrap();
            let done = node.keeper.execute(now, conn, &batch, &[], 0, &mut out, &mut fx);
            held = done.seq.or(held);
            self.perform(i, fx);
            match done.next {
                Next::Done | Next::CloseAfter => break,
                Next::Again => {}
                Next::Wait => {
                    while !self.nodes[i].as_ref().unwrap().resumed.contains(&conn) {
                        assert!(self.now_ms < deadline, "{words:?} was never resumed");
                        self.run(1);
                    }
                    self.nodes[i].as_mut().unwrap().resumed.retain(|c| *c != conn);
                }
            }
        }
        while held.is_some_and(|seq| self.nodes[i].as_ref().unwrap().released.get(&conn).is_none_or(|r| *r < seq)) {
            assert!(self.now_ms < deadline, "{words:?} was never acknowledged: {:#?}", self.notices());
            self.run(1);
        }
        self.nodes[i].as_mut().unwrap().keeper.client_gone(conn);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn notices(&self) -> Vec<String> {
        self.nodes.iter().flatten().flat_map(|n| n.notices.clone()).collect()
    }

    fn run_until(&mut self, what: &str, within_ms: u64, mut done: impl FnMut(&World) -> bool) -> u64 {
        let begin = self.now_ms;
        while !done(self) {
            assert!(self.now_ms < begin + within_ms, "not within {within_ms} ms: {what}\n{:#?}", self.notices());
            self.run(1);
        }
        self.now_ms - begin
    }

    fn in_sync(&self) -> usize {
        self.model.state().state.map_or(0, |(s, _)| s.in_sync.len())
    }
}

fn three() -> World {
    let mut world = World::new(3);
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

#[test]
fn a_founder_leads_alone_and_learners_are_filled_and_taken_in() {
    let mut world = three();
    assert_eq!((world.role(1), world.role(2)), (Role::Replica, Role::Replica));
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.run(5);
    for i in 0..3 {
        assert_eq!(world.ask(i, &["GET", "k"]), "$1\r\nv\r\n");
        assert_eq!(world.ask(i, &["GET", "before49"]), "$1\r\nx\r\n");
    }
    assert_eq!(world.ask(1, &["SET", "foo", "v"]), "-MOVED 12182 client:0\r\n");
}

#[test]
fn a_replica_takes_over_with_every_acknowledged_write_and_the_old_leader_returns_empty_and_is_filled() {
    let mut world = three();
    for i in 0..100 {
        assert_eq!(world.ask(0, &["SET", &format!("k{i}"), &i.to_string()]), "+OK\r\n");
    }
    world.crash(0);
    let took = world.run_until("a new leader", 1_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    assert!(took <= 600, "took {took} ms");
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    for i in 0..100 {
        assert_eq!(world.ask(leader, &["GET", &format!("k{i}")]), format!("${}\r\n{i}\r\n", i.to_string().len()));
    }
    assert_eq!(world.ask(leader, &["SET", "after", "1"]), "+OK\r\n");
    world.start(0);
    world.run_until("three in sync again", 3_000, |w| w.in_sync() == 3);
    world.run(60);
    assert_eq!(world.ask(0, &["GET", "k99"]), "$2\r\n99\r\n");
    assert_eq!(world.ask(0, &["GET", "after"]), "$1\r\n1\r\n");
}

#[test]
fn a_lost_replica_is_taken_out_and_writes_go_on() {
    let mut world = three();
    world.crash(2);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(world.in_sync(), 2);
    world.crash(1);
    assert_eq!(world.ask(0, &["GET", "k"]), "$1\r\nv\r\n");
    world.run(1_000);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "-NOREPLICAS Not enough good replicas to write.\r\n");
    assert_eq!(world.ask(0, &["GET", "k"]), "$1\r\nv\r\n");
    world.start(1);
    world.run_until("two in sync", 3_000, |w| w.in_sync() == 2);
    assert_eq!(world.ask(0, &["SET", "k", "w"]), "+OK\r\n");
}

#[test]
fn when_every_holder_has_restarted_empty_the_cluster_starts_over_loudly_and_not_before() {
    let mut world = three();
    for i in 0..3 {
        world.crash(i);
    }
    world.start(1);
    world.start(2);
    world.run(5_000);
    assert_eq!((world.role(1), world.role(2)), (Role::Joining, Role::Joining), "n0 may still hold everything");
    world.start(0);
    world.run_until("a leader of nothing", 5_000, |w| (0..3).any(|i| w.role(i) == Role::Leader));
    let (state, _) = world.model.state().state.unwrap();
    assert_eq!((state.resets, state.epoch.0), (1, 2));
    assert!(world.notices().iter().any(|n| n.contains("ALL DATA ARE LOST")));
    world.run_until("all three in sync", 5_000, |w| w.in_sync() == 3);
}
