//! Clients that send what no client should, or only half of it, many of them at once: everybody else is served meanwhile, the
//! process does not grow, nobody is elected.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::client::{Client, Reply, http_get};
use support::cluster::{Calm, Cluster, Node, PATIENCE, Process, alone, wait_until_whole};
use support::eventually;
use support::zookeeper::ZooKeeper;

/// Connections per kind of offence at a time. Each may make the node hold what it has sent, up to 64 KiB: many more of them would
/// be more than the bound without anything being wrong.
const MANY: usize = 4;
/// How often all of it is done, at least.
const WAVES: usize = 10;
/// PINGs that have to be answered beside them.
const PINGS_MIN: usize = 10;
/// Most that the process may grow by.
const GROWTH_MAX: u64 = 2 << 20;
/// Most time that a PING beside them may take.
const PING_MAX: Duration = Duration::from_secs(1);
/// Nested arrays of one request.
const DEPTH: usize = 200_000;

/// What a node does with an offence.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Says why, and closes.
    Closes,
    /// Waits for the rest.
    Waits,
}

/// Bytes that mean nothing, the same in each run.
fn garbage(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // No line end: lines would be taken for inline commands, one by one.
        bytes.extend(state.to_le_bytes().iter().filter(|byte| **byte != b'\n' && **byte != b'\r'));
    }
    bytes
}

fn offences() -> Vec<(&'static str, Vec<u8>, Then)> {
    vec![
        ("garbage", [b"*3\r\n".to_vec(), garbage(100 << 10), b"\r\n".to_vec()].concat(), Then::Closes),
        ("garbage without an end", garbage(100 << 10), Then::Closes),
        ("a bulk of 10 GB", b"*2\r\n$3\r\nGET\r\n$10000000000\r\nabc".to_vec(), Then::Closes),
        ("a negative bulk", b"*1\r\n$-5\r\n".to_vec(), Then::Closes),
        ("10 billion arguments", b"*10000000000\r\n$3\r\nGET\r\n".to_vec(), Then::Closes),
        ("nested arrays", b"*1\r\n".repeat(DEPTH), Then::Closes),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Then::Waits),
        ("half a length", b"*3\r\n$3\r\nSET\r\n$1".to_vec(), Then::Waits),
        ("half a value", b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$100\r\nabcdef".to_vec(), Then::Waits),
        ("the start of 512 MiB", b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$536870912\r\nabcdef".to_vec(), Then::Waits),
        ("an inline command without an end", b"SET half xxxxxxxxxxxxxxxxx".to_vec(), Then::Waits),
        ("nothing", Vec::new(), Then::Waits),
    ]
}

/// Commits an offence; returns the connection if the node waits for more.
fn offend(node: SocketAddr, (name, bytes, then): &(&'static str, Vec<u8>, Then)) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(node).unwrap_or_else(|e| panic!("{name}: no connection: {e}"));
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).expect("timeouts above zero");
    // The node may close before it has read all of it.
    let sent = stream.write_all(bytes);
    if *then == Then::Waits {
        sent.unwrap_or_else(|e| panic!("{name}: the node closed the connection: {e}"));
        return Some(stream);
    }
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("-ERR Protocol error: "), "{name}: {answer:?}, then {end:?}");
    assert!(answer.len() < 300 && answer.ends_with("\r\n"), "{name}: {answer:?}");
    None
}

