//! What a node says about its cluster when an operator asks: the JSON of `DATAKEEPER STATUS`.
//!
//! One node's view, from its memory: it is answered with the coordination service down too, and two nodes may disagree for a
//! moment. What the node does not know is absent, never guessed: a replica knows the log positions of nobody but itself and what
//! its leader told it. Fields only get added, and a reader ignores those that it does not know, so that `status` of one release
//! reads a node of the next.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::MinInSync;
use crate::base::ids::{DatasetId, Epoch, NodeId, Offset};

/// One node's view of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// The node that answers.
    pub node: NodeId,
    /// Its role, as [`super::role::Role::as_str`] spells it.
    pub role: String,
    /// Identity of the data; none before the first.
    #[serde(default)]
    pub dataset: Option<DatasetId>,
    /// The latest epoch that this node saw confirmed; 0: none yet.
    pub epoch: Epoch,
    /// The leader of `epoch`; none if none is known, or if it is known to be gone.
    #[serde(default)]
    pub leader: Option<NodeId>,
    /// Every registered node, in order of name.
    pub nodes: Vec<NodeStatus>,
    /// Version of which every node may use everything; 0: not known yet.
    #[serde(default)]
    pub cluster_version: u32,
    /// Fewest members that may accept writes: the setting that counts.
    pub min_in_sync: MinInSync,
    /// The same as a number, as `auto` comes out now.
    pub min_in_sync_effective: u32,
    /// Largest in-sync set that the cluster has had.
    pub peak_in_sync: u32,
    /// How often the cluster started over empty.
    #[serde(default)]
    pub resets: u64,
    /// This node's contact with the coordination service.
    pub coordinator: CoordinatorStatus,
    /// By how much the leader's wall clock is ahead of the clock by which keys expire, ms; 0 if that is next to nothing.
    #[serde(default)]
    pub wall_clock_ahead_ms: i64,
    /// What an operator should look at, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Contact with the coordination service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    /// Whether there is a session with contact now.
    pub connected: bool,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub id: NodeId,
    /// Its role as far as it is known here.
    #[serde(default)]
    pub role: Option<String>,
    /// `host:port` for clients.
    pub client_addr: String,
    /// `host:port` for replication links.
    pub repl_addr: String,
    /// Version of its program, and the newest cluster version that this knows.
    #[serde(default)]
    pub version: Option<(String, u32)>,
    /// Whether `/state` names its copy in the in-sync set.
    pub in_sync: bool,
    /// Whether the directory of live nodes names it.
    pub live: bool,
    /// Last entry in its log.
    #[serde(default)]
    pub end: Option<Offset>,
    /// Last entry in its store.
    #[serde(default)]
    pub applied: Option<Offset>,
    /// Leader: confirmed by the whole in-sync set. Others: the last entry that they confirmed in this epoch.
    #[serde(default)]
    pub acked: Option<Offset>,
    /// Entries that the leader has and the node has not confirmed.
    #[serde(default)]
    pub lag_entries: Option<u64>,
    /// Age of the oldest of those entries, ms.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// How far its full resync is; none if none is under way.
    #[serde(default)]
    pub sync_progress: Option<SyncProgress>,
}

/// How far a full resync is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProgress {
    /// Bytes of the snapshot that were sent or received.
    pub bytes: u64,
    /// Keys in them.
    pub keys: u64,
    /// Share of the key space that they cover, 0..=100.
    pub percent: u8,
    /// Bytes per second since it began.
    #[serde(default)]
    pub bytes_per_s: u64,
}

impl fmt::Display for SyncProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SyncProgress { bytes, keys, percent, bytes_per_s } = self;
        write!(
            f,
            "{percent} %, {keys} keys, {} MiB, {:.1} MiB/s",
            bytes >> 20,
            *bytes_per_s as f64 / f64::from(1 << 20)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_ignores_fields_of_a_later_release_and_fills_in_absent_ones() {
        let text = r#"{"cluster":"c","node":"n1","role":"joining","epoch":0,"nodes":[
            {"id":"n1","client_addr":"h:1","repl_addr":"h:2","in_sync":false,"live":true,"zone":"a"}],
            "min_in_sync":"auto","min_in_sync_effective":1,"peak_in_sync":0,"coordinator":{"connected":false},"later":1}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.leader, status.dataset, status.resets), (None, None, 0));
        assert_eq!((status.nodes[0].end, status.nodes[0].sync_progress), (None, None));
    }
}
