//! Real processes of the binary under test: nodes on loopback ports, a cluster of three around a real ZooKeeper, `local`.
//!
//! Every process is ended by its own id when its guard is dropped, and what it logged is printed if the test is failing then.
//! Ports are taken below the range that the system gives to outgoing connections, so that a node finds its port free again when it
//! is restarted.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datakeeper::base::ids::Epoch;
use datakeeper::cluster::status::Status;

use super::client::{Client, Reply, ask};
use super::eventually;
use super::network::{Host, Network, command};
use super::tools::{Said, said};
use super::valve::Valve;
use super::zookeeper::ZooKeeper;

/// The binary: the one under test, or what `DATAKEEPER_BINARY` names where there is none (examples).
fn binary() -> String {
    let built = option_env!("CARGO_BIN_EXE_datakeeper").map(str::to_string);
    built.or_else(|| std::env::var("DATAKEEPER_BINARY").ok()).expect("DATAKEEPER_BINARY is the path of the binary")
}

/// Long enough for any state that a healthy cluster reaches, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a log that are printed when a test fails.
const LINES_SHOWN: usize = 60;

/// Lets the tests of a file run one after the other: they measure time and memory, and the machine may have two cores.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loopback address that nobody listens on, and that no outgoing connection is given by chance.
#[must_use]
pub fn free_addr() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + number % 20_000).expect("below 30000");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// Runs the binary to its end.
///
/// # Panics
/// If it does not end within [`PATIENCE`].
pub fn run(args: &[&str]) -> Said {
    let child = Command::new(binary())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pid = child.id();
    let over = Mutex::new(false);
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| {
            let deadline = Instant::now() + PATIENCE;
            while !*over.lock().unwrap_or_else(PoisonError::into_inner) {
                if Instant::now() > deadline {
                    signal(pid, libc::SIGKILL);
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        let said = said(child.wait_with_output().expect("our child"));
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        watchdog.thread().unpark();
        assert!(said.code.is_some(), "datakeeper {args:?} did not end; it said:\n{}", said.text);
        said
    })
}

/// A signal to a process of ours that was not waited for yet.
fn signal(pid: u32, signal: i32) {
    // SAFETY: plain system call; the process is our child and not waited for, so the id is its own.
    let result = unsafe { libc::kill(pid.try_into().expect("a process id"), signal) };
    assert_eq!(result, 0, "signal {signal} to process {pid}: {}", io::Error::last_os_error());
}

/// A running or ended process of the binary, and everything that it and its predecessors of the same name said.
pub struct Process {
    name: String,
    /// Where it runs; none: just here.
    host: Option<Host>,
    args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// Another build than the one under test.
    binary: Option<PathBuf>,
    /// Files that it may open; none: as many as this process.
    open_files: Option<u64>,
    child: Option<Child>,
    said: PathBuf,
}

impl Process {
    /// Prepares `datakeeper args`, without running it.
    #[must_use]
    pub fn new(name: &str, args: Vec<String>) -> Process {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = format!("datakeeper-{}-{number}-{name}.log", std::process::id());
        let said = std::env::temp_dir().join(file);
        Process {
            name: name.to_string(),
            host: None,
            args,
            environment: Vec::new(),
            binary: None,
            open_files: None,
            child: None,
            said,
        }
    }

    /// Sets a variable for all runs to come.
    pub fn set_env(&mut self, key: &'static str, value: &str) {
        self.environment.push((key, value.to_string()));
    }

    /// Lets all runs to come be of another build; none: of the one under test.
    pub fn set_binary(&mut self, binary: Option<PathBuf>) {
        self.binary = binary;
    }

    /// Bounds the files that all runs to come may open.
    pub fn set_open_files(&mut self, limit: u64) {
        self.open_files = Some(limit);
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = File::options().create(true).append(true).open(&self.said).expect("a file for the log");
        let program = self.binary.as_ref().map_or_else(binary, |path| path.display().to_string());
        let mut command = command(program, self.host.as_ref());
        if let Some(limit) = self.open_files {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: plain system call on a value of ours.
            let set = move || match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            // SAFETY: one system call between fork and exec, which allocates nothing.
            unsafe { command.pre_exec(set) };
        }
        let child = command
            .args(&self.args)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle on the log"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// Everything that was said so far, by all runs.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.said).unwrap_or_default()).into_owned()
    }

    /// Process id.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        self.child.take().expect("it ran").wait().expect("our child");
    }

    /// SIGSTOP; returns when no thread runs any more.
    ///
    /// # Panics
    /// If one goes on running.
    pub fn freeze(&self) {
        signal(self.pid(), libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(PATIENCE, "every thread stops", || {
            for task in fs::read_dir(&tasks).expect("threads of a running process") {
                let stat = fs::read_to_string(task.expect("a thread").path().join("stat")).unwrap_or_default();
                // The state follows the name, which is in parentheses.
                if stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('T')) {
                    return Err(stat);
                }
            }
            Ok(())
        });
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        signal(self.pid(), libc::SIGINT);
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        signal(self.pid(), libc::SIGTERM);
    }

    /// SIGTERM; returns how the process ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.wait()
    }

    /// How the process ended by itself.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        let ended = || match child.try_wait().expect("our child") {
            Some(ended) => {
                status = Some(ended);
                Ok(())
            }
            None => Err("it runs on"),
        };
        eventually(PATIENCE, &format!("{} ends", self.name), ended);
        status.expect("it was seen")
    }

    /// Resident memory, bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS of a running process");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
    }

    /// Local ports of its TCP connections.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let own: Vec<String> = fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("a running process")
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok()?.to_str().map(str::to_string))
            .collect();
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid())).expect("a table of connections");
        // Number, local address, remote address, state, queues, timer, retransmissions, user, timeout, inode.
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let of_own = rows.filter(|row| own.contains(&format!("socket:[{}]", row[9])));
        of_own.filter_map(|row| u16::from_str_radix(row[1].rsplit(':').next()?, 16).ok()).collect()
    }

    /// What no node may say: an error, or a panic.
    fn alarming(&self) -> Vec<String> {
        let log = self.log();
        let alarm = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
        log.lines().filter(alarm).map(|line| format!("{}: {line}", self.name)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}, the end of {} lines:", self.name, lines.len());
            lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().for_each(|line| eprintln!("{line}"));
        }
        let _ = fs::remove_file(&self.said);
    }
}

