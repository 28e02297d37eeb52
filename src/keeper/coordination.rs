//! What the coordination service says, and what this node asks of it: registration, bootstrap, elections, giving a copy up.
//!
//! Rules R2 (membership only by compare-and-set, one unresolved at a time, across roles), R4 (freeze before standing), R5 (only
//! a copy in the set stands), R6, R10 (new copy id before data is thrown away), R11 (candidates stand by rank, after a full
//! promise).

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ChangeId, CopyId, DatasetId, Epoch, NodeId, Offset, Position};

use crate::base::limits::{HOLD_MS, RANK_STEP_MS};
use crate::base::rules::Rule;
use crate::cluster::config::{ClusterConfig, TotalLoss};
use crate::cluster::coordinator::{CasOutcome, CoordEvent, CoordRequest, StateRead};
use crate::cluster::registration::{NodeRead, Registration};
use crate::cluster::role::Role;
use crate::cluster::state::{Change, ClusterState, Member, Why};
use crate::cluster::version::{NEWEST, too_old};
use crate::replication::log::Log;
use crate::replication::wire::Wish;

use super::{Effect, Effects, Keeper, Known, Notice, Touched, new_store};

/// A compare-and-set whose outcome is not known yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// What was asked for.
    pub want: ClusterState,
    /// Whether winning it makes this node the leader.
    pub leads: bool,
    /// When it was asked for.
    pub since: Boot,
}

/// What is found in place of the `/state` that a node knows, when somebody has tampered with it.
#[derive(Clone, Debug)]
pub(super) enum InPlace {
    /// Nothing.
    Nothing,
    /// One that was made anew, or an older one.
    Other {
        /// Its content.
        state: Box<ClusterState>,
        /// Its version.
        version: i32,
    },
}

/// This node serves nothing until an operator has looked.
#[derive(Clone, Debug)]
pub(super) struct Halted {
    /// For the operator.
    pub reason: String,
    /// Whether it holds a copy with which the operator can go on (`adopt`).
    pub adoptable: bool,
}

/// Confirmed reads of `/state` and the directory that this node has asked for. One is under way at most, whoever asks for it: each costs round
/// trips to the coordination service that an election may be waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ConfirmedRead {
    /// None is under way.
    #[default]
    Idle,
    /// One is.
    UnderWay,
    /// One is, and somebody has asked since it began: another one follows it.
    Again,
}

/// For so long a loss that is not proven is told as a warning: somebody may be about to come back.
const UNPROVEN_MS: u64 = 10_000;

impl Keeper {
    pub(super) fn on_coordinator(&mut self, now: Now, event: CoordEvent, fx: &mut Effects) {
        match event {
            CoordEvent::SessionUp => {
                (self.coordinator_up, self.coordinator_since) = (true, now.boot);
                self.ask_leader(Wish::Succeed, fx);
            }
            CoordEvent::SessionDown { reason } => {
                (self.coordinator_up, self.coordinator_since) = (false, now.boot);
                self.ask_leader(Wish::Decline, fx);
                fx.push(Notice::warn(format!("no contact to the coordination service: {reason}")));
            }
            CoordEvent::Hindered { reason } => {
                match &reason {
                    Some(reason) => {
                        fx.push(Notice::error(format!("the coordination service hinders this node: {reason}")))
                    }
                    None => fx.push(Notice::info("the coordination service does not hinder this node any more")),
                }
                self.hindrance = reason;
            }
            CoordEvent::Registered { copy, empty } => {
                self.registered = Some((copy, empty));
                self.name_holder = None;
                self.on_registered(fx);
                self.found_if_absent(now, fx);
            }
            CoordEvent::NameAwaited { holder } => {
                fx.push(Notice::warn(format!(
                    "another process is registered as {}, and its session has not ended yet ({holder}): this one registers when it has. \
                     Every node needs a node_name of its own",
                    self.me.id
                )));
                self.name_holder = Some(holder);
            }
            CoordEvent::NameTaken { holder } => self.lose_name(now, holder, fx),
            CoordEvent::State(read) => self.on_state(now, read, fx),
            CoordEvent::Unreadable { reason } => {
                self.confirmed(fx);
                if std::mem::take(&mut self.wipe_confirming) {
                    self.wipe_due = Some(now.boot.plus_ms(HOLD_MS));
                }
                fx.push(Notice::error(format!("coordination data is not usable: {reason}")));
            }
            CoordEvent::Nodes { nodes, unreadable, confirmed } => {
                for what in unreadable.iter().filter(|what| !self.unreadable.contains(what)) {
                    fx.push(Notice::error(format!(
                        "{what}; nothing that gives data up happens by itself before that is mended: delete that node if nobody needs it"
                    )));
                }
                (self.nodes, self.unreadable) = (nodes, unreadable);
                if confirmed {
                    self.confirmed(fx);
                }
                if self.known.is_none() && (confirmed || self.role == Role::Joining) {
                    self.found_if_absent(now, fx);
                }
                if confirmed {
                    self.stand_as_fallback(now, fx);
                    self.start_over_if_lost(now, fx);
                }
            }
            CoordEvent::Config(found) => self.on_config(now, found, fx),
            CoordEvent::Resolved { id, outcome } => {
                self.resolved = Some((id, matches!(outcome, CasOutcome::Won(_))));
                self.on_resolved(now, id, outcome, fx);
                self.resume_blocked(fx);
            }
        }
        self.tell_sentinel_clients(now, fx);
    }

