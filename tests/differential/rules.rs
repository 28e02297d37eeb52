//! What may differ, and why: each rule has a name, and docs/COMPATIBILITY.md says the same to users.
//!
//! A rule sees a request whose replies differ, and says whether it explains that. What no rule explains is a bug.

use crate::requests::{FAR_SECONDS, Request};
use crate::wire::{array, bulk, integer, is_error};

/// One difference that is meant.
pub struct Rule {
    /// As in docs/COMPATIBILITY.md.
    pub name: &'static str,
    /// Whether it explains these replies: ours, and Redis's.
    pub explains: fn(&Request, &[u8], &[u8]) -> bool,
}

pub const RULES: &[Rule] = &[
    Rule { name: "clocks", explains: clocks },
    Rule { name: "order of keys", explains: order_of_keys },
    Rule { name: "cursors", explains: cursors },
    Rule { name: "chosen by chance", explains: chosen_by_chance },
    Rule { name: "encodings", explains: encodings },
    Rule { name: "idle times", explains: idle_times },
    Rule { name: "reference counts", explains: reference_counts },
    Rule { name: "dumps", explains: dumps },
    Rule { name: "bytes in errors", explains: bytes_in_errors },
];

/// Commands of ours that are not compared, as in docs/COMPATIBILITY.md.
pub const NOT_COMPARED: &[&str] =
    &["delifeq", "memory|usage", "cluster|countkeysinslot", "cluster|getkeysinslot", "lolwut", "move", "swapdb"];

/// Two processes, two clocks: what is left of a time, or when it ends if it was relative, differs by what lies between two calls.
fn clocks(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    const SLACK_S: i64 = 10;
    let (Some(ours), Some(theirs)) = (integer(ours), integer(theirs)) else { return false };
    let (relative, unit) = match &request.word(0)[..] {
        b"ttl" => (true, 1),
        b"pttl" => (true, 1_000),
        b"expiretime" => (ours < FAR_SECONDS as i64, 1),
        b"pexpiretime" => (ours < FAR_SECONDS as i64 * 1_000, 1_000),
        _ => return false,
    };
    relative && ours > 0 && theirs > 0 && (ours - theirs).abs() <= SLACK_S * unit
}

/// Keys come in the order of their hashes.
fn order_of_keys(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    let sorted = |reply: &'_ [u8]| {
        let mut keys: Vec<Vec<u8>> = array(reply)?.into_iter().map(<[u8]>::to_vec).collect();
        keys.sort();
        Some(keys)
    };
    let same = |ours, theirs| sorted(ours).is_some_and(|ours| Some(ours) == sorted(theirs));
    match &request.word(0)[..] {
        b"keys" => same(ours, theirs),
        // All of them in one reply.
        b"scan" => match (array(ours).as_deref(), array(theirs).as_deref()) {
            (Some([our_cursor, ours]), Some([their_cursor, theirs])) => {
                our_cursor == their_cursor && same(ours, theirs)
            }
            _ => false,
        },
        _ => false,
    }
}

/// A cursor means nothing to anybody but the server that gave it; how many keys come with it is up to the server.
fn cursors(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    let is_page = |reply| {
        array(reply).is_some_and(|parts| {
            let cursor = parts.first().copied().and_then(bulk);
            parts.len() == 2
                && cursor.is_some_and(|cursor| cursor.iter().all(u8::is_ascii_digit))
                && array(parts[1]).is_some()
        })
    };
    let whole = request.words.get(1).is_some_and(|cursor| cursor == b"0")
        && request.words.get(3).is_some_and(|count| count == b"1000000");
    &request.word(0)[..] == b"scan" && !whole && is_page(ours) && is_page(theirs)
}

fn chosen_by_chance(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    &request.word(0)[..] == b"randomkey" && bulk(ours).is_some() && bulk(theirs).is_some()
}

/// The encoding follows from the value alone; in Redis it depends on how the value came about, too.
fn encodings(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    let known = |reply| bulk(reply).is_some_and(|name| [&b"int"[..], b"embstr", b"raw"].contains(&name));
    request.word(0) == b"object" && request.word(1) == b"encoding" && known(ours) && known(theirs)
}

/// Seconds of two clocks; and what RESTORE gave a key may be beyond both.
fn idle_times(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    request.word(0) == b"object"
        && request.word(1) == b"idletime"
        && integer(ours).is_some()
        && integer(theirs).is_some()
}

/// Redis keeps small integers once for all keys, and says so by a count of 2^31 - 1; what a transaction sets is held by its request as well
/// until it ends.
fn reference_counts(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    request.word(0) == b"object"
        && request.word(1) == b"refcount"
        && integer(ours) == Some(1)
        && integer(theirs).is_some_and(|count| count > 1)
}

/// An error is text: what a client sent and is no UTF-8 is quoted with replacement characters.
fn bytes_in_errors(_: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    is_error(ours) && ours == String::from_utf8_lossy(theirs).as_bytes()
}

/// Both payloads stand for the same if they differ in version and checksum only; where Redis has packed the value, a later RESTORE at both
/// sides shows it.
fn dumps(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    const FOOTER_BYTES: usize = 10;
    const PACKED: u8 = 0xc3;
    let (Some(ours), Some(theirs)) = (bulk(ours), bulk(theirs)) else { return false };
    let body = |payload: &[u8]| payload[..payload.len() - FOOTER_BYTES].to_vec();
    &request.word(0)[..] == b"dump" && (theirs[1] == PACKED || body(ours) == body(theirs))
}