/// One node in a process of its own.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where clients connect.
    pub addr: SocketAddr,
    /// Where other nodes connect.
    pub replication: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// Where it is a Sentinel and nothing else.
    pub sentinel: SocketAddr,
    /// The process.
    pub process: Process,
}

impl Node {
    /// Prepares a node with nothing but its name, its addresses and where ZooKeeper is; `more` are further arguments.
    #[must_use]
    pub fn new(name: &str, zookeeper: &str, more: &[&str]) -> Node {
        Node::listening(name, [free_addr(), free_addr(), free_addr(), free_addr()], zookeeper, more)
    }

    /// The same, at a host of its own.
    #[must_use]
    pub fn on(host: &Host, name: &str, zookeeper: &str, more: &[&str]) -> Node {
        let addrs = [6379, 16379, 8081, 26379].map(|port| SocketAddr::from((host.ip, port)));
        let more = [more, &["--set", "replication.open=true"]].concat();
        let mut node = Node::listening(name, addrs, zookeeper, &more);
        node.process.host = Some(host.clone());
        node
    }

    /// The same at these addresses: for clients, for other nodes, for operators, for Sentinel's clients.
    #[must_use]
    pub fn listening(
        name: &str,
        [addr, replication, admin, sentinel]: [SocketAddr; 4],
        zookeeper: &str,
        more: &[&str],
    ) -> Node {
        let mut args: Vec<String> = ["server", "--node-name", name].map(String::from).into();
        for (flag, value) in [("--listen", addr), ("--replication-listen", replication), ("--admin-listen", admin)] {
            args.extend([flag.to_string(), value.to_string()]);
        }
        args.extend(["--zookeeper".to_string(), zookeeper.to_string()]);
        args.extend(["--set".to_string(), format!("sentinel.listen={sentinel}")]);
        args.extend(more.iter().map(ToString::to_string));
        let process = Process::new(name, args);
        Node { name: name.to_string(), addr, replication, admin, sentinel, process }
    }

