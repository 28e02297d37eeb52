//! Who may hold a name, and what a process does whose name or directory is not what it was: whoever holds data keeps them.

use datakeeper::cluster::config::TotalLoss;
use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Event, KeeperConfig};

use crate::support::world::World;
use crate::{cluster, cluster_of, comes_to_rest, leads, set};

const ALL: &[usize] = &[0, 1, 2];

fn proven(_: usize, config: &mut KeeperConfig) {
    config.shared.total_loss = TotalLoss::Proven;
}

/// Another process of that node's name starts on another machine, and the former one is no longer this world's business but for the
/// coordination service: `world.nodes[i]` is the twin from here on.
fn elsewhere(i: usize, config: &mut KeeperConfig) {
    let host = config.host.as_mut().expect("every node of a world has one");
    host.boot_id = format!("another machine than that of n{i}");
}

fn proven_elsewhere(i: usize, config: &mut KeeperConfig) {
    proven(i, config);
    elsewhere(i, config);
}

/// One node after the other is restarted; each is in sync again before the next.
fn rolling_restart(world: &mut World) {
    for i in ALL.iter().copied() {
        world.crash(i);
        world.run_until("another leads", 2_000, |w| ALL.iter().any(|j| leads(w, *j)));
        world.start(i);
        world.run_until("all in sync", 5_000, |w| w.in_sync() == 3 && ALL.iter().any(|j| leads(w, *j)));
    }
}

/// The service is set back to a backup: every session is over.
fn restore(world: &mut World, backup: &datakeeper::shell::coordination::model::Model) {
    world.model.restore(backup);
    world.settle();
}

/// A backup that is older than the last rolling restart is put back: the directory shows processes that are long gone, and an old `/state`.
/// Nobody ends; an operator goes on with what they hold, and the others follow by themselves.
#[test]
fn a_backup_from_before_a_rolling_restart_ends_no_process_that_holds_data() {
    let mut world = cluster();
    let backup = world.model.clone();
    rolling_restart(&mut world);
    let leader = ALL.iter().copied().find(|i| leads(&world, *i)).expect("somebody leads");
    set(&mut world, leader, "k", "new");
    world.run(100);
    world.exits = Some(Vec::new());
    restore(&mut world, &backup);
    world.run_until("they have stopped", 3_000, |w| ALL.iter().all(|i| w.role(*i) == Role::Halted));
    world.run(30_000);
    assert_eq!(world.exits, Some(vec![]), "nobody ended");
    assert!(ALL.iter().all(|i| world.told(*i, "/state went back") && world.keeper(*i).data_at_stake().is_some()));
    assert!(world.told(0, "datakeeper admin adopt n0 --connect client:0"), "{:#?}", world.notices());
    assert_eq!(world.ask(0, &["DATAKEEPER", "ADOPT", "n0", "CONFIRM", "c"]), "+OK\r\n", "{:#?}", world.notices());
    world.run_until("it leads", 1_000, |w| leads(w, 0));
    comes_to_rest(&mut world, 3, "k", Some("new"));
    assert_eq!(world.state().resets, 0);
}

