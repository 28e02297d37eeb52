//! Transcripts of commands: what a client sends, the exact bytes that come back, and what goes into the log.
//!
//! Each file under `tests/scripts/commands` is one session on an empty store:
//! ```text
//! # a comment
//! @clock +1000         the leader's clock moves on by that many ms (it starts at 1700000000000)
//! @protocol 3          replies are RESP3 from here on (2 to begin with)
//! @role replica        expired keys are hidden but not deleted from here on (leader to begin with)
//! > SET k "a\r\n"      a command; quotes and \xNN as in redis-cli
//! +OK                  the reply, a line per CRLF
//! log: put k "a\r\n"   each mutation that was logged
//! ```
//! A command that the keeper executes shows as `session: <variant>`. Beside the text, each transcript proves that the log is
//! complete: a second store that only applies it ends up with the same keys, values and expiries.
//!
//! `BLESS=1 cargo test --test commands` writes what it saw into the files; read the difference before you commit it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::HashKey;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::limits::BIG_BULK_BYTES;
use datakeeper::base::segments::Segments;
use datakeeper::command::{Ctx, Done, Exec, Flag, Lookups, SliceState, Work, resolve};
use datakeeper::resp::{Batch, Output, Protocol, Reply};
use datakeeper::store::{Mutation, Store, mutations};

/// A leader's store, the store of a replica that applies the log, and what surrounds a command.
struct Bench {
    store: Store,
    replica: Store,
    clock: Wall,
    protocol: Protocol,
    leader: bool,
    chance: Jitter,
}

/// What one command did.
struct Outcome {
    reply: Output,
    log: Vec<String>,
    /// Calls of a sliced command.
    slices: usize,
}

impl Bench {
    fn new() -> Bench {
        let store = || Store::new(HashKey([7; 16]));
        let clock = Wall(1_700_000_000_000);
        Bench {
            store: store(),
            replica: store(),
            clock,
            protocol: Protocol::Resp2,
            leader: true,
            chance: Jitter::new(1),
        }
    }

    /// Executes a command as the keeper does: checks, slices, the error in place of a half-written reply.
    fn run(&mut self, args: &[Bytes]) -> Outcome {
        let mut batch = Batch::new();
        batch.push_owned(args);
        let args = batch.args(0, b"");
        let mut reply = Output::new();
        let mut log = Vec::new();
        let spec = match resolve(&args) {
            Ok(spec) => spec,
            Err(error) => {
                Reply::new(&mut reply, self.protocol).error(&error.to_string());
                return Outcome { reply, log, slices: 0 };
            }
        };
        let exec = match spec.exec {
            Exec::Data(exec) => exec,
            Exec::Session(command) => return Outcome { reply, log: vec![format!("session: {command:?}")], slices: 0 },
            Exec::Container => panic!("{} was resolved without a subcommand", spec.name),
        };
        let first = spec.keys.first;
        let first_key = if first > 0 { Some(self.store.hash(args.get(first.into()))) } else { None };
        let (mut slice, mut slices) = (SliceState::default(), 0);
        loop {
            let mut entry = Segments::new();
            let mark = reply.mark();
            let mut ctx = Ctx {
                store: &mut self.store,
                reply: Reply::new(&mut reply, self.protocol),
                log: &mut entry,
                clock: self.clock,
                wall_ahead_ms: 0,
                expire: self.leader,
                first_key,
                chance: &mut self.chance,
                slice: &mut slice,
                emitted: 0,
                lookups: Lookups::default(),
                misses: false,
                hand: true,
            };
            let result = exec(&mut ctx, &args);
            let emitted = ctx.emitted;
            slices += 1;
            let body = Bytes::from(entry.take_parts(&[]).concat());
            assert!(self.leader || body.is_empty(), "{} wrote on a replica", spec.name);
            let expiry_only =
                |m: &Mutation<'_>| matches!(m, Mutation::Delete { event: datakeeper::store::Event::Expired, .. });
            let mut count = 0;
            for mutation in mutations(&body) {
                let mutation = mutation.expect("the log decodes");
                assert!(spec.flags.has(Flag::Write) || expiry_only(&mutation), "{} is no write", spec.name);
                assert!(result.is_ok() || expiry_only(&mutation), "{} failed and wrote", spec.name);
                self.replica.apply(&mutation);
                log.push(format!("log: {}", shown(&mutation)));
                count += 1;
            }
            assert_eq!(count, emitted, "{} miscounted its mutations", spec.name);
            match result {
                Ok(Done::Done) => return Outcome { reply, log, slices },
                Ok(Done::More) => assert!(spec.work == Work::Sliced && slices < 10_000, "{} does not end", spec.name),
                Err(error) => {
                    assert_eq!(reply.mark(), mark, "{} wrote a reply before it failed", spec.name);
                    Reply::new(&mut reply, self.protocol).error(&error.to_string());
                    return Outcome { reply, log, slices };
                }
            }
        }
    }

