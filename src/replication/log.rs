//! The replication log: every entry since some position, in blocks that the backlog and all links share.
//!
//! ```text
//!   base      blocks (sealed, immutable, one epoch each)                     tail (open)
//!    │   ┌─────────────────┬──────────────┬───────────────────────────────┬─────────────┐
//!    ●───│ 5 6 7 8 9       │ 10 (one big) │ 11 12 13                      │ 14 15 ..    │──► end
//!        └─────────────────┴──────────────┴───────────────────────────────┴─────────────┘
//! ```
//! The leader appends to the tail; the first link that looks for something to send in a tick seals it, so that a block is what
//! one tick produced and is encoded once, and summed once, when it is sent. A replica appends whole blocks as they arrive. An entry is
//! `u32 length | u64 leader's clock (ms) | mutations`, all little endian; an entry longer than a frame, or with a value that is shared
//! with the store, is a block of its own whose pieces are shared, too. The epoch table (epoch → first offset) is what two nodes
//! compare to find their common prefix (Kafka's KIP-101 and KIP-279).
//!
//! Invariants: blocks are contiguous from `base + 1` to `end`; no block spans two epochs; the table's epochs and offsets
//! ascend, and its last epoch is that of the last entry.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::base::clock::Wall;
use crate::base::ids::{Epoch, Offset, Position};
use crate::base::limits::{EPOCHS_MAX, FRAME_BYTES_MAX};
use crate::base::segments::Segments;

/// Bytes in front of each entry's mutations.
pub const ENTRY_HEAD_BYTES: usize = 12;
/// Capacity a new tail starts with; it doubles as needed up to a block.
const TAIL_BYTES: usize = 16 << 10;
/// A tail of at least this many bytes becomes a block as it is; a smaller one is copied.
const TAIL_SPLIT_BYTES: usize = 64 << 10;

/// A run of entries of one epoch, immutable and shared.
#[derive(Clone, Debug)]
pub struct Block {
    /// Epoch in which they were appended.
    pub epoch: Epoch,
    /// Offset of the first.
    pub first: Offset,
    /// How many; at least 1.
    pub count: u32,
    /// Bytes of all pieces.
    pub bytes: usize,
    /// The entries; more than one piece only for a single entry whose values are shared with the store.
    pub pieces: Vec<Bytes>,
    /// Checksum of all of it, if it fits a frame and [`Log::block_to_send`] has given it out.
    pub crc: Option<u32>,
}

impl Block {
    fn new(epoch: Epoch, first: Offset, count: u32, pieces: Vec<Bytes>) -> Block {
        let bytes = pieces.iter().map(Bytes::len).sum();
        Block { epoch, first, count, bytes, pieces, crc: None }
    }

    /// Offset of the last entry.
    #[must_use]
    pub fn last(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count) - 1)
    }

    /// The entries as one piece of memory; copies only if the block is one entry in several.
    fn body(&self) -> Bytes {
        match &self.pieces[..] {
            [one] => one.clone(),
            many => many
                .iter()
                .fold(BytesMut::with_capacity(self.bytes), |mut all, p| {
                    all.extend_from_slice(p);
                    all
                })
                .freeze(),
        }
    }
}

/// One entry, as it is applied.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number.
    pub offset: Offset,
    /// The leader's clock for expiry when it was made.
    pub clock: Wall,
    /// Its encoded mutations.
    pub mutations: Bytes,
}

