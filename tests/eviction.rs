//! Eviction between Keepers over a perfect network: the leader makes room before a write, replicas hold what it holds.
//!
//! How well the victims are chosen is tested under the code (`src/store/eviction.rs`).

mod support;

use std::collections::BTreeMap;

use datakeeper::base::jitter::Jitter;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{KeeperConfig, Next};
use datakeeper::store::Eviction;
use support::world::{World, three_tuned};

const LIMIT: usize = 1 << 20;
/// By so much the limit may be exceeded.
const SLACK: usize = LIMIT / 100;
const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.\r\n";

fn lru(_: usize, config: &mut KeeperConfig) {
    config.settings.max_memory = LIMIT as u64;
    config.settings.eviction = Eviction::AllKeysLru;
}

fn volatile(i: usize, config: &mut KeeperConfig) {
    lru(i, config);
    config.settings.eviction = Eviction::VolatileLru;
}

fn used(world: &World, i: usize) -> usize {
    world.keeper(i).usage().1
}

fn contents(world: &World, i: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = world.keeper(i).store().scan(cursor, 1_000, &mut |entry| {
            found.insert(entry.key().to_vec(), entry.value().as_slice().to_vec());
        });
        if cursor == 0 {
            return found;
        }
    }
}

/// Keys that the leader holds, by their names.
fn holds(world: &World, names: impl Iterator<Item = String>) -> usize {
    let there = contents(world, 0);
    names.filter(|name| there.contains_key(name.as_bytes())).count()
}

/// A number of INFO.
fn info(world: &mut World, i: usize, name: &str) -> u64 {
    let info = world.ask(i, &["INFO"]);
    let value = info.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("INFO has it").parse().expect("it is a number")
}

/// Writes keys of a kilobyte with that prefix, and looks at the limit after each.
fn fill(world: &mut World, leader: usize, prefix: &str, keys: usize) {
    let conn = world.connect(leader);
    let value = "x".repeat(1_000);
    for i in 0..keys {
        assert_eq!(world.ask_on(leader, conn, &["SET", &format!("{prefix}{i}"), &value]), b"+OK\r\n");
        assert!(used(world, leader) <= LIMIT + SLACK, "{} bytes after {prefix}{i}", used(world, leader));
    }
}

#[test]
fn leader_makes_room_before_each_write_and_replicas_hold_what_it_holds() {
    let mut world = three_tuned(lru);
    fill(&mut world, 0, "a", 3_000);
    for size in [10, 100_000, 5_000, 300_000, 1] {
        assert_eq!(world.ask(0, &["SET", &format!("of{size}"), &"y".repeat(size)]), "+OK\r\n");
        assert!(used(&world, 0) <= LIMIT + SLACK, "{} bytes after one of {size}", used(&world, 0));
    }
    let keys: Vec<String> = (0..100).map(|i| format!("m{i}")).collect();
    let many: Vec<&str> = ["MSET"].into_iter().chain(keys.iter().flat_map(|key| [key.as_str(), "value"])).collect();
    assert_eq!(world.ask(0, &many), "+OK\r\n");
    world.run(5);
    let there = contents(&world, 0);
    assert!(there.len() > 300, "{} keys are left", there.len());
    for i in 1..3 {
        assert!(contents(&world, i) == there, "n{i} holds something else");
        assert!(used(&world, i) <= LIMIT + SLACK, "{} bytes at n{i}", used(&world, i));
        assert_eq!(info(&mut world, i, "evicted_keys"), 0, "a replica evicts nothing by itself");
    }
    assert!(info(&mut world, 0, "evicted_keys") > 2_000);
    // What was evicted is gone for a reader at once, acknowledged or not.
    let gone = (0..3_000).map(|i| format!("a{i}")).find(|key| !there.contains_key(key.as_bytes()));
    assert_eq!(world.ask(0, &["GET", &gone.expect("most are gone")]), "$-1\r\n");
}

