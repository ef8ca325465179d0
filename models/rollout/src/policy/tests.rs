//! Presets, overrides, and refusals that name their key.

use std::time::Duration;

use super::*;
use crate::PolicyError;
use crate::state::Approvable;

fn read(text: &str) -> RawPolicy {
    toml::from_str(text).expect("the test's text is a policy")
}

fn policy(text: &str) -> Policy {
    Policy::new(read(text), &Built::all()).expect("the test's policy is valid")
}

/// What the design asks of every medium and high policy besides its tier.
const DATA: &str = "[gates.quality]\ndata = \"val.parquet\"\n[rollout.shadow]\ntol = 0.1\n";
const LIMITS: &str = "[gates.performance]\nmax_p99 = \"20ms\"\n";

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// rollout.md §8, row by row.
#[test]
fn low_preset() {
    let low = policy("risk = \"low\"");
    assert_eq!(low.on_new_version, OnNewVersion::Canary);
    assert_eq!((low.alpha, low.alpha_pass, low.keep_warm), (0.01, 0.05, 1));
    assert_eq!(low.shadow, None);
    let step = Step {
        percent: 10.0,
        min: minutes(1),
        max: minutes(30),
        min_units: 100,
    };
    assert_eq!(low.steps, [step]);
    assert_eq!(low.bake, Duration::ZERO);
    assert_eq!(low.gates.signature, Trust::Recorded);
    assert!(low.gates.golden.is_some() && low.gates.quality.is_none() && low.gates.trend.is_none());
    assert_eq!((low.approval.quorum, low.approval.before.len()), (0, 0));
    let metrics: Vec<_> = low
        .checks
        .iter()
        .map(|check| (check.metric, check.critical))
        .collect();
    assert_eq!(
        metrics,
        [
            (Metric::Errors, true),
            (Metric::Latency, true),
            (Metric::Output, false)
        ]
    );
    assert_eq!(low.alpha_per_check(), 0.005);
}

#[test]
fn checks_of_every_preset() {
    let low = policy("risk = \"low\"");
    let errors = Margins {
        tolerance: 1.0,
        margin: 2.0,
        abs_ok: Some(0.005),
    };
    let latency = Margins {
        tolerance: 1.5,
        margin: 2.0,
        abs_ok: Some(0.03),
    };
    assert_eq!(low.checks[0].method, Method::Events(errors));
    assert_eq!(
        low.checks[1].method,
        Method::Exceed {
            margins: latency,
            slack: Duration::from_micros(100),
        }
    );
    let distribution = |max_psi| Method::Distribution {
        classes: false,
        warn_distance: 0.05,
        max_psi,
    };
    assert_eq!(low.checks[2].method, distribution(None));
    let medium = policy(&format!("risk = \"medium\"\n{DATA}"));
    assert_eq!(medium.checks[2].method, distribution(Some(0.25)));
    assert_eq!(medium.checks[3].method, Method::Flips { max_flip_rate: 0.05 });
    assert!(medium.checks[2].critical && medium.checks[3].critical);
    assert!(
        (medium.alpha_per_check() - 0.01 / 3.0).abs() < 1e-15,
        "errors, latency and flips"
    );
}

#[test]
fn medium_preset() {
    let medium = policy(&format!("risk = \"medium\"\n{DATA}"));
    let shadow = medium.shadow.as_ref().expect("it has one");
    assert_eq!((shadow.percent, shadow.min_units), (20.0, 500));
    let path: Vec<_> = medium
        .steps
        .iter()
        .map(|step| (step.percent, step.min, step.max, step.min_units))
        .collect();
    assert_eq!(
        path,
        [
            (5.0, minutes(2), minutes(30), 200),
            (25.0, minutes(5), minutes(60), 500),
            (50.0, minutes(5), minutes(60), 500),
        ]
    );
    assert_eq!(medium.bake, minutes(60));
    assert_eq!(medium.gates.signature, Trust::Pinned);
    let quality = medium.gates.quality.as_ref().expect("it has one");
    assert!(
        !quality.inconclusive_fails && medium.gates.trend.is_none() && medium.gates.performance.is_none()
    );
    assert_eq!((medium.approval.quorum, medium.approval.not_author), (1, false));
    assert!(medium.approval.before.contains(&Approvable::Promoting));
}

