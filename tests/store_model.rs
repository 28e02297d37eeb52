//! The store against a model: random mutations, checked against an ordered map after each round.
//!
//! Three stores run side by side: the one under test; a twin that gets the same mutations through their encoding, as a replica does, and
//! must agree to the byte of `used_memory`; and now and then a learner that is built from snapshot chunks. This is also what the
//! memory checker runs: `DATAKEEPER_MODEL_STEPS=1500 valgrind …` on this test's binary, which uses the system allocator.
//!
//! Seeds are fixed; a failure names seed and step. `DATAKEEPER_MODEL_STEPS` is the number of mutations per seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::HashKey;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::segments::Segments;
use datakeeper::store::{Entry, Event, Mutation, Store, ValueRef, mutations};

const STEPS_DEFAULT: u64 = 30_000;
/// Seed, and how many different keys there are: from one segment that is rewritten all the time to many that split and merge.
const RUNS: [(u64, u64); 4] = [(1, 40), (2, 800), (3, 6_000), (4, 20_000)];

fn steps() -> u64 {
    match std::env::var("DATAKEEPER_MODEL_STEPS") {
        Ok(text) => text.parse().expect("DATAKEEPER_MODEL_STEPS is a number"),
        Err(_) => STEPS_DEFAULT,
    }
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<Wall>)>;
type Hand = Option<(Vec<u8>, Option<Wall>)>;

struct Run {
    jitter: Jitter,
    keys: u64,
    model: Model,
    hand: Hand,
    store: Store,
    twin: Store,
    /// Now and then bytes of the store that somebody else still holds, as a reply or the log would.
    held: Vec<(Bytes, Vec<u8>)>,
}

impl Run {
    fn new(seed: u64, keys: u64) -> Run {
        let hash_key = HashKey([seed as u8; 16]);
        let (store, twin) = (Store::new(hash_key), Store::new(hash_key));
        Run { jitter: Jitter::new(seed), keys, model: Model::new(), hand: None, store, twin, held: Vec::new() }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.jitter.below(self.keys);
        let pad = match number % 50 {
            0 => 300,
            1 => 255,
            2 => 256,
            n => n as usize % 9,
        };
        let mut key = number.to_le_bytes().to_vec();
        key.resize(8 + pad, b'k');
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.jitter.below(100) {
            0..=59 => self.jitter.below(150),
            60..=79 => self.jitter.below(1_000),
            80..=97 => self.jitter.below(10 << 10),
            98 => (4 << 10) - 1 + self.jitter.below(3),
            _ => (64 << 10) - 1 + self.jitter.below(9_000),
        };
        let first = self.jitter.next_u64() as u8;
        (0..length).map(|i| first.wrapping_add(i as u8)).collect()
    }

    fn expiry(&mut self) -> Option<Wall> {
        let wall = Wall(self.jitter.below(1_000));
        (self.jitter.below(3) == 0).then_some(wall)
    }

    fn step(&mut self) {
        let key = self.key();
        match self.jitter.below(1_000) {
            0..=389 => self.put(&key),
            390..=394 => self.apply(&Mutation::Lift { key: &key, event: Event::RenameFrom }),
            395..=396 => self.apply(&Mutation::Hold { key: &key }),
            397..=403 => self.apply(&Mutation::Lay { key: &key, event: Event::RenameTo }),
            404..=699 => self.apply(&Mutation::Delete { key: &key, event: Event::Del }),
            700..=799 => {
                let expiry = self.expiry();
                self.apply(&Mutation::SetExpiry { key: &key, expiry, event: Event::Expire });
            }
            800..=959 => self.splice(&key),
            960..=979 => self.sweep(),
            980..=989 => self.hold(&key),
            990..=994 => self.held.clear(),
            995..=997 => self.check_due(),
            998 if self.jitter.below(4) == 0 => self.clear_below(),
            999 if self.jitter.below(8) == 0 => self.apply(&Mutation::Clear),
            _ => self.check_scan(),
        }
    }

