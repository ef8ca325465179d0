//! What a stage of a release can see: the smallest effect, and the units it takes.

use crate::normal::quantile;
use crate::{Counts, Share, StatisticsError, log_e, rate};

/// A stage as planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Of the canary.
    pub share: Share,
    /// Units of both arms together.
    pub units: u64,
    /// The probability of an event per unit of the control.
    pub control_rate: f64,
    /// The ratio of rates that is acceptable.
    pub tolerance: f64,
    /// The level at which the check fails.
    pub alpha: f64,
}

impl Plan {
    /// The smallest event rate of the canary that the stage finds with this probability; `None` if it would not even
    /// find a canary in which every unit has an event.
    ///
    /// The evidence is taken at the end of the stage, at the least favourable counts within `z` standard deviations,
    /// along the gradient of the likelihood ratio (first-order reliability: Hasofer & Lind 1974). Crossing earlier is
    /// left out, so the rate is up to a fifth too high; the tests compare it with simulations.
    ///
    /// Errors: `Range` for an α, a power or a rate that is no probability.
    pub fn smallest_rate(&self, power: f64) -> Result<Option<f64>, StatisticsError> {
        StatisticsError::check_level("level of a check", self.alpha)?;
        StatisticsError::check_level("power of a stage", power)?;
        check_rate(self.control_rate)?;
        let z = quantile(power);
        let seen = |canary_rate: f64| self.evidence(canary_rate, z) >= -self.alpha.ln();
        if !seen(1.0) {
            return Ok(None);
        }
        let (mut low, mut high) = (self.control_rate, 1.0);
        for _ in 0..50 {
            let middle = 0.5 * (low + high);
            if seen(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(Some(high))
    }

    /// ln E at the end of the stage, `z` standard deviations to the bad.
    fn evidence(&self, canary_rate: f64, z: f64) -> f64 {
        let units = self.units as f64;
        let w = self.share.at_ratio(self.tolerance);
        let canary = units * self.share.get() * canary_rate;
        let control = units * self.share.other().get() * self.control_rate;
        let part = canary / (canary + control);
        if part.is_nan() || part <= w.get() {
            return 0.0;
        }
        let canary_step = (part / w.get()).ln();
        // Where the control has no events at all, none can be missing.
        let control_step = if control > 0.0 {
            ((1.0 - part) / w.other().get()).ln()
        } else {
            0.0
        };
        let canary_variance = canary * (1.0 - canary_rate);
        let control_variance = control * (1.0 - self.control_rate);
        let sd = (canary_step.powi(2) * canary_variance + control_step.powi(2) * control_variance).sqrt();
        let shift = if sd > 0.0 { z / sd } else { 0.0 };
        let counts = Counts {
            canary: whole((canary - shift * canary_step * canary_variance).floor()),
            control: whole((control - shift * control_step * control_variance).ceil()),
        };
        log_e(counts, w)
    }
}

/// The fewest units after which the anytime upper bound of a rate is at most `limit`, when events come exactly at
/// `rate`; `None` if no number of units below 10¹² is enough.
///
/// Errors: `Range` for an α, a rate or a limit that is no probability.
pub fn units_to_show(rate: f64, limit: f64, alpha: f64) -> Result<Option<u64>, StatisticsError> {
    StatisticsError::check_level("limit of a rate", limit)?;
    check_rate(rate)?;
    let shown = |units: u64| {
        let events = whole((rate * units as f64).ceil()).min(units);
        rate::upper(events, units, alpha).map(|bound| bound <= limit)
    };
    let (mut low, mut high) = (0, 1_000_000_000_000);
    if !shown(high)? {
        return Ok(None);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if shown(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Some(high))
}

fn check_rate(rate: f64) -> Result<(), StatisticsError> {
    if (0.0..=1.0).contains(&rate) {
        return Ok(());
    }
    Err(StatisticsError::Range {
        what: "event rate",
        expected: "0 to 1",
        got: rate,
    })
}

/// A count from a number that is one already; below zero it is none.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, and callers round"
)]
#[expect(clippy::cast_sign_loss, reason = "the cast saturates at zero, which is meant")]
fn whole(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(w: f64, units: u64, control_rate: f64) -> Plan {
        Plan {
            share: Share::new(w).expect("the test's shares are shares"),
            units,
            control_rate,
            tolerance: 1.0,
            alpha: 0.01,
        }
    }

    /// rollout.md §5.9: the shares found there belong to about these rates.
    #[test]
    fn rates_found_in_simulations() {
        let check = |w, units, control, power, expected: f64| {
            let got = plan(w, units, control)
                .smallest_rate(power)
                .expect("in order")
                .expect("it sees something");
            assert!(
                (0.95..1.2).contains(&(got / expected)),
                "{w}, {units}, {control}: {got}, not {expected}"
            );
        };
        check(0.05, 60_000, 0.01, 0.80, 0.02);
        check(0.05, 60_000, 0.001, 0.87, 0.005);
        check(0.05, 100_000, 0.01, 0.30, 0.015);
    }

    #[test]
    fn more_units_see_less() {
        let rate = |units| plan(0.05, units, 0.01).smallest_rate(0.8).expect("in order");
        assert_eq!(rate(10), None);
        let seen: Vec<f64> = [1_000, 10_000, 100_000, 1_000_000]
            .iter()
            .filter_map(|&units| rate(units))
            .collect();
        assert_eq!(seen.len(), 4);
        assert!(seen.windows(2).all(|pair| pair[1] < pair[0]), "{seen:?}");
        assert!(seen.iter().all(|rate| *rate > 0.01));
        let spotless = plan(0.05, 10_000, 0.0).smallest_rate(0.8).expect("in order");
        assert!(spotless.is_some_and(|rate| rate < 0.02), "{spotless:?}");
        assert!(
            plan(0.05, 100, 2.0).smallest_rate(0.8).is_err()
                && plan(0.05, 100, 0.1).smallest_rate(1.0).is_err()
        );
    }

    /// rollout.md §3: 984 pairs without a flip; `rate` has a word on the second.
    #[test]
    fn units_it_takes() {
        assert_eq!(units_to_show(0.0, 0.01, 0.05), Ok(Some(984)));
        assert_eq!(units_to_show(0.0, 0.001, 0.05), Ok(Some(12_417)));
        assert_eq!(units_to_show(0.01, 0.01, 0.05), Ok(None));
        let some = units_to_show(0.001, 0.005, 0.05)
            .expect("in order")
            .expect("it can be shown");
        assert!(some > 984, "{some}");
        assert!(units_to_show(0.0, 0.0, 0.05).is_err() && units_to_show(-0.1, 0.5, 0.05).is_err());
    }
}
