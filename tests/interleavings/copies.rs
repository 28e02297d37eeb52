//! Copies: empty restarts, learners, snapshots, and what an ex-leader has executed.

use datakeeper::base::ids::{CopyId, Epoch};
use datakeeper::cluster::coordinator::CoordEvent;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;
use datakeeper::keeper::{Event, KeeperConfig};
use datakeeper::replication::wire::{self, Frame, Reason, Refused};

use crate::support::world::{What, World};
use crate::{cluster, comes_to_rest, epoch, leads, set};

fn refusals(world: &World, from: usize, to: usize) -> Vec<Refused> {
    let refused = |f| if let Frame::Refused(_, r) = f { Some(r) } else { None };
    world.frames(from, to).into_iter().filter_map(refused).collect()
}

/// 6. A new leader knows an old commit position: a learner with nothing would seem to have caught up with it (R7, R8).
#[test]
pub fn i06_a_new_leader_takes_no_learner_in_before_its_barrier_is_held() {
    let mut world = World::new(4);
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    set(&mut world, 0, "k", "new");
    world.crash(0);
    assert!(world.keeper(1).acked() < world.keeper(1).log().end(), "its commit position is old");
    world.stop(1, 2);
    world.stop(2, 1);
    world.run_until("n1 is elected", 700, |w| w.keeper(1).leadership() == Some((Epoch(2), false)));
    world.stop_after(1, 3, 1);
    world.start(3);
    world.run(10);
    let refused = refusals(&world, 1, 3);
    let why: Vec<Reason> = refused.iter().map(|r| r.reason).collect();
    assert_eq!(why, [Reason::NotLeader], "n3 was not refused");
    world.let_through(1, 3);
    world.run(400);
    assert_eq!((world.keeper(1).leadership(), world.keeper(3).dataset()), (Some((Epoch(2), false)), None));
    assert_eq!((world.set(), world.wants(1)), (vec!["n1".to_string(), "n2".to_string()], None));
    world.heal();
    world.run_until("n3 is in", 3_000, |w| leads(w, 1) && w.in_sync() == 3 && w.names(3));
    world.run(60);
    assert_eq!(world.value(3, "k").as_deref(), Some("new"));
}

