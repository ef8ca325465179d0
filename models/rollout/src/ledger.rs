//! What was counted in a release, and what follows from it at every look (rollout.md §5).
//!
//! Units are what chance divides: routing keys where routing is sticky, requests where it is not. A key counts once
//! per check and release. The ledger is plain data: written down at a look and read back, it goes on as before.

use serde::{Deserialize, Serialize};

use crossfade_statistics::{Arm, Counts, SeenKeys, Share};

use crate::RolloutError;
use crate::policy::{Metric, Policy};

mod tally;
mod trigger;

mod report;
mod verdict;

pub use report::{CheckReport, Outcome};
use tally::Tally;
pub use trigger::HardTrigger;
use trigger::Recent;
pub use verdict::{Cause, Latency, Look, Quantiles, Report, Verdict};

/// What kind of traffic is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage", deny_unknown_fields)]
pub enum Stage {
    /// Pairs: each request runs on both versions.
    Shadow,
    /// Requests of two arms.
    Canary {
        /// The step of the policy.
        step: usize,
    },
    /// The candidate alone.
    Baking,
}

/// A pair of answers to one request, from shadow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair {
    /// The candidate gave no answer by its own fault.
    pub candidate_failed: bool,
    /// The champion gave none.
    pub champion_failed: bool,
    /// Both answered and decided differently.
    pub flipped: bool,
}

/// What was counted in the current stage, besides the checks' own counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageCounts {
    /// Serving time, microseconds.
    served_us: u64,
    /// Serving time since the stage began or was resumed, microseconds.
    since_resumed_us: u64,
    /// Units of the canary, or pairs.
    units: u64,
    /// Keys of the canary in this stage, where routing is sticky.
    keys: SeenKeys,
    requests: Counts,
    recent: Recent,
}

/// The counts of one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    stage: Stage,
    sticky: bool,
    counts: StageCounts,
    /// Units of the canary over all steps.
    exposed: u64,
    /// Their keys, where routing is sticky.
    exposed_keys: SeenKeys,
    checks: Vec<(Metric, Tally)>,
}

impl Ledger {
    /// Nothing has been counted; the first stage is shadow where there is one.
    ///
    /// Errors: `Statistics` for limits that no policy which was validated has.
    pub fn new(policy: &Policy) -> Result<Self, RolloutError> {
        let stage = if policy.shadow.is_some() {
            Stage::Shadow
        } else {
            Stage::Canary { step: 0 }
        };
        let share = share(policy, stage)?;
        let checks = policy
            .checks
            .iter()
            .map(|check| Ok((check.metric, Tally::new(&check.method, share)?)));
        Ok(Ledger {
            stage,
            sticky: !policy.route_key.is_empty(),
            counts: StageCounts::default(),
            exposed: 0,
            exposed_keys: SeenKeys::new(),
            checks: checks.collect::<Result<_, RolloutError>>()?,
        })
    }

    /// Whether a ledger that was read back belongs to this policy.
    ///
    /// Errors: `Snapshot` if its checks are others, or its step does not exist.
    pub fn check_policy(&self, policy: &Policy) -> Result<(), RolloutError> {
        let metrics = |metrics: &mut dyn Iterator<Item = Metric>| {
            metrics.map(Metric::name).collect::<Vec<_>>().join(", ")
        };
        let expected = metrics(&mut policy.checks.iter().map(|check| check.metric));
        let got = metrics(&mut self.checks.iter().map(|(metric, _)| *metric));
        let differ = |what, expected, got| Err(RolloutError::Snapshot { what, expected, got });
        if expected != got {
            return differ("checks", expected, got);
        }
        if let Stage::Canary { step } = self.stage
            && step >= policy.steps.len()
        {
            return differ(
                "step",
                format!("less than {}", policy.steps.len()),
                step.to_string(),
            );
        }
        if self.sticky == policy.route_key.is_empty() {
            let name = |sticky| if sticky { "sticky" } else { "by request" };
            return differ(
                "routing",
                name(!self.sticky).to_owned(),
                name(self.sticky).to_owned(),
            );
        }
        Ok(())
    }

    /// What is being counted.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Goes on with another stage: its counters start again, seen keys and evidence stay.
    ///
    /// Errors: `NoStep` for a step that the policy does not have.
    pub fn enter(&mut self, policy: &Policy, stage: Stage) -> Result<(), RolloutError> {
        let share = share(policy, stage)?;
        for (_, tally) in &mut self.checks {
            tally.advance(share);
        }
        self.stage = stage;
        self.counts = StageCounts::default();
        Ok(())
    }

    /// A pause is over: the stage has its `max` time again.
    pub fn resume(&mut self) {
        self.counts.since_resumed_us = 0;
    }

