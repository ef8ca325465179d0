//! Tests of the registry around a loader of a few lines; gates and channels instead of time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crossfade_runtimes_core::{Datatype, Dim, ModelSignature, ShapeSpec, TensorSpec};

use super::*;
use crate::error::LoadError;
use crate::lifecycle::State;

/// Longer than any test needs; only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Content of the model file, and who shall hear of its end.
struct Servable {
    content: String,
    drops: Sender<(String, String)>,
}

impl Drop for Servable {
    fn drop(&mut self) {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        self.drops
            .send((self.content.clone(), thread))
            .unwrap_or_default();
    }
}

/// Reads `model.onnx`: `broken …` fails, `panic …` panics, `gate …` waits to be let through, `warm …` waits after
/// reporting its warm-up, anything else is good.
struct TestLoader {
    loads: Sender<String>,
    drops: Sender<(String, String)>,
    gate: Mutex<Receiver<()>>,
}

impl Loader for TestLoader {
    type Servable = Servable;

    fn load(&self, request: &LoadRequest<'_>) -> Result<Loaded<Servable>, LoadError> {
        let file = request.model_file()?;
        let content = fs::read_to_string(file).map_err(|error| LoadError::Refused(error.to_string()))?;
        let tensor = TensorSpec::new("x", Datatype::Fp32, ShapeSpec(vec![Dim::Any]));
        let signature = ModelSignature {
            inputs: vec![tensor.clone()],
            outputs: vec![TensorSpec {
                name: "y".into(),
                ..tensor
            }],
            ..ModelSignature::default()
        };
        if content.starts_with("warm") {
            request.progress(State::WarmingUp);
        }
        self.loads
            .send(format!("{}/{}: {content}", request.name, request.version))
            .unwrap();
        match content.split(' ').next() {
            Some("broken") => return Err(LoadError::Refused("it is broken".to_owned())),
            Some("panic") => panic!("it panics"),
            Some("gate" | "warm") => lock(&self.gate).recv().unwrap(),
            _ => {}
        }
        let config = Arc::new(request.complete(&signature, "fake")?);
        Ok(Loaded {
            servable: Servable {
                content,
                drops: self.drops.clone(),
            },
            config,
        })
    }
}

struct World {
    root: tempfile::TempDir,
    registry: Arc<Registry<TestLoader>>,
    loads: Receiver<String>,
    drops: Receiver<(String, String)>,
    gate: Sender<()>,
    changes: Receiver<bool>,
}

impl Drop for World {
    fn drop(&mut self) {
        // Whoever still waits at the gate passes.
        (0..16).for_each(|_| self.gate.send(()).unwrap_or_default());
        self.registry.shutdown();
    }
}

fn world(mode: ControlMode, files: &[(&str, &str)]) -> World {
    let root = tempfile::tempdir().unwrap();
    files
        .iter()
        .for_each(|(path, content)| write(root.path(), path, content));
    let options = RegistryOptions {
        repositories: vec![(None, root.path().to_owned())],
        mode,
        load_threads: 2,
        ..RegistryOptions::default()
    };
    world_with(root, options)
}

