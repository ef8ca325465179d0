//! What a stage can see at a given traffic, before it begins (rollout.md §5.8).
//!
//! A stage that no error rate can fail is not safe, however long it is: the plan says so instead of a number.

use std::time::Duration;

use serde::Serialize;

use crossfade_statistics::{Share, power};

use crate::RolloutError;
use crate::policy::{Check, Margins, Metric, OnInconclusive, Policy, Step};

/// The probability with which an effect that is called visible is found.
const POWER: f64 = 0.8;

/// Traffic as it was observed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// Units of both arms per second: new keys where routing is sticky, requests where it is not.
    pub units_per_second: f64,
    /// The share of the champion's units with an error.
    pub error_rate: f64,
}

/// What one step can see.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepPlan {
    /// The step, from 0.
    pub step: usize,
    /// Of the requests.
    pub percent: f64,
    /// Units of the canary by `min`.
    pub canary_units_at_min: u64,
    /// Units of the canary by `max`.
    pub canary_units_at_max: u64,
    /// The smallest error rate of the candidate that is found by `min`, four times of five.
    pub visible_at_min: Option<f64>,
    /// The same by `max`.
    pub visible_at_max: Option<f64>,
    /// When a candidate as good as the champion has shown a low enough error rate, at this step's share alone.
    pub shown_after: Option<Duration>,
    /// What the step is worth.
    pub sight: Sight,
}

/// What a step is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// It sees some effect, and may pass.
    Sees,
    /// `min_units` are not there by `max`: it cannot pass by what it sees.
    TooFewUnits,
    /// Not even a candidate that always fails would be found: it is not safe.
    Blind,
}

impl StepPlan {
    /// Whether the step may be called safe.
    pub fn is_safe(&self) -> bool {
        self.sight == Sight::Sees
    }
}

/// Plans every step of a policy for the errors check; a policy without one has steps that see nothing.
///
/// Each step is planned by itself: evidence of earlier steps only adds to what it sees. With
/// `on_inconclusive = "promote"` a step that sees nothing would pass; the plan is where that shows.
///
/// Errors: `Statistics` for a rate that is no probability.
pub fn plan(policy: &Policy, observed: &Observed) -> Result<Vec<StepPlan>, RolloutError> {
    let errors = policy
        .checks
        .iter()
        .find(|check| check.metric == Metric::Errors && check.critical);
    let margins = errors.and_then(Check::margins);
    let steps = policy.steps.iter().enumerate();
    steps
        .map(|(index, step)| plan_step(policy, margins, index, step, observed))
        .collect()
}

fn plan_step(
    policy: &Policy,
    margins: Option<Margins>,
    index: usize,
    step: &Step,
    observed: &Observed,
) -> Result<StepPlan, RolloutError> {
    let share = Share::new(step.percent / 100.0)?;
    let canary_rate = observed.units_per_second * share.get();
    let visible = |time: Duration| {
        let Some(margins) = margins else { return Ok(None) };
        let stage = power::Plan {
            share,
            units: units(observed.units_per_second, time),
            control_rate: observed.error_rate,
            tolerance: margins.tolerance,
            alpha: policy.alpha_per_check(),
        };
        stage.smallest_rate(POWER)
    };
    let shown_after = match margins.and_then(|margins| margins.abs_ok) {
        Some(limit) => power::units_to_show(observed.error_rate, limit, policy.alpha_pass)?,
        None => None,
    };
    let visible_at_max = visible(step.max)?;
    let canary_units_at_max = units(canary_rate, step.max);
    Ok(StepPlan {
        step: index,
        percent: step.percent,
        canary_units_at_min: units(canary_rate, step.min),
        canary_units_at_max,
        visible_at_min: visible(step.min)?,
        visible_at_max,
        shown_after: shown_after.and_then(|units| time(units, canary_rate)),
        sight: match visible_at_max {
            None => Sight::Blind,
            Some(_) if canary_units_at_max < step.min_units => Sight::TooFewUnits,
            Some(_) => Sight::Sees,
        },
    })
}

