//! Following a leader: joining, taking entries in, applying what is acknowledged, full resync.

use bytes::Bytes;

use crate::base::clock::{Boot, Now, Wall};
use crate::base::ids::{ConnId, DatasetId, Epoch, LinkId, Offset, Position};
use crate::base::limits::{APPLY_BYTES_PER_TURN, LINK_SILENT_MS, OFFSET_MAX, PREFETCH_GROUP};
use crate::base::rules::Rule;
use crate::cluster::role::Role;
use crate::cluster::state::Member;
use crate::replication::log::{Entry, Log, entries};
use crate::replication::snapshot::Intake;
use crate::replication::wire::{self, Ack, AppendHead, ChunkHead, Mode, Welcome, WireError, Wish};
use crate::store::{KeyHash, Mutation, mutations};

use super::links::Link;
use super::{Effect, Effects, Keeper, Notice, new_store};

/// First pause before the leader is dialled again, ms; doubles up to [`REDIAL_MS_MAX`].
const REDIAL_MS: u64 = 5;
/// Longest pause between two dials, ms.
const REDIAL_MS_MAX: u64 = 200;
/// Mutations and ends of entries per group whose memory is touched ahead; most entries are one mutation and an end.
const STEPS_AHEAD: usize = 2 * PREFETCH_GROUP;
/// The progress of a full resync is logged this often, ms.
const PROGRESS_MS: u64 = 5_000;

/// The leader that this node follows, and how far it got with it.
#[derive(Debug)]
pub(super) struct Following {
    /// Epoch of that leader, confirmed by `/state`.
    pub epoch: Epoch,
    /// The leader.
    pub leader: Member,
    /// The link to it, from the dial on.
    pub link: Option<LinkId>,
    /// The leader's welcome was taken in and what it takes is registered: data flows.
    pub accepted: bool,
    /// A welcome that waits for the registration.
    pub welcomed: bool,
    /// It leads, and refuses this node for what an operator has to set right.
    pub refuses: bool,
    /// Up to which this log is known to equal the leader's, in this epoch.
    pub matched: Offset,
    /// The leader's clock as last received, ns; echoed in acks.
    pub sent_at: u64,
    /// The least by which this node's clock was ahead of the leader's when a frame arrived on this link, ns: what a frame is later than that, it was
    /// on its way longer than the fastest.
    ahead: i128,
    /// Once this much is applied, everything is that was acknowledged at the instant beside it.
    fresh_once: Option<(Offset, Boot)>,
    /// When anything was last received on the link.
    pub heard: Boot,
    /// The leader said in this epoch that it reads without leases, so that no promise has to be kept once it is gone.
    pub confirms: bool,
    /// The link on which data flowed broke, and no other was made since.
    pub lost: bool,
    /// Since when there is no link to it although its pulses may be heard.
    lost_since: Option<Boot>,
    /// When to dial (again).
    pub retry_at: Boot,
    pause_ms: u64,
}

impl Keeper {
    /// Turns to the leader that `/state` names; does nothing if that is already so.
    pub(super) fn follow_known(&mut self, now: Now, fx: &mut Effects) {
        if self.halted.is_some() || self.leading.is_some() || self.pending.as_ref().is_some_and(|p| p.leads) {
            return;
        }
        let Some(known) = &self.known else { return };
        let (epoch, leader) = (known.state.epoch, known.state.leader.clone());
        if self.following.as_ref().is_some_and(|f| f.epoch == epoch && f.leader == leader) {
            return;
        }
        let whole = known.state.names(&self.me) || known.state.fallback.contains(&self.me);
        self.drop_following(fx);
        if leader == self.me {
            // Still named as leader without leading: its own election brings it back (stand_if_due).
            self.pulse.lock().rest();
            return;
        }
        self.pulse.lock().follow(now, epoch);
        if self.intake.is_some() && !whole {
            // R8': a half-received copy is not a state that any leader had.
            self.plan_wipe(now, "the epoch changed before the snapshot was whole", fx);
        }
        self.in_company = true;
        self.following = Some(Following {
            epoch,
            leader,
            link: None,
            accepted: false,
            welcomed: false,
            refuses: false,
            matched: Offset::ZERO,
            sent_at: 0,
            ahead: i128::MAX,
            fresh_once: None,
            heard: now.boot,
            confirms: false,
            lost: false,
            lost_since: None,
            retry_at: now.boot,
            pause_ms: REDIAL_MS,
        });
        self.resume_waiting(fx);
    }

