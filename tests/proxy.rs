//! `writes_on_replica: proxy`: plain clients that know one node and nothing of leaders. Each connection keeps its order, reads what it wrote at whichever
//! node it is, and nothing that it sends is executed twice, whatever happens to the leader.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::client::{Client, Reply, bulk, encode};
use support::cluster::{Cluster, Local, alone};
use support::eventually;

const PROXY: &[&str] = &["--set", "writes_on_replica=proxy"];
/// Clients of each node in the tests under faults.
const CLIENTS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn ok() -> Reply {
    Reply::Simple("OK".to_string())
}

fn queued() -> Reply {
    Reply::Simple("QUEUED".to_string())
}

#[test]
fn plain_clients_write_at_any_node_and_read_what_they_wrote() {
    let local = Local::start(PROXY);
    for (i, addr) in local.addrs.iter().enumerate() {
        let mut client = Client::connect(*addr).unwrap();
        for n in 0..200 {
            let key = format!("k{i}:{n}");
            assert_eq!(client.call(&format!("SET {key} {n}")), ok());
            assert_eq!(client.call(&format!("GET {key}")), bulk(&n.to_string()), "node {i}, write {n}");
        }
        let requests = [
            format!("SET p{i} 1"),
            format!("GET p{i}"),
            "PING".to_string(),
            format!("INCR p{i}"),
            "CLIENT GETNAME".to_string(),
            format!("GET p{i}"),
            format!("INCRBY p{i} no"),
            format!("APPEND p{i} x"),
            format!("MGET p{i} none"),
        ];
        let requests: Vec<_> = requests.iter().map(|text| words(text)).collect();
        let pong = Reply::Simple("PONG".to_string());
        let not_a_number = Reply::Error("ERR value is not an integer or out of range".to_string());
        assert_eq!(
            client.pipeline(&requests),
            [
                ok(),
                bulk("1"),
                pong,
                Reply::Integer(2),
                Reply::Null,
                bulk("2"),
                not_a_number,
                Reply::Integer(2),
                Reply::Array(vec![bulk("2x"), Reply::Null])
            ],
            "node {i}"
        );
        let big = vec![b'x'; 3 << 20];
        assert_eq!(client.try_call(&[&b"SET"[..], b"big", &big]).unwrap(), ok());
        assert_eq!(client.call("GETRANGE big 3145727 -1"), bulk("x"));
        assert_eq!(client.call("GETSET big 1"), Reply::Bulk(big));
        let position = client.call("DATAKEEPER POSITION");
        assert!(position.text().starts_with("0:1:"), "{position:?}");
    }
    local.finish();
}

#[test]
fn connections_that_understand_redirects_get_them() {
    let local = Local::start(PROXY);
    let replica = replica_of(&local);
    let mut client = Client::connect(replica).unwrap();
    client.call("CLUSTER SLOTS");
    assert!(client.call("SET k v").error().starts_with("MOVED "));
    let mut client = Client::connect(replica).unwrap();
    client.call("CLIENT CAPA redirect");
    assert!(client.call("SET k v").error().starts_with("REDIRECT "));
    local.finish();
}

fn leads(addr: SocketAddr) -> bool {
    let Reply::Array(role) = support::client::ask(addr, "ROLE").unwrap() else { panic!("ROLE is an array") };
    role[0] == bulk("master")
}

/// A node that does not lead.
fn replica_of(local: &Local) -> SocketAddr {
    *local.addrs.iter().find(|addr| !leads(**addr)).expect("a replica")
}

