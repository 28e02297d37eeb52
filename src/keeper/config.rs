//! What a Keeper is told at its making, and what CONFIG SET changes of it.

use crate::base::clock::{Boot, Wall};
use crate::base::ids::{HashKey, NodeId, RunId};
use crate::base::limits::{CLIENTS_MAX, PILE_BYTES_MAX, PILES_BYTES_MAX};
use crate::base::rules::LeftOut;
use crate::cluster::config::ClusterConfig;
use crate::cluster::registration::Host;
use crate::store::{Eviction, Tracking};

use super::notice::LogLevel;
use super::notify::KeyEvents;

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Once every member of the in-sync set holds it.
    InSync,
    /// At once, as Redis does: a failover may lose it.
    Leader,
}

/// What a read at the leader rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// A lease from every member of the in-sync set.
    Lease,
    /// A word from every member of the in-sync set, asked for after the read arrived: no clock is trusted.
    Confirm,
    /// Nothing: a deposed leader may answer with old data until it notices.
    Local,
}

/// Bytes of replies that may wait for one client, in the three numbers of Redis's `client-output-buffer-limit normal`; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// Beyond this it is closed at once.
    pub hard: u64,
    /// Beyond this it is closed after `soft_s` seconds.
    pub soft: u64,
    /// See `soft`.
    pub soft_s: u64,
}

impl Default for OutputLimit {
    fn default() -> OutputLimit {
        OutputLimit { hard: PILE_BYTES_MAX, soft: 0, soft_s: 0 }
    }
}

/// What CONFIG SET changes: plain values, so that several change together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that the store may take, and replies that wait; 0 for no limit.
    pub max_memory: u64,
    /// Bytes of replies that may wait for one client.
    pub output_limit: OutputLimit,
    /// The same for all clients together; 0 for no limit.
    pub max_clients_memory: u64,
    /// What happens at that limit.
    pub eviction: Eviction,
    /// Keys that are looked at for each one that goes.
    pub eviction_samples: usize,
    /// How many uses of a key a step of its counter stands for.
    pub lfu_log_factor: u32,
    /// After how many minutes without use a key's counter loses one.
    pub lfu_decay_minutes: u32,
    /// From how many microseconds on a command stands in the slow log; below 0 none does.
    pub slower_than_us: i64,
    /// Commands that the slow log keeps.
    pub slowlog_max_len: usize,
    /// From how many milliseconds on LATENCY notes a command; 0 for none.
    pub latency_threshold_ms: u64,
    /// Which keyspace notifications are told.
    pub key_events: KeyEvents,
    /// Keys of the table of client-side caching; 0 for no limit.
    pub tracking_keys_max: u64,
    /// What is logged.
    pub log_level: LogLevel,
}

impl Settings {
    /// What access clocks are to tell.
    pub(super) fn tracking(&self) -> Tracking {
        let Settings { lfu_log_factor: log_factor, lfu_decay_minutes: decay_minutes, .. } = *self;
        if self.eviction.by_frequency() { Tracking::Frequency { log_factor, decay_minutes } } else { Tracking::Recency }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_memory: 0,
            output_limit: OutputLimit::default(),
            max_clients_memory: PILES_BYTES_MAX,
            eviction: Eviction::NoEviction,
            eviction_samples: 5,
            lfu_log_factor: 10,
            lfu_decay_minutes: 1,
            slower_than_us: 10_000,
            slowlog_max_len: 128,
            latency_threshold_ms: 0,
            key_events: KeyEvents::default(),
            tracking_keys_max: 1_000_000,
            log_level: LogLevel::Info,
        }
    }
}

/// How a client that sent a write to a replica gets to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritesOnReplica {
    /// It is told where the leader is, as in a Redis cluster.
    Moved,
    /// It is told that this is a replica, as by a Redis outside a cluster.
    Readonly,
    /// The write is passed on to the leader.
    Proxy,
}

