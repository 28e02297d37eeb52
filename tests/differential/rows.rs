//! What COMMAND says of each row, and what COMMAND GETKEYSANDFLAGS says of requests, against redis-server.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::number;
use crate::requests::Requests;
use crate::servers::Wire;
use crate::support::client::{Client, Reply, encode};
use crate::support::oracle::{Oracle, start_node};

/// Rows that are not as in Redis 7.0, with what of them is different, and why. Each entry must be needed.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("randomkey", "tips", NEWER),
    ("wait", "flags", NEWER),
    ("wait", "categories", NEWER),
    ("publish", "flags", NEWER),
    ("spublish", "flags", NEWER),
    ("latency|reset", "tips", NEWER),
    ("command|getkeys", "arity", NEWER),
    ("command|getkeysandflags", "arity", NEWER),
    ("client|setname", "tips", NEWER),
    ("config|resetstat", "tips", NEWER),
    ("config|rewrite", "tips", NEWER),
    ("cluster|shards", "flags", NEWER),
    ("cluster|slots", "flags", NEWER),
    ("failover", "flags", "it is refused inside MULTI"),
    ("client|reply", "flags", "it is refused inside MULTI"),
    ("cluster|countkeysinslot", "flags", "it waits as reads do"),
    ("cluster|countkeysinslot", "categories", "it waits as reads do"),
    ("cluster|getkeysinslot", "flags", "it waits as reads do"),
    ("cluster|getkeysinslot", "categories", "it waits as reads do"),
];
const NEWER: &str = "it is that of Redis 7.2";

/// What the tenth part and the name leave.
const PARTS: [&str; 8] =
    ["arity", "flags", "first key", "last key", "step", "categories", "tips", "key specifications"];
/// Requests of which the keys are compared.
const REQUESTS: u64 = 20_000;

/// The parts of a row, those that are sets in one order, without the remarks that Redis has in key specifications.
fn parts(addr: SocketAddr, name: &str) -> Option<Vec<String>> {
    let reply = Client::connect(addr).and_then(|mut client| client.try_call(&["COMMAND", "INFO", name]));
    let Ok(Reply::Array(rows)) = reply else { panic!("COMMAND INFO {name}: {reply:?}") };
    let Reply::Array(row) = &rows[0] else { return None };
    Some(row[1..9].iter().map(shown).collect())
}

fn shown(part: &Reply) -> String {
    match part {
        Reply::Array(list) => {
            let is_remark = |reply: &Reply| matches!(reply, Reply::Bulk(bytes) if bytes == b"notes");
            let behind_remark = |i: usize| i > 0 && is_remark(&list[i - 1]);
            let kept = list.iter().enumerate().filter(|&(i, part)| !is_remark(part) && !behind_remark(i));
            let mut kept: Vec<String> = kept.map(|(_, part)| shown(part)).collect();
            kept.sort();
            format!("{kept:?}")
        }
        Reply::Bulk(bytes) => bytes.escape_ascii().to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn rows_are_those_of_redis_but_for_those_that_are_named() {
    let Some(oracle) = Oracle::start() else { return };
    if !oracle.version.starts_with("7.0.") {
        return eprintln!("SKIPPED: the differences are named for Redis 7.0, not {}", oracle.version);
    }
    let (_node, addr) = start_node();
    let (mut compared, mut found) = (0, BTreeSet::new());
    for spec in datakeeper::command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subs)) {
        let Some(theirs) = parts(oracle.addr, spec.name) else { continue };
        let ours = parts(addr, spec.name).expect("a row of ours");
        compared += 1;
        for (part, (ours, theirs)) in PARTS.into_iter().zip(ours.iter().zip(&theirs)) {
            if ours == theirs {
                continue;
            }
            let named = DIFFERENCES.iter().any(|&(name, what, _)| (name, what) == (spec.name, part));
            assert!(named, "{}, {part}\n  ours   {ours}\n  Redis  {theirs}", spec.name);
            found.insert((spec.name, part));
        }
    }
    assert!(compared > 150, "only {compared} rows are Redis's, too");
    let unneeded: Vec<_> = DIFFERENCES.iter().filter(|&&(name, part, _)| !found.contains(&(name, part))).collect();
    assert!(unneeded.is_empty(), "these do not differ: {unneeded:?}");
}

#[test]
fn keys_of_requests_and_what_is_done_with_them_are_those_of_redis() {
    let Some(oracle) = Oracle::start() else { return };
    let (_node, addr) = start_node();
    let seed = number("DATAKEEPER_DIFFERENTIAL_SEED", 1);
    let mut requests = Requests::new(seed);
    let mut wires = [addr, oracle.addr].map(|addr| Wire::connect(addr, 3));
    let mut with_keys = 0;
    for _ in 0..REQUESTS {
        let request = requests.draw();
        // How many words GETKEYS itself wants is different in Redis 7.2.
        if request.words.len() < 2 {
            continue;
        }
        let quoted = ["COMMAND", "GETKEYSANDFLAGS"].into_iter().map(|word| word.as_bytes().to_vec());
        let mut bytes = Vec::new();
        encode(&quoted.chain(request.words.iter().cloned()).collect::<Vec<_>>(), &mut bytes);
        let [ours, theirs] = [0, 1].map(|i| {
            let wire: &mut Wire = &mut wires[i];
            wire.send(&bytes);
            wire.receive().escape_ascii().to_string()
        });
        assert_eq!(ours, theirs, "ours and Redis's keys of {}; seed {seed}", request.shown());
        with_keys += usize::from(ours.starts_with('*'));
    }
    assert!(with_keys > REQUESTS as usize / 2, "only {with_keys} requests had keys");
}
