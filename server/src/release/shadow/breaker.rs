//! How much is copied, by what that does to the live version: its slowest requests beside copies and without them
//! (rollout.md §3). Pure.
//!
//! Time is cut into cycles of equal slices, in one of which, another one each time, copies rest. If copying does not slow
//! requests by more than a twentieth, the slice without copies is as likely as any other to have the lowest 99th
//! percentile, once the others are given that twentieth. A cycle is one event, however many requests it had: what
//! holds up one of them, on this machine or beside it, holds up its neighbours too.

use crossfade_statistics::{Counts, Share, log_e};

/// Slices of a cycle.
pub(super) const SLICES: usize = 4;
/// Requests that a judgement needs of each slice; cycles are put together until they have them.
const EACH: usize = 50;
/// Requests of a slice that are remembered.
pub(super) const MOST: usize = 4096;
/// How much slower requests may become.
const RISE: f64 = 1.05;
/// Shown at 5 %: ln(1 / 0.05). Three cycles of three reach it.
const SHOWN: f64 = 3.0;
/// Cycles after which nothing is shown, more is copied again, and the counts begin anew.
const CYCLES: u64 = 16;
/// The least share, and how fast it comes back.
const LEAST: f64 = 1.0 / 64.0;
const RECOVERY: f64 = 2.0;

/// The share of what the policy asks for that is copied.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Breaker {
    share: f64,
    /// Microseconds: of the slice without copies, and of the others.
    without: Vec<u32>,
    beside: [Vec<u32>; SLICES - 1],
    /// Cycles in which the slice without copies was the fastest, and those in which it was not.
    cycles: Counts,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            share: 1.0,
            without: Vec::new(),
            beside: Default::default(),
            cycles: Counts::default(),
        }
    }
}

impl Breaker {
    /// Takes in how long requests of the live version took in a cycle, and says what share is copied from here on.
    ///
    /// * `slices`: microseconds
    /// * `rested`: the slice without copies
    pub(super) fn judge(&mut self, slices: [Vec<u32>; SLICES], rested: usize) -> f64 {
        let mut others = self.beside.iter_mut();
        for (slice, new) in slices.into_iter().enumerate() {
            let kept = match slice == rested {
                true => Some(&mut self.without),
                false => others.next(),
            };
            if let Some(kept) = kept {
                let room = MOST.saturating_sub(kept.len());
                kept.extend(new.into_iter().take(room));
            }
        }
        let few = |times: &Vec<u32>| times.len() < EACH;
        if few(&self.without) || self.beside.iter().any(few) {
            return self.share;
        }
        let without = tail(&mut self.without);
        let beside = self.beside.iter_mut().map(tail).fold(f64::INFINITY, f64::min);
        match without * RISE < beside {
            true => self.cycles.canary += 1,
            false => self.cycles.control += 1,
        }
        let by_chance = Share::new(1.0 / SLICES as f64);
        if by_chance.is_ok_and(|share| log_e(self.cycles, share) >= SHOWN) {
            self.share = (self.share / 2.0).max(LEAST);
            self.cycles = Counts::default();
        } else if self.cycles.canary + self.cycles.control >= CYCLES {
            self.share = (self.share * RECOVERY).min(1.0);
            self.cycles = Counts::default();
        }
        self.share
    }
}

/// The 99th percentile of times that are there, which are forgotten.
fn tail(times: &mut Vec<u32>) -> f64 {
    let rank = (times.len() * 99).div_ceil(100).saturating_sub(1);
    let (_, tail, _) = times.select_nth_unstable(rank);
    let tail = f64::from(*tail);
    times.clear();
    tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_statistics::random::SplitMix64;

    /// A slice of requests, so many times as long in their tail.
    fn slice(random: &mut SplitMix64, tail: f64) -> Vec<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds"
        )]
        let time = |unit: f64| {
            let slow = if unit > 0.97 { tail } else { 1.0 };
            (1000.0 * slow / (1.0 - 0.9 * unit)) as u32
        };
        (0..500).map(|_| time(random.unit())).collect()
    }

    /// A cycle in which copies slow the tail so many times, and rest in slice `rested`.
    fn cycle(random: &mut SplitMix64, tail: f64, rested: usize) -> [Vec<u32>; SLICES] {
        std::array::from_fn(|at| slice(random, if at == rested { 1.0 } else { tail }))
    }

    #[test]
    fn a_slower_tail_halves_within_seconds_and_a_quiet_time_brings_back() {
        let mut random = SplitMix64::new(5);
        let mut breaker = Breaker::default();
        let shares: Vec<f64> = (0..6)
            .map(|turn| breaker.judge(cycle(&mut random, 2.0, turn % SLICES), turn % SLICES))
            .collect();
        assert_eq!(shares, [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]);
        for turn in 0..200 {
            breaker.judge(cycle(&mut random, 1.0, turn % SLICES), turn % SLICES);
        }
        assert_eq!(breaker.share, 1.0);
    }

    /// One slice in six stands still for a tenth of its time, whoever is asked: all its requests there are slow (seed 7).
    #[test]
    fn a_machine_that_stalls_is_not_taken_for_copies() {
        let mut random = SplitMix64::new(7);
        let mut breaker = Breaker::default();
        let halved = (0..2000).filter(|turn| {
            let rested = turn % SLICES;
            let mut slices = cycle(&mut random, 1.0, rested);
            for slice in &mut slices {
                if random.unit() < 1.0 / 6.0 {
                    slice.iter_mut().take(50).for_each(|time| *time += 100_000);
                }
            }
            let before = breaker.share;
            breaker.judge(slices, rested) < before
        });
        // Of 125 times that the counts begin anew, one in twenty at most, and what chance adds to that.
        assert!(halved.count() <= 14);
        assert!(breaker.share > 0.2, "{}", breaker.share);
    }

    /// Slices get slower, or faster, from one to the next: the rest takes every place in turn (seed 9).
    #[test]
    fn a_load_that_changes_is_not_taken_for_copies() {
        for step in [0.7, 1.4] {
            let mut random = SplitMix64::new(9);
            let mut breaker = Breaker::default();
            for turn in 0..64 {
                let mut factor = 1.0;
                let slices = std::array::from_fn(|_| {
                    factor *= step;
                    slice(&mut random, factor)
                });
                assert_eq!(
                    breaker.judge(slices, turn % SLICES),
                    1.0,
                    "cycle {turn}, step {step}"
                );
            }
        }
    }

    #[test]
    fn little_says_nothing_until_it_adds_up() {
        let mut breaker = Breaker::default();
        let cycle = || [vec![1], vec![9; 49], vec![9; 49], vec![9; 49]];
        for _ in 0..49 {
            assert_eq!(breaker.judge(cycle(), 0), 1.0);
        }
        assert_eq!(breaker.cycles, Counts::default(), "49 requests without copies");
        breaker.judge(cycle(), 0);
        assert_eq!(breaker.cycles.canary, 1, "now there are fifty");
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut breaker = Breaker::default();
        for _ in 0..60 {
            breaker.judge([vec![1; 50], vec![9; 50], vec![9; 50], vec![9; 50]], 0);
        }
        assert_eq!(breaker.share, LEAST);
    }
}
