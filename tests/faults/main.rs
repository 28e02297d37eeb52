//! Real faults: three `datakeeper` processes around a real ZooKeeper, clients that write and read all the time, and something that
//! happens to a node, to ZooKeeper or to the network meanwhile. Afterwards nothing that was answered may have been untrue.
//!
//! ```text
//!   writers ───── keys of their own, numbers that only grow ──────────► lost: answered OK and gone
//!   registers ─── few keys, many writers and readers, times ──────────► not linearizable
//!   late readers  connected while the node led, read now and then ────► stale: older than what was answered before
//!   probe ─────── each node every 5 ms from the fault on ─────────────► time to the first acknowledged write
//!   scan ──────── every key of every node in the end ─────────────────► replicas identical
//! ```
//! `cargo test` runs the faults that take seconds. `scripts/faults` runs them all, and prints one table: `DATAKEEPER_FAULTS` names
//! the ones to run, `DATAKEEPER_FAULT_RUNS` how often each, `DATAKEEPER_LEADER_KILLS` how many leaders to kill.
//!
//! The checker is checked, too: with `replication.acks: leader` it has to find lost writes, with `replication.read_mode: local`
//! stale reads.

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod fault;
mod registers;
mod table;
mod trial;

use std::net::SocketAddr;
use std::time::Instant;

use support::cluster::{Cluster, alone};
use support::writers::{Load, RECOVERY_MAX, Writers, assert_kept, first_write_after, wait_for_load};

use crate::fault::{Cut, Fault};
use crate::table::Table;
use crate::trial::{Verdict, trial};

/// Periods four times the default ones: what a busy machine takes for a dead node is dead.
const PATIENT: &[&str] = &[
    "--set",
    "replication.heartbeat_ms=200",
    "--set",
    "replication.suspect_ms=1000",
    "--set",
    "replication.lease_ms=1600",
    "--set",
    "replication.promise_ms=2000",
];
/// Leaders that are killed in a row.
const KILLS: usize = 20;
/// Tries until the checker has to have seen what is wrong.
const TRIES: usize = 5;
/// Writes that are answered, or are not, while all replicas are frozen.
const BLIND_WRITES: usize = 50;

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Each fault `times` times on a cluster of its own; none, with a message, where that is not possible.
fn series(fault: Fault, times: usize, more: &[&str]) -> Option<Vec<Verdict>> {
    let mut cluster = fault.cluster(more)?;
    let verdicts = (0..times).map(|round| {
        let began = Instant::now();
        let verdict = trial(&mut cluster, &format!("{}{round}", fault.name()), fault);
        println!("{} {} ({} s): {verdict}", fault.name(), round + 1, began.elapsed().as_secs());
        verdict
    });
    let verdicts = verdicts.collect();
    cluster.finish(fault.expected_alarms());
    Some(verdicts)
}

/// Runs faults, prints the table.
///
/// # Panics
/// If a promise was broken.
fn run(faults: &[(Fault, usize)], more: &[&str]) {
    let _alone = alone();
    let mut table = Table::default();
    for (fault, times) in faults {
        if let Some(verdicts) = series(*fault, *times, more) {
            table.add(fault.name(), verdicts);
        }
    }
    println!("{table}");
    table.assert_clean();
}

#[test]
fn no_acknowledged_write_is_lost_when_one_leader_after_the_other_is_killed() {
    run(&[(Fault::KillLeader, number("DATAKEEPER_LEADER_KILLS", KILLS))], PATIENT);
}

#[test]
fn short_faults_break_no_promise() {
    let faults = [Fault::KillReplica, Fault::RestartLeader, Fault::FreezeLeader(5), Fault::HandOver, Fault::RestartAll];
    run(&faults.map(|fault| (fault, 1)), &[]);
}

#[test]
fn short_partitions_of_the_leader_break_no_promise() {
    let faults = [Cut::LeaderFromReplicas, Cut::LeaderFromAll, Cut::DeafLeader];
    run(&faults.map(|cut| (Fault::Cut(cut, 2), 1)), &[]);
}

