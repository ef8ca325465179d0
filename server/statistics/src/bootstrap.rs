//! The paired bootstrap: how far a difference of two models on the same rows is chance.

use crate::StatisticsError;
use crate::quality::{Ranked, squared_errors};
use crate::random::SplitMix64;

/// Resamples; with them a 99 % bound rests on a hundred values beyond it.
pub const RESAMPLES: usize = 10_000;
/// The generator's seed, the same for every comparison, so that it can be repeated.
const SEED: u64 = 0xC0FF_EE00_0B00_7577;

/// The drop of a metric from champion to candidate, positive when the candidate is worse, with its resamples.
#[derive(Debug, Clone, PartialEq)]
pub struct Drop {
    /// On the rows as they are.
    pub observed: f64,
    /// On resampled rows, ascending.
    resampled: Vec<f64>,
}

impl Drop {
    /// The upper bound of the drop at one-sided level `alpha`: the percentile of the resamples (Efron & Tibshirani
    /// 1993, §13.3).
    ///
    /// Errors: `Range` for an α outside (0, 1).
    pub fn upper(&self, alpha: f64) -> Result<f64, StatisticsError> {
        StatisticsError::check_level("level of a bound", alpha)?;
        Ok(self.percentile(1.0 - alpha))
    }

    /// The lower bound, likewise.
    ///
    /// Errors: as [`Drop::upper`].
    pub fn lower(&self, alpha: f64) -> Result<f64, StatisticsError> {
        StatisticsError::check_level("level of a bound", alpha)?;
        Ok(self.percentile(alpha))
    }

    /// The share of resamples without a drop, never less than one resample would make: the smaller, the surer the
    /// candidate is worse.
    pub fn p(&self) -> f64 {
        let without = self.resampled.partition_point(|&drop| drop <= 0.0);
        (without as f64 + 1.0) / (self.resampled.len() as f64 + 1.0)
    }

    /// The smallest resample that at least this share of them does not exceed.
    fn percentile(&self, share: f64) -> f64 {
        let below = share * self.resampled.len() as f64;
        let ranked = self.resampled.iter().enumerate();
        ranked
            .map(|(position, &drop)| (position as f64 + 1.0, drop))
            .find(|(rank, _)| *rank >= below)
            .map_or(self.observed, |(_, drop)| drop)
    }
}

/// How much larger the candidate's root mean squared error is.
///
/// Errors: `Lengths`; `TooFew` for no row; `NotFinite`. Cost: 10 000 draws per row.
pub fn rmse_drop(labels: &[f64], champion: &[f64], candidate: &[f64]) -> Result<Drop, StatisticsError> {
    let old = squared_errors(labels, champion)?;
    let new = squared_errors(labels, candidate)?;
    let root = |errors: &[f64], counts: &[u32]| {
        let sum: f64 = errors
            .iter()
            .zip(counts)
            .map(|(error, &count)| error * f64::from(count))
            .sum();
        (sum / errors.len() as f64).sqrt()
    };
    Ok(resample(labels.len(), |counts| {
        Some(root(&new, counts) - root(&old, counts))
    }))
}

/// How much smaller the candidate's area under the ROC curve is.
///
/// Errors: `Lengths`; `NotFinite`; `TooFew` unless there are rows of both kinds. Cost: 10 000 draws and two passes per
/// row.
pub fn auc_drop(labels: &[bool], champion: &[f64], candidate: &[f64]) -> Result<Drop, StatisticsError> {
    let old = Ranked::new(labels, champion)?;
    let new = Ranked::new(labels, candidate)?;
    let area =
        |ranked: &Ranked, counts: &[u32]| ranked.auc(|row| counts.get(row).copied().unwrap_or_default());
    if !(labels.contains(&true) && labels.contains(&false)) {
        return Err(StatisticsError::TooFew {
            what: "rows of each kind",
            needed: 1,
            got: 0,
        });
    }
    Ok(resample(labels.len(), |counts| {
        Some(area(&old, counts)? - area(&new, counts)?)
    }))
}

