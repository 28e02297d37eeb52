//! The numbers of INCRBYFLOAT: the 80-bit floats of x86, in software.
//!
//! Redis adds in C's `long double` and prints with 17 decimals. On x86-64 that is a significand of 64 bits and an exponent of 15, read and
//! printed by the C library with exact rounding, to nearest, ties to even. The same is done here in integers, so that the digits are Redis's
//! on every machine and a replica has nothing to compute. Source: IEEE 754-2008, the C standard's `strtold` and `printf`.
//!
//! ```text
//! value = ± significand · 2^exponent      2^63 ≤ significand < 2^64, or less at the lowest exponent
//! ```
//! Text is shorter than 5 KiB, as in Redis, so the big integers here have at most 1,800 words.

use std::cmp::Ordering;

/// A float of 64 bits of precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LongDouble {
    negative: bool,
    significand: u64,
    /// Above [`EXPONENT_MAX`]: infinite.
    exponent: i32,
}

const EXPONENT_MIN: i32 = -16_445;
const EXPONENT_MAX: i32 = 16_320;
/// Redis reads shorter texts only.
const TEXT_BYTES_MAX: usize = 5 * 1_024;
/// Decimals of the text, and their power of ten.
const DECIMALS: usize = 17;
const SCALE: u128 = 10u128.pow(DECIMALS as u32);

impl LongDouble {
    pub(super) const ZERO: LongDouble = LongDouble { negative: false, significand: 0, exponent: EXPONENT_MIN };

    /// Reads decimal or hexadecimal text, or an infinity, as C does. `None`: anything else, no number, beyond the largest, or not zero and
    /// too small for anything but zero.
    pub(super) fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, body) = match text {
            [b'-', body @ ..] => (true, body),
            [b'+', body @ ..] => (false, body),
            body => (false, body),
        };
        let magnitude = match body {
            _ if body.eq_ignore_ascii_case(b"inf") || body.eq_ignore_ascii_case(b"infinity") => {
                LongDouble { exponent: EXPONENT_MAX + 1, ..LongDouble::ZERO }
            }
            [b'0', b'x' | b'X', body @ ..] => hexadecimal(body)?,
            body => decimal(body)?,
        };
        Some(LongDouble { negative, ..magnitude })
    }

    /// The rounded sum; `None` if it is no finite number.
    pub(super) fn sum(self, other: LongDouble) -> Option<LongDouble> {
        if self.exponent.max(other.exponent) > EXPONENT_MAX {
            return None;
        }
        let ordered = (self.exponent, self.significand) >= (other.exponent, other.significand);
        let (large, small) = if ordered { (self, other) } else { (other, self) };
        // 62 bits below the larger significand, and one above it for the carry. What lies below them counts only as "not exact".
        let unit = large.exponent - 62;
        let (high, low) = (u128::from(large.significand) << 62, u128::from(small.significand) << 62);
        let low = match large.exponent - small.exponent {
            distance @ 0..128 => low >> distance | u128::from(low & ((1 << distance) - 1) != 0),
            _ => u128::from(low != 0),
        };
        let total = if large.negative == small.negative { high + low } else { high - low };
        if total == 0 {
            return Some(LongDouble::ZERO);
        }
        let bits = 128 - total.leading_zeros() as i32;
        let drop = (bits - 64).max(EXPONENT_MIN - unit);
        let sum = if drop <= 0 {
            rounded((total << -drop) as u64, unit + drop, Ordering::Less)
        } else {
            let rest = total & ((1 << drop) - 1);
            rounded((total >> drop) as u64, unit + drop, rest.cmp(&(1 << (drop - 1))))
        };
        Some(LongDouble { negative: large.negative, ..sum? })
    }

    /// The text with 17 decimals, less the zeros at its end.
    pub(super) fn text(self) -> String {
        let (whole, decimals) = if self.exponent >= 0 {
            (Big::from(self.significand).shifted(self.exponent as usize).decimal(), 0)
        } else {
            let scaled = scaled(self.significand, self.exponent.unsigned_abs());
            ((scaled / SCALE).to_string(), scaled % SCALE)
        };
        let sign = if self.negative && (whole != "0" || decimals > 0) { "-" } else { "" };
        let text = format!("{sign}{whole}.{decimals:0DECIMALS$}");
        text.trim_end_matches('0').trim_end_matches('.').into()
    }
}

/// `significand · 2^-shift · 10^17`, rounded.
fn scaled(significand: u64, shift: u32) -> u128 {
    let product = u128::from(significand) * SCALE;
    if shift >= 128 {
        return 0;
    }
    let (down, rest) = (product >> shift, product & ((1 << shift) - 1));
    let up = match rest.cmp(&(1 << (shift - 1))) {
        Ordering::Less => false,
        Ordering::Equal => down % 2 == 1,
        Ordering::Greater => true,
    };
    down + u128::from(up)
}

