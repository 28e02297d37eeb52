//! What a seed decides before anything happens: size, speed, settings, and which faults there will be.

use datakeeper::base::rules::LeftOut;
use datakeeper::cluster::config::{ClusterConfig, TotalLoss};
use datakeeper::cluster::state::MinInSync;

use crate::clock::MS;
use crate::dice::Dice;

/// A fault, or an operator's act, that can be let loose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies, the machine lives: the other sides see the end of their connections.
    Kill,
    /// As `Kill`, and a new process is there within 5 ms.
    FastRestart,
    /// The machine loses power: nobody is told.
    PowerLoss,
    /// The process stands still; what arrives waits.
    Pause,
    /// The Keeper's lock is taken for a while; pulses go on.
    Busy,
    /// Two groups of machines do not reach each other.
    Partition,
    /// Bytes flow in one direction only.
    OneWay,
    /// One connection ends, at some byte.
    Break,
    /// One direction of a connection stands still for a while.
    Stall,
    /// The coordination service is away.
    Outage,
    /// One machine does not reach the coordination service.
    CutFromService,
    /// A session expires under a living process.
    Expire,
    /// A wall clock is set.
    WallStep,
    /// The operator changes `/config`.
    Reconfigure,
    /// The process is asked to end, and a new one is started.
    Stop,
    /// The leader is asked to hand over.
    HandOver,
    /// An operator gives the leader a command: FORGET, LOWER-PEAK or SET-CONFIG.
    Operate,
    /// The process is told to end, leaves in good order, and a new one is started.
    Leave,
}

/// Every fault, with the name that the counters use.
pub const FAULTS: [(Fault, &str); 18] = [
    (Fault::Kill, "fault: kill"),
    (Fault::FastRestart, "fault: fast restart"),
    (Fault::PowerLoss, "fault: power loss"),
    (Fault::Pause, "fault: pause"),
    (Fault::Busy, "fault: busy"),
    (Fault::Partition, "fault: partition"),
    (Fault::OneWay, "fault: one way"),
    (Fault::Break, "fault: break"),
    (Fault::Stall, "fault: stall"),
    (Fault::Outage, "fault: coordination outage"),
    (Fault::CutFromService, "fault: cut from coordination"),
    (Fault::Expire, "fault: session expiry"),
    (Fault::WallStep, "fault: wall clock set"),
    (Fault::Reconfigure, "fault: settings changed"),
    (Fault::Stop, "fault: stop"),
    (Fault::HandOver, "fault: handover"),
    (Fault::Operate, "fault: operator's command"),
    (Fault::Leave, "fault: leave"),
];

/// A deliberate falsehood of the simulated world, to show that a check notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// None: an honest world.
    None,
    /// The world acknowledges entries on behalf of members that did not get them.
    AckForAnother,
    /// Pulses are echoed for a member that froze before it stands.
    EchoWhileFrozen,
    /// A lost compare-and-set is reported as won.
    WonForLost,
    /// A process starts again with the copy id of its predecessor.
    SameCopyAgain,
    /// Held replies leave at once.
    ReleaseAtOnce,
    /// A boot clock runs at half speed.
    SlowClock,
}

