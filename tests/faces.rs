//! What an operator and a client see when something is not as it should be: one clear message, the right exit code, an answer that
//! says what the matter is. And what a stop, a password and a single node look like.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use support::client::{Client, Reply, bulk};
use support::cluster::{
    Cluster, Node, PATIENCE, Process, alone, in_sync, run as datakeeper, status_of, wait_until_whole,
};
use support::eventually;
use support::zookeeper::ZooKeeper;

/// A node of its own, without ZooKeeper.
fn embedded(more: &[&str]) -> Node {
    Node::new("solo", "127.0.0.1:1", &[&["--set", "coordination=embedded"], more].concat())
}

/// Waits until a node's log has a line that contains all of these.
fn says(process: &Process, texts: &[&str]) {
    eventually(PATIENCE, &format!("the log says {texts:?}"), || {
        let log = process.log();
        if log.lines().any(|line| texts.iter().all(|text| line.contains(text))) { Ok(()) } else { Err(log) }
    });
}

/// Waits until a node answers so.
fn answers(node: &Node, words: &str, wanted: &Reply) {
    eventually(PATIENCE, &format!("{} answers {words}", node.name), || {
        match Client::connect(node.addr).and_then(|mut client| client.try_call(&words.split(' ').collect::<Vec<_>>())) {
            Ok(reply) if reply == *wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn wrong_configuration_file_lists_every_error_and_exits_with_2() {
    let path = std::env::temp_dir().join(format!("datakeeper-faces-{}.yml", std::process::id()));
    let text =
        "node_name: 'a b'\nlisten: nowhere\nreplication:\n  acks: most\n  lease_ms: 600\nmemmory:\n  max_bytes: 1\n";
    std::fs::write(&path, text).expect("a file");
    let said = datakeeper(&["server", path.to_str().expect("a name in UTF-8")]);
    std::fs::remove_file(&path).expect("our file");
    assert_eq!(said.code, Some(2), "{}", said.text);
    let lines: Vec<&str> = said.text.lines().collect();
    for wanted in ["node_name", "listen", "replication.acks", "lease_ms", "memmory"] {
        let named = lines.iter().filter(|line| line.starts_with("error: ") && line.contains(wanted)).count();
        assert!(named == 1, "{wanted} is in {named} lines:\n{}", said.text);
    }
    assert_eq!(lines.len(), 5, "one line each:\n{}", said.text);
}

#[test]
fn taken_port_is_named_with_its_key_and_ends_the_node_with_1() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("an address").to_string();
    for (flag, key) in
        [("--listen", "listen"), ("--replication-listen", "replication.listen"), ("--admin-listen", "admin.listen")]
    {
        let mut args = vec!["server", "--set", "coordination=embedded", "--node-name", "n1"];
        for other in ["--listen", "--replication-listen", "--admin-listen"] {
            args.extend([other, if other == flag { &taken } else { "127.0.0.1:0" }]);
        }
        let said = datakeeper(&args);
        assert_eq!(said.code, Some(1), "{}", said.text);
        let errors: Vec<&str> = said.text.lines().filter(|line| line.starts_with("error: ")).collect();
        let wanted = format!("error: {key}: cannot listen on {taken}: Address already in use");
        assert!(errors.len() == 1 && errors[0].starts_with(&wanted), "{}", said.text);
    }
    let port = holder.local_addr().expect("an address").port().to_string();
    let said = datakeeper(&["local", "--nodes", "1", "--port", &port, "--admin-port", "0"]);
    assert!(said.code == Some(1) && said.text.contains(&format!("cannot listen on {taken}")), "{}", said.text);
}

#[test]
fn unreachable_zookeeper_is_waited_for_and_clients_are_told_loading() {
    let _alone = alone();
    let Some(mut zookeeper) = ZooKeeper::start() else { return };
    zookeeper.kill();
    let mut node = Node::new("n1", &zookeeper.address(), &[]);
    node.process.start();
    says(&node.process, &["WARN", "cannot be reached", &zookeeper.address()]);
    answers(&node, "GET foo", &Reply::Error("LOADING Redis is loading the dataset in memory".to_string()));
    answers(&node, "SET foo bar", &Reply::Error("LOADING Redis is loading the dataset in memory".to_string()));
    answers(&node, "PING", &Reply::Simple("PONG".to_string()));
    let status = status_of(node.addr).expect("status is answered");
    assert!(!status.coordinator.connected && status.leader.is_none(), "{status:?}");
    zookeeper.restart();
    answers(&node, "SET foo bar", &Reply::Simple("OK".to_string()));
    answers(&node, "GET foo", &bulk("bar"));
    let cluster = Cluster { nodes: vec![node], zookeeper, further_zookeepers: Vec::new(), network: None };
    cluster.finish(&[]);
}

#[test]
fn second_node_of_a_name_says_who_has_it_and_waits() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let (leader, epoch) = cluster.wait_until_whole();
    let mut twin = Node::new("n1", &cluster.zookeeper.address(), &[]);
    twin.process.start();
    let holder = &cluster.nodes[0];
    eventually(PATIENCE, "it says who has the name", || {
        let log = twin.process.log();
        let line = log.lines().find(|line| line.contains("another process is registered as n1"));
        let named = |line: &&str| line.contains(&holder.addr.to_string());
        line.filter(named).map(|_| ()).ok_or(log)
    });
    assert!(status_of(twin.addr).unwrap().warnings.iter().any(|w| w.contains("whose session has to end")));
    assert!(twin.process.terminate().success(), "it holds nothing");
    assert_eq!(cluster.wait_until_whole(), (leader, epoch), "the others did not notice");

    // A node that is gone may come back at once, though ZooKeeper still believes in its predecessor.
    let replica = (leader + 1) % 3;
    cluster.nodes[replica].process.kill();
    cluster.nodes[replica].process.start();
    cluster.wait_until_whole();
    cluster.finish(&[]);
}

#[test]
fn sigterm_ends_nodes_with_0_and_the_leader_hands_nothing_unfinished_over() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let addrs = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    assert!(cluster.nodes[leader].client().call("SET foo bar").is_ok());
    assert!(cluster.nodes[leader].process.terminate().success(), "the leader");
    let others: Vec<_> = addrs.iter().enumerate().filter(|(i, _)| *i != leader).map(|(_, addr)| *addr).collect();
    eventually(PATIENCE, "one of the others takes over", || {
        let stories = others.iter().map(|addr| status_of(*addr)).collect::<Result<Vec<_>, _>>()?;
        let led = stories.iter().any(|s| s.role == "leader" && s.epoch > epoch && in_sync(s).len() == 2);
        if led { Ok(()) } else { Err(format!("{stories:?}")) }
    });
    for addr in &others {
        assert_eq!(Client::connect(*addr).expect("a connection").call("GET foo"), bulk("bar"));
    }
    cluster.nodes[leader].process.start();
    cluster.wait_until_whole();
    cluster.finish(&[]);
}

#[test]
fn embedded_coordination_is_a_single_node_without_zookeeper() {
    let _alone = alone();
    let mut node = embedded(&[]);
    node.process.start();
    answers(&node, "SET foo bar", &Reply::Simple("OK".to_string()));
    answers(&node, "GET foo", &bulk("bar"));
    let (_, epoch) = wait_until_whole(&[node.addr]);
    assert_eq!(epoch.0, 1);
    assert!(node.process.terminate().success());
}

#[test]
fn what_config_set_changed_is_in_the_file_after_config_rewrite_and_holds_after_a_restart() {
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("datakeeper-rewritten-{}.yml", std::process::id()));
    let text = "# Ours.\ncluster: main   # the only one\n\nmemory:\n  # How much.\n  max_bytes: 1GiB # enough\n";
    std::fs::write(&path, text).expect("a file");
    let mut node = embedded(&[path.to_str().expect("a name in UTF-8")]);
    node.process.start();
    answers(&node, "CONFIG SET maxmemory 100mb", &Reply::Simple("OK".to_string()));
    answers(&node, "CONFIG REWRITE", &Reply::Simple("OK".to_string()));
    let written = std::fs::read_to_string(&path).expect("the file is there");
    assert_eq!(written, text.replace("1GiB", "104857600"));
    assert!(node.process.terminate().success());
    node.process.start();
    let limit = Reply::Array(vec![bulk("maxmemory"), bulk("104857600")]);
    answers(&node, "CONFIG GET maxmemory", &limit);
    std::fs::remove_file(&path).expect("our file");
    let why = node.client().call("CONFIG REWRITE").error().to_string();
    assert!(why.starts_with("ERR Rewriting config file: ") && why.contains("No such file"), "{why}");
    assert!(node.process.terminate().success());
}

