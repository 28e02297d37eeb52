//! Floor 4: the Keeper, one plain state machine behind one lock.
//!
//! Everything that decides is here: store, log, role, sessions, held replies. It is driven by [`Keeper::handle`] with one event
//! at a time, by [`Keeper::execute`] with a client's batch and by [`Keeper::poll_link`] with a writer's question; it reads no
//! clock and does no I/O: [`Now`] comes in with every call, [`Effect`]s go out, and the shell performs them after the lock is
//! released. The simulator drives the same code.
//!
//! The rooms: `coordination` (what `/state` says, elections), `leading` (members, commit, expand and shrink), `following`
//! (joining, applying, full resync), `handover`, `leaving` (a process that is told to end), `links` (handshakes and bytes), `execute` and `admission` (commands), `eviction`, `hold` (replies that
//! wait), `waits` (commands that wait), `forward` (what is passed on to the leader), `session` (one per connection), `transaction` (MULTI to EXEC), `piles` (replies that nobody reads), `figures` (what the shell holds for a connection), `pubsub` (who listens to what), `calls` (what commands cost), `slowlog` and `latency` (which were slow), `monitor` (who sees them all), `notify` (what happens to keys), `tracking` (who has read them), `noloop` (and changed them through this node), `unknown` (commands that are none), `notice` (what the log is told), `report` (what operators are told), `observe` (getters for
//! checks).

mod admission;
mod calls;
mod config;
mod coordination;
mod eviction;
mod execute;
mod figures;
mod following;
mod forward;
mod handover;
mod hold;
mod latency;
mod leading;
mod leaving;
mod links;
mod monitor;
mod noloop;
mod notice;
mod notify;
mod observe;
mod piles;
mod pubsub;
mod report;
mod session;
mod slowlog;
mod tracking;
mod transaction;
mod unknown;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::clock::{Boot, Now, Steady, Wall};
use crate::base::ids::{ChangeId, ConnId, CopyId, DatasetId, Epoch, HashKey, LinkId, Offset, Position};
use crate::base::jitter::Jitter;
use crate::base::rules::Rule;
use crate::base::segments::Segments;
use crate::cluster::config::ClusterConfig;
use crate::cluster::coordinator::{CoordEvent, CoordRequest};
use crate::cluster::registration::NodeRead;
use crate::cluster::role::Role;
use crate::cluster::state::{ClusterState, Member};
use crate::replication::log::Log;
use crate::replication::pulse::PulseCell;
use crate::replication::snapshot::Intake;
use crate::store::Store;

pub use config::{Acks, KeeperConfig, OutputLimit, ProcessFigures, ReadMode, Settings, WritesOnReplica};
pub use execute::{Executed, Next, Touch, Work};
pub use figures::Figures;
pub use forward::{Forward, Forwarded, Watched};
pub use handover::NotNow;
pub use links::LinkPoll;
pub use notice::{Level, LogLevel, Notice};
pub use notify::KeyEvents;
pub use report::Face;
pub use session::{EVICTION_SAMPLES_MAX, MAX_MEMORY_MAX, paths_set_now};

use calls::Calls;
use coordination::{ConfirmedRead, Halted, InPlace, Pending};
use following::Following;
use hold::Holds;
use latency::Latency;
use leading::Leading;
use leaving::Departure;
use links::Link;
use pubsub::PubSub;
use session::Sessions;
use slowlog::SlowLog;
use waits::Waits;

/// Pause between slices of background work while there is none that is due.
const SWEEP_MS: u64 = 100;

/// What happened, as the shell reports it.
#[derive(Debug)]
pub enum Event {
    /// A deadline passed; see [`Keeper::next_deadline`].
    Tick,
    /// The coordination service spoke.
    Coord(Box<CoordEvent>),
    /// A connection that [`Effect::Dial`] asked for is up; `nonce` is from the operating system.
    LinkUp {
        /// Which.
        link: LinkId,
        /// For the handshake.
        nonce: [u8; 16],
    },
    /// A whole frame arrived, without its length prefix.
    LinkFrame {
        /// On which link.
        link: LinkId,
        /// Its bytes.
        frame: Bytes,
    },
    /// A link broke, or could not be made.
    LinkDown {
        /// Which.
        link: LinkId,
        /// For the log.
        reason: String,
    },
    /// What came of [`Effect::WriteConfig`].
    ConfigWritten {
        /// Its number.
        id: u64,
        /// Or why the file is as it was, for the operator.
        result: Result<(), String>,
    },
    /// The process shall end soon: hand over, see [`Keeper::has_left`]; then `Stop`.
    Leave,
    /// The process ends now.
    Stop,
}