#[test]
fn what_is_read_stays_and_what_a_quiet_client_reads_does_not() {
    let mut world = three_tuned(lru);
    fill(&mut world, 0, "a", 400);
    let (conn, quiet) = (world.connect(0), world.connect(0));
    world.ask_on(0, quiet, &["CLIENT", "NO-TOUCH", "ON"]);
    for round in 0..4 {
        world.run(1_000);
        for i in 0..100 {
            world.ask_on(0, conn, &["GET", &format!("a{i}")]);
            world.ask_on(0, quiet, &["GET", &format!("a{}", 100 + i)]);
            world.ask_on(0, quiet, &["TOUCH", &format!("a{}", 300 + i)]);
        }
        fill(&mut world, 0, &format!("b{round}."), 400);
    }
    let left = |from: usize| holds(&world, (from..from + 100).map(|i| format!("a{i}")));
    assert!(left(0) > 90 && left(300) > 90, "{} and {} of 100 that were used are left", left(0), left(300));
    assert!(left(100) < 10 && left(200) < 10, "{} and {} of 100 that were not are left", left(100), left(200));
}

#[test]
fn without_a_key_that_may_go_writes_are_refused_and_reads_go_on() {
    let mut world = three_tuned(volatile);
    fill(&mut world, 0, "kept", 500);
    let value = "x".repeat(1_000);
    let soon: Vec<String> = (0..300).map(|i| format!("soon{i}")).collect();
    for key in &soon {
        assert_eq!(world.ask(0, &["SET", key, &value, "EX", "1000"]), "+OK\r\n");
    }
    let full = (0..2_000).find(|i| world.ask(0, &["SET", &format!("more{i}"), &value]) == format!("-{OOM}"));
    assert!(full.is_some_and(|i| i > 300), "{full:?}");
    assert!(used(&world, 0) <= LIMIT + SLACK);
    assert_eq!(holds(&world, soon.into_iter()), 0, "what had an expiry went first");
    assert_eq!(holds(&world, (0..500).map(|i| format!("kept{i}"))), 500);
    assert_eq!(world.ask(0, &["GET", "kept1"]).len(), 1_009);
    assert_eq!(world.ask(0, &["DEL", "kept1", "kept2"]), ":2\r\n");
    assert_eq!(world.ask(0, &["SET", "kept1", &value]), "+OK\r\n");
}

#[test]
fn value_beyond_the_limit_drives_nothing_out() {
    let mut world = three_tuned(lru);
    fill(&mut world, 0, "a", 300);
    let before = contents(&world, 0);
    assert_eq!(world.ask(0, &["SET", "big", &"x".repeat(LIMIT + SLACK + 1)]), format!("-{OOM}"));
    assert!(contents(&world, 0) == before);
}

#[test]
fn noeviction_refuses_what_would_exceed_the_limit() {
    let mut world = three_tuned(|_, config| config.settings.max_memory = LIMIT as u64);
    let conn = world.connect(0);
    let (half, oom) = ("x".repeat(LIMIT * 6 / 10), format!("-{OOM}"));
    assert_eq!(world.ask(0, &["SET", "a", &half]), "+OK\r\n");
    assert_eq!(world.ask(0, &["SET", "b", &half]), oom);
    assert_eq!(world.ask(0, &["APPEND", "a", &half]), oom);
    assert_eq!(world.ask(0, &["MSET", "b", &half[..LIMIT / 4], "c", &half[..LIMIT / 4]]), oom);
    world.ask_on(0, conn, &["MULTI"]);
    for key in ["b", "c", "d"] {
        assert_eq!(world.ask_on(0, conn, &["SET", key, &half[..LIMIT / 5]]), b"+QUEUED\r\n");
    }
    let refused = world.ask_on(0, conn, &["EXEC"]);
    assert!(refused.starts_with(b"-EXECABORT"), "{}: all of it counts", String::from_utf8_lossy(&refused));
    assert_eq!(world.ask(0, &["SET", "b", &half[..LIMIT / 4]]), "+OK\r\n", "what fits is taken");
    assert!(used(&world, 0) <= LIMIT + SLACK, "{} bytes", used(&world, 0));
}

