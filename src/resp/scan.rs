//! Where a reply ends, without looking into it: what is needed to pass replies on as they are.
//!
//! It counts the elements that are still to come, so depth costs nothing, and what was looked at is not looked at again but for the line or length at
//! which the bytes ended. *Not here*: what a reply says.

use std::fmt;

/// Longest line; beyond it is an error or a simple string that no server sends.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAReply(&'static str);

impl std::error::Error for NotAReply {}

impl fmt::Display for NotAReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Looks for the end of one reply after the other.
#[derive(Debug)]
pub struct ReplyScan {
    /// Bytes of the present reply that were looked at.
    at: usize,
    /// Elements of the present reply that are still to come.
    left: u64,
}

impl Default for ReplyScan {
    fn default() -> ReplyScan {
        ReplyScan { at: 0, left: 1 }
    }
}

impl ReplyScan {
    /// The length of the reply at the front of `bytes` once all of it is there. Until then call it again with the same bytes and more
    /// behind them; afterwards without those of that reply.
    ///
    /// # Errors
    /// These bytes are no reply; nothing that follows them makes sense.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, NotAReply> {
        while self.left > 0 {
            let rest = &bytes[self.at..];
            let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
                let fits = rest.len() < LINE_BYTES_MAX;
                return if fits { Ok(None) } else { Err(NotAReply("a line without an end")) };
            };
            let (line, after) = (&rest[..end], self.at + end + 1);
            let Some((kind, text)) = line.strip_suffix(b"\r").and_then(|line| line.split_first()) else {
                return Err(NotAReply("a line without a type"));
            };
            match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.at = after,
                b'$' | b'=' | b'!' => {
                    let end = after + length(text)?.map_or(0, |n| n as usize + 2);
                    if bytes.len() < end {
                        return Ok(None);
                    }
                    self.at = end;
                }
                b'*' | b'~' | b'>' => self.open(after, length(text)?.unwrap_or(0)),
                b'%' => self.open(after, 2 * length(text)?.unwrap_or(0)),
                // Attributes stand before what they are about.
                b'|' => self.open(after, 2 * length(text)?.unwrap_or(0) + 1),
                _ => return Err(NotAReply("an unknown type")),
            }
            self.left -= 1;
        }
        let len = self.at;
        *self = ReplyScan::default();
        Ok(Some(len))
    }

    fn open(&mut self, after: usize, elements: u64) {
        self.at = after;
        self.left += elements;
    }
}

/// A length; none for -1, which stands for null.
fn length(text: &[u8]) -> Result<Option<u64>, NotAReply> {
    if text == b"-1" {
        return Ok(None);
    }
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse::<u32>().ok()) {
        Some(n) => Ok(Some(n.into())),
        None => Err(NotAReply("a length that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"=6\r\ntxt:ab\r\n",
        b"*2\r\n*2\r\n+a\r\n$1\r\nb\r\n%1\r\n+k\r\n~1\r\n:1\r\n",
        b"|1\r\n+ttl\r\n:1\r\n*1\r\n:3\r\n",
    ];

    #[test]
    fn every_reply_ends_where_the_next_begins_however_it_arrives() {
        let all = REPLIES.concat();
        for step in 1..=all.len() {
            let (mut scan, mut from, mut ends) = (ReplyScan::default(), 0, Vec::new());
            for upto in (step..all.len() + step).step_by(step).map(|upto| upto.min(all.len())) {
                while from < upto
                    && let Some(len) = scan.advance(&all[from..upto]).unwrap()
                {
                    ends.push(len);
                    from += len;
                }
            }
            assert_eq!(ends, REPLIES.iter().map(|reply| reply.len()).collect::<Vec<_>>(), "in steps of {step}");
        }
    }

    #[test]
    fn depth_costs_nothing_and_nonsense_is_an_error() {
        let deep = b"*1\r\n".repeat(100_000);
        assert_eq!(ReplyScan::default().advance(&deep), Ok(None));
        for nonsense in [&b"?\r\n"[..], b"\r\n", b"+a\n", b"$-2\r\n", b"$x\r\n", b"*99999999999\r\n", b"$+1\r\na\r\n"] {
            assert!(ReplyScan::default().advance(nonsense).is_err(), "{}", nonsense.escape_ascii());
        }
        assert!(ReplyScan::default().advance(&vec![b'+'; LINE_BYTES_MAX]).is_err());
    }
}
