//! A real ZooKeeper for tests: one server on a free loopback port, or three that are an ensemble, with their data in directories of their own.
//!
//! Needs `java` and ZooKeeper's jar (on Debian: `apt-get install zookeeper`). Where they are missing a test is skipped with a message,
//! unless `DATAKEEPER_REQUIRE_ZOOKEEPER` is set: then that is a failure. `DATAKEEPER_ZOOKEEPER_CLASSPATH` names other jars.
//!
//! Not for production use in any way: it does not flush to disk.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::network::{Host, command};

const JAR: &str = "/usr/share/java/zookeeper.jar";
const LOG_JAR: &str = "/usr/share/java/slf4j-simple.jar";
/// A busy machine takes a second or two.
const READY_CAP: Duration = Duration::from_secs(30);

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory that can be read") {
        let entry = entry.expect("an entry of a directory");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_directory(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("a file that can be copied");
        }
    }
}

/// A server, killed and its data deleted when dropped.
pub struct ZooKeeper {
    child: Option<Child>,
    /// Where it runs; none: just here.
    host: Option<Host>,
    listen: SocketAddr,
    directory: PathBuf,
    class_path: String,
    /// The lines about the ensemble in its configuration, and its number there; none if it is alone.
    ensemble: Option<(String, usize)>,
}

impl ZooKeeper {
    /// Starts a server and waits until it answers; `None`, with a message, where that is not possible.
    ///
    /// # Panics
    /// If it is not possible and `DATAKEEPER_REQUIRE_ZOOKEEPER` is set, or if a server was started and never answers.
    #[must_use]
    pub fn start() -> Option<ZooKeeper> {
        ZooKeeper::start_on(None)
    }

    /// The same, at a host of its own.
    ///
    /// # Panics
    /// As [`ZooKeeper::start`].
    #[must_use]
    pub fn start_on(host: Option<&Host>) -> Option<ZooKeeper> {
        let mut server = ZooKeeper::prepare(host)?;
        server.restart();
        Some(server)
    }

    /// Three servers that are one ensemble.
    ///
    /// # Panics
    /// As [`ZooKeeper::start`].
    #[must_use]
    pub fn start_ensemble() -> Option<Vec<ZooKeeper>> {
        let mut servers = (0..3).map(|_| ZooKeeper::prepare(None)).collect::<Option<Vec<ZooKeeper>>>()?;
        let line = |i: usize| format!("server.{}=127.0.0.1:{}:{}\n", i + 1, free_port(), free_port());
        let lines: String = (0..servers.len()).map(line).collect();
        for (i, server) in servers.iter_mut().enumerate() {
            server.ensemble = Some((lines.clone(), i + 1));
            server.launch();
        }
        servers.iter_mut().for_each(ZooKeeper::wait_until_it_answers);
        Some(servers)
    }

