//! The receiving side of a full resync: which entries count for which keys.
//!
//! Chunks come in hash order, each with `as_of`, the leader's log end when it was read. A mutation of a key whose range has not
//! arrived is skipped: the chunk will hold its effect. One of a key whose range has arrived is applied if and only if its
//! offset is greater than that chunk's `as_of`. Exact for every kind of mutation, and nothing is copied on write. `as_of` never
//! falls from one chunk to the next, so the ranges that a `Clear` counts for are a prefix of the hash order.

use crate::base::clock::Boot;
use crate::base::ids::Offset;

/// What has arrived of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    /// Ends of the ranges in order (exclusive; `None` for the last), each with its `as_of`.
    ranges: Vec<(Option<u64>, Offset)>,
    /// Keys received.
    pub keys: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Keys that the leader had when it began.
    pub keys_total: u64,
    /// When it began.
    pub began: Boot,
    /// When its progress was told last.
    pub told: Boot,
}

impl Intake {
    /// Nothing has arrived yet, of about `keys_total` keys.
    #[must_use]
    pub fn new(keys_total: u64, now: Boot) -> Intake {
        Intake { keys_total, began: now, told: now, ..Intake::default() }
    }

    /// First hash that has not arrived; `None` when everything has.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        match self.ranges.last() {
            None => Some(0),
            Some((upto, _)) => *upto,
        }
    }

    /// Whether the last chunk has arrived.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.next().is_none()
    }

    /// Largest `as_of` so far: below it the copy is not a state that the leader ever had.
    #[must_use]
    pub fn as_of(&self) -> Offset {
        self.ranges.last().map_or(Offset::ZERO, |r| r.1)
    }

    /// Takes note of a chunk.
    ///
    /// # Errors
    /// It does not begin where the last one ended, is empty, or was read before it.
    pub fn add(&mut self, from: u64, upto: Option<u64>, as_of: Offset) -> Result<(), String> {
        if self.next() != Some(from) || upto.is_some_and(|u| u <= from) || as_of < self.as_of() {
            return Err(format!(
                "chunk from {from:#x} as of {as_of} does not follow {:?} as of {}",
                self.next(),
                self.as_of()
            ));
        }
        self.ranges.push((upto, as_of));
        Ok(())
    }

    /// Whether the entry at `offset` counts for a key with this hash.
    #[must_use]
    pub fn counts(&self, hash: u64, offset: Offset) -> bool {
        let i = self.ranges.partition_point(|(upto, _)| upto.is_some_and(|u| u <= hash));
        self.ranges.get(i).is_some_and(|(_, as_of)| offset > *as_of)
    }

    /// End of the ranges that a `Clear` at `offset` counts for: `None` if for none, `Some(None)` if for all that can be.
    #[must_use]
    pub fn cleared_below(&self, offset: Offset) -> Option<Option<u64>> {
        let n = self.ranges.partition_point(|(_, as_of)| offset > *as_of);
        (n > 0).then(|| self.ranges[n - 1].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_only_for_ranges_read_before_it() {
        let mut intake = Intake::default();
        intake.add(0, Some(100), Offset(5)).unwrap();
        intake.add(100, Some(200), Offset(8)).unwrap();
        assert!(intake.counts(50, Offset(6)) && !intake.counts(50, Offset(5)));
        assert!(!intake.counts(150, Offset(6)) && intake.counts(150, Offset(9)));
        assert!(!intake.counts(250, Offset(99)), "its range has not arrived");
        assert_eq!(intake.cleared_below(Offset(7)), Some(Some(100)));
        assert_eq!(intake.cleared_below(Offset(5)), None);
        intake.add(200, None, Offset(8)).unwrap();
        assert!(intake.complete() && intake.counts(u64::MAX, Offset(9)));
        assert_eq!(intake.cleared_below(Offset(9)), Some(None));
    }

    #[test]
    fn chunks_out_of_order_are_refused() {
        let mut intake = Intake::default();
        assert!(intake.add(1, None, Offset(0)).is_err());
        intake.add(0, Some(9), Offset(4)).unwrap();
        assert!(intake.add(9, Some(9), Offset(4)).is_err());
        assert!(intake.add(9, None, Offset(3)).is_err());
        intake.add(9, None, Offset(4)).unwrap();
        assert!(intake.add(0, None, Offset(9)).is_err());
    }
}