/// Pings until told to stop, and counts in `pings`; the slowest reply, and the most memory that the process had.
fn watch(node: SocketAddr, process: &Process, stop: &AtomicBool, pings: &AtomicUsize) -> (Duration, u64) {
    let mut client = Client::connect(node).expect("a connection");
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        assert_eq!(client.call("PING").text(), "PONG");
        slowest = slowest.max(asked.elapsed());
        most = most.max(process.resident());
        pings.fetch_add(1, Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    (slowest, most)
}

/// How long a transaction of so many BITCOUNTs of `key` takes, which holds the lock for all of it.
fn count_bits(client: &mut Client, times: usize) -> Duration {
    let began = Instant::now();
    let words = |i| match i {
        0 => vec!["MULTI"],
        i if i == times + 1 => vec!["EXEC"],
        _ => vec!["BITCOUNT", "bits"],
    };
    let requests: Vec<Vec<&str>> = (0..times + 2).map(words).collect();
    let replies = client.pipeline(&requests);
    assert!(matches!(replies.last(), Some(Reply::Array(counts)) if counts.len() == times), "{:?}", replies.last());
    began.elapsed()
}

#[test]
fn a_transaction_that_holds_the_lock_for_seconds_deposes_nobody() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, _) = cluster.roles();
    let mut client = leader.client();
    client.set_patience(Duration::from_secs(30));
    assert_eq!(client.call("SETBIT bits 268435455 1"), Reply::Integer(0));
    let calm = Calm::now(&cluster);
    let (mut times, mut long) = (8, 0);
    // As often as it takes until two holds were as long as they should be: longer ones than five seconds are another matter.
    for _ in 0..12 {
        let took = count_bits(&mut client, times);
        assert!(took < Duration::from_secs(5), "the machine is too slow for this test: {took:?}");
        calm.assert_still(&cluster);
        long += usize::from(took >= Duration::from_secs(2));
        if long == 2 {
            break;
        }
        let scale = 3.0 / took.as_secs_f64().max(0.01);
        times = (times as f64 * scale.min(8.0)) as usize;
    }
    assert_eq!(long, 2, "no hold lasted for two seconds");
    cluster.finish(&[]);
}

#[test]
fn hostile_clients_harm_nobody() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, _) = cluster.roles();
    let offences = offences();
    // One wave without counting: code is loaded, and threads get the buffers that so many at a time need and that they keep.
    // What is measured is what further offenders add.
    let wave = || {
        let many = |offence| (0..MANY).map(|_| offend(leader.addr, offence)).collect::<Vec<Option<TcpStream>>>();
        std::thread::scope(|scope| {
            let offenders: Vec<_> = offences.iter().map(|offence| scope.spawn(move || many(offence))).collect();
            offenders.into_iter().map(|o| o.join().expect("an answer to each offence")).collect::<Vec<_>>()
        })
    };
    drop(wave());
    assert!(leader.client().call("SET warm up").is_ok());

    let calm = Calm::now(&cluster);
    let before = leader.process.resident();
    let (stop, pings) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (slowest, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(leader.addr, &leader.process, &stop, &pings));
        let mut waves = 0;
        while waves < WAVES || (pings.load(Ordering::SeqCst) < PINGS_MIN && !watcher.is_finished()) {
            waves += 1;
            let held = wave();
            // Those who stopped half-way still hold their connections.
            assert!(leader.client().call("SET meanwhile served").is_ok());
            calm.assert_still(&cluster);
            drop(held);
        }
        stop.store(true, Ordering::SeqCst);
        watcher.join().expect("PONG to each PING")
    });
    let growth = most.saturating_sub(before);
    let pings = pings.into_inner();
    println!("{pings} PINGs, the slowest took {slowest:?}; memory grew by {} KiB", growth >> 10);
    assert!(pings >= PINGS_MIN, "{pings} PINGs");
    assert!(slowest < PING_MAX, "a PING took {slowest:?}");
    assert!(growth < GROWTH_MAX, "memory grew by {growth} bytes, from {before}");
    assert_eq!(leader.client().call("EXISTS half"), Reply::Integer(0), "half a command is none");
    calm.assert_still(&cluster);
    cluster.finish(&[]);
}

