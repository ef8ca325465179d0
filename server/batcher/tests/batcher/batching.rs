//! What merges, what does not, and who gets what back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use crossfade_batcher::{BatcherOptions, Job, Pending, SubmitError};
use crossfade_runtimes_core::{Datatype, Shape, ShapeSpec, Tensor, push_element};
use crossfade_runtimes_fake::{FakeModel, Gate, Operation};

use crate::support::{Bench, data, signature, tensor};

#[test]
fn an_idle_instance_takes_a_request_at_once() {
    let bench = Bench::new(|_| {});
    let answer = bench.submit(&[[1, 2]]).wait().unwrap();
    assert_eq!(answer.outputs, [tensor([1, 2], &[1, 2])]);
    assert_eq!((answer.timings.batch_rows, answer.timings.batch_requests), (1, 1));
    assert_eq!(bench.probe.history()[0].thread.as_deref(), Some("model/1#0"));
}

#[test]
fn requests_merge_while_the_instance_is_busy_and_each_gets_its_own_rows() {
    let bench = Bench::new(|setup| setup.model = FakeModel::of(signature(), Operation::Add(1.0)));
    let held = bench.occupy(1);
    let first = bench.submit(&[[1, 2]]);
    let second = bench.submit(&[[3, 4], [5, 6]]);
    let third = bench.submit(&[[7, 8]]);
    assert_eq!(bench.batcher.depth(), 3);
    bench.release();
    let second = second.wait().unwrap();
    assert_eq!(second.outputs, [tensor([2, 2], &[4, 5, 6, 7])]);
    assert_eq!((second.timings.batch_rows, second.timings.batch_requests), (4, 3));
    assert_eq!(second.timings.batch_index, 1);
    assert_eq!(data(first.wait()), [2, 3]);
    assert_eq!(data(third.wait()), [8, 9]);
    held.into_iter()
        .for_each(|held| assert_eq!(data(held.wait()), [1, 1]));
    assert_eq!(bench.probe.batch_rows(), [1, 4]);
    assert!(bench.probe.history()[1].aligned);
    assert_eq!(bench.batcher.depth(), 0);
    let reports = bench.seen.reports.lock().unwrap();
    assert!(reports[1].ok && reports[1].rows == 4 && reports[1].requests == 3);
}

#[test]
fn a_batch_stays_within_its_cap_and_a_larger_request_runs_alone() {
    let bench = Bench::new(|_| {});
    let held = bench.occupy(1);
    let large = bench.submit(&[[9, 9]; 20]);
    let small: Vec<_> = (0..10).map(|k| bench.submit(&[[k, k]])).collect();
    bench.release();
    assert_eq!(data(large.wait()), [9; 40]);
    for (answer, k) in small.into_iter().zip(0..) {
        assert_eq!(data(answer.wait()), [k, k]);
    }
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 20, 8, 2]);
}

#[test]
fn other_shapes_and_empty_requests_are_not_merged() {
    let bench = Bench::new(|_| {});
    let held = bench.occupy(1);
    let job = |rows: usize, width: usize| Job {
        inputs: vec![Some(tensor([rows, width], &vec![7; rows * width]))],
        rows,
        ..bench.job(&[])
    };
    let jobs = [job(1, 2), job(1, 3), job(0, 2), job(1, 2)];
    let answers: Vec<_> = jobs
        .into_iter()
        .map(|job| bench.batcher.submit(job).unwrap())
        .collect();
    bench.release();
    let shapes: Vec<Shape> = answers
        .into_iter()
        .map(|answer| answer.wait().unwrap().outputs[0].shape.clone())
        .collect();
    assert_eq!(
        shapes,
        [[1, 2].into(), [1, 3].into(), [0, 2].into(), Shape::from([1, 2])]
    );
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 2, 1, 0]);
}

#[test]
fn without_merging_every_request_runs_alone() {
    for batched in [true, false] {
        let bench = Bench::new(|setup| {
            setup.options.merge = !batched;
            setup.model = FakeModel::identity(crossfade_runtimes_core::ModelSignature {
                batched,
                ..signature()
            });
        });
        let held = bench.occupy(1);
        let answers: Vec<_> = (0..3).map(|k| bench.submit(&[[k, k]])).collect();
        bench.release();
        answers
            .into_iter()
            .for_each(|answer| drop(answer.wait().unwrap()));
        drop(held);
        assert_eq!(bench.probe.batch_rows(), [1; 4]);
    }
}

#[test]
fn a_delayed_batch_runs_as_soon_as_it_is_full() {
    let bench = Bench::new(|setup| {
        setup.options.max_delay = Duration::from_secs(3600);
        setup.options.max_rows = 4;
    });
    let answers: Vec<_> = (0..4).map(|k| bench.submit(&[[k, k]])).collect();
    for (answer, k) in answers.into_iter().zip(0..) {
        assert_eq!(data(answer.wait()), [k, k]);
    }
    assert_eq!(bench.probe.batch_rows(), [4]);
}

