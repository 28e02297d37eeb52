//! One ZooKeeper session: capped operations, and the parts of the tree that are watched.
//!
//! Every watched part is in one of three states:
//! ```text
//!   changed ──refresh: read and arm──► watched ──fired──► changed
//! ```
//! Watches are one-shot, so that a change while contact was lost fires when it is back (persistent watches lose it). A part whose
//! watch is armed already is read without arming a second one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client as zk;

use super::super::claim::Live;
use super::{CoordError, Events, Paths};
use crate::base::ids::NodeId;
use crate::cluster::coordinator::{CoordEvent, StateRead};
use crate::cluster::registration::{NodeRead, Registration};
use crate::cluster::state::ClusterState;

/// After this long an operation's outcome counts as unknown. It may still happen.
const OP_CAP: Duration = Duration::from_secs(1);

/// An answer that says for certain that the operation was not carried out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such node.
    NoNode,
    /// There is one already.
    Exists,
    /// It has another version.
    BadVersion,
}

/// A watched part of the tree, in the order in which changed ones are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `/groups/0/state`.
    State,
    /// `/config`.
    Config,
    /// Which nodes there are.
    Children,
    /// `/nodes/<id>`.
    Entry(NodeId),
    /// `/nodes/<id>/live`.
    Live(NodeId),
}

/// Bytes and stat of a node; none if it is absent.
pub type Found = Option<(Vec<u8>, zk::Stat)>;

/// What is known of one node of the directory; `Err` says what is unreadable.
#[derive(Clone, Debug, Default)]
struct Seen {
    entry: Option<Result<(Registration, i32), String>>,
    live: Option<Result<Live, String>>,
}

/// What was told last, so that nothing is told twice.
#[derive(Default)]
struct Told {
    state: Option<CoordEvent>,
    nodes: Option<CoordEvent>,
    config: Option<CoordEvent>,
}

/// One session, from its first request to its end.
pub struct Session {
    pub(super) client: zk::Client,
    pub(super) paths: Paths,
    pub(super) acls: zk::Acls<'static>,
    events: Events,
    states: zk::StateWatcher,
    changed: BTreeSet<Part>,
    /// Parts with a watch at the server. Each has a task in `watches`.
    armed: BTreeSet<Part>,
    watches: JoinSet<()>,
    fired: (mpsc::UnboundedSender<Part>, mpsc::UnboundedReceiver<Part>),
    directory: BTreeMap<NodeId, Seen>,
    told: Told,
}

impl Session {
    pub fn new(client: zk::Client, paths: Paths, acls: zk::Acls<'static>, events: Events) -> Session {
        Session {
            states: client.state_watcher(),
            client,
            paths,
            acls,
            events,
            changed: BTreeSet::new(),
            armed: BTreeSet::new(),
            watches: JoinSet::new(),
            fired: mpsc::unbounded_channel(),
            directory: BTreeMap::new(),
            told: Told::default(),
        }
    }

    pub fn id(&self) -> zk::SessionId {
        self.client.session_id()
    }

    /// As negotiated.
    pub fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    pub fn state(&self) -> zk::SessionState {
        self.client.state()
    }

    /// Waits for a change of state that was not seen yet.
    pub async fn state_changed(&mut self) {
        self.states.changed().await;
    }

    /// Makes the directories, and catches up with the leader of the ensemble before the first read.
    pub async fn prepare(&mut self) -> Result<(), CoordError> {
        self.sync().await?;
        if self.exists(&self.paths.nodes()).await? {
            return Ok(());
        }
        // Open to all: they hold nothing but clusters, and a directory that is not empty cannot be deleted.
        let shared = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        for path in self.paths.shared_directories() {
            self.make_directory(&path, &shared).await?;
        }
        let own = zk::CreateMode::Persistent.with_acls(self.acls);
        for path in self.paths.own_directories() {
            self.make_directory(&path, &own).await?;
        }
        Ok(())
    }

    async fn exists(&self, path: &str) -> Result<bool, CoordError> {
        let answer = self.op(path, self.client.check_stat(path)).await?;
        Ok(answer.is_ok_and(|stat| stat.is_some()))
    }

    /// Looks first: where we may not create, what exists is enough.
    async fn make_directory(&self, path: &str, options: &zk::CreateOptions<'_>) -> Result<(), CoordError> {
        if !self.exists(path).await? {
            let _another_was_faster = self.op(path, self.client.create(path, b"", options)).await?;
        }
        Ok(())
    }

