//! Handovers, by Keepers over a perfect network: nothing acknowledged is lost, nobody sees an error, and whatever happens to
//! RESIGN or to its target, the old leader stays silent until there is a new epoch.

mod support;

use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::keeper::{Event, KeeperConfig, ReadMode};
use datakeeper::shell::coordination::model::Fate;
use support::world::{World, three, three_tuned};

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
fn after_a_handover_only_clients_that_go_on_asking_the_old_leader_are_closed() {
    let mut world = three();
    let (asks, idles) = (world.connect(0), world.connect(0));
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    world.run_until("n1 leads", 50, |w| w.role(1) == Role::Leader);
    world.run(6_000);
    for conn in [asks, idles] {
        assert!(world.ask_on(0, conn, &["GET", "before1"]).starts_with(b"-MOVED"), "it knew a leader here");
    }
    world.run(999);
    world.ask_on(0, asks, &["SET", "k", "v"]);
    assert!(world.nodes[0].as_ref().unwrap().closing.is_empty());
    world.run(1);
    world.ask_on(0, asks, &["SET", "k", "v"]);
    assert_eq!(world.nodes[0].as_ref().unwrap().closing, [asks]);
}

#[test]
fn a_leader_that_leaves_hands_over_and_is_named_no_more() {
    let mut world = three();
    let conn = world.connect(0);
    world.event(0, Event::Leave);
    world.run_until("n1 leads without n0", 100, |w| w.role(1) == Role::Leader && w.keeper(0).has_left(w.now()));
    assert_eq!(set(&world), ["n1", "n2"]);
    assert!(world.ask(0, &["GET", "before1"]).starts_with("-MOVED"));
    world.run(5_000);
    assert_eq!(world.nodes[0].as_ref().unwrap().closing, [conn], "its clients have to go");
    assert_eq!(set(&world), ["n1", "n2"], "who leaves is not taken in again");
}

#[test]
fn a_replica_that_leaves_is_taken_out_at_once_and_writes_do_not_wait() {
    let mut world = three();
    world.event(2, Event::Leave);
    let took = world.run_until("n2 has left", 100, |w| w.keeper(2).has_left(w.now()));
    assert!(took <= 20, "took {took} ms");
    assert_eq!(set(&world), ["n0", "n1"]);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.run(3_000);
    assert_eq!(set(&world), ["n0", "n1"], "its link is still up, but who leaves is not taken in again");
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n2"]), "-ERR n2 is not connected and in sync\r\n");
}

#[test]
fn a_replica_that_leaves_while_its_link_is_down_asks_again_on_the_next_one() {
    let mut world = three();
    world.break_link(2, 0);
    world.event(2, Event::Leave);
    assert_eq!(set(&world), ["n0", "n1", "n2"]);
    world.run_until("n2 has left", 200, |w| w.keeper(2).has_left(w.now()));
    world.run(1_000);
    assert_eq!(set(&world), ["n0", "n1"]);
}

#[test]
fn the_member_that_is_next_in_the_set_takes_over_unless_it_is_silent() {
    let mut world = three();
    world.run(5_000);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "+OK\r\n");
    let took = world.run_until("n1 leads", 50, |w| w.role(1) == Role::Leader);
    assert!(took <= 20, "idle as it was, it took {took} ms");
    world.run(3_000);
    assert_eq!(world.keeper(1).highest_epoch().0, 2, "nobody stood in its way");
    assert_eq!(set(&world), ["n1", "n2", "n0"]);
    world.cut_off.insert(2);
    world.run(249);
    assert_eq!((set(&world).len(), world.ask(1, &["DATAKEEPER", "HANDOVER"])), (3, "+OK\r\n".to_string()));
    world.run_until("n0 leads", 1_000, |w| w.role(0) == Role::Leader);
}

