//! What a judgement leads to, and the change of a version that serves.

use std::time::SystemTime;

use crossfade_runtimes_fake::FakeRuntime;
use tempfile::TempDir;

use super::super::fixture::version;
use super::*;

const MODEL: &str = "input x FP32 -1,2\noutput y FP32 -1,2\nop add 1\nbatched\n";
const CORES: usize = 3;

/// A version of one instance that serves, and what calibration is given of it.
struct Bench {
    runtime: FakeRuntime,
    running: Arc<ArcSwap<Running>>,
    entry: Entry,
    store: Store,
    _folder: TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.fake");
    std::fs::write(&path, MODEL).unwrap();
    let artifact = Artifact::of(&path, CORES, "fake".to_owned());
    let source = ModelSource {
        path,
        ..ModelSource::default()
    };
    let runtime = FakeRuntime::new();
    let model: Arc<dyn Model> = runtime.load(&source).unwrap().into();
    let version = version(model, 1);
    let running = version.running;
    let candidate = Candidate {
        name: "m".into(),
        version: 1,
        running: Arc::downgrade(&running),
        runtime: Arc::new(runtime.clone()),
        shared: source.clone(),
        single: source,
        known: None,
        begins: Way::Shared,
        rests: Arc::default(),
        signature: version.signature,
        warmup: Vec::new(),
        directory: folder.path().to_owned(),
        options: version.options,
        observer: version.observer,
        cores: CORES,
        loaded: Instant::now().checked_sub(SETTLED).unwrap(),
        artifact,
    };
    Bench {
        runtime,
        running,
        entry: Entry::new(candidate),
        store: Store::default(),
        _folder: folder,
    }
}

impl Bench {
    fn alive(&self) -> usize {
        self.runtime
            .probe(&self.entry.candidate.single.path)
            .instances_alive()
    }

    fn healthy(&self) -> usize {
        self.running.load().batcher.healthy_instances()
    }

    fn measured(&mut self, judged: Judgement) -> Result<(), String> {
        self.entry.measured(judged, &self.store)
    }

    fn found(&self) -> Option<Known> {
        self.store.get(self.entry.candidate.artifact.as_ref()?)
    }

    /// What `/config` shows: that it is chosen, or waits, and the text.
    fn says(&self) -> (bool, String) {
        match &**self.running.load().calibration.load().as_ref().unwrap() {
            crate::servable::Calibration::Chosen(how) => (true, how.clone()),
            crate::servable::Calibration::Waits(why) => (false, why.clone()),
        }
    }
}

fn chosen(way: Way, single: f64) -> Judgement {
    Judgement::Chosen(Choice {
        way,
        shared: 100.0,
        single,
        rounds: 5,
    })
}

#[test]
fn the_better_way_takes_over_and_leaves_nothing_of_the_old_one() {
    let mut bench = bench();
    assert_eq!((bench.alive(), bench.healthy()), (1, 1));
    bench.measured(chosen(Way::Single, 150.0)).unwrap();
    assert_eq!((bench.alive(), bench.healthy()), (CORES, CORES));
    let expected = "3 of one thread each by calibration: one instance 100 rows/s, 3 of one thread each 150 (5 quiet rounds)";
    assert_eq!(bench.says(), (true, expected.to_owned()));
    let found = bench.found().unwrap();
    assert_eq!(
        (found.way, found.shared, found.single, found.served),
        (Way::Single, 100.0, 150.0, false)
    );
}

#[test]
fn a_version_that_is_best_as_it_is_stays_and_says_so() {
    let mut bench = bench();
    let before = bench.running.load_full();
    bench.measured(chosen(Way::Shared, 104.0)).unwrap();
    assert!(Arc::ptr_eq(&before, &bench.running.load()));
    assert_eq!(bench.alive(), 1);
    let (chosen, how) = bench.says();
    assert!(
        chosen && how.starts_with("1 of all threads by calibration"),
        "{how}"
    );
}

#[test]
fn a_disturbed_measurement_is_not_kept_and_is_made_again_later() {
    let mut bench = bench();
    let before = bench.running.load_full();
    let mut after = bench.entry.quiet_after;
    for attempts in 1..=3 {
        bench.measured(Judgement::Disturbed).unwrap();
        assert!(!bench.entry.chosen && bench.entry.quiet_after > after);
        after = bench.entry.quiet_after;
        assert_eq!(bench.found(), None);
        assert!(Arc::ptr_eq(&before, &bench.running.load()));
        let (chosen, why) = bench.says();
        let expected = format!("at each of {attempts} attempts");
        assert!(!chosen && why.contains(&expected), "{why}");
    }
    drop(before);
    bench.measured(chosen(Way::Single, 150.0)).unwrap();
    assert!(bench.entry.chosen && bench.says().0);
    assert_eq!(bench.healthy(), CORES);
}

#[test]
fn pauses_double_up_to_a_bound() {
    let pauses: Vec<u64> = [0, 1, 2, 7, 8, 40]
        .map(|times| backoff(PAUSE, times).as_secs())
        .into();
    assert_eq!(pauses, [2, 4, 8, 256, 300, 300]);
}

