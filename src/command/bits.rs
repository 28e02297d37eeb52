//! Bits of string values: SETBIT and GETBIT, BITCOUNT, BITPOS, BITOP, BITFIELD.
//!
//! Bit 0 is the highest one of the first byte, and what lies beyond a value is 0. SETBIT and BITFIELD log the bytes that changed, as a
//! splice that the store does in place where it can; BITOP logs its result. BITCOUNT and BITPOS run in slices, on the value as it
//! was when they began.
//!
//! A field of BITFIELD has at most 64 bits, so it lies in nine bytes, its *window*, which are looked at as one number:
//! ```text
//!   bytes at / 8 …   │ 76543210 │ 76543210 │ … │ 76543210 │    72 bits of a u128
//!                    │   ◄── bits ──►│ ◄─── shift ───────►│
//! ```
//! As in Redis up to 7.2, an absent key is answered before BITCOUNT and BITPOS look at the range. Unlike there, no field may end beyond
//! the longest value. Not here: slices for BITOP, whose work grows with its values.

use std::ops::Range;

use bytes::Bytes;

use crate::base::limits::VALUE_BYTES_MAX;
use crate::command::CommandError;
use crate::command::context::{Ctx, Done, Sliced, kept_value};
use crate::command::number::integer;
use crate::command::spec::Flag::{DenyOom, Fast, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::string::{splice, string};
use crate::resp::Args;
use crate::store::{Event, ValueRef};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("setbit", 4, setbit)
        .args("key offset value")
        .flags(&[Write, DenyOom])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::Bitmap, "2.2.0", "Sets or clears a bit of a string value; creates the key if it is absent."),
    CommandSpec::data("getbit", 3, getbit).args("key offset").flags(&[Readonly, Fast]).keys(Keys::one(KeyUse::Read)).doc(
        Group::Bitmap,
        "2.2.0",
        "Returns a bit of a string value.",
    ),
    CommandSpec::data("bitcount", -2, bitcount)
        .args("key [start end [BYTE | BIT]]")
        .flags(&[Readonly])
        .keys(Keys::one(KeyUse::Read))
        .sliced()
        .doc(Group::Bitmap, "2.6.0", "Counts the bits that are set in a string value or in a part of it."),
    CommandSpec::data("bitpos", -3, bitpos)
        .args("key bit [start [end [BYTE | BIT]]]")
        .flags(&[Readonly])
        .keys(Keys::one(KeyUse::Read))
        .sliced()
        .doc(Group::Bitmap, "2.8.7", "Returns where the first set or clear bit of a string value, or of a part of it, is."),
    CommandSpec::data("bitop", -4, bitop)
        .args("AND | OR | XOR | NOT destkey key [key ...]")
        .flags(&[Write, DenyOom])
        .keys(Keys { first: 2, last: -1, step: 1, usage: KeyUse::Overwrite, others: KeyUse::Read })
        .doc(Group::Bitmap, "2.6.0", "Combines string values bit by bit and stores the result."),
    CommandSpec::data("bitfield", -2, bitfield)
        .args("key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value | INCRBY type offset increment ...]")
        .flags(&[Write, DenyOom])
        .key_by(bitfield_usage)
        .doc(Group::Bitmap, "3.2.0", "Reads and changes integers of any width anywhere in a string value."),
    CommandSpec::data("bitfield_ro", -2, bitfield_ro)
        .args("key [GET type offset ...]")
        .flags(&[Readonly, Fast])
        .keys(Keys::one(KeyUse::Read))
        .doc(Group::Bitmap, "6.0.0", "Reads integers of any width anywhere in a string value."),
];

/// Bits that BITCOUNT and BITPOS look at in one slice: about 2 ms.
const BITS_PER_SLICE: usize = 8 * (4 << 20);

/// A stretch of a value's bits that is looked at slice by slice.
#[derive(Debug)]
pub(super) struct Walk {
    bytes: Bytes,
    /// What is still to be looked at.
    rest: Range<usize>,
    /// Bits found set so far.
    ones: u64,
}

