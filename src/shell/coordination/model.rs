//! The coordination service as a pure state machine: a versioned store with sessions and ephemerals, and no clock.
//!
//! It stands in for ZooKeeper in the simulator and in `datakeeper local`. Nothing here happens by itself: a *driver* decides when a
//! request takes effect, when (and whether) its answer arrives, and when a session expires.
//!
//! ```text
//!   Keeper ──submit──► Client.queue ──step──► Model.apply ──► answers       ─┐
//!                                               │                            ├─► the driver delays, drops, delivers
//!                                               └─ take_notices: watchers   ─┘
//! ```
//! * A request that takes effect after its caller died: keep a clone of it and the session, [`Model::apply`] it whenever. It has no
//!   effect once that session is over, as with ZooKeeper.
//! * An answer that is lost: [`Client::step`] with [`Fate::AnswerLost`]; the request stays in front of the queue and is issued again.
//!   That is what resolves a compare-and-set: the second time it is recognised by its change id.
//! * A reader that lags: [`Model::state_before`], [`Model::nodes_before`].
//!
//! Not here: bytes (contents are the decoded values, so nothing is ever unreadable), paths, access control, one-shot watches
//! (every session hears of every change; a driver that drops or merges notices gets their effect).

use std::collections::{BTreeMap, VecDeque};

use super::claim::{Claim, Live, judge, same_process};
use super::queue::Queue;
use crate::base::ids::{ChangeId, CopyId, NodeId, RunId};
use crate::cluster::config::ClusterConfig;
use crate::cluster::coordinator::{CasOutcome, CoordEvent, CoordRequest, StateRead};
use crate::cluster::registration::{NodeRead, Registration};
use crate::cluster::state::ClusterState;

/// Changes remembered for readers that lag; older ones cannot be read any more.
pub const HISTORY_MAX: usize = 64;

/// One session. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The whole service.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Grows by 1 with each change; gives the nodes their incarnations.
    zxid: i64,
    sessions_opened: u64,
    /// Open sessions, and for each the registration that waits for a name, if any.
    sessions: BTreeMap<SessionId, Option<Registration>>,
    /// Latest last; the front is what was there before the first change. Never empty after the first change.
    states: VecDeque<StateRead>,
    directories: VecDeque<Vec<NodeRead>>,
    config: Option<ClusterConfig>,
    nodes: BTreeMap<NodeId, Entry>,
    /// When each process's entry was written last, or the entry of another one that it was told of: what the process remembers, whatever
    /// becomes of the service.
    held: BTreeMap<RunId, i64>,
    notices: Vec<(SessionId, CoordEvent)>,
}

/// `/nodes/<id>` and what is below it.
#[derive(Clone, Debug)]
struct Entry {
    registration: Registration,
    version: i32,
    /// Of its last change.
    zxid: i64,
    live: Option<(Live, SessionId)>,
    /// What stood here before, oldest first, so that the entry only moves forward. Grows by one per process start and wipe.
    past: Vec<Registration>,
}

impl Model {
    /// A service that holds nothing.
    #[must_use]
    pub fn new() -> Model {
        Model::default()
    }

    /// Opens a session. It hears of every change from now on; [`Model::greeting`] is what is there already.
    pub fn open_session(&mut self) -> SessionId {
        self.sessions_opened += 1;
        let session = SessionId(self.sessions_opened);
        self.sessions.insert(session, None);
        session
    }

    /// Whether requests in that session still take effect.
    #[must_use]
    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// The sessions that are open.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// Ends a session, by expiry or by its owner's wish: its live entries vanish, and who waited for one of their names gets it.
    pub fn end_session(&mut self, session: SessionId) {
        if self.sessions.remove(&session).is_none() {
            return;
        }
        self.notices.retain(|(to, _)| *to != session);
        let mut changed = false;
        for entry in self.nodes.values_mut() {
            if entry.live.as_ref().is_some_and(|(_, owner)| *owner == session) {
                entry.live = None;
                changed = true;
            }
        }
        if changed {
            self.directory_changed();
            self.admit_waiting();
        }
    }

    /// A process ends in good order: the directory says so of its copy. Its session has still to end.
    pub fn record_end(&mut self, session: SessionId) {
        let owns = |e: &&mut Entry| e.live.as_ref().is_some_and(|(_, owner)| *owner == session);
        let Some(entry) = self.nodes.values_mut().find(owns) else { return };
        self.zxid += 1;
        (entry.zxid, entry.version) = (self.zxid, entry.version + 1);
        entry.registration.ended = true;
        self.directory_changed();
    }

