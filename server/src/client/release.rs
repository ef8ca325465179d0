//! A release as a server shows it. What a newer server adds is passed over.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A release.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Release {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) version: u64,
    /// The version that it was begun beside.
    pub(super) champion: u64,
    /// The version that is live now.
    #[serde(default)]
    pub(super) live: Option<u64>,
    pub(super) state: State,
    /// Of the requests, to the new version.
    #[serde(default)]
    pub(super) percent: f64,
    #[serde(default)]
    pub(super) why: Option<String>,
    #[serde(default)]
    pub(super) actor: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) created: u64,
    #[serde(default)]
    pub(super) lost_counts: u64,
    /// Why the live version has no baseline, so that latencies are not compared.
    #[serde(default)]
    pub(super) baseline_failure: Option<String>,
    /// The last look.
    #[serde(default)]
    pub(super) report: Option<Report>,
    #[serde(default)]
    pub(super) rules: Option<Rules>,
    /// Where someone has to agree.
    #[serde(default)]
    pub(super) approval: Option<Agreement>,
}

/// Who has to agree, and to what.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Agreement {
    /// What is agreed to, once it is known.
    #[serde(default)]
    pub(super) subject: Option<crossfade_journal::approval::Subject>,
    #[serde(default)]
    pub(super) quorum: u64,
    /// Whose approval counts.
    #[serde(default)]
    pub(super) counted: Vec<String>,
    /// How many are missing, while it waits.
    #[serde(default)]
    pub(super) missing: Option<u64>,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct State {
    #[serde(rename = "state")]
    pub(super) name: String,
    /// From 0.
    #[serde(default)]
    pub(super) step: Option<usize>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

/// What was seen at a look.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Report {
    /// Serving time in the step.
    #[serde(deserialize_with = "duration")]
    pub(super) served: Duration,
    /// Of the new version, in the step.
    pub(super) units: u64,
    pub(super) requests: Arms,
    #[serde(default)]
    pub(super) checks: Vec<Check>,
}

/// Counts of both versions.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Arms {
    pub(super) canary: u64,
    pub(super) control: u64,
}

/// What a check says.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Check {
    pub(super) metric: String,
    pub(super) outcome: String,
    pub(super) events: Arms,
    pub(super) units: u64,
    #[serde(default)]
    pub(super) log_e: Option<f64>,
    #[serde(default)]
    pub(super) fails_at: Option<f64>,
    #[serde(default)]
    pub(super) upper: Option<f64>,
    #[serde(default)]
    pub(super) psi: Option<f64>,
    #[serde(default)]
    pub(super) distance: Option<f64>,
}

/// What the release has to show.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Rules {
    pub(super) steps: Vec<Step>,
    #[serde(default)]
    pub(super) bake_s: f64,
    #[serde(default)]
    pub(super) checks: Vec<Limit>,
}

/// A step.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Step {
    pub(super) min_s: f64,
    pub(super) max_s: f64,
    pub(super) min_units: u64,
}

/// When a check is good enough.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limit {
    pub(super) metric: String,
    #[serde(default)]
    pub(super) critical: bool,
    /// A rate that needs no comparison.
    #[serde(default)]
    pub(super) abs_ok: Option<f64>,
}

impl Release {
    /// Whether it still holds its model's place.
    pub(super) fn is_active(&self) -> bool {
        !matches!(
            self.state.name.as_str(),
            "registered" | "live" | "warm" | "cold" | "archived" | "failed" | "rolled_back"
        )
    }

    /// Whether it took the place of the version before.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state.name.as_str(), "live" | "warm" | "cold" | "archived")
    }

    /// The version that is live instead, if this one was.
    pub(super) fn replaced_by(&self) -> Option<u64> {
        self.live.filter(|live| self.is_live() && *live != self.version)
    }

    /// Whether it is on its way back, or there.
    pub(super) fn is_sent_back(&self) -> bool {
        matches!(
            self.state.name.as_str(),
            "failed" | "rolling_back" | "rolled_back"
        )
    }

    /// The rules of the step that it stands in.
    pub(super) fn step(&self) -> Option<&Step> {
        self.rules.as_ref()?.steps.get(self.state.step?)
    }
}

/// A duration as the server writes it, with its unit.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    crossfade_rollout::duration::parse(&text).map_err(serde::de::Error::custom)
}