/// Draws rows with replacement and computes the drop of each draw from how often each row came.
///
/// A draw for which there is no metric (no row of one kind) is left out.
fn resample(rows: usize, drop: impl Fn(&[u32]) -> Option<f64>) -> Drop {
    let mut random = SplitMix64::new(SEED);
    let mut counts = vec![1_u32; rows];
    let observed = drop(&counts).unwrap_or_default();
    let mut resampled = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        counts.fill(0);
        for _ in 0..rows {
            if let Some(count) = counts.get_mut(random.below(rows)) {
                *count += 1;
            }
        }
        resampled.extend(drop(&counts));
    }
    resampled.sort_unstable_by(f64::total_cmp);
    Drop { observed, resampled }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal::upper_tail;

    /// The bound of a mean-like metric agrees with the normal approximation: 400 rows, errors 1 and 1 ± noise.
    #[test]
    fn rmse_bounds_agree_with_the_delta_method() {
        let mut random = SplitMix64::new(7);
        let labels: Vec<f64> = (0..400).map(|_| random.unit()).collect();
        let mut noisy = |size: f64| {
            labels
                .iter()
                .map(|label| label + size * (random.unit() - 0.5))
                .collect()
        };
        let (champion, candidate): (Vec<f64>, Vec<f64>) = (noisy(1.0), noisy(1.1));
        let got = rmse_drop(&labels, &champion, &candidate).expect("the rows are in order");
        let (old, new) = (
            squared_errors(&labels, &champion).expect("in order"),
            squared_errors(&labels, &candidate).expect("in order"),
        );
        let root = |errors: &[f64]| (errors.iter().sum::<f64>() / 400.0).sqrt();
        assert!((got.observed - (root(&new) - root(&old))).abs() < 1e-15);
        // d(√x) = dx / (2√x), so the drop is nearly a mean of these.
        let influence: Vec<f64> = new
            .iter()
            .zip(&old)
            .map(|(n, o)| n / (2.0 * root(&new)) - o / (2.0 * root(&old)))
            .collect();
        let mean = influence.iter().sum::<f64>() / 400.0;
        let sd = (influence.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 400.0 / 400.0).sqrt();
        for (alpha, z) in [(0.05, 1.645), (0.01, 2.326)] {
            let upper = got.upper(alpha).expect("a level");
            let lower = got.lower(alpha).expect("a level");
            assert!(
                (upper - (got.observed + z * sd)).abs() < 0.12 * sd,
                "{alpha}: {upper}"
            );
            assert!(
                (lower - (got.observed - z * sd)).abs() < 0.12 * sd,
                "{alpha}: {lower}"
            );
        }
        assert!(
            (got.p() - upper_tail(got.observed / sd)).abs() < 0.01,
            "{}",
            got.p()
        );
    }

    #[test]
    fn equal_models_do_not_drop_and_repeats_are_equal() {
        let labels: Vec<bool> = (0..50).map(|row| row % 3 == 0).collect();
        let scores: Vec<f64> = (0..50).map(|row| f64::from(row * 7 % 50)).collect();
        let same = auc_drop(&labels, &scores, &scores).expect("the rows are in order");
        assert_eq!(
            (same.observed, same.upper(0.01), same.lower(0.01)),
            (0.0, Ok(0.0), Ok(0.0))
        );
        assert_eq!(same.p(), 1.0);
        assert_eq!(auc_drop(&labels, &scores, &scores).as_ref(), Ok(&same));
    }

    #[test]
    fn worse_order_of_scores_is_a_drop() {
        let labels: Vec<bool> = (0..200).map(|row| row >= 100).collect();
        let good: Vec<f64> = (0..200).map(f64::from).collect();
        let bad: Vec<f64> = (0..200).map(|row| f64::from(row * 77 % 200)).collect();
        let got = auc_drop(&labels, &good, &bad).expect("the rows are in order");
        assert!(
            got.observed > 0.3 && got.lower(0.01).expect("a level") > 0.2,
            "{}",
            got.observed
        );
        assert!(got.p() < 1e-3);
        assert!(got.upper(0.0).is_err());
        assert!(auc_drop(&[true, true], &[0.0, 1.0], &[0.0, 1.0]).is_err());
        assert!(rmse_drop(&[], &[], &[]).is_err());
    }
}
