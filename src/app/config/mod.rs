//! The configuration of one process: every key, its default, its range, and the rules over several keys.
//!
//! Layers: defaults, the YAML file, the environment (secrets only), the flags (no secrets: whoever lists processes would see
//! them). All of them go through the same reading, so a flag is checked like a line of the file, and all errors are reported
//! at once. `config.yml` at the root documents every key; a test holds it to exactly the defaults below.
//!
//! Not here: what the settings do (their floors), and the bound addresses of ephemeral ports (known only after binding).

mod layers;
pub mod rewrite;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

pub use layers::{ConfigError, ConfigErrors, Given, Source};

use crate::base::ids::{NODE_NAME_BYTES_MAX, NodeId};
use crate::base::limits::SLOWLOG_LEN_MAX;
use crate::cluster::config::{ClusterConfig, TotalLoss};
use crate::cluster::state::MinInSync;
use crate::keeper::{EVICTION_SAMPLES_MAX, KeyEvents, LogLevel, MAX_MEMORY_MAX, OutputLimit, Settings};
use crate::shell::coordination::zookeeper;
use crate::store::Eviction;
use layers::{Key, Reader};

/// Environment variable that holds `replication.secret`.
pub const ENV_REPLICATION_SECRET: &str = "DATAKEEPER_REPLICATION_SECRET";
/// Environment variable that holds `auth.password`; for `status` it is the password to present.
pub const ENV_AUTH_PASSWORD: &str = "DATAKEEPER_AUTH_PASSWORD";
/// Environment variable that holds `zookeeper.auth`.
pub const ENV_ZOOKEEPER_AUTH: &str = "DATAKEEPER_ZOOKEEPER_AUTH";

const ENVIRONMENT: &[(&str, &str)] = &[
    (ENV_REPLICATION_SECRET, "replication.secret"),
    (ENV_AUTH_PASSWORD, "auth.password"),
    (ENV_ZOOKEEPER_AUTH, "zookeeper.auth"),
];

/// Longest secret or password, in bytes.
const SECRET_BYTES_MAX: usize = 1_024;
/// Largest parameter of an LFU policy, as in Redis.
const LFU_MAX: u64 = i32::MAX as u64;
/// Most threads that serve clients.
const THREADS_MAX: u64 = 256;

const fn open(path: &'static str) -> Key {
    Key { path, secret: false }
}

const fn secret(path: &'static str) -> Key {
    Key { path, secret: true }
}

/// Every key, in the order of `config.yml`.
const KEYS: &[Key] = &[
    open("node_name"),
    open("cluster"),
    open("listen"),
    open("advertise"),
    open("threads"),
    open("writes_on_replica"),
    open("reads_on_replica"),
    open("bootstrap"),
    open("total_loss"),
    open("coordination"),
    open("zookeeper.connect"),
    open("zookeeper.session_timeout_ms"),
    secret("zookeeper.auth"),
    open("replication.listen"),
    open("replication.advertise"),
    open("replication.acks"),
    open("replication.min_in_sync"),
    open("replication.read_mode"),
    open("replication.heartbeat_ms"),
    open("replication.suspect_ms"),
    open("replication.lease_ms"),
    open("replication.promise_ms"),
    open("replication.max_staleness_ms"),
    open("replication.backlog_bytes"),
    secret("replication.secret"),
    open("replication.secret_file"),
    open("replication.open"),
    open("admin.listen"),
    open("sentinel.listen"),
    open("sentinel.advertise"),
    open("shutdown.leave_timeout_s"),
    open("memory.max_bytes"),
    open("memory.eviction"),
    open("memory.eviction_samples"),
    open("memory.lfu_log_factor"),
    open("memory.lfu_decay_minutes"),
    open("memory.client_output_buffer_limit"),
    open("memory.clients_max_bytes"),
    open("slowlog.slower_than_us"),
    open("slowlog.max_len"),
    open("latency.threshold_ms"),
    open("notify.keyspace_events"),
    open("tracking.max_keys"),
    secret("auth.password"),
    open("auth.password_file"),
    open("log.level"),
    open("log.format"),
    open("log.file"),
];

/// Keys that `local` decides itself for each of its nodes.
const DECIDED_BY_LOCAL: &[&str] = &[
    "node_name",
    "listen",
    "advertise",
    "coordination",
    "zookeeper.connect",
    "zookeeper.session_timeout_ms",
    "zookeeper.auth",
    "replication.listen",
    "replication.advertise",
    "admin.listen",
    "sentinel.listen",
    "sentinel.advertise",
];

