//! Elements of tensors as JSON writes them: exact integers, correctly rounded floats, booleans.

use super::reader::{Reader, number_len};

/// Why an element is not one of its datatype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Not a number (or constant) at all, or no JSON.
    Kind,
    /// A fraction or exponent where an integer belongs.
    Fraction,
    /// A number that the datatype cannot hold.
    Range,
}

/// A datatype whose elements are read from the text and appended to a tensor's bytes.
pub(super) trait Element: Copy {
    /// Bytes per element.
    const WIDTH: usize;

    /// Reads the element that the reader stands at; on an error the reader has not moved.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Misfit>;

    /// Appends the little-endian bytes.
    fn push(self, out: &mut Vec<u8>);
}

/// BOOL: one byte, 0 or 1.
#[derive(Clone, Copy)]
pub(super) struct Bool(u8);

impl Element for Bool {
    const WIDTH: usize = 1;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Misfit> {
        let rest = reader.rest();
        if rest.starts_with(b"true") {
            reader.advance(4);
            return Ok(Bool(1));
        }
        if rest.starts_with(b"false") {
            reader.advance(5);
            return Ok(Bool(0));
        }
        match u8::read(reader)? {
            value @ (0 | 1) => Ok(Bool(value)),
            _ => Err(Misfit::Range),
        }
    }

    fn push(self, out: &mut Vec<u8>) {
        out.push(self.0);
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const WIDTH: usize = size_of::<$type>();

            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self, Misfit> {
                let (value, len) = integer(reader.rest())?;
                let value = <$type>::try_from(value).map_err(|_| Misfit::Range)?;
                reader.advance(len);
                Ok(value)
            }

            #[inline]
            fn push(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, i8, i16, i32, i64);

/// The integer that `bytes` starts with, and its length.
#[inline]
fn integer(bytes: &[u8]) -> Result<(i128, usize), Misfit> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut magnitude = 0u64;
    let mut at = start;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        magnitude = magnitude
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit - b'0')))
            .ok_or_else(|| out_of_range(bytes))?;
        at += 1;
    }
    if at == start || (at > start + 1 && bytes[start] == b'0') {
        return Err(Misfit::Kind);
    }
    if let Some(b'.' | b'e' | b'E') = bytes.get(at) {
        return Err(number_len(bytes).map_or(Misfit::Kind, |_| Misfit::Fraction));
    }
    let magnitude = i128::from(magnitude);
    Ok((if negative { -magnitude } else { magnitude }, at))
}

/// What to say of more digits than fit.
#[cold]
fn out_of_range(bytes: &[u8]) -> Misfit {
    let len = number_len(bytes).unwrap_or(0);
    match bytes[..len].iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        true => Misfit::Fraction,
        false if len > 0 => Misfit::Range,
        false => Misfit::Kind,
    }
}

/// A decimal number taken apart: `±digits × 10^exponent`.
struct Decimal {
    negative: bool,
    /// The first 19 significant digits, which always fit.
    digits: u64,
    exponent: i32,
    /// Whether `digits` and `exponent` say all that the text says.
    exact: bool,
    len: usize,
}

/// 10^0 … 10^22, all exact in FP64.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// 10^0 … 10^−22, each half a unit in the last place from the truth at most.
const FRACTIONS: [f64; 23] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15,
    1e-16, 1e-17, 1e-18, 1e-19, 1e-20, 1e-21, 1e-22,
];

/// Takes the number that `bytes` starts with apart, in one pass.
#[inline(always)]
fn decimal(bytes: &[u8]) -> Option<Decimal> {
    let negative = bytes.first() == Some(&b'-');
    let mut at = usize::from(negative);
    let mut digits = 0u64;
    let whole = take_digits(bytes, &mut at, &mut digits);
    if whole == 0 || (whole > 1 && bytes[at - whole] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        fraction = take_many_digits(bytes, &mut at, &mut digits);
        if fraction == 0 {
            return None;
        }
    }
    // 19 digits fit into 64 bits; leading zeros count here too, which only sends some numbers the slow way.
    let mut exact = whole + fraction <= 19;
    let mut exponent = 0i32;
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        let minus = bytes.get(at) == Some(&b'-');
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let start = at;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            exponent = exponent
                .saturating_mul(10)
                .saturating_add(i32::from(digit - b'0'));
            at += 1;
        }
        if at == start {
            return None;
        }
        if minus {
            exponent = -exponent;
        }
    }
    let exponent = match i32::try_from(fraction) {
        Ok(fraction) => exponent.saturating_sub(fraction),
        Err(_) => {
            exact = false;
            0
        }
    };
    Some(Decimal {
        negative,
        digits,
        exponent,
        exact,
        len: at,
    })
}

/// Adds the digits at `at` to `digits` (wrapping past 19 of them) and returns how many there are; for a few of them.
#[inline(always)]
fn take_digits(bytes: &[u8], at: &mut usize, digits: &mut u64) -> usize {
    let start = *at;
    while let Some(digit @ b'0'..=b'9') = bytes.get(*at) {
        *digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        *at += 1;
    }
    *at - start
}

