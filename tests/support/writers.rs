//! Clients that write all the time, know what they were told about each write, and find out afterwards whether it was true.
//!
//! A write is a key and a number that only grows. Two of three writes have a key of their own, so that nothing can cover up the loss
//! of one; the third goes to one of a few keys that are written again and again, so that an old value that comes back is seen, too.
//!
//! ```text
//! told OK                          the value is that number or a later one, ever after
//! told MOVED, LOADING, ...         not executed: the number is never seen
//! told nothing, or -UNKNOWN        may or may not be seen
//! ```
//! Not here: concurrent writers of one key (the simulator checks linearizability).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Reply, encode};
use super::cluster::wait_until_whole;
use super::eventually;

/// How many write at once.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections that write.
    pub connections: usize,
    /// Writes that each of them has in flight.
    pub pipeline: u64,
    /// Between a reply and the next writes.
    pub pause: Duration,
}

impl Load {
    /// What a crash has to hit.
    pub const HEAVY: Load = Load { connections: 8, pipeline: 16, pause: Duration::ZERO };
    /// Enough to notice when writes are not answered.
    pub const LIGHT: Load = Load { connections: 2, pipeline: 2, pause: Duration::ZERO };
    /// So many per second that half a minute of them still fits.
    pub const STEADY: Load = Load { connections: 8, pipeline: 8, pause: Duration::from_millis(5) };
}

/// Keys of a writer that are written again and again.
const HOT_KEYS: u64 = 64;
/// Between two tries of a client that was refused.
pub const RETRY: Duration = Duration::from_millis(5);
/// A node that does not answer for so long is left; the outcome is unknown then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Keys per MGET when what was told is checked.
const KEYS_PER_READ: usize = 500;

/// The same for who looks when writes are answered again: a node that is frozen says nothing until long after that.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Errors that promise: not executed.
pub const REFUSALS: &[&str] = &["MOVED ", "LOADING ", "CLUSTERDOWN ", "TRYAGAIN ", "NOREPLICAS "];

/// What was told about one key.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Latest number that was answered OK.
    acked: Option<u64>,
    /// Numbers without an answer, later than `acked`.
    unknown: Vec<u64>,
}

/// All that one run of writers was told.
#[derive(Default)]
pub struct Story {
    keys: BTreeMap<String, Told>,
    /// Writes answered OK.
    pub acked: usize,
    /// Writes without an answer.
    pub unknown: usize,
    /// Answers that no write may get.
    pub strange: Vec<String>,
}

impl Story {
    /// What is told to the contrary by the values that a node has: one line per key.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn contradictions(&self, node: SocketAddr) -> io::Result<Vec<String>> {
        let mut client = Client::connect(node)?;
        let mut lines = Vec::new();
        let keys: Vec<(&String, &Told)> = self.keys.iter().collect();
        for some in keys.chunks(KEYS_PER_READ) {
            let request: Vec<&str> = std::iter::once("MGET").chain(some.iter().map(|(key, _)| key.as_str())).collect();
            let Reply::Array(values) = client.try_call(&request)? else {
                return Err(io::Error::other(format!("{node} does not answer MGET")));
            };
            assert_eq!(values.len(), some.len(), "one value per key");
            for ((key, told), value) in some.iter().zip(&values) {
                let value = match value {
                    Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).parse::<u64>().ok(),
                    _ => None,
                };
                let may_be = value == told.acked || value.is_some_and(|value| told.unknown.contains(&value));
                if !may_be {
                    lines.push(format!("{key} is {value:?}, but {told:?}"));
                }
            }
        }
        Ok(lines)
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    in_flight: AtomicUsize,
    acked: AtomicUsize,
    /// When how many writes were answered OK, of late.
    acks: Mutex<VecDeque<(Instant, usize)>>,
}

/// Running writers.
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Story>>,
}

impl Writers {
    /// Starts writers that look for the leader among `nodes`; `run` keeps their keys apart from those of other runs.
    #[must_use]
    pub fn start(run: &str, nodes: &[SocketAddr], load: Load) -> Writers {
        let shared = Arc::new(Shared::default());
        let writer = |number: usize| {
            let (shared, nodes, prefix) = (Arc::clone(&shared), nodes.to_vec(), format!("{run}:{number}"));
            let writer = Writer { shared, nodes, prefix, load, next: 0, target: 0, told: Story::default() };
            std::thread::spawn(move || writer.run())
        };
        Writers { threads: (0..load.connections).map(writer).collect(), shared: Arc::clone(&shared) }
    }

    /// Writes that were sent and not answered, at this moment.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Writes answered OK so far.
    #[must_use]
    pub fn acked_total(&self) -> usize {
        self.shared.acked.load(Ordering::SeqCst)
    }

    /// Writes answered OK in the time before this moment, at most a second of it.
    #[must_use]
    pub fn acked_within(&self, time: Duration) -> usize {
        let now = Instant::now();
        let acks = self.shared.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.iter().rev().take_while(|(at, _)| now.duration_since(*at) <= time).map(|(_, count)| count).sum()
    }

