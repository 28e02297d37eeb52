//! One key and its value in one allocation behind a thin pointer. The one module of the store that holds `unsafe`.
//!
//! ```text
//! byte  0        1      2..5   5          6..8         8
//!      ┌────────┬──────┬──────┬──────────┬────────────┬─────────────┬────────────┬──────────────┬─────┬─────────────┐
//!      │ kind   │flags │clock │ key      │ inline     │ Own         │ expiry     │ key length   │ key │ inline      │
//!      │ nibbles│      │      │ length   │ length     │ if OWN      │ if EXPIRY  │ if LONG_KEY  │     │ value bytes │
//!      └────────┴──────┴──────┴──────────┴────────────┴─────────────┴────────────┴──────────────┴─────┴─────────────┘
//!        type,           3     u8          u16          40 bytes      u64          u32
//!        encoding        bytes
//! ```
//! Fixed places are aligned because the allocation is aligned to 8 and `Own` stands first; the rest is read unaligned. The
//! allocation always has the whole size class of its content, so its layout follows from the header, and an overwrite that stays in
//! the class happens in place. Values above [`INLINE_BYTES_MAX`] are an [`Own`]: `Bytes` of their own, which replies, the log and
//! snapshots share; it keeps spare capacity once it has been appended to.
//!
//! Safety rests on one invariant: from `EntryBox::build` to its drop, `shape()` of the header describes exactly what is initialised
//! behind the pointer. Every function that changes the shape rewrites the header in the same breath, and calls nothing that can
//! panic in between.
//!
//! The clock says when the key was last used, or how often (`access`); no change of the rest touches it.
//!
//! Addresses have 48 bits on the systems that this runs on, and the owner's word 64: the others are the table's, for a mark by which it places
//! the entry without reading it.
//!
//! Not here: types other than strings.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use bytes::{Bytes, BytesMut};

use super::access::Clock;
use super::mutation::ValueRef;
use super::size_class::size_class;
use crate::base::clock::Wall;
use crate::base::limits::VALUE_BYTES_MAX;

/// Longest value that stands inside its entry, in bytes.
pub const INLINE_BYTES_MAX: usize = 4 << 10;
/// What `Bytes` allocates beside the payload once it is shared.
const OWN_CONTROL_BYTES: usize = 32;

const HEADER_BYTES: usize = size_of::<Header>();
const OWN_BYTES: usize = size_of::<Own>();
const KEY_SHORT_MAX: usize = u8::MAX as usize;

/// Type nibble of strings (low), encoding nibble (high).
const KIND_INLINE: u8 = 0x00;
const KIND_OWN: u8 = 0x10;
const EXPIRY: u8 = 1;
const LONG_KEY: u8 = 2;

const _: () = assert!(HEADER_BYTES == 8 && OWN_BYTES == 40 && align_of::<Own>() == 8);
const _: () = assert!(INLINE_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(VALUE_BYTES_MAX <= u32::MAX as usize);

/// A key as a reader sees it; borrowed from the store.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    at: NonNull<u8>,
    lifetime: PhantomData<&'a EntryBox>,
}

/// A value as a reader sees it. Later types are further variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string that stands inside its entry.
    Bytes(&'a [u8]),
    /// A string in an allocation of its own, which a reply may share.
    Shared(&'a Bytes),
}

impl<'a> Value<'a> {
    /// The bytes of the string.
    #[must_use]
    pub fn as_slice(&self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Shared(bytes) => bytes,
        }
    }

    /// Bytes in the string.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether the string is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What TYPE answers.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Bytes(_) | Value::Shared(_) => "string",
        }
    }
}

/// Owner of one entry; one word, never null: the address, and above it a mark that is its holder's.
pub(super) struct EntryBox(NonNull<u8>);

/// Bits of the word that are the address.
const ADDRESS_BITS: u32 = 48;
const ADDRESS: usize = (1 << ADDRESS_BITS) - 1;

// SAFETY: an entry is owned bytes and a `Bytes`, both `Send` and `Sync`; nothing behind the pointer is shared or changed through `&`.
unsafe impl Send for EntryBox {}
// SAFETY: as above.
unsafe impl Sync for EntryBox {}

