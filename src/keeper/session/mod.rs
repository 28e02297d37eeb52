//! Sessions: what the Keeper knows of each client connection, and the commands that need one.
//!
//! The shell owns sockets and bytes; here is the rest: protocol, name, whether the password was shown, what is held or waits.
//! The commands are in one file per family: `admin`, `clients`, `connection`, `cluster`, `config` (its table is in `parameters`), `handover`, `info` (with ROLE and the
//! status), `memory`, `position`, `sentinel` and `wait`;
//! MULTI and its kin are in `keeper/transaction`, SUBSCRIBE and its kin in `keeper/pubsub`; `view` is the cluster as all of them describe it. Each answers from this node's memory alone.
//!
//! Sizes of a connection's buffers are the shell's, which writes them into `Figures`; where there is no shell, CLIENT LIST leaves them out.

mod admin;
mod clients;
mod cluster;
mod config;
mod connection;
mod debug;
mod handover;
mod info;
mod memory;
mod parameters;
mod position;
mod sentinel;
mod view;
mod wait;

use std::borrow::Cow;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ChangeId, ConnId, Position};
use crate::command::{SessionCommand, SliceState, integer};
use crate::resp::{Args, Output, Protocol, Reply};

use clients::Unblock;

use super::pubsub::{Inbox, Kind, Subscriptions};
use super::tracking::{self, Tracking};
use super::transaction::{self, Transaction, Watches};
use super::{Effects, Figures, Keeper};

pub(super) use clients::{Pause, goes_on_while_paused};
pub(super) use config::Rewrite;
pub use parameters::{EVICTION_SAMPLES_MAX, MAX_MEMORY_MAX, paths_set_now};
pub(super) use position::parse as parse_position;
pub(super) use sentinel::Told as SentinelTold;
pub(super) use view::host_and_port;
pub(super) use wait::Holders;

/// One client connection.
#[derive(Debug)]
pub(super) struct Session {
    /// Number for CLIENT ID; never used twice.
    pub id: u64,
    /// The client's address, `host:port`.
    pub addr: String,
    /// The address it connected to.
    pub local_addr: String,
    /// When it connected.
    pub since: Boot,
    /// When its last batch was executed.
    pub active_at: Boot,
    /// When it was first redirected after this node handed over.
    pub redirected: Option<Boot>,
    /// Form of its replies.
    pub protocol: Protocol,
    /// Whether it needs no (further) password.
    pub trusted: bool,
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO LIB-NAME and LIB-VER.
    pub library: (String, String),
    /// CLIENT CAPA REDIRECT: it is sent to the leader in Valkey's words.
    pub takes_redirects: bool,
    /// It has asked where the slots are: it understands MOVED, whatever this node answers to others.
    pub knows_slots: bool,
    /// Its reads have to show the history up to here.
    pub read_after: Position,
    /// Where its last write is that was passed on to the leader.
    pub written_elsewhere: Position,
    /// What it wants to know of its last write for WAIT, where the leader has to be asked.
    pub holders: Holders,
    /// It watches keys at the leader, through this node.
    pub watches_elsewhere: bool,
    /// READONLY was sent.
    pub readonly: bool,
    /// CLIENT NO-EVICT is on. No client is closed for the memory that it takes; CLIENT LIST shows it.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH is on: what it reads and writes does not count as used.
    pub no_touch: bool,
    /// Name of its last command, for CLIENT LIST.
    pub last_command: &'static str,
    /// Where its last write at this node is.
    pub written: Position,
    /// Number of its last held replies.
    pub held_seq: u64,
    /// Until when its next command waits.
    pub wait_until: Option<Boot>,
    /// When the first read of its batch came that needs a round of confirmations; see [`Keeper::may_read`].
    pub reads_asked: Option<Boot>,
    /// The operator's change that its command waits for.
    pub change: Option<ChangeId>,
    /// The CONFIG REWRITE that its command waits for.
    pub rewrite: Option<u64>,
    /// What a command remembers that runs in slices.
    pub slice: SliceState,
    /// What it took so far.
    pub spent_ns: u64,
    /// It did not run under one hold of the lock.
    pub sliced: bool,
    /// CLIENT TRACKING.
    pub tracking: Option<Box<Tracking>>,
    /// Keys that it reads by what is passed on for it, if it tracks.
    pub reads_elsewhere: Vec<Bytes>,
    /// What was queued since MULTI.
    pub transaction: Option<Box<Transaction>>,
    /// EXEC is being executed.
    pub executing_transaction: bool,
    /// WATCH.
    pub watches: Watches,
    /// CLIENT REPLY.
    pub replies: Replies,
    /// CLIENT UNBLOCK ended its WAIT.
    pub unblocked: Option<Unblock>,
    /// It came to the Sentinel port: this node is a Sentinel to it, and nothing else.
    pub at_sentinel: bool,
    /// It has done more than to introduce itself.
    pub has_worked: bool,
    /// It has used SENTINEL, or begun with `PSUBSCRIBE *`: it is told what changes in the cluster under any pattern that it listens to.
    pub sentinel: bool,
    /// What it listens to, if it does.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// It is in MONITOR.
    pub monitors: bool,
    /// What it is to be given beside its replies.
    pub inbox: Option<Box<Inbox>>,
    /// What the shell holds for it.
    pub figures: Option<Arc<Figures>>,
    /// It gets the replies that are due and ends: to everybody else it is gone.
    pub ending: bool,
}