    /// The service is set back to what it held when `backup` was cloned from it: all sessions of today are over, and those of then.
    pub fn restore(&mut self, backup: &Model) {
        let today = std::mem::take(self);
        *self = backup.clone();
        self.sessions.clear();
        self.notices.clear();
        self.nodes.values_mut().for_each(|entry| entry.live = None);
        (self.sessions_opened, self.held) = (today.sessions_opened, today.held);
    }

    /// What a session is told after it has opened, or has regained contact: unconfirmed reads of everything.
    #[must_use]
    pub fn greeting(&self) -> Vec<CoordEvent> {
        let mut events = vec![
            CoordEvent::SessionUp,
            CoordEvent::State(self.state()),
            CoordEvent::Nodes { nodes: self.nodes(), unreadable: Vec::new(), confirmed: false },
        ];
        events.extend(self.config.clone().map(CoordEvent::Config));
        events
    }

    /// Carries one request out, at once and whole, and returns its answers in order. In a session that is over nothing happens
    /// and nothing is answered.
    ///
    /// May be called again with a request whose answer was lost: a compare-and-set is then answered by what became of it.
    pub fn apply(&mut self, session: SessionId, request: &CoordRequest) -> Vec<CoordEvent> {
        if !self.is_open(session) {
            return Vec::new();
        }
        match request {
            CoordRequest::Register(registration) => self.register(session, registration),
            CoordRequest::Confirm => self.confirm(),
            CoordRequest::Bootstrap { want, config } => {
                if self.state().state.is_none() {
                    self.zxid += 1;
                    if self.config.is_none() {
                        self.set_config(config.clone());
                    }
                    self.write_state(Some((want.clone(), 0)), self.zxid);
                }
                self.outcome(want.change.id)
            }
            CoordRequest::SetConfig { id, from, to } => {
                if self.config.as_ref() == Some(from) && from != to {
                    self.set_config(to.clone());
                }
                let won = self.config.as_ref() == Some(to);
                let outcome = if won { CasOutcome::Won(0) } else { CasOutcome::Lost };
                vec![CoordEvent::Resolved { id: *id, outcome }]
            }
            CoordRequest::Cas { expect, want, nodes } => {
                let now = self.state();
                let version_holds = now.state.as_ref().is_some_and(|(_, version)| version == expect);
                let checks_hold = nodes.iter().all(|(id, v)| self.nodes.get(id).is_some_and(|e| e.version == *v));
                if version_holds && checks_hold {
                    self.zxid += 1;
                    self.write_state(Some((want.clone(), expect + 1)), now.incarnation);
                }
                self.outcome(want.change.id)
            }
        }
    }

    /// Takes what watchers have to be told since the last call, in order of the changes. The driver delivers it, or does not.
    pub fn take_notices(&mut self) -> Vec<(SessionId, CoordEvent)> {
        std::mem::take(&mut self.notices)
    }

    /// `/state` as it is, marked unconfirmed.
    #[must_use]
    pub fn state(&self) -> StateRead {
        self.state_before(0)
    }

    /// `/state` as a reader sees it who lags by `changes` changes of it (as far back as is remembered), marked unconfirmed.
    #[must_use]
    pub fn state_before(&self, changes: usize) -> StateRead {
        let absent = StateRead { state: None, incarnation: 0, confirmed: false };
        back(&self.states, changes).unwrap_or(absent)
    }