/// The paths of all keys, in the order of `config.yml`.
pub fn key_paths() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path)
}

/// A text that must not be shown: [`fmt::Debug`] hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A setting with a few words for values, and the word for each.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant)),+];

            /// The word for it in the configuration, INFO and `status`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

words!(
    /// When a write is answered.
    Acks {
        /// When every member of the in-sync set holds it.
        InSync = "in_sync",
        /// At once, as Redis does: a write answered OK may be lost with the leader.
        Leader = "leader",
    }
);
words!(
    /// What a read at the leader rests on.
    ReadMode {
        /// Echoes younger than `lease_ms` from the in-sync set: linearizable, given clocks that run at like speeds.
        Lease = "lease",
        /// An answer from the whole in-sync set, asked for after the read arrived: linearizable whatever the clocks do.
        Confirm = "confirm",
        /// Nothing: fastest, and a deposed leader may answer with old data.
        Local = "local",
    }
);
words!(
    /// What remembers who leads.
    Coordination {
        /// A ZooKeeper ensemble.
        Zookeeper = "zookeeper",
        /// This process itself: a single node, or the nodes of `local`.
        Embedded = "embedded",
    }
);
words!(
    /// What a replica answers to a write.
    WritesOnReplica {
        /// `-MOVED slot leader`, as in a Redis cluster.
        Moved = "moved",
        /// `-READONLY …`, as from a Redis outside a cluster; cluster clients are redirected all the same.
        Readonly = "readonly",
        /// It is passed on to the leader.
        Proxy = "proxy",
    }
);
words!(
    /// Whose reads a replica answers.
    ReadsOnReplica {
        /// Everybody's.
        Any = "any",
        /// Those of connections that sent READONLY, as in a Redis cluster.
        Readonly = "readonly",
    }
);
words!(
    /// Whether this node may create a cluster that does not exist yet.
    Bootstrap {
        /// It may, if it finds no `/state`.
        Auto = "auto",
        /// It waits until another node has done so.
        Never = "never",
    }
);
words!(
    /// How a message is written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
);

const TOTAL_LOSS_WORDS: &[(&str, TotalLoss)] =
    &[("start_empty", TotalLoss::StartEmpty), ("proven", TotalLoss::Proven), ("halt", TotalLoss::Halt)];

/// Everything one process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name, unique in its cluster.
    pub node_name: NodeId,
    /// The cluster's name: also the Sentinel master name and a component of ZooKeeper paths.
    pub cluster: String,
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` given to clients in redirects, exactly as written; none: the address that was bound.
    pub advertise: Option<String>,
    /// Threads that serve clients; none: one per core (one per node in `local`).
    pub threads: Option<usize>,
    /// Answer to a write at a replica.
    pub writes_on_replica: WritesOnReplica,
    /// Whose reads a replica answers.
    pub reads_on_replica: ReadsOnReplica,
    /// Whether this node may create the cluster.
    pub bootstrap: Bootstrap,
    /// Cluster-wide, used at bootstrap: policy for proven total loss.
    pub total_loss: TotalLoss,
    /// Coordination service.
    pub coordination: Coordination,
    /// How ZooKeeper is reached; not looked at with [`Coordination::Embedded`].
    pub zookeeper: ZooKeeper,
    /// Replication between nodes.
    pub replication: Replication,
    /// The operators' HTTP address; port 0 takes a free one.
    pub admin_listen: SocketAddr,
    /// Where the node is a Sentinel and nothing else; none: nowhere.
    pub sentinel_listen: Option<SocketAddr>,
    /// `host:port` given to clients for that, exactly as written; none: the address that was bound.
    pub sentinel_advertise: Option<String>,
    /// How long a node that is told to end waits for a copy that is being filled, while too few would be left without its own, s; 0: for ever.
    pub leave_timeout_s: u64,
    /// Limits on data.
    pub memory: Memory,
    /// Which commands SLOWLOG and LATENCY tell of.
    pub slow: Slow,
    /// Which keyspace notifications are told.
    pub key_events: KeyEvents,
    /// Keys of the table of client-side caching; 0: no limit.
    pub tracking_keys_max: u64,
    /// Password that clients must present; none: everyone may.
    pub password: Option<Secret>,
    /// What is logged, and how.
    pub log: Log,
}

/// How ZooKeeper is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeper {
    /// `host:port,host:port/chroot`, checked; the chroot is optional.
    pub connect: String,
    /// Session timeout asked for, ms; failover does not wait for it.
    pub session_timeout_ms: u64,
    /// `scheme:credentials`, as in `digest:user:password`; none: open access lists.
    pub auth: Option<Secret>,
}

impl ZooKeeper {
    /// The `host:port` list, without the chroot.
    #[must_use]
    pub fn hosts(&self) -> &str {
        self.connect.split_once('/').map_or(&self.connect, |(hosts, _)| hosts)
    }

    /// Path of the znode below which the cluster lives: the chroot, or `/datakeeper`, and the cluster's name.
    #[must_use]
    pub fn root(&self, cluster: &str) -> String {
        let chroot = self.connect.split_once('/').map_or("datakeeper", |(_, path)| path);
        format!("/{chroot}/{cluster}")
    }
}

/// Replication between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Where other nodes connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` registered for other nodes, exactly as written; none: the address that was bound.
    pub advertise: Option<String>,
    /// When a write is answered.
    pub acks: Acks,
    /// Cluster-wide, used at bootstrap: fewest members that may accept writes.
    pub min_in_sync: MinInSync,
    /// What a read at the leader rests on.
    pub read_mode: ReadMode,
    /// Cluster-wide, used at bootstrap: period of pulses, ms.
    pub heartbeat_ms: u64,
    /// Cluster-wide, used at bootstrap: silence after which a member is taken out, ms.
    pub suspect_ms: u64,
    /// Cluster-wide, used at bootstrap: how long an echo serves reads, ms.
    pub lease_ms: u64,
    /// Cluster-wide, used at bootstrap: how long a member does not stand, ms.
    pub promise_ms: u64,
    /// A replica whose data may be older does not answer reads, ms; 0: no limit.
    pub max_staleness_ms: u64,
    /// Log kept for replicas that come back after a short break, bytes.
    pub backlog_bytes: u64,
    /// What nodes prove to each other that they know; none: links are open.
    pub secret: Option<Secret>,
    /// Links may be open where other machines can connect.
    pub open: bool,
}

