//! What the owner of a model wants of its releases: parsed, completed from the risk's preset, validated once.
//!
//! `raw` is what the file says, `preset` what the tier adds, `complete` makes the policy of both. After that
//! nothing is checked again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::state::{Approvable, Path};

mod built;
mod check;
mod complete;
mod gates;
mod preset;
mod raw;

pub use built::{Built, Element};
pub use check::{Check, Margins, Method, Metric};
pub use gates::{Decision, DecisionKind, Gates, Golden, Performance, Quality, QualityMetric, Trend, Trust};
pub use raw::{RawPolicy, RawRollout};

/// How much a bad release would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// A small canary is enough.
    Low,
    /// Shadow, three steps, one approval.
    Medium,
    /// Everything there is.
    High,
}

/// What a new version leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNewVersion {
    /// It serves everyone once it is loaded; there is no release.
    Immediate,
    /// It is released.
    Canary,
    /// It waits for someone to deploy it.
    Hold,
}

/// What happens when a stage's time is over and neither is shown, good or bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInconclusive {
    /// A person decides.
    Hold,
    /// The stage counts as passed.
    Promote,
    /// The release is taken back.
    Rollback,
}

/// What a number that is NaN or infinite in an answer of the candidate means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InvalidOutput {
    /// The candidate goes back at once, unless the request had such a number itself.
    #[default]
    Fail,
    /// Nothing: the model says such things.
    Allow,
}

/// What makes a request's routing key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// A header or a gRPC metadata entry, lower case.
    Header(String),
    /// The first value of an input.
    Input(String),
}

/// A share of the traffic and how long it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Of the requests, more than 0 and less than 100.
    pub percent: f64,
    /// The least serving time.
    #[serde(with = "duration")]
    pub min: Duration,
    /// The serving time after which `on_inconclusive` holds.
    #[serde(with = "duration")]
    pub max: Duration,
    /// The fewest units of the canary.
    pub min_units: u64,
}

/// Copies of requests, before the first real one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Of the requests, more than 0 and at most 100.
    pub percent: f64,
    /// The least serving time.
    #[serde(with = "duration")]
    pub min: Duration,
    /// The serving time after which `on_inconclusive` holds.
    #[serde(with = "duration")]
    pub max: Duration,
    /// The fewest pairs.
    pub min_units: u64,
    /// For regression: outputs further apart than this are a flip.
    pub tolerance: Option<f64>,
}

/// Who has to agree, and to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The states that wait for it.
    pub before: BTreeSet<Approvable>,
    /// How many approvals are needed.
    pub quorum: u32,
    /// The author's does not count.
    pub not_author: bool,
    /// An approver must be in a group, and share none with the author.
    pub independent: bool,
    /// Only members of these groups count; empty: everyone.
    pub groups: BTreeSet<String>,
    /// After this the release fails; `None`: never.
    #[serde(with = "duration::option")]
    pub timeout: Option<Duration>,
}

/// One of the two versions that have traffic during a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The live version.
    Stable,
    /// The version that is being released.
    Candidate,
}

/// Sends requests with a header to one side while both have traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Match {
    /// The header's or metadata's name, lower case.
    pub header: String,
    /// The value that matches; `None`: any.
    pub value: Option<String>,
    /// Which version answers.
    pub to: Side,
}

/// The rules of a model's releases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The tier, if one was named.
    pub risk: Option<Risk>,
    /// What a new version leads to.
    pub on_new_version: OnNewVersion,
    /// Where routing keys come from, the first that a request has; empty: every request by itself.
    pub route_key: Vec<KeySource>,
    /// Whose requests go to one side without being drawn, tried in order; they are not counted.
    #[serde(rename = "match", default)]
    pub matches: Vec<Match>,
    /// The probability of a false rollback per release.
    pub alpha: f64,
    /// The probability that something is falsely shown to be good enough.
    pub alpha_pass: f64,
    /// How many earlier versions stay loaded.
    pub keep_warm: usize,
    /// How long the previous version stays beside the new one.
    #[serde(with = "duration")]
    pub bake: Duration,
    /// What happens when a stage shows nothing.
    pub on_inconclusive: OnInconclusive,
    /// What answers with numbers that are none lead to; what releases that began before there was a choice do.
    #[serde(default)]
    pub invalid_output: InvalidOutput,
    /// Warnings must be acknowledged before a stage passes.
    pub strict: bool,
    /// A 99th percentile above this is a hard trigger.
    #[serde(with = "duration::option")]
    pub hard_limit: Option<Duration>,
    /// Requests of the control before there is a latency threshold.
    pub warmup: u64,
    /// The shadow stage, if there is one.
    pub shadow: Option<Shadow>,
    /// The canary's steps, of growing share.
    pub steps: Vec<Step>,
    /// What is watched.
    pub checks: Vec<Check>,
    /// Who has to agree.
    pub approval: Approval,
    /// What is asked before any traffic.
    pub gates: Gates,
    /// What turns outputs into decisions, if anything does.
    pub decision: Option<Decision>,
}

impl Policy {
    /// Completes what a file says from the preset of its tier, and validates it.
    ///
    /// Errors: the first key that is wrong, missing, or asks for an element that `built` does not have.
    pub fn new(raw: RawPolicy, built: &Built) -> Result<Self, crate::PolicyError> {
        complete::complete(raw, built)
    }

    /// Whether new versions are released at all, rather than put in at once.
    pub fn is_active(&self) -> bool {
        self.on_new_version != OnNewVersion::Immediate
    }

    /// Whether outputs are compared as classes, rather than as numbers in order.
    pub fn compares_classes(&self) -> bool {
        let classes = |check: &Check| matches!(check.method, Method::Distribution { classes: true, .. });
        self.checks.iter().any(classes)
    }

    /// The level of each critical statistical check: the budget in equal parts (rollout.md §5.2).
    pub fn alpha_per_check(&self) -> f64 {
        let checks = self.checks.iter().filter(|check| check.spends_alpha()).count();
        self.alpha / checks.max(1) as f64
    }

    /// The way through the states.
    ///
    /// * `champion`: whether a version is live
    pub fn path(&self, champion: bool) -> Path {
        Path {
            champion,
            shadow: self.shadow.is_some(),
            steps: self.steps.len(),
            approvals: self.approval.before.clone(),
            bake: champion && !self.bake.is_zero(),
        }
    }
}

#[cfg(test)]
mod tests;