/// All faults, or those that `DATAKEEPER_FAULTS` names, with the default periods.
#[test]
#[ignore = "takes minutes; scripts/faults runs it"]
fn table_of_all_faults() {
    let named = std::env::var("DATAKEEPER_FAULTS").unwrap_or_default();
    let named: Vec<&str> = named.split_whitespace().collect();
    let all = fault::all();
    for name in &named {
        let names: Vec<&str> = all.iter().map(|(fault, _)| fault.name()).collect();
        assert!(names.contains(name), "there is no fault {name}; there are {}", names.join(" "));
    }
    let kills = number("DATAKEEPER_LEADER_KILLS", 200);
    let chosen = all.into_iter().filter(|(fault, _)| named.is_empty() || named.contains(&fault.name()));
    let chosen = chosen.map(|(fault, times)| {
        (fault, number("DATAKEEPER_FAULT_RUNS", if fault == Fault::KillLeader { kills } else { times }))
    });
    run(&chosen.collect::<Vec<_>>(), &[]);
}

/// Freezes the replicas under load, kills the leader a moment later, lets the replicas go on. Returns the promises that the new
/// leader does not keep.
fn kill_while_replicas_are_frozen(acks: &str) -> Option<Vec<String>> {
    let mut cluster = Cluster::start(&["--set", &format!("replication.acks={acks}")])?;
    let (leader, _) = cluster.wait_until_whole();
    let replicas = [(leader + 1) % 3, (leader + 2) % 3];
    let nodes = cluster.addrs();
    let writers = Writers::start("blind", &nodes, Load::HEAVY);
    wait_for_load(&writers);
    replicas.iter().for_each(|i| cluster.nodes[*i].process.freeze());
    let frozen = Instant::now();
    // Before the leader suspects anybody, so that the replicas may succeed it.
    while frozen.elapsed().as_millis() < 100 && writers.acked_within(frozen.elapsed()) < BLIND_WRITES {
        std::hint::spin_loop();
    }
    let since = Instant::now();
    cluster.nodes[leader].process.kill();
    replicas.iter().for_each(|i| cluster.nodes[*i].process.thaw());
    let survivors: Vec<SocketAddr> = replicas.iter().map(|i| nodes[*i]).collect();
    assert!(first_write_after(since, &survivors, RECOVERY_MAX).is_some(), "no write was accepted for {RECOVERY_MAX:?}");
    cluster.nodes[leader].process.start();
    let (successor, _) = cluster.wait_until_whole();
    let story = writers.stop();
    let contradictions = story.contradictions(nodes[successor]).expect("the leader answers");
    if contradictions.is_empty() {
        assert_kept(&[story], &nodes, nodes[successor]);
    }
    cluster.finish(&[]);
    Some(contradictions)
}

#[test]
fn checker_finds_lost_writes_where_the_leader_alone_acknowledges_and_none_where_the_in_sync_set_does() {
    let _alone = alone();
    let mut tries = 0;
    loop {
        let Some(lost) = kill_while_replicas_are_frozen("leader") else { return };
        tries += 1;
        println!("acks: leader, try {tries}: {} promises broken", lost.len());
        if !lost.is_empty() {
            break;
        }
        assert!(tries < TRIES, "the checker saw no loss in {tries} tries, and there must have been some");
    }
    let kept = kill_while_replicas_are_frozen("in_sync");
    assert_eq!(kept, Some(Vec::new()), "acks: in_sync");
}

#[test]
fn checker_finds_stale_reads_where_a_leader_reads_without_a_lease_and_none_where_it_has_one() {
    let _alone = alone();
    let stale = |mode: &str| -> Option<(usize, usize)> {
        let verdicts = series(Fault::FreezeLeader(3), 1, &["--set", &format!("replication.read_mode={mode}")])?;
        println!("read_mode: {mode}");
        Some((verdicts[0].stale.len(), verdicts[0].broken.len()))
    };
    let mut tries = 0;
    loop {
        let Some((stale, broken)) = stale("local") else { return };
        tries += 1;
        if stale > 0 && broken > 0 {
            break;
        }
        assert!(tries < TRIES, "the checker saw no stale read in {tries} tries, and there must have been some");
    }
    assert_eq!(stale("lease"), Some((0, 0)), "read_mode: lease");
    assert_eq!(stale("confirm"), Some((0, 0)), "read_mode: confirm");
}