/// First eight bytes of every entry.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    flags: u8,
    clock: [u8; 3],
    key_short: u8,
    inline_len: u16,
}

/// A value in an allocation of its own.
struct Own {
    bytes: Bytes,
    /// Capacity by the rule of `splice_own`, not by what the allocator gave: equal on every node that applied the same mutations.
    capacity: usize,
}

impl Own {
    fn new(bytes: Bytes) -> Own {
        let capacity = bytes.len();
        Own { bytes, capacity }
    }
}

/// What the header says about the rest: where each part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    own: bool,
    expiry: bool,
    key_len: usize,
    inline_len: usize,
}

impl Shape {
    fn expiry_at(self) -> usize {
        HEADER_BYTES + if self.own { OWN_BYTES } else { 0 }
    }

    fn long_key_at(self) -> usize {
        self.expiry_at() + if self.expiry { 8 } else { 0 }
    }

    fn key_at(self) -> usize {
        self.long_key_at() + if self.key_len > KEY_SHORT_MAX { 4 } else { 0 }
    }

    fn inline_at(self) -> usize {
        self.key_at() + self.key_len
    }

    fn class(self) -> usize {
        size_class(self.inline_at() + self.inline_len)
    }

    fn layout(self) -> Layout {
        Layout::from_size_align(self.class(), 8).expect("an entry is far smaller than the address space")
    }

    fn header(self, clock: Clock) -> Header {
        let long = self.key_len > KEY_SHORT_MAX;
        Header {
            kind: if self.own { KIND_OWN } else { KIND_INLINE },
            flags: if self.expiry { EXPIRY } else { 0 } | if long { LONG_KEY } else { 0 },
            clock: clock.0,
            key_short: if long { 0 } else { self.key_len as u8 },
            inline_len: self.inline_len as u16,
        }
    }
}

/// What a new or changed entry is to hold.
enum Content<'a> {
    Slice(&'a [u8]),
    Own(Own),
    /// The old inline bytes with a splice over them.
    Spliced {
        old: &'a [u8],
        splice: Splice<'a>,
    },
}

/// Write `bytes` at `at` into a value which then has `length_after` bytes; gaps are zeros. Checked: the bytes end within the length.
#[derive(Clone, Copy)]
pub(super) struct Splice<'a> {
    at: usize,
    bytes: &'a [u8],
    length_after: usize,
}

impl<'a> Splice<'a> {
    /// `None` if the bytes would end beyond `length_after`, or that is beyond [`VALUE_BYTES_MAX`].
    pub(super) fn new(at: u64, bytes: &'a [u8], length_after: u64) -> Option<Splice<'a>> {
        let fits = length_after <= VALUE_BYTES_MAX as u64 && at.checked_add(bytes.len() as u64)? <= length_after;
        fits.then_some(Splice { at: at as usize, bytes, length_after: length_after as usize })
    }

    /// Writes the spliced value, made of `old`, over the whole of `target`.
    fn write(self, old: &[u8], target: &mut [u8]) {
        let kept = old.len().min(self.length_after);
        target[..kept].copy_from_slice(&old[..kept]);
        target[kept..].fill(0);
        self.write_over(target);
    }

    fn write_over(self, target: &mut [u8]) {
        target[self.at..self.at + self.bytes.len()].copy_from_slice(self.bytes);
    }

    /// The value made of `old`, in a new allocation with room to grow.
    fn grow_to_own(self, old: &[u8]) -> Own {
        let capacity = grown_capacity(self.length_after);
        let mut buffer = BytesMut::with_capacity(capacity);
        buffer.extend_from_slice(&old[..old.len().min(self.length_after)]);
        buffer.resize(self.length_after, 0);
        self.write_over(&mut buffer);
        Own { bytes: buffer.freeze(), capacity }
    }
}

/// Capacity of a value that a splice made longer: a quarter to spare, so that appending costs amortised constant time per byte.
fn grown_capacity(length: usize) -> usize {
    size_class(length + length / 4).min(VALUE_BYTES_MAX).max(length)
}

impl Content<'_> {
    fn of(value: ValueRef<'_>) -> Content<'_> {
        match value {
            ValueRef::Slice(bytes) if bytes.len() <= INLINE_BYTES_MAX => Content::Slice(bytes),
            ValueRef::Slice(bytes) => Content::Own(Own::new(Bytes::copy_from_slice(bytes))),
            ValueRef::Shared(bytes) => Content::Own(Own::new(bytes)),
        }
    }

    fn inline_len(&self) -> usize {
        match self {
            Content::Slice(bytes) => bytes.len(),
            Content::Own(_) => 0,
            Content::Spliced { splice, .. } => splice.length_after,
        }
    }
}

impl EntryBox {
    /// An entry for `key`. Copies the key, and the value unless it is shared and longer than [`INLINE_BYTES_MAX`].
    ///
    /// # Panics
    /// The key does not fit 32 bits of length: the parser and the decoder of mutations bound it far below.
    pub(super) fn new(key: &[u8], value: ValueRef<'_>, expiry: Option<Wall>, clock: Clock) -> EntryBox {
        match short_shared(&value) {
            Some(bytes) => EntryBox::build(key, Content::Slice(bytes), expiry, clock),
            None => EntryBox::build(key, Content::of(value), expiry, clock),
        }
    }

