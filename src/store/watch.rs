//! Keys that somebody watches (WATCH), and whether they changed since.
//!
//! One number counts the changes of watched keys; a key remembers its last one, a watcher the number at which it began to watch.
//! So a change costs one look-up whoever watches, and nothing at all while nobody does. Keys are told apart by their hashes: two
//! with the same 64 bits would make a transaction fail once more than it must.
//!
//! ```text
//!   changed since?   the key's last change, or, if the key was there, the last Clear, is later than the watcher's number;
//!                    or the key had an expiry, and that has passed since
//! ```
//! The deletion of an expired key is no change: who saw the key alive has its expiry, and for everybody else it was gone before.

use std::collections::BTreeMap;

use crate::base::clock::Wall;
use crate::store::{Entry, Event, KeyHash, Mutation};

/// All watched keys.
#[derive(Debug, Default)]
pub(super) struct Watched {
    keys: BTreeMap<u64, Key>,
    /// Changes of watched keys so far.
    changes: u64,
    /// Number of the last Clear.
    cleared: u64,
}

#[derive(Debug, Default)]
struct Key {
    watchers: u32,
    /// Number of the last change since anybody watches it.
    changed: u64,
}

/// What a watcher saw of a key when it began to watch.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    since: u64,
    existed: bool,
    expiry: Option<Wall>,
}

impl Watched {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// One more watches the key, which is `entry` at the time `clock`.
    pub fn add(&mut self, h: KeyHash, entry: Option<Entry<'_>>, clock: Wall) -> Watch {
        let alive = entry.filter(|entry| !entry.is_expired(clock));
        self.keys.entry(h.0).or_default().watchers += 1;
        Watch { since: self.changes, existed: alive.is_some(), expiry: alive.and_then(|entry| entry.expiry()) }
    }

    /// One less watches the key.
    pub fn remove(&mut self, h: KeyHash) {
        if let Some(key) = self.keys.get_mut(&h.0) {
            key.watchers -= 1;
            if key.watchers == 0 {
                self.keys.remove(&h.0);
            }
        }
    }

    /// Notes what a mutation changes; `h` is the hash of its key.
    #[cold]
    pub fn note(&mut self, h: KeyHash, mutation: &Mutation<'_>) {
        match mutation {
            Mutation::Delete { event: Event::Expired, .. } => {}
            Mutation::Clear => {
                self.changes += 1;
                self.cleared = self.changes;
            }
            Mutation::Hold { .. } => {}
            Mutation::Put { .. }
            | Mutation::Delete { .. }
            | Mutation::SetExpiry { .. }
            | Mutation::Splice { .. }
            | Mutation::Lift { .. }
            | Mutation::Lay { .. } => {
                if let Some(key) = self.keys.get_mut(&h.0) {
                    self.changes += 1;
                    key.changed = self.changes;
                }
            }
        }
    }

    /// Whether the key is not any more what the watcher saw.
    pub fn has_changed(&self, h: KeyHash, watch: Watch, clock: Wall) -> bool {
        let changed = self.keys.get(&h.0).is_none_or(|key| key.changed > watch.since);
        changed || watch.existed && self.cleared > watch.since || watch.expiry.is_some_and(|expiry| expiry <= clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::HashKey;
    use crate::store::{Store, ValueRef};

    const NOW: Wall = Wall(1_000);

    fn put<'a>(key: &'a [u8], expiry: Option<Wall>) -> Mutation<'a> {
        Mutation::Put { key, value: ValueRef::Slice(b"v"), expiry, event: Event::Set }
    }

    #[test]
    fn watched_key_has_changed_after_any_mutation_of_it_and_of_no_other() {
        let mut store = Store::new(HashKey([1; 16]));
        store.apply(&put(b"k", None));
        let h = store.hash(b"k");
        let mutations = [
            put(b"k", None),
            Mutation::SetExpiry { key: b"k", expiry: Some(Wall(9_000)), event: Event::Expire },
            Mutation::Splice { key: b"k", at: 0, bytes: b"x", length_after: 1, event: Event::SetRange },
            Mutation::Delete { key: b"k", event: Event::Del },
        ];
        for mutation in &mutations {
            let watch = store.watch(h, b"k", NOW);
            store.apply(&put(b"other", None));
            assert!(!store.has_changed(h, watch, NOW));
            store.apply(mutation);
            assert!(store.has_changed(h, watch, NOW), "{mutation:?}");
            let again = store.watch(h, b"k", NOW);
            assert!(!store.has_changed(h, again, NOW), "what came before is no change");
            assert!(store.has_changed(h, watch, NOW), "for who came before it still is");
            store.unwatch(h);
            store.unwatch(h);
        }
    }

    #[test]
    fn clear_changes_the_keys_that_are_there() {
        let mut store = Store::new(HashKey([1; 16]));
        store.apply(&put(b"there", None));
        store.apply(&put(b"gone", Some(NOW)));
        let watched = [&b"there"[..], b"gone", b"never"].map(|key| {
            let h = store.hash(key);
            (h, store.watch(h, key, NOW))
        });
        store.apply(&Mutation::Clear);
        let changed = watched.map(|(h, watch)| store.has_changed(h, watch, NOW));
        assert_eq!(changed, [true, false, false], "an expired key was gone before");
    }

    #[test]
    fn expiry_is_a_change_for_who_saw_the_key_alive() {
        let mut store = Store::new(HashKey([1; 16]));
        let h = store.hash(b"k");
        store.apply(&put(b"k", Some(Wall(2_000))));
        let alive = store.watch(h, b"k", NOW);
        assert!(!store.has_changed(h, alive, Wall(1_999)));
        assert!(store.has_changed(h, alive, Wall(2_000)));
        let expired = store.watch(h, b"k", Wall(2_000));
        store.apply(&Mutation::Delete { key: b"k", event: Event::Expired });
        assert!(store.has_changed(h, alive, Wall(2_000)) && !store.has_changed(h, expired, Wall(2_000)));
        store.apply(&put(b"k", None));
        assert!(store.has_changed(h, expired, Wall(2_000)));
    }

    #[test]
    fn nothing_is_kept_of_a_key_that_nobody_watches() {
        let mut store = Store::new(HashKey([1; 16]));
        let h = store.hash(b"k");
        let watch = store.watch(h, b"k", NOW);
        store.watch(h, b"k", NOW);
        store.unwatch(h);
        assert!(!store.has_changed(h, watch, NOW), "there is another");
        store.forget_watches();
        assert!(store.has_changed(h, watch, NOW), "what is not followed may have changed");
    }
}