    /// Ends the session: its client is dropped first, so that no watch is taken back one by one.
    pub fn close(self) {
        let Session { client, watches, .. } = self;
        drop(client);
        drop(watches);
    }

    pub(super) fn tell(&self, event: CoordEvent) {
        let _ = self.events.send(event);
    }

    /// Where the entry of a node stands that is about to create `/state`, and what it holds; nothing if somebody has created it. Read after a `sync`.
    pub async fn entry_of_founder(&self, id: &NodeId) -> Result<(String, Option<Vec<u8>>), CoordError> {
        self.sync().await?;
        let path = self.paths.node(id);
        if self.exists(&self.paths.state()).await? {
            return Ok((path, None));
        }
        let found = self.get(&path).await?;
        Ok((path, found.map(|(bytes, _)| bytes)))
    }

    // ---- operations: one at a time, each with a cap ----

    /// Waits for one operation. The outer error means that its outcome is unknown, the inner one that it did not happen.
    pub(super) async fn op<T>(
        &self,
        path: &str,
        operation: impl Future<Output = Result<T, zk::Error>>,
    ) -> Result<Result<T, Refusal>, CoordError> {
        let error = match timeout(OP_CAP, operation).await {
            Ok(Ok(value)) => return Ok(Ok(value)),
            Ok(Err(error)) => error,
            Err(_) => return Err(CoordError::Unknown(format!("{path}: no answer within {OP_CAP:?}"))),
        };
        refusal(&error).map_or_else(|| Err(classify(path, &error)), |refusal| Ok(Err(refusal)))
    }

    /// Waits for a transaction; a refusal names the index of the operation that was refused.
    pub(super) async fn multi(
        &self,
        path: &str,
        mut writer: zk::MultiWriter<'_>,
    ) -> Result<Result<(), (usize, Refusal)>, CoordError> {
        let (index, error) = match timeout(OP_CAP, writer.commit()).await {
            Ok(Ok(_)) => return Ok(Ok(())),
            Ok(Err(zk::MultiWriteError::OperationFailed { index, source })) => (index, source),
            Ok(Err(zk::MultiWriteError::RequestFailed { source })) => (0, source),
            Err(_) => return Err(CoordError::Unknown(format!("{path}: no answer within {OP_CAP:?}"))),
        };
        refusal(&error).map_or_else(|| Err(classify(path, &error)), |refusal| Ok(Err((index, refusal))))
    }

    /// After this, reads of this session see everything that was decided before.
    pub(super) async fn sync(&self) -> Result<(), CoordError> {
        // The path says nothing to the server, and need not exist.
        match self.op("/", self.client.sync("/")).await? {
            Ok(()) => Ok(()),
            Err(refusal) => Err(CoordError::Unknown(format!("sync: {refusal:?}"))),
        }
    }

    /// Reads a node without a watch.
    pub(super) async fn get(&self, path: &str) -> Result<Found, CoordError> {
        match self.op(path, self.client.get_data(path)).await? {
            Ok(found) => Ok(Some(found)),
            Err(Refusal::NoNode) => Ok(None),
            Err(refusal) => Err(CoordError::Unknown(format!("{path}: {refusal:?}"))),
        }
    }

    // ---- the watched parts ----

    /// Everything is to be read, and told, again.
    pub fn everything_changed(&mut self) {
        self.told = Told::default();
        self.changed.extend([Part::State, Part::Config, Part::Children]);
        for id in self.directory.keys() {
            self.changed.extend([Part::Entry(id.clone()), Part::Live(id.clone())]);
        }
    }

    /// The next part to read, if one has changed.
    pub fn changed_part(&self) -> Option<Part> {
        self.changed.first().cloned()
    }

    /// Notes which watches have fired.
    pub fn take_fired(&mut self) {
        while let Ok(part) = self.fired.1.try_recv() {
            self.note_fired(part);
        }
    }

    /// Waits until a watch fires, and notes it, or until the state changes: then everything counts as changed, since contact may
    /// have been lost and regained meanwhile. Returns whether it was that.
    pub async fn wait(&mut self) -> bool {
        tokio::select! {
            biased; // Contact decides whether anything can be read at all.
            _ = self.states.changed() => {
                self.everything_changed();
                true
            }
            // Never closed: we hold a sender.
            Some(part) = self.fired.1.recv() => {
                self.note_fired(part);
                false
            }
        }
    }