    /// A connection of a client.
    ///
    /// # Panics
    /// If the node takes none.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.addr).unwrap_or_else(|e| panic!("{} takes no client: {e}", self.name))
    }
}

/// What a node says about its cluster.
///
/// # Errors
/// It says nothing.
pub fn status_of(addr: SocketAddr) -> Result<Status, String> {
    match ask(addr, "DATAKEEPER STATUS") {
        Ok(Reply::Bulk(json)) => serde_json::from_slice(&json).map_err(|e| format!("{addr}: {e}")),
        Ok(other) => Err(format!("{addr}: {other:?}")),
        Err(e) => Err(format!("{addr}: {e}")),
    }
}

/// Names of the members of the in-sync set, in order.
#[must_use]
pub fn in_sync(status: &Status) -> Vec<String> {
    status.nodes.iter().filter(|node| node.in_sync).map(|node| node.id.to_string()).collect()
}

/// Waits until every node tells the same story: all of them are in sync under one confirmed leader, who serves and is reached.
/// Returns the leader's place among `nodes`, and the epoch.
///
/// # Panics
/// If they do not.
pub fn wait_until_whole(nodes: &[SocketAddr]) -> (usize, Epoch) {
    let mut found = None;
    let whole = || {
        let stories = nodes.iter().map(|addr| status_of(*addr)).collect::<Result<Vec<Status>, String>>()?;
        let leaders: Vec<usize> = (0..stories.len()).filter(|i| stories[*i].role == "leader").collect();
        let brief = || {
            let brief = |s: &Status| {
                format!("{} {} epoch {} leader {:?} in sync {:?}", s.node, s.role, s.epoch, s.leader, in_sync(s))
            };
            stories.iter().map(brief).collect::<Vec<_>>().join("; ")
        };
        let [leader] = leaders[..] else { return Err(brief()) };
        let epoch = stories[leader].epoch;
        let agree = |s: &Status| {
            s.epoch == epoch
                && in_sync(s).len() == nodes.len()
                && s.leader.as_ref() == Some(&stories[leader].node)
                && (s.role == "leader" || s.role == "replica")
        };
        if !stories.iter().all(agree) {
            return Err(brief());
        }
        found = Some((leader, epoch));
        Ok(())
    };
    eventually(PATIENCE, "all nodes are in sync and agree", whole);
    found.expect("it was found")
}

/// Nodes around a ZooKeeper of their own.
pub struct Cluster {
    /// In the order of their names: n1, n2, ...
    pub nodes: Vec<Node>,
    /// Ends after them.
    pub zookeeper: ZooKeeper,
    /// The other servers of its ensemble, if it is one.
    pub further_zookeepers: Vec<ZooKeeper>,
    /// Ends last. Each node's host, then ZooKeeper's, then one that is free; none if all of them share this machine's network.
    pub network: Option<Network>,
}

impl Cluster {
    /// Three nodes, all in sync, and the leader's place among them; none, with a message, where there is no ZooKeeper. `more` are
    /// further arguments of every node.
    #[must_use]
    pub fn start(more: &[&str]) -> Option<Cluster> {
        Some(Cluster::prepare(more)?.started())
    }

    /// The same, with nodes that were not started yet.
    #[must_use]
    pub fn prepare(more: &[&str]) -> Option<Cluster> {
        let zookeeper = ZooKeeper::start()?;
        let address = zookeeper.address();
        let nodes = ["n1", "n2", "n3"].map(|name| Node::new(name, &address, more)).into();
        Some(Cluster { nodes, zookeeper, further_zookeepers: Vec::new(), network: None })
    }