#[test]
fn the_log_shows_as_much_as_config_set_says() {
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("datakeeper-loud-{}.yml", std::process::id()));
    std::fs::write(&path, "log:\n  level: warn # quiet\n").expect("a file");
    let mut node = embedded(&[path.to_str().expect("a name in UTF-8")]);
    node.process.start();
    answers(&node, "CONFIG GET loglevel", &Reply::Array(vec![bulk("loglevel"), bulk("warn")]));
    let log = node.process.log();
    assert!(!log.contains(" INFO "), "{log}");
    answers(&node, "CONFIG SET loglevel verbose", &Reply::Simple("OK".to_string()));
    answers(&node, "CONFIG GET log.level", &Reply::Array(vec![bulk("log.level"), bulk("debug")]));
    // That a client goes is told at `debug`; each `answers` is one that does.
    says(&node.process, &[" DEBUG ", "client gone"]);
    answers(&node, "CONFIG REWRITE", &Reply::Simple("OK".to_string()));
    assert_eq!(std::fs::read_to_string(&path).expect("the file is there"), "log:\n  level: debug # quiet\n");
    std::fs::remove_file(&path).expect("our file");
    assert!(node.process.terminate().success());
}

#[test]
fn password_is_wanted_in_every_form_there_is() {
    let _alone = alone();
    let mut node = embedded(&[]);
    node.process.set_env("DATAKEEPER_AUTH_PASSWORD", "open sesame");
    node.process.start();
    answers(&node, "GET foo", &Reply::Error("NOAUTH Authentication required.".to_string()));
    let right = [
        &["AUTH", "open sesame"][..],
        &["AUTH", "default", "open sesame"],
        &["HELLO", "2", "AUTH", "default", "open sesame"],
        &["HELLO", "2", "AUTH", "default", "open sesame", "SETNAME", "me"],
    ];
    for words in right {
        let mut client = node.client();
        assert!(client.call("SET foo bar").error().starts_with("NOAUTH "), "before {words:?}");
        let reply = client.try_call(words).expect("a reply");
        assert_eq!(reply.error(), "", "{words:?}");
        eventually(PATIENCE, "the node serves", || match client.call("SET foo bar") {
            reply if reply.is_ok() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let wrong = [
        (&["AUTH", "sesame"][..], "WRONGPASS "),
        (&["AUTH", "somebody", "open sesame"], "WRONGPASS "),
        (&["HELLO", "2", "AUTH", "default", "sesame"], "WRONGPASS "),
        (&["HELLO", "2"], "NOAUTH "),
        (&["PING"], "NOAUTH "),
        (&["DATAKEEPER", "STATUS"], "NOAUTH "),
    ];
    for (words, wanted) in wrong {
        let mut client = node.client();
        let reply = client.try_call(words).expect("a reply");
        assert!(reply.error().starts_with(wanted), "{words:?}: {reply:?}");
        assert!(client.call("GET foo").error().starts_with("NOAUTH "), "after {words:?}");
    }
    let said = datakeeper(&["status", "--connect", &node.addr.to_string()]);
    assert!(said.code == Some(1) && said.text.contains("the node wants a password"), "{}", said.text);
    assert!(node.process.terminate().success());
    assert!(!node.process.log().contains("sesame"), "passwords are not logged");
}

#[test]
fn node_with_another_replication_secret_is_refused_and_says_so() {
    let _alone = alone();
    let Some(zookeeper) = ZooKeeper::start() else { return };
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| Node::new(name, &zookeeper.address(), &[])).into();
    for (node, secret) in nodes.iter_mut().zip(["right", "right", "wrong"]) {
        node.process.set_env("DATAKEEPER_REPLICATION_SECRET", secret);
    }
    let (first, rest) = nodes.split_at_mut(1);
    first[0].process.start();
    wait_until_whole(&[first[0].addr]);
    rest.iter_mut().for_each(|node| node.process.start());
    wait_for_two(&first[0]);
    says(&rest[1].process, &["ERROR", "replication.secret"]);
    says(&first[0].process, &["WARN", "n3", "replication.secret"]);
    answers(&first[0], "SET foo bar", &Reply::Simple("OK".to_string()));
    assert_eq!(in_sync(&status_of(first[0].addr).expect("status")), ["n1", "n2"]);
    let refused = rest[1].client().call("GET foo");
    assert!(refused.error().starts_with("CLUSTERDOWN "), "what was refused serves nothing: {refused:?}");
    // Several tries were made by now.
    for node in &*nodes {
        let lines = node.process.log().lines().filter(|line| line.contains("replication.secret")).count();
        assert!(lines <= 1, "{} says {lines} times that the secret differs", node.name);
    }
    Cluster { nodes, zookeeper, further_zookeepers: Vec::new(), network: None }.finish(&["replication.secret"]);
}

/// Waits until the first two are in sync.
fn wait_for_two(leader: &Node) {
    eventually(PATIENCE, "the two that know the secret are in sync", || {
        let found = in_sync(&status_of(leader.addr)?);
        if found == ["n1", "n2"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn node_that_may_not_create_the_cluster_waits_for_one_that_may() {
    let _alone = alone();
    let Some(zookeeper) = ZooKeeper::start() else { return };
    let mut waits = Node::new("n1", &zookeeper.address(), &["--set", "bootstrap=never"]);
    waits.process.start();
    says(&waits.process, &["/state is absent and is not created by this node: bootstrap: never"]);
    let mut client = waits.client();
    client.set_patience(Duration::from_secs(5));
    assert_eq!(client.call("GET foo").error(), "CLUSTERDOWN The cluster is down: no leader is confirmed");
    let mut creates = Node::new("n2", &zookeeper.address(), &[]);
    creates.process.start();
    let (leader, _) = wait_until_whole(&[waits.addr, creates.addr]);
    assert_eq!(leader, 1);
    Cluster { nodes: vec![waits, creates], zookeeper, further_zookeepers: Vec::new(), network: None }.finish(&[]);
}

#[test]
fn operators_commands_change_settings_and_refuse_what_is_not_theirs_to_do() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    cluster.wait_until_whole();
    let (leader, replicas) = cluster.roles();
    let names = (leader.name.clone(), replicas[0].name.clone());
    let (leader, replica) = (leader.addr.to_string(), replicas[0].addr.to_string());
    let admin = |words: &str| datakeeper(&[&["admin"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
    let said = admin(&format!("set-config min_in_sync=3 --connect {replica} --confirm main"));
    assert_eq!((said.code, said.text.trim()), (Some(0), "OK"));
    eventually(PATIENCE, "the new minimum counts", || {
        let min = status_of(cluster.nodes[0].addr)?.min_in_sync_effective;
        if min == 3 { Ok(()) } else { Err(min.to_string()) }
    });
    for (words, wanted) in [
        (format!("set-config lease_ms=9000 --connect {leader} --confirm main"), "want heartbeat*3"),
        (format!("set-config lease_ms=300 --connect {leader} --confirm mine"), "CONFIRM main"),
        (format!("reset --connect {replica} --confirm main"), "there is nothing to repair"),
        (format!("lower-peak 2 --connect {replica} --confirm main"), leader.as_str()),
    ] {
        let said = admin(&words);
        assert!(said.code == Some(1) && said.text.contains(wanted), "{words}: {}", said.text);
    }
    assert_eq!(admin("reset").code, Some(2), "without a confirmation");
    let said = datakeeper(&["handover", "--connect", &replica]);
    assert!(said.code == Some(1) && said.text.contains(&format!("ask {} at {leader}", names.0)), "{}", said.text);
    let said = datakeeper(&["handover", "--connect", &leader, "--to", &names.1]);
    assert_eq!((said.code, said.text.trim()), (Some(0), format!("{} leads in epoch 2", names.1).as_str()));
    cluster.wait_until_whole();
    cluster.finish(&[]);
}
