//! The decision at a look, rule by rule.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::{Built, RawPolicy};

fn policy(text: &str) -> Policy {
    let raw: RawPolicy = toml::from_str(text).expect("the test's text is a policy");
    Policy::new(raw, &Built::all()).expect("the test's policy is valid")
}

/// One step at 10 %, at least ten seconds and 100 units; errors alone are watched.
const ERRORS: &str = "risk = \"low\"\n\
    [[rollout.step]]\npercent = 10\nmin = \"10s\"\nmax = \"1m\"\nmin_units = 100\n\
    [[rollout.check]]\nmetric = \"latency\"\nenabled = false\n\
    [[rollout.check]]\nmetric = \"output\"\nenabled = false\n";

fn ledger(policy: &Policy) -> Ledger {
    Ledger::new(policy).expect("the policy is valid")
}

fn after(seconds: u64) -> Look<'static> {
    Look {
        served: Duration::from_secs(seconds),
        ..Look::default()
    }
}

fn verdict(ledger: &mut Ledger, policy: &Policy, look: &Look<'_>) -> Verdict {
    ledger
        .look(policy, look)
        .expect("the counts are in order")
        .verdict
}

/// Counts requests with new units, without errors.
fn requests(ledger: &mut Ledger, arm: Arm, units: std::ops::Range<u64>) {
    for unit in units {
        ledger.request(arm, unit, false);
    }
}

#[test]
fn three_errors_and_none_in_the_control_are_enough() {
    // ln(1/.01) = 4.6: one error at 10 % gives 1.7, two 3.8, three 6.
    let policy = policy(ERRORS);
    let mut ledger = ledger(&policy);
    for unit in 0..2 {
        ledger.request(Arm::Canary, unit, true);
    }
    assert_eq!(verdict(&mut ledger, &policy, &after(1)), Verdict::Continue);
    ledger.request(Arm::Canary, 2, true);
    let report = ledger.look(&policy, &after(1)).expect("the counts are in order");
    assert_eq!(report.verdict, Verdict::Fail(Cause::Check(Metric::Errors)));
    assert_eq!(report.checks[0].outcome, Outcome::Failed);
    assert!(report.checks[0].log_e >= report.checks[0].fails_at, "{report:?}");
}

#[test]
fn stage_passes_when_everything_is_reached() {
    let policy = policy(ERRORS);
    let mut ledger = ledger(&policy);
    // U(0, n, .05) ≤ .005 from n = 2 117 on.
    requests(&mut ledger, Arm::Canary, 0..2000);
    assert_eq!(
        verdict(&mut ledger, &policy, &after(10)),
        Verdict::Continue,
        "the rate is not shown yet"
    );
    requests(&mut ledger, Arm::Canary, 2000..3000);
    assert_eq!(
        verdict(&mut ledger, &policy, &after(0)),
        Verdict::Pass { shown: true }
    );

    let mut early = self::ledger(&policy);
    requests(&mut early, Arm::Canary, 0..5000);
    assert_eq!(
        verdict(&mut early, &policy, &after(9)),
        Verdict::Continue,
        "too early"
    );
    assert_eq!(
        verdict(&mut early, &policy, &after(1)),
        Verdict::Pass { shown: true }
    );
}

#[test]
fn ratio_passes_where_the_rate_is_high_for_both() {
    let policy = policy(ERRORS);
    let mut ledger = ledger(&policy);
    let both = |ledger: &mut Ledger, from: u64| {
        for unit in from..from + 1000 {
            ledger.request(Arm::Canary, unit, unit % 20 == 0);
        }
        for unit in 0..9000 {
            ledger.request(Arm::Control, unit, unit % 20 == 0);
        }
    };
    both(&mut ledger, 0);
    let report = ledger.look(&policy, &after(10)).expect("the counts are in order");
    let errors = &report.checks[0];
    assert!(errors.upper > Some(0.05), "five percent are above `abs_ok`");
    assert!(errors.log_e_pass >= errors.passes_at, "{errors:?}");
    assert_eq!(report.verdict, Verdict::Pass { shown: true });
}

