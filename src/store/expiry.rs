//! Active expiry: finds keys whose time has come, a slice at a time.
//!
//! A rover goes round all segments in hash order, one group of slots at a time, and skips segments without expiries. It removes
//! nothing: what it finds is for the leader to delete by logged mutations. A segment that is rebuilt under it may be visited in part
//! twice or not; the next round makes up for that.

use super::Store;
use crate::base::clock::Wall;

/// Where the next slice begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rover {
    /// A hash in the segment.
    segment: u64,
    /// Group of slots in its table.
    group: usize,
}

/// What skipping a segment costs, in entries.
const SKIP_WORK: usize = 1;

impl Store {
    /// Calls `f` for each key of the next slice whose expiry is at or before `clock`. A slice visits about `work` entries and ends at the
    /// end of a round. Costs next to nothing while no key has an expiry. Returns whether the round goes on.
    pub fn due(&mut self, clock: Wall, work: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        let mut spent = 0;
        while spent < work && self.expires() > 0 {
            let visit = self.space.visit(self.rover.segment);
            let table = (visit.segment.expiring() > 0).then_some(&visit.segment.table);
            match table.and_then(|table| table.group(self.rover.group)) {
                Some(entries) => {
                    for entry in entries.map(|entry| entry.as_entry()) {
                        spent += 1;
                        if entry.is_expired(clock) {
                            f(entry.key());
                        }
                    }
                    self.rover.group += 1;
                }
                None => {
                    spent += SKIP_WORK;
                    self.rover = Rover { segment: visit.end.unwrap_or(0), group: 0 };
                    if visit.end.is_none() {
                        return false;
                    }
                }
            }
        }
        self.expires() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::HashKey;
    use crate::store::{Event, Mutation, ValueRef};

    fn store(keys: u64, expiry: impl Fn(u64) -> Option<Wall>) -> Store {
        let mut store = Store::new(HashKey([3; 16]));
        for i in 0..keys {
            let key = i.to_le_bytes();
            store.apply(&Mutation::Put {
                key: &key,
                value: ValueRef::Slice(b"v"),
                expiry: expiry(i),
                event: Event::Set,
            });
        }
        store
    }

    #[test]
    fn one_round_finds_each_due_key_once_and_no_other() {
        let mut store = store(5_000, |i| (i % 3 == 0).then_some(Wall(i)));
        let mut found = Vec::new();
        let mut calls = 0;
        loop {
            let goes_on =
                store.due(Wall(2_999), 64, &mut |key| found.push(u64::from_le_bytes(key.try_into().unwrap())));
            calls += 1;
            assert_eq!(goes_on, store.rover.segment != 0 || store.rover.group != 0);
            if !goes_on {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..3_000).step_by(3).collect::<Vec<_>>());
        assert!(calls >= 5_000 / 128, "{calls} calls: a slice visited far more than it was allowed");
    }

    #[test]
    fn nothing_is_visited_while_no_key_has_an_expiry() {
        let mut store = store(1_000, |_| None);
        assert!(!store.due(Wall(u64::MAX), 10, &mut |_| panic!("a key without expiry")));
        assert_eq!((store.rover.segment, store.rover.group), (0, 0));
    }
}
