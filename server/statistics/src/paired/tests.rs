//! McNemar against sums of binomials, Tango's bound against a search of the likelihood and by coverage.

use super::*;
use crate::random::SplitMix64;

fn pairs(rows: u64, lost: u64, won: u64) -> Pairs {
    Pairs { rows, lost, won }
}

/// P(X ≥ lost) for X ~ Binomial(lost + won, ½), summed.
fn binomial_tail(lost: u64, won: u64) -> f64 {
    let n = lost + won;
    let mut term = 0.5_f64.powi(i32::try_from(n).expect("the test's counts are small"));
    let mut tail = 0.0;
    for k in 0..=n {
        if k >= lost {
            tail += term;
        }
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    tail
}

#[test]
fn mcnemar_is_the_binomial_tail() {
    for (lost, won) in [
        (0, 0),
        (0, 5),
        (5, 0),
        (1, 1),
        (12, 3),
        (3, 12),
        (60, 40),
        (200, 250),
    ] {
        let (got, expected) = (pairs(1000, lost, won).mcnemar(), binomial_tail(lost, won));
        assert!(
            (got - expected).abs() < 1e-12,
            "{lost}, {won}: {got}, not {expected}"
        );
    }
    let two = pairs(1000, 12, 3).mcnemar_two_sided();
    assert!((two - 2.0 * binomial_tail(12, 3)).abs() < 1e-12);
    assert_eq!(pairs(10, 2, 2).mcnemar_two_sided(), 1.0);
}

#[test]
fn rows_are_counted_by_who_was_right() {
    let got = Pairs::count(&[1, 1, 0, 0, 1], &[1, 1, 0, 1, 0], &[1, 0, 1, 0, 0]).expect("lengths match");
    assert_eq!(got, pairs(5, 2, 1));
    assert!((got.drop() - 0.2).abs() < 1e-15);
    assert!(Pairs::count(&[1], &[1, 1], &[1]).is_err());
    assert!(Pairs::count::<u8>(&[], &[], &[]).is_err());
}

/// The score uses the share of won rows that maximises the trinomial likelihood at a given drop.
#[test]
fn score_uses_the_likeliest_share() {
    for (n, lost, won, delta) in [(100, 12, 5, 0.15), (1000, 30, 40, 0.01), (50, 3, 1, 0.3)] {
        let sample = pairs(n, lost, won);
        let (n, lost, won) = (n as f64, lost as f64, won as f64);
        let likelihood = |q: f64| {
            let (p, rest) = (q + delta, 1.0 - 2.0 * q - delta);
            lost * p.ln() + won * q.ln() + (n - lost - won) * rest.ln()
        };
        let (mut low, mut high) = (1e-12, 0.5 * (1.0 - delta) - 1e-12);
        for _ in 0..200 {
            let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if likelihood(a) < likelihood(b) {
                low = a
            } else {
                high = b
            }
        }
        let share = 0.5 * (low + high);
        let expected = (lost - won - n * delta) / (n * (2.0 * share + delta * (1.0 - delta))).sqrt();
        let got = sample.score(delta);
        assert!((got - expected).abs() < 1e-5, "{got}, not {expected}");
    }
}

/// 4 000 samples each of 500 rows with a drop of one point: the 95 % bound lies above it in 95 ± 1.4 % (4σ).
#[test]
fn upper_bound_covers_the_drop() {
    let mut random = SplitMix64::new(5);
    for (lose, win) in [(0.06, 0.05), (0.11, 0.10)] {
        let covered = (0..4000)
            .filter(|_| {
                let mut sample = pairs(500, 0, 0);
                for _ in 0..500 {
                    let u = random.unit();
                    sample.lost += u64::from(u < lose);
                    sample.won += u64::from((lose..lose + win).contains(&u));
                }
                sample.drop_upper(0.05).expect("the counts are in order") >= 0.01
            })
            .count();
        assert!(
            (3745..=3855).contains(&covered),
            "{covered} of 4000 at {lose}, {win}"
        );
    }
}

#[test]
fn bounds_hold_the_drop_and_are_checked() {
    for (n, lost, won) in [
        (1, 0, 0),
        (1, 1, 0),
        (1, 0, 1),
        (1000, 0, 0),
        (1000, 500, 500),
        (1000, 1000, 0),
    ] {
        let sample = pairs(n, lost, won);
        let upper = sample.drop_upper(0.01).expect("the counts are in order");
        assert!((sample.drop()..=1.0).contains(&upper), "{sample:?}: {upper}");
    }
    assert!(pairs(0, 0, 0).drop_upper(0.05).is_err());
    assert!(pairs(3, 2, 2).drop_upper(0.05).is_err());
    assert!(pairs(3, 1, 1).drop_upper(0.0).is_err());
}
