//! A baseline comes and goes beside the instances of its version.

use std::time::{Duration, Instant};

use crossfade_batcher::Job;
use crossfade_runtimes_core::{Model, ModelSource, Runtime};
use crossfade_runtimes_fake::{FakeRuntime, Probe};
use tempfile::TempDir;

use super::super::calibration::Meter;
use super::super::sample::{self, Fill};
use super::*;

const MODEL: &str = "input x FP32 -1,2\noutput y FP32 -1,2\nop add 1\nbatched\n";

/// A version of two instances.
struct Version {
    baseline: Arc<Baseline>,
    running: Option<Arc<ArcSwap<Running>>>,
    probe: Probe,
    _folder: TempDir,
}

fn version() -> Version {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.fake");
    std::fs::write(&path, MODEL).unwrap();
    let runtime = FakeRuntime::new();
    let source = ModelSource {
        path,
        ..ModelSource::default()
    };
    let model: Arc<dyn Model> = runtime.load(&source).unwrap().into();
    let signature = Arc::new(model.signature().clone());
    let factory = factory(model.clone(), signature.clone(), Device::Cpu);
    let options = BatcherOptions::new("m/1", 8);
    let observer: Arc<dyn Observer> = Arc::new(());
    let meter = Arc::new(Meter::new(observer.clone()));
    let instances = vec![factory().unwrap(), factory().unwrap()];
    let batcher = Batcher::start(
        signature.clone(),
        instances,
        factory,
        options.clone(),
        meter.clone(),
    );
    let running = Running::new(batcher.unwrap(), model, meter, 2);
    let running = Arc::new(ArcSwap::from_pointee(running));
    let baseline = Baseline {
        running: Arc::downgrade(&running),
        signature,
        warmup: Vec::new(),
        device: Device::Cpu,
        directory: folder.path().to_owned(),
        options,
        observer,
        kept: Kept::default(),
    };
    Version {
        baseline: Arc::new(baseline),
        running: Some(running),
        probe: runtime.probe(&source.path),
        _folder: folder,
    }
}

impl Version {
    /// Waits for the threads that make it and take it away.
    fn until(&self, instances: usize) {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.probe.instances_alive() != instances {
            assert!(
                Instant::now() < patience,
                "{} instances",
                self.probe.instances_alive()
            );
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

#[test]
fn as_many_instances_as_the_version_has_while_it_is_wanted() {
    let version = version();
    let baseline = &version.baseline;
    for _ in 0..3 {
        baseline.keep(true);
        baseline.keep(true);
        version.until(4);
        baseline.keep(false);
        version.until(2);
        assert!(baseline.kept.batcher.load().is_none());
    }
    // Whatever the order in which their threads run, the last wish counts.
    for _ in 0..20 {
        baseline.keep(true);
        baseline.keep(false);
    }
    version.until(2);
}

#[test]
fn requests_that_it_has_are_answered_before_it_goes() {
    let version = version();
    version.baseline.keep(true);
    version.until(4);
    let batcher = loop {
        if let Some(batcher) = version.baseline.kept.batcher.load_full() {
            break batcher;
        }
        std::thread::yield_now();
    };
    let row = sample::tensor(&version.baseline.signature.inputs[0], true, 1, 1, Fill::Zero);
    let job = Job {
        inputs: vec![Some(row)],
        outputs: vec![0],
        rows: 1,
        priority: 0,
        deadline: None,
        arrived: Instant::now(),
    };
    let pending = batcher.submit(job).unwrap();
    version.baseline.keep(false);
    drop(batcher);
    let answer = pending.wait().unwrap();
    assert_eq!(answer.outputs.len(), 1);
    version.until(2);
}

#[test]
fn none_of_a_version_that_is_gone() {
    let mut version = version();
    drop(version.running.take());
    version.until(0);
    let reason = version.baseline.make().map(drop).unwrap_err();
    assert_eq!(reason, "the version was unloaded");
}
