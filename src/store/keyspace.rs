//! All keys, in segments: extendible hashing.
//!
//! ```text
//! directory (2^bits numbers)       segments
//!   00 ──────────────────────────► depth 1: hashes 0…    a segment of depth d holds the hashes that share their top d bits
//!   01 ────────────┘                                     and stands 2^(bits - d) times in the directory
//!   10 ──────────────────────────► depth 2: hashes 10…
//!   11 ──────────────────────────► depth 2: hashes 11…
//! ```
//! A segment holds 208 to 416 entries once there are that many; a full one splits in two, a directory that is too short for that
//! doubles by a copy, so no insertion pays for more than one segment. Sparse segments merge with their neighbour, and the directory
//! halves, in [`Keyspace::sweep`]. Hashes in numeric order are segments in order, which is what cursors and snapshot ranges rest on.
//! Source: R. Fagin et al., "Extendible hashing", 1979.
//!
//! Keys that are announced and come in the order of hashes, as a snapshot's do ([`Keyspace::expect`]), find segments of their final depth with tables of
//! their final size: grown as above, each segment would be split again and again with all its keys in the lower half.
//!
//! A split, like every move of entries, goes by what the table stands by (`table`: tags and marks), without reading a key; only at every
//! [`MARK_LIFE`]th depth it hashes the keys again. Storing hashes would cost 8 bytes per key for ever.
//!
//! Not here: what a mutation means (the store), values (entry).

use siphasher::sip::SipHasher13;

use super::KeyHash;
use super::entry::EntryBox;
use super::size_class::size_class;
use super::table::{Debris, GROUPS_MAX, MARK_LIFE, Place, Table, capacity, mark};

/// Deepest segment, so that the end of its range fits a cursor (45 bits of hash).
const DEPTH_MAX: u32 = 44;
/// A segment may be that much deeper than the mean; one that still does not separate grows instead. With a secret hash key nobody
/// gets there by chance: five halvings that leave 416 hashes on one side have a probability below 2^-2000.
const DEPTH_BEYOND_MEAN: u32 = 5;
/// Most entries of a segment that can still be split.
const SEGMENT_ENTRIES_MAX: usize = capacity(GROUPS_MAX);
/// Most keys that are prepared for, so that a wrong number costs a directory of 4 MiB at most. Beyond, segments are split as they fill.
const EXPECTED_KEYS_MAX: usize = SEGMENT_ENTRIES_MAX << 20;
/// Two neighbours with no more entries than this together become one.
const MERGE_ENTRIES_MAX: usize = 208;
/// Segments per allocation of the slab.
const SLAB_CHUNK: usize = 128;
/// What a sweep pays for looking at one segment, in entries.
const SEGMENT_WORK: usize = 4;
/// Bytes of big values that cost a sweep as much as an entry does.
const FREE_BYTES_PER_WORK: usize = 16 << 10;

/// The entries whose hashes share their top `depth` bits.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) table: Table,
    /// Entries with an expiry.
    expiring: u32,
    /// Whether it stands in `Keyspace::sparse`.
    queued: bool,
}

impl Segment {
    pub(super) fn expiring(&self) -> usize {
        self.expiring as usize
    }

    /// Whether a merge or a smaller table may be due.
    fn is_sparse(&self) -> bool {
        let len = self.table.len();
        len * 3 <= self.table.capacity() && self.table.groups() > 0
            || self.table.depth() > 0 && len <= MERGE_ENTRIES_MAX / 2
    }
}

/// The segments by number. Grows by chunks, so that no insertion pays for moving all of them.
struct Slab {
    chunks: Vec<Vec<Segment>>,
    free: Vec<u32>,
}

impl Slab {
    fn new() -> Slab {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }

    #[inline]
    fn get(&self, id: u32) -> &Segment {
        &self.chunks[id as usize / SLAB_CHUNK][id as usize % SLAB_CHUNK]
    }

    #[inline]
    fn get_mut(&mut self, id: u32) -> &mut Segment {
        &mut self.chunks[id as usize / SLAB_CHUNK][id as usize % SLAB_CHUNK]
    }

