//! DUMP and RESTORE: values in Redis's format, so that they move between servers.
//!
//! ```text
//!   payload   00 string │ version u16 │ CRC-64 of all before, u64         (little-endian; 00: the type is string)
//!
//!   string    00llllll                  bytes     up to 63 of them        C0 i8  C1 i16  C2 i32    an integer
//!             01llllll l                bytes     up to 16,383            C3 length length bytes   LZF: packed, unpacked length
//!             80 llll   81 llllllll     bytes     (big-endian)
//! ```
//! Strings have been written like this in every version, so DUMP writes the version of Redis 7.0, which most others read, and RESTORE takes
//! any. DUMP packs nothing. IDLETIME and FREQ are kept by this node alone, as all access clocks are. DUMP runs in slices, because of the checksum.
//! Not here: the types to come; slices for RESTORE.

use bytes::Bytes;

use crate::base::clock::Wall;
use crate::base::limits::VALUE_BYTES_MAX;
use crate::command::CommandError;
use crate::command::context::{Ctx, Done, Sliced};
use crate::command::number::{self, Decimal, integer};
use crate::command::spec::Category::{Dangerous, Keyspace};
use crate::command::spec::Flag::{DenyOom, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::string::string;
use crate::resp::Args;
use crate::store::{Event, ValueRef};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("dump", 2, dump)
        .args("key")
        .flags(&[Readonly])
        .keys(Keys::one(KeyUse::Read))
        .sliced()
        .tips(&["nondeterministic_output"])
        .doc(Group::Generic, "2.6.0", "Returns the value of a key in the format that RESTORE takes."),
    CommandSpec::data("restore", -4, restore)
        .args("key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]")
        .flags(&[Write, DenyOom])
        .keys(Keys::one(KeyUse::Overwrite))
        .doc(Group::Generic, "2.6.0", "Creates a key from what DUMP returned, of this server or of a Redis.")
        .acl(&[Keyspace, Dangerous]),
];

/// Version in the footer: that of Redis 7.0.
const VERSION: u16 = 10;
/// Version and checksum.
const FOOTER_BYTES: usize = 10;
/// The type at the front.
const TYPE_STRING: u8 = 0;
/// Longest text that may be written as an integer.
const INTEGER_TEXT_MAX: usize = 11;
/// Bytes whose checksum is taken in one slice: about 2 ms.
const BYTES_PER_SLICE: usize = 2 << 20;

/// A payload under way.
#[derive(Debug)]
pub(super) struct Dump {
    payload: Vec<u8>,
    /// Bytes that the checksum has in it.
    summed: usize,
    sum: u64,
}

fn dump(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let under_way = match ctx.slice.under_way.take() {
        Some(Sliced::Dump(dump)) => Some(dump),
        _ => {
            let (hash, key) = ctx.first(args);
            ctx.read(hash, key, |entry, _| string(entry.value()).map(Dump::new)).transpose()?
        }
    };
    let Some(mut dump) = under_way else {
        ctx.reply.null();
        return Ok(Done::Done);
    };
    let end = dump.payload.len().min(dump.summed + BYTES_PER_SLICE);
    dump.sum = crc64(dump.sum, &dump.payload[dump.summed..end]);
    dump.summed = end;
    if end < dump.payload.len() {
        ctx.slice.under_way = Some(Sliced::Dump(dump));
        return Ok(Done::More);
    }
    dump.payload.extend_from_slice(&dump.sum.to_le_bytes());
    ctx.reply.shared(&Bytes::from(dump.payload));
    Ok(Done::Done)
}

/// Bytes of a value as a payload has it, the type and the footer not counted.
pub(super) fn serialized_length(value: &[u8]) -> usize {
    Dump::new(value).payload.len() - 1 - VERSION.to_le_bytes().len()
}

impl Dump {
    fn new(value: &[u8]) -> Dump {
        let mut payload = Vec::with_capacity(value.len() + 16 + FOOTER_BYTES);
        payload.push(TYPE_STRING);
        match number::parse(value).filter(|_| value.len() <= INTEGER_TEXT_MAX).and_then(|n| i32::try_from(n).ok()) {
            Some(number) => put_integer(&mut payload, number),
            None => {
                put_length(&mut payload, value.len());
                payload.extend_from_slice(value);
            }
        }
        payload.extend_from_slice(&VERSION.to_le_bytes());
        Dump { payload, summed: 0, sum: 0 }
    }
}

