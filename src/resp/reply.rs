//! The reply writer: typed replies in RESP2 or RESP3, appended to a connection's output.
//!
//! Small pieces go into one growing buffer; a big value that has an allocation of its own is shared, not copied, and sits between
//! two ranges of that buffer until a vectored write takes it:
//! ```text
//!   buf   │ +OK\r\n $1048576\r\n │ \r\n :1\r\n │
//!                                ▲
//!   big                          (offset, Bytes)
//! ```
//! A reply says what it *is* (a map, a double, no value); the protocol of the connection decides the bytes. What RESP2 lacks takes
//! the form that Redis gives it: maps are flat arrays, doubles and verbatim text are bulks, booleans are 1 and 0. *Not here*:
//! attributes and streamed types (Redis sends none), writing to a socket, bounds on what waits (the shell sets them by `len`).

use bytes::Bytes;

use super::number;

/// Shared bytes below this many are copied all the same: one more piece of a vectored write, and a value that an APPEND may then
/// not extend in place, cost more than the copy.
pub const SHARE_BYTES_MIN: usize = 16 << 10;

/// Which version of the protocol a connection speaks; HELLO changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Simple strings, errors, integers, bulks, arrays.
    #[default]
    Resp2,
    /// The typed one: maps, sets, doubles, booleans, null, pushes.
    Resp3,
}

/// Encoded replies on their way to one client.
#[derive(Clone, Debug, Default)]
pub struct Output {
    buf: Vec<u8>,
    /// Shared pieces, each with the offset in `buf` that it goes in front of. Invariant: offsets do not fall.
    big: Vec<(usize, Bytes)>,
    /// Sum of the lengths in `big`.
    big_bytes: usize,
}

/// A place in an [`Output`], to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    buf: usize,
    big: usize,
}

/// Writes replies to one output in one protocol.
///
/// Aggregates are a head followed by as many replies as it announced: `array(2)` and then two of anything; `map(n)` and then `n`
/// times a key and a value. Nothing checks that the count is kept.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Output,
    protocol: Protocol,
}

impl Output {
    /// An empty output; it allocates with the first reply.
    #[must_use]
    pub fn new() -> Output {
        Output::default()
    }

