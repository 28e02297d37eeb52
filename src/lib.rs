//! DataKeeper: an in-memory, fault-tolerant key-value store that speaks the Redis protocol.
//!
//! The house has floors; each imports downwards only (`tests/tidy.rs` enforces it, `docs/ARCHITECTURE.md` draws it).
//! Floors 0–4 are pure: no I/O, no clock, no randomness, no await.

pub mod app;
pub mod base;
pub mod cluster;
pub mod command;
pub mod keeper;
pub mod replication;
pub mod resp;
pub mod shell;
pub mod store;