impl Walk {
    fn new(bytes: Bytes, bits: Range<usize>) -> Walk {
        Walk { bytes, rest: bits, ones: 0 }
    }

    /// The bits of the next slice.
    fn advance(&mut self) -> Range<usize> {
        let from = self.rest.start;
        self.rest.start = self.rest.end.min(from - from % 8 + BITS_PER_SLICE);
        from..self.rest.start
    }
}

/// The place of a bit; no value has one beyond [`VALUE_BYTES_MAX`].
fn bit_offset(text: &[u8]) -> Result<usize, CommandError> {
    placed(text, 1)
}

/// The number times `unit`, as the place of a bit.
fn placed(text: &[u8], unit: usize) -> Result<usize, CommandError> {
    let at = integer(text).ok().and_then(|number| usize::try_from(number).ok()?.checked_mul(unit));
    at.filter(|at| at / 8 < VALUE_BYTES_MAX).ok_or(CommandError::BitOffset)
}

fn setbit(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let offset = bit_offset(args.get(2))?;
    let on = match integer(args.get(3)) {
        Ok(bit @ (0 | 1)) => bit == 1,
        _ => return Err(CommandError::NotBit),
    };
    let (at, mask) = (offset / 8, 0x80 >> (offset % 8));
    let held = ctx.read(hash, key, |entry, _| {
        let bytes = string(entry.value())?;
        Ok((bytes.len(), bytes.get(at).copied()))
    });
    let (len, byte) = held.transpose()?.unwrap_or((0, None));
    let before = byte.unwrap_or(0);
    let after = if on { before | mask } else { before & !mask };
    if byte != Some(after) {
        splice(ctx, hash, key, at, &[after], len.max(at + 1), Event::SetBit);
    }
    ctx.reply.integer(i64::from(before & mask != 0));
    Ok(Done::Done)
}

fn getbit(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let offset = bit_offset(args.get(2))?;
    let byte = ctx.read(hash, key, |entry, _| string(entry.value()).map(|bytes| bytes.get(offset / 8).copied()));
    let byte = byte.transpose()?.flatten().unwrap_or(0);
    ctx.reply.integer(i64::from(byte & 0x80 >> (offset % 8) != 0));
    Ok(Done::Done)
}

/// The value of the first key and what `range` makes of its length, if the key exists.
fn begin(
    ctx: &mut Ctx<'_, '_>,
    args: &Args<'_>,
    range: impl FnOnce(usize) -> Result<Range<usize>, CommandError>,
) -> Result<Option<Walk>, CommandError> {
    let (hash, key) = ctx.first(args);
    let begun = ctx.read(hash, key, |entry, _| {
        let bits = range(string(entry.value())?.len())?;
        Ok(Walk::new(kept_value(entry.value()), bits))
    });
    begun.transpose()
}

fn bitcount(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let walk = match ctx.slice.under_way.take() {
        Some(Sliced::Bits(walk)) => Some(walk),
        _ => begin(ctx, args, |len| counted(args, len))?,
    };
    let Some(mut walk) = walk else {
        ctx.reply.integer(0);
        return Ok(Done::Done);
    };
    let slice = walk.advance();
    walk.ones += ones(&walk.bytes, slice);
    if !walk.rest.is_empty() {
        ctx.slice.under_way = Some(Sliced::Bits(walk));
        return Ok(Done::More);
    }
    ctx.reply.integer(walk.ones as i64);
    Ok(Done::Done)
}

/// The bits that BITCOUNT counts in a value of `len` bytes.
fn counted(args: &Args<'_>, len: usize) -> Result<Range<usize>, CommandError> {
    match args.len() {
        2 => return Ok(0..8 * len),
        4 | 5 => {}
        _ => return Err(CommandError::Syntax),
    }
    let (start, end) = (integer(args.get(2))?, integer(args.get(3))?);
    if start < 0 && end < 0 && start > end {
        return Ok(0..0);
    }
    Ok(span(len, start, end, unit(args, 4)?))
}

