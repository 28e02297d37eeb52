//! The stories prove something: with the rule that guards a place left out of every node, the story of that place fails, and fails
//! where it says what went wrong. Needs the cargo feature `leave-out-rules`.
//!
//! Not here: the rules whose absence no named story shows (`ShrinkByCas`, `ExpandWhenHeld`, `BarrierBeforeReads`, and `Fencing`, because
//! here the applied barrier keeps a bystander from turning back as well); the simulator's schedule shows all of them
//! (`tests/sim/switches.rs`).

use std::panic::catch_unwind;

use datakeeper::base::rules::{LeftOut, Rule};

use crate::support::world::LEFT_OUT;
use crate::{copies, elections, leases, names, sets};

/// A rule, the story that misses it, and a part of its complaint.
const STORIES: &[(Rule, fn(), &str)] = &[
    (
        Rule::PromiseWait,
        elections::i10_of_candidates_of_the_same_moment_one_wins_and_the_losers_depose_nobody,
        "the promise to n0 was not kept",
    ),
    (
        Rule::LeaseShorterThanPromise,
        leases::i21_the_first_read_after_a_suspension_is_not_answered_from_before_it,
        "old",
    ),
    (
        Rule::LeaseFromSending,
        leases::i04_a_leader_that_slept_ten_seconds_answers_no_stale_read_in_whichever_order_it_goes_on,
        "in flight",
    ),
    (
        Rule::FreezeBeforeCas,
        elections::i01_a_candidate_whose_request_takes_effect_ten_seconds_late_stays_frozen_and_then_leads,
        "not frozen",
    ),
    (
        Rule::ResolveCas,
        elections::i01_a_candidate_whose_request_takes_effect_ten_seconds_late_stays_frozen_and_then_leads,
        "not frozen",
    ),
    (
        Rule::UnionOfShrink,
        sets::i02_while_a_shrink_is_in_flight_the_member_it_removes_is_waited_for_and_may_win_the_election,
        "n1 does not",
    ),
    (
        Rule::UnionOfExpand,
        sets::i03_a_copy_whose_addition_the_leader_never_learns_leads_with_every_acknowledged_write,
        "n2 is waited for already",
    ),
    (
        Rule::LeaseOfPending,
        sets::i03_a_copy_whose_addition_the_leader_never_learns_is_needed_for_its_leases,
        "without the lease of a member",
    ),
    (
        Rule::ExpandAfterBarrier,
        copies::i06_a_new_leader_takes_no_learner_in_before_its_barrier_is_held,
        "n3 was not refused",
    ),
    (
        Rule::NewCopyId,
        copies::i08_a_leader_that_restarts_empty_within_milliseconds_is_not_taken_for_the_leader,
        "/state names the old copy",
    ),
    (
        Rule::OnlyInSyncStands,
        sets::i02_an_election_in_flight_loses_to_the_shrink_that_removes_the_candidate,
        "who is out does not stand again",
    ),
    (
        Rule::BarrierBeforeAcks,
        copies::v8_a_superseded_winner_has_executed_nothing_and_keeps_its_copy,
        "it has executed its tail",
    ),
    (
        Rule::SnapshotFloor,
        copies::v4_a_snapshot_with_unacknowledged_effects_is_neither_read_nor_named,
        "not acknowledged",
    ),
    (
        Rule::SilentTogether,
        leases::i15_members_that_fall_silent_a_heartbeat_apart_are_not_taken_out_one_by_one,
        "a replica leads",
    ),
    (Rule::NameIsNoProof, names::proven_loss_is_not_proven_by_a_twin_of_a_lone_leader_that_is_cut_off, "!started_over"),
    (Rule::DataStay, names::a_process_with_data_whose_name_is_taken_keeps_them_for_an_operator, "exits: "),
];

/// What a story complains about without that rule.
fn complaint(rule: Option<Rule>, story: fn()) -> Option<String> {
    LEFT_OUT.set(rule.map_or_else(LeftOut::default, LeftOut::only));
    let failed = catch_unwind(story).err();
    LEFT_OUT.set(LeftOut::default());
    failed.map(|why| match why.downcast::<String>() {
        Ok(text) => *text,
        Err(why) => why.downcast::<&str>().map_or_else(|_| "?".to_string(), |text| text.to_string()),
    })
}

#[test]
fn a_story_fails_without_the_rule_that_guards_its_place() {
    let mut wrong = Vec::new();
    for (rule, story, wanted) in STORIES {
        assert_eq!(complaint(None, *story), None, "with all rules");
        let said = complaint(Some(*rule), *story).unwrap_or_else(|| "nothing".to_string());
        println!("{rule:?}: {}", said.lines().next().unwrap_or_default());
        if !said.contains(wanted) {
            wrong.push(format!("{rule:?}: {:.300}", said));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
