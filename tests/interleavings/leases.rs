//! What clocks guard: reads at a leader that slept, is heard in one direction only, or has a wrong wall clock.

use datakeeper::base::ids::Epoch;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::MinInSync;
use datakeeper::keeper::{Event, KeeperConfig};
use datakeeper::replication::wire::Frame;

use crate::support::world::World;
use crate::{cluster, cluster_of, comes_to_rest, epoch, leads, set};

/// What a leader that wakes up does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    ReadsAcks,
    ReadsClients,
    Ticks,
    HearsNews,
}

/// All orders of those.
fn orders() -> Vec<[Does; 4]> {
    use Does::{HearsNews, ReadsAcks, ReadsClients, Ticks};
    let all = [ReadsAcks, ReadsClients, Ticks, HearsNews];
    let mut orders = Vec::new();
    for a in all {
        for b in all.into_iter().filter(|x| *x != a) {
            for c in all.into_iter().filter(|x| ![a, b].contains(x)) {
                let d = all.into_iter().find(|x| ![a, b, c].contains(x)).expect("four");
                orders.push([a, b, c, d]);
            }
        }
    }
    orders
}

/// 4. A lease that counts from the receipt of the old acknowledgements, or a role that is not looked up again, answers stale reads.
#[test]
pub fn i04_a_leader_that_slept_ten_seconds_answers_no_stale_read_in_whichever_order_it_goes_on() {
    let mut late_acks = 0;
    for order in orders() {
        let mut world = cluster();
        world.stop(1, 0);
        world.stop(2, 0);
        let mut before = world.write(0, "k", "in flight");
        let end = world.keeper(0).log().end();
        for i in [1, 2] {
            assert!(world.frames(i, 0).iter().any(|f| matches!(f, Frame::Ack(a) if a.matched == end)), "unread acks");
        }
        world.stand_still(0);
        world.unserve(&[0]);
        world.run(10_000);
        assert!(leads(&world, 1) && epoch(&world) == 2);
        assert_eq!(world.value(1, "k").as_deref(), Some("in flight"), "its acknowledgement will be harmless");
        set(&mut world, 1, "k", "newer");
        world.wake(0);
        assert!(leads(&world, 0), "it knows of nothing");
        let (mut read, mut write) = (None, None);
        for does in order {
            match does {
                Does::ReadsAcks => [1, 2].into_iter().for_each(|i| world.let_through(i, 0)),
                Does::ReadsClients => (read, write) = (Some(world.read(0, "k")), Some(world.write(0, "k", "lost"))),
                Does::Ticks => world.event(0, Event::Tick),
                Does::HearsNews => world.serve(&[0]),
            }
            late_acks += u32::from(world.answered(&mut before));
        }
        world.run(2_000);
        let (mut read, mut write) = (read.unwrap(), write.unwrap());
        let (answers, takes) = (world.answered(&mut read), world.answered(&mut write));
        assert!(
            !answers || read.reply().starts_with('-') || read.reply().contains("newer"),
            "{order:?}: {}",
            read.reply()
        );
        assert!(!takes || write.reply().starts_with('-'), "{order:?}: {}", write.reply());
        assert!(!world.answered(&mut before) || before.reply() == "+OK\r\n", "{order:?}");
        comes_to_rest(&mut world, 3, "k", Some("newer"));
    }
    assert!(late_acks > 0, "in some order the old write is acknowledged late");
}

