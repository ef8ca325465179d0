//! What each step of a model's releases can see, at the traffic that the model has (rollout.md §5.8).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crossfade_rollout::Policy;
use crossfade_rollout::plan::{self, Observed};
use crossfade_rollout::policy::OnInconclusive;
use serde_json::{Value, json};

/// Of the requests, where nobody has counted: the design's tables begin there (rollout.md §5.9).
const USUAL_ERRORS: f64 = 0.001;
/// How far back requests are counted, in pieces of this length.
const PIECE: Duration = Duration::from_secs(15);
const PIECES: usize = 40;

/// Traffic of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Traffic {
    observed: Observed,
    /// Over how long; `None`: someone gave it.
    over: Option<Duration>,
}

impl Traffic {
    /// As someone says it is.
    pub(crate) fn given(rate: f64) -> Self {
        Self {
            observed: Observed {
                units_per_second: rate,
                error_rate: USUAL_ERRORS,
            },
            over: None,
        }
    }
}

/// The plan of a model's releases.
///
/// Errors: a rate that is none.
pub(crate) fn plan(model: &str, policy: &Policy, traffic: &Traffic) -> Result<Value, String> {
    let observed = &traffic.observed;
    if !observed.units_per_second.is_finite() || observed.units_per_second < 0.0 {
        return Err(format!("{} is no rate", observed.units_per_second));
    }
    let steps = plan::plan(policy, observed).map_err(|error| error.to_string())?;
    let promotes = policy.on_inconclusive == OnInconclusive::Promote;
    let steps = steps.iter().zip(&policy.steps).map(|(plan, step)| {
        json!({
            "percent": plan.percent,
            "min_s": step.min.as_secs_f64(),
            "max_s": step.max.as_secs_f64(),
            "min_units": step.min_units,
            "canary_units_at_min": plan.canary_units_at_min,
            "canary_units_at_max": plan.canary_units_at_max,
            "visible_at_min": plan.visible_at_min,
            "visible_at_max": plan.visible_at_max,
            "shown_after_s": plan.shown_after.map(|after| after.as_secs_f64()),
            "sight": plan.sight,
            "passes_unseen": promotes && !plan.is_safe(),
        })
    });
    Ok(json!({
        "model": model,
        "rate": observed.units_per_second,
        "error_rate": observed.error_rate,
        "observed_s": traffic.over.map(|over| over.as_secs_f64()),
        "sticky": !policy.route_key.is_empty(),
        "bake_s": policy.bake.as_secs_f64(),
        "steps": steps.collect::<Vec<_>>(),
    }))
}

/// What a release has to show, for those who watch it.
pub(super) fn rules(policy: &Policy) -> Value {
    let steps = policy.steps.iter().map(|step| {
        json!({
            "percent": step.percent,
            "min_s": step.min.as_secs_f64(),
            "max_s": step.max.as_secs_f64(),
            "min_units": step.min_units,
        })
    });
    let checks = policy.checks.iter().map(|check| {
        let abs_ok = check.margins().and_then(|margins| margins.abs_ok);
        json!({ "metric": check.metric.name(), "critical": check.critical, "abs_ok": abs_ok })
    });
    json!({
        "steps": steps.collect::<Vec<_>>(),
        "checks": checks.collect::<Vec<_>>(),
        "bake_s": policy.bake.as_secs_f64(),
    })
}

/// Requests of one version since it was first loaded, and those of them that failed by the server's fault.
pub(super) type Counters = BTreeMap<u64, (u64, u64)>;

/// The requests of a model in the last minutes.
#[derive(Debug, Default)]
pub(super) struct Traced {
    before: Option<Counters>,
    /// Time, requests, failures; the oldest first.
    pieces: VecDeque<(Duration, u64, u64)>,
}

impl Traced {
    /// A look, `served` after the one before.
    pub(super) fn look(&mut self, served: Duration, now: Counters) {
        let Some(before) = self.before.replace(now.clone()) else {
            return;
        };
        let new = |(version, (requests, failures)): (&u64, &(u64, u64))| {
            let (requests_before, failures_before) = before.get(version).copied().unwrap_or_default();
            (
                requests.saturating_sub(requests_before),
                failures.saturating_sub(failures_before),
            )
        };
        let (requests, failures) = now
            .iter()
            .map(new)
            .fold((0, 0), |sum, new| (sum.0 + new.0, sum.1 + new.1));
        match self.pieces.back_mut().filter(|piece| piece.0 < PIECE) {
            Some(piece) => *piece = (piece.0 + served, piece.1 + requests, piece.2 + failures),
            None => self.pieces.push_back((served, requests, failures)),
        }
        if self.pieces.len() > PIECES {
            self.pieces.pop_front();
        }
    }

    /// The traffic; `None` before anything was seen.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        let sum = |sum: (Duration, u64, u64), piece: &(Duration, u64, u64)| {
            (sum.0 + piece.0, sum.1 + piece.1, sum.2 + piece.2)
        };
        let (over, requests, failures) = self.pieces.iter().fold((Duration::ZERO, 0, 0), sum);
        if over.is_zero() || requests == 0 {
            return None;
        }
        Some(Traffic {
            observed: Observed {
                units_per_second: requests as f64 / over.as_secs_f64(),
                // Half an event more: none that was seen does not mean that there are none.
                error_rate: (failures as f64 + 0.5) / (requests as f64 + 1.0),
            },
            over: Some(over),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_what_came_between_looks() {
        let mut traced = Traced::default();
        assert_eq!(traced.traffic(), None);
        // What was counted before the first look is of another time.
        traced.look(Duration::from_secs(1), Counters::from([(1, (5_000, 40))]));
        assert_eq!(traced.traffic(), None);
        traced.look(Duration::from_secs(1), Counters::from([(1, (5_010, 40))]));
        traced.look(
            Duration::from_secs(3),
            Counters::from([(1, (5_030, 41)), (2, (10, 0))]),
        );
        // A version that is unloaded is missed, and does not count backwards.
        traced.look(Duration::from_secs(1), Counters::from([(2, (20, 1))]));
        let traffic = traced.traffic().unwrap();
        assert_eq!(traffic.over, Some(Duration::from_secs(5)));
        assert_eq!(traffic.observed.units_per_second, 10.0);
        assert!((traffic.observed.error_rate - 2.5 / 51.0).abs() < 1e-12);
    }

    #[test]
    fn old_traffic_is_forgotten() {
        let mut traced = Traced::default();
        for look in 0..10_000 {
            traced.look(Duration::from_secs(1), Counters::from([(1, (look, 0))]));
        }
        assert_eq!(traced.pieces.len(), PIECES);
        let traffic = traced.traffic().unwrap();
        assert!((traffic.observed.units_per_second - 1.0).abs() < 1e-9);
    }
}
