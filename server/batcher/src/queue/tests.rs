//! What the queue admits, keeps, orders and gives out; one thread, and a clock that is a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::options::TimeoutAction;
use crate::policy::ShapeKey;

struct Named {
    name: &'static str,
    cancelled: Arc<AtomicBool>,
    refused: Refused,
}

/// Names and reasons of the refused, in order.
type Refused = Arc<Mutex<Vec<(&'static str, String)>>>;

impl Item for Named {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn refuse(self, reason: JobError) {
        lock(&self.refused).push((self.name, format!("{reason:?}")));
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A queue and the time.
struct Bench {
    queue: Queue<Named>,
    now: Instant,
    refused: Refused,
}

impl Bench {
    fn new(change: impl FnOnce(&mut QueueSettings)) -> Self {
        let mut settings = QueueSettings {
            limits: Limits {
                max_cost: 1,
                max_rows: usize::MAX,
                pads: false,
                preferred: Vec::new(),
                max_delay: Duration::ZERO,
                in_order: false,
            },
            merges: true,
            levels: vec![QueuePolicy::default()],
            max_requests: 100,
            instances: 1,
            learns: false,
            lend_within: None,
        };
        change(&mut settings);
        Self {
            queue: Queue::new(settings),
            now: Instant::now(),
            refused: Refused::default(),
        }
    }

    fn push(&self, name: &'static str, level: usize) -> Result<Arc<AtomicBool>, SubmitError> {
        self.push_until(name, level, None)
    }

    fn push_until(
        &self,
        name: &'static str,
        level: usize,
        time: Option<Duration>,
    ) -> Result<Arc<AtomicBool>, SubmitError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let item = Named {
            name,
            cancelled: cancelled.clone(),
            refused: self.refused.clone(),
        };
        let waiting = Waiting {
            cost: 1,
            length: 1,
            key: ShapeKey::default(),
            alone: false,
            queued: self.now,
            deadline: time.map(|time| self.now + time),
        };
        match self.queue.push(item, waiting, level, self.now)? {
            Pushed::Queued => Ok(cancelled),
            Pushed::Lent(_) => panic!("no thread waits, so none of its instances can be lent"),
        }
    }

    fn take(&self) -> Option<Batch<Named>> {
        self.queue.take(None, &|| self.now).map(|taken| match taken {
            Taken::Batch(batch) => batch,
            Taken::Repair => panic!("no instance broke"),
        })
    }

    /// Closes and takes everything: the names that run, and those that were refused with their reasons.
    #[track_caller]
    fn check(&self, runs: &[&str], refused: &[(&'static str, JobError)]) {
        self.queue.close();
        let mut got = Vec::new();
        while let Some(batch) = self.take() {
            got.extend(batch.items.iter().map(|item| item.name));
        }
        assert_eq!(got, runs);
        let refused: Vec<_> = refused
            .iter()
            .map(|(name, reason)| (*name, format!("{reason:?}")))
            .collect();
        assert_eq!(*lock(&self.refused), refused);
        assert_eq!(self.queue.depth(), 0);
    }
}

#[test]
fn priority_comes_first_then_arrival() {
    let bench = Bench::new(|settings| settings.levels = vec![QueuePolicy::default(); 2]);
    for (name, level) in [("a", 1), ("b", 0), ("c", 1), ("d", 0)] {
        bench.push(name, level).unwrap();
    }
    bench.check(&["b", "d", "a", "c"], &[]);
}

#[test]
fn a_full_queue_refuses() {
    let bench = Bench::new(|settings| {
        settings.max_requests = 3;
        settings.levels = vec![QueuePolicy::default(); 2];
        settings.levels[1].max_requests = Some(1);
    });
    bench.push("a", 1).unwrap();
    assert_eq!(
        bench.push("b", 1).unwrap_err(),
        SubmitError::QueueFull { limit: 1 }
    );
    bench.push("c", 0).unwrap();
    bench.push("d", 0).unwrap();
    assert_eq!(
        bench.push("e", 0).unwrap_err(),
        SubmitError::QueueFull { limit: 3 }
    );
    assert_eq!(bench.queue.depth(), 3);
    bench.check(&["c", "d", "a"], &[]);
}

#[test]
fn cancelled_and_expired_items_are_not_run() {
    let mut bench = Bench::new(|_| {});
    let cancelled = bench.push("cancelled", 0).unwrap();
    bench.push_until("expired", 0, Some(ms(5))).unwrap();
    bench.push_until("patient", 0, Some(ms(50))).unwrap();
    bench.push("timeless", 0).unwrap();
    cancelled.store(true, Ordering::SeqCst);
    bench.queue.note_cancelled();
    bench.now += ms(5);
    let removed = [
        ("cancelled", JobError::DeadlineExceeded),
        ("expired", JobError::DeadlineExceeded),
    ];
    bench.check(&["patient", "timeless"], &removed);
}

#[test]
fn a_full_queue_has_room_again_once_its_dead_are_removed() {
    let bench = Bench::new(|settings| settings.max_requests = 1);
    let cancelled = bench.push("a", 0).unwrap();
    cancelled.store(true, Ordering::SeqCst);
    bench.queue.note_cancelled();
    bench.push("b", 0).unwrap();
    bench.check(&["b"], &[("a", JobError::DeadlineExceeded)]);
}

#[test]
fn a_queue_timeout_rejects_or_moves_behind_the_others() {
    let levels = |action| QueuePolicy {
        default_timeout: Some(ms(5)),
        timeout_action: action,
        ..QueuePolicy::default()
    };
    let mut bench = Bench::new(|settings| settings.levels = vec![levels(TimeoutAction::Reject)]);
    bench.push("old", 0).unwrap();
    bench.now += ms(5);
    bench.push("new", 0).unwrap();
    bench.check(&["new"], &[("old", JobError::QueueTimeout)]);

    let mut bench =
        Bench::new(|settings| settings.levels = vec![levels(TimeoutAction::Delay), QueuePolicy::default()]);
    bench.push("old", 0).unwrap();
    bench.push_until("late", 0, Some(ms(9))).unwrap();
    bench.push("low", 1).unwrap();
    bench.now += ms(5);
    bench.push("new", 0).unwrap();
    assert_eq!(bench.take().unwrap().items[0].name, "new");
    bench.now += ms(4);
    bench.check(&["old", "low"], &[("late", JobError::DeadlineExceeded)]);
}

#[test]
fn a_closed_queue_finishes_what_it_has_and_takes_nothing_more() {
    let bench = Bench::new(|settings| {
        settings.limits.max_cost = 8;
        settings.limits.max_delay = ms(60_000);
    });
    bench.push("a", 0).unwrap();
    bench.push("b", 0).unwrap();
    bench.queue.close();
    assert_eq!(bench.push("c", 0).unwrap_err(), SubmitError::Closed);
    bench.check(&["a", "b"], &[]);
}

#[test]
fn without_a_healthy_instance_nothing_waits() {
    let bench = Bench::new(|settings| settings.instances = 2);
    bench.push("a", 0).unwrap();
    bench.queue.retire();
    assert_eq!((bench.queue.healthy(), bench.queue.depth()), (1, 1));
    bench.queue.retire();
    assert_eq!((bench.queue.healthy(), bench.queue.depth()), (0, 0));
    assert_eq!(bench.push("b", 0).unwrap_err(), SubmitError::NoInstance);
    bench.queue.revive();
    bench.push("c", 0).unwrap();
    bench.check(&["c"], &[("a", JobError::NoInstance)]);
}

#[test]
fn what_would_be_late_is_refused_and_what_would_not_is_taken() {
    let bench = Bench::new(|_| {});
    bench.push("first", 0).unwrap();
    bench.take().unwrap();
    bench.queue.finish(Finished {
        cost: 1,
        duration: ms(10),
        ok: true,
    });
    assert_eq!(bench.queue.estimated_wait(0), Duration::ZERO);
    bench
        .push_until("idle instance: taken whatever the estimate says", 0, Some(ms(1)))
        .unwrap();
    bench.take().unwrap();
    bench.push("a", 0).unwrap();
    bench.push("b", 0).unwrap();
    // Half of the running one, and two that wait.
    assert_eq!(bench.queue.estimated_wait(0), ms(25));
    assert_eq!(
        bench.push_until("late", 0, Some(ms(34))).unwrap_err(),
        SubmitError::WouldBeLate { ahead: 2 }
    );
    bench.push_until("in time", 0, Some(ms(36))).unwrap();
}

#[test]
fn a_cap_is_shown_once_it_is_lower_than_what_is_allowed() {
    let bench = Bench::new(|settings| {
        settings.limits.max_cost = 8;
        settings.learns = true;
    });
    for round in 0..40 {
        let rows = if round % 2 == 0 { 8 } else { 1 };
        assert_eq!(
            bench.queue.cap(),
            8,
            "nothing is known before both sizes were seen often enough"
        );
        (0..rows).for_each(|_| drop(bench.push("a", 0).unwrap()));
        let batch = bench.take().unwrap();
        // Eight rows take twice as long per row as one.
        let duration = ms(if batch.cost == 8 { 16 } else { 1 });
        bench.queue.finish(Finished {
            cost: batch.cost,
            duration,
            ok: true,
        });
        if bench.queue.lowered_cap().is_some() {
            assert_eq!(bench.queue.lowered_cap(), Some(bench.queue.cap()));
            assert!(round >= 10 && bench.queue.cap() < 8);
            return;
        }
    }
    panic!("the cap was never lowered");
}

/// A request that only knows until when its answer is wanted.
struct Timed(Instant);

impl Item for Timed {
    fn is_cancelled(&self) -> bool {
        false
    }

    fn refuse(self, _: JobError) {}
}

/// The share of what one instance can answer that it answers in time, where three times as much is asked of it. A batch
/// of n takes 10 + 5n ms, more or less by up to `noise` of that; capacity is eight in 50 ms.
fn goodput(deadline: Duration, noise: f64) -> f64 {
    const BATCHES: u32 = 400;
    let bench = Bench::new(|_| {});
    let settings = QueueSettings {
        limits: Limits {
            max_cost: 8,
            ..bench.queue.settings.limits.clone()
        },
        max_requests: 10_000,
        ..bench.queue.settings
    };
    let queue = Queue::new(settings);
    let every = ms(50) / 24;
    let (mut now, mut arrival) = (bench.now, bench.now);
    let (mut previous, mut in_time, mut random) = (None, 0, 1u32);
    for _ in 0..BATCHES {
        while arrival <= now {
            let waiting = Waiting {
                cost: 1,
                length: 1,
                key: ShapeKey::default(),
                alone: false,
                queued: arrival,
                deadline: Some(arrival + deadline),
            };
            drop(queue.push(Timed(arrival + deadline), waiting, 0, arrival));
            arrival += every;
        }
        let Some(Taken::Batch(batch)) = queue.take(previous.take(), &|| now) else {
            panic!("there is always something to run");
        };
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let factor = 1.0 + noise * (f64::from(random >> 16) / 32_768.0 - 1.0);
        let duration = ms(10 + 5 * batch.cost as u64).mul_f64(factor);
        now += duration;
        in_time += batch.items.iter().filter(|item| item.0 >= now).count();
        previous = Some(Finished {
            cost: batch.cost,
            duration,
            ok: true,
        });
    }
    let capacity = 8.0 * (now - bench.now).as_secs_f64() / 0.05;
    in_time as f64 / capacity
}

#[test]
fn under_overload_nearly_all_that_runs_is_in_time() {
    for (deadline, noise) in [(ms(200), 0.0), (ms(500), 0.0), (ms(200), 0.3), (ms(500), 0.5)] {
        let share = goodput(deadline, noise);
        assert!(share > 0.95, "{share} with {deadline:?} and {noise}");
    }
}