    /// An entry for a key that a splice creates.
    pub(super) fn spliced(key: &[u8], splice: Splice<'_>, clock: Clock) -> EntryBox {
        let content = match splice.length_after {
            0..=INLINE_BYTES_MAX => Content::Spliced { old: b"", splice },
            _ => Content::Own(splice.grow_to_own(b"")),
        };
        EntryBox::build(key, content, None, clock)
    }

    #[inline]
    pub(super) fn as_entry(&self) -> Entry<'_> {
        Entry { at: self.start(), lifetime: PhantomData }
    }

    /// What `set_mark` has set last; 0 for a new entry.
    #[inline]
    pub(super) fn mark(&self) -> u16 {
        (self.0.addr().get() >> ADDRESS_BITS) as u16
    }

    #[inline]
    pub(super) fn set_mark(&mut self, mark: u16) {
        self.0 = self.start().map_addr(|address| address | usize::from(mark) << ADDRESS_BITS);
    }

    /// Takes the place of what stood here, under its mark.
    fn become_other(&mut self, mut other: EntryBox) {
        other.set_mark(self.mark());
        *self = other;
    }

    /// Where the entry begins.
    #[inline]
    fn start(&self) -> NonNull<u8> {
        // SAFETY: `allocate` gives no address that has other bits, and none that is zero.
        unsafe { NonNull::new_unchecked(self.0.as_ptr().map_addr(|word| word & ADDRESS)) }
    }

    /// When the key was used.
    #[inline]
    pub(super) fn set_clock(&mut self, clock: Clock) {
        let at = self.start().cast::<Header>().as_ptr();
        // SAFETY: every entry starts with an initialised header, aligned as the allocation is, and `&mut self` makes this the only
        // reference to it. The clock is no part of the shape.
        unsafe { (*at).clock = clock.0 }
    }

    /// Replaces value, expiry and clock; in place if the size class stays.
    pub(super) fn put(&mut self, value: ValueRef<'_>, expiry: Option<Wall>, clock: Clock) {
        match short_shared(&value) {
            Some(bytes) => self.set(Content::Slice(bytes), expiry, clock),
            None => self.set(Content::of(value), expiry, clock),
        }
    }

    /// Replaces the expiry, keeps the value.
    pub(super) fn set_expiry(&mut self, expiry: Option<Wall>) {
        let clock = self.as_entry().clock();
        let old = self.shape();
        let new = Shape { expiry: expiry.is_some(), ..old };
        // SAFETY: both shapes describe `len` bytes of key and inline value, contiguous and initialised in the old place; when the class
        // stays the allocation has room for them in the new one. A fresh allocation has room by construction, and takes over the `Own`
        // bit by bit: the old one is freed without dropping it.
        unsafe {
            let len = old.key_len + old.inline_len;
            if new.class() == old.class() {
                if new != old {
                    ptr::copy(self.at(old.key_at()), self.at(new.key_at()), len);
                }
                self.write_head(new, expiry, clock);
            } else {
                let target = EntryBox::allocate(new);
                ptr::copy_nonoverlapping(self.at(old.key_at()), target.as_ptr().add(new.key_at()), len);
                if old.own {
                    ptr::copy_nonoverlapping(self.at(HEADER_BYTES), target.as_ptr().add(HEADER_BYTES), OWN_BYTES);
                }
                dealloc(self.start().as_ptr(), old.layout());
                let mark = self.mark();
                self.0 = target;
                self.set_mark(mark);
                self.write_head(new, expiry, clock);
            }
        }
    }

