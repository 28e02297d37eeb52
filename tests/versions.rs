//! Builds of two versions in one cluster: `scripts/test versions` builds the other ones and says where they are.
//!
//! `next` is this code as a build of the next cluster version, which uses something new of each kind: reasons, wishes, fields, and, where it is
//! allowed to, a mode, a kind of frame and a mutation. `first` is the first build that promised to stand beside the next one.

mod support;

use std::path::PathBuf;

use support::client::Reply;
use support::cluster::{Cluster, Node, PATIENCE, alone, run as datakeeper, status_of};
use support::eventually;
use support::zookeeper::ZooKeeper;

/// Path of a build; none if it was not made.
fn build(name: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("DATAKEEPER_VERSIONS").expect("scripts/test versions says where the builds are");
    Some(PathBuf::from(directory).join(name)).filter(|path| path.exists())
}

/// Three nodes, each of its own build.
fn mixed(builds: [Option<&PathBuf>; 3]) -> Option<Cluster> {
    let zookeeper = ZooKeeper::start()?;
    let address = zookeeper.address();
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| Node::new(name, &address, &[])).into();
    for (node, build) in nodes.iter_mut().zip(builds) {
        node.process.set_binary(build.cloned());
        node.process.start();
    }
    let cluster = Cluster { nodes, zookeeper, further_zookeepers: Vec::new(), network: None };
    cluster.wait_until_whole();
    Some(cluster)
}

fn set(cluster: &Cluster, value: &str) {
    let (leader, _) = cluster.wait_until_whole();
    let mut client = cluster.nodes[leader].client();
    for i in 0..200 {
        assert!(client.call(&format!("SET key{i} {value}{i}")).is_ok(), "{value}");
    }
}

fn assert_value(cluster: &Cluster, value: &str) {
    let (leader, _) = cluster.wait_until_whole();
    for i in [0, 100, 199] {
        let reply = cluster.nodes[leader].client().call(&format!("GET key{i}"));
        assert_eq!(reply, Reply::Bulk(format!("{value}{i}").into()), "after {value}");
    }
}

