//! A client program and what it says: one process per library, version and way to find the leader. `python/story.py` has the lines.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a client finds the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is told one address; its user follows `-MOVED`.
    Plain,
    /// As a client of Redis Cluster.
    Cluster,
    /// It asks any node, as if that were a Sentinel.
    Sentinel,
    /// It asks any node's Sentinel port.
    SentinelPort,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Way::Plain => "plain",
            Way::Cluster => "cluster",
            Way::Sentinel | Way::SentinelPort => "sentinel",
        }
    }
}

/// What runs a program.
#[derive(Clone, Copy)]
pub enum Runner {
    /// The interpreter of this virtual environment.
    Python(&'static str),
    /// Node.js, with the packages of this directory.
    Node(&'static str),
    /// An executable.
    Executable(&'static str),
}

/// What a library's client of clusters does with any Redis Cluster, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// While a node is down it waits for that node.
    pub waits_for_node: bool,
    /// It leaves redirects of pipelines and transactions to its user.
    pub tells_redirects: bool,
}

/// A library of one version, and the ways it is tried in.
pub struct Library {
    /// As in the names of its keys.
    pub name: &'static str,
    /// What runs it.
    pub runner: Runner,
    /// The program's text, below `tests/clients`, and its first arguments.
    pub program: &'static [&'static str],
    /// How it looks for the leader.
    pub ways: &'static [Way],
    /// What is known of it.
    pub habits: Habits,
}

/// What a program has said so far.
#[derive(Default)]
pub struct Said {
    /// Library and version.
    pub library: String,
    /// It tried everything, and writes now.
    pub ready: bool,
    /// Rounds of writes that were acknowledged.
    pub acked: Vec<u64>,
    /// What it was told instead, since this was taken last.
    pub errors: Vec<String>,
    /// Reads that did not show the write before them.
    pub stale: Vec<String>,
    /// What must not be.
    pub wrong: Vec<String>,
    /// Rounds that it has read back in the end.
    pub verified: Option<usize>,
    /// The longest time without an acknowledged round, since this was taken last.
    pub pause: Duration,
    last: Option<Instant>,
}

/// A running program.
pub struct Program {
    /// Unique; its keys begin with it.
    pub name: String,
    /// How it looks for the leader.
    pub way: Way,
    /// What is known of it.
    pub habits: Habits,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    readers: Vec<JoinHandle<()>>,
}

/// Where `scripts/install-clients` has put everything.
pub fn installed() -> PathBuf {
    std::env::var_os("DATAKEEPER_CLIENTS")
        .map(PathBuf::from)
        .expect("DATAKEEPER_CLIENTS is set by scripts/test clients")
}

impl Program {
    /// Starts a client, which is told of all nodes, that of the leader first.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn start(library: &Library, way: Way, nodes: &[SocketAddr]) -> Program {
        let home = installed();
        let (program, arguments) = library.program.split_first().expect("a program has a name");
        // Politely: the nodes are what is looked at, and there are many clients on few cores.
        let polite = |program: PathBuf| {
            let mut command = Command::new("nice");
            command.args(["-n", "10"]).arg(program);
            command
        };
        let text = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(program);
        let mut command = match library.runner {
            Runner::Python(venv) => polite(home.join(venv).join("bin/python")),
            Runner::Node(_) => polite(home.join("bin/node")),
            Runner::Executable(name) => polite(home.join("bin").join(name)),
        };
        match library.runner {
            Runner::Python(_) => drop(command.arg(text).env("PYTHONDONTWRITEBYTECODE", "1")),
            Runner::Node(modules) => drop(command.arg(text).env("NODE_PATH", home.join(modules).join("node_modules"))),
            Runner::Executable(_) => {}
        }
        let name = [&[library.name], arguments, &[way.word()]].concat().join(".");
        command.args(arguments).args([way.word(), &name]).args(nodes.iter().map(SocketAddr::to_string));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {command:?}: {e}"));
        let said = Arc::new(Mutex::new(Said::default()));
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let readers = vec![
            reader(stdout, &said, Said::hear),
            reader(stderr, &said, |said, line| said.wrong.push(line.to_string())),
        ];
        Program { name, way, habits: library.habits, stdin: child.stdin.take(), child, said, readers }
    }

    /// Whether it gets to the new leader while the former one is down.
    pub fn finds_leader(&self) -> bool {
        self.way != Way::Plain && !self.habits.waits_for_node
    }

    /// Whether an orderly change of the leadership shows in no error.
    pub fn follows_redirects(&self) -> bool {
        self.way == Way::Cluster && !self.habits.tells_redirects
    }

    /// What it has said.
    pub fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was told to stop writing.
    pub fn is_finishing(&self) -> bool {
        self.stdin.is_none()
    }

    /// Tells it to stop writing and to look whether everything is there.
    pub fn finish(&mut self) {
        self.stdin = None;
    }

    /// The code with which it ended; none while it runs, or if a signal ended it.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("our child")?;
        self.readers.drain(..).for_each(|reader| reader.join().expect("a reader does not panic"));
        Some(status.code().unwrap_or(-1))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "library" => self.library = rest.to_string(),
            "ready" => self.ready = true,
            "acked" => {
                let now = Instant::now();
                self.pause = self.pause.max(self.last.map_or(Duration::ZERO, |last| now - last));
                self.last = Some(now);
                self.acked.push(rest.parse().unwrap_or_else(|_| panic!("acked {rest}")));
            }
            "error" => self.errors.push(rest.to_string()),
            "stale" => self.stale.push(rest.to_string()),
            "verified" => self.verified = rest.parse().ok(),
            // "wrong", and what nobody expected.
            _ => self.wrong.push(line.to_string()),
        }
    }
}

fn reader(
    from: impl std::io::Read + Send + 'static,
    said: &Arc<Mutex<Said>>,
    hear: fn(&mut Said, &str),
) -> JoinHandle<()> {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            hear(&mut said.lock().unwrap_or_else(PoisonError::into_inner), &line);
        }
    })
}