/// Which replies a connection gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    All,
    /// None to the command behind CLIENT REPLY SKIP.
    SkipNext,
    /// None to the command that is executed now, which is that one.
    Skip,
    None,
}

impl Replies {
    /// A command begins; whether its reply may have to be dropped.
    #[inline]
    pub fn begin(&mut self) -> bool {
        if *self == Replies::SkipNext {
            *self = Replies::Skip;
        }
        *self != Replies::All
    }

    /// It is executed, or will be tried again; whether what it wrote is dropped.
    pub fn end(&mut self, executed: bool) -> bool {
        let dropped = *self != Replies::All;
        if *self == Replies::Skip {
            *self = if executed { Replies::All } else { Replies::SkipNext };
        }
        dropped
    }
}

impl Session {
    /// Where its last write is, wherever it was executed; offset 0 if there is none.
    pub fn written_last(&self) -> Position {
        self.written.max(self.written_elsewhere)
    }

    /// Whether it gets the reply of the command that is executed now.
    pub fn hears(&self) -> bool {
        self.replies == Replies::All
    }

    /// The command was executed by another node.
    pub fn replied_elsewhere(&mut self) {
        if self.replies.begin() {
            self.replies.end(true);
        }
    }
}

/// What became of a session command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is answered.
    Done,
    /// It is not answered: try again when acknowledgements moved, or at this time (it is then answered in any case).
    Block {
        /// Deadline.
        until: Boot,
    },
    /// It is not answered: the leader is asked first, then it is tried again.
    Ask,
    /// It is answered, and the connection ends.
    Close,
}

/// What a session command comes to; an error is the error line without the leading `-`, and nothing was written.
pub(super) type Answer = Result<Flow, Cow<'static, str>>;

/// How long a command shall wait or hold others, in ms, from an argument.
fn timeout_ms(now: Now, text: &[u8]) -> Result<u64, &'static str> {
    in_range(now, integer(text).map_err(|_| "ERR timeout is not an integer or out of range")?)
}

/// The same from a number. As in Redis, the instant at which that is over has to be one of the wall clock.
fn in_range(now: Now, ms: i64) -> Result<u64, &'static str> {
    let ms = u64::try_from(ms).map_err(|_| "ERR timeout is negative")?;
    if ms > i64::MAX.unsigned_abs().saturating_sub(now.wall.0) {
        return Err("ERR timeout is out of range");
    }
    Ok(ms)
}

