//! The beta function and its incomplete integral, in logarithms.

use crate::gamma::{HALF_LN_TAU, stirling_remainder};

/// ln B(a, b), for positive arguments.
///
/// By Stirling's remainders, so that large arguments do not cancel (Didonato & Morris 1992, TOMS 708, `BETALN`).
pub(crate) fn ln_beta(a: f64, b: f64) -> f64 {
    let n = a + b;
    stirling_remainder(a) + stirling_remainder(b) - stirling_remainder(n) + HALF_LN_TAU - 0.5 * b.ln()
        + (a - 0.5) * (a / n).ln()
        + b * (b / n).ln()
}

/// The continued fraction of the incomplete beta integral: `I_x(a, b) = x^a (1-x)^b / (a B(a, b)) · fraction`.
///
/// Modified Lentz (Numerical Recipes §6.4). `None`: no convergence; it converges in about √max(a, b) steps where
/// `x < (a + 1) / (a + b + 2)`, which every caller sees to.
pub(crate) fn beta_fraction(a: f64, b: f64, x: f64) -> Option<f64> {
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..100_000_u32 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for numerator in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + numerator * d);
            c = away_from_zero(1.0 + numerator / c);
            h *= d * c;
        }
        if (d * c - 1.0).abs() < 1e-15 {
            return h.is_finite().then_some(h);
        }
    }
    None
}

/// The regularised incomplete beta integral `I_x(a, b)`, for positive `a`, `b` and `x` in `[0, 1]`; NaN without
/// convergence.
pub(crate) fn regularised_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - lower_part(1.0 - x, b, a);
    }
    lower_part(x, a, b)
}

fn lower_part(x: f64, a: f64, b: f64) -> f64 {
    let ln_front = a * x.ln() + b * (-x).ln_1p() - a.ln() - ln_beta(a, b);
    ln_front.exp() * beta_fraction(a, b, x).unwrap_or(f64::NAN)
}

/// Lentz's guard: a denominator that is zero becomes one that is only very small.
pub(crate) fn away_from_zero(value: f64) -> f64 {
    if value.abs() < 1e-300 { 1e-300 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by mpmath with 40 digits.
    #[test]
    fn known_values() {
        let check = |got: f64, expected: f64| {
            assert!(
                (got - expected).abs() < 1e-13 * expected.abs().max(1.0),
                "{got}, not {expected}"
            );
        };
        check(ln_beta(1.0, 1.0), 0.0);
        check(ln_beta(3.0, 7.0), -5.529429087511423);
        check(ln_beta(1.0, 5001.0), -8.517393171418904);
        check(ln_beta(401.0, 351.0), -521.2799515390337);
        check(ln_beta(100001.0, 99001.0), -137939.65111313455);
        check(ln_beta(0.5, 12.5), -0.6805020408007404);
        check(regularised_beta(0.5, 3.0, 4.0), 0.65625);
        check(regularised_beta(0.01, 1.0, 200.0), 0.8660203251420381);
        check(regularised_beta(0.97, 40.0, 2.0), 0.6505670322780921);
        check(regularised_beta(0.5, 400.0, 351.0), 0.036753887029217724);
    }
}