    /// The same, started, with lines between the nodes that carry so many bytes a second.
    #[must_use]
    pub fn start_narrow(bytes_per_second: u32, more: &[&str]) -> Option<Cluster> {
        let zookeeper = ZooKeeper::start()?;
        let address = zookeeper.address();
        let nodes = ["n1", "n2", "n3"].map(|name| {
            let replication = free_addr();
            let valve = Valve::narrow(replication.to_string(), Some(bytes_per_second));
            let advertise = format!("replication.advertise={}", valve.address());
            let addrs = [free_addr(), replication, free_addr(), free_addr()];
            Node::listening(name, addrs, &address, &[more, &["--set", &advertise]].concat())
        });
        Some(Cluster { nodes: nodes.into(), zookeeper, further_zookeepers: Vec::new(), network: None }.started())
    }

    /// The same with a ZooKeeper of three servers.
    #[must_use]
    pub fn start_with_ensemble(more: &[&str]) -> Option<Cluster> {
        let mut further_zookeepers = ZooKeeper::start_ensemble()?;
        let addresses: Vec<String> = further_zookeepers.iter().map(ZooKeeper::address).collect();
        let zookeeper = further_zookeepers.remove(0);
        let nodes = ["n1", "n2", "n3"].map(|name| Node::new(name, &addresses.join(","), more)).into();
        Some(Cluster { nodes, zookeeper, further_zookeepers, network: None }.started())
    }

    /// Makes `zookeeper` the server that follows and with which a replica has its session; restarts replicas until there is one, for which server a node finds
    /// is drawn by chance. Returns the place of the leader.
    ///
    /// # Panics
    /// If the cluster is not whole, or ZooKeeper is no ensemble.
    pub fn take_server_of_a_replica(&mut self) -> usize {
        loop {
            let (leader, _) = self.wait_until_whole();
            let mut replicas = (0..self.nodes.len()).filter(|i| *i != leader);
            let ports: Vec<u16> = replicas.clone().flat_map(|i| self.nodes[i].process.ports()).collect();
            let fits = |server: &ZooKeeper| !server.leads() && server.clients().iter().any(|port| ports.contains(port));
            if fits(&self.zookeeper) {
                return leader;
            }
            if let Some(server) = self.further_zookeepers.iter_mut().find(|server| fits(server)) {
                std::mem::swap(server, &mut self.zookeeper);
                return leader;
            }
            let replica = replicas.next_back().expect("a replica");
            self.nodes[replica].process.kill();
            self.nodes[replica].process.start();
        }
    }

    /// The same, with a host for each node and one for ZooKeeper; none, with a message, where that is not possible.
    #[must_use]
    pub fn start_apart(more: &[&str]) -> Option<Cluster> {
        let network = Network::start(5)?;
        let zookeeper = ZooKeeper::start_on(Some(&network.hosts[3]))?;
        let address = zookeeper.address();
        let node = |i: usize| Node::on(&network.hosts[i], &format!("n{}", i + 1), &address, more);
        let nodes = (0..3).map(node).collect();
        Some(Cluster { nodes, zookeeper, further_zookeepers: Vec::new(), network: Some(network) }.started())
    }

    /// Starts a node that was killed at the host that is free, under the name that it had.
    ///
    /// # Panics
    /// If nodes share one network.
    pub fn start_elsewhere(&mut self, node: usize) {
        let network = self.network.as_ref().expect("nodes apart");
        let address = self.zookeeper.address();
        let taken =
            |ip: Ipv4Addr| self.nodes.iter().any(|n| n.addr.ip() == ip) || address.starts_with(&format!("{ip}:"));
        let host = network.hosts.iter().find(|host| !taken(host.ip)).expect("a free host").clone();
        let mut moved = Node::on(&host, &self.nodes[node].name, &address, &[]);
        moved.process.start();
        self.nodes[node] = moved;
    }

    /// Starts every node, and waits until the cluster is whole.
    #[must_use]
    pub fn started(mut self) -> Cluster {
        self.nodes.iter_mut().for_each(|node| node.process.start());
        self.wait_until_whole();
        self
    }

