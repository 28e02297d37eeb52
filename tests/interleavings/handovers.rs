//! Handing over, when RESIGN or its target gets lost, or not everything is acknowledged.

use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::replication::wire::Frame;

use crate::support::world::World;
use crate::{cluster, comes_to_rest, epoch, leads, set};

fn hand_over(world: &mut World, to: &str) {
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", to]), "+OK\r\n");
    assert_eq!(world.role(0), Role::Resigning);
}

fn resign_is_on_its_way(world: &World, to: usize) -> bool {
    world.frames(0, to).iter().any(|f| matches!(f, Frame::Resign(_)))
}

/// n0 answers nothing in its epoch, until there is another one that somebody leads.
fn silent_until_another_epoch(world: &mut World, nodes: &[usize]) -> usize {
    let mut read = world.read(0, "k");
    let begin = epoch(world);
    while !nodes.iter().any(|i| leads(world, *i) && world.keeper(*i).highest_epoch().0 > 1) {
        assert!(!world.answered(&mut read) || world.keeper(0).highest_epoch().0 > 1, "it answered after RESIGN");
        assert!(world.role(0) != Role::Leader || world.keeper(0).highest_epoch().0 > 1, "it took RESIGN back");
        world.run_until("time passes", 2, |w| w.now_ms > 0);
        world.run(1);
        assert!(world.now_ms < 60_000, "no new epoch after {begin}: {:#?}", world.notices());
    }
    nodes.iter().copied().find(|i| leads(world, *i)).expect("just seen")
}

/// 17. RESIGN is lost: the target knows of nothing, and the old leader must not go on as if it had not sent it.
#[test]
fn i17_a_leader_whose_resign_is_lost_stays_silent_until_another_epoch() {
    let mut world = cluster();
    world.stop(0, 1);
    hand_over(&mut world, "n1");
    assert!(resign_is_on_its_way(&world, 1), "all is acknowledged, so it was sent");
    world.break_link(0, 1);
    world.heal();
    assert_eq!(world.role(1), Role::Replica, "n1 has not heard of it");
    let leader = silent_until_another_epoch(&mut world, &[0, 1, 2]);
    assert_eq!(world.value(leader, "k").as_deref(), Some("old"));
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// 17. The target dies before its request takes effect.
#[test]
fn i17_a_target_that_dies_before_its_election_leaves_nobody_leading_twice() {
    let mut world = cluster();
    world.unserve(&[1]);
    hand_over(&mut world, "n1");
    assert_eq!((world.role(1), world.wants(1)), (Role::Candidate, Some(Why::Handover)), "it was told, and stands");
    let dead = world.kill(1);
    world.model.end_session(dead.session().unwrap());
    let leader = silent_until_another_epoch(&mut world, &[0, 2]);
    assert_eq!((epoch(&world), world.value(leader, "k").as_deref()), (2, Some("old")));
    set(&mut world, leader, "k", "new");
}

/// 17. The target dies after it was elected, and before anybody heard so.
#[test]
fn i17_a_target_that_dies_right_after_its_election_is_replaced_with_every_write() {
    let mut world = cluster();
    world.unserve(&[0, 1, 2]);
    hand_over(&mut world, "n1");
    world.lands(1);
    assert_eq!((epoch(&world), world.set()), (2, vec!["n1".into(), "n2".into(), "n0".to_string()]));
    world.crash(1);
    world.serve(&[0, 2]);
    world.run_until("n2 leads", 1_500, |w| leads(w, 2));
    assert_eq!((epoch(&world), world.value(2, "k").as_deref()), (3, Some("old")));
    world.run_until("n0 is still in", 500, |w| w.names(0) && w.in_sync() == 2);
    set(&mut world, 2, "k", "new");
}

/// 17. The member that shall lead is taken out before RESIGN: it is not sent, and the leader goes on.
#[test]
fn i17_a_handover_to_a_member_that_was_just_removed_is_given_up() {
    let mut world = cluster();
    world.stop(2, 0);
    let mut write = world.write(0, "k", "new");
    hand_over(&mut world, "n2");
    assert!(!resign_is_on_its_way(&world, 2), "the target has not acknowledged the end");
    world.run_until("n2 is out", 300, |w| w.in_sync() == 2);
    world.run(20);
    assert!(world.told(0, "the handover to n2 is given up") && leads(&world, 0) && epoch(&world) == 1);
    assert!(world.answered(&mut write) && write.reply() == "+OK\r\n");
    let said = world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n2"]);
    assert_eq!(said, "-ERR n2 is not connected and in sync\r\n");
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// V6. "The target acknowledged everything" is not "everything is acknowledged": the old leader, which stays named, would have
/// executed what the third node's log contradicts.
#[test]
fn v6_a_leader_resigns_only_when_all_have_acknowledged_not_only_the_target() {
    let mut world = cluster();
    world.stop(0, 2);
    let mut write = world.write(0, "k", "new");
    hand_over(&mut world, "n1");
    world.run(100);
    let end = world.keeper(0).log().end();
    assert_eq!((world.keeper(1).log().end(), world.keeper(0).acked().next()), (end, end), "n1 has it, n2 has not");
    assert_eq!(
        (world.role(0), world.role(1), epoch(&world)),
        (Role::Resigning, Role::Replica, 1),
        "RESIGN was not sent"
    );
    world.let_through(0, 2);
    world.run_until("n1 leads", 50, |w| leads(w, 1));
    assert!(world.answered(&mut write) && write.reply() == "+OK\r\n");
    assert_eq!(world.set(), ["n1", "n2", "n0"]);
    let copy = world.keeper(0).me().copy;
    comes_to_rest(&mut world, 3, "k", Some("new"));
    assert_eq!(world.keeper(0).me().copy, copy, "nothing had to be wiped");
}
