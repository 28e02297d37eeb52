//! Numbers as Redis reads and writes them, without allocation and without `format!` where it is hot.
//!
//! Integers are written two digits per division from a table. Doubles have the shortest digits that read back as the same value
//! (the standard library finds them), laid out by the rules of Redis's `d2string` and `fpconv_dtoa`: integers below 2^52 plainly,
//! then fixed or exponential by size. *Not here*: the `long double` arithmetic of INCRBYFLOAT.

use std::fmt::{self, Write};
use std::ops::Deref;

/// A number as text on the stack; reads as a byte slice.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; TEXT_BYTES],
    /// Invariant: `start <= end <= TEXT_BYTES`; the text is between them.
    start: u8,
    end: u8,
}

/// Room for the longest: a sign, 17 digits, 6 zeros and a point; or 20 digits of an integer with sign.
const TEXT_BYTES: usize = 32;

/// "00", "01", ... "99".
static PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[2 * n] = b'0' + (n / 10) as u8;
        pairs[2 * n + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
};

/// Formats an integer for a bulk string (INCR's value, CONFIG GET, ...).
#[must_use]
pub fn integer(n: i64) -> Text {
    let mut bytes = [0; TEXT_BYTES];
    let start = put_digits(&mut bytes, TEXT_BYTES, n);
    Text { bytes, start: start as u8, end: TEXT_BYTES as u8 }
}

/// Formats a double as Redis 7.2 does: `3`, `0.1`, `1e+30`, `inf`, `-inf`, `nan`, `-0`.
#[must_use]
pub fn double(d: f64) -> Text {
    /// Integers up to here are exact in a double and are written plainly.
    const PLAIN_MAX: f64 = (1_u64 << 52) as f64;
    let mut text = Text { bytes: [0; TEXT_BYTES], start: 0, end: 0 };
    if d.is_nan() {
        text.put(b"nan");
    } else if d.is_infinite() {
        text.put(if d > 0.0 { b"inf" } else { b"-inf" });
    } else if d == 0.0 {
        text.put(if d.is_sign_negative() { b"-0" } else { b"0" });
    } else if d.abs() <= PLAIN_MAX && d.trunc() == d {
        return integer(d as i64);
    } else {
        put_fraction(&mut text, d);
    }
    text
}

/// Reads an integer by Redis's strict rule: no blanks, no `+`, no leading zeros, no `-0`, and it fits 64 bits.
#[must_use]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > 19 {
        return None;
    }
    let mut n: u64 = 0; // 19 digits always fit
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n = n * 10 + u64::from(digit);
    }
    if negative { 0_i64.checked_sub_unsigned(n) } else { i64::try_from(n).ok() }
}

/// Appends `<kind><n>\r\n`: the head of every reply.
pub(super) fn put_line(out: &mut Vec<u8>, kind: u8, n: i64) {
    let mut line = [0; TEXT_BYTES];
    line[TEXT_BYTES - 2] = b'\r';
    line[TEXT_BYTES - 1] = b'\n';
    let start = put_digits(&mut line, TEXT_BYTES - 2, n) - 1;
    line[start] = kind;
    out.extend_from_slice(&line[start..]);
}