#[test]
fn exec_makes_room_before_it_runs_and_fails_if_that_takes_a_watched_key() {
    let mut world = three_tuned(lru);
    fill(&mut world, 0, "a", 2_000);
    let conn = world.connect(0);
    let value = "x".repeat(100_000);
    world.ask_on(0, conn, &["MULTI"]);
    for key in ["t1", "t2", "t3"] {
        assert_eq!(world.ask_on(0, conn, &["SET", key, &value]), b"+QUEUED\r\n");
    }
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"*3\r\n+OK\r\n+OK\r\n+OK\r\n");
    assert!(used(&world, 0) <= LIMIT + SLACK, "{} bytes", used(&world, 0));
    assert_eq!(holds(&world, ["t1", "t2", "t3"].map(String::from).into_iter()), 3);

    let left: Vec<Vec<u8>> = contents(&world, 0).into_keys().collect();
    for key in &left {
        world.ask_on(0, conn, &["WATCH", std::str::from_utf8(key).unwrap()]);
    }
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SET", "t4", &value]);
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"*-1\r\n", "what had to go was watched");
    world.run(5);
    assert!(contents(&world, 1) == contents(&world, 0) && contents(&world, 2) == contents(&world, 0));
}

#[test]
fn lower_limit_takes_effect_without_a_write_a_slice_at_a_time() {
    let mut world = three_tuned(|_, _| {});
    let conn = world.connect(0);
    for i in 0..20_000 {
        world.ask_on(0, conn, &["SET", &format!("k{i}"), "v"]);
    }
    let before = used(&world, 0);
    assert!(before > 4 * 100_000);
    world.ask_on(0, conn, &["CONFIG", "SET", "maxmemory", "100k", "maxmemory-policy", "allkeys-random"]);
    world.run(1);
    assert!(used(&world, 0) > before / 2, "a slice is small");
    let took = world.run_until("what is too much is gone", 200, |w| used(w, 0) <= 100_000);
    assert!(took > 2, "took {took} ms");
    world.run(5);
    assert!(contents(&world, 1) == contents(&world, 0));
    // A write that needs more than one slice goes on in the next.
    world.ask_on(0, conn, &["CONFIG", "SET", "maxmemory", "0"]);
    for i in 0..20_000 {
        world.ask_on(0, conn, &["SET", &format!("k{i}"), "v"]);
    }
    let mut both = world.pipeline(0, conn, &[&["CONFIG", "SET", "maxmemory", "100k"], &["SET", "k", "v"]]);
    assert_eq!(both.next, Next::Again);
    while !world.answered(&mut both) {}
    assert_eq!(both.out.to_vec(), b"+OK\r\n+OK\r\n");
    assert!(used(&world, 0) <= 101_000);
}

/// With each policy, pipelines of values of 10 bytes to 300 KB, new and overwritten, with an expiry where only those may go.
#[test]
fn limit_holds_to_one_percent_with_every_policy_whatever_the_sizes() {
    let values: Vec<String> = [10, 100, 1_000, 5_000, 20_000, 300_000].map(|size| "x".repeat(size)).into();
    for (name, policy) in Eviction::WORDS {
        let mut world = three_tuned(|_, config| config.settings.max_memory = LIMIT as u64);
        let (conn, mut dice, mut refused) = (world.connect(0), Jitter::new(7), 0);
        world.ask_on(0, conn, &["CONFIG", "SET", "maxmemory-policy", name]);
        let mut sets = || {
            let size = if dice.below(100) == 0 { 5 } else { dice.below(5) as usize };
            (format!("k{}", dice.below(5_000)), values[size].as_str(), 1_000 + dice.below(1_000))
        };
        for _ in 0..200 {
            let keys: Vec<(String, &str, String)> =
                (0..16).map(|_| sets()).map(|(key, value, s)| (key, value, s.to_string())).collect();
            let words: Vec<Vec<&str>> = keys
                .iter()
                .map(|(key, value, s)| match name.starts_with("volatile") {
                    true => vec!["SET", key, value, "EX", s],
                    false => vec!["SET", key, value],
                })
                .collect();
            let requests: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
            let mut pipeline = world.pipeline(0, conn, &requests);
            while !world.answered(&mut pipeline) {
                assert!(used(&world, 0) <= LIMIT + SLACK, "{name}: {} bytes", used(&world, 0));
                world.run(1);
            }
            assert!(used(&world, 0) <= LIMIT + SLACK, "{name}: {} bytes", used(&world, 0));
            refused += pipeline.out.to_vec().windows(4).filter(|bytes| bytes == b"-OOM").count();
        }
        assert_eq!(refused > 0, *policy == Eviction::NoEviction, "{name}: {refused} writes were refused");
        assert!(used(&world, 0) > LIMIT * 2 / 3, "{name}: {} bytes", used(&world, 0));
    }
}

