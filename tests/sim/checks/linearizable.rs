//! What clients saw at the leader is linearizable, key by key (`tests/support/linearizable.rs`).

use crate::clients::{COUNTER, EXPIRING, LIST, PAIR, REGISTERS, WATCHED};
use crate::linearizable::{Op, appended, counter, register};

/// Judges the whole history. `list`: the list's value in the end. `flushed`: keys may have been emptied at any time.
pub fn check(ops: &[Op], list: &[u8], flushed: bool) -> Result<(), String> {
    for key in REGISTERS.iter().chain(&PAIR).chain([&EXPIRING]) {
        register(key, ops)?;
    }
    if !flushed {
        counter(COUNTER, ops)?;
        counter(WATCHED, ops)?;
        appended(LIST, ops, list)?;
    }
    Ok(())
}
