//! One fault under load, and what it did to those who were served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use crate::fault::Fault;
use crate::registers::Registers;
use crate::support::client::{Client, Reply, ask};
use crate::support::cluster::{Cluster, PATIENCE};
use crate::support::eventually;
use crate::support::writers::{RECOVERY_MAX, Writers, first_write_after, wait_for_load};

/// Keys after which a cluster is emptied, so that memory and copies stay small.
const KEYS_MAX: i64 = 100_000;
/// Keys that are read at a time when nodes are compared.
const KEYS_PER_READ: usize = 5_000;

/// What came of one fault.
pub struct Verdict {
    /// Promises to writers that the leader does not keep: one line each.
    pub lost: Vec<String>,
    /// Registers whose answers no order explains: one story each.
    pub broken: Vec<String>,
    /// Reads at the leader that were older than allowed: one line each.
    pub stale: Vec<String>,
    /// From the fault to the first write that was answered OK; the longest, if several nodes were struck.
    pub first_write: Duration,
    /// Longest time without an answered write, as the clients of registers saw it.
    pub pause: Duration,
    /// What nodes have that others have not; empty if they are identical.
    pub differences: Vec<String>,
    acked: usize,
    unknown: usize,
    reads: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, broken, stale) = (self.lost.len(), self.broken.len(), self.stale.len());
        write!(
            f,
            "{lost} of {} acknowledged writes lost ({} unknown), {broken} registers not linearizable, {stale} of {} reads stale, \
             first write after {:?}, longest pause {:?}",
            self.acked, self.unknown, self.reads, self.first_write, self.pause
        )
    }
}

/// Lets a fault happen under load; `run` keeps its keys apart from those of other runs.
///
/// # Panics
/// If the cluster does not recover, or somebody was deposed who should not, or the reverse.
pub fn trial(cluster: &mut Cluster, run: &str, fault: Fault) -> Verdict {
    let nodes = cluster.addrs();
    empty_if_large(nodes[cluster.wait_until_whole().0]);
    fault.prepare(cluster);
    let (leader, epoch) = cluster.wait_until_whole();
    let writers = Writers::start(run, &nodes, fault.load());
    let registers = Registers::start(run, &nodes);
    wait_for_load(&writers);
    let mut first_write = Duration::ZERO;
    for target in fault.targets(leader) {
        registers.wait_for_more();
        let struck = fault.strike(cluster, target);
        let first = first_write_after(struck, &nodes, RECOVERY_MAX);
        first_write = first_write.max(first.unwrap_or_else(|| panic!("no write was accepted for {RECOVERY_MAX:?}")));
        fault.mend(cluster, target, struck);
        cluster.wait_until_whole();
    }
    registers.wait_for_more();
    let (successor, later) = cluster.wait_until_whole();
    if let Some(deposed) = fault.deposes() {
        let found = (successor != leader, later > epoch);
        assert_eq!(found, (deposed, deposed), "{leader} led in epoch {epoch}, {successor} leads in epoch {later}");
    }
    // Somebody may have moved.
    let nodes = cluster.addrs();
    let (story, history) = (writers.stop(), registers.stop(nodes[successor]));
    Verdict {
        lost: story.contradictions(nodes[successor]).expect("the leader answers"),
        broken: history.broken(),
        stale: history.stale(),
        first_write,
        pause: history.pause(),
        differences: differences(&nodes, successor),
        acked: story.acked,
        unknown: story.unknown,
        reads: history.reads(),
    }
}

fn empty_if_large(leader: SocketAddr) {
    match ask(leader, "DBSIZE").expect("the leader answers") {
        Reply::Integer(keys) if keys < KEYS_MAX => {}
        _ => assert!(ask(leader, "FLUSHALL").expect("the leader answers").is_ok()),
    }
}

/// Keys that replicas have otherwise than the leader, once they had time to apply everything.
fn differences(nodes: &[SocketAddr], leader: usize) -> Vec<String> {
    let wanted = contents(nodes[leader]);
    let mut lines = Vec::new();
    for node in nodes {
        eventually(PATIENCE, "a replica applies what the leader has", || match ask(*node, "DBSIZE") {
            Ok(Reply::Integer(keys)) if keys == wanted.len() as i64 => Ok(()),
            other => Err(format!("{other:?}, the leader has {}", wanted.len())),
        });
        let mut found = contents(*node);
        for (key, value) in &wanted {
            if found.remove(key).as_ref() != Some(value) {
                lines.push(format!("{} at {node} is not as at the leader", String::from_utf8_lossy(key)));
            }
        }
        lines.extend(found.keys().map(|key| format!("{} is at {node} alone", String::from_utf8_lossy(key))));
    }
    lines
}

/// Every key of a node, and a checksum of its value. A machine that is busy with other things may change leaders here, too, and a leader that is
/// deposed closes its clients: then it is read again.
fn contents(node: SocketAddr) -> BTreeMap<Vec<u8>, u32> {
    let mut found = BTreeMap::new();
    eventually(PATIENCE, "all keys of a node are read", || {
        found = read_all(node)?;
        io::Result::Ok(())
    });
    found
}

/// # Errors
/// The connection ended before all was read.
fn read_all(node: SocketAddr) -> io::Result<BTreeMap<Vec<u8>, u32>> {
    let mut client = Client::connect(node)?;
    let mut found = BTreeMap::new();
    let mut cursor = b"0".to_vec();
    loop {
        let count = KEYS_PER_READ.to_string();
        let scan = client.try_call(&[b"SCAN".as_slice(), &cursor, b"COUNT", count.as_bytes()])?;
        let Reply::Array(parts) = scan else { panic!("SCAN at {node}: {scan:?}") };
        let [Reply::Bulk(next), Reply::Array(keys)] = &parts[..] else { panic!("SCAN at {node}: {parts:?}") };
        let keys = keys.iter().map(|key| if let Reply::Bulk(key) = key { key.clone() } else { panic!("{key:?}") });
        let keys: Vec<Vec<u8>> = keys.collect();
        if !keys.is_empty() {
            let mget: Vec<&[u8]> = std::iter::once(b"MGET".as_slice()).chain(keys.iter().map(Vec::as_slice)).collect();
            let values = client.try_call(&mget)?;
            let Reply::Array(values) = values else { panic!("MGET at {node}: {values:?}") };
            let sums =
                values.iter().map(|value| if let Reply::Bulk(value) = value { crc32fast::hash(value) } else { 0 });
            found.extend(keys.into_iter().zip(sums));
        }
        cursor.clone_from(next);
        if cursor == b"0" {
            return Ok(found);
        }
    }
}
