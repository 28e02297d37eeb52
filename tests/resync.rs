//! Full resyncs under a load that is too much: the leader's memory stays bounded, the replica leaves the in-sync set once, and it does not try
//! again and again. By Keepers over links with a bandwidth, and by real processes.
//!
//! `full_sync_under_load_takes_so_long_and_so_much_memory` prints figures; `DATAKEEPER_SYNC_KEYS` says of how many keys.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datakeeper::base::limits::OUTRUN_BYTES;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Acks, KeeperConfig};
use support::client::{Client, Reply, encode};
use support::cluster::{Cluster, PATIENCE, alone, in_sync, status_of};
use support::eventually;
use support::world::{World, three_tuned};

const BACKLOG: usize = 4 << 20;
/// Bytes of a value; one is written each ms.
const VALUE: usize = 10_000;

fn small_backlog(_: usize, config: &mut KeeperConfig) {
    config.backlog_bytes = BACKLOG;
    config.chunk_bytes = 128 << 10;
    config.acks = Acks::Leader;
}

/// Lets time pass while n0 is written to; returns the most that its log held.
fn write_for(world: &mut World, ms: u64) -> usize {
    let value = "v".repeat(VALUE);
    let mut most = 0;
    for _ in 0..ms {
        let key = format!("k{}", world.now_ms % 100);
        assert_eq!(world.ask(0, &["SET", &key, &value]), "+OK\r\n");
        world.run(1);
        most = most.max(world.keeper(0).log().bytes());
    }
    most
}

fn count(world: &World, text: &str) -> usize {
    world.notices().iter().filter(|n| n.contains(text)).count()
}

#[test]
fn a_replica_that_the_load_outruns_leaves_the_set_once_and_is_not_filled_again_and_again() {
    let mut world = three_tuned(small_backlog);
    write_for(&mut world, 100);
    assert_eq!(world.in_sync(), 3);
    world.bandwidth.insert(2, (3_000, 0));
    // Writes do not wait for it here (acks: leader), and little of what it has not confirmed was sent: it takes long to be noticed as slow.
    let most = write_for(&mut world, 60_000);
    assert!(most <= OUTRUN_BYTES + 1_200 * VALUE + BACKLOG, "the log held {most} bytes");
    assert_eq!((world.in_sync(), count(&world, "taking n2 out of the in-sync set")), (2, 1));
    let began = count(&world, "full resync from n0 begins") - 2;
    assert!((2..=7).contains(&began), "{began} full resyncs in a minute: {:#?}", world.notices());
    let most = write_for(&mut world, 5_000);
    assert!(count(&world, "the load has outrun it") > 0);
    assert!(most <= 2 * BACKLOG, "nobody in the set is slow now, and the log holds {most} bytes");
    // The load ends.
    world.run_until("n2 is back", 65_000, |w| w.in_sync() == 3);
    assert_eq!(count(&world, "taking n2 out of the in-sync set"), 1);
    world.run(100);
    assert_eq!(world.ask(2, &["STRLEN", "k7"]), ":10000\r\n");
}

#[test]
fn a_learner_whose_link_carries_the_load_but_little_more_is_filled_in_the_end() {
    let mut world = three_tuned(small_backlog);
    for i in 0..300 {
        assert_eq!(world.ask(0, &["SET", &format!("big{i}"), &"v".repeat(VALUE)]), "+OK\r\n");
    }
    world.crash(2);
    world.run_until("n2 is out", 500, |w| w.in_sync() == 2);
    world.bandwidth.insert(2, (12_000, 0));
    world.start(2);
    write_for(&mut world, 5_000);
    assert_eq!(count(&world, "full resync from n0 begins"), 2, "n1's and the new n2's: {:#?}", world.notices());
    assert_eq!(world.in_sync(), 3, "{:#?}", world.notices());
}