#[test]
fn wrong_commands_are_answered_and_the_connection_lives() {
    let _alone = alone();
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (leader, _) = cluster.roles();
    let mut client = leader.client();
    assert!(client.call("SET text abc").is_ok());
    for (words, wanted) in [
        ("nonsense", "ERR unknown command 'nonsense', with args beginning with: "),
        ("nonsense a b", "ERR unknown command 'nonsense', with args beginning with: 'a' 'b' "),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("SET a", "ERR wrong number of arguments for 'set' command"),
        ("SET a b EX", "ERR syntax error"),
        ("SET a b EX 0", "ERR invalid expire time in 'set' command"),
        ("INCR text", "ERR value is not an integer or out of range"),
        ("SELECT 1", "ERR "),
        ("CLIENT nonsense", "ERR unknown subcommand 'nonsense'. Try CLIENT HELP."),
        ("CLUSTER nonsense", "ERR unknown subcommand 'nonsense'. Try CLUSTER HELP."),
    ] {
        let reply = client.call(words);
        assert!(reply.error().starts_with(wanted), "{words}: {reply:?}");
    }
    client.send(b"no such inline command\r\nPING\r\n").expect("the connection lives");
    assert!(client.receive().expect("a reply").error().starts_with("ERR unknown command 'no'"));
    assert_eq!(client.receive().expect("a reply").text(), "PONG");
    client.send(b"\r\n\r\nPING\r\n").expect("the connection lives");
    assert_eq!(client.receive().expect("a reply").text(), "PONG");
    cluster.finish(&[]);
}

#[test]
fn idle_clients_leave_files_to_links_zookeeper_and_operators() {
    let _alone = alone();
    let Some(mut zookeeper) = ZooKeeper::start() else { return };
    let address = zookeeper.address();
    let mut nodes: Vec<Node> = ["n1", "n2"].map(|name| Node::new(name, &address, &[])).into();
    for node in &mut nodes {
        node.process.set_open_files(164);
        node.process.start();
    }
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let (leader, _) = wait_until_whole(&addrs);
    let maximum = Reply::Array(vec![Reply::Bulk(b"maxclients".to_vec()), Reply::Bulk(b"64".to_vec())]);
    assert_eq!(nodes[leader].client().call("CONFIG GET maxclients"), maximum);
    assert!(nodes[leader].client().call("INFO clients").text().contains("maxclients:64\r\n"));
    // More than there are files, at each node, and as many operators who do not say what they want.
    let idle: Vec<TcpStream> = nodes
        .iter()
        .flat_map(|node| [node.addr; 400].into_iter().chain([node.admin; 100]))
        .map(|addr| TcpStream::connect(addr).expect("a connection is taken, if only to be turned away"))
        .collect();
    eventually(PATIENCE, "those that are too many are told", || {
        let refused = idle[..400].iter().filter(|socket| is_told(socket)).count();
        if refused >= 400 - 64 { Ok(()) } else { Err(format!("{refused} of 400")) }
    });
    for node in &nodes {
        assert!(http_get(node.admin, "/healthz").starts_with("HTTP/1.1 200"), "{} is healthy", node.name);
        assert!(http_get(node.admin, "/ready").starts_with("HTTP/1.1 200"), "{} is ready", node.name);
    }
    // A link and a pulse of a process that comes back, and a session with a ZooKeeper that does.
    let other = 1 - leader;
    nodes[other].process.kill();
    nodes[other].process.start();
    zookeeper.kill();
    zookeeper.restart();
    eventually(PATIENCE, "the replica is in sync again and ZooKeeper is in contact", || {
        let ready = http_get(nodes[other].admin, "/ready");
        let metrics = http_get(nodes[leader].admin, "/metrics");
        let back = ready.starts_with("HTTP/1.1 200")
            && metrics.contains("datakeeper_in_sync_members{node=\"n1\"} 2")
                | metrics.contains("datakeeper_in_sync_members{node=\"n2\"} 2")
            && metrics.contains("datakeeper_coordinator_connected")
            && metrics.contains("} 1");
        if back { Ok(()) } else { Err(format!("{ready}{metrics}")) }
    });
    drop(idle);
}

/// Whether the node has said that there is no room, or closed the connection after that.
fn is_told(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("an option of a socket");
    let mut said = [0; 64];
    let told = socket.peek(&mut said).is_ok_and(|n| said[..n].starts_with(b"-ERR max number of clients reached"));
    socket.set_nonblocking(false).expect("an option of a socket");
    told
}

#[test]
fn a_node_that_may_open_too_few_files_does_not_start_and_says_what_to_do() {
    let mut node = Node::new("n1", "127.0.0.1:1", &[]);
    node.process.set_open_files(131);
    node.process.start();
    assert_eq!(node.process.wait().code(), Some(1));
    let log = node.process.log();
    assert!(log.contains("may open 131 files") && log.contains("LimitNOFILE=10100"), "{log}");
}
