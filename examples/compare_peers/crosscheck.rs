//! Part `crosscheck`: the same question asked by somebody else's load, `redis-benchmark`, in alternated rounds on the load's core.
//!
//! Keys, values and connections are those of the part `commands`, so the ratios are to be compared with its. What a server does for the
//! benchmark's coming and going (its connections, the settings that it asks for) counts; of half a second it is less than 1 %.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::load::{Histogram, Kind, Outcome};
use crate::server::bound;
use crate::{Bench, CONNECTIONS, DEPTHS};

const PROGRAM: &str = "redis-benchmark";
/// Requests by which it is found out how many it sends in the time of a round.
const FIRST: u64 = 20_000;

impl Bench {
    pub fn crosscheck(&mut self) {
        if !bound(PROGRAM).arg("--version").output().is_ok_and(|output| output.status.success()) {
            println!("left out: there is no {PROGRAM} on the path");
            return;
        }
        let servers = self.start_all();
        let (keys, time) = (self.options.keys, self.time());
        Bench::fill(&mut Bench::loads(&servers), keys, 100);
        for depth in DEPTHS {
            for kind in [Kind::Set, Kind::Get] {
                let ask = |addr, requests| benchmark(addr, kind, depth, keys, requests);
                let requests: Vec<u64> = servers
                    .iter()
                    .map(|server| {
                        let first = ask(server.addr, FIRST * depth as u64).expect("redis-benchmark goes through");
                        (first.operations as f64 / first.elapsed.as_secs_f64() * time.as_secs_f64()) as u64
                    })
                    .collect();
                let label = format!("{PROGRAM} {}, P={depth}", kind.name());
                self.alternate("crosscheck", &label, &servers, |i| ask(servers[i].addr, requests[i].max(1)));
            }
        }
    }
}

/// One run. Of latencies it tells the median and p99 alone, which are not ours to put into a histogram.
fn benchmark(addr: SocketAddr, kind: Kind, depth: usize, keys: u64, requests: u64) -> io::Result<Outcome> {
    let (test, port) = (kind.name().to_lowercase(), addr.port().to_string());
    let numbers = [("-c", CONNECTIONS as u64), ("-d", 100), ("-r", keys), ("-n", requests), ("-P", depth as u64)];
    let mut command = bound(PROGRAM);
    command.args(["-h", "127.0.0.1", "-p", &port, "-t", &test, "--csv"]);
    command.args(numbers.iter().flat_map(|(option, number)| [(*option).to_string(), number.to_string()]));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    // A line for each test: its name in quotes, then requests per second.
    let per_second = said.lines().find_map(|line| {
        let rest = line.strip_prefix(&format!("\"{}\",\"", kind.name()))?;
        rest.split('"').next()?.parse::<f64>().ok().filter(|rate| *rate > 0.0)
    });
    let Some(per_second) = per_second.filter(|_| output.status.success()) else {
        return Err(io::Error::other(format!("{PROGRAM}: {said}{}", String::from_utf8_lossy(&output.stderr))));
    };
    let elapsed = Duration::from_secs_f64(requests as f64 / per_second);
    Ok(Outcome { operations: requests, elapsed, latencies: Histogram::default() })
}
