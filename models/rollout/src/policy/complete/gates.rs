//! The gates of a policy.

use std::path::PathBuf;
use std::time::Duration;

use super::super::gates::{Gates, Golden, Performance, Quality, QualityMetric, Trend};
use super::super::preset::{self, Preset};
use super::super::raw::{RawGates, RawGolden, RawPerformance, RawQuality, RawTrend};
use super::{at_least, level};
use crate::PolicyError;
use crate::duration::RawDuration;

/// The fewest points of a trend (rollout.md §6).
const FEWEST_POINTS: usize = 5;

pub(super) fn complete(raw: RawGates, preset: &Preset) -> Result<Gates, PolicyError> {
    let said =
        |enabled: Option<bool>, anything: bool, by_default: bool| enabled.unwrap_or(anything || by_default);
    let quality = said(
        raw.quality.enabled,
        raw.quality != RawQuality::default(),
        preset.quality,
    );
    let trend = said(raw.trend.enabled, raw.trend != RawTrend::default(), preset.trend);
    let performance = said(
        raw.performance.enabled,
        raw.performance != RawPerformance::default(),
        preset.performance,
    );
    let gates = Gates {
        signature: raw.signature.unwrap_or(preset.signature),
        golden: if raw.golden.enabled.unwrap_or(true) {
            Some(golden(raw.golden)?)
        } else {
            None
        },
        quality: if quality {
            Some(self::quality(raw.quality, preset)?)
        } else {
            None
        },
        trend: if trend {
            Some(self::trend(&raw.trend)?)
        } else {
            None
        },
        slices: raw.slices.unwrap_or(preset.slices),
        performance: if performance {
            Some(self::performance(&raw.performance)?)
        } else {
            None
        },
    };
    if gates.trend.is_some() && gates.quality.is_none() {
        let problem = "it looks at the metric of `gates.quality`, which is not set";
        return Err(PolicyError::invalid("gates.trend", problem));
    }
    Ok(gates)
}

fn golden(raw: RawGolden) -> Result<Golden, PolicyError> {
    // Without any limit 1e-4 holds, the value of the design's example.
    let unlimited = raw.max_abs_diff.is_none() && raw.max_rel_diff.is_none();
    let max_abs_diff = if unlimited { Some(1e-4) } else { raw.max_abs_diff };
    let limit = |key: &str, value: Option<f64>| value.map(|value| at_least(key, 0.0, value)).transpose();
    Ok(Golden {
        file: raw.file.unwrap_or_else(|| PathBuf::from("golden")),
        max_abs_diff: limit("gates.golden.max_abs_diff", max_abs_diff)?,
        max_rel_diff: limit("gates.golden.max_rel_diff", raw.max_rel_diff)?,
        interval: raw.interval.map(interval).transpose()?,
    })
}

fn interval(RawDuration(interval): RawDuration) -> Result<Duration, PolicyError> {
    if interval.is_zero() {
        let problem = "expected more than 0; leave it out for never";
        return Err(PolicyError::invalid("gates.golden.interval", problem));
    }
    Ok(interval)
}

fn quality(raw: RawQuality, preset: &Preset) -> Result<Quality, PolicyError> {
    let data = raw.data.ok_or_else(|| {
        PolicyError::invalid(
            "gates.quality.data",
            "expected the file of labelled rows; set `gates.quality.enabled = false` to do without",
        )
    })?;
    Ok(Quality {
        data,
        output: raw.output,
        metric: raw.metric.unwrap_or(QualityMetric::Accuracy),
        max_drop: at_least("gates.quality.max_drop", 0.0, raw.max_drop.unwrap_or(0.005))?,
        alpha: level("gates.quality.alpha", raw.alpha.unwrap_or(preset::ALPHA_PASS))?,
        inconclusive_fails: preset.inconclusive_fails,
    })
}

/// Where the file is silent, the values of the design's example.
fn trend(raw: &RawTrend) -> Result<Trend, PolicyError> {
    let last = raw.last.unwrap_or(10);
    if last < FEWEST_POINTS {
        let problem = format!("expected at least {FEWEST_POINTS}, got {last}");
        return Err(PolicyError::invalid("gates.trend.last", problem));
    }
    let min_slope = raw.min_slope.unwrap_or(-0.0005);
    if !min_slope.is_finite() {
        return Err(PolicyError::invalid("gates.trend.min_slope", "expected a number"));
    }
    Ok(Trend {
        last,
        best_minus: at_least("gates.trend.best_minus", 0.0, raw.best_minus.unwrap_or(0.01))?,
        min_slope,
    })
}

fn performance(raw: &RawPerformance) -> Result<Performance, PolicyError> {
    let limits = Performance {
        max_p99: raw.max_p99.map(|RawDuration(p99)| p99),
        max_rss_bytes: raw.max_rss_bytes,
        max_vram_bytes: raw.max_vram_bytes,
    };
    if limits.max_p99.is_none() && limits.max_rss_bytes.is_none() && limits.max_vram_bytes.is_none() {
        return Err(PolicyError::invalid(
            "gates.performance",
            "expected `max_p99`, `max_rss_bytes` or `max_vram_bytes`; set `enabled = false` to do without",
        ));
    }
    Ok(limits)
}
