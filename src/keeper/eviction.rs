//! Room for a write at the limit of memory: what goes, and when.
//!
//! Only a leader evicts, by deletions that it logs, ahead of the command that needs the room; a replica applies them and has no opinion
//! of its own. So stores are equal at equal positions, and after a takeover the new leader chooses by its own access clocks.
//!
//! A command needs as much as its arguments have bytes. What else it makes grow (a value that APPEND gives room, the zeros before SETRANGE's offset)
//! is made up for by the next tick if a key may go. One hold of the lock spends a bounded amount of work; what needs more goes on in the next.

use crate::base::clock::Now;
use crate::cluster::role::Role;
use crate::store::{Event as KeyEvent, Eviction, Victim};

use super::{Effects, Keeper};

/// What one hold of the lock may spend on eviction, in entries looked at: 0.5 ms.
pub(super) const EVICTION_WORK: usize = 2_500;
/// What it may spend before that on what was put off, in the same: merging a sparse segment costs several times as much for each of its entries.
const PUT_OFF_WORK: usize = 300;
/// What a key that goes costs beside its search.
const DELETE_WORK: usize = 3;
/// Bytes that cost as much to give back as an entry to look at.
const FREED_BYTES_PER_WORK: usize = 16 << 10;
/// Most bytes of keys in one entry of deletions.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Work of a sweep at the limit: about 5 ms.
const SWEEP_WORK: usize = 40_000;
/// Share of the limit by which a command may exceed it if nothing can go.
const SLACK: usize = 100;

/// Whether there is room for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Enough,
    /// Not yet: ask again under the next hold of the lock.
    Again,
    /// There is none.
    Full,
}

impl Keeper {
    /// Makes room for a command that brings so many bytes.
    #[inline]
    pub(super) fn make_room(&mut self, bytes: impl FnOnce() -> usize) -> Room {
        match self.limit() {
            None => Room::Enough,
            Some(limit) => self.make_room_below(limit, bytes()),
        }
    }

    #[inline]
    fn limit(&self) -> Option<usize> {
        let limit = self.settings().max_memory;
        (limit > 0).then(|| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn make_room_below(&mut self, limit: usize, bytes: usize) -> Room {
        let (slack, target) = (limit / SLACK, limit.saturating_sub(bytes));
        // What a replica queues grows nothing here, and its memory is the leader's business.
        if self.used_memory() <= target || self.role != Role::Leader {
            return Room::Enough;
        }
        if !self.may_evict() {
            return if self.is_full(limit, bytes) { Room::Full } else { Room::Enough };
        }
        // What would not fit into an empty store drives nothing out.
        if bytes > limit + slack {
            return Room::Full;
        }
        match self.evict(target) {
            Room::Full if self.used_memory() + bytes <= limit + slack => Room::Enough,
            room => room,
        }
    }

    /// Whether memory is beyond its limit, or would be by more than the slack with so many bytes more. What FLUSHALL dropped counts until it is
    /// freed: some of it now.
    fn is_full(&mut self, limit: usize, bytes: usize) -> bool {
        let fits = |used| used <= limit && used + bytes <= limit + limit / SLACK;
        if fits(self.used_memory()) {
            return false;
        }
        self.store.sweep(SWEEP_WORK);
        !fits(self.used_memory())
    }

    /// Deletes keys until no more than `target` bytes are used, or none may go, as one entry.
    fn evict(&mut self, target: usize) -> Room {
        debug_assert!(self.scratch.is_empty(), "deletions in the middle of another entry");
        // What was dropped already goes first.
        if self.store.sweep(PUT_OFF_WORK) && self.used_memory() > target {
            return Room::Again;
        }
        let (eviction, samples) = (self.settings().eviction, self.settings().eviction_samples);
        let end = self.log.end().next();
        let mut evicted = 0;
        let room = loop {
            if self.used_memory() <= target {
                break Room::Enough;
            }
            if self.eviction_work == 0 || self.scratch.len() > ENTRY_BYTES_MAX {
                break Room::Again;
            }
            match self.store.victim(eviction, samples, &mut self.rng, &mut self.eviction_work) {
                Victim::Key(hash, key) => {
                    let used = self.used_memory();
                    self.delete_unasked(hash, &key, KeyEvent::Evicted, end);
                    let freed = used.saturating_sub(self.used_memory());
                    let work = DELETE_WORK + freed / FREED_BYTES_PER_WORK;
                    self.eviction_work = self.eviction_work.saturating_sub(work);
                    evicted += 1;
                }
                Victim::NotYet => {}
                Victim::None => break Room::Full,
            }
        };
        if evicted > 0 {
            self.stats.evicted_keys += evicted;
            self.append_unasked();
        }
        room
    }

    /// After writes: if they took more than there is room for, the next tick is now.
    #[inline]
    pub(super) fn evict_soon(&mut self, now: Now) {
        if self.limit().is_some_and(|limit| self.used_memory() > limit) && self.may_evict() {
            self.upkeep_at = now.boot;
        }
    }

    fn may_evict(&self) -> bool {
        self.settings().eviction != Eviction::NoEviction && self.may_delete()
    }

    /// Evicts what is beyond the limit, as far as one hold of the lock may. Returns whether more is.
    pub(super) fn evict_due(&mut self, now: Now, fx: &mut Effects) -> bool {
        let Some(limit) = self.limit().filter(|_| self.may_evict()) else { return false };
        if self.used_memory() <= limit {
            return false;
        }
        self.eviction_work = EVICTION_WORK;
        let end = self.log.end();
        let room = self.evict(limit);
        if self.log.end() > end {
            self.advance(now, fx);
            self.wake_followers(fx);
        }
        room == Room::Again
    }
}
