//! One node as its threads share it: the Keeper behind its lock, and the ways out for what the Keeper wants done.
//!
//! ```text
//!   any thread ── with_keeper ──► lock · read the clocks · handle · note the next deadline · queue the orders · unlock
//!                                   │ Release, Resume, Push           │ WakeLink              │ everything else: orders
//!                                   ▼                                 ▼                       ▼
//!                      the post box of the client's thread      the link's writer    one task on thread 0, in order
//! ```
//! Orders (dial, hang up, coordination requests, notices …) mean something else when they change places, so they are queued
//! while the lock is held and carried out by one task. Releases and wake-ups may pass each other: a released number only
//! grows, and a woken task asks the Keeper for the rest; they are performed by whoever caused them, after unlocking.
//!
//! What load balancers ask for ([`Face`]) is copied out at the end of a hold that changed it, so that no hold delays an answer to them.
//!
//! Nobody holds the lock across an await, a system call or a log line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::links::LinkTable;
use super::post::{Letter, Post};
use super::server::Access;
use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, NodeId};
use crate::cluster::role::Role;
use crate::cluster::status::Status;
use crate::keeper::{Effect, Effects, Event, Face, Keeper, Level, LogLevel, Notice};
use crate::replication::pulse::PulseCell;

/// How long one hold of the Keeper's lock may last before the pulse thread falls silent: the node is stuck, let others lead.
pub const HOLD_STUCK_MS: u64 = 5_000;
/// How long one may last before a supervisor is told that the process does not live any more.
pub const HOLD_DEAD_MS: u64 = 30_000;

/// Where the replica's pulse connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PulseTarget {
    pub(super) addr: String,
    pub(super) token: u128,
}