/// The parameters of one run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed everything follows from.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Clients that write and read.
    pub clients: usize,
    /// How long faults are let loose, ns.
    pub fault_phase: u64,
    /// How long the healed cluster has to come to rest, ns.
    pub heal_phase: u64,
    /// Mean time between faults, ns.
    pub fault_every: u64,
    /// Per mille of faults that last about as long as a promise: what is decided on both sides meets.
    pub near_timers: u64,
    /// Per mille of faults that come right after the one before.
    pub bursts: u64,
    /// Which faults, with weights.
    pub faults: Vec<(Fault, u64)>,
    /// Settings of the cluster.
    pub config: ClusterConfig,
    /// Log kept for partial resync; at least what one call may append, so that the checks see each entry.
    pub backlog_bytes: usize,
    /// Bytes of one snapshot chunk.
    pub chunk_bytes: usize,
    /// Bytes that may be unread on a connection before its writer waits.
    pub window_bytes: usize,
    /// Shortest one-way delay, ns.
    pub latency: u64,
    /// What chance adds to it at most, ns.
    pub jitter: u64,
    /// How much later than pulses the bytes of a log stream arrive, ns: a connection that carries much has a queue before it.
    pub queue: u64,
    /// Bytes per millisecond of a connection.
    pub bandwidth: u64,
    /// Per mille of writes that are cut into pieces.
    pub cuts: u64,
    /// Shortest and longest time between a request to the coordination service and its effect, ns; as long again to the answer.
    pub service_delay: (u64, u64),
    /// Per mille of requests and answers of the service that take up to 10 s.
    pub service_hangs: u64,
    /// Per mille of answers of the service that are lost with the connection.
    pub answers_lost: u64,
    /// Per mille of new sessions that read old data at first.
    pub stale_reads: u64,
    /// Session timeout, ns.
    pub session_timeout: u64,
    /// Keys written before the faults begin, so that snapshots take a while.
    pub fill: usize,
    /// Whether values are large enough to go in several frames.
    pub big_values: bool,
    /// Whether FLUSHALL is among the commands.
    pub flushes: bool,
    /// Longest pause of a client between two requests, ns.
    pub think: u64,
    /// Whether there are publishers, subscribers and caching clients.
    pub listeners: bool,
    /// Writes are answered at once: what was answered may be lost, and nothing else.
    pub acks_leader: bool,
    /// Bytes that a store may take before keys that expire are evicted; 0: no limit.
    pub max_memory: u64,
    /// How old what a replica answers may be, ms; 0: as old as it is.
    pub max_staleness_ms: u64,
    /// Which machines read with `read_mode: confirm`, a bit for each.
    pub confirms: u64,
    /// Shared secret of the links.
    pub secret: bool,
    /// What the world lies about.
    pub lie: Lie,
    /// The rule that every node leaves out.
    pub rules: LeftOut,
    /// Looks only at what clients could come to feel: lost writes and stale reads, not what guards against them.
    pub outcomes_only: bool,
}

impl Setup {
    /// A quiet cluster of three.
    pub fn calm(seed: u64) -> Setup {
        Setup {
            seed,
            nodes: 3,
            clients: 4,
            fault_phase: 3_000 * MS,
            heal_phase: 12_000 * MS,
            fault_every: 0,
            near_timers: 0,
            bursts: 0,
            faults: Vec::new(),
            config: ClusterConfig::default(),
            backlog_bytes: 1 << 20,
            chunk_bytes: 1 << 10,
            window_bytes: 64 << 10,
            latency: MS / 20,
            jitter: MS / 10,
            queue: 0,
            bandwidth: 100_000,
            cuts: 300,
            service_delay: (MS, 4 * MS),
            service_hangs: 0,
            answers_lost: 0,
            stale_reads: 0,
            session_timeout: 3_000 * MS,
            fill: 300,
            big_values: false,
            flushes: false,
            think: 10 * MS,
            listeners: false,
            acks_leader: false,
            max_memory: 0,
            max_staleness_ms: 0,
            confirms: 0,
            secret: true,
            lie: Lie::None,
            rules: LeftOut::default(),
            outcomes_only: false,
        }
    }

    /// A quiet cluster, but for commands that hold a Keeper's lock for up to three seconds.
    pub fn of_long_commands(seed: u64) -> Setup {
        Setup { faults: vec![(Fault::Busy, 1)], fault_every: 2_000 * MS, fault_phase: 12_000 * MS, ..Setup::calm(seed) }
    }

