//! Floor 5: sockets, clocks, tasks; carries events in and performs effects.
//!
//! ```text
//!   thread client-0        acceptor · clients · links · timer · orders · the coordinator's events
//!   thread client-1 …      clients
//!   thread pulse           the replication listener · pulses out · echoes back; never takes the Keeper's lock
//!   thread admin           HTTP for operators
//!   coordinator            threads of its own
//! ```
//! [`server`] builds a node of these and ends it; [`node`] is what its threads share. Nothing here decides: a task turns what
//! its socket or timer does into one call of the Keeper, and performs the effects that come back.

pub mod admin;
pub mod clock;
pub mod coordination;
pub mod node;
pub mod server;

mod buffers;
mod client_conn;
mod host;
mod joined;
mod line;
mod links;
mod pile;
mod post;
mod process;
mod proxy;
mod pulse;
mod runtime;
mod timer;
mod unsent;

pub use node::{SetLogLevel, WriteConfig};
pub use proxy::CONNECTIONS_MAX as UPSTREAMS_MAX;
pub use runtime::raise_open_files;
pub use server::{Coordination, Options, Server, StartError, bind};

#[cfg(test)]
mod tests;
