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
/// Of how many keys the mean time to live is taken, and what looking for them may cost, in entries.
const SAMPLED_KEYS: usize = 1_000;
const SAMPLING_WORK: usize = 20_000;

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

    /// Mean time to live at `clock`, ms, of those of the first thousand keys with an expiry, in hash order, that have time left: the order of
    /// hashes has nothing to do with what keys are, so they stand for all. 0 if there are none; `None` if no such key is near the start.
    #[must_use]
    pub fn mean_ttl_ms(&self, clock: Wall) -> Option<u64> {
        let (mut from, mut work) = (0, 0);
        let (mut sum, mut seen, mut left) = (0_u128, 0, 0);
        while work < SAMPLING_WORK && seen < SAMPLED_KEYS.min(self.expires()) {
            let visit = self.space.visit(from);
            if visit.segment.expiring() > 0 {
                let groups = (0..).map_while(|group| visit.segment.table.group(group));
                for entry in groups.flatten().map(|entry| entry.as_entry()) {
                    work += 1;
                    let Some(expiry) = entry.expiry() else { continue };
                    seen += 1;
                    if expiry > clock {
                        (sum, left) = (sum + u128::from(expiry.0 - clock.0), left + 1);
                    }
                }
            }
            work += SKIP_WORK;
            match visit.end {
                Some(end) => from = end,
                None => break,
            }
        }
        (seen > 0 || self.expires() == 0).then(|| (sum / left.max(1)) as u64)
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
    fn the_mean_time_to_live_is_of_keys_that_have_some() {
        let mean = |keys, expiry: fn(u64) -> Option<Wall>| store(keys, expiry).mean_ttl_ms(Wall(1_000));
        assert_eq!(mean(0, |_| None), Some(0));
        assert_eq!(mean(100, |_| None), Some(0));
        assert_eq!(mean(2, |i| Some(Wall(2_000 + i * 2_000))), Some(2_000));
        assert_eq!(mean(3, |i| (i > 0).then_some(Wall(i * 1_000))), Some(1_000), "one has no expiry, one no time left");
        let sampled = mean(50_000, |i| Some(Wall(1_000 + i))).unwrap();
        assert!((23_000..27_000).contains(&sampled), "{sampled} of 25,000");
        assert_eq!(mean(50_000, |i| (i == 7).then_some(Wall(1_900))), Some(900), "the only one among many");
    }

    #[test]
    fn nothing_is_visited_while_no_key_has_an_expiry() {
        let mut store = store(1_000, |_| None);
        assert!(!store.due(Wall(u64::MAX), 10, &mut |_| panic!("a key without expiry")));
        assert_eq!((store.rover.segment, store.rover.group), (0, 0));
    }
}