    fn put(&mut self, key: &[u8]) {
        let (bytes, expiry) = (self.value(), self.expiry());
        let value = if self.jitter.below(2) == 0 {
            ValueRef::Slice(&bytes)
        } else {
            ValueRef::Shared(Bytes::copy_from_slice(&bytes))
        };
        self.apply(&Mutation::Put { key, value, expiry, event: Event::Set });
    }

    fn splice(&mut self, key: &[u8]) {
        let old = self.model.get(key).map_or(0, |(value, _)| value.len()) as u64;
        let mut bytes = self.value();
        bytes.truncate(self.jitter.below(200) as usize);
        let at = if self.jitter.below(2) == 0 { old } else { self.jitter.below(old + 300) };
        let end = at + bytes.len() as u64;
        let length_after = if self.jitter.below(8) == 0 { end } else { end.max(old) };
        self.apply(&Mutation::Splice { key, at, bytes: &bytes, length_after, event: Event::Append });
    }

    fn apply(&mut self, m: &Mutation<'_>) {
        apply_to_model(&mut self.model, &mut self.hand, m);
        self.store.apply(m);
        let mut out = Segments::new();
        m.encode(&mut out);
        let body = Bytes::from(out.take_parts(&[]).concat());
        for decoded in mutations(&body) {
            self.twin.apply(&decoded.expect("what was encoded decodes"));
        }
        if let Some(key) = m.key() {
            let found = self.store.get(self.store.hash(key), key).map(owned);
            assert_eq!(found, self.model.get_key_value(key).map(|(k, v)| (k.clone(), v.clone())), "after {m:?}");
        }
    }

    fn sweep(&mut self) {
        let work = 1 + self.jitter.below(200) as usize;
        assert_eq!(self.store.sweep(work), self.twin.sweep(work), "only one of the twins has more to sweep");
    }

    fn hold(&mut self, key: &[u8]) {
        use datakeeper::store::Value;
        if let Some(entry) = self.store.get(self.store.hash(key), key)
            && let Value::Shared(bytes) = entry.value()
        {
            self.held.push((bytes.clone(), bytes.to_vec()));
        }
    }

    fn clear_below(&mut self) {
        let upto = self.jitter.next_u64();
        for store in [&mut self.store, &mut self.twin] {
            store.clear_below(Some(upto));
        }
        let store = &self.store;
        self.model.retain(|key, _| store.hash(key).0 >= upto);
    }

    fn check_due(&mut self) {
        let clock = Wall(self.jitter.below(1_000));
        let model = &self.model;
        self.store.due(clock, 500, &mut |key| {
            let (_, expiry) = &model[key];
            assert!(expiry.is_some_and(|expiry| expiry <= clock), "{key:?} is not due");
        });
    }

    fn check_scan(&mut self) {
        let count = 1 + self.jitter.below(500) as usize;
        let mut seen = Model::new();
        let mut cursor = 0;
        loop {
            cursor = self.store.scan(cursor, count, &mut |entry| {
                let (key, rest) = owned(entry);
                assert!(seen.insert(key, rest).is_none(), "a key came twice");
            });
            if cursor == 0 {
                break;
            }
        }
        assert!(seen == self.model, "the scan saw {} keys, there are {}", seen.len(), self.model.len());
    }

    fn check_chunks(&mut self) {
        let mut learner = Store::new(self.store.hash_key());
        // What was announced need not be what comes.
        learner.expect(self.jitter.below(2 * self.store.len() as u64 + 1));
        let mut next = Some(0);
        while let Some(from) = next {
            let mut out = Segments::new();
            let bytes_max = 1 + self.jitter.below(100_000) as usize;
            let chunk = self.store.chunk(from, bytes_max, &mut out);
            let body = Bytes::from(out.take_parts(&[]).concat());
            for mutation in mutations(&body) {
                learner.apply(&mutation.expect("a chunk decodes"));
            }
            next = chunk.upto;
        }
        learner.expect_no_more();
        while learner.sweep(1 + self.jitter.below(200) as usize) {}
        assert_eq!((learner.len(), learner.expires()), (self.store.len(), self.store.expires()));
        for (key, expected) in &self.model {
            let found = learner.get(learner.hash(key), key).map(owned);
            assert_eq!(found.as_ref().map(|(_, rest)| rest), Some(expected));
        }
    }