    /// Bytes waiting, those of shared pieces included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len() + self.big_bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.big.is_empty()
    }

    /// Forgets everything and keeps the buffer.
    pub fn clear(&mut self) {
        self.rewind(Mark { buf: 0, big: 0 });
    }

    /// Gives back buffer space beyond `bytes` (after a big reply; a buffer per idle connection adds up).
    pub fn shrink(&mut self, bytes: usize) {
        self.buf.shrink_to(bytes);
        self.big.shrink_to(bytes / size_of::<(usize, Bytes)>());
    }

    /// Room for so many more bytes.
    pub fn reserve(&mut self, bytes: usize) {
        self.buf.reserve(bytes);
    }

    /// Bytes that it takes, without those of shared pieces.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buf.capacity() + self.big.capacity() * size_of::<(usize, Bytes)>()
    }

    /// Whether it takes much more room than its bytes.
    #[must_use]
    pub fn is_roomy(&self) -> bool {
        self.buf.capacity() > 2 * self.buf.len() + 64
    }

    /// Appends a copy of everything in `other`; shared pieces stay shared.
    pub fn append_copy(&mut self, other: &Output) {
        let base = self.buf.len();
        self.buf.extend_from_slice(&other.buf);
        self.big.extend(other.big.iter().map(|(at, bytes)| (base + at, bytes.clone())));
        self.big_bytes += other.big_bytes;
    }

    /// The waiting bytes, if there are some and they lie in one piece.
    pub fn as_piece(&self) -> Option<&[u8]> {
        (self.big.is_empty() && !self.buf.is_empty()).then_some(&self.buf)
    }

    /// The waiting bytes in order, as pieces for a vectored write; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces_from(0)
    }

    /// The waiting bytes in order without the first `written` ones, which an earlier write took.
    pub fn pieces_from(&self, written: usize) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let mut skip = written;
        let pairs = self.big.iter().map(|(at, bytes)| (*at, &bytes[..])).chain([(self.buf.len(), &[][..])]);
        pairs
            .flat_map(move |(at, bytes)| [&self.buf[std::mem::replace(&mut from, at)..at], bytes])
            .map(move |piece| {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                &piece[skipped..]
            })
            .filter(|piece| !piece.is_empty())
    }

    /// Appends what is already encoded (a published message, encoded once for many).
    pub fn put_encoded(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Appends a piece that is already encoded and shared by many; copied if it is short.
    pub fn put_encoded_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            self.buf.extend_from_slice(bytes);
        } else {
            self.big.push((self.buf.len(), bytes.clone()));
            self.big_bytes += bytes.len();
        }
    }

    /// Moves everything from `other` behind what is here.
    pub fn append(&mut self, other: &mut Output) {
        if self.is_empty() && self.buf.capacity() <= other.buf.capacity() {
            std::mem::swap(self, other);
            return;
        }
        let base = self.buf.len();
        self.buf.append(&mut other.buf);
        self.big.extend(other.big.drain(..).map(|(at, bytes)| (base + at, bytes)));
        self.big_bytes += std::mem::take(&mut other.big_bytes);
    }

    /// Takes off what was written since `mark` (to hold it until it is acknowledged).
    ///
    /// # Panics
    /// The mark is of another output, or was rewound past.
    #[must_use]
    pub fn split_off(&mut self, mark: Mark) -> Output {
        let buf = self.buf.split_off(mark.buf);
        let mut big = self.big.split_off(mark.big);
        for (at, _) in &mut big {
            *at -= mark.buf;
        }
        let big_bytes = big.iter().map(|(_, bytes)| bytes.len()).sum();
        self.big_bytes -= big_bytes;
        Output { buf, big, big_bytes }
    }

    /// The present end.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { buf: self.buf.len(), big: self.big.len() }
    }

    /// Drops what was written since `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        self.buf.truncate(mark.buf);
        self.big_bytes -= self.big[mark.big..].iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        self.big.truncate(mark.big);
    }

    /// All waiting bytes in one piece (tests, small things; a copy).
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().collect::<Vec<_>>().concat()
    }

    /// Appends one line, with the line ends that its text may hold made blanks.
    fn put_text_line(&mut self, kind: u8, text: &str) {
        self.buf.reserve(text.len() + 3);
        self.buf.push(kind);
        let start = self.buf.len();
        self.buf.extend_from_slice(text.as_bytes());
        for byte in &mut self.buf[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.buf.extend_from_slice(b"\r\n");
    }
}

impl<'a> Reply<'a> {
    /// A writer at the end of `out`.
    pub fn new(out: &'a mut Output, protocol: Protocol) -> Reply<'a> {
        Reply { out, protocol }
    }

    /// The same writer for a shorter time, to hand on by value.
    pub fn by_ref(&mut self) -> Reply<'_> {
        Reply { out: self.out, protocol: self.protocol }
    }