    /// Lets go of the leader; its link is closed.
    pub(super) fn drop_following(&mut self, fx: &mut Effects) {
        if let Some(following) = self.following.take() {
            fx.push(Effect::PulseStop);
            if let Some(link) = following.link {
                self.hang_up(link, fx);
            }
        }
    }

    /// Dials the leader when that is due.
    pub(super) fn keep_following(&mut self, now: Now, fx: &mut Effects) {
        let named = self.known.as_ref().is_some_and(|k| k.state.names(&self.me));
        if self.wipe_due.is_some() || self.stopping || self.leaving && !named {
            if let Some(f) = &mut self.following {
                f.retry_at = Boot(u64::MAX);
            }
            return;
        }
        let registered = self.registered.is_some_and(|(copy, _)| copy == self.me.copy);
        let Some(f) = &mut self.following else { return };
        if now.boot < f.retry_at {
            return;
        }
        if f.lost_since.take_if(|at| now.boot >= at.plus_ms(LINK_SILENT_MS)).is_some() {
            // A leader that cannot be followed is not promised anything for ever.
            fx.push(Effect::PulseStop);
        }
        if let Some(link) = f.link {
            // While there is a link this is the time to look whether it still says anything.
            let late = f.retry_at != Boot(0) && now.boot.ms_since(f.retry_at) > self.shared.suspect_ms;
            if late {
                // This node itself stood still: what the leader said meanwhile may still wait in the socket.
                f.heard = now.boot;
            }
            // A leader that executes a long command says nothing here meanwhile: its pulses are what shows that it lives. So it is until what this
            // node will hold is registered, however long that takes.
            let pulse = self.pulse.lock().leader_heard_at();
            let waits = f.welcomed && !f.accepted;
            let alone_until = if waits { Boot(u64::MAX) } else { f.heard.plus_ms(LINK_SILENT_MS) };
            let deaf_at = f.heard.max(pulse).plus_ms(self.shared.promise_ms * 2).min(alone_until);
            f.retry_at = deaf_at;
            if now.boot >= deaf_at {
                self.hang_up(link, fx);
                self.on_leader_link_down(now, "nothing heard on it", fx);
            }
            return;
        }
        f.retry_at = now.boot.plus_ms(f.pause_ms);
        f.pause_ms = (f.pause_ms * 2).min(REDIAL_MS_MAX);
        let at = |n: &&crate::cluster::registration::NodeRead| {
            n.registration.id == f.leader.id && n.registration.copy == f.leader.copy
        };
        let Some(addr) = self.nodes.iter().find(at).map(|n| n.registration.repl_addr.clone()) else { return };
        if !registered {
            return;
        }
        f.heard = now.boot;
        f.retry_at = now.boot.plus_ms(self.shared.promise_ms * 2);
        let link = self.new_link([0; 16], None);
        self.following.as_mut().expect("just seen").link = Some(link);
        fx.push(Effect::Dial { link, addr });
    }

    /// Whether part of a snapshot is still to come.
    pub(super) fn is_half_received(&self) -> bool {
        self.intake.as_ref().is_some_and(|i| !i.complete())
    }

    /// The link to the leader is gone; a short break is healed by a partial resync.
    pub(super) fn on_leader_link_down(&mut self, now: Now, reason: &str, fx: &mut Effects) {
        let half = self.is_half_received();
        let Some(f) = &mut self.following else { return };
        if f.accepted {
            fx.push(Notice::info(format!("link to leader {} is down at {}: {reason}", f.leader.id, self.log.last())));
            f.pause_ms = REDIAL_MS;
            f.lost = true;
            if self.config.rules.leaves_out(Rule::PromiseWait) {
                self.pulse.lock().void_promise(now);
            }
        } else if f.confirms && f.lost {
            // Dialled again, and nobody leads there any more.
            self.pulse.lock().void_promise(now);
        }
        if f.welcomed {
            // The pulse connection stays: it shows whether the leader lives, and a new welcome puts another in its place.
            f.lost_since = f.lost_since.or(Some(now.boot));
        }
        (f.link, f.accepted, f.welcomed) = (None, false, false);
        f.retry_at = now.boot.plus_ms(f.pause_ms);
        if half {
            self.plan_wipe(now, "the full resync was interrupted", fx);
        }
    }

