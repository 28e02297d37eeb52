//! Whole commands waiting to be executed: where their arguments lie, not copies of them.
//!
//! An argument is in one of three places, told by two bits of its span:
//! ```text
//!   input    the client's bytes as read; the caller passes them again to `args` (the usual case: nothing is copied)
//!   arena    bytes that the batch owns: inline commands after unescaping, queued transactions, tests
//!   shared   a `Bytes` of its own: bulks at or above BIG_BULK_BYTES, which entry, log and reply go on sharing
//! ```
//! A reused batch allocates nothing. *Not here*: what the arguments mean, and any bound on how much may be queued in a transaction
//! ([`Batch::memory`] is there for whoever sets one).

use std::fmt;

use bytes::Bytes;

use crate::base::limits::{BIG_BULK_BYTES, BULK_BYTES_MAX};

/// Capacity that a cleared batch keeps, in arguments and in bytes of arena: 512 KiB and 256 KiB.
const SPANS_KEPT: usize = 64 << 10;
const ARENA_BYTES_KEPT: usize = 256 << 10;

/// Whole commands in the order in which they came. Reuse it: `clear` keeps the buffers.
#[derive(Default)]
pub struct Batch {
    /// Arguments of all commands, one after the other.
    pub(super) spans: Vec<Span>,
    /// For each command, the number of `spans` up to its end. Invariant: rising, the last is `spans.len()`.
    ends: Vec<u32>,
    /// Bytes of the `ARENA` spans.
    pub(super) arena: Vec<u8>,
    /// Allocations of the `SHARED` spans.
    pub(super) shared: Vec<Bytes>,
}

/// The arguments of one command, name first. Copy it freely; it borrows the batch and the input.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    spans: &'a [Span],
    input: &'a [u8],
    batch: &'a Batch,
}

/// Where one argument lies: a range of input or arena, or an index into `shared`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    /// Length, below 2^30, with the place in the two top bits.
    tagged_len: u32,
}

/// Tags of `tagged_len`: no tag is the input.
const ARENA: u32 = 1 << 31;
const SHARED: u32 = 1 << 30;
const LEN: u32 = SHARED - 1;
const _: () = assert!(BULK_BYTES_MAX <= LEN as usize);

impl Span {
    /// `start` and `len` are below 2^32 and 2^30: the parser looks at no more than that of its input.
    #[inline]
    pub(super) fn input(start: usize, len: usize) -> Span {
        Span { start: start as u32, tagged_len: len as u32 }
    }

    pub(super) fn arena(start: usize, len: usize) -> Span {
        Span { start: start as u32, tagged_len: len as u32 | ARENA }
    }

    pub(super) fn shared(index: usize, len: usize) -> Span {
        Span { start: index as u32, tagged_len: len as u32 | SHARED }
    }

    /// The same span, seen from a beginning that lies `input` bytes earlier and after `shared` earlier shared arguments.
    pub(super) fn moved(self, input: usize, shared: usize) -> Span {
        let by = match self.tagged_len & !LEN {
            ARENA => 0,
            SHARED => shared,
            _ => input,
        };
        Span { start: self.start + by as u32, ..self }
    }

    /// The same span of input, seen from `start` on.
    pub(super) fn seen_from(self, start: usize) -> Span {
        Span { start: self.start - start as u32, ..self }
    }

    #[inline]
    fn len(self) -> usize {
        (self.tagged_len & LEN) as usize
    }
}

impl Batch {
    /// An empty batch; it allocates with the first command.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Forgets all commands and keeps the buffers, unless one unusual command had blown them up.
    #[inline]
    pub fn clear(&mut self) {
        self.ends.clear();
        self.spans.clear();
        self.arena.clear();
        if self.spans.capacity() > SPANS_KEPT || self.arena.capacity() > ARENA_BYTES_KEPT {
            self.spans.shrink_to(SPANS_KEPT);
            self.arena.shrink_to(ARENA_BYTES_KEPT);
        }
        self.shared.clear();
    }

    /// Number of whole commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The arguments of command `i`. `input` is what the `advance` that appended it was given, before anything was drained from it;
    /// an empty slice for commands that were pushed.
    ///
    /// # Panics
    /// There is no command `i`.
    #[must_use]
    #[inline]
    pub fn args<'a>(&'a self, i: usize, input: &'a [u8]) -> Args<'a> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Args { spans: &self.spans[start..self.ends[i] as usize], input, batch: self }
    }

    /// Bytes that the batch holds itself, shared arguments included.
    #[must_use]
    pub fn memory(&self) -> usize {
        let shared: usize = self.shared.iter().map(Bytes::len).sum();
        self.spans.capacity() * size_of::<Span>()
            + self.ends.capacity() * size_of::<u32>()
            + self.arena.capacity()
            + self.shared.capacity() * size_of::<Bytes>()
            + shared
    }

    /// Appends a command from its arguments, copying them (tests, scripts, commands that we send to ourselves).
    pub fn push_command(&mut self, args: &[&[u8]]) {
        for arg in args {
            self.push_copy(arg);
        }
        self.finish();
    }

    /// Appends a command from owned arguments: big ones stay shared, small ones are copied so that they pin nothing.
    pub fn push_owned(&mut self, args: &[Bytes]) {
        for arg in args {
            if arg.len() >= BIG_BULK_BYTES { self.push_shared(arg.clone()) } else { self.push_copy(arg) }
        }
        self.finish();
    }

    /// Appends a copy of a command of another batch (MULTI's queue): big arguments stay shared, small ones are copied.
    pub fn push_args(&mut self, args: Args<'_>) {
        for i in 0..args.len() {
            match args.shared(i) {
                Some(bytes) => self.push_shared(bytes.clone()),
                None => self.push_copy(args.get(i)),
            }
        }
        self.finish();
    }

    /// Makes a command of the spans since the last one.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.ends.push(self.spans.len() as u32);
    }

    /// The spans since the last command.
    pub(super) fn unfinished(&self) -> &[Span] {
        &self.spans[self.ends.last().map_or(0, |&end| end as usize)..]
    }

    /// Drops the spans since the last command.
    pub(super) fn drop_unfinished(&mut self) {
        self.spans.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }

    pub(super) fn push_shared(&mut self, bytes: Bytes) {
        self.spans.push(Span::shared(self.shared.len(), bytes.len()));
        self.shared.push(bytes);
    }

    /// An argument that makes the arena too long for a span, or that is big, gets an allocation of its own.
    fn push_copy(&mut self, arg: &[u8]) {
        let start = self.arena.len();
        if arg.len() >= BIG_BULK_BYTES || start + arg.len() > u32::MAX as usize {
            self.push_shared(Bytes::copy_from_slice(arg));
        } else {
            self.arena.extend_from_slice(arg);
            self.spans.push(Span::arena(start, arg.len()));
        }
    }
}