/// What the shell shall do; carried out in order, after the lock is released.
#[derive(Debug)]
pub enum Effect {
    /// Connect, send [`crate::replication::wire::link_open`], then report `LinkUp`; or report `LinkDown`.
    Dial {
        /// Number of the new link.
        link: LinkId,
        /// `host:port`.
        addr: String,
    },
    /// The link has bytes to send. Not repeated until it was polled.
    WakeLink(LinkId),
    /// Send what [`Keeper::poll_link`] still gives, then close. No `LinkDown` follows.
    Hangup(LinkId),
    /// Keep one pulse connection to the leader there, in place of the former.
    PulseTo {
        /// `host:port`.
        addr: String,
        /// To be shown in the first frame.
        token: u128,
    },
    /// Close the pulse connection.
    PulseStop,
    /// Ask the coordination service.
    Coord(Box<CoordRequest>),
    /// Replies of this connection held under numbers up to `seq` may leave.
    Release {
        /// Which connection.
        conn: ConnId,
        /// Up to which number.
        seq: u64,
    },
    /// A connection that was told to wait shall call `execute` with the rest of its batch.
    Resume(ConnId),
    /// Messages wait for this connection: fetch them by [`Keeper::take_pushed`]. Not repeated before all were taken.
    Push(ConnId),
    /// Close one client at once; what was not sent is dropped.
    CloseClient(ConnId),
    /// Close one client as soon as nothing is outstanding on its connection.
    CloseIdle(ConnId),
    /// Close all clients at once: this node was deposed.
    CloseClients,
    /// End the process as a signal would: hand over first, or (`now`) do not.
    Shutdown {
        /// Whether at once.
        now: bool,
    },
    /// Log from now on what is that important.
    Log(LogLevel),
    /// Write these settings into the configuration file, then report `ConfigWritten`.
    WriteConfig {
        /// To tell its answer from others.
        id: u64,
        /// Path of each key, and its value in the words of CONFIG GET.
        values: Vec<(&'static str, String)>,
    },
    /// The process cannot go on: message, exit code 1.
    Exit {
        /// For the operator.
        reason: String,
    },
    /// For the log.
    Notice(Notice),
}

impl Effect {
    fn coord(request: CoordRequest) -> Effect {
        Effect::Coord(Box::new(request))
    }
}

/// The effects of a call, in order.
pub type Effects = Vec<Effect>;

/// `/state` as last read, or as written by this node.
#[derive(Clone, Debug)]
struct Known {
    state: ClusterState,
    version: i32,
}

/// See the module.
pub struct Keeper {
    config: KeeperConfig,
    rng: Jitter,
    pulse: Arc<PulseCell>,
    /// Settings of the cluster: the file's until `/config` was read, and the last ones that were valid.
    shared: ClusterConfig,
    /// What `/config` holds, valid or not; none until it was read.
    config_found: Option<ClusterConfig>,
    /// Why it is not valid, for operators.
    config_fault: Option<String>,

    store: Store,
    log: Log,
    /// Last entry whose effects are in the store.
    applied: Offset,
    /// Highest offset that every member of the in-sync set has confirmed, as far as this node knows: replies up to here may
    /// leave, replicas apply up to here. Moves only forward while the dataset stays. Invariant: a node that is not a ready
    /// leader has `applied <= acked`, except for `executed_floor` of a deposed one.
    acked: Offset,
    /// The clock that decides what has expired, never running back: at a leader what `steady` shows; at a replica the last one received with
    /// everything before it applied.
    clock: Wall,
    /// Leader: what `clock` goes by.
    steady: Steady,
    /// The highest clock of a leader that this node has heard, whatever it has applied, and when it did: `clock` is not below it once this node leads.
    heard_clock: (Wall, Boot),
    /// By how much the leader's wall clock is ahead of its `clock`, ms; at a replica as it was told last. 0 if that is next to nothing.
    wall_ahead_ms: i64,
    /// As a follower: an instant at whose time everything acknowledged is in the store. Moves only forward.
    fresh_at: Boot,
    /// What has arrived of a snapshot, until `applied` has passed its `as_of`.
    intake: Option<Intake>,
    /// A deposed leader serves nothing before the new one has confirmed what it had executed.
    executed_floor: Offset,
    touched: Touched,
    scratch: Segments,

