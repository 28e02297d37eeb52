//! NOLOOP for clients whose writes are passed on: which of the entries that come from the leader are their own.
//!
//! At the node that executes a write it is known whose that is. Here it comes back as an entry like any other, before its answer or after it:
//! ```text
//!   client ── SET k ──► this node ── forward ──► leader
//!                         │ ◄── entry 7: k ──────── │   applied while the answer is not here: kept, and told or not when it is
//!                         │ ◄── answer: written 7 ──│   7 is its own; what was kept of other entries is told now
//!                         │ ◄── entry 9: k ──────── │   not its own: told
//! ```
//! What is passed on for such a client goes one command at a time, or as one transaction: either is one entry, whose position comes with the answer. The
//! client stays in the table of readers meanwhile, so nothing that somebody else changes is missed; at worst it is told once too often. When nothing is
//! known of what became of a command, it is told of everything.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::clock::Boot;
use crate::base::ids::{ConnId, Offset, Position};
use crate::store::Event;

use super::Keeper;
use super::session::Session;

/// What is known of one client's writes.
#[derive(Debug, Default)]
struct Writer {
    /// A command is passed on that is not answered.
    asks: bool,
    /// Keys that entries changed meanwhile, of which the client would be told.
    kept: Vec<(Offset, Bytes)>,
    /// Its own writes that are answered and not applied here yet.
    own: Vec<Position>,
}

/// All of them, and where the notes of each entry end while there are some.
#[derive(Debug, Default)]
pub(super) struct OwnWrites {
    writers: BTreeMap<ConnId, Writer>,
    ends: Vec<(usize, Offset)>,
}

impl OwnWrites {
    /// An entry is applied, and so many notes are there.
    pub fn applied(&mut self, notes: usize, at: Offset) {
        if !self.writers.is_empty() && self.ends.last().map_or(0, |(end, _)| *end) < notes {
            self.ends.push((notes, at));
        }
    }

    /// By the place of a note, the entry that it is of.
    pub fn take_ends(&mut self) -> impl Fn(usize) -> Option<Offset> + use<> {
        let ends = std::mem::take(&mut self.ends);
        move |at| ends.iter().find(|(end, _)| at < *end).map(|(_, offset)| *offset)
    }

    /// A client is gone, or tracks no more.
    pub fn forget(&mut self, conn: ConnId) {
        self.writers.remove(&conn);
    }

    /// Everything is called invalid anyway.
    pub fn clear(&mut self) {
        *self = OwnWrites::default();
    }
}

impl Keeper {
    /// Whether the commands of a client are passed on one by one, so that its own entries are known.
    pub(super) fn is_own_writer(session: &Session) -> bool {
        session.tracking.as_ref().is_some_and(|tracking| tracking.noloop())
    }

    /// A command of such a client is passed on.
    pub(super) fn own_write_begins(&mut self, conn: ConnId) {
        self.tracking.own.writers.entry(conn).or_default().asks = true;
    }

    /// It is over: its entry is this one, if it made one and that is known.
    pub(super) fn own_write_ends(&mut self, conn: ConnId, own: Option<Position>) {
        let Some(writer) = self.tracking.own.writers.get_mut(&conn) else { return };
        writer.asks = false;
        let log = &self.log;
        let is_own = |at: Offset| own.is_some_and(|own| own.offset == at && log.epoch_of(at) == Some(own.epoch));
        let told: Vec<Bytes> =
            std::mem::take(&mut writer.kept).into_iter().filter(|(at, _)| !is_own(*at)).map(|(_, key)| key).collect();
        writer.own.extend(own.filter(|own| own.offset > self.applied));
        if writer.own.is_empty() {
            self.tracking.own.writers.remove(&conn);
        }
        if !told.is_empty() {
            self.tracking.owe(conn, told);
            self.upkeep_at = Boot(0);
        }
    }

    /// Whether a client is not told of this change, because the entry is its own, or not yet, because it may be.
    pub(super) fn is_own_change(&mut self, conn: ConnId, key: &[u8], event: Event, at: Option<Offset>) -> bool {
        let Some(at) = at.filter(|_| !matches!(event, Event::Expired | Event::Evicted)) else { return false };
        let Some(writer) = self.tracking.own.writers.get_mut(&conn) else { return false };
        let epoch = self.log.epoch_of(at);
        if writer.own.iter().any(|own| own.offset == at && Some(own.epoch) == epoch) {
            return true;
        }
        if writer.asks {
            writer.kept.push((at, Bytes::copy_from_slice(key)));
        }
        writer.asks
    }

    /// What is applied has been told: nothing more comes of these entries.
    pub(super) fn forget_applied_writes(&mut self) {
        let applied = self.applied;
        self.tracking.own.writers.retain(|_, writer| {
            writer.own.retain(|own| own.offset > applied);
            writer.asks || !writer.own.is_empty()
        });
    }
}