    fn insert(&mut self, segment: Segment) -> u32 {
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = segment;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == SLAB_CHUNK) {
            self.chunks.push(Vec::with_capacity(SLAB_CHUNK));
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(segment);
        u32::try_from(last * SLAB_CHUNK + self.chunks[last].len() - 1).expect("fewer than 2^32 segments")
    }

    fn remove(&mut self, id: u32) -> Segment {
        self.free.push(id);
        std::mem::take(self.get_mut(id))
    }

    fn memory(&self) -> usize {
        self.chunks.len() * size_class(SLAB_CHUNK * size_of::<Segment>())
    }
}

/// All keys of a store, by hash.
pub(super) struct Keyspace {
    hasher: SipHasher13,
    /// Segment numbers by the top `bits` bits of the hash.
    directory: Vec<u32>,
    bits: u32,
    slab: Slab,
    /// How many segments there are of each depth. The directory may halve when there is none of depth `bits`.
    at_depth: [u32; DEPTH_MAX as usize + 1],
    len: usize,
    expires: usize,
    /// Bytes of entries and tables, detached ones included.
    bytes: usize,
    /// Start of the range of each segment that became sparse; each stands here once (`Segment::queued`).
    sparse: Vec<u64>,
    /// Tables on their way out, freed by `sweep`.
    detached: Vec<Debris>,
    detached_slabs: Vec<Slab>,
    /// Keys that there will be, while they come in the order of hashes; else 0.
    expected: usize,
    overgrown: u64,
}

/// A segment with its place in the order of hashes.
pub(super) struct Visit<'a> {
    pub(super) segment: &'a Segment,
    /// Where the visit began if that is inside the segment: only hashes from there on count.
    from: Option<u64>,
    /// First hash behind the segment; `None`: there is none.
    pub(super) end: Option<u64>,
}

/// Moves all entries of a table into another, their marks changed.
fn pour(from: Table, into: &mut Table, change: impl Fn(u16) -> u16) {
    let mut debris = from.into_debris();
    while let Some(group) = debris.next_group() {
        for (tag, mut entry) in group {
            entry.set_mark(change(entry.mark()));
            into.place(tag, entry);
        }
    }
}

/// First hash of the range of depth `depth` that holds `h`.
fn range_start(h: u64, depth: u32) -> u64 {
    if depth == 0 { 0 } else { h >> (64 - depth) << (64 - depth) }
}

/// First hash behind that range; `None`: it is the last one.
fn range_end(h: u64, depth: u32) -> Option<u64> {
    if depth == 0 { None } else { range_start(h, depth).checked_add(1 << (64 - depth)) }
}

impl Keyspace {
    pub(super) fn new(hash_key: &[u8; 16]) -> Keyspace {
        let mut space = Keyspace {
            hasher: SipHasher13::new_with_key(hash_key),
            directory: Vec::new(),
            bits: 0,
            slab: Slab::new(),
            at_depth: [0; DEPTH_MAX as usize + 1],
            len: 0,
            expires: 0,
            bytes: 0,
            sparse: Vec::new(),
            detached: Vec::new(),
            detached_slabs: Vec::new(),
            expected: 0,
            overgrown: 0,
        };
        space.start_empty();
        space
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash(key))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn expires(&self) -> usize {
        self.expires
    }

    pub(super) fn overgrown(&self) -> u64 {
        self.overgrown
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes + self.slab.memory() + size_class(self.directory.len() * size_of::<u32>())
    }

    /// The table that holds the key if any does.
    #[inline]
    pub(super) fn table(&self, h: KeyHash) -> &Table {
        &self.slab.get(self.id(h.0)).table
    }

    #[inline]
    fn id(&self, h: u64) -> u32 {
        // Two shifts, because a shift by 64 is none.
        self.directory[(h >> 1 >> (63 - self.bits)) as usize]
    }

    #[inline]
    fn segment_mut(&mut self, h: KeyHash) -> &mut Segment {
        let id = self.id(h.0);
        self.slab.get_mut(id)
    }

    #[inline]
    pub(super) fn find(&self, h: KeyHash, key: &[u8]) -> Option<Place> {
        self.table(h).find(h, key)
    }

    /// The entry of a key, for a change that is none of its size nor of its expiry.
    #[inline]
    pub(super) fn find_mut(&mut self, h: KeyHash, key: &[u8]) -> Option<&mut EntryBox> {
        let table = &mut self.segment_mut(h).table;
        let place = table.find(h, key)?;
        Some(table.get_mut(place))
    }

