//! What a command, a key, a byte that arrives and a replicated write may cost: counts, never times, so that no busy machine fails them.
//!
//! The bounds are a little above what was counted when they were written. Who makes something dearer on purpose moves a bound, and says why.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use datakeeper::base::clock::Wall;
use datakeeper::base::ids::HashKey;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::segments::Segments;
use datakeeper::cluster::role::Role;
use datakeeper::command::{Ctx, Exec, Lookups, SliceState, resolve};
use datakeeper::keeper::{Effect, Effects, KeeperConfig, Next, Work};
use datakeeper::resp::{Batch, Output, Parser, Protocol, Reply};
use datakeeper::shell::coordination::in_process::InProcess;
use datakeeper::shell::{Coordination, Options, Server};
use datakeeper::store::{Event, Mutation, Store, ValueRef};
use parking_lot::RwLock;
use support::counting::{Counting, calls, handed_out, live_bytes};
use support::eventually;
use support::world::{three, world};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held for writing by the test that counts what all threads do.
static TURN: RwLock<()> = RwLock::new(());

const PATIENCE: Duration = Duration::from_secs(20);

/// Allocations of each of these commands, run one after the other with warm buffers.
fn allocations(commands: &[&[&[u8]]]) -> Vec<u64> {
    let mut store = Store::new(HashKey([3; 16]));
    let (mut out, mut log, mut chance) = (Output::new(), Segments::new(), Jitter::new(1));
    log.put_slice(&[0; 4_096]);
    let mut warm = Reply::new(&mut out, Protocol::Resp2);
    warm.bulk(&[0; 4_096]);
    let mut batch = Batch::new();
    commands.iter().for_each(|command| batch.push_command(command));
    let count = |i| {
        out.clear();
        log.clear();
        let args = batch.args(i, b"");
        let mut slice = SliceState::default();
        let before = calls();
        let spec = resolve(&args).expect("a known command");
        let Exec::Data(exec) = spec.exec else { panic!("{} is no data command", spec.name) };
        let mut ctx = Ctx {
            store: &mut store,
            reply: Reply::new(&mut out, Protocol::Resp2),
            log: &mut log,
            clock: Wall(1_000),
            wall_ahead_ms: 0,
            expire: true,
            first_key: None,
            chance: &mut chance,
            slice: &mut slice,
            emitted: 0,
            lookups: Lookups::default(),
            misses: false,
            hand: true,
        };
        exec(&mut ctx, &args).expect("it succeeds");
        calls() - before
    };
    (0..commands.len()).map(count).collect()
}

#[test]
fn get_allocates_nothing_and_set_at_most_its_entry() {
    let _turn = TURN.read();
    let value: &[u8] = &[b'v'; 100];
    let counts = allocations(&[
        &[b"SET", b"first", value],
        &[b"SET", b"key", value],
        &[b"set", b"key", value],
        &[b"SET", b"key", value, b"EX", b"100"],
        &[b"INCR", b"n"],
        &[b"INCR", b"n"],
        &[b"GET", b"key"],
        &[b"get", b"absent"],
        &[b"TTL", b"key"],
        &[b"EXISTS", b"key", b"n", b"absent"],
        &[b"MGET", b"key", b"n", b"first", b"absent", b"key", b"n", b"first", b"absent", b"key", b"n"],
        &[b"GETRANGE", b"key", b"1", b"5"],
        &[b"DEL", b"key"],
    ]);
    // The first key may also grow a table.
    let [_, created, again, timed, counter, incr, reads @ .., del] = &counts[..] else { panic!("{counts:?}") };
    assert!(*created <= 1, "a new key takes {created} allocations");
    assert_eq!(*again, 0, "the same size fits where the old value was");
    assert!(*timed <= 1, "an expiry takes {timed} allocations");
    assert!(*counter <= 1, "a new counter takes {counter} allocations");
    assert_eq!(*incr, 0, "a number fits where the old one was");
    assert_eq!(reads, [0; 6], "{counts:?}");
    assert!(*del <= 1, "a delete at most notes that a segment became sparse: {counts:?}");
}

