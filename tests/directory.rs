//! What stands in ZooKeeper is not what it was, or somebody else's; and nodes that are restarted by somebody who does not look. Real processes and a
//! real ZooKeeper: whoever holds data keeps them.

mod support;

use std::net::SocketAddr;

use support::client::{Reply, ask, bulk};
use support::cluster::{Cluster, Node, PATIENCE, alone, run as datakeeper, status_of};
use support::eventually;
use zookeeper_client as zk;

/// Values of 100 kB, so many.
const VALUES: usize = 150;
/// What a line between two nodes carries, bytes per second: a fill takes some seconds.
const NARROW: u32 = 4 << 20;

fn wait_for_role(addr: SocketAddr, wanted: &str) {
    eventually(PATIENCE, &format!("{addr} is {wanted}"), || {
        let role = status_of(addr)?.role;
        if role == wanted { Ok(()) } else { Err(role) }
    });
}

#[test]
fn a_backup_of_zookeeper_from_before_a_rolling_restart_ends_nobody_and_loses_nothing() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    cluster.zookeeper.kill();
    cluster.zookeeper.back_up();
    cluster.zookeeper.restart();
    for i in 0..3 {
        cluster.wait_until_whole();
        assert!(cluster.nodes[i].process.terminate().success());
        cluster.nodes[i].process.start();
    }
    let (leader, epoch) = cluster.wait_until_whole();
    assert!(cluster.nodes[leader].client().call("SET k kept").is_ok());
    cluster.zookeeper.kill();
    cluster.zookeeper.restore();
    cluster.zookeeper.restart();
    cluster.addrs().into_iter().for_each(|addr| wait_for_role(addr, "halted"));
    // The first signal does not end a node that may hold the only copy.
    cluster.nodes[leader].process.ask_to_end();
    eventually(PATIENCE, "it says what its end would give up", || {
        let log = cluster.nodes[leader].process.log();
        let told = log.contains("SIGTERM: this node is halted and holds data up to");
        if told && log.contains("a second signal ends it at once") { Ok(()) } else { Err(log) }
    });
    let name = cluster.nodes[leader].name.clone();
    let at = cluster.nodes[leader].addr.to_string();
    eventually(PATIENCE, "it is adopted", || {
        let said = datakeeper(&["admin", "adopt", &name, "--connect", &at, "--confirm", "main"]);
        if said.code == Some(0) { Ok(()) } else { Err(said.text) }
    });
    let (successor, later) = cluster.wait_until_whole();
    assert!(successor == leader && later > epoch, "the others follow by themselves");
    assert_eq!(cluster.nodes[leader].client().call("GET k"), bulk("kept"));
    assert_eq!(status_of(cluster.nodes[leader].addr).unwrap().resets, 0);
    cluster.finish(&["halted: ", "it does not end yet", "adopted by an operator"]);
}

#[test]
fn blind_rolling_restarts_with_slow_fills_lose_nothing() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start_narrow(NARROW, &[]) else { return };
    let (leader, _) = cluster.wait_until_whole();
    let mut client = cluster.nodes[leader].client();
    let value = "x".repeat(100_000);
    for i in 0..VALUES {
        assert!(client.call(&format!("SET key{i} {value}")).is_ok());
    }
    cluster.wait_until_whole();
    // Each is started as soon as it has ended, and the next is told to end at once.
    for node in &mut cluster.nodes {
        assert!(node.process.terminate().success());
        node.process.start();
    }
    let (leader, _) = cluster.wait_until_whole();
    let reply = cluster.nodes[leader].client().call("DBSIZE");
    assert_eq!(reply, Reply::Integer(VALUES as i64));
    assert_eq!(status_of(cluster.nodes[leader].addr).unwrap().resets, 0);
    let said: String = cluster.nodes.iter().map(|node| node.process.log()).collect();
    assert!(said.contains("this node does not end yet"), "somebody had to wait for a fill:\n{said}");
    cluster.finish(&[]);
}

#[test]
fn a_node_that_is_killed_and_started_at_another_address_twice_in_a_row_joins() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&["--set", "zookeeper.session_timeout_ms=2000"]) else { return };
    let (leader, _) = cluster.wait_until_whole();
    let moved = (leader + 1) % 3;
    let address = cluster.zookeeper.address();
    for _ in 0..2 {
        cluster.nodes[moved].process.kill();
        let name = cluster.nodes[moved].name.clone();
        cluster.nodes[moved] = Node::new(&name, &address, &["--set", "zookeeper.session_timeout_ms=2000"]);
        cluster.nodes[moved].process.start();
    }
    assert_eq!(cluster.wait_until_whole().0, leader);
    cluster.finish(&[]);
}

#[test]
fn rubbish_in_the_directory_keeps_no_node_from_joining_and_no_leader_from_being_replaced() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = cluster.zookeeper.address();
    runtime.block_on(async {
        let client = zk::Client::connect(&address).await.expect("a session");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        client.create("/datakeeper/main/nodes/n9", b"rubbish", &options).await.expect("it is created");
    });
    for _ in 0..2 {
        let (leader, epoch) = cluster.wait_until_whole();
        assert!(cluster.nodes[leader].client().call("SET k kept").is_ok());
        cluster.nodes[leader].process.kill();
        cluster.nodes[leader].process.start();
        let (_, later) = cluster.wait_until_whole();
        assert!(later > epoch);
    }
    let (leader, _) = cluster.wait_until_whole();
    assert_eq!(ask(cluster.nodes[leader].addr, "GET k").unwrap(), bulk("kept"));
    let status = status_of(cluster.nodes[leader].addr).unwrap();
    assert!(status.warnings.iter().any(|w| w.contains("/nodes/n9 is not readable")), "{status:?}");
    assert!(cluster.nodes.iter().all(|node| !node.process.log().contains("admin reset")));
    cluster.finish(&["/nodes/n9 is not readable"]);
}