fn bitpos(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let set = match integer(args.get(2))? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::SearchedBit),
    };
    let walk = match ctx.slice.under_way.take() {
        Some(Sliced::Bits(walk)) => Some(walk),
        _ => begin(ctx, args, |len| searched(args, len))?,
    };
    let Some(mut walk) = walk else {
        ctx.reply.integer(if set { -1 } else { 0 });
        return Ok(Done::Done);
    };
    if walk.rest.is_empty() {
        ctx.reply.integer(-1);
        return Ok(Done::Done);
    }
    let slice = walk.advance();
    let found = find(&walk.bytes, set, slice);
    if found.is_none() && !walk.rest.is_empty() {
        ctx.slice.under_way = Some(Sliced::Bits(walk));
        return Ok(Done::More);
    }
    // Whoever gives no end sees the zeros behind the value.
    let behind = (!set && args.len() < 5).then_some(8 * walk.bytes.len());
    ctx.reply.integer(found.or(behind).map_or(-1, |at| at as i64));
    Ok(Done::Done)
}

/// The bits that BITPOS searches in a value of `len` bytes.
fn searched(args: &Args<'_>, len: usize) -> Result<Range<usize>, CommandError> {
    if args.len() > 6 {
        return Err(CommandError::Syntax);
    }
    let start = if args.len() > 3 { integer(args.get(3))? } else { 0 };
    let unit = unit(args, 5)?;
    let end = if args.len() > 4 { integer(args.get(4))? } else { -1 };
    Ok(span(len, start, end, unit))
}

/// Bits in the unit that argument `i`, if there is one, names.
fn unit(args: &Args<'_>, i: usize) -> Result<usize, CommandError> {
    match () {
        () if i >= args.len() || args.get(i).eq_ignore_ascii_case(b"BYTE") => Ok(8),
        () if args.get(i).eq_ignore_ascii_case(b"BIT") => Ok(1),
        () => Err(CommandError::Syntax),
    }
}

/// The bits that `start..=end`, in units of `unit` bits, names in a value of `len` bytes; a negative number counts from the end.
fn span(len: usize, start: i64, end: i64, unit: usize) -> Range<usize> {
    let units = (8 * len / unit) as i64;
    let from_start = |at: i64| if at < 0 { (units + at).max(0) } else { at };
    let (first, last) = (from_start(start), from_start(end).min(units - 1));
    if first > last { 0..0 } else { first as usize * unit..(last as usize + 1) * unit }
}

/// How many of the bits are set.
fn ones(bytes: &[u8], bits: Range<usize>) -> u64 {
    if bits.is_empty() {
        return 0;
    }
    let (first, last) = (bits.start / 8, (bits.end - 1) / 8);
    let (words, tail) = bytes[first..=last].as_chunks::<8>();
    let words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    let tail: u32 = tail.iter().map(|byte| byte.count_ones()).sum();
    let before = bytes[first] & !(0xff >> (bits.start % 8));
    let behind = bytes[last] & (0x7f >> ((bits.end - 1) % 8));
    words + u64::from(tail) - u64::from(before.count_ones() + behind.count_ones())
}

/// The first of the bits that is set, or clear; there are some.
fn find(bytes: &[u8], set: bool, bits: Range<usize>) -> Option<usize> {
    let flip = if set { 0 } else { 0xff };
    let (first, last) = (bits.start / 8, (bits.end - 1) / 8);
    let wanted = (bytes[first] ^ flip) & (0xff >> (bits.start % 8));
    let (byte, wanted) = if wanted != 0 {
        (first, wanted)
    } else {
        let rest = &bytes[first + 1..=last];
        let dull = [flip; 8];
        let words = rest.as_chunks::<8>().0.iter().take_while(|word| **word == dull).count();
        let byte = first + 1 + 8 * words + rest[8 * words..].iter().position(|byte| *byte != flip)?;
        (byte, bytes[byte] ^ flip)
    };
    Some(8 * byte + wanted.leading_zeros() as usize).filter(|at| *at < bits.end)
}

/// What BITOP does with its sources.
#[derive(Clone, Copy)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