    fn prepare(host: Option<&Host>) -> Option<ZooKeeper> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let class_path = match class_path() {
            Ok(class_path) => class_path,
            Err(missing) => {
                assert!(
                    std::env::var_os("DATAKEEPER_REQUIRE_ZOOKEEPER").is_none(),
                    "DATAKEEPER_REQUIRE_ZOOKEEPER is set, but {missing}"
                );
                eprintln!("SKIPPED: {missing}; this test needs a real ZooKeeper (apt-get install zookeeper)");
                return None;
            }
        };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("datakeeper-zookeeper-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("data")).expect("a directory for ZooKeeper's data");
        let listen = match host {
            Some(host) => SocketAddr::from((host.ip, 2181)),
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
        };
        Some(ZooKeeper { child: None, host: host.cloned(), listen, directory, class_path, ensemble: None })
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> String {
        self.listen.to_string()
    }

    /// Kills the server at once, as a power cut would; its data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is our child");
            child.wait().expect("the server is our child");
        }
    }

    /// Deletes all that the killed server knew.
    ///
    /// # Panics
    /// If it runs.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "the server is running");
        fs::remove_dir_all(self.directory.join("data")).expect("the data can be deleted");
        fs::create_dir_all(self.directory.join("data")).expect("a directory for ZooKeeper's data");
    }

    /// Copies what the killed server knows.
    ///
    /// # Panics
    /// If it runs.
    pub fn back_up(&self) {
        assert!(self.child.is_none(), "the server is running");
        let backup = self.directory.join("backup");
        if backup.exists() {
            fs::remove_dir_all(&backup).expect("an older backup can be deleted");
        }
        copy_directory(&self.directory.join("data"), &backup);
    }

    /// Sets the killed server back to what was copied.
    ///
    /// # Panics
    /// If it runs.
    pub fn restore(&mut self) {
        self.wipe();
        copy_directory(&self.directory.join("backup"), &self.directory.join("data"));
    }

    /// Starts the server on the data and the port it had, after [`ZooKeeper::kill`], and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn restart(&mut self) {
        self.launch();
        self.wait_until_it_answers();
    }

    fn launch(&mut self) {
        assert!(self.child.is_none(), "the server is running");
        let config = self.write_config();
        let log = fs::File::options().create(true).append(true).open(self.directory.join("log")).expect("a log file");
        let child = command("java", self.host.as_ref())
            .args(["-Xmx64m", "-Xms16m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Djava.net.preferIPv4Stack=true")
            .args(["-cp", &self.class_path, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle on the log"))
            .stderr(log)
            .spawn()
            .expect("java starts");
        self.child = Some(child);
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + READY_CAP;
        while !self.answers() {
            let gone = self.child.as_mut().is_some_and(|child| child.try_wait().expect("our child").is_some());
            assert!(!gone && Instant::now() < deadline, "ZooKeeper does not come up; its log:\n{}", self.log());
            // Nothing tells us when a port opens: this is a poll, not a guess.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server's process without ending it: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Everything the server has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: i32) {
        let pid = self.child.as_ref().expect("the server runs").id();
        // SAFETY: plain system call; the process is our child and not waited for yet, so the id is its own.
        let result = unsafe { libc::kill(pid.try_into().expect("a process id"), signal) };
        assert_eq!(result, 0, "signal {signal} to ZooKeeper");
    }

    fn write_config(&self) -> PathBuf {
        let path = self.directory.join("zoo.cfg");
        let data = self.directory.join("data");
        let (ensemble, timing) = match &self.ensemble {
            Some((lines, number)) => {
                fs::write(data.join("myid"), number.to_string()).expect("a file for its number");
                (&**lines, "tickTime=200\ninitLimit=25\nsyncLimit=10\ncnxTimeout=1000\n")
            }
            None => ("", "tickTime=100\ninitLimit=50\nsyncLimit=20\n"),
        };
        let text = format!(
            "{timing}{ensemble}dataDir={}\nclientPort={}\nclientPortAddress={}\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr,ruok,mntr,cons\nmaxClientCnxns=0\n\
             minSessionTimeout=200\nmaxSessionTimeout=60000\nforceSync=no\n",
            data.display(),
            self.listen.port(),
            self.listen.ip()
        );
        fs::write(&path, text).expect("a configuration file");
        path
    }

    /// A connection alone proves nothing; the answer to `srvr` names the mode once the server serves.
    fn answers(&self) -> bool {
        self.ask("srvr").is_ok_and(|answer| answer.contains("Mode:"))
    }

    /// Whether it leads its ensemble.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.ask("srvr").expect("an answer").contains("Mode: leader")
    }

    /// Ports at which its clients with a session are.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn clients(&self) -> Vec<u16> {
        let answer = self.ask("cons").expect("an answer");
        let of_sessions = answer.lines().filter(|line| line.contains("sid=0x"));
        of_sessions.filter_map(|line| line.split('[').next()?.rsplit(':').next()?.parse().ok()).collect()
    }

    /// One of the words of four letters.
    fn ask(&self, word: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect_timeout(&self.listen, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(word.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn class_path() -> Result<String, String> {
    let class_path = match std::env::var("DATAKEEPER_ZOOKEEPER_CLASSPATH") {
        Ok(class_path) => class_path,
        Err(_) if !Path::new(JAR).exists() => return Err(format!("{JAR} is missing")),
        Err(_) if Path::new(LOG_JAR).exists() => format!("{JAR}:{LOG_JAR}"),
        Err(_) => JAR.to_string(),
    };
    let quiet = Stdio::null;
    match Command::new("java").arg("-version").stdin(quiet()).stdout(quiet()).stderr(quiet()).status() {
        Ok(status) if status.success() => Ok(class_path),
        _ => Err("java is missing".to_string()),
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}