/// All sessions of this process.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// None: the one that is being executed. Boxed, so that a batch moves a pointer out and in. Its order is the same in each run: nothing in it
    /// is drawn by chance.
    map: HashMap<ConnId, Option<Box<Session>>, BuildHasherDefault<ConnHasher>>,
    /// The one that is being executed.
    executing: Option<ConnId>,
    /// Connections ever accepted.
    pub accepted: u64,
}

/// Spreads connection numbers, which this process gives and nobody else chooses (multiplicative hashing, Knuth 6.4).
#[derive(Default)]
struct ConnHasher(u64);

impl Hasher for ConnHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    /// The table takes its buckets from the low bits, and those of a product are the poor ones.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

impl Sessions {
    /// Takes a session out while its commands are executed.
    pub fn take(&mut self, conn: ConnId) -> Option<Box<Session>> {
        let session = self.map.get_mut(&conn)?.take()?;
        self.executing = Some(conn);
        Some(session)
    }

    /// Puts it back.
    pub fn put_back(&mut self, conn: ConnId, session: Box<Session>) {
        self.executing = None;
        self.map.insert(conn, Some(session));
    }

    /// One that is not being executed.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.map.get_mut(&conn)?.as_deref_mut()
    }

    /// Connections, those that end included.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Connected clients.
    pub fn connected(&self) -> usize {
        self.map.values().filter(|session| session.as_ref().is_none_or(|session| !session.ending)).count()
    }

    /// The one that is being executed.
    pub fn executing(&self) -> Option<ConnId> {
        self.executing
    }

    /// One that is not being executed.
    pub fn get(&self, conn: ConnId) -> Option<&Session> {
        self.map.get(&conn)?.as_deref()
    }

    /// All but the one that is being executed and those that end, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Session)> {
        let all = self.map.iter().filter_map(|(conn, session)| Some((*conn, session.as_deref()?)));
        all.filter(|(_, session)| !session.ending)
    }

    /// See [`Sessions::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut Session)> {
        let all = self.map.iter_mut().filter_map(|(conn, session)| Some((*conn, session.as_deref_mut()?)));
        all.filter(|(_, session)| !session.ending)
    }
}

impl Keeper {
    /// Whether the process ends now, and takes no clients any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// A client was turned away before it was looked at.
    pub fn count_rejected(&mut self) {
        self.stats.rejected += 1;
    }

