//! Wall clocks that are wrong, and such as are set: keys live as long as they were told to, within a tenth, whoever leads.
//!
//! Not here: leases, which know nothing of wall clocks (`interleavings/leases.rs`), and that what a client saw expire stays so (there, too).

mod support;

use datakeeper::cluster::role::Role;
use support::world::{World, three};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How long a key lives that is told to live for two seconds, ms; asked at the leader every 10 ms.
fn lifetime(world: &mut World, leader: usize) -> u64 {
    assert_eq!(world.ask(leader, &["SET", "short", "v", "PX", "2000"]), "+OK\r\n");
    let began = world.now_ms;
    while world.ask(leader, &["GET", "short"]) != "$-1\r\n" {
        assert!(world.now_ms < began + 10_000, "it does not expire");
        world.run(10);
    }
    world.now_ms - began
}

fn assert_right_within_a_tenth(lived: u64, when: &str) {
    assert!((1_800..=2_240).contains(&lived), "{when}: {lived} ms");
}

/// What is left of a key's time, ms.
fn left(world: &mut World, leader: usize, key: &str) -> i64 {
    number(&world.ask(leader, &["PTTL", key]))
}

fn number(reply: &str) -> i64 {
    reply.trim_start_matches(':').trim_end().parse().unwrap_or_else(|_| panic!("{reply}"))
}

fn hand_over(world: &mut World, from: usize, to: usize) {
    assert_eq!(world.ask(from, &["DATAKEEPER", "HANDOVER", "TO", &format!("n{to}")]), "+OK\r\n");
    world.run_until("it leads", 1_000, |w| w.role(to) == Role::Leader);
    world.run(100);
}

#[test]
fn keys_live_as_long_as_they_were_told_to_before_during_and_after_a_leader_whose_clock_is_wrong() {
    for ahead_ms in [HOUR_MS, -HOUR_MS] {
        let mut world = three();
        world.wall_ahead_ms.insert(1, ahead_ms);
        world.run(100);
        assert_right_within_a_tenth(lifetime(&mut world, 0), "before");
        assert_eq!(world.ask(0, &["SET", "long", "v", "PX", "600000"]), "+OK\r\n");
        let began = world.now_ms;
        hand_over(&mut world, 0, 1);
        assert_right_within_a_tenth(lifetime(&mut world, 1), "at the leader whose clock is wrong");
        let (passed, left_then) = ((world.now_ms - began) as i64, left(&mut world, 1, "long"));
        assert!((left_then - (600_000 - passed)).abs() <= passed / 10 + 10, "{left_then} left after {passed} ms");
        hand_over(&mut world, 1, 0);
        assert_right_within_a_tenth(lifetime(&mut world, 0), "after");
        let (passed, left_then) = ((world.now_ms - began) as i64, left(&mut world, 0, "long"));
        assert!((left_then - (600_000 - passed)).abs() <= passed / 10 + 10, "{left_then} left after {passed} ms");
    }
}

#[test]
fn keys_live_as_long_as_they_were_told_to_while_the_leaders_clock_is_set() {
    let mut world = three();
    for ahead_ms in [HOUR_MS, 0, -HOUR_MS, 3_000, 0] {
        assert_eq!(world.ask(0, &["SET", "across", "v", "PX", "600000"]), "+OK\r\n");
        world.wall_ahead_ms.insert(0, ahead_ms);
        assert_right_within_a_tenth(lifetime(&mut world, 0), &format!("set to {ahead_ms}"));
        let left_then = left(&mut world, 0, "across");
        assert!((597_500..=598_500).contains(&left_then), "set to {ahead_ms}: {left_then} left");
    }
}

#[test]
fn a_cluster_that_was_founded_on_a_clock_a_day_ahead_measures_right() {
    let mut world = World::new(3);
    world.wall_ahead_ms.insert(0, DAY_MS);
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| w.role(0) == Role::Leader && w.in_sync() == i + 1);
    }
    assert_right_within_a_tenth(lifetime(&mut world, 0), "at the founder");
    world.crash(0);
    world.run_until("another leader", 1_000, |w| [1, 2].into_iter().any(|i| w.role(i) == Role::Leader));
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    assert_right_within_a_tenth(lifetime(&mut world, leader), "at its successor");
    // What is said as a Unix time is meant by a clock that is right, and told again so, while the clock for expiry is still a day ahead.
    let until = world.now().wall.0 + 2_000;
    assert_eq!(world.ask(leader, &["SET", "at", "v", "PXAT", &until.to_string()]), "+OK\r\n");
    world.run(60);
    for node in [1, 2] {
        let told = number(&world.ask(node, &["PEXPIRETIME", "at"]));
        assert!(told.abs_diff(until as i64) <= 20, "n{node}: {told}, not {until}");
    }
    let (seconds, long) = (until / 1_000 + 1_000, left(&mut world, leader, "at"));
    assert!((1_800..=2_000).contains(&long), "{long} ms left");
    assert_eq!(world.ask(leader, &["EXPIREAT", "at", &seconds.to_string()]), ":1\r\n");
    assert_eq!(world.ask(leader, &["EXPIRETIME", "at"]), format!(":{seconds}\r\n"));
    let past = (world.now().wall.0 - 10).to_string();
    assert_eq!(world.ask(leader, &["PEXPIREAT", "at", &past]), ":1\r\n");
    assert_eq!(world.ask(leader, &["EXISTS", "at"]), ":0\r\n", "by a clock that is right, that is over");
    let time = world.ask(leader, &["TIME"]);
    assert!(time.contains(&(world.now().wall.0 / 1_000).to_string()), "{time}");
}

#[test]
fn a_node_whose_clock_is_wrong_is_the_last_to_be_handed_the_leadership() {
    let mut world = three();
    world.wall_ahead_ms.insert(1, HOUR_MS);
    world.run(200);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "+OK\r\n");
    world.run_until("n2 leads", 1_000, |w| w.role(2) == Role::Leader);
    world.run(200);
    assert_eq!(world.ask(2, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n", "unless it is named");
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader);
}

#[test]
fn clocks_that_differ_by_more_than_a_second_are_told_once_and_so_is_their_return() {
    let mut world = three();
    let told = |w: &World, what: &str| w.notices().iter().filter(|n| n.contains(what)).count();
    world.wall_ahead_ms.insert(0, 5_000);
    world.run(2_000);
    assert_eq!(told(&world, "ms ahead of the clock by which keys expire"), 1, "{:#?}", world.notices());
    assert_eq!(told(&world, "ms behind that of this node: one of them is wrong"), 2, "n1 and n2");
    let status = world.ask(0, &["DATAKEEPER", "STATUS"]);
    assert!(status.contains("look at the clocks of all nodes"), "{status}");
    let info = world.ask(0, &["INFO", "datakeeper"]);
    let ahead = info.lines().find_map(|line| line.strip_prefix("wall_clock_ahead_ms:")).map(|ms| ms.parse::<i64>());
    assert!(matches!(ahead, Some(Ok(4_700..=4_900))), "led by a tenth for two seconds: {ahead:?}");
    world.wall_ahead_ms.insert(0, 0);
    world.run(3_000);
    assert_eq!(told(&world, "keys expire by the wall clock of this node again"), 1);
    assert_eq!(told(&world, "is within a second of that of this node again"), 2);
    let info = world.ask(0, &["INFO", "datakeeper"]);
    assert!(info.contains("wall_clock_ahead_ms:0\r\n"), "{info}");
}
