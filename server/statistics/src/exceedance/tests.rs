//! The exceedance test against its definition, and its edges.

use super::*;

fn share(w: f64) -> Share {
    Share::new(w).expect("the test's shares are shares")
}

fn look(batches: (u64, u64), events: (u64, u64)) -> Look {
    let counts = |(canary, control)| Counts { canary, control };
    Look {
        batches: counts(batches),
        events: counts(events),
    }
}

fn unseen() -> Exceedance {
    Exceedance::new(1.5, 2.0).expect("the ratios are in order")
}

/// The formula as rollout.md §5.4 writes it.
fn by_definition(looks: &[(f64, u64, u64)]) -> f64 {
    let grid = RATIOS.map(|theta| {
        looks
            .iter()
            .map(|&(w, k1, k0)| {
                let p = w * theta / (w * theta + 1.0 - w);
                k1 as f64 * (p / w).ln() + k0 as f64 * ((1.0 - p) / (1.0 - w)).ln()
            })
            .sum::<f64>()
            .exp()
    });
    (grid.iter().sum::<f64>() / 9.0).ln()
}

#[test]
fn looks_multiply_by_the_formula() {
    let mut latency = unseen();
    latency.observe(&look((10, 190), (3, 4)), None);
    latency.observe(&look((12, 88), (2, 1)), None);
    let tolerated = |w: f64, r: f64| w * r / (w * r + 1.0 - w);
    let expected = by_definition(&[(tolerated(0.05, 1.5), 3, 4), (tolerated(0.12, 1.5), 2, 1)]);
    assert!(
        (latency.worse() - expected).abs() < 1e-12,
        "{} {expected}",
        latency.worse()
    );
    let expected = by_definition(&[
        (1.0 - tolerated(0.05, 2.0), 4, 3),
        (1.0 - tolerated(0.12, 2.0), 1, 2),
    ]);
    assert!(
        (latency.not_worse() - expected).abs() < 1e-12,
        "{} {expected}",
        latency.not_worse()
    );
}

#[test]
fn sticky_routing_takes_the_share_that_accuses_less() {
    let seen = |routed| {
        let mut latency = unseen();
        latency.observe(&look((10, 190), (3, 4)), routed);
        (latency.worse(), latency.not_worse())
    };
    let (worse, not_worse) = seen(None);
    assert_eq!(seen(Some(share(0.05))), (worse, not_worse));
    let above = seen(Some(share(0.2)));
    assert!(above.0 < worse && above.1 == not_worse);
    let below = seen(Some(share(0.01)));
    assert!(below.0 == worse && below.1 < not_worse);
}

#[test]
fn an_arm_without_batches_says_nothing() {
    let mut latency = unseen();
    latency.observe(&look((0, 100), (0, 50)), None);
    latency.observe(&look((100, 0), (50, 0)), Some(share(0.5)));
    latency.observe(&look((0, 0), (0, 0)), None);
    assert_eq!(latency, unseen());
    assert!(latency.worse().abs() < 1e-15);
}

#[test]
fn evidence_stays_finite() {
    let mut latency = unseen();
    for _ in 0..3 {
        latency.observe(&look((u64::MAX, 1), (u64::MAX, u64::MAX)), None);
        latency.observe(&look((1, u64::MAX), (u64::MAX, 0)), None);
    }
    assert!(latency.worse().is_finite() && latency.not_worse().is_finite());
}

#[test]
fn evidence_survives_being_written_down() {
    let mut latency = unseen();
    latency.observe(&look((13, 187), (3, 4)), None);
    let text = serde_json::to_string(&latency).expect("it is plain data");
    assert_eq!(
        serde_json::from_str::<Exceedance>(&text).expect("it was just written"),
        latency
    );
    let infinite = text.replacen(&latency.worse[0].to_bits().to_string(), "9218868437227405312", 1);
    assert!(serde_json::from_str::<Exceedance>(&infinite).is_err());
}
