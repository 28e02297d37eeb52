//! Starting over empty: never while a copy that counts may be alive.

use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::keeper::{Event, KeeperConfig};
use datakeeper::replication::wire::Frame;

use crate::support::world::World;
use crate::{cluster, cluster_of, comes_to_rest, epoch, leads, set};

fn two() -> World {
    cluster_of(2, |_, _| {})
}

/// An operator goes on with what a node holds.
fn adopt(world: &mut World, i: usize) {
    assert_eq!(world.ask(i, &["DATAKEEPER", "ADOPT", &format!("n{i}"), "CONFIRM", "c"]), "+OK\r\n");
    world.run_until("it leads", 1_000, |w| leads(w, i));
}

/// V1. A directory that was read too early shows another copy of the leader's node than `/state`: that is an earlier one, not a later.
#[test]
fn v1_an_older_directory_proves_nothing_against_a_living_leader() {
    let mut world = two();
    let b1 = world.keeper(1).me().copy;
    world.crash(1);
    world.start(1);
    world.run_until("n1 is back", 2_000, |w| w.in_sync() == 2 && w.names(1));
    world.crash(0);
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    world.isolate(0);
    world.start(0);
    world.run(100);
    // n0 as it is; n1 as it was, before its first copy had taken anything in.
    let was = (0..60).flat_map(|back| world.model.nodes_before(back));
    let was = was.filter(|n| n.registration.copy == b1 && n.registration.empty).last().expect("registered empty");
    let mut nodes = world.model.nodes();
    let at = nodes.iter().position(|n| n.registration.id.as_str() == "n1").unwrap();
    assert!(world.names(1) && nodes[at].registration.copy != b1, "the copy that leads is the later one");
    nodes[at] = was;
    world.unserve(&[0]);
    world.event(
        0,
        Event::Coord(Box::new(CoordEvent::Nodes { nodes: nodes.clone(), unreadable: Vec::new(), confirmed: false })),
    );
    assert_eq!(world.wants(0), None, "nothing rests on an unconfirmed read");
    world.event(0, Event::Coord(Box::new(CoordEvent::Nodes { nodes, unreadable: Vec::new(), confirmed: true })));
    assert_eq!(world.wants(0), Some(Why::Reset), "even if it is taken for a proof");
    world.serve(&[0]);
    assert!(world.told(0, "lost the change"));
    assert_eq!((world.state().resets, epoch(&world), leads(&world, 1)), (0, 2, true));
    world.heal();
    comes_to_rest(&mut world, 2, "k", Some("old"));
}

/// V2 (a). The set is gone for certain, and the copy outside it holds everything.
#[test]
fn v2_a_a_copy_that_was_just_taken_out_is_not_emptied_when_its_leader_restarts() {
    let mut world = two();
    world.stop(1, 0);
    world.lose_link(0, 1, &[0]);
    world.run_until("n1 is out", 100, |w| w.in_sync() == 1);
    world.kill(0);
    let (named, held) = (world.state().leader, world.keeper(1).me().clone());
    world.heal();
    world.start(0);
    world.run(30_000);
    let holder = &world.state().holders[&held.id];
    assert!(world.keeper(0).me().copy != named.copy && *holder == held.copy, "the set is gone, a holder is not");
    assert_eq!((world.state().resets, world.role(0)), (0, Role::Joining));
    assert!(world.told(0, "waiting for n1") && world.told(0, "datakeeper admin adopt n1 --connect client:1"));
    adopt(&mut world, 1);
    comes_to_rest(&mut world, 2, "k", Some("old"));
}

/// V2 (b). No change of members at all: the deposed leader holds everything, and the elected copy is gone.
#[test]
fn v2_b_a_leader_deposed_by_a_request_of_a_dead_process_is_not_emptied() {
    let mut world = two();
    world.isolate(1);
    world.unserve(&[1]);
    world.run_until("n1 stands", 600, |w| w.wants(1) == Some(Why::Elect));
    let dead = world.kill(1);
    world.haunt(&dead);
    assert_eq!((epoch(&world), world.set()), (2, vec!["n1".to_string()]), "a dead copy leads");
    world.model.end_session(dead.session().unwrap());
    world.unserved.clear();
    world.heal();
    world.start(1);
    world.run(30_000);
    assert!(!world.names(1) && world.keeper(0).dataset().is_some(), "n0 alone holds the data");
    assert_eq!((world.state().resets, epoch(&world)), (0, 2));
    assert!(world.told(1, "waiting for n0"), "{:#?}", world.notices());
    adopt(&mut world, 0);
    comes_to_rest(&mut world, 2, "k", Some("old"));
}

/// V2 (c). Minutes after a member was taken out below the minimum the leader dies: the member is complete, and takes over by itself.
#[test]
fn v2_c_a_member_taken_out_below_the_minimum_takes_over_minutes_later() {
    let mut world = cluster();
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    set(&mut world, 0, "k", "new");
    world.isolate(1);
    world.break_link(0, 1);
    world.run_until("n1 is out", 100, |w| w.in_sync() == 1);
    world.run(180_000);
    assert!(world.ask(0, &["SET", "k", "newer"]).starts_with("-NOREPLICAS"));
    assert_eq!(world.state().fallback, [world.keeper(1).me().clone()]);
    world.crash(0);
    world.start(0);
    world.heal();
    world.run_until("n1 leads", 3_000, |w| leads(w, 1));
    assert_eq!((world.state().resets, world.value(1, "k").as_deref()), (0, Some("new")));
}

