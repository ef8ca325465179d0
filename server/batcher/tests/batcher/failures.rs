//! Failing and panicking runs: who is told what, and who goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossfade_batcher::{JobError, SubmitError};
use crossfade_runtimes_core::{InstanceOptions, Model, ModelSignature, RuntimeError, Shape};
use crossfade_runtimes_fake::{FakeModel, Gate};

use crate::support::{Bench, data, signature};

/// Identity, but 13 is refused, 14 fails, 66 panics, 77 loses its device, and 99 computes something else than declared.
fn moody(signature: ModelSignature) -> FakeModel {
    FakeModel::new(signature, |inputs, outputs| {
        let view = inputs[0].unwrap();
        let has = |value| view.data.contains(&value);
        if has(13) {
            let reason = "13".to_owned();
            return Err(RuntimeError::InvalidInput { reason });
        }
        if has(14) {
            let reason = "14".to_owned();
            return Err(RuntimeError::Run { reason });
        }
        if has(77) {
            return Err(RuntimeError::DeviceLost {
                device: "cuda:0".to_owned(),
                reason: "77".to_owned(),
            });
        }
        assert!(!has(66), "66 is too much");
        let shape = if has(99) {
            Shape::from([1, view.data.len()])
        } else {
            Shape::from(view.shape)
        };
        outputs.buffer(0, view.datatype, shape).copy_from_slice(view.data);
        Ok(())
    })
}

#[track_caller]
fn runtime_error(result: Result<crossfade_batcher::Answer, JobError>) -> Arc<RuntimeError> {
    match result {
        Err(JobError::Runtime(error)) => error,
        other => panic!("expected a runtime error, got {other:?}"),
    }
}

#[test]
fn one_members_bad_values_do_not_fail_its_neighbours() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let before = bench.submit(&[[1, 1]]);
    let refused = bench.submit(&[[13, 1]]);
    let failing = bench.submit(&[[14, 1]]);
    let after = bench.submit(&[[2, 2], [3, 3]]);
    bench.release();
    assert_eq!(data(before.wait()), [1, 1]);
    assert!(matches!(
        *runtime_error(refused.wait()),
        RuntimeError::InvalidInput { .. }
    ));
    assert!(matches!(*runtime_error(failing.wait()), RuntimeError::Run { .. }));
    let after = after.wait().unwrap();
    assert_eq!(after.outputs[0].data[..], [2, 2, 3, 3]);
    assert_eq!((after.timings.batch_rows, after.timings.batch_requests), (2, 1));
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 5, 1, 1, 1, 2]);
    let ok: Vec<bool> = bench
        .seen
        .reports
        .lock()
        .unwrap()
        .iter()
        .map(|report| report.ok)
        .collect();
    assert_eq!(ok, [true, false, true, false, false, true]);
}

#[test]
fn members_that_go_away_while_others_run_alone_are_not_run() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let refused = bench.submit(&[[13, 1]]);
    let cancelled = bench.submit(&[[1, 1]]);
    let expiring = bench.submit_until(&[[2, 2]], Duration::from_millis(5)).unwrap();
    let after = bench.submit(&[[3, 3]]);
    // The held run and the batch of four pass; the first of the four is held when it runs alone.
    bench.gate.pass(2);
    bench.gate.wait_for_arrivals(3);
    drop(cancelled);
    bench.advance(Duration::from_millis(5));
    bench.release();
    runtime_error(refused.wait());
    assert!(matches!(expiring.wait(), Err(JobError::DeadlineExceeded)));
    assert_eq!(data(after.wait()), [3, 3]);
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 4, 1, 1]);
}

#[test]
fn an_output_unlike_its_signature_fails_the_whole_batch_with_one_error() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let (first, second) = (bench.submit(&[[99, 1]]), bench.submit(&[[1, 1]]));
    bench.release();
    let (first, second) = (runtime_error(first.wait()), runtime_error(second.wait()));
    assert!(matches!(*first, RuntimeError::Output { .. }));
    assert!(Arc::ptr_eq(&first, &second), "the error is shared");
    drop(held);
    assert_eq!(data(bench.submit(&[[5, 5]]).wait()), [5, 5]);
}

