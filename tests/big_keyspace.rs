//! Commands whose work grows with the number of keys, on many keys, while others write: `KEYS *`, `redis-cli --bigkeys`, FLUSHALL.
//! They take their time; nobody is suspected, nobody is elected, and others are served in between.
//!
//! Run with `--release` for the number of keys that this is meant for.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::client::{Client, Reply, encode};
use support::cluster::{Calm, Cluster, PATIENCE, alone};
use support::writers::{Load, Writers};
use support::{eventually, tools};

/// Keys.
const KEYS: usize = if cfg!(debug_assertions) { 200_000 } else { 5_000_000 };
/// Keys per MSET, and MSETs per write, of the loader.
const BATCH: (usize, usize) = (100, 10);
/// Most time that a PING may take meanwhile.
const PING_MAX: Duration = Duration::from_secs(1);
/// The longest of these commands takes less, on a slow machine, too.
const LONG: Duration = Duration::from_secs(120);

fn load(node: SocketAddr, keys: usize) {
    let mut client = Client::connect(node).expect("a connection");
    client.set_patience(LONG);
    let (per_command, commands) = BATCH;
    let mut next = 0;
    let mut bytes = Vec::new();
    // One write is under way while the replies to the one before are read.
    let mut outstanding = 0;
    while next < keys || outstanding > 0 {
        bytes.clear();
        let mut sent = 0;
        while next < keys && sent < commands {
            let mut words = vec!["MSET".to_string()];
            for i in next..(next + per_command).min(keys) {
                words.extend([format!("key:{i:010}"), format!("value:{i:016}")]);
            }
            next = (next + per_command).min(keys);
            encode(&words, &mut bytes);
            sent += 1;
        }
        client.send(&bytes).expect("the node reads");
        for _ in 0..std::mem::replace(&mut outstanding, sent) {
            let reply = client.receive().expect("a reply");
            assert!(reply.is_ok(), "{reply:?}");
        }
    }
}

/// Does something while others ping; returns how long the slowest PING took.
fn with_pings<T>(node: SocketAddr, work: impl FnOnce() -> T) -> (T, Duration) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut client = Client::connect(node).expect("a connection");
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::SeqCst) {
                let asked = Instant::now();
                assert_eq!(client.call("PING").text(), "PONG");
                slowest = slowest.max(asked.elapsed());
                std::thread::park_timeout(Duration::from_millis(1));
            }
            slowest
        });
        let done = work();
        stop.store(true, Ordering::SeqCst);
        (done, pings.join().expect("PONG to each PING"))
    })
}

#[test]
fn commands_over_all_keys_leave_epoch_and_in_sync_set_as_they_were() {
    let _alone = alone();
    if !tools::have_redis_tools() {
        return;
    }
    let Some(cluster) = Cluster::start(&[]) else { return };
    let addrs = cluster.addrs();
    let (leader, _) = cluster.roles();
    let calm = Calm::now(&cluster);
    let began = Instant::now();
    load(leader.addr, KEYS);
    println!("{KEYS} keys loaded in {:?}", began.elapsed());
    calm.assert_still(&cluster);

    let writers = Writers::start("load", &addrs, Load::LIGHT);
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        let acked = writers.acked_total();
        let ((), slowest) = with_pings(leader.addr, work);
        let took = began.elapsed();
        println!(
            "{what}: {took:?}; slowest PING {slowest:?}; {} writes answered meanwhile",
            writers.acked_total() - acked
        );
        assert!(slowest < PING_MAX, "{what}: a PING took {slowest:?}");
        calm.assert_still(&cluster);
    };
    timed("KEYS *", &mut || {
        let mut client = leader.client();
        client.set_patience(LONG);
        client.send(b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n").expect("the node reads");
        let keys = client.skim_array().expect("an array of keys");
        assert!(keys >= KEYS, "{keys} keys");
    });
    timed("redis-cli --bigkeys", &mut || {
        let said = tools::run("redis-cli", leader.addr, &["--bigkeys"], b"");
        let sampled = said.text.lines().find_map(|line| line.strip_prefix("Sampled "));
        let sampled: usize = sampled.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
        assert!(said.code == Some(0) && sampled >= KEYS, "--bigkeys: {:?}: {}", said.code, said.text);
    });
    timed("FLUSHALL", &mut || {
        let mut client = leader.client();
        client.set_patience(LONG);
        assert!(client.call("FLUSHALL").is_ok());
        // What is left is what was written since.
        let Reply::Integer(left) = client.call("DBSIZE") else { panic!("DBSIZE is a number") };
        assert!(left < KEYS as i64 / 2, "{left} keys are left");
    });
    let story = writers.stop();
    assert!(story.acked > 1000, "writes went on: {} were answered", story.acked);
    let size = leader.client().call("DBSIZE");
    for node in &cluster.nodes {
        let same = || match node.client().call("DBSIZE") {
            found if found == size => Ok(()),
            other => Err(format!("{other:?} at {}, {size:?} at {}", node.name, leader.name)),
        };
        eventually(PATIENCE, "every node has flushed", same);
    }
    calm.assert_still(&cluster);
    cluster.finish(&[]);
}
