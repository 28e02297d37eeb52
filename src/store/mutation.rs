//! Mutations: the deterministic effects that travel in the log and in snapshots, and their encoding.
//!
//! ```text
//! Put        01 event flags varint(key length) key [expiry u64] varint(value length) value
//! Delete     02 event       varint(key length) key
//! SetExpiry  03 event flags varint(key length) key [expiry u64]
//! Clear      04
//! Splice     05 event       varint(key length) key varint(at) varint(length after) varint(length) bytes
//! Lift       06 event       varint(key length) key
//! Hold       07             varint(key length) key
//! Lay        08 event       varint(key length) key
//! ```
//! RENAME is Lift and Lay, COPY is Hold and Lay: what moves from key to key within one entry is in the store's hand in between, and travels as names
//! alone. Each is about one key, as all mutations are. They are used from cluster version [`HAND_SINCE`] on, and only while every follower holds the
//! whole keyspace: one that is being filled may lack the key whose value it would take.
//!
//! Integers are little-endian, varints LEB128 in their shortest form; flags: bit 0 says that an expiry follows, the others are 0.
//! Decoding trusts nothing: bounds are those of [`limits`](crate::base::limits), and what is odd is an error that says where.
//!
//! Not here: checksums and lengths around a body (replication's frames).

use std::fmt;

use bytes::Bytes;

use crate::base::clock::Wall;
use crate::base::limits::{BIG_BULK_BYTES, BULK_BYTES_MAX, VALUE_BYTES_MAX};
use crate::base::segments::{Segments, take_varint};

/// A value on its way into the store.
#[derive(Clone, Debug)]
pub enum ValueRef<'a> {
    /// To be copied.
    Slice(&'a [u8]),
    /// To be held as it is, if it is long enough for an allocation of its own.
    Shared(Bytes),
}

impl ValueRef<'_> {
    /// The bytes of the value.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            ValueRef::Slice(bytes) => bytes,
            ValueRef::Shared(bytes) => bytes,
        }
    }
}

/// By content: how a value is held makes no difference to what it is.
impl PartialEq for ValueRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ValueRef<'_> {}