/// As [`take_digits`], for many: eight at a time, because digit by digit most of the time goes into foreseeing wrongly
/// where a number ends.
#[inline(always)]
fn take_many_digits(bytes: &[u8], at: &mut usize, digits: &mut u64) -> usize {
    let start = *at;
    while let Some(&word) = bytes.get(*at..).and_then(<[u8]>::first_chunk) {
        let (value, count) = leading_digits(word);
        *digits = digits.wrapping_mul(TENS[count & 15]).wrapping_add(value);
        *at += count;
        if count < 8 {
            return *at - start;
        }
    }
    take_digits(bytes, at, digits);
    *at - start
}

/// 10^0 … 10^8.
const TENS: [u64; 9] = [
    1,
    10,
    100,
    1000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// The number that the digits at the front of `word` make, and how many there are.
///
/// Digits are told apart and added up in all eight bytes of a machine word at once (D. Lemire, "Number parsing at a
/// gigabyte per second", 2021, §4).
#[inline(always)]
fn leading_digits(word: [u8; 8]) -> (u64, usize) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let values = u64::from_le_bytes(word) ^ (0x30 * EACH);
    // The high bit of every byte that is above 9; past the first of them a carry may set others, which is no matter.
    let others = (values.wrapping_add(0x76 * EACH) | values) & (0x80 * EACH);
    let count = others.trailing_zeros() / 8;
    // The digits move to the end; zeros stand before them.
    let aligned = if count == 0 { 0 } else { values << (64 - 8 * count) };
    let pairs = aligned.wrapping_mul(10).wrapping_add(aligned >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let eight = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    (eight, count as usize)
}

/// The non-finite token that `bytes` starts with, and its length.
#[cold]
fn non_finite(bytes: &[u8]) -> Option<(f64, usize)> {
    [
        (&b"NaN"[..], f64::NAN),
        (b"Infinity", f64::INFINITY),
        (b"-Infinity", f64::NEG_INFINITY),
    ]
    .into_iter()
    .find(|(token, _)| bytes.starts_with(token))
    .map(|(token, value)| (value, token.len()))
}

macro_rules! floats {
    ($($type:ty: $fast:ident, $from:expr);*) => {$(
        impl Element for $type {
            const WIDTH: usize = size_of::<$type>();

            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self, Misfit> {
                let bytes = reader.rest();
                let Some(decimal) = decimal(bytes) else {
                    let (value, len) = non_finite(bytes).ok_or(Misfit::Kind)?;
                    reader.advance(len);
                    return Ok($from(value));
                };
                let value = match $fast(&decimal) {
                    Some(value) => value,
                    None => slow::<$type>(&bytes[..decimal.len])?,
                };
                if value.is_infinite() {
                    return Err(Misfit::Range);
                }
                reader.advance(decimal.len);
                Ok(value)
            }

            #[inline]
            fn push(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

floats!(f32: fast_f32, narrow; f64: fast_f64, std::convert::identity);

/// Rounds to the nearest FP32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "`as` rounds to nearest, ties to even: what is wanted"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Integers of up to 64 bits, rounded to the nearest FP64.
#[expect(
    clippy::cast_precision_loss,
    reason = "callers bound the digits or allow for the rounding"
)]
fn to_f64(digits: u64) -> f64 {
    digits as f64
}

/// The standard library's correctly rounded conversion.
#[cold]
fn slow<T: std::str::FromStr>(number: &[u8]) -> Result<T, Misfit> {
    std::str::from_utf8(number)
        .ok()
        .and_then(|number| number.parse().ok())
        .ok_or(Misfit::Kind)
}

/// The power of ten with this exponent, out of one of the tables.
#[inline]
fn power(table: &[f64; 23], exponent: i32) -> Option<f64> {
    table.get(usize::try_from(exponent.unsigned_abs()).ok()?).copied()
}

/// `value` with the sign of the number.
#[inline]
fn signed(decimal: &Decimal, value: f64) -> f64 {
    if decimal.negative { -value } else { value }
}

/// Exact where digits and power are exact, for then there is one rounding (Clinger, "How to Read Floating Point
/// Numbers Accurately", 1990).
#[inline]
fn fast_f64(decimal: &Decimal) -> Option<f64> {
    if !decimal.exact || decimal.digits > 1 << 53 {
        return None;
    }
    let (digits, power) = (to_f64(decimal.digits), power(&POWERS, decimal.exponent)?);
    let value = if decimal.exponent < 0 {
        digits / power
    } else {
        digits * power
    };
    Some(signed(decimal, value))
}

/// Through FP64, whose error here is below two units in the last place (half of one for `digits` past 2^53, for the
/// power, and for the product; a quotient would be exacter, and slower): the FP32 is the right one unless the FP64 lies
/// that close to the middle between two FP32, or outside the range of normal ones.
#[inline]
fn fast_f32(decimal: &Decimal) -> Option<f32> {
    if !decimal.exact {
        return None;
    }
    let table = if decimal.exponent < 0 { &FRACTIONS } else { &POWERS };
    let value = signed(decimal, to_f64(decimal.digits) * power(table, decimal.exponent)?);
    const DROPPED: u64 = (1 << 29) - 1; // FP64 has 29 bits more than FP32.
    const MIDDLE: u64 = 1 << 28;
    let near_middle = (value.to_bits() & DROPPED).abs_diff(MIDDLE) <= 4;
    let normal = (1e-37..1e38).contains(&value.abs()) || decimal.digits == 0;
    (normal && !near_middle).then(|| narrow(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<T: Element>(text: &str) -> Result<T, Misfit> {
        T::read(&mut Reader::new(text.as_bytes()).unwrap())
    }

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(read("-128"), Ok(i8::MIN));
        assert_eq!(read::<i8>("-129"), Err(Misfit::Range));
        assert_eq!(read::<i8>("300"), Err(Misfit::Range));
        assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(read::<u64>("18446744073709551616"), Err(Misfit::Range));
        assert_eq!(read("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(read::<i64>("9223372036854775808"), Err(Misfit::Range));
        assert_eq!(read("-0"), Ok(0u32));
        assert_eq!(read::<u8>("-1"), Err(Misfit::Range));
        assert_eq!(read::<i32>("1.0"), Err(Misfit::Fraction));
        assert_eq!(read::<i32>("1e3"), Err(Misfit::Fraction));
        assert_eq!(read::<i32>("01"), Err(Misfit::Kind));
        assert_eq!(read::<i32>("1.x"), Err(Misfit::Kind));
        assert_eq!(read::<i32>("-"), Err(Misfit::Kind));
        assert_eq!(read::<i32>("\"1\""), Err(Misfit::Kind));
        assert_eq!(read::<i32>(&"9".repeat(100)), Err(Misfit::Range));
    }

    #[test]
    fn floats_at_the_edges() {
        assert_eq!(read::<f32>("-0.0").map(f32::to_bits), Ok((-0.0f32).to_bits()));
        assert_eq!(read("1e-45"), Ok(1e-45f32));
        assert_eq!(read("3.4028235e38"), Ok(f32::MAX));
        assert_eq!(read::<f32>("3.5e38"), Err(Misfit::Range));
        assert_eq!(read::<f64>("1e999999999999"), Err(Misfit::Range));
        assert_eq!(read("1e-999999999999"), Ok(0f64));
        assert_eq!(read("-Infinity"), Ok(f32::NEG_INFINITY));
        assert!(read::<f64>("NaN").unwrap().is_nan());
        assert_eq!(read::<f64>("nan"), Err(Misfit::Kind));
        assert_eq!(read::<f32>(".5"), Err(Misfit::Kind));
        assert_eq!(read::<f32>("+1"), Err(Misfit::Kind));
        // Exactly between two FP32, and just above: the double rounding trap.
        assert_eq!(read("16777217"), Ok(16_777_216f32));
        assert_eq!(read("16777217.000000001"), Ok(16_777_218f32));
    }

    #[test]
    fn booleans_have_four_spellings() {
        for (text, byte) in [("true", 1), ("false", 0), ("1", 1), ("0", 0)] {
            assert_eq!(read::<Bool>(text).map(|value| value.0), Ok(byte));
        }
        assert!(matches!(read::<Bool>("2"), Err(Misfit::Range)));
        assert!(matches!(read::<Bool>("null"), Err(Misfit::Kind)));
    }

    #[test]
    fn digits_are_read_eight_at_a_time() {
        for (text, digits) in [
            ("0", "0"),
            ("7", "7"),
            ("90000000", "90000000"),
            ("12345678", "12345678"),
            ("123456789,", "123456789"),
            ("1234.567", "1234"),
            ("00000001", "00000001"),
            ("1\u{e9}234567", "1"),
            ("/:12345678", ""),
            ("999999999999999999", "999999999999999999"),
        ] {
            for end in ["", ",", "]          "] {
                let text = format!("{text}{end}");
                let (mut at, mut value) = (0, 0);
                assert_eq!(
                    take_digits(text.as_bytes(), &mut at, &mut value),
                    digits.len(),
                    "{text}"
                );
                assert_eq!(value, digits.parse().unwrap_or(0), "{text}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn decimals_are_rounded_as_the_standard_library_rounds(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?") {
            let (f32, f64): (f32, f64) = (text.parse().unwrap(), text.parse().unwrap());
            let expect32 = if f32.is_finite() { Ok(f32.to_bits()) } else { Err(Misfit::Range) };
            prop_assert_eq!(read::<f32>(&text).map(f32::to_bits), expect32, "{}", text);
            prop_assert_eq!(read::<f64>(&text).map(f64::to_bits), Ok(f64.to_bits()), "{}", text);
        }

        #[test]
        fn middles_between_two_floats_round_right(bits in 0x0080_0000u32..0x7f00_0000, nudge in -2i64..=2) {
            let (low, high) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(bits + 1)));
            let middle = low + (high - low) / 2.0;
            let text = f64::from_bits(middle.to_bits().wrapping_add_signed(nudge)).to_string();
            prop_assert_eq!(read::<f32>(&text), Ok(text.parse().unwrap()), "{}", text);
        }
    }
}
