//! Evidence against its table, against quadrature, and as a running sum.

use proptest::prelude::*;

use super::*;
use crate::random::SplitMix64;

fn share(w: f64) -> Share {
    Share::new(w).expect("the test's shares are shares")
}

fn counts(canary: u64, control: u64) -> Counts {
    Counts { canary, control }
}

/// ln E by quadrature of its definition: 5-point Gauss-Legendre on panels around the peak of the integrand, out to
/// where it has fallen by e⁻⁵⁰ or to the border.
fn by_quadrature(events: Counts, w: f64) -> f64 {
    let (k1, k0) = (events.canary as f64, events.control as f64);
    let ln_f = |p: f64| {
        let canary = if k1 == 0.0 { 0.0 } else { k1 * (p / w).ln() };
        let control = if k0 == 0.0 {
            0.0
        } else {
            k0 * ((1.0 - p) / (1.0 - w)).ln()
        };
        canary + control
    };
    let peak = if k1 == 0.0 { w } else { (k1 / (k1 + k0)).max(w) };
    let top = ln_f(peak);
    let edge = |border: f64| {
        if ln_f(border) > top - 50.0 {
            return border;
        }
        let (mut inside, mut outside) = (peak, border);
        for _ in 0..200 {
            let middle = 0.5 * (inside + outside);
            if ln_f(middle) > top - 50.0 {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        outside
    };
    let mut sum = 0.0;
    for (from, to) in [(edge(w), peak), (peak, edge(1.0))] {
        let width = (to - from) / 1000.0;
        for panel in 0..1000 {
            let centre = from + (f64::from(panel) + 0.5) * width;
            for (node, weight) in [
                (0.0, 128.0 / 225.0),
                (0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
                (-0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
                (0.906_179_845_938_664, 0.236_926_885_056_189_08),
                (-0.906_179_845_938_664, 0.236_926_885_056_189_08),
            ] {
                sum += 0.5 * width * weight * (ln_f(centre + 0.5 * width * node) - top).exp();
            }
        }
    }
    top + sum.ln() - (1.0 - w).ln()
}

/// rollout.md §5.3: values by quadrature with 60 digits.
#[test]
fn table_of_the_design() {
    let check = |k1, k0, w, expected: f64| {
        let got = log_e(counts(k1, k0), share(w));
        assert!(
            (got - expected).abs() < 1e-9,
            "({k1}, {k0}, {w}): {got}, not {expected}"
        );
    };
    check(1, 0, 0.05, 2.351_375_257_16);
    check(3, 0, 0.01, 12.439_266_522_7);
    check(0, 100, 0.05, -4.615_120_516_84);
    check(12, 9, 0.5, -0.736_351_855_508);
    check(5, 40, 0.05, -0.789_424_363_644);
    check(30, 200, 0.05, 8.233_143_983_63);
    check(0, 5000, 0.5, -8.517_393_171_42);
    check(400, 350, 0.5, -0.761_011_081_116);
    check(2, 3000, 0.01, -7.940_791_011_32);
    check(60, 20, 0.25, 42.115_201_632_7);
}

#[test]
fn no_events_are_no_evidence() {
    for w in [1e-12, 0.001, 0.5, 0.999, 1.0 - 1e-12] {
        assert_eq!(log_e(Counts::default(), share(w)), 0.0);
    }
}

/// 1 000 draws, counts up to 10⁵ of every size and every fourth one zero, w in [10⁻³, .999].
#[test]
fn random_counts_agree_with_quadrature() {
    let mut random = SplitMix64::new(11);
    let mut count = || {
        if random.below(4) == 0 {
            return 0;
        }
        let bits = random.below(17);
        random.below((2 << bits).min(100_001)) as u64
    };
    let draws: Vec<_> = (0..1000).map(|_| counts(count(), count())).collect();
    let mut random = SplitMix64::new(12);
    for events in draws {
        let w = match random.below(3) {
            0 => 1e-3 + 0.998 * random.unit(),
            1 => (1e-3_f64.ln() * random.unit()).exp().clamp(1e-3, 0.999),
            _ => {
                let k = (events.canary + events.control) as f64 + 1.0;
                (events.canary as f64 / k + 0.05 * random.unit()).clamp(1e-3, 0.999)
            }
        };
        let (got, expected) = (log_e(events, share(w)), by_quadrature(events, w));
        assert!(
            (got - expected).abs() < 1e-8,
            "{events:?}, {w}: {got}, by quadrature {expected}"
        );
    }
}

proptest! {
    /// Rises with the canary's events, falls with the control's, is always a finite number.
    #[test]
    fn evidence_is_finite_and_monotone(k1 in 0_u64..100_000, k0 in 0_u64..100_000, w in 0.001_f64..0.999) {
        let w = share(w);
        let here = log_e(counts(k1, k0), w);
        prop_assert!(here.is_finite());
        prop_assert!(log_e(counts(k1 + 1, k0), w) > here);
        prop_assert!(log_e(counts(k1, k0 + 1), w) < here);
    }

    #[test]
    fn extreme_arguments_stay_finite(k1 in any::<u32>(), k0 in any::<u32>(), exponent in 0.1_f64..300.0, near_one: bool) {
        let small = share(10_f64.powf(-exponent));
        let w = if near_one { small.other() } else { small };
        prop_assert!(log_e(counts(u64::from(k1), u64::from(k0)), w).is_finite());
    }
}

/// At the mean the continued fraction is slowest: 3 900 steps for 10⁹ events.
#[test]
fn a_billion_events_converge() {
    for (k1, k0, w) in [(500_000_000, 500_000_000, 0.5), (50_000_000, 950_000_000, 0.05)] {
        // Laplace's approximation, at the mean half of the peak's area: ½ √(2π w(1−w)/n) / (1−w).
        let expected = 0.5 * (std::f64::consts::TAU * w * (1.0 - w) / 1e9).sqrt() / (1.0 - w);
        let got = log_e(counts(k1, k0), share(w));
        assert!(
            (got - expected.ln()).abs() < 1e-3,
            "({k1}, {k0}, {w}): {got}, not {}",
            expected.ln()
        );
    }
}

#[test]
fn huge_counts_are_finite() {
    for (k1, k0) in [(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        for w in [1e-9, 0.05, 0.5, 0.95] {
            assert!(log_e(counts(k1, k0), share(w)).is_finite(), "({k1}, {k0}, {w})");
        }
    }
}

/// rollout.md §5.6.
#[test]
fn non_inferiority_has_its_check_value() {
    let mut evidence = Evidence::new(share(0.05), 1.0, 2.0).expect("the ratios are in order");
    evidence.record_counts(counts(9, 400));
    assert!((evidence.not_worse() - 16.298_005_613_9).abs() < 1e-9);
}

#[test]
fn stages_add_up_and_counters_start_again() {
    let mut evidence = Evidence::new(share(0.05), 1.0, 2.0).expect("the ratios are in order");
    evidence.record(Arm::Canary);
    assert!((evidence.worse() - 2.351_375_257_16).abs() < 1e-9);
    evidence.advance(share(0.5));
    assert_eq!(evidence.events(), Counts::default());
    assert!((evidence.worse() - 2.351_375_257_16).abs() < 1e-9);
    evidence.record_counts(counts(12, 9));
    assert!((evidence.worse() - (2.351_375_257_16 - 0.736_351_855_508)).abs() < 2e-9);
    assert_eq!(evidence.total(), counts(13, 9));
    evidence.advance(share(0.5));
    assert_eq!(evidence.events(), counts(12, 9), "the share is the same");
}

#[test]
fn tolerance_takes_the_place_of_the_share() {
    let mut evidence = Evidence::new(share(0.05), 1.5, 2.0).expect("the ratios are in order");
    evidence.record_counts(counts(5, 40));
    let tolerated = share(0.075 / (0.075 + 0.95));
    assert!((evidence.worse() - log_e(counts(5, 40), tolerated)).abs() < 1e-12);
}

#[test]
fn ratios_are_checked() {
    for (tolerance, margin) in [(0.9, 2.0), (f64::NAN, 2.0), (2.0, 1.5), (1.0, f64::INFINITY)] {
        assert!(
            Evidence::new(share(0.1), tolerance, margin).is_err(),
            "{tolerance}, {margin}"
        );
    }
}

#[test]
fn evidence_survives_being_written_down() {
    let mut evidence = Evidence::new(share(0.05), 1.0, 2.0).expect("the ratios are in order");
    evidence.record_counts(counts(3, 17));
    evidence.advance(share(0.25));
    evidence.record_counts(counts(1, 2));
    let text = serde_json::to_string(&evidence).expect("it is plain data");
    let read: Evidence = serde_json::from_str(&text).expect("it was just written");
    assert_eq!(read, evidence);
    assert_eq!(read.worse().to_bits(), evidence.worse().to_bits());
}
