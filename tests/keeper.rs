//! Keepers over a perfect network: bytes arrive at once and whole, the coordination service answers at once.
//!
//! What a reader should see first of the protocol: founding, joining, replicating, taking over, coming back. Faults of every
//! other kind are the simulator's business (`tests/sim`).

mod support;

use datakeeper::base::clock::Boot;
use datakeeper::base::ids::{ConnId, LinkId};
use datakeeper::base::limits::{HELLO_MS, STRANGERS_MAX};
use datakeeper::cluster::config::ClusterConfig;
use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Event, KeeperConfig, Next, ReadMode};
use datakeeper::shell::coordination::model::Model;
use support::world::{World, three, three_tuned, world};

#[test]
fn a_founder_leads_alone_and_learners_are_filled_and_taken_in() {
    let mut world = three();
    assert_eq!((world.role(1), world.role(2)), (Role::Replica, Role::Replica));
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.run(5);
    for i in 0..3 {
        assert_eq!(world.ask(i, &["GET", "k"]), "$1\r\nv\r\n");
        assert_eq!(world.ask(i, &["GET", "before49"]), "$1\r\nx\r\n");
    }
    assert_eq!(world.ask(1, &["SET", "foo", "v"]), "-MOVED 12182 client:0\r\n");
}

#[test]
fn a_config_that_is_not_valid_is_told_and_the_settings_in_force_stay_until_it_is_mended() {
    let mut world = three();
    let epoch = world.keeper(0).status(world.now()).epoch;
    let default = ClusterConfig::default();
    for bad in [
        ClusterConfig { heartbeat_ms: 0, ..default.clone() },
        ClusterConfig { heartbeat_ms: 1, suspect_ms: 1, lease_ms: 1, promise_ms: 1, ..default.clone() },
        ClusterConfig { promise_ms: 100_000_000, ..default.clone() },
    ] {
        world.model.set_config(bad);
        world.settle();
        world.run(2_000);
        for i in 0..3 {
            let status = world.keeper(i).status(world.now());
            assert!(status.warnings.iter().any(|text| text.contains("/config is not valid")), "{:?}", status.warnings);
            assert_eq!(status.epoch, epoch);
        }
        assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    }
    // The promise of the last one was never given: the leader is replaced as soon as ever.
    world.crash(0);
    let took = world.run_until("a new leader", 1_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    assert!(took <= 600, "took {took} ms");
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    assert_eq!(world.ask(leader, &["DATAKEEPER", "SET-CONFIG", "lease_ms", "300", "CONFIRM", "c"]), "+OK\r\n");
    world.run(20);
    let status = world.keeper(leader).status(world.now());
    assert!(!status.warnings.iter().any(|text| text.contains("/config")), "{:?}", status.warnings);
}

#[test]
fn what_the_coordination_service_refuses_stands_in_status_until_it_does_not_any_more() {
    let mut world = World::new(1);
    world.unserve(&[0]);
    world.start(0);
    let tell = |world: &mut World, reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        world.event(0, Event::Coord(Box::new(CoordEvent::Hindered { reason })));
        world.keeper(0).status(world.now())
    };
    let status = tell(&mut world, Some("ZooKeeper refuses access to /shop"));
    assert_eq!(status.role, "starting");
    assert_eq!(status.warnings[0], "hindered: ZooKeeper refuses access to /shop");
    assert!(world.notices().iter().any(|n| n.contains("hinders this node: ZooKeeper refuses access to /shop")));
    let status = tell(&mut world, None);
    assert!(!status.warnings.iter().any(|warning| warning.contains("hindered")), "{:?}", status.warnings);
}

#[test]
fn a_replica_beside_a_leader_that_is_cut_off_from_the_others_does_not_take_its_data_for_fresh() {
    let mut world = three_tuned(|_, config| config.max_staleness_ms = 200);
    world.unserve(&[0, 2]);
    for i in [0, 2] {
        world.stop(1, i);
        world.stop(i, 1);
    }
    world.run(100);
    assert_eq!(world.ask(2, &["GET", "before49"]), "$1\r\nx\r\n", "n0 has its lease");
    // n1 may lead by the time n0 has lost it; n2 hears n0 all along.
    world.run(600);
    assert_eq!((world.role(0), world.role(2)), (Role::Leader, Role::Replica), "nobody told them");
    assert!(world.ask(2, &["GET", "before49"]).starts_with("-MOVED "), "its data may be old");
}

