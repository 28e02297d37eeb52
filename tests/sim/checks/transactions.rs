//! Invariant 17: after each acknowledged entry, the keys that only transactions write, and write together, are equal.

use crate::clients::PAIR;
use crate::history::History;

/// After the last entry.
pub fn check(history: &History) -> Result<(), String> {
    let [one, two] = PAIR.map(|key| history.at(key.as_bytes(), history.end()));
    if one == two {
        return Ok(());
    }
    Err(format!("transactions: after entry {} there is half of one: {one:?} and {two:?}", history.end()))
}