#[test]
fn high_preset() {
    let high = policy(&format!("risk = \"high\"\n{DATA}{LIMITS}"));
    assert_eq!(high.shadow.as_ref().map(|shadow| shadow.min_units), Some(2000));
    let path: Vec<_> = high
        .steps
        .iter()
        .map(|step| (step.percent, step.min, step.max, step.min_units))
        .collect();
    assert_eq!(
        path,
        [
            (1.0, minutes(10), minutes(120), 300),
            (5.0, minutes(10), minutes(120), 500),
            (25.0, minutes(15), minutes(180), 1000),
            (50.0, minutes(15), minutes(180), 1000),
        ]
    );
    assert_eq!(high.bake, minutes(24 * 60));
    assert_eq!(high.gates.signature, Trust::Required);
    assert!(
        high.gates
            .quality
            .as_ref()
            .is_some_and(|quality| quality.inconclusive_fails)
    );
    assert!(high.gates.trend.is_some() && high.gates.slices && high.gates.performance.is_some());
    assert_eq!((high.approval.quorum, high.approval.not_author), (2, true));
}

/// The example of rollout.md §9, as a model.toml has it, with what the tier asks for besides.
#[test]
fn example_of_the_design() {
    let example = policy(
        r#"
        risk = "high"
        [decision]
        output = "score"
        kind = "threshold"
        threshold = 0.5
        labels = ["ok", "fraud"]
        [gates.golden]
        file = "golden.parquet"
        max_abs_diff = 1e-4
        [gates.quality]
        data = "val.parquet"
        metric = "auc"
        max_drop = 0.005
        [gates.trend]
        last = 10
        best_minus = 0.01
        min_slope = -0.0005
        [gates.performance]
        max_p99 = "20ms"
        [rollout]
        on_new_version = "canary"
        route_key = ["header:x-user-id", "input:customer_id"]
        alpha = 0.01
        keep_warm = 2
        bake = "24h"
        on_inconclusive = "hold"
        [rollout.shadow]
        percent = 20
        min_units = 2000
        max_flip_rate = 0.02
        [[rollout.step]]
        percent = 1
        min = "10m"
        max = "2h"
        min_units = 300
        [[rollout.step]]
        percent = 25
        min = "15m"
        min_units = 1000
        [[rollout.check]]
        metric = "latency"
        test = "exceed"
        tolerance = 1.5
        abs_ok = 0.03
        critical = true
        [rollout.approval]
        before = ["promoting"]
        quorum = 2
        "#,
    );
    assert_eq!(
        example.route_key,
        [
            KeySource::Header("x-user-id".into()),
            KeySource::Input("customer_id".into()),
        ]
    );
    assert_eq!(example.steps.len(), 2);
    assert_eq!(example.steps[1].max, minutes(180));
    assert_eq!(
        example.decision.as_ref().map(|decision| decision.kind),
        Some(DecisionKind::Threshold(0.5))
    );
    let flips = example
        .checks
        .iter()
        .find(|check| check.metric == Metric::Flips)
        .expect("there is shadow");
    assert_eq!(flips.method, Method::Flips { max_flip_rate: 0.02 });
    let path = example.path(true);
    assert!(path.shadow && path.bake && path.steps == 2 && path.approvals.contains(&Approvable::Promoting));
    let written = serde_json::to_value(&example).expect("a policy can be written");
    assert_eq!(written["bake"], "1d");
    assert_eq!(written["steps"][0]["max"], "2h");
    assert_eq!(written["checks"][1]["test"], "exceed");
    assert_eq!(written["checks"][1]["tolerance"], 1.5);
}

#[test]
fn without_a_tier_there_is_no_release_and_nothing_is_asked() {
    let none = Policy::new(read(""), &Built::default()).expect("nothing is asked for");
    assert!(!none.is_active());
    let canary = Policy::new(read("[rollout]\non_new_version = \"canary\""), &Built::default());
    assert!(matches!(canary, Err(PolicyError::NotBuilt { .. })), "{canary:?}");
}

#[test]
fn checks_are_changed_and_left_out() {
    let changed = policy(
        "risk = \"low\"\n[[rollout.check]]\nmetric = \"output\"\nenabled = false\n\
         [[rollout.check]]\nmetric = \"errors\"\ntolerance = 3.0\n\
         [[rollout.check]]\nmetric = \"quality\"\ncritical = false",
    );
    let metrics: Vec<_> = changed
        .checks
        .iter()
        .map(|check| (check.metric, check.critical))
        .collect();
    assert_eq!(
        metrics,
        [
            (Metric::Errors, true),
            (Metric::Latency, true),
            (Metric::Quality, false)
        ]
    );
    let Method::Events(errors) = changed.checks[0].method else {
        panic!("errors are events")
    };
    assert_eq!(
        (errors.tolerance, errors.margin, errors.abs_ok),
        (3.0, 4.0, Some(0.005))
    );
    assert_eq!(changed.alpha_per_check(), 0.005, "what only warns spends nothing");
}

