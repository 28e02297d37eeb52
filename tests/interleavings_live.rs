//! Interleavings of PROTOCOL section 14 once more, with real processes and a real ZooKeeper, as far as signals can steer them there.
//!
//! Each waits until it has got there (who stands, who was told, what the log says), not for a time. All 24 are in
//! `interleavings`, with Keepers alone. Elsewhere: 12 and 13 while all nodes are well, and 24, in `outages.rs`; 22 in `faces.rs`.

mod support;

use std::net::SocketAddr;

use datakeeper::base::ids::Epoch;
use support::client::{Client, Reply, ask, bulk, encode};
use support::cluster::{Cluster, PATIENCE, alone, in_sync, status_of};
use support::eventually;

/// Where the nodes' logs end now, so that only what comes later is looked at.
fn marks(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.process.log().len()).collect()
}

/// Waits until a node has logged something since then.
fn wait_for_log(cluster: &Cluster, node: usize, since: &[usize], text: &str) {
    eventually(PATIENCE, &format!("{} says {text:?}", cluster.nodes[node].name), || {
        let log = cluster.nodes[node].process.log();
        if log[since[node]..].contains(text) { Ok(()) } else { Err(log[since[node]..].to_string()) }
    });
}

/// Waits until one of these nodes serves as the leader of an epoch after that; its place, and the epoch.
fn wait_for_successor(nodes: &[SocketAddr], among: &[usize], after: Epoch) -> (usize, Epoch) {
    let mut found = None;
    eventually(PATIENCE, "there is another leader", || {
        for node in among {
            match status_of(nodes[*node]) {
                Ok(status) if status.role == "leader" && status.epoch > after => {
                    found = Some((*node, status.epoch));
                    return Ok(());
                }
                _ => {}
            }
        }
        Err("none yet")
    });
    found.expect("just found")
}

/// Waits until a node answers so.
fn answers(node: SocketAddr, words: &str, wanted: &Reply) {
    eventually(PATIENCE, &format!("{node} answers {words}"), || match ask(node, words) {
        Ok(reply) if reply == *wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn set(node: SocketAddr, value: &str) {
    answers(node, &format!("SET k {value}"), &Reply::Simple("OK".to_string()));
}

fn others(leader: usize) -> [usize; 2] {
    [(leader + 1) % 3, (leader + 2) % 3]
}

/// 1, 10 and 12: the leader dies while ZooKeeper hangs. Both replicas stand, their requests get no answer in time, and take effect
/// when ZooKeeper runs on: one wins, and the other deposes nobody.
#[test]
fn i01_i10_i12_requests_of_two_candidates_that_zookeeper_answers_late_make_one_leader() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "old");
    let since = marks(&cluster);
    cluster.zookeeper.freeze();
    cluster.nodes[leader].process.kill();
    for node in others(leader) {
        wait_for_log(&cluster, node, &since, "no word from the leader: standing for epoch");
        wait_for_log(&cluster, node, &since, "no contact to the coordination service");
        let status = status_of(nodes[node]).expect("a status");
        assert_eq!((status.role.as_str(), status.epoch), ("candidate", epoch), "frozen, and unresolved");
    }
    cluster.zookeeper.thaw();
    let (winner, later) = wait_for_successor(&nodes, &others(leader), epoch);
    assert_eq!(later, Epoch(epoch.0 + 1));
    let loser = 3 - leader - winner;
    wait_for_log(&cluster, loser, &since, "lost the change");
    answers(nodes[winner], "GET k", &bulk("old"));
    cluster.nodes[leader].process.start();
    assert_eq!(cluster.wait_until_whole(), (winner, later), "nobody stood again");
    cluster.finish(&[]);
}

/// 4: the leader stands still with commands of clients in its sockets, until another one has written. When it runs on it must not
/// answer them from before.
#[test]
fn i04_commands_that_lay_in_a_stopped_leaders_sockets_get_no_old_answer() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "old");
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(nodes[leader]).expect("a connection")).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call("GET k"), bulk("old")));
    cluster.nodes[leader].process.freeze();
    for (i, client) in clients.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        encode(&["GET", "k"], &mut bytes);
        encode(&["SET", "other", &i.to_string()], &mut bytes);
        client.send(&bytes).expect("its socket takes them");
    }
    let (successor, _) = wait_for_successor(&nodes, &others(leader), epoch);
    set(nodes[successor], "new");
    cluster.nodes[leader].process.thaw();
    for client in &mut clients {
        let (read, write) = (client.receive(), client.receive());
        assert!(!matches!(&read, Ok(reply) if *reply == bulk("old")), "a stale read: {read:?}");
        assert!(!matches!(&write, Ok(reply) if reply.is_ok()), "it leads no more: {write:?}");
    }
    cluster.wait_until_whole();
    nodes.iter().for_each(|node| answers(*node, "GET k", &bulk("new")));
    cluster.finish(&[]);
}

