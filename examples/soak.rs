//! The simulator for as long as it is let: `cargo run --release --example soak -- [minutes] [first seed] [threads]`.
//!
//! Shares every module with `tests/sim`. Stops at the first seed that fails, with its story and the command that replays it.
#![allow(dead_code)] // the tests use what this leaves out

#[path = "../tests/sim/checks/mod.rs"]
mod checks;
#[path = "../tests/sim/clients.rs"]
mod clients;
#[path = "../tests/sim/clock.rs"]
mod clock;
#[path = "../tests/sim/coordinator.rs"]
mod coordinator;
#[path = "../tests/sim/coverage.rs"]
mod coverage;
#[path = "../tests/sim/dice.rs"]
mod dice;
#[path = "../tests/sim/faults.rs"]
mod faults;
#[path = "../tests/sim/history.rs"]
mod history;
#[path = "../tests/support/linearizable.rs"]
mod linearizable;
#[path = "../tests/sim/listeners.rs"]
mod listeners;
#[path = "../tests/sim/network.rs"]
mod network;
#[path = "../tests/sim/runner.rs"]
mod runner;
#[path = "../tests/sim/setup.rs"]
mod setup;
#[path = "../tests/sim/transport.rs"]
mod transport;
#[path = "../tests/sim/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::coverage::Coverage;
use crate::setup::Setup;

/// Seeds between two reports.
const ROUND: u64 = 200;

fn main() -> ExitCode {
    let number = |i: usize| std::env::args().nth(i).and_then(|text| text.parse::<u64>().ok());
    let minutes = number(1).unwrap_or(60);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Another day, other seeds.
    let first = number(2).unwrap_or(today * 1_000);
    let threads = number(3).unwrap_or(2) as usize;
    let begun = Instant::now();
    let mut coverage = Coverage::default();
    let mut seed = first;
    while begun.elapsed() < Duration::from_secs(minutes * 60) {
        let (reached, failures) = runner::run_all(Setup::of, seed..seed + ROUND, threads, 1);
        coverage.merge(&reached);
        if let Some((seed, failure)) = failures.first() {
            println!("{}", runner::report(&Setup::of(*seed), failure));
            return ExitCode::FAILURE;
        }
        seed += ROUND;
        println!(
            "{} seeds from {first} on, {} s, {} events",
            seed - first,
            begun.elapsed().as_secs(),
            coverage.of("events")
        );
    }
    println!("{}", coverage.report());
    ExitCode::SUCCESS
}
