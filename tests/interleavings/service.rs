//! The coordination service is away, hangs, tells late or not at all, or has lost what it held.

use datakeeper::base::ids::Epoch;
use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::shell::coordination::model::Model;

use crate::support::world::World;
use crate::{cluster, comes_to_rest, epoch, leads, set};

const ALL: &[usize] = &[0, 1, 2];

/// The service is away for so long, `meanwhile` something happens, and it returns with every session expired.
fn outage(world: &mut World, ms: u64, meanwhile: impl FnOnce(&mut World)) {
    world.unserve(ALL);
    let begin = world.now_ms;
    meanwhile(world);
    world.run((begin + ms).saturating_sub(world.now_ms));
    for i in (0..3).filter(|i| world.nodes[*i].is_some()).collect::<Vec<_>>() {
        world.expire(i);
    }
    world.serve(ALL);
    for i in (0..3).filter(|i| world.nodes[*i].is_some()) {
        assert!(world.told(i, "session expired"), "n{i} has lost its session");
    }
}

/// 12. Nothing else happens: no client notices, and `/state` is not touched.
#[test]
fn i12_an_outage_of_the_service_changes_nothing_while_nodes_are_well() {
    let mut world = cluster();
    let version = world.model.state().state.unwrap().1;
    outage(&mut world, 30_000, |world| {
        for i in 0..300 {
            world.run(97);
            let mut write = world.write(0, "k", &i.to_string());
            assert!(world.answered(&mut write) && write.reply() == "+OK\r\n");
            assert_eq!(world.value(0, "k"), Some(i.to_string()));
        }
    });
    world.run(2_000);
    assert_eq!((world.model.state().state.unwrap().1, leads(&world, 0)), (version, true), "nobody steps down");
    assert!(world.model.nodes().iter().all(|n| n.live.is_some()), "all have registered again");
    comes_to_rest(&mut world, 3, "k", Some("299"));
}