    fn note_fired(&mut self, part: Part) {
        self.armed.remove(&part);
        self.changed.insert(part);
    }

    /// Reads one part, arms its watch, and tells the node what it did not know.
    pub async fn refresh(&mut self, part: &Part) -> Result<(), CoordError> {
        match part {
            Part::State => {
                let found = self.read(part).await?;
                self.told.state = self.tell_once(decode_state(found), |told| &told.state);
            }
            Part::Config => {
                let found = self.read(part).await?;
                let event = found.map(|(bytes, _)| decode("/config", &bytes).map(CoordEvent::Config));
                if let Some(event) = event {
                    self.told.config = self.tell_once(event, |told| &told.config);
                }
            }
            Part::Children => self.refresh_children().await?,
            Part::Entry(id) => {
                let entry = self.read(part).await?.map(|found| decode_entry(id, &found));
                if let Some(seen) = self.directory.get_mut(id) {
                    seen.entry = entry;
                }
            }
            Part::Live(id) => {
                let live = self.read(part).await?.map(|(bytes, _)| decode_live(id, &bytes));
                if let Some(seen) = self.directory.get_mut(id) {
                    seen.live = live;
                }
            }
        }
        self.changed.remove(part);
        // The directory is told when all of it is known again.
        if *part >= Part::Children && self.changed.last().is_none_or(|last| *last < Part::Children) {
            let event = directory_event(&self.directory, false);
            self.told.nodes = self.tell_once(Ok(event), |told| &told.nodes);
        }
        Ok(())
    }

    fn tell_once(
        &self,
        event: Result<CoordEvent, String>,
        told: fn(&Told) -> &Option<CoordEvent>,
    ) -> Option<CoordEvent> {
        let event = event.unwrap_or_else(|reason| CoordEvent::Unreadable { reason });
        if told(&self.told).as_ref() != Some(&event) {
            self.tell(event.clone());
        }
        Some(event)
    }

    async fn refresh_children(&mut self) -> Result<(), CoordError> {
        let ids = self.children(!self.armed.contains(&Part::Children)).await?;
        self.directory.retain(|id, _| ids.contains(id));
        for id in ids {
            for part in [Part::Entry(id.clone()), Part::Live(id.clone())] {
                if !self.armed.contains(&part) {
                    self.changed.insert(part);
                }
            }
            self.directory.entry(id).or_default();
        }
        Ok(())
    }

    /// Lists the directory. A name that cannot be a node's is no node of ours.
    async fn children(&mut self, watch: bool) -> Result<BTreeSet<NodeId>, CoordError> {
        let path = self.paths.nodes();
        let listed = if watch {
            let client = self.client.clone();
            match self.op(&path, client.list_and_watch_children(&path)).await? {
                Ok((names, watcher)) => {
                    self.arm(Part::Children, watcher);
                    Ok(names)
                }
                Err(refusal) => Err(refusal),
            }
        } else {
            self.op(&path, self.client.list_children(&path)).await?
        };
        match listed {
            Ok(names) => Ok(names.iter().filter_map(|name| name.parse().ok()).collect()),
            // Somebody has emptied ZooKeeper: the directories are made anew with the next session.
            Err(refusal) => Err(CoordError::SessionOver(format!("{path}: {refusal:?}"))),
        }
    }

    /// Reads a part, and arms its watch unless it is.
    async fn read(&mut self, part: &Part) -> Result<Found, CoordError> {
        let path = match part {
            Part::State => self.paths.state(),
            Part::Config => self.paths.config(),
            Part::Children => self.paths.nodes(),
            Part::Entry(id) => self.paths.node(id),
            Part::Live(id) => self.paths.live(id),
        };
        if self.armed.contains(part) {
            return self.get(&path).await;
        }
        let client = self.client.clone();
        match self.op(&path, client.get_and_watch_data(&path)).await? {
            Ok((bytes, stat, watcher)) => {
                self.arm(part.clone(), watcher);
                return Ok(Some((bytes, stat)));
            }
            Err(Refusal::NoNode) => {}
            Err(refusal) => return Err(CoordError::Unknown(format!("{path}: {refusal:?}"))),
        }
        match self.op(&path, client.check_and_watch_stat(&path)).await? {
            Ok((stat, watcher)) => {
                self.arm(part.clone(), watcher);
                // It may have come between the two.
                if stat.is_some() { self.get(&path).await } else { Ok(None) }
            }
            Err(refusal) => Err(CoordError::Unknown(format!("{path}: {refusal:?}"))),
        }
    }

