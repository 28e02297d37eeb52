//! Keepers in a simulated world: the real state machines of a cluster under faults of every kind, checked after every event.
//!
//! ```text
//!   seed ──► Setup ──► World ─┬─ nodes: Keeper, Pulse, two clocks that run apart
//!                             ├─ network: bytes in pieces, delays, stalls, breaks, silence, partitions
//!                             ├─ coordination: the pure model, driven late, lossily and repeatedly
//!                             ├─ clients: what they asked, and what they were answered
//!                             └─ checks: one file per invariant, and in the end convergence and linearizability
//! ```
//! A seed replays exactly. `DATAKEEPER_SIM_SEEDS=N` runs that many seeds, `DATAKEEPER_SIM_SEED=S` with the test `replay` tells one
//! seed's story. Not here: sockets, threads and real time (tests with real processes), and the bytes of ZooKeeper.

mod checks;
mod clients;
mod clock;
mod coordinator;
mod coverage;
mod dice;
mod faults;
mod history;
mod lies;
#[path = "../support/linearizable.rs"]
mod linearizable;
mod listeners;
mod network;
mod runner;
mod seeds;
mod setup;
#[cfg(feature = "leave-out-rules")]
mod switches;
mod transport;
mod world;

use crate::coverage::{REQUIRED, REQUIRED_OF_MANY};
use crate::runner::{report, run, run_all};
use crate::setup::Setup;

/// Seeds of a usual run.
const SEEDS: u64 = 200;

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn a_quiet_cluster_serves_and_stays_as_it_is() {
    for seed in 0..3 {
        let setup = Setup::calm(seed);
        let verdict = run(setup.clone(), false);
        if let Some(failure) = verdict.failure {
            panic!("{}", report(&setup, &failure));
        }
        assert!(verdict.coverage.of("entries acknowledged") > 100, "{}", verdict.coverage.report());
    }
}

#[test]
fn commands_that_hold_the_lock_for_up_to_three_seconds_depose_nobody() {
    for seed in 0..4 {
        let setup = Setup::of_long_commands(seed);
        let verdict = run(setup.clone(), false);
        if let Some(failure) = verdict.failure {
            panic!("{}", report(&setup, &failure));
        }
        let (busy, stood) = (verdict.coverage.of("fault: busy"), verdict.coverage.of("stood"));
        assert!(busy > 0 && stood == 0, "seed {seed}: {busy} holds, {stood} candidates\n{}", run(setup, true).story);
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 4, 5] {
        let (a, b) = (run(Setup::of(seed), false), run(Setup::of(seed), true));
        assert_eq!((a.hash, a.failure), (b.hash, b.failure), "seed {seed}");
    }
    assert_ne!(run(Setup::of(3), false).hash, run(Setup::of(4), false).hash);
}

#[test]
fn clusters_under_faults_keep_every_invariant() {
    let seeds = number_from_env("DATAKEEPER_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number_from_env("DATAKEEPER_SIM_FIRST").unwrap_or(1_000);
    let failures_max = number_from_env("DATAKEEPER_SIM_FAILURES").unwrap_or(1) as usize;
    let (coverage, failures) = run_all(Setup::of, first..first + seeds, 2, failures_max);
    println!("{}", coverage.report());
    for (seed, failure) in &failures {
        println!("seed {seed}: {}", failure.lines().next().unwrap_or_default());
    }
    if let Some((seed, failure)) = failures.first() {
        panic!("{}", report(&Setup::of(*seed), failure));
    }
    if seeds >= SEEDS {
        let faults: Vec<&str> = setup::FAULTS.iter().map(|(_, name)| *name).collect();
        let of_many = if seeds >= 10 * SEEDS { REQUIRED_OF_MANY } else { &[] };
        let missing = [REQUIRED, of_many, &faults].map(|names| coverage.missing(names)).concat();
        assert!(missing.is_empty(), "{seeds} seeds never came to: {missing:?}");
    }
}

/// Tells the story of one seed, named by `DATAKEEPER_SIM_SEED`; without it, of a quiet one.
#[test]
fn replay() {
    let setup = number_from_env("DATAKEEPER_SIM_SEED").map_or_else(|| Setup::calm(1), Setup::of);
    #[cfg(feature = "leave-out-rules")]
    let setup = switches::rule_from_env().map_or(setup.clone(), |rule| switches::without(rule, setup));
    let verdict = run(setup.clone(), true);
    println!("{}{}", verdict.story, verdict.coverage.report());
    if let Some(failure) = verdict.failure {
        panic!("{}", report(&setup, &failure));
    }
}
