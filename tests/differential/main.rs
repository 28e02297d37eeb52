//! DataKeeper against redis-server: the same random requests to both, and every reply the same, byte for byte.
//!
//! ```text
//!   seed ── requests ──► pipelines of 1 to 64 ──┬──► redis-server ──► replies ──┐
//!           (spoilt now and then)               └──► one node     ──► replies ──┴──► same? a rule that explains it? else a bug
//! ```
//! Rounds begin on empty stores, change between RESP2 and RESP3 from one pipeline to the next, execute some requests as a
//! transaction, now and then let a key's time come, and end with a look at every key. What may differ is named in `rules.rs` and
//! docs/COMPATIBILITY.md.
//!
//! `DATAKEEPER_DIFFERENTIAL_COMMANDS` says how many commands (1,000,000), `DATAKEEPER_DIFFERENTIAL_SEED` where to begin: the
//! number that a failure names replays its round first. *Not here*: types other than strings, what else belongs to a connection.

#[path = "../support/mod.rs"]
mod support;

mod requests;
mod rows;
mod rules;
mod servers;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use datakeeper::command::{Exec, Flag};

use crate::requests::{Request, Requests};
use crate::rules::{NOT_COMPARED, RULES};
use crate::servers::Wire;
use crate::support::client::encode;
use crate::support::oracle::{Oracle, start_node};

/// Commands per round.
const ROUND: usize = 5_000;
/// Longest pipeline.
const PIPELINE_MAX: u64 = 64;
/// Runs that are shorter need not have met everything.
const COUNTED_MIN: usize = 200_000;
/// Each command is to be sent at least as often, per million.
const EACH_MIN_PER_MILLION: usize = 1_000;
/// Failures that are shown.
const FAILURES_SHOWN: usize = 10;
/// Requests that a failure shows, of those that named the same key before.
const HISTORY: usize = 12;

/// Pipelines of which the first requests are a transaction: one in so many.
const TRANSACTION_ONE_IN: u64 = 4;
/// Longest transaction.
const TRANSACTION_MAX: u64 = 6;

/// The rule that explains why the replies differ, if there is one; `queued` is what EXEC executes.
fn rule_for(request: &Request, queued: &[Request], ours: &[u8], theirs: &[u8]) -> Option<&'static str> {
    if request.command != "exec" {
        return RULES.iter().find(|rule| (rule.explains)(request, ours, theirs)).map(|rule| rule.name);
    }
    let (ours, theirs) = (wire::array(ours)?, wire::array(theirs)?);
    let mut name = None;
    for (i, request) in queued.iter().enumerate() {
        let (ours, theirs) = (ours.get(i)?, theirs.get(i)?);
        if ours != theirs {
            name = Some(rule_for(request, &[], ours, theirs)?);
        }
    }
    name
}

/// Both servers, and what was seen.
struct Trial {
    /// Ours and the oracle's, with RESP2 and with RESP3.
    wires: [[Wire; 2]; 2],
    /// Replies by command: all, and those that are no error.
    counts: BTreeMap<&'static str, (usize, usize)>,
    /// How often each rule explained something.
    explained: BTreeMap<&'static str, usize>,
    /// What no rule explained; what comes after the first of them may follow from it.
    unexplained: Vec<String>,
}

