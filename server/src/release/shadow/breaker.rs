//! How much is copied, by what that does to the live version: its slowest requests beside copies and without them
//! (rollout.md §3). Pure.
//!
//! Copies run for a while, then rest for a while, so that both sides are of the same time. If copying does not slow
//! requests by more than a twentieth, a request of either side is as likely to be among the slowest ones, once those
//! beside copies are given that twentieth.

use crossfade_statistics::{Counts, Share, log_e};

/// Requests that a judgement needs of each side, and of both together: twenty are beyond their 99th percentile then.
const EACH: usize = 500;
const BOTH: usize = 2000;
/// Requests of a side that are remembered.
pub(super) const MOST: usize = 4096;
/// How much slower requests may become.
const RISE: f64 = 1.05;
/// Shown at 5 %: ln(1 / 0.05).
const SHOWN: f64 = 3.0;
/// The least share, and how fast it comes back.
const LEAST: f64 = 1.0 / 64.0;
const RECOVERY: f64 = 1.1;

/// The share of what the policy asks for that is copied.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Breaker {
    share: f64,
    /// Microseconds.
    beside: Vec<u32>,
    without: Vec<u32>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            share: 1.0,
            beside: Vec::new(),
            without: Vec::new(),
        }
    }
}

impl Breaker {
    /// Takes in how long requests of the live version took, and says what share is copied from here on.
    ///
    /// * `beside`, `without`: microseconds, while copies ran and while they rested
    pub(super) fn judge(&mut self, beside: &[u32], without: &[u32]) -> f64 {
        for (side, new) in [(&mut self.beside, beside), (&mut self.without, without)] {
            let room = MOST.saturating_sub(side.len());
            side.extend(new.iter().take(room));
        }
        let (ours, theirs) = (self.beside.len(), self.without.len());
        if ours.min(theirs) < EACH || ours + theirs < BOTH {
            return self.share;
        }
        let slowed = self.slowed();
        self.beside.clear();
        self.without.clear();
        self.share = if slowed {
            (self.share / 2.0).max(LEAST)
        } else {
            (self.share * RECOVERY).min(1.0)
        };
        self.share
    }

    /// Whether requests beside copies are shown to be more than a twentieth slower at their slowest.
    fn slowed(&self) -> bool {
        let eased = || self.beside.iter().map(|time| f64::from(*time) / RISE);
        let without = || self.without.iter().map(|time| f64::from(*time));
        let mut all: Vec<f64> = eased().chain(without()).collect();
        let rank = all.len() * 99 / 100;
        let (_, limit, _) = all.select_nth_unstable_by(rank, f64::total_cmp);
        let limit = *limit;
        let beyond =
            |times: &mut dyn Iterator<Item = f64>| times.filter(|time| *time >= limit).count() as u64;
        let events = Counts {
            canary: beyond(&mut eased()),
            control: beyond(&mut without()),
        };
        let (ours, theirs) = (self.beside.len() as f64, self.without.len() as f64);
        Share::new(ours / (ours + theirs)).is_ok_and(|share| log_e(events, share) >= SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_statistics::random::SplitMix64;

    /// A thousand and a half times of each side, those beside copies so many times as long in their tail.
    fn times(random: &mut SplitMix64, tail: f64) -> Vec<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds"
        )]
        let time = |unit: f64| {
            let slow = if unit > 0.97 { tail } else { 1.0 };
            (1000.0 * slow / (1.0 - 0.9 * unit)) as u32
        };
        (0..1500).map(|_| time(random.unit())).collect()
    }

    #[test]
    fn a_slower_tail_halves_and_a_quiet_time_brings_back() {
        let mut random = SplitMix64::new(5);
        let mut breaker = Breaker::default();
        for share in [0.5, 0.25] {
            let (beside, without) = (times(&mut random, 2.0), times(&mut random, 1.0));
            assert_eq!(breaker.judge(&beside, &without), share);
        }
        let (beside, without) = (times(&mut random, 1.0), times(&mut random, 1.0));
        assert_eq!(breaker.judge(&beside, &without), 0.25 * RECOVERY);
    }

    #[test]
    fn little_says_nothing() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.judge(&[1_000_000; 499], &[1; 4000]), 1.0);
        assert_eq!(breaker.judge(&[1_000_000; 1], &[]), 0.5, "now there is enough");
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.judge(&[1000; 1500], &[1; 1500]);
        }
        assert_eq!(breaker.share, LEAST);
    }

    /// Equal sides are told apart in far fewer than one judgement in twenty (seed 3, 400 judgements).
    #[test]
    fn chance_rarely_halves() {
        let mut random = SplitMix64::new(3);
        let halved = (0..400).filter(|_| {
            let (beside, without) = (times(&mut random, 1.0), times(&mut random, 1.0));
            Breaker::default().judge(&beside, &without) < 1.0
        });
        assert!(halved.count() <= 20);
    }
}