#[test]
fn a_replica_takes_over_with_every_acknowledged_write_and_the_old_leader_returns_empty_and_is_filled() {
    let mut world = three();
    for i in 0..100 {
        assert_eq!(world.ask(0, &["SET", &format!("k{i}"), &i.to_string()]), "+OK\r\n");
    }
    world.crash(0);
    let took = world.run_until("a new leader", 1_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    assert!(took <= 600, "took {took} ms");
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    for i in 0..100 {
        assert_eq!(world.ask(leader, &["GET", &format!("k{i}")]), format!("${}\r\n{i}\r\n", i.to_string().len()));
    }
    assert_eq!(world.ask(leader, &["SET", "after", "1"]), "+OK\r\n");
    world.start(0);
    world.run_until("three in sync again", 3_000, |w| w.in_sync() == 3);
    world.run(60);
    assert_eq!(world.ask(0, &["GET", "k99"]), "$2\r\n99\r\n");
    assert_eq!(world.ask(0, &["GET", "after"]), "$1\r\n1\r\n");
}

#[test]
fn keys_that_came_with_a_snapshot_separate_by_their_hash_as_they_do_at_the_leader() {
    let mut world = three();
    let value = "v".repeat(10);
    for group in 0..200 {
        let keys: Vec<String> = (0..1_000).map(|i| format!("k{group}:{i}")).collect();
        let words: Vec<&str> =
            std::iter::once("MSET").chain(keys.iter().flat_map(|key| [&key[..], &value[..]])).collect();
        assert_eq!(world.ask(0, &words), "+OK\r\n");
    }
    world.crash(2);
    world.start(2);
    world.run_until("three in sync again", 3_000, |w| w.in_sync() == 3);
    world.run(5);
    assert_eq!(world.ask(2, &["DBSIZE"]), world.ask(0, &["DBSIZE"]));
    let doctor = world.ask(2, &["MEMORY", "DOCTOR"]);
    assert!(doctor.contains("Nothing looks wrong."), "{doctor}");
}

#[test]
fn a_lost_replica_is_taken_out_and_writes_go_on() {
    let mut world = three();
    world.crash(2);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(world.in_sync(), 2);
    world.crash(1);
    assert_eq!(world.ask(0, &["GET", "k"]), "$1\r\nv\r\n");
    world.run(1_000);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "-NOREPLICAS Not enough good replicas to write.\r\n");
    assert_eq!(world.ask(0, &["GET", "k"]), "$1\r\nv\r\n");
    world.start(1);
    world.run_until("two in sync", 3_000, |w| w.in_sync() == 2);
    assert_eq!(world.ask(0, &["SET", "k", "w"]), "+OK\r\n");
}

#[test]
fn links_that_say_no_hello_are_closed_and_keep_no_node_out() {
    let mut world = three();
    world.crash(2);
    let began = world.now_ms;
    let mut token = 0;
    let mut strangers = |world: &mut World, count| {
        (0..count).map(|_| (token += 1, world.stranger(0, token)).1).collect::<Vec<LinkId>>()
    };
    let first = strangers(&mut world, 1)[0];
    assert!(world.has_link(0, first), "it is waited for");
    let rest = strangers(&mut world, STRANGERS_MAX - 1);
    assert!(world.has_link(0, first), "there is room for so many");
    let last = strangers(&mut world, 1)[0];
    assert!(!world.has_link(0, first) && world.has_link(0, rest[0]), "the oldest has made room");

    world.start(2);
    world.run_until("n2 is in sync among them", 2_000, |w| w.names(2));
    assert!(!world.has_link(0, rest[0]) && world.has_link(0, last), "n2 was a stranger, too, until it said hello");
    world.run(HELLO_MS - (world.now_ms - began) - 1);
    assert!(world.has_link(0, last), "it has {HELLO_MS} ms");
    world.run(1);
    assert!(!world.has_link(0, last));
    assert_eq!((world.in_sync(), world.state().epoch.0), (3, 1), "who said hello stays");
}

#[test]
fn of_two_nodes_a_replica_that_falls_silent_is_out_after_seven_tenths_of_a_second() {
    let mut world = world(2, |_, _| {});
    world.run(60);
    world.stand_still(1);
    let took = world.run_until("n1 is out", 1_000, |w| w.in_sync() == 1);
    assert!((640..=720).contains(&took), "{took} ms");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(world.state().epoch.0, 1);
}

#[test]
fn a_command_that_holds_the_lock_for_four_seconds_deposes_nobody() {
    for held in [0, 1] {
        let mut world = three();
        world.held.insert(held);
        world.run(4_000);
        assert_eq!((world.role(0), world.state().epoch.0), (Role::Leader, 1), "n{held}: {:#?}", world.notices());
        world.held.clear();
        world.run_until("all in sync", 3_000, |w| w.in_sync() == 3);
        assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
        let notices = world.notices();
        assert!(!notices.iter().any(|n| n.contains("standing for") || n.contains("nothing")), "{notices:#?}");
        assert_eq!((world.role(0), world.state().epoch.0), (Role::Leader, 1));
    }
}

#[test]
fn a_link_that_is_silent_beside_pulses_is_given_up_after_five_seconds() {
    let mut world = three();
    world.held.insert(1);
    let silent = |w: &World, by| w.notices().iter().any(|n| n.contains(by));
    let took = world.run_until("n0 closes it", 6_000, |w| silent(w, "nothing acknowledged for 5000 ms"));
    assert!((4_900..5_200).contains(&took), "{took} ms");
    world.held.clear();
    world.run_until("it is in sync again", 3_000, |w| w.in_sync() == 3);
    assert_eq!(world.state().epoch.0, 1);
}

#[test]
fn a_link_that_is_dialled_anew_keeps_the_pulse_and_one_that_is_not_heard_loses_it() {
    let mut world = three();
    let link = *world.nodes[1].as_ref().unwrap().links.keys().next().unwrap();
    let pulse = |w: &World| w.nodes[1].as_ref().unwrap().pulse_to;
    let former = pulse(&world);
    assert!(former.is_some());
    world.close(1, link);
    world.event(1, datakeeper::keeper::Event::LinkDown { link, reason: "a break".to_string() });
    assert_eq!(pulse(&world), former, "it goes on while the link is dialled");
    world.run_until("another link, and its pulse", 200, |w| pulse(w).is_some() && pulse(w) != former);
    world.run(100);
    // Nothing that n1 says arrives: n0 lets it go, so that no promise is renewed that n0 cannot use.
    world.stop(1, 0);
    world.stop(2, 0);
    let elected = |w: &World| [1, 2].into_iter().any(|i| w.role(i) == Role::Leader);
    let took = world.run_until("another leader", 2_000, elected);
    assert!(took <= 1_000, "{took} ms");
}

