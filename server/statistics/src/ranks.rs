//! Mann–Whitney on two histograms over the same ordered cells: which sample tends to be larger?

use crate::StatisticsError;
use crate::normal::upper_tail;

/// The outcome of a rank test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankTest {
    /// P(current > reference) + ½ P(equal): one half when neither tends to be larger.
    pub superiority: f64,
    /// Two-sided, by the normal approximation, corrected for ties and continuity.
    pub p: f64,
}

/// Compares two histograms by ranks; observations of one cell are tied.
///
/// Mann & Whitney 1947, with the tie correction of Lehmann (Nonparametrics, 1975, §1.4).
///
/// Errors: `Lengths`; `TooFew` for a histogram without observations.
pub fn mann_whitney(reference: &[u64], current: &[u64]) -> Result<RankTest, StatisticsError> {
    StatisticsError::check_lengths("cells of two histograms", reference.len(), current.len(), 1)?;
    let (mut m, mut n, mut u, mut ties) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
    for (&r, &c) in reference.iter().zip(current) {
        let (r, c) = (r as f64, c as f64);
        u += c * (m + 0.5 * r);
        m += r;
        n += c;
        let tied = r + c;
        ties += tied * tied * tied - tied;
    }
    if m == 0.0 || n == 0.0 {
        return Err(StatisticsError::TooFew {
            what: "observations of a histogram",
            needed: 1,
            got: 0,
        });
    }
    let total = m + n;
    let variance = m * n / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    let distance = ((u - m * n / 2.0).abs() - 0.5).max(0.0);
    // All tied: there is nothing to compare.
    let p = if variance > 0.0 {
        (2.0 * upper_tail(distance / variance.sqrt())).min(1.0)
    } else {
        1.0
    };
    Ok(RankTest {
        superiority: u / (m * n),
        p,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definitions, over all pairs, with mpmath.
    #[test]
    fn known_values() {
        let check = |reference: &[u64], current: &[u64], superiority: f64, p: f64| {
            let got = mann_whitney(reference, current).expect("cells match");
            assert!((got.superiority - superiority).abs() < 1e-12, "{got:?}");
            assert!((got.p - p).abs() < 1e-12, "{got:?}");
        };
        check(&[3, 5, 2], &[1, 4, 6], 0.7045454545454546, 0.0950123962249793);
        check(
            &[20, 0, 10, 5],
            &[2, 1, 30, 9],
            0.7363945578231292,
            9.817575328672331e-05,
        );
        check(&[1, 1, 1, 0, 0], &[0, 0, 0, 1, 1], 1.0, 0.1489146731787657);
    }

    #[test]
    fn equal_histograms_and_ties_say_nothing() {
        let same = mann_whitney(&[5, 6, 7], &[5, 6, 7]).expect("cells match");
        assert_eq!((same.superiority, same.p), (0.5, 1.0));
        let tied = mann_whitney(&[5], &[9]).expect("cells match");
        assert_eq!((tied.superiority, tied.p), (0.5, 1.0));
        assert!(mann_whitney(&[0], &[1]).is_err() && mann_whitney(&[1], &[1, 1]).is_err());
    }
}
