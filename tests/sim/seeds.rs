//! Seeds that once failed, each with its story. They stay, although later changes make other histories of them.

use crate::runner::{report, run};
use crate::setup::Setup;

fn holds(seed: u64) {
    let setup = Setup::of(seed);
    if let Some(failure) = run(setup.clone(), false).failure {
        panic!("{}", report(&setup, &failure));
    }
}

#[test]
fn a_copy_given_up_while_another_leader_is_taken_up_joins_again() {
    // The wipe was planned, then a new epoch was followed, whose dial was put off until the wipe, and for ever after it.
    holds(1_011);
    holds(1_026);
}

#[test]
fn a_leader_that_has_acknowledged_nothing_yet_vouches_for_the_age_of_no_replica() {
    // Ready, but with too few in sync to acknowledge its barrier, it called its position all that was acknowledged: the former leader had
    // acknowledged more, and a replica that had applied less answered as if it were fresh.
    holds(2_960);
}

#[test]
fn a_learner_comes_in_under_a_steady_stream_of_writes() {
    // A leader that is alone holds each entry at once: the learner never had all that was held.
    holds(1_003);
    holds(1_059);
}

#[test]
fn a_learner_with_data_whose_session_has_expired_keeps_the_cluster_from_starting_over() {
    // The coordination service came back with all sessions expired; a node without data registered before the learner did, saw
    // that no live node held data, and started over.
    holds(30_541);
}

#[test]
fn a_frame_on_a_slow_link_is_not_taken_for_silence() {
    // A frame of 195 kB on a link of 300 kB/s took longer than the follower waits for a sign of life: it dropped the link, again and again.
    holds(1_002);
}

#[test]
fn a_fallback_copy_that_cannot_be_continued_says_hello_until_it_is_unnamed() {
    // It planned to give itself up, was kept from it because `/state` names it, and said nothing to the only one who could change that.
    holds(1_281);
}

#[test]
fn a_node_that_stood_still_does_not_take_its_own_pause_for_a_lasting_loss() {
    // It woke after ten seconds and told operators at ERROR that no leader had been found for so long.
    holds(1_029);
}

#[test]
fn members_owe_no_promise_to_a_leader_that_one_of_them_has_left() {
    // A successor that reads without leases let a member off; the check still counted it for the deposed one.
    holds(2_993);
}

#[test]
fn much_on_a_slow_link_arrives_piece_by_piece() {
    // The simulator delivered a megabyte at once, after seconds of silence.
    holds(2_870);
}

#[test]
fn a_clock_that_is_set_back_to_the_very_millisecond_of_an_earlier_start_is_left_out() {
    // A process that had started at the same time by its clock as an earlier one of its name was taken for that, which had lost the name.
    holds(2_482);
}