/// One deterministic effect on the store. Times are absolute, values are results: applying it needs no clock and no chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// The key has this value and this expiry, whatever it had before.
    Put { key: &'a [u8], value: ValueRef<'a>, expiry: Option<Wall>, event: Event },
    /// The key is gone.
    Delete { key: &'a [u8], event: Event },
    /// The key, if it is there, has this expiry.
    SetExpiry { key: &'a [u8], expiry: Option<Wall>, event: Event },
    /// Every key is gone.
    Clear,
    /// `bytes` stand at `at` in the value, which has `length_after` bytes then; gaps are zeros. Keeps the expiry; creates the key.
    Splice { key: &'a [u8], at: u64, bytes: &'a [u8], length_after: u64, event: Event },
    /// The key is gone, and what it had is in the hand.
    Lift { key: &'a [u8], event: Event },
    /// What the key has is in the hand, too.
    Hold { key: &'a [u8] },
    /// The key has what was in the hand, value and expiry, whatever it had before; the hand is empty.
    Lay { key: &'a [u8], event: Event },
}

/// First cluster version with [`Mutation::Lift`], [`Mutation::Hold`] and [`Mutation::Lay`].
pub const HAND_SINCE: u32 = 2;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        /// What a mutation means to those who watch keys. One byte on the wire; a byte of a newer version is kept as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name,)*
            /// A byte that this version has no name for.
            Other(u8),
        }

        impl Event {
            /// The byte on the wire.
            #[must_use]
            pub fn code(self) -> u8 {
                match self { $(Event::$name => $code,)* Event::Other(code) => code }
            }

            /// The event behind a byte from the wire.
            #[must_use]
            pub fn from_code(code: u8) -> Event {
                match code { $($code => Event::$name,)* _ => Event::Other(code) }
            }
        }
    };
}
events! {
    /// SET and its kin.
    Set = 1,
    /// DEL, UNLINK, GETDEL.
    Del = 2,
    /// Its time had come.
    Expired = 3,
    /// Memory was short.
    Evicted = 4,
    /// EXPIRE and its kin.
    Expire = 5,
    /// PERSIST, GETEX PERSIST.
    Persist = 6,
    /// APPEND.
    Append = 7,
    /// SETRANGE.
    SetRange = 8,
    /// INCR, DECR, INCRBY, DECRBY.
    IncrBy = 9,
    /// INCRBYFLOAT.
    IncrByFloat = 10,
    /// RENAME, the old name.
    RenameFrom = 11,
    /// RENAME, the new name.
    RenameTo = 12,
    /// COPY.
    CopyTo = 13,
    /// SETBIT, BITFIELD.
    SetBit = 14,
    /// RESTORE.
    Restore = 15,
    /// SET and its kin, with an expiry that the command gave.
    SetWithExpiry = 16,
    /// More of what the mutation before it did.
    More = 17,
}

/// Why bytes are no mutation. The peer that sent them is broken or hostile: close the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutationError {
    /// Where in the body the offending part begins.
    at: usize,
    /// What is wrong there.
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Tag(u8),
    Flags(u8),
    Varint(&'static str),
    CutShort { part: &'static str, want: u64, have: usize },
    TooLong { part: &'static str, bytes: u64, max: usize },
    BeyondEnd { at: u64, bytes: usize, length_after: u64 },
}

impl fmt::Display for MutationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mutation at byte {}: ", self.at)?;
        match &self.fault {
            Fault::Tag(tag) => write!(f, "unknown tag {tag}"),
            Fault::Flags(flags) => write!(f, "unknown flags {flags:#04x}"),
            Fault::Varint(part) => write!(f, "{part} is no varint in its shortest form"),
            Fault::CutShort { part, want, have } => write!(f, "{part} of {want} bytes, only {have} left"),
            Fault::TooLong { part, bytes, max } => write!(f, "{part} of {bytes} bytes, at most {max} are allowed"),
            Fault::BeyondEnd { at, bytes, length_after } => {
                write!(f, "splice of {bytes} bytes at {at} ends beyond the length {length_after}")
            }
        }
    }
}

impl std::error::Error for MutationError {}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const SET_EXPIRY: u8 = 3;
const CLEAR: u8 = 4;
const SPLICE: u8 = 5;
const LIFT: u8 = 6;
const HOLD: u8 = 7;
const LAY: u8 = 8;
/// Tag of a mutation that the next version has, and that changes nothing.
pub const NOVELTY: u8 = 0x7f;
const HAS_EXPIRY: u8 = 1;

impl Mutation<'_> {
    /// Appends the encoding. A shared value stays shared.
    pub fn encode(&self, out: &mut Segments) {
        match self {
            Mutation::Put { key, value, expiry, event } => {
                put_head(out, PUT, *event);
                out.put_u8(if expiry.is_some() { HAS_EXPIRY } else { 0 });
                put_bytes(out, key);
                put_expiry(out, *expiry);
                match value {
                    ValueRef::Slice(bytes) => put_bytes(out, bytes),
                    ValueRef::Shared(bytes) => {
                        out.put_varint(bytes.len() as u64);
                        out.put_shared(bytes.clone());
                    }
                }
            }
            Mutation::Delete { key, event } => {
                put_head(out, DELETE, *event);
                put_bytes(out, key);
            }
            Mutation::SetExpiry { key, expiry, event } => {
                put_head(out, SET_EXPIRY, *event);
                out.put_u8(if expiry.is_some() { HAS_EXPIRY } else { 0 });
                put_bytes(out, key);
                put_expiry(out, *expiry);
            }
            Mutation::Clear => out.put_u8(CLEAR),
            Mutation::Splice { key, at, bytes, length_after, event } => {
                put_head(out, SPLICE, *event);
                put_bytes(out, key);
                out.put_varint(*at);
                out.put_varint(*length_after);
                put_bytes(out, bytes);
            }
            Mutation::Lift { key, event } => {
                put_head(out, LIFT, *event);
                put_bytes(out, key);
            }
            Mutation::Hold { key } => {
                out.put_u8(HOLD);
                put_bytes(out, key);
            }
            Mutation::Lay { key, event } => {
                put_head(out, LAY, *event);
                put_bytes(out, key);
            }
        }
    }

    /// The key it is about; `None` if it is about all of them.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Mutation::Put { key, .. }
            | Mutation::Delete { key, .. }
            | Mutation::SetExpiry { key, .. }
            | Mutation::Splice { key, .. }
            | Mutation::Lift { key, .. }
            | Mutation::Hold { key }
            | Mutation::Lay { key, .. } => Some(key),
            Mutation::Clear => None,
        }
    }
}

/// The mutations that `body` encodes, one after the other; ends after the first error. A value is shared with `body` if it is at
/// least [`BIG_BULK_BYTES`] and at least half of it, so that no small value pins a big body.
pub fn mutations(body: &Bytes) -> impl Iterator<Item = Result<Mutation<'_>, MutationError>> {
    let mut reader = Reader { body, rest: body };
    std::iter::from_fn(move || {
        if reader.rest.is_empty() {
            return None;
        }
        let next = reader.mutation();
        if next.is_err() {
            reader.rest = &[];
        }
        Some(next)
    })
    .fuse()
}

fn put_head(out: &mut Segments, tag: u8, event: Event) {
    out.put_slice(&[tag, event.code()]);
}

