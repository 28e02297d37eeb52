//! Keepers over a perfect network: bytes arrive at once and whole, the coordination service answers at once.
//!
//! What a reader should see first of the protocol: founding, joining, replicating, taking over, coming back. Faults of every
//! other kind are the simulator's business (`tests/sim`).

mod support;

use datakeeper::cluster::role::Role;
use datakeeper::keeper::{KeeperConfig, Next, ReadMode};
use support::world::{World, three, three_tuned};

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
fn state_deleted_under_a_running_cluster_halts_its_nodes_loudly() {
    let mut world = three();
    world.model.delete_state();
    world.settle();
    world.run_until("every node halted", 2_000, |w| (0..3).all(|i| w.role(i) == Role::Halted));
    assert!(world.ask(0, &["GET", "before1"]).starts_with("-CLUSTERDOWN This node is halted"));
    assert!(world.notices().iter().any(|n| n.contains("/state is gone")));
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
