//! The batch size that a model is best run with, learnt from its own batches. Pure.
//!
//! Some models compute eight rows in little more time than one, others take longer per row the more there are
//! (dependencies.md, "What batching and instances do on CPU"). Sizes are told apart by powers of two. What was learnt
//! is tried again now and then, since the machine's other work changes it.

use std::time::Duration;

/// How much one observation of a size fades with each that follows.
const FADING: f64 = 0.9;
/// The weight of a size's observations from which on they count: six of them, with this fading.
const ENOUGH: f64 = 4.5;
/// An observation counts as at most this much of what its size took so far: the rest is the machine's other work.
const OUTLIER: f64 = 2.0;
/// A larger size must cost this much more per row before it is avoided.
const WORSE: f64 = 1.05;
/// After so many batches under a learned cap one may be as large as is allowed.
const TRY_AGAIN: u32 = 500;
/// Sizes 1, 2, 3–4, 5–8, … up to 2^31.
const SIZES: usize = 32;

/// What one size costs per row.
#[derive(Debug, Clone, Copy, Default)]
struct PerRow {
    seconds: f64,
    weight: f64,
}

/// Seconds per row by size, and the cap that follows from them.
#[derive(Debug, Clone)]
pub(crate) struct BatchCap {
    sizes: [PerRow; SIZES],
    /// The largest batch that is allowed at all.
    max: usize,
    /// The largest batch worth running.
    cap: usize,
    /// Batches since the cap was last ignored.
    since_tried: u32,
}

impl BatchCap {
    /// Nothing is known: batches may have up to `max` rows.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            sizes: [PerRow::default(); SIZES],
            max,
            cap: max,
            since_tried: 0,
        }
    }

    /// The most rows that the next batch shall have.
    pub(crate) fn rows(&self) -> usize {
        if self.since_tried >= TRY_AGAIN {
            self.max
        } else {
            self.cap
        }
    }

    /// The largest batch worth running, by what was learnt.
    pub(crate) fn learnt(&self) -> usize {
        self.cap
    }

    /// Notes that a batch of `rows` rows kept an instance busy for `duration`.
    pub(crate) fn observe(&mut self, rows: usize, duration: Duration) {
        let Some(size) = size_of(rows) else { return };
        let tried = rows > self.cap && self.since_tried >= TRY_AGAIN;
        self.since_tried = if tried {
            0
        } else {
            self.since_tried.saturating_add(1)
        };
        let known = &mut self.sizes[size];
        let seconds = duration.as_secs_f64() / float(rows);
        let seconds = if known.weight >= ENOUGH {
            seconds.min(OUTLIER * known.seconds)
        } else {
            seconds
        };
        let weight = known.weight * FADING + 1.0;
        known.seconds += (seconds - known.seconds) / weight;
        known.weight = weight;
        self.cap = self.best();
    }

    /// The largest size before the first that is worse than the best below it.
    fn best(&self) -> usize {
        let mut best: Option<f64> = None;
        let mut cap = self.max;
        for (size, known) in self
            .sizes
            .iter()
            .enumerate()
            .filter(|(_, known)| known.weight >= ENOUGH)
        {
            match best {
                Some(seconds) if known.seconds > WORSE * seconds => {
                    // A still larger size may be better again; the best one decides.
                    cap = cap.min(1 << (size - 1));
                }
                Some(seconds) if known.seconds >= seconds => {}
                _ => {
                    best = Some(known.seconds);
                    cap = self.max;
                }
            }
        }
        cap
    }
}

/// The number of the power of two that `rows` fits into; zero rows have none.
fn size_of(rows: usize) -> Option<usize> {
    let power = rows.checked_next_power_of_two()?;
    let size = usize::try_from(power.trailing_zeros()).ok()?;
    (rows > 0 && size < SIZES).then_some(size)
}

/// Precise enough for a quotient.
fn float(rows: usize) -> f64 {
    f64::from(u32::try_from(rows).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs batches of all sizes up to the cap in turn, at what `micros` says that a batch of so many rows takes.
    fn learn(cap: &mut BatchCap, batches: usize, micros: impl Fn(usize) -> f64) {
        for k in 0..batches {
            let allowed = cap.rows();
            let rows = (1 << (k % 6)).min(allowed);
            cap.observe(rows, Duration::from_secs_f64(micros(rows) * 1e-6));
        }
    }

    #[test]
    fn a_model_that_batching_slows_is_not_batched() {
        let mut cap = BatchCap::new(32);
        learn(&mut cap, 100, |rows| 3000.0 * float(rows).powf(1.1));
        assert_eq!(cap.learnt(), 1);
    }

    #[test]
    fn a_model_that_gains_is_batched_as_far_as_it_may() {
        let mut cap = BatchCap::new(32);
        learn(&mut cap, 100, |rows| 100.0 + 10.0 * float(rows));
        assert_eq!(cap.learnt(), 32);
    }

    #[test]
    fn a_size_beyond_which_it_costs_more_is_the_cap() {
        let mut cap = BatchCap::new(32);
        let micros = |rows: usize| {
            if rows <= 8 {
                100.0 + 10.0 * float(rows)
            } else {
                60.0 * float(rows)
            }
        };
        learn(&mut cap, 100, micros);
        assert_eq!(cap.learnt(), 8);
    }

    #[test]
    fn equal_costs_do_not_stop_batching() {
        let mut cap = BatchCap::new(32);
        learn(&mut cap, 100, |rows| 100.0 * float(rows));
        assert_eq!(cap.learnt(), 32);
    }

    #[test]
    fn a_pause_of_the_machine_is_no_lesson() {
        let mut cap = BatchCap::new(32);
        learn(&mut cap, 100, |rows| 100.0 + 10.0 * float(rows));
        cap.observe(32, Duration::from_millis(50));
        assert_eq!(cap.learnt(), 32);
    }

    #[test]
    fn what_was_learnt_is_tried_again() {
        let mut cap = BatchCap::new(32);
        learn(&mut cap, 100, |rows| 100.0 * float(rows).powf(1.1));
        assert_eq!(cap.learnt(), 1);
        let micros = |rows| 100.0 + 10.0 * float(rows);
        let mut rows = 1;
        for _ in 0..20_000 {
            cap.observe(rows, Duration::from_secs_f64(micros(rows) * 1e-6));
            rows = cap.rows();
        }
        assert_eq!(cap.learnt(), 32);
    }

    proptest! {
        #[test]
        fn the_cap_stays_within_bounds(
            max in 1usize..1000,
            batches in prop::collection::vec((0usize..2000, 0u64..1_000_000), 0..300),
        ) {
            let mut cap = BatchCap::new(max);
            for (rows, nanos) in batches {
                cap.observe(rows, Duration::from_nanos(nanos));
                prop_assert!((1..=max).contains(&cap.rows()));
            }
        }
    }
}