fn world_with(root: tempfile::TempDir, options: RegistryOptions) -> World {
    let (load_sender, loads) = channel();
    let (drop_sender, drops) = channel();
    let (gate, at_gate) = channel();
    let loader = TestLoader {
        loads: load_sender,
        drops: drop_sender,
        gate: Mutex::new(at_gate),
    };
    let registry = Registry::new(options, loader);
    let (change_sender, changes) = channel();
    registry.on_change(move |ready| change_sender.send(ready).unwrap_or_default());
    registry.start();
    World {
        root,
        registry,
        loads,
        drops,
        gate,
        changes,
    }
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Mode `poll` with a period that no test lives to see: tests poll by hand.
fn by_hand() -> ControlMode {
    ControlMode::Poll(Duration::from_secs(86_400))
}

fn explicit(names: &[&str]) -> ControlMode {
    ControlMode::Explicit(AtStart::Models(
        names.iter().map(|name| (*name).to_owned()).collect(),
    ))
}

impl World {
    fn write(&self, path: &str, content: &str) {
        write(self.root.path(), path, content);
    }

    /// Waits until the registry's state fulfils `condition`.
    #[track_caller]
    fn until(&self, condition: impl Fn(&Registry<TestLoader>) -> bool) {
        while !condition(&self.registry) {
            self.changes.recv_timeout(PATIENCE).expect("the state is reached");
        }
    }

    /// Waits until nothing is queued or running.
    #[track_caller]
    fn settled(&self) {
        self.until(|registry| {
            let control = registry.locked();
            control.started && control.models.values().all(|slot| !slot.busy)
        });
    }

    /// Two scans that agree, and everything that follows from them.
    #[track_caller]
    fn poll(&self) {
        self.registry.poll_once();
        self.registry.poll_once();
        self.settled();
    }

    fn answer(&self, model: &str, version: &str) -> Result<(u64, String), RouteError> {
        let routed = self.registry.route(model, version)?;
        Ok((routed.version(), routed.content.clone()))
    }

    #[track_caller]
    fn check(&self, model: &str, version: &str, expected: (u64, &str)) {
        assert_eq!(
            self.answer(model, version),
            Ok((expected.0, expected.1.to_owned())),
            "{model}/{version}"
        );
    }

    #[track_caller]
    fn check_not_ready(&self, model: &str, version: &str, expected: &str) {
        match self.answer(model, version) {
            Err(error @ RouteError::NotReady { .. }) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_unknown_version(&self, model: &str, version: u64) {
        let error = self.answer(model, &version.to_string()).unwrap_err();
        assert_eq!(
            error,
            RouteError::UnknownVersion {
                model: model.into(),
                version
            }
        );
    }

    #[track_caller]
    fn check_unknown_model(&self, model: &str) {
        assert_eq!(
            self.answer(model, ""),
            Err(RouteError::UnknownModel {
                model: model.to_owned()
            })
        );
    }

    /// What the loader was asked for since the last question.
    fn loaded(&self) -> Vec<String> {
        let mut loads: Vec<String> = self.loads.try_iter().collect();
        loads.sort();
        loads
    }

    fn start_load(&self, name: &str, parameters: LoadParameters) -> Receiver<Result<(), RegistryError>> {
        let (sender, receiver) = channel();
        self.registry.load(
            name,
            parameters,
            Box::new(move |result| sender.send(result).unwrap_or_default()),
        );
        receiver
    }

    fn load(&self, name: &str, parameters: LoadParameters) -> Result<(), RegistryError> {
        self.start_load(name, parameters)
            .recv_timeout(PATIENCE)
            .expect("the load ends")
    }

    fn index(&self) -> Vec<(String, Option<u64>, &'static str, String)> {
        let entries = self.registry.index("", false).unwrap();
        entries
            .into_iter()
            .map(|entry| (entry.name, entry.version, entry.state, entry.reason))
            .collect()
    }

    #[track_caller]
    fn dropped(&self) -> (String, String) {
        self.drops.recv_timeout(PATIENCE).expect("something is dropped")
    }
}

fn row(
    name: &str,
    version: Option<u64>,
    state: &'static str,
    reason: &str,
) -> (String, Option<u64>, &'static str, String) {
    (name.to_owned(), version, state, reason.to_owned())
}

#[test]
fn everything_is_loaded_at_start_and_routed_to() {
    let world = world(
        ControlMode::None,
        &[
            ("a/1/model.onnx", "a1"),
            ("a/2/model.onnx", "a2"),
            ("b/1/model.onnx", "b1"),
            ("b/3/model.onnx", "b3"),
            ("b/config.pbtxt", "version_policy { all {} }"),
            ("b/model.toml", "[labels]\nold = 1\nnone = 2"),
        ],
    );
    world.settled();
    assert!(world.registry.ready());
    world.check("a", "", (2, "a2"));
    world.check_unknown_version("a", 1);
    world.check("b", "", (3, "b3"));
    world.check("b", "1", (1, "b1"));
    world.check("b", "old", (1, "b1"));
    world.check_unknown_version("b", 2);
    assert_eq!(
        world.answer("b", "none"),
        Err(RouteError::UnknownVersion {
            model: "b".into(),
            version: 2
        })
    );
    for text in ["0", "-1", "new", "3.0"] {
        assert!(
            matches!(world.answer("b", text), Err(RouteError::InvalidVersion { .. })),
            "{text}"
        );
    }
    world.check_unknown_model("c");
    assert_eq!(world.registry.ready_versions("b"), Ok(vec![1, 3]));
    assert_eq!(format!("{:?}", world.registry.models()), "[a/2, b/1, b/3]");
    assert_eq!(world.loaded(), ["a/2: a2", "b/1: b1", "b/3: b3"]);
}

#[test]
fn a_broken_model_keeps_a_strict_server_from_being_ready() {
    let files = [
        ("a/1/model.onnx", "a1"),
        ("b/1/model.onnx", "broken"),
        ("c/1/model.onnx", "panic"),
    ];
    let world = world(ControlMode::None, &files);
    world.settled();
    assert!(!world.registry.ready());
    world.check("a", "", (1, "a1"));
    world.check_not_ready("b", "", "it is broken");
    world.check_not_ready("b", "1", "it is broken");
    world.check_not_ready("c", "1", "the load panicked: it panics");
    assert_eq!(world.registry.model_ready("b", ""), Ok(false));
    assert!(world.registry.model_ready("d", "").is_err());

    let root = tempfile::tempdir().unwrap();
    write(root.path(), "b/1/model.onnx", "broken");
    let repositories = vec![(None, root.path().to_owned())];
    let lenient = world_with(
        root,
        RegistryOptions {
            repositories,
            strict_readiness: false,
            ..RegistryOptions::default()
        },
    );
    lenient.settled();
    assert!(lenient.registry.ready());
}

#[test]
fn models_that_cannot_be_read_say_why() {
    let world = world(
        ControlMode::None,
        &[
            ("a/readme", ""),
            ("b/config.pbtxt", "max_batch_sise: 1"),
            ("b/1/model.onnx", "b1"),
            ("c/1/model.plan", ""),
            ("d/1/model.onnx", "d1"),
            ("d/config.pbtxt", "version_policy { specific { versions: 7 } }"),
        ],
    );
    world.settled();
    world.check_not_ready("a", "", "no version directory");
    world.check_not_ready("b", "", "config.pbtxt: line 1, column 1: unknown field");
    world.check_not_ready("c", "", "TensorRT");
    world.check_not_ready("d", "", "chooses none");
    assert_eq!(world.index()[0].2, "UNAVAILABLE");
}

#[test]
fn a_thousand_models_load() {
    let names: Vec<String> = (0..1000).map(|k| format!("m{k:04}/1/model.onnx")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let world = world(ControlMode::None, &files);
    world.settled();
    assert!(world.registry.ready());
    assert_eq!(world.registry.models().len(), 1000);
    world.check("m0777", "", (1, "x"));
}

#[test]
fn no_models_are_ready_models() {
    let world = world(ControlMode::None, &[]);
    world.settled();
    assert!(world.registry.ready());
}

#[test]
fn models_load_in_parallel_and_a_server_that_loads_is_not_ready() {
    let world = world(
        ControlMode::None,
        &[("a/1/model.onnx", "gate a"), ("b/1/model.onnx", "warm b")],
    );
    // Both are inside the loader at the same time.
    let mut inside = [
        world.loads.recv_timeout(PATIENCE).unwrap(),
        world.loads.recv_timeout(PATIENCE).unwrap(),
    ];
    inside.sort();
    assert_eq!(inside, ["a/1: gate a", "b/1: warm b"]);
    assert!(!world.registry.ready());
    world.check_not_ready("a", "", "loading");
    world.check_not_ready("b", "1", "warming up");
    assert_eq!(
        world.index(),
        [row("a", Some(1), "LOADING", ""), row("b", Some(1), "LOADING", "")]
    );
    world.gate.send(()).unwrap();
    world.gate.send(()).unwrap();
    world.settled();
    assert!(world.registry.ready());
}

#[test]
fn a_new_version_takes_over_and_the_old_one_answers_its_last_request() {
    let world = world(by_hand(), &[("a/1/model.onnx", "a1")]);
    world.settled();
    let in_flight = world.registry.route("a", "").unwrap();
    world.write("a/2/model.onnx", "a2");
    world.registry.poll_once();
    world.settled();
    world.check("a", "", (1, "a1"));
    world.registry.poll_once();
    world.settled();
    world.check("a", "", (2, "a2"));
    world.check_unknown_version("a", 1);
    assert_eq!(
        world.index(),
        [row("a", Some(1), "UNLOADING", ""), row("a", Some(2), "READY", "")]
    );
    assert_eq!(in_flight.content, "a1");
    drop(in_flight);
    assert_eq!(world.dropped(), ("a1".to_owned(), "reaper".to_owned()));
    world.until(|registry| registry.index("", false).unwrap()[0].state == "UNAVAILABLE");
    assert_eq!(world.index()[0], row("a", Some(1), "UNAVAILABLE", "unloaded"));
}

#[test]
fn a_broken_new_version_leaves_the_old_one_serving() {
    let world = world(by_hand(), &[("a/1/model.onnx", "a1")]);
    world.settled();
    world.write("a/2/model.onnx", "broken");
    world.poll();
    world.check("a", "", (1, "a1"));
    world.check_not_ready("a", "2", "it is broken");
    assert!(world.registry.ready());
    assert_eq!(
        world.index(),
        [
            row("a", Some(1), "READY", ""),
            row("a", Some(2), "UNAVAILABLE", "it is broken")
        ]
    );
    // It is not tried again until it changes.
    world.write("a/model.toml", "[versions]\nlatest = 1");
    world.poll();
    assert_eq!(world.loaded(), ["a/1: a1", "a/2: broken"]);
    world.write("a/2/model.onnx", "a2 whole");
    world.poll();
    world.check("a", "", (2, "a2 whole"));
    world.check_unknown_version("a", 1);
}

#[test]
fn a_changed_file_reloads_its_version_alone() {
    let files = [
        ("a/1/model.onnx", "a1"),
        ("a/2/model.onnx", "a2"),
        ("a/model.toml", "versions.all = true"),
    ];
    let world = world(by_hand(), &files);
    world.settled();
    world.loaded();
    world.write("a/2/model.onnx", "a2, longer");
    world.poll();
    world.check("a", "", (2, "a2, longer"));
    assert_eq!(world.loaded(), ["a/2: a2, longer"]);
    assert_eq!(world.dropped().0, "a2");
    world.write("a/2/model.onnx", "broken and longer");
    world.poll();
    world.check("a", "", (2, "a2, longer"));
    let reason = "the last update failed and the former one serves: it is broken";
    assert_eq!(world.index()[1], row("a", Some(2), "READY", reason));
    assert!(world.registry.ready());
}

#[test]
fn what_two_scans_disagree_on_is_left_alone() {
    let world = world(by_hand(), &[("a/1/model.onnx", "a1")]);
    world.settled();
    fs::create_dir(world.root.path().join("a/2")).unwrap();
    world.poll();
    world.check("a", "", (1, "a1"));
    world.write("a/2/model.onnx", "h");
    world.registry.poll_once();
    world.write("a/2/model.onnx", "half");
    world.registry.poll_once();
    world.settled();
    world.check("a", "", (1, "a1"));
    world.registry.poll_once();
    world.settled();
    world.check("a", "", (2, "half"));
    assert_eq!(world.loaded(), ["a/1: a1", "a/2: half"]);
}

#[test]
fn removed_versions_drain_and_removed_models_are_unknown() {
    let world = world(
        by_hand(),
        &[
            ("a/1/model.onnx", "a1"),
            ("a/2/model.onnx", "a2"),
            ("b/1/model.onnx", "broken"),
        ],
    );
    world.settled();
    assert!(!world.registry.ready());
    fs::remove_dir_all(world.root.path().join("a/2")).unwrap();
    fs::remove_dir_all(world.root.path().join("b")).unwrap();
    world.poll();
    world.check("a", "", (1, "a1"));
    world.check_unknown_version("a", 2);
    world.check_unknown_model("b");
    assert!(world.registry.ready(), "a removed model is not due any more");
    assert_eq!(world.dropped().0, "a2");
    fs::remove_dir_all(world.root.path().join("a")).unwrap();
    world.poll();
    world.check_unknown_model("a");
    assert_eq!(world.dropped().0, "a1");
    world.until(|registry| registry.index("", false).unwrap().is_empty());
}

#[test]
fn a_config_broken_later_leaves_the_model_serving() {
    let world = world(by_hand(), &[("a/1/model.onnx", "a1")]);
    world.settled();
    world.write("a/config.pbtxt", "nonsense");
    world.poll();
    world.check("a", "", (1, "a1"));
    assert!(
        world.index()[0]
            .3
            .contains("the former one serves: config.pbtxt: line 1"),
        "{:?}",
        world.index()
    );
    fs::remove_file(world.root.path().join("a/config.pbtxt")).unwrap();
    world.poll();
    assert_eq!(world.index(), [row("a", Some(1), "READY", "")]);
    assert_eq!(world.loaded(), ["a/1: a1"]);
}

#[test]
fn an_unreadable_repository_changes_nothing() {
    let world = world(by_hand(), &[("a/1/model.onnx", "a1")]);
    world.settled();
    let away = world.root.path().with_extension("away");
    fs::rename(world.root.path(), &away).unwrap();
    world.poll();
    fs::rename(&away, world.root.path()).unwrap();
    world.check("a", "", (1, "a1"));
}

#[test]
fn labels_move_by_editing_the_file_and_reload_nothing() {
    let files = [
        ("a/1/model.onnx", "a1"),
        ("a/2/model.onnx", "a2"),
        ("a/model.toml", "versions.all = true\nlabels.stable = 1"),
    ];
    let world = world(by_hand(), &files);
    world.settled();
    world.check("a", "stable", (1, "a1"));
    world.loaded();
    world.write(
        "a/model.toml",
        "versions.all = true\nlabels.stable = 2\nlabels.canary = 2",
    );
    world.poll();
    world.check("a", "stable", (2, "a2"));
    world.check("a", "canary", (2, "a2"));
    // A label waits for its version.
    world.write("a/3/model.onnx", "broken");
    world.write("a/model.toml", "versions.all = true\nlabels.stable = 3");
    world.poll();
    world.check("a", "stable", (2, "a2"));
    assert!(matches!(
        world.answer("a", "canary"),
        Err(RouteError::InvalidVersion { .. })
    ));
    assert_eq!(world.loaded(), ["a/3: broken"]);
    world.write("a/3/model.onnx", "a3 whole");
    world.poll();
    world.check("a", "stable", (3, "a3 whole"));
}

#[test]
fn load_and_unload_need_mode_explicit() {
    for mode in [ControlMode::None, by_hand()] {
        let world = world(mode, &[("a/1/model.onnx", "a1")]);
        world.settled();
        assert!(matches!(
            world.load("a", LoadParameters::default()),
            Err(RegistryError::Conflict(_))
        ));
        assert!(matches!(
            world.registry.unload("a"),
            Err(RegistryError::Conflict(_))
        ));
    }
}

#[test]
fn calls_load_and_unload() {
    let world = world(
        explicit(&["a"]),
        &[
            ("a/1/model.onnx", "a1"),
            ("b/1/model.onnx", "b1"),
            ("c/1/model.onnx", "broken"),
        ],
    );
    world.settled();
    assert!(world.registry.ready());
    world.check("a", "", (1, "a1"));
    world.check_unknown_model("b");
    assert_eq!(world.index()[1], row("b", None, "", ""));
    assert_eq!(world.load("b", LoadParameters::default()), Ok(()));
    world.check("b", "", (1, "b1"));
    let error = world.load("c", LoadParameters::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to load model `c`: version 1: it is broken"
    );
    assert!(world.registry.ready(), "late arrivals are not due");
    assert!(matches!(
        world.load("d", LoadParameters::default()),
        Err(RegistryError::NotFound(_))
    ));
    assert!(matches!(
        world.load("../a", LoadParameters::default()),
        Err(RegistryError::InvalidInput(_))
    ));
    world.check_unknown_model("d");
    // Nothing changed: no work. Asked again after a failure: another try.
    world.loaded();
    assert_eq!(world.load("b", LoadParameters::default()), Ok(()));
    assert!(world.load("c", LoadParameters::default()).is_err());
    assert_eq!(world.loaded(), ["c/1: broken"]);
    assert_eq!(world.registry.unload("a"), Ok(()));
    world.check_unknown_model("a");
    assert_eq!(world.dropped(), ("a1".to_owned(), "reaper".to_owned()));
    assert!(world.registry.ready());
    assert_eq!(world.registry.unload("never heard of"), Ok(()));
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    world.check("a", "", (1, "a1"));
    let ready: Vec<String> = world
        .registry
        .index("", true)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(ready, ["a", "b"]);
}

#[test]
fn a_named_model_that_is_nowhere_keeps_the_server_from_being_ready() {
    let world = world(explicit(&["a"]), &[]);
    world.settled();
    assert!(!world.registry.ready());
    world.check_not_ready("a", "", "in no repository");
    world.write("a/1/model.onnx", "a1");
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    assert!(world.registry.ready());
}

#[test]
fn an_unload_abandons_a_load_in_progress() {
    let world = world(explicit(&[]), &[("a/1/model.onnx", "gate a")]);
    let first = world.start_load("a", LoadParameters::default());
    let second = world.start_load("a", LoadParameters::default());
    world.loads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(world.registry.unload("a"), Ok(()));
    world.check_not_ready_or_unknown("a");
    assert!(matches!(
        second.recv_timeout(PATIENCE).unwrap(),
        Err(RegistryError::Conflict(_))
    ));
    world.gate.send(()).unwrap();
    assert!(matches!(
        first.recv_timeout(PATIENCE).unwrap(),
        Err(RegistryError::Conflict(_))
    ));
    assert_eq!(world.dropped(), ("gate a".to_owned(), "reaper".to_owned()));
    world.settled();
    world.check_unknown_model("a");
}

impl World {
    #[track_caller]
    fn check_not_ready_or_unknown(&self, model: &str) {
        let error = self.answer(model, "").unwrap_err();
        assert!(
            matches!(
                error,
                RouteError::NotReady { .. } | RouteError::UnknownModel { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn loads_of_one_model_queue() {
    let world = world(explicit(&[]), &[("a/1/model.onnx", "gate a")]);
    let first = world.start_load("a", LoadParameters::default());
    world.loads.recv_timeout(PATIENCE).unwrap();
    world.write("a/2/model.onnx", "a2");
    let second = world.start_load("a", LoadParameters::default());
    assert!(world.loads.try_recv().is_err(), "the second waits for the first");
    world.gate.send(()).unwrap();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap(), Ok(()));
    assert_eq!(second.recv_timeout(PATIENCE).unwrap(), Ok(()));
    world.check("a", "", (2, "a2"));
}

fn config(json: &str) -> LoadParameters {
    LoadParameters {
        config: Some(json.to_owned()),
        ..LoadParameters::default()
    }
}

/// Stops the clients when the test ends, however it ends.
struct StopClients<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn no_request_fails_while_versions_are_swapped() {
    let world = world(explicit(&["a"]), &[("a/1/model.onnx", "1 a")]);
    world.settled();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let clients_end = StopClients(&stop);
        let client = || {
            let mut answers = 0u64;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let routed = world
                    .registry
                    .route("a", "")
                    .expect("some version always answers");
                assert_eq!(routed.content, format!("{} a", routed.version()));
                answers += 1;
            }
            answers
        };
        let clients = [scope.spawn(client), scope.spawn(client)];
        for version in 2..=20u64 {
            world.write(&format!("a/{version}/model.onnx"), &format!("{version} a"));
            assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
            assert_eq!(
                world.dropped(),
                (format!("{} a", version - 1), "reaper".to_owned())
            );
        }
        drop(clients_end);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    world.check("a", "", (20, "20 a"));
}

#[test]
fn a_given_config_replaces_the_files_until_the_model_is_unloaded() {
    let files = [
        ("a/1/model.onnx", "a1"),
        ("a/2/model.onnx", "a2"),
        ("a/config.pbtxt", "max_batch_size: 3"),
    ];
    let world = world(explicit(&["a"]), &files);
    world.settled();
    let max_batch_size = || world.registry.route("a", "").unwrap().config().max_batch_size;
    assert_eq!(max_batch_size(), 3);
    assert_eq!(
        world.load(
            "a",
            config(r#"{"versionPolicy": {"all": {}}, "maxBatchSize": 5}"#)
        ),
        Ok(())
    );
    assert_eq!(max_batch_size(), 5);
    world.check("a", "1", (1, "a1"));
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    assert_eq!(max_batch_size(), 5);
    assert_eq!(world.registry.unload("a"), Ok(()));
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    assert_eq!(max_batch_size(), 3);
    for bad in ["{", "[]", r#"{"max_batch_sise": 1}"#] {
        assert!(
            matches!(world.load("a", config(bad)), Err(RegistryError::InvalidInput(_))),
            "{bad}"
        );
    }
    // A config that does not fit the model leaves the old state serving, and is forgotten.
    assert!(matches!(
        world.load("a", config(r#"{"input": [{"name": "z"}]}"#)),
        Err(RegistryError::LoadFailed { .. })
    ));
    assert_eq!(max_batch_size(), 3);
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    assert_eq!(max_batch_size(), 3);
}

#[test]
fn given_files_are_the_whole_model() {
    let world = world(explicit(&["a"]), &[("a/1/model.onnx", "a1")]);
    world.settled();
    let files = |path: &str, content: &str| LoadParameters {
        files: BTreeMap::from([(path.to_owned(), content.as_bytes().to_vec())]),
        ..config("{}")
    };
    assert_eq!(world.load("a", files("7/model.onnx", "given")), Ok(()));
    world.check("a", "", (7, "given"));
    world.check_unknown_version("a", 1);
    assert_eq!(world.load("only given", files("1/model.onnx", "new")), Ok(()));
    world.check("only given", "", (1, "new"));
    assert!(matches!(
        world.load("a", files("1/../x", "")),
        Err(RegistryError::InvalidInput(_))
    ));
    let no_config = LoadParameters {
        config: None,
        ..files("1/model.onnx", "x")
    };
    assert!(matches!(
        world.load("a", no_config),
        Err(RegistryError::InvalidInput(_))
    ));
    assert_eq!(world.registry.unload("a"), Ok(()));
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    world.check("a", "", (1, "a1"));
}

#[test]
fn labels_move_by_call_when_their_versions_are_ready() {
    let files = [
        ("a/1/model.onnx", "a1"),
        ("a/2/model.onnx", "a2"),
        ("a/model.toml", "versions.all = true\nlabels.stable = 1"),
    ];
    let world = world(explicit(&["a"]), &files);
    world.settled();
    world.loaded();
    let labels = |text: &str| LoadParameters {
        labels: Some(text.to_owned()),
        ..LoadParameters::default()
    };
    assert_eq!(world.load("a", labels(r#"{"stable": 2}"#)), Ok(()));
    world.check("a", "stable", (2, "a2"));
    assert!(world.loaded().is_empty());
    let error = world
        .load("a", labels(r#"{"stable": 1, "next": 3}"#))
        .unwrap_err();
    assert!(
        matches!(&error, RegistryError::Conflict(text) if text.contains("`next`") && text.contains("version 3")),
        "{error}"
    );
    world.check("a", "stable", (2, "a2"));
    assert!(matches!(
        world.load("a", labels("{")),
        Err(RegistryError::InvalidInput(_))
    ));
    world.write("a/3/model.onnx", "a3");
    assert_eq!(world.load("a", labels(r#"{"next": 3}"#)), Ok(()));
    world.check("a", "next", (3, "a3"));
    assert_eq!(world.registry.unload("a"), Ok(()));
    assert_eq!(world.load("a", LoadParameters::default()), Ok(()));
    world.check("a", "stable", (1, "a1"));
}

#[test]
fn a_model_in_two_repositories_is_an_error_of_that_model() {
    let root = tempfile::tempdir().unwrap();
    for path in ["r1/a/1/model.onnx", "r2/a/1/model.onnx", "r2/b/1/model.onnx"] {
        write(root.path(), path, "x");
    }
    let repositories = vec![
        (None, root.path().join("r1")),
        (Some("second".to_owned()), root.path().join("r2")),
    ];
    let world = world_with(
        root,
        RegistryOptions {
            repositories,
            ..RegistryOptions::default()
        },
    );
    world.settled();
    world.check_not_ready("a", "", "in 2 repositories");
    world.check("b", "", (1, "x"));
    assert_eq!(world.registry.repository_names(), ["r1", "second"]);
    let names = |repository| {
        let entries = world.registry.index(repository, false).unwrap();
        entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names("r1"), ["a"]);
    assert_eq!(names("second"), ["a", "b"]);
    assert!(matches!(
        world.registry.index("third", false),
        Err(RegistryError::NotFound(_))
    ));
}

#[test]
fn the_servers_own_file_stands_above_the_models() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a/1/model.onnx", "x");
    write(
        root.path(),
        "a/model.toml",
        "[batching]\nmax_rows = 4\nmax_delay = '1ms'",
    );
    let table = "batching.max_rows = 6".parse().unwrap();
    let overrides = BTreeMap::from([("a".to_owned(), crate::config::toml::from_table(table).unwrap())]);
    let repositories = vec![(None, root.path().to_owned())];
    let world = world_with(
        root,
        RegistryOptions {
            repositories,
            overrides,
            ..RegistryOptions::default()
        },
    );
    world.settled();
    let config = world.registry.route("a", "").unwrap().config().clone();
    assert_eq!(
        (config.max_batch_size, config.batching.max_delay),
        (6, Duration::from_millis(1))
    );
}

#[test]
fn shutdown_lets_go_of_everything_and_refuses_what_comes_later() {
    let world = world(
        explicit(&["a"]),
        &[("a/1/model.onnx", "a1"), ("b/1/model.onnx", "b1")],
    );
    world.settled();
    let last = world.registry.route("a", "").unwrap();
    world.registry.shutdown();
    assert!(!world.registry.ready());
    world.check_unknown_model("a");
    assert!(matches!(
        world.load("b", LoadParameters::default()),
        Err(RegistryError::Conflict(_))
    ));
    drop(last);
    assert_eq!(world.dropped().0, "a1");
}

fn wish<'a>(
    selector: &'a str,
    header: &'a (dyn Fn(&str) -> Option<&'a [u8]> + Sync),
    id: &'a [u8],
) -> Wish<'a> {
    Wish { selector, header, id }
}

#[test]
fn requests_are_divided_among_the_versions_of_a_release() {
    use crossfade_rollout::routing::{Portion, RouteReason, Salt, Traffic};
    let files = [
        ("a/1/model.onnx", "one"),
        ("a/2/model.onnx", "two"),
        ("a/model.toml", "[versions]\nall = true\n"),
    ];
    let world = world(ControlMode::None, &files);
    world.settled();
    let choose = |selector: &str, id: u64| {
        let none = |_: &str| None;
        let id = id.to_be_bytes();
        let choice = world.registry.choose("a", &wish(selector, &none, &id)).unwrap();
        (choice.routed.version(), choice.reason)
    };
    assert_eq!(
        choose("", 0),
        (2, RouteReason::Only),
        "the version policy decides"
    );
    let canary = |percent| {
        let division = Division {
            release: Some("r".into()),
            epoch: 1,
            traffic: Traffic::Canary {
                champion: 1,
                candidate: 2,
                portion: Portion::percent(percent),
                salt: Salt::of("r"),
            },
            shadow: None,
            key_headers: Vec::new(),
            rules: Vec::new(),
        };
        world.registry.divide("a", Some(division)).unwrap();
        (0..1000)
            .filter(|id| choose("", *id) == (2, RouteReason::Random))
            .count()
    };
    assert_eq!((canary(0.0), canary(100.0)), (0, 1000));
    // Four standard deviations of the binomial distribution.
    let some = canary(10.0);
    assert!((62..=138).contains(&some), "{some} of 1000 at 10 %");
    assert_eq!(choose("2", 0), (2, RouteReason::Pin));
    assert_eq!(choose("stable", 0), (1, RouteReason::Label));
    assert_eq!(choose("candidate", 0), (2, RouteReason::Label));
    assert_eq!(
        world.answer("a", "").unwrap().0,
        1,
        "what names no version means the live one"
    );
    world.registry.divide("a", None).unwrap();
    assert_eq!(choose("", 0), (2, RouteReason::Only));
    assert!(matches!(
        world.registry.divide("b", None),
        Err(RegistryError::NotFound(_))
    ));
}
