//! Clients that follow redirects see no error while the leadership is handed over, by command and by SIGTERM: redis-rs's cluster clients, and plain
//! connections that go where `-MOVED` says. Prints how long their slowest write took, which is the pause.
//!
//! redis-rs's blocking cluster client (1.8) takes part in handovers only: when a node whose connection it has kept has ended, it fails each
//! refresh of its slots that happens to ask there, with any cluster.
//!
//! What is lost (nothing) is `faults/`'s business; here it is what clients are told.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Commands;
use redis::cluster::{ClusterClient, ClusterConnection};
use support::client::{Client, bulk};
use support::cluster::{Cluster, alone};

/// Handovers in a row.
const HANDOVERS: usize = 10;
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Keys of each client, written in turn.
const KEYS: u64 = 100;
/// Longest pause that a handover may cause here, where other tests' processes may take the processor away.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What clients of one kind have seen.
#[derive(Default)]
struct Seen {
    /// Writes answered OK.
    acked: u64,
    /// The slowest of them since this was looked at last.
    slowest: Duration,
    /// What they were told beside OK and redirects.
    errors: Vec<String>,
    /// Latest value of every key.
    values: Vec<(String, u64)>,
}

/// Running clients.
struct Clients {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

/// Writes one key, wherever the leader is.
type Write = Box<dyn FnMut(&str, u64) -> Result<(), String> + Send>;

impl Clients {
    fn start(kind: &'static str, new: impl Fn() -> Write) -> Clients {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let thread = |number: usize| {
            let (stop, seen, mut write) = (Arc::clone(&stop), Arc::clone(&seen), new());
            std::thread::spawn(move || {
                let mut values = vec![0; KEYS as usize];
                let key = |i: u64| format!("{kind}:{number}:{i}");
                for value in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let began = Instant::now();
                    let result = write(&key(value % KEYS), value);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(()) => {
                            seen.acked += 1;
                            seen.slowest = seen.slowest.max(began.elapsed());
                            values[(value % KEYS) as usize] = value;
                        }
                        Err(text) => seen.errors.push(text),
                    }
                }
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.values.extend(values.into_iter().zip(0..).map(|(value, i)| (key(i), value)));
            })
        };
        Clients { threads: (0..CLIENTS).map(thread).collect(), stop: Arc::clone(&stop), seen: Arc::clone(&seen) }
    }

    /// The slowest write since this was asked last.
    fn slowest(&self) -> Duration {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).slowest)
    }

    fn acked(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).acked
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client does not panic"));
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A plain connection that goes where it is sent.
fn plain(first: SocketAddr) -> Write {
    let mut client = Client::connect(first).expect("a connection");
    Box::new(move |key, value| {
        for _ in 0..5 {
            let reply = client.try_call(&["SET", key, &value.to_string()]).map_err(|e| e.to_string())?;
            if reply.is_ok() {
                return Ok(());
            }
            let moved = reply.error().strip_prefix("MOVED ").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            let addr = moved.ok_or_else(|| format!("{reply:?}"))?;
            client = Client::connect(addr).map_err(|e| format!("{addr}: {e}"))?;
        }
        Err("redirected five times".to_string())
    })
}

/// redis-rs's blocking cluster client, as it comes.
fn blocking(nodes: &[SocketAddr]) -> Write {
    let client = ClusterClient::new(urls(nodes)).expect("a client");
    let mut connection: ClusterConnection = client.get_connection().expect("a connection");
    Box::new(move |key, value| connection.set(key, value).map_err(|e| e.to_string()))
}

/// redis-rs's asynchronous cluster client, as it comes.
fn asynchronous(nodes: &[SocketAddr]) -> Write {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = ClusterClient::new(urls(nodes)).expect("a client");
    let mut connection = runtime.block_on(client.get_async_connection()).expect("a connection");
    Box::new(move |key, value| {
        let set = redis::AsyncCommands::set::<_, _, ()>(&mut connection, key, value);
        runtime.block_on(set).map_err(|e| e.to_string())
    })
}

fn urls(nodes: &[SocketAddr]) -> Vec<String> {
    nodes.iter().map(|addr| format!("redis://{addr}/")).collect()
}

/// Waits until all kinds have written a good deal more.
fn let_them_write(clients: &[(&'static str, Clients)]) {
    let before: Vec<u64> = clients.iter().map(|(_, c)| c.acked()).collect();
    support::eventually(Duration::from_secs(30), "clients write", || {
        let more: Vec<u64> = clients.iter().zip(&before).map(|((_, c), before)| c.acked() - before).collect();
        if more.iter().all(|n| *n >= 400) { Ok(()) } else { Err(format!("{more:?}")) }
    });
}

/// The slowest write of each kind since this was asked last.
fn slowest(clients: &[(&'static str, Clients)]) -> Vec<Duration> {
    clients.iter().map(|(_, c)| c.slowest()).collect()
}

/// Ends clients, and looks for what they wrote.
fn finish(kind: &str, clients: Clients, cluster: &Cluster) {
    let seen = clients.stop();
    println!("{kind}: {} writes", seen.acked);
    assert!(seen.errors.is_empty(), "{kind} clients saw errors: {:?}", &seen.errors[..seen.errors.len().min(10)]);
    let mut client = cluster.roles().0.client();
    for (key, value) in seen.values {
        assert_eq!(client.call(&format!("GET {key}")), bulk(&value.to_string()), "{key}");
    }
}

#[test]
fn clients_that_follow_redirects_see_no_error_while_the_leadership_is_handed_over() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start(&[]) else { return };
    let nodes = cluster.addrs();
    let (leader, _) = cluster.wait_until_whole();
    let mut clients = vec![
        ("plain", Clients::start("plain", || plain(nodes[leader]))),
        ("asynchronous", Clients::start("asynchronous", || asynchronous(&nodes))),
        ("blocking", Clients::start("blocking", || blocking(&nodes))),
    ];
    let_them_write(&clients);
    println!("slowest write without a handover; plain, asynchronous, blocking: {:?}", slowest(&clients));
    let mut pauses = Vec::new();
    for _ in 0..HANDOVERS {
        let (leader, _) = cluster.wait_until_whole();
        slowest(&clients);
        assert!(cluster.nodes[leader].client().call("DATAKEEPER HANDOVER").is_ok());
        let_them_write(&clients);
        pauses.push(slowest(&clients));
    }
    println!("in {HANDOVERS} handovers: {pauses:?}");
    let (kind, blocking) = clients.pop().expect("three kinds");
    finish(kind, blocking, &cluster);
    for node in 0..nodes.len() {
        cluster.wait_until_whole();
        slowest(&clients);
        assert!(cluster.nodes[node].process.terminate().success(), "exit code of a node that left");
        let_them_write(&clients);
        println!("slowest write while n{} was ended by SIGTERM: {:?}", node + 1, slowest(&clients));
        cluster.nodes[node].process.start();
    }
    cluster.wait_until_whole();
    for (kind, clients) in clients {
        finish(kind, clients, &cluster);
    }
    let slowest = pauses.into_iter().flatten().max().expect("handovers");
    assert!(slowest < PAUSE_MAX, "a write waited {slowest:?}");
    cluster.finish(&[]);
}
