//! A process that is told to end leaves its place in the cluster first, and never takes the last copy with it.
//!
//! A member is let go while `min_in_sync` copies remain in sync without it, or while nobody is being filled who would be one more. That
//! binds the leader's own end, too: its handover begins a new epoch, in which a fill begins anew. A leader that is left alone stays for as
//! long as somebody is being filled from it, and for a moment in which the process that was restarted just before may come back. It serves on
//! meanwhile, and the fill goes before writes: they are held back to what the link carries beside the fill, so that the fill ends.
//!
//! Not here: how long all that may last, and a second signal (`app/server`).

use crate::base::clock::{Boot, Now};
use crate::base::ids::{CopyId, NodeId};
use crate::base::limits::LAST_COPY_MS;
use crate::base::rules::Rule;
use crate::cluster::state::Member;
use crate::replication::wire::Wish;

use super::leading::Follower;
use super::{Effects, Keeper, Notice};

/// Why a node stays that was told to end is told this often, ms.
const TOLD_EACH_MS: u64 = 10_000;

/// A node that was told to end.
#[derive(Debug, Default)]
pub(super) struct Departure {
    /// Since when it is the only copy in sync and nobody is being filled.
    alone_since: Option<Boot>,
    /// When to say (again) why it stays.
    tell_at: Boot,
}

impl Keeper {
    /// The process shall end: it leaves its place in the cluster first, and its clients have time to go elsewhere.
    pub(super) fn leave(&mut self, now: Now, fx: &mut Effects) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        self.leave_at = now.boot;
        self.departure = Departure { alone_since: None, tell_at: now.boot };
        if self.leading.is_none() {
            self.ask_leader(Wish::Leave, fx);
            self.close_idle_clients(now);
        }
    }

    /// Those who are being filled: connected, not in the set, and not about to end themselves.
    fn learners(&self) -> impl Iterator<Item = (&CopyId, &Follower)> {
        let followers = self.leading.iter().flat_map(|l| &l.followers);
        followers.filter(|(copy, f)| {
            let member = Member { id: f.node.clone(), copy: **copy };
            f.link.is_some() && !f.leaving && self.known.as_ref().is_some_and(|k| !k.state.names(&member))
        })
    }

    /// One of those for whose fill this node stays.
    fn awaited(&self) -> Option<&Follower> {
        self.learners().next().map(|(_, f)| f).filter(|_| !self.config.rules.leaves_out(Rule::LastCopyStays))
    }

    /// Whether a copy is being filled from this node.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.learners().next().is_some()
    }

    /// Who has to be filled before `fewer` members may leave the set, this leader's own end included if it is told to end; none if they may.
    pub(super) fn kept_by(&self, fewer: usize) -> Option<NodeId> {
        let state = &self.known.as_ref()?.state;
        let fewer = if self.leaving { fewer } else { fewer - 1 };
        let enough = state.in_sync.len().saturating_sub(fewer) >= state.min_required();
        self.awaited().filter(|_| !enough).map(|f| f.node.clone())
    }

    /// Whether one more member may leave the set of which so many are left.
    pub(super) fn may_let_go(&self, left: usize) -> bool {
        let required = self.known.as_ref().map_or(0, |k| k.state.min_required());
        left > required || self.awaited().is_none()
    }

    /// Whether the fill of a learner goes before writes now: the node waits to end, and this much of the log is not there yet.
    pub(super) fn fill_goes_first(&self) -> bool {
        let far = self.config.backlog_bytes / 4;
        self.leaving && self.learners().any(|(_, f)| self.log.bytes_after(f.matched) > far)
    }

    /// Notes since when nobody needs this node any more, and says why it stays.
    pub(super) fn keep_leaving(&mut self, now: Now, fx: &mut Effects) {
        if !self.leaving {
            return;
        }
        let alone = self.leads_alone() && self.awaited().is_none();
        self.departure.alone_since = alone.then(|| self.departure.alone_since.unwrap_or(now.boot));
        if now.boot < self.departure.tell_at || !self.must_stay(now) {
            return;
        }
        let fills: Vec<String> = self.learners().map(|(_, f)| self.describe_fill(now, f)).collect();
        let why = match (&self.leading, &fills[..]) {
            (None, _) => "its leader needs its copy until another one is filled".to_string(),
            // It only waits a moment for somebody to come.
            (Some(_), []) => return,
            (Some(_), fills) => format!("without its copy too few would be left, and {}", fills.join(", ")),
        };
        self.departure.tell_at = now.boot.plus_ms(TOLD_EACH_MS);
        fx.push(Notice::warn(format!("this node does not end yet: {why}; a second signal ends it at once")));
    }

    fn describe_fill(&self, now: Now, f: &Follower) -> String {
        match self.fill_progress(now, f) {
            Some(progress) => format!("{} is being filled ({progress})", f.node),
            None => format!("{} catches up", f.node),
        }
    }

    fn leads_alone(&self) -> bool {
        let set = self.known.as_ref().filter(|_| self.leading.is_some()).map(|k| &k.state.in_sync);
        set.is_some_and(|set| set.len() == 1 && set[0] == self.me)
    }

    /// Whether the end of this node has to wait for a copy that is being filled, as far as it knows.
    #[must_use]
    pub fn must_stay(&self, now: Now) -> bool {
        if !self.leaving || self.halted.is_some() {
            return false;
        }
        if self.leading.is_some() {
            return self.kept_by(1).is_some() || self.leads_alone() && !self.was_alone_long(now);
        }
        // Its leader takes it out of the set as soon as it may.
        let named = self.known.as_ref().is_some_and(|k| k.state.names(&self.me));
        named && self.coordinator_up && self.following.as_ref().is_some_and(|f| f.accepted)
    }

    /// Whether the only copy has waited long enough for somebody to come; a cluster that never had another waits for nobody.
    fn was_alone_long(&self, now: Now) -> bool {
        let ever_alone = self.known.as_ref().is_some_and(|k| k.state.peak_in_sync == 1);
        let since = self.departure.alone_since;
        since.is_some_and(|since| ever_alone || now.boot >= since.plus_ms(LAST_COPY_MS))
    }

    /// Whether a node that was told to leave has nothing to wait for but its clients: no state names it any more, or it is the
    /// only one named and nobody comes who could take over soon.
    #[must_use]
    pub fn has_left(&self, now: Now) -> bool {
        let named = self.known.as_ref().is_some_and(|k| k.state.names(&self.me));
        let free = !named || self.leads_alone() && self.was_alone_long(now);
        self.halted.is_some() || self.pending.is_none() && free
    }

    /// Whether nobody can take over from this node, so that its clients have nowhere to go.
    #[must_use]
    pub fn is_alone(&self, now: Now) -> bool {
        self.known_leader().is_none() && self.has_left(now)
    }
}