/// Limits on data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of keys, values and their tables; none: no limit.
    pub max_bytes: Option<u64>,
    /// What happens at the limit.
    pub eviction: Eviction,
    /// Keys looked at for each one that goes.
    pub eviction_samples: u64,
    /// How many uses a step of a key's counter stands for.
    pub lfu_log_factor: u64,
    /// Minutes without use after which a key's counter loses one.
    pub lfu_decay_minutes: u64,
    /// Bytes of replies that may wait for one client.
    pub output_limit: OutputLimit,
    /// The same for all clients together; 0: no limit.
    pub clients_max_bytes: u64,
}

/// Which commands SLOWLOG and LATENCY tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// From how many µs on a command stands in the slow log; -1: none does.
    pub slower_than_us: i64,
    /// Commands that the slow log keeps.
    pub slowlog_max_len: usize,
    /// From how many ms on LATENCY notes a command; 0: none.
    pub latency_threshold_ms: u64,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least important message.
    pub level: LogLevel,
    /// Form of a message.
    pub format: LogFormat,
    /// Where it goes; none: stderr.
    pub file: Option<PathBuf>,
}

/// One setting given as a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag's name with its dashes.
    pub flag: &'static str,
    /// Path of the key it mirrors; none for `--set`, whose value is `path=value`.
    pub key: Option<&'static str>,
    /// What was typed after it.
    pub value: String,
}

/// What the layers of a configuration are made of; a plain value, so that tests need neither files nor an environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of the file, if there is one.
    pub file: Option<(String, String)>,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Flags; where two set the same key, the later one counts.
    pub flags: Vec<Setting>,
    /// Name of the machine, for the default of `node_name`.
    pub hostname: String,
    /// Whether the nodes of `local` are configured: some keys are then decided by it.
    pub local: bool,
}

impl Sources {
    /// Reads the file, the environment and the machine's name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn gather(file: Option<&Path>, flags: Vec<Setting>, local: bool) -> Result<Sources, ConfigErrors> {
        let file = match file {
            None => None,
            Some(path) => {
                let name = path.display().to_string();
                match std::fs::read_to_string(path) {
                    Ok(text) => Some((name, text)),
                    Err(e) => {
                        let error = ConfigError::Unreadable { path: name, reason: e.to_string() };
                        return Err(ConfigErrors(vec![error]));
                    }
                }
            }
        };
        let environment =
            ENVIRONMENT.iter().filter_map(|(name, _)| Some((name.to_string(), std::env::var(name).ok()?)));
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = hostname.trim().to_string();
        Ok(Sources { file, environment: environment.collect(), flags, hostname, local })
    }
}

