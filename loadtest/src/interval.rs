//! Confidence intervals: how sure a count of successes or a handful of runs can make anyone.
//!
//! Pure arithmetic on `f64`; no clock, no randomness.

/// The two-sided Clopper–Pearson interval of a probability that was seen `successes` times in `trials`.
///
/// Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
/// Biometrika 26 (1934), in the beta-quantile form. It never covers less often than `confidence` says.
/// Without trials it is everything, `(0, 1)`.
pub fn clopper_pearson(successes: u32, trials: u32, confidence: f64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let tail = (1.0 - confidence) / 2.0;
    let (held, missed) = (f64::from(successes), f64::from(trials - successes.min(trials)));
    let low = if held == 0.0 {
        0.0
    } else {
        beta_quantile(tail, held, missed + 1.0)
    };
    let high = if missed == 0.0 {
        1.0
    } else {
        beta_quantile(1.0 - tail, held + 1.0, missed)
    };
    (low, high)
}

/// The value that Student's t with `degrees` of freedom exceeds, on both sides together, with probability
/// `1 - confidence`.
///
/// Infinite when `degrees` is not positive: without degrees of freedom nothing is known.
pub fn student_t(confidence: f64, degrees: f64) -> f64 {
    if degrees.is_nan() || degrees <= 0.0 {
        return f64::INFINITY;
    }
    // P(|T| > t) = I_x(ν/2, 1/2) with x = ν / (ν + t²): DLMF §8.17 and Abramowitz and Stegun 26.7.1.
    let x = beta_quantile(1.0 - confidence, degrees / 2.0, 0.5);
    (degrees * (1.0 - x) / x).sqrt()
}

/// The `x` in `[0, 1]` at which the regularized incomplete beta function reaches `p`, by bisection.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    // 200 halvings also resolve quantiles near zero, where the spacing of f64 is fine.
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if regularized_beta(middle, a, b) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The regularized incomplete beta function `I_x(a, b)`: DLMF 8.17.22, its continued fraction by Lentz's method.
fn regularized_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side of the mean; the other side is its mirror image.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - regularized_beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    front / beta_fraction(x, a, b)
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d, mut fraction) = (1.0_f64, 0.0_f64, 1.0_f64);
    for step in 1..500_u32 {
        let m = f64::from(step / 2);
        let coefficient = if step % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / away_from_zero(1.0 + coefficient * d);
        c = away_from_zero(1.0 + coefficient / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

/// The logarithm of the gamma function for positive `x`: Stirling's series (DLMF 5.11.1) after shifting `x` above 10.
fn ln_gamma(x: f64) -> f64 {
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 10.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let square = shifted * shifted;
    let series =
        (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square) / shifted;
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * std::f64::consts::TAU.ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(got: f64, expected: f64, tolerance: f64) {
        assert!(
            (got - expected).abs() <= tolerance,
            "expected {expected}, got {got}"
        );
    }

    #[test]
    fn clopper_pearson_agrees_with_published_values() {
        // Closed forms: n of n leaves (α/2)^(1/n) as the lower limit, 0 of n its mirror image.
        check(clopper_pearson(5, 5, 0.95).0, 0.025_f64.powf(0.2), 1e-9);
        check(clopper_pearson(0, 5, 0.95).1, 1.0 - 0.025_f64.powf(0.2), 1e-9);
        assert_eq!(clopper_pearson(5, 5, 0.95).1, 1.0);
        assert_eq!(clopper_pearson(0, 5, 0.95).0, 0.0);
        // R: binom.test(8, 10)$conf.int
        let (low, high) = clopper_pearson(8, 10, 0.95);
        check(low, 0.443_904_5, 1e-6);
        check(high, 0.974_789_3, 1e-6);
    }

    #[test]
    fn student_t_agrees_with_published_values() {
        check(student_t(0.95, 1.0), 12.706_204_7, 1e-5);
        check(student_t(0.95, 4.0), 2.776_445_1, 1e-6);
        check(student_t(0.99, 10.0), 3.169_272_7, 1e-6);
        check(student_t(0.95, 1e6), 1.959_966, 1e-4);
        assert_eq!(student_t(0.95, 0.0), f64::INFINITY);
    }

    #[test]
    fn gamma_agrees_with_factorials() {
        check(ln_gamma(1.0), 0.0, 1e-12);
        check(ln_gamma(6.0), 120.0_f64.ln(), 1e-12);
        check(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-12);
    }

    proptest! {
        #[test]
        fn interval_holds_the_observed_share(trials in 1_u32..200, share in 0.0_f64..=1.0) {
            #[expect(clippy::cast_possible_truncation, reason = "a share of at most 200")]
            let successes = (f64::from(trials) * share).round() as u32;
            let (low, high) = clopper_pearson(successes, trials, 0.95);
            let observed = f64::from(successes) / f64::from(trials);
            prop_assert!(0.0 <= low && low <= observed && observed <= high && high <= 1.0);
        }

        #[test]
        fn more_confidence_asks_for_a_wider_interval(trials in 1_u32..100, successes in 0_u32..100) {
            let successes = successes.min(trials);
            let (low95, high95) = clopper_pearson(successes, trials, 0.95);
            let (low99, high99) = clopper_pearson(successes, trials, 0.99);
            prop_assert!(low99 <= low95 && high95 <= high99);
        }
    }
}