    fn run_words(&mut self, words: &[&str]) -> Outcome {
        self.run(&words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect::<Vec<_>>())
    }

    fn check_replica(&self) {
        let content = |store: &Store| {
            let mut content = BTreeMap::new();
            let mut cursor = 0;
            loop {
                cursor = store.scan(cursor, 1_000, &mut |entry| {
                    content.insert(entry.key().to_vec(), (entry.value().as_slice().to_vec(), entry.expiry()));
                });
                if cursor == 0 {
                    return content;
                }
            }
        };
        assert_eq!(content(&self.store), content(&self.replica), "the log does not say all that was done");
    }
}

fn shown(mutation: &Mutation<'_>) -> String {
    let expiry_of = |expiry: &Option<Wall>| expiry.map_or(String::new(), |at| format!(" until {at}"));
    match mutation {
        Mutation::Put { key, value, expiry, event } => {
            format!("put {} {}{} {event:?}", quoted(key), quoted(value.as_slice()), expiry_of(expiry))
        }
        Mutation::Delete { key, event } => format!("delete {} {event:?}", quoted(key)),
        Mutation::SetExpiry { key, expiry: None, event } => format!("expiry {} never {event:?}", quoted(key)),
        Mutation::SetExpiry { key, expiry, event } => format!("expiry {}{} {event:?}", quoted(key), expiry_of(expiry)),
        Mutation::Clear => "clear".into(),
        Mutation::Lift { key, event } => format!("lift {} {event:?}", quoted(key)),
        Mutation::Hold { key } => format!("hold {}", quoted(key)),
        Mutation::Lay { key, event } => format!("lay {} {event:?}", quoted(key)),
        Mutation::Splice { key, at, bytes, length_after, event } => {
            format!("splice {} at {at} {} of {length_after} {event:?}", quoted(key), quoted(bytes))
        }
    }
}

fn quoted(bytes: &[u8]) -> String {
    let plain = !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_graphic() && !b"\"\\'".contains(b));
    if plain { String::from_utf8_lossy(bytes).into() } else { format!("\"{}\"", bytes.escape_ascii()) }
}

/// The reply as lines: a line break per CRLF, everything else that cannot be printed escaped.
fn lines(reply: &Output) -> Vec<String> {
    let bytes = reply.to_vec();
    let mut lines: Vec<String> = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(rest[..end].escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\""));
        rest = &rest[end + 2..];
    }
    assert!(rest.is_empty(), "a reply ends with CRLF");
    lines
}

/// Splits a command line into words, with the quotes and escapes of redis-cli.
fn words(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    while let Some(&byte) = bytes.peek() {
        if byte == b' ' {
            bytes.next();
            continue;
        }
        let quoted = byte == b'"';
        if quoted {
            bytes.next();
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next_if(|&byte| byte != if quoted { b'"' } else { b' ' }) {
            if byte != b'\\' || !quoted {
                word.push(byte);
                continue;
            }
            word.push(match bytes.next().expect("an escape at the end of the line") {
                b'n' => b'\n',
                b'r' => b'\r',
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).expect("two hex digits")
                }
                other => other,
            });
        }
        if quoted {
            assert_eq!(bytes.next(), Some(b'"'), "an open quote in {line:?}");
        }
        words.push(Bytes::from(word));
    }
    words
}

