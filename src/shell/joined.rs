//! Batches of many connections that are not large, executed and answered together at the end of a turn of the event loop.
//!
//! ```text
//!   connections' tasks: read · parse ─► queue ─┐ the first wakes the task that runs them, which so comes behind all that are ready
//!                                              ▼
//!     touch the buckets of all · touch the entries · execute in order, under one hold of the lock ─► send, one write each
//! ```
//! With one request at a time on each connection this is what a pipeline is on one: the memory misses of neighbours overlap, and one hold of the
//! lock and one reading of the clocks serve all. And a client that has many connections is woken once: where each answer left by itself it fell asleep
//! between any two of them (0.25 times per operation, beside Redis 0.03), and each waking cost the sender some microseconds.
//!
//! Several threads wait for the lock once for many batches, too, and take over the cache lines of the Keeper's state as seldom: two threads at depth 64 took
//! 1.44 (SET) and 1.27 (GET) times the CPU of one before pipelines joined, and 1.25 at most since.
//!
//! What is not simple (a batch that has to wait, to go on, to be passed on, to end the connection) goes back to its connection's task.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::buffers::Buffers;
use super::line::Line;
use super::node::Node;
use crate::base::ids::ConnId;
use crate::base::limits::PREFETCH_GROUP;
use crate::keeper::{Executed, Next, Touch, Work};
use crate::resp::{Batch, Output};

/// Commands and bytes of a batch that is executed with others, at most: a longer one gains nothing from company.
pub(super) const COMMANDS_MAX: usize = 128;
pub(super) const BYTES_MAX: usize = 16 << 10;
/// Batches that wait, at most, and their bytes: as soon as there are so many they are executed.
pub(super) const BATCHES_MAX: usize = 2 * PREFETCH_GROUP;
const WAITING_BYTES_MAX: usize = 256 << 10;
/// Replies under one hold of the lock from which on it ends: more would leave the cache before they are sent.
const REPLY_BYTES: usize = 256 << 10;
/// The same for the time that commands took, in nanoseconds.
const HOLD_NS: u64 = 200_000;

/// Batches that wait to be executed together.
#[derive(Default)]
pub(super) struct Joined {
    queue: Vec<Job>,
    /// What they were parsed from.
    input: Vec<u8>,
}

struct Job {
    conn: ConnId,
    line: Rc<Line>,
    batch: Batch,
    input: Range<usize>,
    /// Bytes read and written of which the Keeper was not told yet.
    uncounted: (u64, u64),
    touch: Option<Touch>,
    output: Output,
    executed: Option<Executed>,
}

/// What waits after another batch was added.
pub(super) enum Waiting {
    /// This one alone: the task that runs them is to be woken.
    First,
    /// It is woken already.
    More,
    /// So much that it is to be executed now.
    Enough,
}

/// A batch that its connection's task has to see to, after it was executed as far as it could be.
pub(super) struct Returned {
    pub(super) executed: Executed,
    pub(super) batch: Batch,
    pub(super) input: Vec<u8>,
}

impl Joined {
    /// Adds the batch of a connection that has no other one here.
    pub(super) fn push(
        &mut self,
        conn: ConnId,
        line: &Rc<Line>,
        batch: Batch,
        input: &[u8],
        uncounted: (u64, u64),
    ) -> Waiting {
        let begin = self.input.len();
        self.input.extend_from_slice(input);
        line.joined.set(true);
        self.queue.push(Job {
            conn,
            line: line.clone(),
            batch,
            input: begin..self.input.len(),
            uncounted,
            touch: None,
            output: Output::default(),
            executed: None,
        });
        match self.queue.len() {
            len if len == BATCHES_MAX || self.input.len() >= WAITING_BYTES_MAX => Waiting::Enough,
            1 => Waiting::First,
            _ => Waiting::More,
        }
    }

    /// Executes all, and sends what may leave.
    pub(super) fn run(&mut self, node: &Node, buffers: &RefCell<Buffers>) {
        let mut left = &mut self.queue[..];
        while !left.is_empty() {
            let group = left.len().min(PREFETCH_GROUP);
            let executed = execute(&mut left[..group], &self.input, node, &mut buffers.borrow_mut());
            let (done, rest) = left.split_at_mut(executed);
            done.iter_mut().for_each(|job| job.send(&mut buffers.borrow_mut()));
            left = rest;
        }
        for job in self.queue.drain(..) {
            let executed = job.executed.expect("all are executed");
            if is_simple(&executed) {
                buffers.borrow_mut().take_batch(job.batch);
                job.line.finish_joined(None);
            } else {
                let input = self.input[job.input].to_vec();
                job.line.finish_joined(Some(Returned { executed, batch: job.batch, input }));
            }
        }
        self.input.clear();
    }
}

/// Executes batches under one hold of the lock, until that was long enough. Returns how many.
fn execute(jobs: &mut [Job], input: &[u8], node: &Node, buffers: &mut Buffers) -> usize {
    node.with_keeper(|keeper, now, effects| {
        if jobs.len() > 1 {
            jobs.iter_mut().for_each(|job| job.touch = keeper.touch(&job.batch, &input[job.input.clone()]));
            jobs.iter().filter_map(|job| job.touch.as_ref()).for_each(|touch| keeper.touch_entry(touch));
        } else {
            jobs.iter_mut().for_each(|job| job.touch = None); // of an earlier hold: the store may be another since
        }
        let mut bytes = 0;
        for (i, job) in jobs.iter_mut().enumerate() {
            let mut output = buffers.output();
            let input = &input[job.input.clone()];
            let work = Work { conn: job.conn, batch: &job.batch, input, from: 0, touch: job.touch };
            let executed = keeper.execute(now, work, &mut output, effects);
            keeper.count_bytes(job.uncounted.0, job.uncounted.1 + output.len() as u64);
            bytes += output.len();
            let may_go_on = executed.next == Next::Done && bytes < REPLY_BYTES && keeper.spent_since(now) < HOLD_NS;
            (job.output, job.executed) = (output, Some(executed));
            if !may_go_on {
                return i + 1;
            }
        }
        jobs.len()
    })
}

/// Whether nothing is left to do for the connection's task.
fn is_simple(executed: &Executed) -> bool {
    executed.next == Next::Done && executed.trusted && !executed.watches_elsewhere
}

impl Job {
    /// Sends the replies, or queues them if they are held or do not all leave.
    fn send(&mut self, buffers: &mut Buffers) {
        let seq = self.executed.as_ref().and_then(|executed| executed.seq);
        self.line.send(seq, std::mem::take(&mut self.output), buffers);
        if seq.is_none() && !self.line.unsent.borrow().is_empty() {
            self.line.wake();
        }
    }
}