/// A request as it is on the wire.
fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// What commands at a node that leads alone add to `count`, per 1,000: parsed from pipelines of `depth`, executed under one hold of the lock each.
/// `command` makes the nth.
fn per_thousand(depth: usize, command: fn(usize) -> Vec<u8>, count: fn() -> u64) -> u64 {
    let mut world = world(1, |_, _| {});
    let conn = world.connect(0);
    let (mut parser, mut batch, mut out, mut fx) = (Parser::new(), Batch::new(), Output::new(), Effects::new());
    let (mut counted, mut commands) = (0, 0);
    for round in 0..2 * 16_384 / depth {
        let input = (0..depth).flat_map(|i| command(round * depth + i)).collect::<Vec<_>>();
        let now = world.now();
        let keeper = &mut world.nodes[0].as_mut().unwrap().keeper;
        let before = count();
        batch.clear();
        out.clear();
        parser.advance(&input, &mut batch).unwrap();
        let done =
            keeper.execute(now, Work { conn, batch: &batch, input: &input, from: 0, touch: None }, &mut out, &mut fx);
        let taken = count() - before;
        assert_eq!((done.next, done.commands, done.seq), (Next::Done, depth, None));
        world.perform(0, std::mem::take(&mut fx));
        world.run(1);
        // In the first half buffers and the log grow to their size.
        if round >= 16_384 / depth {
            counted += taken;
            commands += depth as u64;
        }
    }
    counted * 1_000 / commands
}

#[test]
fn batches_allocate_what_their_commands_do() {
    let _turn = TURN.read();
    let get: fn(usize) -> Vec<u8> = |i| request(&[b"GET", format!("key:{:012}", i % 512).as_bytes()]);
    let set: fn(usize) -> Vec<u8> = |i| request(&[b"SET", format!("key:{:012}", i % 512).as_bytes(), &[b'v'; 100]]);
    let new: fn(usize) -> Vec<u8> = |i| request(&[b"SET", format!("key:{i:012}").as_bytes(), &[b'v'; 100]]);
    let incr: fn(usize) -> Vec<u8> = |i| request(&[b"INCR", format!("key:{:012}", i % 512).as_bytes()]);
    let mget: fn(usize) -> Vec<u8> = |i| request(&[b"MGET", format!("key:{i:012}").as_bytes(), b"a", b"b", b"c"]);
    for depth in [1, 16, 64] {
        let counts = [get, mget, set, incr, new].map(|command| per_thousand(depth, command, calls));
        println!("depth {depth}: per 1,000 of GET, MGET, SET in place, INCR, SET of a new key: {counts:?}");
        let [get, mget, set, incr, new] = counts;
        assert_eq!((get, mget), (0, 0), "depth {depth}");
        // The log has blocks, the table segments.
        assert!(set <= 10 && incr <= 10 && new <= 1_040, "depth {depth}: {counts:?}");
    }
}

/// Once for the entry and the log.
#[test]
fn a_value_of_16_kib_is_copied_once() {
    let _turn = TURN.write();
    let set: fn(usize) -> Vec<u8> =
        |i| request(&[b"SET", format!("key:{:012}", i % 512).as_bytes(), &[b'v'; 16 << 10]]);
    for depth in [1, 16] {
        let bytes = per_thousand(depth, set, handed_out) / 1_000;
        println!("depth {depth}: {bytes} bytes");
        assert!((16 << 10..17 << 10).contains(&bytes), "depth {depth}: {bytes} bytes");
    }
}

/// Counts of keys over a doubling, from one split of all segments to the next: the bytes per key go up and down with it.
const SAMPLES: std::ops::Range<usize> = 12..26;
const SAMPLE_KEYS: usize = 50_000;

#[test]
fn a_key_takes_no_more_bytes_of_the_allocator_than_it_did() {
    let _turn = TURN.read();
    // Bytes per key, the mean and the worst of these counts.
    for (length, mean_max, worst_max) in [(32, 68.5, 70.0), (100, 140.5, 142.0)] {
        let before = live_bytes();
        let mut store = Store::new(HashKey([5; 16]));
        let mut counted = Vec::with_capacity(SAMPLES.len());
        for number in 0..(SAMPLES.end - 1) * SAMPLE_KEYS {
            let (key, value) = ((number as u128).to_le_bytes(), &[7; 100][..length]);
            let value = ValueRef::Slice(value);
            store.apply(&Mutation::Put { key: &key, value, expiry: None, event: Event::Set });
            let keys = number + 1;
            if keys % SAMPLE_KEYS == 0 && SAMPLES.contains(&(keys / SAMPLE_KEYS)) {
                let bytes = live_bytes() - before;
                counted.push(bytes as f64 / keys as f64);
                let (claimed, bytes) = (store.used_memory() as f64, bytes as f64);
                assert!((claimed / bytes - 1.0).abs() < 0.005, "used_memory says {claimed}, the allocator {bytes}");
            }
        }
        let mean = counted.iter().sum::<f64>() / counted.len() as f64;
        let worst = counted.iter().copied().fold(0.0, f64::max);
        println!("16 + {length}: {mean:.2} bytes per key, at worst {worst:.2}: {counted:.1?}");
        assert!(mean <= mean_max, "16 + {length} bytes take {mean:.1} per key");
        assert!(worst <= worst_max, "16 + {length} bytes take up to {worst:.1} per key: {counted:.1?}");
    }
}

