//! Question: what does one SET or GET cost a whole node, sockets included, at pipeline depths 1, 16 and 64; and replicated twice?
//!
//! Back of the envelope: at depth 1 an operation is one `recv`, one `send` and a share of one `epoll_wait`, 5 to 6 µs of CPU on
//! loopback, most of it the kernel's; ours is below 1 µs. At depth 16 the system calls are shared: 0.4 µs; at depth 64 the
//! command itself shows, 0.2 µs. Redis 7.0 takes about 7 / 1.2 / 0.85 µs on the same core. A write that two replicas hold
//! costs the leader some 10 % more CPU, if its log leaves once per tick: at 50 clients and depth 1, at most one send to
//! a replica for every 8 writes.
//!
//! Run: `cargo bench --bench throughput` (some two minutes), on a quiet machine with two cores or more. `cpu_per_op` is the CPU time of the node's
//! own threads (from /proc, so the load generator does not count) and bears a busy machine; `wall_per_op` does not. The node's
//! threads are put on core 0 and the client's on core 1 with `taskset`, if it is there. `-- --test` runs everything once, small.
//!
//! `Echo` is a thread in the node's kind of runtime that sends back what it reads: what the kernel and the runtime take for the bytes of a SET, both ways. The last
//! table gives CPU per operation in echoes of the same run, which means the same on other machines; at depth 1 it says how much is ours.
//!
//! It would surprise us if: depth 64 cost more than half of depth 16 (then the batch does not reach the Keeper whole, or nothing is
//! prefetched); GET cost more than SET; a replicated write cost twice an unreplicated one; sends per write came near 1.

use std::net::SocketAddr;
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
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

const CLIENTS: u64 = 50;
const DEPTHS: [u64; 3] = [1, 16, 64];
const VALUE_BYTES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Set,
    Get,
    /// The bytes of a SET, to come back as they are.
    Echo,
}

impl Kind {
    /// One request, its key all zeros, and where the key's digits are.
    fn template(self) -> (Vec<u8>, usize) {
        let (head, tail) = match self {
            Kind::Set | Kind::Echo => {
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
            Kind::Echo => self.template().0.len() as u64,
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
    fn connect(addr: SocketAddr) -> Load {
        let (rounds, mut wanted) = tokio::sync::mpsc::unbounded_channel();
        let (report, done) = mpsc::channel();
        let body = move || {
            runtime().block_on(async {
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime")
}

/// A thread that sends everything back, and where it listens.
fn echo() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    let body = move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime(), async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
            tell.send(listener.local_addr().expect("it is bound")).expect("somebody asked");
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    socket.set_nodelay(true).expect("NODELAY");
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = socket.read(&mut bytes).await
                        && socket.write_all(&bytes[..read]).await.is_ok()
                    {}
                });
            }
        });
    };
    std::thread::Builder::new().name("echo".to_owned()).spawn(body).expect("a thread");
    told.recv().expect("it listens")
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

/// The cost of a round of at least `iterations` operations and at least `depth` per client; the answer is for `iterations`.
fn measure(round: Round, iterations: u64, cost: impl Fn(Round) -> Duration) -> Duration {
    let step = CLIENTS * round.depth;
    let operations = iterations.div_ceil(step) * step;
    let cost = cost(Round { operations, ..round });
    Duration::from_nanos((cost.as_nanos() * u128::from(iterations) / u128::from(operations)) as u64)
}

/// What is measured: who is asked by which load, on which threads.
struct Target {
    load: Load,
    threads: Vec<String>,
}

impl Target {
    fn new(addr: SocketAddr, prefix: &str) -> Target {
        let target = Target { load: Load::connect(addr), threads: threads(prefix) };
        pin(&target.threads, "0");
        pin(&threads("load"), "1");
        target
    }