/// The same backup, but no node was restarted since: nothing happens to anybody.
#[test]
fn a_backup_of_today_changes_nothing() {
    let mut world = cluster();
    let backup = world.model.clone();
    set(&mut world, 0, "k", "new");
    restore(&mut world, &backup);
    world.run(5_000);
    assert!(leads(&world, 0) && ALL.iter().all(|i| world.keeper(*i).halted().is_none()));
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// A newcomer under the name of a process whose session has ended takes the name. The former one holds data: it halts, and its data can be
/// gone on with when the newcomer is gone.
#[test]
pub fn a_process_with_data_whose_name_is_taken_keeps_them_for_an_operator() {
    let mut world = cluster();
    let former = park(&mut world, 2);
    world.tune = elsewhere;
    world.start(2);
    world.run_until("the newcomer is in sync", 5_000, |w| w.in_sync() == 3);
    let newcomer = world.nodes[2].replace(former).expect("it runs");
    let session = newcomer.coordinator.session().expect("it is registered");
    world.regain_coordination(2);
    assert_eq!(world.role(2), Role::Halted);
    assert!(world.told(2, "is taken in cluster c by another process") && world.keeper(2).data_at_stake().is_some());
    let refused = world.ask(2, &["DATAKEEPER", "ADOPT", "n2", "CONFIRM", "c"]);
    assert!(refused.starts_with("-ERR another process is registered as n2: stop it first"), "{refused}");
    // The newcomer ends: the name is free, and the halted process is registered again.
    world.model.end_session(session);
    world.settle();
    assert_eq!(world.model.nodes()[2].live, Some(world.keeper(2).me().copy));
}

/// An empty process whose name was taken has nothing to keep.
#[test]
fn an_empty_process_whose_name_is_taken_ends() {
    let mut world = World::new(2);
    world.start(0);
    world.run_until("n0 leads", 1_000, |w| leads(w, 0));
    world.stop(0, 1);
    world.stop(1, 0);
    world.start(1);
    assert_eq!(world.role(1), Role::Joining);
    let former = park(&mut world, 1);
    world.tune = elsewhere;
    world.start(1);
    world.exits = Some(Vec::new());
    world.nodes[1] = Some(former);
    world.regain_coordination(1);
    let exits = world.exits.take().unwrap();
    assert!(matches!(&exits[..], [reason] if reason.contains("n1 node name n1 is taken")), "{exits:?}");
}

/// Takes a node out of the world with its process alive: it is cut off from everybody, and its session ends.
fn park(world: &mut World, i: usize) -> crate::support::world::Node {
    world.isolate(i);
    world.lose_coordination(i);
    let session = world.nodes[i].as_ref().unwrap().coordinator.session().expect("it had one");
    world.model.end_session(session);
    world.settle();
    let node = world.nodes[i].take().expect("it runs");
    world.uncoordinated.remove(&i);
    world.run(3_000);
    world.heal();
    node
}

/// A process that was killed comes back at once at another address, and again: it waits each time for the session of the former one.
#[test]
fn a_node_that_comes_back_at_once_at_another_address_waits_for_the_session_and_joins() {
    let mut world = cluster();
    world.tune = elsewhere;
    let first = world.kill(2);
    world.start(2);
    assert!(world.told(2, "another process is registered as n2, and its session has not ended yet"));
    let second = world.kill(2);
    world.start(2);
    world.run(2_000);
    assert!(world.keeper(2).halted().is_none() && !world.names(2), "it waits");
    for ended in [first, second] {
        world.model.end_session(ended.session().expect("it had one"));
    }
    world.settle();
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// A lone leader is cut off from the coordination service and serves on; its session ends, and a process of its name starts elsewhere, empty.
fn twin_of_a_lone_leader(tune: fn(usize, &mut KeeperConfig), twin: fn(usize, &mut KeeperConfig)) -> (World, bool) {
    let mut world = cluster_of(1, tune);
    world.lose_coordination(0);
    set(&mut world, 0, "k", "served without coordination");
    let session = world.nodes[0].as_ref().unwrap().coordinator.session().unwrap();
    world.model.end_session(session);
    let former = world.nodes[0].take().unwrap();
    world.uncoordinated.clear();
    world.tune = twin;
    world.start(0);
    world.run(30_000);
    let started_over = world.state().resets == 1;
    if !started_over {
        assert_eq!((world.role(0), world.state().epoch.0), (Role::Joining, 1));
        assert!(world.told(0, "waiting for an earlier process of n0"), "{:#?}", world.notices());
        assert!(world.told(0, "datakeeper admin reset --connect client:0 --confirm c"));
    }
    world.nodes[0] = Some(former);
    (world, started_over)
}

/// `proven`: that the session ended and another process has the name is no proof. The lone leader comes back, finds its name taken, and
/// keeps what it holds.
#[test]
pub fn proven_loss_is_not_proven_by_a_twin_of_a_lone_leader_that_is_cut_off() {
    let (mut world, started_over) = twin_of_a_lone_leader(proven, proven_elsewhere);
    assert!(!started_over);
    world.regain_coordination(0);
    assert_eq!((world.role(0), world.keeper(0).data_at_stake().is_some()), (Role::Halted, true));
}

/// `start_empty` trusts that names are unique: here they are not, and the cluster starts over. Even so the data are kept.
#[test]
fn start_empty_trusts_names_and_the_twin_starts_over_while_the_former_process_keeps_its_data() {
    let (mut world, started_over) = twin_of_a_lone_leader(|_, _| {}, elsewhere);
    assert!(started_over);
    world.regain_coordination(0);
    assert_eq!((world.role(0), world.keeper(0).data_at_stake().is_some()), (Role::Halted, true));
    let refused = world.ask(0, &["DATAKEEPER", "ADOPT", "n0", "CONFIRM", "c"]);
    assert!(refused.starts_with("-ERR another process is registered as n0: stop it first"), "{refused}");
}

/// All end in good order, and only some come back: their ends are recorded, so under both policies the cluster starts over by itself.
#[test]
fn when_all_have_ended_in_good_order_any_of_them_starts_over() {
    for tune in [(|_, _| {}) as fn(usize, &mut KeeperConfig), proven] {
        let mut world = cluster_of(3, tune);
        for i in 0..3 {
            world.end_in_good_order(i);
        }
        world.tune = tune;
        world.start(1);
        world.run_until("it starts over", 5_000, |w| leads(w, 1));
        assert!(world.told(1, "ALL DATA ARE LOST") && world.state().resets == 1);
    }
}

/// All are killed. Under `proven` each one's successor at its addresses proves its death, and one that is missing is waited for.
#[test]
fn when_all_were_killed_successors_at_their_addresses_prove_it_and_a_missing_one_is_waited_for() {
    for tune in [(|_, _| {}) as fn(usize, &mut KeeperConfig), proven] {
        let mut world = cluster_of(3, tune);
        (0..3).for_each(|i| world.crash(i));
        world.start(0);
        world.start(1);
        world.run(30_000);
        assert_eq!(world.state().resets, 0, "n2 may be alive");
        assert!(world.told(0, "waiting for n2, whose memory may hold the data"), "{:#?}", world.notices());
        world.start(2);
        world.run_until("it starts over", 5_000, |w| (0..3).any(|i| leads(w, i)));
        assert_eq!(world.state().resets, 1);
    }
}

/// Something unreadable stands in the directory: nodes join and replace leaders all the same; what is not proven is not acted upon, and no
/// command that gives data up is named.
#[test]
fn what_cannot_be_read_in_the_directory_keeps_nobody_from_joining_and_blocks_proofs() {
    let mut world = cluster();
    let rubbish = || vec!["/nodes/n9 is not readable: expected value at line 1 column 1".to_string()];
    let spoil = |world: &mut World| {
        for i in 0..3 {
            let nodes = world.model.nodes();
            if world.nodes[i].is_some() {
                for confirmed in [false, true] {
                    let event = CoordEvent::Nodes { nodes: nodes.clone(), unreadable: rubbish(), confirmed };
                    world.event(i, Event::Coord(Box::new(event)));
                }
            }
        }
    };
    world.crash(0);
    world.run_until("n1 leads", 2_000, |w| leads(w, 1));
    world.start(0);
    spoil(&mut world);
    world.run_until("n0 is back", 3_000, |w| w.in_sync() == 3);
    assert!(world.told(0, "/nodes/n9 is not readable"));
    for i in 0..3 {
        world.crash(i);
    }
    world.unserve(ALL);
    for i in 0..3 {
        world.start(i);
        world.told_all(i);
        while world.step(i) {}
    }
    for _ in 0..20 {
        spoil(&mut world);
        world.run(1_000);
    }
    assert_eq!(world.state().resets, 0, "who wrote that may hold the data");
    assert!(!world.notices().iter().any(|n| n.contains("admin reset")), "{:#?}", world.notices());
}
