//! Durations as configuration writes them: a number and a unit.

use std::time::Duration;

/// Reads `5ms`, `1.5s`, `2m`, `1h`, `7d` or `250us`.
///
/// Errors: what is accepted, if the text has no unit, an unknown one, or does not fit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("expected a number and a unit (us, ms, s, m, h, d) such as \"5ms\", got \"{text}\"");
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number = number.trim_end();
    let nanos_per_unit: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole = whole
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(nanos_per_unit))
        .ok_or_else(wrong)?;
    let fraction = match fraction {
        "" => 0,
        digits => {
            let scale = 10u128.pow(u32::try_from(digits.len()).map_err(|_| wrong())?);
            let part = digits.parse::<u128>().map_err(|_| wrong())? * u128::from(nanos_per_unit) / scale;
            u64::try_from(part).map_err(|_| wrong())?
        }
    };
    whole
        .checked_add(fraction)
        .map(Duration::from_nanos)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, micros) in [
            ("0ms", 0),
            ("5ms", 5_000),
            ("250us", 250),
            ("1.5s", 1_500_000),
            ("2 m", 120_000_000),
            ("1h", 3_600_000_000),
            ("7d", 604_800_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in [
            "",
            "5",
            "ms",
            "-1s",
            "1e3s",
            "5 parsecs",
            "99999999999999999999d",
            "9999999999d",
            "1.s.s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
