//! Leading: the barrier, acknowledgements, what is committed, who is in the set.
//!
//! Rules R1 (commit over the effective set), R2, R7 (barrier), R8 and R8' (expand), R9 (leases), R11 (manners of shrinking).
//! *Held* is what every member of the effective set has; *acked* is what is held, not before the barrier, while the set is
//! large enough. Readiness and expand use held, everything that leaves the node uses acked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::clock::{Boot, Now, Steady, Wall};
use crate::base::ids::{ConnId, CopyId, Epoch, LinkId, NodeId, Offset};
use crate::base::limits::{
    ADMIT_MS, ADMIT_PAUSE_MS, CLOCK_FAR_MS, CLOCK_NEAR_MS, LEARNER_LAG_BYTES, LINK_SILENT_MS, LONE_BACKLOG_BYTES,
    LONG_WAY_BYTES, MOST_LOST_EXTRA_MS, OUTRUN_BYTES, REFILL_MS, REFILL_MS_MAX, RETURN_MS, SLOW_MS,
};
use crate::base::rules::{LeftOut, Rule};
use crate::cluster::state::{ClusterState, Member, Why};
use crate::cluster::version::NEWEST;
use crate::replication::in_sync::{effective, held, may_commit};
use crate::replication::log::Entry;
use crate::replication::pulse::Pulse;
use crate::replication::wire::Ack;
use crate::store::{HAND_SINCE, NOVELTY, mutations};

use super::handover::Handover;
use super::{Effect, Effects, Keeper, Notice, ReadMode};

/// What the leader knows of one copy that follows it, or should.
#[derive(Debug)]
pub(super) struct Follower {
    /// The node that holds the copy.
    pub node: NodeId,
    /// The link it follows on.
    pub link: Option<LinkId>,
    /// When the link closed; set while there is none.
    pub closed_at: Option<Boot>,
    /// It was closed from this side because nothing came on it: the follower may well be there.
    pub unheard: bool,
    /// Highest position it acknowledged in this epoch.
    pub matched: Offset,
    /// Where its store is.
    pub applied: Offset,
    /// When it was last heard on the link, or the epoch began.
    pub heard: Boot,
    /// What it had executed when it said hello, and the largest `as_of` of its chunks: it is taken in only once that is held.
    pub floor: Offset,
    /// Whether it holds everything up to `matched`: false until it has confirmed the last chunk. That a chunk was sent says
    /// nothing: entries sent before it may be acknowledged before it arrives.
    pub whole: bool,
    /// Keys and bytes of chunks sent, for progress.
    pub chunk_keys: u64,
    /// Bytes of chunks sent.
    pub chunk_bytes: u64,
    /// Since when it is sent chunks, if it is.
    pub chunks_since: Option<Boot>,
    /// Its process is about to end: it is taken out of the set, and not in again.
    pub leaving: bool,
    /// It has contact to the coordination service.
    pub may_succeed: bool,
    /// Since when it lags far behind another member.
    pub outrun_since: Option<Boot>,
    /// Its clock for expiry begins no lower, should it lead.
    pub clock: Wall,
    /// Operators know that its wall clock differs from this node's.
    pub clock_told: bool,
    /// Ends of what was sent, and when.
    pub marks: VecDeque<(Offset, Boot)>,
}

impl Follower {
    pub fn new(node: NodeId, now: Boot) -> Follower {
        Follower {
            node,
            link: None,
            closed_at: None,
            unheard: false,
            matched: Offset::ZERO,
            applied: Offset::ZERO,
            heard: now,
            floor: Offset::ZERO,
            whole: false,
            chunk_keys: 0,
            chunk_bytes: 0,
            chunks_since: None,
            leaving: false,
            may_succeed: false,
            outrun_since: None,
            clock: Wall(0),
            clock_told: false,
            marks: VecDeque::new(),
        }
    }
}

