//! The leader is killed under load, in real processes around a real ZooKeeper, and everything that was answered OK is looked for.
//!
//! The checker is checked, too: with `replication.acks: leader`, where a write is answered before a replica holds it, the same
//! scenario has to end with writes that are gone.
//!
//! Handing over under the same load, too: by command and by SIGTERM.
//!
//! Run with `--release` for the load that this is meant for; unoptimised builds run the same with less.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::cluster::{Cluster, alone};
use support::writers::{
    Fault, Load, RECOVERY_MAX, Writers, assert_kept, first_write_after, lose_leaders, wait_for_load,
};

/// Leaders that are killed in a row.
const ROUNDS: usize = 10;
/// Tries until the checker has to have seen a loss.
const LOSS_TRIES: usize = 5;
/// Writes that are answered, or are not, while all replicas are frozen.
const BLIND_WRITES: usize = 50;

/// kill -9.
struct Killed {
    cluster: Cluster,
    /// Length of each node's log when it was ended last.
    said: Vec<usize>,
}

impl Fault for Killed {
    fn nodes(&self) -> Vec<SocketAddr> {
        self.cluster.addrs()
    }

    fn crash(&mut self, node: usize) {
        self.cluster.nodes[node].process.kill();
        self.said[node] = self.cluster.nodes[node].process.log().len();
    }

    fn revive(&mut self, node: usize) {
        self.cluster.nodes[node].process.start();
    }

    fn was_filled(&self, node: usize) -> bool {
        self.cluster.nodes[node].process.log()[self.said[node]..].contains("full resync complete")
    }
}

#[test]
fn every_acknowledged_write_survives_kill_9_of_one_leader_after_the_other() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let mut fault = Killed { cluster, said: vec![0; 3] };
    lose_leaders(&mut fault, ROUNDS);
    fault.cluster.finish(&[]);
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
fn checker_reports_losses_where_the_leader_alone_acknowledges_and_none_where_the_in_sync_set_does() {
    let _alone = alone();
    let mut tries = 0;
    loop {
        let Some(lost) = kill_while_replicas_are_frozen("leader") else { return };
        tries += 1;
        println!("acks: leader, try {tries}: {} promises broken", lost.len());
        if !lost.is_empty() {
            break;
        }
        assert!(tries < LOSS_TRIES, "the checker saw no loss in {tries} tries, and there must have been some");
    }
    let kept = kill_while_replicas_are_frozen("in_sync");
    assert_eq!(kept, Some(Vec::new()), "acks: in_sync");
}

/// Handovers in a row.
const HANDOVERS: usize = 5;
/// Longest pause that a handover may cause here, where other tests' processes may take the processor away.
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[test]
fn handovers_and_a_rolling_restart_by_sigterm_under_load_lose_nothing() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    cluster.wait_until_whole();
    let writers = Writers::start("rolling", &nodes, Load::HEAVY);
    wait_for_load(&writers);
    let mut pauses = Vec::new();
    for _ in 0..HANDOVERS {
        let (leader, _) = cluster.wait_until_whole();
        let others: Vec<SocketAddr> = nodes.iter().copied().filter(|addr| *addr != nodes[leader]).collect();
        let mut client = cluster.nodes[leader].client();
        let since = Instant::now();
        assert!(client.call("DATAKEEPER HANDOVER").is_ok());
        let pause = first_write_after(since, &others, RECOVERY_MAX).expect("a write is accepted again");
        assert!(pause < PAUSE_MAX, "a handover took {pause:?}");
        pauses.push(pause);
    }
    println!("pauses of {HANDOVERS} handovers, until a write at another node was answered: {pauses:?}");
    for node in 0..nodes.len() {
        cluster.wait_until_whole();
        let since = Instant::now();
        assert!(cluster.nodes[node].process.terminate().success(), "exit code of a node that left");
        println!("node {node} left within {:?}", since.elapsed());
        cluster.nodes[node].process.start();
    }
    let (leader, _) = cluster.wait_until_whole();
    assert_kept(&[writers.stop()], &nodes, nodes[leader]);
    cluster.finish(&[]);
}
