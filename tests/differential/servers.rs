//! The two servers: Redis, which is right, and one node of DataKeeper. Both are processes on loopback ports, keep nothing on disk, and
//! end with the test.
//!
//! `DATAKEEPER_ORACLE` names the `redis-server` to compare with; without it, the one on the path is taken. scripts/test unpacks
//! Debian's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::client::{Reply, ask};
use crate::support::cluster::{PATIENCE, Process, free_addr, wait_until_whole};
use crate::support::eventually;
use crate::wire;

/// A running redis-server.
pub struct Oracle {
    child: Child,
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

/// A connection that takes requests and gives replies as the bytes that they are.
pub struct Wire {
    stream: TcpStream,
    /// What came and was not taken yet, from `taken` on.
    came: Vec<u8>,
    taken: usize,
}

impl Wire {
    /// Connects, and says HELLO with that version of the protocol.
    ///
    /// # Panics
    /// If the server does not take it.
    #[must_use]
    pub fn connect(addr: SocketAddr, protocol: u8) -> Wire {
        let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("{addr} takes no client: {e}"));
        let patience = Some(Duration::from_secs(30));
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(patience)).expect("plain socket options");
        let mut wire = Wire { stream, came: Vec::new(), taken: 0 };
        wire.send(format!("*2\r\n$5\r\nHELLO\r\n$1\r\n{protocol}\r\n").as_bytes());
        let hello = wire.receive();
        assert_eq!(hello[0], if protocol == 3 { b'%' } else { b'*' }, "{}", hello.escape_ascii());
        wire
    }

    /// # Panics
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes requests");
    }

    /// The next reply.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn receive(&mut self) -> Vec<u8> {
        loop {
            if let Some(len) = wire::reply_len(&self.came[self.taken..]) {
                self.taken += len;
                return self.came[self.taken - len..self.taken].to_vec();
            }
            self.came.drain(..std::mem::take(&mut self.taken));
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the connection was closed behind {:?}", self.came.escape_ascii().to_string()),
                Ok(len) => self.came.extend_from_slice(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => panic!("no reply: {e}; so far {:?}", self.came.escape_ascii().to_string()),
            }
        }
    }

    /// One request and its reply.
    pub fn call(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        crate::support::client::encode(words, &mut bytes);
        self.send(&bytes);
        self.receive()
    }
}