#[test]
fn when_every_holder_has_restarted_empty_the_cluster_starts_over_loudly_and_not_before() {
    let mut world = three();
    for i in 0..3 {
        world.crash(i);
    }
    world.start(1);
    world.start(2);
    world.run(5_000);
    assert_eq!((world.role(1), world.role(2)), (Role::Joining, Role::Joining), "n0 may still hold everything");
    world.start(0);
    world.run_until("a leader of nothing", 5_000, |w| (0..3).any(|i| w.role(i) == Role::Leader));
    let (state, _) = world.model.state().state.unwrap();
    assert_eq!((state.resets, state.epoch.0), (1, 2));
    assert!(world.notices().iter().any(|n| n.contains("ALL DATA ARE LOST")));
    world.run_until("all three in sync", 5_000, |w| w.in_sync() == 3);
}

#[test]
fn reads_go_on_below_the_minimum_also_when_keys_expire() {
    let mut world = three();
    assert_eq!(world.ask(0, &["SET", "live", "v"]), "+OK\r\n");
    for i in 0..50 {
        assert_eq!(world.ask(0, &["SET", &format!("gone{i}"), "v", "PX", "100"]), "+OK\r\n");
    }
    world.crash(1);
    world.crash(2);
    world.run(2_000);
    assert_eq!(world.ask(0, &["SET", "live", "w"]), "-NOREPLICAS Not enough good replicas to write.\r\n");
    assert_eq!(world.ask(0, &["GET", "gone7"]), "$-1\r\n");
    assert_eq!(world.ask(0, &["GET", "live"]), "$1\r\nv\r\n");
}

#[test]
fn a_leader_elected_below_the_minimum_answers_reads_that_nothing_uncertain_touches() {
    let mut world = three();
    world.crash(1);
    world.run_until("n1 is out", 500, |w| w.in_sync() == 2);
    world.run(60);
    // n2 has it and does not know yet that it is acknowledged.
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.crash(0);
    world.run_until("n2 leads alone", 1_500, |w| w.role(2) == Role::Leader && w.in_sync() == 1);
    assert_eq!(world.ask(2, &["GET", "before7"]), "$1\r\nx\r\n");
    let conn = world.connect(2);
    let mut read = world.request(2, conn, &["GET", "k"]);
    assert!(!world.answered(&mut read), "this leader cannot know");
    world.start(1);
    world.run_until("n1 is back", 500, |w| w.in_sync() == 2);
    world.run(5);
    assert!(world.answered(&mut read));
    assert_eq!(read.out.to_vec(), b"$1\r\nv\r\n");
}

#[test]
fn what_a_node_remembers_of_one_dataset_holds_no_read_of_the_next_one_back() {
    let mut world = founded_anew_by_a_newcomer();
    for i in 0..500 {
        assert_eq!(world.ask(3, &["SET", &format!("before{}", i % 50), "y"]), "+OK\r\n");
    }
    world.run(1_000);
    // n3 lives on in the cluster of the others: its coordination is lost long enough for its entry to go.
    world.lose_coordination(3);
    let session = world.nodes[3].as_ref().unwrap().coordinator.session().unwrap();
    world.model.end_session(session);
    world.settle();
    assert_eq!(operate(&mut world, 1, &["ADOPT", "n1"]), "+OK\r\n");
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader);
    world.regain_coordination(3);
    world.run_until("n3 is filled", 3_000, |w| w.names(3));
    assert_eq!(world.ask(1, &["DATAKEEPER", "HANDOVER", "TO", "n3"]), "+OK\r\n");
    world.run_until("n3 leads", 100, |w| w.role(3) == Role::Leader);
    world.run(60);
    // Something is not acknowledged, so that reads are looked at; it has nothing to do with what is read.
    world.cut_off.insert(1);
    let conn = world.connect(3);
    let mut write = world.request(3, conn, &["SET", "other", "v"]);
    assert!(!world.answered(&mut write));
    for i in 0..50 {
        let conn = world.connect(3);
        let mut read = world.request(3, conn, &["GET", &format!("before{i}")]);
        assert!(world.answered(&mut read), "before{i} waits for an entry that there is not");
        assert_eq!(read.out.to_vec(), b"$1\r\nx\r\n");
    }
}

#[test]
fn state_deleted_under_a_running_cluster_halts_its_nodes_loudly() {
    let mut world = three();
    world.model.delete_state();
    world.settle();
    world.run_until("every node halted", 2_000, |w| (0..3).all(|i| w.role(i) == Role::Halted));
    assert!(world.ask(0, &["GET", "before1"]).starts_with("-CLUSTERDOWN This node is halted"));
    assert!(world.notices().iter().any(|n| n.contains("/state is gone")));
}

