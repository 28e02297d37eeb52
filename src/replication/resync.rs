//! How a follower is brought up to date: continue, truncate to the common end and continue, or start over.
//!
//! The common end is found as Kafka does since KIP-101, with KIP-279's correction: from the follower's last epoch down to one
//! that both logs know; there both hold the same entries up to the lower of the two ends.

use crate::base::ids::{Epoch, Offset, Position};

/// What the leader answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// The follower's log is a prefix: go on after its last entry.
    Stream,
    /// Drop what comes after this offset, then go on.
    Truncate(Offset),
    /// Nothing in common that can be used.
    Full,
}

/// The part of a log that the decision needs.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Epoch → first offset, ascending.
    pub epochs: &'a [(Epoch, Offset)],
    /// Last entry.
    pub last: Position,
}

impl View<'_> {
    /// Last offset of that epoch in this log.
    fn end_of(&self, epoch: Epoch) -> Option<Offset> {
        let i = self.epochs.iter().position(|(e, _)| *e == epoch)?;
        Some(self.epochs.get(i + 1).map_or(self.last.offset, |(_, next)| Offset(next.0 - 1)))
    }
}

/// Highest offset up to which two logs of one dataset are certainly equal; `None` if that cannot be told any more.
#[must_use]
pub fn common_end(a: View<'_>, b: View<'_>) -> Option<Offset> {
    for (epoch, _) in b.epochs.iter().rev() {
        if let (Some(x), Some(y)) = (a.end_of(*epoch), b.end_of(*epoch)) {
            return Some(x.min(y));
        }
    }
    // Both begin at the first entry of all, or hold nothing: equal up to "before every entry".
    let from_start = |v: &View<'_>| v.epochs.first().is_none_or(|(_, first)| first.0 <= 1);
    (from_start(&a) && from_start(&b)).then_some(Offset::ZERO)
}

/// Decides for a follower that has executed up to `executed`; the leader's log begins after `leader_base`.
#[must_use]
pub fn decide(leader: View<'_>, leader_base: Offset, follower: View<'_>, executed: Offset) -> Resync {
    match common_end(leader, follower) {
        Some(end) if end >= executed && end >= leader_base => {
            if end == follower.last.offset {
                Resync::Stream
            } else {
                Resync::Truncate(end)
            }
        }
        _ => Resync::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(u64, u64)]) -> Vec<(Epoch, Offset)> {
        rows.iter().map(|(e, o)| (Epoch(*e), Offset(*o))).collect()
    }

    fn ask(
        leader: &[(u64, u64)],
        leader_end: u64,
        base: u64,
        follower: &[(u64, u64)],
        end: u64,
        executed: u64,
    ) -> Resync {
        let (l, f) = (table(leader), table(follower));
        let at =
            |t: &[(Epoch, Offset)], end| Position { epoch: t.last().map_or(Epoch(0), |e| e.0), offset: Offset(end) };
        decide(
            View { epochs: &l, last: at(&l, leader_end) },
            Offset(base),
            View { epochs: &f, last: at(&f, end) },
            Offset(executed),
        )
    }

    #[test]
    fn a_prefix_continues_after_its_last_entry() {
        assert_eq!(ask(&[(1, 1)], 9, 0, &[(1, 1)], 7, 7), Resync::Stream);
        assert_eq!(ask(&[(1, 1), (2, 8)], 9, 0, &[(1, 1)], 7, 7), Resync::Stream);
        assert_eq!(ask(&[(1, 1)], 1, 0, &[], 0, 0), Resync::Stream);
    }

    #[test]
    fn a_longer_or_contradicting_tail_is_cut_at_the_common_end() {
        assert_eq!(ask(&[(1, 1), (2, 8)], 11, 0, &[(1, 1), (3, 10)], 12, 5), Resync::Truncate(Offset(7)));
        assert_eq!(ask(&[(1, 1), (3, 8)], 9, 0, &[(1, 1), (2, 6)], 9, 5), Resync::Truncate(Offset(5)));
        assert_eq!(ask(&[(2, 1)], 3, 0, &[(1, 1)], 4, 0), Resync::Truncate(Offset(0)));
    }

    #[test]
    fn an_executed_entry_is_never_cut_and_a_gap_never_bridged() {
        assert_eq!(ask(&[(1, 1), (2, 8)], 11, 0, &[(1, 1)], 9, 8), Resync::Full);
        assert_eq!(ask(&[(1, 1)], 100, 50, &[(1, 1)], 40, 40), Resync::Full);
        assert_eq!(ask(&[(5, 30)], 100, 50, &[(4, 20)], 25, 20), Resync::Full);
    }
}