    /// Splices the value, keeps the expiry.
    pub(super) fn splice(&mut self, splice: Splice<'_>) {
        let old = self.shape();
        let (expiry, clock) = (self.as_entry().expiry(), self.as_entry().clock());
        let inline = splice.length_after <= INLINE_BYTES_MAX;
        match (old.own, inline) {
            (true, false) => {
                // SAFETY: the shape says that an `Own` stands there, and `&mut self` makes this the only reference to it.
                let own = unsafe { &mut *self.at(HEADER_BYTES).cast::<Own>() };
                splice_own(own, splice);
            }
            (false, false) => {
                let own = splice.grow_to_own(self.as_entry().value().as_slice());
                self.set(Content::Own(own), expiry, clock);
            }
            (true, true) => {
                // Only a splice that cuts the value short comes here.
                let mut value = [0; INLINE_BYTES_MAX];
                let value = &mut value[..splice.length_after];
                splice.write(self.as_entry().value().as_slice(), value);
                self.set(Content::Slice(value), expiry, clock);
            }
            (false, true) => {
                let new = Shape { inline_len: splice.length_after, ..old };
                if new.class() == old.class() {
                    let kept = old.inline_len.min(new.inline_len);
                    // SAFETY: the class, hence the allocation, has room for `inline_len` bytes there; those up to `kept` are initialised
                    // and the others are zeroed before a slice of them exists.
                    let target = unsafe {
                        ptr::write_bytes(self.at(new.inline_at() + kept), 0, new.inline_len - kept);
                        self.write_head(new, expiry, clock);
                        std::slice::from_raw_parts_mut(self.at(new.inline_at()), new.inline_len)
                    };
                    splice.write_over(target);
                } else {
                    let entry = self.as_entry();
                    let content = Content::Spliced { old: entry.value().as_slice(), splice };
                    let built = EntryBox::build(entry.key(), content, expiry, clock);
                    self.become_other(built);
                }
            }
        }
    }

    /// Asks the processor to load the first two cache lines of the entry, which hold a short key and the start of its value.
    #[inline]
    pub(super) fn prefetch(&self) {
        let start = self.start().as_ptr();
        prefetch_line(start);
        prefetch_line(start.wrapping_add(64));
    }

    /// The same for the first line only: header and short key.
    #[inline]
    pub(super) fn prefetch_key(&self) {
        prefetch_line(self.start().as_ptr());
    }

    fn build(key: &[u8], content: Content<'_>, expiry: Option<Wall>, clock: Clock) -> EntryBox {
        assert!(u32::try_from(key.len()).is_ok(), "a key of {} bytes got past the parser", key.len());
        let own = matches!(content, Content::Own(_));
        let shape = Shape { own, expiry: expiry.is_some(), key_len: key.len(), inline_len: content.inline_len() };
        let mut built = EntryBox(EntryBox::allocate(shape));
        // SAFETY: the allocation has the size of the shape's class; `key` is foreign memory, as the allocation is new; `fill` and
        // `write_head` initialise the rest, so the invariant holds from here.
        unsafe {
            ptr::copy_nonoverlapping(key.as_ptr(), built.at(shape.key_at()), key.len());
            built.fill(shape, content);
            built.write_head(shape, expiry, clock);
        }
        built
    }

    fn set(&mut self, content: Content<'_>, expiry: Option<Wall>, clock: Clock) {
        let old = self.shape();
        let own = matches!(content, Content::Own(_));
        let new = Shape { own, expiry: expiry.is_some(), key_len: old.key_len, inline_len: content.inline_len() };
        if new.class() != old.class() {
            let built = EntryBox::build(self.as_entry().key(), content, expiry, clock);
            self.become_other(built);
            return;
        }
        // SAFETY: the class stays, so the allocation has room for the new shape. The old value is taken out first; then the key, which is
        // initialised in its old place, moves before anything is written over that; then the rest follows. The old value is dropped last,
        // when the entry is whole again.
        unsafe {
            let taken = old.own.then(|| self.at(HEADER_BYTES).cast::<Own>().read());
            if new.key_at() != old.key_at() {
                ptr::copy(self.at(old.key_at()), self.at(new.key_at()), new.key_len);
            }
            self.fill(new, content);
            self.write_head(new, expiry, clock);
            drop(taken);
        }
    }

