//! Clients that share a few keys, and remember what they asked and were answered, and when.
//!
//! A read is judged only if it is the leader's: on a connection on which a write was answered before. Whoever was connected while a
//! node led never gets a replica's answer there. Late readers are silent most of the time, so that reads reach a node whatever
//! happens to it: they lie in the socket of a frozen leader until it wakes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datakeeper::base::jitter::Jitter;

use crate::support::client::{Client, Reply};
use crate::support::eventually;
use crate::support::linearizable::{Answer, Call, Op, register};
use crate::support::writers::{RECOVERY_MAX, REFUSALS, RETRY, moved_to};

/// Keys that all share.
const KEYS: usize = 4;
/// Clients that write and read.
const BUSY: usize = 6;
/// Clients that read now and then.
const LATE: usize = 16;
/// Operations before each fault, and after the last one.
const ENOUGH: usize = 500;
/// Between two operations of a busy client.
const PACE: Duration = Duration::from_millis(1);
/// Longest time between two reads of a late reader, milliseconds.
const LATE_MS: u64 = 2_000;
/// A node that says nothing for so long is left by a busy client; the outcome is unknown then.
const PATIENCE: Duration = Duration::from_secs(1);
/// A late reader waits for whatever was frozen to wake.
const LATE_PATIENCE: Duration = Duration::from_secs(60);

/// Running clients.
pub struct Registers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Op>>>,
    keys: Vec<String>,
    began: Instant,
}

/// What the clients saw.
pub struct History {
    /// In no order.
    pub ops: Vec<Op>,
    keys: Vec<String>,
}

impl Registers {
    /// Starts the clients; `run` keeps their keys apart from those of other runs.
    #[must_use]
    pub fn start(run: &str, nodes: &[SocketAddr]) -> Registers {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let keys: Vec<String> = (0..KEYS).map(|key| format!("{run}:register:{key}")).collect();
        let began = Instant::now();
        let threads = (0..BUSY + LATE).map(|number| {
            let caller = Caller {
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
                nodes: nodes.to_vec(),
                keys: keys.clone(),
                began,
                number,
                late: number >= BUSY,
                dice: Jitter::new(number as u64),
                writes: 0,
                ops: Vec::new(),
            };
            std::thread::spawn(move || caller.run())
        });
        let threads = threads.collect();
        Registers { stop, answered, threads, keys, began }
    }

    /// Waits until so much more was asked and answered that a fault, or its end, is seen.
    ///
    /// # Panics
    /// If it is not.
    pub fn wait_for_more(&self) {
        let enough = self.answered.load(Ordering::SeqCst) + ENOUGH;
        eventually(RECOVERY_MAX, "registers are written and read", || match self.answered.load(Ordering::SeqCst) {
            answered if answered >= enough => Ok(()),
            answered => Err(format!("{answered} of {enough} operations were answered")),
        });
    }

    /// Ends the clients, and reads each key once more at the leader, who is that.
    ///
    /// # Panics
    /// If the leader does not answer.
    #[must_use]
    pub fn stop(self, leader: SocketAddr) -> History {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        let mut ops = Vec::new();
        for thread in self.threads {
            ops.append(&mut thread.join().expect("a client of registers does not panic"));
        }
        let mut client = Client::connect(leader).expect("the leader takes clients");
        for key in &self.keys {
            let invoked = since(self.began);
            let value = match client.call(&format!("GET {key}")) {
                Reply::Bulk(bytes) => Some(bytes),
                Reply::Null => None,
                other => panic!("GET {key} at the leader: {other:?}"),
            };
            let (key, answer) = (key.as_bytes().to_vec(), Answer::Value(value));
            ops.push(Op { client: usize::MAX, key, call: Call::Get, invoked, returned: since(self.began), answer });
        }
        History { ops, keys: self.keys }
    }
}