    /// The directory as it is.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeRead> {
        self.nodes_before(0)
    }

    /// The directory as a reader sees it who lags by `changes` changes of it (as far back as is remembered).
    #[must_use]
    pub fn nodes_before(&self, changes: usize) -> Vec<NodeRead> {
        back(&self.directories, changes).unwrap_or_default()
    }

    /// `/config`, if it is there.
    #[must_use]
    pub fn config(&self) -> Option<&ClusterConfig> {
        self.config.as_ref()
    }

    /// An operator writes `/config`.
    pub fn set_config(&mut self, config: ClusterConfig) {
        self.tell_all(&CoordEvent::Config(config.clone()));
        self.config = Some(config);
    }

    /// Somebody deletes `/state`, which must never happen; what is created next has another incarnation.
    pub fn delete_state(&mut self) {
        self.zxid += 1;
        self.write_state(None, 0);
    }

    /// Somebody puts back what `/state` was `changes` changes ago, as a restored backup does: same incarnation, older content.
    pub fn restore_state(&mut self, changes: usize) {
        let old = self.state_before(changes);
        self.write_state(old.state, old.incarnation);
    }

    fn write_state(&mut self, state: Option<(ClusterState, i32)>, incarnation: i64) {
        let read = StateRead { state, incarnation, confirmed: false };
        if self.states.is_empty() {
            self.states.push_back(self.state());
        }
        remember(&mut self.states, read.clone());
        self.tell_all(&CoordEvent::State(read));
    }

    /// How the change with that id ended, said by what is there now. Only to be asked when it can no longer happen.
    fn outcome(&self, id: ChangeId) -> Vec<CoordEvent> {
        let now = self.state();
        match &now.state {
            Some((state, version)) if state.change.id == id => {
                vec![CoordEvent::Resolved { id, outcome: CasOutcome::Won(*version) }]
            }
            _ => vec![CoordEvent::State(now), CoordEvent::Resolved { id, outcome: CasOutcome::Lost }],
        }
    }

    fn confirm(&self) -> Vec<CoordEvent> {
        vec![
            CoordEvent::State(StateRead { confirmed: true, ..self.state() }),
            CoordEvent::Nodes { nodes: self.nodes(), unreadable: Vec::new(), confirmed: true },
        ]
    }

    fn register(&mut self, session: SessionId, me: &Registration) -> Vec<CoordEvent> {
        let entry = self.nodes.get(&me.id);
        let held = me.run.and_then(|run| self.held.get(&run).copied());
        let live = entry.and_then(|e| e.live.as_ref()).map(|(live, owner)| (live, *owner == session));
        let claim = judge(me, held, entry.map(|e| (&e.registration, e.zxid)), live);
        let own = entry.filter(|e| same_process(&e.registration, me));
        let copy_is_older = own.is_some_and(|e| e.past.iter().any(|p| p.copy == me.copy));
        let waiting = self.sessions.get_mut(&session).expect("the session is open");
        *waiting = None;
        match claim {
            Claim::Wait { holder } => {
                *waiting = Some(me.clone());
                return vec![CoordEvent::NameAwaited { holder }];
            }
            Claim::Taken { holder } => {
                let later = entry.map_or(0, |e| e.zxid);
                self.held.extend(me.run.map(|run| (run, later)));
                let mut events = self.confirm();
                events.push(CoordEvent::NameTaken { holder });
                events.extend(self.register(session, me));
                return events;
            }
            // An answer of long ago that arrives late: the entry moves only forward.
            Claim::Write if copy_is_older || entry.is_some_and(|e| takes_data_back(&e.registration, me)) => {
                return vec![];
            }
            Claim::Write => self.write_entry(session, me),
            Claim::Settled => {}
        }
        vec![CoordEvent::Registered { copy: me.copy, empty: me.empty }]
    }

    fn write_entry(&mut self, session: SessionId, me: &Registration) {
        self.zxid += 1;
        let live = Some((Live::of(me), session));
        let me = me.in_place_of(self.nodes.get(&me.id).map(|entry| &entry.registration));
        self.held.extend(me.run.map(|run| (run, self.zxid)));
        match self.nodes.get_mut(&me.id) {
            Some(entry) => {
                entry.zxid = self.zxid;
                if entry.registration != me {
                    entry.version += 1;
                    let old = std::mem::replace(&mut entry.registration, me.clone());
                    if old.copy != me.copy {
                        entry.past.push(old);
                    }
                }
                entry.live = live;
            }
            None => {
                let id = me.id.clone();
                let entry = Entry { registration: me, version: 0, zxid: self.zxid, live, past: Vec::new() };
                self.nodes.insert(id, entry);
            }
        }
        self.directory_changed();
    }

    fn admit_waiting(&mut self) {
        let waiting: Vec<_> = self.sessions.iter().filter_map(|(s, r)| Some((*s, r.clone()?))).collect();
        for (session, registration) in waiting {
            for event in self.register(session, &registration) {
                // Who still has to wait has been told so.
                if matches!(event, CoordEvent::Registered { .. }) {
                    self.notices.push((session, event));
                }
            }
        }
    }

    fn directory_changed(&mut self) {
        let nodes: Vec<NodeRead> = self.nodes.values().map(Entry::read).collect();
        if self.directories.is_empty() {
            self.directories.push_back(Vec::new());
        }
        remember(&mut self.directories, nodes.clone());
        self.tell_all(&CoordEvent::Nodes { nodes, unreadable: Vec::new(), confirmed: false });
    }

    fn tell_all(&mut self, event: &CoordEvent) {
        self.notices.extend(self.sessions.keys().map(|session| (*session, event.clone())));
    }
}

