//! What strangers and peers may say on a link: whatever frames come, in whatever order, at a node in whatever role, no process ends.
//!
//! The frames are whole and valid, each by itself; what they say need not be true. A seed makes one run, so a failure is repeated by its seed.

mod support;

use bytes::Bytes;
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::{CopyId, DatasetId, Epoch, LinkId, Offset, Position};
use datakeeper::base::jitter::Jitter;
use datakeeper::base::segments::Segments;
use datakeeper::cluster::coordinator::CoordRequest;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::version::NEWEST;
use datakeeper::keeper::{Effect, Effects, Event, LinkPoll};
use datakeeper::replication::wire::{
    self, Ack, AppendHead, Beat, ChunkHead, Echo, Frame, Hello, Mode, Reason, Refused, Resign, Welcome, Wish,
};
use datakeeper::store::{Mutation, ValueRef};
use support::world::{World, three};

const SECRET: Option<&[u8]> = Some(b"secret");
/// What a node of the simulated network asks of who opens a link to it, and what it proves itself by on a link that it dialled.
const ACCEPTED: [u8; 16] = [7; 16];
const DIALLED: [u8; 16] = [9; 16];
/// Challenge of those who speak in these tests.
const MINE: [u8; 16] = [3; 16];
const RUNS: u64 = 150;
const FRAMES: usize = 60;

fn any(rng: &mut Jitter, of: &[u64]) -> u64 {
    of[rng.below(of.len() as u64) as usize]
}

/// Frames with fields that are nearly right, or far from it.
struct Forger<'a> {
    rng: &'a mut Jitter,
    world: &'a World,
    /// Who gets them.
    node: usize,
}