#[test]
fn refusals_name_the_key() {
    let check = |text: &str, expected: &str| {
        let refused = Policy::new(read(text), &Built::all()).expect_err(text);
        assert!(refused.to_string().starts_with(expected), "{text}: {refused}");
    };
    check("[rollout]\nalpha = 1.0", "`rollout.alpha`");
    check("[rollout]\nroute_key = [\"cookie:a\"]", "`rollout.route_key`");
    check("[rollout]\nhard_limit_ms = 0", "`rollout.hard_limit_ms`");
    check("[rollout]\nstep = []", "`rollout.step`");
    check(
        "[[rollout.step]]\npercent = 100\nmin = \"1m\"",
        "`rollout.step[0].percent`",
    );
    check(
        "[[rollout.step]]\npercent = nan\nmin = \"1m\"",
        "`rollout.step[0].percent`",
    );
    check(
        "[[rollout.step]]\npercent = 5\nmin = \"1m\"\n[[rollout.step]]\npercent = 5\nmin = \"1m\"",
        "`rollout.step[1].percent`",
    );
    check(
        "[[rollout.step]]\npercent = 5\nmin = \"1m\"\nmax = \"30s\"",
        "`rollout.step[0].max`",
    );
    check("[rollout.shadow]\npercent = 101", "`rollout.shadow.percent`");
    check(
        "[rollout.shadow]\nmax_flip_rate = 1",
        "`rollout.shadow.max_flip_rate`",
    );
    check(
        "[rollout.approval]\nbefore = [\"shadow\"]\nquorum = 0",
        "`rollout.approval.quorum`",
    );
    check(
        "[[rollout.check]]\nmetric = \"errors\"\ntest = \"exceed\"",
        "`rollout.check.errors.test`",
    );
    check(
        "[[rollout.check]]\nmetric = \"errors\"\nmax_psi = 1.0",
        "`rollout.check.errors.max_psi`",
    );
    check(
        "[[rollout.check]]\nmetric = \"errors\"\ntolerance = 0.5",
        "`rollout.check.errors.tolerance`",
    );
    check("[[rollout.check]]\nmetric = \"flips\"", "`rollout.check.flips`");
    check(
        "risk = \"low\"\n[rollout.shadow]\npercent = 5",
        "`rollout.shadow.tol`",
    );
    check(
        "risk = \"low\"\n[rollout.shadow]\npercent = 5\n[decision]\noutput = \"y\"\nkind = \"none\"",
        "`rollout.shadow.tol`",
    );
    check(
        "[[rollout.check]]\nmetric = \"errors\"\n[[rollout.check]]\nmetric = \"errors\"",
        "`rollout.check.errors`",
    );
    check("risk = \"medium\"", "`gates.quality.data`");
    check(&format!("risk = \"high\"\n{DATA}"), "`gates.performance`");
    check("[gates.trend]\nlast = 4", "`gates.trend.last`");
    check("[gates.trend]\nlast = 5", "`gates.trend`");
    check("[gates.golden]\ninterval = \"0s\"", "`gates.golden.interval`");
    check("[gates.golden]\nmax_abs_diff = -1", "`gates.golden.max_abs_diff`");
    check(
        "[decision]\noutput = \"y\"\nkind = \"threshold\"",
        "`decision.threshold`",
    );
    check(
        "[decision]\noutput = \"y\"\nkind = \"argmax\"\nthreshold = 1",
        "`decision.threshold`",
    );
    check(
        "[decision]\noutput = \"y\"\nkind = \"threshold\"\nthreshold = 1\nlabels = [\"a\"]",
        "`decision.labels`",
    );
}

#[test]
fn from_medium_up_something_looks_at_predictions() {
    let blind = "risk = \"medium\"\n[gates.quality]\nenabled = false\n[rollout.shadow]\nenabled = false\n\
                 [[rollout.check]]\nmetric = \"output\"\nenabled = false";
    let refused = Policy::new(read(blind), &Built::all()).expect_err("it is blind");
    assert!(
        refused
            .to_string()
            .starts_with("`risk`: nothing looks at predictions"),
        "{refused}"
    );
    policy(&blind.replace("medium", "low"));
    policy(&format!("{blind}\n[[rollout.check]]\nmetric = \"quality\""));
}