    /// Changes the entry at a place that `find` has just given.
    #[inline]
    pub(super) fn update(&mut self, h: KeyHash, place: Place, change: impl FnOnce(&mut EntryBox)) {
        let segment = self.segment_mut(h);
        let entry = segment.table.get_mut(place);
        let (bytes, expiring) = (entry.as_entry().memory(), entry.as_entry().expiry().is_some());
        change(entry);
        let (bytes_after, expiring_after) = (entry.as_entry().memory(), entry.as_entry().expiry().is_some());
        segment.expiring = segment.expiring + u32::from(expiring_after) - u32::from(expiring);
        self.expires = self.expires + usize::from(expiring_after) - usize::from(expiring);
        self.bytes = self.bytes + bytes_after - bytes;
    }

    /// Adds an entry whose key is not here yet.
    pub(super) fn insert(&mut self, h: KeyHash, entry: EntryBox) {
        while self.table(h).is_full() {
            self.make_room(h);
        }
        let (bytes, expiring) = (entry.as_entry().memory(), entry.as_entry().expiry().is_some());
        let segment = self.segment_mut(h);
        segment.table.insert(h, entry);
        segment.expiring += u32::from(expiring);
        self.len += 1;
        self.expires += usize::from(expiring);
        self.bytes += bytes;
    }

    /// Drops the entry at a place that `find` has just given for a key of hash `h`.
    pub(super) fn remove(&mut self, h: KeyHash, place: Place) {
        let segment = self.segment_mut(h);
        let entry = segment.table.remove(h, place);
        let expiring = entry.as_entry().expiry().is_some();
        segment.expiring -= u32::from(expiring);
        self.len -= 1;
        self.expires -= usize::from(expiring);
        self.bytes -= entry.as_entry().memory();
        self.queue_if_sparse(h.0);
    }

