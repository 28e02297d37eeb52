//! Floor 1: the keyspace and the mutations that are its only way in.
//!
//! ```text
//! Mutation ──apply──► Store ──► keyspace: directory → segment ──► table: group of tags → pointer ──► entry: header, key, value
//!                       │
//!    reads: get · scan · due · chunk            work put off: sweep
//! ```
//! [`Store::apply`] is the sole writer, on the leader and on replicas alike, so equal mutations make equal stores. Times and the hash
//! key come from outside; expired keys are data like others here: who may not see them is decided above, and only the leader
//! removes them, by a logged mutation.
//!
//! Whether a watched key changed is noted there, too (`watch`), and what happened to keys, if somebody wants to tell of it
//! (`noted`). When a key was used (`access`) is this node's own: it is no part of what mutations
//! make, and two equal stores may differ in it. `eviction` finds the key that is to go next.
//!
//! Not here: commands, limits on memory. `unsafe` is confined to `entry.rs`.

#![deny(unsafe_code)]

mod access;
#[allow(unsafe_code)]
mod entry;
mod eviction;
mod expiry;
mod keyspace;
mod mutation;
mod noted;
mod scan;
mod size_class;
mod snapshot;
mod table;
mod watch;

pub use access::Tracking;
pub use entry::{Entry, INLINE_BYTES_MAX, Value};
pub use eviction::{Eviction, Victim};
pub use mutation::{Event, HAND_SINCE, Mutation, MutationError, NOVELTY, ValueRef, mutations};
pub use noted::Noted;
pub use snapshot::Chunk;
pub use watch::Watch;

use bytes::Bytes;

use crate::base::clock::{Boot, Wall};
use crate::base::ids::HashKey;
use access::Access;
use entry::{EntryBox, Splice};
use eviction::Pool;
use expiry::Rover;
use keyspace::Keyspace;
use noted::Notes;
use watch::Watched;

/// SipHash-1-3 of a key under the dataset's secret. Numeric order is the order of segments, hence of SCAN and of snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(pub u64);

/// All keys of one group.
pub struct Store {
    hash_key: HashKey,
    space: Keyspace,
    /// Where active expiry goes on.
    rover: Rover,
    watched: Watched,
    access: Access,
    /// Candidates for eviction.
    pool: Pool,
    notes: Notes,
    /// What moves from key to key, between two mutations of one entry.
    hand: Option<(Bytes, Option<Wall>)>,
    /// Whether keys are watched or notes wanted: the one thing that a mutation asks.
    attentive: bool,
}

impl Store {
    /// An empty store whose order of keys belongs to `hash_key`.
    #[must_use]
    pub fn new(hash_key: HashKey) -> Store {
        let [seed @ .., _, _, _, _, _, _, _, _] = hash_key.0;
        Store {
            hash_key,
            space: Keyspace::new(&hash_key.0),
            rover: Rover::default(),
            watched: Watched::default(),
            access: Access::new(u64::from_le_bytes(seed)),
            pool: Pool::default(),
            notes: Notes::default(),
            hand: None,
            attentive: false,
        }
    }

