//! Integers as Redis reads and writes them: one spelling per number.

use crate::command::CommandError;

/// Reads a 64-bit integer in its only spelling: no blank, no plus, no leading zero.
///
/// # Errors
/// Anything else is [`CommandError::NotInteger`].
#[inline]
pub fn integer(text: &[u8]) -> Result<i64, CommandError> {
    parse(text).ok_or(CommandError::NotInteger)
}

/// The same, for callers that only ask whether it is one.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        b"0" => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > 19 {
        return None;
    }
    let mut magnitude = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// The decimal text of an integer, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    /// Writes the number.
    #[must_use]
    pub fn new(number: i64) -> Decimal {
        let mut decimal = Decimal::unsigned(number.unsigned_abs());
        if number < 0 {
            decimal.from -= 1;
            decimal.digits[decimal.from] = b'-';
        }
        decimal
    }

    /// Writes the number.
    #[must_use]
    pub fn unsigned(mut number: u64) -> Decimal {
        let (mut digits, mut from) = ([0; 20], 20);
        loop {
            from -= 1;
            digits[from] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Decimal { digits, from };
            }
        }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for number in [0, 1, -1, 10, 99, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
            assert_eq!(integer(number.to_string().as_bytes()), Ok(number));
        }
        assert_eq!(Decimal::unsigned(u64::MAX).as_bytes(), b"18446744073709551615");
        let bad = ["", "-", "+1", " 1", "1 ", "01", "-0", "1.0", "9223372036854775808", "-9223372036854775809"];
        for text in bad.into_iter().chain(["99999999999999999999", "0x10", "1e3"]) {
            assert_eq!(integer(text.as_bytes()), Err(CommandError::NotInteger), "{text:?}");
        }
    }
}