#[test]
fn who_is_ready_stays_so_without_zookeeper_during_an_election_and_below_the_minimum() {
    let mut world = three();
    let ready = |world: &World, i: usize| world.keeper(i).face().ready;
    assert!((0..3).all(|i| ready(&world, i)));
    assert!(world.keeper(0).face().leads() && !world.keeper(1).face().leads());
    world.run(200);
    let (face, now) = (world.keeper(1).face(), world.now().boot);
    assert!(face.follows(now, Some(150)), "{face:?} at {now:?}");
    assert!(!world.keeper(0).face().follows(now, None), "it leads");
    for i in 0..3 {
        world.lose_coordination(i);
    }
    world.run(3_000);
    assert!((0..3).all(|i| ready(&world, i)), "without the coordination service");
    for i in 0..3 {
        world.regain_coordination(i);
    }
    world.crash(0);
    world.unserve(&[1, 2]);
    world.run(1_000);
    assert_eq!((world.role(1), world.role(2)), (Role::Candidate, Role::Candidate), "nobody answers them yet");
    assert!(ready(&world, 1) && ready(&world, 2), "during the election");
    world.serve(&[1, 2]);
    world.run_until("a new leader", 2_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    let (leader, other) = if world.role(1) == Role::Leader { (1, 2) } else { (2, 1) };
    world.run(1_000);
    let stale = world.keeper(other).face();
    assert!(!stale.follows(Boot(world.now().boot.0 + 1_000_000_000), Some(900)), "its data may be older by then");
    world.crash(other);
    world.run(2_000);
    assert!(world.ask(leader, &["SET", "k", "v"]).starts_with("-NOREPLICAS"));
    assert!(ready(&world, leader) && world.keeper(leader).face().leads(), "below the minimum");
    // A node that comes back is not ready before it is in sync; one that halts or leaves is not.
    world.start(other);
    assert!(!ready(&world, other));
    world.run_until("it is in sync", 3_000, |w| w.in_sync() == 2);
    world.run(60);
    assert!(ready(&world, other));
    world.event(other, Event::Leave);
    assert!(!ready(&world, other), "it leaves");
    world.model.delete_state();
    world.settle();
    world.run_until("the leader halts", 2_000, |w| w.role(leader) == Role::Halted);
    assert!(!ready(&world, leader), "it is halted");
}

#[test]
fn an_http_request_ends_the_connection() {
    let mut world = three();
    assert!(world.ask(0, &["POST", "/", "HTTP/1.1"]).starts_with("-ERR unknown command 'POST'"));
}

fn confirm(_: usize, config: &mut KeeperConfig) {
    config.read_mode = ReadMode::Confirm;
}

fn only_replicas_confirm(i: usize, config: &mut KeeperConfig) {
    if i > 0 {
        config.read_mode = ReadMode::Confirm;
    }
}

fn some_leader(world: &World) -> bool {
    (0..3).any(|i| world.role(i) == Role::Leader)
}

#[test]
fn in_confirm_mode_the_reads_of_many_connections_wait_for_one_round_that_began_after_them() {
    let mut world = three_tuned(confirm);
    let conns: Vec<_> = (0..20).map(|_| world.connect(0)).collect();
    let mut requests: Vec<_> = conns.iter().map(|conn| world.request(0, *conn, &["GET", "before7"])).collect();
    assert!(requests.iter().all(|r| r.next == Next::Wait && r.out.to_vec().is_empty()), "a read was answered unasked");
    world.run(2);
    for request in &mut requests {
        assert!(world.answered(request), "the round is not back: {:#?}", world.notices());
        assert_eq!(request.out.to_vec(), b"$1\r\nx\r\n");
    }
}

#[test]
fn in_confirm_mode_a_leader_that_nobody_answers_refuses_reads_whatever_it_heard_before() {
    let mut world = three_tuned(confirm);
    let conn = world.connect(0);
    assert_eq!(world.ask_on(0, conn, &["GET", "before7"]), b"$1\r\nx\r\n");
    world.cut_off.insert(0);
    let begin = world.now_ms;
    let mut request = world.request(0, conn, &["GET", "before7"]);
    assert_eq!(request.next, Next::Wait, "the answers of before count for nothing");
    while !world.answered(&mut request) && world.role(0) == Role::Leader {
        world.run(1);
    }
    let reply = String::from_utf8(request.out.to_vec()).unwrap();
    assert!(reply.is_empty() || reply.starts_with("-TRYAGAIN"), "{reply}");
    assert!(world.now_ms - begin <= 1_010, "{} ms", world.now_ms - begin);
}

#[test]
fn in_confirm_mode_a_dead_leader_is_replaced_without_waiting_for_promises() {
    let mut world = three_tuned(confirm);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    world.crash(0);
    let took = world.run_until("a new leader", 1_000, some_leader);
    assert!(took <= 60, "took {took} ms");
    let leader = if world.role(1) == Role::Leader { 1 } else { 2 };
    assert_eq!(world.ask(leader, &["GET", "k"]), "$1\r\nv\r\n");
}

#[test]
fn a_leader_that_reads_under_lease_is_waited_for_also_by_replicas_in_confirm_mode() {
    let mut world = three_tuned(only_replicas_confirm);
    world.run(50);
    world.crash(0);
    let took = world.run_until("a new leader", 1_000, some_leader);
    assert!(took >= 400, "took only {took} ms: a lease could still be running");
}

/// n1 dies, n2 loses its link and is taken out below the minimum: it is on the fallback list, complete. Then n0 restarts empty.
fn only_a_fallback_copy_is_left() -> World {
    let mut world = three();
    assert_eq!(world.ask(0, &["SET", "k", "acknowledged"]), "+OK\r\n");
    world.crash(1);
    world.run_until("n1 is out", 500, |w| w.in_sync() == 2);
    world.cut_off.insert(2);
    world.break_link(2, 0);
    world.run_until("n2 is out", 200, |w| w.in_sync() == 1);
    world.crash(0);
    world
}

#[test]
fn when_the_set_is_proven_gone_a_fallback_copy_takes_over_with_every_acknowledged_write() {
    let mut world = only_a_fallback_copy_is_left();
    world.cut_off.clear();
    world.run(5_000);
    assert_ne!(world.role(2), Role::Leader, "n0 may still be alive somewhere");
    world.start(0);
    world.run_until("n2 leads", 3_000, |w| w.role(2) == Role::Leader);
    assert_eq!(world.ask(2, &["GET", "k"]), "$12\r\nacknowledged\r\n");
    let (state, _) = world.model.state().state.unwrap();
    assert_eq!((state.epoch.0, state.resets, state.fallback.len()), (2, 0, 0));
    world.run_until("n0 is back", 3_000, |w| w.in_sync() == 2);
    assert_eq!(world.ask(2, &["SET", "k", "again"]), "+OK\r\n");
}

#[test]
fn an_unproven_loss_is_told_every_ten_seconds_with_the_command_that_ends_it() {
    let mut world = three();
    for i in 0..3 {
        world.crash(i);
    }
    world.start(1);
    world.run(25_000);
    let told = world.notices().into_iter().filter(|n| n.contains("waiting for n0, n2")).collect::<Vec<_>>();
    assert!(told.len() == 2 || told.len() == 3, "{told:#?}");
    for text in &told {
        assert!(text.contains("datakeeper admin reset --connect client:1 --confirm c"), "{text}");
        let level = if told[0] == *text { " Warn " } else { " Error " };
        assert!(text.contains(level), "once it lasts it is an error: {text}");
    }
}

#[test]
fn a_node_with_data_that_may_not_lead_says_up_to_where_it_holds_them_and_how_to_go_on() {
    let mut world = only_a_fallback_copy_is_left();
    world.run(12_000);
    let told = world.notices().into_iter().filter(|n| n.contains(" n2 Error no leader")).collect::<Vec<_>>();
    let [told] = &told[..] else { panic!("{:#?}", world.notices()) };
    let end = world.keeper(2).log().last();
    for text in [
        format!("this node holds data up to {end} but is not in the in-sync set: waiting for n0, n1, whose"),
        format!("`datakeeper admin adopt n2 --connect client:2 --confirm c` (up to {end})"),
    ] {
        assert!(told.contains(&text), "{text:?} is not in {told}");
    }
}

fn n1_has_a_file_of_its_own(i: usize, config: &mut KeeperConfig) {
    config.shared.lease_ms = if i == 1 { 300 } else { 400 };
}

#[test]
fn a_node_whose_file_differs_from_the_clusters_settings_says_so_and_goes_by_the_clusters() {
    let world = three_tuned(n1_has_a_file_of_its_own);
    let told = world.notices().into_iter().filter(|n| n.contains("configured differently")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains(" n1 Warn ") && told[0].contains(": lease_ms is 400 and not 300;"), "{}", told[0]);
}

/// All that the coordination service knew is gone, and a newcomer comes before the nodes with the data do.
fn founded_anew_by_a_newcomer() -> World {
    let mut world = three();
    world.grow();
    (0..3).for_each(|i| world.lose_coordination(i));
    world.model = Model::new();
    world.start(3);
    world.run_until("n3 has founded a cluster", 100, |w| w.role(3) == Role::Leader);
    assert_eq!(world.ask(3, &["SET", "k", "newcomer"]), "+OK\r\n");
    (0..3).for_each(|i| world.regain_coordination(i));
    world.run_until("nodes with data halt", 100, |w| (0..3).all(|i| w.role(i) == Role::Halted));
    world
}

#[test]
fn what_a_newcomer_founded_in_place_of_a_cluster_that_lives_is_followed_by_nobody_with_data() {
    let mut world = founded_anew_by_a_newcomer();
    let end = world.keeper(0).log().last();
    let halted = world.notices().into_iter().filter(|n| n.contains("Error halted")).collect::<Vec<_>>();
    assert_eq!(halted.len(), 3, "{halted:#?}");
    assert!(halted[0].contains(&format!(
        "holds data up to {end}: to go on with them, `datakeeper admin adopt n0 --connect client:0"
    )));
    world.run(5_000);
    assert!((0..3).all(|i| world.role(i) == Role::Halted && world.keeper(i).dataset() != world.keeper(3).dataset()));
    assert_eq!(world.ask(3, &["GET", "k"]), "$8\r\nnewcomer\r\n");
}

#[test]
fn an_operator_puts_the_data_in_place_of_what_a_newcomer_founded_once_that_one_is_stopped() {
    let mut world = founded_anew_by_a_newcomer();
    world.run(1_000);
    let said = operate(&mut world, 1, &["ADOPT", "n1"]);
    assert_eq!(
        said,
        "-ERR /state now belongs to n3 (epoch 1), which is live: stop it first; what was written there is given up\r\n"
    );
    world.crash(3);
    assert_eq!(operate(&mut world, 1, &["ADOPT", "n1"]), "+OK\r\n");
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader);
    for i in [0, 2] {
        world.crash(i);
    }
    [0, 2, 3].into_iter().for_each(|i| world.start(i));
    world.run_until("all four in sync", 3_000, |w| w.in_sync() == 4);
    assert_eq!(
        (world.ask(1, &["GET", "before7"]), world.ask(1, &["GET", "k"])),
        ("$1\r\nx\r\n".into(), "$-1\r\n".into())
    );
    assert_eq!(world.model.state().state.map(|(s, _)| s.epoch.0), Some(2));
}

