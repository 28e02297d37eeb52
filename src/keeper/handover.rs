//! Handing over: the leadership goes to a chosen member while everybody is well, without an error for clients that follow
//! redirects.
//!
//! ```text
//!   old leader: hold new commands ─► everything acknowledged ─► RESIGN ─► fenced ─► /state names another ─► MOVED for all
//!   target:                                                     check ─► compare-and-set ─► leading ─► leader
//! ```
//! Before RESIGN the leader may give it up and go on. After it the leader answers nothing in its epoch any more, whatever happens
//! to the target: only another epoch ends that, be it one it wins itself. So the target need not wait for any promise.
//! A node that is told to end leaves first (`leaving`): a leader hands over, a replica has itself taken out of the set.
//!
//! A leader that has lost the coordination service and then a member cannot take that member out: nothing is acknowledged any more.
//! It resigns to a member that has contact, with whatever it holds: that is an election which need not wait for the promise.

use std::fmt;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, CopyId, LinkId, NodeId};
use crate::base::limits::{CLOSE_IDLE_MS, HANDOVER_MS, HOLD_MS};
use crate::cluster::role::Role;
use crate::cluster::state::{Member, Why};
use crate::replication::in_sync::effective;
use crate::replication::wire::{self, Resign, Wish};

use super::session::Session;
use super::{Effect, Effects, Keeper, Notice};

/// A leaving leader that may not go yet looks again after this long, ms.
const LOOK_MS: u64 = 50;

/// A handover that has begun.
#[derive(Debug)]
pub(super) struct Handover {
    /// The copy that shall lead.
    pub target: Member,
    /// Not everything is acknowledged by then: it is given up, unless RESIGN was sent.
    pub until: Boot,
    /// When RESIGN was sent: from then on this node is fenced.
    pub sent: Option<Boot>,
    /// Everything is acknowledged when RESIGN is sent.
    pub whole: bool,
}

/// Why a handover is not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// This node does not lead, or is not ready yet.
    NotLeading,
    /// One is under way.
    UnderWay,
    /// That node is not connected and in sync, or is about to end.
    Unfit(NodeId),
    /// No other member is connected and in sync.
    Nobody,
    /// Who could take over cannot ask for the leadership now.
    NoContact,
    /// A copy is being filled, which a new epoch would begin anew, and too few are in sync without it.
    Filling(NodeId),
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotNow::NotLeading => f.write_str("this node does not lead, or is not ready yet"),
            NotNow::UnderWay => f.write_str("a handover is under way"),
            NotNow::Unfit(id) => write!(f, "{id} is not connected and in sync"),
            NotNow::Nobody => f.write_str("no other member is connected and in sync"),
            NotNow::Filling(id) => write!(f, "{id} is being filled, and too few copies are in sync without it"),
            NotNow::NoContact => f.write_str("no member that could take over has contact to the coordination service"),
        }
    }
}

