//! Durations as people write them: `10s`, `500ms`, `2m`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Reads a number with one of the units `us`, `ms`, `s`, `m`, `h`.
///
/// Errors: if it is not one; the message has an example.
pub fn parse(text: &str) -> Result<Duration> {
    let wrong = || format!("`{text}` is no duration; write 10s, 500ms, 2m");
    let end = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .with_context(wrong)?;
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(anyhow::anyhow!(wrong())),
    };
    let number: f64 = number.trim().parse().with_context(wrong)?;
    Duration::try_from_secs_f64(number * seconds).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn units_are_read() {
        assert_eq!(parse("10s").unwrap(), Duration::from_secs(10));
        assert_eq!(parse("1.5ms").unwrap(), Duration::from_micros(1500));
        assert_eq!(parse("2m").unwrap(), Duration::from_secs(120));
        for text in ["10", "s", "-1s", "1 fortnight", "infs", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
