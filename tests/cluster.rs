//! Three processes around a real ZooKeeper, used as their users use them: with plain and cluster clients, with Redis's own tools,
//! and with nothing but names and addresses on their command lines.
//!
//! Also here: what a node that was away for a while goes through, big values, and what happens without ZooKeeper. Not here: the
//! loss of a leader (`faults/`), hostile clients (`hostile.rs`), wrong configurations (`faces.rs`).

mod support;

use std::io::Write as _;
use std::time::Duration;

use redis::Commands;
use redis::cluster::ClusterClient;
use redis::cluster_read_routing::RandomReplicaStrategy;
use support::client::{Client, Reply, bulk};
use support::cluster::{Calm, Cluster, Node, PATIENCE, alone, in_sync, run as datakeeper, status_of};
use support::writers::{Load, Writers};
use support::{eventually, tools};

/// Keys that are loaded through a pipe.
const PIPED: usize = 200_000;
/// Transactions of each of the clients that count one key up.
const COUNTS: i64 = 50;
/// Big values. The biggest is the biggest there may be; unoptimised builds take too long for it.
const BIG: &[usize] = if cfg!(debug_assertions) { &[9 << 20, 64 << 20] } else { &[9 << 20, 512 << 20] };

/// Waits until a node answers so.
fn answers(node: &Node, words: &str, wanted: &Reply) {
    let mut client = node.client();
    eventually(PATIENCE, &format!("{} answers {words}", node.name), || match client.call(words) {
        reply if reply == *wanted => Ok(()),
        other => Err(format!("{:.200}", format!("{other:?}"))),
    });
}

#[test]
fn what_is_set_at_the_leader_is_read_at_each_node_and_replicas_redirect_writes() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, replicas) = cluster.roles();
    assert!(leader.client().call("SET foo bar").is_ok());
    for node in &cluster.nodes {
        answers(node, "GET foo", &bulk("bar"));
    }
    for replica in &replicas {
        for (words, slot) in
            [("SET foo x", 12182), ("SET {user1000}.following x", 3443), ("DEL foo", 12182), ("FLUSHALL", 0)]
        {
            let wanted = Reply::Error(format!("MOVED {slot} {}", leader.addr));
            assert_eq!(replica.client().call(words), wanted, "{words} at {}", replica.name);
        }
        let role = replica.client().call("ROLE");
        let Reply::Array(role) = role else { panic!("{role:?}") };
        assert_eq!(
            role[..4],
            [
                bulk("slave"),
                bulk(&leader.addr.ip().to_string()),
                Reply::Integer(leader.addr.port().into()),
                bulk("connected")
            ]
        );
    }
    assert_eq!(leader.client().call("GET foo"), bulk("bar"), "nothing of it was executed");
    cluster.finish(&[]);
}

