//! Which key goes first when memory is short.
//!
//! ```text
//! a random place in the table ──► a few keys ──► pool of the 16 best candidates so far ──► the best of them
//! ```
//! No key stands in any list for this: each search looks at a few keys anew, and the pool remembers the best of earlier searches, which is
//! close to the truth at a small part of its price. Source: Redis, `evict.c`. Unlike there, a candidate that was used since it
//! was found is passed over.
//!
//! Keys with an expiry have no index of their own: segments know how many they hold, so that those without are skipped; where they are rare, a
//! search goes on where the last one had to stop.
//!
//! Not here: when to evict, and how that gets into the log (keeper).

use super::{Entry, KeyHash, Store};
use crate::base::clock::Wall;
use crate::base::jitter::Jitter;

/// Candidates that are remembered.
const POOL: usize = 16;
/// Places of a table that are tried for one that is taken.
const PLACES: usize = 4;

/// What happens at the limit of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Nothing goes; writes are refused with `-OOM`, reads and deletes go on.
    NoEviction,
    /// The key that was not used for longest.
    AllKeysLru,
    /// The key that is used least often.
    AllKeysLfu,
    /// Any key.
    AllKeysRandom,
    /// Of the keys with an expiry, the one that was not used for longest.
    VolatileLru,
    /// Of the keys with an expiry, the one that is used least often.
    VolatileLfu,
    /// Any key with an expiry.
    VolatileRandom,
    /// The key that expires next.
    VolatileTtl,
}

impl Eviction {
    /// Each with its name in the configuration, INFO and CONFIG; in Redis's order.
    pub const WORDS: &'static [(&'static str, Eviction)] = &[
        ("volatile-lru", Eviction::VolatileLru),
        ("volatile-lfu", Eviction::VolatileLfu),
        ("volatile-random", Eviction::VolatileRandom),
        ("volatile-ttl", Eviction::VolatileTtl),
        ("allkeys-lru", Eviction::AllKeysLru),
        ("allkeys-lfu", Eviction::AllKeysLfu),
        ("allkeys-random", Eviction::AllKeysRandom),
        ("noeviction", Eviction::NoEviction),
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Eviction::WORDS.iter().find(|(_, eviction)| *eviction == self).map_or("", |(word, _)| word)
    }

    /// Whether it goes by how often keys are used.
    #[must_use]
    pub fn by_frequency(self) -> bool {
        matches!(self, Eviction::AllKeysLfu | Eviction::VolatileLfu)
    }

    /// Whether only keys with an expiry may go.
    fn volatile(self) -> bool {
        match self {
            Eviction::VolatileLru | Eviction::VolatileLfu | Eviction::VolatileRandom | Eviction::VolatileTtl => true,
            Eviction::NoEviction | Eviction::AllKeysLru | Eviction::AllKeysLfu | Eviction::AllKeysRandom => false,
        }
    }

    fn by_chance(self) -> bool {
        matches!(self, Eviction::AllKeysRandom | Eviction::VolatileRandom)
    }
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victim {
    /// This key is to go.
    Key(KeyHash, Box<[u8]>),
    /// None was found with the work that was allowed: there is one.
    NotYet,
    /// No key may go.
    None,
}

/// The best candidates so far, and where a search goes on that found none.
#[derive(Debug)]
pub(super) struct Pool {
    /// What it was filled for.
    eviction: Eviction,
    /// The best last.
    candidates: Vec<(u64, Box<[u8]>)>,
    /// Hash from which to look for a key with an expiry.
    from: Option<u64>,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { eviction: Eviction::NoEviction, candidates: Vec::new(), from: None }
    }
}

impl Pool {
    /// Takes a candidate in, if it is better than the worst, or there is room.
    fn offer(&mut self, rank: u64, key: &[u8]) {
        let full = self.candidates.len() == POOL;
        let at = self.candidates.partition_point(|(other, _)| *other < rank);
        if full && at == 0 || self.candidates.iter().any(|(_, other)| **other == *key) {
            return;
        }
        self.candidates.insert(at, (rank, key.into()));
        if full {
            self.candidates.remove(0);
        }
    }
}

