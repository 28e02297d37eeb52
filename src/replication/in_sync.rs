//! What the in-sync set makes of acknowledgements (rule R1).
//!
//! While a change of the set is not resolved, the members of the old and of the new set count: whichever of the two `/state`
//! holds, every acknowledged entry is in each copy it names.

use crate::base::ids::{CopyId, Offset};
use crate::cluster::state::{ClusterState, Member};

/// The effective in-sync set: the confirmed members, and those of a change that is not resolved yet.
pub fn effective<'a>(
    confirmed: &'a ClusterState,
    pending: Option<&'a ClusterState>,
) -> impl Iterator<Item = &'a Member> {
    let added = pending.map_or(&[][..], |p| &p.in_sync).iter().filter(|m| !confirmed.in_sync.contains(m));
    confirmed.in_sync.iter().chain(added)
}

/// Highest offset that every member of the effective set has acknowledged in this epoch; `end` for the leader itself, and
/// for a member that has not acknowledged anything, zero.
#[must_use]
pub fn held<'a>(
    set: impl Iterator<Item = &'a Member>,
    me: CopyId,
    end: Offset,
    matched: impl Fn(CopyId) -> Option<Offset>,
) -> Offset {
    let of = |m: &Member| if m.copy == me { end } else { matched(m.copy).unwrap_or(Offset::ZERO) };
    set.map(of).min().unwrap_or(end)
}

/// Whether entries may be acknowledged: both sets are large enough.
#[must_use]
pub fn may_commit(confirmed: &ClusterState, pending: Option<&ClusterState>) -> bool {
    confirmed.may_commit() && pending.is_none_or(ClusterState::may_commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ChangeId, DatasetId};
    use crate::cluster::state::{Change, MinInSync, Why};

    fn member(n: u128) -> Member {
        Member { id: format!("n{n}").parse().unwrap(), copy: CopyId(n) }
    }

    #[test]
    fn a_pending_shrink_still_needs_the_removed_and_a_pending_expand_already_the_added() {
        let change = || Change { id: ChangeId(1), by: "n1".parse().unwrap(), why: Why::Expand, at_ms: 0 };
        let one = ClusterState::bootstrap("c", DatasetId(1), member(1), MinInSync::Auto, change());
        let two = one.expand(&member(2), change()).unwrap();
        let acks = |c: CopyId| if c == CopyId(2) { Some(Offset(5)) } else { None };
        for (confirmed, pending) in [(&one, Some(&two)), (&two, Some(&one)), (&two, None)] {
            let set = effective(confirmed, pending);
            assert_eq!(held(set, CopyId(1), Offset(9), acks), Offset(5));
        }
        assert_eq!(held(effective(&one, None), CopyId(1), Offset(9), acks), Offset(9));
        assert_eq!(held(effective(&two, None), CopyId(1), Offset(9), |_| None), Offset(0));
    }

    #[test]
    fn nothing_is_acknowledged_while_either_set_is_too_small() {
        let change = || Change { id: ChangeId(1), by: "n1".parse().unwrap(), why: Why::Expand, at_ms: 0 };
        let one = ClusterState::bootstrap("c", DatasetId(1), member(1), MinInSync::Count(2), change());
        let two = one.expand(&member(2), change()).unwrap();
        assert!(!may_commit(&one, Some(&two)) && !may_commit(&two, Some(&one)));
        assert!(may_commit(&two, None));
    }
}
