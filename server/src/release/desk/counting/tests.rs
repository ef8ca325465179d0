//! Above which latency a batch is slow.

use std::time::Instant;

use crossfade_rollout::policy::{Built, Metric, RawPolicy};

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
    stage.run(Arm::Control, true, 5, SLOW);
    stage.run(Arm::Control, true, ENOUGH, FAST);
    assert!(stage.look().unwrap() > 0.05);
    stage.run(Arm::Control, true, 10 * ENOUGH, FAST);
    let limit = stage.look();
    assert!(is_tight(limit), "{limit:?}");
}

#[test]
fn a_batch_is_held_against_what_was_before_it() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 1000, FAST);
    stage.run(Arm::Control, true, FIRST + ENOUGH, FAST);
    assert!(is_tight(stage.look()));
    // As many of both: were the limit set first, none would be slow.
    for arm in [Arm::Control, Arm::Canary] {
        stage.run(arm, true, 40, SLOW);
    }
    assert!(stage.look().unwrap() > 0.05);
    let report = stage
        .counting
        .ledger
        .look(&stage.policy, &Default::default())
        .unwrap();
    let latency = report
        .checks
        .iter()
        .find(|check| check.metric == Metric::Latency)
        .unwrap();
    assert_eq!((latency.events.canary, latency.events.control), (40, 40));
}

#[test]
fn without_a_baseline_nothing_is_slow() {
    let mut stage = stage();
    stage.run(Arm::Control, false, 5000, FAST);
    stage.run(Arm::Canary, true, 500, SLOW);
    assert_eq!(stage.look(), None);
}