    /// Ends the writers; what they were told.
    ///
    /// # Panics
    /// If one was told what no write may be told.
    #[must_use]
    pub fn stop(self) -> Story {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = Story::default();
        for thread in self.threads {
            let mut story = thread.join().expect("a writer does not panic");
            all.keys.append(&mut story.keys);
            all.acked += story.acked;
            all.unknown += story.unknown;
            all.strange.append(&mut story.strange);
        }
        assert!(all.strange.is_empty(), "writers were told: {:?}", all.strange);
        all
    }
}

struct Writer {
    shared: Arc<Shared>,
    nodes: Vec<SocketAddr>,
    prefix: String,
    load: Load,
    /// Number of the next write.
    next: u64,
    /// Place of the node to write to.
    target: usize,
    told: Story,
}

impl Writer {
    fn run(mut self) -> Story {
        while !self.is_over() {
            if let Ok(client) = Client::connect(self.nodes[self.target]) {
                client.set_patience(PATIENCE);
                self.write_to(client);
            } else {
                self.target = (self.target + 1) % self.nodes.len();
            }
            if !self.is_over() {
                std::thread::park_timeout(RETRY);
            }
        }
        self.told
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    fn key(&self, number: u64) -> String {
        match number % 3 {
            0 => format!("{}:hot:{}", self.prefix, number / 3 % HOT_KEYS),
            _ => format!("{}:{number}", self.prefix),
        }
    }

    /// Writes until the node refuses or the connection ends; chooses the next target then.
    fn write_to(&mut self, mut client: Client) {
        loop {
            if self.is_over() {
                return;
            }
            let numbers: Vec<u64> = (self.next..self.next + self.load.pipeline).collect();
            self.next += self.load.pipeline;
            let mut bytes = Vec::new();
            for number in &numbers {
                encode(&["SET", &self.key(*number), &number.to_string()], &mut bytes);
            }
            self.shared.in_flight.fetch_add(numbers.len(), Ordering::SeqCst);
            let mut alive = client.send(&bytes).is_ok();
            let mut refused = None;
            let mut acked = 0;
            for number in numbers {
                let reply = if alive { client.receive() } else { Err(io::ErrorKind::NotConnected.into()) };
                self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                match reply {
                    Ok(reply) if reply.is_ok() => {
                        self.acked(number);
                        acked += 1;
                    }
                    Ok(reply) if REFUSALS.iter().any(|prefix| reply.error().starts_with(prefix)) => {
                        refused = Some(reply.error().to_string());
                    }
                    Ok(reply) if reply.error().starts_with("UNKNOWN ") => self.unknown(number),
                    Ok(reply) => {
                        self.told.strange.push(format!("{reply:?}"));
                        self.unknown(number);
                    }
                    Err(_) => {
                        alive = false;
                        self.unknown(number);
                    }
                }
            }
            self.count(acked);
            if let Some(text) = refused {
                self.target = moved_to(&text, &self.nodes).unwrap_or((self.target + 1) % self.nodes.len());
                return;
            }
            if !alive {
                self.target = (self.target + 1) % self.nodes.len();
                return;
            }
            if !self.load.pause.is_zero() {
                std::thread::park_timeout(self.load.pause);
            }
        }
    }

    fn acked(&mut self, number: u64) {
        self.told.acked += 1;
        let key = self.key(number);
        let told = self.told.keys.entry(key).or_default();
        told.acked = Some(number);
        told.unknown.clear(); // this connection's own order: what was in doubt came before
    }

    fn unknown(&mut self, number: u64) {
        self.told.unknown += 1;
        let key = self.key(number);
        self.told.keys.entry(key).or_default().unknown.push(number);
    }

    fn count(&self, acked: usize) {
        self.shared.acked.fetch_add(acked, Ordering::SeqCst);
        let now = Instant::now();
        let mut acks = self.shared.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if acked > 0 {
            acks.push_back((now, acked));
        }
        while acks.front().is_some_and(|(at, _)| now.duration_since(*at) > Duration::from_secs(1)) {
            acks.pop_front();
        }
    }
}

/// The node that a redirect names, by its place.
#[must_use]
pub fn moved_to(error: &str, nodes: &[SocketAddr]) -> Option<usize> {
    let addr = error.strip_prefix("MOVED ")?.split(' ').nth(1)?;
    nodes.iter().position(|node| node.to_string() == addr)
}

/// How long it takes from `since` until one of the nodes answers OK to a write, each of them tried every [`RETRY`]; none if it takes
/// longer than `patience`.
#[must_use]
pub fn first_write_after(since: Instant, nodes: &[SocketAddr], patience: Duration) -> Option<Duration> {
    let first = Mutex::new(None);
    let get = || *first.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for node in nodes {
            scope.spawn(|| {
                let mut client = None;
                while get().is_none() && since.elapsed() < patience {
                    let request = ["SET", "probe", "x"];
                    let reply = match &mut client {
                        Some(client) => Client::try_call(client, &request),
                        None => Client::connect(*node).map(|new| {
                            new.set_patience(PROBE_PATIENCE);
                            client = Some(new);
                            Reply::Null
                        }),
                    };
                    match reply {
                        Ok(reply) if reply.is_ok() => {
                            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(since.elapsed());
                            return;
                        }
                        Ok(Reply::Null) => continue, // connected just now
                        Ok(_) => {}
                        Err(_) => client = None,
                    }
                    std::thread::park_timeout(RETRY);
                }
            });
        }
    });
    get()
}

