//! The coordination service in ZooKeeper.
//!
//! ```text
//!   submit ─► requests ─┐            ┌───────────── thread "coordination" ─────────────┐
//!                       ├─► Supervisor: connect ─► Session ─► serve ─► over ─► again    ├─► events
//!   stop ───────────────┘            └──────────────────────────────────────────────────┘
//! ```
//! * One task does everything, one ZooKeeper request at a time: a request behind another one would wait for Nagle's algorithm in
//!   the client crate, and an election must not. Requests of the node go first (confirmed reads last among them, and given up for the
//!   others at the next round trip: `queue.rs`), the node's own name next, changed parts last,
//!   and a changed part costs at most two round trips before the next request is looked at.
//! * It runs on a thread and a runtime of its own, so that a busy data path never delays it, and it never delays that.
//! * A request stays in front until its answer is known, across disconnections and sessions (`requests.rs`).
//! * A request that the data path waits for (a compare-and-set, a confirmed read) does not depend on one server: if it is not answered for a while, or there is no
//!   contact, it is carried out by another session, too, with whichever server answers first (`elsewhere`). Whatever comes of both, the change id and
//!   the expected version make them one. That session owns nothing and is closed after the request.
//! * Sessions are rebuilt for ever, with back-off; a session that lost contact for `PATIENCE` is given up early, because the
//!   crate's own reconnection backs off without a cap. What it had queued may still land later: every write here is conditional on a
//!   version, so that cannot do harm, and it is resolved by reading.
//!
//! Paths, below `<chroot>/<cluster>` (`/datakeeper/<cluster>` without a chroot): `/groups/0/state`, `/config`, `/nodes/<id>`,
//! `/nodes/<id>/live`.
//!
//! ClickHouse Keeper is not supported: it replaces a lost session silently, so that live entries vanish unnoticed. As a second net, the
//! own live entry is looked at again after every regained contact.
//!
//! Not here: TLS and SASL (the crate has them; nothing asks for them yet), writing `/config` after bootstrap.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use zookeeper_client as zk;

use super::queue::Queue;
use super::{CoordError, Coordinator, Events};
use crate::base::jitter::Jitter;
use crate::cluster::coordinator::{CoordEvent, CoordRequest};
use crate::cluster::state::Why;
use ensemble::Ensemble;
use paths::Paths;
use requests::Name;
use session::Session;

mod ensemble;
mod paths;
mod requests;
mod session;

/// How long a session without contact is waited for before a new one is built.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between attempts to connect, or to carry a request out: from, up to. Each is drawn from its upper half.
const PAUSE_MS: (u64, u64) = (50, 500);
/// How long a hung connection is taken for a live one; less if the session timeout is short.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A request is carried out by another session, too, if the own one has not answered it for so long; an election, for which everybody waits, sooner.
const ELSEWHERE_AFTER: Duration = Duration::from_millis(200);
/// See [`ELSEWHERE_AFTER`].
const ELECT_ELSEWHERE_AFTER: Duration = Duration::from_millis(50);
/// How long [`Coordinator::stop`] waits for the session to be closed.
const STOP_CAP: Duration = Duration::from_secs(1);

/// How to reach the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// `host:port,host:port`, optionally with a `/chroot` at the end.
    pub connect: String,
    /// Name of the cluster; a path component below the chroot.
    pub cluster: String,
    /// Proposed session timeout: how long a dead node's live entry stands. Failover does not depend on it. The server may change it.
    pub session_timeout: Duration,
    /// Scheme and credentials, `digest user:password`; what the node creates is then open to that user alone.
    pub auth: Option<String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { connect, cluster, session_timeout, auth } = self;
        let auth = auth.as_ref().map(|_| "..");
        write!(f, "Options {{ {connect:?}, cluster {cluster:?}, session {session_timeout:?}, auth {auth:?} }}")
    }
}

/// Whether a connect string can be understood, and only in one way.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn check_connect(connect: &str) -> Result<(), String> {
    paths::split(connect).map(|_| ())
}

/// One node's access to ZooKeeper.
pub struct ZooKeeper {
    requests: mpsc::UnboundedSender<CoordRequest>,
    stop: watch::Sender<bool>,
    ended: Arc<Ended>,
}

