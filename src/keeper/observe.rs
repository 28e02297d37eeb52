//! What an observer may look at: pure getters for the simulator's checks and for operators' tools.
//!
//! Nothing in here decides anything, and no other room of the Keeper uses it.

use crate::base::clock::{Boot, Now};
use crate::base::ids::{CopyId, Epoch, Offset};
use crate::base::rules::Rule;
use crate::cluster::state::{ClusterState, Member};
use crate::replication::in_sync::effective;
use crate::store::Store;

use super::leading::Leading;
use super::{Keeper, ReadMode};

impl Keeper {
    /// The copy that this node holds.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The keys.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Last entry whose effects are in the store.
    #[must_use]
    pub fn applied(&self) -> Offset {
        self.applied
    }

    /// Highest offset that this node knows to be acknowledged.
    #[must_use]
    pub fn acked(&self) -> Offset {
        self.acked
    }

    /// Highest epoch that `/state` confirmed to this node.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        self.highest
    }

    /// `/state` as this node knows it, and its version.
    #[must_use]
    pub fn known_state(&self) -> Option<(&ClusterState, i32)> {
        self.known.as_ref().map(|k| (&k.state, k.version))
    }

    /// The compare-and-set that is not resolved, and whether winning it makes this node the leader.
    #[must_use]
    pub fn pending_change(&self) -> Option<(&ClusterState, bool)> {
        self.pending.as_ref().map(|p| (&p.want, p.leads))
    }

    /// The epoch that this node leads, and whether it is ready.
    #[must_use]
    pub fn leadership(&self) -> Option<(Epoch, bool)> {
        self.leading.as_ref().map(|l| (l.epoch, l.ready))
    }

    /// The epoch that this node follows, once its leader has taken it on.
    #[must_use]
    pub fn followed_epoch(&self) -> Option<Epoch> {
        self.following.as_ref().filter(|f| f.accepted).map(|f| f.epoch)
    }

    /// Members whose acknowledgement this leader waits for: those of `/state` and those of a change that is not resolved.
    #[must_use]
    pub fn effective_set(&self) -> Vec<Member> {
        let Some(known) = &self.known else { return Vec::new() };
        effective(&known.state, self.pending.as_ref().map(|p| &p.want)).cloned().collect()
    }

    /// The learner that this leader waits for, because it is about to be taken in.
    #[must_use]
    pub fn admitting(&self) -> Option<CopyId> {
        self.leading.as_ref()?.admitting.map(|(copy, _)| copy)
    }

    /// Whether this node would answer a read as the leader now, without asking anybody first.
    #[must_use]
    pub fn leader_may_read(&self, now: Now) -> bool {
        let early = self.config.rules.leaves_out(Rule::BarrierBeforeReads);
        let answers = |l: &Leading| (l.ready || early) && l.handover.is_none();
        self.leading.as_ref().is_some_and(answers) && self.halted.is_none() && self.may_read(now, None)
    }

    /// Until when this leader counts on that member not to stand; nothing if it reads without leases.
    #[must_use]
    pub fn lease_from(&self, copy: CopyId) -> Option<Boot> {
        let leased = self.config.read_mode == ReadMode::Lease;
        self.leading.as_ref().filter(|_| leased).map(|_| self.pulse.lock().lease_until(copy))
    }

    /// Until when this node has promised not to stand.
    #[must_use]
    pub fn promised(&self) -> Boot {
        self.pulse.lock().promised()
    }

    /// Whether a follower would answer reads now.
    #[must_use]
    pub fn replica_may_read(&self) -> bool {
        self.leading.is_none() && self.follower_may_read()
    }

    /// Whether part of a snapshot, or entries that it overtook, are still to come.
    #[must_use]
    pub fn is_taking_in(&self) -> bool {
        self.intake.is_some()
    }

    /// Whether this node waits for an operator, and why.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_ref().map(|h| h.reason.as_str())
    }

    /// Batches of replies that wait for acknowledgements.
    #[must_use]
    pub fn held_replies(&self) -> usize {
        self.holds.len()
    }
}
