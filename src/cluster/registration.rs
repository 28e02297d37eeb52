//! The content of `/nodes/<id>`: where a node is reached and which copy it holds.

use serde::{Deserialize, Serialize};

use crate::base::ids::{CopyId, DatasetId, NodeId};

/// One node's entry in the directory; moves only forward, by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub id: NodeId,
    /// The copy it holds. Confirmed here before the first hello that carries it.
    pub copy: CopyId,
    /// `host:port` for clients and redirects, exactly as configured.
    pub client_addr: String,
    /// `host:port` for replication links.
    pub repl_addr: String,
    /// `host:port` at which it is a Sentinel and nothing else; none if there is no such port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_addr: Option<String>,
    /// Order among nodes when nothing else decides; the lower first.
    #[serde(default)]
    pub rank: u32,
    /// Dataset that the copy belongs to; none before the first.
    pub dataset: Option<DatasetId>,
    /// Whether the copy holds no data. Turns false before the first byte of data is taken in.
    pub empty: bool,
    /// Version of the program.
    pub version: String,
    /// Start of the process, Unix ms.
    pub started_ms: u64,
}

/// A directory entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRead {
    /// What the node wrote.
    pub registration: Registration,
    /// Version of the entry, for checks in a later transaction.
    pub version: i32,
    /// The copy that the node's live entry names; none if the node is not live.
    pub live: Option<CopyId>,
}