#[test]
fn transactions_are_passed_on_as_a_whole_and_watches_see_every_change() {
    let local = Local::start(PROXY);
    let replica = replica_of(&local);
    let (mut a, mut b) = (Client::connect(replica).unwrap(), Client::connect(replica).unwrap());
    let transaction = ["MULTI", "SET k 1", "INCR k", "PING", "GET k", "EXEC"].map(words);
    let pong = Reply::Simple("PONG".to_string());
    assert_eq!(
        a.pipeline(&transaction)[1..],
        [queued(), queued(), queued(), queued(), Reply::Array(vec![ok(), Reply::Integer(2), pong, bulk("2")])]
    );
    assert_eq!(a.call("GET k"), bulk("2"));

    // Nothing changed: executed. Something changed: not.
    for changed in [false, true] {
        assert_eq!(a.call("WATCH k other"), ok());
        assert_eq!(a.call("GET k"), bulk("2"));
        if changed {
            assert_eq!(b.call("SET k 7"), ok());
        }
        let replies = a.pipeline(&["MULTI", "SET k 2", "EXEC"].map(words));
        let want = if changed { Reply::Null } else { Reply::Array(vec![ok()]) };
        assert_eq!(replies[2], want, "changed: {changed}");
    }
    // EXEC ended the watches; so do UNWATCH and DISCARD.
    for end in ["", "UNWATCH", "DISCARD"] {
        assert_eq!(a.call("WATCH k"), ok());
        assert_eq!(b.call("INCR k").error(), "");
        match end {
            "" => assert_eq!(a.pipeline(&["MULTI", "GET k", "EXEC"].map(words))[2], Reply::Null),
            "DISCARD" => assert_eq!(a.pipeline(&["MULTI", "DISCARD"].map(words)), [ok(), ok()]),
            _ => assert_eq!(a.call(end), ok()),
        }
        let replies = a.pipeline(&["MULTI", "SET k 2", "EXEC"].map(words));
        assert_eq!(replies[2], Reply::Array(vec![ok()]), "after {end:?}");
    }
    // What cannot be passed on ends the transaction, and only that.
    let replies = a.pipeline(&["MULTI", "SET k 9", "CLIENT ID", "EXEC", "GET k"].map(words));
    assert!(replies[3].error().starts_with("EXECABORT "), "{replies:?}");
    assert_eq!(replies[4], bulk("2"));
    // The failed command of a transaction is the leader's to name.
    let replies = a.pipeline(&["MULTI", "SET s text", "INCR s", "EXEC"].map(words));
    let not_a_number = Reply::Error("ERR value is not an integer or out of range".to_string());
    assert_eq!(replies[3], Reply::Array(vec![ok(), not_a_number]));
    local.finish();
}

/// Found by the libraries of `clients/`: transactions of one came to nothing because another had watched a key.
#[test]
fn what_a_client_does_after_watch_concerns_its_own_transaction_alone() {
    let local = Local::start(PROXY);
    let replica = replica_of(&local);
    let (mut a, mut b) = (Client::connect(replica).unwrap(), Client::connect(replica).unwrap());
    let transaction = ["MULTI", "SET t 1", "EXEC"].map(words);
    for (key, outcome) in [("k", Reply::Null), ("other", Reply::Array(vec![ok()]))] {
        assert_eq!(a.call("WATCH k"), ok());
        assert_eq!(a.call(&format!("SET {key} mine")), ok());
        for _ in 0..3 {
            assert_eq!(b.pipeline(&transaction)[2], Reply::Array(vec![ok()]), "b watches nothing");
        }
        assert_eq!(a.pipeline(&transaction)[2], outcome, "k is watched, {key} was written");
        assert_eq!(a.pipeline(&transaction)[2], Reply::Array(vec![ok()]), "EXEC ended the watch");
    }
    // What was watched under another leader counts as changed, whatever is watched under this one.
    let leader = local.addrs.iter().position(|addr| leads(*addr)).expect("a leader");
    let third = (0..3).find(|i| *i != leader && local.addrs[*i] != replica).expect("three nodes");
    assert_eq!(a.call("WATCH k"), ok());
    let handover = format!("DATAKEEPER HANDOVER TO n{}", third + 1);
    assert!(Client::connect(local.addrs[leader]).unwrap().call(&handover).is_ok());
    eventually(PATIENCE, "the third node leads", || if leads(local.addrs[third]) { Ok(()) } else { Err("not yet") });
    assert_eq!(a.call("WATCH other"), ok());
    assert_eq!(a.pipeline(&transaction)[2], Reply::Null, "k was watched under another leader");
    assert_eq!(a.pipeline(&transaction)[2], Reply::Array(vec![ok()]), "EXEC ended the watches");
    local.finish();
}