/// 8: the leader is back, empty, on its ports before anybody could be elected: `/state` names its old copy, and replicas reach it.
#[test]
fn i08_a_leader_that_is_back_empty_before_an_election_does_not_lead() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "kept");
    let since = marks(&cluster);
    others(leader).iter().for_each(|i| cluster.nodes[*i].process.freeze());
    cluster.nodes[leader].process.kill();
    cluster.nodes[leader].process.start();
    eventually(PATIENCE, "the empty process is joining, in the epoch of its former copy", || {
        let status = status_of(nodes[leader])?;
        if status.role == "joining" && status.epoch == epoch { Ok(()) } else { Err(format!("{status:?}")) }
    });
    others(leader).iter().for_each(|i| cluster.nodes[*i].process.thaw());
    let (successor, later) = wait_for_successor(&nodes, &others(leader), epoch);
    assert_eq!(later, Epoch(epoch.0 + 1));
    answers(nodes[successor], "GET k", &bulk("kept"));
    assert_eq!(cluster.wait_until_whole(), (successor, later));
    assert!(
        cluster.nodes[leader].process.log()[since[leader]..].contains("full resync complete"),
        "it came back empty"
    );
    cluster.finish(&[]);
}

/// 12: a replica dies while ZooKeeper is away: what needs it is not answered, and everything goes on when ZooKeeper is back.
#[test]
fn i12_a_replica_that_dies_while_zookeeper_is_away_blocks_writes_until_it_is_back() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "old");
    let since = marks(&cluster);
    // Hanging, not refusing: a leader that knows that it has lost ZooKeeper would resign to the other replica.
    cluster.zookeeper.freeze();
    let [dies, lives] = others(leader);
    cluster.nodes[dies].process.kill();
    wait_for_log(&cluster, leader, &since, "out of the in-sync set");
    let unknown = ask(nodes[leader], "SET k unknown");
    assert!(!unknown.as_ref().is_ok_and(Reply::is_ok), "acknowledged without a member: {unknown:?}");
    cluster.zookeeper.thaw();
    eventually(PATIENCE, "writes are accepted again", || {
        for node in [leader, lives] {
            if ask(nodes[node], "SET k new").is_ok_and(|reply| reply.is_ok()) {
                return Ok(());
            }
        }
        Err("not yet")
    });
    cluster.nodes[dies].process.start();
    let (_, later) = cluster.wait_until_whole();
    assert!(later.0 <= epoch.0 + 1, "no cascade: {later}");
    nodes.iter().for_each(|node| answers(*node, "GET k", &bulk("new")));
    cluster.finish(&[]);
}

/// 12 and 13: the leader pauses while ZooKeeper hangs: the replicas freeze, so that it can answer nothing when it runs on.
#[test]
fn i12_i13_a_leader_that_pauses_while_zookeeper_hangs_answers_nothing_afterwards() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "old");
    let since = marks(&cluster);
    cluster.zookeeper.freeze();
    cluster.nodes[leader].process.freeze();
    for node in others(leader) {
        wait_for_log(&cluster, node, &since, "standing for epoch");
    }
    cluster.nodes[leader].process.thaw();
    let (read, write) = (ask(nodes[leader], "GET k"), ask(nodes[leader], "SET k lost"));
    assert!(matches!(&read, Err(_) | Ok(Reply::Error(_))), "a read without a lease: {read:?}");
    assert!(!write.as_ref().is_ok_and(Reply::is_ok), "both replicas are frozen: {write:?}");
    cluster.zookeeper.thaw();
    let (_, later) = cluster.wait_until_whole();
    assert!(later.0 <= epoch.0 + 1, "no cascade: {later}");
    let (last, _) = cluster.wait_until_whole();
    set(nodes[last], "new");
    nodes.iter().for_each(|node| answers(*node, "GET k", &bulk("new")));
    cluster.finish(&[]);
}