fn bitop(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let word = args.get(1);
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    let operation = match () {
        () if is(b"AND") => Operation::And,
        () if is(b"OR") => Operation::Or,
        () if is(b"XOR") => Operation::Xor,
        () if is(b"NOT") && args.len() == 4 => Operation::Not,
        () if is(b"NOT") => return Err(CommandError::BitopNot),
        () => return Err(CommandError::Syntax),
    };
    let mut result = Vec::new();
    for i in 3..args.len() {
        let source = args.get(i);
        let hash = ctx.store.hash(source);
        let mut take = |bytes: &[u8]| match operation {
            Operation::Not => combine(&mut result, bytes, |_, b| !b),
            _ if i == 3 => result.extend_from_slice(bytes),
            Operation::And => combine(&mut result, bytes, |a, b| a & b),
            Operation::Or => combine(&mut result, bytes, |a, b| a | b),
            Operation::Xor => combine(&mut result, bytes, |a, b| a ^ b),
        };
        let taken = ctx.read(hash, source, |entry, _| string(entry.value()).map(&mut take)).transpose()?;
        if taken.is_none() {
            take(b"");
        }
    }
    let (length, target) = (result.len(), args.get(2));
    let hash = ctx.hash_first(target);
    if length > 0 {
        ctx.put(hash, target, ValueRef::Shared(Bytes::from(result)), None, Event::Set);
    } else if ctx.exists(hash, target) {
        ctx.delete(hash, target, Event::Del);
    }
    ctx.reply.integer(length as i64);
    Ok(Done::Done)
}

/// Combines what there is with `next`; the shorter one goes on with zeros.
fn combine(result: &mut Vec<u8>, next: &[u8], operation: impl Fn(u8, u8) -> u8) {
    result.resize(result.len().max(next.len()), 0);
    let (both, rest) = result.split_at_mut(next.len());
    both.iter_mut().zip(next).for_each(|(a, b)| *a = operation(*a, *b));
    rest.iter_mut().for_each(|a| *a = operation(*a, 0));
}

/// An integer that stands somewhere among the bits of a value.
#[derive(Clone, Copy, Debug)]
struct Field {
    signed: bool,
    /// 1 to 64, to 63 if unsigned.
    bits: u32,
    /// Its first bit.
    at: usize,
}

/// What BITFIELD does if a number does not fit its field.
#[derive(Clone, Copy, Debug)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// One step of BITFIELD.
#[derive(Clone, Copy, Debug)]
enum Step {
    Get(Field),
    Set(Field, Overflow, i64),
    Increment(Field, Overflow, i64),
}

impl Field {
    fn parse(kind: &[u8], at: &[u8]) -> Result<Field, CommandError> {
        let (signed, digits) = match kind {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return Err(CommandError::FieldType),
        };
        let most = if signed { 64 } else { 63 };
        let bits = integer(digits).ok().and_then(|bits| u32::try_from(bits).ok());
        let bits = bits.filter(|bits| (1..=most).contains(bits)).ok_or(CommandError::FieldType)?;
        let at = match at {
            [b'#', number @ ..] => placed(number, bits as usize)?,
            at => bit_offset(at)?,
        };
        Ok(Field { signed, bits, at })
    }

    /// Behind its last byte.
    fn end(self) -> usize {
        (self.at + self.bits as usize).div_ceil(8)
    }

    /// The nine bytes from its first one on, as one number.
    fn window(self, value: &[u8]) -> u128 {
        let from = self.at / 8;
        (from..from + 9).fold(0, |window, i| window << 8 | u128::from(value.get(i).copied().unwrap_or(0)))
    }

    /// Bits behind it in its window.
    fn shift(self) -> u32 {
        72 - (self.at % 8) as u32 - self.bits
    }

    /// The number in its window.
    fn read(self, window: u128) -> i64 {
        self.wrapped((window >> self.shift()) as u64)
    }

    /// Its window with that number, of which the lowest bits count.
    fn write(self, window: u128, number: i64) -> u128 {
        let mask = u128::MAX >> (128 - self.bits) << self.shift();
        window & !mask | u128::from(number as u64) << self.shift() & mask
    }