/// One leadership.
#[derive(Debug)]
pub(super) struct Leading {
    /// Its epoch.
    pub epoch: Epoch,
    /// The empty entry it began with.
    pub barrier: Offset,
    /// Whether the barrier was held and all leases were there once: the tail is executed, clients are served.
    pub ready: bool,
    /// Highest offset that every member of the effective set has.
    pub held: Offset,
    /// Copies that follow, or should.
    pub followers: BTreeMap<CopyId, Follower>,
    /// Copies to be un-named, because they have to resync fully.
    pub unname: BTreeSet<CopyId>,
    /// Nodes that the load has outrun since they were in the set last: how often, and when they may be filled anew.
    pub outrun: BTreeMap<NodeId, (u32, Boot)>,
    /// A learner that is about to be taken in, and until when it may take: what it does not have is not held, so that also
    /// under a steady stream of entries there is a moment at which it has all that is held (R8).
    pub admitting: Option<(CopyId, Boot)>,
    /// No learner is waited for before.
    pub admit_at: Boot,
    /// The highest clock by which a key may have been hidden without a logged deletion, by this leader or an earlier one. Moves only
    /// forward. Invariant: at most the `clock` of each member of the effective set, so no new leader shows the key again.
    pub hidden_upto: Wall,
    /// When replicas are to be told of a new commit position if nothing else is sent to them before.
    pub commit_due: Option<Boot>,
    /// The latest read that needs a round of confirmations came then: what is sent later begins one.
    pub round_at: Boot,
    /// When a heartbeat goes out next on the links.
    pub beat_at: Boot,
    /// When acknowledgements or transfers last made progress.
    pub progress: Boot,
    /// When members are looked at next.
    pub members_at: Boot,
    /// This node was itself away: silence before is not held against anybody until then.
    pub judge_at: Boot,
    /// Operators know that the wall clock is far from the clock for expiry.
    pub clock_told: bool,
    /// The leadership is being handed over.
    pub handover: Option<Handover>,
}

impl Leading {
    pub fn next_deadline(&self, heartbeat_ms: u64) -> Boot {
        let members = if self.followers.is_empty() { Boot(u64::MAX) } else { self.members_at };
        let beat = if self.followers.is_empty() { Boot(u64::MAX) } else { self.beat_at };
        debug_assert!(heartbeat_ms > 0);
        self.commit_due.unwrap_or(Boot(u64::MAX)).min(members).min(beat)
    }
}

/// The members whose acknowledgements count (R1): all of a set that is being changed, and of what it becomes.
fn waited_for<'a>(
    rules: LeftOut,
    confirmed: &'a ClusterState,
    pending: Option<&'a ClusterState>,
) -> impl Iterator<Item = &'a Member> {
    match pending {
        Some(p) if p.change.why == Why::Shrink && rules.leaves_out(Rule::UnionOfShrink) => effective(p, None),
        Some(p) if p.change.why == Why::Expand && rules.leaves_out(Rule::UnionOfExpand) => effective(confirmed, None),
        _ => effective(confirmed, pending),
    }
}

/// How far a clock is from another one, in words.
pub(super) fn apart(ahead_ms: i64) -> String {
    format!("{} ms {}", ahead_ms.unsigned_abs(), if ahead_ms > 0 { "ahead of" } else { "behind" })
}

/// Members are looked at this often, ms.
const MEMBERS_MS: u64 = 10;
/// A look that comes later than planned by more than this means that this node stood still: what its members said meanwhile may
/// still wait in its sockets.
const STALLED_MS: u64 = 100;

impl Keeper {
    /// Begins a leadership that `/state` has granted.
    pub(super) fn lead(&mut self, now: Now, epoch: Epoch, fx: &mut Effects) {
        self.drop_following(fx);
        let known = self.known.as_ref().expect("the granted state is known");
        assert!(known.state.leader == self.me && known.state.epoch == epoch, "a leadership is granted by /state");
        let dataset = known.state.dataset;
        let members: Vec<Member> = known.state.in_sync.iter().filter(|m| **m != self.me).cloned().collect();
        if self.dataset != Some(dataset) {
            assert!(self.dataset.is_none(), "a dataset is founded by a copy that holds nothing");
            self.dataset = Some(dataset);
            self.register(fx);
        }
        self.in_company |= !members.is_empty();
        self.pulse.lock().lead(epoch);
        // R7: an empty entry; the log before it is kept whole and executed only once the barrier is held.
        self.begin_to_tick(now);
        self.invalidate_all(now, fx);
        let barrier = self.log.append(epoch, self.clock, &mut crate::base::segments::Segments::new());
        self.leading = Some(Leading {
            epoch,
            barrier,
            ready: false,
            held: Offset::ZERO,
            followers: members.into_iter().map(|m| (m.copy, Follower::new(m.id, now.boot))).collect(),
            unname: BTreeSet::new(),
            outrun: BTreeMap::new(),
            admitting: None,
            admit_at: now.boot,
            hidden_upto: Wall(0),
            commit_due: None,
            round_at: Boot(0),
            beat_at: now.boot,
            progress: now.boot,
            members_at: now.boot,
            judge_at: now.boot,
            clock_told: false,
            handover: None,
        });
        self.closings.clear();
        fx.push(Notice::info(format!("granted epoch {epoch}, barrier at {barrier}")));
        if self.config.rules.leaves_out(Rule::BarrierBeforeAcks) {
            self.acked = barrier;
            self.become_ready(fx);
        }
    }

