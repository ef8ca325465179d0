//! Which requests are recorded, where not all are: by a draw from the request's id, the same on every replica and for a replay.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossfade_rollout::routing::{Portion, Purpose, Salt};

/// The least share of the rate that is left under pressure: 2⁻¹⁰.
const MOST_HALVINGS: u32 = 10;

/// The share of requests that is recorded.
#[derive(Debug)]
pub(super) struct Sampling {
    rate: f64,
    /// How often the rate is halved, because much is not sealed yet.
    halvings: AtomicU32,
}

impl Sampling {
    /// Records a share of `rate`, from 0 to 1.
    pub(super) fn new(rate: f64) -> Self {
        Self {
            rate,
            halvings: AtomicU32::new(0),
        }
    }

    /// The probability with which a request is recorded now.
    pub(super) fn probability(&self) -> f64 {
        self.rate / f64::from(1u32 << self.halvings.load(Relaxed).min(MOST_HALVINGS))
    }

    /// Whether a request is recorded, and with which probability it was to be; `None`: it is left out.
    ///
    /// * `release`: the one that was active, whose draws have nothing to do with those of the next
    /// * `exempt`: it is recorded in any case
    ///
    /// Cost: nothing where all are recorded, two hashes else.
    pub(super) fn draw(&self, id: &[u8; 16], release: Option<&str>, exempt: bool) -> Option<f32> {
        let probability = self.probability();
        if exempt || probability >= 1.0 {
            return Some(1.0);
        }
        let drawn = Salt::of(release.unwrap_or_default()).draw(Purpose::Log, id);
        #[expect(clippy::cast_possible_truncation, reason = "estimates need no more digits")]
        Portion::percent(100.0 * probability)
            .holds(drawn)
            .then_some(probability as f32)
    }

    /// Halves the share.
    pub(super) fn press(&self) {
        let more = |halvings: u32| (halvings < MOST_HALVINGS).then_some(halvings + 1);
        if self.halvings.fetch_update(Relaxed, Relaxed, more).is_ok() {
            tracing::warn!(
                probability = self.probability(),
                "fewer requests are recorded: the log is not sealed as fast as it is written"
            );
        }
    }

    /// Doubles it, up to the rate.
    pub(super) fn relax(&self) {
        let fewer = |halvings: u32| halvings.checked_sub(1);
        if self.halvings.fetch_update(Relaxed, Relaxed, fewer).is_ok() {
            tracing::info!(
                probability = self.probability(),
                "more requests are recorded again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Estimates weight each record by one over its probability: over many requests that is as many as there were.
    #[test]
    fn weighted_records_are_as_many_as_requests() {
        let sampling = Sampling::new(0.3);
        let mut weight = 0.0;
        let (mut kept, requests) = (0, 20_000u128);
        for id in 0..requests {
            match id {
                5_000 | 10_000 => sampling.press(),
                15_000 => sampling.relax(),
                _ => {}
            }
            if let Some(p) = sampling.draw(&(id << 64 | id).to_be_bytes(), None, false) {
                kept += 1;
                weight += 1.0 / f64::from(p);
            }
        }
        // The variance of the sum is Σ (1 − p) / p: 5000 of 0.3, 0.15, 0.075 and 0.15.
        let variance: f64 = [0.3, 0.15, 0.075, 0.15]
            .map(|p: f64| 5_000.0 * (1.0 - p) / p)
            .iter()
            .sum();
        assert!(
            (weight - 20_000.0).abs() < 4.0 * variance.sqrt(),
            "{weight} of {kept}"
        );
    }

    proptest! {
        #[test]
        fn what_is_in_at_a_low_rate_is_in_at_a_higher_one(id: [u8; 16], low in 0.0..1.0, more in 0.0..1.0) {
            let high = low + (1.0 - low) * more;
            let draw = |rate| Sampling::new(rate).draw(&id, Some("r"), false);
            prop_assert!(draw(low).is_none() || draw(high).is_some());
            prop_assert_eq!(Sampling::new(low).draw(&id, Some("r"), true), Some(1.0));
        }
    }
}