#[test]
fn writes_of_one_turn_leave_in_one_send_to_each_replica() {
    let _turn = TURN.read();
    const CLIENTS: u64 = 50;
    const TURNS: u64 = 100;
    let mut world = three();
    let conns: Vec<_> = (0..CLIENTS).map(|_| world.connect(0)).collect();
    let mut batch = Batch::new();
    batch.push_command(&[b"SET", b"key", b"value"]);
    let before = world.sends[&0];
    for _ in 0..TURNS {
        let (now, mut fx) = (world.now(), Effects::new());
        let held = conns.iter().map(|&conn| {
            let keeper = &mut world.nodes[0].as_mut().unwrap().keeper;
            keeper
                .execute(
                    now,
                    Work { conn, batch: &batch, input: &[], from: 0, touch: None },
                    &mut Output::new(),
                    &mut fx,
                )
                .seq
                .expect("two have to hold it")
        });
        let held: Vec<u64> = held.collect();
        let wakes = fx.iter().filter(|effect| matches!(effect, Effect::WakeLink(_))).count();
        assert_eq!(wakes, 2, "each link is woken once, by the first of them");
        world.perform(0, fx);
        let released = &world.nodes[0].as_ref().unwrap().released;
        assert!(conns.iter().zip(held).all(|(conn, seq)| released.get(conn) >= Some(&seq)), "both replicas hold all");
        world.run(1);
    }
    let sends = (world.sends[&0] - before) / 2;
    println!("sends to a replica per write: 1/{:.1}", (CLIENTS * TURNS) as f64 / sends as f64);
    assert!(sends * 20 <= CLIENTS * TURNS, "{sends} sends to a replica for {} writes", CLIENTS * TURNS);
}

#[test]
fn what_arrives_in_pieces_is_moved_a_bounded_number_of_times() {
    let _turn = TURN.write();
    let mut config = KeeperConfig::new("solo".parse().unwrap(), "costs");
    config.shared = config.shared.scaled(4); // tests share the machine
    let server = Server::start(Options::new(config, Coordination::InProcess(InProcess::new()))).unwrap();
    eventually(PATIENCE, "the node leads", || match server.node().role() {
        Role::Leader => Ok(()),
        role => Err(format!("{role:?}")),
    });
    let connect = || {
        let socket = TcpStream::connect(server.client_addr()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let bulk = request(&[b"SET", b"key", &vec![b'v'; 4 << 20]]);
    let args = [&[&b"EXISTS"[..]], &vec![&b"0123456789abcdef"[..]; 40_000][..]].concat();
    let pong = |other: &mut TcpStream| {
        other.write_all(b"PING\r\n").unwrap();
        other.read_exact(&mut [0; 7]).unwrap();
    };
    for (what, bytes, reply) in [("4 MiB", bulk, &b"+OK\r\n"[..]), ("40,000 arguments", request(&args), b":0\r\n")] {
        let (mut socket, mut other) = (connect(), connect());
        pong(&mut socket);
        let before = handed_out();
        for piece in bytes.chunks(4 << 10) {
            socket.write_all(piece).unwrap();
            // By the time that this is answered, the node has most probably read the piece.
            pong(&mut other);
        }
        let mut got = vec![0; reply.len()];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(got, reply);
        let moved = (handed_out() - before) as f64 / bytes.len() as f64;
        println!("{what}: {moved:.2} bytes of memory are handed out for each that arrives");
        assert!(moved <= 6.0, "{what}: {moved:.1} bytes of memory are handed out for each that arrives");
    }
}
