//! Starting and ending a batcher, and many callers at once.

use std::sync::Arc;

use crossfade_batcher::{Batcher, BatcherError, BatcherOptions, SubmitError};
use crossfade_runtimes_core::Model;
use crossfade_runtimes_fake::FakeModel;

use crate::support::{Bench, data, signature};

#[test]
fn closing_finishes_what_is_queued_and_dropping_frees_the_instances() {
    let bench = Bench::new(|setup| setup.instances = 2);
    let held = bench.occupy(2);
    let queued: Vec<_> = (0..20).map(|k| bench.submit(&[[k, k]])).collect();
    bench.batcher.close();
    assert_eq!(
        bench.batcher.submit(bench.job(&[[1, 1]])).err(),
        Some(SubmitError::Closed)
    );
    bench.release();
    let probe = bench.probe.clone();
    drop(bench);
    assert_eq!(probe.instances_alive(), 0);
    held.into_iter()
        .for_each(|held| assert_eq!(data(held.wait()), [0, 0]));
    for (pending, k) in queued.into_iter().zip(0..) {
        assert_eq!(data(pending.wait()), [k, k]);
    }
}

#[test]
fn a_batcher_ends_while_its_instance_cannot_be_replaced() {
    let bench = Bench::new(|setup| {
        setup.model = FakeModel::new(signature(), |_, _| panic!("always"));
        setup.factory = Some(Arc::new(|| panic!("always")));
    });
    bench.submit(&[[1, 1]]).wait().unwrap_err();
    drop(bench);
}

#[test]
fn options_that_do_not_fit_are_refused_by_name() {
    let start = |change: fn(&mut BatcherOptions), instances: usize| {
        let mut options = BatcherOptions::new("model/1", 8);
        change(&mut options);
        let model = FakeModel::identity(signature());
        let instances = (0..instances).map(|_| model.instance()).collect();
        let signature = Arc::new(model.signature().clone());
        let factory = Arc::new(move || Ok(model.instance()));
        Batcher::start(signature, instances, factory, options, Arc::new(()))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(start(|_| {}, 1), "");
    assert_eq!(
        start(|_| {}, 0),
        BatcherError::NoInstances {
            name: "model/1".into()
        }
        .to_string()
    );
    assert!(start(|options| options.priority_levels = 2, 1).contains("default_priority_level"));
    assert!(start(|options| options.preferred_rows = vec![9], 1).contains("preferred_batch_size"));
    assert!(start(|options| options.max_queue_requests = 0, 1).contains("max_queue_requests"));
}

#[test]
fn many_callers_at_once_each_get_their_own_answer() {
    let bench = Bench::new(|setup| {
        setup.instances = 3;
        setup.options.max_queue_requests = 10_000;
    });
    std::thread::scope(|scope| {
        for caller in 0..8u8 {
            let bench = &bench;
            scope.spawn(move || {
                for k in 0..200u8 {
                    let rows = vec![[caller, k]; 1 + usize::from(k % 3)];
                    let pending = bench.submit(&rows);
                    if k % 7 == 0 {
                        drop(pending);
                    } else {
                        assert_eq!(data(pending.wait()), rows.as_flattened());
                    }
                }
            });
        }
    });
    assert!(bench.probe.batch_rows().iter().all(|&rows| rows <= 8));
}