impl Config {
    /// Lays the layers over each other and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong, each with where it was written.
    pub fn resolve(sources: &Sources) -> Result<Config, ConfigErrors> {
        let mut reader = Reader::new(KEYS);
        if let Some((name, text)) = &sources.file {
            reader.lay_file(name, text);
        }
        for (variable, key) in ENVIRONMENT {
            if let Some(value) = sources.environment.get(*variable) {
                reader.lay(Source::Env(variable), key, value.clone());
            }
        }
        for setting in &sources.flags {
            lay_flag(&mut reader, setting, sources.local);
        }
        let config = read(&mut reader, sources);
        check(&mut reader, sources, &config);
        reader.finish(config)
    }

    /// The cluster-wide settings, as they go into `/config` when this node bootstraps the cluster.
    #[must_use]
    pub fn cluster_config(&self) -> ClusterConfig {
        ClusterConfig {
            min_in_sync: self.replication.min_in_sync,
            heartbeat_ms: self.replication.heartbeat_ms,
            suspect_ms: self.replication.suspect_ms,
            lease_ms: self.replication.lease_ms,
            promise_ms: self.replication.promise_ms,
            total_loss: self.total_loss,
            unknown: serde_json::Map::new(),
        }
    }

    /// What clients are told to connect to, once `bound` is known.
    #[must_use]
    pub fn client_address(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    /// What other nodes are told to connect to, once `bound` is known.
    #[must_use]
    pub fn replication_address(&self, bound: SocketAddr) -> String {
        self.replication.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    /// Whether other machines can connect where nodes do, and need not prove anything.
    fn has_open_links(&self) -> bool {
        let clustered = self.coordination == Coordination::Zookeeper;
        clustered && !self.replication.listen.ip().is_loopback() && self.replication.secret.is_none()
    }

    /// What is allowed but probably not meant, one sentence each; logged at start and printed by `check-config`.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.listen.ip().is_loopback() && self.password.is_none() {
            warnings.push(format!("listen {}: other machines can connect and auth.password is not set", self.listen));
        }
        if self.has_open_links() {
            let listen = self.replication.listen;
            warnings.push(format!(
                "replication.listen {listen}: other machines can connect and replication.secret is not set"
            ));
        }
        if self.replication.acks == Acks::Leader {
            warnings.push("replication.acks leader: a write answered OK may be lost when the leader dies".into());
        }
        if self.replication.read_mode == ReadMode::Local {
            warnings.push("replication.read_mode local: a leader that was deposed may answer with old data".into());
        }
        warnings
    }

