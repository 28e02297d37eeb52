//! Session commands against Keepers over a perfect network: transcripts, and the stories in which time and faults play a part.
//!
//! Each file under `tests/scripts/sessions` begins with nothing running:
//! ```text
//! // a comment
//! @password             nodes started from here on want the password "open sesame", and have a Sentinel port, but for n1
//! @joiner               nodes started from here on found no cluster; @founder: they may
//! @readonly             nodes started from here on answer writes with -READONLY while they do not lead
//! @strict               nodes started from here on answer reads after READONLY alone while they do not lead
//! @fresh                nodes started from here on answer reads from data of at most 200 ms
//! @start n0
//! @in_sync 3            lets time pass until so many nodes are in sync
//! @run 100              lets that many ms pass
//! @cut_off n0           nobody hears that node any more, and it hears nobody
//! @crash n0
//! @as n0 a              what follows is sent to n0 on the connection called `a`, a new one if there is none
//! @sentinel n0 a        the same at its Sentinel port
//! > CLIENT SETNAME "x"  a command
//! +OK                   its reply: a line per CRLF; a line end of another kind is shown as `\n` and ends the line, too
//! closed                the connection ends after the reply
//! @slow 12              from here on, a command or a run of quick ones takes so many ms
//! @pushed               what was published for this connection since it was last asked
//! ```
//! Time and seeds are fixed, so that every byte is. `BLESS=1 cargo test --test sessions` writes what it saw into the files;
//! read the difference before you commit it.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use datakeeper::base::ids::ConnId;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::status::Status;
use datakeeper::keeper::{Acks, Forwarded, KeeperConfig, Next, Watched, WritesOnReplica};
use support::world::{SLOWNESS, World, world};

/// Addresses as a real cluster has them; n2 shows an IPv6 address, n3 a host name.
fn realistic(i: usize, config: &mut KeeperConfig) {
    config.client_addr = match i {
        2 => "[fd00::2]:6379".to_string(),
        3 => "n3.example.org:6379".to_string(),
        _ => format!("10.0.0.{i}:6379"),
    };
    config.repl_addr = format!("10.0.0.{i}:16379");
    config.parameters.push(("port".to_string(), "6379".to_string()));
}

fn with_password(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.password = Some(b"open sesame".to_vec());
    // n1 has no port for that.
    config.sentinel_addr = (i != 1).then(|| format!("10.0.0.{i}:26379"));
}

fn joiner(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.bootstrap = false;
}

fn with_file(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.config_file = Some("/etc/datakeeper.yml".to_string());
}

fn readonly_replicas(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.writes_on_replica = WritesOnReplica::Readonly;
}

fn strict_replicas(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.reads_need_readonly = true;
}

fn fresh_replicas(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.max_staleness_ms = 200;
}

fn acks_leader(i: usize, config: &mut KeeperConfig) {
    realistic(i, config);
    config.acks = Acks::Leader;
}

// ---------------------------------------------------------------------------------------------------------------------
// Transcripts

/// Splits a line into words; quotes keep blanks together.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a quote that closes"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// Fields of INFO that other changes may move: sizes, times, random ids.
const VOLATILE: &[&str] = &[
    "run_id",
    "server_time_usec",
    "used_memory",
    "used_memory_human",
    "used_memory_peak",
    "used_memory_peak_human",
    "mem_replication_backlog",
    "master_replid",
    "dataset",
    "link_bytes_sent",
];

