//! What several test files share. Each uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod cluster;
pub mod counting;
pub mod faults;
pub mod linearizable;
pub mod network;
pub mod oracle;
pub mod tools;
pub mod tripwire;
pub mod valve;
pub mod world;
pub mod writers;
pub mod zookeeper;

use std::time::{Duration, Instant};

/// Asks again and again until the answer is yes.
///
/// # Panics
/// If it is not within `patience`; with the answer's last words on it.
pub fn eventually<E: std::fmt::Display>(patience: Duration, what: &str, mut is_so: impl FnMut() -> Result<(), E>) {
    let deadline = Instant::now() + patience;
    while let Err(why) = is_so() {
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}: {why}");
        // Nothing tells us when another process has got there: this is a poll, not a guess.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
