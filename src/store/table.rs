//! The hash table of one segment: groups of fourteen slots, two cache lines each.
//!
//! ```text
//! group (128 bytes):  14 tags, overflow, spare │ 14 thin pointers
//! ```
//! A key's home group follows from its hash; a full group sends it on by a stride, which follows from the hash too, and counts that
//! in `overflow`, so a search ends at the first group that nothing went past. Removal counts back: no tombstones, nothing to clean up
//! under churn. Source: F14 (N. Bronson, X. Shi, "Open-sourcing F14", 2019).
//!
//! Why not hashbrown: its tables are powers of two plus control bytes, which the allocator rounds up by a tenth; segments of them cost
//! 16.5 bytes per key, averaged over a doubling. The steps of [`GROUPS`] are exactly size classes and are used to 62 to 93 %: 11.8 bytes.
//! Finer steps (20, 28) would save another byte and lose it again to fragmentation, and rehash twice as often.
//!
//! An entry is placed by its tag and by a mark, the sixteen bits of its hash below those that all keys of the segment share. Both stand in the table, the mark
//! in the entry's pointer: so a table grows, splits and merges without reading a key. A split uses up the mark's first bit, so it gets shorter; every
//! [`MARK_LIFE`] levels it is made anew from the key.
//!
//! Not here: which keys belong to the segment, accounting (keyspace). Hash bits: tags take 0..8, the directory those from 63 down, marks
//! the next sixteen, of which home groups follow from the first [`HOME_BITS`].

use super::KeyHash;
use super::entry::{EntryBox, prefetch};
use super::size_class::size_class;

/// Slots in a group.
const SLOTS: usize = 14;
/// Numbers of groups that a table may have; beyond the last only for a segment that does not separate, by doubling.
const GROUPS: [usize; 9] = [0, 1, 2, 4, 8, 12, 16, 24, 32];
/// Most groups of a segment that can still be split.
pub(super) const GROUPS_MAX: usize = GROUPS[GROUPS.len() - 1];
/// An overflow count that large is no longer counted back; the next rebuild sets it right.
const OVERFLOW_STUCK: u8 = u8::MAX;
/// Bits of a mark that say the home group.
const HOME_BITS: u32 = 11;
/// Depths from one at which marks are whole to the next: between them `HOME_BITS` are always left.
pub(super) const MARK_LIFE: u32 = u16::BITS - HOME_BITS + 1;

const GROUP_BYTES: usize = size_of::<Group>();
const _: () = assert!(GROUP_BYTES == 128);

#[repr(align(64))]
struct Group {
    /// One byte per slot, 0 if it is empty; then `overflow`, then a spare one.
    tags: [u8; 16],
    slots: [Option<EntryBox>; SLOTS],
}

const OVERFLOW: usize = SLOTS;

/// Slots of a group whose tag byte may match: one bit of 0x80 per byte of the word, low byte first.
struct Candidates(u128);

impl Iterator for Candidates {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

impl Group {
    fn new() -> Group {
        Group { tags: [0; 16], slots: [const { None }; SLOTS] }
    }

    /// Slots whose tag is `tag`, in order. A false one can follow a true one ("determine if a word has a zero byte", S. E.
    /// Anderson, Bit Twiddling Hacks), never precede it: the first is exact.
    #[inline]
    fn candidates(&self, tag: u8) -> Candidates {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        const HIGH: u64 = ONES << 7;
        let zeros = |tags: u64| {
            let mixed = tags ^ (ONES * u64::from(tag));
            mixed.wrapping_sub(ONES) & !mixed & HIGH
        };
        let word = u128::from_le_bytes(self.tags);
        let (low, high) = (zeros(word as u64), zeros((word >> 64) as u64) << 16 >> 16);
        Candidates(u128::from(high) << 64 | u128::from(low))
    }

    /// The first empty slot, if there is one.
    #[inline]
    fn vacancy(&self) -> Option<usize> {
        self.candidates(0).find(|&slot| self.slots[slot].is_none())
    }