#[test]
fn time_runs_out_as_the_policy_says() {
    let check = |rule: &str, expected: Verdict| {
        let policy =
            policy(&ERRORS.replacen("[[", &format!("[rollout]\non_inconclusive = \"{rule}\"\n[["), 1));
        let mut ledger = ledger(&policy);
        requests(&mut ledger, Arm::Canary, 0..50);
        assert_eq!(verdict(&mut ledger, &policy, &after(59)), Verdict::Continue);
        assert_eq!(verdict(&mut ledger, &policy, &after(1)), expected, "{rule}");
    };
    check("hold", Verdict::Hold);
    check("promote", Verdict::Pass { shown: false });
    check("rollback", Verdict::Fail(Cause::Inconclusive));
}

#[test]
fn resumed_stage_has_its_time_again() {
    let policy = policy(ERRORS);
    let mut ledger = ledger(&policy);
    assert_eq!(verdict(&mut ledger, &policy, &after(60)), Verdict::Hold);
    ledger.resume();
    assert_eq!(verdict(&mut ledger, &policy, &after(59)), Verdict::Continue);
    assert_eq!(verdict(&mut ledger, &policy, &after(1)), Verdict::Hold);
}

#[test]
fn hard_triggers_come_first() {
    let limited = ERRORS.replacen("[[", "[rollout]\nhard_limit_ms = 100\n[[", 1);
    let policy = policy(&limited);
    let check = |ledger: &mut Ledger, look: &Look<'_>, expected: Option<HardTrigger>| {
        let expected = expected.map_or(Verdict::Continue, |trigger| {
            Verdict::Fail(Cause::HardTrigger(trigger))
        });
        assert_eq!(verdict(ledger, &policy, look), expected);
    };
    let panicked = Look {
        triggers: &[HardTrigger::Panic, HardTrigger::InvalidOutput],
        ..after(1)
    };
    check(&mut ledger(&policy), &panicked, Some(HardTrigger::Panic));
    let tail = |requests, p99| Look {
        latency: Latency {
            canary: Quantiles {
                requests,
                p50: 0.01,
                p99,
            },
            ..Latency::default()
        },
        ..after(1)
    };
    check(&mut ledger(&policy), &tail(99, 0.2), None);
    check(&mut ledger(&policy), &tail(100, 0.1), None);
    check(&mut ledger(&policy), &tail(100, 0.2), Some(HardTrigger::SlowTail));
    let mut failing = ledger(&policy);
    for unit in 0..20 {
        failing.request(Arm::Canary, unit, true);
    }
    check(&mut failing, &after(1), Some(HardTrigger::ErrorRate));
}

#[test]
fn a_key_counts_once_per_check_and_release() {
    let text = ERRORS.replacen("[[", "[rollout]\nroute_key = [\"header:x-user\"]\n[[", 1);
    let policy = policy(&text);
    let mut ledger = ledger(&policy);
    for _ in 0..15 {
        ledger.request(Arm::Canary, 7, true);
    }
    let report = ledger.look(&policy, &after(1)).expect("the counts are in order");
    assert_eq!(
        (
            report.units,
            report.requests.canary,
            report.checks[0].events.canary
        ),
        (1, 15, 1)
    );
    assert_eq!(report.verdict, Verdict::Continue);
    // The next stage counts its units anew, but not the event.
    ledger
        .enter(&policy, Stage::Canary { step: 0 })
        .expect("the step exists");
    ledger.request(Arm::Canary, 7, true);
    let report = ledger.look(&policy, &after(1)).expect("the counts are in order");
    assert_eq!(
        (
            report.units,
            report.checks[0].units,
            report.checks[0].events.canary
        ),
        (1, 1, 1)
    );
    assert!(ledger.enter(&policy, Stage::Canary { step: 1 }).is_err());
}

const LATENCY: &str = "risk = \"low\"\n\
    [[rollout.step]]\npercent = 50\nmin = \"1s\"\nmin_units = 0\n\
    [[rollout.check]]\nmetric = \"errors\"\nenabled = false\n\
    [[rollout.check]]\nmetric = \"output\"\nenabled = false\n";