#[test]
fn wait_counts_the_replicas_that_hold_what_was_passed_on() {
    let local = Local::start(PROXY);
    let mut client = Client::connect(replica_of(&local)).unwrap();
    // That both are there may take a moment; that the two do not become three is waited for in vain.
    assert_eq!(client.call("WAIT 2 20000"), Reply::Integer(2), "it has written nothing");
    let requests =
        ["SET k v", "WAIT 2 20000", "GET k", "WAIT 3 50", "CLIENT REPLY SKIP", "WAIT 1 0", "PING"].map(words);
    assert_eq!(
        client.pipeline(&requests[..4]),
        [ok(), Reply::Integer(2), bulk("v"), Reply::Integer(2)],
        "in the order of the requests"
    );
    let mut bytes = Vec::new();
    requests[4..].iter().for_each(|request| encode(request, &mut bytes));
    client.send(&bytes).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Simple("PONG".to_string()));
    assert!(client.call("WAIT 1 x").error().starts_with("ERR timeout"));
    let replies = client.pipeline(&["MULTI", "SET k w", "WAIT 2 0", "EXEC"].map(words));
    assert!(replies[3].error().starts_with("EXECABORT "), "{replies:?}");
    local.finish();
}

#[test]
fn replies_that_a_client_does_not_want_are_dropped() {
    let local = Local::start(PROXY);
    let mut client = Client::connect(replica_of(&local)).unwrap();
    let requests = ["CLIENT REPLY SKIP", "INCR n", "INCR n", "CLIENT REPLY OFF", "INCR n", "INCR n", "CLIENT REPLY ON"];
    let mut bytes = Vec::new();
    requests.iter().for_each(|request| encode(&words(request), &mut bytes));
    client.send(&bytes).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Integer(2));
    assert_eq!(client.receive().unwrap(), ok());
    assert_eq!(client.call("GET n"), bulk("4"));
    local.finish();
}

#[test]
fn a_pipeline_of_large_values_piles_nothing_up_at_the_node_that_passes_it_on() {
    const VALUE: usize = 8 << 20;
    let _alone = alone();
    let Some(cluster) = Cluster::start(PROXY) else { return };
    cluster.wait_until_whole();
    let replica = cluster.roles().1[0];
    let mut client = Client::connect(replica.addr).unwrap();
    client.set_patience(PATIENCE);
    let value = vec![b'x'; VALUE];
    assert_eq!(client.try_call(&[&b"SET"[..], b"big", &value]).unwrap(), ok());
    let before = replica.process.resident();
    let mut bytes = Vec::new();
    encode(&words("SET k v"), &mut bytes);
    (0..50).for_each(|_| encode(&words("GET big"), &mut bytes));
    client.send(&bytes).unwrap();
    assert_eq!(client.receive().unwrap(), ok());
    let mut most = 0;
    for _ in 0..50 {
        assert!(client.receive().unwrap() == Reply::Bulk(value.clone()));
        most = most.max(replica.process.resident().saturating_sub(before));
    }
    assert!(most < 10 * VALUE as u64, "{} MiB for one client", most >> 20);
    cluster.finish(&[]);
}

/// What one client has counted on its key.
struct Counted {
    key: String,
    acked: u64,
    unknown: u64,
    refused: u64,
    errors: Vec<String>,
}

/// Counts on a key of its own until it is told to stop, at `addrs` in turn when a connection ends; each count is read back where it was made.
fn count(key: String, addrs: Vec<SocketAddr>, stop: &AtomicBool, all: &AtomicU64) -> Counted {
    let mut counted = Counted { key: key.clone(), acked: 0, unknown: 0, refused: 0, errors: Vec::new() };
    let mut nodes = addrs.iter().cycle();
    'connection: while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = Client::connect(*nodes.next().expect("nodes go round")) else { continue };
        client.set_patience(Duration::from_secs(10));
        while !stop.load(Ordering::SeqCst) {
            let transaction = counted.acked % 8 == 7;
            let reply = if transaction {
                let mut bytes = Vec::new();
                ["MULTI".to_string(), format!("INCR {key}"), "EXEC".to_string()]
                    .iter()
                    .for_each(|r| encode(&words(r), &mut bytes));
                let replies =
                    client.send(&bytes).and_then(|()| (0..3).map(|_| client.receive()).collect::<Result<Vec<_>, _>>());
                replies.map(|mut replies| match replies.pop() {
                    Some(Reply::Array(mut results)) => results.pop().expect("INCR was answered"),
                    other => other.expect("EXEC was answered"),
                })
            } else {
                client.try_call(&["INCR", &key])
            };
            let value = match reply {
                Ok(Reply::Integer(value)) => value,
                Ok(Reply::Error(text)) if text.starts_with("UNKNOWN ") => {
                    counted.unknown += 1;
                    continue;
                }
                Ok(Reply::Error(text)) => {
                    let definite = ["CLUSTERDOWN ", "TRYAGAIN ", "LOADING ", "NOREPLICAS ", "EXECABORT "];
                    if definite.iter().any(|code| text.starts_with(code)) {
                        counted.refused += 1;
                    } else {
                        counted.errors.push(text);
                    }
                    continue;
                }
                Ok(other) => panic!("INCR was answered with {other:?}"),
                Err(_) => {
                    counted.unknown += 1;
                    continue 'connection;
                }
            };
            counted.acked += 1;
            all.fetch_add(1, Ordering::SeqCst);
            if (value as u64) < counted.acked || value as u64 > counted.acked + counted.unknown {
                counted
                    .errors
                    .push(format!("{key} is {value} after {} and {} unknown", counted.acked, counted.unknown));
            }
            match client.try_call(&["GET", &key]) {
                Ok(Reply::Bulk(read)) if read == value.to_string().as_bytes() => {}
                Ok(Reply::Error(_)) => counted.refused += 1,
                Ok(other) => counted.errors.push(format!("{key} was set to {value} and read as {other:?}")),
                Err(_) => continue 'connection,
            }
        }
    }
    counted
}