    /// Writes the value into its place.
    ///
    /// # Safety
    /// The allocation has room for `shape`, nothing of value stands where the content goes, and `content` borrows nothing from it.
    #[inline]
    unsafe fn fill(&mut self, shape: Shape, content: Content<'_>) {
        // SAFETY: the caller's promise; a slice of the target exists only after the target was zeroed.
        unsafe {
            let target = self.at(shape.inline_at());
            match content {
                Content::Slice(bytes) => ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()),
                Content::Own(own) => self.at(HEADER_BYTES).cast::<Own>().write(own),
                Content::Spliced { old, splice } => {
                    ptr::write_bytes(target, 0, splice.length_after);
                    splice.write(old, std::slice::from_raw_parts_mut(target, splice.length_after));
                }
            }
        }
    }

    /// Writes header, expiry and long key length.
    ///
    /// # Safety
    /// The allocation has room for `shape`, and the rest of it (key, value) stands where `shape` says.
    #[inline]
    unsafe fn write_head(&mut self, shape: Shape, expiry: Option<Wall>, clock: Clock) {
        debug_assert_eq!(shape.expiry, expiry.is_some());
        // SAFETY: the caller's promise; the header is aligned as the allocation is, the others are written unaligned.
        unsafe {
            self.start().as_ptr().cast::<Header>().write(shape.header(clock));
            if let Some(expiry) = expiry {
                self.at(shape.expiry_at()).cast::<u64>().write_unaligned(expiry.0);
            }
            if shape.key_len > KEY_SHORT_MAX {
                self.at(shape.long_key_at()).cast::<u32>().write_unaligned(shape.key_len as u32);
            }
        }
    }

    fn allocate(shape: Shape) -> NonNull<u8> {
        let layout = shape.layout();
        // SAFETY: the size is at least the header's, so not zero.
        let at = unsafe { alloc(layout) };
        let at = NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout));
        assert!(at.addr().get() <= ADDRESS, "an address of more than {ADDRESS_BITS} bits");
        at
    }

    #[inline]
    fn shape(&self) -> Shape {
        self.as_entry().shape()
    }

    /// # Safety
    /// `offset` is within the allocation.
    #[inline]
    unsafe fn at(&mut self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.start().as_ptr().add(offset) }
    }
}

impl Drop for EntryBox {
    fn drop(&mut self) {
        let shape = self.shape();
        // SAFETY: the shape says whether an `Own` stands there, and gives the layout that the allocation was made with (the class is the
        // same for every shape it has had). Nobody can reach it afterwards.
        unsafe {
            if shape.own {
                ptr::drop_in_place(self.at(HEADER_BYTES).cast::<Own>());
            }
            dealloc(self.start().as_ptr(), shape.layout());
        }
    }
}

