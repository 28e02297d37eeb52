//! `datakeeper local` as its users see it: a whole cluster in one process, no ZooKeeper on the machine, and `datakeeper admin crash`
//! to end a node as `kill -9` would.

mod support;

use std::net::SocketAddr;

use support::client::{Client, Reply, ask, bulk, http_get};
use support::cluster::{Local, PATIENCE, alone, run as datakeeper, status_of, wait_until_whole};
use support::eventually;
use support::writers::{Fault, lose_leaders};

/// Leaders that are crashed in a row.
const ROUNDS: usize = if cfg!(debug_assertions) { 3 } else { 10 };

/// `datakeeper admin crash`; the node comes back by itself.
struct Crashed {
    local: Local,
    said: usize,
}

impl Fault for Crashed {
    fn nodes(&self) -> Vec<SocketAddr> {
        self.local.addrs.clone()
    }

    fn crash(&mut self, node: usize) {
        self.said = self.local.process.log().len();
        let name = format!("n{}", node + 1);
        let said = datakeeper(&["admin", "crash", &name, "--connect", &self.local.admin.to_string()]);
        assert_eq!(said.code, Some(0), "admin crash: {}", said.text);
        assert!(said.text.contains(&name), "{}", said.text);
    }

    fn revive(&mut self, _: usize) {}

    fn was_filled(&self, node: usize) -> bool {
        let log = self.local.process.log();
        let node = format!("node{{id=n{}}}", node + 1);
        log[self.said..].lines().any(|line| line.contains(&node) && line.contains("full resync complete"))
    }
}

#[test]
fn every_acknowledged_write_survives_the_crash_of_one_leader_after_the_other() {
    let _alone = alone();
    let mut fault = Crashed { local: Local::start(&[]), said: 0 };
    lose_leaders(&mut fault, ROUNDS);
    fault.local.finish();
}

#[test]
fn local_is_a_cluster_that_answers_like_one() {
    let _alone = alone();
    let local = Local::start(&[]);
    let (leader, epoch) = wait_until_whole(&local.addrs);
    assert!(ask(local.addrs[leader], "SET foo bar").expect("a reply").is_ok());
    for (place, addr) in local.addrs.iter().enumerate() {
        let mut client = Client::connect(*addr).expect("a connection");
        eventually(PATIENCE, "each node shows what was written", || match client.call("GET foo") {
            reply if reply == bulk("bar") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        if place != leader {
            let moved = Reply::Error(format!("MOVED 12182 {}", local.addrs[leader]));
            assert_eq!(client.call("SET foo x"), moved);
        }
        let info = client.call("CLUSTER INFO").text();
        let wanted = ["cluster_state:ok", "cluster_known_nodes:3", &format!("cluster_current_epoch:{}", epoch.0)];
        assert!(wanted.iter().all(|line| info.contains(line)), "{info}");
        let table = datakeeper(&["status", "--connect", &addr.to_string()]);
        let name = format!("leader n{}", leader + 1);
        assert!(
            table.code == Some(0) && table.text.contains(&name) && table.text.contains("in sync 3"),
            "{}",
            table.text
        );
        let json = datakeeper(&["status", "--json", "--connect", &addr.to_string()]);
        let json: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
        assert_eq!(json["nodes"].as_array().map(Vec::len), Some(3));
    }
    for (path, wanted) in [
        ("/status", format!("\"leader\":\"n{}\"", leader + 1)),
        ("/metrics", "datakeeper_in_sync_members{node=\"n1\"} 3".to_string()),
        ("/healthz", "ok".to_string()),
        ("/leader", "leader".to_string()),
        ("/ready?node=n1", String::new()),
        ("/ready?node=n3", String::new()),
        (&format!("/replica?node=n{}", (leader + 1) % 3 + 1), "replica".to_string()),
    ] {
        let answer = http_get(local.admin, path);
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(&wanted), "GET {path}: {answer}");
    }
    local.finish();
}

#[test]
fn ctrl_c_stops_all_nodes_with_0() {
    let _alone = alone();
    let mut local = Local::start(&[]);
    local.process.interrupt();
    assert!(local.process.wait().success());
    assert!(local.process.log().contains("\nstopping\n"), "{}", local.process.log());
}

#[test]
fn crash_names_the_nodes_there_are_and_does_not_crash_one_twice() {
    let _alone = alone();
    let local = Local::start(&[]);
    let (leader, _) = wait_until_whole(&local.addrs);
    let crash = |node: &str| datakeeper(&["admin", "crash", node, "--connect", &local.admin.to_string()]);
    let said = crash("n9");
    assert!(said.code == Some(1) && said.text.contains("there is no node n9; there are n1, n2, n3"), "{}", said.text);
    let victim = format!("n{}", (leader + 1) % 3 + 1);
    assert_eq!(crash(&victim).code, Some(0));
    let said = crash(&victim);
    assert!(said.code == Some(1) && said.text.contains("has crashed already"), "{:?}: {}", said.code, said.text);
    wait_until_whole(&local.addrs);
    assert_eq!(status_of(local.addrs[leader]).expect("status").role, "leader", "a replica crashed; nobody was elected");
    local.finish();
}

#[test]
fn nodes_without_acks_of_replicas_and_single_nodes_serve() {
    let _alone = alone();
    let local = Local::start(&["--set", "replication.acks=leader"]);
    let (leader, _) = wait_until_whole(&local.addrs);
    assert!(ask(local.addrs[leader], "SET foo bar").expect("a reply").is_ok());
    assert_eq!(ask(local.addrs[leader], "WAIT 2 20000").expect("a reply"), Reply::Integer(2));
    local.finish();
}

#[test]
fn the_demo_kills_a_leader_and_loses_nothing() {
    let _alone = alone();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo-failover");
    // As this test was built: nothing has to be built again, and no other directory is filled.
    let profile = if cfg!(debug_assertions) { "test" } else { "load" };
    let output =
        std::process::Command::new(script).env("DATAKEEPER_PROFILE", profile).output().expect("the script starts");
    let said = support::tools::said(output);
    let lines: Vec<&str> = said.text.lines().collect();
    let last = lines.iter().find(|line| line.contains("acknowledged writes lost")).unwrap_or(&"");
    let told = last.starts_with("0 of ") && last.contains(" acknowledged writes lost, writes resumed after ");
    assert!(said.code == Some(0) && told, "{:?}: {}", said.code, said.text);
}