#[test]
fn nothing_is_handed_over_to_who_cannot_ask_for_the_leadership() {
    let mut world = three();
    world.lose_coordination(1);
    world.lose_coordination(2);
    world.run(50);
    let refused = "-ERR no member that could take over has contact to the coordination service\r\n";
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), refused);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), refused);
    let refused = "-ERR this node has no contact to the coordination service\r\n";
    assert_eq!(world.ask(1, &["CLUSTER", "FAILOVER"]), refused);
    assert_eq!((world.role(0), world.ask(0, &["SET", "k", "v"])), (Role::Leader, "+OK\r\n".to_string()));
    world.regain_coordination(2);
    world.run(50);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "+OK\r\n");
    // n1 does not learn of the new epoch, and has to be taken out first.
    world.run_until("n2 leads, the only one who can", 1_000, |w| w.role(2) == Role::Leader);
}

#[test]
fn a_target_that_is_taken_out_of_the_set_meanwhile_ends_the_handover_and_the_leader_goes_on() {
    let mut world = three();
    world.cut_off.insert(2);
    let conn = world.connect(0);
    let mut write = world.request(0, conn, &["SET", "k", "v"]);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n2"]), "+OK\r\n");
    assert_eq!(world.role(0), Role::Resigning);
    let took = world.run_until("n0 leads on", 400, |w| w.role(0) == Role::Leader);
    assert!((200..400).contains(&took), "{took} ms: when n2 was silent for too long");
    assert_eq!((set(&world), world.keeper(0).highest_epoch().0), (vec!["n0".to_string(), "n1".to_string()], 1));
    assert!(world.answered(&mut write));
    assert_eq!(write.out.to_vec(), b"+OK\r\n");
    assert!(
        world.notices().iter().any(|n| n.contains("the handover to n2 is given up: it is no longer connected and in"))
    );
}

