//! Changes of the in-sync set that race elections, or whose outcome the leader does not learn.

use datakeeper::cluster::role::Role;
use datakeeper::cluster::state::Why;

use crate::{cluster, comes_to_rest, epoch, leads, set};

/// 2. The entry that the removed member lacks would be acknowledged, and it wins the election (R1).
#[test]
pub fn i02_while_a_shrink_is_in_flight_the_member_it_removes_is_waited_for_and_may_win_the_election() {
    let mut world = cluster();
    world.unserve(&[0]);
    world.stop(0, 1);
    world.stop(1, 0);
    world.run_until("n0 wants n1 out", 300, |w| w.wants(0) == Some(Why::Shrink));
    let mut write = world.write(0, "k", "new");
    world.run(10);
    assert_eq!(world.keeper(2).log().end(), world.keeper(0).log().end(), "n2 has it");
    assert!(!world.answered(&mut write), "n1 does not");
    world.run_until("n1 leads", 600, |w| leads(w, 1));
    assert_eq!((world.wants(0), leads(&world, 0)), (Some(Why::Shrink), true), "still in flight");
    assert!(!world.answered(&mut write));
    world.serve(&[0]);
    assert!(world.told(0, "lost the change") && !world.role(0).leads());
    assert!(world.is_closed(&write) && !world.answered(&mut write), "its outcome is unknown");
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("old"));
}

/// 2, the reverse: the election is in flight while the shrink that removes the candidate wins.
#[test]
pub fn i02_an_election_in_flight_loses_to_the_shrink_that_removes_the_candidate() {
    let mut world = cluster();
    world.unserve(&[0, 1]);
    world.stop(0, 1);
    world.stop(1, 0);
    world.run_until("both ask", 600, |w| (w.wants(0), w.wants(1)) == (Some(Why::Shrink), Some(Why::Elect)));
    let mut write = world.write(0, "k", "new");
    world.run(10);
    assert!(!world.answered(&mut write));
    world.serve(&[0]);
    assert!(world.answered(&mut write) && write.reply() == "+OK\r\n", "n1 is out");
    assert_eq!((world.set(), world.role(1)), (vec!["n0".into(), "n2".into()], Role::Candidate));
    world.serve(&[1]);
    assert!(world.told(1, "lost the change") && world.role(1) != Role::Candidate);
    world.run(2_000);
    assert_eq!((epoch(&world), leads(&world, 0)), (1, true), "who is out does not stand again");
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("new"));
}

/// 3. The leader does not know that the copy was added; had it not waited for it, the copy would lead without the entry (R1).
#[test]
pub fn i03_a_copy_whose_addition_the_leader_never_learns_leads_with_every_acknowledged_write() {
    let mut world = cluster();
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    world.unserve(&[0]);
    world.start(2);
    world.told_of_nodes(0);
    world.run_until("n0 wants n2 in", 500, |w| w.wants(0) == Some(Why::Expand));
    world.lands(0);
    let knows = world.keeper(0).known_state().is_some_and(|(s, _)| s.names(world.keeper(2).me()));
    assert!(world.names(2) && !knows, "it was added, and n0 does not know");
    set(&mut world, 0, "k", "of all three");
    world.stop(0, 2);
    let mut write = world.write(0, "k", "without n2");
    world.run(10);
    assert!(world.keeper(1).log().end() > world.keeper(2).log().end(), "n1 has it, n2 has not");
    assert!(!world.answered(&mut write), "n2 is waited for already");
    world.unserve(&[1]);
    world.crash(0);
    world.take(0, 2);
    world.heal();
    world.run_until("n2 is elected", 700, |w| epoch(w) == 2);
    assert_eq!(world.state().leader.id.as_str(), "n2");
    world.serve(&[1]);
    world.run_until("n2 leads", 700, |w| leads(w, 2));
    assert_eq!(world.value(2, "k").as_deref(), Some("of all three"));
    world.run(60);
    assert_eq!(world.value(1, "k").as_deref(), Some("of all three"));
}

/// 3. It may also be elected before the leader knows of it: a read needs its lease as well.
#[test]
pub fn i03_a_copy_whose_addition_the_leader_never_learns_is_needed_for_its_leases() {
    let mut world = cluster();
    world.crash(2);
    world.run_until("n2 is out", 100, |w| w.in_sync() == 2);
    world.unserve(&[0]);
    world.start(2);
    world.told_of_nodes(0);
    world.run_until("n0 wants n2 in", 500, |w| w.wants(0) == Some(Why::Expand));
    world.lands(0);
    world.run(60);
    world.stop(0, 2);
    world.stop(2, 0);
    world.unserve(&[1]);
    world.run_until("n2 is elected", 700, |w| epoch(w) == 2);
    assert!(leads(&world, 0) && world.keeper(1).followed_epoch().is_some_and(|e| e.0 == 1), "n0 and n1 do not know");
    let mut read = world.read(0, "k");
    world.run(5);
    assert!(!world.answered(&mut read), "read without the lease of a member: {}", read.reply());
    world.serve(&[1]);
    world.run_until("n2 leads", 700, |w| leads(w, 2));
    world.serve(&[0]);
    world.heal();
    comes_to_rest(&mut world, 3, "k", Some("old"));
}
