//! A comparison: what changed between two sides, and whether it is more than their noise.
//!
//! Each side is one run or several of the same load. With three runs a side or more, a figure's noise is the spread
//! between the runs; with fewer it is the spread between the seconds of a run ([`crate::noise`] names both methods),
//! which cannot see what differs from one run to the next, such as memory layout or a neighbour on the machine. Figures
//! without a per-second series (p99.9, CPU) are judged only by runs.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::noise::{Part, Scale, band_of_runs, band_of_seconds, mean};
use crate::result::{Load, RunResult, SCHEMA};

pub use figure::Figure;

mod figure;
mod table;

/// The fewest runs a side whose spread is trusted over the spread of their seconds.
pub const ENOUGH_RUNS: usize = 3;

/// The seed of the bootstrap: a comparison of the same files says the same each time.
const SEED: u64 = 1;

/// How strict a comparison is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompareOptions {
    /// The probability with which chance alone stays inside the noise, from 0 to 1.
    pub confidence: f64,
    /// Changes up to this are not worth a word even when they exceed the noise: 0.02 is two percent (of requests for
    /// errors, of the value for the others).
    pub tolerance: f64,
}

impl Default for CompareOptions {
    /// Six figures are judged at once: at 99 % a comparison of equals cries wolf about once in seventeen.
    fn default() -> Self {
        Self {
            confidence: 0.99,
            tolerance: 0.0,
        }
    }
}

/// Two sides set against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The form of this value as JSON: [`SCHEMA`].
    pub schema: u32,
    /// The probability with which chance alone stays inside the noise.
    pub confidence: f64,
    /// Changes up to this count as none.
    pub tolerance: f64,
    /// Runs on the first side.
    pub runs_a: usize,
    /// Runs on the second side.
    pub runs_b: usize,
    /// One row per figure.
    pub rows: Vec<Row>,
    /// What makes the comparison doubtful, in words.
    pub warnings: Vec<String>,
}

/// One figure on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which figure.
    pub figure: Figure,
    /// Its unit.
    pub unit: &'static str,
    /// Its mean over the runs of the first side; absent where they do not have it.
    pub a: Option<f64>,
    /// The same of the second side.
    pub b: Option<f64>,
    /// b / a − 1, or b − a for the share of errors; absent where a side has no value.
    pub change: Option<f64>,
    /// The size of a change in this direction that chance alone stays below, in the same measure; absent where it cannot be
    /// told.
    pub noise: Option<f64>,
    /// What the noise was taken from.
    pub method: Method,
    /// What follows.
    pub verdict: Verdict,
}

/// What the noise of a figure was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The spread between runs.
    Runs,
    /// The spread between seconds of a run.
    Seconds,
    /// Nothing: too few runs, or too few seconds.
    Unknown,
}

/// Whether a figure changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is better on the second side, beyond the noise.
    Better,
    /// It is worse on the second side, beyond the noise.
    Worse,
    /// What changed is within the noise, or within the tolerance.
    Same,
    /// It cannot be told.
    Unknown,
}

impl Comparison {
    /// Whether any figure is worse on the second side, beyond the noise.
    pub fn is_worse(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Worse)
    }
}

/// Sets the runs of `b` against those of `a`.
///
/// Errors: if a side has no run.
pub fn compare(a: &[RunResult], b: &[RunResult], options: CompareOptions) -> Result<Comparison> {
    if a.is_empty() || b.is_empty() {
        bail!("each side of a comparison needs at least one run; give A.json B.json");
    }
    Ok(Comparison {
        schema: SCHEMA,
        confidence: options.confidence,
        tolerance: options.tolerance,
        runs_a: a.len(),
        runs_b: b.len(),
        rows: Figure::ALL
            .iter()
            .map(|figure| row(*figure, a, b, options))
            .collect(),
        warnings: warnings(a, b),
    })
}

fn row(figure: Figure, a: &[RunResult], b: &[RunResult], options: CompareOptions) -> Row {
    let (values_a, values_b) = (values(figure, a), values(figure, b));
    let whole = values_a.len() == a.len() && values_b.len() == b.len();
    let scale = figure.scale();
    let distance = if whole {
        distance(scale, &values_a, &values_b)
    } else {
        None
    };
    let (noise, method) = match distance {
        Some(_) => noise(figure, a, b, options.confidence),
        None => (None, Method::Unknown),
    };
    let verdict = match (distance, noise) {
        (Some(distance), Some(noise)) => verdict(figure, distance, noise, options.tolerance),
        _ => Verdict::Unknown,
    };
    Row {
        figure,
        unit: figure.unit(),
        a: (values_a.len() == a.len()).then(|| mean(&values_a)),
        b: (values_b.len() == b.len()).then(|| mean(&values_b)),
        change: distance.map(|distance| on_scale(scale, distance)),
        // The same ratio is a larger percentage upwards than downwards: the noise is shown on the side of the change.
        noise: noise
            .zip(distance)
            .map(|(noise, distance)| on_scale(scale, noise.copysign(distance)).abs()),
        method,
        verdict,
    }
}