    /// The clock for expiry begins at the highest one that any client of an earlier leader may have seen keys expire by, and goes on from there by what has
    /// passed since; the first leader of all begins at its wall clock.
    fn begin_to_tick(&mut self, now: Now) {
        let (heard, at) = self.heard_clock;
        let heard = Wall(heard.0.saturating_add(if heard > Wall(0) { now.boot.ms_since(at) } else { 0 }));
        let begin = self.clock.max(heard);
        self.steady = Steady::starting(if begin > Wall(0) { begin } else { now.wall }, now.boot);
        self.tick(now);
    }

    /// Leader: the clock for expiry goes on to now.
    #[inline]
    pub(super) fn tick(&mut self, now: Now) {
        let shown = if self.config.rules.leaves_out(Rule::SteadyClock) { now.wall } else { self.steady.go_on(now) };
        self.clock = self.clock.max(shown);
        let ahead = now.wall.0.cast_signed().saturating_sub(self.clock.0.cast_signed());
        self.wall_ahead_ms = if ahead.unsigned_abs() <= CLOCK_NEAR_MS { 0 } else { ahead };
    }

    /// Tells members how the clocks stand, and operators when one begins to be wrong, or ceases to.
    fn look_at_clocks(&mut self, fx: &mut Effects) {
        let Some(leading) = &mut self.leading else { return };
        let ahead_ms = self.wall_ahead_ms;
        let mut pulse = self.pulse.lock();
        pulse.set_wall_ahead_ms(ahead_ms);
        let far = |ms: i64| ms.unsigned_abs() > CLOCK_FAR_MS;
        if far(ahead_ms) != std::mem::replace(&mut leading.clock_told, far(ahead_ms)) {
            fx.push(if far(ahead_ms) {
                Notice::warn(format!(
                    "the wall clock of this node is {} the clock by which keys expire, which is led there by a tenth of the time that passes: a time to \
                     live is up to a tenth shorter or longer until then. A wall clock was set, or one is wrong: look at the clocks of all nodes",
                    apart(ahead_ms)
                ))
            } else {
                Notice::info("keys expire by the wall clock of this node again, within a second")
            });
        }
        for (copy, f) in &mut leading.followers {
            let Some(ms) = pulse.clock_ahead_ms(*copy) else { continue };
            if far(ms) != std::mem::replace(&mut f.clock_told, far(ms)) {
                fx.push(if far(ms) {
                    Notice::warn(format!(
                        "the wall clock of {} is {} that of this node: one of them is wrong",
                        f.node,
                        apart(ms)
                    ))
                } else {
                    Notice::info(format!("the wall clock of {} is within a second of that of this node again", f.node))
                });
            }
        }
    }

    /// Whether that member's wall clock is as good as this node's, as far as it was told.
    pub(super) fn has_right_clock(&self, copy: CopyId) -> bool {
        self.pulse.lock().clock_ahead_ms(copy).is_none_or(|ms| ms.unsigned_abs() <= CLOCK_FAR_MS)
    }

    /// Until when this leader may answer reads; the far future if nobody else can be elected.
    pub(super) fn lease_until(&self) -> Boot {
        self.earliest(Pulse::lease_until)
    }

    /// Earliest of what the pulse knows of the others in the effective set; the far future if there are none.
    fn earliest(&self, of: fn(&Pulse, CopyId) -> Boot) -> Boot {
        let (Some(known), Some(_)) = (&self.known, &self.leading) else { return Boot(0) };
        let pending = self.pending.as_ref().filter(|_| !self.config.rules.leaves_out(Rule::LeaseOfPending));
        let mut others = effective(&known.state, pending.map(|p| &p.want)).filter(|m| **m != self.me).peekable();
        if others.peek().is_none() {
            return Boot(u64::MAX);
        }
        let pulse = self.pulse.lock();
        others.map(|m| of(&pulse, m.copy)).min().unwrap_or(Boot(u64::MAX))
    }

    /// Whether the leader was heard by all who could replace it so lately that it may call itself one.
    pub(super) fn holds_lease(&self, now: Now) -> bool {
        self.config.read_mode == ReadMode::Local || self.lease_until() > now.boot
    }

    /// Whether the leader may answer a read now (R9), given since when it waits for a round of confirmations.
    ///
    /// A round: everybody in the effective set answers something that was sent after the read had arrived. So nobody there had
    /// frozen to stand before the read arrived (R4), and whatever was acknowledged by then is in this store. Many connections share
    /// a round. The leader's own clock only numbers what it sends here; no two clocks are compared.
    pub(super) fn may_read(&self, now: Now, asked: Option<Boot>) -> bool {
        match self.config.read_mode {
            ReadMode::Lease | ReadMode::Local => self.holds_lease(now),
            ReadMode::Confirm => self.earliest(Pulse::echoed_at) > asked.unwrap_or(now.boot),
        }
    }

