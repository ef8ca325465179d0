//! Above which latency a batch is slow.

use std::time::Instant;

use crossfade_rollout::policy::{Built, Metric, RawPolicy};

use crossfade_rollout::ledger::{CheckReport, Look};
use crossfade_statistics::random::SplitMix64;

use super::*;

const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(50);

/// One step at 10 %, in which requests pass one by one.
struct Stage {
    policy: Policy,
    counting: Counting,
    began: Instant,
    unit: u64,
}

fn stage() -> Stage {
    let raw: RawPolicy = toml::from_str("risk = 'low'\n[rollout]\nwarmup = 1000").unwrap();
    let policy = Policy::new(raw, &Built::all()).unwrap();
    let ledger = Ledger::new(&policy).unwrap();
    Stage {
        policy,
        counting: Counting::new(ledger),
        began: Instant::now(),
        unit: 0,
    }
}

impl Stage {
    /// Batches of one request each, of the baseline if they are timed.
    fn run(&mut self, arm: Arm, is_timed: bool, batches: u64, compute: Duration) {
        for _ in 0..batches {
            self.unit += 1;
            self.counting.tally.count(Count {
                epoch: 0,
                arm,
                unit: self.unit,
                failed: None,
                trigger: None,
                batch: Some((self.began + Duration::from_nanos(self.unit), compute)),
                is_timed,
                reading: None,
            });
        }
    }

    /// What a look finds complete was counted by the one before.
    fn look(&mut self) -> Option<f64> {
        for _ in 0..2 {
            self.counting.collect(&self.policy, 0);
        }
        self.counting.limit(&self.policy);
        self.counting.ledger.threshold()
    }
}

impl Stage {
    fn look_at(&mut self) -> CheckReport {
        let report = self.counting.ledger.look(&self.policy, &Look::default()).unwrap();
        let mut checks = report.checks.into_iter();
        checks.find(|check| check.metric == Metric::Latency).unwrap()
    }

    /// Slow batches of the candidate and of the baseline.
    fn latency(&mut self) -> (u64, u64) {
        let events = self.look_at().events;
        (events.canary, events.control)
    }
}

/// A limit a little above the 99th percentile of fast batches: a step of the histogram, and the slack.
fn is_tight(limit: Option<f64>) -> bool {
    limit.is_some_and(|limit| limit > 0.001 && limit < 0.0013)
}

#[test]
fn the_first_batches_of_a_baseline_do_not_make_it_blind() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 1000, SLOW);
    stage.run(Arm::Control, true, FIRST, SLOW);
    stage.run(Arm::Control, true, ENOUGH - 1, FAST);
    assert_eq!(stage.look(), None, "of too few");
    stage.run(Arm::Control, true, 1, FAST);
    let limit = stage.look();
    assert!(is_tight(limit), "{limit:?}");
}

#[test]
fn a_disturbed_beginning_is_made_up_for() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 1000, FAST);
    stage.run(Arm::Control, true, FIRST, FAST);
    stage.run(Arm::Control, true, ENOUGH, SLOW);
    assert!(stage.look().unwrap() > 0.05);
    stage.run(Arm::Control, true, ENOUGH, FAST);
    let limit = stage.look();
    assert!(is_tight(limit), "{limit:?}");
}

/// A stall in the middle is no reason to let pass what takes as long as the stall.
#[test]
fn a_stall_does_not_raise_the_limit() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 1000, FAST);
    stage.run(Arm::Control, true, FIRST + 5 * ENOUGH, FAST);
    stage.look();
    stage.run(Arm::Control, true, ENOUGH, SLOW);
    assert!(is_tight(stage.look()));
    let before = stage.latency();
    stage.run(Arm::Canary, true, 40, SLOW);
    stage.run(Arm::Control, true, 40, FAST);
    stage.look();
    assert_eq!(stage.latency().0 - before.0, 40);
}

/// Two versions over a day on which what is usual changes, both stall now and then, and the process starts again in the middle:
/// the share of such releases in which the candidate is found to be slower.
///
/// * `rare`: the share of the candidate's batches that take four times as long; of the live version's it is 0.02
fn found_slower(releases: u64, rare: f64) -> f64 {
    let mut random = SplitMix64::new(17);
    let mut found = 0;
    for _ in 0..releases {
        let mut stage = stage();
        stage.run(Arm::Control, false, 1000, FAST);
        let mut fails = false;
        for look in 0..120 {
            let level = 1.0 + f64::from(look) / 60.0;
            let stalls = random.unit() < 0.05;
            for (arm, rare) in [(Arm::Control, 0.02), (Arm::Canary, rare)] {
                for _ in 0..random.below(30) {
                    let slow = if random.unit() < rare { 4.0 } else { 1.0 };
                    let stalled = if stalls && random.unit() < 0.5 { 20.0 } else { 1.0 };
                    let took = level * slow * stalled * (1.0 + random.unit());
                    stage.run(arm, true, 1, FAST.mul_f64(took));
                }
            }
            stage.counting.collect(&stage.policy, 0);
            stage.counting.limit(&stage.policy);
            let latency = stage.look_at();
            fails |= latency.log_e >= latency.fails_at;
            if look == 60 {
                stage.counting = Counting::new(stage.counting.ledger.clone());
            }
        }
        found += u64::from(fails);
    }
    found as f64 / releases as f64
}

#[test]
fn equal_versions_are_sent_back_no_more_often_than_they_may_be() {
    let alpha = stage().policy.alpha_per_check();
    let most = alpha + 3.0 * (alpha * (1.0 - alpha) / 200.0).sqrt();
    let found = found_slower(200, 0.02);
    assert!(found <= most, "{found} of the releases, and {most} may be");
    let found = found_slower(20, 0.3);
    assert!(found >= 0.9, "{found} of those that are slower");
}

#[test]
fn a_batch_is_held_against_what_was_before_it() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 1000, FAST);
    stage.run(Arm::Control, true, FIRST + ENOUGH, FAST);
    assert!(is_tight(stage.look()));
    // As many of both: were the limit set first, none would be slow.
    for arm in [Arm::Control, Arm::Canary] {
        stage.run(arm, true, 2 * ENOUGH, SLOW);
    }
    assert!(stage.look().unwrap() > 0.05);
    assert_eq!(stage.latency(), (2 * ENOUGH, 2 * ENOUGH));
}

#[test]
fn without_a_baseline_nothing_is_slow() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 5000, FAST);
    stage.run(Arm::Canary, true, 500, SLOW);
    assert_eq!(stage.look(), None);
}
