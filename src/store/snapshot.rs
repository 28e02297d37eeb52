//! Snapshots: the store in chunks of whole hash ranges, as Put mutations (PROTOCOL.md 6).
//!
//! Writes go on between chunks: a chunk says what its range held when it was read, and the learner applies later mutations of a range
//! only if they are newer than its chunk. Nothing is copied on write and nothing is remembered here between chunks. Values of their own
//! are shared with the chunk, so its cost is bounded by `bytes_max` plus one segment.
//!
//! Not here: positions, windows, back-pressure (replication).

use super::{Event, Mutation, Store, Value, ValueRef};
use crate::base::segments::Segments;

/// What [`Store::chunk`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First hash behind the range; `None`: the range reaches to the end.
    pub upto: Option<u64>,
    /// Keys in the chunk.
    pub keys: usize,
    /// Bytes it appended.
    pub bytes: usize,
}

/// What passing a segment counts for, in bytes, so that empty ones are not free.
const SEGMENT_BYTES: usize = 64;

impl Store {
    /// Appends the keys with hashes from `from` on, whole segments, until they are `bytes_max` bytes or more; at least one segment.
    pub fn chunk(&self, from: u64, bytes_max: usize, out: &mut Segments) -> Chunk {
        let before = out.len();
        let mut keys = 0;
        let mut work = 0;
        let mut next = Some(from);
        while let Some(at) = next {
            let visit = self.space.visit(at);
            for entry in visit.entries(&self.space) {
                let value = match entry.value() {
                    Value::Bytes(bytes) => ValueRef::Slice(bytes),
                    Value::Shared(bytes) => ValueRef::Shared(bytes.clone()),
                };
                Mutation::Put { key: entry.key(), value, expiry: entry.expiry(), event: Event::Set }.encode(out);
                keys += 1;
            }
            next = visit.end;
            work += SEGMENT_BYTES;
            if out.len() - before + work >= bytes_max {
                break;
            }
        }
        Chunk { upto: next, keys, bytes: out.len() - before }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Wall;
    use crate::base::ids::HashKey;
    use crate::store::mutations;

    fn store(keys: u32) -> Store {
        let mut store = Store::new(HashKey([2; 16]));
        for i in 0..keys {
            let value = vec![i as u8; i as usize % 700];
            let expiry = (i % 5 == 0).then_some(Wall(u64::from(i)));
            let key = i.to_le_bytes();
            store.apply(&Mutation::Put { key: &key, value: ValueRef::Slice(&value), expiry, event: Event::Set });
        }
        store
    }

    #[test]
    fn chunks_rebuild_an_equal_store() {
        let original = store(10_000);
        let mut copy = Store::new(original.hash_key());
        let mut from = Some(0);
        let mut out = Segments::new();
        let mut total = 0;
        while let Some(start) = from {
            out.clear();
            let chunk = original.chunk(start, 32 << 10, &mut out);
            assert_eq!(chunk.bytes, out.len());
            assert!(chunk.bytes < (32 << 10) + 400 * 800, "{} bytes in one chunk", chunk.bytes);
            let body = Bytes::from(out.take_parts(&[]).concat());
            let mut keys = 0;
            for mutation in mutations(&body) {
                let mutation = mutation.unwrap();
                let h = copy.hash(mutation.key().unwrap());
                assert!(h.0 >= start && chunk.upto.is_none_or(|upto| h.0 < upto), "a key outside of its range");
                copy.apply_hashed(h, &mutation);
                keys += 1;
            }
            assert_eq!(keys, chunk.keys);
            total += keys;
            from = chunk.upto;
        }
        assert_eq!((total, copy.len(), copy.expires()), (10_000, 10_000, original.expires()));
    }

    #[test]
    fn a_chunk_that_begins_inside_a_segment_leaves_out_what_is_below() {
        let store = store(300);
        let mut hashes: Vec<u64> = (0..300_u32).map(|i| store.hash(&i.to_le_bytes()).0).collect();
        hashes.sort_unstable();
        let chunk = store.chunk(hashes[100], 1, &mut Segments::new());
        assert_eq!((chunk.keys, chunk.upto), (200, None));
    }

    #[test]
    fn big_values_are_shared_with_the_chunk() {
        let mut store = store(0);
        let big = Bytes::from(vec![1; 100_000]);
        store.apply(&Mutation::Put {
            key: b"k",
            value: ValueRef::Shared(big.clone()),
            expiry: None,
            event: Event::Set,
        });
        let mut out = Segments::new();
        store.chunk(0, 1, &mut out);
        assert!(out.take_parts(&[]).iter().any(|part| part.as_ptr() == big.as_ptr()));
    }
}