fn put_integer(out: &mut Vec<u8>, number: i32) {
    if let Ok(byte) = i8::try_from(number) {
        out.extend_from_slice(&[0xc0, byte.cast_unsigned()]);
    } else if let Ok(short) = i16::try_from(number) {
        out.push(0xc1);
        out.extend_from_slice(&short.to_le_bytes());
    } else {
        out.push(0xc2);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        // No value is longer than 512 MiB.
        _ => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn restore(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let options = Options::parse(args)?;
    let (hash, key) = ctx.first(args);
    let exists = ctx.exists(hash, key);
    if exists && !options.replace {
        return Err(CommandError::BusyKey);
    }
    let ttl = integer(args.get(2))?;
    if ttl < 0 {
        return Err(CommandError::NegativeTtl);
    }
    let payload = args.get(3);
    let value = match parse(payload)? {
        Parsed::Unpacked(bytes) => ValueRef::Shared(Bytes::from(bytes)),
        Parsed::Part(part) => match args.shared(3) {
            Some(whole) => ValueRef::Shared(whole.slice_ref(part)),
            None => ValueRef::Slice(part),
        },
    };
    // As in Redis, a time that overflows lies in the past.
    let base = if options.absolute { 0 } else { ctx.clock.0.cast_signed() };
    let at = Wall(u64::try_from(ttl.wrapping_add(base)).unwrap_or(0));
    let expiry = (ttl > 0).then(|| if options.absolute { ctx.expiry_at(at) } else { at });
    if expiry.is_none_or(|expiry| expiry > ctx.clock) {
        ctx.put(hash, key, value, expiry, Event::Restore);
        ctx.store.pretend_used(hash, key, options.idle_s, options.frequency);
    } else if exists {
        ctx.delete(hash, key, Event::Del);
    }
    ctx.reply.ok();
    Ok(Done::Done)
}

#[derive(Default)]
struct Options {
    replace: bool,
    /// The time to live is a Unix time.
    absolute: bool,
    idle_s: Option<u64>,
    frequency: Option<u8>,
}

impl Options {
    fn parse(args: &Args<'_>) -> Result<Options, CommandError> {
        let mut options = Options::default();
        let mut i = 4;
        while i < args.len() {
            let (word, more) = (args.get(i), i + 1 < args.len());
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            match () {
                () if is(b"REPLACE") => options.replace = true,
                () if is(b"ABSTTL") => options.absolute = true,
                () if is(b"IDLETIME") && more && options.frequency.is_none() => {
                    i += 1;
                    let idle_s = u64::try_from(integer(args.get(i))?);
                    options.idle_s = Some(idle_s.map_err(|_| CommandError::NegativeIdleTime)?);
                }
                () if is(b"FREQ") && more && options.idle_s.is_none() => {
                    i += 1;
                    let frequency = u8::try_from(integer(args.get(i))?);
                    options.frequency = Some(frequency.map_err(|_| CommandError::FrequencyOutOfRange)?);
                }
                () => return Err(CommandError::Syntax),
            }
            i += 1;
        }
        Ok(options)
    }
}

/// The value of a payload.
#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    /// A part of the payload.
    Part(&'a [u8]),
    /// What it stood for.
    Unpacked(Vec<u8>),
}

fn parse(payload: &[u8]) -> Result<Parsed<'_>, CommandError> {
    let (body, sum) = payload.split_last_chunk::<8>().ok_or(CommandError::PayloadSum)?;
    if payload.len() < FOOTER_BYTES || crc64(0, body) != u64::from_le_bytes(*sum) {
        return Err(CommandError::PayloadSum);
    }
    match body[..body.len() - 2].split_first() {
        Some((&TYPE_STRING, text)) => Reader(text).string().ok_or(CommandError::PayloadFormat),
        _ => Err(CommandError::PayloadFormat),
    }
}

/// What is not read yet of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn string(&mut self) -> Option<Parsed<'a>> {
        let number = match self.0.first()? {
            0xc0 => i8::from_le_bytes(self.array::<2>()?[1..].try_into().ok()?).into(),
            0xc1 => i16::from_le_bytes(self.array::<3>()?[1..].try_into().ok()?).into(),
            0xc2 => i32::from_le_bytes(self.array::<5>()?[1..].try_into().ok()?).into(),
            0xc3 => {
                self.take(1)?;
                let (packed, length) = (self.length()?, self.length()?);
                return unpack(self.take(packed)?, length).map(Parsed::Unpacked);
            }
            _ => {
                let length = self.length()?;
                return self.take(length).filter(|part| part.len() <= VALUE_BYTES_MAX).map(Parsed::Part);
            }
        };
        Some(Parsed::Unpacked(Decimal::new(number).as_bytes().to_vec()))
    }

    fn length(&mut self) -> Option<usize> {
        match self.take(1)?[0] {
            first @ 0..0x40 => Some(first.into()),
            first @ 0x40..0x80 => Some(usize::from(first & 0x3f) << 8 | usize::from(self.take(1)?[0])),
            0x80 => Some(u32::from_be_bytes(self.array()?) as usize),
            0x81 => usize::try_from(u64::from_be_bytes(self.array()?)).ok(),
            _ => None,
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

/// LZF (M. Lehmann's liblzf): runs of bytes as they are, and references to what came before.
/// ```text
///   000lllll                      l + 1 bytes follow
///   lllooooo          oooooooo    l + 2 bytes from o + 1 bytes back on, which may overlap what they become
///   111ooooo llllllll oooooooo    l + 9 bytes
/// ```
fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > VALUE_BYTES_MAX {
        return None;
    }
    let mut rest = Reader(packed);
    // Whatever `length` says, no more is reserved than there may be.
    let mut out = Vec::with_capacity(length.min(packed.len().saturating_mul(132)));
    while !rest.0.is_empty() {
        let control = usize::from(rest.take(1)?[0]);
        if control < 0x20 {
            out.extend_from_slice(rest.take(control + 1)?);
        } else {
            let more = if control >> 5 == 7 { usize::from(rest.take(1)?[0]) } else { 0 };
            let back = (control & 0x1f) << 8 | usize::from(rest.take(1)?[0]);
            let from = out.len().checked_sub(back + 1)?;
            for i in from..from + (control >> 5) + more + 2 {
                out.push(out[i]);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

/// Redis's CRC-64 (the polynomial of Jones, reflected, begun with 0), of eight bytes at a time: table `k` holds what a byte is worth with `k` bytes
/// behind it. Source: M. Kounavis, F. Berry, "A systematic approach to building high performance software-based CRC generators", 2005.
fn crc64(sum: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(sum, |sum, word| {
        let mixed = (sum ^ u64::from_le_bytes(*word)).to_le_bytes();
        (0..8).fold(0, |next, i| next ^ CRC_TABLES[7 - i][usize::from(mixed[i])])
    });
    tail.iter().fold(sum, |sum, byte| CRC_TABLES[0][usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}

static CRC_TABLES: [[u64; 256]; 8] = {
    const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut i = 256;
    while i < 8 * 256 {
        let before = tables[i / 256 - 1][i % 256];
        tables[i / 256][i % 256] = before >> 8 ^ tables[0][(before & 0xff) as usize];
        i += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(body: &[u8]) -> Vec<u8> {
        let mut payload = [body, &VERSION.to_le_bytes()].concat();
        let sum = crc64(0, &payload);
        payload.extend_from_slice(&sum.to_le_bytes());
        payload
    }

    #[test]
    fn checksum_is_that_of_redis_however_it_is_cut() {
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let bytes: Vec<u8> = (0..100).map(|i| (i * 37) as u8).collect();
        for cut in 0..bytes.len() {
            assert_eq!(crc64(crc64(0, &bytes[..cut]), &bytes[cut..]), crc64(0, &bytes), "cut at {cut}");
        }
    }

    #[test]
    fn every_length_and_integer_reads_back() {
        for length in [0, 1, 63, 64, 16_383, 16_384, 70_000] {
            let value = vec![b'v'; length];
            let payload = payload(&Dump::new(&value).payload[..][..Dump::new(&value).payload.len() - 2]);
            assert_eq!(parse(&payload), Ok(Parsed::Part(&value)), "{length}");
        }
        for number in [0, -1, 127, 128, -128, -129, 32_767, 32_768, -32_769, i32::MAX.into(), i32::MIN.into(), 1 << 31]
        {
            let text = i64::to_string(&number).into_bytes();
            let dump = Dump::new(&text);
            let payload = payload(&dump.payload[..dump.payload.len() - 2]);
            let integer = i32::try_from(number).is_ok();
            assert_eq!(payload[1] >= 0xc0, integer, "{number}");
            let wanted = if integer { Parsed::Unpacked(text.clone()) } else { Parsed::Part(&text) };
            assert_eq!(parse(&payload), Ok(wanted), "{number}");
        }
        let long = payload(&[&[TYPE_STRING, 0x81, 0, 0, 0, 0, 0, 0, 0, 2][..], b"ab"].concat());
        assert_eq!(parse(&long), Ok(Parsed::Part(b"ab")));
    }

    #[test]
    fn packed_strings_are_unpacked_and_broken_ones_refused() {
        // As Redis 7.0 wrote 32 times `a`; and a reference by hand.
        let unpack = |packed: &[u8], length| unpack(packed, length).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(unpack(b"\x01aa\xe0\x13\x00\x01aa", 32), Some("a".repeat(32)));
        assert_eq!(unpack(b"\x02abc\x80\x02", 9), Some("abcabcabc".into()));
        for (packed, length) in [
            (&b"\x02ab"[..], 3),
            (b"\x00a\x20", 4),
            (b"\x00a\x20\x01", 4),
            (b"\x00a\xe0\x05", 15),
            (b"\x00a\x20\x00", 3),
            (b"\x00a\x20\x00", 5),
            (b"\x00a", VALUE_BYTES_MAX + 1),
        ] {
            assert_eq!(unpack(packed, length), None, "{}", packed.escape_ascii());
        }
    }

    #[test]
    fn damaged_payloads_are_errors() {
        let good = payload(&[&[TYPE_STRING, 5][..], b"hello"].concat());
        assert_eq!(parse(&good), Ok(Parsed::Part(b"hello")));
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert_eq!(parse(&bad), Err(CommandError::PayloadSum), "a bit of byte {i} is wrong");
            assert_eq!(parse(&good[..i]), Err(CommandError::PayloadSum), "cut to {i} bytes");
        }
        for body in [
            &b""[..],
            b"\x01\x00",
            b"\x00",
            b"\x00\x05hell",
            b"\x00\xc4",
            b"\x00\xc1a",
            b"\x00\x82aaaa",
            b"\x00\xc3\x05",
        ] {
            assert_eq!(parse(&payload(body)), Err(CommandError::PayloadFormat), "{}", body.escape_ascii());
        }
    }
}