    fn prefetch_entries(&self) {
        self.slots.iter().flatten().for_each(EntryBox::prefetch);
    }
}

/// The entries of one segment. Does not grow by itself: see [`Table::is_full`].
#[derive(Default)]
pub(super) struct Table {
    groups: Box<[Group]>,
    len: u32,
    /// Bits that the hashes of all its keys share, from the highest down.
    depth: u8,
}

/// Where an entry stands, until the next change of the table.
#[derive(Clone, Copy)]
pub(super) struct Place {
    group: usize,
    slot: usize,
}

#[inline]
fn tag(h: KeyHash) -> u8 {
    (h.0 as u8).max(1)
}

/// The mark of a key in a table of that depth.
#[inline]
pub(super) fn mark(h: KeyHash, depth: u32) -> u16 {
    (h.0 << depth >> 48) as u16
}

impl Table {
    /// An empty table of that many groups, for keys whose hashes share `depth` bits (at most 44).
    pub(super) fn with_groups(groups: usize, depth: u32) -> Table {
        Table { groups: (0..groups).map(|_| Group::new()).collect(), len: 0, depth: depth as u8 }
    }

    /// Bits that the hashes of all its keys share.
    #[inline]
    pub(super) fn depth(&self) -> u32 {
        u32::from(self.depth)
    }

    /// Groups for `len` entries and an eighth more, as far as [`GROUPS_MAX`] goes; beyond, for `len`.
    pub(super) fn groups_for(len: usize) -> usize {
        let wanted = len + len / 8;
        let step = GROUPS.into_iter().find(|&groups| capacity(groups) >= wanted).unwrap_or(GROUPS_MAX);
        std::iter::successors(Some(step), |groups| Some(groups * 2))
            .find(|&groups| capacity(groups) >= len)
            .unwrap_or(step)
    }

    /// Groups of the next larger table.
    pub(super) fn groups_above(&self) -> usize {
        GROUPS.into_iter().find(|&groups| groups > self.groups.len()).unwrap_or(self.groups.len() * 2)
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Entries it takes before it is full.
    pub(super) fn capacity(&self) -> usize {
        capacity(self.groups.len())
    }

    /// Whether it must be rebuilt larger, or split, before the next insertion.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity()
    }

    /// Bytes of its allocation.
    pub(super) fn memory(&self) -> usize {
        size_class(self.groups.len() * GROUP_BYTES)
    }

    #[inline]
    fn home(&self, h: KeyHash) -> usize {
        self.home_of(mark(h, self.depth()))
    }

    #[inline]
    fn home_of(&self, mark: u16) -> usize {
        ((usize::from(mark) >> (u16::BITS - HOME_BITS)) * self.groups.len()) >> HOME_BITS
    }

    /// The group that a full one sends the key to. Strides have no factor in common with any number of groups, so all groups are met.
    #[inline]
    fn after(&self, group: usize, tag: u8) -> usize {
        const STRIDES: [usize; 8] = [1, 5, 7, 11, 13, 17, 19, 23];
        (group + STRIDES[usize::from(tag) >> 5]) % self.groups.len()
    }

    /// Starts loading the key's home group.
    #[inline]
    pub(super) fn touch(&self, h: KeyHash) {
        if let Some(group) = self.groups.get(self.home(h)) {
            prefetch(group);
        }
    }

    /// Starts loading the entry in the home group that probably is the key's.
    #[inline]
    pub(super) fn touch_entry(&self, h: KeyHash) {
        if let Some(group) = self.groups.get(self.home(h))
            && let Some(slot) = group.candidates(tag(h)).next()
            && let Some(entry) = &group.slots[slot]
        {
            entry.prefetch();
        }
    }

    /// Where the key stands.
    #[inline]
    pub(super) fn find(&self, h: KeyHash, key: &[u8]) -> Option<Place> {
        let tag = tag(h);
        let mut at = self.home(h);
        for _ in 0..self.groups.len() {
            let group = &self.groups[at];
            for slot in group.candidates(tag) {
                if group.slots[slot].as_ref().is_some_and(|entry| entry.as_entry().key() == key) {
                    return Some(Place { group: at, slot });
                }
            }
            if group.tags[OVERFLOW] == 0 {
                return None;
            }
            at = self.after(at, tag);
        }
        None
    }

    /// The entry at a place that `find` has just given.
    #[inline]
    pub(super) fn get(&self, place: Place) -> &EntryBox {
        self.groups[place.group].slots[place.slot].as_ref().expect("a place holds an entry")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: Place) -> &mut EntryBox {
        self.groups[place.group].slots[place.slot].as_mut().expect("a place holds an entry")
    }

