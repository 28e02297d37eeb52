//! Who leads, when requests to the coordination service are late and candidates are many.

use datakeeper::base::ids::{Epoch, Offset};
use datakeeper::cluster::coordinator::CoordRequest;
use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::{MinInSync, Why};
use datakeeper::keeper::KeeperConfig;
use datakeeper::replication::wire::Frame;

use crate::{cluster, cluster_of, comes_to_rest, epoch, leads, set};

/// 1. A candidate that gave its request up would acknowledge for the old leader again, and then find that it leads.
#[test]
pub fn i01_a_candidate_whose_request_takes_effect_ten_seconds_late_stays_frozen_and_then_leads() {
    let mut world = cluster();
    world.unserve(&[0, 1, 2]);
    world.stop(0, 1);
    world.stop(1, 0);
    world.run_until("n1 stands", 600, |w| w.wants(1) == Some(Why::Elect));
    world.heal();
    let mut write = world.write(0, "k", "new");
    let mut read = world.read(0, "k");
    for _ in 0..10_000 {
        world.run(1);
        assert_eq!((world.role(1), world.keeper(1).followed_epoch()), (Role::Candidate, None), "not frozen");
    }
    world.lands(1);
    assert_eq!((epoch(&world), world.role(1)), (2, Role::Candidate), "it was elected and does not know");
    assert!(leads(&world, 0), "nor does the old leader");
    assert!(!world.answered(&mut write), "n1 would have had to acknowledge it: {}", write.reply());
    assert!(!world.answered(&mut read) || read.reply().starts_with("-TRYAGAIN"), "read without a lease");
    world.serve(&[1, 2, 0]);
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    assert_eq!(world.value(1, "k").as_deref(), Some("old"));
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// 1, the other end: the late request finds another leader, and the candidate learns that it lost.
#[test]
pub fn i01_a_candidate_whose_late_request_loses_follows_the_winner() {
    let mut world = cluster();
    world.unserve(&[1, 2]);
    world.crash(0);
    world.run_until("both stand", 700, |w| [1, 2].iter().all(|i| w.wants(*i) == Some(Why::Elect)));
    world.run(10_000);
    assert_eq!((world.role(1), world.role(2)), (Role::Candidate, Role::Candidate), "frozen as long as it takes");
    world.lands(2);
    world.lands(1);
    assert_eq!(world.state().leader.id.as_str(), "n2");
    world.serve(&[1, 2]);
    world.run_until("n2 leads", 1_000, |w| leads(w, 2));
    assert!(world.told(1, "lost the change"));
    assert_eq!((epoch(&world), world.keeper(1).followed_epoch()), (2, Some(Epoch(2))));
    assert_eq!(world.value(2, "k").as_deref(), Some("old"));
}

/// 5. Fast failover twice: the third node's tail of epoch 1 contradicts the log of epoch 3, and it knows nothing of epoch 2.
#[test]
pub fn i05_a_node_that_missed_two_elections_cuts_its_tail_back_and_undoes_nothing_applied() {
    let mut world = cluster_of(4, |_, _| {});
    world.stop(0, 1);
    world.stop(0, 2);
    let mut write = world.write(0, "k", "never acknowledged");
    world.run(2);
    let (end, common, applied) = (world.keeper(3).log().end(), world.keeper(2).log().end(), world.keeper(3).applied());
    assert!(end == common.next() && applied <= common && !world.answered(&mut write), "n3 alone has it");
    world.isolate(3);
    world.unserve(&[3]);
    world.crash(0);
    world.take(0, 1);
    world.take(0, 2);
    world.run_until("n1 is elected", 700, |w| epoch(w) == 2);
    world.crash(1);
    world.run_until("n2 is elected", 700, |w| epoch(w) == 3);
    assert_eq!(world.keeper(3).highest_epoch(), Epoch(1), "it has heard of neither");
    // What it hears then is the present, as after a reconnect.
    world.expire(3);
    world.untold.clear();
    world.heal();
    world.serve(&[3]);
    world.run_until("n2 leads", 1_000, |w| leads(w, 2));
    assert!(world.told(3, &format!("cut back to {common}")), "{:#?}", world.notices());
    assert!(world.keeper(3).applied() >= applied);
    assert_eq!(world.value(2, "k").as_deref(), Some("old"));
    world.run(60);
    assert_eq!(world.value(3, "k").as_deref(), Some("old"));
}

/// 5, KIP-279: both hold the same number of entries, of epochs that the other has never had. Comparing ends would call them equal.
#[test]
pub fn i05_logs_of_equal_length_and_different_epochs_are_not_taken_for_equal() {
    let mut world = cluster_of(4, |_, _| {});
    world.stop(0, 1);
    world.stop(0, 3);
    let _write = world.write(0, "k", "of epoch 1");
    world.run(2);
    world.crash(0);
    world.take(0, 1);
    world.take(0, 3);
    world.heal();
    world.stop(1, 2);
    world.stop(2, 1);
    world.run_until("n3 has the barrier of epoch 2", 1_500, |w| w.keeper(3).log().last().epoch == Epoch(2));
    let (n2, n3) = (world.keeper(2).log().last(), world.keeper(3).log().last());
    assert_eq!((n2.epoch, n2.offset), (Epoch(1), n3.offset), "as long, and another history");
    world.crash(1);
    world.heal();
    world.run_until("n2 leads epoch 3", 2_000, |w| leads(w, 2));
    assert_eq!(epoch(&world), 3);
    assert!(world.told(3, &format!("cut back to {}", Offset(n3.offset.0 - 1))), "{:#?}", world.notices());
    assert_eq!(world.keeper(3).log().epoch_of(n3.offset), Some(Epoch(1)), "what n2 has there");
    world.run(60);
    assert_eq!(world.value(2, "k"), world.value(3, "k"));
}

/// 7. A bystander that took the old leader's entry after the new leader's would have acknowledged two histories (R3).
#[test]
pub fn i07_an_old_leaders_entry_that_reaches_a_bystander_after_the_new_leaders_is_not_taken_in() {
    let mut world = cluster();
    world.stop(0, 1);
    world.stop(0, 2);
    let mut write = world.write(0, "k", "of epoch 1");
    world.run(2);
    world.unserve(&[0]);
    world.stand_still(0);
    world.run_until("n1 leads", 1_000, |w| leads(w, 1));
    // The entry itself, and not that it is acknowledged.
    world.stop_after(1, 2, 1);
    set(&mut world, 1, "k", "of epoch 2");
    let log = world.keeper(2).log().last();
    assert!(world.keeper(2).applied() < log.offset, "what is not applied could be cut");
    assert_eq!((log.epoch, world.keeper(2).followed_epoch()), (Epoch(2), Some(Epoch(2))));
    let late = world.take(0, 2);
    let is_entry = |f: &Frame| matches!(f, Frame::Append(_, head, _) if head.count > 0 && head.epoch == Epoch(1));
    assert!(late.iter().filter_map(|p| p.frame()).any(|f| is_entry(&f)), "the entry was on its way");
    world.tell_old_state(2, 1);
    world.arrive_all(late);
    assert!(!world.frames(2, 0).iter().any(|f| matches!(f, Frame::Ack(_))), "n2 acknowledged it");
    world.heal();
    world.wake(0);
    for _ in 0..200 {
        world.run(1);
        assert_eq!(world.keeper(2).log().epoch_of(log.offset), Some(Epoch(2)), "n2 turned back to n0");
    }
    assert!(leads(&world, 1));
    assert!(!world.answered(&mut write), "nobody but n0 has it: {}", write.reply());
    world.serve(&[0]);
    comes_to_rest(&mut world, 3, "k", Some("of epoch 2"));
}

/// 10. All replicas time out at once: ranks keep them apart, and whichever wins, the others do not depose it.
#[test]
pub fn i10_of_candidates_of_the_same_moment_one_wins_and_the_losers_depose_nobody() {
    for winner in [1, 2, 3] {
        let mut world = cluster_of(4, |_, _| {});
        world.unserve(&[1, 2, 3]);
        world.crash(0);
        let crashed = world.now_ms;
        let mut stood = Vec::new();
        for i in [1, 2, 3] {
            world.run_until("it stands", 700, |w| w.role(i) == Role::Candidate);
            stood.push(world.now_ms);
        }
        assert!(stood[0] - crashed > 400, "the promise to n0 was not kept: {stood:?}");
        assert_eq!((stood[1] - stood[0], stood[2] - stood[1]), (40, 40), "their promises ended together");
        let versions = [1, 2, 3].map(|i| match world.asks(i) {
            Some(CoordRequest::Cas { expect, want, .. }) => (*expect, want.epoch.0),
            other => panic!("n{i} asks for {other:?}"),
        });
        assert!(versions.iter().all(|v| *v == versions[0]), "all ask for the same: {versions:?}");
        world.lands(winner);
        world.serve(&[1, 2, 3]);
        world.run_until("it leads", 600, |w| leads(w, winner));
        world.run(3_000);
        assert_eq!((epoch(&world), world.in_sync(), leads(&world, winner)), (2, 3, true));
        assert_eq!(world.value(winner, "k").as_deref(), Some("old"));
    }
}

fn one_is_enough(_: usize, config: &mut KeeperConfig) {
    config.shared.min_in_sync = MinInSync::Count(1);
}

/// 11. With `min_in_sync` 1 an isolated leader could go on alone; a replica stands at the same time. One of them wins.
#[test]
pub fn i11_a_lone_leaders_shrink_and_a_replicas_election_have_one_winner() {
    for shrink_wins in [true, false] {
        let mut world = cluster_of(3, one_is_enough);
        world.isolate(0);
        world.unserve(&[0, 1, 2]);
        world.run(300);
        let mut write = world.write(0, "k", "alone");
        world.run_until("both ask", 700, |w| (w.wants(0), w.wants(1)) == (Some(Why::Shrink), Some(Why::Elect)));
        assert!(!world.answered(&mut write), "nothing is decided yet");
        world.serve(if shrink_wins { &[0] } else { &[1] });
        if shrink_wins {
            assert!(world.answered(&mut write) && write.reply() == "+OK\r\n", "alone is enough");
        } else {
            world.serve(&[2]);
            world.run_until("n1 leads", 600, |w| leads(w, 1));
            set(&mut world, 1, "k", "without n0");
            assert!(leads(&world, 0), "it has not heard yet");
        }
        world.serve(&[0, 1, 2]);
        assert_eq!((leads(&world, 0), epoch(&world)), if shrink_wins { (true, 1) } else { (false, 2) });
        assert_eq!(world.answered(&mut write), shrink_wins);
        world.heal();
        comes_to_rest(&mut world, 3, "k", Some(if shrink_wins { "alone" } else { "without n0" }));
    }
}

/// V3. A leader elected below `min_in_sync` waits for a barrier that cannot be committed, and may not take anybody in before (held
/// and acknowledged are two things).
#[test]
pub fn v3_a_leader_elected_below_the_minimum_becomes_ready_and_takes_others_in() {
    let mut world = cluster();
    world.stop(1, 0);
    world.lose_link(0, 1, &[0]);
    world.run_until("n1 is out", 100, |w| w.in_sync() == 2);
    world.crash(0);
    world.unserve(&[1]);
    world.run_until("n2 is elected", 700, |w| epoch(w) == 2);
    assert_eq!((world.set(), world.state().may_commit()), (vec!["n2".to_string()], false), "below the minimum");
    world.run_until("it is ready", 50, |w| leads(w, 2));
    assert!(world.ask(2, &["SET", "k", "refused"]).starts_with("-NOREPLICAS"));
    world.heal();
    world.serve(&[1]);
    world.run_until("n1 is in", 1_000, |w| w.in_sync() == 2);
    assert_eq!(world.value(2, "k").as_deref(), Some("old"));
    set(&mut world, 2, "k", "new");
}

/// V3. A write that waits while the set is too small holds up the reads that it touches, and no others.
#[test]
pub fn v3_reads_that_no_pending_write_touches_go_on_below_the_minimum() {
    let mut world = cluster();
    set(&mut world, 0, "other", "v");
    world.run(20);
    world.stop(1, 0);
    world.stop(2, 0);
    world.crash(1);
    world.crash(2);
    world.take(1, 0);
    world.take(2, 0);
    world.heal();
    world.run(300);
    let mut write = world.write(0, "k", "pending");
    world.run_until("n0 is alone", 700, |w| w.in_sync() == 1);
    let (mut touched, mut other) = (world.read(0, "k"), world.read(0, "other"));
    world.run(20);
    assert!(!world.answered(&mut write), "below the minimum nothing is acknowledged: {}", write.reply());
    assert!(world.answered(&mut other) && other.reply() == "$1\r\nv\r\n");
    assert!(!world.answered(&mut touched), "it shows what may vanish: {}", touched.reply());
}