    /// `/config` was read: it is taken up if it is valid.
    fn on_config(&mut self, now: Now, shared: ClusterConfig, fx: &mut Effects) {
        self.config_found = Some(shared.clone());
        let fault = shared.check().err().map(|reason| {
            format!(
                "/config is not valid: {reason}. The settings in force stay; `datakeeper admin set-config` with sound values for these keys \
                 mends it"
            )
        });
        if fault.is_some() {
            if self.config_fault != fault {
                fx.extend(fault.clone().map(Notice::error));
            }
            self.config_fault = fault;
            return;
        }
        self.config_fault = None;
        let differences = shared.differences(&self.config.shared).join(", ");
        if !differences.is_empty() {
            let text = format!(
                "this node is configured differently from its cluster, whose settings count: {differences}; \
                 `datakeeper admin set-config` changes them"
            );
            if self.told.is_news(now.boot, &text) {
                fx.push(Notice::warn(text));
            }
        }
        if shared != self.shared {
            fx.push(Notice::info(format!("cluster settings in force: {shared:?}")));
            self.pulse.lock().set_periods(shared.heartbeat_ms, shared.lease_ms, shared.promise_ms);
            self.shared = shared;
        }
    }

    /// Asks for a confirmed read of `/state` and the directory that begins after this.
    pub(super) fn confirm(&mut self, fx: &mut Effects) {
        if self.confirmed_read == ConfirmedRead::Idle {
            fx.push(Effect::coord(CoordRequest::Confirm));
            self.confirmed_read = ConfirmedRead::UnderWay;
        } else {
            self.confirmed_read = ConfirmedRead::Again;
        }
    }

    /// A confirmed read is back.
    fn confirmed(&mut self, fx: &mut Effects) {
        if std::mem::take(&mut self.confirmed_read) == ConfirmedRead::Again {
            self.confirm(fx);
        }
    }

