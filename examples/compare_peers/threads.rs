//! Part `threads`: what a second thread costs and brings.
//!
//! With two threads a server needs both cores of a small machine, and the load has no core of its own: here all of them run on the servers' core and the
//! load's. So throughput is what is left beside the load; CPU per operation still means what it says. Two nodes of one thread each, which share
//! nothing and get half of the load each, show what the threads of one node pay for its lock and for each other's cache lines.

use std::fs;
use std::process::Command;

use crate::load::{Kind, Load, Work};
use crate::server::Server;
use crate::{Bench, CONNECTIONS, DEPTHS};

/// Cores that this process may use.
fn own_cores() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores.expect("Linux says so").trim().to_string()
}

fn move_to(cores: &str) {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-acp", cores, &pid]).output().expect("taskset can be started");
    assert!(moved.status.success(), "taskset -acp {cores}: {}", String::from_utf8_lossy(&moved.stderr));
}

impl Bench {
    pub fn threads(&mut self) {
        let own = own_cores();
        let both = format!("{},{own}", self.options.core);
        move_to(&both);
        let mut servers = Vec::new();
        for program in &self.programs {
            let start = |threads: usize, what: &str| {
                let mut server = Server::start_wide(program, &both, threads);
                server.name = format!("{}, {what}", program.name);
                server
            };
            if program.ours {
                servers.push(start(2, "2 threads"));
                servers.push(start(1, "1 thread"));
                servers.push(start(1, "2 nodes of 1 thread").beside(start(1, "")));
            } else {
                servers.push(start(2, "2 I/O threads"));
            }
        }
        let keys = self.options.keys;
        for addr in servers.iter().flat_map(Server::addrs) {
            let mut load = Load::connect(&[addr], CONNECTIONS).expect("connections");
            Bench::fill(std::slice::from_mut(&mut load), keys, 100);
        }
        let mut loads = Bench::loads(&servers);
        for depth in DEPTHS {
            for kind in [Kind::Set, Kind::Get] {
                let label = format!("{}, P={depth}", kind.name());
                let work = Work::new(kind, depth, keys, 100);
                self.rounds("threads", &label, &servers, &mut loads, &vec![work; servers.len()]);
            }
        }
        move_to(&own);
    }
}