    /// Counts a request that chance gave to `arm`.
    ///
    /// * `unit`: hash of its routing key, or of its id where it has none
    /// * `failed`: it failed by the server's fault; a client's mistake is no failure
    pub fn request(&mut self, arm: Arm, unit: u64, failed: bool) {
        if arm == Arm::Canary {
            self.counts.recent.add(failed);
        }
        self.compared(arm, unit, failed);
    }

    /// Counts a request that failed by nobody knows whose fault: an event that is compared with those of the other arm, and
    /// that the hard trigger on the rate of errors, which compares nothing, leaves out.
    pub fn doubtful(&mut self, arm: Arm, unit: u64) {
        self.compared(arm, unit, true);
    }

    fn compared(&mut self, arm: Arm, unit: u64, failed: bool) {
        self.counts.requests.add(arm, 1);
        // Nothing is compared any more, and every key there is would be remembered.
        if self.stage == Stage::Baking {
            return;
        }
        if arm == Arm::Canary {
            if self.is_new(unit, |ledger| &mut ledger.counts.keys) {
                self.counts.units += 1;
            }
            if self.is_new(unit, |ledger| &mut ledger.exposed_keys) {
                self.exposed += 1;
            }
        }
        if failed {
            self.event(Metric::Errors, arm, unit);
        }
    }

    /// Counts an event of a check by events: an error, or a wrong answer.
    pub fn event(&mut self, metric: Metric, arm: Arm, unit: u64) {
        let sticky = self.sticky;
        if let Some(tally) = self.tally(metric) {
            tally.event(arm, unit, sticky);
        }
    }

    /// Counts a pair from shadow; of a key, the first pair.
    pub fn pair(&mut self, unit: u64, pair: Pair) {
        self.counts.recent.add(pair.candidate_failed);
        if !self.is_new(unit, |ledger| &mut ledger.counts.keys) {
            return;
        }
        self.counts.units += 1;
        let failed = match (pair.candidate_failed, pair.champion_failed) {
            (true, false) => Some(Arm::Canary),
            (false, true) => Some(Arm::Control),
            _ => None,
        };
        if let Some(arm) = failed {
            self.event(Metric::Errors, arm, unit);
        }
        if let Some(tally) = self.tally(Metric::Flips) {
            tally.pair(pair.flipped);
        }
    }

    /// The latency above which a batch counts, seconds, once there is one in this stage.
    pub fn threshold(&self) -> Option<f64> {
        self.checks.iter().find_map(|(_, tally)| tally.threshold())
    }

    /// Sets the latency threshold of the batches that are counted from here on: the policy's slack more than `p99`, the 99th
    /// percentile of batches of the champion's that were counted before, seconds.
    pub fn set_threshold(&mut self, policy: &Policy, p99: f64) {
        let threshold = p99 + verdict::slack(policy).as_secs_f64();
        if let Some(tally) = self.tally(Metric::Latency) {
            tally.set_threshold(threshold);
        }
    }

    /// Counts a batch whose requests chance gave to `arm`; nothing before there is a threshold.
    ///
    /// * `slow`: units of its requests above the threshold
    pub fn batch(&mut self, arm: Arm, slow: &[u64]) {
        let sticky = self.sticky;
        if let Some(tally) = self.tally(Metric::Latency) {
            tally.batch(arm, slow, sticky);
        }
    }

    /// Compares the outputs of a window, which must not overlap with another: cells of both arms.
    ///
    /// Errors: `Statistics` if the cells do not match.
    pub fn outputs(&mut self, control: &[u64], canary: &[u64]) -> Result<(), RolloutError> {
        match self.tally(Metric::Output) {
            Some(tally) => tally.window(control, canary),
            None => Ok(()),
        }
    }

    /// Whether a unit is new to a set; every request is where each is routed by itself.
    fn is_new(&mut self, unit: u64, keys: impl Fn(&mut Self) -> &mut SeenKeys) -> bool {
        !self.sticky || keys(self).insert(unit)
    }

    fn tally(&mut self, metric: Metric) -> Option<&mut Tally> {
        let found = self.checks.iter_mut().find(|(other, _)| *other == metric);
        found.map(|(_, tally)| tally)
    }
}

/// The candidate's share of a stage: of the requests, or of the failures of pairs.
fn share(policy: &Policy, stage: Stage) -> Result<Share, RolloutError> {
    let share = match stage {
        // Nothing is compared while baking; the share is not used.
        Stage::Shadow | Stage::Baking => 0.5,
        Stage::Canary { step } => {
            let missing = RolloutError::NoStep {
                step,
                steps: policy.steps.len(),
            };
            policy.steps.get(step).ok_or(missing)?.percent / 100.0
        }
    };
    Ok(Share::new(share)?)
}

#[cfg(test)]
mod tests;