    /// Adds an entry whose key is not here yet.
    ///
    /// # Panics
    /// The table has no free slot: the caller looks at [`Table::is_full`] first.
    pub(super) fn insert(&mut self, h: KeyHash, mut entry: EntryBox) {
        entry.set_mark(mark(h, self.depth()));
        self.place(tag(h), entry);
    }

    /// The same for an entry that comes from another table, with its tag there and its mark set for this one.
    ///
    /// # Panics
    /// As `insert`.
    pub(super) fn place(&mut self, tag: u8, entry: EntryBox) {
        assert!(self.len() < self.groups.len() * SLOTS, "insertion into a table without a free slot");
        let mut at = self.home_of(entry.mark());
        loop {
            let group = &mut self.groups[at];
            if let Some(slot) = group.vacancy() {
                group.tags[slot] = tag;
                group.slots[slot] = Some(entry);
                self.len += 1;
                return;
            }
            group.tags[OVERFLOW] = group.tags[OVERFLOW].saturating_add(1);
            at = self.after(at, tag);
        }
    }

    /// Takes out the entry at a place that `find` has just given for a key of hash `h`.
    pub(super) fn remove(&mut self, h: KeyHash, place: Place) -> EntryBox {
        let mut at = self.home(h);
        while at != place.group {
            let overflow = &mut self.groups[at].tags[OVERFLOW];
            if *overflow != OVERFLOW_STUCK {
                *overflow -= 1;
            }
            at = self.after(at, tag(h));
        }
        let group = &mut self.groups[at];
        group.tags[place.slot] = 0;
        self.len -= 1;
        group.slots[place.slot].take().expect("a place holds an entry")
    }

    /// All entries, group by group; the next group's are being loaded while one group is visited.
    pub(super) fn iter(&self) -> impl Iterator<Item = &EntryBox> {
        self.groups.iter().enumerate().flat_map(|(at, group)| {
            if at == 0 {
                group.prefetch_entries();
            }
            if let Some(next) = self.groups.get(at + 1) {
                next.prefetch_entries();
            }
            group.slots.iter().flatten()
        })
    }

    /// Places for entries.
    pub(super) fn places(&self) -> usize {
        self.groups.len() * SLOTS
    }

    /// Whether an entry stands there.
    pub(super) fn is_taken(&self, place: usize) -> bool {
        self.groups[place / SLOTS].slots[place % SLOTS].is_some()
    }

    /// All entries, once round from a place on.
    pub(super) fn iter_from(&self, place: usize) -> impl Iterator<Item = &EntryBox> {
        if let Some(group) = self.groups.get(place / SLOTS) {
            group.prefetch_entries();
        }
        let round = (place..self.places()).chain(0..place);
        round.filter_map(|place| self.groups[place / SLOTS].slots[place % SLOTS].as_ref())
    }

    /// The entries of one group, while the next one's are being loaded; `None` beyond the last.
    pub(super) fn group(&self, at: usize) -> Option<impl Iterator<Item = &EntryBox>> {
        let group = self.groups.get(at)?;
        if let Some(next) = self.groups.get(at + 1) {
            next.prefetch_entries();
        }
        Some(group.slots.iter().flatten())
    }

    /// Takes the table apart.
    pub(super) fn into_debris(self) -> Debris {
        Debris { bytes: self.memory(), groups: self.groups.into_vec() }
    }
}

/// Entries that a table of `groups` takes: 13 of 14 slots per group. A full table of 32 groups costs a hit 1.16 groups and a miss 2.2, one
/// that is four fifths full 1.02 and 1.1 (simulated).
pub(super) const fn capacity(groups: usize) -> usize {
    groups * 13
}

/// What is left of a table: gives its entries back group by group.
pub(super) struct Debris {
    groups: Vec<Group>,
    /// Bytes of the table's allocation, which goes with the last group.
    bytes: usize,
}

impl Debris {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts loading the entries of its last group.
    pub(super) fn prefetch_last(&self) {
        if let Some(group) = self.groups.last() {
            group.slots.iter().flatten().for_each(EntryBox::prefetch_key);
        }
    }

    /// The tags and entries of its last group; `None` when there is no group left.
    pub(super) fn next_group(&mut self) -> Option<impl Iterator<Item = (u8, EntryBox)> + use<>> {
        let group = self.groups.pop()?;
        Some(group.tags.into_iter().zip(group.slots).filter_map(|(tag, slot)| Some((tag, slot?))))
    }
}
