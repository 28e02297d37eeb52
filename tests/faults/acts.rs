//! What the faults do that are more than a signal.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use datakeeper::base::ids::Epoch;
use datakeeper::replication::wire;

use crate::support::client::{Client, Reply};
use crate::support::cluster::{Cluster, PATIENCE, run, status_of};
use crate::support::eventually;
use zookeeper_client as zk;

/// What a line between two nodes carries where fills are slow, bytes per second.
pub const NARROW: u32 = 4 << 20;
/// Values of [`FILLER`] bytes that make fills slow.
const FILLERS: usize = 150;
const FILLER: usize = 100_000;
/// Place of the node whose clock is wrong.
pub const WRONG: usize = 2;
/// How long a key is to live, and how much longer it may on a busy machine, ms.
const LIFE_MS: u64 = 2_000;
const GRACE_MS: u64 = 1_000;
/// Transactions of so many BITCOUNTs tell how long one takes.
const COUNTS: usize = 20;
/// Connections of strangers to each node, and frames on each.
const STRANGERS: usize = 8;
const FRAMES: usize = 3_000;

fn leader_of(cluster: &Cluster) -> Client {
    cluster.nodes[cluster.wait_until_whole().0].client()
}

/// A backup of ZooKeeper is made, and every node is restarted after it.
pub fn restart_after_a_backup(cluster: &mut Cluster) {
    cluster.zookeeper.kill();
    cluster.zookeeper.back_up();
    cluster.zookeeper.restart();
    for i in 0..cluster.nodes.len() {
        cluster.wait_until_whole();
        assert!(cluster.nodes[i].process.terminate().success());
        cluster.nodes[i].process.start();
    }
}