    /// The reads of this connection wait for a round; it begins with what is sent to the followers next.
    pub(super) fn ask_for_round(&mut self, now: Now, conn: ConnId, asked: &mut Option<Boot>) {
        if self.config.read_mode != ReadMode::Confirm {
            return;
        }
        let at = *asked.get_or_insert(now.boot);
        self.confirming.insert(conn, at);
        let leading = self.leading.as_mut().expect("only a leader's reads wait for a round");
        leading.round_at = leading.round_at.max(at);
        // A clock that has not moved since then: what is sent right now would not count.
        leading.commit_due.get_or_insert(now.boot.plus_ms(1));
    }

    /// Goes on with the reads whose round is back.
    fn resume_confirmed(&mut self, fx: &mut Effects) {
        if self.confirming.is_empty() {
            return;
        }
        let upto = self.earliest(Pulse::echoed_at);
        self.confirming.retain(|conn, asked| {
            let back = *asked < upto;
            if back && self.waiting.remove(*conn) {
                fx.push(Effect::Resume(*conn));
            }
            !back
        });
    }

    /// A follower's acknowledgement.
    pub(super) fn on_ack(&mut self, now: Now, link: LinkId, ack: &Ack, fx: &mut Effects) {
        let Some(leading) = self.leading.as_mut().filter(|l| l.epoch == ack.epoch) else { return };
        let Some(f) = leading.followers.get_mut(&ack.copy) else { return };
        if f.link != Some(link) || ack.matched > self.log.end() {
            return;
        }
        f.heard = now.boot;
        f.applied = f.applied.max(ack.applied);
        f.clock = f.clock.max(ack.clock);
        let moved = ack.matched > f.matched || ack.whole && !f.whole;
        f.whole |= ack.whole;
        if ack.matched > f.matched {
            f.matched = ack.matched;
            leading.progress = now.boot;
            while f.marks.front().is_some_and(|(offset, _)| *offset <= ack.matched) {
                f.marks.pop_front();
            }
        }
        self.pulse.lock().sign(now, ack.epoch, ack.copy, ack.sent_at, ack.promise_ms);
        self.advance(now, fx);
        self.resume_confirmed(fx);
        if moved {
            self.resume_blocked(fx);
        }
    }

    /// Moves held and acked forward, makes the leader ready, releases what waited.
    pub(super) fn advance(&mut self, now: Now, fx: &mut Effects) {
        let (Some(leading), Some(known)) = (&mut self.leading, &self.known) else { return };
        let pending = self.pending.as_ref().map(|p| &p.want);
        if leading.ready && leading.followers.is_empty() && pending.is_none() && known.state.in_sync.len() == 1 {
            // Alone: what is appended is held.
            leading.held = self.log.end();
            if known.state.may_commit() && leading.held > self.acked {
                self.acked = leading.held;
                self.release(now, fx);
            }
            return;
        }
        let set = waited_for(self.config.rules, &known.state, pending);
        let followers = &leading.followers;
        let now_held = held(set, self.me.copy, self.log.end(), |c| followers.get(&c).map(|f| f.matched));
        let learner = leading.admitting.and_then(|(copy, _)| followers.get(&copy)).map_or(now_held, |f| f.matched);
        leading.held = leading.held.max(now_held.min(learner));
        let enough = may_commit(&known.state, pending);
        if !leading.ready {
            let barrier_held = leading.held >= leading.barrier;
            let confirms = self.config.read_mode == ReadMode::Confirm;
            let leased = confirms || self.lease_until() > now.boot;
            if !barrier_held || self.registered != Some((self.me.copy, false)) || !leased {
                return;
            }
            self.become_ready(fx);
        }
        let leading = self.leading.as_mut().expect("leads");
        if !enough || leading.held <= self.acked {
            return;
        }
        self.acked = leading.held;
        leading.commit_due.get_or_insert(now.boot.plus_ms(1));
        self.release(now, fx);
    }

    /// Replies and messages up to `acked` may leave; the log behind it is kept only as a backlog.
    fn release(&mut self, now: Now, fx: &mut Effects) {
        while let Some((conn, seq)) = self.holds.pop(self.acked) {
            fx.push(Effect::Release { conn, seq });
        }
        self.announce_held(now, fx);
        self.resume_blocked(fx);
        self.trim_log();
    }