    /// The segment at `from`; its entries below `from` do not count.
    pub(super) fn visit(&self, from: u64) -> Visit<'_> {
        let segment = self.slab.get(self.id(from));
        let depth = segment.table.depth();
        let inside = range_start(from, depth) < from;
        Visit { segment, from: inside.then_some(from), end: range_end(from, depth) }
    }

    /// Drops every key; the work is left to `sweep`.
    pub(super) fn clear(&mut self) {
        let slab = std::mem::replace(&mut self.slab, Slab::new());
        self.detached_slabs.push(slab);
        self.start_empty();
    }

    /// Drops every key whose hash is below `upto`; the work is left to `sweep`, but for one segment.
    pub(super) fn clear_below(&mut self, upto: u64) {
        let mut next = Some(0);
        while let Some(start) = next.filter(|&start| start < upto) {
            let id = self.id(start);
            let segment = self.slab.get_mut(id);
            let depth = segment.table.depth();
            next = range_end(start, depth);
            if next.is_some_and(|end| end <= upto) {
                self.len -= segment.table.len();
                self.expires -= std::mem::take(&mut segment.expiring) as usize;
                let table = std::mem::replace(&mut segment.table, Table::with_groups(0, depth));
                self.detached.push(table.into_debris());
                self.queue_if_sparse(start);
            } else {
                self.clear_part(start, upto);
            }
        }
    }

    /// Does about `work` entries' worth of what was put off: frees what is detached, merges and shrinks what is sparse. Returns whether
    /// anything is left.
    pub(super) fn sweep(&mut self, work: usize) -> bool {
        let mut spent = 0;
        while spent < work {
            spent += if !self.detached.is_empty() || !self.detached_slabs.is_empty() {
                self.free_some()
            } else if let Some(start) = self.sparse.pop() {
                self.tidy(start)
            } else {
                break;
            };
        }
        if self.sparse.is_empty() {
            self.sparse = Vec::new();
        }
        !(self.detached.is_empty() && self.detached_slabs.is_empty() && self.sparse.is_empty())
    }

    fn start_empty(&mut self) {
        let id = self.slab.insert(Segment::default());
        self.directory = vec![id];
        self.bits = 0;
        self.at_depth = [0; DEPTH_MAX as usize + 1];
        self.at_depth[0] = 1;
        self.len = 0;
        self.expires = 0;
        self.expected = 0;
        self.sparse = Vec::new();
    }

    /// Keys come in the order of hashes until there are about so many. A segment is prepared with its first key, so that what does not come costs nothing.
    pub(super) fn expect(&mut self, keys: u64) {
        self.expected = usize::try_from(keys).map_or(EXPECTED_KEYS_MAX, |keys| keys.min(EXPECTED_KEYS_MAX));
    }

    /// All have come. Looks at every segment: where fewer came than were expected, it is sparse.
    pub(super) fn expect_no_more(&mut self) {
        self.expected = 0;
        let mut next = Some(0);
        while let Some(start) = next {
            self.queue_if_sparse(start);
            next = self.visit(start).end;
        }
    }

    /// Makes the full segment of `h` larger, or splits it.
    fn make_room(&mut self, h: KeyHash) {
        let id = self.id(h.0);
        let segment = self.slab.get(id);
        let depth = segment.table.depth();
        let expected = self.expected >> depth;
        if segment.table.groups() == 0 && expected > SEGMENT_ENTRIES_MAX {
            self.split(h.0, id, depth);
        } else if segment.table.groups() == 0 {
            self.rebuild(id, Table::groups_for(expected.max(1)));
        } else if segment.table.groups() < GROUPS_MAX {
            self.rebuild(id, segment.table.groups_above());
        } else if depth < self.depth_max() {
            self.split(h.0, id, depth);
        } else {
            self.overgrown += 1;
            self.rebuild(id, segment.table.groups_above());
        }
    }

    fn depth_max(&self) -> u32 {
        let segments: u32 = self.at_depth.iter().sum();
        let expected = (self.expected / SEGMENT_ENTRIES_MAX) as u32;
        (segments.max(expected).ilog2() + DEPTH_BEYOND_MEAN).min(DEPTH_MAX)
    }

    /// Moves the entries of a segment into a table of that many groups.
    fn rebuild(&mut self, id: u32, groups: usize) {
        let old = std::mem::take(&mut self.slab.get_mut(id).table);
        self.bytes -= old.memory();
        let mut table = Table::with_groups(groups, old.depth());
        pour(old, &mut table, |mark| mark);
        self.bytes += table.memory();
        self.slab.get_mut(id).table = table;
    }

    fn split(&mut self, h: u64, id: u32, depth: u32) {
        if depth == self.bits {
            self.directory = self.directory.iter().flat_map(|&id| [id, id]).collect();
            self.bits += 1;
        }
        let Segment { table: old, expiring, .. } = std::mem::take(self.slab.get_mut(id));
        self.bytes -= old.memory();
        let bit = 1 << (63 - depth);
        let mut halves = [Vec::with_capacity(old.len()), Vec::with_capacity(old.len())];
        let mut expiring_in = [0; 2];
        // Entries are read only if something about them stands nowhere else.
        let (new_marks, count_expiring) = ((depth + 1).is_multiple_of(MARK_LIFE), expiring > 0);
        let read_ahead = |debris: &Debris| {
            if new_marks || count_expiring {
                debris.prefetch_last();
            }
        };
        let mut debris = old.into_debris();
        read_ahead(&debris);
        while let Some(group) = debris.next_group() {
            read_ahead(&debris);
            for (tag, mut entry) in group {
                let half = usize::from(entry.mark() >> 15);
                if count_expiring {
                    expiring_in[half] += u32::from(entry.as_entry().expiry().is_some());
                }
                entry.set_mark(match new_marks {
                    true => mark(self.hash(entry.as_entry().key()), depth + 1),
                    false => entry.mark() << 1,
                });
                halves[half].push((tag, entry));
            }
        }
        let [low, high] = halves.map(|half| self.table_of(half, depth + 1));
        let low = Segment { table: low, expiring: expiring_in[0], queued: false };
        let high = Segment { table: high, expiring: expiring_in[1], queued: false };
        *self.slab.get_mut(id) = low;
        let high = self.slab.insert(high);
        self.at_depth[depth as usize] -= 1;
        self.at_depth[depth as usize + 1] += 2;
        self.point(range_start(h, depth) | bit, depth + 1, high);
        for half in [range_start(h, depth), range_start(h, depth) | bit] {
            self.queue_if_sparse(half);
        }
    }

    fn table_of(&mut self, entries: Vec<(u8, EntryBox)>, depth: u32) -> Table {
        let mut table = Table::with_groups(Table::groups_for(entries.len()), depth);
        for (tag, entry) in entries {
            table.place(tag, entry);
        }
        self.bytes += table.memory();
        table
    }

    /// Points the whole range of depth `depth` that begins at `start` to a segment.
    fn point(&mut self, start: u64, depth: u32, id: u32) {
        let first = (start >> 1 >> (63 - self.bits)) as usize;
        self.directory[first..first + (1 << (self.bits - depth))].fill(id);
    }

    fn queue_if_sparse(&mut self, h: u64) {
        if self.expected > 0 {
            return; // it may be about to fill; `expect_no_more` looks at all
        }
        let id = self.id(h);
        let segment = self.slab.get_mut(id);
        if segment.is_sparse() && !segment.queued {
            segment.queued = true;
            self.sparse.push(range_start(h, segment.table.depth()));
        }
    }

    /// Merges the segment at `start` with its neighbour, or makes its table smaller, if that is due. Returns the work done.
    fn tidy(&mut self, start: u64) -> usize {
        let id = self.id(start);
        let segment = self.slab.get_mut(id);
        segment.queued = false;
        let (len, depth) = (segment.table.len(), segment.table.depth());
        if depth > 0 {
            let bit = 1 << (64 - depth);
            let other = self.id(start ^ bit);
            let sum = len + self.slab.get(other).table.len();
            if self.slab.get(other).table.depth() == depth && sum <= MERGE_ENTRIES_MAX {
                let (low, high) = if start & bit == 0 { (id, other) } else { (other, id) };
                self.merge(range_start(start, depth) & !bit, low, high, depth);
                return SEGMENT_WORK + sum;
            }
        }
        let groups = Table::groups_for(len);
        if groups * 2 <= self.slab.get(id).table.groups() {
            self.rebuild(id, groups);
            return SEGMENT_WORK + len;
        }
        SEGMENT_WORK
    }

    /// Makes one segment, under the number `id`, of the two of depth `depth` that begin at `start`.
    fn merge(&mut self, start: u64, id: u32, high: u32, depth: u32) {
        let (low, high) = (std::mem::take(self.slab.get_mut(id)), self.slab.remove(high));
        self.bytes -= low.table.memory() + high.table.memory();
        let mut table = Table::with_groups(Table::groups_for(low.table.len() + high.table.len()), depth - 1);
        let expiring = low.expiring + high.expiring;
        pour(low.table, &mut table, |mark| mark >> 1);
        pour(high.table, &mut table, |mark| mark >> 1 | 1 << 15);
        self.bytes += table.memory();
        *self.slab.get_mut(id) = Segment { table, expiring, queued: false };
        self.at_depth[depth as usize] -= 2;
        self.at_depth[depth as usize - 1] += 1;
        self.point(start, depth - 1, id);
        while self.bits > 0 && self.at_depth[self.bits as usize] == 0 {
            self.directory = self.directory.iter().step_by(2).copied().collect();
            self.bits -= 1;
        }
        // Queued even if it is not sparse: its own neighbour may have been waiting for it. The neighbour's old place in `sparse` may be
        // left over; it is looked up by hash, finds the merged segment, and at worst tidies that once more.
        self.slab.get_mut(id).queued = true;
        self.sparse.push(start);
    }

    fn clear_part(&mut self, start: u64, upto: u64) {
        let doomed = |entry: &EntryBox| self.hash(entry.as_entry().key()).0 < upto;
        let segment = self.slab.get(self.id(start));
        let keys: Vec<Vec<u8>> =
            segment.table.iter().filter(|entry| doomed(entry)).map(|entry| entry.as_entry().key().to_vec()).collect();
        for key in keys {
            let h = self.hash(&key);
            if let Some(place) = self.find(h, &key) {
                self.remove(h, place);
            }
        }
    }

    /// Frees one group of entries, or takes one slab's chunk apart. Returns the work done.
    fn free_some(&mut self) -> usize {
        let Some(debris) = self.detached.last_mut() else {
            let chunk = self.detached_slabs.last_mut().and_then(|slab| slab.chunks.pop());
            let Some(chunk) = chunk else {
                self.detached_slabs.pop();
                return SEGMENT_WORK;
            };
            let work = chunk.len() * SEGMENT_WORK;
            self.detached.extend(chunk.into_iter().map(|segment| segment.table.into_debris()));
            return work;
        };
        let Some(group) = debris.next_group() else {
            self.bytes -= debris.bytes();
            self.detached.pop();
            return SEGMENT_WORK;
        };
        let mut freed = 1;
        debris.prefetch_last();
        for (_, entry) in group {
            let bytes = entry.as_entry().memory();
            self.bytes -= bytes;
            freed += 1 + bytes / FREE_BYTES_PER_WORK;
        }
        freed
    }
}

