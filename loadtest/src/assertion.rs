//! Assertions: what must hold at the end of a run.

use anyhow::{Context as _, Result, bail};

use crate::duration;
use crate::result::{AssertionResult, RunResult, Summary};

const EXPECTED: &str = "expected such as errors=0, error_rate<0.1%, p99<20ms, p99<1.2x (of the steady part before the \
                        first event), throughput>900, late_sends=0";

/// One comparison of a figure with a bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    text: String,
    figure: Figure,
    relation: char,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Errors,
    ErrorRate,
    Throughput,
    LateSends,
    Latency(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// A number in the figure's own unit; latencies are in microseconds.
    Absolute(f64),
    /// A multiple of the same figure in the steady part.
    OfSteady(f64),
}

/// The latencies that can be asserted.
const LATENCIES: [&str; 8] = ["min", "mean", "p50", "p90", "p95", "p99", "p999", "max"];

impl Assertion {
    /// Reads a list as `--assert` takes it: `errors=0,p99<20ms,p99<1.2x`.
    ///
    /// Errors: if one is not understood; the message has examples.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        text.split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(Self::parse)
            .collect()
    }

    fn parse(text: &str) -> Result<Self> {
        let expected = || format!("assertion `{text}`: {EXPECTED}");
        let at = text.find(['<', '>', '=']).with_context(expected)?;
        let relation = char::from(text.as_bytes()[at]);
        let (name, bound) = (text[..at].trim(), text[at + 1..].trim_start_matches('=').trim());
        let figure = match name {
            "errors" => Figure::Errors,
            "error_rate" => Figure::ErrorRate,
            "throughput" => Figure::Throughput,
            "late_sends" => Figure::LateSends,
            "p99.9" => Figure::Latency("p999"),
            _ => Figure::Latency(
                LATENCIES
                    .into_iter()
                    .find(|known| *known == name)
                    .with_context(expected)?,
            ),
        };
        let number = |text: &str| {
            let number = text
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite() && *number >= 0.0);
            number.with_context(expected)
        };
        let bound = match (bound.strip_suffix('x'), figure) {
            (Some(_), Figure::LateSends | Figure::Errors) => bail!(expected()),
            (Some(times), _) => Bound::OfSteady(number(times)?),
            (None, Figure::Latency(_)) => {
                Bound::Absolute(duration::parse(bound).with_context(expected)?.as_secs_f64() * 1e6)
            }
            (None, Figure::ErrorRate) => Bound::Absolute(match bound.strip_suffix('%') {
                Some(percent) => number(percent)? / 100.0,
                None => number(bound)?,
            }),
            (None, _) => Bound::Absolute(number(bound)?),
        };
        Ok(Self {
            text: text.to_owned(),
            figure,
            relation,
            bound,
        })
    }

    /// Whether it compares with the part of the run before the first event.
    pub fn is_relative(&self) -> bool {
        matches!(self.bound, Bound::OfSteady(_))
    }

    /// Compares with what `result` has measured. A relative one compares the part after the first event with the one
    /// before, and does not hold if one of them has no requests.
    pub fn check(&self, result: &RunResult) -> AssertionResult {
        let (measured, held) = match self.bound {
            Bound::Absolute(bound) => {
                // A latency without a single answer is not a small one.
                let any = !matches!(self.figure, Figure::Latency(_)) || result.total.ok > 0;
                let figure = self.figure.of(&result.total, result.tester.late_sends);
                let text = if any {
                    self.figure.show(figure)
                } else {
                    "no answers".to_owned()
                };
                (text, any && self.relate(figure, bound))
            }
            Bound::OfSteady(times) => match (&result.steady, &result.during) {
                (Some(steady), Some(during)) if steady.ok > 0 && during.ok > 0 => {
                    let (before, after) = (self.figure.of(steady, 0), self.figure.of(during, 0));
                    let text = format!("{} after {}", self.figure.show(after), self.figure.show(before));
                    (text, self.relate(after, times * before))
                }
                _ => ("nothing on one side of the first event".to_owned(), false),
            },
        };
        AssertionResult {
            text: self.text.clone(),
            measured,
            held,
        }
    }

    fn relate(&self, measured: f64, bound: f64) -> bool {
        match self.relation {
            '<' => measured < bound || (measured <= bound && self.text.contains("<=")),
            '>' => measured > bound || (measured >= bound && self.text.contains(">=")),
            _ => (measured - bound).abs() < f64::EPSILON,
        }
    }
}

impl Figure {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts and microseconds of a run are far below 2^53"
    )]
    fn of(self, summary: &Summary, late_sends: u64) -> f64 {
        let errors = summary.errors.values().sum::<u64>() as f64;
        let latency = &summary.latency;
        match self {
            Self::Errors => errors,
            Self::ErrorRate => errors / (summary.sent as f64).max(1.0),
            Self::Throughput => summary.throughput_per_s,
            Self::LateSends => late_sends as f64,
            Self::Latency("min") => latency.min_us as f64,
            Self::Latency("mean") => latency.mean_us,
            Self::Latency("p50") => latency.p50_us as f64,
            Self::Latency("p90") => latency.p90_us as f64,
            Self::Latency("p95") => latency.p95_us as f64,
            Self::Latency("p99") => latency.p99_us as f64,
            Self::Latency("p999") => latency.p999_us as f64,
            Self::Latency(_) => latency.max_us as f64,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Errors | Self::LateSends => format!("{value}"),
            Self::ErrorRate => format!("{:.3} %", value * 100.0),
            Self::Throughput => format!("{value:.1}/s"),
            Self::Latency(_) => format!("{:.3} ms", value / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests;
