//! What the gates say, from the evidence that the server gathered (rollout.md §6).

use std::time::Duration;

use serde::Serialize;

use crossfade_statistics::paired::Pairs;
use crossfade_statistics::{bootstrap, quality, trend};

use crate::RolloutError;
use crate::policy::{Golden, Performance, Quality, QualityMetric, Trend};

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// The candidate may go on.
    Passed,
    /// It may not.
    Failed,
    /// The rows are too few to tell; the candidate may go on.
    Inconclusive,
}

/// How far the outputs of one golden row are off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowDiff {
    /// Its position.
    pub row: usize,
    /// The largest |Δ|.
    pub max_abs: f64,
    /// The largest |Δ| / |expected|; infinite where zero was expected and something else came.
    pub max_rel: f64,
    /// Shape or datatype differ, or a NaN or an infinity is on one side only.
    pub mismatch: bool,
}

/// The golden gate's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoldenReport {
    /// What it says.
    pub outcome: GateOutcome,
    /// How many rows were compared.
    pub rows: usize,
    /// The row that is furthest off.
    pub worst: Option<RowDiff>,
}

/// Judges golden rows: each limit that is set holds for every row. Without rows nothing is shown, and it fails.
pub fn golden(limits: &Golden, rows: impl IntoIterator<Item = RowDiff>) -> GoldenReport {
    // NaN is within no limit.
    let above = |value: f64, limit: Option<f64>| limit.is_some_and(|limit| value.is_nan() || value > limit);
    let fails = |row: &RowDiff| {
        row.mismatch || above(row.max_abs, limits.max_abs_diff) || above(row.max_rel, limits.max_rel_diff)
    };
    let mut report = GoldenReport {
        outcome: GateOutcome::Passed,
        rows: 0,
        worst: None,
    };
    for row in rows {
        report.rows += 1;
        if fails(&row) {
            report.outcome = GateOutcome::Failed;
        }
        let order = |row: &RowDiff| (row.mismatch || row.max_abs.is_nan(), row.max_abs, row.max_rel);
        if report
            .worst
            .as_ref()
            .is_none_or(|worst| order(worst) < order(&row))
        {
            report.worst = Some(row);
        }
    }
    if report.rows == 0 {
        report.outcome = GateOutcome::Failed;
    }
    report
}

