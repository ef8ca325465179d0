//! The normal distribution: tail and quantile.

use std::f64::consts::SQRT_2;

/// P(Z > z).
pub(crate) fn upper_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z / SQRT_2)
}

/// The `z` with P(Z ≤ z) = `probability`, by bisection; infinite at 0 and 1.
pub(crate) fn quantile(probability: f64) -> f64 {
    if probability <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if probability >= 1.0 {
        return f64::INFINITY;
    }
    if probability < 0.5 {
        return -tail_quantile(probability);
    }
    tail_quantile(1.0 - probability)
}

/// The `z ≥ 0` with P(Z > z) = `tail`, `tail` at most one half.
fn tail_quantile(tail: f64) -> f64 {
    let (mut low, mut high) = (0.0, 39.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if upper_tail(middle) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by mpmath with 30 digits.
    #[test]
    fn quantiles_have_their_known_values() {
        let check = |probability: f64, expected: f64| {
            let got = quantile(probability);
            assert!(
                (got - expected).abs() < 1e-12,
                "{probability}: {got}, not {expected}"
            );
        };
        check(0.5, 0.0);
        check(0.8, 0.8416212335729142);
        check(0.99, 2.326347874040841);
        check(0.025, -1.9599639845400543);
        check(0.000001, -4.753424308822899);
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(quantile(1.0), f64::INFINITY);
    }
}
