//! What happened to keys, noted for whoever tells of it: keyspace notifications and client-side caching.
//!
//! Noted where every mutation passes, on the leader and on replicas alike, and only while somebody wants to know. The keeper takes the
//! notes after each of its calls, so there are no more of them than one call brings about.

use crate::base::clock::Wall;

use super::{Entry, Event, Mutation};

/// One thing that happened, in order with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// A key was changed or deleted; `created`: it was not there before, or is another one now.
    Changed {
        /// Which.
        key: Box<[u8]>,
        /// What it means.
        event: Event,
        /// Whether there was no such key.
        created: bool,
    },
    /// All keys are gone.
    Cleared,
    /// A key was read that is not there.
    Missed(Box<[u8]>),
}

/// The notes that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Whether somebody wants to know.
    pub wanted: bool,
    /// The leader's clock at what is applied: a key that had expired by then is not what is set anew.
    pub clock: Wall,
    pub list: Vec<Noted>,
}

impl Notes {
    /// Notes a mutation that is about to be applied to `entry`, if its key is there.
    #[cold]
    pub fn note(&mut self, mutation: &Mutation<'_>, entry: Option<Entry<'_>>) {
        let exists = entry.is_some();
        let (key, event) = match mutation {
            Mutation::Put { key, event, .. } | Mutation::Splice { key, event, .. } => (key, event),
            // What is not there is not changed.
            Mutation::Delete { .. } | Mutation::SetExpiry { .. } | Mutation::Lift { .. } if !exists => return,
            Mutation::Delete { key, event }
            | Mutation::SetExpiry { key, event, .. }
            | Mutation::Lift { key, event }
            | Mutation::Lay { key, event } => (key, event),
            Mutation::Hold { .. } => return,
            Mutation::Clear => return self.list.push(Noted::Cleared),
        };
        let mut changed = |event, created| self.list.push(Noted::Changed { key: (*key).into(), event, created });
        let set = matches!(mutation, Mutation::Put { .. } | Mutation::Lay { .. });
        let expired = set && entry.is_some_and(|entry| entry.is_expired(self.clock));
        if expired {
            changed(Event::Expired, false);
        }
        // As in Redis, these replace the key that was there by another.
        let replaced = matches!(event, Event::CopyTo | Event::RenameTo | Event::Restore);
        changed(*event, !exists || expired || set && replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::HashKey;
    use crate::store::{Store, ValueRef};

    fn changed(key: &[u8], event: Event, created: bool) -> Noted {
        Noted::Changed { key: key.into(), event, created }
    }

    #[test]
    fn changes_are_noted_in_order_while_somebody_wants_to_know() {
        let mut store = Store::new(HashKey([1; 16]));
        let put = Mutation::Put { key: b"k", value: ValueRef::Slice(b"v"), expiry: None, event: Event::Set };
        let delete = Mutation::Delete { key: b"k", event: Event::Del };
        store.apply(&put);
        store.apply(&delete);
        assert!(!store.has_notes());
        store.want_notes(true);
        for mutation in [&put, &put, &delete, &delete, &Mutation::Clear] {
            store.apply(mutation);
        }
        store.note_miss(b"m");
        let expiring =
            Mutation::Put { key: b"k", value: ValueRef::Slice(b"v"), expiry: Some(Wall(7)), event: Event::CopyTo };
        store.apply(&expiring);
        store.tell_clock(Wall(6));
        store.apply(&expiring);
        store.tell_clock(Wall(7));
        store.apply(&put);
        let want = [
            changed(b"k", Event::Set, true),
            changed(b"k", Event::Set, false),
            changed(b"k", Event::Del, false),
            Noted::Cleared,
            Noted::Missed(b"m"[..].into()),
            changed(b"k", Event::CopyTo, true),
            changed(b"k", Event::CopyTo, true),
            changed(b"k", Event::Expired, false),
            changed(b"k", Event::Set, true),
        ];
        assert!(store.has_notes());
        assert_eq!(store.take_notes(), want);
        store.watch(store.hash(b"k"), b"k", crate::base::clock::Wall(0));
        store.want_notes(false);
        store.apply(&put);
        assert!(!store.has_notes());
    }
}