/// Writes settings, each the path of a key and its value, into the configuration file; or says why not.
pub type WriteConfig = Arc<dyn Fn(&[(&'static str, String)]) -> Result<(), String> + Send + Sync>;

/// Makes the log of this process show what is that important.
pub type SetLogLevel = Arc<dyn Fn(LogLevel) + Send + Sync>;

/// Everything that the threads of one node share.
pub struct Node {
    id: NodeId,
    keeper: Mutex<Keeper>,
    /// What load balancers ask for: written after a hold that changed it, read without the Keeper's lock. Held for a copy.
    face: Mutex<Face>,
    /// Boot clock at which the present holder got the Keeper's lock; 0 while it is free.
    hold_since: AtomicU64,
    /// Boot clock of the next tick. Written under the Keeper's lock, or by the timer as it takes the deadline up.
    deadline: AtomicU64,
    /// Wakes the timer: the deadline came nearer.
    pub(super) timer: Notify,
    /// Effects whose order matters. Pushed while the Keeper's lock is held, so their order is the Keeper's.
    orders: Mutex<Effects>,
    orders_wake: Notify,
    /// Clients that may be connected at once.
    pub(super) clients_max: usize,
    /// One per client thread, in the order of the threads.
    pub(super) posts: Box<[Post]>,
    /// The open replication links.
    pub(super) links: LinkTable,
    /// The pulse's own state, behind a lock that is never held with the Keeper's by this floor.
    pub(super) pulse: Arc<PulseCell>,
    pub(super) pulse_to: watch::Sender<Option<PulseTarget>>,
    access: Mutex<Option<Access>>,
    /// Writes settings into the configuration file.
    write_config: Option<WriteConfig>,
    /// Changes what is logged, if that can be.
    set_log_level: Option<SetLogLevel>,
    /// Counts the lines of the log that were dropped, if anybody does.
    pub(super) log_dropped: Option<Arc<AtomicU64>>,
    /// Why this node cannot go on, once that is so.
    pub(super) failure: watch::Sender<Option<String>>,
    /// That SHUTDOWN was asked for, and whether at once.
    pub(super) shutdown: watch::Sender<Option<bool>>,
    /// Ends every thread of this node, at once.
    pub(super) over: CancellationToken,
}

impl Node {
    pub(super) fn new(
        id: NodeId,
        clients_max: usize,
        keeper: Keeper,
        pulse: Arc<PulseCell>,
        posts: Box<[Post]>,
        write_config: Option<WriteConfig>,
        set_log_level: Option<SetLogLevel>,
    ) -> Node {
        Node {
            id,
            keeper: Mutex::new(keeper),
            face: Mutex::new(Face::NEW),
            hold_since: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            timer: Notify::new(),
            orders: Mutex::default(),
            orders_wake: Notify::new(),
            clients_max,
            posts,
            links: LinkTable::default(),
            pulse,
            pulse_to: watch::Sender::new(None),
            access: Mutex::new(None),
            write_config,
            set_log_level,
            log_dropped: None,
            failure: watch::Sender::new(None),
            shutdown: watch::Sender::new(None),
            over: CancellationToken::new(),
        }
    }

    /// Name of the node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Locks the Keeper, reads the clocks inside the lock, so that no event is stamped before the one handled ahead of it, and
    /// performs what came of it after unlocking. `act` must not block.
    pub(super) fn with_keeper<R>(&self, act: impl FnOnce(&mut Keeper, Now, &mut Effects) -> R) -> R {
        self.hold(self.keeper.lock(), act)
    }

    /// The same, unless others hold the lock for so long.
    pub(super) fn with_keeper_within<R>(
        &self,
        patience: Duration,
        act: impl FnOnce(&mut Keeper, Now, &mut Effects) -> R,
    ) -> Option<R> {
        Some(self.hold(self.keeper.try_lock_for(patience)?, act))
    }

    fn hold<R>(&self, mut keeper: MutexGuard<'_, Keeper>, act: impl FnOnce(&mut Keeper, Now, &mut Effects) -> R) -> R {
        let mut effects = Effects::new();
        let now = clock::now();
        self.hold_since.store(now.boot.0, Ordering::Relaxed);
        let fuse = Fuse;
        let result = act(&mut keeper, now, &mut effects);
        std::mem::forget(fuse);
        let deadline = keeper.next_deadline().0;
        let nearer = deadline < self.deadline.load(Ordering::Acquire);
        if nearer {
            self.deadline.store(deadline, Ordering::Release);
        }
        let ordered = effects.iter().any(is_order);
        if ordered {
            let mut orders = self.orders.lock();
            orders.extend(effects.extract_if(.., |effect| is_order(effect)));
        }
        if let Some(face) = keeper.changed_face() {
            *self.face.lock() = face;
        }
        self.hold_since.store(0, Ordering::Relaxed);
        drop(keeper);
        if nearer {
            self.timer.notify_one();
        }
        if ordered {
            self.orders_wake.notify_one();
        }
        self.perform(&effects);
        result
    }

    /// Hands one event to the Keeper.
    pub(super) fn handle(&self, event: Event) {
        self.with_keeper(|keeper, now, effects| keeper.handle(now, event, effects));
    }

    /// What the node says of itself and its cluster, for operators.
    #[must_use]
    pub fn status(&self) -> Status {
        self.with_keeper(|keeper, now, _| keeper.status(now))
    }

    /// The same, unless others hold the Keeper's lock for so long.
    #[must_use]
    pub fn status_within(&self, patience: Duration) -> Option<Status> {
        self.with_keeper_within(patience, |keeper, now, _| keeper.status(now))
    }

    /// What the node is at this moment.
    #[must_use]
    pub fn role(&self) -> Role {
        self.with_keeper(|keeper, _, _| keeper.role())
    }

    /// What load balancers ask for; does not wait for the Keeper's lock.
    #[must_use]
    pub fn face(&self) -> Face {
        *self.face.lock()
    }

    /// Whether the node can end without anybody waiting for it: see [`Keeper::has_left`].
    pub(super) fn may_end(&self) -> bool {
        let (left, alone) = self.with_keeper(|keeper, now, _| (keeper.has_left(now), keeper.is_alone(now)));
        alone || left && self.clients() == 0
    }

    /// Whether its end has to wait for a copy that is being filled: see [`Keeper::must_stay`].
    pub(super) fn must_stay(&self) -> bool {
        self.with_keeper(|keeper, now, _| keeper.must_stay(now))
    }

    /// What its end would give up for good, if it is halted: see [`Keeper::data_at_stake`].
    #[must_use]
    pub fn data_at_stake(&self) -> Option<String> {
        self.with_keeper(|keeper, _, _| keeper.data_at_stake())
    }

    /// Client connections, those on their way to their thread included.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.posts.iter().map(Post::load).sum()
    }

    /// The effects whose order does not matter.
    fn perform(&self, effects: &Effects) {
        if effects.is_empty() {
            return;
        }
        for (index, post) in self.posts.iter().enumerate() {
            post.deliver(effects.iter().filter_map(|effect| match *effect {
                Effect::Release { conn, seq } if self.thread_of(conn) == index => Some(Letter::Release { conn, seq }),
                Effect::Resume(conn) if self.thread_of(conn) == index => Some(Letter::Resume(conn)),
                Effect::Push(conn) if self.thread_of(conn) == index => Some(Letter::Push(conn)),
                _ => None,
            }));
        }
        for effect in effects {
            if let Effect::WakeLink(link) = effect {
                self.links.wake(*link);
            }
        }
    }

    /// Carries out the orders, one after the other, for as long as the node lives. Runs on thread 0, beside the links.
    pub(super) async fn run_orders(self: Arc<Node>) {
        loop {
            self.orders_wake.notified().await;
            let orders = std::mem::take(&mut *self.orders.lock());
            for order in orders {
                self.carry_out(order);
            }
        }
    }

    fn carry_out(self: &Arc<Node>, order: Effect) {
        match order {
            Effect::Dial { link, addr } => self.links.dial(self, link, addr),
            Effect::Hangup(link) => self.links.hang_up(link),
            Effect::PulseTo { addr, token } => {
                self.pulse_to.send_replace(Some(PulseTarget { addr, token }));
            }
            Effect::PulseStop => {
                self.pulse_to.send_replace(None);
            }
            Effect::Coord(request) => {
                if let Some(access) = &*self.access.lock() {
                    access.submit(*request);
                }
            }
            Effect::CloseClient(conn) => self.posts[self.thread_of(conn)].deliver([Letter::Close(conn)].into_iter()),
            Effect::CloseIdle(conn) => self.posts[self.thread_of(conn)].deliver([Letter::CloseIdle(conn)].into_iter()),
            Effect::CloseClients => {
                for post in &self.posts {
                    post.deliver([Letter::CloseAll].into_iter());
                }
            }
            Effect::Log(level) => {
                if let Some(set) = &self.set_log_level {
                    set(level);
                }
            }
            Effect::WriteConfig { id, values } => {
                let node = self.clone();
                // Not on this thread: a disk may take its time.
                tokio::task::spawn_blocking(move || {
                    let write = node.write_config.as_ref().ok_or("there is no configuration file".to_owned());
                    let result = write.and_then(|write| write(&values));
                    node.handle(Event::ConfigWritten { id, result });
                });
            }
            Effect::Shutdown { now } => {
                self.shutdown.send_replace(Some(now));
            }
            Effect::Exit { reason } => self.fail(reason),
            Effect::Notice(notice) => log(&notice),
            Effect::Release { .. } | Effect::Resume(_) | Effect::Push(_) | Effect::WakeLink(_) => {
                unreachable!("not an order: is_order sorts these out")
            }
        }
    }

    /// Notes why this node cannot go on. The first reason stays.
    pub(super) fn fail(&self, reason: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(reason);
            first
        });
    }

    /// Gives the node its access to the coordination service. Requests made before vanish.
    pub(super) fn set_access(&self, access: Access) {
        *self.access.lock() = Some(access);
    }

    /// Takes the access away again, to end it.
    pub(super) fn take_access(&self) -> Option<Access> {
        self.access.lock().take()
    }

    /// Whether no order waits and every link is closed: there is nobody left to say goodbye to.
    pub(super) fn is_quiet(&self) -> bool {
        self.orders.lock().is_empty() && self.links.is_empty()
    }

    /// When the next tick is due.
    pub(super) fn deadline(&self) -> Boot {
        Boot(self.deadline.load(Ordering::Acquire))
    }

    /// The timer takes the deadline up: whatever the tick leaves behind counts as nearer.
    pub(super) fn tick(&self) {
        self.with_keeper(|keeper, now, effects| {
            self.deadline.store(u64::MAX, Ordering::Release);
            keeper.handle(now, Event::Tick, effects);
        });
    }

    /// Whether one hold of the Keeper's lock has lasted [`HOLD_STUCK_MS`].
    pub(super) fn is_stuck(&self, now: Boot) -> bool {
        self.is_held_for(now, HOLD_STUCK_MS)
    }

    /// Whether one hold of the Keeper's lock has lasted so long.
    pub(super) fn is_held_for(&self, now: Boot, ms: u64) -> bool {
        let since = self.hold_since.load(Ordering::Relaxed);
        since != 0 && now.ms_since(Boot(since)) > ms
    }

    /// The thread that a connection lives on: its number says so.
    fn thread_of(&self, conn: ConnId) -> usize {
        (conn.0 % self.posts.len() as u64) as usize
    }
}

/// Ends the process when the Keeper panics: it broke an invariant, and whatever it said next could be wrong.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        tracing::error!("an invariant of the Keeper is broken: the process ends at once");
        std::process::abort();
    }
}

/// Whether an effect means something else when it changes places with another.
fn is_order(effect: &Effect) -> bool {
    match effect {
        Effect::Release { .. } | Effect::Resume(_) | Effect::Push(_) | Effect::WakeLink(_) => false,
        Effect::Dial { .. }
        | Effect::Hangup(_)
        | Effect::PulseTo { .. }
        | Effect::PulseStop
        | Effect::Coord(_)
        | Effect::CloseClient(_)
        | Effect::CloseIdle(_)
        | Effect::CloseClients
        | Effect::Log(_)
        | Effect::WriteConfig { .. }
        | Effect::Shutdown { .. }
        | Effect::Exit { .. }
        | Effect::Notice(_) => true,
    }
}

fn log(notice: &Notice) {
    match notice.level {
        Level::Error => tracing::error!(target: "datakeeper", "{notice}"),
        Level::Warn => tracing::warn!(target: "datakeeper", "{notice}"),
        Level::Info => tracing::info!(target: "datakeeper", "{notice}"),
    }
}
