//! Inline commands: a line of words as a human types it into telnet, split as Redis's `sdssplitargs` does.
//!
//! Words are separated by blanks. `"..."` knows `\xHH \n \r \t \b \a` and `\` before any other byte; `'...'` knows `\'` only. A
//! closing quote must end its word. As in Redis a NUL byte ends the line.

use super::batch::{Batch, Span};

/// A quote was not closed, or bytes follow a closing quote.
pub(super) struct Unbalanced;

/// Splits `line` (without its line end) into `batch`'s arena; the caller finishes or drops the command.
pub(super) fn split(line: &[u8], batch: &mut Batch) -> Result<(), Unbalanced> {
    let mut rest = line.split(|&b| b == 0).next().unwrap_or_default();
    loop {
        while let [b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c, tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = batch.arena.len();
        rest = word(rest, &mut batch.arena)?;
        batch.spans.push(Span::arena(start, batch.arena.len() - start));
    }
}

/// Appends the word at the beginning of `rest` to `out`; returns what follows it.
fn word<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', tail @ ..] => return word_end(double_quoted(tail, out)?),
            [b'\'', tail @ ..] => return word_end(single_quoted(tail, out)?),
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

fn word_end(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest {
        [] | [b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c, ..] => Ok(rest),
        _ => Err(Unbalanced),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [] => return Err(Unbalanced),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [] => return Err(Unbalanced),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => {
                out.push(b'\'');
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}

/// Value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut batch = Batch::new();
        split(line, &mut batch).ok()?;
        batch.finish();
        Some(batch.args(0, b"").iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn line_splits_as_redis_splits_it() {
        let cases: [(&[u8], &[&[u8]]); 12] = [
            (b"", &[]),
            (b" \t ", &[]),
            (b"SET k v", &[b"SET", b"k", b"v"]),
            (b"  SET \t k  v ", &[b"SET", b"k", b"v"]),
            (br#"SET k "a b""#, &[b"SET", b"k", b"a b"]),
            (br#""\x41\xfF\n\r\t\b\a\\\"\z\x4""#, &[b"A\xff\n\r\t\x08\x07\\\"zx4"]),
            (br"'a\'b\n' c", &[b"a'b\\n", b"c"]),
            (br#"foo"bar" x"#, &[b"foobar", b"x"]),
            (br#""" ''"#, &[b"", b""]),
            (b"\x0b\x0cPING\x0b", &[b"PING\x0b"]),
            (b"PING\0 x", &[b"PING"]),
            (b"a\\x41", &[b"a\\x41"]),
        ];
        for (line, want) in cases {
            assert_eq!(
                words(line).as_deref(),
                Some(&want.iter().map(|w| w.to_vec()).collect::<Vec<_>>()[..]),
                "{line:?}"
            );
        }
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [&br#""abc"#[..], b"'abc", br#""a"b"#, b"'a'b", br#""a\"#, br#""a\""#, b"\"a\0\"", br"'a\'"] {
            assert!(words(line).is_none(), "{}", line.escape_ascii());
        }
    }
}
