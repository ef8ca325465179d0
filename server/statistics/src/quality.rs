//! Metrics of one model on labelled rows.

use crate::StatisticsError;

/// The share of predictions that are right.
///
/// Errors: `Lengths`; `TooFew` for no row.
pub fn accuracy<T: PartialEq>(labels: &[T], predictions: &[T]) -> Result<f64, StatisticsError> {
    StatisticsError::check_lengths("labels and predictions", labels.len(), predictions.len(), 1)?;
    let right = labels
        .iter()
        .zip(predictions)
        .filter(|(label, prediction)| label == prediction);
    Ok(right.count() as f64 / labels.len() as f64)
}

/// Root of the mean squared error, in the labels' unit.
///
/// Errors: `Lengths`; `TooFew` for no row; `NotFinite`.
pub fn rmse(labels: &[f64], predictions: &[f64]) -> Result<f64, StatisticsError> {
    let errors = squared_errors(labels, predictions)?;
    Ok((errors.iter().sum::<f64>() / errors.len() as f64).sqrt())
}

/// The squared error of every row.
pub(crate) fn squared_errors(labels: &[f64], predictions: &[f64]) -> Result<Vec<f64>, StatisticsError> {
    StatisticsError::check_lengths("labels and predictions", labels.len(), predictions.len(), 1)?;
    StatisticsError::check_finite("labels", labels)?;
    StatisticsError::check_finite("predictions", predictions)?;
    let pairs = labels.iter().zip(predictions);
    Ok(pairs
        .map(|(label, prediction)| (label - prediction).powi(2))
        .collect())
}

/// Area under the ROC curve: the probability that a positive row scores above a negative one, ties counting half.
///
/// Errors: `Lengths`; `NotFinite`; `TooFew` unless there are rows of both kinds.
pub fn auc(labels: &[bool], scores: &[f64]) -> Result<f64, StatisticsError> {
    let ranked = Ranked::new(labels, scores)?;
    ranked.auc(|_| 1).ok_or(StatisticsError::TooFew {
        what: "rows of each kind",
        needed: 1,
        got: 0,
    })
}

/// Rows in the order of their scores, sorted once and weighted many times.
#[derive(Debug)]
pub(crate) struct Ranked {
    /// Position and label, by ascending score.
    rows: Vec<(usize, bool)>,
    /// Where each run of equal scores ends.
    ends: Vec<usize>,
}

impl Ranked {
    pub(crate) fn new(labels: &[bool], scores: &[f64]) -> Result<Self, StatisticsError> {
        StatisticsError::check_lengths("labels and scores", labels.len(), scores.len(), 1)?;
        StatisticsError::check_finite("scores", scores)?;
        // Adding zero makes a negative zero positive, so that the two tie.
        let mut rows: Vec<_> = scores
            .iter()
            .zip(labels)
            .enumerate()
            .map(|(i, (s, l))| (s + 0.0, i, *l))
            .collect();
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut ends = Vec::new();
        let mut end = 0;
        for run in rows.chunk_by(|a, b| a.0 == b.0) {
            end += run.len();
            ends.push(end);
        }
        Ok(Ranked {
            rows: rows.into_iter().map(|(_, row, label)| (row, label)).collect(),
            ends,
        })
    }

    /// The area with row `i` counted `weight(i)` times; `None` where one kind has no weight.
    pub(crate) fn auc(&self, weight: impl Fn(usize) -> u32) -> Option<f64> {
        let (mut positives, mut negatives, mut twice_won) = (0_u128, 0_u128, 0_u128);
        let mut start = 0;
        for &end in &self.ends {
            let (mut tied_positives, mut tied_negatives) = (0_u128, 0_u128);
            for &(row, label) in self.rows.get(start..end)? {
                let side = if label {
                    &mut tied_positives
                } else {
                    &mut tied_negatives
                };
                *side += u128::from(weight(row));
            }
            twice_won += tied_positives * (2 * negatives + tied_negatives);
            positives += tied_positives;
            negatives += tied_negatives;
            start = end;
        }
        (positives > 0 && negatives > 0).then(|| twice_won as f64 / 2.0 / positives as f64 / negatives as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    #[test]
    fn metrics_of_a_few_rows() {
        assert_eq!(accuracy(&[1, 2, 3, 4], &[1, 2, 0, 4]), Ok(0.75));
        assert_eq!(
            rmse(&[1.0, 2.0, 3.0], &[1.0, 4.0, 5.0]),
            Ok((8.0_f64 / 3.0).sqrt())
        );
        assert_eq!(auc(&[false, false, true, true], &[0.1, 0.4, 0.35, 0.8]), Ok(0.75));
        assert_eq!(auc(&[false, true], &[0.0, -0.0]), Ok(0.5));
    }

    /// 300 rows of scores with many ties, against all pairs.
    #[test]
    fn area_is_the_share_of_pairs_in_order() {
        let mut random = SplitMix64::new(6);
        let labels: Vec<bool> = (0..300).map(|_| random.below(3) == 0).collect();
        let scores: Vec<f64> = labels
            .iter()
            .map(|&l| (random.below(20) + 4 * usize::from(l)) as f64)
            .collect();
        let (mut won, mut all) = (0.0, 0.0);
        for (positive, _) in labels.iter().enumerate().filter(|(_, label)| **label) {
            for (negative, _) in labels.iter().enumerate().filter(|(_, label)| !**label) {
                all += 1.0;
                won += f64::from(scores[positive] > scores[negative]);
                won += 0.5 * f64::from(scores[positive] == scores[negative]);
            }
        }
        let got = auc(&labels, &scores).expect("both kinds are there");
        assert!((got - won / all).abs() < 1e-14, "{got}, not {}", won / all);
    }

    #[test]
    fn rows_are_checked() {
        assert!(matches!(
            auc(&[true], &[0.0]),
            Err(StatisticsError::TooFew { .. })
        ));
        assert!(matches!(
            auc(&[true, false], &[0.0, f64::NAN]),
            Err(StatisticsError::NotFinite { index: 1, .. })
        ));
        assert!(matches!(
            rmse(&[1.0], &[1.0, 2.0]),
            Err(StatisticsError::Lengths { .. })
        ));
        assert!(matches!(
            rmse(&[f64::INFINITY], &[1.0]),
            Err(StatisticsError::NotFinite { .. })
        ));
        assert!(matches!(
            accuracy::<u8>(&[], &[]),
            Err(StatisticsError::TooFew { .. })
        ));
    }
}
