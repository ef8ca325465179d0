//! A service level objective: what a run must hold, as `p99=20ms,errors=0` says it.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};

use crate::duration;
use crate::result::{Latency, RunResult, Summary};

/// Bounds that a run holds or does not; at least one of them on a latency.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    bounds: Vec<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// At most this many microseconds.
    Latency { percentile: Percentile, most_us: u64 },
    /// At most this many failures.
    Errors(u64),
    /// At most this share of the requests, from 0 to 1.
    ErrorShare(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Percentile {
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

impl Objective {
    /// The smallest of its latencies, in microseconds.
    pub fn tightest_us(&self) -> u64 {
        let latencies = self.bounds.iter().filter_map(|bound| match bound {
            Bound::Latency { most_us, .. } => Some(*most_us),
            Bound::Errors(_) | Bound::ErrorShare(_) => None,
        });
        latencies.min().unwrap_or(u64::MAX)
    }

    /// What `run` missed, in words; empty when the objective held.
    pub fn misses(&self, run: &RunResult) -> Vec<String> {
        if run.total.latency.count == 0 {
            return vec!["no request was answered".to_owned()];
        }
        self.bounds
            .iter()
            .filter_map(|bound| bound.miss(&run.total))
            .collect()
    }
}

impl Bound {
    fn miss(self, total: &Summary) -> Option<String> {
        let failures: u64 = total.errors.values().sum();
        match self {
            Self::Latency { percentile, most_us } => {
                let measured = percentile.of(&total.latency);
                (measured > most_us)
                    .then(|| format!("{percentile} was {}, over {}", Micros(measured), Micros(most_us)))
            }
            Self::Errors(most) => (failures > most).then(|| format!("{failures} errors, over {most}")),
            Self::ErrorShare(most) => {
                let share = failures as f64 / total.sent.max(1) as f64;
                (share > most).then(|| format!("{:.3} % errors, over {} %", share * 100.0, most * 100.0))
            }
        }
    }
}

impl Percentile {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Mean, "mean"),
        (Self::P50, "p50"),
        (Self::P90, "p90"),
        (Self::P95, "p95"),
        (Self::P99, "p99"),
        (Self::P999, "p99.9"),
        (Self::Max, "max"),
    ];

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a mean of microseconds, rounded up"
    )]
    fn of(self, latency: &Latency) -> u64 {
        match self {
            Self::Mean => latency.mean_us.ceil() as u64,
            Self::P50 => latency.p50_us,
            Self::P90 => latency.p90_us,
            Self::P95 => latency.p95_us,
            Self::P99 => latency.p99_us,
            Self::P999 => latency.p999_us,
            Self::Max => latency.max_us,
        }
    }
}

impl FromStr for Objective {
    type Err = Error;

    /// Reads `p99=20ms,errors=0`: latencies by `mean`, `p50`, `p90`, `p95`, `p99`, `p99.9` or `max`, failures as a count
    /// or a percentage.
    fn from_str(text: &str) -> Result<Self> {
        let bounds = text
            .split(',')
            .map(|part| bound(part.trim()).with_context(|| format!("objective `{text}`")))
            .collect::<Result<Vec<_>>>()?;
        if !bounds.iter().any(|bound| matches!(bound, Bound::Latency { .. })) {
            bail!(
                "objective `{text}` bounds no latency, so a growing queue would hold it: add one, such as `p99=20ms`"
            );
        }
        Ok(Self { bounds })
    }
}

fn bound(part: &str) -> Result<Bound> {
    let Some((name, most)) = part.split_once('=') else {
        bail!("`{part}` has no `=`: write `p99=20ms` or `errors=0`");
    };
    let (name, most) = (name.trim(), most.trim());
    if name == "errors" {
        return errors(most);
    }
    let name = if name == "p999" { "p99.9" } else { name };
    let percentile = Percentile::ALL
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(percentile, _)| *percentile);
    let Some(percentile) = percentile else {
        bail!("`{name}` is not known: use mean, p50, p90, p95, p99, p99.9, max or errors");
    };
    Ok(Bound::Latency {
        percentile,
        most_us: micros(most)?,
    })
}

