//! FP32 as the shortest decimal that reads back to the same bits, for numbers that are written without an exponent.
//!
//! FP64 has 29 bits more than FP32, enough to place the middles between a number and its neighbours: the shortest
//! decimal between them is looked for with a handful of integer operations. What lies too close to a middle to be
//! sure, and all that would need an exponent, is left to the library, which is right everywhere but slower
//! (docs/benchmarks.md, "The parts").

/// 10^0 … 10^12, exact in FP64.
const POWERS: [f64; 13] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];

/// 10^0 … 10^8.
const TENS: [u32; 9] = [
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

/// Far more than the rounding of one product below 10^9, far less than the distance between the middles (above 5).
const DOUBT: f64 = 1e-5;

/// Appends `value` to `out`, or does nothing and returns `false` where it is none of the easy ones.
#[inline]
pub(super) fn push(value: f32, out: &mut Vec<u8>) -> bool {
    let Some(Decimal { digits, zeros, point }) = shortest(value.abs()) else {
        return false;
    };
    // The text is put together in one register and stored once: what is stored in pieces and read back waits.
    let digits = nine(digits);
    let significant = 9 - zeros;
    let (text, len) = if point <= 0 {
        let start = 2 + point.unsigned_abs();
        let zeros = ZEROS & ((1 << (8 * start)) - 1);
        (zeros | digits << (8 * start), start as usize + significant)
    } else {
        let shift = 8 * point.unsigned_abs();
        let before = digits & ((1 << shift) - 1);
        let after = (digits | NOUGHTS << 72) >> shift << (shift + 8);
        let point = point.unsigned_abs() as usize;
        // At least one digit follows the point.
        let after_point = significant.saturating_sub(point).max(1);
        (
            before | u128::from(b'.') << shift | after,
            point + 1 + after_point,
        )
    };
    // No branch on the sign, nor on the number of digits below: which they are cannot be foreseen.
    let minus = usize::from(value.is_sign_negative());
    let text = text << (8 * minus) | (u128::from(b'-') * minus as u128);
    let start = out.len();
    out.extend_from_slice(&text.to_le_bytes());
    out.truncate(start + minus + len);
    true
}

/// `0.00…`, the first character in the lowest byte; digits go over the zeros that are not wanted.
const ZEROS: u128 = u128::from_le_bytes(*b"0.00\0\0\0\0\0\0\0\0\0\0\0\0");
/// Zeros behind the nine digits.
const NOUGHTS: u128 = u128::from_le_bytes(*b"0000000\0\0\0\0\0\0\0\0\0");

/// `0.d₁d₂…d₉ × 10^point`.
struct Decimal {
    /// Nine digits, the first not 0.
    digits: u32,
    /// How many of them, at the end, say nothing.
    zeros: usize,
    point: i32,
}

/// The shortest decimal between the middles to both neighbours, the one nearest to `value` among several.
#[inline]
fn shortest(value: f32) -> Option<Decimal> {
    if !(1e-3..1e7).contains(&value) {
        return None;
    }
    let bits = value.to_bits();
    // Below a power of two the neighbours are nearer than above.
    if bits & 0x007f_ffff == 0 {
        return None;
    }
    let wide = f64::from(value);
    // Half the distance to the next FP32: exact, as is adding it.
    let half = f64::from(f32::from_bits(bits + 1)) - wide;
    let half = half / 2.0;
    // 10^8 ≤ value × 10^power < 10^9; `scale` is at most one too small, by the exponent alone.
    let exponent = i32::try_from(bits >> 23).ok()? - 127;
    let magnitude = (exponent * 1233) >> 12; // ⌊exponent × log₁₀ 2⌋
    let power = usize::try_from(8 - magnitude).ok()?;
    let power = power - usize::from(wide * POWERS.get(power)? >= 1e9);
    let scale = POWERS.get(power)?;
    let (low, exact, high) = ((wide - half) * scale, wide * scale, (wide + half) * scale);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 10^8 and 10^9, and meant to lose its fraction"
    )]
    let whole = exact as u32;
    let fraction = exact - f64::from(whole);
    // The multiple of `unit` nearest to the number; whether it lies between the middles; whether one cannot be sure.
    let near = |unit: u32| {
        let rest = whole % unit;
        let up = if unit == 1 {
            fraction >= 0.5
        } else {
            2 * rest >= unit
        };
        let candidate = whole - rest + unit * u32::from(up);
        let at = f64::from(candidate);
        let fits = (at > low) & (at < high);
        let tie = fits & (unit > 1) & (2 * rest == unit) & (fraction == 0.0);
        let doubt = ((at - low).abs() < DOUBT) | ((at - high).abs() < DOUBT) | tie;
        (candidate, fits, doubt)
    };
    // Nine digits always do; most numbers need eight or seven.
    let (nine, eight, seven) = (near(1), near(10), near(100));
    if nine.2 | eight.2 | (eight.1 & seven.2) {
        return None;
    }
    let mut zeros = usize::from(eight.1) + usize::from(eight.1 & seven.1);
    let mut digits = [nine.0, eight.0, seven.0][zeros];
    while (2..8).contains(&zeros) {
        let (candidate, fits, doubt) = near(TENS[zeros + 1]);
        if doubt {
            return None;
        }
        if !fits {
            break;
        }
        zeros += 1;
        digits = candidate;
    }
    let point = 9 - i32::try_from(power).ok()?;
    // Rounded up to a power of ten: one digit more.
    if digits == 1_000_000_000 {
        return Some(Decimal {
            digits: 100_000_000,
            zeros: 8,
            point: point + 1,
        });
    }
    Some(Decimal { digits, zeros, point })
}