    /// The run that belongs to a seed.
    pub fn of(seed: u64) -> Setup {
        let mut d = Dice::new(seed ^ 0x5e7u64.rotate_left(40));
        let mut s = Setup::calm(seed);
        s.nodes = d.pick(&[2, 2, 3, 3, 3, 3, 4, 5]);
        s.clients = d.between(2, 5) as usize;
        s.fault_phase = d.between(3_000, 9_000) * MS;
        s.fault_every = d.log_between(60, 1_500) * MS;
        // A few kinds at a time: what everything at once hides, a single kind shows, and the other way round.
        let kinds = d.pick(&[1, 2, 3, 5, FAULTS.len() as u64]);
        for _ in 0..kinds {
            let (fault, _) = FAULTS[d.below(FAULTS.len() as u64) as usize];
            s.faults.push((fault, d.between(1, 10)));
        }
        // Shorter timers make more of each second.
        let (heartbeat, suspect, lease, promise) =
            d.pick(&[(50, 250, 400, 500), (50, 250, 400, 500), (20, 100, 160, 200)]);
        (s.config.heartbeat_ms, s.config.suspect_ms) = (heartbeat, suspect);
        (s.config.lease_ms, s.config.promise_ms) = (lease, promise);
        s.near_timers = d.pick(&[0, 300, 700]);
        s.bursts = d.pick(&[0, 200, 600]);
        s.config.min_in_sync =
            d.pick(&[MinInSync::Auto, MinInSync::Auto, MinInSync::Auto, MinInSync::Count(1), MinInSync::Count(2)]);
        s.backlog_bytes = d.pick(&[10_000, 10_000, 50_000, 200_000, 1 << 20]);
        s.chunk_bytes = d.pick(&[64, 2_000, 20_000]);
        s.window_bytes = d.pick(&[600, 4_000, 30_000, 200_000]);
        s.latency = d.log_between(MS / 50, 5 * MS);
        s.jitter = d.log_between(MS / 50, 15 * MS);
        s.bandwidth = d.pick(&[300, 2_000, 20_000, 200_000]);
        s.cuts = d.pick(&[0, 100, 600]);
        s.service_delay = d.pick(&[(MS / 2, 2 * MS), (MS, 20 * MS), (5 * MS, 400 * MS)]);
        s.service_hangs = d.pick(&[0, 0, 10, 100]);
        s.answers_lost = d.pick(&[0, 0, 50, 300]);
        s.stale_reads = d.pick(&[0, 300, 900]);
        s.session_timeout = d.between(1_000, 4_000) * MS;
        s.fill = d.pick(&[0, 200, 1_500, 3_000]);
        if s.fill > 200 {
            // A wall clock that is set may let all of it expire at once.
            s.backlog_bytes = s.backlog_bytes.max(100_000);
        }
        s.big_values = d.chance(60);
        if s.big_values {
            s.bandwidth = 200_000;
            s.window_bytes = 200_000;
            s.backlog_bytes = 4 << 20;
        }
        s.flushes = d.chance(150);
        s.think = d.log_between(10 * MS, 100 * MS);
        s.secret = d.chance(500);
        s.confirms = d.pick(&[0, 0, 0, u64::MAX, 0b0101]);
        s.queue = d.pick(&[0, 0, 0, 10 * MS, 30 * MS]);
        s.listeners = d.chance(500);
        s.acks_leader = d.chance(60);
        if d.chance(200) {
            s.max_memory = 40_000 + s.fill as u64 * 60 + d.below(60_000);
        }
        // The age of what a replica has is known by the fastest frame of its link: one that only ever was slow is told of in GUARANTEES.
        let slow = [Fault::Pause, Fault::Busy, Fault::Partition, Fault::OneWay, Fault::Stall];
        let is_fast = s.bandwidth >= 20_000 && s.queue == 0 && !s.faults.iter().any(|(fault, _)| slow.contains(fault));
        if s.confirms == 0 && is_fast && d.chance(700) {
            s.max_staleness_ms = d.between(2, 20) * s.config.heartbeat_ms;
        }
        s.config.total_loss =
            d.pick(&[TotalLoss::StartEmpty, TotalLoss::StartEmpty, TotalLoss::Proven, TotalLoss::Halt]);
        s
    }
}