    /// The leader's answer to the hello.
    pub(super) fn on_welcome(
        &mut self,
        now: Now,
        link: LinkId,
        epoch: Epoch,
        w: &Welcome,
        fx: &mut Effects,
    ) -> Result<(), WireError> {
        let refuse = |text: String| Err(WireError(text));
        let Some(f) = self.following.as_mut().filter(|f| f.link == Some(link)) else {
            return refuse("a welcome from a node that is not followed".into());
        };
        if f.welcomed || f.accepted {
            return refuse("a second welcome".into());
        }
        if epoch != f.epoch {
            return refuse(format!("welcome to epoch {epoch}, /state confirmed {}", f.epoch));
        }
        let leader = f.leader.id.clone();
        let token = u128::from_be_bytes(wire::unhex16(&w.token)?);
        match w.mode {
            Mode::Full(Position { offset, .. }) | Mode::Truncate(offset) if offset > OFFSET_MAX => {
                return refuse(format!("a welcome at {offset}, which is no offset of a log"));
            }
            Mode::Full(_) if self.dataset.is_some() => return refuse("full resync for a copy that holds data".into()),
            Mode::Stream | Mode::Truncate(_) if self.dataset != Some(w.dataset) => {
                return refuse(format!("welcome to dataset {}, this copy holds {:?}", w.dataset, self.dataset));
            }
            Mode::Stream => {
                fx.push(Notice::info(format!("partial resync with {leader}: on from {}", self.log.last())));
                f.matched = self.log.end();
            }
            Mode::Truncate(to) => {
                let executed = self.executed();
                if to < executed || to > self.log.end() || to < self.log.base().offset {
                    return refuse(format!("truncation to {to} would undo what is applied ({executed})"));
                }
                fx.push(Notice::info(format!("partial resync with {leader}: {} cut back to {to}", self.log.last())));
                self.log.truncate(to);
                self.following.as_mut().expect("just seen").matched = to;
            }
            Mode::Full(base) => {
                let hash_key = wire::hash_key(w)?;
                fx.push(Notice::info(format!("full resync from {leader} begins at {base}, {} keys", w.keys)));
                self.store = new_store(&self.config, hash_key);
                self.store.expect(w.keys);
                self.log = Log::new(base);
                self.applied = base.offset;
                // What chunks hold may not be acknowledged yet: only the leader's word makes it so (R8').
                self.acked = Offset::ZERO;
                self.dataset = Some(w.dataset);
                self.intake = Some(Intake::new(w.keys, now.boot));
                f.matched = base.offset;
                self.stats.full_resyncs += 1;
                self.register(fx);
                self.invalidate_all(now, fx);
            }
        }
        let f = self.following.as_mut().expect("just seen");
        f.welcomed = true;
        f.lost_since = None;
        f.confirms = w.confirms;
        f.heard = now.boot;
        let addr = self.nodes.iter().find(|n| n.registration.id == leader).map(|n| n.registration.repl_addr.clone());
        if let Some(addr) = addr {
            fx.push(Effect::PulseTo { addr, token });
        }
        self.on_registered(fx);
        Ok(())
    }

