//! Handovers, by Keepers over a perfect network: nothing acknowledged is lost, nobody sees an error, and whatever happens to
//! RESIGN or to its target, the old leader stays silent until there is a new epoch.

mod support;

use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::keeper::Event;
use support::world::{World, three};

fn set(world: &World) -> Vec<String> {
    let (state, _) = world.model.state().state.unwrap();
    state.in_sync.iter().map(|m| m.id.to_string()).collect()
}

#[test]
fn a_handover_keeps_the_old_leader_in_the_set_and_answers_what_was_held_with_moved() {
    let mut world = three();
    let conn = world.connect(0);
    assert_eq!(world.ask(0, &["SET", "foo", "1"]), "+OK\r\n");
    let commands: [&[&str]; 3] = [&["DATAKEEPER", "HANDOVER", "TO", "n2"], &["SET", "foo", "2"], &["GET", "foo"]];
    let mut held = world.pipeline(0, conn, &commands);
    assert!(!world.answered(&mut held), "what follows in the same batch is held too");
    let took = world.run_until("n2 leads", 100, |w| w.role(2) == Role::Leader);
    assert!(took <= 20, "took {took} ms");
    world.run_until("the held commands are answered", 20, |w| w.role(0) == Role::Replica);
    while !world.answered(&mut held) {
        world.run(1);
    }
    assert_eq!(
        String::from_utf8(held.out.to_vec()).unwrap(),
        "+OK\r\n-MOVED 12182 client:2\r\n-MOVED 12182 client:2\r\n"
    );
    assert_eq!(set(&world), ["n2", "n1", "n0"]);
    let (state, _) = world.model.state().state.unwrap();
    assert_eq!((state.epoch.0, state.change.why), (2, Why::Handover));
    assert_eq!(world.ask(2, &["GET", "foo"]), "$1\r\n1\r\n");
    assert_eq!(world.ask(2, &["SET", "foo", "3"]), "+OK\r\n");
    world.run(60);
    assert_eq!(world.ask(0, &["GET", "foo"]), "$1\r\n3\r\n", "a new client of the old leader reads as at any replica");
}

#[test]
fn a_leader_that_leaves_hands_over_and_is_named_no_more() {
    let mut world = three();
    world.event(0, Event::Leave);
    world.run_until("n1 leads without n0", 100, |w| w.role(1) == Role::Leader && w.keeper(0).has_left());
    assert_eq!(set(&world), ["n1", "n2"]);
    assert!(world.ask(0, &["GET", "before1"]).starts_with("-MOVED"));
    world.run(3_000);
    assert_eq!(set(&world), ["n1", "n2"], "who leaves is not taken in again");
}

#[test]
fn a_replica_that_leaves_is_taken_out_at_once_and_writes_do_not_wait() {
    let mut world = three();
    world.event(2, Event::Leave);
    let took = world.run_until("n2 has left", 100, |w| w.keeper(2).has_left());
    assert!(took <= 20, "took {took} ms");
    assert_eq!(set(&world), ["n0", "n1"]);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
}

#[test]
fn a_lone_leader_has_nobody_to_hand_over_to() {
    let mut world = World::new(1);
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "-ERR no other member is connected and in sync\r\n");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.event(0, Event::Leave);
    assert!(world.keeper(0).is_alone());
}

#[test]
fn a_target_that_dies_leaves_the_old_leader_silent_until_a_new_epoch() {
    let mut world = three();
    // What n1 is sent gets nowhere: RESIGN is lost, and n1 with it.
    world.cut_off.insert(1);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    assert_eq!(world.role(0), Role::Resigning);
    world.crash(1);
    let conn = world.connect(0);
    let mut held = world.pipeline(0, conn, &[&["GET", "before1"]]);
    world.run_until("another epoch", 1_500, |w| {
        assert!(w.role(0) != Role::Leader || w.keeper(0).highest_epoch().0 > 1, "un-resigned");
        (0..3).any(|i| i != 1 && w.role(i) == Role::Leader)
    });
    let leader = if world.role(0) == Role::Leader { 0 } else { 2 };
    assert_eq!(world.keeper(leader).highest_epoch().0, 2);
    assert_eq!(world.ask(leader, &["GET", "before1"]), "$1\r\nx\r\n");
    while !world.answered(&mut held) {
        world.run(1);
    }
    assert_eq!(world.ask(leader, &["SET", "k", "v"]), "+OK\r\n");
}

#[test]
fn a_handover_that_cannot_be_begun_in_time_is_given_up_and_the_leader_goes_on() {
    let mut world = three();
    world.cut_off.insert(2);
    let conn = world.connect(0);
    let mut write = world.request(0, conn, &["SET", "k", "v"]);
    assert_eq!(world.ask(0, &["FAILOVER", "TIMEOUT", "50"]), "+OK\r\n");
    assert_eq!(world.role(0), Role::Resigning);
    assert!(world.ask(0, &["INFO", "replication"]).contains("master_failover_state:waiting-for-sync"));
    world.run_until("n0 leads on", 100, |w| w.role(0) == Role::Leader);
    assert_eq!(world.keeper(0).highest_epoch().0, 1);
    while !world.answered(&mut write) {
        world.run(1);
    }
    assert_eq!(write.out.to_vec(), b"+OK\r\n");
}

#[test]
fn the_commands_refuse_what_is_not_safe_or_not_here() {
    let mut world = three();
    for (node, words, answer) in [
        (0, "FAILOVER ABORT", "-ERR No failover in progress.\r\n"),
        (0, "FAILOVER TIMEOUT 0", "-ERR FAILOVER timeout must be greater than 0\r\n"),
        (0, "FAILOVER TO client 9", "-ERR FAILOVER target HOST and PORT is not a replica.\r\n"),
        (0, "FAILOVER TO client 1 FORCE", "-ERR FAILOVER with FORCE could lose writes and is not supported.\r\n"),
        (0, "FAILOVER FORCE", "-ERR syntax error\r\n"),
        (1, "FAILOVER", "-ERR FAILOVER is not valid when server is a replica.\r\n"),
        (1, "DATAKEEPER HANDOVER", "-ERR this node does not lead: ask n0 at client:0\r\n"),
        (0, "DATAKEEPER HANDOVER TO n7", "-ERR n7 is not connected and in sync\r\n"),
        (0, "CLUSTER FAILOVER", "-ERR You should send CLUSTER FAILOVER to a replica\r\n"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(world.ask(node, &words), answer, "{words:?}");
    }
    assert_eq!(world.ask(2, &["CLUSTER", "FAILOVER"]), "+OK\r\n");
    world.run_until("n2 leads", 50, |w| w.role(2) == Role::Leader);
    assert_eq!(world.ask(2, &["FAILOVER", "TO", "client", "1"]), "+OK\r\n");
    world.run_until("n1 leads", 50, |w| w.role(1) == Role::Leader);
    assert_eq!(world.ask(1, &["GET", "before49"]), "$1\r\nx\r\n");
}