#[test]
fn a_learner_waits_for_its_registration_as_long_as_it_takes() {
    let mut world = World::new(2);
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.start(1);
    world.uncoordinated.insert(1);
    world.run_until("the leader's welcome", 100, |w| count(w, "full resync from n0 begins") == 1);
    world.run(10_000);
    assert_eq!((count(&world, "gave copy"), count(&world, "is down at"), count(&world, "closing link")), (0, 0, 0));
    world.uncoordinated.remove(&1);
    world.run_until("n1 is in sync", 50, |w| w.in_sync() == 2);
    assert_eq!(count(&world, "full resync from n0 begins"), 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Real processes

/// Connections of the load, commands in flight on each, bytes of a value.
const LOAD: (usize, usize, usize) = (8, 32, 1_000);

/// Writes large values to `keys` keys until told to stop; how many were answered OK.
fn pound(node: SocketAddr, keys: u64, stop: &AtomicBool, answered: &AtomicU64) {
    let (_, pipeline, size) = LOAD;
    let mut client = Client::connect(node).expect("a connection");
    let value = "v".repeat(size);
    let mut next = 0_u64;
    let mut bytes = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        bytes.clear();
        for _ in 0..pipeline {
            next = next.wrapping_add(7_919);
            encode(&["SET", &format!("pound:{}", next % keys), &value], &mut bytes);
        }
        client.send(&bytes).expect("the leader reads");
        for _ in 0..pipeline {
            match client.receive().expect("a reply") {
                reply if reply.is_ok() => _ = answered.fetch_add(1, Ordering::SeqCst),
                Reply::Error(text) if text.starts_with("TRYAGAIN ") => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Does something while the leader is under load; returns what it returned, and writes answered per second.
fn under_load<T>(node: SocketAddr, keys: u64, work: impl FnOnce(&AtomicU64) -> T) -> (T, f64) {
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..LOAD.0 {
            scope.spawn(|| pound(node, keys, &stop, &answered));
        }
        let done = work(&answered);
        stop.store(true, Ordering::SeqCst);
        (done, answered.load(Ordering::SeqCst) as f64 / began.elapsed().as_secs_f64())
    })
}

/// How long a slow node runs, and how long it stands still, in turn: shorter than the silence that makes a leader suspect it.
const RUNS: Duration = Duration::from_millis(20);
const STANDS: Duration = Duration::from_millis(120);

#[test]
fn a_replica_that_a_real_load_outruns_costs_the_leader_bounded_memory() {
    let _alone = alone();
    let backlog: u64 = 8 << 20;
    let settings = [format!("replication.backlog_bytes={backlog}"), "replication.acks=leader".to_string()];
    // Where writes wait for the whole set, a load that waits for its answers runs at the pace of the slowest member.
    let Some(cluster) = Cluster::start(&["--set", &settings[0], "--set", &settings[1]]) else { return };
    let (leader, replicas) = cluster.roles();
    let slow = replicas[1];
    let out = format!("taking {} out of the in-sync set", slow.name);
    let many = if cfg!(debug_assertions) { 200_000 } else { 800_000 };
    let ((before, most), rate) = under_load(leader.addr, 1_000, |answered| {
        eventually(PATIENCE, "the load has filled the backlog", || {
            let done = answered.load(Ordering::SeqCst);
            if done >= many / 4 { Ok(()) } else { Err(done.to_string()) }
        });
        let before = leader.process.resident();
        let (mut most, mut left_at) = (before, None);
        let began = Instant::now();
        // On and on for as many writes after it has left the set.
        while left_at.is_none_or(|at| answered.load(Ordering::SeqCst) < at + many) {
            assert!(began.elapsed() < PATIENCE * 4, "{} keeps up, or nobody looks", slow.name);
            slow.process.freeze();
            std::thread::park_timeout(STANDS);
            slow.process.thaw();
            std::thread::park_timeout(RUNS);
            most = most.max(leader.process.resident());
            if left_at.is_none() && leader.process.log().contains(&out) {
                left_at = Some(answered.load(Ordering::SeqCst));
            }
        }
        (before, most)
    });
    println!("leader: {} MiB before, {} MiB at most, {rate:.0} writes/s", before >> 20, most >> 20);
    let bound = OUTRUN_BYTES as u64 + 2 * backlog + (64 << 20);
    assert!(most < before + bound, "grew from {before} to {most} bytes");
    cluster.wait_until_whole();
    let left = leader.process.log().matches(&out).count();
    let filled = slow.process.log().matches("full resync from").count();
    println!("{} left the set {left} times and was filled {filled} times, its first one included", slow.name);
    assert!(left == 1 && filled <= 5, "it left {left} times and was filled {filled} times");
    cluster.finish(&[]);
}

/// Keys that are there before a node is filled.
fn keys() -> u64 {
    let set = std::env::var("DATAKEEPER_SYNC_KEYS").ok().and_then(|keys| keys.parse().ok());
    set.unwrap_or(if cfg!(debug_assertions) { 50_000 } else { 1_000_000 })
}

#[test]
fn full_sync_under_load_takes_so_long_and_so_much_memory() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let (leader, _) = cluster.wait_until_whole();
    let (addr, keys) = (cluster.nodes[leader].addr, keys());
    let mut client = Client::connect(addr).expect("a connection");
    for first in (0..keys).step_by(1_000) {
        let words = (first..(first + 1_000).min(keys)).flat_map(|i| [format!("key:{i:012}"), format!("{i:0>100}")]);
        let words: Vec<String> = std::iter::once("MSET".to_string()).chain(words).collect();
        assert!(client.try_call(&words).expect("a reply").is_ok());
    }
    let idle = cluster.nodes[leader].process.resident();
    let learner = (leader + 1) % 3;
    cluster.nodes[learner].process.kill();
    let ((loaded, most, took, progress), rate) = under_load(addr, 10_000, |answered| {
        eventually(PATIENCE, "the load has filled the backlog", || {
            let done = answered.load(Ordering::SeqCst);
            if done > 200_000 { Ok(()) } else { Err(done.to_string()) }
        });
        let loaded = cluster.nodes[leader].process.resident();
        let (began, mut most, mut progress) = (Instant::now(), loaded, Vec::new());
        cluster.nodes[learner].process.start();
        eventually(PATIENCE * 10, "it is in sync", || {
            most = most.max(cluster.nodes[leader].process.resident());
            let status = status_of(addr)?;
            progress.extend(status.nodes.iter().filter_map(|n| n.sync_progress));
            let names = in_sync(&status);
            if names.len() == 3 { Ok(()) } else { Err(format!("{names:?} {:?}", progress.last())) }
        });
        (loaded, most, began.elapsed(), progress)
    });
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{keys} keys: filled in {took:?} under {rate:.0} writes/s of {} bytes; leader {:.0} MiB idle, {:.0} MiB under load, at most {:.0} MiB \
         while it filled: {:+.1} MiB, {:+.1} %",
        LOAD.2,
        mib(idle),
        mib(loaded),
        mib(most),
        mib(most) - mib(loaded),
        (mib(most) / mib(loaded) - 1.0) * 100.0
    );
    let told = cluster.nodes[learner].process.log();
    let line = told.lines().rfind(|line| line.contains("full resync received")).expect("it says so");
    println!("{line}");
    assert!(progress.iter().any(|p| p.keys > 0 && p.bytes > 0 && p.bytes_per_s > 0), "progress is shown: {progress:?}");
    cluster.wait_until_whole();
    cluster.finish(&[]);
}
