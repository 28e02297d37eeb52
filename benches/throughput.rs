//! Question: what does one SET or GET cost a whole node, sockets included, at pipeline depths 1, 16 and 64; and replicated twice?
//!
//! Back of the envelope: at depth 1 an operation is one `recv`, one `send` and a share of one `epoll_wait`, 5 to 6 µs of CPU on
//! loopback, most of it the kernel's; ours is below 1 µs. At depth 16 the system calls are shared: 0.4 µs; at depth 64 the
//! command itself shows, 0.2 µs. Redis 7.0 takes about 7 / 1.2 / 0.85 µs on the same core. A write that two replicas hold
//! costs the leader some 10 % more CPU, if its log leaves once per tick: at 50 clients and depth 1, at most one send to
//! a replica for every 8 writes.
//!
//! Run: `cargo bench --bench throughput`, on a quiet machine with two cores or more. `cpu_per_op` is the CPU time of the node's own
//! threads (from /proc, so the load generator does not count) and bears a busy machine; `wall_per_op` does not. The node's
//! threads are put on core 0 and the client's on core 1 with `taskset`, if it is there. `-- --test` runs everything once, small.
//!
//! It would surprise us if: depth 64 cost more than half of depth 16 (then the batch does not reach the Keeper whole, or nothing is
//! prefetched); GET cost more than SET; a replicated write cost twice an unreplicated one; sends per write came near 1.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use datakeeper::base::jitter::Jitter;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::KeeperConfig;
use datakeeper::shell::coordination::in_process::InProcess;
use datakeeper::shell::{Coordination, Options, Server};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const CLIENTS: u64 = 50;
const DEPTHS: [u64; 3] = [1, 16, 64];
const VALUE_BYTES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Set,
    Get,
}

impl Kind {
    /// One request, its key all zeros, and where the key's digits are.
    fn template(self) -> (Vec<u8>, usize) {
        let (head, tail) = match self {
            Kind::Set => {
                ("*3\r\n$3\r\nSET\r\n$16\r\nkey:", format!("\r\n${VALUE_BYTES}\r\n{}\r\n", "v".repeat(VALUE_BYTES)))
            }
            Kind::Get => ("*2\r\n$3\r\nGET\r\n$16\r\nkey:", "\r\n".to_owned()),
        };
        (format!("{head}000000000000{tail}").into_bytes(), head.len())
    }

    /// Bytes of the reply; GET's keys all exist.
    fn reply_bytes(self) -> u64 {
        match self {
            Kind::Set => "+OK\r\n".len() as u64,
            Kind::Get => (format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2) as u64,
        }
    }
}

/// Which keys a round names.
#[derive(Clone, Copy)]
enum Keys {
    /// Each of them once, in order, from 0.
    Each,
    /// Drawn from 0 to this number.
    Among(u64),
}

/// So many operations over all connections, `depth` at a time on each.
#[derive(Clone, Copy)]
struct Round {
    kind: Kind,
    depth: u64,
    operations: u64,
    keys: Keys,
}

/// The load generator: a thread with 50 connections.
struct Load {
    rounds: tokio::sync::mpsc::UnboundedSender<Round>,
    done: mpsc::Receiver<Duration>,
}

impl Load {
    fn connect(server: &Server) -> Load {
        let addr = server.client_addr();
        let (rounds, mut wanted) = tokio::sync::mpsc::unbounded_channel();
        let (report, done) = mpsc::channel();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(async {
                let mut sockets = Vec::new();
                for _ in 0..CLIENTS {
                    let socket = TcpStream::connect(addr).await.expect("the node listens");
                    socket.set_nodelay(true).expect("NODELAY");
                    sockets.push(socket);
                }
                while let Some(round) = wanted.recv().await {
                    let begin = Instant::now();
                    join_all(sockets.iter_mut().zip(0..).map(|(socket, client)| run(socket, client, round))).await;
                    if report.send(begin.elapsed()).is_err() {
                        return;
                    }
                }
            });
        };
        std::thread::Builder::new().name("load".to_owned()).spawn(body).expect("a thread");
        Load { rounds, done }
    }

    /// Runs a round to its end; how long it took.
    fn run(&self, round: Round) -> Duration {
        self.rounds.send(round).expect("the load generator lives");
        self.done.recv().expect("the load generator lives")
    }
}

/// One client's part of a round.
async fn run(socket: &mut TcpStream, client: u64, round: Round) {
    let Round { kind, depth, operations, keys } = round;
    let (template, digits) = kind.template();
    let mut pipeline = template.repeat(depth as usize);
    let mut jitter = Jitter::new(client << 32 | operations);
    let mut replies = vec![0; 64 << 10];
    let mine = operations / CLIENTS;
    let mut next = client * mine;
    let mut left = mine;
    while left > 0 {
        let now = left.min(depth);
        for request in pipeline.chunks_exact_mut(template.len()).take(now as usize) {
            let key = match keys {
                Keys::Each => next,
                Keys::Among(keys) => jitter.below(keys),
            };
            next += 1;
            write_digits(&mut request[digits..digits + 12], key);
        }
        socket.write_all(&pipeline[..now as usize * template.len()]).await.expect("the node reads");
        let mut expected = now * kind.reply_bytes();
        while expected > 0 {
            let read = socket.read(&mut replies).await.expect("the node answers") as u64;
            assert!(replies[0] != b'-', "{}", String::from_utf8_lossy(&replies[..read.min(100) as usize]));
            assert!(read > 0 && read <= expected, "{read} bytes, at most {expected} were expected");
            expected -= read;
        }
        left -= now;
    }
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Threads of this process whose name begins so.
fn threads(prefix: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").filter_map(Result::ok);
    let named = tasks
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with(prefix)));
    named.filter_map(|task| task.file_name().into_string().ok()).collect()
}

