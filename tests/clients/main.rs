//! Real client libraries against three real nodes: they try everything once, then write while the leader is killed, comes back, hands over and
//! is stopped; then they try everything again and read back all that was acknowledged.
//!
//! Each is used as its documentation says, with its defaults. During a fault it may be told errors, as with any Redis; never may an
//! acknowledged write be lost, a reply be wrong, or a client be without an acknowledged write for more than [`RECOVERY_MAX`]. All of them write
//! at the same time, through the same faults. Replicas answer reads after READONLY only (`reads_on_replica: readonly`), as in a Redis cluster: some
//! clients ask any node when they have lost one, and would take an old answer for the leader's (ioredis does so all the same: `asks_replicas`).
//! `python`, `node`, `rust` and `c` hold one program per library, `python` and `php` one that writes pipelines of a million commands, `scripts/install-clients` installs what they need, and README's table of tested clients
//! is compared with what was run.

mod cli;
mod program;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use program::{Habits, Library, Program, Runner, Way};
use support::client::bulk;
use support::cluster::{Cluster, Local, PATIENCE, alone, status_of, wait_until_whole};
use support::eventually;

const ALL: &[Way] = &[Way::Plain, Way::Cluster, Way::Sentinel];

/// What is tried. Directories are those of `scripts/install-clients`.
const LIBRARIES: &[Library] = &[
    library("redis-py-newest", Runner::Python("redis-py-newest"), &["python/redis_py.py", "sync"]),
    library("redis-py-newest", Runner::Python("redis-py-newest"), &["python/redis_py.py", "asyncio"]),
    library("redis-py-older", Runner::Python("redis-py-older"), &["python/redis_py.py", "sync"]),
    library("redis-py-older", Runner::Python("redis-py-older"), &["python/redis_py.py", "asyncio"]),
    library("node-redis-newest", Runner::Node("node-newest"), &["node/node_redis.js"]),
    Library {
        // It knows no Sentinel yet.
        ways: &[Way::Plain, Way::Cluster],
        habits: Habits { waits_for_node: true, tells_redirects: false },
        ..library("node-redis-older", Runner::Node("node-older"), &["node/node_redis.js"])
    },
    library("ioredis-newest", Runner::Node("node-newest"), &["node/ioredis.js"]),
    library("ioredis-older", Runner::Node("node-older"), &["node/ioredis.js"]),
    Library {
        ways: &[Way::Plain, Way::Cluster],
        habits: Habits { waits_for_node: true, tells_redirects: true },
        ..library("redis-rs", Runner::Executable("redis_rs"), &["rust/src/bin/redis_rs.rs", "blocking"])
    },
    Library {
        ways: &[Way::Plain, Way::Cluster],
        habits: Habits { waits_for_node: false, tells_redirects: true },
        ..library("redis-rs", Runner::Executable("redis_rs"), &["rust/src/bin/redis_rs.rs", "async"])
    },
    // Its client for Sentinel insists on ROLE saying `sentinel`, as it does at the Sentinel port.
    Library {
        ways: &[Way::SentinelPort],
        ..library("redis-rs", Runner::Executable("redis_rs"), &["rust/src/bin/redis_rs.rs", "blocking"])
    },
    Library {
        ways: &[Way::SentinelPort],
        ..library("redis-rs", Runner::Executable("redis_rs"), &["rust/src/bin/redis_rs.rs", "async"])
    },
    library("fred", Runner::Executable("fred"), &["rust/src/bin/fred.rs"]),
    Library { ways: &[Way::Plain], ..library("hiredis", Runner::Executable("hiredis"), &["c/hiredis.c"]) },
];

