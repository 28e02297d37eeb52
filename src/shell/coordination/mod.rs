//! The coordination service as a node sees it: requests go in, events come out in order.
//!
//! ```text
//!                 submit(CoordRequest)                       one ordered channel of CoordEvent
//!   shell ───────────────────────────────► Coordinator ─────────────────────────────────────────► shell
//!                                           │
//!                       zookeeper: a thread of its own, sessions rebuilt, compare-and-sets resolved
//!                       in_process: the pure model behind a lock, for `datakeeper local`
//!                       (simulator: drives the model itself, and delays or loses what it likes)
//! ```
//! The words of requests and events are `cluster::coordinator`'s; what stands in the directory and who may hold a node's
//! name is [`claim`], shared by both implementations so that they cannot differ.
//!
//! Not here: any decision about leadership. A coordinator carries out, resolves and reports.

use std::fmt;

use tokio::sync::mpsc::UnboundedSender;

use crate::cluster::coordinator::{CoordEvent, CoordRequest};

pub mod claim;
pub mod in_process;
pub mod model;
pub mod queue;
pub mod zookeeper;

/// Where a coordinator's events go. Not bounded: a node causes a handful of events per fault, and none in steady state.
/// Events sent after the receiver is gone vanish.
pub type Events = UnboundedSender<CoordEvent>;

/// One node's access to the coordination service. Dropping it is as good as the death of the process: the session is closed
/// where that costs no time, and expires otherwise.
pub trait Coordinator: Send + 'static {
    /// Queues a request; never blocks. Requests are carried out in the order of [`queue`], each until its answer is known.
    fn submit(&self, request: CoordRequest);

    /// Closes the session, so that the live entry vanishes at once, and returns when it has, after 1 s at the latest. No event
    /// follows, and later requests are dropped. What was unresolved stays so: call it last. Blocks the calling thread.
    fn stop(&self);
}

/// What can go wrong between a node and the service; by who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordError {
    /// A setting is wrong: the operator acts.
    Config(String),
    /// The operating system refused a thread or a runtime: the process cannot start.
    Thread(String),
    /// No definite answer, the request may or may not have happened: the coordinator itself tries again in the same session.
    Unknown(String),
    /// The service refuses, and will until an operator has changed something: tried again, and told.
    Refused(String),
    /// The session is over: the coordinator itself builds a new one.
    SessionOver(String),
}

impl fmt::Display for CoordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordError::Config(what) => write!(f, "coordination settings: {what}"),
            CoordError::Thread(what) => write!(f, "coordination thread: {what}"),
            CoordError::Unknown(what) | CoordError::Refused(what) | CoordError::SessionOver(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for CoordError {}
