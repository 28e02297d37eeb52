//! Part `eviction`: how well the policies choose, what that is worth to a cache, and whether the limit of memory holds.
//!
//! ```text
//! accuracy   keys are used in an order that is known (a tenth each second; or so often; or they expire in it), then the limit is lowered by a
//!            third: the share of the keys gone that the true order would have let go, too
//! hits       a cache of a third of the keys, asked for them by Zipf's law for some seconds, set where they are missing; beside it the hits of a
//!            true LRU that holds as many keys, in the same trace
//! memory     sets at full speed, of mixed sizes: the most that the server said it used, and its resident bytes, to the limit
//! ```
//! Clocks of all servers tell seconds, so the trace takes seconds; all go through it together, in turn.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{park_timeout, scope};
use std::time::{Duration, Instant};

use datakeeper::base::jitter::Jitter;

use crate::expiry::since_1970;
use crate::load::{Kind, Load, Work};
use crate::server::Server;
use crate::{Bench, CONNECTIONS};

/// Keys whose order is known, or that the cache is asked for.
const KEYS: usize = 90_000;
/// Share of them that fits into memory.
const FIT: f64 = 1.0 / 3.0;
/// Seconds of a trace, of which the first third warms the cache.
const SECONDS: usize = 12;
/// Requests in a second of a trace.
const ASKED: usize = 20_000;
/// Exponent of Zipf's law.
const ZIPF: f64 = 0.99;
/// Limit of memory for values of mixed sizes, the largest of 1 MiB.
const LIMIT: u64 = 128 << 20;

const POLICIES: [&str; 6] =
    ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"];

impl Bench {
    pub fn eviction(&mut self) {
        let servers = self.start_all();
        let mut lines = Vec::new();
        for policy in POLICIES {
            let mut figures = vec![Vec::new(); servers.len()];
            let mut keep = |all: Vec<Vec<f64>>| figures.iter_mut().zip(all).for_each(|(f, more)| f.extend(more));
            keep(accuracy(&servers, policy));
            keep(hits(&servers, policy));
            keep(servers.iter().map(|server| memory(server, policy)).collect());
            lines.extend(servers.iter().zip(figures).map(|(s, f)| (format!("{policy}, {}", s.name), f)));
        }
        let title = format!(
            "Eviction: {KEYS} keys of which a third goes, and what of it a true order lets go, %; hits of a cache of a third, %, and of a true LRU; the \
             most that was used of a limit of {} MiB, and what is resident in the end, %",
            LIMIT >> 20
        );
        self.report.table("eviction", &title, &["accuracy", "hits", "true LRU", "used", "resident"], lines);
    }
}

/// One connection that is told the replies.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: &Server) -> Client {
        Client(BufReader::new(TcpStream::connect(server.addr).expect("a connection")))
    }

    /// Sends a pipeline, and says of each reply whether it is a value: not nil, not 0, not the refusal of a write.
    fn ask(&mut self, requests: &[String]) -> Vec<bool> {
        let mut all = requests.join("\r\n");
        all.push_str("\r\n");
        self.0.get_mut().write_all(all.as_bytes()).expect("the server reads");
        requests.iter().map(|_| self.is_value()).collect()
    }

    fn is_value(&mut self) -> bool {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a reply");
        assert!(!line.starts_with('-') || line.starts_with("-OOM"), "{line}");
        let Some(len) = line.strip_prefix('$').and_then(|len| len.trim_end().parse::<usize>().ok()) else {
            return !matches!(line.as_bytes()[0], b'-' | b'$') && !line.starts_with(":0");
        };
        let mut value = vec![0; len + 2];
        self.0.read_exact(&mut value).expect("the whole reply");
        true
    }

    fn ask_each(&mut self, keys: impl Iterator<Item = usize>, request: impl Fn(usize) -> String) -> Vec<bool> {
        let requests: Vec<String> = keys.map(request).collect();
        requests.chunks(100).flat_map(|some| self.ask(some)).collect()
    }
}

/// A write of a value of 100 bytes. With the volatile policies all keys expire some time: in the order of `place`.
fn set(policy: &str, key: usize, place: usize) -> String {
    let value = "v".repeat(100);
    if policy.starts_with("volatile") {
        format!("SET k{key} {value} PXAT {}", since_1970().as_millis() as usize + 3_600_000 + place * 10)
    } else {
        format!("SET k{key} {value}")
    }
}

/// An empty server without a limit.
fn empty(server: &Server, policy: &str) -> Client {
    server.set("maxmemory", "0");
    server.set("maxmemory-policy", policy);
    server.ask("FLUSHALL").expect("an answer");
    // What was flushed is freed by and by.
    let last = Cell::new(f64::MAX);
    server.until("it is empty", || {
        park_timeout(Duration::from_millis(200));
        let used = server.used_memory();
        used >= last.replace(used)
    });
    Client::connect(server)
}

/// Fills a server with all keys; the limit that leaves room for that share of them.
fn fill(server: &Server, client: &mut Client, policy: &str, share: f64) -> u64 {
    let before = server.used_memory();
    client.ask_each(0..KEYS, |key| set(policy, key, key));
    (before + (server.used_memory() - before) * share) as u64
}

/// Calls it once a second, with the second.
fn each_second(seconds: usize, mut act: impl FnMut(usize)) {
    let begin = Instant::now();
    for second in 0..seconds {
        act(second);
        park_timeout((begin + Duration::from_secs(second as u64 + 1)).saturating_duration_since(Instant::now()));
    }
}

