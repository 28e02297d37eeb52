//! The rules of the protocol that a build can leave out, one at a time, to prove that the simulator would notice.
//!
//! Each of them is asked for by [`LeftOut::leaves_out`] at the places where the rule is kept. Without the cargo feature
//! `leave-out-rules` the answer is always no, known to the compiler, and nothing takes room; with it the server refuses to start.

/// A rule, with what has to be seen without it: first those of PROTOCOL section 13, in its order, then those of what stands around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Row 1: a candidate waits until its promise is over, also when the leader's connection has closed.
    PromiseWait,
    /// Row 2: a lease is shorter than the promise it rests on.
    LeaseShorterThanPromise,
    /// Row 3: a lease counts from the sending of what was answered.
    LeaseFromSending,
    /// Row 4, R4: a candidate freezes before its compare-and-set.
    FreezeBeforeCas,
    /// Row 5: a compare-and-set is never given up, only resolved.
    ResolveCas,
    /// Row 6, R1: what a pending shrink removes is still waited for.
    UnionOfShrink,
    /// Row 7, R2: the set shrinks by compare-and-set only.
    ShrinkByCas,
    /// Row 8, R1: what a pending expand adds is already waited for.
    UnionOfExpand,
    /// Row 9: a read needs the lease of a member that is being added.
    LeaseOfPending,
    /// Row 10, R8: a learner is taken in once it has all that is held.
    ExpandWhenHeld,
    /// Row 11, R8: no learner is taken in before the barrier is held.
    ExpandAfterBarrier,
    /// Row 12, R10: a copy that lost its memory has a new id.
    NewCopyId,
    /// Row 13, R5: only a copy in the in-sync set stands.
    OnlyInSyncStands,
    /// Row 14, R7: a new leader reads nothing before the barrier is held.
    BarrierBeforeReads,
    /// Row 15, R7: a new leader acknowledges nothing before the barrier is held.
    BarrierBeforeAcks,
    /// Row 16, R3: a node remembers the highest epoch, and turns to no lower one.
    Fencing,
    /// Row 17, R8': a copy from a snapshot is complete only once the largest `as_of` in it is acknowledged.
    SnapshotFloor,
    /// A member tells what it promised when it heard the leader, not what it would promise by now.
    PromiseAsGranted,
    /// A node that shall end stays while a copy is filled from it without which too few would be left.
    LastCopyStays,
    /// A leader vouches for the age of what replicas have only once it has acknowledged something itself.
    VouchOnceAcked,
    /// The clock that keys expire by neither jumps nor stands still, whatever is done to the wall clock.
    SteadyClock,
    /// Members that fall silent a moment apart count together.
    SilentTogether,
    /// `total_loss: proven`: that another process has a name proves no death.
    NameIsNoProof,
    /// Whoever holds data keeps them when another process has its name.
    DataStay,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 24] = [
        Rule::PromiseWait,
        Rule::LeaseShorterThanPromise,
        Rule::LeaseFromSending,
        Rule::FreezeBeforeCas,
        Rule::ResolveCas,
        Rule::UnionOfShrink,
        Rule::ShrinkByCas,
        Rule::UnionOfExpand,
        Rule::LeaseOfPending,
        Rule::ExpandWhenHeld,
        Rule::ExpandAfterBarrier,
        Rule::NewCopyId,
        Rule::OnlyInSyncStands,
        Rule::BarrierBeforeReads,
        Rule::BarrierBeforeAcks,
        Rule::Fencing,
        Rule::SnapshotFloor,
        Rule::PromiseAsGranted,
        Rule::LastCopyStays,
        Rule::VouchOnceAcked,
        Rule::SteadyClock,
        Rule::SilentTogether,
        Rule::NameIsNoProof,
        Rule::DataStay,
    ];
}

/// The rule that a node leaves out: none, unless it was built to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(#[cfg(feature = "leave-out-rules")] Option<Rule>);

#[cfg(not(feature = "leave-out-rules"))]
const _: () = assert!(size_of::<LeftOut>() == 0, "a server carries nothing of this");

impl LeftOut {
    /// That rule and no other.
    #[cfg(feature = "leave-out-rules")]
    #[must_use]
    pub fn only(rule: Rule) -> LeftOut {
        LeftOut(Some(rule))
    }

    /// Whether `rule` is the one left out.
    #[inline(always)]
    #[must_use]
    pub fn leaves_out(self, rule: Rule) -> bool {
        #[cfg(feature = "leave-out-rules")]
        return self.0 == Some(rule);
        #[cfg(not(feature = "leave-out-rules"))]
        {
            let _ = rule;
            false
        }
    }
}