impl Visit<'_> {
    /// Entries whose hash is not below the place where the visit began.
    pub(super) fn entries<'a>(&'a self, space: &'a Keyspace) -> impl Iterator<Item = super::Entry<'a>> {
        let counts = move |entry: &super::Entry<'_>| self.from.is_none_or(|from| space.hash(entry.key()).0 >= from);
        self.segment.table.iter().map(EntryBox::as_entry).filter(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Mutation, Store, ValueRef};
    use super::*;
    use crate::base::clock::Wall;
    use crate::base::ids::HashKey;

    fn put(store: &mut Store, key: &[u8], value: &[u8]) {
        store.apply(&Mutation::Put { key, value: ValueRef::Slice(value), expiry: None, event: Event::Set });
    }

    #[test]
    fn ranges_cover_every_hash_once() {
        assert_eq!((range_start(u64::MAX, 0), range_end(u64::MAX, 0)), (0, None));
        assert_eq!((range_start(u64::MAX, 1), range_end(u64::MAX, 1)), (1 << 63, None));
        assert_eq!((range_start(7, 1), range_end(7, 1)), (0, Some(1 << 63)));
        assert_eq!((range_start(u64::MAX, DEPTH_MAX), range_end(5, DEPTH_MAX)), (u64::MAX << 20, Some(1 << 20)));
    }

    #[test]
    fn keys_that_do_not_separate_make_one_segment_grow_and_not_the_directory() {
        let mut store = Store::new(HashKey([5; 16]));
        let alike = |key: &u64| SipHasher13::new_with_key(&[5; 16]).hash(&key.to_le_bytes()) >> 54 == 0;
        let keys: Vec<u64> = (0..).filter(alike).take(700).collect();
        keys.iter().for_each(|key| put(&mut store, &key.to_le_bytes(), b"v"));
        assert!(store.segments_overgrown() > 0);
        assert!(store.space.directory.len() <= 1 << 10, "a directory of {}", store.space.directory.len());
        for key in &keys {
            assert!(store.get(store.hash(&key.to_le_bytes()), &key.to_le_bytes()).is_some());
        }
        keys.iter().for_each(|key| store.apply(&Mutation::Delete { key: &key.to_le_bytes(), event: Event::Del }));
        while store.sweep(100) {}
        assert_eq!((store.len(), store.space.directory.len()), (0, 1));
    }

    #[test]
    fn growing_moves_at_most_one_segment_per_insertion_and_keeps_the_directory_short() {
        let mut store = Store::new(HashKey([5; 16]));
        for key in 0..100_000_u64 {
            put(&mut store, &key.to_le_bytes(), b"v");
        }
        let largest = store.space.slab.chunks.iter().flatten().map(|segment| segment.table.groups()).max();
        assert_eq!(largest, Some(GROUPS_MAX));
        assert!(store.space.directory.len() <= 1 << 10, "a directory of {}", store.space.directory.len());
        assert_eq!(store.segments_overgrown(), 0);
    }

    /// A copy of a store of so many keys, announced as so many, made in the order of hashes as by a snapshot; sorted within segments, too, which is worse.
    fn copied(keys: u64, announced: u64) -> Store {
        let mut store = Store::new(HashKey([5; 16]));
        let mut all: Vec<_> = (0..keys).map(u64::to_le_bytes).collect();
        all.sort_unstable_by_key(|key| store.hash(key).0);
        store.expect(announced);
        all.iter().for_each(|key| put(&mut store, key, b"v"));
        store.expect_no_more();
        assert_eq!(store.len() as u64, keys);
        assert!(all.iter().all(|key| store.get(store.hash(key), key).is_some()));
        store
    }

    #[test]
    fn announced_keys_in_the_order_of_hashes_make_a_store_as_large_as_keys_that_came_by_chance() {
        for keys in [1, 300, 1_000, 50_000, 70_000, 100_000] {
            let mut by_chance = Store::new(HashKey([5; 16]));
            (0..keys).for_each(|key: u64| put(&mut by_chance, &key.to_le_bytes(), b"v"));
            let copy = copied(keys, keys);
            let (memory, usual) = (copy.used_memory(), by_chance.used_memory());
            assert!(memory <= usual + usual / 8, "{memory} bytes for {keys} keys, {usual} if they come by chance");
            let (length, usual) = (copy.space.directory.len(), by_chance.space.directory.len());
            assert!(length <= 2 * usual, "a directory of {length} for {keys} keys, {usual} if they come by chance");
            assert_eq!(copy.segments_overgrown(), 0, "of {keys} keys");
        }
    }

    #[test]
    fn keys_that_were_announced_and_did_not_come_leave_nothing_to_speak_of() {
        let usual = copied(1_000, 1_000).used_memory();
        for (announced, memory_max) in [(100_000, 2 * usual), (u64::MAX, 4 << 20)] {
            let mut copy = copied(1_000, announced);
            while copy.sweep(100) {}
            let memory = copy.used_memory();
            assert!(memory <= memory_max, "{memory} bytes where {announced} keys were announced, else {usual}");
            assert!(copy.space.directory.len() <= 16, "a directory of {}", copy.space.directory.len());
        }
    }

    #[track_caller]
    fn assert_marked(store: &Store) {
        for segment in store.space.slab.chunks.iter().flatten() {
            let (depth, mut expiring) = (segment.table.depth(), 0);
            for entry in segment.table.iter() {
                let unknown = depth % MARK_LIFE;
                let hash = store.space.hash(entry.as_entry().key());
                assert_eq!(entry.mark() >> unknown, mark(hash, depth) >> unknown, "depth {depth}");
                expiring += u32::from(entry.as_entry().expiry().is_some());
            }
            assert_eq!(segment.expiring, expiring);
        }
    }

    #[test]
    fn entries_move_by_marks_that_are_bits_of_their_hashes() {
        let mut store = Store::new(HashKey([5; 16]));
        let delete = |store: &mut Store, keys: std::ops::Range<u64>| {
            keys.for_each(|key| store.apply(&Mutation::Delete { key: &key.to_le_bytes(), event: Event::Del }));
            while store.sweep(1_000) {}
        };
        for key in 0..60_000_u64 {
            put(&mut store, &key.to_le_bytes(), b"v");
            if key % 3 == 0 {
                put(&mut store, &key.to_le_bytes(), &[7; 100]); // moves it
                let expiry = Some(Wall(key));
                store.apply(&Mutation::SetExpiry { key: &key.to_le_bytes(), expiry, event: Event::Expire });
            }
        }
        assert_marked(&store);
        delete(&mut store, 20_000..60_000);
        assert_marked(&store);
        (60_000..100_000_u64).for_each(|key| put(&mut store, &key.to_le_bytes(), b"v"));
        assert_marked(&store);
        delete(&mut store, 10..100_000);
        assert_marked(&store);
        assert_eq!((store.len(), store.space.directory.len()), (10, 1));
    }

    /// Valkey 9.1 takes 79.7 and 167.7 bytes for these (docs/PERFORMANCE.md); the bounds here are 86 and 84 % of that, fragmentation not counted.
    #[test]
    fn bytes_per_key_stay_below_the_peers() {
        for (length, bytes_max) in [(32, 68.5), (100, 140.5)] {
            let mut store = Store::new(HashKey([5; 16]));
            let mut samples = Vec::new();
            for key in 1..=100_000_u128 {
                put(&mut store, &key.to_le_bytes(), &[7; 100][..length]);
                if key > 50_000 && key % 1_000 == 0 {
                    samples.push(store.used_memory() as f64 / key as f64);
                }
            }
            let mean = samples.iter().sum::<f64>() / samples.len() as f64;
            assert!(mean < bytes_max, "{mean:.1} bytes per key of 16 + {length}");
        }
    }
}