/// Splits a block's body into entries.
///
/// # Errors
/// The lengths do not add up to exactly `count` entries.
pub fn entries(body: &Bytes, first: Offset, count: u32) -> Result<Vec<Entry>, String> {
    let mut found = Vec::with_capacity(count.min(4_096) as usize);
    let mut at = 0usize;
    while at < body.len() && found.len() < count as usize {
        let Some(head) = body.get(at..at + ENTRY_HEAD_BYTES) else { break };
        let len = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        let clock = u64::from_le_bytes(head[4..].try_into().expect("eight bytes"));
        let Some(end) = (at + ENTRY_HEAD_BYTES).checked_add(len).filter(|e| *e <= body.len()) else { break };
        let offset = Offset(first.0 + found.len() as u64);
        found.push(Entry { offset, clock: Wall(clock), mutations: body.slice(at + ENTRY_HEAD_BYTES..end) });
        at = end;
    }
    if at == body.len() && found.len() == count as usize {
        Ok(found)
    } else {
        Err(format!("block at {first}: {} of {count} entries in {at} of {} bytes", found.len(), body.len()))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Log {
    /// Position before the first retained entry.
    base: Position,
    blocks: VecDeque<Block>,
    tail: BytesMut,
    tail_first: Offset,
    tail_epoch: Epoch,
    tail_count: u32,
    end: Offset,
    epochs: Vec<(Epoch, Offset)>,
    bytes: usize,
}

impl Log {
    /// An empty log that begins after `base`.
    #[must_use]
    pub fn new(base: Position) -> Log {
        Log {
            base,
            blocks: VecDeque::new(),
            tail: BytesMut::new(),
            tail_first: base.offset.next(),
            tail_epoch: Epoch(0),
            tail_count: 0,
            end: base.offset,
            epochs: if base.offset == Offset::ZERO { Vec::new() } else { vec![(base.epoch, base.offset)] },
            bytes: 0,
        }
    }

    /// Offset of the last entry.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Position before the first retained entry.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// Position of the last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        Position { epoch: self.epochs.last().map_or(self.base.epoch, |e| e.0), offset: self.end }
    }

    /// Bytes retained.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.tail.len()
    }

    /// Epoch → first offset, ascending.
    #[must_use]
    pub fn epochs(&self) -> &[(Epoch, Offset)] {
        &self.epochs
    }

    /// Epoch of the entry at `offset`, if the table still knows it; `Epoch(0)` before the first entry of all.
    #[must_use]
    pub fn epoch_of(&self, offset: Offset) -> Option<Epoch> {
        if offset == Offset::ZERO {
            return Some(Epoch(0));
        }
        self.epochs.iter().rev().find(|(_, first)| *first <= offset).map(|(epoch, _)| *epoch)
    }

    /// Appends one entry as the leader of `epoch`, and empties `mutations`. Returns its offset.
    ///
    /// # Panics
    /// If `epoch` is lower than that of the last entry.
    pub fn append(&mut self, epoch: Epoch, clock: Wall, mutations: &mut Segments) -> Offset {
        if self.tail_epoch != epoch {
            self.seal();
            self.tail_epoch = epoch;
        }
        let offset = self.note(epoch);
        let len = mutations.len();
        assert!(len <= u32::MAX as usize, "the command's size is bounded at the door");
        let mut head = [0; ENTRY_HEAD_BYTES];
        head[..4].copy_from_slice(&(len as u32).to_le_bytes());
        head[4..].copy_from_slice(&clock.0.to_le_bytes());
        let size = ENTRY_HEAD_BYTES + len;
        if self.tail.len() + size > FRAME_BYTES_MAX {
            self.seal();
        }
        match mutations.as_small() {
            Some(body) if size <= FRAME_BYTES_MAX => {
                if self.tail_count == 0 {
                    self.tail_first = offset;
                    self.tail.reserve(TAIL_BYTES.max(size));
                }
                self.tail.extend_from_slice(&head);
                self.tail.extend_from_slice(body);
                self.tail_count += 1;
                mutations.clear();
            }
            _ => {
                self.seal();
                self.push(Block::new(epoch, offset, 1, mutations.take_parts(&head)));
            }
        }
        offset
    }

    /// Appends a block as a replica. The caller has checked that it follows `end`.
    ///
    /// # Panics
    /// If it does not follow, or its epoch is lower than that of the last entry.
    pub fn append_block(&mut self, epoch: Epoch, first: Offset, count: u32, body: Bytes) {
        assert!(first == self.end.next() && count > 0, "block at {first} does not follow {}", self.end);
        self.seal();
        self.note(epoch);
        self.end = Offset(first.0 + u64::from(count) - 1);
        // A small body is part of a read buffer that it would keep alive.
        let body = if body.len() < TAIL_SPLIT_BYTES { Bytes::copy_from_slice(&body) } else { body };
        self.push(Block::new(epoch, first, count, vec![body]));
    }

    fn note(&mut self, epoch: Epoch) -> Offset {
        let offset = self.end.next();
        let last = self.epochs.last().map_or(Epoch(0), |e| e.0);
        assert!(epoch >= last, "entry of epoch {epoch} after one of {last}");
        if epoch > last {
            self.epochs.push((epoch, offset));
            if self.epochs.len() > EPOCHS_MAX {
                self.epochs.remove(0);
            }
        }
        self.end = offset;
        offset
    }

    fn push(&mut self, block: Block) {
        self.bytes += block.bytes;
        self.blocks.push_back(block);
    }

    /// Closes the tail: what is in it becomes a block that links may share.
    pub fn seal(&mut self) {
        if self.tail_count > 0 {
            // A small block copied to its own size: split off, it would keep the tail's whole buffer alive as long as the
            // backlog keeps it. The buffer stays and is written again while it is in cache.
            let body = if self.tail.len() < TAIL_SPLIT_BYTES {
                let body = Bytes::copy_from_slice(&self.tail);
                self.tail.clear();
                body
            } else {
                self.tail.split().freeze()
            };
            let block = Block::new(self.tail_epoch, self.tail_first, self.tail_count, vec![body]);
            self.push(block);
            self.tail_count = 0;
        }
    }

    /// The sealed block that holds `offset`.
    #[must_use]
    pub fn block_at(&self, offset: Offset) -> Option<&Block> {
        self.blocks.get(self.place_of(offset)?)
    }

    /// The same for a link, with its checksum if it fits a frame: made when the first link asks, and never at a node that has none.
    pub fn block_to_send(&mut self, offset: Offset) -> Option<&Block> {
        let place = self.place_of(offset)?;
        let block = &mut self.blocks[place];
        if block.crc.is_none() && block.bytes <= FRAME_BYTES_MAX {
            let mut crc = crc32fast::Hasher::new();
            block.pieces.iter().for_each(|piece| crc.update(piece));
            block.crc = Some(crc.finalize());
        }
        Some(block)
    }

    fn place_of(&self, offset: Offset) -> Option<usize> {
        let place = self.blocks.partition_point(|b| b.first <= offset).checked_sub(1)?;
        (self.blocks[place].last() >= offset).then_some(place)
    }

    /// The entries after `from` in the block that holds the next one; empty at the end. Seals the tail.
    ///
    /// # Panics
    /// If a block's lengths do not add up: they were checked when it was taken in.
    pub fn entries_after(&mut self, from: Offset) -> Vec<Entry> {
        self.seal();
        let Some(block) = self.block_at(from.next()) else { return Vec::new() };
        let mut all = entries(&block.body(), block.first, block.count).expect("blocks are checked on the way in");
        all.drain(..(from.next().0 - block.first.0) as usize);
        all
    }

    /// The retained entries after `from`, each with its epoch, also those of the open tail: for an observer's checks.
    ///
    /// # Panics
    /// As [`Log::entries_after`].
    #[must_use]
    pub fn peek_after(&self, from: Offset) -> Vec<(Epoch, Entry)> {
        let mut found = Vec::new();
        let mut add = |epoch: Epoch, body: &Bytes, first: Offset, count: u32| {
            let all = entries(body, first, count).expect("blocks are checked on the way in");
            found.extend(all.into_iter().filter(|e| e.offset > from).map(|e| (epoch, e)));
        };
        for block in self.blocks.range(self.blocks.partition_point(|b| b.last() <= from)..) {
            add(block.epoch, &block.body(), block.first, block.count);
        }
        if self.tail_count > 0 && self.end > from {
            add(self.tail_epoch, &Bytes::copy_from_slice(&self.tail), self.tail_first, self.tail_count);
        }
        found
    }

    /// Drops every entry after `to`.
    ///
    /// # Panics
    /// If `to` is before the first retained entry: what was applied is never undone.
    pub fn truncate(&mut self, to: Offset) {
        assert!(to >= self.base.offset, "truncation to {to} reaches below {}", self.base);
        self.seal();
        while let Some(block) = self.blocks.back() {
            if block.last() <= to {
                break;
            }
            let block = self.blocks.pop_back().expect("just seen");
            self.bytes -= block.bytes;
            if block.first <= to {
                let keep = (to.0 - block.first.0 + 1) as u32;
                let body = block.body();
                let kept = entries(&body, block.first, block.count).expect("blocks are checked on the way in");
                let bytes: usize = kept[..keep as usize].iter().map(|e| ENTRY_HEAD_BYTES + e.mutations.len()).sum();
                self.push(Block::new(block.epoch, block.first, keep, vec![body.slice(..bytes)]));
            }
        }
        self.end = self.end.min(to);
        while self.epochs.last().is_some_and(|(_, first)| *first > to) {
            self.epochs.pop();
        }
    }

    /// Drops the oldest blocks while at least `keep_bytes` remain, never one with an entry after `floor`. A block longer than a
    /// frame, which is one big entry, goes as soon as more than `keep_bytes` are retained.
    pub fn trim(&mut self, keep_bytes: usize, floor: Offset) {
        while self.bytes > keep_bytes {
            let Some(block) = self.blocks.front().filter(|b| b.last() <= floor) else { return };
            if self.bytes - block.bytes < keep_bytes && block.bytes <= FRAME_BYTES_MAX {
                return;
            }
            self.base = Position { epoch: block.epoch, offset: block.last() };
            self.bytes -= block.bytes;
            self.blocks.pop_front();
        }
    }

    /// Bytes of the sealed blocks that hold entries after `from`.
    #[must_use]
    pub fn bytes_after(&self, from: Offset) -> usize {
        self.tail.len() + self.blocks.iter().rev().take_while(|b| b.last() > from).map(|b| b.bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &mut Log, epoch: u64, text: &str) -> Offset {
        let mut s = Segments::new();
        s.put_slice(text.as_bytes());
        log.append(Epoch(epoch), Wall(7), &mut s)
    }

    fn texts(log: &mut Log, mut from: Offset) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let next = log.entries_after(from);
            let Some(last) = next.last() else { return all };
            from = last.offset;
            all.extend(next.iter().map(|e| String::from_utf8(e.mutations.to_vec()).unwrap()));
        }
    }

    #[test]
    fn what_was_appended_is_read_back_from_any_offset() {
        let mut log = Log::new(Position::default());
        for (i, word) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            put(&mut log, 1 + i as u64 / 3, word);
            if i == 1 {
                log.seal();
            }
        }
        assert_eq!(texts(&mut log, Offset(0)), ["a", "b", "c", "d", "e"]);
        assert_eq!(texts(&mut log, Offset(2)), ["c", "d", "e"]);
        assert_eq!(log.epochs(), [(Epoch(1), Offset(1)), (Epoch(2), Offset(4))]);
        assert_eq!((log.epoch_of(Offset(3)), log.epoch_of(Offset(4))), (Some(Epoch(1)), Some(Epoch(2))));
    }

    #[test]
    fn truncation_cuts_inside_a_block_and_takes_epochs_back() {
        let mut log = Log::new(Position::default());
        for word in ["a", "bb", "ccc"] {
            put(&mut log, 1, word);
        }
        put(&mut log, 2, "d");
        log.truncate(Offset(2));
        assert_eq!(texts(&mut log, Offset(0)), ["a", "bb"]);
        assert_eq!(log.last(), Position { epoch: Epoch(1), offset: Offset(2) });
        put(&mut log, 3, "x");
        assert_eq!(texts(&mut log, Offset(1)), ["bb", "x"]);
        assert_eq!(log.epochs(), [(Epoch(1), Offset(1)), (Epoch(3), Offset(3))]);
    }

    #[test]
    fn trim_keeps_what_is_not_yet_acknowledged() {
        let mut log = Log::new(Position::default());
        for i in 0..10 {
            put(&mut log, 1, &format!("{i}"));
            log.seal();
        }
        log.trim(0, Offset(4));
        assert_eq!(log.base(), Position { epoch: Epoch(1), offset: Offset(4) });
        assert_eq!(texts(&mut log, Offset(4)).len(), 6);
        assert!(log.block_at(Offset(4)).is_none());
    }

    #[test]
    fn trim_keeps_at_least_what_it_is_told_to_keep() {
        let mut log = Log::new(Position::default());
        for i in 0..3 {
            put(&mut log, 1, &format!("{i}"));
            log.seal();
        }
        let each = log.bytes() / 3;
        log.trim(2 * each - 1, Offset(3));
        assert_eq!(log.base().offset, Offset(1));
        log.trim(each + 1, Offset(3));
        assert_eq!(log.base().offset, Offset(1), "one block alone would be less than what is to be kept");
        log.trim(each, Offset(3));
        assert_eq!(log.base().offset, Offset(2));
    }

    #[test]
    fn an_entry_with_a_shared_value_is_a_block_of_its_own() {
        for len in [8 << 10, FRAME_BYTES_MAX + 1] {
            let value = Bytes::from(vec![b'x'; len]);
            let mut log = Log::new(Position::default());
            put(&mut log, 1, "a");
            let mut s = Segments::new();
            s.put_slice(b"head");
            s.put_shared(value.clone());
            assert_eq!(log.append(Epoch(1), Wall(0), &mut s), Offset(2));
            put(&mut log, 1, "c");
            let block = log.block_to_send(Offset(2)).unwrap();
            assert_eq!((block.count, block.pieces.len()), (1, 2));
            assert_eq!(block.pieces[1].as_ptr(), value.as_ptr(), "it was copied");
            assert_eq!(block.crc, (len < FRAME_BYTES_MAX).then(|| crc32fast::hash(&block.body())));
            let big = log.entries_after(Offset(1));
            assert_eq!(big[0].mutations.len(), len + 4);
            assert_eq!(texts(&mut log, Offset(2)), ["c"]);
        }
    }

    #[test]
    fn entries_that_do_not_add_up_are_an_error() {
        let mut log = Log::new(Position::default());
        put(&mut log, 1, "abc");
        log.seal();
        let body = log.block_at(Offset(1)).unwrap().body();
        assert!(entries(&body, Offset(1), 1).is_ok());
        assert!(entries(&body, Offset(1), 2).is_err());
        assert!(entries(&body.slice(..body.len() - 1), Offset(1), 1).is_err());
        assert!(entries(&Bytes::from_static(&[0xff; 30]), Offset(1), 1).is_err());
    }
}
