//! Floor 1: the Redis protocol, requests in and replies out. Knows bytes, not meaning.
//!
//! ```text
//!   client bytes ──► Parser ──► Batch ──► Args ──► (the floors above) ──► Reply ──► Output ──► client bytes
//!                    request.rs  batch.rs          decide and execute      reply.rs
//! ```
//!
//! Both ways are hand-written because they are the hot path: a general codec costs an allocation per command and starts an
//! unfinished frame over at each read. *Not here*: decoding replies (the client side uses redis-protocol; `scan.rs` finds where one ends),
//! command names and arities, buffers that belong to a connection.

pub mod batch;
mod inline;
pub mod number;
pub mod reply;
pub mod request;
pub mod scan;

pub use batch::{Args, Batch};
pub use reply::{Mark, Output, Protocol, Reply};
pub use request::{Need, Parser, Progress, ProtocolError};
pub use scan::ReplyScan;