impl Forger<'_> {
    fn epoch(&mut self) -> Epoch {
        let now = self.world.model.state().state.map_or(1, |(state, _)| state.epoch.0);
        Epoch(any(self.rng, &[now, now, now, now + 1, now - 1, 0, u64::MAX]))
    }

    fn offset(&mut self) -> Offset {
        let end = self.world.keeper(self.node).log().end().0;
        let near = self.rng.below(end + 2);
        Offset(any(
            self.rng,
            &[end, end, end + 1, end + 2, end.saturating_sub(1), near, 0, 1 << 62, (1 << 62) + 1, u64::MAX],
        ))
    }

    fn clock(&mut self) -> u64 {
        let now = self.world.now_of(self.node);
        any(self.rng, &[now.boot.0, now.wall.0, 0, 1, u64::MAX])
    }

    fn copy(&mut self) -> CopyId {
        let known = self.rng.below(self.world.nodes.len() as u64) as usize;
        let copy = self.world.nodes[known].as_ref().map(|n| n.keeper.me().copy);
        copy.filter(|_| self.rng.below(5) > 0).unwrap_or(CopyId(77))
    }

    fn dataset(&mut self) -> Option<DatasetId> {
        let known = self.world.model.state().state.map(|(state, _)| state.dataset);
        match self.rng.below(5) {
            0 => None,
            1 => Some(DatasetId(5)),
            _ => known,
        }
    }

    fn mutation(&mut self, out: &mut Segments) {
        let (key, at) = (self.rng.below(60).to_string(), self.clock());
        let key = format!("before{key}");
        let (key, event) = (key.as_bytes(), datakeeper::store::Event::Set);
        let expiry = (self.rng.below(3) == 0).then_some(Wall(at));
        match self.rng.below(9) {
            0 => Mutation::Delete { key, event },
            6 => Mutation::Lift { key, event },
            7 => Mutation::Hold { key },
            8 => Mutation::Lay { key, event },
            1 => Mutation::SetExpiry { key, expiry, event },
            2 => Mutation::Clear,
            3 => {
                let (at, length_after) = (self.rng.below(9), self.rng.below(9));
                Mutation::Splice { key, at, bytes: b"xy", length_after, event }
            }
            _ => Mutation::Put { key, value: ValueRef::Slice(b"forged"), expiry, event },
        }
        .encode(out);
    }

    fn mutations(&mut self) -> Vec<u8> {
        let mut out = Segments::new();
        for _ in 0..self.rng.below(4) {
            self.mutation(&mut out);
        }
        let mut bytes = out.take_parts(&[]).concat();
        if self.rng.below(12) == 0 {
            bytes.push(99);
        }
        bytes
    }

    fn entries(&mut self) -> (u32, Vec<u8>) {
        let (count, mut body) = (self.rng.below(4) as u32, Vec::new());
        for _ in 0..count {
            let mutations = self.mutations();
            body.extend_from_slice(&(mutations.len() as u32).to_le_bytes());
            body.extend_from_slice(&self.clock().to_le_bytes());
            body.extend_from_slice(&mutations);
        }
        (if self.rng.below(10) == 0 { u32::MAX } else { count }, body)
    }

    fn hello(&mut self) -> Hello {
        let (end, start) = (self.offset(), self.offset());
        let epochs = match self.rng.below(4) {
            0 => Vec::new(),
            1 => vec![(self.epoch(), start), (self.epoch(), end)],
            _ => vec![(Epoch(1), Offset(1))],
        };
        let copy = self.copy();
        let owner = self.world.nodes.iter().position(|n| n.as_ref().is_some_and(|n| n.keeper.me().copy == copy));
        let node = format!("n{}", owner.filter(|_| self.rng.below(8) > 0).unwrap_or(8));
        Hello {
            cluster: if self.rng.below(20) == 0 { "other" } else { "c" }.to_string(),
            group: 0,
            dataset: self.dataset(),
            node: node.parse().unwrap(),
            copy,
            epochs,
            last: Position { epoch: self.epoch(), offset: end },
            executed: self.offset(),
            highest: self.epoch(),
            nonce: if self.rng.below(20) == 0 { "odd".to_string() } else { wire::hex(&MINE) },
            proof: wire::proof(SECRET, "hello", &ACCEPTED, &MINE),
            features: vec![wire::PUBLISH.to_string()],
            speaks: NEWEST,
        }
    }

    fn welcome(&mut self) -> Welcome {
        let position = Position { epoch: self.epoch(), offset: self.offset() };
        Welcome {
            dataset: self.dataset().unwrap_or(DatasetId(6)),
            hash_key: wire::hex(&[1; 16]),
            mode: match self.rng.below(3) {
                0 => Mode::Stream,
                1 => Mode::Truncate(position.offset),
                _ => Mode::Full(position),
            },
            token: if self.rng.below(10) == 0 { "odd".to_string() } else { wire::hex(&[2; 16]) },
            proof: wire::proof(SECRET, "welcome", &DIALLED, &MINE),
            keys: any(self.rng, &[0, 50, u64::MAX]),
            confirms: self.rng.below(4) == 0,
            features: vec![wire::PUBLISH.to_string()],
        }
    }

    /// A frame of any kind, without its length prefix.
    fn frame(&mut self) -> Bytes {
        let epoch = self.epoch();
        let mut head = None;
        let whole = match self.rng.below(20) {
            0 => wire::link_open(),
            1 => wire::challenge(&MINE),
            2 | 3 => wire::hello(&self.hello()),
            4 => wire::welcome(epoch, &self.welcome(), &[]),
            5 => {
                let reasons = [
                    Reason::NotLeader,
                    Reason::WrongCluster,
                    Reason::WrongSecret,
                    Reason::FullResyncNeeded,
                    Reason::StillNamed,
                    Reason::Later,
                    Reason::TooOld,
                    Reason::Other,
                ];
                let reason = reasons[self.rng.below(8) as usize];
                wire::refused(epoch, &Refused { reason, text: "forged".to_string() })
            }
            6 => wire::accept(epoch),
            7..=9 => {
                let (count, body) = self.entries();
                let total = if self.rng.below(10) == 0 { u64::MAX } else { body.len() as u64 };
                let flags = any(self.rng, &[3, 3, 3, 1, 2, 0, 11]) as u8;
                let a = AppendHead {
                    epoch,
                    entry_epoch: self.epoch(),
                    prev_epoch: self.epoch(),
                    first: self.offset(),
                    count,
                    acked: self.offset(),
                    sent_at: self.clock(),
                    clock: Wall(self.clock()),
                    total,
                };
                head = Some((wire::append_head(flags, &a, crc32fast::hash(&body), body.len()), body));
                Bytes::new()
            }
            10 | 11 => {
                let body = self.mutations();
                let flags = any(self.rng, &[3, 3, 7, 7, 1, 2]) as u8;
                let c = ChunkHead {
                    epoch,
                    from: any(self.rng, &[0, 0, 1 << 40, u64::MAX]),
                    upto: any(self.rng, &[1 << 40, 1 << 50, 0, u64::MAX]),
                    as_of: self.offset(),
                    keys: any(self.rng, &[0, 3, u64::from(u32::MAX)]) as u32,
                    acked: self.offset(),
                    sent_at: self.clock(),
                    clock: Wall(self.clock()),
                    total: body.len() as u64,
                };
                head = Some((wire::chunk_head(flags, &c, crc32fast::hash(&body), body.len()), body));
                Bytes::new()
            }
            12 | 13 => {
                let (copy, matched, applied) = (self.copy(), self.offset(), self.offset());
                let (sent_at, clock) = (self.clock(), Wall(self.clock()));
                let promise_ms = any(self.rng, &[0, 500, u64::from(u32::MAX)]) as u32;
                wire::ack(&Ack { epoch, copy, matched, applied, sent_at, promise_ms, clock, whole: epoch.0 > 1 })
            }
            14 => wire::stale(epoch),
            15 => wire::resign(&Resign {
                epoch,
                last: Position { epoch: self.epoch(), offset: self.offset() },
                leaving: self.rng.below(2) == 0,
            }),
            16 | 17 => {
                let wishes = [Wish::Leave, Wish::Lead, Wish::Succeed, Wish::Decline];
                wire::ask(epoch, wishes[self.rng.below(4) as usize])
            }
            18 => wire::publish(epoch, self.rng.below(2) == 0, b"channel", b"message").remove(0),
            _ => self.pulse(),
        };
        match head {
            Some((head, body)) => Bytes::from([&head[4..], &body].concat()),
            None => whole.slice(4..),
        }
    }

    /// A frame that belongs on a pulse connection, with its length prefix.
    fn pulse(&mut self) -> Bytes {
        let (epoch, sent_at) = (self.epoch(), self.clock());
        match self.rng.below(3) {
            0 => wire::beat(&Beat { epoch, sent_at, wall: Some((Wall(self.clock()), self.clock().cast_signed())) }),
            1 => wire::pulse_hello(u128::from(sent_at)),
            _ => {
                let (copy, wall) = (self.copy(), Some(Wall(self.clock())));
                wire::echo(&Echo { epoch, copy, sent_at, promise_ms: u32::MAX, wall })
            }
        }
    }
}

