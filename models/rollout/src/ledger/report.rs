//! What each check says at a look, with the numbers behind it.

use serde::Serialize;

use crossfade_statistics::{Counts, rate};

use super::Stage;
use super::tally::{Distribution, Flips, Tally};
use crate::RolloutError;
use crate::policy::{Check, Margins, Method, Metric, Policy};

/// Consecutive looks beyond the guard before it fails (rollout.md §5.4).
const GUARD_LOOKS: u32 = 2;
/// Outputs per arm before a distribution is judged (monitoring.md §4).
const ENOUGH_OUTPUTS: u64 = 500;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is shown to be bad.
    Failed,
    /// It is shown to be good enough, or nothing more is asked.
    Passed,
    /// Neither yet.
    Open,
    /// It would have failed, or is conspicuous, and is not critical.
    Warned,
}

/// A check with the numbers behind what it says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// What it looks at.
    pub metric: Metric,
    /// What it says.
    pub outcome: Outcome,
    /// Events of each arm over the release; flips are the canary's.
    pub events: Counts,
    /// Units of the canary that the bound is of.
    pub units: u64,
    /// ln E that the canary is worse.
    pub log_e: Option<f64>,
    /// It fails from here on.
    pub fails_at: Option<f64>,
    /// ln E that the canary is not worse.
    pub log_e_pass: Option<f64>,
    /// It passes from here on.
    pub passes_at: Option<f64>,
    /// Anytime upper bound of the canary's rate.
    pub upper: Option<f64>,
    /// Effect of a distribution: stability index.
    pub psi: Option<f64>,
    /// Effect of a distribution: D or V.
    pub distance: Option<f64>,
}

/// What checks are judged by.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) policy: &'a Policy,
    pub(super) stage: Stage,
    pub(super) sticky: bool,
    /// Units of the canary over all steps.
    pub(super) exposed: u64,
}

impl Judge<'_> {
    /// Whether a check has a say in this stage.
    pub(super) fn counts(self, metric: Metric) -> bool {
        match self.stage {
            Stage::Shadow => matches!(metric, Metric::Errors | Metric::Flips),
            Stage::Canary { .. } => metric != Metric::Flips,
            Stage::Baking => false,
        }
    }

    /// What one check says.
    pub(super) fn report(self, check: &Check, tally: &Tally) -> Result<CheckReport, RolloutError> {
        let mut report = CheckReport::empty(check.metric);
        match (tally, check.method) {
            (Tally::Events(events), Method::Events(margins)) => {
                report.events = events.evidence.total();
                report.units = self.exposed;
                self.evidence(&mut report, events.evidence.worse(), events.evidence.not_worse());
                self.bound(&mut report, &margins)?;
            }
            (Tally::Exceed(exceed), Method::Exceed { margins, .. }) => {
                report.events = exceed.events;
                // Of keys, those of batches that were not measured do not count: there are no more than batches that were.
                report.units = match self.sticky {
                    true => self.exposed.min(exceed.batches.canary),
                    false => exceed.batches.canary,
                };
                self.evidence(&mut report, exceed.evidence.worse(), exceed.evidence.not_worse());
                self.bound(&mut report, &margins)?;
                if exceed.guard_looks >= GUARD_LOOKS {
                    report.outcome = Outcome::Failed;
                }
                // Nothing was measured in this stage yet, or the tail looks worse than what was shown of it.
                let open = !exceed.has_threshold() || exceed.tail_is_slow;
                if open && report.outcome == Outcome::Passed {
                    report.outcome = Outcome::Open;
                }
            }
            (
                Tally::Distribution(seen),
                Method::Distribution {
                    warn_distance,
                    max_psi,
                    ..
                },
            ) => {
                self.distribution(&mut report, seen, warn_distance, max_psi)?;
            }
            (Tally::Flips(seen), Method::Flips { max_flip_rate }) => {
                self.flips(&mut report, *seen, max_flip_rate)?;
            }
            // `check_policy` refuses a ledger whose checks are others.
            _ => {}
        }
        report.outcome = self.weigh(check, report.outcome);
        Ok(report)
    }

    /// Fails by evidence that the canary is worse, passes by evidence that it is not.
    fn evidence(self, report: &mut CheckReport, worse: f64, not_worse: f64) {
        let fails_at = -self.policy.alpha_per_check().ln();
        let passes_at = -self.policy.alpha_pass.ln();
        report.log_e = Some(worse);
        report.fails_at = Some(fails_at);
        report.log_e_pass = Some(not_worse);
        report.passes_at = Some(passes_at);
        if worse >= fails_at {
            report.outcome = Outcome::Failed;
        } else if not_worse >= passes_at {
            report.outcome = Outcome::Passed;
        }
    }

    /// Passes, too, by a rate that is shown to be low enough (rollout.md §5.6).
    fn bound(self, report: &mut CheckReport, margins: &Margins) -> Result<(), RolloutError> {
        // A key seen in shadow only, or slow in several batches, may make more events than units.
        let events = report.events.canary.min(report.units);
        let upper = rate::upper(events, report.units, self.policy.alpha_pass)?;
        report.upper = Some(upper);
        if report.outcome == Outcome::Open && margins.abs_ok.is_some_and(|limit| upper <= limit) {
            report.outcome = Outcome::Passed;
        }
        Ok(())
    }

    /// Only a distance that is found can fail, so that without one the check passes.
    fn distribution(
        self,
        report: &mut CheckReport,
        seen: &Distribution,
        warn_distance: f64,
        max_psi: Option<f64>,
    ) -> Result<(), RolloutError> {
        report.outcome = Outcome::Passed;
        let Some(last) = seen.compare()? else {
            return Ok(());
        };
        report.units = last.outputs.canary;
        report.psi = Some(last.psi);
        report.distance = Some(last.distance);
        if last.outputs.canary.min(last.outputs.control) < ENOUGH_OUTPUTS {
            return Ok(());
        }
        if max_psi.is_some_and(|max| last.psi > max) {
            report.outcome = Outcome::Failed;
        } else if last.distance >= warn_distance && last.p < self.policy.alpha {
            report.outcome = Outcome::Warned;
        }
        Ok(())
    }

    /// Fails by the lower bound of the rate, passes by the upper one (rollout.md §3).
    fn flips(self, report: &mut CheckReport, seen: Flips, max_flip_rate: f64) -> Result<(), RolloutError> {
        let upper = rate::upper(seen.flips, seen.pairs, self.policy.alpha_pass)?;
        let lower = rate::lower(seen.flips, seen.pairs, self.policy.alpha_per_check())?;
        report.events.canary = seen.flips;
        report.units = seen.pairs;
        report.upper = Some(upper);
        if lower > max_flip_rate {
            report.outcome = Outcome::Failed;
        } else if upper < max_flip_rate {
            report.outcome = Outcome::Passed;
        }
        Ok(())
    }

    /// What an outcome means in this stage and for this check.
    fn weigh(self, check: &Check, outcome: Outcome) -> Outcome {
        match outcome {
            // In shadow few requests fail on one side only, so that nothing is ever shown; failing is all it can do.
            Outcome::Open if self.stage == Stage::Shadow && check.metric == Metric::Errors => Outcome::Passed,
            Outcome::Failed if !check.critical => Outcome::Warned,
            outcome => outcome,
        }
    }
}

impl CheckReport {
    fn empty(metric: Metric) -> Self {
        CheckReport {
            metric,
            outcome: Outcome::Open,
            events: Counts::default(),
            units: 0,
            log_e: None,
            fails_at: None,
            log_e_pass: None,
            passes_at: None,
            upper: None,
            psi: None,
            distance: None,
        }
    }
}
