//! Slow degradation: the slope of a metric over successive versions.

use crate::StatisticsError;

/// The median slope over all pairs of points, per step, for values at equal steps (Theil 1950, Sen 1968).
///
/// Up to 29 % of the points may be outliers without moving it far.
///
/// Errors: `TooFew` below two values; `NotFinite`. Cost: quadratic in the values.
pub fn slope(values: &[f64]) -> Result<f64, StatisticsError> {
    StatisticsError::check_lengths("values of a trend", values.len(), values.len(), 2)?;
    StatisticsError::check_finite("values of a trend", values)?;
    let mut slopes = Vec::with_capacity(values.len() * (values.len() - 1) / 2);
    for (later, value) in values.iter().enumerate() {
        for (earlier, before) in values.iter().take(later).enumerate() {
            slopes.push((value - before) / (later - earlier) as f64);
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let middle = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
    let before = slopes.get((slopes.len() - 1) / 2).copied().unwrap_or_default();
    Ok(0.5 * (middle + before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_the_median_of_pairs() {
        let check = |values: &[f64], expected: f64| {
            let got = slope(values).expect("the values are in order");
            assert!(
                (got - expected).abs() < 1e-15,
                "{values:?}: {got}, not {expected}"
            );
        };
        check(&[1.0, 3.0], 2.0);
        check(&[5.0, 5.0, 5.0], 0.0);
        check(&[0.9, 0.897, 0.894, 0.891, 0.888], -0.003);
        // One outlier of five does not matter.
        check(&[0.0, 1.0, 2.0, 100.0, 4.0], 1.0);
        // An even number of slopes: −3, −1, −1/3, 1, 1, 1.
        check(&[0.0, 1.0, 2.0, -1.0], 1.0 / 3.0);
    }

    #[test]
    fn values_are_checked() {
        assert!(slope(&[1.0]).is_err() && slope(&[1.0, f64::NAN]).is_err());
    }
}