/// What the operating system says of this process and its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessFigures {
    /// Time on a CPU in the process's own code, ms.
    pub user_ms: u64,
    /// Time on a CPU in the kernel, ms.
    pub system_ms: u64,
    /// Memory that is resident, in bytes.
    pub resident: usize,
    /// Memory of the machine, in bytes.
    pub machine: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// Name of this node, unique in the cluster.
    pub node: NodeId,
    /// Name of the cluster.
    pub cluster: String,
    /// `host:port` for clients, as redirects spell it.
    pub client_addr: String,
    /// `host:port` for replication links.
    pub repl_addr: String,
    /// `host:port` of the Sentinel port, if there is one.
    pub sentinel_addr: Option<String>,
    /// Order among nodes when nothing else decides.
    pub rank: u32,
    /// Number of the process, for INFO.
    pub process_id: u32,
    /// Start of the process.
    pub started: Wall,
    /// This process life; no two may have the same.
    pub run: RunId,
    /// Where it runs; none where the operating system does not say.
    pub host: Option<Host>,
    /// Settings to bring to a new cluster, and to use until `/config` was read.
    pub shared: ClusterConfig,
    /// When writes are answered.
    pub acks: Acks,
    /// What reads rest on.
    pub read_mode: ReadMode,
    /// What happens to a write at a replica, unless its connection asked for something else.
    pub writes_on_replica: WritesOnReplica,
    /// A replica answers reads of connections that sent READONLY alone.
    pub reads_need_readonly: bool,
    /// A replica whose data may be older than that does not answer reads, ms; 0 for no limit.
    pub max_staleness_ms: u64,
    /// Log kept for partial resync, in bytes.
    pub backlog_bytes: usize,
    /// Whether this node may found a cluster.
    pub bootstrap: bool,
    /// Shared secret of the replication links.
    pub secret: Option<Vec<u8>>,
    /// Password that clients must show.
    pub password: Option<Vec<u8>>,
    /// Hash key of a dataset that this node founds; from the operating system.
    pub hash_key: HashKey,
    /// Bytes of one snapshot chunk.
    pub chunk_bytes: usize,
    /// Clients that may be connected at once.
    pub clients_max: usize,
    /// What CONFIG SET changes, as it is at the start.
    pub settings: Settings,
    /// The file that the node was started with, if any: what CONFIG REWRITE writes to, through [`super::Effect::WriteConfig`].
    pub config_file: Option<String>,
    /// Parameters that `CONFIG GET` shows beyond the Keeper's own: name and value.
    pub parameters: Vec<(String, String)>,
    /// Tells how long commands take: the clock behind [`Now::boot`](crate::base::clock::Now), read meanwhile. Nothing is decided by it.
    pub stopwatch: fn() -> Boot,
    /// Asks the operating system, for INFO alone; nothing if it does not say.
    pub process: fn() -> Option<ProcessFigures>,
    /// The rule that a test build leaves out.
    pub rules: LeftOut,
}

impl KeeperConfig {
    /// The defaults for a node of that name.
    #[must_use]
    pub fn new(node: NodeId, cluster: &str) -> KeeperConfig {
        KeeperConfig {
            node,
            cluster: cluster.to_string(),
            client_addr: "127.0.0.1:6379".to_string(),
            repl_addr: "127.0.0.1:16379".to_string(),
            sentinel_addr: None,
            rank: 0,
            process_id: 0,
            started: Wall(0),
            run: RunId(0),
            host: None,
            shared: ClusterConfig::default(),
            acks: Acks::InSync,
            read_mode: ReadMode::Lease,
            writes_on_replica: WritesOnReplica::Moved,
            reads_need_readonly: false,
            max_staleness_ms: 0,
            backlog_bytes: 64 << 20,
            bootstrap: true,
            secret: None,
            password: None,
            hash_key: HashKey([0; 16]),
            chunk_bytes: 128 << 10,
            clients_max: CLIENTS_MAX,
            settings: Settings::default(),
            config_file: None,
            parameters: Vec::new(),
            stopwatch: || Boot(0),
            process: || None,
            rules: LeftOut::default(),
        }
    }
}