    fn arm(&mut self, part: Part, watcher: zk::OneshotWatcher) {
        while self.watches.try_join_next().is_some() {}
        self.armed.insert(part.clone());
        let fired = self.fired.0.clone();
        self.watches.spawn(async move {
            watcher.changed().await;
            let _ = fired.send(part);
        });
    }

    /// Reads the whole directory at once, in order of node id, without watches; nothing if something more urgent comes meanwhile.
    pub(super) async fn read_directory(
        &mut self,
        is_overtaken: &impl Fn() -> bool,
    ) -> Result<Option<CoordEvent>, CoordError> {
        let mut directory = BTreeMap::new();
        for id in self.children(false).await? {
            if is_overtaken() {
                return Ok(None);
            }
            let entry = self.get(&self.paths.node(&id)).await?.map(|found| decode_entry(&id, &found));
            let live = self.get(&self.paths.live(&id)).await?.map(|(bytes, _)| decode_live(&id, &bytes));
            directory.insert(id, Seen { entry, live });
        }
        let event = directory_event(&directory, true);
        // Newer than what the watches have told so far; parts without a watch are found when the watch on the children fires.
        self.directory = directory;
        Ok(Some(event))
    }
}

/// Reads the bytes of `/state`.
pub(super) fn decode_state(found: Found) -> Result<CoordEvent, String> {
    let read = match found {
        None => StateRead { state: None, incarnation: 0, confirmed: false },
        Some((bytes, stat)) => StateRead {
            state: Some((ClusterState::decode(&bytes)?, stat.version)),
            incarnation: stat.czxid,
            confirmed: false,
        },
    };
    Ok(CoordEvent::State(read))
}

/// Reads the bytes of a registration.
pub(super) fn decode_entry(id: &NodeId, found: &(Vec<u8>, zk::Stat)) -> Result<(Registration, i32), String> {
    let registration: Registration = decode(&format!("/nodes/{id}"), &found.0)?;
    if registration.id != *id {
        return Err(format!("/nodes/{id} is the registration of {}", registration.id));
    }
    Ok((registration, found.1.version))
}

/// Reads the bytes of a live entry.
pub(super) fn decode_live(id: &NodeId, bytes: &[u8]) -> Result<Live, String> {
    decode(&format!("/nodes/{id}/live"), bytes)
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("{path} is not readable: {e}"))
}

/// The directory as an event: what can be read, and what cannot.
fn directory_event(directory: &BTreeMap<NodeId, Seen>, confirmed: bool) -> CoordEvent {
    let (mut nodes, mut unreadable) = (Vec::new(), Vec::new());
    for Seen { entry, live } in directory.values() {
        let live = live.clone().transpose().unwrap_or_else(|reason| {
            unreadable.push(reason);
            None
        });
        match entry.clone().transpose() {
            Ok(Some((registration, version))) => {
                nodes.push(NodeRead { registration, version, live: live.map(|live| live.copy) });
            }
            Ok(None) => {}
            Err(reason) => unreadable.push(reason),
        }
    }
    CoordEvent::Nodes { nodes, unreadable, confirmed }
}

fn refusal(error: &zk::Error) -> Option<Refusal> {
    match error {
        zk::Error::NoNode => Some(Refusal::NoNode),
        zk::Error::NodeExists => Some(Refusal::Exists),
        zk::Error::BadVersion => Some(Refusal::BadVersion),
        _ => None,
    }
}

/// Whether an error ends the session. Everything else leaves the outcome open: also what we do not know, and what did not happen
/// but may the next time.
fn classify(path: &str, error: &zk::Error) -> CoordError {
    match error {
        zk::Error::SessionExpired
        | zk::Error::SessionMoved
        | zk::Error::AuthFailed
        | zk::Error::ClientClosed
        | zk::Error::NoHosts => CoordError::SessionOver(error.to_string()),
        zk::Error::NoAuth => CoordError::Refused(format!(
            "ZooKeeper refuses access to {path}: its ACL gives no right to this node's zookeeper.auth. Set zookeeper.auth as the other nodes \
             have it, or change the ACL of {path}"
        )),
        _ => CoordError::Unknown(format!("{path}: {error}")),
    }
}