/// Lets clients of every node count while `disturb` does its work.
fn counting(cluster: &mut Cluster, disturb: impl FnOnce(&mut Cluster, &dyn Fn())) -> Vec<Counted> {
    let (stop, all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let addrs = cluster.addrs();
    let clients: Vec<_> = (0..addrs.len() * CLIENTS)
        .map(|i| {
            let (stop, all, mut addrs) = (stop.clone(), all.clone(), addrs.clone());
            let first = i % addrs.len();
            addrs.rotate_left(first);
            std::thread::spawn(move || count(format!("counter{i}"), addrs, &stop, &all))
        })
        .collect();
    let more = || {
        let want = all.load(Ordering::SeqCst) + 500;
        eventually(PATIENCE, "clients go on", || {
            let now = all.load(Ordering::SeqCst);
            if now >= want { Ok(()) } else { Err(format!("{now} of {want} counts")) }
        });
    };
    more();
    disturb(cluster, &more);
    more();
    stop.store(true, Ordering::SeqCst);
    let counted = clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
    cluster.wait_until_whole();
    counted
}

/// Every count was made once, whoever led.
fn check(cluster: &Cluster, counted: &[Counted]) {
    let leader = cluster.roles().0.addr;
    let mut client = Client::connect(leader).unwrap();
    for c in counted {
        assert!(c.errors.is_empty(), "{:?}", c.errors);
        let value: u64 = client.call(&format!("GET {}", c.key)).text().parse().unwrap();
        let (acked, unknown) = (c.acked, c.unknown);
        assert!(
            value >= acked && value <= acked + unknown,
            "{} is {value}: {acked} acknowledged, {unknown} unknown",
            c.key
        );
    }
}

#[test]
fn nothing_is_lost_or_done_twice_when_the_leader_is_killed() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(PROXY) else { return };
    let counted = counting(&mut cluster, |cluster, more| {
        for _ in 0..3 {
            let (leader, _) = cluster.wait_until_whole();
            cluster.nodes[leader].process.kill();
            more();
            cluster.nodes[leader].process.start();
            cluster.wait_until_whole();
        }
    });
    check(&cluster, &counted);
    let unknown: u64 = counted.iter().map(|c| c.unknown).sum();
    let acked: u64 = counted.iter().map(|c| c.acked).sum();
    println!("{acked} counts acknowledged, {unknown} unknown");
    cluster.finish(&[]);
}

#[test]
fn a_handover_is_noticed_by_nobody() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(PROXY) else { return };
    let counted = counting(&mut cluster, |cluster, more| {
        for _ in 0..3 {
            let leader = cluster.roles().0.addr;
            assert_eq!(support::client::ask(leader, "DATAKEEPER HANDOVER").unwrap(), ok());
            more();
            cluster.wait_until_whole();
        }
    });
    check(&cluster, &counted);
    for c in &counted {
        assert_eq!(c.refused, 0, "{}", c.key);
    }
    cluster.finish(&[]);
}