    /// The effective configuration as YAML that reads back to the same; secrets stay out of it and are only mentioned.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            let (prefix, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            if prefix != section {
                section = prefix;
                out.push_str(&format!("{section}:\n"));
            }
            let indent = if prefix.is_empty() { "" } else { "  " };
            out.push_str(&match self.shown(key.path) {
                Shown::Value(value) => {
                    let value = serde_yaml::to_string(&value).unwrap_or_default();
                    format!("{indent}{name}: {}\n", value.trim_end())
                }
                Shown::Hidden => format!("{indent}# {name}: set, not shown\n"),
            });
        }
        out
    }

    /// The value of a key in its written form.
    fn shown(&self, path: &str) -> Shown {
        let or_null = |text: &Option<String>| text.clone().map_or(Value::Null, Value::from);
        let hidden = |secret: &Option<Secret>| secret.as_ref().map_or(Shown::Value(Value::Null), |_| Shown::Hidden);
        let Replication { acks, read_mode, heartbeat_ms, suspect_ms, lease_ms, promise_ms, .. } = self.replication;
        let Replication { max_staleness_ms, backlog_bytes, .. } = self.replication;
        Shown::Value(match path {
            "node_name" => self.node_name.as_str().into(),
            "cluster" => self.cluster.as_str().into(),
            "listen" => self.listen.to_string().into(),
            "advertise" => or_null(&self.advertise),
            "threads" => self.threads.map_or("auto".into(), Value::from),
            "writes_on_replica" => self.writes_on_replica.as_str().into(),
            "reads_on_replica" => self.reads_on_replica.as_str().into(),
            "bootstrap" => self.bootstrap.as_str().into(),
            "total_loss" => TOTAL_LOSS_WORDS.iter().find(|(_, v)| *v == self.total_loss).map_or("", |(w, _)| w).into(),
            "coordination" => self.coordination.as_str().into(),
            "zookeeper.connect" => self.zookeeper.connect.as_str().into(),
            "zookeeper.session_timeout_ms" => self.zookeeper.session_timeout_ms.into(),
            "zookeeper.auth" => return hidden(&self.zookeeper.auth),
            "replication.listen" => self.replication.listen.to_string().into(),
            "replication.advertise" => or_null(&self.replication.advertise),
            "replication.acks" => acks.as_str().into(),
            "replication.min_in_sync" => match self.replication.min_in_sync {
                MinInSync::Auto => "auto".into(),
                MinInSync::Count(n) => n.into(),
            },
            "replication.read_mode" => read_mode.as_str().into(),
            "replication.heartbeat_ms" => heartbeat_ms.into(),
            "replication.suspect_ms" => suspect_ms.into(),
            "replication.lease_ms" => lease_ms.into(),
            "replication.promise_ms" => promise_ms.into(),
            "replication.max_staleness_ms" => max_staleness_ms.into(),
            "replication.backlog_bytes" => backlog_bytes.into(),
            "replication.secret" => return hidden(&self.replication.secret),
            "replication.open" => self.replication.open.into(),
            "admin.listen" => self.admin_listen.to_string().into(),
            "sentinel.listen" => or_null(&self.sentinel_listen.map(|addr| addr.to_string())),
            "sentinel.advertise" => or_null(&self.sentinel_advertise),
            "shutdown.leave_timeout_s" => self.leave_timeout_s.into(),
            "memory.max_bytes" => self.memory.max_bytes.unwrap_or(0).into(),
            "memory.eviction" => self.memory.eviction.as_str().into(),
            "memory.eviction_samples" => self.memory.eviction_samples.into(),
            "memory.lfu_log_factor" => self.memory.lfu_log_factor.into(),
            "memory.lfu_decay_minutes" => self.memory.lfu_decay_minutes.into(),
            "memory.client_output_buffer_limit" => self.memory.output_limit.to_string().into(),
            "memory.clients_max_bytes" => self.memory.clients_max_bytes.into(),
            "slowlog.slower_than_us" => self.slow.slower_than_us.into(),
            "slowlog.max_len" => self.slow.slowlog_max_len.into(),
            "latency.threshold_ms" => self.slow.latency_threshold_ms.into(),
            "notify.keyspace_events" => self.key_events.to_string().into(),
            "tracking.max_keys" => self.tracking_keys_max.into(),
            "auth.password" => return hidden(&self.password),
            "log.level" => self.log.level.as_str().into(),
            "log.format" => self.log.format.as_str().into(),
            "log.file" => or_null(&self.log.file.as_ref().map(|path| path.display().to_string())),
            _ => Value::Null,
        })
    }
}

enum Shown {
    Value(Value),
    Hidden,
}

fn lay_flag(reader: &mut Reader, setting: &Setting, local: bool) {
    let Setting { flag, key, value } = setting;
    let (path, value) = match (key, value.split_once('=')) {
        (Some(key), _) => (*key, value.as_str()),
        (None, Some((path, value))) => (path, value),
        (None, None) => {
            let source = Source::Flag(format!("{flag} {value}"));
            let reason = "want key.path=value, as in replication.lease_ms=400".into();
            return reader.complain(ConfigError::Syntax { source, reason });
        }
    };
    let secret = KEYS.iter().any(|key| key.path == path && key.secret);
    let shown = if secret { "(hidden)" } else { value };
    let source = Source::Flag(match key {
        Some(_) => format!("{flag} {shown}"),
        None => format!("{flag} {path}={shown}"),
    });
    if local && DECIDED_BY_LOCAL.contains(&path) {
        let reason = format!("{path} is decided by local itself; see its --nodes, --port and --admin-port");
        return reader.complain(ConfigError::Conflict { sources: vec![source], reason });
    }
    if secret {
        let variable = ENVIRONMENT.iter().find(|(_, key)| *key == path).expect("each secret has a variable").0;
        let file = format!("{path}_file");
        let file = if KEYS.iter().any(|key| key.path == file) { format!(" or {file}") } else { String::new() };
        let instead = format!("the environment variable {variable}, or {path}{file} in the configuration file");
        return reader.complain(ConfigError::SecretInFlag { source, instead });
    }
    reader.lay(source, path, value.to_string());
}

