//! One run from a seed to a verdict, and many of them side by side.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use crate::checks::{convergence, linearizable};
use crate::clients::LIST;
use crate::clock::MS;
use crate::coverage::Coverage;
use crate::setup::Setup;
use crate::world::World;

/// Fewer events in a run than this prove little.
const EVENTS_MIN: u64 = 5_000;

/// How a run ended.
pub struct Verdict {
    pub seed: u64,
    /// Events that happened.
    pub events: u64,
    pub failure: Option<String>,
    pub coverage: Coverage,
    pub hash: u64,
    pub story: String,
}

thread_local! {
    /// Where and why this thread panicked last, while it runs a simulation.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics inside a run are part of its verdict, not noise.
fn catch_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNNING.with(|r| *r.borrow()) {
                PANIC.with(|p| *p.borrow_mut() = Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs one simulation.
pub fn run(setup: Setup, tracing: bool) -> Verdict {
    catch_quietly();
    let seed = setup.seed;
    let mut world = World::new(setup, tracing);
    RUNNING.with(|r| *r.borrow_mut() = true);
    let done = catch_unwind(AssertUnwindSafe(|| story(&mut world)));
    RUNNING.with(|r| *r.borrow_mut() = false);
    let failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(text)) => Some(text),
        Err(_) => Some(PANIC.with(|p| p.borrow_mut().take()).unwrap_or_else(|| "a panic".to_string())),
    };
    world.coverage.add("events", world.step);
    world.coverage.add("entries acknowledged", world.checks.history.end().0);
    Verdict { seed, events: world.step, failure, hash: world.hash(), story: world.story(), coverage: world.coverage }
}

/// The acts of a run: coming up, faults, rest, judgement.
fn story(world: &mut World) -> Result<(), String> {
    if world.setup.seed % 10 < 7 {
        let limit = 4_000 * MS;
        while world.t < limit && convergence::missing(world).is_some() {
            world.run_until(world.t + 20 * MS)?;
        }
    }
    world.let_loose();
    world.run_until(world.t + world.setup.fault_phase)?;
    let calm_from = world.lift_faults();
    world.run_until(calm_from)?;
    // Who was told to end before then does so, and is started again.
    let is_ending = |world: &World| world.nodes.iter().any(|n| n.process.as_ref().is_some_and(|p| p.stopping));
    if is_ending(world) {
        while is_ending(world) {
            world.run_until(world.t + 100 * MS)?;
        }
        world.run_until(world.t + 2_000 * MS)?;
    }
    if world.lost_all && world.checks.resets == 0 {
        // Whether what is left comes back is not promised; that nothing false is said is.
        world.run_until(world.t + 8_000 * MS)?;
        if world.checks.resets == 0 && world.leader().is_none() {
            let deadline = world.t + 30_000 * MS;
            while world.leader().is_none() && world.t < deadline {
                world.operator_decides();
                world.run_until(world.t + 2_000 * MS)?;
            }
            while world.t < deadline && convergence::missing(world).is_some() {
                world.run_until(world.t + 50 * MS)?;
            }
            if let Some(what) = convergence::missing(world) {
                return Err(format!("operator: what was decided did not bring the cluster back: {what}"));
            }
        }
        while world.step < EVENTS_MIN {
            world.run_until(world.t + 1_000 * MS)?;
        }
    }
    if world.checks.resets > 0 {
        world.coverage.hit("started over after total loss");
    }
    if !world.lost_all || world.checks.resets > 0 {
        convergence::check(world)?;
    }
    if world.checks.resets > 0 || world.checks.has_given_up() {
        // What clients saw before belongs to another history.
        return Ok(());
    }
    world.check_caches()?;
    if world.setup.acks_leader {
        // What was answered may be lost; that no node shows anything else was looked at all the time.
        world.coverage.hit("acks: leader");
        return Ok(());
    }
    let history = &world.checks.history;
    let list = history.at(LIST.as_bytes(), history.end()).map(|(v, _)| v).unwrap_or_default();
    linearizable::check(&world.ops, &list, world.setup.flushes)
}

/// How to see a failed run again.
pub fn replay_command(seed: u64) -> String {
    format!("DATAKEEPER_SIM_SEED={seed} cargo test --profile load --test sim -- replay --nocapture")
}

/// The text for a run that failed: what, how to repeat it, and what happened before.
pub fn report(setup: &Setup, failure: &str) -> String {
    let again = run(setup.clone(), true);
    let same = if again.failure.as_deref() == Some(failure) {
        ""
    } else {
        "\n(the traced run ended otherwise: NOT DETERMINISTIC)"
    };
    format!("{}\nseed {}: {failure}{same}\nreplay: {}\n", again.story, setup.seed, replay_command(setup.seed))
}

/// Runs `setups` on `threads` threads until all are done or `failures_max` have failed. Returns what was covered, and the failures.
pub fn run_all(
    setup_of: impl Fn(u64) -> Setup + Sync,
    seeds: std::ops::Range<u64>,
    threads: usize,
    failures_max: usize,
) -> (Coverage, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new((Coverage::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().expect("no panic inside").1.len() >= failures_max {
                        return;
                    }
                    let mut verdict = run(setup_of(seed), false);
                    if verdict.events < EVENTS_MIN && verdict.failure.is_none() {
                        verdict.failure = Some(format!("events: only {}, {EVENTS_MIN} are wanted", verdict.events));
                    }
                    let mut found = found.lock().expect("no panic inside");
                    found.0.merge(&verdict.coverage);
                    if let Some(failure) = verdict.failure {
                        found.1.push((verdict.seed, failure));
                    }
                }
            });
        }
    });
    found.into_inner().expect("no panic inside")
}
