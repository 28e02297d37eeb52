//! Bytes in pieces: the encoding of a log entry, of a snapshot chunk, of a message.
//!
//! Small bytes go into one growing buffer; big ones are shared where they stand among them, never copied. The buffer survives
//! [`Segments::clear`], so that a caller that encodes again and again does not allocate. Varints are LEB128, low groups first.
//!
//! Not here: vectored writing (the shell's), framing (replication's).

use bytes::Bytes;

/// Shared bytes shorter than this are copied: a piece of its own costs more than the copy.
const SHARED_BYTES_MIN: usize = 1 << 10;
/// So many small bytes are copied out of the buffer rather than given away with it: filling a new one costs more.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Longest varint of 64 bits.
pub const VARINT_BYTES_MAX: usize = 10;

/// Collects bytes for encoding; the pieces are taken out as [`Bytes`].
#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// All small bytes, in order.
    small: Vec<u8>,
    /// Shared pieces, each with how many small bytes stand before it. Never decreasing.
    shared: Vec<(usize, Bytes)>,
    /// Sum of the lengths of `shared`.
    shared_bytes: usize,
}

impl Segments {
    /// Nothing yet; allocates with the first byte.
    #[must_use]
    pub fn new() -> Segments {
        Segments::default()
    }

    /// Bytes collected, shared ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.small.len() + self.shared_bytes
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the content, keeps the buffer for the next use.
    pub fn clear(&mut self) {
        self.small.clear();
        self.shared.clear();
        self.shared_bytes = 0;
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn put_u8(&mut self, value: u8) {
        self.small.push(value);
    }

    /// Appends four bytes, little-endian.
    pub fn put_u32(&mut self, value: u32) {
        self.put_slice(&value.to_le_bytes());
    }

    /// Appends eight bytes, little-endian.
    pub fn put_u64(&mut self, value: u64) {
        self.put_slice(&value.to_le_bytes());
    }

    /// Appends 1 to [`VARINT_BYTES_MAX`] bytes that [`take_varint`] reads back.
    pub fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.small.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.small.push(value as u8);
    }

    /// Appends `bytes` as a piece of its own that shares their allocation; a short one is copied instead.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.put_slice(&bytes);
        }
        self.shared_bytes += bytes.len();
        self.shared.push((self.small.len(), bytes));
    }

    /// The content, if no part of it is shared.
    #[must_use]
    pub fn as_small(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&self.small)
    }

    /// The content in order, in as few slices as it has.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let last = self.shared.last().map_or(0, |(at, _)| *at);
        let mut from = 0;
        let pairs = self.shared.iter().flat_map(move |(at, bytes)| {
            let before = &self.small[from..*at];
            from = *at;
            [before, bytes]
        });
        pairs.chain([&self.small[last..]]).filter(|piece| !piece.is_empty())
    }

    /// Moves the content out, in order and behind `head`; leaves this empty. Shared bytes are never copied. The small ones are if they are
    /// few, and then keep their buffer; else it is given away.
    #[must_use]
    pub fn take_parts(&mut self, head: &[u8]) -> Vec<Bytes> {
        let mut parts = Vec::with_capacity(self.shared.len() * 2 + 2);
        let few = self.small.len() <= COPIED_BYTES_MAX;
        let (mut small, before) = if few {
            let all = Bytes::from([head, &self.small].concat());
            self.small.clear();
            (all, head.len())
        } else {
            if !head.is_empty() {
                parts.push(Bytes::copy_from_slice(head));
            }
            (Bytes::from(std::mem::take(&mut self.small)), 0)
        };
        let mut taken = 0;
        for (at, bytes) in self.shared.drain(..) {
            let at = before + at;
            if at > taken {
                parts.push(small.split_to(at - taken));
                taken = at;
            }
            parts.push(bytes);
        }
        if !small.is_empty() {
            parts.push(small);
        }
        self.shared_bytes = 0;
        parts
    }
}

/// Reads one varint off the front of `input`. `None`: cut short, longer than 64 bits, or not the shortest form; `input` is then
/// left as it was.
#[must_use]
pub fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, &byte) in input.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if (i == VARINT_BYTES_MAX - 1 && bits > 1) || (i > 0 && byte == 0) {
            return None;
        }
        value |= bits << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(segments: &Segments) -> Vec<u8> {
        segments.iter().collect::<Vec<_>>().concat()
    }

    #[test]
    fn big_pieces_keep_their_place_and_their_allocation() {
        let big = Bytes::from(vec![7_u8; 4 * SHARED_BYTES_MIN]);
        let mut segments = Segments::new();
        segments.put_shared(big.clone());
        segments.put_slice(b"ab");
        segments.put_shared(big.clone());
        segments.put_shared(Bytes::from_static(b"short"));
        segments.put_u32(1);
        assert_eq!(segments.len(), 2 * big.len() + 11);
        assert!(segments.as_small().is_none());
        let expected = [&big[..], b"ab", &big, b"short\x01\0\0\0"].concat();
        assert_eq!(flat(&segments), expected);
        assert_eq!(segments.clone().take_parts(b"front").concat(), [b"front", &expected[..]].concat());
        let parts = segments.take_parts(&[]);
        assert_eq!(parts.concat(), expected);
        assert_eq!(parts[0].as_ptr(), big.as_ptr(), "the first big piece was copied");
        assert_eq!(parts[2].as_ptr(), big.as_ptr(), "the second big piece was copied");
        assert!(segments.is_empty());
    }

    #[test]
    fn clearing_keeps_the_buffer() {
        let mut segments = Segments::new();
        segments.put_slice(&[1; 100]);
        let buffer = segments.as_small().unwrap().as_ptr();
        segments.clear();
        segments.put_u64(u64::MAX);
        assert_eq!(segments.as_small().unwrap(), [0xff; 8]);
        assert_eq!(segments.as_small().unwrap().as_ptr(), buffer);
    }

    #[test]
    fn varint_refuses_what_it_would_never_write() {
        for bad in
            [&[][..], &[0x80], &[0x80, 0], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            let mut input = bad;
            assert_eq!(take_varint(&mut input), None, "{bad:?}");
            assert_eq!(input, bad);
        }
    }

    proptest! {
        #[test]
        fn varint_reads_back_what_was_put(value: u64, shift in 0_u32..64) {
            let mut segments = Segments::new();
            segments.put_varint(value >> shift);
            segments.put_u8(9);
            let mut input = segments.as_small().unwrap();
            prop_assert_eq!(take_varint(&mut input), Some(value >> shift));
            prop_assert_eq!(input, &[9]);
        }
    }
}