    /// What this copy holds is registered: a welcome that waited for it can be accepted.
    pub(super) fn on_registered(&mut self, fx: &mut Effects) {
        let ready = self.is_registered();
        let Some(f) = self.following.as_mut().filter(|f| f.welcomed && !f.accepted && ready) else { return };
        let Some(link) = f.link else { return };
        (f.accepted, f.lost) = (true, false);
        f.pause_ms = REDIAL_MS;
        let epoch = f.epoch;
        self.send(link, wire::accept(epoch), fx);
        if cfg!(feature = "next-version") {
            self.send(link, wire::ask(epoch, Wish::Other), fx);
            if self.links.get(&link).is_some_and(|l| l.novel) {
                self.send(link, wire::novelty(epoch), fx);
            }
        }
        if self.leaving {
            self.ask_leader(Wish::Leave, fx);
        }
        if self.coordinator_up {
            self.ask_leader(Wish::Succeed, fx);
        }
        self.ack_due(link, fx);
        self.resume_waiting(fx);
    }

    /// Up to where the store has taken effects in that cannot be undone.
    pub(super) fn executed(&self) -> Offset {
        self.applied.max(self.intake.as_ref().map_or(Offset::ZERO, Intake::as_of))
    }

    /// Checks that a frame comes from the leader that is followed. `Ok(false)`: from a deposed one, to be ignored.
    fn hear_leader(
        &mut self,
        now: Now,
        link: LinkId,
        epoch: Epoch,
        sent_at: u64,
        clock: Wall,
        fx: &mut Effects,
    ) -> Result<bool, WireError> {
        if epoch < self.highest && !self.config.rules.leaves_out(Rule::Fencing) {
            // Once is enough until that has left: a peer that does not read costs no memory.
            if self.links.get(&link).is_some_and(Link::is_silent) {
                self.send(link, wire::stale(self.highest), fx);
            }
            return Ok(false);
        }
        let Some(f) = self.following.as_mut().filter(|f| f.link == Some(link) && f.accepted && f.epoch == epoch) else {
            return Err(WireError(format!("data of epoch {epoch} without a welcome to it")));
        };
        f.heard = now.boot;
        f.sent_at = f.sent_at.max(sent_at);
        f.ahead = f.ahead.min(i128::from(now.boot.0) - i128::from(sent_at));
        if clock > self.heard_clock.0 {
            self.heard_clock = (clock, now.boot);
        }
        let mut pulse = self.pulse.lock();
        pulse.grant(now, epoch);
        self.wall_ahead_ms = pulse.wall_ahead_ms();
        Ok(true)
    }

    /// (A part of) entries arrived. `body` is the whole message once its last part is there.
    pub(super) fn on_append(
        &mut self,
        now: Now,
        link: LinkId,
        head: &AppendHead,
        sure: bool,
        body: Option<Bytes>,
        fx: &mut Effects,
    ) -> Result<(), WireError> {
        if !self.hear_leader(now, link, head.epoch, head.sent_at, head.clock, fx)? {
            return Ok(());
        }
        if sure {
            let f = self.following.as_mut().expect("hear_leader looked");
            let sent = u64::try_from(i128::from(head.sent_at) + f.ahead).map_or(now.boot, Boot);
            f.fresh_once.get_or_insert((head.acked, sent));
        }
        if let Some(body) = body {
            if head.count > 0 {
                self.take_entries(head, body)?;
            }
            let f = self.following.as_mut().expect("hear_leader looked");
            self.acked = self.acked.max(head.acked.min(f.matched));
            self.apply_acked(now, fx);
            if head.count == 0 && self.applied == self.log.end() {
                self.clock = self.clock.max(head.clock);
            }
        }
        self.note_freshness();
        self.ack_due(link, fx);
        Ok(())
    }

    /// What is applied may be all that was acknowledged at some later instant than was known.
    fn note_freshness(&mut self) {
        let Some(f) = &mut self.following else { return };
        if let Some((_, at)) = f.fresh_once.take_if(|(offset, _)| *offset <= self.applied) {
            self.fresh_at = self.fresh_at.max(at);
        }
    }

    /// How old the data of this follower may be, ms.
    pub(super) fn staleness_ms(&self, now: Now) -> u64 {
        now.boot.ms_since(self.fresh_at)
    }