    /// The protocol that it writes.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.buf.extend_from_slice(b"+OK\r\n");
    }

    /// A status such as `PONG` or `QUEUED`. Line ends in it become blanks.
    pub fn simple(&mut self, text: &str) {
        self.out.put_text_line(b'+', text);
    }

    /// An error; `text` begins with its code, as in `ERR syntax error`. Line ends in it become blanks.
    pub fn error(&mut self, text: &str) {
        self.out.put_text_line(b'-', text);
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, n: i64) {
        number::put_line(&mut self.out.buf, b':', n);
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.bulk_of_kind(b'$', &[bytes]);
    }

    /// A bulk string of bytes that may be shared with their entry; copied if short.
    pub fn shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            self.bulk(bytes);
        } else {
            number::put_line(&mut self.out.buf, b'$', bytes.len() as i64);
            self.out.put_encoded_shared(bytes);
            self.out.buf.extend_from_slice(b"\r\n");
        }
    }

    /// The absence of a value.
    #[inline]
    pub fn null(&mut self) {
        self.out.buf.extend_from_slice(self.pick(b"$-1\r\n", b"_\r\n"));
    }

    /// The absence of an array (an aborted EXEC, a timed-out blocking pop).
    pub fn null_array(&mut self) {
        self.out.buf.extend_from_slice(self.pick(b"*-1\r\n", b"_\r\n"));
    }

    /// Head of an array of `n` replies.
    pub fn array(&mut self, n: usize) {
        self.head(b'*', n);
    }

    /// Head of a map of `n` pairs: in RESP2 an array of `2n`.
    pub fn map(&mut self, n: usize) {
        match self.protocol {
            Protocol::Resp2 => self.head(b'*', 2 * n),
            Protocol::Resp3 => self.head(b'%', n),
        }
    }

    /// Head of a set of `n` distinct replies: in RESP2 an array.
    pub fn set(&mut self, n: usize) {
        self.head(self.pick(b'*', b'~'), n);
    }

    /// Head of an out-of-band message of `n` replies: in RESP2 an array.
    pub fn push(&mut self, n: usize) {
        self.head(self.pick(b'*', b'>'), n);
    }

    /// A double, formatted as Redis 7.2 does: in RESP2 a bulk.
    pub fn double(&mut self, d: f64) {
        let text = number::double(d);
        match self.protocol {
            Protocol::Resp2 => self.bulk(&text),
            Protocol::Resp3 => self.line(b',', &text),
        }
    }

    /// A truth value: in RESP2 the integer 1 or 0.
    pub fn boolean(&mut self, b: bool) {
        self.out.buf.extend_from_slice(match b {
            true => self.pick(b":1\r\n", b"#t\r\n"),
            false => self.pick(b":0\r\n", b"#f\r\n"),
        });
    }

    /// An integer of any size, as decimal digits: in RESP2 a bulk.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.out.put_text_line(b'(', digits),
        }
    }

    /// Text to be shown as it is; `format` is three bytes, `txt` or `mkd`. In RESP2 a bulk.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        debug_assert_eq!(format.len(), 3, "a verbatim string's format is three bytes");
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => self.bulk_of_kind(b'=', &[format.as_bytes(), b":", text]),
        }
    }

    /// The present end, for `rewind`.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.out.mark()
    }

    /// Drops what was written since `mark`: a command that fails half-way leaves only its error.
    pub fn rewind(&mut self, mark: Mark) {
        self.out.rewind(mark);
    }

    fn pick<T>(&self, resp2: T, resp3: T) -> T {
        match self.protocol {
            Protocol::Resp2 => resp2,
            Protocol::Resp3 => resp3,
        }
    }

    fn head(&mut self, kind: u8, n: usize) {
        number::put_line(&mut self.out.buf, kind, n as i64);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.buf.push(kind);
        self.out.buf.extend_from_slice(text);
        self.out.buf.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn bulk_of_kind(&mut self, kind: u8, parts: &[&[u8]]) {
        /// Room for the head and the line end around the bytes.
        const AROUND: usize = 32;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let buf = &mut self.out.buf;
        buf.reserve(len + AROUND);
        number::put_line(buf, kind, len as i64);
        for part in parts {
            buf.extend_from_slice(part);
        }
        buf.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Reply<'_>)) -> (String, String) {
        let text = |protocol| {
            let mut out = Output::new();
            write(&mut Reply::new(&mut out, protocol));
            let bytes = out.to_vec();
            assert_eq!(bytes.len(), out.len());
            String::from_utf8(bytes).unwrap()
        };
        (text(Protocol::Resp2), text(Protocol::Resp3))
    }

    #[test]
    fn each_reply_has_its_form_in_both_protocols() {
        type Case = (fn(&mut Reply<'_>), &'static str, &'static str);
        let cases: [Case; 19] = [
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (|r| r.error("ERR syntax error"), "-ERR syntax error\r\n", "-ERR syntax error\r\n"),
            (|r| r.integer(-42), ":-42\r\n", ":-42\r\n"),
            (|r| r.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (|r| r.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.array(3), "*3\r\n", "*3\r\n"),
            (|r| r.map(7), "*14\r\n", "%7\r\n"),
            (|r| r.set(100), "*100\r\n", "~100\r\n"),
            (|r| r.push(2), "*2\r\n", ">2\r\n"),
            (|r| r.double(0.5), "$3\r\n0.5\r\n", ",0.5\r\n"),
            (|r| r.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (|r| r.double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
            (|r| r.boolean(true), ":1\r\n", "#t\r\n"),
            (|r| r.boolean(false), ":0\r\n", "#f\r\n"),
            (
                |r| r.big_number("-123456789012345678901"),
                "$22\r\n-123456789012345678901\r\n",
                "(-123456789012345678901\r\n",
            ),
            (|r| r.verbatim("txt", b"hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
        }
    }

    #[test]
    fn line_ends_in_an_error_cannot_split_the_reply() {
        let (resp2, _) = both(|r| r.error("ERR unknown command 'a\r\n+OK\r\n'"));
        assert_eq!(resp2, "-ERR unknown command 'a  +OK  '\r\n");
    }

    /// Small replies around two shared values.
    fn mixed() -> (Output, Vec<u8>, Bytes) {
        let big = Bytes::from(vec![b'x'; SHARE_BYTES_MIN]);
        let mut out = Output::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp2);
        reply.shared(&big);
        reply.ok();
        reply.shared(&big);
        reply.shared(&Bytes::from_static(b"short"));
        let head = format!("${SHARE_BYTES_MIN}\r\n").into_bytes();
        let want = [&head[..], &big, b"\r\n+OK\r\n", &head, &big, b"\r\n$5\r\nshort\r\n"].concat();
        (out, want, big)
    }

    #[test]
    fn big_values_are_shared_in_their_place() {
        let (out, want, big) = mixed();
        assert_eq!(out.to_vec(), want);
        assert_eq!(out.len(), want.len());
        let shared = out.pieces().filter(|piece| piece.as_ptr() == big.as_ptr()).count();
        assert_eq!((shared, out.pieces().count()), (2, 5));
    }

    #[test]
    fn partly_written_output_goes_on_at_the_right_byte() {
        let (out, want, _) = mixed();
        for written in (0..want.len()).step_by(97).chain([1, want.len() - 1, want.len()]) {
            assert_eq!(out.pieces_from(written).collect::<Vec<_>>().concat(), want[written..], "after {written}");
        }
    }

    #[test]
    fn rewound_reply_leaves_no_trace() {
        let (mut out, want, big) = mixed();
        let mark = out.mark();
        let mut reply = Reply::new(&mut out, Protocol::Resp3);
        reply.array(2);
        reply.shared(&big);
        reply.rewind(mark);
        assert_eq!((out.to_vec(), out.len()), (want, out.to_vec().len()));
        out.clear();
        assert_eq!((out.is_empty(), out.len(), out.pieces().count()), (true, 0, 0));
    }

    #[test]
    fn output_splits_and_joins_without_losing_a_byte() {
        let (mut out, want, _) = mixed();
        let mark = out.mark();
        out.append(&mut mixed().0);
        let mut tail = out.split_off(mark);
        assert_eq!((out.to_vec(), out.len(), tail.len()), (want.clone(), want.len(), want.len()));
        out.append(&mut tail);
        assert_eq!(out.to_vec(), [&want[..], &want].concat());
        assert_eq!(out.len(), 2 * want.len());
        assert!(tail.is_empty());
        let mut first = Output::new();
        first.append(&mut out);
        assert_eq!((first.len(), out.len()), (2 * want.len(), 0));
    }
}