/// Reads every key by itself.
fn read(reader: &mut Reader, sources: &Sources) -> Config {
    let (timing, defaults) = (ClusterConfig::default(), Settings::default());
    let listen = address(reader, "listen", 6379);
    let coordination_default = if sources.local { Coordination::Embedded } else { Coordination::Zookeeper };
    Config {
        node_name: node_name(reader, sources, listen),
        cluster: reader.read("cluster", &name_wanted(), "main".into(), |given| {
            Some(given.text()?.parse::<NodeId>().ok()?.as_str().to_string())
        }),
        listen,
        advertise: advertised(reader, "advertise"),
        threads: reader.read("threads", &format!("auto or a whole number in 1..={THREADS_MAX}"), None, |given| {
            if given.text() == Some("auto") {
                return Some(None);
            }
            given.number().filter(|n| (1..=THREADS_MAX).contains(n)).map(|n| Some(n as usize))
        }),
        writes_on_replica: reader.choice("writes_on_replica", WritesOnReplica::WORDS, WritesOnReplica::Moved),
        reads_on_replica: reader.choice("reads_on_replica", ReadsOnReplica::WORDS, ReadsOnReplica::Any),
        bootstrap: reader.choice("bootstrap", Bootstrap::WORDS, Bootstrap::Auto),
        total_loss: reader.choice("total_loss", TOTAL_LOSS_WORDS, timing.total_loss),
        coordination: reader.choice("coordination", Coordination::WORDS, coordination_default),
        zookeeper: ZooKeeper {
            connect: connect_string(reader),
            session_timeout_ms: reader.number("zookeeper.session_timeout_ms", 200..=600_000, 6_000),
            auth: reader.read("zookeeper.auth", "scheme:credentials, as in digest:user:password", None, |given| {
                let (scheme, credentials) = given.text()?.split_once(':')?;
                (!scheme.is_empty() && !credentials.is_empty()).then(|| given.text().map(Secret::new))
            }),
        },
        replication: Replication {
            listen: address(reader, "replication.listen", 16379),
            advertise: advertised(reader, "replication.advertise"),
            acks: reader.choice("replication.acks", Acks::WORDS, Acks::InSync),
            min_in_sync: reader.read(
                "replication.min_in_sync",
                "auto or a whole number in 1..=1000",
                timing.min_in_sync,
                |given| {
                    if given.text() == Some("auto") {
                        return Some(MinInSync::Auto);
                    }
                    given.number().filter(|n| (1..=1_000).contains(n)).map(|n| MinInSync::Count(n as u32))
                },
            ),
            read_mode: reader.choice("replication.read_mode", ReadMode::WORDS, ReadMode::Lease),
            heartbeat_ms: reader.number("replication.heartbeat_ms", 1..=600_000, timing.heartbeat_ms),
            suspect_ms: reader.number("replication.suspect_ms", 1..=600_000, timing.suspect_ms),
            lease_ms: reader.number("replication.lease_ms", 1..=600_000, timing.lease_ms),
            promise_ms: reader.number("replication.promise_ms", 1..=600_000, timing.promise_ms),
            max_staleness_ms: reader.number("replication.max_staleness_ms", 0..=86_400_000, 0),
            backlog_bytes: reader.bytes("replication.backlog_bytes", 16 << 10..=1 << 40, 64 << 20),
            secret: secret_of(reader, "replication.secret", "replication.secret_file"),
            open: reader.read("replication.open", "true or false", false, Given::boolean),
        },
        admin_listen: address(reader, "admin.listen", 8081),
        sentinel_listen: reader.read("sentinel.listen", IP_PORT, None, |given| given.text()?.parse().ok().map(Some)),
        sentinel_advertise: advertised(reader, "sentinel.advertise"),
        leave_timeout_s: reader.number("shutdown.leave_timeout_s", 0..=1 << 32, 0),
        memory: Memory {
            max_bytes: Some(reader.bytes("memory.max_bytes", 0..=MAX_MEMORY_MAX, 0)).filter(|bytes| *bytes != 0),
            eviction: reader.choice("memory.eviction", Eviction::WORDS, defaults.eviction),
            eviction_samples: reader.number(
                "memory.eviction_samples",
                1..=EVICTION_SAMPLES_MAX,
                defaults.eviction_samples as u64,
            ),
            lfu_log_factor: reader.number("memory.lfu_log_factor", 0..=LFU_MAX, defaults.lfu_log_factor.into()),
            lfu_decay_minutes: reader.number(
                "memory.lfu_decay_minutes",
                0..=LFU_MAX,
                defaults.lfu_decay_minutes.into(),
            ),
            output_limit: reader.read(
                "memory.client_output_buffer_limit",
                "\"normal HARD SOFT SECONDS\", as in \"normal 1gb 256mb 60\"",
                defaults.output_limit,
                |given| OutputLimit::default().changed(given.text()?).ok(),
            ),
            clients_max_bytes: reader.bytes(
                "memory.clients_max_bytes",
                0..=MAX_MEMORY_MAX,
                defaults.max_clients_memory,
            ),
        },
        slow: Slow {
            slower_than_us: reader.read(
                "slowlog.slower_than_us",
                "-1 or a whole number of microseconds",
                Settings::default().slower_than_us,
                |given| given.integer().filter(|n| *n >= -1),
            ),
            slowlog_max_len: reader.number("slowlog.max_len", 0..=SLOWLOG_LEN_MAX as u64, 128) as usize,
            latency_threshold_ms: reader.number("latency.threshold_ms", 0..=1 << 40, 0),
        },
        key_events: reader.read(
            "notify.keyspace_events",
            "letters of Ag$lshzxeKEtmdn, in quotes",
            KeyEvents::default(),
            |given| KeyEvents::parse(given.text()?),
        ),
        tracking_keys_max: reader.number("tracking.max_keys", 0..=1 << 40, Settings::default().tracking_keys_max),
        password: secret_of(reader, "auth.password", "auth.password_file"),
        log: Log {
            level: reader.choice("log.level", LogLevel::WORDS, LogLevel::Info),
            format: reader.choice("log.format", LogFormat::WORDS, LogFormat::Text),
            file: reader.read("log.file", "the path of a file", None, |given| {
                given.text().filter(|path| !path.is_empty()).map(|path| Some(PathBuf::from(path)))
            }),
        },
    }
}