    /// Forgets the log that no follower can ask for any more.
    pub(super) fn trim_log(&mut self) {
        let most = if self.in_company { usize::MAX } else { LONE_BACKLOG_BYTES };
        self.log.trim(self.config.backlog_bytes.min(most), self.acked.min(self.applied));
    }

    /// The barrier is held: the tail that was taken over is certain to stay, and is executed.
    fn become_ready(&mut self, fx: &mut Effects) {
        let end = self.log.end();
        // Effects that are here already, may not be acknowledged yet, and are of any key: executed by this node as a leader before, or
        // come with chunks. The tail's are of known keys: reads of others need not wait for it.
        let blind = self.executed().max(self.executed_floor);
        if blind > self.acked {
            self.touched.all = blind;
        }
        while self.applied < end {
            let entries = self.log.entries_after(self.applied);
            entries.iter().for_each(|entry| self.touch_keys(entry));
            self.apply_entries(&entries);
        }
        self.intake = None;
        self.executed_floor = Offset::ZERO;
        if cfg!(feature = "next-version") && self.known.as_ref().is_some_and(|k| k.state.cluster_version >= NEWEST) {
            self.scratch.put_slice(&[NOVELTY]);
            self.append_unasked();
        }
        let leading = self.leading.as_mut().expect("leads");
        leading.ready = true;
        fx.push(Notice::info(format!("leader of epoch {}: serving from {}", leading.epoch, self.log.last())));
        // Everybody in the set has acknowledged in this epoch, and has heard what an earlier leader hid by.
        self.hiding_clock();
        self.resume_waiting(fx);
    }

    /// The clock by which a reply may take a key for expired without a logged deletion, which counts as used: a leader's is what all
    /// who could replace it have confirmed, lest the key show again at a new leader whose own clock is behind.
    pub(super) fn hiding_clock(&mut self) -> Wall {
        let (Some(leading), Some(known)) = (&mut self.leading, &self.known) else { return self.clock };
        let set = effective(&known.state, self.pending.as_ref().map(|p| &p.want));
        let others = set.filter(|m| **m != self.me).map(|m| m.copy);
        let learner = leading.admitting.map(|(copy, _)| copy);
        let followers = &leading.followers;
        let clocks = others.chain(learner).map(|copy| followers.get(&copy).map_or(Wall(0), |f| f.clock));
        leading.hidden_upto = clocks.fold(self.clock, Wall::min).max(leading.hidden_upto);
        leading.hidden_upto
    }

    /// Whether values may go from key to key by name: every node knows how, and each follower holds the whole keyspace. One that is being filled may lack
    /// the key whose value it would take; what is executed before it begins is in what it is filled with.
    pub(super) fn may_use_hand(&self) -> bool {
        let known = self.known.as_ref().is_some_and(|k| k.state.cluster_version >= HAND_SINCE);
        known && self.leading.as_ref().is_some_and(|l| l.followers.values().all(|f| f.whole))
    }

    /// Notes which keys an entry has touched.
    fn touch_keys(&mut self, entry: &Entry) {
        for mutation in mutations(&entry.mutations) {
            match mutation.expect("entries are checked on the way in").key() {
                Some(key) => self.touched.set(self.store.hash(key).0, entry.offset),
                None => self.touched.all = entry.offset,
            }
        }
    }

    /// A change of the set was confirmed.
    pub(super) fn on_members_changed(&mut self, now: Now, fx: &mut Effects) {
        let state = &self.known.as_ref().expect("just written").state;
        let set: Vec<&str> = state.in_sync.iter().map(|m| m.id.as_str()).collect();
        fx.push(Notice::info(format!("in-sync set is now {} ({:?})", set.join(", "), state.change.why)));
        if let Some(leading) = &mut self.leading {
            leading.unname.retain(|c| state.in_sync.iter().chain(&state.fallback).any(|m| m.copy == *c));
            leading.outrun.retain(|node, _| state.member(node).is_none());
            leading.progress = now.boot;
        }
        self.advance(now, fx);
        self.resume_waiting(fx);
    }