    me: Member,
    dataset: Option<DatasetId>,
    /// Copy and `empty` flag that the directory holds for this node, once confirmed.
    registered: Option<(CopyId, bool)>,

    role: Role,
    /// Part of [`Face`].
    is_ready: bool,
    face_told: Face,
    /// Highest epoch seen anywhere that `/state` confirmed.
    highest: Epoch,
    known: Option<Known>,
    /// Identity of the `/state` znode; 0 until seen.
    incarnation: i64,
    /// Confirmed reads in a row that showed `/state` older than known.
    rollbacks_seen: u32,
    nodes: Vec<NodeRead>,
    /// What else stands in the directory and cannot be read.
    unreadable: Vec<String>,
    coordinator_up: bool,
    /// Since when there is no contact to the coordination service, or there is.
    coordinator_since: Boot,
    /// What the coordination service refuses until an operator has looked.
    hindrance: Option<String>,
    pending: Option<Pending>,
    /// The copy has to be given up once a read of `/state` shows that nobody counts on it; the instant of the next attempt.
    wipe_due: Option<Boot>,
    wipe_confirming: bool,
    confirmed_read: ConfirmedRead,
    /// No candidacy before, because an earlier one was lost.
    stand_after: Boot,
    /// When to look (again) whether all data are lost.
    loss_check_at: Boot,
    /// Since when no leader is found by a node that may not replace it.
    leaderless: Option<Boot>,
    /// What a confirmed read showed in place of the `/state` that this node knows.
    in_place: Option<InPlace>,
    /// The latest change that was resolved, and whether it was made: for operators' commands that wait.
    resolved: Option<(ChangeId, bool)>,
    /// What session commands want done; carried out when their batch is.
    deferred: Effects,

    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    leading: Option<Leading>,
    following: Option<Following>,
    /// It has led followers, or followed: they may come back for the log.
    in_company: bool,

    sessions: Sessions,
    holds: Holds,
    piles: piles::Piles,
    unknown: unknown::Unknown,
    pubsub: PubSub,
    /// What those were last told who listen to a Sentinel.
    sentinel_told: session::SentinelTold,
    tracking: tracking::Table,
    /// Whether a key that is read and not there is told.
    tells_misses: bool,
    /// Connections whose next command waits, and until when: for a role, a lease, room, or acknowledgements.
    waiting: Waits,
    /// Those of them that count acknowledgements.
    blocked: BTreeSet<ConnId>,
    /// Connections whose reads wait until this node has applied up to a position.
    behind: BTreeMap<ConnId, Position>,
    /// Connections whose reads wait for a round of confirmations that began after this instant.
    confirming: BTreeMap<ConnId, Boot>,
    upkeep_at: Boot,
    stopping: bool,
    /// The process shall end soon.
    leaving: bool,
    /// When a leaving leader tries (again) to hand over.
    leave_at: Boot,
    departure: Departure,
    /// Until when this node led, if it handed over in good order.
    led_until: Boot,
    /// The epoch it last handed over.
    handed_over: Option<Epoch>,
    /// Clients to be closed once idle, and when; the next one last.
    closings: Vec<(Boot, ConnId)>,
    /// CLIENT PAUSE; over or not.
    pause: Option<session::Pause>,
    halted: Option<Halted>,
    /// Another process that is registered under this node's name, while this one is not.
    name_holder: Option<String>,
    rewrite: session::Rewrite,
    /// What the present hold of the lock may still spend on eviction; see `eviction`.
    eviction_work: usize,
    stats: report::Stats,
    calls: Calls,
    /// Connections that are shown every command.
    monitors: BTreeSet<ConnId>,
    /// Whether expired keys are deleted that nobody asks for: DEBUG SET-ACTIVE-EXPIRE.
    expires_actively: bool,
    /// Of active expiry.
    burst: execute::Burst,
    slowlog: SlowLog,
    latency: Latency,
    told: notice::Told,
}

/// Offset of the last entry that touched any key with these hash bits: what a read of such a key has to wait for.
struct Touched {
    at: Box<[Offset; Touched::SLOTS]>,
    /// Last entry that touched every key.
    all: Offset,
}

impl Touched {
    const SLOTS: usize = 4_096;