/// Writes the decimal digits of `n`, with its sign, so that they end before `end`; returns where they start.
fn put_digits(bytes: &mut [u8; TEXT_BYTES], end: usize, n: i64) -> usize {
    let mut rest = n.unsigned_abs();
    let mut at = end;
    while rest >= 100 {
        let pair = 2 * (rest % 100) as usize;
        rest /= 100;
        at -= 2;
        bytes[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if rest >= 10 {
        let pair = 2 * rest as usize;
        at -= 2;
        bytes[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        bytes[at] = b'0' + rest as u8;
    }
    if n < 0 {
        at -= 1;
        bytes[at] = b'-';
    }
    at
}

/// Lays out the shortest digits of a finite `d` that is not a plain integer, as `fpconv_dtoa` does.
///
/// With digits `D` (n of them) and `d = 0.D * 10^(point)`:
/// ```text
///   zeros = point - n >= 0, at most 7      D followed by zeros
///   fraction digits 1..=6, or |exp| < 4    0.000D  or  D.D
///   else                                   D.DDDe+exp, exp = point - 1
/// ```
fn put_fraction(text: &mut Text, d: f64) {
    let mut shortest = Text { bytes: [0; TEXT_BYTES], start: 0, end: 0 };
    // Rust's exponent form is `1.2345e-7`, 24 bytes at most. Writing to it cannot fail.
    let _ = write!(shortest, "{:e}", d.abs());
    let mark = shortest.iter().position(|&b| b == b'e').unwrap_or(shortest.len());
    let (mantissa, exponent) = shortest.split_at(mark);
    let exp = exponent.get(1..).and_then(parse_i64).unwrap_or(0);
    let mut digits = [0; TEXT_BYTES];
    let mut n = 0;
    for &byte in mantissa.iter().filter(|&&b| b != b'.') {
        digits[n] = byte;
        n += 1;
    }
    let digits = &digits[..n];
    let scale = exp - (n as i64 - 1); // d = digits * 10^scale
    if d < 0.0 {
        text.put(b"-");
    }
    if scale >= 0 && exp < n as i64 + 7 {
        text.put(digits);
        text.put(&b"00000000"[..scale as usize]);
    } else if scale < 0 && (scale > -7 || exp.abs() < 4) {
        let point = exp + 1;
        if point <= 0 {
            text.put(b"0.");
            text.put(&b"00000000"[..point.unsigned_abs() as usize]);
            text.put(digits);
        } else {
            text.put(&digits[..point as usize]);
            text.put(b".");
            text.put(&digits[point as usize..]);
        }
    } else {
        text.put(&digits[..1]);
        if n > 1 {
            text.put(b".");
            text.put(&digits[1..]);
        }
        text.put(if exp < 0 { b"e-" } else { b"e+" });
        text.put(&integer(exp.abs()));
    }
}

impl Text {
    fn put(&mut self, bytes: &[u8]) {
        let end = usize::from(self.end);
        self.bytes[end..end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u8;
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.put(s.as_bytes());
        Ok(())
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..usize::from(self.end)]
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::jitter::Jitter;

    #[test]
    fn integers_are_written_like_the_standard_library_does() {
        let mut samples = vec![0, 1, 9, 10, 99, 100, 101, 999, 1000, i64::MAX, i64::MIN, -1, -10, -100];
        let mut jitter = Jitter::new(1);
        samples.extend((0..2_000).map(|i| (jitter.next_u64() >> (i % 64)) as i64));
        for n in samples {
            assert_eq!(&*integer(n), n.to_string().as_bytes());
            assert_eq!(parse_i64(&integer(n)), Some(n));
            let mut line = Vec::new();
            put_line(&mut line, b':', n);
            assert_eq!(line, format!(":{n}\r\n").as_bytes());
        }
    }

    #[test]
    fn integers_that_redis_refuses_are_refused() {
        let bad = ["", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809"];
        for text in bad.into_iter().chain(["99999999999999999999", "1.0", "0x1", "00"]) {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
    }

    #[test]
    fn doubles_look_as_redis_prints_them() {
        let cases: [(f64, &str); 24] = [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-17.0, "-17"),
            (0.1, "0.1"),
            (-1.5, "-1.5"),
            (2.414_213_562_373_095, "2.414213562373095"),
            (10.25, "10.25"),
            (0.0001, "0.0001"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (0.000_123_456_789, "1.23456789e-4"),
            (0.000_012_345_678, "1.2345678e-5"),
            (4_503_599_627_370_496.0, "4503599627370496"),
            (1e21, "1e+21"),
            (1e17, "1e+17"),
            (1.234_567_890_123_456_7e18, "1234567890123456800"),
            (1e30, "1e+30"),
            (-2.5e300, "-2.5e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (d, text) in cases {
            assert_eq!(std::str::from_utf8(&double(d)), Ok(text));
        }
    }

    #[test]
    fn any_double_reads_back_as_itself() {
        let mut jitter = Jitter::new(2);
        for i in 0..20_000 {
            let any = f64::from_bits(jitter.next_u64());
            let usual = (jitter.next_u64() >> (i % 64)) as f64 / 10_f64.powi(i % 20);
            for d in [any, usual, -usual].into_iter().filter(|d| !d.is_nan()) {
                let text = String::from_utf8(double(d).to_vec()).unwrap();
                assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(d.to_bits()), "{text}");
            }
        }
    }
}