    /// Takes silent, slow and lost members out, and learners that caught up in.
    pub(super) fn manage_members(&mut self, now: Now, fx: &mut Effects) {
        let Some(leading) = &mut self.leading else { return };
        let heartbeat = self.shared.heartbeat_ms;
        let told = |at: &mut Option<Boot>| at.take_if(|at| now.boot >= *at).is_some();
        let commit = told(&mut leading.commit_due);
        let beat = now.boot >= leading.beat_at;
        if beat {
            leading.beat_at = now.boot.plus_ms(heartbeat);
            self.tick(now);
            self.look_at_clocks(fx);
        }
        if commit || beat {
            self.wake_followers(fx);
        }
        let leading = self.leading.as_mut().expect("leads");
        if now.boot < leading.members_at {
            return;
        }
        if now.boot.ms_since(leading.members_at) > STALLED_MS {
            leading.judge_at = now.boot.plus_ms(self.shared.suspect_ms);
        }
        leading.members_at = now.boot.plus_ms(MEMBERS_MS);
        self.close_deaf_links(now, fx);
        self.end_admission(now, fx);
        self.resume_confirmed(fx);
        self.resign_if_stuck(now, fx);
        if self.waiting.len() > self.blocked.len() && !self.gates(now, Some(Boot(0))).any_waits() {
            // A lease came back with a pulse, which does not pass through here.
            self.resume_waiting(fx);
        }
        if self.pending.is_some() || self.known.is_none() || self.stopping {
            return;
        }
        let handover = self.leading.as_ref().and_then(|l| l.handover.as_ref());
        // Whoever resigned changes nothing any more; before that only what keeps the log's end from being acknowledged.
        let (resigned, handing_over) = (handover.is_some_and(|h| h.sent.is_some()), handover.is_some());
        if !resigned && !self.shrink(now, fx) && !handing_over && !self.expand(now, fx) {
            self.copy_settings(now, fx);
        }
    }

    /// When a follower was heard last, on its link or by its pulse.
    fn heard(&self, copy: CopyId, f: &Follower) -> Boot {
        f.heard.max(self.pulse.lock().heard_at(copy).unwrap_or(Boot(0)))
    }

    /// Members of the in-sync set that say nothing, if they are most of it: then it may be this node that is cut off.
    fn silent_majority(&self, now: Now) -> Vec<CopyId> {
        let (Some(leading), Some(known)) = (&self.leading, &self.known) else { return Vec::new() };
        let others: Vec<CopyId> = known.state.in_sync.iter().map(|m| m.copy).filter(|c| *c != self.me.copy).collect();
        let is_silent = |copy: &&CopyId| {
            let heard = leading.followers.get(copy).map(|f| self.heard(**copy, f));
            heard.is_some_and(|heard| now.boot >= heard.plus_ms(self.shared.suspect_ms))
        };
        let silent: Vec<CopyId> = others.iter().filter(is_silent).copied().collect();
        if silent.len() * 2 > others.len() { silent } else { Vec::new() }
    }

    /// A link whose other side hears us but is not heard keeps renewing a promise that is of no use: it is closed. If most members
    /// are silent, at once: should they hear this node, they are to elect another one before it takes them out.
    fn close_deaf_links(&mut self, now: Now, fx: &mut Effects) {
        let leading = self.leading.as_ref().expect("leads");
        if now.boot < leading.judge_at {
            return;
        }
        let resigned = leading.handover.as_ref().is_some_and(|h| h.sent.is_some());
        let silent = if resigned { Vec::new() } else { self.silent_majority(now) };
        let deaf = |(copy, f): (&CopyId, &Follower)| {
            let link = f.link?;
            let limit = if silent.contains(copy) { self.shared.suspect_ms } else { self.shared.promise_ms * 2 };
            // A follower that applies something long acknowledges nothing meanwhile, nor does one before it has registered what it will hold: its
            // pulse is what shows that it lives.
            let is_unheard = now.boot.ms_since(self.heard(*copy, f)) > limit;
            let is_dead = self.is_open(link) && now.boot.ms_since(f.heard) > LINK_SILENT_MS;
            (is_unheard || is_dead).then_some((
                link,
                *copy,
                if is_unheard { limit } else { LINK_SILENT_MS },
                is_unheard,
            ))
        };
        let deaf: Vec<(LinkId, CopyId, u64, bool)> = leading.followers.iter().filter_map(deaf).collect();
        for (link, copy, limit, is_unheard) in deaf {
            fx.push(Notice::warn(format!("closing link {link}: nothing acknowledged for {limit} ms")));
            if is_unheard {
                self.pulse.lock().forget(copy);
            }
            let followers = self.leading.as_mut().expect("leads").followers.values_mut();
            followers.filter(|f| f.link == Some(link)).for_each(|f| f.unheard = is_unheard);
            self.hang_up(link, fx);
            self.follower_link_down(now, link);
        }
    }