/// A positive number from the significand before rounding, and how what was left out compares to half of its last bit. `None`: zero, or
/// beyond the largest.
fn rounded(significand: u64, exponent: i32, rest: Ordering) -> Option<LongDouble> {
    let up = match rest {
        Ordering::Less => false,
        Ordering::Equal => significand % 2 == 1,
        Ordering::Greater => true,
    };
    let (significand, exponent) = match significand.checked_add(u64::from(up)) {
        Some(significand) => (significand, exponent),
        None => (1 << 63, exponent + 1),
    };
    let fits = significand > 0 && exponent <= EXPONENT_MAX;
    fits.then_some(LongDouble { negative: false, significand, exponent })
}

/// Digits without leading zeros, how many of them are decimals, and the written exponent.
struct Parts {
    digits: Vec<u8>,
    decimals: i64,
    exponent: i64,
}

impl Parts {
    /// `digits [. digits] [mark [sign] digits]`, with at least one digit before the mark.
    fn of(body: &[u8], radix: u32, mark: u8) -> Option<Parts> {
        let end = body.iter().position(|byte| byte.eq_ignore_ascii_case(&mark)).unwrap_or(body.len());
        let (number, exponent) = body.split_at(end);
        let (whole, decimals) = match number.iter().position(|&byte| byte == b'.') {
            Some(point) => (&number[..point], &number[point + 1..]),
            None => (number, &b""[..]),
        };
        if whole.is_empty() && decimals.is_empty() {
            return None;
        }
        let digit = |&byte: &u8| char::from(byte).to_digit(radix).map(|digit| digit as u8);
        let digits: Vec<u8> = whole.iter().chain(decimals).map(digit).collect::<Option<_>>()?;
        let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
        let exponent = match exponent {
            [] => 0,
            [_, b'-', digits @ ..] => -unsigned(digits)?,
            [_, b'+', digits @ ..] | [_, digits @ ..] => unsigned(digits)?,
        };
        Some(Parts { digits: digits[zeros..].to_vec(), decimals: decimals.len() as i64, exponent })
    }
}

/// A number of digits only; a huge one is as good as any other.
fn unsigned(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        Some((number * 10 + digit).min(1 << 40))
    })
}

fn decimal(body: &[u8]) -> Option<LongDouble> {
    let parts = Parts::of(body, 10, b'e')?;
    if parts.digits.is_empty() {
        return Some(LongDouble::ZERO);
    }
    let power = parts.exponent - parts.decimals;
    // Far outside of what can be held: 10^4932 and 10^-4951.
    if !(-4_960..=4_940).contains(&(parts.digits.len() as i64 + power)) {
        return None;
    }
    let mut number = Big::default();
    parts.digits.iter().for_each(|&digit| number.multiply_add(10, digit.into()));
    let mut divisor = Big::from(1);
    let scaled = if power >= 0 { &mut number } else { &mut divisor };
    (0..power.unsigned_abs()).for_each(|_| scaled.multiply_add(10, 0));
    quotient(number, divisor)
}

fn hexadecimal(body: &[u8]) -> Option<LongDouble> {
    let parts = Parts::of(body, 16, b'p')?;
    if parts.digits.is_empty() {
        return Some(LongDouble::ZERO);
    }
    let power = parts.exponent - 4 * parts.decimals;
    if !(-16_460..=16_400).contains(&(4 * parts.digits.len() as i64 + power)) {
        return None;
    }
    let mut number = Big::default();
    parts.digits.iter().for_each(|&digit| number.multiply_add(16, digit.into()));
    let shift = power.unsigned_abs() as usize;
    if power >= 0 {
        quotient(number.shifted(shift), Big::from(1))
    } else {
        quotient(number, Big::from(1).shifted(shift))
    }
}

/// `n / d`, rounded; neither is zero.
fn quotient(n: Big, d: Big) -> Option<LongDouble> {
    // Shifted so that d ≤ n < 2d; the quotient is then between 2^top and 2^(top + 1).
    let mut top = n.bits() as i32 - d.bits() as i32;
    let (mut n, d) = if top >= 0 { (n, d.shifted(top as usize)) } else { (n.shifted(top.unsigned_abs() as usize), d) };
    if n < d {
        top -= 1;
        n = n.shifted(1);
    }
    let bits = (top - EXPONENT_MIN + 1).min(64);
    if bits < 0 {
        return None;
    }
    let mut significand = 0;
    for _ in 0..bits {
        significand <<= 1;
        if n >= d {
            n.subtract(&d);
            significand |= 1;
        }
        n = n.shifted(1);
    }
    rounded(significand, top + 1 - bits, n.cmp(&d))
}

/// An unsigned integer of any size: words, the lowest first, the highest not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Big(Vec<u32>);

impl From<u64> for Big {
    fn from(number: u64) -> Big {
        Big(vec![number as u32, (number >> 32) as u32]).trimmed()
    }
}

