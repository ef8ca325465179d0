//! A baseline comes and goes beside the instances of its version.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crossfade_batcher::Job;
use crossfade_runtimes_core::{Datatype, InstanceOptions, RuntimeError, ShapeSpec, TensorSpec};
use crossfade_runtimes_fake::{FakeModel, Gate, Probe};

use super::super::fixture;
use super::super::sample::{self, Fill};
use super::*;

/// Instances of the version.
const OWN: usize = 2;

/// A version and its baseline.
struct Version {
    baseline: Arc<Baseline>,
    running: Option<Arc<ArcSwap<Running>>>,
    probe: Probe,
}

fn model() -> FakeModel {
    let spec = TensorSpec::new("x", Datatype::Fp32, ShapeSpec::from(&[-1, 2][..]));
    FakeModel::identity(ModelSignature {
        inputs: vec![spec.clone()],
        outputs: vec![spec],
        batched: true,
        max_rows: None,
        ..Default::default()
    })
}

fn version(model: FakeModel) -> Version {
    let probe = model.probe();
    let version = fixture::version(Arc::new(model), OWN);
    let baseline = Baseline {
        running: Arc::downgrade(&version.running),
        signature: version.signature,
        warmup: Vec::new(),
        devices: vec![Device::Cpu],
        directory: PathBuf::new(),
        options: version.options,
        observer: version.observer,
        kept: Kept::default(),
    };
    Version {
        baseline: Arc::new(baseline),
        running: Some(version.running),
        probe,
    }
}

impl Wish {
    /// Whether a thread sees to it.
    fn is_kept(&self) -> bool {
        self.keeper.is_some() && !self.is_over
    }
}

/// Waits for other threads.
fn until(what: &str, done: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

impl Version {
    /// Waits until there is a baseline, or none and nothing left of it.
    fn until_kept(&self, kept: bool) {
        let instances = if kept { 2 * OWN } else { OWN };
        until("a baseline comes or goes", || {
            let wish = self.baseline.kept.wish();
            self.baseline.kept.batcher.load().is_some() == kept
                && wish.is_kept() == kept
                && self.probe.instances_alive() == instances
        });
    }

    fn failure(&self) -> Option<String> {
        let wish = self.baseline.kept.wish();
        wish.failed.as_ref().map(|failed| failed.why.clone())
    }
}

#[test]
fn as_many_instances_as_the_version_has_while_it_is_wanted() {
    let version = version(model());
    let baseline = &version.baseline;
    for _ in 0..3 {
        baseline.keep(true);
        baseline.keep(true);
        version.until_kept(true);
        baseline.keep(false);
        version.until_kept(false);
    }
    // Whatever its thread is about, the last wish counts.
    for last in [true, false] {
        for _ in 0..20 {
            baseline.keep(!last);
            baseline.keep(last);
        }
        version.until_kept(last);
    }
}

#[test]
fn requests_that_it_has_are_answered_before_it_goes() {
    let gate = Gate::closed();
    let version = version(model().with_gate(gate.clone()));
    version.baseline.keep(true);
    version.until_kept(true);
    let batcher = version.baseline.kept.batcher.load_full().unwrap();
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
    drop(batcher);
    gate.wait_for_arrivals(1);
    version.baseline.keep(false);
    until("no more requests go to it", || {
        version.baseline.kept.batcher.load().is_none()
    });
    assert!(version.baseline.kept.wish().is_kept(), "it has a request yet");
    gate.open();
    let answer = pending.wait().unwrap();
    assert_eq!(answer.outputs.len(), 1);
    version.until_kept(false);
}

#[test]
fn one_that_cannot_be_made_is_tried_again_after_a_pause() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // The version's own are made; then the memory is full, twice.
    let full = move |_: &InstanceOptions| match count.fetch_add(1, SeqCst) {
        OWN => Err(RuntimeError::Run {
            reason: "no memory".to_owned(),
        }),
        3 => panic!("no memory at all"),
        _ => Ok(()),
    };
    let version = version(model().with_instantiate(full));
    let baseline = &version.baseline;
    let tries = || asked.load(SeqCst) - OWN;
    baseline.keep(true);
    until("it fails", || version.failure().is_some());
    assert!(
        version.failure().unwrap().contains("no memory"),
        "{:?}",
        version.failure()
    );
    baseline.keep(true);
    assert!(!baseline.kept.wish().is_kept() && tries() == 1, "not yet");
    baseline.kept.wish().failed.as_mut().unwrap().again -= PAUSE;
    baseline.keep(true);
    until("it panics", || tries() == 2 && !baseline.kept.wish().is_kept());
    assert!(version.failure().unwrap().contains("no memory at all"));
    let failed = baseline
        .kept
        .wish()
        .failed
        .as_ref()
        .map(|failed| failed.again - Instant::now());
    assert!(failed.unwrap() > PAUSE, "it waits longer each time");
    // Another release does not wait for the pauses of the one before.
    baseline.keep(false);
    assert_eq!(version.failure(), None);
    baseline.keep(true);
    version.until_kept(true);
    assert_eq!((tries(), version.failure()), (2 + OWN, None));
    baseline.end();
}

#[test]
fn none_is_left_of_a_version_that_is_dropped() {
    let gate = Gate::closed();
    let waits = gate.clone();
    let asked = AtomicUsize::new(0);
    let slow = move |_: &InstanceOptions| {
        if asked.fetch_add(1, SeqCst) == OWN {
            waits.enter();
        }
        Ok(())
    };
    let mut version = version(model().with_instantiate(slow));
    version.baseline.keep(true);
    version.baseline.keep(true);
    // It is being made, one instance after the other.
    gate.wait_for_arrivals(1);
    let baseline = version.baseline.clone();
    let dropped = std::thread::spawn(move || baseline.end());
    until("it is not wanted", || !version.baseline.kept.wish().wanted);
    assert!(!dropped.is_finished(), "its thread is at work");
    gate.open();
    dropped.join().unwrap();
    assert_eq!(version.probe.instances_alive(), OWN);
    assert_eq!(
        version.probe.instances_made(),
        OWN + 1,
        "nobody wanted the second one"
    );

    drop(version.running.take());
    assert_eq!(version.probe.instances_alive(), 0);
    let reason = version.baseline.make().map(drop).unwrap_err();
    assert_eq!(reason, "the version was unloaded");
}
