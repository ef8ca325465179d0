//! The choice, the measurement, and the change of a version that serves.

use crossfade_batcher::BatchReport;
use crossfade_runtimes_core::{Datatype, Dim, ShapeSpec, TensorSpec};
use crossfade_runtimes_fake::{FakeModel, FakeRuntime};
use tempfile::TempDir;

use super::*;

#[test]
fn single_threads_must_be_clearly_better() {
    for (shared, single, expected) in [(100.0, 104.0, false), (100.0, 106.0, true), (0.0, 0.0, false)] {
        assert_eq!(Rates { shared, single }.prefer_single(), expected);
    }
}

#[test]
fn both_ways_are_measured_until_the_version_is_gone() {
    let spec = |name| {
        let shape = ShapeSpec(vec![Dim::Any, Dim::Fixed(4)]);
        TensorSpec::new(name, Datatype::Fp32, shape)
    };
    let signature = ModelSignature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        max_rows: None,
    };
    let model = FakeModel::identity(signature.clone());
    let mut shared = [model.instance()];
    let mut single = [model.instance(), model.instance()];
    let rates = compare(&signature, &mut shared, &mut single, 8, &|| true).unwrap();
    assert!(rates.shared > 0.0 && rates.single > 0.0, "{rates:?}");
    let sizes = model.probe().batch_rows();
    assert!(sizes.contains(&1) && sizes.contains(&8));
    let gone = compare(&signature, &mut shared, &mut single, 8, &|| false);
    assert_eq!(gone.unwrap_err(), "it was unloaded");
}

const MODEL: &str = "input x FP32 -1,2\noutput y FP32 -1,2\nop add 1\nbatched\n";
const CORES: usize = 3;

struct Nothing;

impl Observer for Nothing {
    fn batch(&self, _: &BatchReport) {}
}

/// A version of one instance that serves, and what calibration is given of it.
struct Bench {
    runtime: FakeRuntime,
    running: Arc<ArcSwap<Running>>,
    candidate: Candidate,
    _folder: TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.fake");
    std::fs::write(&path, MODEL).unwrap();
    let artifact = Artifact::of(&path, CORES);
    let source = ModelSource {
        path,
        ..ModelSource::default()
    };
    let runtime = FakeRuntime::new();
    let model: Arc<dyn Model> = runtime.load(&source).unwrap().into();
    let signature = Arc::new(model.signature().clone());
    let factory = factory(model.clone(), signature.clone(), Device::Cpu);
    let options = BatcherOptions::new("m/1", 8);
    let observer = Arc::new(Nothing);
    let instances = vec![factory().unwrap()];
    let batcher = Batcher::start(
        signature.clone(),
        instances,
        factory,
        options.clone(),
        observer.clone(),
    );
    let running = Arc::new(ArcSwap::from_pointee(Running::new(batcher.unwrap(), model)));
    let candidate = Candidate {
        name: "m".into(),
        version: 1,
        running: Arc::downgrade(&running),
        runtime: Arc::new(runtime.clone()),
        single: source,
        signature,
        warmup: Vec::new(),
        directory: folder.path().to_owned(),
        options,
        observer,
        cores: CORES,
        loaded: Instant::now().checked_sub(SETTLED).unwrap(),
        artifact,
    };
    Bench {
        runtime,
        running,
        candidate,
        _folder: folder,
    }
}

impl Bench {
    fn alive(&self) -> usize {
        self.runtime.probe(&self.candidate.single.path).instances_alive()
    }

    /// Adopts if told so by what is known, without measuring.
    fn calibrate(&self, single: f64) -> Result<(), String> {
        let rates = Rates {
            shared: 100.0,
            single,
        };
        let artifact = self.candidate.artifact.clone().unwrap();
        calibrate(&self.candidate, &mut HashMap::from([(artifact, rates)]))
    }
}

#[test]
fn the_better_way_takes_over_and_leaves_nothing_of_the_old_one() {
    let bench = bench();
    assert_eq!(
        (bench.alive(), bench.running.load().batcher.healthy_instances()),
        (1, 1)
    );
    bench.calibrate(150.0).unwrap();
    let now = bench.running.load();
    assert_eq!((bench.alive(), now.batcher.healthy_instances()), (CORES, CORES));
    let how = now.how.get().unwrap();
    assert!(how.starts_with("3 of one thread each by calibration"), "{how}");
    assert!(
        how.contains("one instance 100 rows/s, 3 of one thread each 150"),
        "{how}"
    );
}

#[test]
fn a_version_that_is_best_as_it_is_stays_and_says_so() {
    let bench = bench();
    let before = bench.running.load_full();
    bench.calibrate(104.0).unwrap();
    assert!(Arc::ptr_eq(&before, &bench.running.load()));
    assert_eq!(bench.alive(), 1);
    let how = before.how.get().unwrap();
    assert!(how.starts_with("1 of all threads by calibration"), "{how}");
}

#[test]
fn other_weights_never_come_in_under_the_same_version() {
    for changed in [
        MODEL.replace("op add 1", "op add 20"),
        MODEL.replace("op add 1", "op add 2"),
    ] {
        let bench = bench();
        std::fs::write(&bench.candidate.single.path, changed).unwrap();
        // Two writes may fall into one tick of the file system's clock.
        let file = std::fs::File::options()
            .write(true)
            .open(&bench.candidate.single.path);
        file.unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            bench.calibrate(150.0).unwrap_err(),
            "its file has changed since it was loaded"
        );
        assert_eq!(
            (bench.alive(), bench.running.load().batcher.healthy_instances()),
            (1, 1)
        );
    }
}

#[test]
fn a_version_that_is_gone_is_not_loaded_again() {
    let bench = bench();
    let loads = bench.runtime.loads();
    let Bench {
        runtime,
        running,
        candidate,
        _folder,
    } = bench;
    drop(running);
    let refused = calibrate(&candidate, &mut HashMap::new()).unwrap_err();
    assert_eq!(refused, "it was unloaded");
    assert_eq!(runtime.loads(), loads);
}