/// 17: RESIGN is on its way to a process that stands still, and dies: the old leader is silent until there is another epoch.
#[test]
fn i17_a_leader_that_resigned_to_a_dead_target_is_silent_until_another_epoch() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    set(nodes[leader], "kept");
    let target = others(leader)[0];
    let command = format!("DATAKEEPER HANDOVER TO {}", cluster.nodes[target].name);
    let since = marks(&cluster);
    let mut client = cluster.nodes[leader].client();
    assert_eq!(client.call("GET k"), bulk("kept"));
    eventually(PATIENCE, "the leader begins to hand over before it misses the target", || {
        cluster.nodes[target].process.freeze();
        let reply = client.call(&command);
        if reply.is_ok() {
            return Ok(());
        }
        cluster.nodes[target].process.thaw();
        cluster.wait_until_whole();
        Err(format!("{reply:?}"))
    });
    wait_for_log(&cluster, leader, &since, "resigning from epoch");
    let mut held = cluster.nodes[leader].client();
    let mut bytes = Vec::new();
    encode(&["GET", "k"], &mut bytes);
    held.send(&bytes).expect("it takes requests");
    cluster.nodes[target].process.kill();
    let (_, later) = wait_for_successor(&nodes, &[leader, others(leader)[1]], epoch);
    assert_eq!(later, Epoch(epoch.0 + 1), "its own epoch is over");
    let answer = held.receive();
    assert!(!matches!(&answer, Ok(Reply::Null)), "what was acknowledged is not there: {answer:?}");
    cluster.nodes[target].process.start();
    assert_eq!(cluster.wait_until_whole().1, later);
    nodes.iter().for_each(|node| answers(*node, "GET k", &bulk("kept")));
    cluster.finish(&[]);
}

/// 18: the set shrinks to the leader, which refuses writes and dies. Until it has come back empty nothing is proven; then the
/// cluster starts over, loudly.
#[test]
fn i18_the_loss_of_a_lone_leader_is_proven_only_when_it_is_back_empty() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, _) = cluster.wait_until_whole();
    set(nodes[leader], "lost");
    for node in others(leader) {
        cluster.nodes[node].process.kill();
    }
    eventually(PATIENCE, "the leader is alone and refuses writes", || {
        let set = in_sync(&status_of(nodes[leader])?);
        match ask(nodes[leader], "SET k refused") {
            Ok(Reply::Error(text)) if text.starts_with("NOREPLICAS") && set.len() == 1 => Ok(()),
            other => Err(format!("{set:?} {other:?}")),
        }
    });
    cluster.nodes[leader].process.kill();
    let since = marks(&cluster);
    others(leader).iter().for_each(|i| cluster.nodes[*i].process.start());
    let missing = format!("waiting for {}", cluster.nodes[leader].name);
    others(leader).iter().for_each(|i| wait_for_log(&cluster, *i, &since, &missing));
    assert!(others(leader).iter().all(|i| status_of(nodes[*i]).is_ok_and(|s| s.resets == 0)), "not proven");
    cluster.nodes[leader].process.start();
    let (successor, _) = cluster.wait_until_whole();
    let status = status_of(nodes[successor]).expect("a status");
    assert_eq!((status.resets, ask(nodes[successor], "DBSIZE").expect("a reply")), (1, Reply::Integer(0)));
    assert!(cluster.nodes.iter().any(|node| node.process.log().contains("ALL DATA ARE LOST")));
    cluster.finish(&["ALL DATA ARE LOST", "no leader, and this node is empty"]);
}