/// Checks the rules over several keys; a rule over a key that was refused is left out.
fn check(reader: &mut Reader, sources: &Sources, config: &Config) {
    const TIMING: &[&str] =
        &["replication.heartbeat_ms", "replication.suspect_ms", "replication.lease_ms", "replication.promise_ms"];
    if !reader.any_refused(TIMING)
        && let Err(reason) = config.cluster_config().check()
    {
        reader.conflict(TIMING, format!("replication: {reason}"));
    }
    let (limit, beat) = (config.replication.max_staleness_ms, config.replication.heartbeat_ms);
    const STALENESS: &[&str] = &["replication.max_staleness_ms", "replication.heartbeat_ms"];
    if limit != 0 && limit < 2 * beat && !reader.any_refused(STALENESS) {
        let reason =
            format!("replication.max_staleness_ms {limit}: want 0 or at least 2 * heartbeat_ms ({})", 2 * beat);
        reader.conflict(STALENESS, reason);
    }
    let sentinel = config
        .sentinel_listen
        .map(|address| ("sentinel.listen", "sentinel.advertise", address, &config.sentinel_advertise));
    if sentinel.is_none() && config.sentinel_advertise.is_some() && !reader.any_refused(&["sentinel.listen"]) {
        let reason =
            "sentinel.advertise is set and sentinel.listen is not: set sentinel.listen to IP:PORT, or leave both out";
        reader.conflict(&["sentinel.advertise"], reason.into());
    }
    let faces = [
        ("listen", "advertise", config.listen, &config.advertise),
        ("replication.listen", "replication.advertise", config.replication.listen, &config.replication.advertise),
    ];
    for (listen, advertise, address, advertised) in faces.into_iter().chain(sentinel) {
        if address.ip().is_unspecified() && advertised.is_none() && !reader.any_refused(&[advertise]) {
            let reason = format!(
                "{listen} {address} takes connections on every address of the machine, and no other machine can be told to \
                 connect to that: set {advertise} to a host:port that clients and nodes reach"
            );
            reader.conflict(&[listen], reason);
        }
    }
    const OPEN: &[&str] = &["replication.listen", "replication.secret", "replication.secret_file", "replication.open"];
    if config.has_open_links() && !config.replication.open && !sources.local && !reader.any_refused(OPEN) {
        let reason = format!(
            "replication.listen {}: other machines can connect, and whoever does gets all data: set replication.secret to the same on \
             all nodes, or replication.open to true if nobody but the nodes reaches that address",
            config.replication.listen
        );
        reader.conflict(OPEN, reason);
    }
    let mut ports = vec![
        ("listen", config.listen),
        ("replication.listen", config.replication.listen),
        ("admin.listen", config.admin_listen),
    ];
    ports.extend(config.sentinel_listen.map(|address| ("sentinel.listen", address)));
    for (i, (key, address)) in ports.iter().enumerate() {
        for (earlier, taken) in &ports[..i] {
            let same_ip = address.ip() == taken.ip() || address.ip().is_unspecified() || taken.ip().is_unspecified();
            if same_ip && address.port() == taken.port() && address.port() != 0 && !sources.local {
                reader.conflict(&[earlier, key], format!("{earlier} and {key} are both on port {}", address.port()));
            }
        }
    }
    if config.coordination == Coordination::Zookeeper && config.listen.port() == 0 && !reader.is_given("node_name") {
        let reason = "node_name must be set when listen has port 0: the name is made from the port, and must be unique";
        reader.conflict(&["listen"], reason.into());
    }
}

