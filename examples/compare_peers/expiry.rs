//! Part `expiry`: what clients feel while millions of other keys expire at the same instant, and how long that takes.
//!
//! Each server alone on its core, at the same fixed rate: first for some seconds with the keys there, then from the instant at which they expire until the
//! last is deleted. Nobody asks for them, so all of that is the server's own doing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{park_timeout, scope};
use std::time::{Duration, Instant, SystemTime};

use crate::load::{Kind, Load, Work};
use crate::server::{Program, Server};
use crate::{Bench, CONNECTIONS, report};

/// Requests per second: a third of what the slowest does.
pub const RATE: f64 = 40_000.0;
/// How long the load is looked at beforehand.
pub const BEFORE: Duration = Duration::from_secs(5);
/// One round takes half a minute.
pub const ROUNDS_MAX: usize = 3;

pub fn since_1970() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970")
}

impl Bench {
    pub fn expiry(&mut self) {
        let mut figures = vec![Vec::new(); self.programs.len()];
        for round in 0..self.options.rounds.min(ROUNDS_MAX) {
            for turn in 0..self.programs.len() {
                let i = (round + turn) % self.programs.len();
                figures[i].push(self.expire(&self.programs[i]).to_vec());
            }
        }
        let (keys, many) = (self.options.keys, self.options.many);
        let title = format!(
            "{many} keys expire at once beside {keys} others, 1:9 on those at {RATE} requests/s: latency before (b) and meanwhile (m), µs; \
             seconds until all are deleted; memory then, to that without them"
        );
        let columns =
            ["p50 b", "p99 b", "p99.9 b", "p50 m", "p99 m", "p99.9 m", "max m", "p99 more", "seconds", "memory"];
        let lines = self.programs.iter().zip(&figures).map(|(p, rounds)| (p.name.clone(), report::medians(rounds)));
        self.report.table("expiry", &title, &columns, lines.collect());
    }

    fn expire(&self, program: &Program) -> [f64; 10] {
        let (keys, many) = (self.options.keys, self.options.many);
        let server = Server::start(program, &self.options.core);
        let mut load = Load::connect(&server.addrs(), CONNECTIONS).expect("connections");
        let fill = Work::new(Kind::Set, 64, keys, 100);
        let took = load.fill(fill, 0, keys).expect("the server takes writes").elapsed;
        let (there, memory) = (server.keys(), server.used_memory());
        // All are to be there in time: four times as long as it took so far, since tables grow and neighbours come.
        let at = since_1970() + took.mul_f64(4.0 * many as f64 / keys as f64) + BEFORE;
        let expiring = Work { until: Some(at.as_millis() as u64), ..fill };
        load.fill(expiring, keys, keys + many).expect("the server takes writes");
        assert_eq!(server.keys(), there + many);
        let left = at.saturating_sub(since_1970());
        assert!(left > BEFORE / 2, "{}: filling took too long, {left:?} are left", server.name);
        let work = Work::new(Kind::Mix, 1, keys, 100);
        park_timeout(left.saturating_sub(BEFORE));
        let before = load.open(work, RATE, left.min(BEFORE)).expect("an answer");
        let (gone, began) = (AtomicBool::new(false), Instant::now());
        let (meanwhile, seconds) = scope(|scope| {
            let watch = scope.spawn(|| {
                server.until("all are deleted", || server.keys() <= there);
                gone.store(true, Ordering::Relaxed);
                began.elapsed().as_secs_f64()
            });
            let meanwhile = load.open_while(work, RATE, || !gone.load(Ordering::Relaxed)).expect("an answer");
            (meanwhile, watch.join().expect("it only asks"))
        });
        let ([b50, b99, b999], [m50, m99, m999]) = (before.shares_us(), meanwhile.shares_us());
        let max = meanwhile.latencies.max as f64 / 1e3;
        [b50, b99, b999, m50, m99, m999, max, m99 - b99, seconds, server.used_memory() / memory]
    }
}
