//! Every field of INFO is set in motion, or is named as one that cannot move: a number that is always the same tells nobody anything.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::world::{Request, World, world};

/// Fields that stay as they are while nothing but clients and time moves, each with the reason.
const FIXED: &[(&str, &[&str])] = &[
    (
        "what the node is, for as long as its process lives",
        &[
            "redis_version",
            "datakeeper_version",
            "redis_git_sha1",
            "redis_git_dirty",
            "redis_mode",
            "arch_bits",
            "process_id",
            "run_id",
            "tcp_port",
            "config_file",
            "cluster_name",
            "node_name",
            "dataset",
            "cluster_enabled",
            "io_threads_active",
            "total_system_memory",
            "total_system_memory_human",
            "maxclients",
            "repl_backlog_size",
            "acks",
            "read_mode",
            "slave_read_only",
            "replica_announced",
        ],
    ),
    ("the pace of upkeep", &["hz", "configured_hz"]),
    ("it moves once a day", &["uptime_in_days"]),
    (
        "nothing is ever written to files, and nothing forks",
        &[
            "async_loading",
            "rdb_bgsave_in_progress",
            "rdb_last_bgsave_status",
            "rdb_last_bgsave_time_sec",
            "rdb_current_bgsave_time_sec",
            "rdb_saves",
            "aof_enabled",
            "aof_rewrite_in_progress",
            "aof_rewrite_scheduled",
            "aof_last_rewrite_time_sec",
            "aof_current_rewrite_time_sec",
            "aof_last_bgrewrite_status",
            "aof_rewrites",
            "aof_last_write_status",
            "latest_fork_usec",
            "total_forks",
            "used_cpu_sys_children",
            "used_cpu_user_children",
        ],
    ),
    (
        "there is one history of a dataset",
        &["master_replid", "master_replid2", "second_repl_offset", "repl_backlog_active"],
    ),
    (
        "processes are not there in this world",
        &["used_cpu_sys", "used_cpu_user", "used_memory_rss", "used_memory_rss_human"],
    ),
    (
        "no socket is there in this world",
        &[
            "total_net_input_bytes",
            "total_net_output_bytes",
            "instantaneous_input_kbps",
            "instantaneous_output_kbps",
            "rejected_connections",
            "client_output_buffer_limit_disconnections",
            "forwarded_commands",
            "forwarded_unknown",
            "published_dropped",
            "mem_clients_normal",
        ],
    ),
    (
        "the cluster is whole all the time; tests of failovers and resyncs see these move",
        &[
            "loading",
            "role",
            "master_host",
            "master_port",
            "master_link_status",
            "master_sync_in_progress",
            "master_last_io_seconds_ago",
            "connected_slaves",
            "master_failover_state",
            "sync_full",
            "sync_partial_ok",
            "sync_partial_err",
            "node_role",
            "epoch",
            "leader",
            "in_sync",
            "wall_clock_ahead_ms",
            "in_sync_size",
            "in_sync_peak",
            "min_in_sync",
            "min_in_sync_effective",
            "enough_in_sync",
            "lease_held",
            "full_resyncs",
            "coordinator_connected",
            "resets",
            "halted",
            "cluster_connections",
            "waiting_clients",
            "follower_n1",
            "held_batches",
            "repl_backlog_first_byte_offset",
        ],
    ),
];