/// 15. Acknowledgements are lost, heartbeats arrive: the member goes on promising. The leader takes it out and hangs up.
#[test]
pub fn i15_a_member_whose_acknowledgements_are_lost_is_taken_out_and_its_link_closed() {
    let mut world = cluster();
    world.stop(1, 0);
    let mut write = world.write(0, "k", "new");
    world.run_until("the write is answered", 300, |w| w.in_sync() == 2);
    assert!(world.answered(&mut write));
    world.run(600);
    assert!(world.keeper(1).promised() > world.now_of(1).boot.plus_ms(400), "its promise is renewed all the time");
    world.run_until("n0 hangs up", 400, |w| w.told(0, "nothing acknowledged for 1000 ms"));
    world.run(2_000);
    assert_eq!((epoch(&world), leads(&world, 0), world.keeper(1).followed_epoch()), (1, true, None));
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 15, the other direction: the member hears nothing and stands; it is out by then, and deposes nobody.
#[test]
pub fn i15_a_member_that_hears_nothing_stands_too_late_and_deposes_nobody() {
    let mut world = cluster();
    world.stop(0, 1);
    world.unserve(&[1]);
    world.run_until("n0 takes n1 out", 300, |w| w.in_sync() == 2);
    world.run_until("n1 stands", 400, |w| w.role(1) == Role::Candidate);
    set(&mut world, 0, "k", "new");
    world.serve(&[1]);
    assert!(world.told(1, "lost the change"));
    world.run(2_000);
    assert_eq!((epoch(&world), leads(&world, 0)), (1, true));
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 15, without a way to change the set: were the link not closed, the promise that helps nobody would never end.
#[test]
pub fn i15_a_promise_that_the_leader_cannot_use_ends_because_it_hangs_up() {
    let mut world = cluster_of(2, |_, _| {});
    world.stop(1, 0);
    world.unserve(&[0]);
    world.run(240);
    assert!(world.keeper(1).promised() > world.now_of(1).boot.plus_ms(400), "its promise is renewed all the time");
    world.run(360);
    let mut read = world.read(0, "k");
    assert!(leads(&world, 0) && world.role(1) == Role::Replica, "n1 promises, and n0 does not hear it");
    assert!(!world.answered(&mut read), "without a lease");
    let took = world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    assert!(600 + took <= 250 + 500 + 40, "after {took} ms more");
    set(&mut world, 1, "k", "new");
    assert!(!world.answered(&mut read) || read.reply().starts_with('-'));
    world.serve(&[0]);
    world.heal();
    comes_to_rest(&mut world, 2, "k", Some("new"));
}

/// 15, all members in one cut, but heard last a heartbeat apart: the first to be silent is not taken out alone.
#[test]
pub fn i15_members_that_fall_silent_a_heartbeat_apart_are_not_taken_out_one_by_one() {
    let mut world = cluster();
    while world.now_ms % 50 != 25 {
        world.run(1);
    }
    world.stop(1, 0);
    world.run(50);
    world.stop(2, 0);
    world.run_until("a replica leads", 2_000, |w| leads(w, 1) || leads(w, 2));
    assert_eq!(world.in_sync(), 2, "both of them are left");
    let leader = if leads(&world, 1) { 1 } else { 2 };
    set(&mut world, leader, "k", "new");
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 15, all members at once: the leader is heard by everybody and hears nobody. It hangs up, and lets them elect another one; alone, it
/// would be below the minimum and refuse all writes for as long as that lasts.
#[test]
pub fn i15_a_leader_that_hears_nobody_and_is_heard_is_replaced() {
    let mut world = cluster();
    world.stop(1, 0);
    world.stop(2, 0);
    world.run(240);
    assert!(world.keeper(1).promised() > world.now_of(1).boot.plus_ms(400), "its promise is renewed all the time");
    let took = world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    assert!(240 + took <= 250 + 500 + 40, "after {took} ms more");
    assert_eq!((epoch(&world), world.in_sync()), (2, 2));
    set(&mut world, 1, "k", "new");
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 20. The new leader's wall clock is two seconds behind: what a read saw as expired must not come back.
#[test]
pub fn i20_what_a_read_saw_as_expired_stays_so_at_a_leader_whose_clock_is_behind() {
    let mut world = World::new(3);
    world.wall_ahead_ms.insert(0, 2_000);
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    let until = world.now_of(0).wall.0 + 1_000;
    assert_eq!(world.ask(0, &["SET", "k", "v", "PX", "1000"]), "+OK\r\n");
    world.run(999);
    assert_eq!(world.value(0, "k").as_deref(), Some("v"));
    world.run(1);
    assert_eq!(world.value(0, "k"), None, "by the leader's clock");
    world.crash(0);
    world.run_until("n1 leads", 700, |w| leads(w, 1));
    assert!(world.now_of(1).wall.0 + 1_000 < until, "by its own clock the key has a second to live");
    assert_eq!(world.value(1, "k"), None);
    world.run(60);
    assert_eq!(world.value(2, "k"), None, "the replica has heard the leader's clock");
    assert_eq!(world.ask(1, &["PTTL", "k"]), ":-2\r\n");
}

fn minimum_of_three(_: usize, config: &mut KeeperConfig) {
    config.shared.min_in_sync = MinInSync::Count(3);
}

/// Three in sync of which three must hold a write; n0's wall clock is ahead, `e` lives until the given time by it. Then
/// n2 dies, and a write is held: no expired key can be deleted.
fn below_the_minimum() -> (World, u64) {
    let mut world = World::new(3);
    world.wall_ahead_ms.insert(0, 2_000);
    world.tune = minimum_of_three;
    for i in 0..3 {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    assert_eq!(world.ask(0, &["SET", "e", "v", "PX", "1000"]), "+OK\r\n");
    let until = world.now_ms + 1_000;
    world.run(60);
    world.stop(2, 0);
    let mut write = world.write(0, "k", "held");
    world.crash(2);
    world.run_until("n2 is out", 500, |w| w.in_sync() == 2);
    assert!(!world.answered(&mut write));
    (world, until)
}

/// 20. Below the minimum, a key that is hidden without a logged deletion stays so, also if the new leader's clock is behind.
#[test]
fn i20_what_was_hidden_below_the_minimum_stays_so_at_a_leader_whose_clock_is_behind() {
    let (mut world, until) = below_the_minimum();
    world.run(until + 200 - world.now_ms);
    assert_eq!(world.value(0, "e"), None, "by n0's clock");
    world.crash(0);
    world.run_until("n1 leads", 700, |w| leads(w, 1));
    assert_eq!(world.keeper(1).store().len(), 2, "it is hidden, not deleted");
    assert_eq!(world.value(1, "e"), None);
}

/// 20. And it is hidden only by a clock that everybody in the set has confirmed: until then it shows.
#[test]
fn i20_below_the_minimum_a_key_is_hidden_only_by_a_clock_that_all_have_confirmed() {
    let (mut world, until) = below_the_minimum();
    world.run(until - 1 - world.now_ms);
    world.stop(1, 0);
    world.run(20);
    assert_eq!(world.value(0, "e").as_deref(), Some("v"), "n1 might not have heard that it is over");
    world.let_through(1, 0);
    world.run(60);
    assert_eq!(world.value(0, "e"), None);
}

/// 20. A read that deletes an expired key is answered once that is acknowledged: until then the key could come back.
#[test]
pub fn i20_a_read_that_saw_a_key_expire_waits_until_that_is_certain() {
    let mut world = cluster();
    assert_eq!(world.ask(0, &["SET", "e", "v", "PX", "100"]), "+OK\r\n");
    world.run(99);
    world.stop(1, 0);
    world.stop(2, 0);
    world.run(1);
    let mut read = world.read(0, "e");
    world.run(20);
    assert!(!world.answered(&mut read), "nobody has confirmed that: {}", read.reply());
    world.heal();
    assert!(world.answered(&mut read) && read.reply() == "$-1\r\n");
}

/// 21. The leader's machine was suspended: its clock has counted that, and the first thing it does is not to answer a read.
#[test]
pub fn i21_the_first_read_after_a_suspension_is_not_answered_from_before_it() {
    let mut world = cluster();
    world.unserve(&[0]);
    world.stand_still(0);
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    set(&mut world, 1, "k", "new");
    world.isolate(0);
    world.wake(0);
    let mut read = world.read(0, "k");
    assert!(leads(&world, 0) && world.keeper(0).highest_epoch() == Epoch(1), "it knows of nothing");
    world.run(1_500);
    assert!(world.answered(&mut read) && read.reply().starts_with("-TRYAGAIN"), "{}", read.reply());
}

/// 21. Steps of the wall clock, forth and back: no lease and no promise notices.
#[test]
pub fn i21_steps_of_the_wall_clock_move_no_lease_and_no_epoch() {
    let mut world = cluster();
    for ahead_ms in [3_600_000, 0, 86_400_000, 1_000] {
        for i in 0..3 {
            world.wall_ahead_ms.insert(i, ahead_ms / (1 + i as i64));
        }
        for _ in 0..600 {
            world.run(1);
            let mut read = world.read(0, "k");
            assert!(world.answered(&mut read) && read.reply() == "$3\r\nold\r\n", "{}", read.reply());
        }
    }
    set(&mut world, 0, "k", "new");
    assert_eq!(
        (epoch(&world), world.in_sync(), world.state().change.why),
        (1, 3, datakeeper::cluster::state::Why::Expand)
    );
}

/// A write that finds nothing to do asks no follower: what it answers needs the lease, as a read does.
#[test]
fn a_deposed_leader_answers_no_write_that_changes_nothing() {
    let mut world = cluster();
    world.isolate(0);
    world.unserve(&[0]);
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    set(&mut world, 1, "other", "new");
    assert!(leads(&world, 0), "n0 knows nothing of it");
    let calls = [&["DEL", "other"][..], &["GETEX", "other"], &["PERSIST", "other"], &["SET", "other", "x", "XX"]];
    let mut requests = calls.map(|words| {
        let conn = world.connect(0);
        world.request(0, conn, words)
    });
    for (words, request) in calls.iter().zip(&mut requests) {
        assert!(!world.answered(request), "{words:?}: {}", request.reply());
    }
    world.run(1_100);
    for (words, request) in calls.iter().zip(&mut requests) {
        assert!(world.answered(request) && request.reply().starts_with('-'), "{words:?}: {}", request.reply());
    }
    world.serve(&[0]);
    world.heal();
    comes_to_rest(&mut world, 3, "other", Some("new"));
}
