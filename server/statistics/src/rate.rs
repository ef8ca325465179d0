//! Bounds of a rate that hold at every look at once.
//!
//! The likelihood ratio of the uniform mixture against `p` is a martingale, so it stays below 1/α for ever with
//! probability 1 − α; the rates it does not exclude are between the bounds (Robbins 1970; rollout.md §5.6).

use crate::StatisticsError;
use crate::beta::ln_beta;

/// The upper bound U(k, n, α) of the rate of `events` among `units`; 1 where nothing is known.
///
/// Errors: `Range` for an α outside (0, 1) or more events than units.
pub fn upper(events: u64, units: u64, alpha: f64) -> Result<f64, StatisticsError> {
    check(events, units, alpha)?;
    let (k, n) = (events as f64, units as f64);
    if events == units {
        return Ok(1.0);
    }
    if events == 0 {
        return Ok(-((alpha / (n + 1.0)).ln() / n).exp_m1());
    }
    let ln_limit = ln_beta(k + 1.0, n - k + 1.0) + alpha.ln();
    let excluded = |p: f64| k * p.ln() + (n - k) * (-p).ln_1p() < ln_limit;
    let (mut low, mut high) = (k / n, 1.0);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return Ok(high);
        }
        if excluded(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
}

/// The lower bound L(k, n, α), the mirror of [`upper`]; 0 where nothing is known.
///
/// Errors: as [`upper`].
pub fn lower(events: u64, units: u64, alpha: f64) -> Result<f64, StatisticsError> {
    check(events, units, alpha)?;
    Ok(1.0 - upper(units - events, units, alpha)?)
}

fn check(events: u64, units: u64, alpha: f64) -> Result<(), StatisticsError> {
    StatisticsError::check_level("level of a bound", alpha)?;
    if events > units {
        return Err(StatisticsError::Range {
            what: "events of a rate",
            expected: "no more than its units",
            got: events as f64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(k: u64, n: u64, alpha: f64) -> f64 {
        upper(k, n, alpha).expect("the test's counts are in order")
    }

    /// rollout.md §5.6.
    #[test]
    fn table_of_the_design() {
        let check = |k, n, alpha, expected: f64| {
            let got = bound(k, n, alpha);
            assert!(
                (got - expected).abs() < 1e-9,
                "U({k}, {n}, {alpha}) = {got}, not {expected}"
            );
        };
        check(0, 1000, 0.01, 0.011_447_893_401_7);
        check(3, 1000, 0.01, 0.018_330_239_945_6);
        check(50, 5000, 0.05, 0.017_023_192_334_5);
    }

    /// rollout.md §3: what it takes to prove few flips.
    #[test]
    fn no_flip_in_984_pairs_proves_less_than_one_percent() {
        assert!(bound(0, 983, 0.05) >= 0.01 && bound(0, 984, 0.05) < 0.01);
        // The design says 12 421, which rounds ln(1 − p); with 30 digits it is this.
        assert!(bound(0, 12_416, 0.05) >= 0.001 && bound(0, 12_417, 0.05) < 0.001);
    }

    #[test]
    fn bounds_hold_the_rate_and_shrink() {
        for (k, n) in [
            (0, 1),
            (1, 1),
            (1, 2),
            (5, 10),
            (3, 1000),
            (1, 1_000_000_000),
            (999, 1000),
        ] {
            let rate = k as f64 / n as f64;
            let low = lower(k, n, 0.05).expect("the counts are in order");
            assert!((0.0..=rate).contains(&low), "L({k}, {n}) = {low}");
            assert!((rate..=1.0).contains(&bound(k, n, 0.05)), "U({k}, {n})");
            assert!(bound(k, n, 0.01) >= bound(k, n, 0.05));
            assert!(bound(4 * k, 4 * n, 0.05) <= bound(k, n, 0.05));
        }
        assert_eq!(bound(0, 0, 0.05), 1.0);
        assert_eq!(lower(0, 0, 0.05), Ok(0.0));
    }

    #[test]
    fn arguments_are_checked() {
        assert!(upper(2, 1, 0.05).is_err());
        for alpha in [0.0, 1.0, f64::NAN] {
            assert!(upper(0, 1, alpha).is_err() && lower(0, 1, alpha).is_err());
        }
    }
}