impl<'a> Entry<'a> {
    /// The key.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        let shape = self.shape();
        self.slice(shape.key_at(), shape.key_len)
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Value<'a> {
        let shape = self.shape();
        if shape.own {
            Value::Shared(&self.own().bytes)
        } else {
            Value::Bytes(self.slice(shape.inline_at(), shape.inline_len))
        }
    }

    /// When the key is gone, if ever.
    #[inline]
    #[must_use]
    pub fn expiry(&self) -> Option<Wall> {
        let shape = self.shape();
        // SAFETY: the shape says that eight initialised bytes stand there.
        shape.expiry.then(|| Wall(unsafe { self.at.as_ptr().add(shape.expiry_at()).cast::<u64>().read_unaligned() }))
    }

    /// Whether the key is gone at `clock`: its expiry is at or before it.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, clock: Wall) -> bool {
        self.expiry().is_some_and(|expiry| expiry <= clock)
    }

    /// When the key was used.
    #[inline]
    pub(super) fn clock(&self) -> Clock {
        // SAFETY: every entry starts with an initialised header, aligned as the allocation is.
        Clock(unsafe { self.at.cast::<Header>().read() }.clock)
    }

    /// Bytes that this key takes, its place in the table not counted.
    #[must_use]
    pub fn memory(&self) -> usize {
        let shape = self.shape();
        shape.class() + if shape.own { size_class(self.own().capacity) + OWN_CONTROL_BYTES } else { 0 }
    }

    #[inline]
    fn shape(&self) -> Shape {
        // SAFETY: every entry starts with an initialised header, aligned as the allocation is.
        let header = unsafe { self.at.cast::<Header>().read() };
        let mut shape = Shape {
            own: header.kind == KIND_OWN,
            expiry: header.flags & EXPIRY != 0,
            key_len: usize::from(header.key_short),
            inline_len: usize::from(header.inline_len),
        };
        if header.flags & LONG_KEY != 0 {
            // SAFETY: the flag says that four initialised bytes stand there; the place does not depend on `key_len`.
            let len = unsafe { self.at.as_ptr().add(shape.long_key_at()).cast::<u32>().read_unaligned() };
            shape.key_len = len as usize;
        }
        shape
    }

    fn own(&self) -> &'a Own {
        debug_assert!(self.shape().own);
        // SAFETY: called only if the shape says that an `Own` stands there; the entry is not changed during `'a`.
        unsafe { self.at.add(HEADER_BYTES).cast::<Own>().as_ref() }
    }

    #[inline]
    fn slice(&self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: called with the places of the key and of the inline value, which are initialised and do not change during `'a`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().add(at), len) }
    }
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("value", &self.value())
            .field("expiry", &self.expiry())
            .finish()
    }
}

/// The bytes of a shared value that is short enough to stand inside its entry.
fn short_shared<'a>(value: &'a ValueRef<'_>) -> Option<&'a [u8]> {
    match value {
        ValueRef::Shared(bytes) if bytes.len() <= INLINE_BYTES_MAX => Some(bytes),
        ValueRef::Shared(_) | ValueRef::Slice(_) => None,
    }
}

/// Splices in place if nobody else shares the allocation and it has room, else into a copy. The capacity on the books follows from
/// the lengths alone.
fn splice_own(own: &mut Own, splice: Splice<'_>) {
    let length = splice.length_after;
    if length > own.capacity {
        own.capacity = grown_capacity(length);
    }
    let copy = |old: &[u8]| {
        let mut buffer = BytesMut::with_capacity(own.capacity);
        buffer.extend_from_slice(&old[..old.len().min(length)]);
        buffer
    };
    let mut buffer = match std::mem::take(&mut own.bytes).try_into_mut() {
        Ok(unique) if unique.capacity() >= length => unique,
        Ok(unique) => copy(&unique),
        Err(shared) => copy(&shared),
    };
    buffer.resize(length, 0);
    splice.write_over(&mut buffer);
    own.bytes = buffer.freeze();
}

/// Asks the processor to load every cache line of `target`.
#[inline]
pub(super) fn prefetch<T>(target: &T) {
    let start = ptr::from_ref(target).cast::<u8>();
    for line in (0..size_of::<T>()).step_by(64) {
        prefetch_line(start.wrapping_add(line));
    }
}

