//! Servers under test: started on free ports of loopback, on one core, and asked by their pid what they took.
//!
//! All children are started by the main thread: the kernel kills them when the thread that started them ends, so none outlives this program,
//! however it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is started.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    /// Whether it is DataKeeper.
    pub ours: bool,
}

/// One that runs. It ends with this value.
pub struct Server {
    pub name: String,
    pub addr: SocketAddr,
    child: Child,
    /// What it wrote to stdout and stderr: a file without a name.
    log: File,
    /// Only threads whose name begins so count; empty for all.
    threads: String,
    /// Another one that shares its load; what that takes counts, too.
    companion: Option<Box<Server>>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Ends everything with one line: this program and its children.
pub fn fail(message: &str) -> ! {
    eprintln!("compare_peers: {}", message.trim_end());
    std::process::exit(2)
}

/// A command that ends no later than the thread that starts it.
pub fn bound(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    command
}

/// A command that runs on one core.
fn on_core(core: &str, path: &Path) -> Command {
    let mut command = bound("taskset");
    command.args(["-c", core]).arg(path);
    command
}

/// A file that nobody else finds and that is gone with its last descriptor.
fn nameless(port: u16) -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("compare-peers-{}-{port}.log", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

impl Server {
    /// A single node, without anything durable.
    pub fn start(program: &Program, core: &str) -> Server {
        Server::start_wide(program, core, 1)
    }

    /// The same with so many threads, on some cores.
    pub fn start_wide(program: &Program, core: &str, threads: usize) -> Server {
        let (port, threads) = (free_port(), threads.to_string());
        let mut command = on_core(core, &program.path);
        if program.ours {
            command.arg("server").args(["--listen", &format!("127.0.0.1:{port}"), "--node-name", "bench"]);
            command.args(["--set", "coordination=embedded", "--set", &format!("threads={threads}")]);
            command.args(["--set", "replication.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
        } else {
            peer_arguments(&mut command, port);
            command.args(["--io-threads", &threads]);
        }
        let server = Server::run(&program.name, command, port, "");
        server.wait_for_writes();
        server
    }

    /// One of ours in a cluster around that ZooKeeper.
    pub fn start_member(program: &Program, core: &str, name: &str, cluster: &str, zookeeper: &str) -> Server {
        let port = free_port();
        let mut command = on_core(core, &program.path);
        command.args(["server", "--listen", &format!("127.0.0.1:{port}"), "--node-name", name]);
        command.args(["--zookeeper", zookeeper, "--cluster", cluster, "--set", "threads=1"]);
        command.args(["--set", "replication.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
        Server::run(&program.name, command, port, "")
    }

    /// Both as one: they share the load, and their CPU is added up.
    pub fn beside(mut self, companion: Server) -> Server {
        self.companion = Some(Box::new(companion));
        self
    }

    /// Where the load goes.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        [self.addr].into_iter().chain(self.companion.iter().flat_map(|companion| companion.addrs())).collect()
    }

    /// Three nodes of ours in one process; the first leads. Its threads alone count.
    pub fn start_three(program: &Program, core: &str) -> Server {
        // `local` takes ports in a row: look for a place where three are free.
        let first = (20_000..60_000)
            .step_by(7)
            .find(|port| (*port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()));
        let port = first.expect("three free ports in a row");
        let mut command = on_core(core, &program.path);
        command.args(["local", "--nodes", "3", "--port", &port.to_string(), "--admin-port", "0"]);
        let server = Server::run(&program.name, command, port, "n1/");
        server.wait_for_writes();
        server.until("three nodes are in sync", || server.info("in_sync_size").as_deref() == Some("3"));
        server
    }

    /// A peer as a replica of another.
    pub fn start_replica(program: &Program, core: &str, of: &Server) -> Server {
        let port = free_port();
        let mut command = on_core(core, &program.path);
        peer_arguments(&mut command, port);
        command.args(["--replicaof", "127.0.0.1", &of.addr.port().to_string()]);
        let server = Server::run(&program.name, command, port, "");
        server.until("the replica is in sync", || server.info("master_link_status").as_deref() == Some("up"));
        server
    }

    fn run(name: &str, mut command: Command, port: u16, threads: &str) -> Server {
        let log = nameless(port).expect("a file for what the server says");
        let output = || log.try_clone().expect("another descriptor");
        command.stdout(output()).stderr(output());
        let child = command.spawn().unwrap_or_else(|error| fail(&format!("setpriv cannot be started: {error}")));
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let (name, threads) = (name.to_string(), threads.to_string());
        let server = Server { name, addr, child, log, threads, companion: None };
        server.until("it answers", || server.ask("PING").is_ok_and(|reply| reply.starts_with("+PONG")));
        // Whoever answers has to be the one that was started.
        assert_eq!(server.info("process_id"), Some(server.child.id().to_string()), "another server on port {port}");
        server
    }

    /// Waits for something that this server does, and fails as soon as it has ended.
    pub fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(&format!("{}: {what}", self.name), || {
            self.check();
            is_so()
        });
    }

    /// Fails with what the server said if it has ended.
    pub fn check(&self) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("nobody has waited for it");
        if !stat.contains(") Z ") {
            return;
        }
        let mut said = vec![0; 64 << 10];
        let len = self.log.read_at(&mut said, 0).expect("it can be read");
        let said = String::from_utf8_lossy(&said[..len]);
        fail(&format!("{} has ended; it said: {said}", self.name));
    }

    pub fn wait_for_writes(&self) {
        self.until("it takes writes", || self.ask("SET probe 1").is_ok_and(|reply| reply.starts_with("+OK")));
    }

    /// One inline request, and the first line of its reply; of a bulk all of it.
    pub fn ask(&self, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(format!("{request}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(len) = line.strip_prefix('$').and_then(|len| len.trim_end().parse::<usize>().ok()) {
            let mut text = vec![0; len];
            io::Read::read_exact(&mut reader, &mut text)?;
            line = String::from_utf8_lossy(&text).into_owned();
        }
        Ok(line)
    }

    /// A field of INFO.
    pub fn info(&self, field: &str) -> Option<String> {
        let text = self.ask("INFO all").ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_string()))
    }

    /// A field of INFO that is a number.
    pub fn number(&self, field: &str) -> f64 {
        self.info(field).and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    }

    /// Bytes that it says it uses.
    pub fn used_memory(&self) -> f64 {
        self.number("used_memory")
    }

    /// Keys that it holds, expired ones included that it has not deleted yet.
    pub fn keys(&self) -> u64 {
        let reply = self.ask("DBSIZE").expect("an answer");
        reply.trim().strip_prefix(':').and_then(|keys| keys.parse().ok()).expect("a number")
    }

    /// CONFIG SET.
    pub fn set(&self, parameter: &str, value: &str) {
        let reply = self.ask(&format!("CONFIG SET {parameter} {value}")).expect("an answer");
        assert!(reply.starts_with("+OK"), "{}: CONFIG SET {parameter} {value}: {reply}", self.name);
    }

    /// CPU time of its threads so far, ns.
    pub fn cpu_ns(&self) -> u64 {
        self.own_cpu_ns() + self.companion.as_ref().map_or(0, |companion| companion.cpu_ns())
    }

    fn own_cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the server lives");
        let named =
            |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(&self.threads));
        let paths = tasks.filter_map(Result::ok).map(|task| task.path()).filter(|path| named(path));
        paths
            .filter_map(|path| fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Resident bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peer_arguments(command: &mut Command, port: u16) {
    // A replica writes what it is sent to a file, which nobody is to find at its next start.
    command.arg("--dir").arg(std::env::temp_dir()).args(["--dbfilename", &format!("compare-peers-{port}.rdb")]);
    command.args(["--rdb-del-sync-files", "yes"]);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--daemonize", "no", "--maxclients", "11000", "--protected-mode", "no"]);
}

/// Waits until it is so, and fails if it does not come to that.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        if Instant::now() > deadline {
            fail(&format!("waited in vain until {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Busy time of all cores and time stolen by the hypervisor so far, in ticks of 10 ms.
pub fn machine_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let line = stat.lines().next().expect("the sum comes first");
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6], ticks[7])
}