    fn new() -> Touched {
        Touched { at: Box::new([Offset::ZERO; Touched::SLOTS]), all: Offset::ZERO }
    }

    fn slot(hash: u64) -> usize {
        (hash >> 20) as usize % Touched::SLOTS
    }

    fn set(&mut self, hash: u64, offset: Offset) {
        self.at[Touched::slot(hash)] = offset;
    }

    fn of(&self, hash: u64) -> Offset {
        self.at[Touched::slot(hash)].max(self.all)
    }
}

/// R10: an id that no copy has had.
fn new_copy(config: &KeeperConfig, rng: &mut Jitter) -> CopyId {
    let fresh = rng.next_u128();
    if config.rules.leaves_out(Rule::NewCopyId) {
        return CopyId(config.node.as_str().bytes().fold(1, |id, byte| id << 8 | u128::from(byte)));
    }
    CopyId(fresh)
}

/// An empty store.
fn new_store(config: &KeeperConfig, hash_key: HashKey) -> Store {
    let mut store = Store::new(hash_key);
    store.track(config.settings.tracking());
    store
}

impl Keeper {
    /// A Keeper that holds nothing and has not spoken to anybody; `seed` is the only source of its random choices.
    #[must_use]
    pub fn new(config: KeeperConfig, seed: u64, now: Now, pulse: Arc<PulseCell>) -> Keeper {
        let mut rng = Jitter::new(seed);
        let me = Member { id: config.node.clone(), copy: new_copy(&config, &mut rng) };
        let shared = config.shared.clone();
        {
            let mut pulse = pulse.lock();
            pulse.set_copy(me.copy);
            pulse.leave_out(config.rules);
            pulse.set_periods(shared.heartbeat_ms, shared.lease_ms, shared.promise_ms);
        }
        let mut keeper = Keeper {
            config_found: None,
            config_fault: None,
            store: new_store(&config, config.hash_key),
            log: Log::new(Position::default()),
            applied: Offset::ZERO,
            acked: Offset::ZERO,
            clock: Wall(0),
            steady: Steady::default(),
            heard_clock: (Wall(0), Boot(0)),
            wall_ahead_ms: 0,
            fresh_at: Boot(0),
            intake: None,
            executed_floor: Offset::ZERO,
            touched: Touched::new(),
            scratch: Segments::new(),
            me,
            dataset: None,
            registered: None,
            role: Role::Starting,
            is_ready: false,
            face_told: Face::NEW,
            highest: Epoch(0),
            known: None,
            incarnation: 0,
            rollbacks_seen: 0,
            nodes: Vec::new(),
            unreadable: Vec::new(),
            coordinator_up: false,
            coordinator_since: now.boot,
            hindrance: None,
            pending: None,
            wipe_due: None,
            wipe_confirming: false,
            confirmed_read: ConfirmedRead::Idle,
            stand_after: Boot(0),
            loss_check_at: now.boot.plus_ms(crate::base::limits::HOLD_MS),
            leaderless: None,
            in_place: None,
            resolved: None,
            deferred: Effects::new(),
            links: BTreeMap::new(),
            next_link: 1,
            leading: None,
            following: None,
            in_company: false,
            sessions: Sessions::default(),
            holds: Holds::default(),
            piles: piles::Piles::default(),
            unknown: unknown::Unknown::default(),
            pubsub: PubSub::default(),
            sentinel_told: Default::default(),
            tracking: tracking::Table::default(),
            tells_misses: false,
            waiting: Waits::default(),
            blocked: BTreeSet::new(),
            behind: BTreeMap::new(),
            confirming: BTreeMap::new(),
            upkeep_at: now.boot,
            stopping: false,
            leaving: false,
            leave_at: Boot(0),
            departure: Departure::default(),
            led_until: Boot(0),
            handed_over: None,
            closings: Vec::new(),
            pause: None,
            halted: None,
            name_holder: None,
            rewrite: session::Rewrite::default(),
            eviction_work: 0,
            stats: report::Stats::new(now),
            calls: Calls::new(config.stopwatch),
            monitors: BTreeSet::new(),
            expires_actively: true,
            burst: execute::Burst::default(),
            slowlog: SlowLog::default(),
            latency: Latency::default(),
            told: notice::Told::default(),
            config,
            rng,
            pulse,
            shared,
        };
        keeper.look_for_slow();
        keeper.settle_notes();
        keeper
    }

