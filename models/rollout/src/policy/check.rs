//! What is watched while a candidate has traffic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests that failed by the server's fault.
    Errors,
    /// Compute time of batches.
    Latency,
    /// Wrong answers, by labels that come later.
    Quality,
    /// Distribution of an output.
    Output,
    /// Decisions that differ from the champion's, in shadow.
    Flips,
}

impl Metric {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Errors => "errors",
            Metric::Latency => "latency",
            Metric::Quality => "quality",
            Metric::Output => "output",
            Metric::Flips => "flips",
        }
    }
}

/// Limits of a check by counts of events.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// So many times as many events are acceptable.
    pub tolerance: f64,
    /// It passes when fewer than so many times as many events are shown.
    pub margin: f64,
    /// It passes when the rate is shown to be at most this, whatever the control's.
    pub abs_ok: Option<f64>,
}

/// How a check decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "test")]
pub enum Method {
    /// Events of units, by the e-process (rollout.md §5.2).
    Events(Margins),
    /// Batches above a threshold that comes from earlier ones (rollout.md §5.4).
    Exceed {
        /// How many more of them are acceptable.
        #[serde(flatten)]
        margins: Margins,
        /// So much longer is no difference: it is added to what the live version takes.
        #[serde(with = "crate::duration")]
        slack: Duration,
    },
    /// Two histograms (rollout.md §5.5).
    Distribution {
        /// The output is a class: χ² and Cramér's V instead of Kolmogorov–Smirnov.
        classes: bool,
        /// A distance from which on it warns, if it is significant.
        warn_distance: f64,
        /// A stability index beyond which it fails; `None`: it only warns.
        max_psi: Option<f64>,
    },
    /// Bounds of a rate of pairs (rollout.md §3).
    Flips {
        /// The highest acceptable rate.
        max_flip_rate: f64,
    },
}

/// One thing that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What it looks at.
    pub metric: Metric,
    /// How it decides.
    #[serde(flatten)]
    pub method: Method,
    /// Its failure takes the release back; otherwise it warns.
    pub critical: bool,
}

impl Check {
    /// Whether it takes part of the release's budget of false rollbacks: limits on an effect do not.
    pub fn spends_alpha(&self) -> bool {
        self.critical && !matches!(self.method, Method::Distribution { .. })
    }

    /// What it accepts, where it counts events.
    pub fn margins(&self) -> Option<Margins> {
        match self.method {
            Method::Events(margins) | Method::Exceed { margins, .. } => Some(margins),
            Method::Distribution { .. } | Method::Flips { .. } => None,
        }
    }

    /// Whether it watches what the model says, rather than how it runs.
    pub fn watches_predictions(&self) -> bool {
        match self.metric {
            Metric::Errors | Metric::Latency => false,
            Metric::Quality | Metric::Output | Metric::Flips => true,
        }
    }
}