#[test]
fn client_libraries_work_plain_and_cluster() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, replicas) = cluster.roles();

    for scheme in ["?protocol=resp2", "?protocol=resp3"] {
        let plain = redis::Client::open(format!("redis://{}/{scheme}", leader.addr)).expect("a URL");
        let mut plain = plain.get_connection().expect("a connection");
        let () = plain.set("plain", "1").expect("SET");
        assert_eq!(plain.get::<_, String>("plain").expect("GET"), "1");
        let (a, b, c): (String, i64, Vec<Option<String>>) = redis::pipe()
            .cmd("SET")
            .arg("counter")
            .arg(41)
            .cmd("INCR")
            .arg("counter")
            .cmd("MGET")
            .arg("counter")
            .arg("absent")
            .query(&mut plain)
            .expect("a pipeline");
        assert_eq!((a.as_str(), b, c), ("OK", 42, vec![Some("42".to_string()), None]));
        let transaction: (i64, Option<String>) = redis::pipe()
            .atomic()
            .set("counter", 1)
            .ignore()
            .incr("counter", 1)
            .get("absent")
            .query(&mut plain)
            .expect("EXEC");
        assert_eq!(transaction, (2, None));
    }

    let url = format!("redis://{}/", leader.addr);
    let counts = |_| {
        let mut connection = redis::Client::open(&*url).expect("a URL").get_connection().expect("a connection");
        std::thread::spawn(move || {
            for _ in 0..COUNTS {
                let keys = ["watched", "twice"];
                let () = redis::transaction(&mut connection, &keys, |connection, pipe| {
                    let counted: i64 = connection.get::<_, Option<i64>>("watched")?.unwrap_or(0);
                    let values = [("watched", counted + 1), ("twice", 2 * (counted + 1))];
                    pipe.mset(&values).ignore().query(connection)
                })
                .expect("WATCH, MULTI and EXEC until nobody came in between");
            }
        })
    };
    let counting: Vec<_> = (0..4).map(counts).collect();
    counting.into_iter().for_each(|thread| thread.join().expect("no error"));
    let counted = (4 * COUNTS).to_string();
    answers(leader, "GET watched", &bulk(&counted));
    for replica in &replicas {
        answers(replica, "GET watched", &bulk(&counted));
        answers(replica, "GET twice", &bulk(&(8 * COUNTS).to_string()));
    }

    // Told about a replica only, the cluster client finds the leader.
    let nodes = vec![format!("redis://{}/", replicas[0].addr)];
    for client in [
        ClusterClient::new(nodes.clone()).expect("a client"),
        ClusterClient::builder(nodes.clone())
            .read_routing_strategy(RandomReplicaStrategy)
            .build()
            .expect("a client that reads from replicas"),
        ClusterClient::builder(nodes).use_protocol(redis::ProtocolVersion::RESP3).build().expect("a client of RESP3"),
    ] {
        let mut connection = client.get_connection().expect("a connection");
        for i in 0..100 {
            let () = connection.set(format!("key{i}"), i).expect("SET");
        }
        for i in 0..100 {
            let read = || match connection.get::<_, Option<i32>>(format!("key{i}")).expect("GET") {
                Some(value) if value == i => Ok(()),
                other => Err(format!("{other:?}")),
            };
            eventually(PATIENCE, "a replica has what was written", read);
        }
        let mut pipeline = redis::cluster::cluster_pipe();
        for i in 0..100 {
            pipeline.cmd("SET").arg(format!("key{i}")).arg(-1).ignore();
        }
        let () = pipeline.query(&mut connection).expect("a pipeline over all slots");
    }
    cluster.finish(&[]);
}

#[test]
fn subscribers_at_every_node_hear_what_is_published_at_any() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let clients: Vec<redis::Client> = cluster
        .nodes
        .iter()
        .map(|node| redis::Client::open(format!("redis://{}/", node.addr)).expect("a URL"))
        .collect();
    let mut connections: Vec<redis::Connection> =
        clients.iter().map(|client| client.get_connection().expect("a connection")).collect();
    let mut listeners: Vec<redis::PubSub<'_>> =
        connections.iter_mut().map(|connection| connection.as_pubsub()).collect();
    for listener in &mut listeners {
        listener.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        listener.subscribe("news").expect("SUBSCRIBE");
        listener.psubscribe("n?ws").expect("PSUBSCRIBE");
    }
    for (i, client) in clients.iter().enumerate() {
        let mut publisher = client.get_connection().expect("a connection");
        let text = format!("from {i}");
        assert_eq!(publisher.publish::<_, _, i64>("news", &text).expect("PUBLISH"), 2, "once by name, once by pattern");
        for listener in &mut listeners {
            for pattern in [None, Some("n?ws".to_string())] {
                let message = listener.get_message().expect("a message");
                assert_eq!(message.get_payload::<String>().expect("a text"), text);
                assert_eq!(message.get_pattern::<Option<String>>().expect("a text or none"), pattern);
            }
        }
    }
    drop(listeners);
    cluster.finish(&[]);
}