fn put_bytes(out: &mut Segments, bytes: &[u8]) {
    out.put_varint(bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_expiry(out: &mut Segments, expiry: Option<Wall>) {
    if let Some(expiry) = expiry {
        out.put_u64(expiry.0);
    }
}

struct Reader<'a> {
    body: &'a Bytes,
    /// What is not read yet; a suffix of `body`.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn mutation(&mut self) -> Result<Mutation<'a>, MutationError> {
        let start = self.at();
        match self.byte("tag")? {
            PUT => {
                let event = self.event()?;
                let has_expiry = self.flags()?;
                let key = self.bytes("key", BULK_BYTES_MAX)?;
                let expiry = self.expiry(has_expiry)?;
                let value = self.value()?;
                Ok(Mutation::Put { key, value, expiry, event })
            }
            DELETE => Ok(Mutation::Delete { event: self.event()?, key: self.bytes("key", BULK_BYTES_MAX)? }),
            SET_EXPIRY => {
                let event = self.event()?;
                let has_expiry = self.flags()?;
                let key = self.bytes("key", BULK_BYTES_MAX)?;
                Ok(Mutation::SetExpiry { key, expiry: self.expiry(has_expiry)?, event })
            }
            CLEAR => Ok(Mutation::Clear),
            SPLICE => self.splice(),
            LIFT => Ok(Mutation::Lift { event: self.event()?, key: self.bytes("key", BULK_BYTES_MAX)? }),
            HOLD => Ok(Mutation::Hold { key: self.bytes("key", BULK_BYTES_MAX)? }),
            LAY => Ok(Mutation::Lay { event: self.event()?, key: self.bytes("key", BULK_BYTES_MAX)? }),
            NOVELTY if cfg!(feature = "next-version") => Ok(Mutation::Delete { key: &[], event: Event::Del }),
            tag => Err(MutationError { at: start, fault: Fault::Tag(tag) }),
        }
    }

    fn splice(&mut self) -> Result<Mutation<'a>, MutationError> {
        let event = self.event()?;
        let key = self.bytes("key", BULK_BYTES_MAX)?;
        let start = self.at();
        let at = self.varint("place of a splice")?;
        let length_after = self.varint("length after a splice")?;
        if length_after > VALUE_BYTES_MAX as u64 {
            let fault = Fault::TooLong { part: "value after a splice", bytes: length_after, max: VALUE_BYTES_MAX };
            return Err(MutationError { at: start, fault });
        }
        let bytes = self.bytes("splice", VALUE_BYTES_MAX)?;
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > length_after) {
            return Err(MutationError { at: start, fault: Fault::BeyondEnd { at, bytes: bytes.len(), length_after } });
        }
        Ok(Mutation::Splice { key, at, bytes, length_after, event })
    }

    fn value(&mut self) -> Result<ValueRef<'a>, MutationError> {
        let bytes = self.bytes("value", VALUE_BYTES_MAX)?;
        let share = bytes.len() >= BIG_BULK_BYTES && bytes.len() >= self.body.len() / 2;
        Ok(if share { ValueRef::Shared(self.body.slice_ref(bytes)) } else { ValueRef::Slice(bytes) })
    }

    fn event(&mut self) -> Result<Event, MutationError> {
        Ok(Event::from_code(self.byte("event")?))
    }

    fn flags(&mut self) -> Result<bool, MutationError> {
        let at = self.at();
        match self.byte("flags")? {
            0 => Ok(false),
            HAS_EXPIRY => Ok(true),
            flags => Err(MutationError { at, fault: Fault::Flags(flags) }),
        }
    }

    fn expiry(&mut self, present: bool) -> Result<Option<Wall>, MutationError> {
        if !present {
            return Ok(None);
        }
        let bytes = self.take("expiry", 8)?;
        Ok(Some(Wall(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))))
    }

    fn bytes(&mut self, part: &'static str, max: usize) -> Result<&'a [u8], MutationError> {
        let at = self.at();
        let bytes = self.varint(part)?;
        if bytes > max as u64 {
            return Err(MutationError { at, fault: Fault::TooLong { part, bytes, max } });
        }
        self.take(part, bytes)
    }

    fn byte(&mut self, part: &'static str) -> Result<u8, MutationError> {
        Ok(self.take(part, 1)?[0])
    }

    fn varint(&mut self, part: &'static str) -> Result<u64, MutationError> {
        let at = self.at();
        take_varint(&mut self.rest).ok_or(MutationError { at, fault: Fault::Varint(part) })
    }

    fn take(&mut self, part: &'static str, want: u64) -> Result<&'a [u8], MutationError> {
        let have = self.rest.len();
        if want > have as u64 {
            return Err(MutationError { at: self.at(), fault: Fault::CutShort { part, want, have } });
        }
        let (taken, rest) = self.rest.split_at(want as usize);
        self.rest = rest;
        Ok(taken)
    }

    fn at(&self) -> usize {
        self.body.len() - self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn encoded(list: &[Mutation<'_>]) -> Bytes {
        let mut out = Segments::new();
        for mutation in list {
            mutation.encode(&mut out);
        }
        let parts = out.take_parts(&[]);
        Bytes::from(parts.concat())
    }

    #[derive(Clone, Debug)]
    struct Raw {
        kind: u8,
        key: Vec<u8>,
        value: Vec<u8>,
        expiry: Option<u64>,
        code: u8,
        at: u64,
        spare: u64,
    }

    impl Raw {
        fn mutation(&self) -> Mutation<'_> {
            let (key, event, expiry) = (&self.key[..], Event::from_code(self.code), self.expiry.map(Wall));
            match self.kind % 9 {
                0 => Mutation::Put { key, value: ValueRef::Slice(&self.value), expiry, event },
                1 => Mutation::Put { key, value: ValueRef::Shared(self.value.clone().into()), expiry, event },
                2 => Mutation::Delete { key, event },
                3 => Mutation::SetExpiry { key, expiry, event },
                4 => Mutation::Clear,
                5 => Mutation::Lift { key, event },
                6 => Mutation::Hold { key },
                7 => Mutation::Lay { key, event },
                _ => {
                    let length_after = self.at + self.value.len() as u64 + self.spare;
                    Mutation::Splice { key, at: self.at, bytes: &self.value, length_after, event }
                }
            }
        }
    }

    prop_compose! {
        fn raw()(
            kind: u8, key in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..3000), expiry: Option<u64>, code: u8,
            at in 0_u64..1 << 28, spare in 0_u64..1 << 27,
        ) -> Raw {
            Raw { kind, key, value, expiry, code, at, spare }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn mutations_read_back_what_was_encoded(raws in vec(raw(), 0..12)) {
            let list: Vec<_> = raws.iter().map(Raw::mutation).collect();
            let body = encoded(&list);
            let read: Result<Vec<_>, _> = mutations(&body).collect();
            prop_assert_eq!(read, Ok(list));
        }

        #[test]
        fn garbage_is_an_error_or_mutations_that_encode_to_the_same_bytes(
            raws in vec(raw(), 1..4), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut: prop::sample::Index,
        ) {
            let mut bytes = encoded(&raws.iter().map(Raw::mutation).collect::<Vec<_>>()).to_vec();
            for (index, byte) in flips {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            let body = Bytes::from(bytes);
            let mut good = Vec::new();
            let mut errors = 0;
            for item in mutations(&body) {
                prop_assert_eq!(errors, 0, "an item after an error");
                match item {
                    Ok(mutation) => good.push(mutation),
                    Err(error) => {
                        prop_assert!(error.at <= body.len());
                        errors += 1;
                    }
                }
            }
            let again = encoded(&good);
            prop_assert_eq!(&body[..again.len()], &again[..]);
            prop_assert!(errors == 1 || again.len() == body.len());
        }
    }

    #[test]
    fn only_a_big_value_that_is_most_of_its_body_is_shared_with_it() {
        let big = vec![1; BIG_BULK_BYTES];
        let put = |value| Mutation::Put { key: b"k", value: ValueRef::Slice(value), expiry: None, event: Event::Set };
        let is_shared = |body: &Bytes| {
            let Some(Ok(Mutation::Put { value, .. })) = mutations(body).next() else { panic!("no Put") };
            matches!(value, ValueRef::Shared(_))
        };
        assert!(is_shared(&encoded(&[put(&big)])));
        assert!(!is_shared(&encoded(&[put(&big[1..])])));
        assert!(!is_shared(&encoded(&[put(&big), put(&big), put(&big)])));
    }

    #[test]
    fn errors_say_where_and_what() {
        let error =
            |bytes: &'static [u8]| mutations(&Bytes::from_static(bytes)).next().unwrap().unwrap_err().to_string();
        assert_eq!(error(&[9]), "mutation at byte 0: unknown tag 9");
        assert_eq!(error(&[1, 1, 4]), "mutation at byte 2: unknown flags 0x04");
        assert_eq!(error(&[2, 1, 5, b'a']), "mutation at byte 3: key of 5 bytes, only 1 left");
        assert_eq!(error(&[2, 1, 0x80, 0]), "mutation at byte 2: key is no varint in its shortest form");
        assert_eq!(error(&[2]), "mutation at byte 1: event of 1 bytes, only 0 left");
        let too_long = "key of 536870913 bytes, at most 536870912 are allowed";
        assert_eq!(error(&[2, 1, 0x81, 0x80, 0x80, 0x80, 2]), format!("mutation at byte 2: {too_long}"));
        let beyond = "splice of 2 bytes at 1 ends beyond the length 2";
        assert_eq!(error(&[5, 1, 1, b'k', 1, 2, 2, b'a', b'b']), format!("mutation at byte 4: {beyond}"));
    }
}