#[test]
fn an_instance_that_loses_its_device_fails_its_batch_and_is_replaced() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let (bad, neighbour) = (bench.submit(&[[77, 1]]), bench.submit(&[[1, 1]]));
    bench.release();
    for pending in [bad, neighbour] {
        let error = runtime_error(pending.wait());
        assert!(matches!(*error, RuntimeError::DeviceLost { .. }), "{error}");
    }
    assert_eq!(data(bench.submit(&[[2, 2]]).wait()), [2, 2]);
    drop(held);
    assert_eq!(bench.seen.replaced.lock().unwrap().len(), 1);
    assert_eq!(bench.batcher.healthy_instances(), 1);
}

#[test]
fn a_panicking_instance_fails_its_batch_and_is_replaced() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let (bad, neighbour) = (bench.submit(&[[66, 1]]), bench.submit(&[[1, 1]]));
    bench.release();
    for pending in [bad, neighbour] {
        let error = runtime_error(pending.wait());
        assert!(matches!(&*error, RuntimeError::Panicked { reason } if reason.contains("too much")));
    }
    assert_eq!(data(bench.submit(&[[2, 2]]).wait()), [2, 2]);
    drop(held);
    assert_eq!(*bench.seen.replaced.lock().unwrap(), ["66 is too much"]);
    assert!(bench.seen.reports.lock().unwrap()[1].panicked);
    assert_eq!(
        (bench.probe.instances_made(), bench.probe.instances_alive()),
        (2, 1)
    );
    assert_eq!(bench.batcher.healthy_instances(), 1);
}

#[test]
fn a_panic_while_members_run_one_by_one_leaves_no_caller_waiting() {
    let bench = Bench::new(|setup| setup.model = moody(signature()));
    let held = bench.occupy(1);
    let refused = bench.submit(&[[13, 66]]);
    let lone = bench.submit(&[[66, 0]]);
    let after = bench.submit(&[[1, 1]]);
    bench.release();
    assert!(matches!(
        *runtime_error(refused.wait()),
        RuntimeError::InvalidInput { .. }
    ));
    assert!(matches!(
        *runtime_error(lone.wait()),
        RuntimeError::Panicked { .. }
    ));
    assert!(matches!(
        *runtime_error(after.wait()),
        RuntimeError::Panicked { .. }
    ));
    drop(held);
    assert_eq!(data(bench.submit(&[[3, 3]]).wait()), [3, 3]);
}

#[test]
fn without_a_healthy_instance_nobody_waits_and_a_new_one_is_tried_again() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let factory_gate = Gate::closed();
    let bench = Bench::new(|setup| {
        setup.model = moody(signature());
        setup.options.max_rows = 1;
        let (model, attempts, gate) = (moody(signature()), attempts.clone(), factory_gate.clone());
        setup.factory = Some(Arc::new(move || {
            gate.enter();
            match attempts.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the factory panics first"),
                1 => Err(RuntimeError::Load {
                    reason: "then it fails".to_owned(),
                }),
                _ => model.instantiate(&InstanceOptions::default()),
            }
        }));
    });
    let held = bench.occupy(1);
    let (bad, waiting) = (bench.submit(&[[66, 1]]), bench.submit(&[[1, 1]]));
    bench.release();
    runtime_error(bad.wait());
    drop(held);
    // The first attempt is held: the instance still counts, and the next request waits.
    factory_gate.wait_for_arrivals(1);
    assert_eq!(bench.batcher.healthy_instances(), 1);
    factory_gate.pass(1);
    assert!(matches!(waiting.wait(), Err(JobError::NoInstance)));
    factory_gate.wait_for_arrivals(2);
    assert_eq!(bench.batcher.healthy_instances(), 0);
    assert_eq!(
        bench.batcher.submit(bench.job(&[[2, 2]])).err(),
        Some(SubmitError::NoInstance)
    );
    factory_gate.open();
    while bench.batcher.healthy_instances() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(data(bench.submit(&[[3, 3]]).wait()), [3, 3]);
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
}

#[test]
fn the_other_instances_go_on_while_one_cannot_be_replaced() {
    let bench = Bench::new(|setup| {
        setup.model = moody(signature());
        setup.instances = 2;
        setup.factory = Some(Arc::new(|| {
            let reason = "never again".to_owned();
            Err(RuntimeError::Load { reason })
        }));
    });
    runtime_error(bench.submit(&[[66, 1]]).wait());
    while bench.batcher.healthy_instances() == 2 {
        std::thread::yield_now();
    }
    for k in 0..5 {
        assert_eq!(data(bench.submit(&[[k, k]]).wait()), [k, k]);
    }
    assert_eq!(bench.batcher.healthy_instances(), 1);
}