fn verdict(figure: Figure, distance: f64, noise: f64, tolerance: f64) -> Verdict {
    let change = on_scale(figure.scale(), distance);
    if distance.abs() <= noise || change.abs() <= tolerance {
        Verdict::Same
    } else if (distance > 0.0) == figure.more_is_better() {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}

/// A distance in the measure that people read: logarithms of ratios become relative changes.
fn on_scale(scale: Scale, distance: f64) -> f64 {
    match scale {
        Scale::Ratio => distance.exp_m1(),
        Scale::Difference => distance,
    }
}

fn values(figure: Figure, runs: &[RunResult]) -> Vec<f64> {
    runs.iter().filter_map(|run| figure.of(run)).collect()
}

/// The distance between the means of two sides, geometric means on the ratio scale.
fn distance(scale: Scale, a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (scaled(scale, a)?, scaled(scale, b)?);
    Some(mean(&b) - mean(&a))
}

fn scaled(scale: Scale, values: &[f64]) -> Option<Vec<f64>> {
    match scale {
        Scale::Ratio => values
            .iter()
            .map(|value| (*value > 0.0).then(|| value.ln()))
            .collect(),
        Scale::Difference => Some(values.to_vec()),
    }
}

fn noise(figure: Figure, a: &[RunResult], b: &[RunResult], confidence: f64) -> (Option<f64>, Method) {
    let scale = figure.scale();
    let band = if a.len() >= ENOUGH_RUNS && b.len() >= ENOUGH_RUNS {
        let sides = scaled(scale, &values(figure, a)).zip(scaled(scale, &values(figure, b)));
        (
            sides.and_then(|(a, b)| band_of_runs(&a, &b, confidence)),
            Method::Runs,
        )
    } else {
        let sides = parts(figure, a).zip(parts(figure, b));
        (
            sides.and_then(|(a, b)| band_of_seconds(&a, &b, scale, confidence, SEED)),
            Method::Seconds,
        )
    };
    if band.0.is_some() {
        band
    } else {
        (None, Method::Unknown)
    }
}

fn parts(figure: Figure, runs: &[RunResult]) -> Option<Vec<Vec<Part>>> {
    runs.iter().map(|run| figure.parts(run)).collect()
}

fn warnings(a: &[RunResult], b: &[RunResult]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(first) = a.first() else { return warnings };
    for run in a.iter().chain(b) {
        let differs = [
            (asked(&run.load) != asked(&first.load), "load"),
            (run.mix != first.mix, "mix of requests"),
            (run.machine != first.machine, "machine"),
            (run.target.protocol != first.target.protocol, "protocol"),
        ];
        for (_, what) in differs.iter().filter(|(differs, _)| *differs) {
            add(
                &mut warnings,
                format!("the runs differ in their {what}: the difference may be its doing"),
            );
        }
    }
    let behind: Vec<&RunResult> = a.iter().chain(b).filter(|run| run.tester.is_bottleneck).collect();
    if let Some(run) = behind.first() {
        let (count, all, why) = (behind.len(), a.len() + b.len(), &run.tester.why);
        add(
            &mut warnings,
            format!("in {count} of {all} runs the tester was the bottleneck: {why}"),
        );
    }
    if a.len() < ENOUGH_RUNS || b.len() < ENOUGH_RUNS {
        add(
            &mut warnings,
            format!(
                "fewer than {ENOUGH_RUNS} runs a side: what differs from run to run is not in the noise, and p99.9 and CPU \
                 are not judged"
            ),
        );
    }
    warnings
}

/// What of a load was asked for rather than came about; repeats may well have seeds of their own.
fn asked(load: &Load) -> Load {
    Load {
        connections: 0,
        warm_up_requests: 0,
        seed: 0,
        ..load.clone()
    }
}

fn add(warnings: &mut Vec<String>, warning: String) {
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

#[cfg(test)]
mod tests;
