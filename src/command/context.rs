//! What a data command sees: the store, the reply, the log and the clock.
//!
//! The only way to write is [`Ctx::emit`]: it appends the mutation to the entry that is being built and applies it, so that
//! leader and replica hold the same by construction. The only ways to read a key are [`Ctx::read`] and [`Ctx::peek`], which know what an
//! expired key is. Not here: the position of the entry, holding the reply, who may write; the keeper decides those.

use bytes::Bytes;

use crate::base::clock::Wall;
use crate::base::jitter::Jitter;
use crate::base::limits::{OWN_VALUE_BYTES, PREFETCH_GROUP};
use crate::base::segments::Segments;
use crate::resp::{Args, Reply};
use crate::store::{Entry, Event, KeyHash, Mutation, Store, Value, ValueRef};

/// How far a command came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The reply is complete.
    Done,
    /// A slice is done; call again with the same arguments, the same [`SliceState`] and the same place for the reply, parts of
    /// which may have been written. Only commands with `Work::Sliced` say so.
    More,
}

/// What a sliced command remembers between its slices: one per request that is under way, `default()` to begin with.
#[derive(Debug, Default)]
pub struct SliceState {
    pub(super) under_way: Option<Sliced>,
}

/// What is under way.
#[derive(Debug)]
pub(super) enum Sliced {
    Walk(super::keyspace::Walk),
    Lcs(Box<super::lcs::Lcs>),
    Bits(super::bits::Walk),
    Dump(super::dump::Dump),
    Digest(super::debug::Digest),
}

/// How often a command looked for keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookups {
    /// Keys that were there.
    pub hits: u32,
    /// Keys that were not, or not any more.
    pub misses: u32,
    /// Keys that were deleted because their time had come.
    pub expired: u32,
}

/// The surroundings of one execution.
pub struct Ctx<'a, 'o> {
    /// The keyspace. Commands read it; [`Ctx::emit`] writes it.
    pub store: &'a mut Store,
    /// Where the reply goes.
    pub reply: Reply<'o>,
    /// The entry that is being built: the mutations of this command, after those of the same transaction.
    pub log: &'a mut Segments,
    /// The clock for expiry at this command: what is expired, and what relative expiries are added to. It may not be what a watch shows.
    pub clock: Wall,
    /// By how much the leader's wall clock is ahead of that one, ms: what absolute times of clients are by.
    pub wall_ahead_ms: i64,
    /// On the leader: an expired key that is met is deleted by a logged mutation. Elsewhere it is only hidden.
    pub expire: bool,
    /// A key that is read and not there is noted.
    pub misses: bool,
    /// Values may go from key to key through the store's hand ([`Mutation::Lay`]).
    pub hand: bool,
    /// Hash of the command's first key, if pass 1 of the batch computed it.
    pub first_key: Option<KeyHash>,
    /// Chance, for commands that choose; what they choose is in the reply alone, or in the mutation.
    pub chance: &'a mut Jitter,
    /// What a sliced command remembers.
    pub slice: &'a mut SliceState,
    /// Mutations emitted so far.
    pub emitted: u32,
    /// Keys looked for so far.
    pub lookups: Lookups,
}

