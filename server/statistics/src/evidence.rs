//! Evidence that the canary is worse, from the arms in which events fell.
//!
//! If the canary is not worse, each event falls in it with probability at most its share `w`. The likelihood ratio
//! against that, mixed uniformly over the probabilities above `w`, is a supermartingale that starts at one: it ever
//! reaches 1/α with probability at most α, whatever the traffic and the looks (Ville 1939; rollout.md §5.2).

use serde::{Deserialize, Serialize};

use crate::beta::beta_fraction;
use crate::gamma::{HALF_LN_TAU, stirling_remainder};
use crate::{Share, StatisticsError};

/// Which side of a release an event fell on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// The version being released.
    Canary,
    /// The version that serves.
    Control,
}

/// How many of something there were in each arm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// In the canary.
    pub canary: u64,
    /// In the control.
    pub control: u64,
}

impl Counts {
    /// Adds `count` to one arm.
    pub fn add(&mut self, arm: Arm, count: u64) {
        let side = match arm {
            Arm::Canary => &mut self.canary,
            Arm::Control => &mut self.control,
        };
        *side = side.saturating_add(count);
    }

    /// The counts with the arms exchanged.
    #[must_use]
    pub fn swapped(self) -> Self {
        Counts {
            canary: self.control,
            control: self.canary,
        }
    }
}

/// The evidence that more than the share `w` of all events falls in the canary: ln E (rollout.md §5.2, §5.3).
///
/// Always finite. Where the continued fraction does not converge, which counts below 10⁹ never saw, the value is the
/// most negative number: as good as no evidence.
///
/// The textbook form loses everything when the canary is much better, because the incomplete integral underflows;
/// there the fraction is taken from the other side, where the powers cancel on paper. In the other branch the
/// powers are paired with the beta function, so that large counts do not cancel either.
pub fn log_e(events: Counts, w: Share) -> f64 {
    if events == Counts::default() {
        return 0.0;
    }
    let (k1, k0, w) = (events.canary as f64, events.control as f64, w.get());
    let (a, b) = (k1 + 1.0, k0 + 1.0);
    let n = a + b;
    if 1.0 - w < (b + 1.0) / (n + 2.0) {
        return finite(beta_fraction(b, a, 1.0 - w).map(|fraction| w.ln() - b.ln() + fraction.ln()));
    }
    // ln B(a, b) − b ln(1 − w) − k1 ln w
    let whole = stirling_remainder(a) + stirling_remainder(b) - stirling_remainder(n) + HALF_LN_TAU
        - 0.5 * b.ln()
        + 0.5 * (a / n).ln()
        + k1 * (a / n / w).ln()
        + b * (b / n / (1.0 - w)).ln();
    let below = |fraction: f64| (w.ln() - a.ln() - whole).exp() * fraction;
    finite(beta_fraction(a, b, w).map(|fraction| whole + (-below(fraction)).ln_1p()))
}

/// What is not a number is no evidence.
fn finite(value: Option<f64>) -> f64 {
    value.filter(|value| value.is_finite()).unwrap_or(f64::MIN)
}

/// The evidence of one check over the stages of a release.
///
/// Within a stage the share is constant and two counters are enough. A stage is closed when the share changes: its
/// evidence is added up, the counters start again. Both directions are kept: that the canary is worse than allowed,
/// and that it is less than `margin` times as bad. What is written down are counts, so a restart loses not a bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Events of the canary up to so many times as likely as the control's are acceptable.
    tolerance: f64,
    /// What the canary is shown to stay below, as a ratio.
    margin: f64,
    stage: Stage,
    closed: Vec<Stage>,
}

/// Events under one share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    share: Share,
    events: Counts,
}

impl Evidence {
    /// Nothing has been seen.
    ///
    /// * `share`: of the canary
    /// * `tolerance`: the ratio of event rates up to which the canary counts as not worse, at least 1
    /// * `margin`: the ratio that it must be shown to stay below in order to pass, at least `tolerance`
    ///
    /// Errors: `Range` for a ratio that is too small or not finite.
    pub fn new(share: Share, tolerance: f64, margin: f64) -> Result<Self, StatisticsError> {
        check_ratios(tolerance, margin)?;
        Ok(Evidence {
            tolerance,
            margin,
            stage: Stage {
                share,
                events: Counts::default(),
            },
            closed: Vec::new(),
        })
    }

    /// Counts an event of a unit that has had none in this check before.
    pub fn record(&mut self, arm: Arm) {
        self.stage.events.add(arm, 1);
    }

    /// Counts several.
    pub fn record_counts(&mut self, events: Counts) {
        self.stage.events.add(Arm::Canary, events.canary);
        self.stage.events.add(Arm::Control, events.control);
    }

    /// Closes the stage and goes on with another share; the same share goes on with the same stage.
    pub fn advance(&mut self, share: Share) {
        if share == self.stage.share {
            return;
        }
        if self.stage.events != Counts::default() {
            self.closed.push(self.stage);
        }
        self.stage = Stage {
            share,
            events: Counts::default(),
        };
    }

    /// Events of the current stage.
    pub fn events(&self) -> Counts {
        self.stage.events
    }

    /// Events of all stages.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for stage in self.stages() {
            total.add(Arm::Canary, stage.events.canary);
            total.add(Arm::Control, stage.events.control);
        }
        total
    }

    /// ln E that the canary is worse than tolerated, over all stages; fails at ln(1/α).
    pub fn worse(&self) -> f64 {
        sum(self
            .stages()
            .map(|stage| log_e(stage.events, stage.share.at_ratio(self.tolerance))))
    }

    /// ln E that the canary's rate is below `margin` times the control's, over all stages; shown at ln(1/α): the same
    /// test with the arms exchanged (rollout.md §5.6).
    pub fn not_worse(&self) -> f64 {
        let stage = |stage: &Stage| log_e(stage.events.swapped(), stage.share.at_ratio(self.margin).other());
        sum(self.stages().map(stage))
    }

    fn stages(&self) -> impl Iterator<Item = &Stage> {
        self.closed.iter().chain([&self.stage])
    }
}

/// A sum of finite logarithms that stays finite.
fn sum(stages: impl Iterator<Item = f64>) -> f64 {
    stages.fold(0.0, |sum, stage| (sum + stage).clamp(f64::MIN, f64::MAX))
}

/// Checks a tolerance and a margin.
pub(crate) fn check_ratios(tolerance: f64, margin: f64) -> Result<(), StatisticsError> {
    for (what, expected, got, least) in [
        ("tolerance", "a finite number of at least 1", tolerance, 1.0),
        (
            "margin",
            "a finite number of at least the tolerance",
            margin,
            tolerance,
        ),
    ] {
        if !(got >= least && got.is_finite()) {
            return Err(StatisticsError::Range { what, expected, got });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