impl History {
    /// One story for each key whose answers no order explains.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        self.keys.iter().filter_map(|key| register(key, &self.ops).err()).collect()
    }

    /// Reads that were answered with a value, or none, that another one had replaced for certain: a write that was asked for after the one that was read
    /// was answered, and was itself answered before the read was asked for.
    #[must_use]
    pub fn stale(&self) -> Vec<String> {
        self.keys.iter().flat_map(|key| self.stale_of(key)).collect()
    }

    fn stale_of(&self, key: &str) -> Vec<String> {
        let ops = || self.ops.iter().filter(|op| op.key == key.as_bytes());
        let mut acked: Vec<&Op> = ops().filter(|op| op.answer == Answer::Done).collect();
        acked.sort_by_key(|op| op.returned);
        // The latest that any of the writes answered up to this one was asked for.
        let mut latest = 0;
        let latest: Vec<u64> = acked
            .iter()
            .map(|op| {
                latest = op.invoked.max(latest);
                latest
            })
            .collect();
        let written: BTreeMap<&[u8], u64> = ops()
            .filter_map(|op| if let Call::Set(value) = &op.call { Some((&value[..], op.returned)) } else { None })
            .collect();
        let mut lines = Vec::new();
        for read in ops() {
            let Answer::Value(value) = &read.answer else { continue };
            let before = acked.partition_point(|op| op.returned < read.invoked);
            let Some(latest) = before.checked_sub(1).map(|last| latest[last]) else { continue };
            let written_at = value.as_ref().map_or(0, |value| written[&value[..]]);
            if written_at < latest {
                let value = value.as_ref().map_or("none".into(), |value| String::from_utf8_lossy(value));
                lines.push(format!(
                    "client {} read {value} of {key}, {} us behind",
                    read.client,
                    (read.invoked - latest) / 1_000
                ));
            }
        }
        lines
    }

    /// Reads at the leader that were answered.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.ops.iter().filter(|op| matches!(op.answer, Answer::Value(_))).count()
    }

    /// Longest time in which no write of a register was answered.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let mut acked: Vec<u64> =
            self.ops.iter().filter(|op| op.answer == Answer::Done).map(|op| op.returned).collect();
        acked.sort_unstable();
        Duration::from_nanos(acked.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0))
    }
}

/// Nanoseconds.
fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).expect("584 years")
}

struct Caller {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    nodes: Vec<SocketAddr>,
    keys: Vec<String>,
    began: Instant,
    number: usize,
    late: bool,
    dice: Jitter,
    writes: u64,
    ops: Vec<Op>,
}

impl Caller {
    fn run(mut self) -> Vec<Op> {
        let mut target = self.number % self.nodes.len();
        while !self.is_over() {
            let next = (target + 1) % self.nodes.len();
            target = match Client::connect(self.nodes[target]) {
                Ok(client) => {
                    client.set_patience(if self.late { LATE_PATIENCE } else { PATIENCE });
                    self.use_up(client).unwrap_or(next)
                }
                Err(_) => next,
            };
            std::thread::park_timeout(RETRY);
        }
        self.ops
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks until the node refuses or the connection ends; the node to ask next, if it was named.
    fn use_up(&mut self, mut client: Client) -> Option<usize> {
        let mut led = false;
        while !self.is_over() {
            // A late reader writes once, to see that the node leads.
            let read = led && (self.late || self.dice.below(2) == 0);
            let (ended, moved) = self.ask(&mut client, read);
            if ended {
                return moved;
            }
            led = true;
            let pause = if self.late { Duration::from_millis(self.dice.below(LATE_MS)) } else { PACE };
            self.rest(pause);
        }
        None
    }

    /// One operation; whether it was the last one here, and who leads, if that was said.
    fn ask(&mut self, client: &mut Client, read: bool) -> (bool, Option<usize>) {
        let key = self.keys[self.dice.below(KEYS as u64) as usize].clone();
        let value = format!("{}.{}", self.number, self.writes);
        let invoked = since(self.began);
        let reply = if read { client.try_call(&["GET", &key]) } else { client.try_call(&["SET", &key, &value]) };
        let mut moved = None;
        let answer = match reply {
            Ok(reply) if reply.is_ok() => Answer::Done,
            Ok(Reply::Bulk(bytes)) => Answer::Value(Some(bytes)),
            Ok(Reply::Null) => Answer::Value(None),
            Ok(reply) if REFUSALS.iter().any(|refusal| reply.error().starts_with(refusal)) => {
                moved = moved_to(reply.error(), &self.nodes);
                Answer::Refused
            }
            Ok(reply) if reply.error().starts_with("UNKNOWN ") => Answer::Unknown,
            Ok(reply) => panic!("a register was answered {reply:?}"),
            Err(_) => Answer::Unknown,
        };
        let returned = if answer == Answer::Unknown { u64::MAX } else { since(self.began) };
        let ended = matches!(answer, Answer::Unknown | Answer::Refused);
        self.writes += u64::from(!read);
        self.answered.fetch_add(usize::from(!ended), Ordering::SeqCst);
        let call = if read { Call::Get } else { Call::Set(value.into_bytes()) };
        self.ops.push(Op { client: self.number, key: key.into_bytes(), call, invoked, returned, answer });
        (ended, moved)
    }

    /// Does nothing for so long, or until all is over.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.is_over() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}
