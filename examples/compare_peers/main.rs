//! DataKeeper side by side with Redis and Valkey: CPU per operation, throughput, latencies, memory, replication, in one alternated run.
//!
//! `scripts/compare-peers` builds and starts it. All servers run at once, pinned to one core, the load on another; in each round every server gets the
//! same load in turn, in an order that rotates, and each figure is compared with that of the same round. What is said is the median of these
//! ratios, with the least and the greatest. A round in which other processes took more than 5 % of the machine is marked, and left out where enough remain.
//!
//! CPU is the time on the processor of all threads of a server (`schedstat`), so it means the same on a busy machine; throughput and latency mean
//! something only while the server used its core to the full, which the column `busy` shows.
//!
//! Not here: failover (`scripts/faults`).

mod crosscheck;
mod eviction;
mod expiry;
mod fullsync;
mod load;
mod report;
mod server;
mod threads;
/// What a test has for a ZooKeeper of its own.
#[allow(dead_code)]
#[path = "../../tests/support"]
mod support {
    pub mod network;
    pub mod tools;
    pub mod zookeeper;
}

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Parser;
use load::{Kind, Load, Outcome, Work};
use report::{Report, Row};
use server::{Program, Server, fail, machine_ticks};

/// Connections of every load.
const CONNECTIONS: usize = 50;
const DEPTHS: [usize; 3] = [1, 16, 64];
/// Loads on keys that hold values.
const KINDS: [Kind; 4] = [Kind::Set, Kind::Get, Kind::Mix, Kind::Mget];
/// Bytes of all values of one pipeline in the part `sizes`; more is left out.
const PIPELINE_BYTES_MAX: usize = 1 << 20;
/// Sizes of values that are a bit more than the allocator's, or a bit less, and how many bytes of them a server is given.
const VALUES: [usize; 5] = [240, 500, 880, 4090, 16_384];
const VALUES_BYTES: u64 = 128 << 20;
/// Busy share of other processes from which a round is marked.
const OTHERS_MAX: f64 = 0.05;

#[derive(Parser)]
#[command(about = "Compares DataKeeper with Redis and Valkey in one alternated run")]
struct Options {
    /// DataKeeper's binary.
    #[arg(long)]
    datakeeper: PathBuf,
    /// A peer, as in redis=/usr/bin/redis-server; may be repeated.
    #[arg(long = "peer", value_name = "NAME=PATH", value_parser = peer)]
    peers: Vec<Program>,
    /// Rounds of each load.
    #[arg(long, default_value_t = 7, value_parser = at_least_one::<usize>)]
    rounds: usize,
    /// Seconds of each load, at most 30.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Keys that loads draw from.
    #[arg(long, default_value_t = 1_000_000, value_parser = at_least_one::<u64>)]
    keys: u64,
    /// Keys up to which the table grows while stalls are looked for.
    #[arg(long, default_value_t = 16_000_000, value_parser = at_least_one::<u64>)]
    grow_to: u64,
    /// Keys that expire together, or that a replica is filled with.
    #[arg(long, default_value_t = 5_000_000, value_parser = at_least_one::<u64>)]
    many: u64,
    /// Core of the servers.
    #[arg(long, default_value = "0")]
    core: String,
    /// Parts to run: commands, crosscheck, sizes, open, memory, connections, growth, replicated, threads, expiry, eviction, fullsync. All by default.
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<String>,
    /// Folder for results.json and the plots.
    #[arg(long, default_value = "target/compare-peers")]
    out: PathBuf,
}

fn at_least_one<N: FromStr + From<u8> + PartialOrd>(text: &str) -> Result<N, String> {
    text.parse().ok().filter(|number| *number >= N::from(1)).ok_or_else(|| "a whole number from 1 on".to_string())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| *s > 0.0 && *s <= 30.0).ok_or_else(|| "more than 0, at most 30".to_string())
}

