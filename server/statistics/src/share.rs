//! The share of traffic that goes to the canary.

use serde::{Deserialize, Serialize};

use crate::StatisticsError;

/// A probability that is neither 0 nor 1: both arms get some of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

impl Share {
    /// The share `probability`.
    ///
    /// Errors: `Range` unless it is more than 0 and less than 1.
    pub fn new(probability: f64) -> Result<Self, StatisticsError> {
        StatisticsError::check_level("share of the canary", probability)?;
        Ok(Share(probability))
    }

    /// As much as the other arm.
    pub const HALF: Share = Share(0.5);

    /// The share as a number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// What is left: the share of the other arm.
    #[must_use]
    pub fn other(self) -> Self {
        // Shares below half an ulp of one would leave exactly one.
        Share((1.0 - self.0).clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON / 2.0))
    }

    /// The share of all events that the canary has when an event is `ratio` times as likely in it as in the control:
    /// `w·r / (w·r + 1 − w)` (rollout.md §5.2). A ratio that is not positive and finite leaves the share as it is.
    #[must_use]
    pub fn at_ratio(self, ratio: f64) -> Self {
        if !(ratio > 0.0 && ratio.is_finite()) {
            return self;
        }
        let canary = self.0 * ratio;
        Share((canary / (canary + 1.0 - self.0)).clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON / 2.0))
    }
}

impl TryFrom<f64> for Share {
    type Error = StatisticsError;

    fn try_from(probability: f64) -> Result<Self, Self::Error> {
        Share::new(probability)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> f64 {
        share.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_arms_get_some() {
        for wrong in [0.0, 1.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Share::new(wrong).is_err(), "{wrong}");
        }
        let share = Share::new(0.05).expect("a share");
        assert_eq!(share.get(), 0.05);
        assert_eq!(share.other().get(), 0.95);
        assert_eq!(
            Share::new(1e-300).expect("a share").other().get(),
            1.0 - f64::EPSILON / 2.0
        );
    }

    #[test]
    fn ratio_moves_the_share_of_events() {
        let share = Share::new(0.05).expect("a share");
        assert_eq!(share.at_ratio(1.0), share);
        assert!((share.at_ratio(2.0).get() - 0.1 / 1.05).abs() < 1e-16);
        assert!(share.at_ratio(1e300).get() < 1.0);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(share.at_ratio(wrong), share, "{wrong}");
        }
    }
}