impl Store {
    /// Looks for the next key to go, among `samples` more at least. Takes what that costs from `work`, in entries looked at.
    pub fn victim(&mut self, eviction: Eviction, samples: usize, chance: &mut Jitter, work: &mut usize) -> Victim {
        let mut pool = std::mem::take(&mut self.pool);
        if pool.eviction != eviction {
            pool = Pool { eviction, ..Pool::default() };
        }
        let victim = self.search(&mut pool, samples, chance, work);
        self.pool = pool;
        victim
    }

    fn search(&self, pool: &mut Pool, samples: usize, chance: &mut Jitter, work: &mut usize) -> Victim {
        let eviction = pool.eviction;
        let samples = if eviction.by_chance() { 1 } else { samples };
        loop {
            let there_are = if eviction.volatile() { self.expires() } else { self.len() };
            if there_are == 0 || eviction == Eviction::NoEviction {
                return Victim::None;
            }
            if *work == 0 {
                return Victim::NotYet;
            }
            let from = pool.from.take().unwrap_or_else(|| chance.next_u64());
            pool.from = self.sample(eviction.volatile(), from, chance, samples, work, &mut |entry| {
                pool.offer(self.rank(eviction, entry), entry.key());
            });
            while let Some((rank, key)) = pool.candidates.pop() {
                let h = self.hash(&key);
                if self.get(h, &key).is_some_and(|entry| may_go(eviction, entry) && self.rank(eviction, entry) >= rank)
                {
                    return Victim::Key(h, key);
                }
            }
        }
    }

    /// How much a key deserves to go.
    fn rank(&self, eviction: Eviction, entry: Entry<'_>) -> u64 {
        let clock = entry.clock();
        match eviction {
            Eviction::AllKeysLru | Eviction::VolatileLru => self.access.idle_s(clock).map_or(0, u64::from),
            Eviction::AllKeysLfu | Eviction::VolatileLfu => {
                self.access.counter(clock).map_or(0, |c| 255 - u64::from(c))
            }
            Eviction::VolatileTtl => u64::MAX - entry.expiry().map_or(u64::MAX, |Wall(at)| at),
            Eviction::AllKeysRandom | Eviction::VolatileRandom | Eviction::NoEviction => 0,
        }
    }