#[test]
fn redis_tools_work() {
    let _alone = alone();
    if !tools::have_redis_tools() {
        return;
    }
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, replicas) = cluster.roles();

    let said = tools::run("redis-cli", replicas[0].addr, &["-c", "set", "foo", "bar"], b"");
    assert_eq!((said.code, said.text.trim()), (Some(0), "OK"), "redis-cli -c follows the redirect");
    let said = tools::run("redis-cli", replicas[0].addr, &["set", "foo", "bar"], b"");
    assert!(said.text.contains(&format!("MOVED 12182 {}", leader.addr)), "redis-cli without -c: {}", said.text);
    let said = tools::run("redis-cli", replicas[0].addr, &["-c"], b"set k v\nget k\n");
    assert!(
        said.text.contains('v') && !said.text.contains("error"),
        "redis-cli -c with commands from a pipe: {}",
        said.text
    );

    let mut commands = Vec::new();
    for i in 0..PIPED {
        write!(commands, "*3\r\n$3\r\nSET\r\n$10\r\npipe{i:06}\r\n$6\r\n{i:06}\r\n").expect("memory");
    }
    let said = tools::run("redis-cli", leader.addr, &["--pipe"], &commands);
    let wanted = format!("errors: 0, replies: {PIPED}");
    assert!(said.code == Some(0) && said.text.contains(&wanted), "redis-cli --pipe: {:?}: {}", said.code, said.text);
    let keys = PIPED as i64 + 2;
    for node in &cluster.nodes {
        answers(node, "DBSIZE", &Reply::Integer(keys));
        answers(node, "GET pipe199999", &bulk("199999"));
    }

    let arguments = ["-t", "set,get", "-P", "16", "-n", "200000", "-q"];
    let said = tools::run("redis-benchmark", leader.addr, &arguments, b"");
    println!("redis-benchmark -P 16: {}", said.text.rsplit('\r').next().unwrap_or_default().trim());
    let lower = said.text.to_lowercase();
    let clean = said.code == Some(0) && !lower.contains("err") && !lower.contains("warn");
    let complete =
        ["SET: ", "GET: "].iter().all(|test| said.text.contains(test)) && lower.contains("requests per second");
    assert!(clean && complete, "redis-benchmark: {:?}: {}", said.code, said.text);

    for node in &cluster.nodes {
        let said = tools::run("redis-cli", node.addr, &["--cluster", "check", &node.addr.to_string()], b"");
        let clean = said.code == Some(0) && !said.text.contains("[ERR]") && !said.text.contains("[WARNING]");
        assert!(
            clean && said.text.contains("[OK] All 16384 slots covered"),
            "--cluster check: {:?}: {}",
            said.code,
            said.text
        );
    }
    cluster.finish(&[]);
}

#[test]
fn big_values_travel_without_a_shrink_or_an_election() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, replicas) = cluster.roles();
    let calm = Calm::now(&cluster);
    for (number, bytes) in BIG.iter().enumerate() {
        let value: Vec<u8> = (0..*bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16) ^ number) as u8).collect();
        let sum = crc32fast::hash(&value);
        let key = format!("big{number}");
        let mut client = leader.client();
        client.set_patience(PATIENCE * 4);
        let reply = client.try_call(&[b"SET".as_slice(), key.as_bytes(), &value]);
        assert!(reply.as_ref().is_ok_and(Reply::is_ok), "SET of {bytes} bytes: {reply:?}");
        drop(value);
        for node in std::iter::once(&leader).chain(&replicas) {
            answers(node, &format!("STRLEN {key}"), &Reply::Integer(*bytes as i64));
            let mut client = node.client();
            client.set_patience(PATIENCE * 4);
            let Ok(Reply::Bulk(found)) = client.try_call(&["GET", &key]) else { panic!("GET {key} at {}", node.name) };
            assert_eq!((found.len(), crc32fast::hash(&found)), (*bytes, sum), "{key} at {}", node.name);
        }
        calm.assert_still(&cluster);
    }
    cluster.finish(&[]);
}

#[test]
fn replica_that_was_killed_is_filled_and_one_that_paused_goes_on_from_the_backlog() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let addrs = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    let (killed, paused) = ((leader + 1) % 3, (leader + 2) % 3);

    let writers = Writers::start("fill", &addrs, Load::HEAVY);
    cluster.nodes[killed].process.kill();
    let gone = || match in_sync(&status_of(addrs[leader])?).len() {
        2 => Ok(()),
        other => Err(format!("{other} in sync")),
    };
    eventually(PATIENCE, "the killed replica leaves the in-sync set", gone);
    let before = cluster.nodes[killed].process.log().len();
    cluster.nodes[killed].process.start();
    assert_eq!(cluster.wait_until_whole(), (leader, epoch), "a replica came and went; nobody was elected");
    let log = cluster.nodes[killed].process.log();
    assert!(log[before..].contains("full resync complete"), "the node came back empty: it has to be filled");

    let before = cluster.nodes[paused].process.log().len();
    cluster.nodes[paused].process.freeze();
    eventually(PATIENCE, "the paused replica leaves the in-sync set", gone);
    cluster.nodes[paused].process.thaw();
    assert_eq!(cluster.wait_until_whole(), (leader, epoch), "a replica paused; nobody was elected");
    let log = cluster.nodes[paused].process.log();
    let said = &log[before..];
    assert!(
        !said.contains("full resync"),
        "a short break is healed from the backlog, but {} says:\n{said}",
        cluster.nodes[paused].name
    );

    let story = writers.stop();
    println!("{} writes were answered OK meanwhile", story.acked);
    assert!(story.acked > 100, "writes go on: {} were answered", story.acked);
    for addr in addrs {
        eventually(PATIENCE, "all that was promised is at every node", || match story.contradictions(addr) {
            Ok(lines) if lines.is_empty() => Ok(()),
            Ok(lines) => Err(lines.join("\n")),
            Err(e) => Err(e.to_string()),
        });
    }
    cluster.finish(&[]);
}

