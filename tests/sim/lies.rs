//! The simulator can fail: each world here lies in one point, and the checks must notice.

use crate::clock::MS;
use crate::runner::run;
use crate::setup::{Fault, Lie, Setup};

/// Runs lying worlds until one is found out; the complaint must be one of `by`.
fn found_out(lie: Lie, faults: &[(Fault, u64)], by: &[&str]) {
    let mut complaints = Vec::new();
    for seed in 0..60 {
        let mut setup = Setup::calm(seed);
        setup.lie = lie;
        setup.faults = faults.to_vec();
        setup.fault_every = 400 * MS;
        setup.fault_phase = 6_000 * MS;
        setup.think = 5 * MS;
        setup.latency = MS;
        setup.jitter = 5 * MS;
        setup.service_delay = (5 * MS, 300 * MS);
        let Some(failure) = run(setup, false).failure else { continue };
        if by.iter().any(|check| failure.starts_with(check)) {
            return;
        }
        complaints.push(format!("seed {seed}: {failure}"));
    }
    panic!("{lie:?} was not found out by any of {by:?}, but: {complaints:#?}");
}

#[test]
fn an_acknowledgement_that_no_member_gave_is_found_out() {
    found_out(Lie::AckForAnother, &[(Fault::Stall, 3), (Fault::Kill, 1)], &["completeness"]);
}

#[test]
fn a_frozen_member_that_echoes_is_found_out() {
    found_out(Lie::EchoWhileFrozen, &[(Fault::Stall, 1), (Fault::Busy, 1), (Fault::OneWay, 1)], &["ack epochs"]);
}

#[test]
fn a_lost_change_that_is_taken_for_won_is_found_out() {
    let by = ["epochs", "effective set", "one history", "completeness", "stale reads"];
    found_out(Lie::WonForLost, &[(Fault::Partition, 1), (Fault::Pause, 2)], &by);
}

#[test]
fn a_copy_id_that_is_used_again_is_found_out() {
    found_out(Lie::SameCopyAgain, &[(Fault::FastRestart, 1)], &["completeness", "applied", "copies"]);
}

#[test]
fn a_reply_that_leaves_too_early_is_found_out() {
    found_out(Lie::ReleaseAtOnce, &[(Fault::Kill, 1), (Fault::Partition, 1)], &["linearizable"]);
}

#[test]
fn a_clock_that_runs_at_half_speed_is_found_out() {
    found_out(Lie::SlowClock, &[(Fault::Pause, 1), (Fault::Partition, 1)], &["leases"]);
}
