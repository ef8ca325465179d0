//! What a file says of releases: the tables `[rollout]`, `[gates]` and `[decision]`, and the key `risk`.
//!
//! Every key may be absent; what is left out comes from the preset.

use std::path::PathBuf;

use serde::Deserialize;

use super::check::Metric;
use super::gates::{QualityMetric, Trust};
use super::{InvalidOutput, OnInconclusive, OnNewVersion, Risk, Side};
use crate::duration::RawDuration;
use crate::state::Approvable;

/// All that a model's configuration says of its releases.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicy {
    /// The tier.
    pub risk: Option<Risk>,
    /// The path and what is watched on it.
    pub rollout: RawRollout,
    /// What is asked before.
    pub(super) gates: RawGates,
    /// What turns outputs into decisions.
    pub(super) decision: Option<RawDecision>,
}

/// The table `[rollout]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRollout {
    /// What a new version leads to.
    pub on_new_version: Option<OnNewVersion>,
    pub(super) route_key: Vec<String>,
    pub(super) alpha: Option<f64>,
    pub(super) alpha_pass: Option<f64>,
    pub(super) keep_warm: Option<usize>,
    pub(super) bake: Option<RawDuration>,
    pub(super) on_inconclusive: Option<OnInconclusive>,
    pub(super) invalid_output: Option<InvalidOutput>,
    pub(super) strict: Option<bool>,
    pub(super) hard_limit_ms: Option<u64>,
    pub(super) warmup: Option<u64>,
    pub(super) shadow: Option<RawShadow>,
    /// Replaces the preset's steps.
    pub(super) step: Option<Vec<RawStep>>,
    /// Changes the preset's checks of the same metric, or adds to them.
    pub(super) check: Vec<RawCheck>,
    pub(super) approval: RawApproval,
    /// Tried in order.
    #[serde(rename = "match")]
    pub(super) matches: Vec<RawMatch>,
}

/// A table `[[rollout.match]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMatch {
    pub(super) header: String,
    pub(super) value: Option<String>,
    pub(super) to: Side,
}

/// The table `[rollout.shadow]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawShadow {
    pub(super) enabled: Option<bool>,
    pub(super) percent: Option<f64>,
    pub(super) min: Option<RawDuration>,
    pub(super) max: Option<RawDuration>,
    pub(super) min_units: Option<u64>,
    pub(super) max_flip_rate: Option<f64>,
    pub(super) tol: Option<f64>,
}

/// A table `[[rollout.step]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    pub(super) percent: f64,
    pub(super) min: RawDuration,
    pub(super) max: Option<RawDuration>,
    pub(super) min_units: Option<u64>,
}

/// A table `[[rollout.check]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    pub(super) metric: Metric,
    pub(super) test: Option<RawTest>,
    pub(super) enabled: Option<bool>,
    pub(super) critical: Option<bool>,
    pub(super) tolerance: Option<f64>,
    pub(super) margin: Option<f64>,
    pub(super) abs_ok: Option<f64>,
    pub(super) slack: Option<RawDuration>,
    pub(super) warn_distance: Option<f64>,
    pub(super) max_psi: Option<f64>,
    pub(super) max_flip_rate: Option<f64>,
}

/// The name of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawTest {
    Events,
    Exceed,
    Ks,
    Chi2,
    Bounds,
}

/// The table `[rollout.approval]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApproval {
    pub(super) before: Option<Vec<Approvable>>,
    pub(super) quorum: Option<u32>,
    pub(super) groups: Vec<String>,
    pub(super) not_author: Option<bool>,
    pub(super) independent: Option<bool>,
    pub(super) timeout: Option<RawDuration>,
}

/// The table `[gates]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGates {
    pub(super) signature: Option<Trust>,
    pub(super) golden: RawGolden,
    pub(super) quality: RawQuality,
    pub(super) trend: RawTrend,
    pub(super) slices: Option<bool>,
    pub(super) performance: RawPerformance,
}

/// The table `[gates.golden]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGolden {
    pub(super) enabled: Option<bool>,
    pub(super) file: Option<PathBuf>,
    pub(super) max_abs_diff: Option<f64>,
    pub(super) max_rel_diff: Option<f64>,
    pub(super) interval: Option<RawDuration>,
}

/// The table `[gates.quality]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQuality {
    pub(super) enabled: Option<bool>,
    pub(super) data: Option<PathBuf>,
    pub(super) output: Option<String>,
    pub(super) metric: Option<QualityMetric>,
    pub(super) max_drop: Option<f64>,
    pub(super) alpha: Option<f64>,
}

/// The table `[gates.trend]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrend {
    pub(super) enabled: Option<bool>,
    pub(super) last: Option<usize>,
    pub(super) best_minus: Option<f64>,
    pub(super) min_slope: Option<f64>,
}

/// The table `[gates.performance]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPerformance {
    pub(super) enabled: Option<bool>,
    pub(super) max_p99: Option<RawDuration>,
    pub(super) max_rss_bytes: Option<u64>,
    pub(super) max_vram_bytes: Option<u64>,
}

/// The table `[decision]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDecision {
    pub(super) output: String,
    pub(super) kind: RawKind,
    #[serde(default)]
    pub(super) labels: Vec<String>,
    pub(super) threshold: Option<f64>,
}

/// How an output becomes a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawKind {
    Argmax,
    Threshold,
    None,
}