impl Keeper {
    /// Begins to hand over, to `target` or else to the member that is best placed.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn begin_handover(
        &mut self,
        now: Now,
        target: Option<&NodeId>,
        within_ms: u64,
        fx: &mut Effects,
    ) -> Result<(), NotNow> {
        match &self.leading {
            Some(leading) if leading.handover.is_some() => return Err(NotNow::UnderWay),
            Some(leading) if leading.ready => {}
            _ => return Err(NotNow::NotLeading),
        }
        if let Some(id) = self.kept_by(1) {
            return Err(NotNow::Filling(id));
        }
        let wanted = |m: &&Member| target.is_none_or(|id| m.id == *id);
        let fit: Vec<Member> = self.fit_to_lead(now).filter(wanted).cloned().collect();
        if fit.is_empty() {
            return Err(target.cloned().map_or(NotNow::Nobody, NotNow::Unfit));
        }
        let has_contact = |m: &Member| self.leading.as_ref().is_some_and(|l| l.followers[&m.copy].may_succeed);
        let target = fit.into_iter().find(has_contact).ok_or(NotNow::NoContact)?;
        fx.push(Notice::info(format!("handing over to {}", target.id)));
        let leading = self.leading.as_mut().expect("just seen");
        // What a learner lacks would keep the log's end from being acknowledged.
        leading.admitting = None;
        leading.handover = Some(Handover { target, until: now.boot.plus_ms(within_ms), sent: None, whole: true });
        self.role = Role::Resigning;
        self.advance(now, fx);
        self.resign_if_due(now, fx);
        Ok(())
    }

    /// Whether a member is connected and was heard lately.
    fn is_there(&self, now: Now, copy: CopyId) -> bool {
        let pulse = self.pulse.lock().heard_at(copy).unwrap_or(Boot(0));
        let follower = self.leading.as_ref().and_then(|l| l.followers.get(&copy)).filter(|f| f.link.is_some());
        follower.is_some_and(|f| now.boot.ms_since(f.heard.max(pulse)) < self.shared.suspect_ms)
    }

    /// Members that can take over, best first: by their place in the set, those last that the directory does not call live, and behind them those whose wall
    /// clock differs.
    fn fit_to_lead(&self, now: Now) -> impl Iterator<Item = &Member> {
        let leaves =
            |m: &Member| self.leading.as_ref().is_some_and(|l| l.followers.get(&m.copy).is_some_and(|f| f.leaving));
        let fit = move |m: &&Member| **m != self.me && self.is_there(now, m.copy) && !leaves(m);
        let live = |m: &&Member| self.nodes.iter().any(|n| n.registration.id == m.id && n.live == Some(m.copy));
        let mut members: Vec<&Member> = self.known.iter().flat_map(|k| &k.state.in_sync).filter(fit).collect();
        members.sort_by_key(|m| (!self.has_right_clock(m.copy), !live(m)));
        members.into_iter()
    }

    /// Gives a handover up, as long as RESIGN was not sent. Whether there was one to give up.
    pub(super) fn abort_handover(&mut self, why: &str, fx: &mut Effects) -> bool {
        let Some(leading) = &mut self.leading else { return false };
        let Some(handover) = leading.handover.take_if(|h| h.sent.is_none()) else { return false };
        fx.push(Notice::warn(format!("the handover to {} is given up: {why}", handover.target.id)));
        self.settle_role(fx);
        true
    }

    /// Takes a handover further, and begins the one that a leaving leader owes.
    pub(super) fn keep_handing_over(&mut self, now: Now, fx: &mut Effects) {
        let Some(leading) = &self.leading else { return };
        let Some(handover) = &leading.handover else {
            if self.leaving && now.boot >= self.leave_at {
                self.leave_at = now.boot.plus_ms(HANDOVER_MS);
                if self.kept_by(1).is_some() {
                    // It tries again; `keep_leaving` says why.
                    self.leave_at = now.boot.plus_ms(LOOK_MS);
                } else if let Err(why) = self.begin_handover(now, None, HANDOVER_MS, fx) {
                    let text = format!("cannot hand over: {why}");
                    if self.told.is_news(now.boot, &text) {
                        fx.push(Notice::warn(text));
                    }
                }
            }
            return;
        };
        match handover.sent {
            None if now.boot >= handover.until => {
                _ = self.abort_handover("not everything was acknowledged in time", fx)
            }
            None => self.resign_if_due(now, fx),
            Some(at) if now.boot >= at.plus_ms(self.shared.promise_ms) => {
                // Its own election, if it may stand, brings this node back.
                self.step_down(now, "nobody took the leadership over", fx);
            }
            Some(_) => {}
        }
    }

    /// RESIGN, once everything that was executed is acknowledged and the target has it.
    fn resign_if_due(&mut self, now: Now, fx: &mut Effects) {
        let Some(leading) = &mut self.leading else { return };
        let Some(handover) = leading.handover.as_mut().filter(|h| h.sent.is_none()) else { return };
        let named = self.known.as_ref().is_some_and(|k| k.state.names(&handover.target));
        let follower = leading.followers.get(&handover.target.copy).filter(|_| named);
        let Some((link, matched)) = follower.and_then(|f| Some((f.link?, f.matched))) else {
            self.abort_handover("it is no longer connected and in sync", fx);
            return;
        };
        let end = self.log.end();
        if self.pending.is_some() || self.acked < end || matched < end {
            return;
        }
        handover.sent = Some(now.boot);
        let resign = Resign { epoch: leading.epoch, last: self.log.last(), leaving: self.leaving };
        fx.push(Notice::info(format!("resigning from epoch {} at {}", leading.epoch, resign.last)));
        self.send(link, wire::resign(&resign), fx);
    }

    /// Section 9, a second fault while the coordination service is out of reach: a change of the set has not been decided for a while,
    /// and somebody is waited for who is not there. Resigns to a member that can do better; goes on waiting if there is none.
    pub(super) fn resign_if_stuck(&mut self, now: Now, fx: &mut Effects) {
        let (Some(leading), Some(pending), Some(known)) = (&self.leading, &self.pending, &self.known) else { return };
        let patient = |since: Boot| now.boot < since.plus_ms(HOLD_MS);
        if self.coordinator_up
            || patient(self.coordinator_since)
            || patient(pending.since)
            || leading.handover.is_some()
        {
            return;
        }
        if effective(&known.state, Some(&pending.want)).all(|m| *m == self.me || self.is_there(now, m.copy)) {
            return;
        }
        let offers = |m: &Member| leading.followers.get(&m.copy).filter(|f| f.may_succeed).and_then(|f| f.link);
        let named = self.fit_to_lead(now).filter(|m| pending.want.names(m));
        let Some((target, link)) = named.filter_map(|m| Some((m.clone(), offers(m)?))).next() else { return };
        let resign = Resign { epoch: leading.epoch, last: self.log.last(), leaving: true };
        fx.push(Notice::warn(format!(
            "no contact to the coordination service, and a member is lost: resigning from epoch {} to {}",
            leading.epoch, target.id
        )));
        let leading = self.leading.as_mut().expect("just seen");
        leading.handover = Some(Handover { target, until: now.boot, sent: Some(now.boot), whole: false });
        self.role = Role::Resigning;
        self.send(link, wire::resign(&resign), fx);
    }

    /// The leader hands over to this node: its promise is void, because the leader answers nothing any more.
    pub(super) fn on_resign(&mut self, now: Now, link: LinkId, resign: &Resign, fx: &mut Effects) {
        let following =
            self.following.as_ref().filter(|f| f.link == Some(link) && f.accepted && f.epoch == resign.epoch);
        let state = self.known.as_ref().map(|k| &k.state).filter(|s| s.epoch == resign.epoch && s.names(&self.me));
        // A leader that stays in the set must hold nothing that this node does not.
        let equal = |matched| resign.leaving || matched == resign.last.offset && self.log.last() == resign.last;
        let whole = following.is_some_and(|f| equal(f.matched)) && self.highest == resign.epoch;
        let Some(state) = state.filter(|_| whole && self.stand_at().is_some()).cloned() else {
            fx.push(Notice::warn(format!(
                "the leader of epoch {} hands over, but this node cannot lead",
                resign.epoch
            )));
            return;
        };
        self.freeze(fx);
        let change = self.change(now, Why::Handover);
        let want = if resign.leaving { state.elect(&self.me, change) } else { state.hand_over(&self.me, change) };
        fx.push(Notice::info(format!("{} hands over: standing for epoch {}", state.leader.id, want.epoch)));
        self.cas(now, want, true, fx);
    }

    /// A follower of this leader asks for something.
    pub(super) fn on_ask(&mut self, now: Now, link: LinkId, wish: Wish, fx: &mut Effects) {
        let Some(leading) = &mut self.leading else { return };
        let Some(f) = leading.followers.values_mut().find(|f| f.link == Some(link)) else { return };
        match wish {
            Wish::Leave => {
                f.leaving = true;
                leading.members_at = leading.members_at.min(now.boot);
            }
            Wish::Succeed => f.may_succeed = true,
            Wish::Decline => f.may_succeed = false,
            Wish::Other => {}
            Wish::Lead => {
                let id = f.node.clone();
                if let Err(why) = self.begin_handover(now, Some(&id), HANDOVER_MS, fx) {
                    fx.push(Notice::warn(format!("{id} asks for the leadership in vain: {why}")));
                }
            }
        }
    }

    /// Sends the leader a wish; `false` if this node follows nobody at the moment.
    pub(super) fn ask_leader(&mut self, wish: Wish, fx: &mut Effects) -> bool {
        let Some(f) = self.following.as_ref().filter(|f| f.accepted) else { return false };
        let Some(link) = f.link else { return false };
        let frame = wire::ask(f.epoch, wish);
        self.send(link, frame, fx);
        true
    }

    /// Every client of this node is closed as soon as nothing is outstanding on its connection, after a while that differs from one to
    /// the next, so that they do not all come to the new leader at once.
    pub(super) fn close_idle_clients(&mut self, now: Now) {
        let (least, most) = CLOSE_IDLE_MS;
        let conns: Vec<_> = self.sessions.iter().map(|(conn, _)| conn).collect();
        let due = |rng: &mut crate::base::jitter::Jitter| now.boot.plus_ms(least + rng.below(most - least));
        self.closings = conns.into_iter().map(|conn| (due(&mut self.rng), conn)).collect();
        self.closings.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Closes the clients whose time has come.
    pub(super) fn keep_closing(&mut self, now: Now, fx: &mut Effects) {
        while let Some((_, conn)) = self.closings.pop_if(|(at, _)| now.boot >= *at) {
            fx.push(Effect::CloseIdle(conn));
        }
    }

    /// What was held for a leadership that went on elsewhere in good order is tried again, and answered with a redirect. Idle
    /// connections stay, unless the process ends: a client library that keeps one for later may take its end for a failure.
    pub(super) fn redirect_all(&mut self, now: Now, fx: &mut Effects) {
        self.led_until = now.boot;
        if self.leaving {
            self.close_idle_clients(now);
        }
        self.resume_waiting(fx);
    }

    /// A client is redirected. Who connected while this node led and still asks here a second after it was told is closed: it may
    /// find the leader when it connects anew.
    pub(super) fn note_redirect(&mut self, now: Now, conn: ConnId, session: &mut Session) {
        if session.since > self.led_until {
            return;
        }
        let told = session.redirected.filter(|at| *at >= self.led_until);
        session.redirected = Some(told.unwrap_or(now.boot));
        if told.is_some_and(|at| now.boot >= at.plus_ms(CLOSE_IDLE_MS.0)) {
            self.deferred.push(Effect::CloseIdle(conn));
        }
    }
}