/// ZooKeeper is set back to its backup; whoever is told of it adopts the copy of the node that led.
pub fn restore_and_adopt(cluster: &mut Cluster, leader: usize) {
    cluster.zookeeper.kill();
    cluster.zookeeper.restore();
    cluster.zookeeper.restart();
    for addr in cluster.addrs() {
        eventually(PATIENCE, "every node halts", || match status_of(addr) {
            Ok(status) if status.role == "halted" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let (name, at) = (&cluster.nodes[leader].name, cluster.nodes[leader].addr.to_string());
    eventually(PATIENCE, "it is adopted", || {
        let said = run(&["admin", "adopt", name, "--connect", &at, "--confirm", "main"]);
        if said.code == Some(0) { Ok(()) } else { Err(said.text) }
    });
}

/// So much data that a fill over narrow lines takes seconds.
pub fn fill(cluster: &mut Cluster) {
    let mut client = leader_of(cluster);
    let value = "x".repeat(FILLER);
    for i in 0..FILLERS {
        assert!(client.call(&format!("SET filler:{i} {value}")).is_ok());
    }
}

/// Each node is told to end and started as soon as it has; nobody looks at anything.
pub fn restart_blindly(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        assert!(node.process.terminate().success());
        node.process.start();
    }
}

/// Three nodes, of which one reads a wall clock that is wrong; none, with a message, where there is no ZooKeeper.
pub fn cluster_with_a_wrong_clock(seconds: i64, more: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::prepare(more)?;
    let node = &mut cluster.nodes[WRONG].process;
    node.set_env("LD_PRELOAD", &wrong_clock().display().to_string());
    node.set_env("WRONG_CLOCK_SECONDS", &seconds.to_string());
    Some(cluster.started())
}

/// A library that stands before the system's and shifts the wall clock, built by the C compiler of the machine.
fn wrong_clock() -> PathBuf {
    let (source, library) = (
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/faults/wrong_clock.c"),
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wrong_clock.so"),
    );
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).output();
    let built = built.expect("a C compiler (on Debian: apt-get install build-essential)");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

/// Hands over until a node leads for which `fits` holds.
pub fn hand_over(cluster: &mut Cluster, fits: fn(usize) -> bool) {
    let (leader, epoch) = cluster.wait_until_whole();
    if fits(leader) {
        return;
    }
    let successor = (0..cluster.nodes.len()).find(|node| fits(*node)).expect("a node that fits");
    hand_over_to(cluster, leader, epoch, successor);
}

fn hand_over_to(cluster: &Cluster, leader: usize, epoch: Epoch, successor: usize) {
    let reply =
        cluster.nodes[leader].client().call(&format!("DATAKEEPER HANDOVER TO {}", cluster.nodes[successor].name));
    assert!(reply.is_ok(), "{reply:?}");
    eventually(PATIENCE, "it leads", || match cluster.wait_until_whole() {
        (now, later) if now == successor && later > epoch => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Keys are written with a time to live, then the node with the wrong clock is made the leader.
pub fn let_the_wrong_clock_lead(cluster: &mut Cluster) {
    let (leader, epoch) = cluster.wait_until_whole();
    assert!(cluster.nodes[leader].client().call("SET lives:long x PX 600000").is_ok());
    hand_over_to(cluster, leader, epoch, WRONG);
}

/// What was written under the former leader lives as long as it was told to, and so does what is written now.
pub fn assert_keys_live_as_said(cluster: &mut Cluster) {
    let mut client = leader_of(cluster);
    let Reply::Integer(left) = client.call("PTTL lives:long") else { panic!("PTTL") };
    assert!((500_000..=600_000).contains(&left), "{left} ms are left of 600,000");
    let set = Instant::now();
    assert!(client.call(&format!("SET lives:short x PX {LIFE_MS}")).is_ok());
    eventually(PATIENCE, "a key ends", || match client.call("GET lives:short") {
        Reply::Null => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let lived = u64::try_from(set.elapsed().as_millis()).expect("milliseconds");
    let wanted = LIFE_MS * 89 / 100..=LIFE_MS * 11 / 10 + GRACE_MS;
    assert!(wanted.contains(&lived), "a key that was to live {LIFE_MS} ms lived {lived}");
}

/// A value of 32 MiB, whose bits are slow to count.
pub fn set_bits(cluster: &mut Cluster) {
    assert!(matches!(leader_of(cluster).call("SETBIT bits 268435455 1"), Reply::Integer(_)));
}

/// Counts the bits so often in one transaction that the leader's lock is held for so long; since when.
pub fn hold(cluster: &mut Cluster, leader: usize, ms: u64) -> Instant {
    let mut client = cluster.nodes[leader].client();
    client.set_patience(PATIENCE);
    let mut count = |times: usize| {
        let began = Instant::now();
        let requests = std::iter::once("MULTI").chain(std::iter::repeat_n("BITCOUNT bits", times)).chain(["EXEC"]);
        let requests: Vec<Vec<&str>> = requests.map(|request| request.split(' ').collect()).collect();
        assert!(matches!(client.pipeline(&requests).last(), Some(Reply::Array(_))));
        began
    };
    let each = count(COUNTS).elapsed() / COUNTS as u32;
    count((Duration::from_millis(ms).as_secs_f64() / each.as_secs_f64()) as usize)
}

/// An entry of the directory of nodes that is none.
pub fn put_rubbish(cluster: &mut Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = zk::Client::connect(&cluster.zookeeper.address()).await.expect("a session");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        match client.create("/datakeeper/main/nodes/n9", b"rubbish", &options).await {
            Ok(_) | Err(zk::Error::NodeExists) => {}
            Err(e) => panic!("{e}"),
        }
    });
}

/// Strangers, who say no hello, tell every node of an epoch that nobody knows, over and over.
pub fn send_strangers_frames(cluster: &mut Cluster) {
    let frame = wire::stale(Epoch(1 << 50));
    let frames = frame.repeat(FRAMES);
    let ports: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.replication).collect();
    for port in ports.iter().flat_map(|port| std::iter::repeat_n(port, STRANGERS)) {
        let mut stranger = TcpStream::connect(port).expect("a replication port");
        // They are hung up on before all of it is written.
        let _ = stranger.write_all(&frames);
    }
}

/// Three nodes, the second of this build and the others of the first one that promised to stand beside it; none, with a message, if that was not built.
pub fn cluster_of_two_versions(more: &[&str]) -> Option<Cluster> {
    let first = std::env::var_os("DATAKEEPER_VERSIONS").map(|directory| PathBuf::from(directory).join("first"));
    let Some(first) = first.filter(|path| fs::exists(path).unwrap_or(false)) else {
        eprintln!("SKIPPED: DATAKEEPER_VERSIONS names no directory with a first version; scripts/faults makes it");
        return None;
    };
    let mut cluster = Cluster::prepare(more)?;
    for i in [0, 2] {
        cluster.nodes[i].process.set_binary(Some(first.clone()));
    }
    Some(cluster.started())
}