fn peer(text: &str) -> Result<Program, String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=PATH, as in redis=/usr/bin/redis-server")?;
    if name.is_empty() || path.is_empty() {
        return Err("neither NAME nor PATH may be empty".to_string());
    }
    Ok(Program { name: name.to_string(), path: path.into(), ours: false })
}

/// The line by which a program tells its version; a failure if it is no server of the kind that it is to be.
fn version(program: &Program) -> String {
    let (name, path) = (&program.name, program.path.display());
    let output = server::bound(&program.path).arg("--version").output();
    let output = output.unwrap_or_else(|error| fail(&format!("setpriv cannot be started: {error}")));
    let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let kind = if program.ours { "datakeeper " } else { "server v=" };
    if !output.status.success() || !said.contains(kind) {
        let said = said + &String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("nothing");
        fail(&format!("{name}: {path} --version does not say \"{kind}…\": {said}"));
    }
    said
}

/// One measurement.
struct Sample {
    operations: f64,
    seconds: f64,
    cpu_ns: f64,
    outcome: Outcome,
    others: f64,
}

impl Sample {
    fn cpu_per_op(&self) -> f64 {
        self.cpu_ns / self.operations
    }
}

/// Runs a load and looks at what it cost.
fn measure(server: &Server, run: impl FnOnce() -> std::io::Result<Outcome>) -> Sample {
    let (busy, own) = (machine_ticks(), own_cpu_ns());
    let (cpu, begin) = (server.cpu_ns(), Instant::now());
    let outcome = run().unwrap_or_else(|error| {
        server.check();
        fail(&format!("{}: {error}", server.name))
    });
    let (cpu_ns, wall) = (server.cpu_ns() - cpu, begin.elapsed());
    let now = machine_ticks();
    let ticks = (now.0 - busy.0 + now.1 - busy.1) as f64 * 1e7;
    let others = (ticks - (cpu_ns + own_cpu_ns() - own) as f64) / wall.as_nanos() as f64;
    Sample {
        operations: outcome.operations as f64,
        seconds: outcome.elapsed.as_secs_f64(),
        cpu_ns: cpu_ns as f64,
        outcome,
        others: others.max(0.0),
    }
}

/// CPU time of this thread and of the children that were waited for, ns.
fn own_cpu_ns() -> u64 {
    let own = fs::read_to_string("/proc/self/schedstat").expect("Linux");
    let own: u64 = own.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds first");
    // Counted from the state, which follows the name: what user code and the kernel did for children, in ticks of 10 ms.
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("the name is in brackets").split_whitespace();
    own + fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000_000
}