/// 12. A replica dies meanwhile: writes stop, and nothing is acknowledged without it until the service is back.
#[test]
fn i12_a_replicas_death_during_an_outage_blocks_writes_until_it_ends() {
    let mut world = cluster();
    let mut writes = Vec::new();
    outage(&mut world, 30_000, |world| {
        let dead = world.kill(2);
        world.model.end_session(dead.session().unwrap());
        world.run_until("n0 wants it out", 300, |w| w.wants(0) == Some(Why::Shrink));
        for i in 0..10 {
            writes.push(world.write(0, "k", &format!("unknown {i}")));
            world.run(2_000);
            assert!(!writes.iter_mut().any(|w| world.answered(w)), "n2 is still named");
        }
        assert!(world.ask(0, &["GET", "k"]).starts_with("-TRYAGAIN"), "n2 might have been elected");
    });
    assert_eq!((world.in_sync(), leads(&world, 0), epoch(&world)), (2, true, 1));
    assert!(writes.iter().all(|w| world.is_closed(w)), "their outcome is unknown");
    set(&mut world, 0, "k", "new");
    world.start(2);
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 12. The leader dies meanwhile: nobody leads until the service is back, then one does, with everything.
#[test]
fn i12_a_leaders_death_during_an_outage_is_followed_by_one_election_when_it_ends() {
    let mut world = cluster();
    set(&mut world, 0, "k", "last");
    outage(&mut world, 30_000, |world| {
        let dead = world.kill(0);
        world.model.end_session(dead.session().unwrap());
        world.run_until("both stand", 700, |w| [1, 2].iter().all(|i| w.wants(*i) == Some(Why::Elect)));
        world.run(20_000);
        assert_eq!((world.role(1), world.role(2)), (Role::Candidate, Role::Candidate));
    });
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    world.run(2_000);
    assert_eq!((epoch(&world), world.value(1, "k").as_deref()), (2, Some("last")));
    world.start(0);
    comes_to_rest(&mut world, 3, "k", Some("last"));
}

/// 12. The leader pauses meanwhile: the replicas froze, so that it answers nothing when it runs on, whoever wins in the end.
#[test]
fn i12_a_leaders_pause_during_an_outage_ends_its_answers() {
    let mut world = cluster();
    let mut write = None;
    outage(&mut world, 30_000, |world| {
        world.stand_still(0);
        world.run_until("both stand", 700, |w| [1, 2].iter().all(|i| w.wants(*i) == Some(Why::Elect)));
        world.wake(0);
        let (mut read, mut new) = (world.read(0, "k"), world.write(0, "k", "lost"));
        assert!(leads(world, 0), "it has not heard otherwise");
        world.run(3_000);
        assert!(world.answered(&mut read) && read.reply().starts_with("-TRYAGAIN"));
        assert!(!world.answered(&mut new) && world.is_closed(&new));
        write = Some(new);
    });
    world.run_until("somebody leads", 2_000, |w| (0..3).any(|i| leads(w, i)));
    assert!(!world.answered(write.as_mut().unwrap()));
    let leader = (0..3).find(|i| leads(&world, *i)).unwrap();
    assert!(world.keeper(leader).highest_epoch() <= Epoch(2), "no cascade");
    world.run_until("it is not alone", 2_000, |w| w.in_sync() >= 2);
    set(&mut world, leader, "k", "new");
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 13. The service hangs for longer than all sessions: what had reached it takes effect when it runs on, and only once.
#[test]
fn i13_a_change_that_a_hanging_service_had_received_is_made_once() {
    let mut world = cluster();
    let version = world.model.state().state.unwrap().1;
    world.unserve(ALL);
    let dead = world.kill(2);
    world.model.end_session(dead.session().unwrap());
    world.run_until("n0 wants it out", 300, |w| w.wants(0) == Some(Why::Shrink));
    let mut write = world.write(0, "k", "new");
    world.run(60_000);
    assert!(!world.answered(&mut write));
    world.lands(0);
    assert_eq!((world.in_sync(), world.wants(0)), (2, Some(Why::Shrink)), "it was made, and is asked for again");
    world.expire(0);
    world.expire(1);
    world.serve(ALL);
    assert_eq!(
        (world.model.state().state.unwrap().1, leads(&world, 0)),
        (version + 1, true),
        "once, and it counts as won"
    );
    assert!(!world.told(0, "lost the change"));
    set(&mut world, 0, "k", "newer");
    world.start(2);
    comes_to_rest(&mut world, 3, "k", Some("newer"));
}

/// 23. Only the second of two changes reaches a node, because the first was overtaken before it was read.
#[test]
fn i23_a_node_that_misses_a_change_acts_on_the_next_one() {
    let mut world = cluster();
    world.unserve(&[2]);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    world.run_until("n1 has taken n2 out", 1_500, |w| leads(w, 1) && w.in_sync() == 2);
    let untold = world.untold.get_mut(&2).unwrap();
    let changes: Vec<Why> = untold.iter().filter_map(why).collect();
    assert_eq!(changes, [Why::Handover, Why::Shrink], "two changes, of which it has heard neither");
    untold.retain(|e| why(e) != Some(Why::Handover));
    world.serve(&[2]);
    world.run_until("n2 is back", 1_000, |w| w.names(2));
    assert_eq!((world.keeper(2).followed_epoch(), epoch(&world)), (Some(Epoch(2)), 2));
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

fn why(event: &CoordEvent) -> Option<Why> {
    match event {
        CoordEvent::State(read) => read.state.as_ref().map(|(s, _)| s.change.why),
        _ => None,
    }
}

/// 23. No notice comes at all: the node stands on what it knows, loses, and knows then.
#[test]
fn i23_a_node_that_hears_of_no_change_learns_by_losing() {
    let mut world = cluster();
    world.unserve(&[2]);
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    let stands = |w: &World| w.keeper(2).pending_change().is_some_and(|(want, leads)| leads && want.epoch == Epoch(2));
    world.run_until("n2 stands", 700, stands);
    let missed = world.untold.remove(&2).unwrap();
    assert!(missed.iter().any(|e| why(e) == Some(Why::Handover)), "it asks for epoch 2, which is another's");
    world.serve(&[2]);
    assert!(world.told(2, "lost the change"));
    world.run_until("n1 leads", 1_500, |w| leads(w, 1));
    comes_to_rest(&mut world, 3, "k", Some("old"));
    assert_eq!(epoch(&world), 2);
}

/// The service has lost everything, and nobody is connected to it.
fn wipe_the_service(world: &mut World) {
    world.unserve(ALL);
    world.model = Model::new();
    // No session of before has the number of a later one.
    for _ in 0..100 {
        let session = world.model.open_session();
        world.model.end_session(session);
    }
}

/// 24. The service was wiped, and an empty newcomer founds a cluster, as it may: nothing that holds data goes on under it.
#[test]
fn i24_nodes_with_data_stop_when_a_newcomer_founded_a_cluster_in_a_wiped_service() {
    let mut world = World::new(4);
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    set(&mut world, 0, "k", "old");
    world.run(60);
    wipe_the_service(&mut world);
    world.start(3);
    assert!(leads(&world, 3) && world.state().leader.id.as_str() == "n3", "it founded one");
    assert_eq!(world.value(0, "k").as_deref(), Some("old"), "n0 has not seen it");
    world.serve(ALL);
    world.run_until("they have stopped", 3_000, |w| (0..3).all(|i| w.role(i) == Role::Halted));
    assert!(
        world.ask(0, &["GET", "k"]).starts_with("-CLUSTERDOWN")
            && world.ask(0, &["SET", "k", "v"]).starts_with("-CLUSTERDOWN")
    );
    assert!((0..3).all(|i| !world.keeper(i).store().is_empty()), "what they hold is kept for an operator");
    assert_eq!(world.value(3, "k"), None);
}

/// 24. An older `/state` was put back, as from a backup: nobody follows it, and all stop for an operator as soon as they see it.
#[test]
fn i24_an_older_state_that_was_put_back_is_followed_by_nobody() {
    let mut world = cluster();
    world.crash(0);
    world.run_until("n1 leads", 700, |w| leads(w, 1));
    world.start(0);
    comes_to_rest(&mut world, 3, "k", Some("old"));
    let back = (0..20).find(|back| world.model.state_before(*back).state.is_some_and(|(s, _)| s.epoch == Epoch(1)));
    world.model.restore_state(back.expect("the state of epoch 1"));
    assert!(epoch(&world) == 1 && leads(&world, 1), "it is older than what all know");
    world.settle();
    world.run_until("all have stopped", 100, |w| ALL.iter().all(|i| w.role(*i) == Role::Halted));
    assert!(world.told(1, "/state went back") && ALL.iter().all(|i| !world.keeper(*i).store().is_empty()));
    assert!(world.ask(1, &["SET", "k", "v"]).starts_with("-CLUSTERDOWN"));
}
