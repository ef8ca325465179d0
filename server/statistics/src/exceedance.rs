//! Evidence that the canary is slower: in which arm the batches above a threshold fall.
//!
//! The unit is the batch, because the requests of one batch are slow together. Batches do not divide as requests do,
//! so every look has a share of its own, and the e-process is a mixture over a fixed grid of ratios
//! (rollout.md §5.4). Given the numbers of batches the canary's events are hypergeometric, and a factor convex in
//! them is no larger in expectation than under independent draws (Hoeffding 1963, theorem 4).

use serde::{Deserialize, Serialize};

use crate::evidence::check_ratios;
use crate::{Counts, Share, StatisticsError};

/// How many times as likely an event may be in the canary: the points of the mixture.
const RATIOS: [f64; 9] = [1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0];

/// What happened since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Batches that were run.
    pub batches: Counts,
    /// Those of them with a request above the threshold.
    pub events: Counts,
}

/// The running evidence of one release.
///
/// The looks multiply, so nothing is closed when the share of the canary changes; the threshold may change between
/// looks, if it is chosen from what came before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceedance {
    tolerance: f64,
    margin: f64,
    /// ln of the likelihood ratio per point of the grid: the canary is worse.
    #[serde(with = "bits")]
    worse: [f64; RATIOS.len()],
    /// The same with the arms exchanged: the canary stays below `margin`.
    #[serde(with = "bits")]
    not_worse: [f64; RATIOS.len()],
}

impl Exceedance {
    /// Nothing has been seen; `tolerance` and `margin` as in [`crate::Evidence::new`].
    ///
    /// Errors: `Range` for a ratio that is too small or not finite.
    pub fn new(tolerance: f64, margin: f64) -> Result<Self, StatisticsError> {
        check_ratios(tolerance, margin)?;
        Ok(Exceedance {
            tolerance,
            margin,
            worse: [0.0; RATIOS.len()],
            not_worse: [0.0; RATIOS.len()],
        })
    }

    /// Adds a look.
    ///
    /// * `routed`: the canary's share of the keys where routing is sticky, and each event then is one of a key that
    ///   had none before; `None` where each request is routed by itself. Slow users stay in their arm, so with
    ///   sticky routing the larger of both shares is used, and the smaller one for not being worse.
    ///
    /// A look in which one arm ran no batch says nothing and is skipped.
    pub fn observe(&mut self, look: &Look, routed: Option<Share>) {
        let batches = look.batches.canary.saturating_add(look.batches.control);
        // Zero or one where an arm ran none.
        let Ok(share) = Share::new(look.batches.canary as f64 / batches as f64) else {
            return;
        };
        let pick = |choose: fn(f64, f64) -> f64| {
            routed.map_or(share, |routed| {
                if choose(routed.get(), share.get()) == share.get() {
                    share
                } else {
                    routed
                }
            })
        };
        let against_worse = pick(f64::max).at_ratio(self.tolerance);
        let against_not_worse = pick(f64::min).at_ratio(self.margin).other();
        add(&mut self.worse, look.events, against_worse);
        add(&mut self.not_worse, look.events.swapped(), against_not_worse);
    }

    /// ln E that exceeding is more than `tolerance` times as likely in the canary; fails at ln(1/α).
    pub fn worse(&self) -> f64 {
        mixture(&self.worse)
    }

    /// ln E that exceeding is less than `margin` times as likely in the canary; shown at ln(1/α).
    pub fn not_worse(&self) -> f64 {
        mixture(&self.not_worse)
    }
}

/// Adds the likelihood of `events` at each ratio, where a share `w` of them is expected in the canary.
fn add(grid: &mut [f64; RATIOS.len()], events: Counts, w: Share) {
    if events == Counts::default() {
        return;
    }
    let w = w.get();
    for (sum, ratio) in grid.iter_mut().zip(RATIOS) {
        // p / w and (1 − p) / (1 − w) for p = wθ / (wθ + 1 − w) share a denominator.
        let ln_total = (w * (ratio - 1.0)).ln_1p();
        let canary = events.canary as f64 * (ratio.ln() - ln_total);
        let control = events.control as f64 * -ln_total;
        *sum = (*sum + canary + control).clamp(f64::MIN, f64::MAX);
    }
}

/// ln of the mean of the exponentials.
fn mixture(grid: &[f64; RATIOS.len()]) -> f64 {
    let top = grid.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = grid.iter().map(|value| (value - top).exp()).sum();
    top + sum.ln() - (RATIOS.len() as f64).ln()
}

/// Sums written down as their bits: the shortest decimal is not read back exactly by every reader, and a restart
/// must not change a decision.
mod bits {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::RATIOS;

    pub(super) fn serialize<S: Serializer>(grid: &[f64; RATIOS.len()], to: S) -> Result<S::Ok, S::Error> {
        grid.map(f64::to_bits).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; RATIOS.len()], D::Error> {
        let grid = <[u64; RATIOS.len()]>::deserialize(from)?.map(f64::from_bits);
        if grid.iter().any(|sum| !sum.is_finite()) {
            return Err(D::Error::custom("a sum of the grid is not finite"));
        }
        Ok(grid)
    }
}

#[cfg(test)]
mod tests;
