//! Points in time as the audit writes them: RFC 3339, UTC, microseconds, always 27 characters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 0000-01-01 and 10000-01-01, in days since 1970-01-01: RFC 3339 has four digits for the year.
const DAYS: std::ops::Range<i64> = -719_528..2_932_897;
const PATTERN: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";

/// A point in time: microseconds since 1970-01-01T00:00:00Z, in the years 0 to 9999.
///
/// Its text sorts as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A number or text that is no point in time of the years 0 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2026-01-31T23:59:59.000000Z, in the years 0 to 9999")]
pub struct NotATime;

impl Timestamp {
    /// The point in time `micros` microseconds after the beginning of 1970.
    ///
    /// Errors: [`NotATime`] outside of the years 0 to 9999.
    pub fn from_unix_micros(micros: i64) -> Result<Self, NotATime> {
        let in_range = DAYS.contains(&micros.div_euclid(MICROS_PER_DAY));
        in_range.then_some(Self(micros)).ok_or(NotATime)
    }

    /// Microseconds since the beginning of 1970.
    pub fn unix_micros(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(MICROS_PER_DAY));
        let micros = self.0.rem_euclid(MICROS_PER_DAY);
        let (seconds, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z"
        )
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let fits = |(byte, pattern): (&u8, &u8)| match pattern {
            b'0' => byte.is_ascii_digit(),
            _ => byte == pattern,
        };
        if text.len() != PATTERN.len() || !text.as_bytes().iter().zip(PATTERN).all(fits) {
            return Err(NotATime);
        }
        let field = |from: usize, to: usize| text[from..to].parse::<i64>().map_err(|_| NotATime);
        let days = days(field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let seconds = field(11, 13)? * 3600 + field(14, 16)? * 60 + field(17, 19)?;
        let time = Self(days * MICROS_PER_DAY + seconds * MICROS_PER_SECOND + field(20, 26)?);
        // A month 13, a 30th of February or a 61st second come out as another text.
        (time.to_string() == text).then_some(time).ok_or(NotATime)
    }
}

/// Year, month and day of the day `days` after 1970-01-01 in the proleptic Gregorian calendar.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// Days from 1970-01-01 to a date; `days_from_civil` of the same source.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(micros: i64, text: &str) {
        let time = Timestamp::from_unix_micros(micros).unwrap();
        assert_eq!(time.to_string(), text);
        assert_eq!(text.parse(), Ok(time));
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        check(0, "1970-01-01T00:00:00.000000Z");
        check(-1, "1969-12-31T23:59:59.999999Z");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z"); // date -u -d 2000-02-29 +%s
        check(1_709_164_800_000_001, "2024-02-29T00:00:00.000001Z");
        check(4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z");
        check(-62_167_219_200_000_000, "0000-01-01T00:00:00.000000Z");
        check(253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before_it() {
        let mut before = date(-1);
        for day in 0..146_097 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
            assert!((year, month, of_month) > before && of_month <= 31);
            before = (year, month, of_month);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-01-31T23:59:59Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-02-29T00:00:00.000000Z",
            "2026-01-01T24:00:00.000000Z",
            "2026-01-01T00:00:60.000000Z",
            "2026-01-01t00:00:00.000000Z",
            "+026-01-01T00:00:00.000000Z",
            "２026-01-01T00:00:00.00000Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
        assert_eq!(Timestamp::from_unix_micros(i64::MAX), Err(NotATime));
        assert_eq!(
            Timestamp::from_unix_micros(253_402_300_800_000_000),
            Err(NotATime)
        );
        assert_eq!(
            Timestamp::from_unix_micros(-62_167_219_200_000_001),
            Err(NotATime)
        );
    }
}
