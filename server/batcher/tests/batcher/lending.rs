//! Idle instances lent to the caller: which runs stay on its thread, and that nothing is lost beside them.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use crossfade_batcher::BatcherOptions;
use crossfade_runtimes_core::Shape;
use crossfade_runtimes_fake::FakeModel;

use crate::support::{Bench, Setup, data, signature};

/// The threads that ran, in order.
type Threads = Arc<Mutex<Vec<ThreadId>>>;

/// A bench that lends, whose identity model notes its threads and panics at 66.
fn bench(change: impl FnOnce(&mut Setup)) -> (Bench, Threads) {
    let threads = Threads::default();
    let noted = threads.clone();
    let model = FakeModel::new(signature(), move |inputs, outputs| {
        noted.lock().unwrap().push(std::thread::current().id());
        let view = inputs[0].unwrap();
        assert!(!view.data.contains(&66), "66 is too much");
        outputs
            .buffer(0, view.datatype, Shape::from(view.shape))
            .copy_from_slice(view.data);
        Ok(())
    });
    let bench = Bench::new(|setup| {
        setup.model = model;
        setup.options.lend_within = Some(Duration::from_micros(50));
        change(setup);
    });
    (bench, threads)
}

/// Runs one job after the other until one ran here; the bench's clock stands still, so every run is short.
#[track_caller]
fn run_until_lent(bench: &Bench, threads: &Threads) {
    let here = std::thread::current().id();
    for value in 0..60 {
        assert_eq!(data(bench.submit(&[[value, 1]]).wait()), [value, 1]);
        if threads.lock().unwrap().last() == Some(&here) {
            return;
        }
        // The thread of the instance may not have gone to sleep yet.
        std::thread::yield_now();
    }
    panic!("the instance was never lent");
}

#[test]
fn a_short_run_stays_on_the_thread_of_the_caller() {
    let (bench, threads) = bench(|_| {});
    run_until_lent(&bench, &threads);
    let here = std::thread::current().id();
    let threads = threads.lock().unwrap();
    assert!(
        threads.len() > 4 && threads[..4].iter().all(|&thread| thread != here),
        "not before a few runs were seen"
    );
    let reports = bench.seen.reports.lock().unwrap();
    assert_eq!(reports.len(), threads.len(), "lent runs are reported like others");
}

#[test]
fn nothing_is_lent_where_batches_wait_to_fill_or_answers_keep_their_order() {
    let delayed = |options: &mut BatcherOptions| options.max_delay = Duration::from_nanos(1);
    let ordered = |options: &mut BatcherOptions| options.preserve_ordering = true;
    let off = |options: &mut BatcherOptions| options.lend_within = None;
    let changes: [&dyn Fn(&mut BatcherOptions); 3] = [&delayed, &ordered, &off];
    for change in changes {
        let (bench, threads) = bench(|setup| change(&mut setup.options));
        for value in 0..20 {
            let pending = bench.submit(&[[value, 1]]);
            bench.advance(Duration::from_nanos(2));
            assert_eq!(data(pending.wait()), [value, 1]);
        }
        let here = std::thread::current().id();
        assert!(!threads.lock().unwrap().contains(&here));
    }
}

#[test]
fn a_panic_on_the_callers_thread_is_an_answer_and_the_instance_is_replaced() {
    let (bench, threads) = bench(|_| {});
    run_until_lent(&bench, &threads);
    let here = std::thread::current().id();
    // As often as it takes until the panicking run itself is a lent one.
    for round in 0.. {
        assert!(round < 60, "the instance was never lent to a panicking run");
        let error = bench.submit(&[[66, 66]]).wait().unwrap_err();
        assert!(error.to_string().contains("66 is too much"), "{error}");
        let lent = threads.lock().unwrap().last() == Some(&here);
        assert_eq!(data(bench.submit(&[[7, 7]]).wait()), [7, 7]);
        while bench.seen.replaced.lock().unwrap().len() <= round {
            std::thread::yield_now();
        }
        if lent {
            break;
        }
        run_until_lent(&bench, &threads);
    }
    assert_eq!(bench.batcher.healthy_instances(), 1);
    assert_eq!(bench.probe.instances_alive(), 1);
}

#[test]
fn many_callers_and_few_instances_lose_nothing() {
    let (bench, threads) = bench(|setup| setup.instances = 2);
    run_until_lent(&bench, &threads);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for value in 0..500u16 {
                    let [low, _] = value.to_le_bytes();
                    let low = if low == 66 { 65 } else { low };
                    assert_eq!(data(bench.submit(&[[low, caller]]).wait()), [low, caller]);
                }
            });
        }
    });
    let rows: usize = bench.probe.batch_rows().iter().sum();
    assert!(rows >= 2000, "every job ran: {rows}");
    assert_eq!(bench.batcher.depth(), 0);
}