    /// Calls `f` with about `count` entries from a random place of the segment at `from` on, then of those behind it. Returns where to go on if
    /// the work was over before one was found.
    fn sample(
        &self,
        volatile: bool,
        from: u64,
        chance: &mut Jitter,
        count: usize,
        work: &mut usize,
        f: &mut dyn FnMut(Entry<'_>),
    ) -> Option<u64> {
        let (mut at, mut found) = (from, 0);
        loop {
            let visit = self.space.visit(at);
            let candidates = if volatile { visit.segment.expiring() } else { visit.segment.table.len() };
            *work = work.saturating_sub(1);
            if candidates > 0 {
                let table = &visit.segment.table;
                // A place that is taken: the entry behind empty ones would go more often than others.
                let mut draw = || chance.below(table.places() as u64) as usize;
                let mut place = draw();
                for _ in 1..PLACES {
                    if table.is_taken(place) {
                        break;
                    }
                    place = draw();
                }
                for entry in table.iter_from(place) {
                    *work = work.saturating_sub(1);
                    let entry = entry.as_entry();
                    if !volatile || entry.expiry().is_some() {
                        found += 1;
                        f(entry);
                    }
                    if found == count.min(candidates) {
                        break;
                    }
                }
            }
            at = visit.end.unwrap_or(0);
            if found > 0 {
                return None;
            }
            if *work == 0 {
                return Some(at);
            }
        }
    }
}

fn may_go(eviction: Eviction, entry: Entry<'_>) -> bool {
    !eviction.volatile() || entry.expiry().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Boot;
    use crate::base::ids::HashKey;
    use crate::store::{Event, Mutation, Tracking, ValueRef};

    const KEYS: u64 = 9_000;

    fn put(store: &mut Store, key: u64, expiry: Option<Wall>) {
        let (key, value) = (key.to_be_bytes(), ValueRef::Slice(b"v"));
        store.apply(&Mutation::Put { key: &key, value, expiry, event: Event::Set });
    }

    fn use_key(store: &mut Store, key: u64) {
        let key = key.to_be_bytes();
        let h = store.hash(&key);
        assert!(store.use_key(h, &key).is_some());
    }

    fn at(store: &mut Store, seconds: u64) {
        store.tell_time(Boot(seconds * 1_000_000_000));
    }

    /// Evicts `count` keys, and returns them in that order.
    fn evict(store: &mut Store, eviction: Eviction, samples: usize, count: usize) -> Vec<u64> {
        let mut chance = Jitter::new(7);
        let mut gone = Vec::new();
        while gone.len() < count {
            let mut work = 100;
            match store.victim(eviction, samples, &mut chance, &mut work) {
                Victim::Key(h, key) => {
                    gone.push(u64::from_be_bytes((*key).try_into().unwrap()));
                    store.apply_hashed(h, &Mutation::Delete { key: &key, event: Event::Evicted });
                }
                Victim::NotYet => assert_eq!(work, 0),
                Victim::None => break,
            }
        }
        gone
    }

    /// Share of these keys, in percent, that a perfect order would have evicted, too: those below `bound`.
    fn percent_below(gone: &[u64], bound: u64) -> usize {
        gone.iter().filter(|key| **key < bound).count() * 100 / gone.len()
    }

    #[test]
    fn lru_evicts_what_was_used_longest_ago() {
        // Sampling with a pool of 16 comes to 70, 83 and 92 % where all choices are equally likely, as a simulation of it alone says.
        for (samples, least) in [(3, 66), (5, 79), (10, 89)] {
            let mut store = Store::new(HashKey([1; 16]));
            (0..KEYS).for_each(|key| put(&mut store, key, None));
            // Used in another order than they were made: key 0 longest ago.
            for key in 0..KEYS {
                at(&mut store, 10 + key);
                use_key(&mut store, key);
            }
            let gone = evict(&mut store, Eviction::AllKeysLru, samples, KEYS as usize / 3);
            let share = percent_below(&gone, KEYS / 3);
            assert!(share >= least, "{samples} samples: {share} % of a third that went was the oldest third");
        }
    }

    /// Asks a cache of `room` keys for them by a law in which the first half of all requests is for 1 % of the keys, the next quarter for 5 %, the rest
    /// for all, five times for each key. Returns the hits of a store that evicts so, and those of a true LRU.
    fn hits(eviction: Eviction, room: usize) -> (usize, usize) {
        let mut store = Store::new(HashKey([1; 16]));
        let (mut law, mut chance) = (Jitter::new(3), Jitter::new(7));
        let (mut truth, mut used) = (std::collections::BTreeMap::new(), vec![0; KEYS as usize]);
        let (mut hits, mut true_hits) = (0, 0);
        for request in 1..=KEYS * 5 {
            at(&mut store, request / 100);
            let key = match law.below(4) {
                0 | 1 => law.below(KEYS / 100),
                2 => law.below(KEYS / 20),
                _ => law.below(KEYS),
            };
            let name = key.to_be_bytes();
            if store.use_key(store.hash(&name), &name).is_some() {
                hits += 1;
            } else {
                while store.len() >= room {
                    if let Victim::Key(h, key) = store.victim(eviction, 5, &mut chance, &mut 100) {
                        store.apply_hashed(h, &Mutation::Delete { key: &key, event: Event::Evicted });
                    }
                }
                put(&mut store, key, None);
            }
            if truth.remove(&std::mem::replace(&mut used[key as usize], request)).is_some() {
                true_hits += 1;
            } else if truth.len() == room {
                truth.pop_first();
            }
            truth.insert(request, key);
        }
        (hits, true_hits)
    }

    #[test]
    fn cache_hits_about_as_often_as_a_true_lru_of_as_many_keys() {
        let (lru, truth) = hits(Eviction::AllKeysLru, KEYS as usize / 10);
        let (random, _) = hits(Eviction::AllKeysRandom, KEYS as usize / 10);
        assert!(lru * 100 >= truth * 98, "{lru} hits, a true LRU has {truth}");
        assert!(
            random * 100 < truth * 95,
            "{random} hits by chance, a true LRU has {truth}: these requests tell nothing"
        );
    }

    #[test]
    fn lfu_evicts_what_is_used_seldom() {
        let mut store = Store::new(HashKey([1; 16]));
        store.track(Tracking::Frequency { log_factor: 10, decay_minutes: 1 });
        at(&mut store, 60);
        (0..KEYS).for_each(|key| put(&mut store, key, None));
        for key in KEYS / 3..KEYS {
            (0..50).for_each(|_| use_key(&mut store, key));
        }
        let gone = evict(&mut store, Eviction::AllKeysLfu, 5, KEYS as usize / 5);
        assert!(percent_below(&gone, KEYS / 3) >= 90);
    }

    #[test]
    fn volatile_policies_evict_only_what_expires_and_then_nothing() {
        for eviction in [Eviction::VolatileLru, Eviction::VolatileLfu, Eviction::VolatileRandom, Eviction::VolatileTtl]
        {
            let mut store = Store::new(HashKey([1; 16]));
            // One in 300 expires: most segments of the table have one, or none.
            (0..KEYS).for_each(|key| put(&mut store, key, (key % 300 == 7).then_some(Wall(key))));
            let mut gone = evict(&mut store, eviction, 5, KEYS as usize);
            gone.sort_unstable();
            assert_eq!(gone, (0..KEYS).filter(|key| key % 300 == 7).collect::<Vec<_>>(), "{eviction:?}");
        }
    }

    #[test]
    fn ttl_evicts_what_expires_next() {
        let mut store = Store::new(HashKey([1; 16]));
        (0..KEYS).for_each(|key| put(&mut store, key, Some(Wall(1_000 + key))));
        let gone = evict(&mut store, Eviction::VolatileTtl, 5, KEYS as usize / 3);
        assert!(percent_below(&gone, KEYS / 3) >= 79);
    }

    #[test]
    fn random_evicts_each_key_about_equally_likely() {
        let mut store = Store::new(HashKey([1; 16]));
        (0..KEYS).for_each(|key| put(&mut store, key, None));
        let gone = evict(&mut store, Eviction::AllKeysRandom, 5, KEYS as usize / 3);
        for tenth in 1..10 {
            let share = percent_below(&gone, KEYS * tenth / 10);
            assert!(share.abs_diff(tenth as usize * 10) <= 4, "{share} % of what went is in the first {tenth} tenths");
        }
    }

    #[test]
    fn candidate_that_was_used_meanwhile_stays() {
        let mut store = Store::new(HashKey([1; 16]));
        at(&mut store, 1);
        (0..40).for_each(|key| put(&mut store, key, None));
        at(&mut store, 100);
        assert_eq!(evict(&mut store, Eviction::AllKeysLru, 20, 1).len(), 1);
        let pooled: Vec<u64> =
            store.pool.candidates.iter().map(|(_, key)| u64::from_be_bytes((**key).try_into().unwrap())).collect();
        assert!(pooled.len() > 10);
        pooled.iter().for_each(|key| use_key(&mut store, *key));
        let left = 40 - 1 - pooled.len();
        let gone = evict(&mut store, Eviction::AllKeysLru, 20, left);
        assert!(gone.iter().all(|key| !pooled.contains(key)), "{gone:?} of which {pooled:?} had just been used");
    }
}
