//! What a batch costs, learnt from the recent ones: a fixed part and a part per row. Pure.

use std::time::Duration;

/// How much one observation fades with each that follows; the last ten or so count.
const FADING: f64 = 0.9;

/// Least squares of `duration = fixed + per_cost × cost`, recent observations weighing more.
///
/// Where the observations cannot tell the two parts apart (all of one size), everything counts as fixed: the
/// estimate for other sizes is then too low rather than too high, and admits rather than refuses.
#[derive(Debug, Clone, Default)]
pub(crate) struct CostModel {
    weight: f64,
    cost: f64,
    cost_squared: f64,
    seconds: f64,
    cost_seconds: f64,
    /// The longest batch, fading slowly.
    worst: f64,
    /// The sum of the shares by which the estimates were wrong.
    wrong: f64,
}

/// Estimates are not taken for worse than this: what is wrong by more is no guide at all.
const MOST_WRONG: f64 = 1.0;

/// How much the longest batch fades with each that follows: one that took ten times as long as usual counts for the
/// next two hundred.
const WORST_FADING: f64 = 0.99;

impl CostModel {
    /// Notes that a batch of `cost` kept an instance busy for `duration`.
    pub(crate) fn observe(&mut self, cost: usize, duration: Duration) {
        let estimate = self.duration(1, cost).as_secs_f64();
        let (cost, seconds) = (float(cost), duration.as_secs_f64());
        let wrong = if estimate > 0.0 {
            (seconds / estimate - 1.0).abs().min(MOST_WRONG)
        } else {
            0.0
        };
        self.wrong = self.wrong * FADING + wrong;
        self.weight = self.weight * FADING + 1.0;
        self.cost = self.cost * FADING + cost;
        self.cost_squared = self.cost_squared * FADING + cost * cost;
        self.seconds = self.seconds * FADING + seconds;
        self.cost_seconds = self.cost_seconds * FADING + cost * seconds;
        self.worst = seconds.max(self.worst * WORST_FADING);
    }

    /// Whether a batch that costs `cost` takes at most `within`, and the longest of the recent ones not much longer;
    /// not before a few were observed.
    pub(crate) fn is_within(&self, cost: usize, within: Duration) -> bool {
        let enough = self.weight >= 3.0;
        enough && self.duration(1, cost) <= within && self.worst <= 10.0 * within.as_secs_f64()
    }

    /// How long `batches` batches that cost `cost` together keep one instance busy; zero before the first observation.
    pub(crate) fn duration(&self, batches: usize, cost: usize) -> Duration {
        let (fixed, per_cost) = self.parts();
        Duration::try_from_secs_f64(fixed * float(batches) + per_cost * float(cost)).unwrap_or(Duration::MAX)
    }

    /// As [`duration`](Self::duration), and longer by twice as much as estimates were wrong on average, so that
    /// nearly all runs are done by then.
    pub(crate) fn surely(&self, batches: usize, cost: usize) -> Duration {
        let duration = self.duration(batches, cost);
        if self.weight == 0.0 {
            return duration;
        }
        Duration::try_from_secs_f64(duration.as_secs_f64() * (1.0 + 2.0 * self.wrong / self.weight))
            .unwrap_or(duration)
    }

    /// Seconds per batch and seconds per cost, neither negative.
    fn parts(&self) -> (f64, f64) {
        if self.weight == 0.0 {
            return (0.0, 0.0);
        }
        let spread = self.weight * self.cost_squared - self.cost * self.cost;
        let per_cost = if spread > 1e-6 * self.weight * self.cost_squared {
            (self.weight * self.cost_seconds - self.cost * self.seconds) / spread
        } else {
            0.0
        };
        let per_cost = per_cost.max(0.0);
        let fixed = (self.seconds - per_cost * self.cost) / self.weight;
        if fixed < 0.0 {
            (0.0, self.seconds / self.cost)
        } else {
            (fixed, per_cost)
        }
    }
}

/// Precise enough for an estimate.
fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(observations: &[(usize, u64)]) -> CostModel {
        let mut model = CostModel::default();
        for &(cost, micros) in observations {
            model.observe(cost, Duration::from_micros(micros));
        }
        model
    }

    fn close(got: Duration, micros: u64) {
        let difference = got.abs_diff(Duration::from_micros(micros));
        assert!(
            difference < Duration::from_micros(2),
            "{got:?}, expected {micros} µs"
        );
    }

    #[test]
    fn an_estimate_that_was_wrong_is_made_longer() {
        let steady = model(&[(8, 100); 20]);
        close(steady.surely(1, 8), 100);
        // Half of the batches take half as long again: each estimate is wrong by about a fifth.
        let unsteady: Vec<(usize, u64)> = (0..40).map(|k| (8, if k % 2 == 0 { 100 } else { 150 })).collect();
        let unsteady = model(&unsteady);
        let longer = unsteady.surely(1, 8).as_secs_f64() / unsteady.duration(1, 8).as_secs_f64();
        assert!((1.3..1.6).contains(&longer), "{longer}");
        // What is out of all measure counts as wrong by one.
        let wild = model(&[(8, 100), (8, 100_000)]);
        assert!(wild.surely(1, 8) <= 3 * wild.duration(1, 8));
        assert_eq!(CostModel::default().surely(3, 8), Duration::ZERO);
    }

    #[test]
    fn an_affine_cost_is_found() {
        let model = model(&[(1, 110), (8, 180), (32, 420), (1, 110), (16, 260)]);
        close(model.duration(1, 4), 140);
        close(model.duration(2, 64), 840);
    }

    #[test]
    fn one_size_alone_counts_as_fixed() {
        let model = model(&[(1, 100); 20]);
        close(model.duration(1, 32), 100);
    }

    #[test]
    fn nothing_observed_costs_nothing() {
        close(CostModel::default().duration(10, 100), 0);
    }

    #[test]
    fn a_cost_is_within_a_bound_only_if_it_is_known_and_steady() {
        let within = Duration::from_micros(50);
        assert!(!model(&[(1, 10); 3]).is_within(1, within));
        assert!(model(&[(1, 10); 4]).is_within(1, within));
        assert!(!model(&[(1, 60); 4]).is_within(1, within));
        let mut unsteady = model(&[(1, 10); 4]);
        unsteady.observe(1, Duration::from_millis(1));
        (0..30).for_each(|_| unsteady.observe(1, Duration::from_micros(10)));
        assert!(unsteady.duration(1, 1) <= within && !unsteady.is_within(1, within));
        (0..60).for_each(|_| unsteady.observe(1, Duration::from_micros(10)));
        assert!(unsteady.is_within(1, within));
    }

    #[test]
    fn no_part_is_negative() {
        let (fixed, per_cost) = model(&[(1, 1000), (32, 10)]).parts();
        assert!(fixed >= 0.0 && per_cost >= 0.0);
        let (fixed, per_cost) = model(&[(10, 10), (20, 1000)]).parts();
        assert!(fixed >= 0.0 && per_cost >= 0.0);
    }

    #[test]
    fn recent_batches_weigh_more() {
        let mut model = model(&[(1, 100_000)]);
        (0..100).for_each(|_| model.observe(1, Duration::from_micros(50)));
        close(model.duration(1, 1), 52);
    }
}
