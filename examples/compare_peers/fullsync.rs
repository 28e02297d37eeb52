//! Part `fullsync`: a replica is filled from a leader under load: how long it takes, what memory it costs the leader, what clients feel.
//!
//! Ours are two processes around a ZooKeeper, which has to be installed; peers are told `--replicaof` and send at once, without the
//! delay in which they would wait for a second replica. What a peer's forked child copied counts as its leader's memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{park_timeout, scope};
use std::time::{Duration, Instant};

use crate::expiry::{BEFORE, ROUNDS_MAX};
use crate::load::{Kind, Load, Work};
use crate::server::{Program, Server};
use crate::support::zookeeper::ZooKeeper;
use crate::{Bench, CONNECTIONS, report};

/// Writes per second.
const RATE: f64 = 20_000.0;

impl Bench {
    pub fn fullsync(&mut self) {
        let zookeeper = self.programs.iter().any(|program| program.ours).then(ZooKeeper::start).flatten();
        let mut figures = vec![Vec::new(); self.programs.len()];
        for round in 0..self.options.rounds.min(ROUNDS_MAX) {
            for turn in 0..self.programs.len() {
                let i = (round + turn) % self.programs.len();
                figures[i].extend(self.full_sync(&self.programs[i], round, zookeeper.as_ref()));
            }
        }
        let title = format!(
            "A replica is filled with {} keys of 16 + 100 B under {RATE} SETs/s, both on one core: seconds; the leader's memory in MiB, what \
             was added meanwhile, and that in percent; latency before (b) and meanwhile (m), µs",
            self.options.many
        );
        let columns =
            ["seconds", "MiB", "MiB more", "%", "p50 b", "p99 b", "p99.9 b", "p50 m", "p99 m", "p99.9 m", "max m"];
        let lines = self.programs.iter().zip(&figures).map(|(p, rounds)| (p.name.clone(), report::medians(rounds)));
        self.report.table("fullsync", &title, &columns, lines.filter(|(_, figures)| !figures.is_empty()).collect());
    }

    fn full_sync(&self, program: &Program, round: usize, zookeeper: Option<&ZooKeeper>) -> Option<Vec<f64>> {
        let (core, many) = (&self.options.core, self.options.many);
        let member = |name: &str, zookeeper: &ZooKeeper| {
            let name = format!("{name}-{round}");
            Server::start_member(program, core, &name, &format!("cluster-{round}"), &zookeeper.address())
        };
        let leader = match zookeeper {
            Some(zookeeper) if program.ours => member("leader", zookeeper),
            None if program.ours => return None,
            _ => Server::start(program, core),
        };
        leader.wait_for_writes();
        if !program.ours {
            leader.set("repl-diskless-sync-delay", "0");
        }
        let mut load = Load::connect(&leader.addrs(), CONNECTIONS).expect("connections");
        load.fill(Work::new(Kind::Set, 64, many, 100), 0, many).expect("the server takes writes");
        let work = Work::new(Kind::Set, 1, many, 100);
        let before = load.open(work, RATE, BEFORE).expect("an answer");
        let (resident, done, began) = (leader.resident(), AtomicBool::new(false), Instant::now());
        let (meanwhile, most, (seconds, replica)) = scope(|scope| {
            let load =
                scope.spawn(|| load.open_while(work, RATE, || !done.load(Ordering::Relaxed)).expect("an answer"));
            let memory = scope.spawn(|| {
                let mut most = resident;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(leader.resident());
                    park_timeout(Duration::from_millis(20));
                }
                most
            });
            // Here, and not in a thread that ends: the replica would end with it.
            let replica = match zookeeper {
                Some(zookeeper) if program.ours => member("replica", zookeeper),
                _ => Server::start_replica(program, core, &leader),
            };
            leader.until("both are in sync", || !program.ours || leader.info("in_sync_size").as_deref() == Some("2"));
            done.store(true, Ordering::Relaxed);
            let filled = (began.elapsed().as_secs_f64(), replica);
            (load.join().expect("it only asks"), memory.join().expect("it only looks"), filled)
        });
        let copied = if program.ours { 0.0 } else { leader.number("rdb_last_cow_size") };
        assert_eq!(replica.keys(), leader.keys(), "{} holds something else", replica.name);
        let (resident, more) = (resident as f64, (most - resident) as f64 + copied);
        let mib = f64::from(1 << 20);
        let mut figures = vec![seconds, resident / mib, more / mib, more / resident * 100.0];
        figures.extend(before.shares_us());
        figures.extend(meanwhile.shares_us());
        figures.push(meanwhile.latencies.max as f64 / 1e3);
        Some(figures)
    }
}