fn info(world: &mut World, i: usize) -> BTreeMap<String, String> {
    let text = world.ask(i, &["INFO", "everything"]);
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// A connection asks for something that waits.
fn waits(world: &mut World, words: &[&str]) -> Request {
    let conn = world.connect(0);
    let mut request = world.request(0, conn, words);
    world.run(2);
    assert!(!world.answered(&mut request), "{words:?} does not wait");
    request
}

/// What every kind of client does; returns what waits in the end.
fn everybody_does_something(world: &mut World) -> Request {
    for i in 0..400 {
        world.ask(0, &["SET", &format!("key:{i}"), "value", "PX", &(1_000_000 + i * 1_000).to_string()]);
    }
    world.ask(0, &["SET", "short", "v", "PX", "5"]);
    world.ask(0, &["GET", "key:1"]);
    world.ask(0, &["GET", "no such key"]);
    world.ask(0, &["INCR", "key:1"]);
    world.ask(0, &["nonsense"]);
    world.ask(1, &["SET", "k", "v"]);
    let listener = world.connect(0);
    for words in [&["SUBSCRIBE", "a"][..], &["PSUBSCRIBE", "b*"], &["SSUBSCRIBE", "c"]] {
        world.ask_on(0, listener, words);
    }
    let tracker = world.connect(0);
    world.ask_on(0, tracker, &["HELLO", "3"]);
    world.ask_on(0, tracker, &["CLIENT", "TRACKING", "ON"]);
    world.ask_on(0, tracker, &["GET", "key:2"]);
    let broad = world.connect(0);
    world.ask_on(0, broad, &["HELLO", "3"]);
    world.ask_on(0, broad, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "key:"]);
    world.run(2_000);
    // The limit of memory, and what happens at it.
    world.ask(0, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "60000"]);
    for i in 0..400 {
        world.ask(0, &["SET", &format!("more:{i}"), &"v".repeat(200)]);
    }
    world.run(1_200);
    world.ask_on(0, tracker, &["GET", "more:399"]);
    world.ask(0, &["CLIENT", "PAUSE", "600000", "WRITE"]);
    waits(world, &["SET", "k", "v"])
}

#[test]
fn every_number_of_info_moves_or_is_named_as_one_that_does_not() {
    let mut world = world(2, |_, _| {});
    world.run(100);
    let before = [info(&mut world, 0), info(&mut world, 1)];
    let mut waiting = everybody_does_something(&mut world);
    world.run(1_000);
    assert!(!world.answered(&mut waiting));
    let after = [info(&mut world, 0), info(&mut world, 1)];

    let mut moved = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (before, after) in before.iter().zip(&after) {
        for (name, value) in after {
            seen.insert(name.as_str());
            if before.get(name) != Some(value) {
                moved.insert(name.as_str());
            }
        }
    }
    let fixed: BTreeSet<&str> = FIXED.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let still: Vec<&&str> = seen.iter().filter(|name| !moved.contains(**name) && !fixed.contains(**name)).collect();
    assert!(still.is_empty(), "these never move: {still:#?}");
    let moving: Vec<&&str> = fixed.iter().filter(|name| moved.contains(**name)).collect();
    assert!(moving.is_empty(), "these do move: {moving:?}");
}

#[test]
fn the_mean_time_to_live_is_told_at_leader_and_replica() {
    let mut world = world(2, |_, _| {});
    world.ask(0, &["SET", "a", "v", "PX", "100000"]);
    world.ask(0, &["SET", "b", "v", "PX", "300000"]);
    world.ask(0, &["SET", "c", "v"]);
    world.run(50);
    for i in 0..2 {
        let field = info(&mut world, i).remove("db0").unwrap();
        let ttl: u64 = field.strip_prefix("keys=3,expires=2,avg_ttl=").unwrap().parse().unwrap();
        assert!((199_000..=200_000).contains(&ttl), "n{i}: {field}");
    }
}

#[test]
fn who_waits_for_the_end_of_a_pause_counts_as_blocked() {
    let mut world = world(1, |_, _| {});
    let blocked = |world: &mut World| info(world, 0)["blocked_clients"].clone();
    assert_eq!(blocked(&mut world), "0");
    world.ask(0, &["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut waiting = [waits(&mut world, &["SET", "k", "v"]), waits(&mut world, &["PUBLISH", "c", "m"])];
    assert_eq!(blocked(&mut world), "2");
    world.ask(0, &["CLIENT", "UNPAUSE"]);
    world.run(2);
    assert!(waiting.iter_mut().all(|request| world.answered(request)));
    assert_eq!(blocked(&mut world), "0");
}
