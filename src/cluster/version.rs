//! Which builds may stand in one cluster.
//!
//! Every build has a number, [`NEWEST`]. Builds of one number and the next stand in one cluster, in any role, in either direction, until an
//! operator raises `cluster_version` in `/state`: only then anything is used that the older of the two would not understand.
//!
//! - *Gated*: mutations, modes of a welcome, kinds of frames. A leader uses a new one only if `cluster_version` says that everybody knows it, or the
//!   other side of the link has named it among its features.
//! - *Open*: why a state was written, wishes, reasons of a refusal, policies for a total loss. Each has a word for what is not known, and a safe meaning of it.
//! - Fields of JSON that are not known are ignored, and kept where a document is rewritten. Binary headers may grow at their end.
//!
//! A build with the feature `next-version` is one of the next number that uses something new of each kind; the tests run it beside this one.

//!
//! What each number brought:
//!
//! | | |
//! |---|---|
//! | 1 | the promise itself |
//! | 2 | mutations by which values go from key to key ([`crate::store::HAND_SINCE`]) |

/// The newest cluster version that this build knows.
pub const NEWEST: u32 = if cfg!(feature = "next-version") { 3 } else { 2 };

/// What a document says that was written before there were versions.
pub(super) fn first() -> u32 {
    1
}

/// What a node is told whose build is too old for its cluster.
#[must_use]
pub fn too_old(node: &str, cluster: u32, node_can: u32) -> String {
    format!(
        "the cluster uses version {cluster}, and {node} can do {node_can} at most: install a later version of the program there"
    )
}