/// Sends a subcommand of DATAKEEPER with the right confirmation.
fn operate(world: &mut World, node: usize, words: &[&str]) -> String {
    world.ask(node, &[&["DATAKEEPER"], words, &["CONFIRM", "c"]].concat())
}

#[test]
fn an_operator_changes_settings_for_all_nodes_at_once_and_only_to_what_leases_can_rest_on() {
    let mut world = three();
    assert_eq!(operate(&mut world, 1, &["SET-CONFIG", "lease_ms", "300", "min_in_sync", "3"]), "+OK\r\n");
    assert_eq!(world.model.config().map(|c| c.lease_ms), Some(300));
    world.run_until("the leader copied the minimum", 1_000, |w| {
        w.model.state().state.is_some_and(|(s, _)| s.min_required() == 3)
    });
    for (words, wanted) in [
        (["SET-CONFIG", "lease_ms", "450"], "want heartbeat*3 <= suspect < lease <= 0.8*promise"),
        (["SET-CONFIG", "lease", "450"], "no cluster-wide key lease: want one of"),
        (["SET-CONFIG", "min_in_sync", "few"], "want \"auto\" or a number"),
    ] {
        let said = operate(&mut world, 0, &words);
        assert!(said.starts_with("-ERR") && said.contains(wanted), "{words:?}: {said}");
    }
    let said = world.ask(0, &["DATAKEEPER", "SET-CONFIG", "lease_ms", "350", "CONFIRM", "other"]);
    assert_eq!(said, "-ERR confirm with the cluster's name: CONFIRM c\r\n");
    assert_eq!(world.model.config().map(|c| c.lease_ms), Some(300), "nothing of that was written");
}

