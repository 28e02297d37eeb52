//! What commands cost: how often each was called, refused or failed, and how long it took.
//!
//! Everything is counted per row of the command table. Time is measured by a clock that the shell hands in
//! ([`KeeperConfig::stopwatch`](super::KeeperConfig)); nothing is decided by it, so the simulator may pass any. A reading takes about 20 ns,
//! a tenth of a GET: so commands that are quick by their row and have few arguments are measured in *runs*, as many as stand
//! side by side in a group of a batch, and the time of a run is divided evenly; the run begins with the reading that the batch came with, so a
//! pipeline costs one more. Every other command is measured by itself, and so is each while somebody looks closely ([`Calls::look`]). The time is
//! that under the Keeper's lock: what a command waits for (a lease, a role, acknowledgements) does not count, nor do sockets.
//!
//! ```text
//!   batch   GET GET SET │ KEYS * │ GET │            │ a reading
//!           └── a run ──┘ └alone─┘ run
//! ```
//! Durations also go into a histogram per command, of 32 steps for each doubling: a percentile is exact to 3 %.

use crate::base::clock::Boot;
use crate::base::limits::PREFETCH_GROUP;
use crate::command::{CommandSpec, ROW_COUNT, all};
use crate::resp::Args;

/// Most arguments of a command that is measured with its neighbours.
const QUICK_ARGS_MAX: usize = 8;

/// What is known of one command.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// Executed to their end.
    pub calls: u64,
    /// Time that they took.
    pub nanos: u64,
    /// Refused before they were executed.
    pub rejected: u64,
    /// Executed, and answered with an error.
    pub failed: u64,
    /// How long they took.
    pub histogram: Option<Box<Histogram>>,
}

impl Row {
    /// That many calls took that long each.
    fn add(&mut self, calls: u64, nanos: u64, step: usize) {
        self.calls += calls;
        self.nanos += calls * nanos;
        self.histogram.get_or_insert_default().counts[step] += calls;
    }
}

/// A command that was executed and not measured yet.
#[derive(Clone, Copy, Debug, Default)]
struct Unmeasured {
    row: u16,
    /// Its place in its batch.
    at: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Calls {
    stopwatch: fn() -> Boot,
    rows: Box<[Row]>,
    run: [Unmeasured; PREFETCH_GROUP],
    len: usize,
    /// When the present hold of the lock began.
    hold: Boot,
    /// The last reading.
    since: Boot,
    /// Place in its batch of the command that is executed.
    pub at: usize,
    /// Whether every command is measured by itself.
    exact: bool,
    /// Nanoseconds from which on somebody wants to know which command it was.
    slow_ns: u64,
    /// The commands of runs that took so long, by their places, with their durations. For whoever has the batch to take.
    pub slow: Vec<(usize, u64)>,
}

impl Calls {
    pub fn new(stopwatch: fn() -> Boot) -> Calls {
        let rows = vec![Row::default(); ROW_COUNT].into();
        Calls {
            stopwatch,
            rows,
            run: Default::default(),
            len: 0,
            hold: Boot(0),
            since: Boot(0),
            at: 0,
            exact: false,
            slow_ns: u64::MAX,
            slow: Vec::new(),
        }
    }

    /// Forgets what was counted.
    pub fn reset(&mut self) {
        self.rows.fill(Row::default());
    }

    /// Somebody wants to hear of commands that take so long, if anybody does; `each` of them is measured by itself, and below a millisecond
    /// in any case.
    pub fn look(&mut self, slow_ns: Option<u64>, each: bool) {
        self.slow_ns = slow_ns.unwrap_or(u64::MAX);
        self.exact = each || self.slow_ns < 1_000_000;
    }

    /// Whether somebody wants to hear of that.
    #[inline]
    pub fn is_slow(&self, nanos: u64) -> bool {
        nanos >= self.slow_ns
    }