/// Whether the thread has done its last act.
#[derive(Default)]
struct Ended {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl ZooKeeper {
    /// Starts the thread and returns at once; [`CoordEvent::SessionUp`] tells when ZooKeeper was reached, however long that takes.
    ///
    /// # Errors
    /// [`CoordError::Config`] if an option cannot mean anything, [`CoordError::Thread`] if the system has no thread for us.
    pub fn start(options: Options, events: Events) -> Result<ZooKeeper, CoordError> {
        let (hosts, paths) = paths::parse(&options.connect, &options.cluster)?;
        let auth = options.auth.as_deref().map(parse_auth).transpose()?;
        let thread_error = |what: &dyn fmt::Display| CoordError::Thread(what.to_string());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| thread_error(&e))?;
        let seed = getrandom::u64().map_err(|e| thread_error(&e))?;
        let (requests, requested) = mpsc::unbounded_channel();
        let (stop, mut stopping) = watch::channel(false);
        let ended = Arc::new(Ended::default());
        let mut supervisor = Supervisor {
            ensemble: Ensemble { hosts, auth, session_timeout: options.session_timeout },
            paths,
            events,
            requests: requested,
            queue: Queue::default(),
            front: None,
            name: Name::default(),
            is_down: false,
            hindrance: None,
            client: None,
            jitter: Jitter::new(seed),
        };
        let end = Arc::clone(&ended);
        let work = move || {
            runtime.block_on(async {
                let in_good_order = tokio::select! {
                    biased; // The wish to stop comes before any work.
                    stop = stopping.wait_for(|stop| *stop) => stop.is_ok(), // Not when the handle was dropped.
                    () = supervisor.run() => false,
                };
                supervisor.close(in_good_order).await;
            });
            *end.flag.lock() = true;
            end.changed.notify_all();
        };
        std::thread::Builder::new().name("coordination".to_string()).spawn(work).map_err(|e| thread_error(&e))?;
        Ok(ZooKeeper { requests, stop, ended })
    }
}

impl Coordinator for ZooKeeper {
    fn submit(&self, request: CoordRequest) {
        let _ = self.requests.send(request);
    }

    fn stop(&self) {
        let _ = self.stop.send(true);
        let mut ended = self.ended.flag.lock();
        if !*ended {
            self.ended.changed.wait_for(&mut ended, STOP_CAP);
        }
    }
}

/// What outlives sessions.
struct Supervisor {
    ensemble: Ensemble,
    paths: Paths,
    events: Events,
    requests: mpsc::UnboundedReceiver<CoordRequest>,
    /// What came from there and was not taken up yet.
    queue: Queue,
    /// The request that is being carried out. Leaves only when its answer is known.
    front: Option<CoordRequest>,
    name: Name,
    /// Whether the node was told that contact is lost, and not yet that it is back.
    is_down: bool,
    /// What ZooKeeper refuses, as the node was told.
    hindrance: Option<String>,
    /// Another handle on the client of the present session, to close it by.
    client: Option<zk::Client>,
    jitter: Jitter,
}

impl Supervisor {
    async fn run(&mut self) {
        let mut failures = 0;
        loop {
            let reason = match self.connect().await {
                Ok(mut session) => {
                    let began = Instant::now();
                    let reason = self.serve(&mut session).await;
                    if began.elapsed() > PATIENCE {
                        failures = 0; // A session that is refused again and again is no recovery.
                    }
                    self.client = None;
                    session.close();
                    reason
                }
                Err(reason) => reason,
            };
            if let CoordError::Refused(what) = &reason {
                self.tell_hindrance(Some(what.clone()));
            }
            self.tell_down(&reason);
            self.pause(failures).await;
            failures += 1;
        }
    }

    async fn connect(&mut self) -> Result<Session, CoordError> {
        let Supervisor { ensemble, paths, events, front, requests, queue, .. } = self;
        let began = async {
            let client = ensemble.connect(&ensemble.hosts).await?;
            let mut session = Session::new(client.clone(), paths.clone(), ensemble.acls(), events.clone());
            session.prepare().await?;
            Ok((client, session))
        };
        let (client, mut session) = tokio::select! {
            biased; // A session of its own is what the node needs most.
            began = began => began?,
            never = work_elsewhere(ensemble, paths, events, front, requests, queue) => match never {},
        };
        self.client = Some(client);
        info!(session = %session.id(), timeout = ?session.timeout(), "ZooKeeper session");
        self.tell_up(&mut session);
        Ok(session)
    }

    /// Works until the session is over, and returns why.
    async fn serve(&mut self, session: &mut Session) -> CoordError {
        let mut failures = 0;
        loop {
            if let Err(over) = self.keep_contact(session).await {
                return over;
            }
            match self.step(session).await {
                Ok(()) => {
                    failures = 0;
                    self.tell_hindrance(None);
                }
                Err(CoordError::Refused(what)) => {
                    self.tell_hindrance(Some(what));
                    self.pause(failures).await;
                    failures += 1;
                }
                Err(CoordError::Unknown(what)) => {
                    if failures == 0 {
                        debug!("ZooKeeper: {what}; trying again");
                    } else if failures == 5 {
                        warn!("ZooKeeper: {what}; still trying");
                    }
                    self.pause(failures).await;
                    failures += 1;
                }
                Err(over) => return over,
            }
        }
    }