    /// Where the shell shows what it holds for a connection. Without it CLIENT LIST says nothing of that.
    pub fn client_figures(&mut self, conn: ConnId, figures: Arc<Figures>) {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.figures = Some(figures);
        }
    }

    /// A client connected. `false`: there are as many as may be already, or the process ends; the connection has to be closed.
    pub fn client_connected(&mut self, now: Now, conn: ConnId, addr: String, local_addr: String) -> bool {
        if self.stopping {
            return false;
        }
        if self.sessions.len() >= self.config.clients_max {
            self.stats.rejected += 1;
            return false;
        }
        self.sessions.accepted += 1;
        self.stats.connections += 1;
        let session = Session {
            id: self.sessions.accepted,
            addr,
            local_addr,
            since: now.boot,
            active_at: now.boot,
            redirected: None,
            protocol: Protocol::Resp2,
            trusted: self.config.password.is_none(),
            name: String::new(),
            library: (String::new(), String::new()),
            takes_redirects: false,
            knows_slots: false,
            read_after: Position::default(),
            written_elsewhere: Position::default(),
            holders: Holders::Unasked,
            watches_elsewhere: false,
            readonly: false,
            no_evict: false,
            no_touch: false,
            last_command: "NULL",
            written: Position::default(),
            held_seq: 0,
            wait_until: None,
            reads_asked: None,
            change: None,
            rewrite: None,
            slice: SliceState::default(),
            spent_ns: 0,
            sliced: false,
            tracking: None,
            reads_elsewhere: Vec::new(),
            transaction: None,
            executing_transaction: false,
            watches: Watches::default(),
            replies: Replies::All,
            unblocked: None,
            at_sentinel: false,
            has_worked: false,
            sentinel: false,
            subscriptions: None,
            monitors: false,
            inbox: None,
            figures: None,
            ending: false,
        };
        self.sessions.map.insert(conn, Some(Box::new(session)));
        true
    }

    /// The same at the Sentinel port.
    pub fn sentinel_client_connected(&mut self, now: Now, conn: ConnId, addr: String, local_addr: String) -> bool {
        let welcome = self.client_connected(now, conn, addr, local_addr);
        if let Some(session) = self.sessions.get_mut(conn).filter(|_| welcome) {
            (session.at_sentinel, session.sentinel) = (true, true);
        }
        welcome
    }

    /// A client's connection is closed; whatever waited for it is forgotten.
    pub fn client_gone(&mut self, conn: ConnId) {
        if let Some(mut session) = self.sessions.map.remove(&conn).flatten() {
            self.let_go(conn, &mut session);
        }
        self.forget_waits(conn);
        self.holds.forget(conn);
        self.piles.forget(conn);
    }

    /// Nothing is read from a client any more: it gets the replies that are due. From now on nothing is told to it, and to others it is gone, however
    /// long its socket takes to close.
    pub fn client_ends(&mut self, conn: ConnId) {
        self.forget_waits(conn);
        if let Some(mut session) = self.sessions.map.get_mut(&conn).and_then(Option::take) {
            self.let_go(conn, &mut session);
            self.sessions.map.insert(conn, Some(session));
        }
    }

    /// What the Keeper does for a client beside replying to it ends.
    pub(super) fn let_go(&mut self, conn: ConnId, session: &mut Session) {
        session.ending = true;
        session.inbox = None;
        self.end_transaction(session);
        self.unsubscribe_all(conn, session);
        self.stop_monitoring(conn, session);
        self.stop_tracking(conn, session);
        self.forget_rewrite(session);
    }

    fn forget_waits(&mut self, conn: ConnId) {
        self.waiting.remove(conn);
        self.blocked.remove(&conn);
        self.behind.remove(&conn);
        self.confirming.remove(&conn);
    }

    /// Whether this client has shown the password, or needs none.
    #[must_use]
    pub fn is_trusted(&self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some_and(|s| s.trusted)
    }
}

