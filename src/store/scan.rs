//! SCAN: the keys in the order of their hashes, whole segments at a time.
//!
//! ```text
//! cursor, below 2^53:  next hash >> 19 (45 bits) │ group (8 bits)
//! ```
//! A cursor is where the next segment begins, not a number of a segment: splits and merges in between move no key across it. So a key
//! that is there during the whole scan is returned, and only one that is deleted and created again can be returned twice.
//!
//! Not here: MATCH and TYPE (command). The group byte is 0: a store is one group, whoever routes looks at it.

use super::{Entry, Store};

/// Hash bits below the cursor's; no segment is that deep.
const HASH_SHIFT: u32 = 19;
/// Bits of the group's number.
const GROUP_BITS: u32 = 8;
/// Segments that one call passes at most, beside one per entry asked for: empty ones must not hold it up.
const SEGMENTS_MAX: usize = 64;

impl Store {
    /// Calls `f` for the keys of the next segments until at least `count` were seen. 0 starts a scan, and the cursor it returns is 0 when
    /// the scan is complete. Any number is a valid cursor.
    pub fn scan(&self, cursor: u64, count: usize, f: &mut dyn FnMut(Entry<'_>)) -> u64 {
        let mut from = cursor >> GROUP_BITS << HASH_SHIFT;
        let mut seen = 0;
        for _ in 0..SEGMENTS_MAX.saturating_add(count) {
            let visit = self.space.visit(from);
            visit.entries(&self.space).for_each(|entry| {
                seen += 1;
                f(entry);
            });
            match visit.end {
                None => return 0,
                Some(end) => from = end,
            }
            if seen >= count {
                break;
            }
        }
        from >> HASH_SHIFT << GROUP_BITS
    }

    /// The key that two random numbers name, about equally likely for each; `None` if there is none. Costs a segment.
    #[must_use]
    pub fn choose(&self, segment: u64, key: u64) -> Option<Entry<'_>> {
        let mut from = segment;
        while !self.is_empty() {
            let visit = self.space.visit(from);
            let keys = visit.segment.table.len();
            if keys > 0 {
                return visit.segment.table.iter().nth((key % keys as u64) as usize).map(|entry| entry.as_entry());
            }
            from = visit.end.unwrap_or(0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::HashKey;
    use crate::store::{Event, Mutation, ValueRef};

    fn put(store: &mut Store, key: u32) {
        let key = key.to_le_bytes();
        store.apply(&Mutation::Put { key: &key, value: ValueRef::Slice(b""), expiry: None, event: Event::Set });
    }

    fn delete(store: &mut Store, key: u32) {
        store.apply(&Mutation::Delete { key: &key.to_le_bytes(), event: Event::Del });
    }

    #[test]
    fn cursors_fit_a_double_and_leave_the_group_byte_zero() {
        let mut store = Store::new(HashKey([1; 16]));
        (0..20_000).for_each(|key| put(&mut store, key));
        let (mut cursor, mut seen, mut calls) = (0, 0, 0);
        loop {
            cursor = store.scan(cursor, 10, &mut |_| seen += 1);
            calls += 1;
            assert!(cursor < 1 << 53 && cursor.trailing_zeros() >= GROUP_BITS);
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(seen, 20_000);
        assert!(calls > 40, "{calls} calls for 20,000 keys");
    }

    #[test]
    fn any_number_is_a_valid_cursor() {
        let mut store = Store::new(HashKey([1; 16]));
        (0..2_000).for_each(|key| put(&mut store, key));
        for cursor in [u64::MAX, 1, 255, 1 << 53, (1 << 53) - 1, 0x1234_5678_9abc_def0] {
            let next = store.scan(cursor, 1, &mut |_| {});
            assert!(next < 1 << 53);
        }
    }

    #[test]
    fn each_key_is_chosen_about_equally_often() {
        use crate::base::jitter::Jitter;
        let (mut store, mut chance) = (Store::new(HashKey([1; 16])), Jitter::new(7));
        assert!(store.choose(0, 0).is_none());
        (0..2_000).for_each(|key| put(&mut store, key));
        let mut counts = BTreeMap::<u32, u32>::new();
        for _ in 0..100_000 {
            let entry = store.choose(chance.next_u64(), chance.next_u64()).expect("there are keys");
            *counts.entry(u32::from_le_bytes(entry.key().try_into().unwrap())).or_default() += 1;
        }
        assert_eq!(counts.len(), 2_000);
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert!(*least > 10 && *most < 150, "50 expected of each, {least} to {most} seen");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Keys 0..`stay` stay; the others come and go in big waves while the scan is under way, so that segments split and merge.
        #[test]
        fn a_key_that_stays_is_returned_once_across_splits_and_merges(
            seed: [u8; 16], stay in 1_u32..3_000, count in 1_usize..400, waves in prop::collection::vec((any::<bool>(), 1_u32..6_000), 1..40),
        ) {
            let mut store = Store::new(HashKey(seed));
            (0..stay).for_each(|key| put(&mut store, key));
            let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
            let mut cursor = 0;
            let mut waves = waves.into_iter().cycle();
            loop {
                cursor = store.scan(cursor, count, &mut |entry| {
                    *seen.entry(u32::from_le_bytes(entry.key().try_into().unwrap())).or_default() += 1;
                });
                if cursor == 0 {
                    break;
                }
                let (come, size) = waves.next().unwrap();
                let wave = 10_000..10_000 + size;
                if come {
                    wave.for_each(|key| put(&mut store, key));
                } else {
                    wave.for_each(|key| delete(&mut store, key));
                    while store.sweep(1_000) {}
                }
            }
            for key in 0..stay {
                prop_assert_eq!(seen.get(&key), Some(&1), "key {}", key);
            }
        }
    }
}