    /// A batch begins, under a hold of the lock that began at `now`: behind the batches before it under the same hold.
    pub fn begin(&mut self, now: Boot) {
        if self.hold != now {
            (self.hold, self.since) = (now, now);
        }
        self.len = 0;
    }

    /// Whether this command is measured with its neighbours.
    #[inline(always)]
    pub fn is_quick(&self, spec: &CommandSpec, args: &Args<'_>) -> bool {
        spec.quick && args.len() <= QUICK_ARGS_MAX && !self.exact
    }

    /// A quick command was executed; it is counted and measured with its run.
    #[inline(always)]
    pub fn called(&mut self, spec: &CommandSpec) {
        debug_assert!(self.len < PREFETCH_GROUP, "runs end with their group");
        self.run[self.len % PREFETCH_GROUP] = Unmeasured { row: spec.row, at: self.at };
        self.len += 1;
    }

    pub fn rejected(&mut self, spec: &CommandSpec) {
        self.rows[usize::from(spec.row)].rejected += 1;
    }

    pub fn failed(&mut self, spec: &CommandSpec) {
        self.rows[usize::from(spec.row)].failed += 1;
    }

    /// Time since the last reading, in nanoseconds.
    fn lap(&mut self) -> u64 {
        let now = (self.stopwatch)();
        let nanos = now.0.saturating_sub(self.since.0);
        self.since = self.since.max(now);
        nanos
    }

    /// Ends a run: measures it.
    #[inline]
    pub fn end_run(&mut self) {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return;
        }
        let each = self.lap() / len as u64;
        let step = Histogram::step(each);
        let run = &self.run[..len];
        if run.iter().all(|one| one.row == run[0].row) {
            self.rows[usize::from(run[0].row)].add(len as u64, each, step);
        } else {
            run.iter().for_each(|one| self.rows[usize::from(one.row)].add(1, each, step));
        }
        if self.is_slow(each) {
            self.slow.extend(self.run[..len].iter().map(|one| (one.at, each)));
        }
    }

    /// What a command took by itself, in nanoseconds; the run before it has ended. The parts of one that is executed in slices are for the caller to add.
    pub fn alone(&mut self) -> u64 {
        self.lap()
    }

    /// A command that was measured by itself was executed and took that long.
    pub fn called_alone(&mut self, spec: &CommandSpec, nanos: u64) {
        self.rows[usize::from(spec.row)].add(1, nanos, Histogram::step(nanos));
    }

    /// When the last reading was taken.
    pub fn last_reading(&self) -> Boot {
        self.since
    }

    /// A command was executed since an earlier reading, others that were measured within it included.
    pub fn called_since(&mut self, spec: &CommandSpec, began: Boot) {
        self.lap();
        self.called_alone(spec, self.since.0 - began.0);
    }

    /// Every command and subcommand with what is known of it.
    pub fn rows(&self) -> impl Iterator<Item = (&'static CommandSpec, &Row)> {
        let specs = all().flat_map(|spec| std::iter::once(spec).chain(spec.subs));
        specs.map(|spec| (spec, self.of(spec)))
    }

    /// What is known of one command.
    pub fn of(&self, spec: &CommandSpec) -> &Row {
        &self.rows[usize::from(spec.row)]
    }
}

/// Steps for each doubling.
const STEPS: u64 = 32;
/// The longest duration that is told apart: 2^34 ns, 17 s.
const LONGEST_BITS: u32 = 34;

/// How many durations fell into each step.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: [u64; Histogram::LEN],
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: [0; Histogram::LEN] }
    }
}

impl Histogram {
    const LEN: usize = STEPS as usize * (LONGEST_BITS - STEPS.ilog2() + 1) as usize;

    /// The step of a duration: itself below [`STEPS`], then 32 for each doubling.
    fn step(nanos: u64) -> usize {
        let nanos = nanos.min((1 << LONGEST_BITS) - 1);
        let above = nanos.max(STEPS).ilog2() - STEPS.ilog2();
        above as usize * STEPS as usize + (nanos >> above) as usize
    }