impl Entry {
    fn read(&self) -> NodeRead {
        let live: Option<CopyId> = self.live.as_ref().map(|(live, _)| live.copy);
        NodeRead { registration: self.registration.clone(), version: self.version, live }
    }
}

fn takes_data_back(old: &Registration, new: &Registration) -> bool {
    old.copy == new.copy && !old.empty && new.empty
}

fn remember<T>(history: &mut VecDeque<T>, latest: T) {
    history.push_back(latest);
    if history.len() > HISTORY_MAX {
        history.pop_front();
    }
}

fn back<T: Clone>(history: &VecDeque<T>, changes: usize) -> Option<T> {
    let last = history.len().checked_sub(1)?;
    history.get(last.saturating_sub(changes)).cloned()
}

/// What becomes of a request that takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its answers reach the node; the next request is up.
    Answered,
    /// It takes effect, and the node never hears so: it is issued again.
    AnswerLost,
}

/// One process's side of the service: requests in the order of [`Queue`], each until it is answered, across sessions. Make a new one
/// for a new process.
#[derive(Clone, Debug, Default)]
pub struct Client {
    session: Option<SessionId>,
    in_contact: bool,
    queue: Queue,
    /// The latest registration that was carried out: repeated in every new session.
    registration: Option<Registration>,
}

impl Client {
    /// A process without a session.
    #[must_use]
    pub fn new() -> Client {
        Client::default()
    }

    /// Queues a request.
    pub fn submit(&mut self, request: CoordRequest) {
        self.queue.push(request);
    }

    /// The session, which may be over already.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Whether requests can be issued at this moment, as far as the client knows.
    #[must_use]
    pub fn in_contact(&self) -> bool {
        self.in_contact
    }

    /// The request that [`Client::step`] would issue.
    #[must_use]
    pub fn front(&self) -> Option<&CoordRequest> {
        self.queue.front()
    }

    /// Gains contact, at first or again: in the old session if that is still open, else in a new one. Returns the greeting, and the
    /// answer to the repeated registration.
    pub fn connect(&mut self, model: &mut Model) -> Vec<CoordEvent> {
        self.in_contact = true;
        let kept = self.session.filter(|s| model.is_open(*s));
        let session = kept.unwrap_or_else(|| model.open_session());
        self.session = Some(session);
        let mut events = model.greeting();
        // Also in a session that was kept: what was told while contact was lost is lost.
        if let Some(registration) = self.registration.clone() {
            events.extend(model.apply(session, &CoordRequest::Register(registration)));
        }
        events
    }

    /// Loses contact; the session goes on until the driver ends it. Returns the event for the node.
    pub fn disconnect(&mut self, reason: &str) -> CoordEvent {
        self.in_contact = false;
        CoordEvent::SessionDown { reason: reason.to_string() }
    }