fn errors(most: &str) -> Result<Bound> {
    let Some(percent) = most.strip_suffix('%') else {
        let count = most
            .parse()
            .with_context(|| format!("`errors={most}`: write a count or a percentage"))?;
        return Ok(Bound::Errors(count));
    };
    match percent.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Bound::ErrorShare(percent / 100.0)),
        _ => bail!("`errors={most}`: a percentage is between 0% and 100%"),
    }
}

fn micros(text: &str) -> Result<u64> {
    let us = u64::try_from(duration::parse(text)?.as_micros())?;
    if !(1..=3_600_000_000).contains(&us) {
        bail!("`{text}` is not a time above zero and up to an hour");
    }
    Ok(us)
}

impl fmt::Display for Percentile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(known, _)| known == self)
            .map_or("", |(_, name)| name);
        out.write_str(name)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bound) in self.bounds.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match bound {
                Bound::Latency { percentile, most_us } => {
                    write!(out, "{comma}{percentile} ≤ {}", Micros(*most_us))?;
                }
                Bound::Errors(most) => write!(out, "{comma}errors ≤ {most}")?,
                Bound::ErrorShare(most) => write!(out, "{comma}errors ≤ {} %", most * 100.0)?,
            }
        }
        Ok(())
    }
}

/// A time in microseconds, shown in the unit that suits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Micros(pub u64);

impl fmt::Display for Micros {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1_000 => (us, "µs"),
            1_000..1_000_000 => (us / 1e3, "ms"),
            _ => (us / 1e6, "s"),
        };
        // Three significant digits, and no zeros behind the point.
        let digits = if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        write!(out, "{text} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::fixtures;

    fn check(text: &str, expected: &str) {
        assert_eq!(text.parse::<Objective>().unwrap().to_string(), expected);
    }

    #[test]
    fn objectives_are_read_as_written() {
        check("p99=20ms,errors=0", "p99 ≤ 20 ms, errors ≤ 0");
        check(" p99.9 = 1.5s , errors=0.1% ", "p99.9 ≤ 1.5 s, errors ≤ 0.1 %");
        check("p999=500us", "p99.9 ≤ 500 µs");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("errors=0", "bounds no latency"),
            ("p99=20", "`20` is no duration"),
            ("p98=20ms", "`p98` is not known"),
            ("p99", "no `=`"),
            ("p99=0ms", "above zero"),
            ("p99=1ms,errors=few", "count or a percentage"),
            ("p99=1ms,errors=200%", "between 0% and 100%"),
        ] {
            let error = format!("{:#}", text.parse::<Objective>().unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_run_misses_what_it_exceeds() {
        let mut run = fixtures::run(1_000.0, &[5_000; 100]);
        let objective: Objective = "p99=5.1ms,errors=1%".parse().unwrap();
        assert_eq!(objective.misses(&run), Vec::<String>::new());
        run.total.errors.insert("429".to_owned(), 2);
        assert_eq!(objective.misses(&run), ["2.000 % errors, over 1 %"]);
        let strict: Objective = "p50=1ms,errors=1".parse().unwrap();
        assert_eq!(
            strict.misses(&run),
            ["p50 was 5 ms, over 1 ms", "2 errors, over 1"]
        );
    }

    #[test]
    fn a_run_without_answers_holds_nothing() {
        let objective: Objective = "p99=1s".parse().unwrap();
        assert_eq!(
            objective.misses(&fixtures::run(1_000.0, &[])),
            ["no request was answered"]
        );
    }

    #[test]
    fn times_are_shown_in_their_unit() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1 ms"),
            (20_450, "20.4 ms"),
            (123_400, "123 ms"),
            (2_500_000, "2.5 s"),
        ] {
            assert_eq!(Micros(us).to_string(), text);
        }
    }
}
