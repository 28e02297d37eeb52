//! `datakeeper local` as a process: what somebody who tries DataKeeper for the first time does and sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// The process; killed when dropped, so that a failed test leaves nothing running.
struct Local {
    process: Child,
    /// Client addresses of n1, n2, n3.
    nodes: Vec<String>,
    operators: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Local {
    fn start() -> Local {
        let mut process = Command::new(env!("CARGO_BIN_EXE_datakeeper"))
            .args(["local", "--nodes", "3", "--port", "0", "--admin-port", "0", "--set", "log.level=warn"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (mut nodes, mut operators) = (Vec::new(), String::new());
        let mut line = String::new();
        while !line.starts_with("Ctrl-C") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "ended before it said how to stop it");
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some(node), Some(addr)) if node.starts_with('n') => nodes.push(addr.to_owned()),
                (Some("operators:"), Some(url)) => {
                    operators = url.trim_start_matches("http://").trim_end_matches("/status").to_owned();
                }
                _ => {}
            }
        }
        assert_eq!(nodes.len(), 3, "{nodes:?}");
        Local { process, nodes, operators, output }
    }

    /// Sends one inline command to the node at `addr`; nothing if the node is away.
    fn ask(addr: &str, command: &str) -> Option<String> {
        let mut socket = TcpStream::connect(addr).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        socket.shutdown(std::net::Shutdown::Write).ok()?;
        let mut reply = String::new();
        socket.read_to_string(&mut reply).ok()?;
        Some(reply)
    }

    fn operators(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(&self.operators).unwrap();
        write!(socket, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn in_sync(&self) -> usize {
        self.operators("GET /status").matches(r#""in_sync":true"#).count()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn cluster_survives_the_crash_of_each_node_in_turn_and_stops_on_request() {
    let mut local = Local::start();
    eventually("all nodes are in sync", || local.in_sync() == 3);
    eventually("a first write", || {
        local.nodes.iter().any(|addr| Local::ask(addr, "SET greeting hello").as_deref() == Some("+OK\r\n"))
    });
    for (crashed, name) in ["n1", "n2", "n3"].iter().enumerate() {
        let answer = local.operators(&format!("POST /crash/{name}"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("has crashed"), "{answer}");
        let others = || (0..3).filter(|i| *i != crashed).map(|i| &local.nodes[i]);
        eventually("a write while one node is away or back", || {
            others().any(|addr| Local::ask(addr, &format!("SET after-{name} yes")).as_deref() == Some("+OK\r\n"))
        });
        eventually("the crashed node is back in sync", || local.in_sync() == 3);
    }
    for key in ["greeting", "after-n1", "after-n2", "after-n3"] {
        let held = local.nodes.iter().filter(|addr| {
            Local::ask(addr, &format!("GET {key}")).is_some_and(|r| r.starts_with('$') && r != "$-1\r\n")
        });
        assert!(held.count() > 0, "{key} is lost");
    }
    let unknown = local.operators("POST /crash/n9");
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("there are n1, n2, n3"), "{unknown}");
    let interrupt = Command::new("kill").args(["-INT", &local.process.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let code = local.process.wait().unwrap();
    let mut rest = String::new();
    local.output.read_to_string(&mut rest).unwrap();
    assert!(code.success() && rest == "stopping\n", "{code}: {rest}");
}
