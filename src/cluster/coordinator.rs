//! What a node asks of the coordination service, and what it hears from it.
//!
//! The words are the cluster's, not ZooKeeper's: a shell module translates. Requests are carried out in order, each at least
//! until its answer is *known*: a compare-and-set is never given up, it is resolved (COORDINATION a.3), however long that
//! takes, through disconnections and new sessions. Watches are the service's own business: whenever `/state`, the directory or
//! `/config` changes, the node is told the new content. A hint is never a proof: only the version in a compare-and-set decides.

use super::config::ClusterConfig;
use super::registration::{NodeRead, Registration};
use super::state::ClusterState;
use crate::base::ids::{ChangeId, CopyId, NodeId};

/// A request; its answer, if it has one, is the [`CoordEvent`] named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordRequest {
    /// Write `/nodes/<id>` and make `/nodes/<id>/live` name the copy → [`CoordEvent::Registered`], perhaps after
    /// [`CoordEvent::NameAwaited`] or [`CoordEvent::NameTaken`]. The latest one is repeated by the service in every new session, unasked.
    Register(Registration),
    /// Read `/state` and the directory after a `sync`, state first → [`CoordEvent::State`] then [`CoordEvent::Nodes`], both `confirmed`.
    Confirm,
    /// Create `/state` if absent (and `/config`, if absent) → [`CoordEvent::Resolved`].
    Bootstrap {
        /// The first state.
        want: ClusterState,
        /// The first cluster-wide settings.
        config: ClusterConfig,
    },
    /// Compare-and-set of `/state` → [`CoordEvent::Resolved`].
    Cas {
        /// Version that the decision was made on.
        expect: i32,
        /// State to write.
        want: ClusterState,
        /// Directory entries that must still have these versions, in the same transaction (total loss only).
        nodes: Vec<(NodeId, i32)>,
    },
    /// Compare-and-set of `/config` by its content, for an operator → [`CoordEvent::Resolved`]. Won if `to` is there.
    SetConfig {
        /// Token of this request.
        id: ChangeId,
        /// The settings that the change was made to.
        from: ClusterConfig,
        /// The settings to write.
        to: ClusterConfig,
    },
}

/// How a compare-and-set (or a creation) ended. There is no third outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// The wanted state was written; this is its version.
    Won(i32),
    /// It was not and never will be.
    Lost,
}

/// `/state` as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    /// Content and version; none if the node is absent.
    pub state: Option<(ClusterState, i32)>,
    /// Identity of the znode itself: changes if it was deleted and created again. 0 if absent.
    pub incarnation: i64,
    /// Read after a `sync` that was issued after the latest [`CoordRequest::Confirm`].
    pub confirmed: bool,
}

/// What the service tells a node.
#[allow(clippy::large_enum_variant)] // a handful per fault: boxing would buy nothing
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordEvent {
    /// A session is up; reads follow unasked.
    SessionUp,
    /// Contact is lost; requests wait. Nothing follows from this for who leads.
    SessionDown {
        /// For the log.
        reason: String,
    },
    /// The service refuses what this node needs of it; an operator has to mend that. Tried again meanwhile.
    Hindered {
        /// What it refuses, and what to do; none once it does not any more.
        reason: Option<String>,
    },
    /// The registration with this copy and this `empty` flag is confirmed.
    Registered {
        /// Its copy.
        copy: CopyId,
        /// Its `empty` flag.
        empty: bool,
    },
    /// Another process may be alive under this node's name: the registration is written when the session of that one has ended.
    NameAwaited {
        /// Who holds the name, for the message.
        holder: String,
    },
    /// Another process has registered under this node's name after this one had. A confirmed [`CoordEvent::State`] and the directory
    /// were sent before it. When the session of that one has ended, this one's registration is written again.
    NameTaken {
        /// Who took the name, for the message.
        holder: String,
    },
    /// `/state` was read or has changed.
    State(StateRead),
    /// `/state` or `/config` is unreadable; nothing must be built on it.
    Unreadable {
        /// Which node and why.
        reason: String,
    },
    /// The directory was read or has changed.
    Nodes {
        /// All registrations that can be read, in order of node id.
        nodes: Vec<NodeRead>,
        /// What else stands there, and why it is not readable. Addresses count all the same; that a copy is gone can be proven by a
        /// directory that is read whole, and by no other.
        unreadable: Vec<String>,
        /// As in [`StateRead::confirmed`].
        confirmed: bool,
    },
    /// `/config` was read or has changed.
    Config(ClusterConfig),
    /// The compare-and-set or creation with this change id is decided. A [`CoordEvent::State`] with what is there now has
    /// been sent before it if it was lost.
    Resolved {
        /// Which one.
        id: ChangeId,
        /// How it ended.
        outcome: CasOutcome,
    },
}
