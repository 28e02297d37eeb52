//! What happens to a cluster, and how it ends.

use std::time::{Duration, Instant};

use crate::acts;
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
    /// SIGSTOP of the leader, whose machine answers nobody any more, not even with the kernel's acknowledgements.
    PowerOffLeader(u64),
    /// kill -9 of ZooKeeper, which comes back with what it knew.
    KillZooKeeper(u64),
    /// SIGSTOP of ZooKeeper.
    FreezeZooKeeper(u64),
    /// SIGSTOP of the leader and of a server of ZooKeeper that follows, with which a replica has its session: a zone that is gone.
    LoseZone(u64),
    /// ZooKeeper is set back to a backup from before a rolling restart of the nodes; an operator adopts the leader's copy.
    RestoreZooKeeper,
    /// SIGTERM of one node after the other by somebody who looks at nothing, with lines so narrow that each fill takes seconds.
    BlindRestarts,
    /// A node whose wall clock is so far ahead (or behind) comes to lead.
    WrongClock(i64),
    /// The leader's lock is held for so long by one transaction.
    Hold(u64),
    /// kill -9 of the leader, with an entry in the directory of nodes that nobody can read.
    Rubbish,
    /// kill -9 of the leader, while strangers send frames to every replication port.
    Strangers,
    /// kill -9 of the leader, which is started again at another host, with other addresses.
    MoveLeader,
    /// kill -9 of the leader in a cluster of two versions of the program.
    KillLeaderOfTwoVersions,
    /// Silence on the way between some of them. Clients reach all nodes.
    Cut(Cut, u64),
}

/// Between whom everything that is sent is lost, without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The leader and the replicas.
    LeaderFromReplicas,
    /// The leader and ZooKeeper.
    LeaderFromZooKeeper,
    /// The leader and all others.
    LeaderFromAll,
    /// Only what the leader sends to the replicas: it is heard by none, and hears them.
    MuteLeader,
    /// Only what the replicas send to the leader.
    DeafLeader,
    /// The leader and one replica.
    ReplicaFromLeader,
}