#[test]
fn a_cluster_is_made_smaller_by_its_leader_and_never_below_its_size() {
    let mut world = three();
    assert_eq!(operate(&mut world, 1, &["LOWER-PEAK", "2"]), "-ERR n0 leads: run it there, --connect client:0\r\n");
    assert!(operate(&mut world, 0, &["LOWER-PEAK", "2"]).starts_with("-ERR 2: want a peak of at least 3"));
    assert!(operate(&mut world, 0, &["FORGET", "n2"]).contains("is in the in-sync set"));
    world.crash(2);
    world.crash(1);
    world.run_until("n0 is alone", 1_000, |w| w.in_sync() == 1);
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "-NOREPLICAS Not enough good replicas to write.\r\n");
    assert_eq!(operate(&mut world, 0, &["LOWER-PEAK", "1"]), "+OK\r\n");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(operate(&mut world, 0, &["FORGET", "n2"]), "+OK\r\n");
    let (state, _) = world.model.state().state.unwrap();
    assert_eq!((state.peak_in_sync, state.fallback.len(), state.epoch.0), (1, 0, 1));
    assert!(!state.holders.keys().any(|id| id.as_str() == "n2"));
}

#[test]
fn an_operator_starts_a_lost_cluster_over_and_never_under_a_leader() {
    let mut world = three();
    assert!(operate(&mut world, 0, &["RESET"]).starts_with("-ERR this node leads"));
    assert_eq!(operate(&mut world, 1, &["RESET"]), "-ERR n0 leads: there is nothing to repair\r\n");
    for i in 0..3 {
        world.crash(i);
    }
    world.start(1);
    world.run(2_000);
    assert!(operate(&mut world, 1, &["ADOPT", "n1"]).contains("holds no whole copy"));
    assert!(operate(&mut world, 1, &["ADOPT", "n0"]).contains("run it at n0, --connect client:0"));
    assert_eq!(operate(&mut world, 1, &["RESET"]), "+OK\r\n");
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader);
    assert_eq!(world.model.state().state.map(|(s, _)| (s.resets, s.epoch.0)), Some((1, 2)));
    world.start(0);
    world.run_until("two in sync", 3_000, |w| w.in_sync() == 2);
    assert_eq!(world.ask(1, &["DBSIZE"]), ":0\r\n");
}

#[test]
fn a_node_that_its_leader_refuses_neither_says_that_there_is_none_nor_starts_over() {
    let mut world = three_tuned(|i, config| {
        if i == 3 {
            config.secret = Some(b"another".to_vec());
        }
    });
    world.grow();
    world.start(3);
    world.run(12_000);
    let told = world.notices();
    assert!(told.iter().any(|n| n.contains("leader n0 refuses this node")), "{told:#?}");
    assert!(!told.iter().any(|n| n.contains("no leader")), "{told:#?}");
    let refused = "-ERR the directory shows n0, n1, n2 live with a copy that is in sync, whose data would be given up: stop it first\r\n";
    assert_eq!(operate(&mut world, 3, &["RESET"]), refused);
    assert_eq!(world.ask(0, &["GET", "before1"]), "$1\r\nx\r\n");
}

#[test]
fn a_node_that_does_not_reach_a_leader_that_lives_names_no_command_that_gives_data_up() {
    let mut world = three();
    world.cut_off.insert(2);
    world.run(25_000);
    let told = world.notices();
    assert!(
        told.iter().any(|n| n.contains("n2 Error leader n0 is live") && n.contains("does not answer here")),
        "{told:#?}"
    );
    assert!(!told.iter().any(|n| n.contains("adopt") || n.contains("reset")), "{told:#?}");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
}

#[test]
fn after_flushall_at_the_limit_of_memory_writes_go_on_at_once() {
    let mut world = three_tuned(|_, config: &mut KeeperConfig| config.settings.max_memory = 2 << 20);
    let value = "x".repeat(1_000);
    let full = (0..5_000).find(|i| world.ask(0, &["SET", &format!("k{i}"), &value]).starts_with("-OOM"));
    assert!(full.is_some_and(|i| i > 1_000), "{full:?}");
    assert_eq!(world.ask(0, &["FLUSHALL"]), "+OK\r\n");
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
}

