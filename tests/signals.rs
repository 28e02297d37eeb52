//! What signals do to a process of the binary, and that a log which nobody reads does nothing to it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use support::client::{Client, ask, http_get};
use support::cluster::{PATIENCE, free_addr};
use support::eventually;

/// A node by itself, ended by its own id when this is dropped.
struct Lone {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
    folder: PathBuf,
}

impl Lone {
    /// A node that says everything to `stderr`, with these settings beside.
    fn start(name: &str, stderr: Stdio, settings: &[String]) -> Lone {
        let folder = std::env::temp_dir().join(format!("datakeeper-signals-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        let (addr, repl, admin) = (free_addr(), free_addr(), free_addr());
        let mut command = Command::new(env!("CARGO_BIN_EXE_datakeeper"));
        command.args(["server", "--set", "coordination=embedded", "--node-name", "lone"]);
        command.args(["--listen", &addr.to_string(), "--replication-listen", &repl.to_string()]);
        command.args(["--admin-listen", &admin.to_string()]);
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("the binary starts");
        let lone = Lone { child, addr, admin, folder };
        eventually(PATIENCE, "the node serves", || lone.serves());
        lone
    }

    /// The same with its log in a file.
    fn logging(name: &str) -> (Lone, PathBuf) {
        let path = std::env::temp_dir().join(format!("datakeeper-signals-{}-{name}.log", std::process::id()));
        let _ = fs::remove_file(&path);
        (Lone::start(name, Stdio::null(), &[format!("log.file={}", path.display())]), path)
    }

    fn serves(&self) -> Result<(), String> {
        match ask(self.addr, "SET k v") {
            Ok(reply) if reply.is_ok() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn signal(&self, number: i32) {
        // SAFETY: plain system call; the process is our child and not waited for, so the id is its own.
        let sent = unsafe { libc::kill(self.child.id().try_into().expect("a process id"), number) };
        assert_eq!(sent, 0, "signal {number}: {}", std::io::Error::last_os_error());
    }

    fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually(PATIENCE, "the process ends", || {
            ended = self.child.try_wait().expect("our child");
            if ended.is_some() { Ok(()) } else { Err("it lives") }
        });
        ended.expect("it has ended")
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn says(path: &PathBuf, words: &str) -> Result<(), String> {
    let log = fs::read_to_string(path).unwrap_or_default();
    if log.contains(words) { Ok(()) } else { Err(log) }
}

/// restic/rest-server#80: the signal of a closed terminal, which logrotate sends, too, ended the server. So did eight others, without a word.
#[test]
fn a_signal_that_means_no_end_is_told_and_changes_nothing() {
    let (lone, log) = Lone::logging("others");
    let others = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGRTMIN(), "SIGRTMIN+0"),
        (libc::SIGRTMAX(), "SIGRTMIN+30"),
    ];
    for (number, name) in others {
        lone.signal(number);
        eventually(PATIENCE, name, || says(&log, name));
        assert_eq!(lone.serves(), Ok(()), "{name}");
    }
    lone.signal(libc::SIGPIPE);
    assert_eq!(lone.serves(), Ok(()), "SIGPIPE");
    let _ = fs::remove_file(log);
}

#[test]
fn every_signal_that_means_an_end_lets_the_node_leave() {
    for (number, name) in [
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGXCPU, "SIGXCPU"),
    ] {
        let (mut lone, log) = Lone::logging(name);
        lone.signal(number);
        assert_eq!(lone.end().code(), Some(0), "{name}");
        says(&log, &format!("{name}: the node leaves the cluster")).expect("it says so");
        says(&log, "stopped").expect("the last line is written");
        let _ = fs::remove_file(log);
    }
}

#[test]
fn a_fault_has_a_last_word() {
    for (number, name) in [(libc::SIGSEGV, "SIGSEGV"), (libc::SIGABRT, "SIGABRT"), (libc::SIGSYS, "SIGSYS")] {
        let (mut lone, log) = Lone::logging(name);
        lone.signal(number);
        assert_eq!(lone.end().signal(), Some(number), "as the default action ends a process");
        says(&log, &format!("{name} ends the process at once")).expect("it says so");
        let _ = fs::remove_file(log);
    }
}

#[test]
fn log_file_is_opened_anew_at_sighup() {
    let (lone, log) = Lone::logging("rotated");
    let moved = log.with_extension("1");
    fs::rename(&log, &moved).expect("a file that is there");
    lone.signal(libc::SIGHUP);
    eventually(PATIENCE, "the new file is written", || says(&log, "SIGHUP: this is the log file now"));
    says(&moved, "SIGHUP: the log file is opened anew").expect("what was said before is in the old one");
    lone.signal(libc::SIGUSR1);
    eventually(PATIENCE, "it goes on there", || says(&log, "SIGUSR1"));
    let _ = (fs::remove_file(log), fs::remove_file(moved));
}

/// A log driver that is stuck: the pipe fills, and whoever logged next waited for ever, with everything that he held.
#[test]
fn a_log_that_nobody_reads_stops_nothing_and_what_is_dropped_is_told() {
    let mut lone = Lone::start("unread", Stdio::piped(), &["log.level=trace".to_owned()]);
    let mut unread = lone.child.stderr.take().expect("it is piped");
    let dropped = |lone: &Lone| {
        let metrics = http_get(lone.admin, "/metrics");
        let line =
            metrics.lines().find(|line| line.starts_with("datakeeper_log_lines_dropped_total{")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    eventually(PATIENCE, "lines are dropped", || {
        // Each connection is worth some lines.
        (0..50).for_each(|_| drop(TcpStream::connect(lone.addr).and_then(|mut client| client.write_all(b"PING\r\n"))));
        if dropped(&lone) > 0 { Ok(()) } else { Err("none yet") }
    });
    let mut client = Client::connect(lone.addr).expect("a connection");
    assert!((0..100).all(|_| client.call("SET k v").is_ok()), "the node serves all the while");
    // Whoever reads again hears of it.
    let mut heard = String::new();
    let mut bytes = [0; 64 << 10];
    while !heard.contains("lines of the log were dropped") {
        let read = unread.read(&mut bytes).expect("a pipe");
        assert!(read > 0, "the log has ended");
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let behind = heard.len().saturating_sub(200 << 10);
        heard = heard.chars().skip(behind.min(heard.chars().count())).collect();
    }
    // And nobody has to read for it to end.
    (0..500).for_each(|_| drop(TcpStream::connect(lone.addr).and_then(|mut client| client.write_all(b"PING\r\n"))));
    lone.signal(libc::SIGTERM);
    assert_eq!(lone.end().code(), Some(0));
}