#[test]
fn a_target_that_dies_when_its_compare_and_set_has_landed_is_replaced_like_any_lost_leader() {
    let mut world = three();
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    let target = world.nodes[1].as_mut().unwrap();
    while world.model.state().state.is_some_and(|(s, _)| s.epoch.0 == 1) {
        assert!(
            !target.coordinator.step(&mut world.model, Fate::Answered).is_empty(),
            "the compare-and-set is on its way"
        );
    }
    world.crash(1);
    let took = world.run_until("a leader of epoch 3", 1_000, |w| {
        [0, 2].into_iter().any(|i| w.role(i) == Role::Leader && w.keeper(i).highest_epoch().0 == 3)
    });
    assert!((450..700).contains(&took), "{took} ms: a promise is owed to whoever won");
    let leader = if world.role(0) == Role::Leader { 0 } else { 2 };
    assert_eq!(world.ask(leader, &["GET", "before1"]), "$1\r\nx\r\n");
    assert_eq!(world.ask(leader, &["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(set(&world).len(), 2);
}

fn confirm(_: usize, config: &mut KeeperConfig) {
    config.read_mode = ReadMode::Confirm;
}

#[test]
fn in_confirm_mode_a_handover_is_as_short_and_reads_that_wait_for_a_round_are_redirected() {
    let mut world = three_tuned(confirm);
    let conn = world.connect(0);
    let mut read = world.request(0, conn, &["GET", "before1"]);
    assert!(!world.answered(&mut read), "its round is not back");
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n2"]), "+OK\r\n");
    let took = world.run_until("n2 leads", 100, |w| w.role(2) == Role::Leader);
    assert!(took <= 20, "took {took} ms");
    while !world.answered(&mut read) {
        world.run(1);
    }
    let reply = String::from_utf8(read.out.to_vec()).unwrap();
    assert!(reply.starts_with("-MOVED ") && reply.ends_with(" client:2\r\n"), "{reply}");
    world.run(3_000);
    assert_eq!(world.keeper(2).highest_epoch().0, 2, "the lost link to the old leader makes nobody stand");
    assert_eq!(world.ask(2, &["GET", "before1"]), "$1\r\nx\r\n");
    assert_eq!(set(&world), ["n2", "n1", "n0"]);
}

#[test]
fn resign_cannot_be_taken_back() {
    let mut world = three();
    world.cut_off.insert(1);
    assert_eq!(world.ask(0, &["FAILOVER", "TO", "client", "1"]), "+OK\r\n");
    assert!(world.ask(0, &["INFO", "replication"]).contains("master_failover_state:failover-in-progress"));
    let said = world.ask(0, &["FAILOVER", "ABORT"]);
    assert_eq!(said, "-ERR FAILOVER can no longer be aborted: the leader has resigned.\r\n");
    assert_eq!(world.ask(0, &["FAILOVER"]), "-ERR FAILOVER already in progress.\r\n");
}

#[test]
fn a_handover_that_waits_can_be_aborted_and_nothing_has_happened() {
    let mut world = three();
    world.cut_off.insert(2);
    let conn = world.connect(0);
    let mut write = world.request(0, conn, &["SET", "k", "v"]);
    assert_eq!(world.ask(0, &["FAILOVER"]), "+OK\r\n");
    let mut held = world.request(0, conn, &["GET", "before1"]);
    assert_eq!(world.ask(0, &["FAILOVER", "ABORT"]), "+OK\r\n");
    assert_eq!((world.role(0), world.keeper(0).highest_epoch().0), (Role::Leader, 1));
    world.run(300);
    assert!(world.answered(&mut write) && world.answered(&mut held));
    assert_eq!((write.out.to_vec(), held.out.to_vec()), (b"+OK\r\n".to_vec(), b"$1\r\nx\r\n".to_vec()));
}

#[test]
fn a_lone_leader_has_nobody_to_hand_over_to() {
    let mut world = World::new(1);
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "-ERR no other member is connected and in sync\r\n");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.event(0, Event::Leave);
    assert!(world.keeper(0).is_alone(world.now()));
}

#[test]
fn a_lone_leader_that_leaves_waits_for_a_learner_and_hands_its_data_over_to_it() {
    let mut world = World::new(2);
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    assert_eq!(world.ask(0, &["SET", "before", "x"]), "+OK\r\n");
    world.start(1);
    // Its registration takes a while, and no data flow before.
    world.uncoordinated.insert(1);
    world.run(200);
    world.event(0, Event::Leave);
    assert!(!world.keeper(0).has_left(world.now()), "n1 is being filled");
    assert_eq!(world.ask(0, &["SET", "k", "meanwhile"]), "+OK\r\n");
    world.run(2_000);
    assert!(!world.keeper(0).has_left(world.now()) && world.role(0) == Role::Leader);
    world.uncoordinated.remove(&1);
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader && w.keeper(0).has_left(w.now()));
    assert_eq!(
        (world.ask(1, &["GET", "before"]), world.ask(1, &["GET", "k"])),
        ("$1\r\nx\r\n".into(), "$9\r\nmeanwhile\r\n".into())
    );
    assert_eq!(set(&world), ["n1"]);
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

/// Five nodes in sync under n0.
fn five() -> World {
    let mut world = World::new(5);
    for i in 0..5 {
        world.start(i);
    }
    world.run_until("all five in sync", 3_000, |w| w.in_sync() == 5 && w.role(0) == Role::Leader);
    assert_eq!(world.ask(0, &["SET", "before", "x"]), "+OK\r\n");
    world
}

/// The place of the member that is `rank`-th in the set.
fn ranked(world: &World, rank: usize) -> usize {
    set(world)[rank][1..].parse().unwrap()
}

#[test]
fn a_leader_without_coordination_that_loses_a_member_resigns_to_one_that_has_it() {
    let mut world = five();
    let (first, last) = (ranked(&world, 1), ranked(&world, 4));
    world.lose_coordination(0);
    world.lose_coordination(first);
    world.run(30_000);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n", "while all are well, nothing changes");
    assert_eq!((world.role(0), set(&world).len()), (Role::Leader, 5));
    let conn = world.connect(0);
    world.crash(last);
    let mut stuck = world.request(0, conn, &["SET", "k", "w"]);
    let leads = |w: &World| (1..5).find(|i| w.role(*i) == Role::Leader);
    let took = world.run_until("another one leads", 2_000, |w| leads(w).is_some());
    assert!(took >= 1_000, "{took} ms");
    let leader = leads(&world).unwrap();
    assert!(leader != first, "it could not be elected");
    assert!(world.ask(leader, &["SET", "k", "x"]).starts_with("-NOREPLICAS"), "two of five");
    world.regain_coordination(first);
    world.run_until("three in sync", 1_000, |w| w.in_sync() == 3);
    assert_eq!(world.ask(leader, &["SET", "k", "x"]), "+OK\r\n");
    assert_eq!(world.ask(leader, &["GET", "before"]), "$1\r\nx\r\n");
    assert!(!world.answered(&mut stuck), "its outcome is unknown: the connection is closed instead");
    let full = |w: &World| w.notices().iter().filter(|n| n.contains("n0") && n.contains("full resync")).count();
    let before = full(&world);
    world.regain_coordination(0);
    world.run_until("n0 is back in sync", 3_000, |w| set(w).iter().any(|id| id == "n0"));
    assert_eq!((full(&world), world.role(0)), (before, Role::Replica), "its log is a prefix of the new leader's");
    world.run(60);
    assert_eq!(world.ask(0, &["GET", "k"]), "$1\r\nx\r\n");
}

#[test]
fn where_nobody_has_coordination_a_leader_that_loses_a_member_waits_and_goes_on_with_it() {
    let mut world = five();
    (0..5).for_each(|i| world.lose_coordination(i));
    world.run(5_000);
    let last = ranked(&world, 4);
    world.crash(last);
    let conn = world.connect(0);
    let mut stuck = world.request(0, conn, &["SET", "k", "w"]);
    world.run(10_000);
    assert!(!world.answered(&mut stuck) && world.role(0) == Role::Leader);
    (0..5).filter(|i| *i != last).for_each(|i| world.regain_coordination(i));
    world.run_until("it is out", 100, |w| w.in_sync() == 4);
    assert_eq!(world.ask(0, &["SET", "k", "x"]), "+OK\r\n");
    assert_eq!(world.keeper(0).highest_epoch().0, 1, "nothing has changed hands");
}

#[test]
fn a_leader_that_resigned_in_vain_stays_silent_and_leads_again_only_in_a_new_epoch() {
    let mut world = five();
    let (target, last) = (ranked(&world, 1), ranked(&world, 4));
    (0..5).filter(|i| *i != target).for_each(|i| world.lose_coordination(i));
    world.run(2_000);
    // It has not noticed yet that its compare-and-set will get nowhere.
    world.uncoordinated.insert(target);
    world.crash(last);
    world.run_until("RESIGN", 1_200, |w| w.role(0) == Role::Resigning);
    assert_eq!(world.role(target), Role::Candidate);
    world.crash(target);
    for _ in 0..3_000 {
        world.run(1);
        assert!((0..5).all(|i| world.role(i) != Role::Leader), "nobody could be elected");
    }
    let left: Vec<usize> = (0..5).filter(|i| world.nodes[*i].is_some()).collect();
    left.iter().for_each(|i| world.regain_coordination(*i));
    world.run_until("a leader", 3_000, |w| left.iter().any(|i| w.role(*i) == Role::Leader));
    let leader = left.into_iter().find(|i| world.role(*i) == Role::Leader).unwrap();
    assert!(world.keeper(leader).highest_epoch().0 >= 2);
    assert_eq!(world.ask(leader, &["GET", "before"]), "$1\r\nx\r\n");
    assert_eq!(world.ask(leader, &["SET", "k", "v"]), "+OK\r\n");
}