/// A world in which that node is what is wanted.
fn with_role(role: Role) -> (World, usize) {
    let mut world = three();
    let node = match role {
        Role::Leader => 0,
        Role::Candidate => {
            world.unserve(&[1, 2]);
            world.crash(0);
            world.run(800);
            1
        }
        Role::Syncing => {
            world.crash(2);
            world.bandwidth.insert(2, (20, 20));
            world.start(2);
            world.run_until("n2 is being filled", 2_000, |w| w.role(2) == Role::Syncing);
            2
        }
        Role::Joining => {
            world.crash(2);
            world.stop(2, 0);
            world.start(2);
            world.run(30);
            2
        }
        _ => 1,
    };
    assert_eq!(world.role(node), role);
    (world, node)
}

/// One run: a node in that role, its links and some of strangers, and many frames.
fn throw_frames(seed: u64, role: Role) {
    let mut rng = Jitter::new(seed);
    let (mut world, node) = with_role(role);
    let mut strangers: Vec<LinkId> = Vec::new();
    for i in 0..FRAMES {
        if strangers.len() < 3 || rng.below(6) == 0 {
            strangers.push(world.stranger(node, u128::from(seed) << 32 | i as u128));
        }
        let links: Vec<LinkId> = world.nodes[node].iter().flat_map(|n| n.links.keys().copied()).collect();
        let on = if links.is_empty() || rng.below(3) > 0 { &strangers } else { &links };
        let link = on[rng.below(on.len() as u64) as usize];
        let mut forger = Forger { rng: &mut rng, world: &world, node };
        // A stranger gets nowhere without a hello, so it often says one: also where it has said one before.
        let says_hello = strangers.contains(&link) && forger.rng.below(3) == 0;
        let frame = if says_hello { wire::hello(&forger.hello()).slice(4..) } else { forger.frame() };
        let pulse = forger.pulse();
        let (now, token) = (world.now_of(node), rng.below(4).into());
        if let Some(n) = &world.nodes[node] {
            let mut cell = n.pulse.lock();
            let _ = (cell.heard(now, &pulse[4..]), cell.echoed(now, token, &pulse[4..]));
        }
        world.event(node, Event::LinkFrame { link, frame });
        world.pump(node, link);
        if rng.below(4) == 0 {
            world.run(rng.below(20));
        }
    }
    world.run(100);
}

#[test]
fn no_frame_in_any_order_ends_a_process_in_any_role() {
    for role in [Role::Leader, Role::Replica, Role::Syncing, Role::Joining, Role::Candidate] {
        for seed in 0..RUNS {
            let run = std::panic::catch_unwind(|| throw_frames(seed, role));
            assert!(run.is_ok(), "seed {seed} ends a node that is {role}");
        }
    }
}

