//! What happens to a cluster, and how it ends.

use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::writers::Load;

/// One kind of fault. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader; it is started again when somebody else leads.
    KillLeader,
    /// kill -9 of a replica.
    KillReplica,
    /// kill -9 of the leader, which is there again at once, empty.
    RestartLeader,
    /// The leader is asked to hand over.
    HandOver,
    /// SIGTERM of the leader.
    EndLeader,
    /// SIGTERM of one node after the other.
    RestartAll,
    /// SIGSTOP of the leader.
    FreezeLeader(u64),
    /// kill -9 of ZooKeeper, which comes back with what it knew.
    KillZooKeeper(u64),
    /// SIGSTOP of ZooKeeper.
    FreezeZooKeeper(u64),
}

/// All of them, and how often each is tried.
pub fn all() -> Vec<(Fault, usize)> {
    vec![
        (Fault::KillLeader, 200),
        (Fault::KillReplica, 10),
        (Fault::RestartLeader, 10),
        (Fault::HandOver, 10),
        (Fault::EndLeader, 10),
        (Fault::RestartAll, 3),
        (Fault::FreezeLeader(5), 3),
        (Fault::FreezeLeader(20), 1),
        (Fault::KillZooKeeper(10), 2),
        (Fault::FreezeZooKeeper(30), 1),
    ]
}

impl Fault {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "kill-leader",
            Fault::KillReplica => "kill-replica",
            Fault::RestartLeader => "restart-leader",
            Fault::HandOver => "handover",
            Fault::EndLeader => "sigterm-leader",
            Fault::RestartAll => "rolling-restart",
            Fault::FreezeLeader(20) => "freeze-leader-20s",
            Fault::FreezeLeader(_) => "freeze-leader-5s",
            Fault::KillZooKeeper(_) => "kill-zookeeper",
            Fault::FreezeZooKeeper(_) => "freeze-zookeeper-30s",
        }
    }

    /// The cluster that it happens to; none, with a message, where that is not possible.
    pub fn cluster(self, more: &[&str]) -> Option<Cluster> {
        Cluster::start(more)
    }

    /// What clients do meanwhile.
    pub fn load(self) -> Load {
        match self {
            Fault::FreezeLeader(_) | Fault::RestartAll | Fault::KillZooKeeper(_) | Fault::FreezeZooKeeper(_) => {
                Load::STEADY
            }
            Fault::KillLeader | Fault::KillReplica | Fault::RestartLeader | Fault::HandOver | Fault::EndLeader => {
                Load::HEAVY
            }
        }
    }

    /// The nodes that it strikes, one after the other.
    pub fn targets(self, leader: usize) -> Vec<usize> {
        match self {
            Fault::RestartAll => vec![0, 1, 2],
            Fault::KillReplica => vec![(leader + 1) % 3],
            _ => vec![leader],
        }
    }

    /// Whether the one who led before must not lead afterwards; none: either may.
    pub fn deposes(self) -> Option<bool> {
        match self {
            Fault::KillLeader | Fault::RestartLeader | Fault::HandOver | Fault::EndLeader | Fault::FreezeLeader(_) => {
                Some(true)
            }
            Fault::KillReplica | Fault::KillZooKeeper(_) | Fault::FreezeZooKeeper(_) => Some(false),
            Fault::RestartAll => None,
        }
    }

    /// Errors that nodes may log.
    pub fn expected_alarms(self) -> &'static [&'static str] {
        &[]
    }

    /// It happens.
    pub fn strike(self, cluster: &mut Cluster, target: usize) {
        let process = &mut cluster.nodes[target].process;
        match self {
            Fault::KillLeader | Fault::KillReplica => process.kill(),
            Fault::RestartLeader => {
                process.kill();
                process.start();
            }
            Fault::HandOver => assert!(cluster.nodes[target].client().call("DATAKEEPER HANDOVER").is_ok()),
            Fault::EndLeader | Fault::RestartAll => process.ask_to_end(),
            Fault::FreezeLeader(_) => process.freeze(),
            Fault::KillZooKeeper(_) => cluster.zookeeper.kill(),
            Fault::FreezeZooKeeper(_) => cluster.zookeeper.freeze(),
        }
    }

    /// It ends; everything that was taken away is there again.
    pub fn mend(self, cluster: &mut Cluster, target: usize, struck: Instant) {
        let process = &mut cluster.nodes[target].process;
        match self {
            Fault::KillLeader | Fault::KillReplica => process.start(),
            Fault::RestartLeader | Fault::HandOver => {}
            Fault::EndLeader | Fault::RestartAll => {
                let status = process.wait();
                assert!(status.success(), "a node that was asked to end: {status}");
                process.start();
            }
            Fault::FreezeLeader(seconds) => {
                last(struck, seconds);
                process.thaw();
            }
            Fault::KillZooKeeper(seconds) => {
                last(struck, seconds);
                cluster.zookeeper.restart();
            }
            Fault::FreezeZooKeeper(seconds) => {
                last(struck, seconds);
                cluster.zookeeper.thaw();
            }
        }
    }
}

/// The fault lasts so long: this is no wait for something.
fn last(struck: Instant, seconds: u64) {
    while let Some(left) = Duration::from_secs(seconds).checked_sub(struck.elapsed()) {
        std::thread::park_timeout(left);
    }
}