    fn take_entries(&mut self, head: &AppendHead, body: Bytes) -> Result<(), WireError> {
        let end = self.log.end();
        let prev = Offset(head.first.0.wrapping_sub(1));
        let last_epoch = self.log.last().epoch;
        if head.first == Offset::ZERO || prev > end {
            return Err(WireError(format!("entries from {} do not follow {end}", head.first)));
        }
        if head.entry_epoch > head.epoch || head.entry_epoch < last_epoch {
            return Err(WireError(format!("entries of epoch {} after {last_epoch}", head.entry_epoch)));
        }
        if prev == end && self.log.epoch_of(end).is_some_and(|e| e != head.prev_epoch) {
            return Err(WireError(format!("entry {prev} is of epoch {}, ours of {last_epoch}", head.prev_epoch)));
        }
        let all = entries(&body, head.first, head.count).map_err(WireError)?;
        for entry in &all {
            if let Some(Err(e)) = mutations(&entry.mutations).find(Result::is_err) {
                return Err(WireError(format!("entry {}: {e}", entry.offset)));
            }
        }
        // A block that was in part received before: what is there is known to be equal.
        let known = (end.0 - prev.0) as usize;
        if known < all.len() {
            let skip: usize =
                all[..known].iter().map(|e| crate::replication::log::ENTRY_HEAD_BYTES + e.mutations.len()).sum();
            let count = (all.len() - known) as u32;
            drop(all);
            self.log.append_block(head.entry_epoch, end.next(), count, body.slice(skip..));
            self.following.as_mut().expect("data comes on a link that is followed").matched = self.log.end();
        }
        Ok(())
    }

    /// (A part of) a chunk of a snapshot arrived.
    pub(super) fn on_chunk(
        &mut self,
        now: Now,
        link: LinkId,
        head: &ChunkHead,
        end: bool,
        body: Option<Bytes>,
        fx: &mut Effects,
    ) -> Result<(), WireError> {
        if !self.hear_leader(now, link, head.epoch, head.sent_at, head.clock, fx)? {
            return Ok(());
        }
        if let Some(body) = body {
            let Some(intake) = &mut self.intake else { return Err(WireError("a chunk without a full resync".into())) };
            if let Some(Err(e)) = mutations(&body).find(Result::is_err) {
                return Err(WireError(format!("chunk from {:#x}: {e}", head.from)));
            }
            intake.add(head.from, (!end).then_some(head.upto), head.as_of).map_err(WireError)?;
            intake.keys += u64::from(head.keys);
            intake.bytes += head.total;
            for mutation in mutations(&body) {
                self.store.apply(&mutation.expect("checked above"));
            }
            if end {
                self.store.expect_no_more();
            }
            // Nothing happened to these keys: they came.
            self.store.take_notes();
            let told = now.boot.ms_since(intake.told) >= PROGRESS_MS;
            if end || told {
                intake.told = now.boot;
                let took = now.boot.ms_since(intake.began);
                let progress = self.resync_progress(now).expect("one is under way");
                fx.push(Notice::info(if end {
                    format!("full resync received: {progress}, as of {}, in {took} ms", head.as_of)
                } else {
                    format!("full resync: {progress}")
                }));
            }
            let f = self.following.as_ref().expect("hear_leader looked");
            self.acked = self.acked.max(head.acked.min(f.matched));
            self.apply_acked(now, fx);
        }
        self.ack_due(link, fx);
        Ok(())
    }

    /// Whether acknowledged entries wait to be applied.
    pub(super) fn apply_is_due(&self) -> bool {
        self.leading.is_none() && self.applied < self.acked.min(self.log.end())
    }

