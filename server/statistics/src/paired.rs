//! Two models on the same rows, right or wrong: is the new one worse, and by how much at most?

use crate::StatisticsError;
use crate::beta::regularised_beta;
use crate::normal::quantile;

/// Rows by who was right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pairs {
    /// All rows.
    pub rows: u64,
    /// The champion was right, the candidate wrong.
    pub lost: u64,
    /// The champion was wrong, the candidate right.
    pub won: u64,
}

impl Pairs {
    /// Compares both models' predictions with the labels.
    ///
    /// Errors: `Lengths`; `TooFew` for no row.
    pub fn count<T: PartialEq>(
        labels: &[T],
        champion: &[T],
        candidate: &[T],
    ) -> Result<Self, StatisticsError> {
        StatisticsError::check_lengths("labels and predictions", labels.len(), champion.len(), 1)?;
        StatisticsError::check_lengths("labels and predictions", labels.len(), candidate.len(), 1)?;
        let mut pairs = Pairs {
            rows: labels.len() as u64,
            ..Pairs::default()
        };
        for ((label, old), new) in labels.iter().zip(champion).zip(candidate) {
            match (old == label, new == label) {
                (true, false) => pairs.lost += 1,
                (false, true) => pairs.won += 1,
                _ => {}
            }
        }
        Ok(pairs)
    }

    /// By how much accuracy drops from the champion to the candidate; negative when it rises.
    pub fn drop(&self) -> f64 {
        (self.lost as f64 - self.won as f64) / self.rows.max(1) as f64
    }

    /// The exact probability of at least so many lost rows among the differing ones if neither model is better
    /// (McNemar 1947): one-sided, against the candidate.
    pub fn mcnemar(&self) -> f64 {
        if self.lost == 0 {
            return 1.0;
        }
        regularised_beta(0.5, self.lost as f64, self.won as f64 + 1.0)
    }

    /// The same, two-sided: twice the smaller tail.
    pub fn mcnemar_two_sided(&self) -> f64 {
        let swapped = Pairs {
            lost: self.won,
            won: self.lost,
            ..*self
        };
        (2.0 * self.mcnemar().min(swapped.mcnemar())).min(1.0)
    }

    /// The upper bound of the drop at one-sided level `alpha`, by Tango's score interval (Statistics in Medicine 17,
    /// 1998, 891): the largest drop that the score test does not reject.
    ///
    /// Errors: `Range` for an α outside (0, 1) or more differing rows than rows; `TooFew` for no row.
    pub fn drop_upper(&self, alpha: f64) -> Result<f64, StatisticsError> {
        StatisticsError::check_level("level of a bound", alpha)?;
        if self.rows == 0 {
            return Err(StatisticsError::TooFew {
                what: "rows of a comparison",
                needed: 1,
                got: 0,
            });
        }
        if self.lost.saturating_add(self.won) > self.rows {
            return Err(StatisticsError::Range {
                what: "rows that differ",
                expected: "no more than all rows",
                got: self.lost as f64 + self.won as f64,
            });
        }
        let z = quantile(1.0 - alpha);
        let (mut low, mut high) = (self.drop(), 1.0);
        for _ in 0..64 {
            let middle = 0.5 * (low + high);
            if self.score(middle) < -z {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }

    /// Tango's score of the observed drop against a true drop of `delta`.
    fn score(&self, delta: f64) -> f64 {
        let (n, lost, won) = (self.rows as f64, self.lost as f64, self.won as f64);
        // The share of won rows that fits best where the drop is `delta`.
        let b = (2.0 * n - lost + won) * delta - lost - won;
        let c = -won * delta * (1.0 - delta);
        let share = ((b * b - 8.0 * n * c).max(0.0).sqrt() - b) / (4.0 * n);
        let variance = n * (2.0 * share + delta * (1.0 - delta));
        if variance <= 0.0 {
            return if lost - won - n * delta < 0.0 {
                f64::NEG_INFINITY
            } else {
                0.0
            };
        }
        (lost - won - n * delta) / variance.sqrt()
    }
}

#[cfg(test)]
mod tests;