impl Trial {
    /// Sends the requests to both, and compares. Returns what was dumped.
    fn pipeline(&mut self, protocol: usize, batch: &[Request], before: &[Request]) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        let mut bytes = Vec::new();
        batch.iter().for_each(|request| encode(&request.words, &mut bytes));
        let mut queued = Vec::new();
        let [ours, theirs] = &mut self.wires[protocol];
        theirs.send(&bytes);
        ours.send(&bytes);
        for (i, request) in batch.iter().enumerate() {
            let (our_reply, their_reply) = (ours.receive(), theirs.receive());
            let count = self.counts.entry(request.command).or_default();
            count.0 += 1;
            count.1 += usize::from(!wire::is_error(&their_reply));
            if request.command == "dump" {
                payloads.extend(
                    [&our_reply, &their_reply].into_iter().filter_map(|reply| wire::bulk(reply)).map(<[u8]>::to_vec),
                );
            }
            if our_reply == their_reply {
                if their_reply == b"+QUEUED\r\n" {
                    queued.push(request.clone());
                }
                continue;
            }
            let Some(rule) = rule_for(request, &queued, &our_reply, &their_reply) else {
                let shown = |reply: &[u8]| reply[..reply.len().min(1_000)].escape_ascii().to_string();
                let (ours, theirs) = (shown(&our_reply), shown(&their_reply));
                let executed = if request.command == "exec" { &queued[..] } else { &[] };
                let executed: String = executed.iter().map(|request| format!("\n    of {}", request.shown())).collect();
                let history = history(request, before, &batch[..i]);
                self.unexplained.push(format!(
                    "RESP{} {}{executed}\n  ours   {ours}\n  Redis  {theirs}\n{history}",
                    protocol + 2,
                    request.shown()
                ));
                continue;
            };
            *self.explained.entry(rule).or_default() += 1;
        }
        payloads
    }

    /// One round from empty stores on.
    fn round(&mut self, seed: u64, commands: usize) {
        let mut requests = Requests::new(seed);
        let mut sent: Vec<Request> = Vec::new();
        for wire in &mut self.wires[0] {
            assert_eq!(wire.call(&[b"FLUSHALL".to_vec()]), b"+OK\r\n");
        }
        while sent.len() < commands {
            let size = (1 + requests.below(PIPELINE_MAX) as usize).min(commands - sent.len());
            let mut batch: Vec<Request> = (0..size).map(|_| requests.draw()).collect();
            if requests.below(TRANSACTION_ONE_IN) == 0 {
                let end = (requests.below(TRANSACTION_MAX) as usize + 1).min(size);
                batch.insert(end, Request::bare(if requests.below(8) == 0 { "discard" } else { "exec" }));
                batch.insert(0, Request::bare("multi"));
                if requests.below(2) == 0 {
                    batch.splice(0..0, requests.draw_watch());
                }
            }
            let protocol = requests.below(2) as usize;
            for payload in self.pipeline(protocol, &batch, &sent) {
                requests.keep_payload(&payload);
            }
            sent.extend(batch);
            if requests.below(20) == 0 {
                self.let_expire(&Requests::all_keys()[requests.below(40) as usize]);
            }
        }
        let all = |command: &'static str, name: &[u8], keys: &[Vec<u8>]| Request {
            command,
            words: std::iter::once(name.to_vec()).chain(keys.iter().cloned()).collect(),
        };
        let keys = Requests::all_keys();
        let mut look = vec![all("mget", b"MGET", &keys), all("dbsize", b"DBSIZE", &[])];
        look.extend(keys.iter().map(|key| all("pexpiretime", b"PEXPIRETIME", std::slice::from_ref(key))));
        self.pipeline(0, &look, &sent);
        assert!(
            self.unexplained.is_empty(),
            "{} replies differ; DATAKEEPER_DIFFERENTIAL_SEED={seed} shows it again\n{}",
            self.unexplained.len(),
            self.unexplained[..self.unexplained.len().min(FAILURES_SHOWN)].join("\n")
        );
    }

    /// Gives a key on both sides a millisecond to live, and waits until it is gone.
    fn let_expire(&mut self, key: &[u8]) {
        for wire in &mut self.wires[1] {
            let set = [b"SET".to_vec(), key.to_vec(), b"v".to_vec(), b"PX".to_vec(), b"1".to_vec()];
            assert_eq!(wire.call(&set), b"+OK\r\n");
            let exists = [b"EXISTS".to_vec(), key.to_vec()];
            support::eventually(Duration::from_secs(5), "a key's time comes", || match &wire.call(&exists)[..] {
                b":0\r\n" => Ok(()),
                other => Err(other.escape_ascii().to_string()),
            });
        }
    }
}