/// Runs a transcript and returns it with what was seen in place of what was expected.
fn replay(script: &str) -> String {
    let mut bench = Bench::new();
    let mut seen = String::new();
    let mut blank = false;
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let outcome = bench.run(&words(command));
            writeln!(seen, "{}{line}", if blank { "\n" } else { "" }).unwrap();
            for line in lines(&outcome.reply).into_iter().chain(outcome.log) {
                writeln!(seen, "{line}").unwrap();
            }
            blank = false;
        } else if line.starts_with("# ") || line.starts_with('@') {
            writeln!(seen, "{}{line}", if blank { "\n" } else { "" }).unwrap();
            blank = false;
            match line.split_once(' ').unwrap_or((line, "")) {
                ("@clock", by) => bench.clock.0 += by.parse::<u64>().expect("@clock +ms"),
                ("@protocol", "2") => bench.protocol = Protocol::Resp2,
                ("@protocol", "3") => bench.protocol = Protocol::Resp3,
                ("@role", role) => bench.leader = role == "leader",
                (word, _) => assert_eq!(word, "#", "an unknown directive: {line}"),
            }
        } else {
            // A blank line before a command or a comment is layout; one inside a reply is an empty bulk, which was written above.
            blank = line.is_empty();
        }
    }
    bench.check_replica();
    seen
}

/// Replays one file; blank lines at the end of a block are layout.
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/commands").join(format!("{name}.txt"));
    let script = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seen = replay(&script);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &seen).unwrap();
        return;
    }
    assert!(script.lines().any(|line| line.starts_with("> ")), "{name}.txt has no command");
    if let Some((i, (want, got))) = script.lines().zip(seen.lines()).enumerate().find(|(_, (want, got))| want != got) {
        let block: Vec<_> = seen.lines().skip(i.saturating_sub(3)).take(8).collect();
        panic!("{name}.txt line {}:\n  want {want}\n  got  {got}\nin\n{}", i + 1, block.join("\n"));
    }
    assert_eq!(script.lines().count(), seen.lines().count(), "{name}.txt is too short or too long");
}

macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_transcript_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/commands");
            let mut found: Vec<String> = std::fs::read_dir(folder).unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            found.sort();
            let mut named = vec![$(concat!(stringify!($name), ".txt")),*];
            named.sort_unstable();
            assert_eq!(found, named);
        }
    };
}
transcripts!(
    bits,
    compare,
    dispatch,
    dump,
    expiry,
    float,
    generic,
    introspect,
    keyspace,
    lcs,
    rename,
    server,
    set_options,
    string
);

#[test]
fn every_command_is_in_a_transcript() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/commands");
    let scripts: String =
        std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    for spec in datakeeper::command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subs)) {
        let line = format!("\n> {}", spec.name.to_ascii_uppercase().replace('|', " "));
        assert!(scripts.contains(&line), "no transcript shows {}", spec.name);
    }
}

#[test]
fn big_values_are_shared_and_never_copied() {
    let mut bench = Bench::new();
    let big = Bytes::from(vec![b'x'; BIG_BULK_BYTES + 1]);
    let (key, set, get) = (Bytes::from_static(b"k"), Bytes::from_static(b"SET"), Bytes::from_static(b"GET"));
    bench.run(&[set, key.clone(), big.clone()]);
    let outcome = bench.run(&[get, key]);
    let piece = outcome.reply.pieces().find(|piece| piece.len() == big.len()).expect("the value is a piece of its own");
    assert_eq!(piece.as_ptr(), big.as_ptr(), "the value was copied on its way from request to reply");

    let outcome = bench.run_words(&["GETRANGE", "k", "1", "-1"]);
    let piece = outcome.reply.pieces().find(|piece| piece.len() == big.len() - 1).expect("so is a part of it");
    assert_eq!(piece.as_ptr(), big[1..].as_ptr());
    let outcome = bench.run(&[Bytes::from_static(b"ECHO"), big.clone()]);
    assert!(outcome.reply.pieces().any(|piece| piece.as_ptr() == big.as_ptr()));
    bench.check_replica();
}