impl<'o> Ctx<'_, 'o> {
    /// Logs a mutation and applies it.
    pub fn emit(&mut self, mutation: &Mutation<'_>) {
        mutation.encode(self.log);
        self.store.apply(mutation);
        self.emitted += 1;
    }

    /// [`Ctx::emit`] for a key whose hash is known.
    #[inline]
    pub fn emit_hashed(&mut self, hash: KeyHash, mutation: &Mutation<'_>) {
        mutation.encode(self.log);
        self.store.apply_hashed(hash, mutation);
        self.emitted += 1;
    }

    /// Hash of the command's first key, computed once per batch where pass 1 ran.
    #[inline]
    #[must_use]
    pub fn hash_first(&self, key: &[u8]) -> KeyHash {
        let hash = self.first_key.unwrap_or_else(|| self.store.hash(key));
        debug_assert_eq!(hash, self.store.hash(key), "pass 1 hashed another key");
        hash
    }

    /// The first argument as the command's first key, with its hash.
    #[inline]
    pub(super) fn first<'k>(&self, args: &Args<'k>) -> (KeyHash, &'k [u8]) {
        let key = args.get(1);
        (self.hash_first(key), key)
    }

    /// Runs `f` on the entry of a key that exists and is not expired, with the reply at hand. On the leader an expired one is
    /// deleted on the way. The key counts as used.
    #[inline]
    pub fn read<R>(&mut self, hash: KeyHash, key: &[u8], f: impl FnOnce(Entry<'_>, &mut Reply<'o>) -> R) -> Option<R> {
        match self.store.use_key(hash, key) {
            Some(entry) if !entry.is_expired(self.clock) => {
                self.lookups.hits += 1;
                return Some(f(entry, &mut self.reply));
            }
            Some(_) => self.meet_expired(hash, key),
            None => {}
        }
        self.lookups.misses += 1;
        if self.misses {
            self.store.note_miss(key);
        }
        None
    }

    /// [`Ctx::read`] of a key that does not count as used by that.
    #[inline]
    pub fn peek<R>(&mut self, hash: KeyHash, key: &[u8], f: impl FnOnce(Entry<'_>) -> R) -> Option<R> {
        match self.store.get(hash, key) {
            Some(entry) if !entry.is_expired(self.clock) => {
                self.lookups.hits += 1;
                return Some(f(entry));
            }
            Some(_) => self.meet_expired(hash, key),
            None => {}
        }
        self.lookups.misses += 1;
        if self.misses {
            self.store.note_miss(key);
        }
        None
    }

    fn meet_expired(&mut self, hash: KeyHash, key: &[u8]) {
        if self.expire {
            self.lookups.expired += 1;
            self.emit_hashed(hash, &Mutation::Delete { key, event: Event::Expired });
        }
    }

    /// Whether the key exists and is not expired. It does not count as used by that.
    #[inline]
    pub fn exists(&mut self, hash: KeyHash, key: &[u8]) -> bool {
        self.peek(hash, key, |_| ()).is_some()
    }

    /// Sets a key, whatever it held.
    #[inline]
    pub fn put(&mut self, hash: KeyHash, key: &[u8], value: ValueRef<'_>, expiry: Option<Wall>, event: Event) {
        self.emit_hashed(hash, &Mutation::Put { key, value, expiry, event });
    }

    /// Deletes a key that exists.
    pub fn delete(&mut self, hash: KeyHash, key: &[u8], event: Event) {
        self.emit_hashed(hash, &Mutation::Delete { key, event });
    }

    /// A time of a client's, by a clock that is right, on the clock for expiry.
    pub(super) fn expiry_at(&self, unix: Wall) -> Wall {
        Wall(unix.0.saturating_add_signed(self.wall_ahead_ms.saturating_neg()))
    }

    /// Calls `f` with each key from argument 1 on, `step` arguments apart, and its place; buckets and entries are touched
    /// ahead a group at a time. `f` says whether to go on.
    pub(super) fn for_keys<'k>(
        &mut self,
        args: &Args<'k>,
        step: usize,
        mut f: impl FnMut(&mut Self, usize, KeyHash, &'k [u8]) -> bool,
    ) {
        let mut hashes = [KeyHash(0); PREFETCH_GROUP];
        let mut group = 1;
        while group < args.len() {
            let places = (group..args.len()).step_by(step).take(PREFETCH_GROUP);
            for (hash, at) in hashes.iter_mut().zip(places.clone()) {
                *hash = if at == 1 { self.hash_first(args.get(1)) } else { self.store.hash(args.get(at)) };
                self.store.touch(*hash);
            }
            for (hash, _) in hashes.iter().zip(places.clone()) {
                self.store.touch_entry(*hash);
            }
            for (hash, at) in hashes.into_iter().zip(places) {
                if !f(self, at, hash, args.get(at)) {
                    return;
                }
            }
            group += step * PREFETCH_GROUP;
        }
    }
}

/// An argument as a value. A big one is shared with the entry and the log: as it came, or in the one copy that is made here.
#[inline]
pub(super) fn value_of<'k>(args: &Args<'k>, i: usize) -> ValueRef<'k> {
    match args.shared(i) {
        Some(bytes) => ValueRef::Shared(bytes.clone()),
        None => match args.get(i) {
            bytes if bytes.len() < OWN_VALUE_BYTES => ValueRef::Slice(bytes),
            bytes => ValueRef::Shared(Bytes::copy_from_slice(bytes)),
        },
    }
}

/// A value for longer than its entry is looked at: a big one is shared, never copied.
pub(super) fn kept_value(value: Value<'_>) -> Bytes {
    match value {
        Value::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        Value::Shared(bytes) => bytes.clone(),
    }
}

/// Replies with a value: a big one is shared, never copied.
#[inline]
pub(super) fn reply_value(reply: &mut Reply<'_>, value: Value<'_>) {
    match value {
        Value::Bytes(bytes) => reply.bulk(bytes),
        Value::Shared(bytes) => reply.shared(bytes),
    }
}
