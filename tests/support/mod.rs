//! What several test files share. Each uses a part of it.
#![allow(dead_code)]

pub mod tripwire;
pub mod world;
pub mod zookeeper;