    /// Asks for this node's directory entry to say what it holds now.
    pub(super) fn register(&mut self, fx: &mut Effects) {
        fx.push(Effect::coord(CoordRequest::Register(Registration {
            id: self.me.id.clone(),
            copy: self.me.copy,
            client_addr: self.config.client_addr.clone(),
            repl_addr: self.config.repl_addr.clone(),
            sentinel_addr: self.config.sentinel_addr.clone(),
            rank: self.config.rank,
            dataset: self.dataset,
            empty: self.dataset.is_none(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            speaks: NEWEST,
            started_ms: self.config.started.0,
            run: Some(self.config.run),
            host: self.config.host.clone(),
            ended: false,
            gone: Vec::new(),
        })));
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered == Some((self.me.copy, self.dataset.is_none()))
    }

    pub(super) fn change(&mut self, now: Now, why: Why) -> Change {
        Change { id: ChangeId(self.rng.next_u128()), by: self.me.id.clone(), why, at_ms: now.wall.0 }
    }

    /// Issues a compare-and-set on the state that is known. Rule R2: only one at a time.
    pub(super) fn cas(&mut self, now: Now, want: ClusterState, leads: bool, fx: &mut Effects) {
        self.cas_with(now, want, leads, Vec::new(), fx);
    }

    /// The same, lost also if one of these registrations has changed.
    fn cas_with(&mut self, now: Now, want: ClusterState, leads: bool, nodes: Vec<(NodeId, i32)>, fx: &mut Effects) {
        let expect = self.known.as_ref().expect("a change is made to a known state").version;
        self.cas_at(now, expect, want, leads, nodes, fx);
    }

    /// The same on a state that is not the known one.
    pub(super) fn cas_at(
        &mut self,
        now: Now,
        expect: i32,
        want: ClusterState,
        leads: bool,
        nodes: Vec<(NodeId, i32)>,
        fx: &mut Effects,
    ) {
        assert!(self.pending.is_none(), "one unresolved compare-and-set per process");
        self.pending = Some(Pending { want: want.clone(), leads, since: now.boot });
        fx.push(Effect::coord(CoordRequest::Cas { expect, want, nodes }));
    }

    /// Bootstrap: `/state` is absent, this node holds nothing, and no live node says that it does.
    fn found_if_absent(&mut self, now: Now, fx: &mut Effects) {
        let someone_holds = self.nodes.iter().any(|n| n.live.is_some() && !n.registration.empty);
        let absent = self.known.is_none() && self.role == Role::Joining && self.incarnation == 0;
        // This node's own entry shows that the directory was read after it was written: nobody who was there before is missed.
        let absent = absent && self.nodes.iter().any(|n| n.registration.id == self.me.id);
        if !absent || self.pending.is_some() || self.dataset.is_some() || !self.is_registered() || self.stopping {
            return;
        }
        if !self.config.bootstrap || someone_holds || !self.unreadable.is_empty() {
            let why = match &self.unreadable[..] {
                _ if someone_holds => "a live node holds data",
                [] => "bootstrap: never",
                [first, ..] => first,
            };
            let text = format!("/state is absent and is not created by this node: {why}");
            if self.told.is_news(now.boot, &text) {
                fx.push(Notice::warn(text));
            }
            return;
        }
        let dataset = DatasetId(self.rng.next_u128());
        let change = self.change(now, Why::Bootstrap);
        let want = ClusterState::bootstrap(
            &self.config.cluster,
            dataset,
            self.me.clone(),
            self.config.shared.min_in_sync,
            change,
        );
        self.freeze(fx);
        self.pending = Some(Pending { want: want.clone(), leads: true, since: now.boot });
        fx.push(Effect::coord(CoordRequest::Bootstrap { want, config: self.config.shared.clone() }));
    }

    /// Whether this node, which holds nothing and finds no leader, should look whether the data are gone for good.
    fn may_prove_loss(&self) -> bool {
        self.role == Role::Joining
            && self.dataset.is_none()
            && self.pending.is_none()
            && self.wipe_due.is_none()
            && self.halted.is_none()
            && self.unreadable.is_empty()
            && !self.stopping
            && self.known.is_some()
            && self.is_registered()
            && self.following.as_ref().is_none_or(|f| !f.welcomed)
    }

    /// Whether this copy, which is complete and outside the set, finds no leader and may take over once the set is proven gone.
    fn may_fall_back(&self, now: Now) -> bool {
        self.leading.is_none()
            && self.pending.is_none()
            && self.wipe_due.is_none()
            && self.halted.is_none()
            && self.unreadable.is_empty()
            && !self.stopping
            && !self.is_half_received()
            && self.is_registered()
            && self
                .known
                .as_ref()
                .is_some_and(|k| self.dataset == Some(k.state.dataset) && k.state.fallback.contains(&self.me))
            && self.following.as_ref().is_none_or(|f| !f.welcomed)
            && now.boot >= self.pulse.lock().promised().max(self.stand_after)
    }

    /// Section 8: every copy in the set is registered under another id by now (the directory was read after `/state`, both after a
    /// sync): a fallback copy elects itself. The compare-and-set names the versions that the proof rests on.
    fn stand_as_fallback(&mut self, now: Now, fx: &mut Effects) {
        if !self.may_fall_back(now) {
            return;
        }
        let known = self.known.as_ref().expect("may_fall_back looked");
        if known.state.in_sync.iter().any(|m| !self.is_gone(&m.id, m.copy)) {
            return;
        }
        let state = known.state.clone();
        let proof = |n: &&NodeRead| state.in_sync.iter().any(|m| m.id == n.registration.id);
        let nodes = self.nodes.iter().filter(proof).map(|n| (n.registration.id.clone(), n.version)).collect();
        let change = self.change(now, Why::Elect);
        let want = state.elect_fallback(&self.me, change);
        fx.push(Notice::warn(format!(
            "every copy in the in-sync set is gone: standing for epoch {} as a fallback copy at {}",
            want.epoch,
            self.log.last()
        )));
        self.freeze(fx);
        self.cas_with(now, want, true, nodes, fx);
    }

    /// Whether that copy is gone, by the measure of `total_loss`, as the directory shows it.
    fn is_gone(&self, id: &NodeId, copy: CopyId) -> bool {
        let Some(r) = self.nodes.iter().map(|n| &n.registration).find(|r| r.id == *id) else { return false };
        match self.shared.total_loss {
            _ if r.copy == copy => r.ended,
            TotalLoss::Proven if !self.config.rules.leaves_out(Rule::NameIsNoProof) => r.gone.contains(&copy),
            TotalLoss::Proven | TotalLoss::StartEmpty | TotalLoss::Halt | TotalLoss::Other => true,
        }
    }

    /// Whether this node finds no leader and may not stand itself.
    fn finds_no_leader(&self) -> bool {
        self.leading.is_none()
            && self.halted.is_none()
            && self.pending.is_none()
            && !self.stopping
            && !self.leaving
            && self.known.as_ref().is_some_and(|k| !k.state.names(&self.me))
            && self.following.as_ref().is_none_or(|f| !f.welcomed && !f.refuses)
    }

    /// While no leader is found, once a second: asks for confirmed reads, and tells operators what is waited for.
    pub(super) fn look_for_loss(&mut self, now: Now, fx: &mut Effects) {
        if !self.finds_no_leader() {
            self.leaderless = None;
            return;
        }
        let since = *self.leaderless.get_or_insert(now.boot);
        let due = self.loss_check_at.max(since.plus_ms(HOLD_MS));
        if now.boot < due {
            return;
        }
        if now.boot >= due.plus_ms(HOLD_MS) {
            // This node itself stood still, and nobody knows who was there meanwhile.
            self.leaderless = Some(now.boot);
            return;
        }
        self.loss_check_at = now.boot.plus_ms(HOLD_MS);
        if self.may_prove_loss() || self.may_fall_back(now) {
            self.confirm(fx);
        }
        if let Some(text) = self.unproven_loss()
            && self.told.is_due(now.boot, &text, UNPROVEN_MS)
        {
            let lasting = now.boot >= since.plus_ms(UNPROVEN_MS);
            fx.push(if lasting { Notice::error(text) } else { Notice::warn(text) });
        }
    }

    /// The leader that the directory shows live although it does not answer here. Perhaps nothing is lost, so no command that gives
    /// data up is named.
    fn unreached_leader(&self) -> Option<String> {
        let leader = &self.known.as_ref()?.state.leader;
        let lives = |n: &&NodeRead| n.registration.id == leader.id && n.live == Some(leader.copy);
        let at = &self.nodes.iter().find(lives)?.registration.repl_addr;
        Some(format!("leader {} is live, as far as the directory knows, and does not answer here at {at}", leader.id))
    }

    /// Who is waited for, and what an operator can do; `None` if nobody is.
    fn unproven_loss(&self) -> Option<String> {
        if let Some(text) = self.unreached_leader() {
            return Some(text);
        }
        let mut missing = self.copies_waited_for();
        if missing.is_empty() {
            return None;
        }
        if self.dataset.is_some() {
            missing.retain(|id| *id != self.me.id.as_str());
        }
        if let Some(own) = missing.iter_mut().find(|id| **id == self.me.id.as_str()) {
            *own = format!("an earlier process of {}", self.me.id);
        }
        let holds = match self.dataset {
            None => "is empty".to_string(),
            Some(_) => format!("holds data up to {} but is not in the in-sync set", self.log.last()),
        };
        let waits = match &missing[..] {
            [] => "nobody else is left who could hold more".to_string(),
            some => format!("waiting for {}, whose memory may hold the data", some.join(", ")),
        };
        let way_out = self.way_out(&self.known.as_ref()?.state);
        Some(format!("no leader, and this node {holds}: {waits}. {way_out}"))
    }

    /// Nodes whose copy counts and is not gone, as far as the directory says; and those registered with
    /// data of this dataset, such as a learner that had nearly caught up. Whether they are live says nothing: a session may just
    /// have expired.
    fn copies_waited_for(&self) -> Vec<String> {
        let Some(known) = &self.known else { return Vec::new() };
        let counted = known.state.counted_copies().filter(|(id, copy)| !self.is_gone(id, *copy)).map(|(id, _)| id);
        let holds = |r: &&Registration| !r.empty && !r.ended && r.dataset == Some(known.state.dataset);
        let holding = self.nodes.iter().map(|n| &n.registration).filter(holds).map(|r| &r.id);
        let mut names: Vec<String> = counted.chain(holding).map(NodeId::to_string).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What an empty node without a leader waits for, for operators; `None` if it does not.
    pub(super) fn wait_for_loss(&self) -> Option<String> {
        let missing = self.copies_waited_for();
        (self.may_prove_loss() && !missing.is_empty()).then(|| {
            let waiting = || format!("no leader: waiting for {}, whose memory may hold the data", missing.join(", "));
            self.unreached_leader().unwrap_or_else(waiting)
        })
    }

    /// What an operator can do when nobody leads: the exact commands.
    fn way_out(&self, state: &ClusterState) -> String {
        if let [first, ..] = &self.unreadable[..] {
            return format!("What to do can be said once the directory is readable: {first}");
        }
        let cluster = &self.config.cluster;
        let command = |what: String, at: &str| format!("`datakeeper admin {what} --connect {at} --confirm {cluster}`");
        let held = |n: &&NodeRead| {
            !n.registration.empty && !n.registration.ended && n.registration.dataset == Some(state.dataset)
        };
        let holders = self.nodes.iter().filter(held).map(|n| &n.registration);
        let adopt = |r: &Registration| {
            let own = if r.id == self.me.id { format!(" (up to {})", self.log.last()) } else { String::new() };
            command(format!("adopt {}", r.id), &r.client_addr) + &own
        };
        let adopt: Vec<String> = holders.map(adopt).collect();
        let reset = command("reset".to_string(), &self.config.client_addr);
        match &adopt[..] {
            [] => format!("If that memory is gone for good: {reset} starts over empty"),
            some => format!("To go on with what a node holds: {}; to start over empty: {reset}", some.join(" or ")),
        }
    }

    /// Total loss is proven when every copy that counts is gone by the measure of `total_loss`, and no live node holds
    /// data (the directory was read after `/state`, both after a sync). The compare-and-set names every version that the
    /// proof rests on. Until it is resolved this node takes nothing in (R4).
    fn start_over_if_lost(&mut self, now: Now, fx: &mut Effects) {
        if !self.may_prove_loss() {
            return;
        }
        let known = self.known.as_ref().expect("may_prove_loss looked");
        let all_gone = self.copies_waited_for().is_empty();
        let mut live: Vec<_> = self.nodes.iter().filter(|n| n.live.is_some()).map(|n| &n.registration).collect();
        if !all_gone || live.iter().any(|r| !r.empty) {
            return;
        }
        live.sort_by_key(|r| (r.rank, &r.id));
        if live.first().is_none_or(|r| r.id != self.me.id) {
            return;
        }
        let holders: Vec<&str> = known.state.holders.keys().map(NodeId::as_str).collect();
        let loss = format!("every copy of dataset {} is gone ({} ended)", known.state.dataset, holders.join(", "));
        if matches!(self.shared.total_loss, TotalLoss::Halt | TotalLoss::Other) {
            self.loss_check_at = now.boot.plus_ms(10 * HOLD_MS);
            let way_out = self.way_out(&known.state);
            fx.push(Notice::error(format!("{loss}; total_loss: halt waits for an operator. {way_out}")));
            return;
        }
        fx.push(Notice::error(format!("{loss}: ALL DATA ARE LOST, starting over empty")));
        let state = known.state.clone();
        let nodes = self.nodes.iter().map(|n| (n.registration.id.clone(), n.version)).collect();
        let dataset = DatasetId(self.rng.next_u128());
        let change = self.change(now, Why::Reset);
        let want = state.reset(&self.me, dataset, change);
        self.freeze(fx);
        self.cas_with(now, want, true, nodes, fx);
    }

    fn on_state(&mut self, now: Now, read: StateRead, fx: &mut Effects) {
        if self.halted.is_some() && !self.may_go_on(now, &read, fx) {
            return;
        }
        let Some((state, version)) = read.state else {
            if self.known.is_some() {
                // The node was deleted under a running cluster: nothing is built on that.
                if read.confirmed {
                    self.halt_over(now, "/state is gone from the coordination service", InPlace::Nothing, fx);
                } else {
                    self.confirm(fx);
                }
            } else if read.confirmed && self.role == Role::Starting {
                self.role = Role::Joining;
                self.found_if_absent(now, fx);
            }
            return;
        };
        if state.cluster != self.config.cluster {
            self.halt(
                now,
                &format!("/state belongs to cluster {:?}, not {:?}", state.cluster, self.config.cluster),
                false,
                fx,
            );
            return;
        }
        if state.cluster_version > NEWEST {
            let adoptable = self.holds_data();
            self.halt(now, &too_old(self.me.id.clone().as_str(), state.cluster_version, NEWEST), adoptable, fx);
            return;
        }
        if self.incarnation != 0 && read.incarnation != self.incarnation {
            if read.confirmed {
                let text = format!(
                    "/state was deleted, and created again by {} (epoch {}, {:?})",
                    state.change.by, state.epoch, state.change.why
                );
                self.halt_over(now, &text, InPlace::Other { state: Box::new(state), version }, fx);
            } else {
                self.confirm(fx);
            }
            return;
        }
        let known = self.known.as_ref();
        let older = known.is_some_and(|k| version < k.version);
        let other = known.is_some_and(|k| version == k.version && state.change.id != k.state.change.id);
        if (state.epoch < self.highest || older || other) && !self.config.rules.leaves_out(Rule::Fencing) {
            // One such read may have been overtaken by our own change; a second one, asked for after it, was not.
            self.rollbacks_seen += u32::from(read.confirmed);
            if self.rollbacks_seen > 1 {
                let text = format!(
                    "/state went back to version {version}, epoch {} by {}, from epoch {}",
                    state.epoch, state.change.by, self.highest
                );
                self.halt_over(now, &text, InPlace::Other { state: Box::new(state), version }, fx);
            } else {
                // An unconfirmed one may just be late: a confirmed one tells.
                self.confirm(fx);
            }
            return;
        }
        if self.is_taken_for_lost(&state) {
            let text = format!(
                "{} has started over empty, in epoch {}, while this node held data that count",
                state.change.by, state.epoch
            );
            self.halt_over(now, &text, InPlace::Other { state: Box::new(state), version }, fx);
            return;
        }
        self.rollbacks_seen = 0;
        self.in_place = None;
        self.incarnation = read.incarnation;
        let newer = self.known.as_ref().is_none_or(|k| version > k.version);
        if newer || self.config.rules.leaves_out(Rule::Fencing) {
            self.take_state(now, state, version, fx);
        }
        if read.confirmed {
            self.wipe_if_unnamed(now, fx);
        }
    }

    /// Whether somebody has started over empty although this copy counts, and no operator had decided so: its death was taken for proven.
    fn is_taken_for_lost(&self, state: &ClusterState) -> bool {
        let counts = |k: &Known| {
            self.dataset == Some(k.state.dataset)
                && state.resets > k.state.resets
                && k.state.counted_copies().any(|(_, copy)| copy == self.me.copy)
        };
        self.holds_data() && state.decided <= self.highest && self.known.as_ref().is_some_and(counts)
    }

    /// A state that is newer than the one known: everything that depends on it is brought in line.
    fn take_state(&mut self, now: Now, state: ClusterState, version: i32, fx: &mut Effects) {
        let fenced = !self.config.rules.leaves_out(Rule::Fencing);
        self.highest = if fenced { self.highest.max(state.epoch) } else { state.epoch };
        let change = state.change.clone();
        self.known = Some(Known { state, version });
        if self.role == Role::Starting {
            self.role = Role::Joining;
        }
        if self.pending.as_ref().is_some_and(|p| p.want.change.id == change.id) {
            self.resolved = Some((change.id, true));
            self.on_resolved(now, change.id, CasOutcome::Won(version), fx);
            self.resume_blocked(fx);
            return;
        }
        let state = &self.known.as_ref().expect("just set").state;
        if let Some(leading) = &self.leading {
            if state.epoch > leading.epoch || state.leader != self.me || change.by != self.me.id {
                self.step_down(now, &format!("/state has epoch {} led by {}", state.epoch, state.leader.id), fx);
            }
            return;
        }
        // A candidate stays frozen until its own compare-and-set is resolved.
        if self.pending.as_ref().is_none_or(|p| !p.leads) {
            self.follow_known(now, fx);
        }
    }

    fn on_resolved(&mut self, now: Now, id: ChangeId, outcome: CasOutcome, fx: &mut Effects) {
        let Some(mut pending) = self.pending.take_if(|p| p.want.change.id == id) else { return };
        pending.leads |=
            pending.want.leader == self.me && self.leading.is_none() && self.config.rules.leaves_out(Rule::ResolveCas);
        match outcome {
            CasOutcome::Won(version) => {
                if pending.want.change.why == Why::Adopt && self.halted.take().is_some() {
                    // What this node knew is no more: the operator put what it holds in its place.
                    (self.known, self.in_place, self.incarnation, self.rollbacks_seen) = (None, None, 0, 0);
                }
                let superseded =
                    self.known.as_ref().is_some_and(|k| k.version > version) || self.highest > pending.want.epoch;
                if !superseded {
                    self.highest = pending.want.epoch;
                    self.known = Some(Known { state: pending.want.clone(), version });
                }
                if pending.leads && !superseded {
                    self.lead(now, pending.want.epoch, fx);
                } else if pending.leads || self.leading.is_none() {
                    // A winner that learns of its win after a higher epoch does not lead.
                    self.follow_known(now, fx);
                } else {
                    self.on_members_changed(now, fx);
                }
            }
            CasOutcome::Lost => {
                fx.push(Notice::info(format!("lost the change {} of epoch {}", id, pending.want.epoch)));
                // Whatever won, or whether there is still anything to win: the next attempt waits for a confirmed read of it.
                self.stand_after = now.boot.plus_ms(self.shared.promise_ms);
                if self.known.is_some() {
                    self.confirm(fx);
                }
                if self.leading.is_some() {
                    self.step_down(now, "a foreign change won over ours", fx);
                } else if self.known.is_some() {
                    self.follow_known(now, fx);
                } else {
                    self.confirm(fx);
                }
            }
        }
    }

    /// When this node will stand, if nothing is heard before; `None` if it may not.
    pub(super) fn stand_at(&self) -> Option<Boot> {
        let known = self.known.as_ref()?;
        let may = self.leading.is_none()
            && self.pending.is_none()
            && self.wipe_due.is_none()
            && self.halted.is_none()
            && !self.stopping
            && self.registered.is_some_and(|(copy, _)| copy == self.me.copy)
            && (known.state.names(&self.me) || self.config.rules.leaves_out(Rule::OnlyInSyncStands));
        if !may {
            return None;
        }
        let leader = &known.state.leader;
        let mut rank = known.state.in_sync.iter().filter(|m| *m != leader).position(|m| *m == self.me).unwrap_or(0);
        if self.leaving {
            // Its copy may be the last one: others first, then it.
            rank += known.state.in_sync.len();
        }
        Some(self.pulse.lock().promised().max(self.stand_after).plus_ms(rank as u64 * RANK_STEP_MS))
    }

    /// The promise to the leader is over and nothing was heard: freeze, then ask for the leadership.
    pub(super) fn stand_if_due(&mut self, now: Now, fx: &mut Effects) {
        if self.stand_at().is_none_or(|at| now.boot < at) {
            return;
        }
        if !self.config.rules.leaves_out(Rule::FreezeBeforeCas) {
            self.freeze(fx);
        }
        if self.config.rules.leaves_out(Rule::ResolveCas) {
            self.stand_after = now.boot.plus_ms(RANK_STEP_MS);
        }
        let change = self.change(now, Why::Elect);
        let want = self.known.as_ref().expect("stand_at looked").state.elect(&self.me, change);
        fx.push(Notice::info(format!(
            "no word from the leader: standing for epoch {} at {}",
            want.epoch,
            self.log.last()
        )));
        self.cas(now, want, true, fx);
    }

    /// A candidate never gives up, except in a test build that leaves that rule out.
    pub(super) fn give_up(&mut self, now: Now, fx: &mut Effects) {
        let given_up = self.config.rules.leaves_out(Rule::ResolveCas) && now.boot >= self.stand_after;
        if let Some(pending) = self.pending.as_mut().filter(|p| p.leads && given_up) {
            pending.leads = false;
            fx.push(Notice::info("gave the change up without knowing how it ended"));
            self.follow_known(now, fx);
        }
    }

    /// R4: from here on nothing is acknowledged and nothing promised, until the outcome is known.
    pub(super) fn freeze(&mut self, fx: &mut Effects) {
        self.pulse.lock().freeze();
        self.drop_following(fx);
        self.role = Role::Candidate;
    }

    /// Stops leading: waiting replies are dropped (outcome unknown), clients are disconnected, the copy is kept for now.
    pub(super) fn step_down(&mut self, now: Now, reason: &str, fx: &mut Effects) {
        let Some(leading) = self.leading.take() else { return };
        fx.push(Notice::warn(format!("stepping down from epoch {}: {reason}", leading.epoch)));
        self.executed_floor = self.executed_floor.max(self.applied);
        self.pulse.lock().rest();
        self.holds.clear();
        self.pubsub.forget_held();
        self.invalidate_all(now, fx);
        self.store.forget_watches();
        // Whoever resigned with something unacknowledged owes its clients what any deposed leader does.
        let resigned = leading.handover.as_ref().is_some_and(|h| h.sent.is_some() && h.whole);
        if !resigned {
            self.waiting = super::Waits::default();
            fx.push(Effect::CloseClients);
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.hang_up(link, fx);
        }
        self.role = Role::SteppingDown;
        if resigned {
            self.handed_over = Some(leading.epoch);
            self.redirect_all(now, fx);
        }
        // What is being changed in `/state` has to be resolved before anything else is asked for; following may begin.
        self.follow_known(now, fx);
    }

    /// This copy cannot be continued. It is given up once nobody counts on it (R10).
    pub(super) fn plan_wipe(&mut self, now: Now, reason: &str, fx: &mut Effects) {
        if self.wipe_due.is_none() {
            fx.push(Notice::warn(format!(
                "copy {} at {} has to resync fully: {reason}",
                self.me.copy,
                self.log.last()
            )));
            self.wipe_due = Some(now.boot);
            self.drop_following(fx);
        }
    }

    /// When the read is to be asked for that a wipe rests on: one that begins after it was planned.
    pub(super) fn wipe_confirms_at(&self) -> Option<Boot> {
        let idle = !self.wipe_confirming && self.pending.is_none() && self.confirmed_read == ConfirmedRead::Idle;
        self.wipe_due.filter(|_| idle && self.halted.is_none())
    }

    /// Asks for a confirmed read of `/state` when one is due.
    pub(super) fn keep_wiping(&mut self, now: Now, fx: &mut Effects) {
        if self.wipe_confirms_at().is_some_and(|at| now.boot >= at) {
            self.wipe_confirming = true;
            self.confirm(fx);
        }
    }

    fn wipe_if_unnamed(&mut self, now: Now, fx: &mut Effects) {
        if self.wipe_due.is_none() || !self.wipe_confirming {
            return;
        }
        self.wipe_confirming = false;
        let state = &self.known.as_ref().expect("a read state is known").state;
        if state.fallback.contains(&self.me) {
            // A complete copy: only a leader that hears its hello again takes it out, or finds that it can be continued after all.
            self.wipe_due = None;
            self.drop_following(fx);
            return self.follow_known(now, fx);
        }
        if state.names(&self.me) || self.pending.is_some() {
            // Its leader takes it out because it is silent; until then it keeps what it holds.
            self.wipe_due = Some(now.boot.plus_ms(HOLD_MS / 10));
            return;
        }
        self.wipe_due = None;
        self.wipe(now, fx);
    }

    /// Throws the data away under a new copy id, and joins as a learner.
    fn wipe(&mut self, now: Now, fx: &mut Effects) {
        let old = std::mem::replace(&mut self.me.copy, super::new_copy(&self.config, &mut self.rng));
        fx.push(Notice::warn(format!("gave copy {old} up, now {}", self.me.copy)));
        self.store = new_store(&self.config, self.config.hash_key);
        self.invalidate_all(now, fx);
        self.log = Log::new(Position::default());
        self.applied = Offset::ZERO;
        self.acked = Offset::ZERO;
        self.executed_floor = Offset::ZERO;
        self.touched = Touched::new();
        self.intake = None;
        self.dataset = None;
        self.registered = None;
        self.pulse.lock().set_copy(self.me.copy);
        self.role = Role::Joining;
        self.register(fx);
        // What the old copy followed may have been taken up after the wipe was planned, and waits for its end: begin anew.
        self.drop_following(fx);
        self.follow_known(now, fx);
    }

    /// Whether this process has a copy that somebody could go on with.
    fn holds_data(&self) -> bool {
        self.dataset.is_some() && !self.is_half_received()
    }

    /// Another process has registered under this node's name. Whoever holds nothing goes; data stay until an operator has looked.
    fn lose_name(&mut self, now: Now, holder: String, fx: &mut Effects) {
        let reason = format!(
            "node name {} is taken in cluster {} by another process ({holder}); every node needs a node_name of its own",
            self.me.id, self.config.cluster
        );
        if !self.holds_data() || self.config.rules.leaves_out(Rule::DataStay) {
            fx.push(Effect::Exit { reason });
            return;
        }
        (self.registered, self.name_holder) = (None, Some(holder));
        self.halt_with_data(now, &reason, fx);
    }

    /// Stops because somebody has tampered with `/state`.
    fn halt_over(&mut self, now: Now, reason: &str, found: InPlace, fx: &mut Effects) {
        self.in_place = Some(found);
        self.halt_with_data(now, reason, fx);
    }

    /// Stops for an operator, and says how to go on with what this node holds, if it holds anything.
    fn halt_with_data(&mut self, now: Now, reason: &str, fx: &mut Effects) {
        let holds = self.known.as_ref().is_some_and(|k| self.dataset == Some(k.state.dataset) && self.intake.is_none());
        if !holds {
            return self.halt(now, reason, false, fx);
        }
        let (id, at, cluster) = (&self.me.id, &self.config.client_addr, &self.config.cluster);
        let way_out = format!(
            "{reason}. This node holds data up to {}: to go on with them, `datakeeper admin adopt {id} --connect {at} --confirm \
             {cluster}` at the node that holds most",
            self.log.last()
        );
        self.halt(now, &way_out, true, fx);
    }

    /// Stops for an operator: nothing is served, nothing is asked for, and what it holds is kept.
    pub(super) fn halt(&mut self, now: Now, reason: &str, adoptable: bool, fx: &mut Effects) {
        if self.halted.is_some() {
            return;
        }
        fx.push(Notice::error(format!("halted: {reason}; this node serves nothing until an operator has looked")));
        self.halted = Some(Halted { reason: reason.to_string(), adoptable });
        self.step_down(now, reason, fx);
        self.drop_following(fx);
        self.pulse.lock().freeze();
        self.role = Role::Halted;
    }

    /// What is said of the end of a node that is halted with data: it is an operator's decision, and is asked for twice.
    #[must_use]
    pub fn data_at_stake(&self) -> Option<String> {
        self.halted.as_ref().filter(|_| self.holds_data())?;
        Some(format!("this node is halted and holds data up to {}, which its end would give up", self.log.last()))
    }

    /// A halted node reads `/state`: notes what an operator would overwrite, and goes on if an operator has named a copy of its data to go
    /// on with, in an epoch that it did not know. Whether it did.
    fn may_go_on(&mut self, now: Now, read: &StateRead, fx: &mut Effects) -> bool {
        let Some((state, version)) = &read.state else {
            if read.confirmed {
                self.in_place = Some(InPlace::Nothing);
            }
            return false;
        };
        if self.pending.as_ref().is_some_and(|p| p.want.change.id == state.change.id) {
            self.resolved = Some((state.change.id, true));
            self.on_resolved(now, state.change.id, CasOutcome::Won(*version), fx);
            self.resume_blocked(fx);
            return false;
        }
        let known = self.known.as_ref();
        let ours = state.cluster == self.config.cluster && known.is_some_and(|k| k.state.dataset == state.dataset);
        if ours && state.decided > self.highest && state.leader != self.me && self.pending.is_none() {
            fx.push(Notice::warn(format!(
                "an operator has named {} to go on with, in epoch {}: this node follows",
                state.leader.id, state.decided
            )));
            (self.halted, self.known, self.in_place, self.incarnation, self.rollbacks_seen) = (None, None, None, 0, 0);
            self.pulse.lock().rest();
            self.role = Role::Joining;
            return true;
        }
        let as_known = known.is_some_and(|k| k.version == *version && k.state.change.id == state.change.id);
        self.in_place = (!as_known).then(|| InPlace::Other { state: Box::new(state.clone()), version: *version });
        false
    }

    /// The role that follows from what is known, where no transition names it.
    pub(super) fn settle_role(&mut self, fx: &mut Effects) {
        let frozen =
            self.pending.as_ref().is_some_and(|p| p.leads) && !self.config.rules.leaves_out(Rule::FreezeBeforeCas);
        let role = match (&self.leading, &self.known, &self.following) {
            _ if self.halted.is_some() => Role::Halted,
            (Some(leading), ..) if leading.handover.is_some() => Role::Resigning,
            (Some(leading), ..) if leading.ready => Role::Leader,
            (Some(_), ..) => Role::Leading,
            _ if frozen => Role::Candidate,
            (None, None, _) => self.role,
            (None, Some(known), _) if known.state.names(&self.me) => Role::Replica,
            (None, Some(_), Some(f)) if f.accepted => Role::Syncing,
            _ => Role::Joining,
        };
        if role != self.role {
            let epoch = self.known.as_ref().map_or(Epoch(0), |k| k.state.epoch);
            fx.push(Notice::info(format!("{} -> {role} in epoch {epoch} at {}", self.role, self.log.last())));
            self.role = role;
            self.resume_waiting(fx);
        }
    }

    /// The leader that `/state` names, unless it is this copy.
    pub(super) fn known_leader(&self) -> Option<&Member> {
        self.known.as_ref().map(|k| &k.state.leader).filter(|l| **l != self.me)
    }
}
