//! Floor 3: the log and how it travels.
//!
//! [`log`] holds the entries, [`wire`] the frames between nodes, [`resync`] decides how a follower is brought up to date,
//! [`in_sync`] what the in-sync set makes of acknowledgements, [`pulse`] the heartbeats and leases, [`snapshot`] the receiving
//! side of a full resync. All pure: positions, bytes and instants come in, decisions go out.

pub mod in_sync;
pub mod log;
pub mod pulse;
pub mod resync;
pub mod snapshot;
pub mod wire;