/// The name of a part, and what runs it.
type Part = (&'static str, fn(&mut Bench));

struct Bench {
    options: Options,
    programs: Vec<Program>,
    report: Report,
}

impl Bench {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    fn start_all(&self) -> Vec<Server> {
        self.programs.iter().map(|program| Server::start(program, &self.options.core)).collect()
    }

    /// Alternated rounds of one load over all servers; the rows of the table.
    fn rounds(&mut self, part: &str, label: &str, servers: &[Server], loads: &mut [Load], works: &[Work]) {
        let time = self.time();
        self.alternate(part, label, servers, |i| loads[i].closed(works[i], time));
    }

    /// The same of whatever loads a server, which is told by its place.
    fn alternate(
        &mut self,
        part: &str,
        label: &str,
        servers: &[Server],
        mut run: impl FnMut(usize) -> std::io::Result<Outcome>,
    ) {
        let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.rounds {
            for turn in 0..servers.len() {
                let i = (round + turn) % servers.len();
                samples[i].push(measure(&servers[i], || run(i)));
            }
        }
        let calm: Vec<usize> =
            (0..self.options.rounds).filter(|round| samples.iter().all(|s| s[*round].others < OTHERS_MAX)).collect();
        let rounds = if calm.len() >= 3 { calm.clone() } else { (0..self.options.rounds).collect() };
        let column = |i: usize, figure: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
            rounds.iter().map(|round| figure(&samples[i][*round])).collect()
        };
        for (i, server) in servers.iter().enumerate() {
            let row = Row {
                part: part.to_string(),
                label: label.to_string(),
                server: server.name.clone(),
                calm: calm.len(),
                rounds: self.options.rounds,
                cpu_ns: column(i, &Sample::cpu_per_op),
                per_second: column(i, &|s| s.operations / s.seconds),
                busy: column(i, &|s| s.cpu_ns / 1e9 / s.seconds),
                p50_us: column(i, &|s| s.outcome.shares_us()[0]),
                p99_us: column(i, &|s| s.outcome.shares_us()[1]),
                p999_us: column(i, &|s| s.outcome.shares_us()[2]),
            };
            self.report.add(row);
        }
        self.report.print_last(servers.len());
    }

    fn loads(servers: &[Server]) -> Vec<Load> {
        servers.iter().map(|server| Load::connect(&server.addrs(), CONNECTIONS).expect("connections")).collect()
    }

    fn fill(loads: &mut [Load], keys: u64, value_bytes: usize) {
        for load in loads {
            let work = Work::new(Kind::Set, 64, keys, value_bytes);
            load.fill(work, 0, keys).expect("the server takes writes");
        }
    }

    fn commands(&mut self) {
        let servers = self.start_all();
        let mut loads = Bench::loads(&servers);
        let keys = self.options.keys;
        Bench::fill(&mut loads, keys, 100);
        for depth in DEPTHS {
            for kind in KINDS {
                let work = Work::new(kind, depth, keys, 100);
                let label = format!("{}, P={depth}", kind.name());
                self.rounds("commands", &label, &servers, &mut loads, &vec![work; servers.len()]);
            }
        }
        // Counters on servers that hold nothing else; each is made beforehand, so that no round makes keys.
        drop((servers, loads));
        let servers = self.start_all();
        let mut loads = Bench::loads(&servers);
        for load in &mut loads {
            load.fill(Work::new(Kind::Incr, 64, keys, 0), 0, keys).expect("the server takes writes");
        }
        for depth in DEPTHS {
            let work = Work::new(Kind::Incr, depth, keys, 0);
            let label = format!("INCR, P={depth}");
            self.rounds("commands", &label, &servers, &mut loads, &vec![work; servers.len()]);
        }
    }

    fn sizes(&mut self) {
        for (value_bytes, keys) in [(32, 1_000_000), (1024, 300_000), (16_384, 30_000)] {
            let servers = self.start_all();
            let mut loads = Bench::loads(&servers);
            let keys = keys.min(self.options.keys);
            Bench::fill(&mut loads, keys, value_bytes);
            for depth in DEPTHS {
                for kind in KINDS {
                    let values = if kind == Kind::Mget { 10 * depth } else { depth };
                    if values * value_bytes <= PIPELINE_BYTES_MAX {
                        let work = Work::new(kind, depth, keys, value_bytes);
                        let label = format!("{} of {value_bytes} B, P={depth}", kind.name());
                        self.rounds("sizes", &label, &servers, &mut loads, &vec![work; servers.len()]);
                    }
                }
            }
        }
    }

    /// Latencies at the same fixed rate for all: 60 % of what the slowest can do in a closed loop.
    fn open(&mut self) {
        let servers = self.start_all();
        let mut loads = Bench::loads(&servers);
        let keys = self.options.keys;
        Bench::fill(&mut loads, keys, 100);
        let work = Work::new(Kind::Mix, 1, keys, 100);
        let most = loads.iter_mut().map(|load| {
            let outcome = load.closed(work, self.time()).expect("an answer");
            outcome.operations as f64 / outcome.elapsed.as_secs_f64()
        });
        let rate = 0.6 * most.fold(f64::MAX, f64::min);
        let mut lines = Vec::new();
        for (server, load) in servers.iter().zip(&mut loads) {
            let figures: Vec<Vec<f64>> = (0..self.options.rounds)
                .map(|_| load.open(work, rate, self.time()).expect("an answer").shares_us().to_vec())
                .collect();
            lines.push((server.name.clone(), report::medians(&figures)));
        }
        let title = format!("Open loop, 1:9, {rate:.0} requests/s: latency from when a request was due, µs");
        self.report.table("open", &title, &["p50", "p99", "p99.9"], lines);
    }

    /// Bytes per key at several sizes of the table, because tables grow in steps; and of values where the allocator's steps are wide.
    fn memory(&mut self) {
        let keys = self.options.keys;
        let counts: Vec<u64> = (6..=13).map(|n| n * keys / 10).collect();
        for value_bytes in [32, 100] {
            let [mut used, mut resident] = [Vec::new(), Vec::new()];
            for program in &self.programs {
                let per_key = self.bytes_per_key(program, value_bytes, &counts);
                for (lines, which) in [(&mut used, 0), (&mut resident, 1)] {
                    let mut figures: Vec<f64> = per_key.iter().map(|bytes| bytes[which]).collect();
                    figures.insert(0, figures.iter().sum::<f64>() / figures.len() as f64);
                    lines.push((program.name.clone(), figures));
                }
            }
            let names: Vec<String> = counts.iter().map(|count| format!("{count} keys")).collect();
            let columns: Vec<&str> = ["mean"].into_iter().chain(names.iter().map(String::as_str)).collect();
            for (lines, what) in [(used, "used_memory"), (resident, "resident")] {
                let title = format!("Bytes per key, 16 + {value_bytes} B, by the number of keys: {what}");
                self.report.table("memory", &title, &columns, lines);
            }
        }
        let per_value = |program: &Program| {
            let of = |value_bytes: usize| {
                let count = (VALUES_BYTES / (16 + value_bytes as u64)).min(keys);
                self.bytes_per_key(program, value_bytes, &[count])[0]
            };
            (program.name.clone(), VALUES.into_iter().flat_map(of).collect())
        };
        let lines = self.programs.iter().map(per_value).collect();
        let names: Vec<String> =
            VALUES.iter().flat_map(|bytes| [format!("{bytes} B, used"), format!("{bytes} B, resident")]).collect();
        let columns: Vec<&str> = names.iter().map(String::as_str).collect();
        let title = format!("Bytes per key of 16 B by the size of its value, {} MiB of these", VALUES_BYTES >> 20);
        self.report.table("memory", &title, &columns, lines);
    }

    /// What a fresh server uses and has resident per key, at each of these numbers of keys in turn.
    fn bytes_per_key(&self, program: &Program, value_bytes: usize, counts: &[u64]) -> Vec<[f64; 2]> {
        let server = Server::start(program, &self.options.core);
        let memory = || [server.used_memory(), server.resident() as f64];
        let before = memory();
        let mut load = Load::connect(&server.addrs(), CONNECTIONS).expect("connections");
        let mut from = 0;
        let mut grow = |upto: u64| {
            load.fill(Work::new(Kind::Set, 64, upto, value_bytes), from, upto).expect("the server takes writes");
            from = upto;
            let now = memory();
            [0, 1].map(|i| (now[i] - before[i]) / upto as f64)
        };
        counts.iter().map(|upto| grow(*upto)).collect()
    }

    fn connections(&mut self) {
        const IDLE: usize = 10_000;
        let mut lines = Vec::new();
        for program in &self.programs {
            let server = Server::start(program, &self.options.core);
            let before = server.resident() as f64;
            let load = Load::connect(&server.addrs(), IDLE - 10).expect("10,000 open files: ulimit -n");
            let answered = server.ask("PING").is_ok(); // it has accepted all that came before
            assert!(answered, "{} does not answer", server.name);
            lines.push((server.name.clone(), vec![(server.resident() as f64 - before) / IDLE as f64]));
            drop(load);
        }
        self.report.table("connections", "Resident bytes per idle connection, of 10,000", &["bytes"], lines);
    }

    /// What one client waits at most while the table grows.
    fn growth(&mut self) {
        let upto = self.options.grow_to;
        let mut lines = Vec::new();
        for program in &self.programs {
            let server = Server::start(program, &self.options.core);
            let mut load = Load::connect(&server.addrs(), 1).expect("a connection");
            let work = Work::new(Kind::Set, 16, upto, 32);
            let outcome = load.fill(work, 0, upto).expect("the server takes writes");
            let ms = |ns: u64| ns as f64 / 1e6;
            let l = &outcome.latencies;
            lines.push((server.name.clone(), vec![ms(l.at(0.9999)), ms(l.at(0.999_99)), ms(l.max)]));
        }
        let title =
            format!("Growing to {upto} keys of 16 + 32 B, one connection, 16 SETs at a time: latency of these, ms");
        self.report.table("growth", &title, &["p99.99", "p99.999", "max"], lines);
    }

    /// A leader and two replicas on one core. Ours answers when both hold the write; a peer at once, or after WAIT.
    fn replicated(&mut self) {
        let core = self.options.core.clone();
        let groups: Vec<(Server, Vec<Server>)> = self
            .programs
            .iter()
            .map(|program| {
                if program.ours {
                    return (Server::start_three(program, &core), Vec::new());
                }
                let leader = Server::start(program, &core);
                let replicas = (0..2).map(|_| Server::start_replica(program, &core, &leader)).collect();
                (leader, replicas)
            })
            .collect();
        let (servers, _replicas): (Vec<Server>, Vec<Vec<Server>>) = groups.into_iter().unzip();
        let mut loads = Bench::loads(&servers);
        let keys = self.options.keys;
        Bench::fill(&mut loads, keys, 100);
        for depth in DEPTHS {
            for (wait, what) in [(false, "peers asynchronous"), (true, "peers with WAIT 2")] {
                let works: Vec<Work> = self
                    .programs
                    .iter()
                    .map(|program| {
                        let kind = if wait && !program.ours { Kind::SetWait } else { Kind::Set };
                        Work::new(kind, depth, keys, 100)
                    })
                    .collect();
                let label = format!("SET to two replicas, P={depth}, {what}");
                self.rounds("replicated", &label, &servers, &mut loads, &works);
            }
        }
    }
}