/// The steps that may pass without anything having been seen; empty unless the policy promotes when it is
/// inconclusive.
pub fn unseen_passes<'a>(policy: &Policy, steps: &'a [StepPlan]) -> Vec<&'a StepPlan> {
    let promotes = policy.on_inconclusive == OnInconclusive::Promote;
    steps.iter().filter(|step| promotes && !step.is_safe()).collect()
}

/// How many units come in a time; as many as there are numbers, at most.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, and rounding down is meant"
)]
#[expect(clippy::cast_sign_loss, reason = "the cast saturates at zero, which is meant")]
fn units(per_second: f64, time: Duration) -> u64 {
    (per_second * time.as_secs_f64()) as u64
}

/// How long it takes until so many units have come; `None` if they never do.
fn time(units: u64, per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(units as f64 / per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Built, RawPolicy};

    fn policy(text: &str) -> Policy {
        let raw: RawPolicy = toml::from_str(text).expect("the test's text is a policy");
        Policy::new(raw, &Built::all()).expect("the test's policy is valid")
    }

    const LOW: &str = "risk = \"low\"\n";

    #[test]
    fn busy_model_sees_small_effects_sooner() {
        let at = |units_per_second| {
            let observed = Observed {
                units_per_second,
                error_rate: 0.001,
            };
            plan(&policy(LOW), &observed).expect("the rate is one")[0]
        };
        let (quiet, busy) = (at(1.0), at(1000.0));
        assert_eq!((quiet.canary_units_at_min, quiet.canary_units_at_max), (6, 180));
        assert!(
            busy.visible_at_max < quiet.visible_at_max && quiet.visible_at_max < Some(0.2),
            "{quiet:?}"
        );
        assert!(busy.visible_at_min < quiet.visible_at_min || quiet.visible_at_min.is_none());
        assert!(busy.is_safe() && quiet.is_safe());
        let faster = busy
            .shown_after
            .zip(quiet.shown_after)
            .map(|(busy, quiet)| quiet.as_secs_f64() / busy.as_secs_f64());
        assert!(
            faster.is_some_and(|ratio| (ratio - 1000.0).abs() < 1e-3),
            "{faster:?}"
        );
    }

    #[test]
    fn a_stage_that_sees_nothing_is_not_safe() {
        let check = |text: &str, units_per_second, sight| {
            let observed = Observed {
                units_per_second,
                error_rate: 0.001,
            };
            let policy = policy(text);
            let steps = plan(&policy, &observed).expect("the rate is one");
            assert_eq!(steps[0].sight, sight, "{:?}", steps[0]);
            unseen_passes(&policy, &steps).len()
        };
        assert_eq!(check(LOW, 0.01, Sight::Blind), 0, "it holds, rather than passing");
        assert_eq!(check(LOW, 0.5, Sight::TooFewUnits), 0);
        let promotes = format!("{LOW}[rollout]\non_inconclusive = \"promote\"");
        assert_eq!(check(&promotes, 0.01, Sight::Blind), 1);
        assert_eq!(check(&promotes, 100.0, Sight::Sees), 0);
        let unwatched = format!("{LOW}[[rollout.check]]\nmetric = \"errors\"\ncritical = false");
        check(&unwatched, 100.0, Sight::Blind);
    }

    #[test]
    fn what_is_never_shown_has_no_time() {
        let observed = Observed {
            units_per_second: 100.0,
            error_rate: 0.02,
        };
        let steps = plan(&policy(LOW), &observed).expect("the rate is one");
        assert_eq!(steps[0].shown_after, None, "two percent are more than `abs_ok`");
        let none = Observed {
            units_per_second: 0.0,
            error_rate: 0.001,
        };
        assert_eq!(
            plan(&policy(LOW), &none).expect("the rate is one")[0].shown_after,
            None
        );
        let wrong = Observed {
            error_rate: 2.0,
            ..observed
        };
        assert!(plan(&policy(LOW), &wrong).is_err());
    }
}
