//! Values that go from key to key (RENAME, RENAMENX, COPY) travel as names, and everywhere arrive whole.

mod support;

use datakeeper::cluster::role::Role;
use support::world::{World, world};

/// What a node holds, as one number.
fn digest(world: &mut World, i: usize) -> String {
    world.ask(i, &["DEBUG", "DIGEST"])
}

fn link_bytes(world: &mut World) -> usize {
    let info = world.ask(0, &["INFO", "datakeeper"]);
    let line = info.lines().find_map(|line| line.strip_prefix("link_bytes_sent:"));
    line.expect("INFO has link_bytes_sent").parse().unwrap()
}

#[test]
fn renamed_and_copied_values_are_not_sent_again() {
    let mut world = world(3, |_, _| {});
    let value = "v".repeat(1 << 20);
    world.ask(0, &["SET", "a", &value, "PX", "600000"]);
    world.ask(0, &["SET", "over", "old"]);
    world.run(100);
    let before = link_bytes(&mut world);
    for words in [
        &["RENAME", "a", "b"][..],
        &["RENAMENX", "b", "c"],
        &["COPY", "c", "d"],
        &["COPY", "d", "over", "REPLACE"],
        &["MULTI"],
        &["RENAME", "d", "e"],
    ] {
        let reply = world.ask(0, words);
        assert!(!reply.starts_with('-') && reply != ":0\r\n", "{words:?}: {reply}");
    }
    world.run(100);
    let sent = link_bytes(&mut world) - before;
    assert!(sent < 20_000, "{sent} bytes were sent");
    for i in 0..3 {
        assert_eq!(digest(&mut world, i), digest(&mut world, 0), "n{i}");
    }
    for key in ["c", "over", "e"] {
        assert_eq!(world.ask(0, &["STRLEN", key]), ":1048576\r\n", "{key}");
        assert!(world.ask(0, &["PTTL", key]).starts_with(":59"), "{key}");
    }
    // Who takes over has all of it.
    world.crash(0);
    world.run_until("another leads", 3_000, |world| (1..3).any(|i| world.role(i) == Role::Leader));
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    assert_eq!(world.ask(leader, &["STRLEN", "over"]), ":1048576\r\n");
}

/// A copy that is being filled may lack the key whose value goes to one that it has: there the value is sent.
#[test]
fn copy_that_is_being_filled_gets_the_values_that_move_meanwhile() {
    const KEYS: usize = 20_000;
    let mut world = world(2, |_, _| {});
    let conn = world.connect(0);
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(500) {
        let words: Vec<String> = chunk.iter().flat_map(|i| [format!("key:{i}"), format!("{i}").repeat(50)]).collect();
        let words: Vec<&str> = std::iter::once("MSET").chain(words.iter().map(String::as_str)).collect();
        world.ask_on(0, conn, &words);
    }
    world.run(100);
    world.grow();
    // So slow that it is filled while keys move.
    world.bandwidth.insert(2, (50_000, 0));
    world.start(2);
    let mut moved = 0;
    while world.in_sync() < 3 && moved < KEYS {
        let words: Vec<[String; 3]> = (moved..moved + 100)
            .map(|i| [["RENAME", "COPY"][i % 2].to_string(), format!("key:{i}"), format!("moved:{i}")])
            .collect();
        let words: Vec<[&str; 3]> = words.iter().map(|words| words.each_ref().map(String::as_str)).collect();
        let mut request = world.pipeline(0, conn, &words.iter().map(<[&str; 3]>::as_slice).collect::<Vec<_>>());
        while !world.answered(&mut request) {
            world.run(1);
        }
        world.run(1);
        moved += 100;
    }
    assert!(moved >= 1_000, "it was filled before much moved: {moved}");
    world.bandwidth.clear();
    world.run_until("it is in sync", 20_000, |world| world.in_sync() == 3);
    world.run(100);
    assert_eq!(digest(&mut world, 2), digest(&mut world, 0), "after {moved} moves");
}
