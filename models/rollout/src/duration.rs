//! Durations as every configuration of a model writes them: a number and a unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// The units, in nanoseconds, longest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// A duration as a file writes it: `5ms`, `1.5s`, `2m`, `1h`, `7d` or `250us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawDuration(pub(crate) Duration);

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map(RawDuration).map_err(serde::de::Error::custom)
    }
}

/// Reads `5ms`, `1.5s`, `2m`, `1h`, `7d` or `250us`.
///
/// Errors: what is accepted, if the text has no unit, an unknown one, or does not fit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("expected a number and a unit (us, ms, s, m, h, d) such as \"5ms\", got \"{text}\"");
    read(text.trim()).ok_or_else(wrong)
}

fn read(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let nanos_per_unit = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let number = number.trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(nanos_per_unit)?;
    // At most nine digits of at most a day: far below what 128 bits hold.
    let digits = format!("{fraction:0<9}").parse::<u128>().ok()?;
    let fraction = u64::try_from(digits * u128::from(nanos_per_unit) / 1_000_000_000).ok()?;
    whole.checked_add(fraction).map(Duration::from_nanos)
}

/// Writes a duration with the longest unit that divides it.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&write(*duration))
}

/// Reads what [`serialize`] writes.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    RawDuration::deserialize(from).map(|RawDuration(duration)| duration)
}

fn write(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let unit = UNITS
        .iter()
        .find(|(_, unit)| nanos != 0 && nanos.is_multiple_of(u128::from(*unit)));
    match unit {
        Some((name, unit)) => format!("{}{name}", nanos / u128::from(*unit)),
        // A zero, or a part of a microsecond, which no file can ask for.
        None => format!("{}us", nanos / 1_000),
    }
}

/// The same for a duration that may be absent.
pub(crate) mod option {
    use serde::Deserialize;

    use super::{Deserializer, Duration, RawDuration, Serializer, write};

    #[expect(clippy::ref_option, reason = "serde passes the field by reference")]
    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => to.serialize_str(&write(*duration)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let read = Option::<RawDuration>::deserialize(from)?;
        Ok(read.map(|RawDuration(duration)| duration))
    }
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
            ("0.5d", 43_200_000_000),
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

    #[test]
    fn durations_are_written_with_their_longest_unit() {
        for text in ["0us", "250us", "5ms", "90s", "90m", "24h", "7d"] {
            let written = write(parse(text).expect("the test's durations are durations"));
            assert_eq!(parse(&written), parse(text), "{text} → {written}");
        }
        assert_eq!(write(Duration::from_secs(86_400)), "1d");
        assert_eq!(write(Duration::from_secs(90)), "90s");
    }
}