    /// The secret of the hash, for the learners of this dataset.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// Hash of a key, to be computed once per command.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        self.space.hash(key)
    }

    /// Pass 1a of a batch: starts loading the group of slots where the key would be.
    #[inline]
    pub fn touch(&self, h: KeyHash) {
        self.space.table(h).touch(h);
    }

    /// Pass 1b: starts loading the first two cache lines of the entry that probably is the key's.
    #[inline]
    pub fn touch_entry(&self, h: KeyHash) {
        self.space.table(h).touch_entry(h);
    }

    /// The key as it is, also if its expiry has passed.
    #[inline]
    #[must_use]
    pub fn get(&self, h: KeyHash, key: &[u8]) -> Option<Entry<'_>> {
        let table = self.space.table(h);
        table.find(h, key).map(|place| table.get(place).as_entry())
    }

    /// The same for a reader who uses the key, which its access clock then shows.
    #[inline]
    pub fn use_key(&mut self, h: KeyHash, key: &[u8]) -> Option<Entry<'_>> {
        let entry = self.space.find_mut(h, key)?;
        let before = entry.as_entry().clock();
        let clock = self.access.after_read(h, before);
        if clock != before {
            entry.set_clock(clock);
        }
        Some(entry.as_entry())
    }

    /// It is `now`, for access clocks.
    pub fn tell_time(&mut self, now: Boot) {
        self.access.tell_time(now);
    }

    /// Whether what is used from here on leaves no trace in access clocks; returns what was so before.
    pub fn be_quiet(&mut self, quiet: bool) -> bool {
        self.access.be_quiet(quiet)
    }

    /// What access clocks tell from now on.
    pub fn track(&mut self, tracking: Tracking) {
        self.access.track(tracking);
    }

    /// For how many seconds the key was not used; `None` if how often keys are used is tracked.
    #[must_use]
    pub fn idle_s(&self, entry: Entry<'_>) -> Option<u32> {
        self.access.idle_s(entry.clock())
    }

    /// The counter of the key's uses, 0 to 255; `None` if the time of use is tracked.
    #[must_use]
    pub fn frequency(&self, entry: Entry<'_>) -> Option<u32> {
        self.access.counter(entry.clock())
    }

    /// Lets a key look as if it had not been used for so many seconds, or so often; whichever is tracked and given.
    pub fn pretend_used(&mut self, h: KeyHash, key: &[u8], idle_s: Option<u64>, frequency: Option<u8>) {
        if let Some(clock) = self.access.restored(idle_s, frequency)
            && let Some(entry) = self.space.find_mut(h, key)
        {
            entry.set_clock(clock);
        }
    }

    /// Applies one mutation, [`Store::apply_hashed`] with the hash computed here.
    pub fn apply(&mut self, m: &Mutation<'_>) {
        let h = m.key().map_or(KeyHash(0), |key| self.hash(key));
        self.apply_hashed(h, m);
    }

    /// Applies one mutation to the key of hash `h` (any, for Clear). The only writer. A splice that contradicts itself, which the decoder
    /// would have refused, changes nothing.
    pub fn apply_hashed(&mut self, h: KeyHash, m: &Mutation<'_>) {
        debug_assert!(
            m.key().is_none_or(|key| self.hash(key) == h),
            "a mutation applied under the hash of another key"
        );
        if self.attentive {
            self.attend(h, m);
        }
        match m {
            Mutation::Put { key, value, expiry, event: _ } => self.put(h, key, value, *expiry),
            Mutation::Hold { key } => self.hand = self.get(h, key).map(held),
            Mutation::Lift { key, event: _ } => {
                self.hand = self.get(h, key).map(held);
                if let Some(place) = self.space.find(h, key) {
                    self.space.remove(h, place);
                }
            }
            Mutation::Lay { key, event: _ } => {
                if let Some((value, expiry)) = self.hand.take() {
                    self.put(h, key, &ValueRef::Shared(value), expiry);
                }
            }
            Mutation::Delete { key, event: _ } => {
                if let Some(place) = self.space.find(h, key) {
                    self.space.remove(h, place);
                }
            }
            Mutation::SetExpiry { key, expiry, event: _ } => {
                if let Some(place) = self.space.find(h, key) {
                    let access = &mut self.access;
                    self.space.update(h, place, |entry| {
                        entry.set_clock(access.after_write(h, entry.as_entry().clock()));
                        entry.set_expiry(*expiry);
                    });
                }
            }
            Mutation::Clear => self.clear_below(None),
            Mutation::Splice { key, at, bytes, length_after, event: _ } => {
                let Some(splice) = Splice::new(*at, bytes, *length_after) else { return };
                match self.space.find(h, key) {
                    Some(place) => {
                        let access = &mut self.access;
                        self.space.update(h, place, |entry| {
                            entry.set_clock(access.after_write(h, entry.as_entry().clock()));
                            entry.splice(splice);
                        });
                    }
                    None => self.space.insert(h, EntryBox::spliced(key, splice, self.access.fresh())),
                }
            }
        }
    }

    #[inline]
    fn put(&mut self, h: KeyHash, key: &[u8], value: &ValueRef<'_>, expiry: Option<Wall>) {
        match self.space.find(h, key) {
            Some(place) => {
                let access = &mut self.access;
                self.space.update(h, place, |entry| {
                    let clock = access.after_write(h, entry.as_entry().clock());
                    entry.put(value.clone(), expiry, clock);
                });
            }
            None => self.space.insert(h, EntryBox::new(key, value.clone(), expiry, self.access.fresh())),
        }
    }

    /// About so many keys are to come in the order of hashes, as a snapshot's do, and each segment is made for its share of them. A number that is
    /// wrong costs time and memory, no more.
    pub fn expect(&mut self, keys: u64) {
        self.space.expect(keys);
    }

    /// All of them have come: O(segments).
    pub fn expect_no_more(&mut self) {
        self.space.expect_no_more();
    }

    /// Watches a key for one more watcher, who sees it at the time `clock`.
    pub fn watch(&mut self, h: KeyHash, key: &[u8], clock: Wall) -> Watch {
        let table = self.space.table(h);
        let entry = table.find(h, key).map(|place| table.get(place).as_entry());
        self.attentive = true;
        self.watched.add(h, entry, clock)
    }

    /// Takes one [`Store::watch`] of a key back.
    pub fn unwatch(&mut self, h: KeyHash) {
        self.watched.remove(h);
        self.settle_attention();
    }

    /// Takes all of them back: for every watcher its keys have changed.
    pub fn forget_watches(&mut self) {
        self.watched = Watched::default();
        self.settle_attention();
    }

    #[cold]
    fn attend(&mut self, h: KeyHash, m: &Mutation<'_>) {
        if !self.watched.is_empty() {
            self.watched.note(h, m);
        }
        if self.notes.wanted {
            let table = self.space.table(h);
            let place = m.key().and_then(|key| table.find(h, key));
            self.notes.note(m, place.map(|place| table.get(place).as_entry()));
        }
    }

    fn settle_attention(&mut self) {
        self.attentive = self.notes.wanted || !self.watched.is_empty();
    }

    /// Says whether what happens to keys is to be noted from here on.
    pub fn want_notes(&mut self, wanted: bool) {
        self.notes.wanted = wanted;
        self.settle_attention();
    }

    /// Says what the leader's clock is at what is applied from here on.
    pub fn tell_clock(&mut self, clock: Wall) {
        self.notes.clock = clock;
    }

    /// A key was read that is not there.
    pub fn note_miss(&mut self, key: &[u8]) {
        if self.notes.wanted {
            self.notes.list.push(Noted::Missed(key.into()));
        }
    }

    /// Whether something was noted that nobody has taken.
    #[inline]
    #[must_use]
    pub fn has_notes(&self) -> bool {
        !self.notes.list.is_empty()
    }

    /// How many notes nobody has taken.
    #[must_use]
    pub fn notes(&self) -> usize {
        self.notes.list.len()
    }

    /// What was noted since the last call.
    pub fn take_notes(&mut self) -> Vec<Noted> {
        std::mem::take(&mut self.notes.list)
    }

    /// Whether a key is not any more, at the time `clock`, what its watcher saw.
    #[must_use]
    pub fn has_changed(&self, h: KeyHash, watch: Watch, clock: Wall) -> bool {
        self.watched.has_changed(h, watch, clock)
    }

    /// Keys, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.space.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys with an expiry.
    #[must_use]
    pub fn expires(&self) -> usize {
        self.space.expires()
    }

    /// Bytes of all allocations, by size class: entries, values of their own, tables, directory; what [`Store::sweep`] has yet to free
    /// included.
    #[must_use]
    pub fn used_memory(&self) -> usize {
        self.space.memory()
    }

    /// How often a segment grew beyond its size because its keys would not separate. Not 0: the hash key is known to an attacker, or
    /// the hash is broken; someone should look.
    #[must_use]
    pub fn segments_overgrown(&self) -> u64 {
        self.space.overgrown()
    }

    /// Drops the keys with a hash below `upto`, or all: O(segments) now, the rest in [`Store::sweep`].
    pub fn clear_below(&mut self, upto: Option<u64>) {
        match upto {
            None => {
                self.space.clear();
                self.rover = Rover::default();
            }
            Some(upto) => self.space.clear_below(upto),
        }
    }

    /// Frees what was dropped and makes sparse segments smaller: about `work` entries' worth, 100 to 200 ns each. Returns whether
    /// more is left.
    pub fn sweep(&mut self, work: usize) -> bool {
        self.space.sweep(work)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("len", &self.len())
            .field("used_memory", &self.used_memory())
            .finish_non_exhaustive()
    }
}
/// Value and expiry of an entry; a big value is shared.
fn held(entry: Entry<'_>) -> (Bytes, Option<Wall>) {
    let value = match entry.value() {
        Value::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        Value::Shared(bytes) => bytes.clone(),
    };
    (value, entry.expiry())
}
