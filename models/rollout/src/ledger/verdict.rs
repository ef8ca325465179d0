//! The decision at a look: fail, pass, hold or go on (rollout.md §5.8).

use std::time::Duration;

use serde::Serialize;

use crossfade_statistics::Counts;

use super::report::{CheckReport, Judge, Outcome};
use super::tally::{Exceed, Tally};
use super::trigger::ENOUGH_FOR_TAIL;
use super::{HardTrigger, Ledger, Stage};
use crate::RolloutError;
use crate::policy::{Method, Metric, OnInconclusive, Policy};
use crate::state::{Event, Reason};

/// How much slower the canary's quantiles may be (rollout.md §5.4). A median beyond it fails; a tail beyond it only does not
/// pass: with so few requests above it, it is as often as not beyond by chance, and whether it is is what the evidence says.
const GUARD_RATIO: f64 = 1.25;
/// Requests per arm before the guard judges.
const GUARD_REQUESTS: u64 = 1000;

/// Latencies of one arm since the stage began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantiles {
    /// How many requests they are of.
    pub requests: u64,
    /// Their median, seconds.
    pub p50: f64,
    /// Their 99th percentile, seconds.
    pub p99: f64,
}

/// Latencies of both arms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latency {
    /// The candidate's.
    pub canary: Quantiles,
    /// Those of the champion's baseline.
    pub control: Quantiles,
}

/// What the server knows at a look, besides what it counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look<'a> {
    /// Serving time since the last look.
    pub served: Duration,
    /// Compute times, where they were measured.
    pub latency: Latency,
    /// Hard triggers that fired since the last look.
    pub triggers: &'a [HardTrigger],
    /// Someone has acknowledged the warnings.
    pub acknowledged: bool,
}

/// Why a release is sent back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// At once.
    HardTrigger(HardTrigger),
    /// A critical check failed; its numbers are in the report.
    Check(Metric),
    /// The time is over, and the policy does not wait.
    Inconclusive,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The release is sent back.
    Fail(Cause),
    /// The stage is passed.
    Pass {
        /// Every critical check has shown it, rather than time having run out.
        shown: bool,
    },
    /// A person decides.
    Hold,
    /// It goes on.
    Continue,
}

/// A verdict with all it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What follows.
    pub verdict: Verdict,
    /// What was counted.
    pub stage: Stage,
    /// Serving time in the stage.
    #[serde(serialize_with = "crate::duration::serialize")]
    pub served: Duration,
    /// Units of the canary in the stage, or pairs.
    pub units: u64,
    /// Requests of both arms in the stage.
    pub requests: Counts,
    /// The checks that count in this stage.
    pub checks: Vec<CheckReport>,
}

impl Report {
    /// What happens to the release; nothing, if it just goes on.
    pub fn event(&self) -> Option<Event> {
        match &self.verdict {
            Verdict::Continue => None,
            Verdict::Hold => Some(Event::Held),
            Verdict::Pass { .. } if self.stage == Stage::Baking => Some(Event::Baked),
            Verdict::Pass { .. } => Some(Event::StagePassed),
            Verdict::Fail(cause) => Some(Event::Failed {
                reason: cause.reason(),
            }),
        }
    }
}

impl Cause {
    fn reason(&self) -> Reason {
        match self {
            Cause::HardTrigger(HardTrigger::CrashLoop) => Reason::CrashLoop,
            Cause::HardTrigger(_) => Reason::HardTrigger,
            Cause::Check(_) => Reason::Check,
            Cause::Inconclusive => Reason::Inconclusive,
        }
    }
}

impl Ledger {
    /// Looks: closes what came since the last look, and decides.
    ///
    /// Errors: `Statistics` for counts that contradict each other, `NoStep` for a policy that is not the ledger's.
    pub fn look(&mut self, policy: &Policy, look: &Look<'_>) -> Result<Report, RolloutError> {
        let served = u64::try_from(look.served.as_micros()).unwrap_or(u64::MAX);
        self.counts.served_us = self.counts.served_us.saturating_add(served);
        self.counts.since_resumed_us = self.counts.since_resumed_us.saturating_add(served);
        let trigger = self.triggered(policy, look);
        for (_, tally) in &mut self.checks {
            if let Tally::Exceed(exceed) = tally {
                exceed.close_look(self.sticky);
                exceed.guard(&look.latency, slack(policy));
            }
        }
        let checks = self.reports(policy)?;
        let verdict = match trigger {
            Some(trigger) => Verdict::Fail(Cause::HardTrigger(trigger)),
            None => self.decide(policy, look, &checks)?,
        };
        Ok(Report {
            verdict,
            stage: self.stage,
            // Whole milliseconds: people read it.
            served: Duration::from_millis(self.counts.served_us / 1000),
            units: self.counts.units,
            requests: self.counts.requests,
            checks,
        })
    }

