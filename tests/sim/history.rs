//! The one history: what was acknowledged, entry by entry, and what the store must hold at each point of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::{Epoch, Offset};
use datakeeper::replication::log::Entry;
use datakeeper::store::{Mutation, mutations};

/// A value with its expiry.
pub type Held = (Bytes, Option<Wall>);

/// See the module.
#[derive(Default)]
pub struct History {
    /// Epochs of entry 1, 2, ...
    entries: Vec<Epoch>,
    /// Key → what it was from which offset on.
    keys: BTreeMap<Bytes, Vec<(Offset, Option<Held>)>>,
    /// Values that went from key to key by name.
    pub moved: u64,
}

impl History {
    /// Last acknowledged entry.
    pub fn end(&self) -> Offset {
        Offset(self.entries.len() as u64)
    }

    /// Epoch of an acknowledged entry.
    pub fn epoch_of(&self, offset: Offset) -> Option<Epoch> {
        self.entries.get((offset.0 as usize).checked_sub(1)?).copied()
    }

    /// The next entry is acknowledged.
    pub fn push(&mut self, epoch: Epoch, entry: &Entry) {
        assert_eq!(entry.offset, self.end().next());
        self.entries.push(epoch);
        let at = entry.offset;
        let mut hand = None;
        for mutation in mutations(&entry.mutations) {
            match mutation.expect("an entry in a log is readable") {
                Mutation::Put { key, value, expiry, .. } => {
                    self.note(key, at, Some((Bytes::copy_from_slice(value.as_slice()), expiry)));
                }
                Mutation::Delete { key, .. } => self.note(key, at, None),
                Mutation::Hold { key } => hand = self.at(key, at),
                Mutation::Lift { key, .. } => {
                    hand = self.at(key, at);
                    self.note(key, at, None);
                }
                Mutation::Lay { key, .. } => {
                    self.moved += 1;
                    let held = hand.take().expect("what is laid down was taken up in the same entry");
                    self.note(key, at, Some(held));
                }
                Mutation::SetExpiry { key, expiry, .. } => {
                    if let Some((value, _)) = self.at(key, at) {
                        self.note(key, at, Some((value, expiry)));
                    }
                }
                Mutation::Clear => {
                    for versions in self.keys.values_mut() {
                        versions.push((at, None));
                    }
                }
                Mutation::Splice { key, at: from, bytes, length_after, .. } => {
                    let (old, expiry) = self.at(key, at).unwrap_or_default();
                    let mut value = old.to_vec();
                    value.resize(length_after as usize, 0);
                    value[from as usize..from as usize + bytes.len()].copy_from_slice(bytes);
                    self.note(key, at, Some((value.into(), expiry)));
                }
            }
        }
    }

    fn note(&mut self, key: &[u8], at: Offset, value: Option<Held>) {
        match self.keys.get_mut(key) {
            Some(versions) => versions.push((at, value)),
            None => drop(self.keys.insert(Bytes::copy_from_slice(key), vec![(at, value)])),
        }
    }

    /// What a key is after the entry at `offset`.
    pub fn at(&self, key: &[u8], offset: Offset) -> Option<Held> {
        let versions = self.keys.get(key)?;
        let i = versions.partition_point(|(at, _)| *at <= offset);
        versions.get(i.checked_sub(1)?)?.1.clone()
    }

    /// Every key that is there after the entry at `offset`.
    pub fn store_at(&self, offset: Offset) -> BTreeMap<Bytes, Held> {
        self.keys.keys().filter_map(|key| Some((key.clone(), self.at(key, offset)?))).collect()
    }
}