fn main() {
    let options = Options::parse();
    let ours = Program { name: "datakeeper".to_string(), path: options.datakeeper.clone(), ours: true };
    let programs: Vec<Program> = [ours].into_iter().chain(options.peers.iter().cloned()).collect();
    for (i, program) in programs.iter().enumerate() {
        if programs[..i].iter().any(|other| other.name == program.name) {
            fail(&format!("two servers have the name {}", program.name));
        }
    }
    let wanted = |part: &str| options.parts.is_empty() || options.parts.iter().any(|name| name == part);
    let parts: [Part; 12] = [
        ("commands", Bench::commands),
        ("crosscheck", Bench::crosscheck),
        ("sizes", Bench::sizes),
        ("open", Bench::open),
        ("memory", Bench::memory),
        ("connections", Bench::connections),
        ("growth", Bench::growth),
        ("replicated", Bench::replicated),
        ("threads", Bench::threads),
        ("expiry", Bench::expiry),
        ("eviction", Bench::eviction),
        ("fullsync", Bench::fullsync),
    ];
    if let Some(unknown) = options.parts.iter().find(|name| parts.iter().all(|(part, _)| part != name)) {
        fail(&format!("there is no part {unknown}"));
    }
    let parts: Vec<_> = parts.into_iter().filter(|(part, _)| wanted(part)).collect();
    if let Err(error) = fs::create_dir_all(&options.out) {
        fail(&format!("--out {}: {error}", options.out.display()));
    }
    for program in &programs {
        println!("{}: {}", program.name, version(program));
    }
    let mut bench = Bench { programs, report: Report::new(), options };
    for (name, run) in parts {
        println!("\n## {name}\n");
        run(&mut bench);
    }
    bench.report.write(&bench.options.out).expect("the results can be written");
    println!("\nresults and plots: {}", bench.options.out.display());
}