/// Of the keys that go, in percent, how many the true order would have let go.
fn accuracy(servers: &[Server], policy: &str) -> Vec<Vec<f64>> {
    if policy == "noeviction" {
        return vec![vec![f64::NAN]; servers.len()];
    }
    let mut clients: Vec<Client> = servers.iter().map(|server| empty(server, policy)).collect();
    let limits: Vec<u64> =
        servers.iter().zip(&mut clients).map(|(server, client)| fill(server, client, policy, 1.0 - FIT)).collect();
    let get = |key: usize| format!("GET k{key}");
    match policy {
        "allkeys-lru" | "volatile-lru" => each_second(10, |second| {
            for client in &mut clients {
                client.ask_each(second * KEYS / 10..(second + 1) * KEYS / 10, get);
            }
        }),
        // The first third is not used again, the second a bit, the last much.
        "allkeys-lfu" => {
            for client in &mut clients {
                (0..10).for_each(|_| _ = client.ask_each(KEYS / 3..KEYS, get));
                (0..40).for_each(|_| _ = client.ask_each(KEYS * 2 / 3..KEYS, get));
            }
        }
        _ => {}
    }
    let share = |server: &Server, client: &mut Client, limit: u64| {
        server.set("maxmemory", &limit.to_string());
        // Who asks takes some memory, too.
        server.until("the limit holds", || server.used_memory() <= limit as f64 * 1.02);
        let there = client.ask_each(0..KEYS, |key| format!("EXISTS k{key}"));
        let gone = there.iter().filter(|there| !**there).count();
        let right = there[..gone].iter().filter(|there| !**there).count();
        vec![right as f64 * 100.0 / gone as f64]
    };
    let all = servers.iter().zip(&mut clients).zip(limits);
    all.map(|((server, client), limit)| share(server, client, limit)).collect()
}

/// The least recently used goes, in truth.
struct TrueLru {
    /// When each key was used; 0 if it is not here.
    used: Vec<u64>,
    by_use: BTreeMap<u64, usize>,
    clock: u64,
}

impl TrueLru {
    /// Uses a key, and says whether it was there; makes room for it if not.
    fn use_key(&mut self, key: usize, room: usize) -> bool {
        self.clock += 1;
        let hit = self.by_use.remove(&self.used[key]).is_some();
        if !hit
            && self.by_use.len() >= room
            && let Some((_, gone)) = self.by_use.pop_first()
        {
            self.used[gone] = 0;
        }
        self.used[key] = self.clock;
        self.by_use.insert(self.clock, key);
        hit
    }
}

/// Hits of a cache in a trace by Zipf's law, in percent, and those of a true LRU that holds as many keys.
fn hits(servers: &[Server], policy: &str) -> Vec<Vec<f64>> {
    let weights = (1..=KEYS).map(|rank| (rank as f64).powf(-ZIPF)).scan(0.0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    let weights: Vec<f64> = weights.collect();
    let mut dice = Jitter::new(7);
    let mut draw = || {
        let at = dice.below(1 << 53) as f64 / (1_u64 << 53) as f64 * weights[KEYS - 1];
        weights.partition_point(|sum| *sum <= at)
    };
    let trace: Vec<usize> = (0..ASKED * SECONDS).map(|_| draw()).collect();
    let warm = ASKED * SECONDS / 3;
    let mut clients = Vec::new();
    for server in servers {
        let mut client = empty(server, policy);
        let limit = fill(server, &mut client, policy, FIT);
        drop(empty(server, policy));
        server.set("maxmemory", &limit.to_string());
        clients.push(client);
    }
    let mut found = vec![Vec::new(); servers.len()];
    each_second(SECONDS, |second| {
        for (client, found) in clients.iter_mut().zip(&mut found) {
            for keys in trace[second * ASKED..(second + 1) * ASKED].chunks(100) {
                let there = client.ask_each(keys.iter().copied(), |key| format!("GET k{key}"));
                let missing = keys.iter().zip(&there).filter(|(_, there)| !**there).map(|(key, _)| *key);
                // How much a key is asked for says nothing about when it expires.
                client.ask_each(missing, |key| set(policy, key, key * 7_919 % KEYS));
                found.extend(there);
            }
        }
    });
    let percent = |hits: &[bool]| hits.iter().filter(|hit| **hit).count() as f64 * 100.0 / hits.len() as f64;
    let truth = |room: usize| {
        let mut lru = TrueLru { used: vec![0; KEYS], by_use: BTreeMap::new(), clock: 0 };
        let hits: Vec<bool> = trace.iter().map(|key| lru.use_key(*key, room)).collect();
        percent(&hits[warm..])
    };
    servers.iter().zip(&found).map(|(s, found)| vec![percent(&found[warm..]), truth(s.keys() as usize)]).collect()
}

/// The most that was used of the limit while sets of mixed sizes came at full speed, and resident bytes in the end.
fn memory(server: &Server, policy: &str) -> Vec<f64> {
    drop(empty(server, policy));
    server.set("maxmemory", &LIMIT.to_string());
    let mut load = Load::connect(&server.addrs(), CONNECTIONS).expect("connections");
    let until = policy.starts_with("volatile").then(|| since_1970().as_millis() as u64 + 3_600_000);
    let work = Work { mixed: true, until, ..Work::new(Kind::Set, 16, 100_000_000, 100) };
    let done = AtomicBool::new(false);
    let most = scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most: f64 = 0.0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(server.used_memory());
                park_timeout(Duration::from_millis(2));
            }
            most
        });
        load.closed(work, Duration::from_secs(3)).expect("an answer");
        done.store(true, Ordering::Relaxed);
        watch.join().expect("it only asks")
    });
    [most, server.resident() as f64].map(|bytes| bytes * 100.0 / LIMIT as f64).to_vec()
}