/// Two ways that serve in turn, and an end.
fn after_a_trial(bench: &Bench, judged: Result<Judgement, String>) -> Result<Judgement, String> {
    let candidate = &bench.entry.candidate;
    let turns = trial::Turns {
        candidate,
        current: Way::Shared,
        serving: bench.running.load_full(),
        other: candidate.make(Way::Single).unwrap(),
    };
    turns.put(&turns.other).unwrap();
    assert_eq!((bench.alive(), bench.healthy()), (1 + CORES, CORES));
    turns.end(judged)
}

#[test]
fn a_trial_leaves_one_way_serving_and_nothing_of_the_other() {
    for (judged, expected) in [
        (Ok(chosen(Way::Single, 150.0)), CORES),
        (Ok(chosen(Way::Shared, 90.0)), 1),
        (Ok(Judgement::Disturbed), 1),
        (Err("it does not run".to_owned()), 1),
    ] {
        let bench = bench();
        assert_eq!(after_a_trial(&bench, judged.clone()), judged);
        assert_eq!(
            (bench.healthy(), bench.alive()),
            (expected, expected),
            "{judged:?}"
        );
    }
}

#[test]
fn a_choice_by_served_requests_is_kept_and_not_made_again_soon() {
    let mut bench = bench();
    let judged = after_a_trial(&bench, Ok(chosen(Way::Single, 150.0))).unwrap();
    let before = Instant::now();
    bench.entry.tried(judged, &bench.store).unwrap();
    assert_eq!((bench.healthy(), bench.alive()), (CORES, CORES));
    assert!(
        bench.says().1.ends_with("(5 rounds under load)"),
        "{:?}",
        bench.says()
    );
    assert!(
        bench
            .found()
            .is_some_and(|known| known.served && known.way() == Way::Single)
    );
    assert!(bench.entry.trial_after >= before + RECHECK.0);

    // A trial that told nothing changes nothing of it, and waits its turn.
    bench.entry.tried(Judgement::Disturbed, &bench.store).unwrap();
    assert!(bench.entry.chosen && bench.found().is_some());
    assert!(bench.entry.trial_after >= before + PAUSE.0);
}

#[test]
fn what_is_known_of_a_file_is_not_measured_again() {
    let mut bench = bench();
    let known = Known::new(
        Choice {
            way: Way::Single,
            shared: 100.0,
            single: 150.0,
            rounds: 5,
        },
        false,
    );
    let artifact = bench.entry.candidate.artifact.clone().unwrap();
    bench.store.put(artifact, known);
    bench.entry.quiet_after = Instant::now();
    bench.entry.step(&bench.store).unwrap();
    assert_eq!((bench.alive(), bench.healthy()), (CORES, CORES));
    assert!(bench.says().1.ends_with("(found before)"));
}

#[test]
fn a_version_that_is_compared_with_another_stays_as_it_is() {
    let mut bench = bench();
    let known = Known::new(
        Choice {
            way: Way::Single,
            shared: 100.0,
            single: 150.0,
            rounds: 5,
        },
        false,
    );
    let artifact = bench.entry.candidate.artifact.clone().unwrap();
    bench.store.put(artifact, known);
    bench.entry.quiet_after = Instant::now();
    bench.entry.candidate.rests.store(true, Relaxed);
    bench.entry.step(&bench.store).unwrap();
    assert_eq!(bench.alive(), 1);
    bench.entry.candidate.rests.store(false, Relaxed);
    bench.entry.step(&bench.store).unwrap();
    assert_eq!(bench.alive(), CORES, "afterwards it is looked at again");
}

#[test]
fn what_is_found_while_a_comparison_begins_waits_for_its_end() {
    let mut bench = bench();
    bench.entry.candidate.rests.store(true, Relaxed);
    bench.measured(chosen(Way::Single, 150.0)).unwrap();
    assert_eq!((bench.alive(), bench.healthy()), (1, 1));
    bench.entry.candidate.rests.store(false, Relaxed);
    bench.entry.quiet_after = Instant::now();
    bench.entry.step(&bench.store).unwrap();
    assert_eq!((bench.alive(), bench.healthy()), (CORES, CORES));
}

#[test]
fn other_weights_never_come_in_under_the_same_version() {
    for changed in [
        MODEL.replace("op add 1", "op add 20"),
        MODEL.replace("op add 1", "op add 2"),
    ] {
        let mut bench = bench();
        let path = bench.entry.candidate.single.path.clone();
        std::fs::write(&path, changed).unwrap();
        // Two writes may fall into one tick of the file system's clock.
        let file = std::fs::File::options().write(true).open(&path);
        file.unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            bench.measured(chosen(Way::Single, 150.0)).unwrap_err(),
            "its file has changed since it was loaded"
        );
        assert_eq!((bench.alive(), bench.healthy()), (1, 1));
    }
}

#[test]
fn a_version_that_is_gone_is_not_loaded_again() {
    let mut bench = bench();
    let loads = bench.runtime.loads();
    drop(bench.running);
    bench.entry.quiet_after = Instant::now();
    assert_eq!(bench.entry.step(&bench.store).unwrap_err(), "it was unloaded");
    assert_eq!(bench.runtime.loads(), loads);
}