#[test]
fn a_delayed_batch_runs_at_a_preferred_size() {
    let bench = Bench::new(|setup| {
        setup.options.max_delay = Duration::from_secs(3600);
        setup.options.preferred_rows = vec![2];
        setup.instances = 2;
    });
    let answers: Vec<_> = (0..4).map(|k| bench.submit(&[[k, k]])).collect();
    answers
        .into_iter()
        .for_each(|answer| drop(answer.wait().unwrap()));
    assert_eq!(bench.probe.batch_rows(), [2, 2]);
}

#[test]
fn higher_priorities_run_first_and_unknown_ones_are_refused() {
    let bench = Bench::new(|setup| {
        setup.options = BatcherOptions {
            priority_levels: 3,
            default_priority: 2,
            ..BatcherOptions::new("model/1", 1)
        };
    });
    let held = bench.occupy(1);
    let submit = |priority: u32, rows: usize| {
        let job = Job {
            priority,
            ..bench.job(&vec![[0, 0]; rows])
        };
        bench.batcher.submit(job)
    };
    let answers = [(3, 3), (0, 2), (1, 1)].map(|(priority, rows)| submit(priority, rows).unwrap());
    assert_eq!(
        submit(4, 1).err(),
        Some(SubmitError::PriorityOutOfRange { got: 4, max: 3 })
    );
    bench.release();
    answers
        .into_iter()
        .for_each(|answer| drop(answer.wait().unwrap()));
    drop(held);
    assert_eq!(bench.probe.batch_rows(), [1, 1, 2, 3]);
}

#[test]
fn bytes_are_merged_and_split_by_their_framing() {
    let mut signature = signature();
    for spec in signature.inputs.iter_mut().chain(&mut signature.outputs) {
        spec.datatype = Datatype::Bytes;
        spec.shape = ShapeSpec::from(&[-1][..]);
    }
    let bench = Bench::new(|setup| setup.model = FakeModel::identity(signature));
    let text = |elements: &[&str]| {
        let mut data = Vec::new();
        elements
            .iter()
            .for_each(|element| push_element(&mut data, element.as_bytes()));
        Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::from([elements.len()]),
            data: data.into(),
        }
    };
    let submit = |elements: &[&str]| {
        let job = Job {
            inputs: vec![Some(text(elements))],
            rows: elements.len(),
            ..bench.job(&[])
        };
        bench.batcher.submit(job).unwrap()
    };
    bench.gate.close();
    let held = submit(&["held"]);
    bench.gate.wait_for_arrivals(1);
    let (first, second) = (submit(&["a", ""]), submit(&["long enough"]));
    bench.release();
    assert_eq!(first.wait().unwrap().outputs, [text(&["a", ""])]);
    assert_eq!(second.wait().unwrap().outputs, [text(&["long enough"])]);
    assert_eq!(held.wait().unwrap().outputs, [text(&["held"])]);
    assert_eq!(bench.probe.batch_rows(), [1, 3]);
}

#[test]
fn answers_keep_the_order_of_the_queue_where_configured() {
    let first_gate = Gate::closed();
    let bench = Bench::new(|setup| {
        setup.instances = 2;
        setup.options.preserve_ordering = true;
        let gate = first_gate.clone();
        setup.model = FakeModel::new(signature(), move |inputs, outputs| {
            let view = inputs[0].unwrap();
            if view.data[0] == 1 {
                gate.enter();
            }
            let place = outputs.buffer(0, view.datatype, Shape::from(view.shape));
            place.copy_from_slice(view.data);
            Ok(())
        });
    });
    let mut first = bench.submit(&[[1, 1]]);
    first_gate.wait_for_arrivals(1);
    let mut second = bench.submit(&[[2, 2]]);
    while bench.seen.reports.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let is_ready = |pending: &mut Pending| {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(pending).poll(&mut context).is_ready()
    };
    assert!(!is_ready(&mut second), "the second ran first, but is held back");
    first_gate.open();
    assert_eq!(data(second.wait()), [2, 2]);
    assert!(is_ready(&mut first), "the first was answered before the second");
}

#[test]
fn stages_follow_each_other_without_a_gap() {
    let bench = Bench::new(|_| {});
    let held = bench.occupy(1);
    let submitted = bench.now();
    let pending = bench.submit(&[[1, 1]]);
    bench.advance(Duration::from_millis(7));
    bench.release();
    let timings = pending.wait().unwrap().timings;
    drop(held);
    let sum = timings.queue + timings.gather + timings.compute + timings.scatter;
    assert_eq!(sum, bench.now() - submitted);
    assert_eq!(timings.queue, Duration::from_millis(7));
}
