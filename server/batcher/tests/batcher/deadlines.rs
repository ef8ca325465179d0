//! Cancelled and expired jobs never reach the runtime; proved by counting executions.

use std::time::Duration;

use crossfade_batcher::{JobError, QueuePolicy, SubmitError, TimeoutAction};

use crate::support::{Bench, data};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_cancelled_request_never_reaches_the_runtime() {
    let bench = Bench::new(|setup| setup.options.max_rows = 1);
    let held = bench.occupy(1);
    let kept = bench.submit(&[[1, 1]]);
    drop(bench.submit(&[[2, 2], [2, 2]]));
    let also_kept = bench.submit(&[[3, 3]]);
    bench.release();
    assert_eq!(data(kept.wait()), [1, 1]);
    assert_eq!(data(also_kept.wait()), [3, 3]);
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 1, 1]);
}

#[test]
fn an_expired_request_never_reaches_the_runtime() {
    let bench = Bench::new(|_| {});
    let held = bench.occupy(1);
    let expired = bench.submit_until(&[[1, 1], [1, 1]], ms(5)).unwrap();
    let in_time = bench.submit_until(&[[2, 2]], ms(50)).unwrap();
    bench.advance(ms(5));
    bench.release();
    assert!(matches!(expired.wait(), Err(JobError::DeadlineExceeded)));
    assert_eq!(data(in_time.wait()), [2, 2]);
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 1]);
}

#[test]
fn a_late_request_is_refused_at_once() {
    let bench = Bench::new(|_| {});
    let now = bench.now();
    bench.advance(ms(1));
    let late = crossfade_batcher::Job {
        deadline: Some(now),
        ..bench.job(&[[1, 1]])
    };
    assert_eq!(bench.batcher.submit(late).err(), Some(SubmitError::AlreadyLate));
}

#[test]
fn a_request_that_would_be_late_is_refused_while_others_wait() {
    let bench = Bench::new(|setup| setup.options.max_rows = 1);
    let held = bench.occupy(1);
    // What runs now takes 10 ms, and so will the next.
    let next = bench.submit(&[[1, 1]]);
    bench.advance(ms(10));
    bench.gate.pass(1);
    bench.gate.wait_for_arrivals(2);
    let waiting = bench.submit(&[[2, 2]]);
    assert_eq!(bench.batcher.estimated_wait(), ms(15));
    assert_eq!(
        bench.submit_until(&[[3, 3]], ms(24)).err(),
        Some(SubmitError::WouldBeLate { ahead: 1 })
    );
    let in_time = bench.submit_until(&[[4, 4]], ms(26)).unwrap();
    bench.release();
    for pending in held.into_iter().chain([next, waiting, in_time]) {
        pending.wait().unwrap();
    }
    assert_eq!(bench.probe.executions(), 4);
}

#[test]
fn a_queue_timeout_is_answered_as_such() {
    let bench = Bench::new(|setup| {
        setup.options.queue = QueuePolicy {
            default_timeout: Some(ms(5)),
            timeout_action: TimeoutAction::Reject,
            max_requests: Some(2),
        };
    });
    let held = bench.occupy(1);
    let (first, second) = (bench.submit(&[[1, 1]]), bench.submit(&[[2, 2]]));
    assert_eq!(
        bench.batcher.submit(bench.job(&[[3, 3]])).err(),
        Some(SubmitError::QueueFull { limit: 2 })
    );
    bench.advance(ms(5));
    bench.release();
    assert!(matches!(first.wait(), Err(JobError::QueueTimeout)));
    assert!(matches!(second.wait(), Err(JobError::QueueTimeout)));
    drop(held);
    assert_eq!(bench.probe.executions(), 1);
}