#[test]
fn paused_leader_evicts_nothing() {
    let mut world = three_tuned(lru);
    fill(&mut world, 0, "a", 900);
    let before = contents(&world, 0).len();
    world.ask(0, &["CLIENT", "PAUSE", "1000", "WRITE"]);
    world.ask(0, &["CONFIG", "SET", "maxmemory", "500k"]);
    world.run(500);
    assert_eq!(contents(&world, 0).len(), before);
    world.run(700);
    assert!(used(&world, 0) <= 500_000);
}

#[test]
fn replica_keeps_what_its_leader_keeps_whatever_its_own_limit_and_as_leader_goes_by_its_own_clocks() {
    let mut world = three_tuned(|i, config| {
        lru(i, config);
        if i > 0 {
            config.settings.max_memory = LIMIT as u64 / 2;
        }
    });
    fill(&mut world, 0, "a", 600);
    world.run(5);
    assert!(contents(&world, 1).len() >= 600 && used(&world, 1) > LIMIT / 2);
    world.run(10_000);
    // Read at the replicas alone: the leader knows nothing of it.
    for i in 0..200 {
        for node in [1, 2] {
            assert_eq!(world.ask(node, &["GET", &format!("a{i}")]).len(), 1_009);
        }
    }
    world.crash(0);
    world.run_until("a new leader", 1_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    world.run_until("its own limit holds", 1_000, |w| used(w, leader) <= LIMIT / 2);
    let there = contents(&world, leader);
    let left = (0..200).filter(|i| there.contains_key(format!("a{i}").as_bytes())).count();
    assert!(left > 180, "{left} of 200 that were read here are left");
}

#[test]
fn object_tells_idle_times_or_frequencies_as_the_policy_goes_by_them() {
    let mut world = three_tuned(|_, _| {});
    let conn = world.connect(0);
    let mut ask = |words: &[&str]| String::from_utf8(world.ask_on(0, conn, words)).unwrap();
    ask(&["SET", "k", "v"]);
    assert_eq!(ask(&["OBJECT", "IDLETIME", "k"]), ":0\r\n");
    assert!(ask(&["OBJECT", "FREQ", "k"]).starts_with("-ERR An LFU maxmemory policy is not selected"));
    ask(&["CONFIG", "SET", "maxmemory-policy", "volatile-lfu"]);
    assert!(ask(&["OBJECT", "IDLETIME", "k"]).starts_with("-ERR An LFU maxmemory policy is selected"));
    ask(&["SET", "new", "v"]);
    assert_eq!(ask(&["OBJECT", "FREQ", "new"]), ":5\r\n");
    assert_eq!(ask(&["OBJECT", "FREQ", "missing"]), "$-1\r\n");
    ask(&["GET", "new"]);
    ask(&["OBJECT", "FREQ", "new"]);
    ask(&["EXISTS", "new"]);
    ask(&["TTL", "new"]);
    assert_eq!(ask(&["OBJECT", "FREQ", "new"]), ":6\r\n", "only GET used it");
    // A pipeline in which one command is quiet and the next is not.
    let mut pipeline = world.pipeline(
        0,
        conn,
        &[&["CLIENT", "NO-TOUCH", "ON"], &["GET", "new"], &["OBJECT", "FREQ", "new"], &["CLIENT", "NO-TOUCH", "OFF"]],
    );
    while !world.answered(&mut pipeline) {
        world.run(1);
    }
    let replies = String::from_utf8(pipeline.out.to_vec()).unwrap();
    assert_eq!(replies, "+OK\r\n$1\r\nv\r\n:6\r\n+OK\r\n");
}