    fn check(&mut self) {
        assert_eq!(self.store.len(), self.model.len());
        assert_eq!(self.store.expires(), self.model.values().filter(|(_, expiry)| expiry.is_some()).count());
        assert_eq!(self.store.used_memory(), self.twin.used_memory(), "the twins disagree about their memory");
        assert_eq!(self.store.segments_overgrown(), 0);
        for (bytes, expected) in &self.held {
            assert!(bytes == expected, "a value changed under someone who shared it");
        }
        self.check_scan();
        self.check_chunks();
    }
}

fn owned(entry: Entry<'_>) -> (Vec<u8>, (Vec<u8>, Option<Wall>)) {
    (entry.key().to_vec(), (entry.value().as_slice().to_vec(), entry.expiry()))
}

fn apply_to_model(model: &mut Model, hand: &mut Hand, m: &Mutation<'_>) {
    match m {
        Mutation::Hold { key } => *hand = model.get(*key).cloned(),
        Mutation::Lift { key, .. } => *hand = model.remove(*key),
        Mutation::Lay { key, .. } => {
            if let Some(held) = hand.take() {
                model.insert(key.to_vec(), held);
            }
        }
        Mutation::Put { key, value, expiry, .. } => {
            model.insert(key.to_vec(), (value.as_slice().to_vec(), *expiry));
        }
        Mutation::Delete { key, .. } => {
            model.remove(*key);
        }
        Mutation::SetExpiry { key, expiry, .. } => {
            if let Some((_, old)) = model.get_mut(*key) {
                *old = *expiry;
            }
        }
        Mutation::Clear => model.clear(),
        Mutation::Splice { key, at, bytes, length_after, .. } => {
            let (value, _) = model.entry(key.to_vec()).or_default();
            value.resize(*length_after as usize, 0);
            value[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
    }
}

#[test]
fn the_store_does_what_an_ordered_map_would_do() {
    let steps = steps();
    for (seed, keys) in RUNS {
        let mut run = Run::new(seed, keys);
        let base = run.store.used_memory();
        let context = |step: u64| format!("seed {seed}, step {step}");
        for step in 0..steps {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run.step();
                if step % (steps / 6).max(1) == 0 {
                    run.check();
                }
            }));
            outcome.unwrap_or_else(|_| panic!("failed at {}", context(step)));
        }
        run.check();
        run.apply(&Mutation::Clear);
        assert!(run.store.is_empty());
        while run.store.sweep(100) {}
        assert_eq!(run.store.used_memory(), base, "bytes were lost by the accounts of seed {seed}");
    }
}

#[test]
fn a_store_that_shrinks_by_deletes_gives_its_segments_back() {
    let keys = (steps() * 2).max(2_000);
    let mut store = Store::new(HashKey([7; 16]));
    let base = store.used_memory();
    for key in 0..keys {
        let key = key.to_le_bytes();
        store.apply(&Mutation::Put { key: &key, value: ValueRef::Slice(b"value"), expiry: None, event: Event::Set });
    }
    let full = store.used_memory();
    for key in 0..keys {
        store.apply(&Mutation::Delete { key: &key.to_le_bytes(), event: Event::Del });
        if key % 64 == 0 {
            store.sweep(256);
        }
    }
    while store.sweep(256) {}
    let left = store.used_memory() - base;
    assert!(left * 100 < full, "{left} of {full} bytes are left");
}

#[test]
fn a_splice_that_contradicts_itself_changes_nothing() {
    let mut store = Store::new(HashKey([7; 16]));
    for (at, length_after) in [(u64::MAX, u64::MAX), (3, 4), (0, u64::MAX), (u64::MAX, 4)] {
        store.apply(&Mutation::Splice { key: b"key", at, bytes: b"ab", length_after, event: Event::SetRange });
    }
    assert!(store.is_empty());
}
