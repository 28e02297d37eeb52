//! Transactions among nodes: no replica and no later leader ever has half of one, and what changes the leader ends them.
//!
//! What each command answers on one connection is in `tests/scripts/sessions/transaction.txt`.

#[path = "support/mod.rs"]
mod support;

use datakeeper::base::ids::ConnId;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{KeeperConfig, Next};
use support::world::{Request, What, World, three, three_tuned};

/// Values long enough for an entry of several frames.
const LONG: usize = 600_000;

/// Begins a whole transaction, in one pipeline.
fn begin(world: &mut World, i: usize, conn: ConnId, commands: &[&[&str]]) -> Request {
    let all = [&[&["MULTI"][..]], commands, &[&["EXEC"]]].concat();
    world.pipeline(i, conn, &all)
}

/// What EXEC answers to these.
fn exec(world: &mut World, i: usize, commands: &[&[&str]]) -> String {
    let conn = world.connect(i);
    let mut request = begin(world, i, conn, commands);
    for _ in 0..1_000 {
        if world.answered(&mut request) {
            break;
        }
        world.run(1);
    }
    let reply = String::from_utf8(request.out.to_vec()).unwrap();
    reply.strip_prefix(&format!("+OK\r\n{}", "+QUEUED\r\n".repeat(commands.len()))).expect("all are queued").to_string()
}

fn hand_over(world: &mut World, from: usize, to: usize) {
    assert_eq!(world.ask(from, &["DATAKEEPER", "HANDOVER", "TO", &format!("n{to}")]), "+OK\r\n");
    world.run_until("the other leads", 1_000, |w| w.role(to) == Role::Leader);
    world.run_until("all in sync", 1_000, |w| w.in_sync() == 3 && w.role(from) == Role::Replica);
}

#[test]
fn transaction_is_one_entry_of_the_log_and_its_replies_are_held_together() {
    let mut world = three();
    let before = world.keeper(0).acked();
    let conn = world.connect(0);
    world.cut_off.insert(1);
    let commands: [&[&str]; 4] = [&["SET", "a", "1"], &["INCR", "a"], &["MSET", "b", "2", "c", "3"], &["GET", "b"]];
    let mut request = begin(&mut world, 0, conn, &commands);
    assert_eq!(request.next, Next::Done);
    world.run(5);
    assert!(!world.answered(&mut request), "n1 has not confirmed it");
    world.cut_off.clear();
    world.run(5);
    assert!(world.answered(&mut request));
    let queued = "+QUEUED\r\n".repeat(4);
    assert_eq!(
        String::from_utf8(request.out.to_vec()).unwrap(),
        format!("+OK\r\n{queued}*4\r\n+OK\r\n:2\r\n+OK\r\n$1\r\n2\r\n")
    );
    assert_eq!(world.keeper(0).acked(), before.next(), "four commands, one entry");
}

#[test]
fn reads_of_a_transaction_wait_for_what_they_saw() {
    let mut world = three();
    world.cut_off.insert(1);
    let writer = world.connect(0);
    world.request(0, writer, &["SET", "a", "1"]);
    let reader = world.connect(0);
    let mut request = begin(&mut world, 0, reader, &[&["PING"], &["GET", "a"]]);
    world.run(5);
    assert!(!world.answered(&mut request), "the write may still be lost");
    world.cut_off.clear();
    world.run(5);
    assert!(world.answered(&mut request));
    assert!(request.out.to_vec().ends_with(b"*2\r\n+PONG\r\n$1\r\n1\r\n"));
}

#[test]
fn replica_that_gets_a_transaction_bit_by_bit_never_shows_half_of_it() {
    let mut world = three();
    let long = "x".repeat(LONG);
    world.bandwidth.insert(1, (40_000, 0));
    let conn = world.connect(0);
    let mut request = begin(&mut world, 0, conn, &[&["SET", "a", &long], &["SET", "b", &long]]);
    let reader = world.connect(1);
    let (mut looked, mut done) = (0, false);
    for _ in 0..1_000 {
        let lengths = world.ask_on(1, reader, &["MGET", "a", "b"]).len();
        let small = "*2\r\n$-1\r\n$-1\r\n".len();
        assert!(lengths == small || lengths > 2 * LONG, "half of it is there");
        looked += usize::from(lengths == small);
        done = lengths > 2 * LONG;
        if done {
            break;
        }
        world.run(1);
    }
    assert!(done && looked > 20 && world.answered(&mut request), "{looked} looks before it was there");
}