    /// Issues the front request; returns what the node hears. Nothing happens without contact, without a request, or after the session
    /// has ended (the client then has to [`Client::connect`] again).
    pub fn step(&mut self, model: &mut Model, fate: Fate) -> Vec<CoordEvent> {
        let (Some(session), Some(request)) = (self.session, self.queue.front()) else { return Vec::new() };
        if !self.in_contact || !model.is_open(session) {
            return Vec::new();
        }
        let answers = model.apply(session, request);
        if fate == Fate::AnswerLost {
            return Vec::new();
        }
        if let Some(CoordRequest::Register(registration)) = self.queue.pop() {
            self.registration = Some(registration);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{DatasetId, Epoch};
    use crate::cluster::registration::Host;
    use crate::cluster::state::{Change, Member, MinInSync, Why};

    fn member(name: &str, copy: u128) -> Member {
        Member { id: name.parse().unwrap(), copy: CopyId(copy) }
    }

    fn change(id: u128) -> Change {
        Change { id: ChangeId(id), by: "n1".parse().unwrap(), why: Why::Elect, at_ms: 0 }
    }

    fn first(name: &str, id: u128) -> ClusterState {
        ClusterState::bootstrap("c", DatasetId(id), member(name, id), MinInSync::Auto, change(id))
    }

    fn bootstrap(name: &str, id: u128) -> CoordRequest {
        CoordRequest::Bootstrap { want: first(name, id), config: ClusterConfig::default().scaled(id as u64) }
    }

    fn elect(state: &ClusterState, expect: i32, id: u128) -> CoordRequest {
        CoordRequest::Cas { expect, want: state.elect(&state.leader.clone(), change(id)), nodes: Vec::new() }
    }

    fn registration(name: &str, port: u16, copy: u128, started_ms: u64) -> Registration {
        Registration {
            id: name.parse().unwrap(),
            copy: CopyId(copy),
            client_addr: format!("h:{port}"),
            repl_addr: format!("h:1{port}"),
            sentinel_addr: None,
            rank: 0,
            dataset: None,
            empty: true,
            version: "0".to_string(),
            speaks: 1,
            started_ms,
            run: Some(RunId(u128::from(port) << 64 | u128::from(started_ms))),
            host: Some(Host {
                boot_id: "b".to_string(),
                network: 1,
                machine_id: None,
                client_bound: format!("h:{port}"),
                repl_bound: format!("h:1{port}"),
            }),
            ended: false,
            gone: Vec::new(),
        }
    }

    fn register(port: u16, copy: u128, started_ms: u64) -> CoordRequest {
        CoordRequest::Register(registration("n1", port, copy, started_ms))
    }

    fn won(id: u128, version: i32) -> Vec<CoordEvent> {
        vec![CoordEvent::Resolved { id: ChangeId(id), outcome: CasOutcome::Won(version) }]
    }

    fn lost(model: &Model, id: u128) -> Vec<CoordEvent> {
        let resolved = CoordEvent::Resolved { id: ChangeId(id), outcome: CasOutcome::Lost };
        vec![CoordEvent::State(model.state()), resolved]
    }

    fn registered(copy: u128) -> Vec<CoordEvent> {
        vec![CoordEvent::Registered { copy: CopyId(copy), empty: true }]
    }

    fn waits(events: &[CoordEvent]) -> bool {
        matches!(events, [CoordEvent::NameAwaited { .. }])
    }

    fn is_taken(events: &[CoordEvent]) -> bool {
        matches!(events, [_, _, CoordEvent::NameTaken { .. }, CoordEvent::NameAwaited { .. }])
    }

    #[test]
    fn of_two_bootstraps_the_first_wins_and_brings_its_config() {
        let mut model = Model::new();
        let (a, b) = (model.open_session(), model.open_session());
        assert_eq!(model.apply(a, &bootstrap("n1", 1)), won(1, 0));
        assert_eq!(model.apply(b, &bootstrap("n2", 2)), lost(&model, 2));
        assert_eq!(model.config(), Some(&ClusterConfig::default()));
        assert_eq!(model.apply(a, &bootstrap("n1", 1)), won(1, 0), "asked again after a lost answer");
    }

    #[test]
    fn a_compare_and_set_on_an_old_version_is_lost_and_shows_what_is_there() {
        let mut model = Model::new();
        let (a, b) = (model.open_session(), model.open_session());
        model.apply(a, &bootstrap("n1", 1));
        let state = first("n1", 1);
        assert_eq!(model.apply(a, &elect(&state, 0, 2)), won(2, 1));
        assert_eq!(model.apply(b, &elect(&state, 0, 3)), lost(&model, 3));
        assert_eq!(model.state().state.map(|(s, v)| (s.epoch, v)), Some((Epoch(2), 1)));
    }

    #[test]
    fn an_answer_that_was_lost_is_found_again_in_the_next_session() {
        let mut model = Model::new();
        let mut client = Client::new();
        client.connect(&mut model);
        client.submit(bootstrap("n1", 1));
        client.submit(elect(&first("n1", 1), 0, 2));
        assert_eq!(client.step(&mut model, Fate::Answered), won(1, 0));
        assert_eq!(client.step(&mut model, Fate::AnswerLost), []);
        model.end_session(client.session().unwrap());
        client.disconnect("expired");
        assert_eq!(client.step(&mut model, Fate::Answered), []);
        client.connect(&mut model);
        assert_eq!(client.step(&mut model, Fate::Answered), won(2, 1));
        assert_eq!(client.front(), None);
        assert_eq!(model.state().state.unwrap().0.epoch, Epoch(2), "won once");
    }

    #[test]
    fn a_change_that_was_applied_and_then_overwritten_is_lost() {
        let mut model = Model::new();
        let session = model.open_session();
        model.apply(session, &bootstrap("n1", 1));
        let mine = elect(&first("n1", 1), 0, 2);
        model.apply(session, &mine);
        let theirs = elect(&model.state().state.unwrap().0, 1, 3);
        model.apply(session, &theirs);
        assert_eq!(model.apply(session, &mine), lost(&model, 2));
    }

    #[test]
    fn a_request_lands_after_its_caller_died_but_not_after_its_session() {
        let mut model = Model::new();
        let (dead, other) = (model.open_session(), model.open_session());
        model.apply(other, &bootstrap("n1", 1));
        let late = elect(&first("n1", 1), 0, 2);
        let mut ended = model.clone();
        ended.end_session(dead);
        assert_eq!(ended.apply(dead, &late), []);
        assert_eq!(ended.state().state.unwrap().1, 0);
        assert_eq!(model.apply(dead, &late), won(2, 1));
    }

    #[test]
    fn node_checks_are_part_of_the_compare_and_set() {
        let mut model = Model::new();
        let session = model.open_session();
        model.apply(session, &bootstrap("n1", 1));
        model.apply(session, &register(1, 7, 5));
        model.apply(session, &register(1, 8, 5));
        let with = |nodes: Vec<(NodeId, i32)>, id| match elect(&first("n1", 1), 0, id) {
            CoordRequest::Cas { expect, want, .. } => CoordRequest::Cas { expect, want, nodes },
            other => other,
        };
        let id: NodeId = "n1".parse().unwrap();
        assert_eq!(model.apply(session, &with(vec![(id.clone(), 0)], 2)), lost(&model, 2));
        assert_eq!(model.apply(session, &with(vec![("n9".parse().unwrap(), 0)], 3)), lost(&model, 3));
        assert_eq!(model.apply(session, &with(vec![(id, 1)], 4)), won(4, 1));
    }

    #[test]
    fn every_open_session_hears_of_every_change() {
        let mut model = Model::new();
        let (a, b, gone) = (model.open_session(), model.open_session(), model.open_session());
        model.end_session(gone);
        model.apply(a, &bootstrap("n1", 1));
        let notices = model.take_notices();
        let heard = |s| notices.iter().any(|n| *n == (s, CoordEvent::State(model.state())));
        assert_eq!((heard(a), heard(b), heard(gone)), (true, true, false));
        assert_eq!(model.take_notices(), []);
    }

    #[test]
    fn a_reader_that_lags_sees_an_older_state_and_confirm_the_latest() {
        let mut model = Model::new();
        let session = model.open_session();
        model.apply(session, &bootstrap("n1", 1));
        model.apply(session, &elect(&first("n1", 1), 0, 2));
        let epochs: Vec<_> = (0..4).map(|lag| model.state_before(lag).state.map(|(s, _)| s.epoch.0)).collect();
        assert_eq!(epochs, [Some(2), Some(1), None, None]);
        let confirmed = StateRead { confirmed: true, ..model.state() };
        assert_eq!(model.apply(session, &CoordRequest::Confirm)[0], CoordEvent::State(confirmed));
    }

    #[test]
    fn a_state_created_again_has_another_incarnation_and_a_restored_one_has_not() {
        let mut model = Model::new();
        let session = model.open_session();
        model.apply(session, &bootstrap("n1", 1));
        let before = model.state().incarnation;
        model.apply(session, &elect(&first("n1", 1), 0, 2));
        model.restore_state(1);
        assert_eq!((model.state().incarnation, model.state().state.unwrap().0.epoch), (before, Epoch(1)));
        model.delete_state();
        assert_eq!(model.apply(session, &elect(&first("n1", 1), 0, 3)), lost(&model, 3));
        model.apply(session, &bootstrap("n2", 2));
        assert!(model.state().incarnation > before);
    }

    #[test]
    fn registration_moves_forward_only() {
        let mut model = Model::new();
        let session = model.open_session();
        assert_eq!(model.apply(session, &register(1, 7, 5)), registered(7));
        assert_eq!(model.apply(session, &register(1, 7, 5)), registered(7), "repeated");
        assert_eq!(model.nodes()[0].version, 0);
        let full = Registration { empty: false, ..registration("n1", 1, 7, 5) };
        model.apply(session, &CoordRequest::Register(full));
        assert_eq!(model.apply(session, &register(1, 7, 5)), [], "data does not turn into no data");
        assert_eq!(model.apply(session, &register(1, 8, 5)), registered(8));
        assert_eq!(model.apply(session, &register(1, 7, 5)), [], "the copy of before");
        assert_eq!(model.nodes()[0].registration.copy, CopyId(8));
    }

    #[test]
    fn a_restart_on_the_same_addresses_takes_over_and_the_late_writes_of_the_dead_do_not() {
        let mut model = Model::new();
        let (dead, new) = (model.open_session(), model.open_session());
        model.apply(dead, &register(1, 7, 5));
        assert_eq!(model.apply(new, &register(1, 8, 6)), registered(8));
        assert!(is_taken(&model.apply(dead, &register(1, 7, 5))), "told once");
        assert!(waits(&model.apply(dead, &register(1, 9, 5))), "a copy it never registered before");
        model.end_session(dead);
        assert_eq!(model.nodes()[0].live, Some(CopyId(8)), "the live entry belongs to the new session");
    }

    #[test]
    fn a_newcomer_on_other_addresses_waits_for_the_living_and_gets_the_name_of_the_dead() {
        let mut model = Model::new();
        let (old, new) = (model.open_session(), model.open_session());
        model.apply(old, &register(1, 7, 5));
        assert!(waits(&model.apply(new, &register(2, 8, 6))));
        assert_eq!(model.apply(old, &register(1, 7, 5)), registered(7), "the living one keeps it");
        model.take_notices();
        model.end_session(old);
        assert!(model.take_notices().contains(&(new, registered(8).remove(0))));
        assert_eq!((model.nodes()[0].live, model.nodes()[0].version), (Some(CopyId(8)), 1));
        let back = model.open_session();
        assert!(is_taken(&model.apply(back, &register(1, 7, 5))), "the one that slept finds its name taken");
        model.end_session(new);
        assert!(
            model.take_notices().contains(&(back, registered(7).remove(0))),
            "and is written again once that one is gone"
        );
    }

    #[test]
    fn a_process_whose_predecessor_a_restored_backup_shows_is_registered_again_and_a_later_one_is_not_overlooked() {
        let mut model = Model::new();
        let (old, new) = (model.open_session(), model.open_session());
        model.apply(old, &register(1, 7, 5));
        let backup = model.clone();
        model.end_session(old);
        assert_eq!(model.apply(new, &register(2, 8, 6)), registered(8));
        model.apply(new, &register(2, 8, 6));
        model.restore(&backup);
        let again = model.open_session();
        assert_eq!(model.nodes()[0].registration.copy, CopyId(7), "as it was");
        assert_eq!(model.apply(again, &register(2, 8, 6)), registered(8), "no newcomer");
        model.end_session(again);
        let newcomer = model.open_session();
        model.apply(newcomer, &register(3, 9, 7));
        let back = model.open_session();
        assert!(is_taken(&model.apply(back, &register(2, 8, 6))));
    }

    #[test]
    fn an_end_in_good_order_stands_in_the_directory_until_the_next_process_of_that_name() {
        let mut model = Model::new();
        let session = model.open_session();
        model.apply(session, &register(1, 7, 5));
        model.record_end(session);
        model.end_session(session);
        assert!(model.nodes()[0].registration.ended && model.nodes()[0].version == 1);
        let next = model.open_session();
        model.apply(next, &register(2, 8, 6));
        let entry = &model.nodes()[0].registration;
        assert_eq!((entry.ended, &entry.gone[..]), (false, &[CopyId(7)][..]));
    }

    #[test]
    fn a_new_session_registers_again_unasked() {
        let mut model = Model::new();
        let mut client = Client::new();
        client.connect(&mut model);
        client.submit(register(1, 7, 5));
        client.step(&mut model, Fate::Answered);
        model.end_session(client.session().unwrap());
        assert_eq!(model.nodes()[0].live, None);
        let events = client.connect(&mut model);
        assert_eq!(events.last(), registered(7).last());
        assert_eq!((model.nodes()[0].live, model.nodes()[0].version), (Some(CopyId(7)), 0));
    }

    #[test]
    fn history_is_bounded() {
        let mut model = Model::new();
        let session = model.open_session();
        for copy in 0..2 * HISTORY_MAX as u128 {
            model.apply(session, &register(1, copy, 5));
        }
        assert_eq!(model.directories.len(), HISTORY_MAX);
    }
}