    /// Notes which members the load outruns: far behind another one, though nothing big is on its way. Where all are slow alike, the load
    /// is held back for them.
    fn note_outrun_members(&mut self, now: Now) {
        let (Some(leading), Some(known)) = (&mut self.leading, &self.known) else { return };
        let lag = |f: &Follower| self.log.bytes_after(f.matched);
        let members = known.state.in_sync.iter().filter_map(|m| leading.followers.get(&m.copy));
        let least = members.map(lag).min().unwrap_or(0);
        for m in &known.state.in_sync {
            let Some(f) = leading.followers.get_mut(&m.copy) else { continue };
            let next = |f: &Follower| self.log.block_at(f.matched.next()).map_or(0, |block| block.bytes);
            let outrun = lag(f) > least + OUTRUN_BYTES && next(f) < LONG_WAY_BYTES;
            f.outrun_since = if outrun { f.outrun_since.or(Some(now.boot)) } else { None };
        }
    }

    fn shrink(&mut self, now: Now, fx: &mut Effects) -> bool {
        self.note_outrun_members(now);
        let (leading, known) = (self.leading.as_ref().expect("leads"), self.known.as_ref().expect("leads"));
        let suspect = self.shared.suspect_ms;
        let others: Vec<&Member> = known.state.in_sync.iter().filter(|m| **m != self.me).collect();
        let (mut out, mut silent, mut left_at) = (Vec::new(), Vec::new(), Boot(0));
        // Silent, or about to be: whom a cut takes away together were heard last up to a heartbeat apart.
        let mut quiet = 0;
        let together = !self.config.rules.leaves_out(Rule::SilentTogether);
        let quiet_ms = if together { suspect.saturating_sub(self.shared.heartbeat_ms) } else { suspect };
        for member in &others {
            let Some(f) = leading.followers.get(&member.copy) else {
                out.push(member.copy);
                continue;
            };
            let heard = self.heard(member.copy, f);
            let gone =
                f.link.is_none() && !f.unheard && f.closed_at.is_some_and(|at| now.boot >= at.plus_ms(RETURN_MS));
            let oldest = f.marks.front().map(|(_, sent)| *sent);
            let slow = oldest.into_iter().chain(f.outrun_since).any(|since| now.boot.ms_since(since) > SLOW_MS);
            let judged = now.boot >= leading.judge_at;
            quiet += usize::from(now.boot >= heard.plus_ms(quiet_ms));
            let let_go = f.leaving && self.may_let_go(known.state.in_sync.len() - out.len());
            if gone || let_go || (slow && judged) || leading.unname.contains(&member.copy) {
                out.push(member.copy);
            } else if now.boot >= heard.plus_ms(suspect) && judged {
                silent.push(member.copy);
                // Of two there is no bigger side: the other one may promise for longer than this node waits, and is out then.
                let promised_from = f.closed_at.filter(|_| others.len() > 1);
                left_at = left_at.max(promised_from.unwrap_or(heard));
            }
        }
        // R11: whoever lost most of its members without a word lets the bigger side go first. That side may have heard this node,
        // and so have promised, until its link was closed.
        let most = quiet * 2 > others.len();
        let waited = now.boot >= left_at.plus_ms(self.shared.promise_ms + MOST_LOST_EXTRA_MS);
        if !most || waited {
            out.extend(silent);
        }
        let drop_fallback = leading.unname.iter().find(|c| known.state.fallback.iter().any(|m| m.copy == **c)).copied();
        let state = known.state.clone();
        let change = self.change(now, Why::Shrink);
        let want = state.shrink(&out, change.clone()).or_else(|| state.unname_fallback(drop_fallback?, change));
        let Some(want) = want else { return false };
        let names: Vec<&str> =
            state.in_sync.iter().filter(|m| !want.in_sync.contains(m)).map(|m| m.id.as_str()).collect();
        fx.push(Notice::warn(match (&names[..], drop_fallback) {
            ([], Some(copy)) => format!("un-naming copy {copy}, which has to resync fully"),
            _ => format!("taking {} out of the in-sync set", names.join(", ")),
        }));
        if self.config.rules.leaves_out(Rule::ShrinkByCas) {
            self.known.as_mut().expect("leads").state = want;
            self.on_members_changed(now, fx);
            return true;
        }
        self.cas(now, want, false, fx);
        true
    }

