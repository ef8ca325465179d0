//! What is asked of a candidate before any traffic (rollout.md §6).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;

/// The gates besides loading, which every version passes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// What must be known of the artifact's origin.
    pub signature: Trust,
    /// Golden rows.
    pub golden: Option<Golden>,
    /// A sudden drop of quality (G1).
    pub quality: Option<Quality>,
    /// Slow degradation (G2).
    pub trend: Option<Trend>,
    /// G1 for every slice.
    pub slices: bool,
    /// Latency and memory.
    pub performance: Option<Performance>,
}

/// What must be known of the artifact's origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Its digest is written down.
    #[default]
    Recorded,
    /// Its digest is the one that the configuration names.
    Pinned,
    /// It is signed.
    Required,
}

/// Outputs that must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// The rows, relative to the model's directory; a directory of JSON pairs or a Parquet file.
    pub file: PathBuf,
    /// The largest acceptable |Δ|.
    pub max_abs_diff: Option<f64>,
    /// The largest acceptable |Δ| relative to the expected value.
    pub max_rel_diff: Option<f64>,
    /// How often the live version is tried again; `None`: never.
    #[serde(with = "duration::option")]
    pub interval: Option<Duration>,
}

/// A metric of labelled rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityMetric {
    /// The share of right answers; more is better.
    Accuracy,
    /// The area under the ROC curve; more is better.
    Auc,
    /// Root of the mean squared error; less is better.
    Rmse,
}

impl QualityMetric {
    /// By how much `candidate` is worse than `champion`; negative when it is better.
    pub fn drop(self, champion: f64, candidate: f64) -> f64 {
        match self {
            QualityMetric::Accuracy | QualityMetric::Auc => champion - candidate,
            QualityMetric::Rmse => candidate - champion,
        }
    }
}

/// Against the champion, on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The labelled rows, relative to the model's directory.
    pub data: PathBuf,
    /// The output that holds predictions; `None`: the decision's, or the only one.
    pub output: Option<String>,
    /// What is compared.
    pub metric: QualityMetric,
    /// The largest acceptable drop, in the metric's unit.
    pub max_drop: f64,
    /// Level of the drop's upper bound.
    pub alpha: f64,
    /// A bound above `max_drop` fails, rather than being reported.
    pub inconclusive_fails: bool,
}

/// Against the versions before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// How many versions count, the candidate included.
    pub last: usize,
    /// How far below the best of them it may be.
    pub best_minus: f64,
    /// The least acceptable slope per version, of a metric where more is better.
    pub min_slope: f64,
}

/// Limits on a closed local load; at least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// 99th percentile of the latency.
    #[serde(with = "duration::option")]
    pub max_p99: Option<Duration>,
    /// Resident memory of the process beyond what it had before, bytes.
    pub max_rss_bytes: Option<u64>,
    /// Memory of the device likewise, bytes.
    pub max_vram_bytes: Option<u64>,
}

/// What turns an output into a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The output.
    pub output: String,
    /// How it becomes a decision.
    pub kind: DecisionKind,
    /// Names of the classes, in order; empty: their numbers.
    pub labels: Vec<String>,
}

/// How an output becomes a decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecisionKind {
    /// The position of the largest value.
    Argmax,
    /// Whether the value is at least this.
    Threshold(f64),
    /// There is none: the output is a number.
    None,
}