impl Cut {
    /// Who is not heard by whom, as the numbers of hosts.
    fn ways(self, leader: usize) -> Vec<(usize, usize)> {
        let replicas = [(leader + 1) % 3, (leader + 2) % 3];
        let zookeeper = 3;
        let (others, leader_speaks, others_speak) = match self {
            Cut::LeaderFromReplicas => (replicas.to_vec(), true, true),
            Cut::LeaderFromZooKeeper => (vec![zookeeper], true, true),
            Cut::LeaderFromAll => (vec![replicas[0], replicas[1], zookeeper], true, true),
            Cut::MuteLeader => (replicas.to_vec(), true, false),
            Cut::DeafLeader => (replicas.to_vec(), false, true),
            Cut::ReplicaFromLeader => (vec![replicas[0]], true, true),
        };
        let both = others
            .iter()
            .flat_map(|other| [leader_speaks.then_some((leader, *other)), others_speak.then_some((*other, leader))]);
        both.flatten().collect()
    }
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
        (Fault::FreezeLeader(2), 100),
        (Fault::PowerOffLeader(2), 100),
        (Fault::Cut(Cut::DeafLeader, 2), 100),
        (Fault::FreezeLeader(5), 3),
        (Fault::FreezeLeader(20), 1),
        (Fault::KillZooKeeper(10), 2),
        (Fault::FreezeZooKeeper(30), 1),
        (Fault::LoseZone(8), 5),
        (Fault::RestoreZooKeeper, 2),
        (Fault::BlindRestarts, 3),
        (Fault::WrongClock(3_600), 2),
        (Fault::WrongClock(-3_600), 2),
        (Fault::Hold(3_000), 5),
        (Fault::Rubbish, 5),
        (Fault::Strangers, 10),
        (Fault::MoveLeader, 3),
        (Fault::KillLeaderOfTwoVersions, 10),
        (Fault::Cut(Cut::LeaderFromReplicas, 8), 3),
        (Fault::Cut(Cut::LeaderFromZooKeeper, 8), 3),
        (Fault::Cut(Cut::LeaderFromAll, 8), 3),
        (Fault::Cut(Cut::MuteLeader, 8), 3),
        (Fault::Cut(Cut::DeafLeader, 8), 3),
        (Fault::Cut(Cut::ReplicaFromLeader, 8), 3),
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
            Fault::FreezeLeader(2) => "freeze-leader",
            Fault::FreezeLeader(20) => "freeze-leader-20s",
            Fault::FreezeLeader(_) => "freeze-leader-5s",
            Fault::PowerOffLeader(_) => "power-off-leader",
            Fault::KillZooKeeper(_) => "kill-zookeeper",
            Fault::FreezeZooKeeper(_) => "freeze-zookeeper-30s",
            Fault::LoseZone(_) => "lose-zone",
            Fault::RestoreZooKeeper => "restore-zookeeper",
            Fault::BlindRestarts => "blind-restarts",
            Fault::WrongClock(1..) => "clock-ahead",
            Fault::WrongClock(_) => "clock-behind",
            Fault::Hold(_) => "hold-3s",
            Fault::Rubbish => "rubbish",
            Fault::Strangers => "strangers",
            Fault::MoveLeader => "move-leader",
            Fault::KillLeaderOfTwoVersions => "two-versions",
            Fault::Cut(Cut::LeaderFromReplicas, _) => "cut-leader-from-replicas",
            Fault::Cut(Cut::LeaderFromZooKeeper, _) => "cut-leader-from-zookeeper",
            Fault::Cut(Cut::LeaderFromAll, _) => "cut-leader-from-all",
            Fault::Cut(Cut::MuteLeader, _) => "mute-leader",
            Fault::Cut(Cut::DeafLeader, 2) => "deaf-leader",
            Fault::Cut(Cut::DeafLeader, _) => "deaf-leader-8s",
            Fault::Cut(Cut::ReplicaFromLeader, _) => "cut-replica-from-leader",
        }
    }

    /// The cluster that it happens to; none, with a message, where that is not possible.
    pub fn cluster(self, more: &[&str]) -> Option<Cluster> {
        match self {
            Fault::Cut(..) | Fault::PowerOffLeader(_) | Fault::MoveLeader => Cluster::start_apart(more),
            Fault::LoseZone(_) => Cluster::start_with_ensemble(more),
            Fault::BlindRestarts => Cluster::start_narrow(acts::NARROW, more),
            Fault::WrongClock(seconds) => acts::cluster_with_a_wrong_clock(seconds, more),
            Fault::KillLeaderOfTwoVersions => acts::cluster_of_two_versions(more),
            _ => Cluster::start(more),
        }
    }

    /// What clients do meanwhile.
    pub fn load(self) -> Load {
        match self {
            Fault::FreezeLeader(_)
            | Fault::PowerOffLeader(_)
            | Fault::RestartAll
            | Fault::KillZooKeeper(_)
            | Fault::FreezeZooKeeper(_)
            | Fault::LoseZone(_)
            | Fault::RestoreZooKeeper
            | Fault::BlindRestarts
            | Fault::WrongClock(_)
            | Fault::Hold(_)
            | Fault::MoveLeader
            | Fault::Cut(..) => Load::STEADY,
            Fault::KillLeader
            | Fault::KillReplica
            | Fault::RestartLeader
            | Fault::HandOver
            | Fault::EndLeader
            | Fault::Rubbish
            | Fault::Strangers
            | Fault::KillLeaderOfTwoVersions => Load::HEAVY,
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
            Fault::KillReplica
            | Fault::KillZooKeeper(_)
            | Fault::FreezeZooKeeper(_)
            | Fault::Hold(_)
            | Fault::Cut(Cut::LeaderFromZooKeeper | Cut::ReplicaFromLeader, _) => Some(false),
            Fault::KillLeader
            | Fault::RestartLeader
            | Fault::HandOver
            | Fault::EndLeader
            | Fault::FreezeLeader(_)
            | Fault::PowerOffLeader(_)
            | Fault::LoseZone(_)
            | Fault::WrongClock(_)
            | Fault::Rubbish
            | Fault::Strangers
            | Fault::MoveLeader
            | Fault::KillLeaderOfTwoVersions
            | Fault::Cut(..) => Some(true),
            Fault::RestartAll | Fault::RestoreZooKeeper | Fault::BlindRestarts => None,
        }
    }

    /// Errors that nodes may log.
    pub fn expected_alarms(self) -> &'static [&'static str] {
        match self {
            Fault::RestoreZooKeeper => &["halted: ", "adopted by an operator"],
            Fault::Rubbish => &["/nodes/n9 is not readable"],
            _ => &[],
        }
    }

    /// Brings about what it needs, before anything else happens.
    pub fn prepare(self, cluster: &mut Cluster) {
        match self {
            Fault::LoseZone(_) => _ = cluster.take_server_of_a_replica(),
            Fault::RestoreZooKeeper => acts::restart_after_a_backup(cluster),
            Fault::BlindRestarts => acts::fill(cluster),
            Fault::WrongClock(_) => acts::hand_over(cluster, |node| node != acts::WRONG),
            Fault::Hold(_) => acts::set_bits(cluster),
            Fault::Rubbish => acts::put_rubbish(cluster),
            _ => {}
        }
    }

    /// It happens; since when, if that took its time.
    pub fn strike(self, cluster: &mut Cluster, target: usize) -> Instant {
        let struck = Instant::now();
        match self {
            Fault::RestoreZooKeeper => acts::restore_and_adopt(cluster, target),
            Fault::BlindRestarts => acts::restart_blindly(cluster),
            Fault::WrongClock(_) => acts::let_the_wrong_clock_lead(cluster),
            Fault::Hold(ms) => return acts::hold(cluster, target, ms),
            Fault::Strangers => acts::send_strangers_frames(cluster),
            _ => {}
        }
        let process = &mut cluster.nodes[target].process;
        match self {
            Fault::KillLeader
            | Fault::KillReplica
            | Fault::Rubbish
            | Fault::Strangers
            | Fault::MoveLeader
            | Fault::KillLeaderOfTwoVersions => process.kill(),
            Fault::RestoreZooKeeper | Fault::BlindRestarts | Fault::WrongClock(_) | Fault::Hold(_) => {}
            Fault::RestartLeader => {
                process.kill();
                process.start();
            }
            Fault::HandOver => assert!(cluster.nodes[target].client().call("DATAKEEPER HANDOVER").is_ok()),
            Fault::EndLeader | Fault::RestartAll => process.ask_to_end(),
            Fault::FreezeLeader(_) => process.freeze(),
            Fault::PowerOffLeader(_) => {
                cluster.network.as_ref().expect("nodes apart").cut(&Cut::LeaderFromAll.ways(target));
                cluster.nodes[target].process.freeze();
            }
            Fault::KillZooKeeper(_) => cluster.zookeeper.kill(),
            Fault::FreezeZooKeeper(_) => cluster.zookeeper.freeze(),
            Fault::LoseZone(_) => {
                process.freeze();
                cluster.zookeeper.freeze();
            }
            Fault::Cut(cut, _) => cluster.network.as_ref().expect("nodes apart").cut(&cut.ways(target)),
        }
        struck
    }

    /// It ends; everything that was taken away is there again.
    pub fn mend(self, cluster: &mut Cluster, target: usize, struck: Instant) {
        let process = &mut cluster.nodes[target].process;
        match self {
            Fault::KillLeader
            | Fault::KillReplica
            | Fault::Rubbish
            | Fault::Strangers
            | Fault::KillLeaderOfTwoVersions => process.start(),
            Fault::MoveLeader => cluster.start_elsewhere(target),
            Fault::WrongClock(_) => acts::assert_keys_live_as_said(cluster),
            Fault::RestartLeader
            | Fault::HandOver
            | Fault::RestoreZooKeeper
            | Fault::BlindRestarts
            | Fault::Hold(_) => {}
            Fault::EndLeader | Fault::RestartAll => {
                let status = process.wait();
                assert!(status.success(), "a node that was asked to end: {status}");
                process.start();
            }
            Fault::FreezeLeader(seconds) => {
                last(struck, seconds);
                process.thaw();
            }
            Fault::PowerOffLeader(seconds) => {
                last(struck, seconds);
                process.thaw();
                cluster.network.as_ref().expect("nodes apart").mend(&Cut::LeaderFromAll.ways(target));
            }
            Fault::KillZooKeeper(seconds) => {
                last(struck, seconds);
                cluster.zookeeper.restart();
            }
            Fault::FreezeZooKeeper(seconds) => {
                last(struck, seconds);
                cluster.zookeeper.thaw();
            }
            Fault::LoseZone(seconds) => {
                last(struck, seconds);
                cluster.zookeeper.thaw();
                process.thaw();
            }
            Fault::Cut(cut, seconds) => {
                last(struck, seconds);
                cluster.network.as_ref().expect("nodes apart").mend(&cut.ways(target));
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