#[test]
fn slow_batches_fail_once_there_is_a_threshold() {
    let policy = policy(LATENCY);
    let mut ledger = ledger(&policy);
    let slow = |ledger: &mut Ledger| {
        for batch in 0..40 {
            ledger.batch(Arm::Canary, if batch % 2 == 0 { &[1, 2] } else { &[] });
            ledger.batch(Arm::Control, &[]);
        }
    };
    slow(&mut ledger);
    let report = ledger.look(&policy, &after(1)).expect("the counts are in order");
    assert_eq!((report.checks[0].units, ledger.threshold()), (0, None));
    ledger.set_threshold(&policy, 0.05);
    ledger.set_threshold(&policy, 0.02);
    assert_eq!(
        ledger.threshold(),
        Some(0.02 + 0.0001),
        "the last call counts, and its slack"
    );
    slow(&mut ledger);
    let report = ledger.look(&policy, &after(1)).expect("the counts are in order");
    assert_eq!((report.checks[0].events.canary, report.checks[0].units), (20, 40));
    assert_eq!(report.verdict, Verdict::Fail(Cause::Check(Metric::Latency)));
    ledger
        .enter(&policy, Stage::Canary { step: 0 })
        .expect("the step exists");
    assert_eq!(ledger.threshold(), None, "every stage has its own");
}

/// A look at quantiles of the canary, beside 10 ms and 20 ms of the control.
fn seen(requests: u64, p50: f64, p99: f64) -> Look<'static> {
    let quantiles = |p50, p99| Quantiles { requests, p50, p99 };
    Look {
        latency: Latency {
            canary: quantiles(p50, p99),
            control: quantiles(0.010, 0.020),
        },
        ..after(1)
    }
}

#[test]
fn a_slow_median_fails_at_the_second_look_in_a_row() {
    let policy = policy(LATENCY);
    let mut ledger = ledger(&policy);
    let mut check = |requests, p50, failed: bool| {
        let look = seen(requests, p50, 0.020);
        let fails = verdict(&mut ledger, &policy, &look) == Verdict::Fail(Cause::Check(Metric::Latency));
        assert_eq!(fails, failed, "{requests} {p50}");
    };
    check(999, 0.1, false);
    check(999, 0.1, false);
    check(1000, 0.013, false);
    check(1000, 0.0125, false);
    check(1000, 0.013, false);
    check(1000, 0.013, true);
}

#[test]
fn a_slow_tail_does_not_pass_and_does_not_fail() {
    let policy = policy(LATENCY);
    let mut ledger = ledger(&policy);
    ledger.set_threshold(&policy, 0.020);
    for _ in 0..2000 {
        ledger.batch(Arm::Canary, &[]);
        ledger.batch(Arm::Control, &[]);
    }
    for _ in 0..5 {
        let look = seen(1000, 0.010, 0.026);
        assert_eq!(verdict(&mut ledger, &policy, &look), Verdict::Continue);
    }
    let look = seen(1000, 0.010, 0.024);
    assert_eq!(
        verdict(&mut ledger, &policy, &look),
        Verdict::Pass { shown: true }
    );
}

#[test]
fn less_than_the_slack_is_no_difference() {
    let slack = format!("{LATENCY}[[rollout.check]]\nmetric = \"latency\"\nslack = \"5ms\"\n");
    for (text, failed) in [(LATENCY, true), (&slack, false)] {
        let policy = policy(text);
        let mut ledger = ledger(&policy);
        let look = seen(1000, 0.017, 0.020);
        let _first = verdict(&mut ledger, &policy, &look);
        let fails = verdict(&mut ledger, &policy, &look) == Verdict::Fail(Cause::Check(Metric::Latency));
        assert_eq!(fails, failed, "{text}");
    }
}

#[test]
fn distributions_fail_beyond_a_limit_and_warn_before() {
    let text = "risk = \"low\"\n[rollout]\nstrict = true\n\
        [[rollout.step]]\npercent = 50\nmin = \"1s\"\nmin_units = 0\n\
        [[rollout.check]]\nmetric = \"errors\"\nenabled = false\n\
        [[rollout.check]]\nmetric = \"latency\"\nenabled = false\n\
        [[rollout.check]]\nmetric = \"output\"\nmax_psi = 0.25\ncritical = true\n";
    let policy = policy(text);
    let check = |control: &[u64], canary: &[u64], acknowledged, expected: Verdict| {
        let mut ledger = ledger(&policy);
        ledger.outputs(control, canary).expect("the cells match");
        let look = Look {
            acknowledged,
            ..after(1)
        };
        assert_eq!(
            verdict(&mut ledger, &policy, &look),
            expected,
            "{control:?} {canary:?}"
        );
    };
    let pass = Verdict::Pass { shown: true };
    check(&[500, 500], &[500, 500], false, pass.clone());
    check(&[5000, 5000], &[4000, 6000], false, Verdict::Continue);
    check(&[5000, 5000], &[4000, 6000], true, pass.clone());
    check(
        &[900, 100],
        &[300, 700],
        true,
        Verdict::Fail(Cause::Check(Metric::Output)),
    );
    check(&[90, 10], &[30, 70], false, pass);
    assert!(ledger(&policy).outputs(&[1], &[1, 2]).is_err());
}