/// The reply as lines, with a `*` for what [`VOLATILE`] names, for the length of a reply with such fields, for wall clock times and
/// for the dataset in the status.
fn lines(reply: &[u8]) -> String {
    let shown = reply.escape_ascii().to_string().replace("\\r\\n", "\n").replace("\\n", "\\n\n");
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    fn volatile(line: &str) -> Option<&str> {
        line.split_once(':').map(|(key, _)| key).filter(|key| VOLATILE.contains(key))
    }
    let unsized_reply = shown.lines().any(|line| volatile(line).is_some());
    let mut text = String::new();
    for (i, line) in shown.lines().enumerate() {
        if let Some(key) = volatile(line) {
            writeln!(text, "{key}:*").unwrap();
        } else if i == 0 && unsized_reply {
            writeln!(text, "{}*", &line[..1]).unwrap();
        } else if line.starts_with('{') {
            let (head, tail) = line.split_once(r#""dataset":""#).expect("a status has a dataset");
            writeln!(text, r#"{head}"dataset":"*{}"#, &tail[32..]).unwrap();
        } else {
            let word = |word: &str| {
                if word.len() == 13 && word.starts_with("17000000") { "*".into() } else { word.to_string() }
            };
            writeln!(text, "{}", line.split(' ').map(word).collect::<Vec<_>>().join(" ")).unwrap();
        }
    }
    text
}

/// Runs a transcript and returns it with what was seen in place of what was expected.
fn replay(script: &str) -> String {
    let mut world = World::new(4);
    world.tune = realistic;
    let mut conns: BTreeMap<(usize, String), ConnId> = BTreeMap::new();
    let mut at = None;
    let mut seen = String::new();
    let mut blank = false;
    let node = |name: &str| name.strip_prefix('n').and_then(|n| n.parse::<usize>().ok()).expect("a node n<number>");
    for line in script.lines() {
        if !["> ", "// ", "@"].iter().any(|mark| line.starts_with(mark)) {
            // A blank line before a directive or a command is layout; every other one belongs to a reply.
            blank = line.is_empty();
            continue;
        }
        let layout = std::mem::take(&mut blank) && !seen.ends_with("\n\n");
        writeln!(seen, "{}{line}", if layout { "\n" } else { "" }).unwrap();
        if let Some(command) = line.strip_prefix("> ") {
            let (i, conn) = at.expect("@as names a connection before the first command");
            let mut request = world.request(i, conn, &words(command));
            let deadline = world.now_ms + 3_000;
            while !world.answered(&mut request) {
                assert!(world.now_ms < deadline, "{command} was never answered: {:#?}", world.notices());
                world.run(1);
            }
            seen.push_str(&lines(&request.out.to_vec()));
            if request.next == Next::CloseAfter {
                seen.push_str("closed\n");
            }
            continue;
        }
        match *words(line) {
            ["//", ..] => {}
            ["@password"] => world.tune = with_password,
            ["@slow", ms] => SLOWNESS.set(ms.parse::<u64>().expect("@slow ms") * 1_000_000),
            ["@joiner"] => world.tune = joiner,
            ["@founder"] => world.tune = realistic,
            ["@readonly"] => world.tune = readonly_replicas,
            ["@strict"] => world.tune = strict_replicas,
            ["@fresh"] => world.tune = fresh_replicas,
            ["@start", name] => world.start(node(name)),
            ["@crash", name] => world.crash(node(name)),
            ["@cut_off", name] => _ = world.cut_off.insert(node(name)),
            ["@run", ms] => world.run(ms.parse().expect("@run ms")),
            ["@in_sync", n] => {
                let n: usize = n.parse().expect("@in_sync number");
                world.run_until(line, 3_000, |w| w.in_sync() == n);
                world.run(60);
            }
            ["@pushed"] => {
                let (i, conn) = at.expect("@as names a connection before it");
                seen.push_str(&lines(&world.pushed(i, conn)));
            }
            ["@as", name, conn] => {
                let key = (node(name), conn.to_string());
                let conn = *conns.entry(key.clone()).or_insert_with(|| world.connect(key.0));
                at = Some((key.0, conn));
            }
            ["@sentinel", name, conn] => {
                let key = (node(name), conn.to_string());
                let conn = *conns.entry(key.clone()).or_insert_with(|| world.connect_to_sentinel(key.0));
                at = Some((key.0, conn));
            }
            _ => panic!("an unknown directive: {line}"),
        }
    }
    seen
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/sessions").join(format!("{name}.txt"));
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
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/sessions");
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
    auth,
    client,
    clients,
    cluster,
    config,
    connection,
    debug,
    failover,
    handover,
    info,
    monitor,
    notify,
    operators,
    position,
    pubsub,
    readonly,
    replicas,
    sentinel,
    sentinel_port,
    slow,
    tracking,
    transaction,
    unknown,
    wait
);

#[test]
fn every_session_command_is_in_a_transcript() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/sessions");
    let scripts: String =
        std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let rows = datakeeper::command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subs));
    for spec in rows.filter(|spec| matches!(spec.exec, datakeeper::command::Exec::Session(_))) {
        let line = format!("\n> {}", spec.name.to_ascii_uppercase().replace('|', " "));
        assert!(scripts.contains(&line), "no transcript shows {}", spec.name);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Stories

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// ioredis asks for INFO when it has connected, and comes back a second later if it hears that the data is being loaded.
#[test]
fn nobody_loads_while_the_leadership_is_handed_over() {
    let mut world = world(3, realistic);
    let resigning = world.connect(0);
    world.ask_on(0, resigning, &["DATAKEEPER", "HANDOVER", "TO", "n1"]);
    // So that its successor has to wait before it serves.
    world.cut_off.insert(2);
    let mut seen = BTreeMap::new();
    for _ in 0..2_000 {
        for i in [0, 1] {
            let info = world.ask(i, &["INFO", "persistence"]);
            seen.insert(format!("{:?}", world.role(i)), field(&info, "loading").map(str::to_string));
        }
        if world.role(1) == Role::Leader {
            break;
        }
        world.run(1);
    }
    let roles: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert!(roles.contains(&"Leading") && roles.contains(&"Resigning"), "what was to be seen: {seen:?}");
    assert!(seen.values().all(|loading| loading.as_deref() == Some("0")), "{seen:?}");
}

#[test]
fn wait_is_answered_by_the_acknowledgement_that_was_missing_and_not_before() {
    let mut world = world(3, acks_leader);
    let conn = world.connect(0);
    world.cut_off.insert(2);
    let mut both = world.pipeline(0, conn, &[&["SET", "k", "v"], &["WAIT", "1", "0"]]);
    assert_eq!(both.next, Next::Wait, "nobody can have acknowledged it yet");
    assert!(
        world.answered(&mut both),
        "one replica did at once; that the set as a whole has not moved does not matter"
    );
    assert_eq!(both.out.to_vec(), b"+OK\r\n:1\r\n");
    let mut wait = world.request(0, conn, &["WAIT", "2", "0"]);
    let info = world.ask(0, &["INFO", "clients"]);
    assert_eq!(field(&info, "blocked_clients"), Some("1"));
    world.crash(2);
    world.cut_off.clear();
    world.run(2_000);
    assert!(!world.answered(&mut wait), "one replica is no two");
    world.start(2);
    let took = world.run_until("three in sync", 3_000, |w| w.in_sync() == 3);
    assert!(took > 0 && world.answered(&mut wait), "the new copy holds the write");
    assert_eq!(wait.out.to_vec(), b":2\r\n");
    assert_eq!(field(&world.ask(0, &["INFO", "clients"]), "blocked_clients"), Some("0"));
}

#[test]
fn wait_of_another_connection_is_ended_as_if_by_time_or_with_an_error() {
    let mut world = world(3, acks_leader);
    world.cut_off.insert(2);
    let (conn, other) = (world.connect(0), world.connect(0));
    world.ask_on(0, conn, &["SET", "k", "v"]);
    for (how, wanted) in [
        (&[][..], &b":1\r\n"[..]),
        (&["TIMEOUT"], b":1\r\n"),
        (&["ERROR"], b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        let mut wait = world.request(0, conn, &["WAIT", "2", "0"]);
        world.run(5);
        assert!(!world.answered(&mut wait));
        let id = String::from_utf8(world.ask_on(0, other, &["CLIENT", "LIST"])).unwrap();
        let id = id.lines().find_map(|line| line.contains("cmd=wait").then(|| &line[3..line.find(' ').unwrap()]));
        let unblock = [&["CLIENT", "UNBLOCK", id.expect("it is listed")], how].concat();
        assert_eq!(world.ask_on(0, other, &unblock), b":1\r\n");
        assert_eq!(world.ask_on(0, other, &unblock), b":0\r\n", "it is unblocked already");
        assert!(world.answered(&mut wait));
        assert_eq!(wait.out.to_vec(), wanted);
    }
    // What was said of that WAIT is not said of the next one.
    assert_eq!(world.ask_on(0, conn, &["WAIT", "2", "50"]), b":1\r\n");
}

#[test]
fn leader_and_replica_have_the_same_digest_at_the_same_position() {
    let mut world = world(3, realistic);
    let conn = world.connect(0);
    let digests = |world: &mut World| [0, 1, 2].map(|i| world.ask(i, &["DEBUG", "DIGEST"]));
    let empty = digests(&mut world);
    assert_eq!(empty, [const { "+0000000000000000000000000000000000000000\r\n" }; 3]);
    for i in 0..3_000 {
        world.ask_on(0, conn, &["SET", &format!("key:{i}"), &i.to_string()]);
    }
    world.ask_on(0, conn, &["PEXPIRE", "key:1", "100000"]);
    world.ask_on(0, conn, &["PEXPIRE", "key:2", "50"]);
    world.run(20);
    let full = digests(&mut world);
    assert!(full[0] != empty[0] && full.iter().all(|digest| *digest == full[0]), "{full:?}");
    world.run(500);
    let later = digests(&mut world);
    assert!(later[0] != full[0] && later.iter().all(|digest| *digest == later[0]), "{later:?}");
    world.ask_on(0, conn, &["FLUSHALL"]);
    world.run(20);
    assert_eq!(digests(&mut world), empty);
}

#[test]
fn sleep_of_one_connection_holds_nobody_else() {
    let mut world = world(1, realistic);
    let (conn, other) = (world.connect(0), world.connect(0));
    let begin = world.now_ms;
    let mut sleep = world.request(0, conn, &["DEBUG", "SLEEP", "1.5"]);
    assert_eq!(world.ask_on(0, other, &["PING"]), b"+PONG\r\n");
    assert_eq!(world.now_ms, begin);
    world.run(1_495);
    assert!(!world.answered(&mut sleep));
    world.run(10);
    assert!(world.answered(&mut sleep));
}

#[test]
fn who_monitors_and_does_not_read_is_closed() {
    let mut world = world(1, realistic);
    let (conn, other) = (world.connect(0), world.connect(0));
    world.ask_on(0, conn, &["MONITOR"]);
    let long = "x".repeat(60_000);
    // What the connection does not fetch: the world fetches at once, so it is told not to.
    world.deaf.insert(conn);
    for _ in 0..600 {
        world.ask_on(0, other, &["ECHO", &long]);
    }
    assert!(world.nodes[0].as_ref().unwrap().closed.contains(&conn));
    assert!(!world.nodes[0].as_ref().unwrap().closed.contains(&other));
}

/// A pooled connection carries the writes of many: WAIT must not ask for whatever was last written on it.
#[test]
fn wait_at_a_proxying_node_asks_for_the_clients_own_last_write() {
    let mut world = world(3, |i, config| {
        realistic(i, config);
        config.writes_on_replica = WritesOnReplica::Proxy;
    });
    fn told(world: &mut World, conn: ConnId, what: Forwarded<'_>) {
        world.nodes[1].as_mut().unwrap().keeper.forwarded(conn, Watched::No, what);
    }
    let (conn, other) = (world.connect(1), world.connect(1));
    for (conn, written) in [(conn, &b"$5\r\n0:1:5\r\n"[..]), (other, b"$5\r\n0:1:7\r\n")] {
        assert_eq!(world.request(1, conn, &["SET", "k", "v"]).next, Next::Forward);
        told(&mut world, conn, Forwarded::Answered { seen: written, written: Some(written), told: None });
    }
    let counted = |n: &'static [u8]| Forwarded::Answered { seen: b"$5\r\n0:1:7\r\n", written: None, told: Some(n) };

    let mut wait = world.request(1, conn, &["WAIT", "2", "100"]);
    for _ in 0..2 {
        assert_eq!(wait.next, Next::Forward);
        let sent = wait.forward.take().expect("what is passed on");
        assert_eq!((sent.before, sent.commands), (1, 0), "the answer is not for the client");
        let sent = String::from_utf8(sent.request.to_vec()).unwrap();
        assert!(sent.contains("HOLDERS\r\n$5\r\n0:1:5\r\n"), "{sent}");
        told(&mut world, conn, counted(b":1\r\n"));
        wait.next = Next::Again;
        assert!(!world.answered(&mut wait), "one is not enough, and it asks again");
        while wait.next == Next::Wait {
            world.run(1);
            world.answered(&mut wait);
        }
    }
    told(&mut world, conn, counted(b":2\r\n"));
    wait.next = Next::Again;
    assert!(world.answered(&mut wait));
    assert_eq!(wait.out.to_vec(), b":2\r\n");

    // What is over by then is told with the last number; a leader that is lost, as an error.
    let mut wait = world.request(1, other, &["WAIT", "2", "100"]);
    world.run(200);
    told(&mut world, other, counted(b":1\r\n"));
    wait.next = Next::Again;
    assert!(world.answered(&mut wait));
    assert_eq!(wait.out.to_vec(), b":1\r\n");
    let mut wait = world.request(1, other, &["WAIT", "2", "100"]);
    told(&mut world, other, Forwarded::Unknown);
    wait.next = Next::Again;
    assert!(world.answered(&mut wait));
    assert!(wait.out.to_vec().starts_with(b"-UNBLOCKED "));
}

#[test]
fn what_a_lost_leader_may_have_executed_is_waited_for_by_later_reads() {
    let mut world = world(3, |i, config| {
        realistic(i, config);
        config.writes_on_replica = WritesOnReplica::Proxy;
    });
    let conn = world.connect(1);
    assert_eq!(world.request(1, conn, &["SET", "k", "v"]).next, Next::Forward);
    // n1 holds it in its log; nobody knows yet whether it will be acknowledged.
    world.cut_off.insert(2);
    let at_leader = world.connect(0);
    let mut set = world.request(0, at_leader, &["SET", "k", "v"]);
    world.run(5);
    assert!(!world.answered(&mut set));
    world.nodes[1].as_mut().unwrap().keeper.forwarded(conn, Watched::No, Forwarded::Unknown);
    let mut get = world.request(1, conn, &["GET", "k"]);
    world.run(5);
    assert!(!world.answered(&mut get), "{}", get.out.to_vec().escape_ascii());
    world.run_until("the leader goes on without n2", 900, |w| w.in_sync() == 2);
    world.run(5);
    assert!(world.answered(&mut get));
    assert_eq!(get.out.to_vec(), b"$1\r\nv\r\n");
}

#[test]
fn reads_at_a_replica_that_is_being_filled_are_not_taken_for_writes() {
    let mut world = world(2, readonly_replicas);
    let big = "x".repeat(1 << 20);
    world.ask(0, &["SET", "big", &big]);
    world.bandwidth.insert(2, (1_000, 0));
    world.start(2);
    world.run_until("it is being filled", 2_000, |w| w.role(2) == Role::Syncing);
    world.run(20);
    assert_eq!(world.ask(2, &["GET", "big"]), "-LOADING Redis is loading the dataset in memory\r\n");
    assert!(world.ask(2, &["SET", "big", "1"]).starts_with("-READONLY "));
    assert_eq!(world.role(2), Role::Syncing);
}

#[test]
fn who_leads_himself_waits_for_no_other_leaders_answer() {
    let mut world = world(3, realistic);
    let is_superseded = |world: &World, i: usize| {
        let (now, node) = (world.now(), world.nodes[i].as_ref().unwrap());
        node.keeper.is_superseded(now, "10.0.0.0:6379")
    };
    assert!(!is_superseded(&world, 1) && !is_superseded(&world, 2));
    world.cut_off.insert(0);
    world.run_until("a new leader", 2_000, |w| [1, 2].into_iter().any(|i| w.role(i) == Role::Leader));
    world.run(60);
    assert!(is_superseded(&world, 1) && is_superseded(&world, 2));
}

#[test]
fn paused_writes_wait_and_are_executed_and_reads_go_on() {
    let mut world = world(3, realistic);
    world.ask(0, &["SET", "soon", "v", "PX", "100"]);
    let (conn, other) = (world.connect(0), world.connect(0));
    world.ask_on(0, other, &["CLIENT", "PAUSE", "2500", "WRITE"]);
    let mut write = world.request(0, conn, &["SET", "k", "v"]);
    let exec = world.connect(0);
    let mut exec = world.pipeline(0, exec, &[&["MULTI"], &["INCR", "n"], &["EXEC"]]);
    let publisher = world.connect(0);
    let mut publish = world.request(0, publisher, &["PUBLISH", "channel", "message"]);
    world.run(2_000);
    assert!(!world.answered(&mut write) && !world.answered(&mut exec), "longer than a command waits for a leader");
    assert!(!world.answered(&mut publish), "as in Redis, what is published waits, too");
    assert_eq!(world.ask_on(0, other, &["MGET", "k", "soon"]), b"*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(world.ask_on(0, other, &["DBSIZE"]), b":1\r\n", "what has expired is hidden and not deleted");
    assert!(world.ask(1, &["SET", "k", "v"]).starts_with("-MOVED"), "the pause is the leader's alone");
    world.run(600);
    assert!(world.answered(&mut write) && world.answered(&mut exec) && world.answered(&mut publish));
    assert_eq!(write.out.to_vec(), b"+OK\r\n");
    assert!(exec.out.to_vec().ends_with(b"*1\r\n:1\r\n"));
    world.run(200);
    assert_eq!(world.ask_on(0, other, &["DBSIZE"]), b":2\r\n");

    world.ask_on(0, other, &["CLIENT", "PAUSE", "60000", "WRITE"]);
    let mut write = world.request(0, conn, &["SET", "k", "w"]);
    world.run(10);
    assert!(!world.answered(&mut write));
    world.ask_on(0, other, &["CLIENT", "UNPAUSE"]);
    world.run(5);
    assert!(world.answered(&mut write), "at once");
}

#[test]
fn second_pause_prolongs_the_first_and_makes_it_no_milder() {
    let mut world = world(1, realistic);
    let (conn, other) = (world.connect(0), world.connect(0));
    let mut both =
        world.pipeline(0, other, &[&["CLIENT", "PAUSE", "300", "ALL"], &["CLIENT", "PAUSE", "100", "WRITE"]]);
    assert!(world.answered(&mut both));
    let mut ping = world.request(0, conn, &["PING"]);
    world.run(295);
    assert!(!world.answered(&mut ping));
    world.run(10);
    assert!(world.answered(&mut ping));
}

/// A time at the end of the range was a pause without an end, in which who could end it was held, too.
#[test]
fn pause_of_any_length_is_refused_or_can_be_ended_and_looked_at() {
    let mut world = world(1, with_password);
    let operator = world.connect(0);
    let auth: &[&str] = &["AUTH", "open sesame"];
    world.ask_on(0, operator, auth);
    let pause = |world: &mut World, ms: &str| world.ask_on(0, operator, &["CLIENT", "PAUSE", ms]);
    assert_eq!(pause(&mut world, "9223372036854775807"), b"-ERR timeout is out of range\r\n");
    assert_eq!(pause(&mut world, "9223372036854775808"), b"-ERR timeout is not an integer or out of range\r\n");
    let longest = (i64::MAX as u64 - world.now_of(0).wall.0).to_string();
    assert_eq!(pause(&mut world, &longest), b"+OK\r\n");

    // What came behind the pause in one write is held; what a newcomer and an operator need is not.
    let reader = world.connect(0);
    let mut both = world.pipeline(0, reader, &[auth, &["CLIENT", "SETNAME", "x"], &["GET", "k"], &["PING"]]);
    let mut behind = world.pipeline(0, operator, &[&["CLIENT", "PAUSE", "1"], &["GET", "k"]]);
    world.run(5_000);
    assert!(!world.answered(&mut both) && !world.answered(&mut behind));
    assert_eq!(both.out.to_vec(), b"+OK\r\n+OK\r\n");
    assert_eq!(behind.out.to_vec(), b"+OK\r\n");
    let other = world.connect(0);
    let answered: &[&[&str]] = &[
        auth,
        &["HELLO", "3"],
        &["CLIENT", "SETINFO", "LIB-NAME", "x"],
        &["SELECT", "0"],
        &["COMMAND", "DOCS", "get"],
        &["DATAKEEPER", "STATUS"],
        &["INFO"],
        &["ROLE"],
        &["CONFIG", "GET", "maxmemory"],
        &["CLUSTER", "SLOTS"],
        &["CLIENT", "LIST"],
        &["SLOWLOG", "LEN"],
    ];
    for words in answered {
        let mut request = world.request(0, other, words);
        assert!(world.answered(&mut request), "{words:?}");
    }
    for words in [&["GET", "k"][..], &["SET", "k", "v"], &["PUBLISH", "c", "m"], &["PING"], &["DBSIZE"]] {
        let conn = world.connect(0);
        world.ask_on(0, conn, auth);
        let mut request = world.request(0, conn, words);
        assert!(!world.answered(&mut request), "{words:?}");
    }
    assert_eq!(world.ask_on(0, other, &["CLIENT", "UNPAUSE"]), b"+OK\r\n");
    world.run(1);
    assert!(world.answered(&mut both) && world.answered(&mut behind));
}

/// As Redis 8 does, and no wait ends later than its clock does.
#[test]
fn every_time_to_wait_has_a_range() {
    let mut world = world(3, realistic);
    let conn = world.connect(0);
    for (words, wanted) in [
        (&["WAIT", "9", "9223372036854775807"][..], "-ERR timeout is out of range\r\n"),
        (&["WAIT", "9", "-1"], "-ERR timeout is negative\r\n"),
        (&["WAIT", "9", "x"], "-ERR timeout is not an integer or out of range\r\n"),
        (&["DEBUG", "SLEEP", "1e300"], "-ERR timeout is out of range\r\n"),
        (&["DEBUG", "SLEEP", "inf"], "-ERR timeout is out of range\r\n"),
        (&["DEBUG", "SLEEP", "nan"], "-ERR value is not a valid float\r\n"),
    ] {
        assert_eq!(String::from_utf8_lossy(&world.ask_on(0, conn, words)), wanted, "{words:?}");
    }
}

#[test]
fn wait_answers_with_what_there_is_when_its_time_is_over() {
    let mut world = world(3, acks_leader);
    let conn = world.connect(0);
    world.cut_off.insert(2);
    world.ask_on(0, conn, &["SET", "k", "v"]);
    let begin = world.now_ms;
    assert_eq!(world.ask_on(0, conn, &["WAIT", "2", "300"]), b":1\r\n");
    assert_eq!(world.now_ms - begin, 300);
    // The deadline belonged to that command alone.
    let begin = world.now_ms;
    assert_eq!(world.ask_on(0, conn, &["WAIT", "2", "200"]), b":1\r\n");
    assert_eq!(world.now_ms - begin, 200);
}

#[test]
fn leader_unsure_of_its_lease_does_not_call_itself_master() {
    let mut world = world(3, realistic);
    assert!(world.ask(0, &["ROLE"]).starts_with("*3\r\n$6\r\nmaster\r\n"));
    world.cut_off.insert(0);
    // The lease ends at 400 ms, before anybody else may stand.
    world.run(405);
    assert_eq!((world.role(0), world.in_sync()), (Role::Leader, 3));
    assert_eq!(world.ask(0, &["ROLE"]), "*5\r\n$5\r\nslave\r\n$0\r\n\r\n:0\r\n$7\r\nconnect\r\n:1\r\n");
    let info = world.ask(0, &["INFO"]);
    assert_eq!((field(&info, "role"), field(&info, "lease_held")), (Some("slave"), Some("0")));
    assert!(world.ask(0, &["HELLO"]).contains("\r\nreplica\r\n"));
    assert!(world.ask(0, &["CLUSTER", "INFO"]).contains("cluster_state:fail\r\n"));
}

#[test]
fn followers_name_the_last_leader_until_there_is_a_new_one() {
    let mut world = world(3, realistic);
    let slots = |world: &mut World, i| world.ask(i, &["CLUSTER", "SLOTS"]);
    let of_leader = "*3\r\n:0\r\n:16383\r\n";
    assert!(!slots(&mut world, 1).contains(of_leader), "two replicas serve reads");
    world.crash(0);
    let first = slots(&mut world, 1);
    assert!(first.find("10.0.0.0").unwrap() < first.find("10.0.0.1").unwrap(), "{first}");
    world.run_until("nobody is confirmed", 600, |w| {
        w.nodes[1].as_ref().unwrap().keeper.status(w.now()).leader.is_none()
    });
    assert!(world.ask(1, &["CLUSTER", "INFO"]).contains("cluster_state:fail\r\n"));
    assert!(world.ask(1, &["CLUSTER", "NODES"]).contains(" master,fail - "));
    assert_eq!(slots(&mut world, 1), first);
    let new = |w: &World| [1, 2].into_iter().find(|i| w.role(*i) == Role::Leader);
    world.run_until("a new leader", 1_000, |w| new(w).is_some());
    world.run(60);
    for i in [1, 2] {
        let slots = slots(&mut world, i);
        let leader = ["10.0.0.1", "fd00::2"][new(&world).unwrap() - 1];
        let at = slots.find(leader).expect("the new leader is there");
        assert!(["10.0.0.1", "fd00::2"].iter().all(|host| slots.find(host).is_none_or(|other| at <= other)), "{slots}");
        assert!(!slots.contains("10.0.0.0"), "the dead leader serves nothing: {slots}");
        assert!(world.ask(i, &["CLUSTER", "INFO"]).contains("cluster_state:ok\r\n"));
    }
}

#[test]
fn nodes_agree_about_the_cluster_and_each_calls_one_line_its_own() {
    let mut world = world(3, realistic);
    world.run(60);
    let mut views = Vec::new();
    for i in 0..3 {
        let text = world.ask(i, &["CLUSTER", "NODES"]);
        let body = text.split_once("\r\n").unwrap().1.trim_end_matches("\r\n");
        assert_eq!(body.matches("myself").count(), 1);
        let mine = body.lines().find(|line| line.contains("myself")).unwrap();
        assert!(world.ask(i, &["CLUSTER", "MYID"]).contains(&mine[..40]));
        // Everything but who is asked and when each was last heard.
        let mut view: Vec<Vec<String>> = Vec::new();
        for line in body.lines() {
            let mut parts: Vec<String> = line.replace("myself,", "").split(' ').map(str::to_string).collect();
            parts.remove(5);
            view.push(parts);
        }
        views.push(view);
    }
    assert_eq!(views[0].len(), 3);
    assert!(views.iter().all(|view| *view == views[0]), "{views:#?}");
}

#[test]
fn status_is_json_that_the_status_command_reads() {
    let mut world = world(2, realistic);
    let text = world.ask(1, &["DATAKEEPER", "STATUS"]);
    let json = text.split_once("\r\n").unwrap().1;
    let status: Status = serde_json::from_str(json).unwrap();
    assert_eq!((status.node.as_str(), status.role.as_str(), status.nodes.len()), ("n1", "replica", 2));
    assert_eq!(status.leader.unwrap().as_str(), "n0");
}

#[test]
fn info_names_no_field_twice() {
    let mut world = world(3, realistic);
    for i in 0..2 {
        let info = world.ask(i, &["INFO", "everything"]);
        let mut names: Vec<&str> = info.split("\r\n").filter_map(|line| Some(line.split_once(':')?.0)).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert!(all > 60);
        assert_eq!(names.len(), all);
    }
}

#[test]
fn config_rewrite_writes_what_config_set_changed_and_is_answered_by_what_came_of_it() {
    let mut world = world(1, with_file);
    assert_eq!(world.ask(0, &["CONFIG", "REWRITE"]), "+OK\r\n");
    assert_eq!(world.written(0), &[]);
    world.ask(0, &["CONFIG", "SET", "maxmemory", "1gb", "save", ""]);
    world.ask(0, &["CONFIG", "SET", "maxmemory", "5", "maxmemory-policy", "nonsense"]);
    assert_eq!(world.ask(0, &["CONFIG", "REWRITE"]), "+OK\r\n");
    assert_eq!(world.written(0), &[("memory.max_bytes", "1073741824".to_string())]);
    world.unwritable = Some("/etc/datakeeper.yml: Read-only file system".to_string());
    assert_eq!(
        world.ask(0, &["CONFIG", "REWRITE"]),
        "-ERR Rewriting config file: /etc/datakeeper.yml: Read-only file system\r\n"
    );
    assert_eq!(field(&world.ask(0, &["INFO", "server"]), "config_file"), Some("/etc/datakeeper.yml"));
}

#[test]
fn reads_are_counted_where_they_are_answered_and_what_they_find_expired_is_too() {
    let mut world = world(1, realistic);
    world.ask(0, &["SET", "k", "v"]);
    world.ask(0, &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    world.ask(0, &["SET", "soon", "v", "PX", "1"]);
    world.run(10);
    world.ask(0, &["MGET", "k", "soon", "absent"]);
    world.ask(0, &["INCR", "absent"]);
    let info = world.ask(0, &["INFO", "stats"]);
    let counted = ["keyspace_hits", "keyspace_misses", "expired_keys"].map(|name| field(&info, name));
    assert_eq!(counted, [Some("1"), Some("2"), Some("1")], "{info}");
}

#[test]
fn config_resetstat_lets_the_counters_begin_anew() {
    let mut world = world(1, realistic);
    world.ask(0, &["SET", "k", "v", "PX", "1"]);
    world.ask(0, &["INCR", "n", "n"]);
    world.run(200);
    world.ask(0, &["MGET", "n", "absent"]);
    let counters =
        ["expired_keys", "keyspace_misses", "total_error_replies", "total_connections_received", "errorstat_ERR"];
    let info = world.ask(0, &["INFO"]);
    assert!(counters.iter().all(|name| field(&info, name).is_some_and(|value| value != "0")), "{info}");
    let conn = world.connect(0);
    world.ask_on(0, conn, &["CONFIG", "RESETSTAT"]);
    let info = String::from_utf8(world.ask_on(0, conn, &["INFO"])).unwrap();
    let values = counters.map(|name| field(&info, name));
    assert_eq!(values, [Some("0"), Some("0"), Some("0"), Some("0"), None]);
    assert_eq!(field(&info, "total_commands_processed"), Some("1"), "RESETSTAT itself");
}