/// How the leader is lost, and how it comes back.
pub trait Fault {
    /// Where clients connect.
    fn nodes(&self) -> Vec<SocketAddr>;
    /// Ends the node at this place as a power cut would.
    fn crash(&mut self, node: usize);
    /// Lets it start again, empty, unless it does so by itself.
    fn revive(&mut self, node: usize);
    /// Whether the node said that it was filled since it was ended.
    fn was_filled(&self, node: usize) -> bool;
}

/// The load that a crash has to hit: otherwise it does not count.
pub const IN_FLIGHT_MIN: usize = 20;
/// Writes answered OK within [`LOAD_WINDOW`] before the crash. Unoptimised builds on slow machines do not reach the thousand.
pub const ACKED_MIN: usize = if cfg!(debug_assertions) { 200 } else { 1_000 };
/// See [`ACKED_MIN`].
pub const LOAD_WINDOW: Duration = Duration::from_millis(200);
/// No write accepted for so long after a crash is a failure.
pub const RECOVERY_MAX: Duration = Duration::from_secs(15);

/// Waits until the load is as it has to be at a crash; returns what it is: in flight, and answered OK in [`LOAD_WINDOW`].
///
/// # Panics
/// If it never is.
pub fn wait_for_load(writers: &Writers) -> (usize, usize) {
    let mut load = (0, 0);
    eventually(Duration::from_secs(60), "the load is high enough for a crash to count", || {
        load = (writers.in_flight(), writers.acked_within(LOAD_WINDOW));
        if load.0 >= IN_FLIGHT_MIN && load.1 >= ACKED_MIN {
            return Ok(());
        }
        Err(format!("{} writes in flight, {} answered OK in {LOAD_WINDOW:?}", load.0, load.1))
    });
    load
}

/// Ends the leader under load `times` times, each from a full in-sync set, and checks each time, at each node, all that writers
/// were ever promised. Prints how long no write was accepted.
///
/// # Panics
/// If something promised is lost, or the cluster does not recover.
pub fn lose_leaders(fault: &mut impl Fault, times: usize) {
    let nodes = fault.nodes();
    let mut stories: Vec<Story> = Vec::new();
    let mut gaps = Vec::new();
    for round in 1..=times {
        let (leader, epoch) = wait_until_whole(&nodes);
        let writers = Writers::start(&format!("round{round}"), &nodes, Load::HEAVY);
        let (in_flight, acked) = wait_for_load(&writers);
        let since = Instant::now();
        fault.crash(leader);
        let gap = first_write_after(since, &nodes, RECOVERY_MAX);
        let gap = gap.unwrap_or_else(|| panic!("round {round}: no write was accepted for {RECOVERY_MAX:?}"));
        fault.revive(leader);
        let (successor, later) = wait_until_whole(&nodes);
        assert!(successor != leader && later > epoch, "round {round}: the node that lost its memory must not lead");
        assert!(fault.was_filled(leader), "round {round}: the node came back empty; it has to be filled");
        stories.push(writers.stop());
        let story = &stories[round - 1];
        println!(
            "round {round}: {in_flight} in flight, {acked} answered in the last {LOAD_WINDOW:?}; writes again after {gap:?}; \
             {} answered, {} unknown in all",
            story.acked, story.unknown
        );
        gaps.push(gap);
        let all: &[Story] = if round == times { &stories } else { &stories[round - 1..] };
        assert_kept(all, &nodes, nodes[successor]);
    }
    gaps.sort();
    println!("no write was accepted for: {gaps:?}");
}

/// Checks that what writers were told is true, at the leader now, at the others as soon as they have applied it.
///
/// # Panics
/// If it is not.
pub fn assert_kept(stories: &[Story], nodes: &[SocketAddr], leader: SocketAddr) {
    let contradictions = |node: SocketAddr| -> Result<(), String> {
        for story in stories {
            let lines = story.contradictions(node).map_err(|e| e.to_string())?;
            if !lines.is_empty() {
                return Err(format!(
                    "{node} contradicts {} promises, as in {}",
                    lines.len(),
                    lines[..lines.len().min(20)].join("\n")
                ));
            }
        }
        Ok(())
    };
    if let Err(lost) = contradictions(leader) {
        panic!("LOST: {lost}");
    }
    for node in nodes {
        eventually(RECOVERY_MAX, "replicas have what the leader promised", || contradictions(*node));
    }
}
