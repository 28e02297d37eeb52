//! The proof proves: each rule of the protocol is left out in turn, in every node, and the generic schedule must notice, by what
//! clients could come to feel: only lost writes and stale reads are looked for, not what guards against them.
//!
//! Needs the cargo feature `leave-out-rules`. The same seeds without a switch are clean: `clusters_under_faults_keep_every_invariant`
//! runs them, and each seed named here is run again without its switch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use datakeeper::base::rules::{LeftOut, Rule};

use crate::clock::MS;
use crate::number_from_env;
use crate::runner::run;
use crate::setup::{Fault, Setup};

/// Seeds within which each absence has to be noticed.
const SEEDS: u64 = 2_000;
const FIRST: u64 = 1_000;

/// What has to be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    StaleRead,
    LostWrite,
    UncommittedRead,
    /// A lease that is counted on for longer than the promise it rests on: a stale read is possible, and too rare to wait for.
    LeaseWithoutPromise,
    /// A replica has answered with older data than it was allowed to.
    TooOld,
    /// Keys have expired long before their time.
    ClockJumped,
}

impl Damage {
    /// Checks whose complaint means just that.
    fn checks(self) -> &'static [&'static str] {
        match self {
            Damage::StaleRead => &["stale reads", "linearizable"],
            // A follower that lacks what is acknowledged loses it at the next election.
            Damage::LostWrite => &["completeness", "one history", "linearizable", "stores"],
            Damage::UncommittedRead => &["stores", "applied"],
            Damage::LeaseWithoutPromise => &["leases"],
            Damage::TooOld => &["staleness"],
            Damage::ClockJumped => &["expiry clock"],
        }
    }
}

/// What the generic schedule has to notice; none for a rule whose absence a story of its own shows: here below, or in
/// `tests/interleavings/left_out.rs`.
fn damage_without(rule: Rule) -> Option<Damage> {
    let damage = match rule {
        Rule::PromiseWait
        | Rule::LeaseShorterThanPromise
        | Rule::LeaseFromSending
        | Rule::FreezeBeforeCas
        | Rule::ResolveCas
        | Rule::LeaseOfPending
        | Rule::BarrierBeforeReads => Damage::StaleRead,
        Rule::UnionOfShrink
        | Rule::ShrinkByCas
        | Rule::UnionOfExpand
        | Rule::ExpandWhenHeld
        | Rule::ExpandAfterBarrier
        | Rule::NewCopyId
        | Rule::OnlyInSyncStands
        | Rule::BarrierBeforeAcks
        | Rule::Fencing => Damage::LostWrite,
        Rule::SnapshotFloor => Damage::UncommittedRead,
        Rule::PromiseAsGranted => Damage::LeaseWithoutPromise,
        Rule::VouchOnceAcked => Damage::TooOld,
        Rule::SteadyClock => Damage::ClockJumped,
        Rule::LastCopyStays | Rule::SilentTogether | Rule::NameIsNoProof | Rule::DataStay => return None,
    };
    Some(damage)
}

/// That run, with every node leaving the rule out.
pub fn without(rule: Rule, setup: Setup) -> Setup {
    Setup { rules: LeftOut::only(rule), outcomes_only: rule != Rule::PromiseAsGranted, ..setup }
}

/// The one rule that `DATAKEEPER_SIM_RULE` names.
pub fn rule_from_env() -> Option<Rule> {
    let name = std::env::var("DATAKEEPER_SIM_RULE").ok()?;
    Some(Rule::ALL.into_iter().find(|r| format!("{r:?}") == name).unwrap_or_else(|| panic!("no rule {name}")))
}

/// The first seed that notices, and its complaint; and how many were noticed by others before.
fn first_noticed(rule: Rule, damage: Damage, seeds: u64) -> (Option<(u64, String)>, Vec<(u64, String)>) {
    let (next, end) = (AtomicU64::new(FIRST), AtomicU64::new(FIRST + seeds));
    let (found, others) = (Mutex::new(None::<(u64, String)>), Mutex::new(Vec::new()));
    let checks = damage.checks();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(failure) = run(without(rule, Setup::of(seed)), false).failure else { continue };
                    let failure = failure.lines().next().unwrap_or_default().to_string();
                    if !checks.iter().any(|check| failure.starts_with(check)) {
                        others.lock().expect("no panic inside").push((seed, failure));
                        continue;
                    }
                    let mut found = found.lock().expect("no panic inside");
                    if found.as_ref().is_none_or(|(s, _)| seed < *s) {
                        *found = Some((seed, failure));
                    }
                    end.fetch_min(seed, Ordering::Relaxed);
                }
            });
        }
    });
    (found.into_inner().expect("no panic inside"), others.into_inner().expect("no panic inside"))
}

#[test]
fn the_absence_of_each_rule_is_noticed() {
    let seeds = number_from_env("DATAKEEPER_SIM_SWITCH_SEEDS").unwrap_or(SEEDS);
    let only = rule_from_env();
    let mut missed = Vec::new();
    for rule in Rule::ALL.into_iter().filter(|r| only.is_none_or(|o| o == *r)) {
        let Some(damage) = damage_without(rule) else { continue };
        let (noticed, others) = first_noticed(rule, damage, seeds);
        match noticed {
            Some((seed, failure)) => {
                println!("{rule:?}: seed {seed}, {damage:?}: {failure} ({} others)", others.len());
                let clean = run(Setup::of(seed), false).failure;
                assert_eq!(clean, None, "seed {seed} fails without a switch");
            }
            None => {
                println!("{rule:?}: NOT NOTICED in {seeds} seeds ({} others)", others.len());
                missed.push(rule);
            }
        }
        for (seed, failure) in others.iter().take(3) {
            println!("    other: seed {seed}: {failure}");
        }
    }
    assert!(missed.is_empty(), "these rules can be left out without anybody noticing: {missed:?}");
}

#[test]
fn without_waiting_for_a_fill_the_last_copy_goes() {
    let restarts = |seed| Setup {
        faults: vec![(Fault::Leave, 1)],
        fault_every: 400 * MS,
        fault_phase: 9_000 * MS,
        fill: 3_000,
        // A fill takes some ten seconds.
        bandwidth: 20,
        ..Setup::calm(seed)
    };
    let noticed = |setup: Setup| run(setup, false).failure.is_some_and(|text| text.starts_with("last copy"));
    let seed = (0..200).find(|seed| noticed(without(Rule::LastCopyStays, restarts(*seed))));
    let seed = seed.expect("somebody goes too early");
    assert!(!noticed(restarts(seed)), "seed {seed} fails without a switch");
}

#[test]
fn the_server_refuses_to_run_when_built_like_this() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_datakeeper")).arg("server").output().expect("it starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("leave-out-rules"), "{said}");
}