#[test]
fn short_break_of_a_link_is_healed_by_a_partial_resync() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let addrs = cluster.addrs();
    let (leader, epoch) = cluster.wait_until_whole();
    let writers = Writers::start("break", &addrs, Load::LIGHT);
    // A writer that asked the replica for the leader just as that froze would say nothing for a while.
    let flowing = || if writers.acked_total() > 100 { Ok(()) } else { Err(writers.acked_total().to_string()) };
    eventually(PATIENCE, "writes are answered", flowing);
    let answered = writers.acked_total();
    let replica = (leader + 1) % 3;
    let before = [leader, replica].map(|i| cluster.nodes[i].process.log().len());
    cluster.nodes[replica].process.freeze();
    eventually(PATIENCE, "the leader closes the link", || {
        let said = &cluster.nodes[leader].process.log()[before[0]..];
        if said.contains("closing link") { Ok(()) } else { Err(said.to_string()) }
    });
    cluster.nodes[replica].process.thaw();
    eventually(PATIENCE, "the replica goes on from the backlog", || {
        let said = &cluster.nodes[replica].process.log()[before[1]..];
        assert!(!said.contains("full resync"), "the break was short, but it says:\n{said}");
        if said.contains("partial resync with") { Ok(()) } else { Err(said.to_string()) }
    });
    assert_eq!(cluster.wait_until_whole(), (leader, epoch));
    let story = writers.stop();
    assert!(story.acked > answered + 100, "writes go on: {} were answered", story.acked);
    cluster.finish(&[]);
}

#[test]
fn nothing_changes_for_clients_while_zookeeper_is_away() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let (leader, epoch) = cluster.wait_until_whole();
    let calm = Calm::now(&cluster);
    let serves = |cluster: &Cluster, value: &str| {
        let mut client = cluster.nodes[leader].client();
        client.set_patience(Duration::from_secs(2));
        assert!(client.call(&format!("SET away {value}")).is_ok());
        for node in &cluster.nodes {
            answers(node, "GET away", &bulk(value));
            let info = node.client().call("CLUSTER INFO").text();
            assert!(
                info.contains("cluster_state:ok") && info.contains(&format!("cluster_current_epoch:{}", epoch.0)),
                "{info}"
            );
            let said = datakeeper(&["status", "--connect", &node.addr.to_string()]);
            assert!(
                said.code == Some(0) && said.text.contains(&format!("leader n{}", leader + 1)),
                "status: {}",
                said.text
            );
        }
    };
    let contact = |wanted: bool| {
        let all = || -> Result<(), String> {
            for addr in cluster.addrs() {
                if status_of(addr)?.coordinator.connected != wanted {
                    return Err(format!("{addr}: connected is not {wanted}"));
                }
            }
            Ok(())
        };
        eventually(PATIENCE, "the nodes notice", all);
    };
    cluster.zookeeper.freeze();
    serves(&cluster, "frozen");
    contact(false);
    serves(&cluster, "noticed");
    cluster.zookeeper.thaw();
    contact(true);
    cluster.zookeeper.kill();
    let mut client = Client::connect(cluster.nodes[leader].addr).expect("a connection");
    eventually(PATIENCE, "status says that ZooKeeper is gone", || {
        let said = datakeeper(&["status", "--connect", &cluster.nodes[leader].addr.to_string()]);
        assert!(client.call("SET away still").is_ok());
        if said.text.contains("coordinator not connected") { Ok(()) } else { Err(said.text) }
    });
    serves(&cluster, "killed");
    cluster.zookeeper.restart();
    serves(&cluster, "back");
    calm.assert_still(&cluster);
    cluster.finish(&[]);
}