    /// Applies what is acknowledged, a bounded amount per call.
    pub(super) fn apply_acked(&mut self, _now: Now, fx: &mut Effects) {
        if self.leading.is_some() {
            return;
        }
        let bound = self.acked.min(self.log.end());
        let mut bytes = 0;
        while self.applied < bound && bytes < APPLY_BYTES_PER_TURN {
            let mut entries = self.log.entries_after(self.applied);
            entries.truncate(entries.partition_point(|entry| entry.offset <= bound));
            bytes += entries.iter().map(|entry| entry.mutations.len() + 64).sum::<usize>();
            self.apply_entries(&entries);
        }
        if !self.behind.is_empty() {
            let shown = self.shown();
            let there: Vec<ConnId> =
                self.behind.extract_if(.., |_, position| *position <= shown).map(|(conn, _)| conn).collect();
            fx.extend(there.into_iter().filter(|conn| self.waiting.remove(*conn)).map(Effect::Resume));
        }
        let floor_counts = !self.config.rules.leaves_out(Rule::SnapshotFloor);
        let reached = |i: &Intake| !floor_counts || self.acked.min(self.applied) >= i.as_of();
        if self.intake.as_ref().is_some_and(|i| i.complete() && reached(i)) {
            self.intake = None;
            fx.push(Notice::info(format!("full resync complete: serving from {}", self.log.last())));
            self.resume_waiting(fx);
        }
        if self.executed_floor > Offset::ZERO && self.acked >= self.executed_floor {
            self.executed_floor = Offset::ZERO;
            self.resume_waiting(fx);
        }
    }

    /// The one way in which logged entries reach the store. What a group of mutations will look at is touched ahead, as for a client's
    /// batch.
    pub(super) fn apply_entries(&mut self, entries: &[Entry]) {
        let mut steps = entries.iter().flat_map(|entry| {
            let mutations = mutations(&entry.mutations).map(|m| Some(m.expect("entries are checked on the way in")));
            mutations.chain([None]).map(move |mutation| (entry, mutation))
        });
        let mut group = Vec::with_capacity(STEPS_AHEAD);
        loop {
            group.extend(steps.by_ref().take(STEPS_AHEAD).map(|(entry, mutation)| {
                let hash = mutation.as_ref().and_then(Mutation::key).map(|key| self.store.hash(key));
                hash.into_iter().for_each(|hash| self.store.touch(hash));
                (entry, mutation, hash)
            }));
            if group.is_empty() {
                return;
            }
            group.iter().filter_map(|(_, _, hash)| *hash).for_each(|hash| self.store.touch_entry(hash));
            for (entry, mutation, hash) in group.drain(..) {
                match mutation {
                    Some(mutation) => {
                        self.store.tell_clock(entry.clock);
                        self.apply_logged(entry.offset, hash, &mutation);
                    }
                    None => {
                        self.applied = entry.offset;
                        self.clock = self.clock.max(entry.clock);
                        self.stats.entries_applied += 1;
                        self.tracking.own.applied(self.store.notes(), entry.offset);
                    }
                }
            }
        }
    }

    fn apply_logged(&mut self, at: Offset, hash: Option<KeyHash>, mutation: &Mutation<'_>) {
        match (&self.intake, hash) {
            (None, hash) => self.store.apply_hashed(hash.unwrap_or(KeyHash(0)), mutation),
            (Some(intake), Some(hash)) => {
                if intake.counts(hash.0, at) {
                    self.store.apply_hashed(hash, mutation);
                }
            }
            (Some(intake), None) => {
                debug_assert!(matches!(mutation, Mutation::Clear), "only Clear has no key");
                if let Some(upto) = intake.cleared_below(at) {
                    self.store.clear_below(upto);
                }
            }
        }
    }

    /// The ack that says where this follower is.
    pub(super) fn current_ack(&self) -> Option<Ack> {
        let f = self.following.as_ref().filter(|f| f.accepted)?;
        if self.role == Role::Candidate {
            return None;
        }
        Some(Ack {
            epoch: f.epoch,
            copy: self.me.copy,
            matched: f.matched,
            applied: self.applied,
            sent_at: f.sent_at,
            promise_ms: self.pulse.lock().promise_ms(),
            clock: self.clock.max(self.heard_clock.0),
            whole: self.intake.as_ref().is_none_or(Intake::complete),
        })
    }

    /// Whether this follower may answer reads: its store is a committed prefix of the history.
    pub(super) fn follower_may_read(&self) -> bool {
        self.dataset.is_some() && self.intake.is_none() && self.executed_floor == Offset::ZERO
    }

    /// The dataset this node holds.
    #[must_use]
    pub fn dataset(&self) -> Option<DatasetId> {
        self.dataset
    }

    /// The clock by which keys expire here.
    #[must_use]
    pub fn expiry_clock(&self) -> Wall {
        self.clock
    }
}