/// Every node leads once, however it comes to that: by a kill, by a handover; each is filled anew once, and comes back for the log once.
fn goes_through_everything(cluster: &mut Cluster) {
    for round in 0..3 {
        let (leader, _) = cluster.wait_until_whole();
        set(cluster, &format!("before kill {round} ").replace(' ', "-"));
        cluster.nodes[leader].process.kill();
        cluster.nodes[leader].process.start();
        assert_value(cluster, &format!("before kill {round} ").replace(' ', "-"));
    }
    for to in ["n1", "n2", "n3", "n1"] {
        let (leader, _) = cluster.wait_until_whole();
        set(cluster, &format!("before-handover-to-{to}-"));
        if cluster.nodes[leader].name != to {
            let reply = cluster.nodes[leader].client().call(&format!("DATAKEEPER HANDOVER TO {to}"));
            assert!(reply.is_ok(), "handover to {to}: {reply:?}");
            eventually(PATIENCE, "it leads", || {
                let (leader, _) = cluster.wait_until_whole();
                if cluster.nodes[leader].name == to { Ok(()) } else { Err(leader) }
            });
        }
        assert_value(cluster, &format!("before-handover-to-{to}-"));
        // Its followers lose their link for longer than it may be silent, and come back for what they missed.
        let (leader, _) = cluster.wait_until_whole();
        let frozen = (leader + 1) % 3;
        cluster.nodes[frozen].process.freeze();
        let mut client = cluster.nodes[leader].client();
        eventually(PATIENCE, "it is out", || match status_of(cluster.nodes[leader].addr) {
            Ok(status) if status.nodes.iter().filter(|n| n.in_sync).count() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert!(client.call("SET meanwhile 1").is_ok());
        cluster.nodes[frozen].process.thaw();
        cluster.wait_until_whole();
    }
}

/// What nodes may say at ERROR here: nothing but that the program of one is too old, where a test brings that about.
const TOO_OLD: &[&str] = &["install a later version of the program there"];

#[test]
#[ignore = "needs builds of other versions; scripts/test versions makes them"]
fn this_version_and_the_next_stand_in_one_cluster_until_the_version_is_raised() {
    let _alone = alone();
    let next = build("next").expect("scripts/test versions builds it");
    // Founded by this version, as in a rolling upgrade.
    let Some(mut cluster) = mixed([None, None, None]) else { return };
    cluster.nodes[1].process.terminate();
    cluster.nodes[1].process.set_binary(Some(next.clone()));
    cluster.nodes[1].process.start();
    goes_through_everything(&mut cluster);
    // It cannot be raised while a node does not know it, whichever leads.
    let raise = |cluster: &Cluster| {
        let (leader, _) = cluster.wait_until_whole();
        datakeeper(&[
            "admin",
            "raise-version",
            "--connect",
            &cluster.nodes[leader].addr.to_string(),
            "--confirm",
            "main",
        ])
    };
    let (leader, _) = cluster.wait_until_whole();
    if cluster.nodes[leader].name != "n2" {
        assert!(cluster.nodes[leader].client().call("DATAKEEPER HANDOVER TO n2").is_ok());
        eventually(PATIENCE, "n2 leads", || if cluster.wait_until_whole().0 == 1 { Ok(()) } else { Err("not yet") });
    }
    let refused = raise(&cluster);
    assert!(refused.code == Some(1) && refused.text.contains("is not known to n1 (2), n3 (2)"), "{}", refused.text);
    for i in [0, 2] {
        cluster.nodes[i].process.terminate();
        cluster.nodes[i].process.set_binary(Some(next.clone()));
        cluster.nodes[i].process.start();
        cluster.wait_until_whole();
    }
    let due = status_of(cluster.nodes[0].addr).unwrap();
    assert!(
        due.warnings.iter().any(|w| w.contains("`datakeeper admin raise-version --confirm main` at the leader is due")),
        "{due:?}"
    );
    let raised = raise(&cluster);
    assert_eq!(raised.code, Some(0), "{}", raised.text);
    // From here on it uses what this version does not know.
    goes_through_everything(&mut cluster);
    // And a node of this version is refused by name.
    let (leader, _) = cluster.wait_until_whole();
    let old = (leader + 1) % 3;
    cluster.nodes[old].process.terminate();
    cluster.nodes[old].process.set_binary(None);
    cluster.nodes[old].process.start();
    eventually(PATIENCE, "it says that it is too old", || {
        let status = status_of(cluster.nodes[old].addr)?;
        let text = format!("the cluster uses version 3, and {} can do 2 at most", cluster.nodes[old].name);
        if status.warnings.iter().any(|w| w.contains(&text)) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    cluster.nodes[old].process.terminate();
    cluster.nodes[old].process.set_binary(Some(next));
    cluster.nodes[old].process.start();
    assert_value(&cluster, "before-handover-to-n1-");
    cluster.finish(TOO_OLD);
}

#[test]
#[ignore = "needs builds of other versions; scripts/test versions makes them"]
fn a_cluster_of_the_next_version_that_was_not_raised_takes_this_version_in_any_role() {
    let _alone = alone();
    let next = build("next").expect("scripts/test versions builds it");
    let Some(mut cluster) = mixed([None, None, None]) else { return };
    for i in [0, 1] {
        cluster.nodes[i].process.terminate();
        cluster.nodes[i].process.set_binary(Some(next.clone()));
        cluster.nodes[i].process.start();
        cluster.wait_until_whole();
    }
    goes_through_everything(&mut cluster);
    // And the way back: the older program again.
    for i in [0, 1] {
        cluster.nodes[i].process.terminate();
        cluster.nodes[i].process.set_binary(None);
        cluster.nodes[i].process.start();
        cluster.wait_until_whole();
    }
    assert_value(&cluster, "before-handover-to-n1-");
    cluster.finish(&[]);
}

#[test]
#[ignore = "needs builds of other versions; scripts/test versions makes them"]
fn the_first_version_that_promised_it_stands_beside_this_one() {
    let _alone = alone();
    let Some(first) = build("first") else {
        eprintln!("the first version was not built: this checkout has no history");
        return;
    };
    let Some(mut cluster) = mixed([Some(&first), None, Some(&first)]) else { return };
    goes_through_everything(&mut cluster);
    cluster.finish(&[]);
}