const fn library(name: &'static str, runner: Runner, program: &'static [&'static str]) -> Library {
    Library { name, runner, program, ways: ALL, habits: Habits { waits_for_node: false, tells_redirects: false } }
}

/// Longest time until a client writes again: after a failover or handover; for plain clients, which wait for their node, after its restart.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Clients that try everything at the same time.
const CROWD: usize = 6;
/// Longest time until a crowd has tried everything, on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Errors that no change of the leadership causes.
const BUSY: [&str; 3] = ["TRYAGAIN", "timed out", "Timeout"];
/// Acknowledged rounds that show that a client writes.
const ROUNDS: usize = 20;

/// All clients, what was wrong so far, and how long their pauses were.
struct Story {
    /// To whom an orderly change of the leadership shows in no error.
    told_nothing: fn(&Program) -> bool,
    programs: Vec<Program>,
    problems: Vec<String>,
    table: Vec<String>,
}

impl Story {
    /// Starts the clients of these ways, which are told of all nodes.
    fn start(cluster: &Cluster, nodes: &[SocketAddr], ways: &[Way], told_nothing: fn(&Program) -> bool) -> Story {
        let sentinels: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.sentinel).collect();
        let mut story = Story { programs: Vec::new(), told_nothing, problems: Vec::new(), table: Vec::new() };
        let all = LIBRARIES.iter().flat_map(|library| library.ways.iter().map(move |way| (library, *way)));
        let all: Vec<(&Library, Way)> = all.filter(|(_, way)| ways.contains(way)).collect();
        for crowd in all.chunks(CROWD) {
            story.programs.extend(crowd.iter().map(|(library, way)| {
                let told = if *way == Way::SentinelPort { &sentinels } else { nodes };
                Program::start(library, *way, told)
            }));
            story.wait("start", START_MAX, everybody, |program| program.said().ready);
        }
        story.table = story.programs.iter().map(|p| format!("{:<34}", p.name)).collect();
        story
    }

    /// Waits until all clients of a kind have got somewhere; notes those that have not, or have ended.
    fn wait(&mut self, what: &str, patience: Duration, of: fn(&Program) -> bool, is_so: impl Fn(&Program) -> bool) {
        let deadline = Instant::now() + patience;
        let mut waiting: Vec<&mut Program> = self.programs.iter_mut().filter(|program| of(program)).collect();
        let mut ended = Vec::new();
        while !waiting.is_empty() && Instant::now() < deadline {
            waiting.retain_mut(|program| {
                if is_so(program) {
                    return false;
                }
                // It may have said it just before it ended.
                let code = program.ended().filter(|_| !is_so(program));
                ended.extend(code.map(|code| format!("{}: {what}: ended with {code}", program.name)));
                code.is_none()
            });
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let late = waiting
            .iter()
            .map(|p| format!("{}: {what}: not within {patience:?}; last error: {:?}", p.name, p.said().errors.last()));
        let late: Vec<String> = late.collect();
        self.problems.extend(late.into_iter().chain(ended));
    }

    /// Waits until clients of a kind have written anew.
    fn wait_for_writes(&mut self, what: &str, patience: Duration, of: fn(&Program) -> bool) {
        let before: Vec<(String, usize)> =
            self.programs.iter().map(|p| (p.name.clone(), p.said().acked.len())).collect();
        let more = |program: &Program| {
            let before = before.iter().find(|(name, _)| *name == program.name).expect("the same programs").1;
            program.said().acked.len() >= before + ROUNDS
        };
        self.wait(what, patience, of, more);
    }

    /// Adds a column to the table: pause and errors since the last one. In an orderly change there are no errors for those who are told nothing.
    fn column(&mut self, what: &str, orderly: bool) {
        for (program, row) in self.programs.iter().zip(&mut self.table) {
            let mut said = program.said();
            let (pause, errors) = (std::mem::take(&mut said.pause), std::mem::take(&mut said.errors));
            for line in std::mem::take(&mut said.stale) {
                let line = format!("{}: {what}: stale: {line}", program.name);
                if !orderly && asks_replicas(program) { println!("    {line}") } else { self.problems.push(line) }
            }
            write!(row, " | {:>5} ms, {:>2} errors", pause.as_millis(), errors.len()).expect("memory");
            if let Some(error) = errors.first() {
                println!("    {}: {what}: {error:.120}", program.name);
                // The others say that a busy machine held up the leader or the client.
                let excused =
                    |error: &String| BUSY.iter().any(|text| error.contains(text)) || is_lost_redirect(program, error);
                if orderly && (self.told_nothing)(program) && !errors.iter().all(excused) {
                    self.problems.push(format!("{}: {what}: {errors:?}", program.name));
                }
            }
        }
    }

    /// Lets the leader hand over.
    fn hand_over(&mut self, cluster: &Cluster) {
        let (leader, _) = cluster.wait_until_whole();
        assert!(cluster.nodes[leader].client().call("DATAKEEPER HANDOVER").is_ok());
        wait_for_successor(&cluster.addrs(), cluster.nodes[leader].addr);
        self.wait_for_writes("handover", RECOVERY_MAX, everybody);
        self.column("handover", true);
    }

    /// Lets all clients try everything again and read back what was acknowledged; looks for it with other eyes, too.
    ///
    /// # Panics
    /// If anything was wrong, from the start to now.
    fn finish(mut self, cluster: Cluster) {
        let mut leader = cluster.roles().0.client();
        for first in (0..self.programs.len()).step_by(CROWD) {
            self.programs[first..].iter_mut().take(CROWD).for_each(Program::finish);
            self.wait("the end", START_MAX, Program::is_finishing, |program| program.said().verified.is_some());
        }
        for program in &self.programs {
            let said = program.said();
            if said.verified.is_some_and(|verified| verified != said.acked.len()) {
                self.problems.push(format!("{}: verified {:?} of {}", program.name, said.verified, said.acked.len()));
            }
            let lines: Vec<String> =
                said.wrong.iter().take(20).map(|line| format!("{}: {line}", program.name)).collect();
            self.problems.extend(lines);
            if !is_in_readme(&said.library) {
                self.problems
                    .push(format!("{}: README's table of clients does not name {}", program.name, said.library));
            }
            let keys = said.acked.iter().flat_map(|n| keys(&program.name, *n).into_iter().map(move |key| (key, *n)));
            let keys: Vec<(String, u64)> = keys.collect();
            let requests: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["GET", key]).collect();
            for ((key, n), found) in keys.iter().zip(leader.pipeline(&requests)) {
                if found != bulk(&n.to_string()) {
                    self.problems.push(format!("{}: {key} was acknowledged, and is {found:?}", program.name));
                }
            }
        }
        self.table.iter().for_each(|row| println!("{row}"));
        assert!(self.problems.is_empty(), "\n{}", self.problems.join("\n"));
        cluster.finish(&[]);
    }
}