/// V2 (d). Two nodes: the copy that was taken out lacks a second of writes. That is no reason to lose all others unasked.
#[test]
fn v2_d_a_copy_that_lacks_a_second_of_writes_is_asked_about_and_not_emptied() {
    let mut world = two();
    world.isolate(1);
    world.break_link(0, 1);
    world.run_until("n1 is out", 100, |w| w.in_sync() == 1);
    set(&mut world, 0, "last", "acknowledged by n0 alone");
    world.run(1_000);
    world.crash(0);
    world.heal();
    world.start(0);
    world.run(30_000);
    assert!(world.state().fallback.is_empty() && !world.names(0), "n1 is no complete copy, and n0's is gone");
    assert_eq!((world.state().resets, epoch(&world)), (0, 1));
    assert!(world.told(0, "datakeeper admin adopt n1"));
    adopt(&mut world, 1);
    comes_to_rest(&mut world, 2, "k", Some("old"));
    assert_eq!(world.value(1, "last"), None, "what an operator chose to give up");
}

fn n2_first(i: usize, config: &mut KeeperConfig) {
    config.rank = u32::from(i != 2);
}

/// V2 (e). Who proves the loss is itself a learner: what is on its way to it must not arrive between the proof and the outcome.
#[test]
fn v2_e_who_starts_over_takes_nothing_in_until_that_is_decided() {
    let mut world = World::new(3);
    world.tune = n2_first;
    world.start(0);
    world.start(1);
    world.run_until("two in sync", 2_000, |w| w.in_sync() == 2);
    set(&mut world, 0, "k", "old");
    world.unserve(&[2]);
    world.start(2);
    world.stop_after(0, 2, 1);
    world.told_all(2);
    assert!(world.step(2), "it registers");
    world.run(10);
    let waiting = world.frames(0, 2);
    assert!(waiting.iter().any(|f| matches!(f, Frame::Welcome(..))), "the leader's welcome is on its way: {waiting:?}");
    for i in [0, 1] {
        world.crash(i);
        world.start(i);
    }
    world.step(2);
    assert_eq!(world.wants(2), Some(Why::Reset), "proven, and not decided");
    let late = world.take(0, 2);
    world.arrive_all(late);
    assert_eq!((world.keeper(2).dataset(), world.role(2)), (None, Role::Candidate), "nothing was taken in");
    world.heal();
    world.serve(&[2]);
    world.run_until("n2 leads", 500, |w| leads(w, 2));
    assert_eq!((world.state().resets, world.value(2, "k")), (1, None));
}

/// Only n0 is left in the set, below the minimum; then it dies as well.
fn lose_all_but_n0(world: &mut World) {
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    world.crash(1);
    world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    assert!(world.ask(0, &["SET", "k", "refused"]).starts_with("-NOREPLICAS"));
    world.crash(0);
}

/// 18. Proven: every copy that counts was replaced by an empty one. The cluster starts over, loudly.
#[test]
fn i18_a_lone_leader_that_died_is_proven_lost_when_all_have_restarted_empty() {
    let mut world = cluster();
    lose_all_but_n0(&mut world);
    for i in 0..3 {
        world.start(i);
    }
    world.run_until("somebody leads nothing", 5_000, |w| (0..3).any(|i| leads(w, i)));
    assert_eq!((world.state().resets, epoch(&world)), (1, 2));
    assert!(world.notices().iter().any(|n| n.contains("ALL DATA ARE LOST")));
    comes_to_rest(&mut world, 3, "k", None);
}

/// 18. Unproven: the lone leader may be alive somewhere, and serve. Nothing is automatic.
#[test]
fn i18_a_lone_leader_that_is_only_out_of_reach_is_waited_for() {
    let mut world = cluster();
    lose_all_but_n0(&mut world);
    world.start(1);
    world.start(2);
    world.run(60_000);
    assert_eq!((world.state().resets, world.role(1), world.role(2)), (0, Role::Joining, Role::Joining));
    assert!(world.told(1, "waiting for n0, whose memory may hold the data"));
}

/// 18. An old member lives, with older data: that is for an operator to decide, not a reason to start over empty.
#[test]
fn i18_an_old_member_with_older_data_is_neither_led_by_nor_emptied_unasked() {
    let mut world = cluster();
    world.isolate(2);
    world.break_link(0, 2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    set(&mut world, 0, "k", "newer than n2's");
    world.crash(1);
    world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    world.crash(0);
    world.heal();
    world.start(0);
    world.start(1);
    world.run(30_000);
    assert!(!world.state().fallback.contains(world.keeper(2).me()), "it is not complete");
    assert_eq!((world.state().resets, epoch(&world)), (0, 1));
    assert!(world.told(0, "waiting for n2") && world.told(0, "datakeeper admin adopt n2 --connect client:2"));
    adopt(&mut world, 2);
    comes_to_rest(&mut world, 3, "k", Some("old"));
}