impl Keeper {
    /// Executes a session command. Its row checked the number of arguments where that is fixed.
    #[allow(clippy::too_many_arguments)] // the state of one batch, borrowed apart
    pub(super) fn session_command(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        command: SessionCommand,
        args: &Args<'_>,
        out: &mut Output,
        fx: &mut Effects,
    ) -> Flow {
        // Lettuce listens so to a Sentinel, as the first thing that it does there; who does something else first means what applications publish.
        let begins = command == SessionCommand::PSubscribe && args.len() == 2 && args.get(1) == b"*";
        session.sentinel |= begins && !session.has_worked;
        session.has_worked |= !sentinel::introduces(command);
        // SUBSCRIBE and its kin are confirmed by what is pushed, which CLIENT REPLY does not stop.
        let mut aside = Output::new();
        let mut reply = match command.is_confirmed() && !session.hears() {
            true => Reply::new(&mut aside, session.protocol),
            false => Reply::new(out, session.protocol),
        };
        let answer = match command {
            SessionCommand::Ping => connection::ping(session, args, &mut reply),
            SessionCommand::Hello => self.hello(now, session, args, out),
            SessionCommand::Auth => self.auth(session, args, &mut reply),
            SessionCommand::Select => {
                if integer(args.get(1)).is_ok_and(|database| database != 0) {
                    self.note_unknown(args.get(0), &session.library.0, fx);
                }
                connection::select(args, &mut reply)
            }
            SessionCommand::Quit => connection::quit(&mut reply),
            SessionCommand::Reset => self.reset(conn, session, out),
            SessionCommand::Readonly => connection::set(&mut session.readonly, true, &mut reply),
            SessionCommand::Readwrite => connection::set(&mut session.readonly, false, &mut reply),
            SessionCommand::Asking => connection::asking(&mut reply),
            SessionCommand::AdminAdopt
            | SessionCommand::AdminForget
            | SessionCommand::AdminLowerPeak
            | SessionCommand::AdminRaiseVersion
            | SessionCommand::AdminReset
            | SessionCommand::AdminSetConfig => self.operate(now, session, command, args, &mut reply),
            SessionCommand::ClientGetRedir => tracking::get_redir(session, &mut reply),
            SessionCommand::ClientCaching => tracking::caching(session, args, &mut reply),
            SessionCommand::ClientTracking => self.client_tracking(conn, session, args, &mut reply),
            SessionCommand::ClientKill => self.client_kill(session, args, &mut reply, fx),
            SessionCommand::ClientPause => self.client_pause(now, args, &mut reply),
            SessionCommand::ClientReply => connection::reply_mode(session, args, &mut reply),
            SessionCommand::ClientTrackingInfo => tracking::tracking_info(session, &mut reply),
            SessionCommand::ClientUnblock => self.client_unblock(args, &mut reply, fx),
            SessionCommand::ClientUnpause => self.client_unpause(&mut reply, fx),
            SessionCommand::ClientId => connection::id(session, &mut reply),
            SessionCommand::ClientGetName => connection::get_name(session, &mut reply),
            SessionCommand::ClientSetName => connection::set_name(session, args, &mut reply),
            SessionCommand::ClientSetInfo => connection::set_info(session, args, &mut reply),
            SessionCommand::ClientNoEvict => connection::switch(&mut session.no_evict, args, &mut reply),
            SessionCommand::ClientNoTouch => {
                let answer = connection::switch(&mut session.no_touch, args, &mut reply);
                self.store.be_quiet(session.no_touch);
                answer
            }
            SessionCommand::ClientInfo => self.client_info(now, conn, session, &mut reply),
            SessionCommand::ClientList => self.client_list(now, conn, session, args, &mut reply),
            SessionCommand::ClusterFailover => self.cluster_failover(args, &mut reply, fx),
            SessionCommand::ClientCapa => connection::capa(session, args, &mut reply),
            SessionCommand::ClusterInfo => self.cluster_info(now, &mut reply),
            SessionCommand::ClusterKeySlot => cluster::key_slot(args, &mut reply),
            SessionCommand::ClusterLinks => cluster::links(&mut reply),
            SessionCommand::ClusterMyId => self.cluster_my_id(&mut reply),
            SessionCommand::ClusterMyShardId => self.cluster_my_shard_id(&mut reply),
            SessionCommand::ClusterNodes => self.cluster_nodes(now, session, &mut reply),
            SessionCommand::ClusterReplicas => self.cluster_replicas(now, args, &mut reply),
            SessionCommand::ClusterShards => self.cluster_shards(now, session, &mut reply),
            SessionCommand::ClusterSlots => self.cluster_slots(now, session, &mut reply),
            SessionCommand::ConfigGet => self.config_get(args, &mut reply),
            SessionCommand::ConfigResetStat => self.config_resetstat(now, &mut reply),
            SessionCommand::ConfigRewrite => self.config_rewrite(now, session, &mut reply),
            SessionCommand::ConfigSet => self.config_set(now, args, &mut reply),
            SessionCommand::Info => self.info(now, session, args, &mut reply),
            SessionCommand::DebugSetActiveExpire => self.set_active_expire(args, &mut reply),
            SessionCommand::DebugSleep => debug::sleep(now, session, args, &mut reply),
            SessionCommand::Monitor => self.monitor(conn, session, &mut reply),
            SessionCommand::Shutdown => self.shutdown(args, fx),
            SessionCommand::LatencyDoctor => self.latency_doctor(&mut reply),
            SessionCommand::LatencyGraph => self.latency_graph(now, args, &mut reply),
            SessionCommand::LatencyHistogram => self.latency_histogram(args, &mut reply),
            SessionCommand::LatencyHistory => self.latency_history(args, &mut reply),
            SessionCommand::LatencyLatest => self.latency_latest(&mut reply),
            SessionCommand::LatencyReset => self.latency_reset(args, &mut reply),
            SessionCommand::SlowlogGet => self.slowlog_get(args, &mut reply),
            SessionCommand::SlowlogLen => self.slowlog_len(&mut reply),
            SessionCommand::SlowlogReset => self.slowlog_reset(&mut reply),
            SessionCommand::MemoryDoctor => self.memory_doctor(&mut reply),
            SessionCommand::MemoryStats => self.memory_stats(&mut reply),
            SessionCommand::Role if session.at_sentinel => self.sentinel_role(&mut reply),
            SessionCommand::Role => self.role_command(now, &mut reply),
            SessionCommand::DataKeeperHandover => self.handover_command(now, args, &mut reply, fx),
            SessionCommand::Discard => self.discard(session, &mut reply),
            SessionCommand::Exec => unreachable!("it goes its own way: what it executes meets gates"),
            SessionCommand::Multi => transaction::multi(session, &mut reply),
            SessionCommand::Unwatch => self.unwatch_command(session, &mut reply),
            SessionCommand::Watch => self.watch(session, args, &mut reply),
            SessionCommand::ReplicaOf => self.replica_of(args, &mut reply, fx),
            SessionCommand::Failover => self.failover(now, args, &mut reply, fx),
            SessionCommand::DataKeeperAfter => self.read_after(session, args, &mut reply),
            SessionCommand::DataKeeperHolders => self.holders_command(args, &mut reply),
            SessionCommand::DataKeeperPosition => self.position(session, args, &mut reply),
            SessionCommand::DataKeeperStatus => self.status_command(now, &mut reply),
            SessionCommand::SentinelCkQuorum
            | SessionCommand::SentinelFailover
            | SessionCommand::SentinelGetMasterAddr
            | SessionCommand::SentinelIsMasterDown
            | SessionCommand::SentinelMaster
            | SessionCommand::SentinelMasters
            | SessionCommand::SentinelMyId
            | SessionCommand::SentinelReplicas
            | SessionCommand::SentinelSentinels => {
                session.sentinel = true;
                self.sentinel(now, command, args, &mut reply, fx)
            }
            SessionCommand::Subscribe => self.subscribe(conn, session, Kind::Channel, args, &mut reply),
            SessionCommand::PSubscribe => self.subscribe(conn, session, Kind::Pattern, args, &mut reply),
            SessionCommand::SSubscribe => self.subscribe(conn, session, Kind::Shard, args, &mut reply),
            SessionCommand::Unsubscribe => self.unsubscribe(conn, session, Kind::Channel, args, &mut reply),
            SessionCommand::PUnsubscribe => self.unsubscribe(conn, session, Kind::Pattern, args, &mut reply),
            SessionCommand::SUnsubscribe => self.unsubscribe(conn, session, Kind::Shard, args, &mut reply),
            SessionCommand::Publish if session.at_sentinel => Err(sentinel::NO_PUBLISH.into()),
            SessionCommand::Publish => self.publish(now, session, false, args, &mut reply, fx),
            SessionCommand::SPublish => self.publish(now, session, true, args, &mut reply, fx),
            SessionCommand::PubsubChannels => self.pubsub_channels(Kind::Channel, args, &mut reply),
            SessionCommand::PubsubNumPat => self.pubsub_numpat(&mut reply),
            SessionCommand::PubsubNumSub => self.pubsub_numsub(Kind::Channel, args, &mut reply),
            SessionCommand::PubsubShardChannels => self.pubsub_channels(Kind::Shard, args, &mut reply),
            SessionCommand::PubsubShardNumSub => self.pubsub_numsub(Kind::Shard, args, &mut reply),
            SessionCommand::Wait => self.wait(now, conn, session, args, &mut reply),
        };
        if !aside.is_empty() {
            self.tell_own(aside.to_vec().into());
        }
        answer.unwrap_or_else(|text| {
            self.stats.error(&text);
            Reply::new(out, session.protocol).error(&text);
            Flow::Done
        })
    }
}