#[test]
fn many_keys_that_expire_together_are_gone_soon() {
    let mut world = three();
    let conn = world.connect(0);
    for i in 0..20_000 {
        world.ask_on(0, conn, &["SET", &format!("k{i}"), "v", "PX", "100"]);
    }
    world.run(400);
    assert_eq!(world.ask(0, &["DBSIZE"]), ":50\r\n");
}

#[test]
fn an_operator_goes_on_with_a_copy_whose_leader_never_comes_back() {
    let mut world = only_a_fallback_copy_is_left();
    world.run(2_000);
    assert!(operate(&mut world, 2, &["RESET"]).contains("this node holds data up to"));
    assert_eq!(operate(&mut world, 2, &["ADOPT", "n2"]), "+OK\r\n");
    world.run_until("n2 leads", 1_000, |w| w.role(2) == Role::Leader);
    world.cut_off.clear();
    world.start(0);
    world.run_until("two in sync", 3_000, |w| w.in_sync() == 2);
    assert_eq!(world.ask(2, &["GET", "k"]), "$12\r\nacknowledged\r\n");
}

#[test]
fn a_state_that_was_deleted_is_made_anew_by_a_node_that_holds_the_data() {
    let mut world = three();
    world.model.delete_state();
    world.settle();
    world.run_until("every node halted", 2_000, |w| (0..3).all(|i| w.role(i) == Role::Halted));
    world.run(1_000);
    assert_eq!(operate(&mut world, 1, &["ADOPT", "n1"]), "+OK\r\n");
    world.run_until("n1 leads", 1_000, |w| w.role(1) == Role::Leader);
    assert_eq!(world.model.state().state.map(|(s, _)| s.epoch.0), Some(2));
    for i in [0, 2] {
        world.crash(i);
        world.start(i);
    }
    world.run_until("all three in sync", 3_000, |w| w.in_sync() == 3);
    assert_eq!(world.ask(1, &["GET", "before7"]), "$1\r\nx\r\n");
}

/// What was published for a connection, as text.
fn pushed(world: &mut World, i: usize, conn: ConnId) -> String {
    String::from_utf8(world.pushed(i, conn)).unwrap()
}

#[test]
fn what_is_published_at_any_node_reaches_who_listens_at_each_once_whatever_its_size() {
    let mut world = three();
    let listeners: Vec<ConnId> = (0..3).map(|i| world.connect(i)).collect();
    for (i, conn) in listeners.iter().enumerate() {
        world.ask_on(i, *conn, &["SUBSCRIBE", "ch"]);
    }
    for from in 0..3 {
        for len in [0, 1, 65_000, 3 << 20] {
            let text = from.to_string().repeat(len);
            assert_eq!(world.ask(from, &["PUBLISH", "ch", &text]), ":1\r\n");
            world.run(1);
            let wanted = format!("*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n${len}\r\n{text}\r\n");
            for (i, conn) in listeners.iter().enumerate() {
                assert!(pushed(&mut world, i, *conn) == wanted, "{len} bytes from n{from} at n{i}");
            }
        }
    }
    // The next leader's links carry messages as the last one's did.
    world.crash(0);
    world.run_until("a new leader", 1_000, |w| w.role(1) == Role::Leader || w.role(2) == Role::Leader);
    world.run_until("two in sync", 2_000, |w| w.in_sync() == 2);
    world.run(60);
    for from in [1, 2] {
        assert_eq!(world.ask(from, &["PUBLISH", "ch", "x"]), ":1\r\n");
        world.run(1);
        for i in [1, 2] {
            assert!(pushed(&mut world, i, listeners[i]).ends_with("\r\n$1\r\nx\r\n"), "from n{from} at n{i}");
        }
    }
}

#[test]
fn message_is_not_told_before_what_its_publisher_wrote_is_acknowledged() {
    let mut world = three();
    let (here, there) = (world.connect(0), world.connect(1));
    world.ask_on(0, here, &["SUBSCRIBE", "ch"]);
    world.ask_on(1, there, &["SUBSCRIBE", "ch"]);
    world.cut_off.insert(2);
    let publisher = world.connect(0);
    let mut both = world.pipeline(0, publisher, &[&["SET", "k", "v"], &["PUBLISH", "ch", "after SET"]]);
    let mut exec =
        world.pipeline(0, publisher, &[&["MULTI"], &["SET", "k", "w"], &["PUBLISH", "ch", "in EXEC"], &["EXEC"]]);
    // Somebody who wrote nothing has nothing to wait for.
    assert_eq!(world.ask(0, &["PUBLISH", "ch", "free"]), ":1\r\n");
    world.run(10);
    assert!(!world.answered(&mut both) && !world.answered(&mut exec));
    for (i, conn) in [(0, here), (1, there)] {
        let text = pushed(&mut world, i, conn);
        assert!(text.contains("free") && !text.contains("after") && !text.contains("EXEC"), "{text}");
    }
    world.cut_off.clear();
    world.run(10);
    assert!(world.answered(&mut both) && world.answered(&mut exec));
    for (i, conn) in [(0, here), (1, there)] {
        let text = pushed(&mut world, i, conn);
        assert!(text.find("after SET").expect("it is told") < text.find("in EXEC").expect("it is told"), "{text}");
    }
}