const SHADOW: &str = "risk = \"low\"\n[rollout.shadow]\ntol = 0.1\nmin = \"1s\"\nmin_units = 300\n\
    [[rollout.check]]\nmetric = \"flips\"\ncritical = true\n\
    [[rollout.check]]\nmetric = \"latency\"\nenabled = false\n\
    [[rollout.check]]\nmetric = \"output\"\nenabled = false\n";

#[test]
fn pairs_pass_or_fail_shadow() {
    let policy = policy(SHADOW);
    let check = |pairs: u64, every: u64, expected: Verdict| {
        let mut ledger = ledger(&policy);
        for unit in 0..pairs {
            let flipped = every > 0 && unit % every == 0;
            ledger.pair(
                unit,
                Pair {
                    flipped,
                    ..Pair::default()
                },
            );
        }
        assert_eq!(
            verdict(&mut ledger, &policy, &after(1)),
            expected,
            "{pairs} pairs, a flip every {every}"
        );
    };
    check(299, 0, Verdict::Continue);
    check(300, 0, Verdict::Pass { shown: true });
    check(300, 20, Verdict::Continue);
    check(300, 4, Verdict::Fail(Cause::Check(Metric::Flips)));
}

#[test]
fn paired_failures_go_on_counting_in_the_canary() {
    let policy = policy(SHADOW);
    let mut ledger = ledger(&policy);
    let failed = Pair {
        candidate_failed: true,
        ..Pair::default()
    };
    for unit in 0..5 {
        ledger.pair(unit, failed);
    }
    let in_shadow = ledger.look(&policy, &after(1)).expect("in order").checks[0]
        .log_e
        .expect("errors have it");
    assert!(in_shadow > 2.0, "five of five: {in_shadow}");
    ledger
        .enter(&policy, Stage::Canary { step: 0 })
        .expect("the step exists");
    ledger.request(Arm::Canary, 100, true);
    let report = ledger.look(&policy, &after(1)).expect("in order");
    assert!(report.checks[0].log_e > Some(in_shadow + 1.0), "{report:?}");
    assert_eq!(report.checks.len(), 1, "flips are for shadow");
}

#[test]
fn baking_ends_by_time_or_by_a_trigger() {
    let policy = policy(&format!("{ERRORS}[rollout.approval]\nquorum = 0").replacen(
        "[[",
        "[rollout]\nbake = \"1h\"\n[[",
        1,
    ));
    let mut ledger = ledger(&policy);
    ledger.enter(&policy, Stage::Baking).expect("it needs no step");
    for unit in 0..19 {
        ledger.request(Arm::Canary, unit, true);
    }
    assert_eq!(verdict(&mut ledger, &policy, &after(3599)), Verdict::Continue);
    let mut failing = ledger.clone();
    failing.request(Arm::Canary, 19, true);
    assert_eq!(
        verdict(&mut failing, &policy, &after(0)),
        Verdict::Fail(Cause::HardTrigger(HardTrigger::ErrorRate))
    );
    assert_eq!(
        verdict(&mut ledger, &policy, &after(1)),
        Verdict::Pass { shown: true }
    );
}

#[test]
fn snapshot_of_another_policy_is_refused() {
    let errors = policy(ERRORS);
    let snapshot = serde_json::to_string(&ledger(&errors)).expect("it is plain data");
    let read: Ledger = serde_json::from_str(&snapshot).expect("it was just written");
    assert_eq!(read.check_policy(&errors), Ok(()));
    let refused = read
        .check_policy(&policy(LATENCY))
        .expect_err("the checks differ");
    assert_eq!(
        refused.to_string(),
        "the snapshot does not fit the policy: checks: expected latency, got errors"
    );
    let sticky = policy(&ERRORS.replacen("[[", "[rollout]\nroute_key = [\"header:a\"]\n[[", 1));
    assert!(read.check_policy(&sticky).is_err());
}