/// CPU time of those threads so far.
fn cpu(threads: &[String]) -> Duration {
    let nanos = threads.iter().map(|thread| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).expect("CONFIG_SCHED_INFO");
        stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).expect("nanoseconds first")
    });
    Duration::from_nanos(nanos.sum())
}

/// Puts threads on one core, if that can be done.
fn pin(threads: &[String], core: &str) {
    for thread in threads {
        let mut taskset = Command::new("taskset");
        taskset.args(["-pc", core, thread]).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = taskset.status(); // one core only, or no taskset: numbers are noisier, nothing else
    }
}

/// Nodes of one cluster, all in sync; the first leads.
fn start(names: &[&str]) -> Vec<Server> {
    let service = InProcess::new();
    let start = |name: &&str| {
        let config = KeeperConfig::new(name.parse().expect("a node name"), "bench");
        Server::start(Options::new(config, Coordination::InProcess(service.clone()))).expect("loopback ports")
    };
    let mut servers = vec![start(&names[0])];
    until(|| servers[0].node().role() == Role::Leader);
    servers.extend(names[1..].iter().map(start));
    until(|| servers[0].node().status().nodes.iter().filter(|node| node.in_sync).count() == names.len());
    servers
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "the nodes do not get ready");
        std::thread::yield_now();
    }
}

/// Measures rounds of at least `depth` operations per client; the answer is for `iterations` operations.
fn measure(load: &Load, round: Round, iterations: u64, cost: impl Fn(&dyn Fn() -> Duration) -> Duration) -> Duration {
    let step = CLIENTS * round.depth;
    let operations = iterations.div_ceil(step) * step;
    let cost = cost(&|| load.run(Round { operations, ..round }));
    Duration::from_nanos((cost.as_nanos() * u128::from(iterations) / u128::from(operations)) as u64)
}

fn main() {
    let small = std::env::args().any(|arg| arg == "--test");
    let keys = if small { 10_000 } else { 1_000_000 };
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();

    let servers = start(&["solo"]);
    let load = Load::connect(&servers[0]);
    load.run(Round { kind: Kind::Set, depth: 64, operations: keys, keys: Keys::Each });
    let node = threads("solo/");
    pin(&node, "0");
    pin(&threads("load"), "1");
    for (name, of_cpu) in [("cpu_per_op", true), ("wall_per_op", false)] {
        let mut group = criterion.benchmark_group(name);
        for kind in [Kind::Get, Kind::Set] {
            for depth in DEPTHS {
                let round = Round { kind, depth, operations: 0, keys: Keys::Among(keys) };
                group.bench_function(BenchmarkId::new(format!("{kind:?}"), depth), |bencher| {
                    bencher.iter_custom(|iterations| {
                        measure(&load, round, iterations, |run| {
                            let before = cpu(&node);
                            let wall = run();
                            if of_cpu { cpu(&node) - before } else { wall }
                        })
                    });
                });
            }
        }
        group.finish();
    }
    drop(load);
    drop(servers);

    let servers = start(&["lead", "foll1", "foll2"]);
    let load = Load::connect(&servers[0]);
    let (leader, replicas) = (threads("lead/"), [threads("foll1/"), threads("foll2/")].concat());
    for group in [&leader, &replicas] {
        pin(group, "0");
    }
    pin(&threads("load"), "1");
    for (name, counted) in [("replicated_leader_cpu_per_op", &leader), ("replicated_replicas_cpu_per_op", &replicas)] {
        let mut group = criterion.benchmark_group(name);
        for depth in DEPTHS {
            let round = Round { kind: Kind::Set, depth, operations: 0, keys: Keys::Among(keys) };
            group.bench_function(BenchmarkId::new("Set", depth), |bencher| {
                bencher.iter_custom(|iterations| {
                    measure(&load, round, iterations, |run| {
                        let before = cpu(counted);
                        run();
                        cpu(counted) - before
                    })
                });
            });
        }
        group.finish();
    }
    let (operations, before) = (CLIENTS * if small { 10 } else { 2_000 }, servers[0].link_sends());
    load.run(Round { kind: Kind::Set, depth: 1, operations, keys: Keys::Among(keys) });
    let sends = (servers[0].link_sends() - before) as f64 / 2.0; // per replica
    println!("sends to a replica per write, {CLIENTS} clients, depth 1: 1/{:.1}", operations as f64 / sends);

    criterion.final_summary();
}