    /// The number that the lowest bits of `bits` are.
    fn wrapped(self, bits: u64) -> i64 {
        let unused = 64 - self.bits;
        if self.signed { (bits << unused).cast_signed() >> unused } else { (bits << unused >> unused).cast_signed() }
    }

    /// The least and the greatest number that it can be.
    fn range(self) -> (i128, i128) {
        if self.signed { (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) } else { (0, (1 << self.bits) - 1) }
    }

    /// The number that SET means, as Redis compares it in 64 bits: a negative one for an unsigned field is a large one, and so
    /// is one for a signed field that is further below its greatest than 63 bits can say.
    fn meant(self, number: i64) -> i128 {
        let number = i128::from(number);
        let least = if self.signed { self.range().1 - i128::from(i64::MAX) } else { 0 };
        if self.bits < 64 && number < least { number + (1 << 64) } else { number }
    }

    /// The number that is stored in place of `number`, if any is.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i64> {
        let (least, most) = self.range();
        let nearest = number.clamp(least, most);
        match overflow {
            _ if nearest == number => Some(nearest as i64),
            Overflow::Wrap => Some(self.wrapped(number as u64)),
            Overflow::Saturate => Some(nearest as i64),
            Overflow::Fail => None,
        }
    }
}

impl Step {
    fn parse(args: &Args<'_>) -> Result<Vec<Step>, CommandError> {
        let (mut steps, mut overflow) = (Vec::new(), Overflow::Wrap);
        let mut i = 2;
        while i < args.len() {
            let (word, more) = (args.get(i), args.len() - i - 1);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            let field = || Field::parse(args.get(i + 1), args.get(i + 2));
            i += match () {
                () if is(b"GET") && more >= 2 => {
                    steps.push(Step::Get(field()?));
                    3
                }
                () if is(b"SET") && more >= 3 => {
                    steps.push(Step::Set(field()?, overflow, integer(args.get(i + 3))?));
                    4
                }
                () if is(b"INCRBY") && more >= 3 => {
                    steps.push(Step::Increment(field()?, overflow, integer(args.get(i + 3))?));
                    4
                }
                () if is(b"OVERFLOW") && more >= 1 => {
                    overflow = Overflow::parse(args.get(i + 1))?;
                    2
                }
                () => return Err(CommandError::Syntax),
            };
        }
        Ok(steps)
    }

    fn field(&self) -> Field {
        match *self {
            Step::Get(field) | Step::Set(field, ..) | Step::Increment(field, ..) => field,
        }
    }

    fn writes(&self) -> bool {
        !matches!(self, Step::Get(_))
    }

    /// What it stores over `held`, and what it answers; nothing if the number does not fit and is not made to.
    fn outcome(&self, held: i64) -> Option<(i64, i64)> {
        match *self {
            Step::Get(_) => Some((held, held)),
            Step::Set(field, overflow, number) => field.fit(field.meant(number), overflow).map(|stored| (stored, held)),
            Step::Increment(field, overflow, by) => {
                let sum = field.fit(i128::from(held) + i128::from(by), overflow);
                sum.map(|stored| (stored, stored))
            }
        }
    }
}

impl Overflow {
    fn parse(word: &[u8]) -> Result<Overflow, CommandError> {
        match () {
            () if word.eq_ignore_ascii_case(b"WRAP") => Ok(Overflow::Wrap),
            () if word.eq_ignore_ascii_case(b"SAT") => Ok(Overflow::Saturate),
            () if word.eq_ignore_ascii_case(b"FAIL") => Ok(Overflow::Fail),
            () => Err(CommandError::OverflowType),
        }
    }
}

/// BITFIELD of nothing but GET reads; of anything else, and what it would refuse too, counts as a change, as in Redis.
fn bitfield_usage(args: &Args<'_>) -> KeyUse {
    let mut i = 2;
    while i < args.len() {
        let (word, behind) = (args.get(i), args.len() - i - 1);
        if word.eq_ignore_ascii_case(b"GET") && behind >= 2 {
            i += 3;
        } else if word.eq_ignore_ascii_case(b"OVERFLOW") && behind >= 1 {
            i += 2;
        } else {
            return KeyUse::Update;
        }
    }
    KeyUse::Read
}