impl Big {
    fn trimmed(mut self) -> Big {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |word| self.0.len() * 32 - word.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, by: u32, add: u32) {
        let mut carry = u64::from(add);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(by);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn shifted(self, left: usize) -> Big {
        let (words, bits) = (left / 32, left % 32);
        let mut shifted = vec![0; words];
        let mut carry = 0;
        for word in self.0 {
            carry |= u64::from(word) << bits;
            shifted.push(carry as u32);
            carry >>= 32;
        }
        shifted.push(carry as u32);
        Big(shifted).trimmed()
    }

    /// Takes away a number that is not larger.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = 0;
        for (i, word) in self.0.iter_mut().enumerate() {
            let taken = u64::from(other.0.get(i).copied().unwrap_or(0)) + borrow;
            borrow = u64::from(u64::from(*word) < taken);
            *word = u64::from(*word).wrapping_sub(taken) as u32;
        }
        *self = std::mem::take(self).trimmed();
    }

    fn decimal(mut self) -> String {
        const STEP: u64 = 1_000_000_000;
        let mut groups = Vec::new();
        while !self.0.is_empty() {
            let mut rest = 0;
            for word in self.0.iter_mut().rev() {
                rest = rest << 32 | u64::from(*word);
                *word = (rest / STEP) as u32;
                rest %= STEP;
            }
            groups.push(rest);
            self = self.trimmed();
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        groups.iter().rev().for_each(|group| text.push_str(&format!("{group:09}")));
        text
    }
}

impl Ord for Big {
    fn cmp(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

impl PartialOrd for Big {
    fn partial_cmp(&self, other: &Big) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(text: &str) -> Option<String> {
        LongDouble::parse(text.as_bytes()).map(LongDouble::text)
    }

    fn sum(one: &str, two: &str) -> Option<String> {
        LongDouble::parse(one.as_bytes())?.sum(LongDouble::parse(two.as_bytes())?).map(LongDouble::text)
    }

    /// Expectations from a C program on x86-64 (`strtold`, `printf("%.17Lf")`).
    #[test]
    fn texts_are_those_of_c() {
        let same = ["0", "1", "-1", "0.1", "3.14159", "18446744073709551615", "-0.5", "10.6", "0.00000000000000001"];
        for text in same {
            assert_eq!(text_of(text).as_deref(), Some(text));
        }
        let read = [
            ("1e3", "1000"),
            ("+5.", "5"),
            (".5", "0.5"),
            ("5.0e3", "5000"),
            ("-0", "0"),
            ("-1e-30", "0"),
            ("0x1p4", "16"),
            ("0X1.8p1", "3"),
            ("0x.8", "0.5"),
            ("18446744073709551617", "18446744073709551616"),
            ("36893488147419103235", "36893488147419103236"),
            ("1e22", "10000000000000000000000"),
            ("123456789.123456789123456789", "123456789.12345678912242875"),
        ];
        for (text, want) in read {
            assert_eq!(text_of(text).as_deref(), Some(want), "{text}");
        }
        let none = [
            "", ".", "-", "e5", "1e", "1e+", "0x", "0x1p", " 1", "1 ", "1.2.3", "nan", "-nan", "in", "1e4933",
            "1e-5000", "1_0",
        ];
        for text in none {
            assert_eq!(text_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn sums_round_to_64_bits() {
        assert_eq!(sum("0.1", "0.2").as_deref(), Some("0.3"));
        assert_eq!(sum("3", "1.1").as_deref(), Some("4.1"));
        assert_eq!(sum("10.50", "-5").as_deref(), Some("5.5"));
        assert_eq!(sum("1e4931", "-1e4931").as_deref(), Some("0"));
        assert_eq!(sum("18446744073709551615", "1").as_deref(), Some("18446744073709551616"));
        assert_eq!(
            sum("36893488147419103232", "1").as_deref(),
            Some("36893488147419103232"),
            "a tie goes to the even one"
        );
        assert_eq!(
            sum("36893488147419103232", "2").as_deref(),
            Some("36893488147419103232"),
            "a tie goes to the even one"
        );
        assert_eq!(sum("36893488147419103236", "2").as_deref(), Some("36893488147419103240"));
        assert_eq!(sum("1", "-1e-19").as_deref(), Some("1"), "17 decimals do not show it");
        assert_eq!(sum("1.1e4932", "1.1e4932"), None);
        assert_eq!(sum("inf", "1"), None);
    }

    #[test]
    fn a_float_of_53_bits_is_read_and_printed_exactly() {
        for i in 0..10_000u64 {
            let number = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12) as f64 / 4096.0 - 1e9;
            let exact = format!("{number:.17}");
            let trimmed = exact.trim_end_matches('0').trim_end_matches('.');
            assert_eq!(text_of(&exact).as_deref(), Some(trimmed));
        }
    }
}
