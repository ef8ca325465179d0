//! Two histograms over the same cells: is it one distribution? (rollout.md §5.5, monitoring.md §4)

use crate::StatisticsError;
use crate::gamma::upper_gamma;

/// A distance with its significance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The effect: D for Kolmogorov–Smirnov, Cramér's V for χ².
    pub effect: f64,
    /// The probability of at least this distance if both are one distribution.
    pub p: f64,
}

/// Kolmogorov–Smirnov on cells: the largest difference of the cumulative shares, at the cells' edges.
///
/// The p-value is asymptotic (Kolmogorov 1933) and conservative, since the binned distance is at most the exact one.
///
/// Errors: `Lengths`; `TooFew` for a histogram without observations.
pub fn kolmogorov_smirnov(reference: &[u64], current: &[u64]) -> Result<Comparison, StatisticsError> {
    let (m, n) = totals(reference, current)?;
    let (mut below_reference, mut below_current, mut effect) = (0_u128, 0_u128, 0.0_f64);
    for (&r, &c) in reference.iter().zip(current) {
        below_reference += u128::from(r);
        below_current += u128::from(c);
        effect = effect.max((below_reference as f64 / m - below_current as f64 / n).abs());
    }
    let p = kolmogorov_tail((m / (m + n) * n).sqrt() * effect);
    Ok(Comparison { effect, p })
}

/// P(K > λ): the alternating series, or Jacobi's transform of it where that converges faster.
fn kolmogorov_tail(lambda: f64) -> f64 {
    if lambda < 0.04 {
        return 1.0;
    }
    if lambda < 1.0 {
        let exponent = -std::f64::consts::PI.powi(2) / (8.0 * lambda * lambda);
        let sum: f64 = [1.0_f64, 3.0, 5.0, 7.0]
            .iter()
            .map(|odd| (exponent * odd * odd).exp())
            .sum();
        return (1.0 - std::f64::consts::TAU.sqrt() / lambda * sum).clamp(0.0, 1.0);
    }
    let term = |k: f64| (-2.0 * k * k * lambda * lambda).exp();
    let sum = term(1.0) - term(2.0) + term(3.0) - term(4.0) + term(5.0);
    (2.0 * sum).clamp(0.0, 1.0)
}

/// Population stability index, with half an observation added to every cell: `Σ (q − p) ln(q / p)`.
///
/// Errors: as [`kolmogorov_smirnov`].
pub fn stability_index(reference: &[u64], current: &[u64]) -> Result<f64, StatisticsError> {
    let (m, n) = totals(reference, current)?;
    let half_cells = reference.len() as f64 / 2.0;
    let terms = reference.iter().zip(current).map(|(&r, &c)| {
        let p = (r as f64 + 0.5) / (m + half_cells);
        let q = (c as f64 + 0.5) / (n + half_cells);
        (q - p) * (q / p).ln()
    });
    Ok(terms.sum())
}

/// Expected counts below this make the χ² distribution a bad approximation (Cochran 1954).
const LEAST_EXPECTED: f64 = 5.0;

/// Pearson's χ² for two samples, with Cramér's V as the effect.
///
/// Cells in which either sample expects fewer than five are merged into one; if that one still expects fewer, it joins
/// the smallest of the others. With a single cell left there is no difference to see: effect 0, p 1.
///
/// Errors: as [`kolmogorov_smirnov`].
pub fn chi_squared(reference: &[u64], current: &[u64]) -> Result<Comparison, StatisticsError> {
    let (m, n) = totals(reference, current)?;
    let least_share = m.min(n) / (m + n);
    let cells = merged(reference, current, LEAST_EXPECTED / least_share);
    if cells.len() < 2 {
        return Ok(Comparison { effect: 0.0, p: 1.0 });
    }
    let part = |observed: f64, expected: f64| (observed - expected).powi(2) / expected;
    let statistic: f64 = cells
        .iter()
        .map(|&(r, c)| part(r, (r + c) * (m / (m + n))) + part(c, (r + c) * (n / (m + n))))
        .sum();
    Ok(Comparison {
        effect: (statistic / (m + n)).sqrt(),
        p: upper_gamma((cells.len() - 1) as f64 / 2.0, statistic / 2.0),
    })
}

/// The cells with those that hold fewer than `least` observations in both samples together merged; empty ones go.
fn merged(reference: &[u64], current: &[u64], least: f64) -> Vec<(f64, f64)> {
    let mut rest = (0.0, 0.0);
    let mut cells = Vec::with_capacity(reference.len());
    for (&r, &c) in reference.iter().zip(current) {
        let (r, c) = (r as f64, c as f64);
        if r + c < least {
            rest = (rest.0 + r, rest.1 + c);
        } else {
            cells.push((r, c));
        }
    }
    let size = |cell: &(f64, f64)| cell.0 + cell.1;
    if size(&rest) >= least {
        cells.push(rest);
    } else if let Some(smallest) = cells.iter_mut().min_by(|a, b| size(a).total_cmp(&size(b))) {
        *smallest = (smallest.0 + rest.0, smallest.1 + rest.1);
    }
    cells
}

/// The numbers of observations, both at least one.
fn totals(reference: &[u64], current: &[u64]) -> Result<(f64, f64), StatisticsError> {
    StatisticsError::check_lengths("cells of two histograms", reference.len(), current.len(), 1)?;
    let total = |cells: &[u64]| cells.iter().map(|&count| u128::from(count)).sum::<u128>();
    let (m, n) = (total(reference), total(current));
    if m == 0 || n == 0 {
        return Err(StatisticsError::TooFew {
            what: "observations of a histogram",
            needed: 1,
            got: 0,
        });
    }
    Ok((m as f64, n as f64))
}

#[cfg(test)]
mod tests;