fn bitfield(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    run_steps(ctx, args, &Step::parse(args)?)
}

fn bitfield_ro(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let steps = Step::parse(args)?;
    if steps.iter().any(Step::writes) {
        return Err(CommandError::FieldReadOnly);
    }
    run_steps(ctx, args, &steps)
}

fn run_steps(ctx: &mut Ctx<'_, '_>, args: &Args<'_>, steps: &[Step]) -> Result<Done, CommandError> {
    let end = steps.iter().filter(|step| step.writes()).map(|step| step.field().end()).max().unwrap_or(0);
    if end > VALUE_BYTES_MAX {
        return Err(CommandError::BitOffset);
    }
    let (hash, key) = ctx.first(args);
    let held = ctx.read(hash, key, |entry, _| string(entry.value()).map(<[u8]>::len)).transpose()?.unwrap_or(0);
    // The command is one event, however many steps it has.
    let mut event = Event::SetBit;
    if end > held {
        // As in Redis, room is made first, whether or not the numbers fit.
        splice(ctx, hash, key, held, b"", end, std::mem::replace(&mut event, Event::More));
    }
    let length = held.max(end);
    ctx.reply.array(steps.len());
    for step in steps {
        let field = step.field();
        let window = ctx.read(hash, key, |entry, _| string(entry.value()).map_or(0, |bytes| field.window(bytes)));
        let window = window.unwrap_or(0);
        let held = field.read(window);
        let Some((stored, answer)) = step.outcome(held) else {
            ctx.reply.null();
            continue;
        };
        if stored != held {
            let bytes = field.write(window, stored).to_be_bytes();
            let from = field.at / 8;
            splice(ctx, hash, key, from, &bytes[7..7 + field.end() - from], length, event);
            event = Event::More;
        }
        ctx.reply.integer(answer);
    }
    Ok(Done::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits of a value, one by one.
    fn bits(bytes: &[u8]) -> Vec<bool> {
        bytes.iter().flat_map(|byte| (0..8).map(move |i| byte & 0x80 >> i != 0)).collect()
    }

    #[test]
    fn counting_and_finding_agree_with_looking_at_each_bit() {
        for value in [vec![0x00; 40], vec![0xff; 40], (0..40).map(|i| (i * 37) as u8).collect(), {
            let mut value = vec![0; 40];
            value[29] = 0x10;
            value
        }] {
            let all = bits(&value);
            for from in 0..320 {
                for end in [from, from + 1, from + 7, from + 8, from + 9, from + 65, from + 200, 320] {
                    let range = from..end.min(320);
                    let set = all[range.clone()].iter().filter(|bit| **bit).count();
                    assert_eq!(ones(&value, range.clone()), set as u64, "{range:?}");
                    for wanted in [false, true] {
                        let first = range.clone().find(|i| all[*i] == wanted);
                        assert!(range.is_empty() || find(&value, wanted, range.clone()) == first, "{range:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_field_reads_back_and_leaves_its_neighbours_alone() {
        let value: Vec<u8> = (0..24).map(|i| (i * 73 + 11) as u8).collect();
        for (signed, most) in [(false, 63), (true, 64)] {
            for (bits_of_field, at) in (1..=most).flat_map(|bits| (0..=17).map(move |at| (bits, at))) {
                let field = Field { signed, bits: bits_of_field, at };
                let (least, greatest) =
                    (field.fit(i128::MIN, Overflow::Saturate), field.fit(i128::MAX, Overflow::Saturate));
                for number in [least.unwrap(), greatest.unwrap(), 0] {
                    let window = field.write(field.window(&value), number);
                    assert_eq!(field.read(window), number, "{field:?}");
                    let mut after = value.clone();
                    after[at / 8..at / 8 + 9].copy_from_slice(&window.to_be_bytes()[7..]);
                    let (before, after) = (bits(&value), bits(&after));
                    let own = at..at + bits_of_field as usize;
                    assert!((0..before.len()).all(|i| own.contains(&i) || before[i] == after[i]), "{field:?}");
                }
            }
        }
    }
}