    /// Where clients connect, in order.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.addr).collect()
    }

    /// See [`wait_until_whole`].
    pub fn wait_until_whole(&self) -> (usize, Epoch) {
        wait_until_whole(&self.addrs())
    }

    /// The leader, and the replicas.
    #[must_use]
    pub fn roles(&self) -> (&Node, Vec<&Node>) {
        let (leader, _) = self.wait_until_whole();
        let replicas = self.nodes.iter().enumerate().filter(|(i, _)| *i != leader).map(|(_, node)| node).collect();
        (&self.nodes[leader], replicas)
    }

    /// Ends all nodes with SIGTERM.
    ///
    /// # Panics
    /// If one does not end with 0, or said something alarming that does not contain one of `expected`.
    pub fn finish(mut self, expected: &[&str]) {
        for node in &mut self.nodes {
            let status = node.process.terminate();
            assert!(status.success(), "{} ended with {status}", node.name);
        }
        let alarms = self.nodes.iter().flat_map(|node| node.process.alarming());
        let alarms: Vec<String> = alarms.filter(|line| !expected.iter().any(|text| line.contains(text))).collect();
        assert!(alarms.is_empty(), "the nodes said:\n{}", alarms.join("\n"));
    }
}

/// What must not change while something is done to a cluster: who leads in which epoch, and who is in sync; not even for a moment.
pub struct Calm {
    leader: usize,
    epoch: Epoch,
    said: Vec<usize>,
}

impl Calm {
    /// What is now, with all nodes in sync.
    #[must_use]
    pub fn now(cluster: &Cluster) -> Calm {
        let (leader, epoch) = cluster.wait_until_whole();
        Calm { leader, epoch, said: cluster.nodes.iter().map(|node| node.process.log().len()).collect() }
    }

    /// # Panics
    /// If it is not so any more, or was not in between.
    pub fn assert_still(&self, cluster: &Cluster) {
        let moved =
            ["out of the in-sync set", "stepping down", "-> candidate", "gave copy", "granted epoch", "is down at"];
        for (node, before) in cluster.nodes.iter().zip(&self.said) {
            let log = node.process.log();
            let lines: Vec<&str> = log[*before..].lines().filter(|l| moved.iter().any(|m| l.contains(m))).collect();
            assert!(lines.is_empty(), "{} was not left alone:\n{}", node.name, lines.join("\n"));
        }
        assert_eq!(cluster.wait_until_whole(), (self.leader, self.epoch), "leader and epoch");
    }
}

/// `datakeeper local`: a cluster in one process.
pub struct Local {
    /// The process.
    pub process: Process,
    /// Where clients connect: n1, n2, ...
    pub addrs: Vec<SocketAddr>,
    /// Where operators connect.
    pub admin: SocketAddr,
}

impl Local {
    /// Three nodes on free ports, all in sync.
    #[must_use]
    pub fn start(more: &[&str]) -> Local {
        let mut args: Vec<String> = ["local", "--port", "0", "--admin-port", "0"].map(String::from).into();
        args.extend(more.iter().map(ToString::to_string));
        let mut process = Process::new("local", args);
        process.start();
        let mut found = (Vec::new(), None);
        eventually(PATIENCE, "local says where its nodes are", || {
            let log = process.log();
            let after = |prefix: &str| -> Option<SocketAddr> {
                let rest = log.lines().find_map(|line| line.strip_prefix(prefix))?;
                rest.split('/').next()?.trim().parse().ok()
            };
            found.0 = ["  n1  ", "  n2  ", "  n3  "].iter().filter_map(|prefix| after(prefix)).collect();
            found.1 = after("  operators: http://");
            if found.0.len() == 3 && found.1.is_some() { Ok(()) } else { Err(log) }
        });
        let local = Local { process, addrs: found.0, admin: found.1.expect("it was found") };
        wait_until_whole(&local.addrs);
        local
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// If it does not end with 0, or said something alarming.
    pub fn finish(mut self) {
        let status = self.process.terminate();
        assert!(status.success(), "local ended with {status}");
        let alarms = self.process.alarming();
        assert!(alarms.is_empty(), "local said:\n{}", alarms.join("\n"));
    }
}