    /// Returns when the session has contact.
    async fn keep_contact(&mut self, session: &mut Session) -> Result<(), CoordError> {
        loop {
            match session.state() {
                zk::SessionState::SyncConnected if self.is_down => self.tell_up(session),
                zk::SessionState::SyncConnected => return Ok(()),
                zk::SessionState::Disconnected => {
                    self.tell_down(&CoordError::Unknown("contact is lost".to_string()));
                    let Supervisor { ensemble, paths, events, front, requests, queue, .. } = self;
                    let changed = tokio::select! {
                        biased; // As in `connect`.
                        changed = timeout(PATIENCE, session.state_changed()) => changed,
                        never = work_elsewhere(ensemble, paths, events, front, requests, queue) => match never {},
                    };
                    if changed.is_err() {
                        return Err(CoordError::SessionOver(format!("no contact for {PATIENCE:?}")));
                    }
                }
                over => return Err(CoordError::SessionOver(format!("session {over}"))),
            }
        }
    }

    /// Does the most urgent thing there is, or waits until there is one.
    async fn step(&mut self, session: &mut Session) -> Result<(), CoordError> {
        session.take_fired();
        take_up(&mut self.front, &mut self.requests, &mut self.queue);
        if let Some(request) = &self.front {
            if let CoordRequest::Bootstrap { want, .. } = request {
                let (path, entry) = session.entry_of_founder(&want.leader.id).await?;
                if let Some(entry) = entry {
                    self.ensemble.check_is_one(&path, &entry).await?;
                }
            }
            let is_overtaken = overtaken(&mut self.requests, &mut self.queue);
            let done = match patience(request) {
                None => session.carry_out(request, &mut self.name, &is_overtaken).await,
                Some(patience) => tokio::select! {
                    biased; // The own session is the cheaper one.
                    done = session.carry_out(request, &mut self.name, &is_overtaken) => done,
                    done = async {
                        sleep(patience).await;
                        elsewhere(&self.ensemble, &self.paths, &self.events, request, &is_overtaken).await
                    } => Ok(done),
                },
            };
            if done? {
                self.front = None;
            }
        } else if self.name.is_due() {
            session.claim(&mut self.name).await?;
        } else if let Some(part) = session.changed_part() {
            session.refresh(&part).await?;
            self.name.look_again_if(&part);
        } else {
            tokio::select! {
                biased; // As above: requests first.
                Some(request) = self.requests.recv() => self.queue.push(request),
                contact_changed = session.wait() => {
                    if contact_changed {
                        self.name.look_again();
                    }
                }
            }
        }
        Ok(())
    }

    fn tell_up(&mut self, session: &mut Session) {
        self.is_down = false;
        session.everything_changed();
        self.name.look_again();
        let _ = self.events.send(CoordEvent::SessionUp);
    }

    fn tell_down(&mut self, reason: &CoordError) {
        if !std::mem::replace(&mut self.is_down, true) {
            warn!("ZooKeeper: {reason}");
            let _ = self.events.send(CoordEvent::SessionDown { reason: reason.to_string() });
        }
    }

    /// Tells what an operator has to mend, or that it is mended.
    fn tell_hindrance(&mut self, hindrance: Option<String>) {
        if self.hindrance != hindrance {
            self.hindrance.clone_from(&hindrance);
            let _ = self.events.send(CoordEvent::Hindered { reason: hindrance });
        }
    }

    async fn pause(&mut self, failures: u32) {
        let (from, upto) = PAUSE_MS;
        let ms = upto.min(from << failures.min(10));
        sleep(Duration::from_millis(ms / 2 + self.jitter.below(ms / 2 + 1))).await;
    }

    /// Closes the session and waits until that is out, as long as it has contact; if it ends in good order, the directory says so before.
    async fn close(&mut self, in_good_order: bool) {
        let Some(client) = self.client.take() else { return };
        let mut states = client.state_watcher();
        if client.state() == zk::SessionState::SyncConnected {
            let session = Session::new(client, self.paths.clone(), zk::Acls::anyone_all(), self.events.clone());
            let closed = async {
                if in_good_order && let Err(error) = session.record_end(&self.name).await {
                    debug!("ZooKeeper: the end of this node is not noted: {error}");
                }
                session.close();
                while !states.changed().await.is_terminated() {}
            };
            let _ = timeout(STOP_CAP * 9 / 10, closed).await;
        }
    }
}