/// Leaving out any one element that a tier uses is refused by its name, and the advice works.
#[test]
fn what_is_not_built_is_named() {
    let text = format!("risk = \"high\"\n{DATA}{LIMITS}");
    let used = |element: Element| {
        use Element::{
            Decision, DeviceMemory, GoldenInterval, GoldenTable, InputKey, LiveQuality, PinnedDigest,
        };
        let others = [
            PinnedDigest,
            LiveQuality,
            InputKey,
            Decision,
            DeviceMemory,
            GoldenTable,
            GoldenInterval,
        ];
        !others.contains(&element)
    };
    for missing in Element::ALL.into_iter().filter(|element| used(*element)) {
        let built = Built::new(Element::ALL.into_iter().filter(|element| *element != missing));
        let refused = Policy::new(read(&text), &built).expect_err("one element is missing");
        assert!(
            refused.to_string().contains(missing.describe()),
            "{missing:?}: {refused}"
        );
    }
    let without = "risk = \"medium\"\n[gates]\nsignature = \"recorded\"\ngolden.enabled = false\n\
                   [gates.quality]\nenabled = false\n[rollout]\nshadow.enabled = false\napproval.quorum = 0";
    let built = Built::new([Element::OutputDistribution]);
    assert!(Policy::new(read(without), &built).is_ok());
    let refused = Policy::new(read(without), &Built::default()).expect_err("the output is watched");
    assert_eq!(
        refused.to_string(),
        "`rollout.check.output`: the check of output distributions is not built yet; add `[[rollout.check]]` with \
         `metric = \"output\"` and `enabled = false` to do without"
    );
}

#[test]
fn keys_without_their_element_are_refused() {
    let check = |text: &str, element: Element, key: &str| {
        let text = format!("risk = \"low\"\n{text}");
        assert!(Policy::new(read(&text), &Built::all()).is_ok(), "{text}");
        let built = Built::new(Element::ALL.into_iter().filter(|other| *other != element));
        let refused = Policy::new(read(&text), &built).expect_err("the element is missing");
        assert!(refused.to_string().starts_with(key), "{refused}");
    };
    check(
        "[rollout]\nroute_key = [\"header:a\", \"input:b\"]",
        Element::InputKey,
        "`rollout.route_key`",
    );
    check(
        "[gates.golden]\nfile = \"golden.parquet\"",
        Element::GoldenTable,
        "`gates.golden.file`",
    );
    check(
        "[gates.golden]\ninterval = \"1h\"",
        Element::GoldenInterval,
        "`gates.golden`",
    );
    check(
        "[gates.performance]\nmax_vram_bytes = 1",
        Element::DeviceMemory,
        "`gates.performance`",
    );
    check(
        "[decision]\noutput = \"y\"\nkind = \"argmax\"",
        Element::Decision,
        "`decision`",
    );
}

#[test]
fn unknown_keys_are_refused() {
    for text in [
        "risky = 1",
        "[rollout]\nalfa = 1",
        "[[rollout.step]]\npercent = 1\nmin = \"1m\"\nmaximum = \"1m\"",
        "[gates.golden]\nfiles = 1",
        "[rollout]\nbake = \"1 fortnight\"",
        "[rollout]\nbake = 3",
    ] {
        assert!(toml::from_str::<RawPolicy>(text).is_err(), "{text}");
    }
}

/// A release keeps the rules that it began with as they were written down.
#[test]
fn a_policy_is_read_back_as_it_was_written() {
    let texts = [
        String::new(),
        "risk = \"low\"\n[rollout]\nhard_limit_ms = 20\nroute_key = [\"header:x-user\", \"input:id\"]"
            .to_owned(),
        format!(
            "risk = \"medium\"\n[decision]\noutput = \"y\"\nkind = \"threshold\"\nthreshold = 0.5\n{DATA}"
        ),
        format!("risk = \"high\"\n[rollout.approval]\ntimeout = \"2h\"\n{DATA}{LIMITS}"),
    ];
    for text in texts {
        let policy = policy(&text);
        let written = serde_json::to_string(&policy).expect("a policy can be written");
        let read: Policy = serde_json::from_str(&written).expect(&written);
        assert_eq!(read, policy, "{text}");
    }
}

#[test]
fn rules_name_a_header_and_a_side() {
    let text = |header: &str, to: &str| {
        format!("[[rollout.match]]\nheader = \"{header}\"\nvalue = \"1\"\nto = \"{to}\"")
    };
    let matches = policy(&text("X-Beta", "stable")).matches;
    let expected = Match {
        header: "x-beta".to_owned(),
        value: Some("1".to_owned()),
        to: Side::Stable,
    };
    assert_eq!(matches, [expected]);
    let refused = Policy::new(read(&text("x beta", "stable")), &Built::all()).expect_err("a blank");
    assert!(
        refused.to_string().contains("rollout.match[0].header"),
        "{refused}"
    );
    assert!(toml::from_str::<RawPolicy>(&text("x", "both")).is_err());
}