/// 8. The process that replicas reach again at the leader's address holds nothing: it is another copy, and no leader (R10).
#[test]
pub fn i08_a_leader_that_restarts_empty_within_milliseconds_is_not_taken_for_the_leader() {
    let mut world = cluster();
    let old = world.keeper(0).me().clone();
    world.unserve(&[1, 2]);
    world.kill(0);
    world.run(4);
    world.stop_after(0, 1, 1);
    world.start(0);
    world.run(1);
    assert_eq!(refusals(&world, 0, 1).len(), 1, "n1 reached the new process");
    assert!(world.state().leader == old && world.keeper(0).me().copy != old.copy, "/state names the old copy");
    assert_eq!(world.role(0), Role::Joining);
    world.let_through(0, 1);
    world.serve(&[1, 2]);
    let took = world.run_until("n1 leads", 600, |w| {
        assert!(!w.role(0).leads(), "an empty copy leads");
        leads(w, 1)
    });
    assert!(took > 400, "the promise to the old copy is kept: {took} ms");
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// 9. An acknowledgement counts for the copy that gave it, not for the empty one that came after it on that node.
#[test]
pub fn i09_an_acknowledgement_of_a_copy_that_died_does_not_count_for_its_successor() {
    for hello_first in [false, true] {
        let mut world = cluster();
        let dead = world.keeper(1).me().copy;
        world.stop(1, 0);
        world.stop(2, 0);
        let mut write = world.write(0, "k", "new");
        world.crash(1);
        let old = world.take(1, 0);
        let end = world.keeper(0).log().end();
        let is_ack = |f: &Frame| matches!(f, Frame::Ack(a) if a.matched == end && a.copy == dead);
        assert!(old.iter().filter_map(|p| p.frame()).any(|f| is_ack(&f)), "the old copy's word is on its way");
        world.start(1);
        if hello_first {
            world.let_through(1, 0);
            world.run(6);
            assert!(world.told(0, "full resync"), "the new copy has said hello");
            world.arrive_all(old);
        } else {
            world.arrive_all(old);
            world.let_through(1, 0);
        }
        assert!(!world.answered(&mut write), "n2 has not acknowledged");
        assert!(world.state().in_sync.iter().any(|m| m.copy == dead) && !world.names(1), "/state names the old copy");
        world.let_through(2, 0);
        assert_eq!(world.answered(&mut write), !hello_first, "the old copy's word counts unless its link was replaced");
        world.run_until("n1 is whole", 500, |w| w.names(1));
        assert!(world.answered(&mut write) && write.reply() == "+OK\r\n");
        assert!(world.keeper(1).log().end() >= end);
        comes_to_rest(&mut world, 3, "k", Some("new"));
    }
}

/// 14. A joiner hears from a server that lags that a deposed leader leads, and that one takes it on.
#[test]
pub fn i14_a_joiner_sent_to_a_deposed_leader_by_a_stale_read_counts_for_nothing_there() {
    let mut world = World::new(4);
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    world.unserve(&[0]);
    for i in [1, 2] {
        world.stop(0, i);
        world.stop(i, 0);
    }
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    set(&mut world, 1, "k", "new");
    let mut write = world.write(0, "k", "lost");
    world.unserve(&[3]);
    world.start(3);
    let stale = world.model.state_before(1);
    let untold = world.untold.get_mut(&3).expect("its greeting");
    untold.iter_mut().for_each(|e| {
        if let CoordEvent::State(read) = e {
            *read = stale.clone();
        }
    });
    world.told_all(3);
    world.step(3);
    world.run(20);
    world.told_of_nodes(0);
    world.run(300);
    assert!(world.told(3, "full resync from n0 begins") && leads(&world, 0), "the deposed leader took it on");
    let half = world.keeper(3).me().copy;
    world.run(300);
    assert!(!world.answered(&mut write), "{}", write.reply());
    world.serve(&[3]);
    world.run_until("n3 is in", 1_000, |w| w.names(3));
    assert!(world.keeper(3).me().copy != half, "what it began to take in is given up");
    world.tell_old_state(3, 2);
    assert_eq!(world.keeper(3).followed_epoch(), Some(Epoch(2)), "an older state moves it no more");
    world.heal();
    world.serve(&[0]);
    comes_to_rest(&mut world, 4, "k", Some("new"));
}

/// 16. What a connection that was given up still carries is read after its successor's hello.
#[test]
pub fn i16_bytes_of_an_old_connection_that_are_read_after_the_new_hello_change_nothing() {
    let mut world = cluster();
    world.stop(1, 0);
    let mut write = world.write(0, "k", "new");
    let link = *world.nodes[1].as_ref().unwrap().links.keys().next().unwrap();
    world.close(1, link);
    world.event(1, Event::LinkDown { link, reason: "broken".into() });
    let old = world.take(1, 0);
    assert!(old.iter().any(|p| matches!(p.what, What::Down(_))) && old.iter().any(|p| p.frame().is_some()));
    world.let_through(1, 0);
    world.run(10);
    assert!(world.told(0, "n1 (copy") && world.keeper(1).followed_epoch() == Some(Epoch(1)), "the new link is in use");
    assert!(world.answered(&mut write), "the new hello says what n1 holds");
    let version = world.model.state().state.unwrap().1;
    world.arrive_all(old);
    world.run(500);
    assert_eq!((world.model.state().state.unwrap().1, world.in_sync()), (version, 3), "nobody was taken out");
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 16, the leader's bytes: entries of the old connection arrive behind the new one's, which carried them as well.
#[test]
pub fn i16_entries_of_an_old_connection_are_not_taken_in_twice() {
    let mut world = cluster();
    world.stop(0, 1);
    let mut write = world.write(0, "k", "new");
    let link = *world.nodes[1].as_ref().unwrap().links.keys().next().unwrap();
    world.close(1, link);
    world.event(1, Event::LinkDown { link, reason: "broken".into() });
    let old = world.take(0, 1);
    assert!(old.iter().filter_map(|p| p.frame()).any(|f| matches!(f, Frame::Append(_, h, _) if h.count > 0)));
    world.let_through(0, 1);
    world.run(10);
    assert!(world.answered(&mut write), "it came on the new connection");
    let end = world.keeper(1).log().end();
    world.arrive_all(old);
    assert_eq!(world.keeper(1).log().end(), end);
    set(&mut world, 0, "k", "newer");
    comes_to_rest(&mut world, 3, "k", Some("newer"));
}

/// Three in sync that hold so many keys that a snapshot has many chunks.
fn with_many_keys() -> World {
    let mut world = cluster();
    for i in 0..40 {
        let keys: Vec<String> = (0..100).map(|j| format!("key{i}:{j}")).collect();
        let pairs = keys.iter().flat_map(|key| [key.as_str(), "a value of some length"]);
        let words: Vec<&str> = std::iter::once("MSET").chain(pairs).collect();
        assert_eq!(world.ask(0, &words), "+OK\r\n");
    }
    world
}

/// 19. Half a snapshot is a state that no leader had.
#[test]
pub fn i19_a_copy_that_received_half_a_snapshot_is_given_up_when_the_leader_changes() {
    let mut world = with_many_keys();
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    world.stop_after(0, 2, 6);
    world.start(2);
    world.run(10);
    let half = world.keeper(2).me().copy;
    let is_chunk = |f: &Frame| matches!(f, Frame::Chunk(..));
    let n2 = world.keeper(2);
    assert!(
        n2.is_taking_in() && !n2.store().is_empty(),
        "half is there: {} keys, {:?}",
        n2.store().len(),
        world.frames(0, 2)
    );
    assert!(world.frames(0, 2).iter().any(is_chunk), "half is on its way");
    let never_named = |w: &World| assert!(w.state().in_sync.iter().all(|m| m.copy != half), "half a copy is named");
    world.crash(0);
    world.take(0, 2);
    world.heal();
    world.run_until("n1 leads, with n2", 2_000, |w| {
        never_named(w);
        leads(w, 1) && w.names(2)
    });
    assert!(world.told(2, "gave copy") && world.keeper(2).me().copy != half);
    world.run(60);
    assert_eq!(world.ask(2, &["DBSIZE"]), ":4001\r\n");
}

/// 22. Two processes with one name: the newcomer waits, and says so, while the other lives.
#[test]
pub fn i22_a_second_process_with_a_nodes_name_waits_and_disturbs_nobody() {
    let mut world = World::new(4);
    world.tune = |i, config: &mut KeeperConfig| {
        if i == 3 {
            config.node = "n1".parse().unwrap();
        }
    };
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    let version = world.model.state().state.unwrap().1;
    world.start(3);
    assert!(world.told(3, "another process is registered as n1, and its session has not ended yet"));
    world.run(2_000);
    assert_eq!(world.role(3), Role::Joining);
    assert_eq!((world.model.state().state.unwrap().1, world.names(1)), (version, true));
    set(&mut world, 0, "k", "new");
}

/// 22. The first process only slept: when it wakes up, its name is taken, and its copy counts for nobody else. It keeps that for an operator.
#[test]
pub fn i22_a_process_that_wakes_up_under_a_name_that_was_taken_halts() {
    let mut world = World::new(4);
    world.tune = |i, config: &mut KeeperConfig| {
        if i == 3 {
            config.node = "n1".parse().unwrap();
        }
    };
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    set(&mut world, 0, "k", "old");
    world.stand_still(1);
    world.run_until("n1 is out", 500, |w| w.in_sync() == 2);
    world.expire(1);
    world.start(3);
    world.run_until("its successor is in", 1_000, |w| w.names(3));
    world.wake(1);
    world.run(500);
    assert!(world.told(1, "halted: node name n1 is taken in cluster c"), "{:#?}", world.notices());
    assert!(world.role(1) == Role::Halted && world.keeper(1).data_at_stake().is_some());
    assert!(world.names(3) && leads(&world, 0) && epoch(&world) == 1);
    assert_eq!(world.value(3, "k").as_deref(), Some("old"));
}

/// V4. A snapshot is what the leader has executed, which is ahead of what is acknowledged (R8').
#[test]
pub fn v4_a_snapshot_with_unacknowledged_effects_is_neither_read_nor_named() {
    let mut world = cluster();
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    world.stop(0, 1);
    let mut write = world.write(0, "k", "unacknowledged");
    world.start(2);
    world.run(100);
    let copy = world.keeper(2).me().copy;
    let hash = world.keeper(2).store().hash(b"k");
    assert!(world.told(2, "full resync received") && world.keeper(2).store().get(hash, b"k").is_some());
    assert!(!world.answered(&mut write) && world.keeper(2).is_taking_in(), "its effect is in, and is not acknowledged");
    assert!(!world.keeper(2).replica_may_read() && !world.names(2) && world.wants(0) != Some(Why::Expand));
    world.crash(0);
    world.take(0, 1);
    world.heal();
    world.run_until("n1 leads, with n2", 2_000, |w| {
        assert!(w.state().in_sync.iter().all(|m| m.copy != copy), "a copy with an effect that vanished is named");
        leads(w, 1) && w.names(2)
    });
    world.run(60);
    assert_eq!((world.value(1, "k").as_deref(), world.value(2, "k").as_deref()), (Some("old"), Some("old")));
}

/// V5. An ex-leader whose log is a prefix keeps its copy, but what it executed is not acknowledged in the new epoch yet.
#[test]
pub fn v5_an_ex_leader_serves_nothing_before_the_new_leader_has_acknowledged_what_it_executed() {
    let mut world = cluster();
    world.stop(1, 0);
    world.stop(2, 0);
    let _write = world.write(0, "k", "new");
    world.stand_still(0);
    world.stop(1, 2);
    world.stop(2, 1);
    let copy = world.keeper(0).me().copy;
    world.run_until("n1 is elected", 700, |w| w.keeper(1).leadership() == Some((Epoch(2), false)));
    assert!(world.keeper(1).acked() < world.keeper(0).log().end(), "not acknowledged, as far as n1 knows");
    world.let_through(1, 0);
    world.wake(0);
    world.run(50);
    assert_eq!((world.keeper(0).followed_epoch(), world.keeper(0).me().copy), (Some(Epoch(2)), copy), "a prefix joins");
    let mut read = world.read(0, "k");
    world.run(50);
    let sent_on = world.answered(&mut read) && read.reply().starts_with("-MOVED");
    assert!(!world.keeper(0).replica_may_read() && sent_on, "{}", read.reply());
    assert!(!world.names(0) && world.wants(1) != Some(Why::Expand));
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
    assert_eq!(world.keeper(0).me().copy, copy);
}

/// V7. Whoever tells a copy that `/state` names to resync fully is not to be obeyed: the claim that it holds everything would be empty.
#[test]
pub fn v7_a_named_copy_keeps_its_data_whatever_its_leader_tells_it() {
    let mut world = cluster();
    let me = world.keeper(1).me().clone();
    world.unserve(&[0]);
    world.stop_after(0, 1, 1);
    world.break_link(0, 1);
    world.run(10);
    let mut sent = world.take(0, 1);
    let welcome = sent.iter_mut().find(|p| matches!(p.frame(), Some(Frame::Welcome(..)))).expect("it dialled again");
    let What::Frame(link, _) = welcome.what else { unreachable!("it has a frame") };
    let refused = Refused { reason: Reason::FullResyncNeeded, text: "the backlog is too short".into() };
    welcome.what = What::Frame(link, wire::refused(Epoch(1), &refused).slice(4..));
    world.arrive_all(sent);
    assert!(world.told(1, "has to resync fully"), "it was told to");
    world.run(300);
    assert!(
        world.names(1) && *world.keeper(1).me() == me && world.keeper(1).dataset().is_some(),
        "it kept what it holds"
    );
    world.serve(&[0]);
    world.run_until("n0 took it out", 300, |w| !w.state().names(&me));
    world.run_until("then it gave its copy up", 300, |w| w.told(1, "gave copy"));
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// V8. A winner that is superseded before its barrier is held has executed nothing that it would have to undo (R7).
#[test]
pub fn v8_a_superseded_winner_has_executed_nothing_and_keeps_its_copy() {
    let mut world = cluster();
    world.stop(0, 2);
    let _write = world.write(0, "k", "never acknowledged");
    let copy: CopyId = world.keeper(1).me().copy;
    world.crash(0);
    world.take(0, 2);
    world.stop(1, 2);
    world.stop(2, 1);
    world.run_until("n1 is elected", 700, |w| epoch(w) == 2);
    let tail = world.keeper(1).log().end();
    assert!(world.keeper(1).applied().0 + 1 < tail.0, "it has executed its tail");
    world.run_until("n2 is elected", 700, |w| epoch(w) == 3);
    assert!(world.told(1, "stepping down from epoch 2"));
    world.heal();
    world.run_until("n2 leads, with n1", 2_000, |w| leads(w, 2) && w.names(1));
    assert!(world.told(1, "cut back to") && !world.told(1, "gave copy"), "{:#?}", world.notices());
    assert_eq!(world.keeper(1).me().copy, copy);
    world.run(60);
    assert_eq!((world.value(1, "k").as_deref(), world.value(2, "k").as_deref()), (Some("old"), Some("old")));
}