#[test]
fn message_is_told_to_who_listened_when_it_was_published_and_still_does() {
    const LISTEN: [[&str; 2]; 3] = [["SUBSCRIBE", "ch"], ["PSUBSCRIBE", "c*"], ["SSUBSCRIBE", "ch"]];
    let mut world = three();
    let conns: Vec<[ConnId; 4]> = LISTEN.iter().map(|_| [(); 4].map(|()| world.connect(0))).collect();
    for ([stays, goes, returns, _], listen) in conns.iter().zip(&LISTEN) {
        for conn in [stays, goes, returns] {
            world.ask_on(0, *conn, listen);
        }
    }
    world.cut_off.insert(2);
    let publisher = world.connect(0);
    let commands: [&[&str]; 3] = [&["SET", "k", "v"], &["PUBLISH", "ch", "old"], &["SPUBLISH", "ch", "old"]];
    let mut request = world.pipeline(0, publisher, &commands);
    for ([stays, goes, returns, comes], listen) in conns.iter().zip(&LISTEN) {
        let leave = listen[0].replace("SUB", "UNSUB");
        world.ask_on(0, *goes, &[&leave, "ch", "c*"]);
        world.ask_on(0, *returns, &[&leave, "ch", "c*"]);
        for conn in [stays, returns, comes] {
            world.ask_on(0, *conn, listen);
        }
    }
    world.cut_off.clear();
    world.run(10);
    assert!(world.answered(&mut request));
    assert_eq!(request.out.to_vec(), b"+OK\r\n:6\r\n:3\r\n");
    for ([stays, rest @ ..], listen) in conns.iter().zip(&LISTEN) {
        assert_eq!(pushed(&mut world, 0, *stays).matches("\r\nold\r\n").count(), 1, "{listen:?}");
        for (conn, which) in rest.iter().zip(["left", "left and came back", "came"]) {
            assert_eq!(pushed(&mut world, 0, *conn), "", "{listen:?}: {which} after it");
        }
    }
}

#[test]
fn who_subscribes_behind_a_write_is_told_nothing_of_before() {
    let mut world = three();
    world.ask(0, &["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    let other = world.connect(0);
    world.ask_on(0, other, &["PSUBSCRIBE", "*"]);
    let told = |world: &mut World, conn| pushed(world, 0, conn).matches("pmessage").count();
    let commands: [&[&str]; 4] = [&["SET", "k", "v"], &["PUBLISH", "ch", "old"], &["PSUBSCRIBE", "*"], &["PING"]];
    for within in [false, true] {
        let conn = world.connect(0);
        let mut request = match within {
            false => world.pipeline(0, conn, &commands),
            true => world.pipeline(0, conn, &[&[&["MULTI"][..]], &commands[..], &[&["EXEC"]]].concat()),
        };
        world.run(10);
        assert!(world.answered(&mut request));
        let reply = String::from_utf8(request.out.to_vec()).unwrap();
        assert!(!reply.contains("pmessage"), "{reply}");
        assert_eq!((told(&mut world, conn), told(&mut world, other)), (0, 3), "in a transaction: {within}");
        assert_eq!(world.ask(0, &["DEL", "k"]), ":1\r\n");
        assert_eq!((told(&mut world, conn), told(&mut world, other)), (2, 2), "in a transaction: {within}");
    }
}

#[test]
fn messages_beyond_what_a_link_carries_are_dropped_and_the_log_goes_on() {
    const MIB: usize = 1 << 20;
    let mut world = three();
    let listener = world.connect(2);
    world.ask_on(2, listener, &["SUBSCRIBE", "ch"]);
    // 10 MB/s.
    world.bandwidth.insert(2, (10_000, 10_000));
    let publisher = world.connect(0);
    for i in 0..20 {
        let text = format!("{i:02}").repeat(MIB / 2);
        assert_eq!(world.ask_on(0, publisher, &["PUBLISH", "ch", &text]), b":0\r\n");
    }
    let info = world.ask(0, &["INFO", "datakeeper"]);
    let dropped = info.lines().find_map(|line| line.strip_prefix("published_dropped:")).expect("a field");
    let dropped: usize = dropped.trim().parse().expect("a number");
    assert!((1..10).contains(&dropped), "{dropped} of 20 dropped");
    let begin = world.now_ms;
    assert_eq!(world.ask(0, &["SET", "k", "v"]), "+OK\r\n");
    assert!(world.now_ms - begin < 200, "a write took {} ms", world.now_ms - begin);
    world.run(3_000);
    assert_eq!(world.in_sync(), 3);
    // The log is told, once, and with the number.
    let told: Vec<String> = world.notices().into_iter().filter(|notice| notice.contains("were dropped")).collect();
    let wanted =
        format!("{dropped} published messages were dropped within 0 s: {dropped} found 16 MiB waiting for the link");
    assert!(told.len() == 1 && told[0].contains(&wanted), "{told:?}");
    let got = pushed(&mut world, 2, listener);
    let numbers: Vec<&str> = got.split("\r\n").filter(|line| line.len() == MIB).map(|line| &line[..2]).collect();
    assert_eq!(numbers.len(), 20 - dropped);
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn log_is_kept_for_those_who_may_come_back_and_by_a_node_without_company_hardly_at_all() {
    for (nodes, least, most) in [(1, 0, 1_200_000), (2, 3_000_000, 4_000_000)] {
        let mut world = world(nodes, |_, _| {});
        for i in 0..3_000 {
            world.ask(0, &["SET", &format!("key:{i}"), &"x".repeat(1_000)]);
        }
        let memory = world.ask(0, &["INFO", "memory"]);
        let kept: usize =
            memory.split("mem_replication_backlog:").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        assert!((least..=most).contains(&kept), "{nodes} nodes keep {kept} bytes");
    }
}