    fn expand(&mut self, now: Now, fx: &mut Effects) -> bool {
        let (leading, known) = (self.leading.as_ref().expect("leads"), self.known.as_ref().expect("leads"));
        let rules = self.config.rules;
        if !leading.ready && !rules.leaves_out(Rule::ExpandAfterBarrier) {
            return false;
        }
        // Before the barrier is held, the commit position of the former epoch is all that a careless leader could go by.
        let held = if leading.ready { leading.held } else { self.acked };
        let near = |(copy, f): &(&CopyId, &Follower)| {
            let member = Member { id: f.node.clone(), copy: **copy };
            let heard = f.heard.max(self.pulse.lock().heard_at(**copy).unwrap_or(Boot(0)));
            // Who is silent would be taken out again at once.
            f.link.is_some()
                && now.boot < heard.plus_ms(self.shared.suspect_ms)
                && f.whole
                && !f.leaving
                && !known.state.names(&member)
                && self.is_in_directory(&member)
                && (held >= f.floor && f.matched >= f.floor || rules.leaves_out(Rule::SnapshotFloor))
                && f.marks.front().is_none_or(|(_, sent)| now.boot.ms_since(*sent) < 100)
                && self.log.bytes_after(f.matched) <= LEARNER_LAG_BYTES
        };
        let Some((copy, f)) = leading.followers.iter().filter(near).find(|(_, f)| {
            f.matched >= held && f.clock >= leading.hidden_upto || rules.leaves_out(Rule::ExpandWhenHeld)
        }) else {
            let next = leading.followers.iter().find(near).map(|(copy, _)| *copy);
            if let Some(copy) = next.filter(|_| leading.admitting.is_none() && now.boot >= leading.admit_at) {
                let leading = self.leading.as_mut().expect("leads");
                leading.admitting = Some((copy, now.boot.plus_ms(ADMIT_MS)));
                // It needs the clock that keys were hidden by until now; where nothing is written, the next heartbeat may come too late with it.
                leading.round_at = leading.round_at.max(now.boot);
                leading.commit_due.get_or_insert(now.boot.plus_ms(1));
            }
            return false;
        };
        let member = Member { id: f.node.clone(), copy: *copy };
        let state = known.state.clone();
        let change = self.change(now, Why::Expand);
        let Some(want) = state.expand(&member, change) else { return false };
        fx.push(Notice::info(format!("taking {} (copy {}) into the in-sync set", member.id, member.copy)));
        self.cas(now, want, false, fx);
        // As a member of the pending set it is waited for from here on.
        self.leading.as_mut().expect("leads").admitting = None;
        true
    }

    /// A learner that could not be taken in in time, or has gone, is waited for no longer.
    fn end_admission(&mut self, now: Now, fx: &mut Effects) {
        let leading = self.leading.as_mut().expect("leads");
        let over = |(copy, until): &mut (CopyId, Boot)| {
            now.boot >= *until || leading.followers.get(copy).is_none_or(|f| f.link.is_none())
        };
        if leading.admitting.take_if(over).is_some() {
            leading.admit_at = now.boot.plus_ms(ADMIT_PAUSE_MS);
            self.advance(now, fx);
        }
    }

    /// The value of `min_in_sync` in `/state` counts; the leader copies it there from `/config`.
    fn copy_settings(&mut self, now: Now, fx: &mut Effects) {
        let min = self.shared.min_in_sync;
        let state = &self.known.as_ref().expect("leads").state;
        if state.min_in_sync != min && self.leading.as_ref().is_some_and(|l| l.ready) {
            let state = state.clone();
            let change = self.change(now, Why::Settings);
            if let Some(want) = state.with_min_in_sync(min, change) {
                self.cas(now, want, false, fx);
            }
        }
    }

    /// The backlog does not reach back any more to what a follower needs next: it waits before it is filled anew.
    pub(super) fn note_outrun(&mut self, now: Now, copy: CopyId) {
        let Some(leading) = &mut self.leading else { return };
        let Some(f) = leading.followers.get(&copy) else { return };
        let (times, until) = leading.outrun.entry(f.node.clone()).or_insert((0, now.boot));
        *until = now.boot.plus_ms((REFILL_MS << (*times).min(10)).min(REFILL_MS_MAX));
        *times += 1;
    }

    /// The link of a follower closed; its lease and its acknowledgements stay what they are.
    pub(super) fn follower_link_down(&mut self, now: Now, link: LinkId) {
        let Some(leading) = &mut self.leading else { return };
        for f in leading.followers.values_mut().filter(|f| f.link == Some(link)) {
            f.link = None;
            f.closed_at = Some(now.boot);
            f.marks.clear();
        }
        let named = |copy: &CopyId| {
            let state = self.known.as_ref().map(|k| &k.state).into_iter();
            let pending = self.pending.as_ref().map(|p| &p.want).into_iter();
            state.chain(pending).any(|s| s.in_sync.iter().any(|m| m.copy == *copy))
        };
        leading.followers.retain(|copy, f| f.link.is_some() || named(copy));
        leading.members_at = leading.members_at.min(now.boot.plus_ms(RETURN_MS));
    }
}