/// The nine digits of `number` as text, the first in the lowest byte.
#[inline]
fn nine(number: u32) -> u128 {
    let (first, rest) = (number / 100_000_000, u64::from(number % 100_000_000));
    // Two halves of four digits, then four of two, then eight of one, side by side in one word.
    let halves = (rest / 10_000) | ((rest % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds + ((halves - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens + ((pairs - 10 * tens) << 8) + 0x3030_3030_3030_3030;
    u128::from(first + u32::from(b'0')) | (u128::from(ones) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: f32) -> Option<String> {
        let mut out = Vec::new();
        push(value, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    fn library(value: f32) -> String {
        zmij::Buffer::new().format_finite(value).to_owned()
    }

    #[test]
    fn easy_numbers_are_written_as_the_library_writes_them() {
        for value in [
            0.1,
            0.3,
            1.5,
            3.0,
            100.0,
            123.456,
            0.001_5,
            9_999_999.0,
            999_999.94,
            -7.25,
            0.099_999_994,
            1e6,
            5e5,
        ] {
            assert_eq!(text(value), Some(library(value)), "{value}");
        }
    }

    #[test]
    fn all_others_are_left_to_the_library() {
        for value in [
            0.0,
            1.0,
            0.5,
            1e-4,
            1e7,
            f32::MAX,
            f32::MIN_POSITIVE,
            f32::NAN,
            f32::INFINITY,
        ] {
            assert_eq!(text(value), None, "{value}");
        }
    }

    #[test]
    fn nine_digits_are_nine_digits() {
        for number in [100_000_000, 123_456_789, 999_999_999, 987_000_001] {
            assert_eq!(nine(number).to_le_bytes()[..9], *number.to_string().as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_written_is_what_the_library_writes(bits in 0x3a80_0000u32..0x4b20_0000) {
            let value = f32::from_bits(bits);
            if let Some(text) = text(value) {
                prop_assert_eq!(text, library(value));
            }
        }

        #[test]
        fn decimals_come_back_as_they_were(digits in 1u32..9_999_999, places in 0i32..7) {
            let value: f32 = format!("{digits}e-{places}").parse().unwrap();
            if let Some(text) = text(value) {
                prop_assert_eq!(text, library(value));
            }
        }
    }
}