#[inline]
fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing, and faults on no address. Every x86-64 processor has SSE.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(length: usize, salt: u8) -> Vec<u8> {
        (0..length).map(|i| (i as u8).wrapping_mul(31) ^ salt).collect()
    }

    fn check(entry: &EntryBox, key: &[u8], value: &[u8], expiry: Option<Wall>) {
        let entry = entry.as_entry();
        assert_eq!(entry.key(), key);
        assert_eq!(entry.value().as_slice(), value);
        assert_eq!((entry.expiry(), entry.clock()), (expiry, NOW));
        assert_eq!(matches!(entry.value(), Value::Shared(_)), value.len() > INLINE_BYTES_MAX);
    }

    const NOW: Clock = Clock([1, 2, 3]);
    const LENGTHS: [usize; 12] = [0, 1, 7, 30, 31, 32, 33, 40, 100, 4095, 4096, 4097];

    #[test]
    fn every_overwrite_of_value_and_expiry_reads_back() {
        for key in [&b""[..], b"k", &[7; 255], &[7; 256], &[8; 70_000]] {
            for (from, to) in LENGTHS.iter().flat_map(|&from| LENGTHS.map(|to| (from, to))) {
                for (before, after) in
                    [(None, None), (None, Some(Wall(9))), (Some(Wall(8)), None), (Some(Wall(8)), Some(Wall(9)))]
                {
                    let (old, new) = (value(from, 1), value(to, 2));
                    let mut entry = EntryBox::new(key, ValueRef::Slice(&old), before, NOW);
                    check(&entry, key, &old, before);
                    entry.set_expiry(after);
                    check(&entry, key, &old, after);
                    entry.put(ValueRef::Shared(Bytes::from(new.clone())), before, NOW);
                    check(&entry, key, &new, before);
                }
            }
        }
    }

    #[test]
    fn every_splice_reads_back() {
        for (from, to) in LENGTHS.iter().flat_map(|&from| LENGTHS.map(|to| (from, to))) {
            for expiry in [None, Some(Wall(3))] {
                let old = value(from, 1);
                let bytes = value(to.min(20), 2);
                let at = to - bytes.len();
                let mut entry = EntryBox::new(b"key", ValueRef::Slice(&old), expiry, NOW);
                entry.splice(Splice::new(at as u64, &bytes, to as u64).unwrap());
                let mut expected = old.clone();
                expected.resize(to, 0);
                expected[at..].copy_from_slice(&bytes);
                check(&entry, b"key", &expected, expiry);
            }
        }
    }

    #[test]
    fn splice_refuses_bytes_beyond_its_length() {
        assert!(Splice::new(1, b"ab", 2).is_none());
        assert!(Splice::new(u64::MAX, b"ab", u64::MAX).is_none());
        assert!(Splice::new(0, b"", VALUE_BYTES_MAX as u64 + 1).is_none());
        assert!(Splice::new(0, b"ab", 2).is_some());
    }

    #[test]
    fn big_values_are_held_without_a_copy() {
        let big = Bytes::from(value(100_000, 1));
        let entry = EntryBox::new(b"key", ValueRef::Shared(big.clone()), None, NOW);
        assert_eq!(entry.as_entry().value().as_slice().as_ptr(), big.as_ptr());
    }

    #[test]
    fn appending_to_a_big_value_seldom_copies_it() {
        let mut entry = EntryBox::new(b"key", ValueRef::Slice(&value(5_000, 1)), None, NOW);
        let mut moves = 0;
        for length in 5_001..50_000 {
            let before = entry.as_entry().value().as_slice().as_ptr();
            entry.splice(Splice::new(length - 1, b"x", length).unwrap());
            moves += usize::from(entry.as_entry().value().as_slice().as_ptr() != before);
        }
        assert!(moves <= 13, "{moves} copies while the value grew tenfold");
    }

    #[test]
    fn splicing_a_shared_value_leaves_the_other_holder_what_it_had() {
        let big = Bytes::from(value(10_000, 1));
        let mut entry = EntryBox::new(b"key", ValueRef::Shared(big.clone()), None, NOW);
        entry.splice(Splice::new(0, b"!!", 10_000).unwrap());
        assert_eq!(big, value(10_000, 1));
        assert_eq!(&entry.as_entry().value().as_slice()[..3], [b'!', b'!', value(3, 1)[2]]);
    }

    #[test]
    fn memory_of_a_small_key_is_one_size_class() {
        let entry = EntryBox::new(&[1; 16], ValueRef::Slice(&[2; 32]), None, NOW);
        assert_eq!(entry.as_entry().memory(), 56);
        let entry = EntryBox::new(&[1; 16], ValueRef::Slice(&[2; 100]), None, NOW);
        assert_eq!(entry.as_entry().memory(), 128);
        let entry = EntryBox::new(&[1; 16], ValueRef::Slice(&[2; 5000]), None, NOW);
        assert_eq!(entry.as_entry().memory(), 64 + 5120 + 32);
    }

    #[test]
    fn expiry_includes_its_own_millisecond() {
        let entry = EntryBox::new(b"key", ValueRef::Slice(b""), Some(Wall(5)), NOW);
        assert!(!entry.as_entry().is_expired(Wall(4)));
        assert!(entry.as_entry().is_expired(Wall(5)));
    }
}