#[test]
fn new_leader_has_all_of_a_transaction_or_nothing_wherever_the_old_one_died() {
    let long = "x".repeat(LONG);
    let (mut all, mut nothing) = (0, 0);
    for parcels in 0..24 {
        let mut world = three();
        let conn = world.connect(0);
        for to in [1, 2] {
            world.stop_after(0, to, parcels);
        }
        begin(&mut world, 0, conn, &[&["SET", "a", &long], &["SET", "before1", "y"], &["APPEND", "b", &long]]);
        world.run(1);
        world.crash(0);
        for sent in world.on_the_way.values_mut() {
            sent.retain(|parcel| matches!(parcel.what, What::Down(_)));
        }
        world.heal();
        world.run_until("a new leader", 3_000, |w| (1..3).any(|i| w.role(i) == Role::Leader));
        let leader = (1..3).find(|i| world.role(*i) == Role::Leader).unwrap();
        let seen = ["a", "before1", "b"].map(|key| world.ask(leader, &["GET", key]));
        let lengths = seen.each_ref().map(String::len);
        if lengths[0] > LONG {
            assert_eq!((lengths[2], &*seen[1]), (lengths[0], "$1\r\ny\r\n"), "after {parcels} parcels");
            all += 1;
        } else {
            assert_eq!(seen, ["$-1\r\n", "$1\r\nx\r\n", "$-1\r\n"], "after {parcels} parcels");
            nothing += 1;
        }
    }
    assert!(all > 2 && nothing > 2, "{all} times all, {nothing} times nothing");
}

#[test]
fn transaction_whose_leader_hands_over_before_exec_is_redirected_and_not_executed() {
    let mut world = three();
    let conn = world.connect(0);
    for words in [&["MULTI"][..], &["PING"], &["SET", "before1", "lost"], &["GET", "before1"]] {
        world.ask_on(0, conn, words);
    }
    hand_over(&mut world, 0, 1);
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"-MOVED 12864 client:1\r\n");
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"-ERR EXEC without MULTI\r\n", "the transaction is over");
    assert_eq!(world.ask(1, &["GET", "before1"]), "$1\r\nx\r\n");
}

#[test]
fn exec_that_meets_a_handover_waits_for_it_and_is_redirected() {
    let mut world = three();
    let conn = world.connect(0);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["INCR", "n"]);
    world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n2"]);
    let mut request = world.request(0, conn, &["EXEC"]);
    world.run_until("n2 leads", 1_000, |w| w.role(2) == Role::Leader);
    world.run(20);
    assert!(world.answered(&mut request));
    assert!(request.out.to_vec().starts_with(b"-MOVED ") && request.out.to_vec().ends_with(b" client:2\r\n"));
    assert_eq!(world.ask(2, &["GET", "n"]), "$-1\r\n");
}

#[test]
fn watched_keys_count_as_changed_once_somebody_else_has_led() {
    let mut world = three();
    let conn = world.connect(0);
    world.ask_on(0, conn, &["WATCH", "before1"]);
    hand_over(&mut world, 0, 1);
    world.ask(1, &["SET", "before1", "theirs"]);
    hand_over(&mut world, 1, 0);
    // What is watched from here on does not hide what was watched before.
    world.ask_on(0, conn, &["WATCH", "before2"]);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SET", "before1", "ours"]);
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"*-1\r\n");
    assert_eq!(world.ask(0, &["GET", "before1"]), "$6\r\ntheirs\r\n");
    // That was the end of it.
    world.ask_on(0, conn, &["WATCH", "before1"]);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SET", "before1", "ours"]);
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"*1\r\n+OK\r\n");
}

#[test]
fn connection_that_ends_watches_nothing_any_more() {
    let mut world = three();
    let (gone, stays) = (world.connect(0), world.connect(0));
    for conn in [gone, stays] {
        world.ask_on(0, conn, &["WATCH", "before1"]);
    }
    world.nodes[0].as_mut().unwrap().keeper.client_gone(gone);
    world.ask_on(0, stays, &["MULTI"]);
    assert_eq!(world.ask_on(0, stays, &["EXEC"]), b"*0\r\n", "nobody changed it");
    world.ask_on(0, stays, &["WATCH", "before1"]);
    world.ask(0, &["SET", "before1", "y"]);
    world.ask_on(0, stays, &["MULTI"]);
    assert_eq!(world.ask_on(0, stays, &["EXEC"]), b"*-1\r\n");
}