impl<'a> Args<'a> {
    /// Number of arguments, the command's name included.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none (only a `tail` can be empty).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.spans.iter().map(|span| span.len()).sum()
    }

    /// Argument `i`; 0 is the name.
    ///
    /// # Panics
    /// There is no argument `i`: the arity check was forgotten, or the input is not the one that was parsed.
    #[must_use]
    #[inline]
    pub fn get(&self, i: usize) -> &'a [u8] {
        let span = self.spans[i];
        let start = span.start as usize;
        match span.tagged_len & !LEN {
            0 => &self.input[start..start + span.len()],
            ARENA => &self.batch.arena[start..start + span.len()],
            _ => &self.batch.shared[start],
        }
    }

    /// Argument `i` if it has an allocation of its own that an entry may take over: it is at least `BIG_BULK_BYTES` long.
    ///
    /// # Panics
    /// There is no argument `i`.
    #[must_use]
    #[inline]
    pub fn shared(&self, i: usize) -> Option<&'a Bytes> {
        let span = self.spans[i];
        let shared = span.tagged_len & SHARED != 0 && span.len() >= BIG_BULK_BYTES;
        if shared { Some(&self.batch.shared[span.start as usize]) } else { None }
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let args = *self;
        (0..args.len()).map(move |i| args.get(i))
    }

    /// The arguments from `from` on, counted from 0 again: what a subcommand sees.
    ///
    /// # Panics
    /// `from` is more than `len`.
    #[must_use]
    pub fn tail(&self, from: usize) -> Args<'a> {
        Args { spans: &self.spans[from..], ..*self }
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|arg| arg[..arg.len().min(64)].escape_ascii().to_string());
        f.debug_list().entries(shown).finish()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} commands, {} arguments)", self.len(), self.spans.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_commands_read_back() {
        let mut batch = Batch::new();
        batch.push_command(&[b"SET", b"k", b"v"]);
        batch.push_command(&[b"PING"]);
        batch.push_owned(&[Bytes::from_static(b"GET"), Bytes::from_static(b"")]);
        assert_eq!(batch.len(), 3);
        assert_eq!(batch.args(0, b"").iter().collect::<Vec<_>>(), [&b"SET"[..], b"k", b"v"]);
        assert_eq!(batch.args(1, b"").iter().collect::<Vec<_>>(), [b"PING"]);
        assert_eq!(batch.args(2, b"").get(1), b"");
    }

    #[test]
    fn tail_counts_from_zero_again() {
        let mut batch = Batch::new();
        batch.push_command(&[b"CLIENT", b"SETNAME", b"x"]);
        let tail = batch.args(0, b"").tail(1);
        assert_eq!((tail.len(), tail.get(0), tail.get(1)), (2, &b"SETNAME"[..], &b"x"[..]));
        assert!(batch.args(0, b"").tail(3).is_empty());
    }

    #[test]
    fn queued_copy_shares_what_is_big_and_copies_what_is_small() {
        let big = Bytes::from(vec![b'x'; BIG_BULK_BYTES]);
        let mut batch = Batch::new();
        batch.push_owned(&[Bytes::from_static(b"SET"), Bytes::from_static(b"k"), big.clone()]);
        let mut queue = Batch::new();
        queue.push_command(&[b"PING"]);
        queue.push_args(batch.args(0, b""));
        drop(batch);
        let args = queue.args(1, b"");
        assert_eq!(args.get(1), b"k");
        assert!(args.shared(0).is_none());
        assert_eq!(args.shared(2).map(|b| b.as_ptr()), Some(big.as_ptr()));
        assert!(queue.memory() > BIG_BULK_BYTES);
    }

    #[test]
    fn cleared_batch_gives_back_what_one_huge_command_took() {
        let mut batch = Batch::new();
        let args = vec![&b"0123456789"[..]; 200_000];
        batch.push_command(&args);
        batch.clear();
        assert!(batch.is_empty());
        assert!(batch.memory() < 1 << 20, "{} bytes kept", batch.memory());
    }
}