    /// The first requests: register this copy, then read `/state`.
    pub fn start(&mut self, _now: Now, fx: &mut Effects) {
        self.register(fx);
        self.confirm(fx);
    }

    /// What this node is at the moment.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Now, event: Event, fx: &mut Effects) {
        self.store.tell_time(now.boot);
        self.store.be_quiet(false);
        match event {
            Event::Tick => {}
            Event::Coord(event) => self.on_coordinator(now, *event, fx),
            Event::LinkUp { link, nonce } => self.on_link_up(link, nonce),
            Event::LinkFrame { link, frame } => self.on_frame(now, link, &frame, fx),
            Event::LinkDown { link, reason } => self.on_link_down(now, link, &reason, fx),
            Event::ConfigWritten { id, result } => self.config_written(id, result, fx),
            Event::Leave => self.leave(now, fx),
            Event::Stop => self.stop(fx),
        }
        self.upkeep(now, fx);
        if self.store.has_notes() || self.tracking.owes() {
            self.tell_notes(now, None, fx);
        }
    }

    /// What time alone brings about; cheap when nothing is due.
    fn upkeep(&mut self, now: Now, fx: &mut Effects) {
        self.apply_acked(now, fx);
        self.advance(now, fx);
        self.manage_members(now, fx);
        self.keep_handing_over(now, fx);
        self.keep_leaving(now, fx);
        self.keep_following(now, fx);
        self.keep_closing(now, fx);
        self.close_strangers(now, fx);
        self.stand_if_due(now, fx);
        self.give_up(now, fx);
        self.keep_wiping(now, fx);
        self.look_for_loss(now, fx);
        self.expire_waits(now, fx);
        if now.boot >= self.upkeep_at {
            self.sweep(now, fx);
        }
        self.settle_role(fx);
        self.settle_readiness();
    }

    /// When [`Event::Tick`] has to be sent next.
    #[must_use]
    pub fn next_deadline(&self) -> Boot {
        let mut at = self.upkeep_at;
        if self.apply_is_due() {
            return Boot(0);
        }
        if let Some(leading) = &self.leading {
            at = at.min(leading.next_deadline(self.shared.heartbeat_ms));
        }
        if let Some(following) = &self.following {
            at = at.min(following.retry_at);
        }
        if let Some(due) = self.wipe_confirms_at() {
            at = at.min(due);
        }
        if let Some((due, _)) = self.closings.last() {
            at = at.min(*due);
        }
        if let Some(due) = self.stranger_until() {
            at = at.min(due);
        }
        if let Some(due) = self.stand_at() {
            at = at.min(due);
        }
        if let Some(due) = self.wait_deadline() {
            at = at.min(due);
        }
        at
    }

    /// Slices of background work: expiry, freeing, the log's backlog.
    fn sweep(&mut self, now: Now, fx: &mut Effects) {
        self.stats.sample(now, self.used_memory());
        self.end_slow_piles(now, fx);
        self.tell_drops(now.boot, fx);
        if self.pause.is_some() && self.paused(now, false).is_none() {
            self.pause = None;
        }
        let mut pause_ms = SWEEP_MS;
        if self.role == Role::Leader && self.expires_actively {
            pause_ms = self.expire_due(now, fx);
            if pause_ms == 0 {
                // The rest follows a burst: it has its share of the lock, and would make segments smaller that the burst is in the middle of.
                self.upkeep_at = now.boot;
                return;
            }
            if self.evict_due(now, fx) {
                pause_ms = pause_ms.min(1);
            }
        }
        if self.store.sweep(256) {
            pause_ms = pause_ms.min(1);
        }
        self.trim_log();
        self.upkeep_at = now.boot.plus_ms(pause_ms);
    }

    /// The process ends: clients are told nothing, other nodes notice at once because the connections close.
    fn stop(&mut self, fx: &mut Effects) {
        self.stopping = true;
        self.waiting = Waits::default();
        fx.push(Effect::CloseClients);
        fx.extend(self.links.keys().map(|link| Effect::Hangup(*link)));
    }
}