#[test]
fn exec_waits_for_the_lease_also_if_it_writes_and_is_then_executed() {
    let mut world = three();
    let conn = world.connect(0);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SETNX", "before1", "y"]);
    world.cut_off.insert(0);
    world.run(405);
    assert_eq!(world.role(0), Role::Leader);
    let mut request = world.request(0, conn, &["EXEC"]);
    world.run(10);
    assert!(!world.answered(&mut request), "that it changes nothing is an answer that needs the lease");
    world.cut_off.clear();
    world.run_until("an answer", 500, |w| w.keeper(0).leader_may_read(w.now()));
    // A lease that came with a pulse is noticed when members are looked at next, which is every 10 ms.
    world.run(10);
    assert!(world.answered(&mut request));
    assert_eq!(request.out.to_vec(), b"*1\r\n:0\r\n");
}

#[test]
fn exec_below_the_minimum_executes_nothing_and_says_why() {
    let mut world = three();
    let conn = world.connect(0);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SET", "before1", "y"]);
    world.crash(1);
    world.crash(2);
    world.run_until("alone", 3_000, |w| w.in_sync() == 1);
    assert_eq!(
        world.ask_on(0, conn, &["EXEC"]),
        b"-EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.\r\n"
    );
    world.ask_on(0, conn, &["MULTI"]);
    assert_eq!(
        world.ask_on(0, conn, &["SET", "before1", "y"]),
        b"-NOREPLICAS Not enough good replicas to write.\r\n",
        "when it is queued"
    );
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_eq!(exec(&mut world, 0, &[&["GET", "before1"]]), "*1\r\n$1\r\nx\r\n", "reads go on");
}

#[test]
fn full_memory_refuses_what_is_queued_and_an_exec_that_may_take_more() {
    let mut world = three_tuned(|_, config: &mut KeeperConfig| config.settings.max_memory = 4 << 20);
    let conn = world.connect(0);
    world.ask_on(0, conn, &["MULTI"]);
    world.ask_on(0, conn, &["SET", "before1", "y"]);
    let other = world.connect(0);
    world.ask_on(0, other, &["MULTI"]);
    world.ask_on(0, other, &["DEL", "big"]);
    assert_eq!(world.ask(0, &["SET", "big", &"x".repeat(3 << 20)]), "+OK\r\n");
    assert_eq!(world.ask(0, &["CONFIG", "SET", "maxmemory", "2mb"]), "+OK\r\n");
    let oom = "OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let refused = format!("-EXECABORT Transaction discarded because of: {oom}");
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), refused.as_bytes());
    world.ask_on(0, conn, &["MULTI"]);
    assert_eq!(world.ask_on(0, conn, &["GET", "before1"]), format!("-{oom}").as_bytes());
    assert_eq!(world.ask_on(0, other, &["EXEC"]), b"*1\r\n:1\r\n", "what frees memory is executed");
}

#[test]
fn effects_that_no_entry_holds_are_refused_before_they_happen() {
    let mut world = World::new(1);
    world.start(0);
    world.run_until("n0 leads", 100, |w| w.role(0) == Role::Leader);
    let commands: Vec<&[&str]> = vec![
        &["SETRANGE", "a", "536870911", "x"],
        &["BITOP", "OR", "b", "a"],
        &["BITOP", "OR", "c", "a"],
        &["BITOP", "OR", "d", "a"],
        &["STRLEN", "b"],
        &["DEL", "a"],
    ];
    let refused = "-ERR the effects of the transaction are too large for one more command\r\n";
    assert_eq!(exec(&mut world, 0, &commands), format!("*6\r\n{0}{0}{0}{refused}{0}{refused}", ":536870912\r\n"));
    assert_eq!(world.ask(0, &["EXISTS", "a", "d"]), ":1\r\n");
}

#[test]
fn watching_is_bounded() {
    let mut world = three();
    let conn = world.connect(0);
    let keys: Vec<String> = (0..64 << 10).map(|i| format!("k{i}")).collect();
    let mut words = vec!["WATCH"];
    words.extend(keys.iter().map(String::as_str));
    assert_eq!(world.ask_on(0, conn, &words), b"+OK\r\n");
    assert_eq!(world.ask_on(0, conn, &["WATCH", "k"]), b"-ERR this connection watches too many keys\r\n");
    world.ask_on(0, conn, &["MULTI"]);
    assert_eq!(world.ask_on(0, conn, &["EXEC"]), b"*0\r\n");
}
