//! Floor 3: the cluster's vocabulary and the pure rules for changing it.
//!
//! [`state`] is the content of `/state` and its only transitions, [`registration`] that of `/nodes/<id>`, [`config`] that of
//! `/config`, [`coordinator`] what a node asks of the coordination service and hears from it, [`role`] the states of a node,
//! [`status`] what a node tells an operator, [`version`] which builds may stand in one cluster.

pub mod config;
pub mod coordinator;
pub mod registration;
pub mod role;
pub mod state;
pub mod status;
pub mod version;
