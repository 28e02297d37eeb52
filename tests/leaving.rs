//! Processes that are told to end: none takes the last copy with it, however blindly they are restarted.

mod support;

use datakeeper::cluster::role::Role;
use datakeeper::keeper::Event;
use support::world::{World, three, world};

/// Bytes per ms that reach a node: so a fill takes a while.
const SLOW_LINK: (i64, i64) = (100, 0);

/// Some 100 kB: a second of a slow link.
fn fill(world: &mut World, leader: usize) {
    for i in 0..100 {
        assert_eq!(world.ask(leader, &["SET", &format!("key {i}"), &"x".repeat(1_000)]), "+OK\r\n");
    }
}

fn leader(world: &World) -> Option<usize> {
    (0..world.nodes.len()).find(|i| world.role(*i) == Role::Leader)
}

/// SIGTERM, the end, and the next start, without a look at anything else.
fn restart(world: &mut World, i: usize) {
    world.event(i, Event::Leave);
    world.run_until("it may end", 60_000, |w| !w.keeper(i).must_stay(w.now()) && w.keeper(i).has_left(w.now()));
    world.end_in_good_order(i);
    world.start(i);
}

#[test]
fn a_blind_rolling_restart_with_slow_fills_loses_nothing() {
    let mut world = three();
    fill(&mut world, 0);
    for i in 0..3 {
        world.bandwidth.insert(i, SLOW_LINK);
    }
    for round in 0..2 {
        for i in 0..3 {
            restart(&mut world, i);
        }
        world.run_until("the set is whole", 30_000, |w| w.in_sync() == 3 && leader(w).is_some());
        let at = leader(&world).unwrap();
        for i in [0, 50, 99] {
            assert!(world.ask(at, &["GET", &format!("key {i}")]).contains("xxx"), "key {i} is lost in round {round}");
        }
    }
    assert_eq!(world.state().resets, 0);
}

#[test]
fn the_last_copy_stays_for_a_fill_says_so_and_serves_on() {
    let mut world = world(2, |_, _| {});
    fill(&mut world, 0);
    world.bandwidth.insert(1, SLOW_LINK);
    world.crash(1);
    world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    world.start(1);
    world.event(0, Event::Leave);
    world.run(200);
    assert!(world.keeper(0).must_stay(world.now()) && !world.keeper(0).has_left(world.now()));
    assert!(
        world.told(0, "this node does not end yet") && world.told(0, "n1 is being filled"),
        "{:#?}",
        world.notices()
    );
    assert_eq!(world.ask(0, &["SET", "meanwhile", "v"]), "+OK\r\n");
    world.run_until("n1 leads", 10_000, |w| w.role(1) == Role::Leader && w.keeper(0).has_left(w.now()));
    assert_eq!(world.ask(1, &["GET", "meanwhile"]), "$1\r\nv\r\n");
}

#[test]
fn a_fill_before_an_end_goes_before_writes_so_that_it_ends() {
    let mut world = world(2, |_, config| config.backlog_bytes = 40_000);
    fill(&mut world, 0);
    world.bandwidth.insert(1, SLOW_LINK);
    world.crash(1);
    world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    world.start(1);
    world.event(0, Event::Leave);
    // Twice as much is written as the link carries, for as long as that is taken.
    let conn = world.connect(0);
    let began = world.now_ms;
    let value = "y".repeat(1_000);
    let mut waiting = None;
    while world.role(1) != Role::Leader {
        assert!(world.now_ms < began + 20_000, "the fill does not end: {:#?}", world.notices());
        let mut request = waiting.take().unwrap_or_else(|| world.request(0, conn, &["SET", "hot", &value]));
        if world.nodes[0].is_some() && world.role(0) == Role::Leader && !world.answered(&mut request) {
            waiting = Some(request);
        }
        world.run(5);
    }
    assert!(world.ask(1, &["GET", "key 99"]).contains("xxx"));
}

#[test]
fn a_learner_that_is_told_to_end_or_is_gone_keeps_nobody() {
    let mut world = world(2, |_, _| {});
    fill(&mut world, 0);
    world.bandwidth.insert(1, SLOW_LINK);
    world.crash(1);
    world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    world.start(1);
    world.run(100);
    world.event(0, Event::Leave);
    world.run(100);
    assert!(world.keeper(0).must_stay(world.now()));
    world.event(1, Event::Leave);
    world.run(100);
    let waits_on = world.now_ms;
    world.run_until("n0 may end", 4_000, |w| w.keeper(0).has_left(w.now()) && !w.keeper(0).must_stay(w.now()));
    assert!(world.now_ms > waits_on + 1_500, "somebody else might have come");
}

#[test]
fn a_member_that_is_told_to_end_takes_over_when_its_leader_dies_first() {
    let mut world = world(2, |_, _| {});
    fill(&mut world, 0);
    world.stop(1, 0);
    world.event(1, Event::Leave);
    world.crash(0);
    world.run_until("n1 leads", 2_000, |w| w.role(1) == Role::Leader);
    world.heal();
    world.start(0);
    world.run_until("n0 leads", 5_000, |w| w.role(0) == Role::Leader && w.keeper(1).has_left(w.now()));
    assert!(world.ask(0, &["GET", "key 99"]).contains("xxx"));
}

#[test]
fn a_handover_that_would_begin_a_fill_anew_below_the_minimum_is_refused() {
    let mut world = world(3, |_, config| config.shared.min_in_sync = datakeeper::cluster::state::MinInSync::Count(3));
    fill(&mut world, 0);
    world.bandwidth.insert(2, SLOW_LINK);
    world.crash(2);
    world.run_until("n2 is out", 1_000, |w| w.in_sync() == 2);
    world.start(2);
    world.run(200);
    let refused = world.ask(0, &["DATAKEEPER", "HANDOVER"]);
    assert_eq!(refused, "-ERR n2 is being filled, and too few copies are in sync without it\r\n");
    world.run_until("n2 is back", 10_000, |w| w.in_sync() == 3);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER"]), "+OK\r\n");
}