/// How long a request may stay unanswered before it is carried out by another session, too; none: it is only for the own one.
fn patience(request: &CoordRequest) -> Option<Duration> {
    match request {
        CoordRequest::Cas { want, .. } if matches!(want.change.why, Why::Elect | Why::Handover) => {
            Some(ELECT_ELSEWHERE_AFTER)
        }
        CoordRequest::Cas { .. } | CoordRequest::Confirm => Some(ELSEWHERE_AFTER),
        CoordRequest::Register(_) | CoordRequest::Bootstrap { .. } | CoordRequest::SetConfig { .. } => None,
    }
}

/// Carries a request out by a session with whichever server answers first, however often that takes; `false` if it was put off.
async fn elsewhere(
    ensemble: &Ensemble,
    paths: &Paths,
    events: &Events,
    request: &CoordRequest,
    is_overtaken: &impl Fn() -> bool,
) -> bool {
    let mut pause_ms = PAUSE_MS.0;
    loop {
        if *request == CoordRequest::Confirm && is_overtaken() {
            return false;
        }
        let done = async {
            let client = ensemble.connect_to_first().await?;
            let mut session = Session::new(client, paths.clone(), ensemble.acls(), events.clone());
            // It registers nobody, so it has no name.
            let done = session.carry_out(request, &mut Name::default(), is_overtaken).await;
            session.close();
            done
        };
        match done.await {
            Ok(done) => {
                debug!("ZooKeeper: a second session has carried a request out, or put it off: {done}");
                return done;
            }
            Err(error) => debug!("ZooKeeper: a second session was of no use: {error}"),
        }
        sleep(Duration::from_millis(pause_ms)).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
    }
}

/// While there is no session with contact: carries out by other ones what does not need it.
async fn work_elsewhere(
    ensemble: &Ensemble,
    paths: &Paths,
    events: &Events,
    front: &mut Option<CoordRequest>,
    requests: &mut mpsc::UnboundedReceiver<CoordRequest>,
    queue: &mut Queue,
) -> Infallible {
    loop {
        take_up(front, requests, queue);
        let done = match front {
            Some(request) if patience(request).is_some() => {
                elsewhere(ensemble, paths, events, request, &overtaken(requests, queue)).await
            }
            // It waits for the session.
            Some(_) => std::future::pending().await,
            None => match requests.recv().await {
                Some(request) => {
                    queue.push(request);
                    false
                }
                // The node is gone.
                None => std::future::pending().await,
            },
        };
        if done {
            *front = None;
        }
    }
}

/// Takes up what is to be carried out next, unless something is unanswered; a confirmed read is put off for anything else.
fn take_up(front: &mut Option<CoordRequest>, requests: &mut mpsc::UnboundedReceiver<CoordRequest>, queue: &mut Queue) {
    if *front == Some(CoordRequest::Confirm) {
        *front = None;
        queue.push(CoordRequest::Confirm);
    }
    if front.is_none() {
        fetch(requests, queue);
        *front = queue.pop();
    }
}

/// Tells whether something has come that goes before a confirmed read.
fn overtaken(requests: &mut mpsc::UnboundedReceiver<CoordRequest>, queue: &mut Queue) -> impl Fn() -> bool {
    let waiting = RefCell::new((requests, queue));
    move || {
        let (requests, queue) = &mut *waiting.borrow_mut();
        fetch(requests, queue);
        queue.is_urgent()
    }
}

/// Moves what the node has asked for to the queue.
fn fetch(requests: &mut mpsc::UnboundedReceiver<CoordRequest>, queue: &mut Queue) {
    while let Ok(request) = requests.try_recv() {
        queue.push(request);
    }
}

fn parse_auth(auth: &str) -> Result<(String, String), CoordError> {
    match auth.split_once(' ') {
        Some((scheme, credentials)) if !scheme.is_empty() && credentials.contains(':') => {
            Ok((scheme.to_string(), credentials.to_string()))
        }
        // The text may hold a password: not repeated.
        _ => Err(CoordError::Config("auth: want `digest user:password`".to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mean_nothing_are_refused_before_anything_starts() {
        let good = Options {
            connect: "127.0.0.1:1".to_string(),
            cluster: "c".to_string(),
            session_timeout: Duration::from_secs(1),
            auth: Some("digest u:p".to_string()),
        };
        let start = |options: Options| ZooKeeper::start(options, mpsc::unbounded_channel().0).map(|_| ());
        assert_eq!(start(good.clone()), Ok(()));
        for bad in [
            Options { connect: String::new(), ..good.clone() },
            Options { cluster: "a/b".to_string(), ..good.clone() },
            Options { auth: Some("u:p".to_string()), ..good.clone() },
        ] {
            assert!(matches!(start(bad.clone()), Err(CoordError::Config(_))), "{bad:?} was accepted");
        }
    }
}