/// Labelled rows with both versions' answers.
#[derive(Debug, Clone, Copy)]
pub enum LabelledRows<'a> {
    /// Classes, for accuracy: labels, champion, candidate.
    Classes(&'a [u64], &'a [u64], &'a [u64]),
    /// Scores of a yes or no, for the area under the ROC curve.
    Scores(&'a [bool], &'a [f64], &'a [f64]),
    /// Numbers, for the root of the mean squared error.
    Values(&'a [f64], &'a [f64], &'a [f64]),
}

/// A drop of quality with its certainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QualityReport {
    /// What the gate says.
    pub outcome: GateOutcome,
    /// What was compared.
    pub metric: QualityMetric,
    /// The champion's value.
    pub champion: f64,
    /// The candidate's.
    pub candidate: f64,
    /// By how much the candidate is worse.
    pub drop: f64,
    /// The one-sided upper bound of the drop.
    pub upper: f64,
    /// The probability of such a drop between equal versions: exact McNemar, or bootstrap.
    pub p: f64,
}

/// Judges a sudden drop (G1): fails above `max_drop`; is inconclusive, or fails if the policy says so, where the upper
/// bound is above it.
///
/// Errors: `Statistics` for rows that do not match or are too few.
pub fn sudden_drop(limits: &Quality, rows: LabelledRows<'_>) -> Result<QualityReport, RolloutError> {
    let (metric, champion, candidate, upper, p) = match rows {
        LabelledRows::Classes(labels, old, new) => {
            let pairs = Pairs::count(labels, old, new)?;
            let values = (quality::accuracy(labels, old)?, quality::accuracy(labels, new)?);
            (
                QualityMetric::Accuracy,
                values.0,
                values.1,
                pairs.drop_upper(limits.alpha)?,
                pairs.mcnemar(),
            )
        }
        LabelledRows::Scores(labels, old, new) => {
            let drop = bootstrap::auc_drop(labels, old, new)?;
            let values = (quality::auc(labels, old)?, quality::auc(labels, new)?);
            (
                QualityMetric::Auc,
                values.0,
                values.1,
                drop.upper(limits.alpha)?,
                drop.p(),
            )
        }
        LabelledRows::Values(labels, old, new) => {
            let drop = bootstrap::rmse_drop(labels, old, new)?;
            let values = (quality::rmse(labels, old)?, quality::rmse(labels, new)?);
            (
                QualityMetric::Rmse,
                values.0,
                values.1,
                drop.upper(limits.alpha)?,
                drop.p(),
            )
        }
    };
    let drop = metric.drop(champion, candidate);
    let outcome = if drop > limits.max_drop || (upper > limits.max_drop && limits.inconclusive_fails) {
        GateOutcome::Failed
    } else if upper > limits.max_drop {
        GateOutcome::Inconclusive
    } else {
        GateOutcome::Passed
    };
    Ok(QualityReport {
        outcome,
        metric,
        champion,
        candidate,
        drop,
        upper,
        p,
    })
}

/// A trend over versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendReport {
    /// What the gate says.
    pub outcome: GateOutcome,
    /// The values that count, oldest first, the candidate's last.
    pub points: Vec<f64>,
    /// How far the candidate is below the best of them; above it for an error.
    pub below_best: f64,
    /// Their Theil–Sen slope per version, of a metric where more is better; `None` below five points.
    pub slope: Option<f64>,
}

/// The fewest points of a slope.
const FEWEST_POINTS: usize = 5;

/// Judges slow degradation (G2): the candidate must be near the best of the last versions, and the slope not too
/// steep. Below five points only the first is asked.
///
/// * `history`: the metric of earlier versions on the same rows, oldest first
///
/// Errors: `Statistics` for values that are not finite.
pub fn slow_degradation(
    limits: &Trend,
    metric: QualityMetric,
    history: &[f64],
    candidate: f64,
) -> Result<TrendReport, RolloutError> {
    let before = history.len().saturating_sub(limits.last.saturating_sub(1));
    let mut points: Vec<f64> = history.iter().skip(before).copied().collect();
    points.push(candidate);
    // Where less is better, so that more is.
    let goodness: Vec<f64> = points.iter().map(|&value| metric.drop(value, 0.0)).collect();
    let slope = match goodness.len() {
        1 => None,
        length => Some(trend::slope(&goodness)?).filter(|_| length >= FEWEST_POINTS),
    };
    let best = goodness.iter().copied().fold(f64::MIN, f64::max);
    let below_best = best - metric.drop(candidate, 0.0);
    let near = below_best <= limits.best_minus;
    let flat = slope.is_none_or(|slope| slope >= limits.min_slope);
    Ok(TrendReport {
        outcome: if near && flat {
            GateOutcome::Passed
        } else {
            GateOutcome::Failed
        },
        points,
        below_best,
        slope,
    })
}

/// What a closed local load measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// 99th percentile of the latency.
    pub p99: Duration,
    /// Resident memory beyond what was there before, bytes.
    pub rss_bytes: u64,
    /// Memory of the device likewise, bytes.
    pub vram_bytes: u64,
}

/// Judges latency and memory.
pub fn performance(limits: &Performance, measured: &Measured) -> GateOutcome {
    let above = limits.max_p99.is_some_and(|limit| measured.p99 > limit)
        || limits
            .max_rss_bytes
            .is_some_and(|limit| measured.rss_bytes > limit)
        || limits
            .max_vram_bytes
            .is_some_and(|limit| measured.vram_bytes > limit);
    if above {
        GateOutcome::Failed
    } else {
        GateOutcome::Passed
    }
}

#[cfg(test)]
mod tests;
