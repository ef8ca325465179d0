//! Distances against their definitions, worked out with mpmath.

use super::*;

fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() < 1e-9, "{what}: {got}, not {expected}");
}

const REFERENCE: [u64; 5] = [120, 300, 410, 130, 40];
const CURRENT: [u64; 5] = [70, 140, 190, 75, 25];

#[test]
fn kolmogorov_smirnov_of_two_histograms() {
    let got = kolmogorov_smirnov(&REFERENCE, &CURRENT).expect("cells match");
    close(got.effect, 0.03, "D");
    close(got.p, 0.925085680994174, "p");
}

/// rollout.md §5.5: at α = .01 and a large control, D = .05, .02 and .01 are critical at these sizes.
#[test]
fn critical_sizes_of_the_design() {
    for (d, n) in [(0.05, 1060.0_f64), (0.02, 6623.0), (0.01, 26_492.0)] {
        assert!(kolmogorov_tail(n.sqrt() * d) < 0.01, "{d}");
        assert!(kolmogorov_tail((n - 1.0).sqrt() * d) > 0.01, "{d}");
    }
}

#[test]
fn tail_is_a_tail_on_both_sides_of_the_switch() {
    close(
        kolmogorov_tail(1.0 - 1e-12),
        kolmogorov_tail(1.0),
        "at the switch",
    );
    let mut last = 1.0;
    for step in 0..400 {
        let p = kolmogorov_tail(f64::from(step) * 0.01);
        assert!((0.0..=last).contains(&p), "{step}: {p} after {last}");
        last = p;
    }
}

#[test]
fn stability_index_of_two_histograms() {
    close(
        stability_index(&REFERENCE, &CURRENT).expect("cells match"),
        0.012088865176462193,
        "PSI",
    );
    close(
        stability_index(&REFERENCE, &REFERENCE).expect("cells match"),
        0.0,
        "PSI",
    );
    let one_sided = stability_index(&[100, 0], &[0, 100]).expect("cells match");
    assert!(one_sided.is_finite() && one_sided > 5.0, "{one_sided}");
}

#[test]
fn chi_squared_of_two_histograms() {
    let got = chi_squared(&REFERENCE, &CURRENT).expect("cells match");
    close(got.effect, 0.05165279959383391, "V");
    close(got.p, 0.40573287167634625, "p");
}

#[test]
fn small_cells_are_merged() {
    // Of 15 : 15, a cell needs ten observations to expect five on each side.
    let plain = chi_squared(&[10, 5], &[4, 11]).expect("cells match");
    assert_eq!(
        chi_squared(&[10, 2, 3, 0], &[4, 9, 2, 0]).expect("cells match"),
        plain
    );
    // The rest, 1 : 1, joins the smaller cell.
    assert_eq!(
        chi_squared(&[10, 4, 1], &[4, 10, 1]).expect("cells match").effect,
        {
            let whole = chi_squared(&[11, 4], &[5, 10]).expect("cells match");
            whole.effect
        }
    );
    let alone = chi_squared(&[3, 0], &[2, 1]).expect("cells match");
    assert_eq!((alone.effect, alone.p), (0.0, 1.0));
}

#[test]
fn histograms_must_match_and_hold_something() {
    for f in [kolmogorov_smirnov, chi_squared] {
        assert!(matches!(f(&[1, 2], &[1]), Err(StatisticsError::Lengths { .. })));
        assert!(matches!(f(&[0, 0], &[1, 1]), Err(StatisticsError::TooFew { .. })));
        assert!(matches!(f(&[], &[]), Err(StatisticsError::TooFew { .. })));
        assert!(f(&[u64::MAX, u64::MAX], &[u64::MAX, 1]).is_ok());
    }
}