/// The last requests that named a word of this one, its command apart.
fn history(request: &Request, before: &[Request], batch: &[Request]) -> String {
    let keys = Requests::all_keys();
    let named: BTreeSet<&Vec<u8>> = request.words[1..].iter().filter(|word| keys.contains(word)).collect();
    let related = |earlier: &&Request| {
        earlier.words[1..].iter().any(|word| named.contains(word)) || earlier.command.starts_with("flush")
    };
    let mut lines: Vec<String> = before
        .iter()
        .chain(batch)
        .rev()
        .filter(related)
        .take(HISTORY)
        .map(|earlier| format!("    after {}", earlier.shown()))
        .collect();
    lines.reverse();
    lines.join("\n")
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn every_reply_is_that_of_redis() {
    let Some(oracle) = Oracle::start() else { return };
    let (_node, addr) = start_node();
    let wires = [2, 3].map(|protocol| [addr, oracle.addr].map(|addr| Wire::connect(addr, protocol)));
    let mut trial = Trial { wires, counts: BTreeMap::new(), explained: BTreeMap::new(), unexplained: Vec::new() };
    let commands = number("DATAKEEPER_DIFFERENTIAL_COMMANDS", 1_000_000) as usize;
    let seed = number("DATAKEEPER_DIFFERENTIAL_SEED", 1);

    let began = Instant::now();
    for round in 0..commands.div_ceil(ROUND) {
        trial.round(seed + round as u64, ROUND);
    }
    let (sent, succeeded) = trial.counts.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    println!(
        "{sent} commands against redis-server {} in {:.1?}, {succeeded} succeeded; explained: {:?}",
        oracle.version,
        began.elapsed(),
        trial.explained
    );
    assert!(succeeded * 10 >= sent * 3, "only {succeeded} of {sent} commands succeeded");
    if commands < COUNTED_MIN {
        return;
    }
    let each_min = commands * EACH_MIN_PER_MILLION / 1_000_000;
    for command in Requests::commands() {
        let (count, succeeded) = trial.counts.get(command).copied().unwrap_or_default();
        assert!(count >= each_min, "{command} was sent {count} times");
        assert!(succeeded > 0, "{command} never succeeded");
    }
    for rule in RULES {
        assert!(
            trial.explained.contains_key(rule.name),
            "nothing differed by the rule {:?}: it is not needed",
            rule.name
        );
    }
}

#[test]
fn every_data_command_is_compared_or_named() {
    let rows = datakeeper::command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subs));
    let on_data = rows.filter(|spec| {
        matches!(spec.exec, Exec::Data(_)) && (spec.flags.has(Flag::Write) || spec.flags.has(Flag::Readonly))
    });
    let missing: Vec<&str> = on_data
        .map(|spec| spec.name)
        .filter(|name| !NOT_COMPARED.contains(name) && !Requests::commands().any(|command| command == *name))
        .collect();
    assert!(missing.is_empty(), "neither in requests.rs nor in NOT_COMPARED: {missing:?}");
}

#[test]
fn the_documents_name_the_same_differences() {
    let text = include_str!("../../docs/COMPATIBILITY.md");
    let named = |section: &str| -> BTreeSet<String> {
        let from = text.find(section).unwrap_or_else(|| panic!("docs/COMPATIBILITY.md has no {section}"));
        let lines = text[from..].lines().skip(1).take_while(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.strip_prefix("- **")?.split_once("**")?.0.to_string())).collect()
    };
    let set = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_string).collect::<BTreeSet<String>>();
    assert_eq!(named("## Replies that differ"), set(&mut RULES.iter().map(|rule| rule.name)));
    assert_eq!(named("## Commands that are not compared"), set(&mut NOT_COMPARED.iter().copied()));
}

#[test]
fn the_script_compares_with_the_oracle_that_is_named() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/test");
    for (args, complaint) in [
        (&["differential", "--oracle"][..], "--oracle wants the path of a redis-server\n"),
        (
            &["--oracle", "/no/such/redis-server", "differential"],
            "--oracle /no/such/redis-server: there is no program\n",
        ),
    ] {
        let output = std::process::Command::new(script).args(args).output().expect("the script runs");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(2), complaint));
    }
}