fn name_wanted() -> String {
    format!("1..={NODE_NAME_BYTES_MAX} of A-Z a-z 0-9 - _ . without a leading dot, as text")
}

/// The node's name; by default the machine's name and the client port, which is unique where it matters.
fn node_name(reader: &mut Reader, sources: &Sources, listen: SocketAddr) -> NodeId {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let host: String =
        sources.hostname.trim_start_matches('.').chars().map(fits).take(NODE_NAME_BYTES_MAX - 6).collect();
    let host = if host.is_empty() { "node" } else { &host };
    let default = format!("{host}-{}", listen.port()).parse();
    let default = default.expect("letters, digits and dashes within the length make a node name");
    reader.read("node_name", &name_wanted(), default, |given| given.text()?.parse().ok())
}

/// What an address to listen on looks like.
const IP_PORT: &str = "IP:PORT, as in 127.0.0.1:6379 or [::1]:6379";

fn address(reader: &mut Reader, path: &'static str, port: u16) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], port));
    reader.read(path, IP_PORT, default, |given| given.text()?.parse().ok())
}

fn advertised(reader: &mut Reader, path: &'static str) -> Option<String> {
    reader.read(path, "HOST:PORT that others can connect to, port 1..=65535", None, |given| {
        given.text().filter(|text| is_host_port(text) && !is_unspecified(text)).map(|text| Some(text.to_string()))
    })
}

fn is_unspecified(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}

/// Whether the text is a name or an address that stands for one machine, a colon, and a port.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    port_fits && (named || text.parse::<SocketAddr>().is_ok())
}

fn connect_string(reader: &mut Reader) -> String {
    const WANTED: &str = "host:port,host:port with an optional /chroot at the end";
    let given = reader.value("zookeeper.connect").and_then(Given::text);
    let wrong = given.and_then(|text| zookeeper::check_connect(text).err());
    let wanted = wrong.map_or(WANTED.to_owned(), |wrong| format!("{WANTED}; {wrong}"));
    reader.read("zookeeper.connect", &wanted, "127.0.0.1:2181".into(), |given| {
        given.text().filter(|text| zookeeper::check_connect(text).is_ok()).map(str::to_string)
    })
}

/// Reads a secret from its own key or from the file that the other key names, whichever a later layer gave.
fn secret_of(reader: &mut Reader, path: &'static str, file_path: &'static str) -> Option<Secret> {
    let wanted = format!("1..={SECRET_BYTES_MAX} bytes of text, in quotes if it looks like a number");
    let fits = |text: &str| (1..=SECRET_BYTES_MAX).contains(&text.len()) && !text.contains(['\r', '\n', '\0']);
    let own = reader.read(path, &wanted, None, |given| given.text().filter(|t| fits(t)).map(|t| Some(Secret::new(t))));
    let file = reader.read(file_path, "the path of a file, as text", None, |given| {
        given.text().filter(|text| !text.is_empty()).map(|text| Some(text.to_string()))
    });
    let Some(file) = file else { return own };
    match reader.layer(path).cmp(&reader.layer(file_path)) {
        Ordering::Greater => return own,
        Ordering::Equal => {
            let reason = format!("{path} and {file_path} are both set: want one of them");
            reader.conflict(&[path, file_path], reason);
            return own;
        }
        Ordering::Less => {}
    }
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let text = text.trim_end_matches(['\r', '\n']);
            if fits(text) {
                return Some(Secret::new(text));
            }
            let reason = format!("{file_path}: want {wanted} in one line");
            reader.conflict(&[file_path], reason);
        }
        Err(e) => {
            reader.complain(ConfigError::Unreadable { path: format!("{file_path}: {file}"), reason: e.to_string() })
        }
    }
    None
}

#[cfg(test)]
mod tests;
