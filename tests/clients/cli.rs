//! Redis's own tools against a cluster that is whole: redis-cli in the ways it can be called, and redis-benchmark.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::support::cluster::{Cluster, PATIENCE};
use crate::support::tools::{have_redis_tools, run};

/// Keys that are loaded through a pipe.
const PIPED: usize = 10_000;

/// Runs redis-cli, and answers what it said.
fn cli(node: SocketAddr, args: &[&str], input: &[u8]) -> String {
    let said = run("redis-cli", node, args, input);
    assert_eq!(said.code, Some(0), "redis-cli {args:?}: {}", said.text);
    said.text
}

/// A tool that ends when it is asked to.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// redis-cli MONITOR shows what others send.
fn monitor(node: SocketAddr) {
    let (host, port) = (node.ip().to_string(), node.port().to_string());
    let mut command = Command::new("redis-cli");
    command.args(["-h", &host, "-p", &port, "MONITOR"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().expect("redis-cli starts"));
    let stdout = BufReader::new(running.0.stdout.take().expect("it is piped"));
    let (heard, lines) = mpsc::channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| heard.send(line)));
    let next = || lines.recv_timeout(PATIENCE).expect("MONITOR says something");
    assert_eq!(next(), "OK");
    assert_eq!(cli(node, &["SET", "cli:monitored", "a\"b"], b"").trim(), "OK");
    let wanted = "\"SET\" \"cli:monitored\" \"a\\\"b\"";
    assert!((0..100_000).any(|_| next().ends_with(wanted)), "MONITOR shows the SET among what others send");
}

/// Everything once. Other clients may write meanwhile.
pub fn tour(cluster: &Cluster) {
    if !have_redis_tools() {
        return;
    }
    let (leader, replicas) = cluster.roles();
    let replica = replicas[0].addr;

    for protocol in ["-2", "-3"] {
        assert_eq!(cli(leader.addr, &[protocol, "SET", "cli:text", "a b"], b"").trim(), "OK");
        assert_eq!(cli(leader.addr, &[protocol, "GET", "cli:text"], b"").trim(), "a b");
        let said = cli(leader.addr, &[protocol, "--no-raw", "CONFIG", "GET", "maxmemory-policy"], b"");
        let wanted = if protocol == "-2" { "1) \"maxmemory-policy\"" } else { "1# \"maxmemory-policy\" =>" };
        assert!(said.starts_with(wanted), "{protocol}: {said}");
        let said = run("redis-cli", replica, &[protocol, "SET", "cli:text", "x"], b"").text;
        assert!(said.contains("MOVED ") && said.contains(&leader.addr.to_string()), "{protocol} at a replica: {said}");
        assert_eq!(cli(replica, &[protocol, "-c", "SET", "cli:text", "a b"], b"").trim(), "OK");
    }
    let said = cli(replica, &["-c"], b"MULTI\nSET cli:text c\nGET cli:text\nEXEC\nGET cli:text\n");
    assert!(said.ends_with("c\n") && !said.contains("rror"), "-c with commands from a pipe: {said}");

    let mut commands = Vec::new();
    for i in 0..PIPED {
        write!(commands, "*3\r\n$3\r\nSET\r\n$13\r\ncli:pipe:{i:04}\r\n$4\r\n{i:04}\r\n").expect("memory");
    }
    let said = cli(leader.addr, &["--pipe"], &commands);
    assert!(said.contains(&format!("errors: 0, replies: {PIPED}")), "--pipe: {said}");
    let said = cli(leader.addr, &["--scan", "--pattern", "cli:pipe:*"], b"");
    let mut found: Vec<&str> = said.lines().collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), PIPED, "--scan finds what was piped in");

    let big = "x".repeat(1 << 20);
    assert_eq!(cli(leader.addr, &["-x", "SET", "cli:big"], big.as_bytes()).trim(), "OK");
    for (option, wanted) in [
        ("--bigkeys", "Biggest string found '\"cli:big\"' has 1048576 bytes"),
        ("--memkeys", "Biggest string found '\"cli:big\"'"),
    ] {
        let said = cli(leader.addr, &[option], b"");
        assert!(said.contains(wanted) && said.contains("(100.00% of keys"), "{option}: {said}");
    }
    assert_eq!(cli(leader.addr, &["DEL", "cli:big"], b"").trim(), "1");

    monitor(leader.addr);

    for node in &cluster.nodes {
        let said = cli(node.addr, &["--cluster", "check", &node.addr.to_string()], b"");
        let clean = !said.contains("[ERR]") && !said.contains("[WARNING]");
        assert!(clean && said.contains("[OK] All 16384 slots covered"), "--cluster check: {said}");
    }
    // Not `--cluster`: redis-benchmark takes two masters or more for a cluster.
    let said = run("redis-benchmark", leader.addr, &["-t", "set,get,incr,mset", "-P", "4", "-n", "20000", "-q"], b"");
    let lower = said.text.to_lowercase();
    let clean = said.code == Some(0) && !lower.contains("error") && !lower.contains("warn");
    assert!(clean && lower.matches("requests per second").count() >= 4, "redis-benchmark: {}", said.text);
}