/// Something that the server does with a ledger.
#[derive(Debug, Clone)]
enum Deed {
    Request(Arm, u64, bool),
    Wrong(Arm, u64),
    Pair(u64, bool, bool, bool),
    Batch(Arm, Vec<u64>),
    Outputs(Vec<u64>, Vec<u64>),
    Threshold(f64),
    Look(u64),
    Enter(Stage),
    Resume,
}

fn deed() -> impl Strategy<Value = Deed> {
    let arm = || prop::sample::select(vec![Arm::Canary, Arm::Control]);
    let unit = || 0_u64..40;
    let cells = || prop::collection::vec(0_u64..2000, 3);
    let stages = vec![
        Stage::Shadow,
        Stage::Canary { step: 0 },
        Stage::Canary { step: 2 },
        Stage::Baking,
    ];
    prop_oneof![
        8 => (arm(), unit(), any::<bool>()).prop_map(|(arm, unit, failed)| Deed::Request(arm, unit, failed)),
        2 => (arm(), unit()).prop_map(|(arm, unit)| Deed::Wrong(arm, unit)),
        4 => (unit(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(unit, a, b, c)| Deed::Pair(unit, a, b, c)),
        4 => (arm(), prop::collection::vec(unit(), 0..3)).prop_map(|(arm, slow)| Deed::Batch(arm, slow)),
        1 => (cells(), cells()).prop_map(|(control, canary)| Deed::Outputs(control, canary)),
        1 => (0.0_f64..1.0).prop_map(Deed::Threshold),
        4 => (0_u64..4000).prop_map(Deed::Look),
        1 => prop::sample::select(stages).prop_map(Deed::Enter),
        1 => Just(Deed::Resume),
    ]
}

fn do_it(ledger: &mut Ledger, policy: &Policy, deed: &Deed) -> Option<Report> {
    match deed {
        Deed::Request(arm, unit, failed) => ledger.request(*arm, *unit, *failed),
        Deed::Wrong(arm, unit) => ledger.event(Metric::Quality, *arm, *unit),
        Deed::Pair(unit, candidate_failed, champion_failed, flipped) => {
            let pair = Pair {
                candidate_failed: *candidate_failed,
                champion_failed: *champion_failed,
                flipped: *flipped,
            };
            ledger.pair(*unit, pair);
        }
        Deed::Batch(arm, slow) => ledger.batch(*arm, slow),
        // A window without outputs of one arm is refused; what was counted stays.
        Deed::Outputs(control, canary) => drop(ledger.outputs(control, canary)),
        Deed::Threshold(p99) => ledger.set_threshold(policy, *p99),
        Deed::Look(seconds) => {
            return Some(
                ledger
                    .look(policy, &after(*seconds))
                    .expect("every count is possible"),
            );
        }
        Deed::Enter(stage) => ledger.enter(policy, *stage).expect("the stages exist"),
        Deed::Resume => ledger.resume(),
    }
    None
}

proptest! {
    /// Whatever is counted in whatever order, a look has an answer, and a ledger that is written down and read back
    /// after every deed gives the same ones.
    #[test]
    fn snapshots_give_the_same_reports(deeds in prop::collection::vec(deed(), 0..150), sticky: bool) {
        let key = if sticky { "route_key = [\"header:a\"]" } else { "" };
        let policy = policy(&format!(
            "risk = \"medium\"\n[gates.quality]\ndata = \"val.parquet\"\n[rollout]\n{key}\nshadow.tol = 0.1\n\
             [[rollout.check]]\nmetric = \"quality\""
        ));
        let mut straight = ledger(&policy);
        let mut restarted = ledger(&policy);
        for deed in &deeds {
            prop_assert_eq!(do_it(&mut straight, &policy, deed), do_it(&mut restarted, &policy, deed));
            let written = serde_json::to_string(&restarted).expect("it is plain data");
            restarted = serde_json::from_str(&written).expect("it was just written");
            prop_assert_eq!(restarted.check_policy(&policy), Ok(()));
        }
        prop_assert_eq!(straight, restarted);
    }
}