fn everybody(_: &Program) -> bool {
    true
}

/// Whether a client had its transaction redirected and tells its user something else: when MOVED and EXECABORT arrive together, as they
/// do here and in Redis Cluster, node-redis 4 hears the second one first and does not follow (docs/CLIENTS.md).
fn is_lost_redirect(program: &Program, error: &str) -> bool {
    program.name == "node-redis-older.cluster" && error.contains("EXECABORT")
}

/// Whether a client, when it loses a connection, asks any node again for what it waited for, and has sent READONLY to replicas unasked: what it reads
/// then may be old, here and in Redis Cluster (docs/CLIENTS.md).
fn asks_replicas(program: &Program) -> bool {
    program.name.starts_with("ioredis-") && program.name.ends_with(".cluster")
}

/// A cluster with a setting, and its nodes with the leader first.
fn start(setting: &str) -> Option<(Cluster, Vec<SocketAddr>)> {
    let cluster = Cluster::start(&["--set", setting])?;
    let (leader, _) = cluster.wait_until_whole();
    let mut nodes = cluster.addrs();
    nodes.rotate_left(leader);
    Some((cluster, nodes))
}

/// Whether README says that this library was tried in this version. Debian says which hiredis there is.
fn is_in_readme(library: &str) -> bool {
    let Some((name, version)) = library.split_once(' ') else { return false };
    let row = include_str!("../../README.md").lines().find(|line| line.starts_with(&format!("| {name} |")));
    row.is_some_and(|row| name == "hiredis" || row.contains(version))
}

/// The keys of a round, as `python/story.py` has them.
fn keys(name: &str, n: u64) -> Vec<String> {
    let parts = if n % 5 < 2 { 2 } else { 1 };
    (0..parts).map(|part| format!("{{{name}}}:{n}:{part}")).collect()
}

