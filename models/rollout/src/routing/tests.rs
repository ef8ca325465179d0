//! Shares, steps, replicas, and the order of wishes (rollout.md §11.4).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::RolloutError;

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

fn table() -> RouteTable {
    RouteTable {
        versions: BTreeSet::from([1, 2, 3]),
        labels: BTreeMap::from([("stable".to_owned(), 2), ("gone".to_owned(), 9)]),
        rules: vec![
            Rule {
                header: "x-tester".to_owned(),
                values: BTreeSet::new(),
                version: 9,
            },
            Rule {
                header: "x-tester".to_owned(),
                values: BTreeSet::from(["yes".to_owned()]),
                version: 3,
            },
        ],
        traffic: Traffic::Canary {
            champion: 2,
            candidate: 3,
            portion: Portion::percent(100.0),
            salt: Salt::of("r"),
        },
    }
}

#[test]
fn wishes_count_in_order() {
    let table = table();
    let check = |pin, label, value: &'static str, key: Option<&'static [u8]>, expected| {
        let request = Request {
            pin,
            label,
            header: &|name| (name == "x-tester").then_some(value),
            key,
            id: b"id",
        };
        let got = table
            .choose(&request)
            .map(|chosen| (chosen.version, chosen.reason));
        assert_eq!(got, expected);
    };
    let key = Some(b"k".as_slice());
    let unknown = |version| Err(RolloutError::UnknownVersion { version });
    check(Some(1), Some("stable"), "yes", key, Ok((1, RouteReason::Pin)));
    check(None, Some("stable"), "yes", key, Ok((2, RouteReason::Label)));
    check(None, None, "yes", key, Ok((3, RouteReason::Rule)));
    check(None, None, "no", key, Ok((3, RouteReason::Hash)));
    check(None, None, "no", None, Ok((3, RouteReason::Random)));
    check(Some(9), None, "no", None, unknown(9));
    check(None, Some("gone"), "no", None, unknown(9));
    let label = RolloutError::UnknownLabel { label: "new".into() };
    check(None, Some("new"), "no", None, Err(label));
}

#[test]
fn only_chance_is_counted() {
    use RouteReason::{Fallback, Hash, Label, Only, Pin, Random, Rule};
    assert!([Hash, Random].into_iter().all(RouteReason::is_randomised));
    assert!(
        ![Pin, Label, Rule, Fallback, Only]
            .into_iter()
            .any(RouteReason::is_randomised)
    );
}

/// 100 000 keys over weights 1 : 2 : 5; four standard deviations, and the intervals keep their order.
#[test]
fn weights_are_shares() {
    assert!(
        Split::new(&[]).is_none()
            && Split::new(&[(1, 0.0)]).is_none()
            && Split::new(&[(1, f64::NAN)]).is_none()
    );
    let weighted = RouteTable {
        traffic: Traffic::Weighted {
            split: Split::new(&[(1, 1.0), (2, 2.0), (3, 5.0)]).expect("the weights are weights"),
            salt: Salt::of("experiment"),
        },
        ..table()
    };
    let mut counts = [0_u32; 4];
    for key in 0..100_000_u32 {
        let request = Request {
            pin: None,
            label: None,
            header: &|_| None,
            key: Some(&key.to_be_bytes()),
            id: b"",
        };
        let chosen = weighted.choose(&request).expect("all versions are there");
        counts[usize::try_from(chosen.version).expect("small")] += 1;
    }
    for (version, p) in [(1, 0.125), (2, 0.25), (3, 0.625)] {
        let sigma = (1e5 * p * (1.0_f64 - p)).sqrt();
        let distance = f64::from(counts[version]) - 1e5 * p;
        assert!(distance.abs() < 4.0 * sigma, "{version}: {counts:?}");
    }
}