#[test]
fn bits_of_a_big_value_are_looked_at_in_slices() {
    const BYTES: usize = 20 << 20;
    let mut bench = Bench::new();
    let last = (8 * BYTES - 1).to_string();
    bench.run_words(&["SETBIT", "k", "3", "1"]);
    bench.run_words(&["SETBIT", "k", &last, "1"]);
    for (command, answer) in [
        (&["BITCOUNT", "k"][..], "2"),
        (&["BITCOUNT", "k", "4", "-1", "BIT"], "1"),
        (&["BITPOS", "k", "1", "1"], &last),
        (&["BITPOS", "k", "1", "4", "-2", "BIT"], "-1"),
    ] {
        let outcome = bench.run_words(command);
        assert_eq!(lines(&outcome.reply), [format!(":{answer}")], "{command:?}");
        assert!((5..=7).contains(&outcome.slices), "{command:?} took {} slices", outcome.slices);
    }
    assert_eq!(bench.run_words(&["BITPOS", "k", "1"]).slices, 1, "it ends where it has found one");
    bench.check_replica();
}

#[test]
fn a_big_value_is_dumped_in_slices_and_restored() {
    let mut bench = Bench::new();
    let big = Bytes::from((0..10 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<u8>>());
    let (set, key) = (Bytes::from_static(b"SET"), Bytes::from_static(b"k"));
    bench.run(&[set, key, big.clone()]);
    let outcome = bench.run_words(&["DUMP", "k"]);
    assert!((5..=7).contains(&outcome.slices), "{} slices", outcome.slices);
    let reply = Bytes::from(outcome.reply.to_vec());
    let head = reply.iter().position(|byte| *byte == b'\n').expect("the head of a bulk") + 1;
    let payload = reply.slice(head..reply.len() - 2);
    let (restore, copy, ttl) = (Bytes::from_static(b"RESTORE"), Bytes::from_static(b"copy"), Bytes::from_static(b"0"));
    let outcome = bench.run(&[restore, copy, ttl, payload.clone()]);
    assert_eq!(lines(&outcome.reply), ["+OK"]);
    let outcome = bench.run_words(&["GET", "copy"]);
    let piece = outcome.reply.pieces().find(|piece| piece.len() == big.len()).expect("the value is a piece of its own");
    assert_eq!(piece, big);
    assert!(payload.as_ptr_range().contains(&piece.as_ptr()), "the value was copied out of the payload");
    bench.check_replica();
}

#[test]
fn walks_over_all_keys_run_in_slices_and_miss_none() {
    const KEYS: usize = 10_000;
    let mut bench = Bench::new();
    for i in 0..KEYS {
        bench.run_words(&["SET", &format!("key:{i}"), "v"]);
    }
    for i in (0..KEYS).step_by(10) {
        bench.run_words(&["PEXPIRE", &format!("key:{i}"), "5"]);
    }
    bench.clock.0 += 5;

    let outcome = bench.run_words(&["KEYS", "key:*"]);
    assert!(outcome.slices >= 2 * KEYS / 4_096, "{} slices", outcome.slices);
    let reply = lines(&outcome.reply);
    assert_eq!(reply[0], format!("*{}", KEYS - KEYS / 10));
    let mut names: Vec<&String> = reply[1..].iter().skip(1).step_by(2).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS - KEYS / 10);
    assert!(outcome.log.is_empty(), "a walk deletes nothing");

    let one = bench.run_words(&["KEYS", "key:77"]);
    assert_eq!(lines(&one.reply), ["*1", "$6", "key:77"]);

    let all = bench.run_words(&["SCAN", "0", "COUNT", "1000000"]);
    assert_eq!(lines(&all.reply)[..4], ["*2", "$1", "0", &format!("*{}", KEYS - KEYS / 10)]);
    let (mut cursor, mut calls, mut found) = ("0".to_string(), 0, 0);
    loop {
        let outcome = bench.run_words(&["SCAN", &cursor]);
        assert_eq!(outcome.slices, 1, "an ordinary SCAN takes the lock once");
        let reply = lines(&outcome.reply);
        found += reply[3][1..].parse::<usize>().unwrap();
        cursor = reply[2].clone();
        calls += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found, KEYS - KEYS / 10);
    assert!(calls > 10, "{calls} calls: a page is a segment, not everything");

    let slot = datakeeper::command::slot(b"key:1").to_string();
    let count = bench.run_words(&["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    let in_slot = |i: &usize| datakeeper::command::slot(format!("key:{i}").as_bytes()).to_string() == slot;
    let expected = (0..KEYS).filter(|i| i % 10 != 0).filter(in_slot).count();
    assert_eq!(lines(&count.reply), [format!(":{expected}")]);
    let some = bench.run_words(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
    assert_eq!(lines(&some.reply)[0], "*1");
}

#[test]
fn walk_survives_writes_between_its_slices() {
    const KEYS: usize = 20_000;
    let mut bench = Bench::new();
    for i in 0..KEYS {
        bench.run_words(&["SET", &format!("stay:{i}"), ""]);
    }
    let (mut slice, mut reply, mut log) = (SliceState::default(), Output::new(), Segments::new());
    let mut batch = Batch::new();
    batch.push_command(&[b"KEYS", b"stay:*"]);
    let args = batch.args(0, b"");
    let Exec::Data(keys) = resolve(&args).unwrap().exec else { panic!("KEYS is a data command") };
    for round in 0.. {
        assert!(round < 10_000);
        let mut ctx = Ctx {
            store: &mut bench.store,
            reply: Reply::new(&mut reply, Protocol::Resp2),
            log: &mut log,
            clock: bench.clock,
            wall_ahead_ms: 0,
            expire: true,
            first_key: None,
            chance: &mut bench.chance,
            slice: &mut slice,
            emitted: 0,
            lookups: Lookups::default(),
            misses: false,
            hand: true,
        };
        if keys(&mut ctx, &args).unwrap() == Done::Done {
            break;
        }
        // Segments split behind and before the cursor.
        for i in 0..2_000 {
            bench.run_words(&["SET", &format!("come:{round}:{i}"), ""]);
        }
    }
    let reply = lines(&reply);
    assert_eq!(reply[0], format!("*{KEYS}"));
    let mut names: Vec<&String> = reply[2..].iter().step_by(2).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS, "a key was lost or named twice");
}

#[test]
fn commands_on_many_keys_reach_each_of_them() {
    let mut bench = Bench::new();
    let keys: Vec<Bytes> = (0..100_000).map(|i| Bytes::from(format!("k{i}"))).collect();
    let mset: Vec<Bytes> = std::iter::once(Bytes::from_static(b"MSET"))
        .chain(keys.iter().flat_map(|key| [key.clone(), Bytes::from_static(b"v")]))
        .collect();
    assert_eq!(lines(&bench.run(&mset).reply), ["+OK"]);
    let over = |name: &'static str| {
        std::iter::once(Bytes::from_static(name.as_bytes())).chain(keys.iter().cloned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&bench.run(&over("EXISTS")).reply), [":100000"]);
    let values = lines(&bench.run(&over("MGET")).reply);
    assert_eq!((values.len(), &*values[0]), (200_001, "*100000"));
    assert!(values[2..].iter().step_by(2).all(|value| value == "v"));
    assert_eq!(lines(&bench.run(&over("DEL")).reply), [":100000"]);
    assert_eq!(bench.store.len(), 0);
    bench.check_replica();
}
