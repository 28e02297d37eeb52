//! A real redis-server to compare with, and one node of DataKeeper that is a cluster by itself. Both keep nothing on disk, and end with the test.
//!
//! `DATAKEEPER_ORACLE` names the `redis-server`; without it, the one on the path is taken. scripts/test sets it from `--oracle`, or unpacks Debian's.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::client::{Reply, ask};
use super::cluster::{PATIENCE, Process, free_addr, wait_until_whole};
use super::eventually;

/// A running redis-server.
pub struct Oracle {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it says its version is.
    pub version: String,
}

impl Oracle {
    /// Starts it; none, with a message, where there is no redis-server.
    ///
    /// # Panics
    /// If the one that `DATAKEEPER_ORACLE` names does not start.
    #[must_use]
    pub fn start() -> Option<Oracle> {
        let named = std::env::var("DATAKEEPER_ORACLE").ok();
        let path = named.as_deref().unwrap_or("redis-server");
        let addr = free_addr();
        let child = Command::new(path)
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--loglevel", "warning", "--dir"])
            .arg(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(e) => {
                assert!(named.is_none(), "DATAKEEPER_ORACLE: {path} does not start: {e}");
                eprintln!("SKIPPED: there is no redis-server; DATAKEEPER_ORACLE may name one");
                return None;
            }
        };
        let mut oracle = Oracle { child, addr, version: String::new() };
        eventually(PATIENCE, "redis-server answers", || match ask(addr, "INFO server") {
            Ok(Reply::Bulk(info)) => {
                let info = String::from_utf8_lossy(&info).into_owned();
                let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
                oracle.version = version.unwrap_or("unknown").to_string();
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
        Some(oracle)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running node that is a cluster by itself.
#[must_use]
pub fn start_node() -> (Process, SocketAddr) {
    let addrs = [free_addr(), free_addr(), free_addr()];
    let mut args = vec!["server".to_string(), "--set".into(), "coordination=embedded".into()];
    for (flag, addr) in ["--listen", "--replication-listen", "--admin-listen"].into_iter().zip(addrs) {
        args.extend([flag.to_string(), addr.to_string()]);
    }
    let mut process = Process::new("differential", args);
    process.start();
    eventually(PATIENCE, "the node listens", || ask(addrs[0], "PING").map(drop));
    wait_until_whole(&addrs[..1]);
    (process, addrs[0])
}
