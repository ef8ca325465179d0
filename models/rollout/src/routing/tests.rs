//! Shares, steps, replicas, draws and rules (rollout.md §11.4).

use proptest::prelude::*;

use super::*;

/// 200 000 keys; four standard deviations.
#[test]
fn share_is_the_percent() {
    for (release, percent) in [
        ("a", 1.0),
        ("b", 5.0),
        ("c", 10.0),
        ("d", 25.0),
        ("e", 50.0),
        ("f", 0.1),
    ] {
        let (salt, portion) = (Salt::of(release), Portion::percent(percent));
        let n = 200_000_u32;
        let hits = (0..n)
            .filter(|key| portion.holds(salt.draw(Purpose::Route, &key.to_be_bytes())))
            .count();
        let p = percent / 100.0;
        let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
        let distance = hits as f64 - f64::from(n) * p;
        assert!(
            distance.abs() < 4.0 * sigma,
            "{percent} %: {hits} of {n}, {:.1}σ",
            distance / sigma
        );
    }
}

/// The numbers themselves, by the reference implementation (python-xxhash): replicas of different builds must agree
/// within a release.
#[test]
fn draws_never_change() {
    assert_eq!(Salt::of("r1").0, [130, 243, 233, 198, 149, 220, 107, 141]);
    let check = |release: &str, purpose, key: &str, expected: u64| {
        assert_eq!(
            Salt::of(release).draw(purpose, key.as_bytes()),
            expected,
            "{release} {purpose:?} {key}"
        );
    };
    check("r1", Purpose::Route, "alice", 10_000_023_600_350_544_577);
    check("r1", Purpose::Route, "", 13_705_263_393_535_352_048);
    check("r1", Purpose::Shadow, "alice", 4_883_546_151_692_815_741);
    check("r2", Purpose::Route, "alice", 15_314_287_832_572_736_085);
    let long = "0123456789".repeat(40);
    check("r1", Purpose::Monitor, &long, 2_740_839_679_868_423_770);
}

/// Nothing at all, everything, and what no policy allows.
#[test]
fn portions_at_the_ends() {
    for draw in [0, 1, u64::MAX / 2, u64::MAX] {
        assert!(Portion::percent(100.0).holds(draw) && Portion::percent(1e9).holds(draw));
        for none in [0.0, -1.0, f64::NAN, 1e-30] {
            assert!(!Portion::percent(none).holds(draw), "{none}");
        }
    }
    assert!(Portion::percent(50.0).holds(u64::MAX / 2) && !Portion::percent(50.0).holds(u64::MAX / 2 + 1));
}

/// Being sampled says nothing about being routed, and the next release takes others first.
#[test]
fn draws_of_different_purposes_are_independent() {
    let portion = Portion::percent(10.0);
    let (this, next) = (Salt::of("one"), Salt::of("two"));
    let both = |other: &dyn Fn(&[u8]) -> u64| {
        let keys = (0..100_000_u32).map(u32::to_be_bytes);
        keys.filter(|key| portion.holds(this.draw(Purpose::Route, key)) && portion.holds(other(key)))
            .count()
    };
    // 1 000 expected; 4σ is 126.
    for purpose in [Purpose::Log, Purpose::Shadow, Purpose::Monitor] {
        let both = both(&|key| this.draw(purpose, key));
        assert!((874..=1126).contains(&both), "{purpose:?}: {both}");
    }
    let both = both(&|key| next.draw(Purpose::Route, key));
    assert!((874..=1126).contains(&both), "next release: {both}");
}

proptest! {
    /// A key that is in stays in as the share grows, whatever its length.
    #[test]
    fn admission_is_monotone(key in prop::collection::vec(any::<u8>(), 0..600), a in 0.0_f64..100.0, b in 0.0_f64..100.0) {
        let draw = Salt::of("r").draw(Purpose::Route, &key);
        let (small, large) = (Portion::percent(a.min(b)), Portion::percent(a.max(b)));
        prop_assert!(!small.holds(draw) || large.holds(draw));
    }

    /// The buffer on the stack and the one on the heap give the same draw.
    #[test]
    fn long_keys_are_hashed_whole(key in prop::collection::vec(any::<u8>(), 200..300)) {
        let salt = Salt::of("r");
        let whole = [b"route".as_slice(), &salt.0, &key].concat();
        prop_assert_eq!(salt.draw(Purpose::Route, &key), XxHash3_64::oneshot(&whole));
    }
}

#[test]
fn what_has_no_key_is_drawn_by_its_id() {
    let canary = |percent| Traffic::Canary {
        champion: 2,
        candidate: 3,
        portion: Portion::percent(percent),
        salt: Salt::of("r"),
    };
    let key = Some(b"k".as_slice());
    let check = |traffic: &Traffic, key, version, reason, by: &[u8]| {
        let drawn = traffic.draw(key, b"id");
        let unit = match traffic {
            Traffic::Only(_) => 0,
            Traffic::Canary { salt, .. } => salt.draw(Purpose::Route, by),
        };
        assert_eq!((drawn.version, drawn.reason, drawn.unit), (version, reason, unit));
    };
    check(&canary(100.0), key, 3, RouteReason::Hash, b"k");
    check(&canary(100.0), None, 3, RouteReason::Random, b"id");
    check(&canary(0.0), key, 2, RouteReason::Hash, b"k");
    check(&Traffic::Only(1), key, 1, RouteReason::Only, b"");
}

#[test]
fn a_rule_holds_for_the_values_it_names_or_for_any() {
    let rule = |values: &[&str]| Rule {
        header: "x-tester".to_owned(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
        version: 3,
    };
    let check = |values: &[&str], value: Option<&'static str>, expected| {
        let header = |name: &str| value.map(str::as_bytes).filter(|_| name == "x-tester");
        assert_eq!(rule(values).holds(&header), expected, "{values:?} {value:?}");
    };
    check(&["yes"], Some("yes"), true);
    check(&["yes"], Some("no"), false);
    check(&["yes"], None, false);
    check(&[], Some("no"), true);
    check(&[], None, false);
}

#[test]
fn only_chance_is_counted() {
    use RouteReason::{Hash, Label, Only, Pin, Random, Rule};
    assert!([Hash, Random].into_iter().all(RouteReason::is_randomised));
    assert!(
        ![Pin, Label, Rule, Only]
            .into_iter()
            .any(RouteReason::is_randomised)
    );
}

#[test]
fn the_baseline_gets_as_much_as_the_candidate_and_none_of_its_requests() {
    for (percent, expected) in [
        (0.0, None),
        (10.0, Some(0.1)),
        (49.0, Some(0.49)),
        (50.0, None),
        (90.0, None),
    ] {
        let traffic = Traffic::Canary {
            champion: 2,
            candidate: 3,
            portion: Portion::percent(percent),
            salt: Salt::of("r"),
        };
        assert_eq!(traffic.has_baseline(), expected.is_some(), "{percent}");
        let drawn: Vec<Drawn> = (0..20_000_u32)
            .map(|key| traffic.draw(Some(&key.to_le_bytes()), b""))
            .collect();
        let baseline = drawn.iter().filter(|drawn| traffic.is_baseline(drawn.unit));
        assert!(baseline.clone().all(|drawn| drawn.version == 2), "{percent}");
        let share = baseline.count() as f64 / drawn.len() as f64;
        assert!(
            (share - expected.unwrap_or(0.0)).abs() < 0.02,
            "{percent}: {share}"
        );
    }
    assert!(!Traffic::Only(1).has_baseline() && !Traffic::Only(1).is_baseline(0));
}