/// Waits until another node than `former` leads.
fn wait_for_successor(nodes: &[SocketAddr], former: SocketAddr) {
    eventually(PATIENCE, "another node leads", || {
        let leads = |addr: &SocketAddr| status_of(*addr).is_ok_and(|status| status.role == "leader");
        if nodes.iter().any(|addr| *addr != former && leads(addr)) { Ok(()) } else { Err("nobody yet") }
    });
}

#[test]
#[ignore = "needs what scripts/install-clients installs; scripts/test clients runs it"]
fn client_libraries_go_through_a_killed_leader_a_handover_and_a_stop() {
    let _alone = alone();
    let Some((mut cluster, nodes)) = start("reads_on_replica=readonly") else { return };
    cli::tour(&cluster);
    let mut story = Story::start(&cluster, &nodes, &[ALL, &[Way::SentinelPort]].concat(), Program::follows_redirects);
    story.wait_for_writes("calm", RECOVERY_MAX, everybody);
    story.column("calm", true);
    for killed in [true, false] {
        let (leader, _) = cluster.wait_until_whole();
        let what = if killed { "leader killed" } else { "leader stopped" };
        if killed {
            cluster.nodes[leader].process.kill();
        } else {
            assert!(cluster.nodes[leader].process.terminate().success(), "exit code of a node that was stopped");
        }
        let struck = Instant::now();
        wait_for_successor(&nodes, cluster.nodes[leader].addr);
        story.wait_for_writes(what, RECOVERY_MAX.saturating_sub(struck.elapsed()), Program::finds_leader);
        cluster.nodes[leader].process.start();
        story.wait_for_writes(&format!("{what}, and back"), RECOVERY_MAX, everybody);
        story.column(what, !killed);
        cli::tour(&cluster);
        if killed {
            story.hand_over(&cluster);
        }
    }
    story.finish(cluster);
}

#[test]
#[ignore = "needs what scripts/install-clients installs; scripts/test clients runs it"]
fn who_is_at_a_replica_stays_there_if_it_passes_writes_on() {
    let _alone = alone();
    let Some((mut cluster, mut nodes)) = start("writes_on_replica=proxy") else { return };
    nodes.rotate_left(1);
    // Plain clients begin there; clients of Sentinel find themselves there after the handover.
    let mut story = Story::start(&cluster, &nodes, &[Way::Plain, Way::Sentinel, Way::SentinelPort], everybody);
    story.wait_for_writes("calm", RECOVERY_MAX, everybody);
    story.column("calm", true);
    let (leader, _) = cluster.wait_until_whole();
    cluster.nodes[leader].process.kill();
    wait_for_successor(&nodes, cluster.nodes[leader].addr);
    story.wait_for_writes("leader killed", RECOVERY_MAX, everybody);
    cluster.nodes[leader].process.start();
    story.column("leader killed", false);
    story.hand_over(&cluster);
    story.finish(cluster);
}

/// dragonflydb/dragonfly#3999 and #5952, redis-rs/redis-rs#1955: libraries that write all of a pipeline and read then, with a million commands, as pipelines and as one
/// transaction.
#[test]
#[ignore = "needs what scripts/install-clients installs; scripts/test clients runs it"]
fn pipelines_of_a_million_commands_are_answered() {
    let _alone = alone();
    let local = Local::start(&[]);
    let (leader, _) = wait_until_whole(&local.addrs);
    let node = local.addrs[leader];
    let python = |name: &str| program::installed().join(name).join("bin/python");
    for (interpreter, script) in [
        (python("redis-py-newest"), "python/pipelines.py"),
        (python("redis-py-older"), "python/pipelines.py"),
        ("php".into(), "php/pipelines.php"),
    ] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
        let mut command = Command::new(&interpreter);
        command.arg(script).args([node.ip().to_string(), node.port().to_string()]);
        let status = command.status().unwrap_or_else(|error| panic!("{}: {error}", interpreter.display()));
        assert!(status.success(), "{} ended with {status}", interpreter.display());
    }
    local.finish();
}