    /// The first hard trigger that fires; all that is decided while a release is paused.
    pub fn triggered(&mut self, policy: &Policy, look: &Look<'_>) -> Option<HardTrigger> {
        let tail = look.latency.canary;
        let slow = |limit: Duration| tail.requests >= ENOUGH_FOR_TAIL && tail.p99 > limit.as_secs_f64();
        let failing = self.counts.recent.judge();
        look.triggers.first().copied().or_else(|| {
            if failing {
                return Some(HardTrigger::ErrorRate);
            }
            policy
                .hard_limit
                .is_some_and(slow)
                .then_some(HardTrigger::SlowTail)
        })
    }

    fn decide(
        &self,
        policy: &Policy,
        look: &Look<'_>,
        checks: &[CheckReport],
    ) -> Result<Verdict, RolloutError> {
        if let Some(failed) = checks.iter().find(|check| check.outcome == Outcome::Failed) {
            return Ok(Verdict::Fail(Cause::Check(failed.metric)));
        }
        let limits = self.limits(policy)?;
        let served = Duration::from_micros(self.counts.served_us);
        let critical = |metric| {
            policy
                .checks
                .iter()
                .any(|check| check.metric == metric && check.critical)
        };
        let mut blocking = checks.iter().filter(|check| match check.outcome {
            Outcome::Passed => false,
            Outcome::Warned => policy.strict && !look.acknowledged,
            Outcome::Failed | Outcome::Open => critical(check.metric),
        });
        if served >= limits.min && self.counts.units >= limits.min_units && blocking.next().is_none() {
            return Ok(Verdict::Pass { shown: true });
        }
        if limits
            .max
            .is_none_or(|max| Duration::from_micros(self.counts.since_resumed_us) < max)
        {
            return Ok(Verdict::Continue);
        }
        Ok(match policy.on_inconclusive {
            OnInconclusive::Hold => Verdict::Hold,
            OnInconclusive::Promote => Verdict::Pass { shown: false },
            OnInconclusive::Rollback => Verdict::Fail(Cause::Inconclusive),
        })
    }

    fn limits(&self, policy: &Policy) -> Result<Limits, RolloutError> {
        let step = |step: usize| {
            policy.steps.get(step).ok_or(RolloutError::NoStep {
                step,
                steps: policy.steps.len(),
            })
        };
        Ok(match (self.stage, &policy.shadow) {
            (Stage::Shadow, Some(shadow)) => Limits {
                min: shadow.min,
                max: Some(shadow.max),
                min_units: shadow.min_units,
            },
            (Stage::Canary { step: index }, _) => Limits {
                min: step(index)?.min,
                max: Some(step(index)?.max),
                min_units: step(index)?.min_units,
            },
            (Stage::Baking | Stage::Shadow, _) => Limits {
                min: policy.bake,
                max: None,
                min_units: 0,
            },
        })
    }

    /// What the checks of this stage say.
    fn reports(&self, policy: &Policy) -> Result<Vec<CheckReport>, RolloutError> {
        let judge = Judge {
            policy,
            stage: self.stage,
            sticky: self.sticky,
            exposed: self.exposed,
        };
        let pairs = policy.checks.iter().zip(&self.checks);
        let counted = pairs.filter(|(check, _)| judge.counts(check.metric));
        counted
            .map(|(check, (_, tally))| judge.report(check, tally))
            .collect()
    }
}

/// What is no difference in latency.
pub(super) fn slack(policy: &Policy) -> Duration {
    let mut methods = policy.checks.iter().map(|check| check.method);
    let found = methods.find_map(|method| match method {
        Method::Exceed { slack, .. } => Some(slack),
        _ => None,
    });
    found.unwrap_or_default()
}

/// When a stage may end, and when it must.
struct Limits {
    min: Duration,
    max: Option<Duration>,
    min_units: u64,
}

impl Exceed {
    /// Notes which quantiles of the canary are too far above the control's.
    fn guard(&mut self, latency: &Latency, slack: Duration) {
        let Latency { canary, control } = latency;
        let enough = canary.requests.min(control.requests) >= GUARD_REQUESTS;
        let slow = |canary: f64, control: f64| enough && canary > GUARD_RATIO * control + slack.as_secs_f64();
        self.guard_looks = match slow(canary.p50, control.p50) {
            true => self.guard_looks.saturating_add(1),
            false => 0,
        };
        self.tail_is_slow = slow(canary.p99, control.p99);
    }
}