/// What a node says in answer to frames on a new link, with the requests that it makes of the coordination service.
fn answers(world: &mut World, node: usize, frames: &[Bytes]) -> (Vec<Frame>, usize, bool) {
    let link = world.stranger(node, 5);
    let (mut requests, mut out) = (0, Vec::new());
    let now = world.now_of(node);
    let keeper = &mut world.nodes[node].as_mut().unwrap().keeper;
    for frame in frames {
        let mut fx = Effects::new();
        keeper.handle(now, Event::LinkFrame { link, frame: frame.slice(4..) }, &mut fx);
        requests += fx.iter().filter(|e| matches!(e, Effect::Coord(r) if **r == CoordRequest::Confirm)).count();
        while keeper.poll_link(now, link, &mut out) == LinkPoll::More {}
    }
    let is_open = keeper.poll_link(now, link, &mut out) != LinkPoll::Gone;
    (out.iter().filter_map(|frame| wire::decode(&frame.slice(4..)).ok()).collect(), requests, is_open)
}

/// The hello of a node that holds nothing and is registered as such, or is not.
fn hello_of(world: &World, node: &str, copy: CopyId) -> Bytes {
    wire::hello(&Hello {
        cluster: "c".to_string(),
        group: 0,
        dataset: None,
        node: node.parse().unwrap(),
        copy,
        epochs: Vec::new(),
        last: Position::default(),
        executed: Offset::ZERO,
        highest: world.state().epoch,
        nonce: wire::hex(&MINE),
        proof: wire::proof(SECRET, "hello", &ACCEPTED, &MINE),
        features: Vec::new(),
        speaks: NEWEST,
    })
}

fn is_welcome(frame: &Frame) -> bool {
    matches!(frame, Frame::Welcome(..))
}

#[test]
fn before_the_hello_nobody_is_heard() {
    let mut world = three();
    let (answered, requests, is_open) = answers(&mut world, 0, &[wire::stale(Epoch(1 << 50))]);
    assert!(!answered.iter().any(is_welcome) && requests == 0 && !is_open, "{answered:?}, {requests} requests");
    let copy = world.keeper(2).me().copy;
    let hello = hello_of(&world, "n2", copy);
    let stale = wire::stale(Epoch(1 << 50));
    let (answered, requests, is_open) = answers(&mut world, 0, &[hello, stale]);
    assert!(answered.iter().any(is_welcome), "it was welcomed: {answered:?}");
    assert!(requests == 0 && !is_open, "and has not accepted: {requests} requests");
}

#[test]
fn whoever_follows_and_speaks_of_higher_epochs_costs_one_confirmed_read_at_a_time() {
    let mut world = three();
    let copy = world.keeper(2).me().copy;
    let mut frames = vec![hello_of(&world, "n2", copy), wire::accept(world.state().epoch)];
    frames.extend((0..3_000).map(|_| wire::stale(Epoch(1 << 50))));
    let (_, requests, is_open) = answers(&mut world, 0, &frames);
    assert_eq!((requests, is_open), (1, true));
}

#[test]
fn a_second_hello_or_challenge_closes_the_link_and_nothing_else() {
    let mut world = three();
    let copy = world.keeper(2).me().copy;
    let hello = hello_of(&world, "n2", copy);
    let (answered, _, is_open) = answers(&mut world, 0, &[hello.clone(), hello]);
    assert_eq!((answered.iter().filter(|f| is_welcome(f)).count(), is_open), (1, false));
    let (link, _) = world.nodes[1].as_ref().unwrap().links.iter().next().map(|(l, far)| (*l, *far)).unwrap();
    world.event(1, Event::LinkFrame { link, frame: wire::challenge(&MINE).slice(4..) });
    assert!(!world.has_link(1, link));
    world.run_until("all in sync again", 3_000, |w| w.in_sync() == 3);
    assert_eq!((world.role(0), world.state().epoch), (Role::Leader, Epoch(1)));
}

#[test]
fn a_copy_that_the_directory_does_not_show_is_neither_filled_nor_wiped() {
    let mut world = three();
    for (node, copy) in [("ghost", CopyId(666)), ("n2", CopyId(666))] {
        let hello = hello_of(&world, node, copy);
        let (answered, _, _) = answers(&mut world, 0, &[hello]);
        let later = |f: &Frame| matches!(f, Frame::Refused(_, r) if r.reason == Reason::Later);
        assert!(answered.iter().any(later) && !answered.iter().any(is_welcome), "{node}: {answered:?}");
    }
    assert_eq!(world.state().peak_in_sync, 3);
}