    fn cpu(&self, round: Round) -> Duration {
        let before = cpu(&self.threads);
        self.load.run(round);
        cpu(&self.threads) - before
    }
}

/// CPU per operation in echoes, at each depth: rounds in turn, the median of their ratios, the least and the greatest.
fn in_echoes(echo: &Target, node: &Target, keys: u64, rounds: usize) {
    println!("\nCPU per operation in echoes: the median of {rounds} rounds (the least, the greatest)");
    for depth in DEPTHS {
        let operations = CLIENTS * depth * (if rounds > 1 { 40_000 } else { 50 } / CLIENTS / depth).max(40);
        let of = |kind| Round { kind, depth, operations, keys: Keys::Among(keys) };
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let one = echo.cpu(of(Kind::Echo)).as_secs_f64();
            for (ratios, kind) in ratios.iter_mut().zip([Kind::Get, Kind::Set]) {
                ratios.push(node.cpu(of(kind)).as_secs_f64() / one);
            }
        }
        for (ratios, kind) in ratios.iter_mut().zip([Kind::Get, Kind::Set]) {
            ratios.sort_by(f64::total_cmp);
            let (least, median, greatest) = (ratios[0], ratios[rounds / 2], ratios[rounds - 1]);
            println!("  {kind:?}, depth {depth:>2}: {median:.2} ({least:.2}, {greatest:.2})");
        }
    }
}

fn main() {
    let small = std::env::args().any(|arg| arg == "--test");
    let keys = if small { 10_000 } else { 1_000_000 };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(2_000))
        .sample_size(10)
        .configure_from_args();

    let echo = Target::new(echo(), "echo");
    let servers = start(&["solo"]);
    let node = Target::new(servers[0].client_addr(), "solo/");
    node.load.run(Round { kind: Kind::Set, depth: 64, operations: keys, keys: Keys::Each });
    for (name, of_cpu) in [("cpu_per_op", true), ("wall_per_op", false)] {
        let mut group = criterion.benchmark_group(name);
        for (target, kind) in [(&echo, Kind::Echo), (&node, Kind::Get), (&node, Kind::Set)] {
            for depth in DEPTHS {
                let round = Round { kind, depth, operations: 0, keys: Keys::Among(keys) };
                group.bench_function(BenchmarkId::new(format!("{kind:?}"), depth), |bencher| {
                    bencher.iter_custom(|iterations| {
                        measure(round, iterations, |round| match of_cpu {
                            true => target.cpu(round),
                            false => target.load.run(round),
                        })
                    });
                });
            }
        }
        group.finish();
    }
    in_echoes(&echo, &node, keys, if small { 1 } else { 7 });
    drop((node, servers));

    let servers = start(&["lead", "foll1", "foll2"]);
    let leader = Target::new(servers[0].client_addr(), "lead/");
    let replicas = [threads("foll1/"), threads("foll2/")].concat();
    pin(&replicas, "0");
    type Cost<'a> = &'a dyn Fn(Round) -> Duration;
    let of_replicas = |round| {
        let before = cpu(&replicas);
        leader.load.run(round);
        cpu(&replicas) - before
    };
    let costs: [(&str, Cost<'_>); 3] = [
        ("replicated_leader_cpu_per_op", &|round| leader.cpu(round)),
        ("replicated_replicas_cpu_per_op", &of_replicas),
        ("replicated_wall_per_op", &|round| leader.load.run(round)),
    ];
    for (name, cost) in costs {
        let mut group = criterion.benchmark_group(name);
        for depth in DEPTHS {
            let round = Round { kind: Kind::Set, depth, operations: 0, keys: Keys::Among(keys) };
            group.bench_function(BenchmarkId::new("Set", depth), |bencher| {
                bencher.iter_custom(|iterations| measure(round, iterations, cost));
            });
        }
        group.finish();
    }
    let (operations, before) = (CLIENTS * if small { 10 } else { 2_000 }, servers[0].link_sends());
    leader.load.run(Round { kind: Kind::Set, depth: 1, operations, keys: Keys::Among(keys) });
    let sends = (servers[0].link_sends() - before) as f64 / 2.0; // per replica
    println!("sends to a replica per write, {CLIENTS} clients, depth 1: 1/{:.1}", operations as f64 / sends);

    criterion.final_summary();
}