    /// The longest duration of a step.
    fn longest(step: usize) -> u64 {
        let above = (step as u64 / STEPS).saturating_sub(1);
        ((step as u64 - above * STEPS + 1) << above) - 1
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration, in nanoseconds, that this share of all does not exceed.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = ((self.total() as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = |count: &u64| {
            seen += count;
            seen >= wanted
        };
        Histogram::longest(self.counts.iter().position(reached).unwrap_or(0))
    }

    /// How many did not take longer than each power of two, from 1,024 ns on: the exponent and the count, where it rises.
    pub fn doublings(&self) -> Vec<(u32, u64)> {
        let mut rises = Vec::new();
        let (mut seen, mut exponent) = (0, 10);
        let mut told = 0;
        for (step, count) in self.counts.iter().enumerate() {
            while Histogram::longest(step) >= 1 << exponent {
                if seen > told {
                    rises.push((exponent, seen));
                    told = seen;
                }
                exponent += 1;
            }
            seen += count;
        }
        if seen > told {
            rises.push((exponent, seen));
        }
        rises
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_order_and_their_bounds_are_near() {
        assert_eq!(Histogram::step(u64::MAX), Histogram::LEN - 1);
        let mut last = None;
        for nanos in (0..5_000).chain((0..LONGEST_BITS).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]))
        {
            let longest = Histogram::longest(Histogram::step(nanos));
            assert!(longest >= nanos && longest <= nanos + nanos / STEPS, "{nanos} is at most {longest}");
        }
        for step in 0..Histogram::LEN {
            let longest = Histogram::longest(step);
            assert!(last.is_none_or(|last| last < longest));
            assert_eq!(
                (Histogram::step(longest), Histogram::step(longest + 1)),
                (step, (step + 1).min(Histogram::LEN - 1))
            );
            last = Some(longest);
        }
    }

    #[test]
    fn percentiles_and_doublings_tell_what_was_put_in() {
        let mut histogram = Histogram::default();
        for micros in 1..=100 {
            histogram.counts[Histogram::step(micros * 1_000)] += 1;
        }
        assert_eq!(histogram.total(), 100);
        for (percent, micros) in [(50.0, 50), (99.0, 99), (99.9, 100), (100.0, 100)] {
            let got = histogram.percentile(percent);
            assert!(got >= micros * 1_000 && got < micros * 1_032, "{percent}: {got}");
        }
        assert_eq!(
            histogram.doublings(),
            [(10, 1), (11, 2), (12, 4), (13, 8), (14, 16), (15, 32), (16, 65), (17, 100)]
        );
        assert!(Histogram::default().doublings().is_empty());
    }

    #[test]
    fn run_is_divided_evenly_and_others_are_measured_by_themselves() {
        let mut calls = Calls::new(|| Boot(9_000));
        let [get, set, keys] =
            ["get", "set", "keys"].map(|name| crate::command::find(name.as_bytes()).expect("it is there"));
        calls.begin(Boot(0));
        for (at, spec) in [get, get, set].into_iter().enumerate() {
            calls.at = at;
            calls.called(spec);
        }
        calls.slow_ns = 3_000;
        calls.end_run();
        calls.end_run();
        assert_eq!(calls.slow, [(0, 3_000), (1, 3_000), (2, 3_000)]);
        calls.begin(Boot(2_000));
        let nanos = calls.alone();
        calls.called_alone(keys, nanos);
        let told = [get, set, keys].map(|spec| (calls.of(spec).calls, calls.of(spec).nanos));
        assert_eq!(told, [(2, 6_000), (1, 3_000), (1, 7_000)]);
        calls.reset();
        assert_eq!(calls.rows().map(|(_, row)| row.calls + row.nanos).sum::<u64>(), 0);
    }
}
