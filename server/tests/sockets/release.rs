//! Releases seen from outside: which version answers, why, and what happens to a bad one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crossfade_models::Division;
use crossfade_proto::inference::ModelInferRequest;
use crossfade_proto::inference::model_infer_request::InferInputTensor;
use crossfade_rollout::routing::{Portion, Salt, Traffic};
use crossfade_server::admin::{Caller, ControlError, CreateRelease, ReleaseAction, Role};
use crossfade_server::config::ControlMode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Request};

use crate::harness::{Repository, Server, exchange};

mod boundaries;
mod faults;
mod latency;
mod trail;

pub(crate) const INFER: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;

/// `y = x + version`, so that an answer tells which version made it.
pub(crate) fn version_file(version: u64) -> String {
    format!("input x FP32 -1,2\noutput y FP32 -1,2\nop add {version}\n")
}

pub(crate) fn message() -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![vec![0; 8].into()],
        ..Default::default()
    }
}

/// Versions 1 and 2 loaded, label `old` at 1.
async fn two_versions() -> Server {
    let repository = Repository::new();
    let more = "[versions]\nall = true\n[labels]\nold = 1\n";
    for version in [1, 2] {
        repository.add("m", version, &version_file(version), more);
    }
    Server::start(repository).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_pins_the_version_on_both_protocols() {
    let server = two_versions().await;
    let mut client = server.grpc().await;
    for (wanted, status, code, version) in [
        ("", 200, Code::Ok, Some("2")),
        ("1", 200, Code::Ok, Some("1")),
        ("old", 200, Code::Ok, Some("1")),
        ("3", 404, Code::NotFound, None),
        ("nobody", 400, Code::InvalidArgument, None),
        ("-1", 400, Code::InvalidArgument, None),
        ("0", 400, Code::InvalidArgument, None),
    ] {
        let headers = [("x-model-version", wanted)];
        let answer = server
            .post_with("/v2/models/m/infer", &headers, INFER.as_bytes())
            .await;
        let named = answer.headers.get("x-model-version").map(String::as_str);
        assert_eq!((answer.status, named), (status, version), "{wanted}: {answer:?}");

        let mut request = Request::new(message());
        request
            .metadata_mut()
            .insert("x-model-version", wanted.parse().unwrap());
        let (got, metadata) = match client.model_infer(request).await {
            Ok(answer) => (Code::Ok, answer.metadata().clone()),
            Err(refusal) => (refusal.code(), refusal.metadata().clone()),
        };
        let named = metadata
            .get("x-model-version")
            .map(|value| value.to_str().unwrap());
        assert_eq!((got, named), (code, version), "{wanted}");
    }
    // The path counts first.
    let headers = [("x-model-version", "2")];
    let path = "/v2/models/m/versions/1/infer";
    let answer = server.post_with(path, &headers, INFER.as_bytes()).await;
    assert_eq!(answer.json()["model_version"], "1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_release_that_is_active() {
    let server = two_versions().await;
    let mut client = server.grpc().await;
    let division = Division {
        release: Some(Arc::from("r-1")),
        epoch: 1,
        traffic: Traffic::Canary {
            champion: 1,
            candidate: 2,
            portion: Portion::percent(50.0),
            salt: Salt::of("r-1"),
        },
        shadow: None,
        key_headers: vec!["x-user-id".into()],
        rules: Vec::new(),
    };
    server.app.service.registry().divide("m", Some(division)).unwrap();
    let mut seen = [0; 2];
    for user in 0..40 {
        let user = user.to_string();
        let mut versions = Vec::new();
        for _ in 0..2 {
            let headers = [("x-user-id", user.as_str())];
            let answer = server
                .post_with("/v2/models/m/infer", &headers, INFER.as_bytes())
                .await;
            assert_eq!(answer.headers["x-release-id"], "r-1");
            versions.push(answer.headers["x-model-version"].clone());
            let mut request = Request::new(message());
            request.metadata_mut().insert("x-user-id", user.parse().unwrap());
            let answer = client.model_infer(request).await.unwrap();
            let metadata = answer.metadata();
            assert_eq!(metadata.get("x-release-id").unwrap(), "r-1");
            versions.push(
                metadata
                    .get("x-model-version")
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        assert!(
            versions.iter().all(|version| *version == versions[0]),
            "{user}: {versions:?}"
        );
        seen[usize::from(versions[0] == "2")] += 1;
    }
    assert!(seen.iter().all(|users| *users > 5), "{seen:?}");
    // A request that fails after it was routed says so too.
    let answer = server
        .post("/v2/models/m/infer", json!({ "inputs": [] }).to_string())
        .await;
    assert_eq!((answer.status, &*answer.headers["x-release-id"]), (400, "r-1"));
    server.app.service.registry().divide("m", None).unwrap();
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.headers.get("x-release-id"), None);
    server.stop().await;
}

/// Rules of a model whose releases have one step of 50 %, watch errors only, and pass at an error rate of `abs_ok`.
pub(crate) fn rules(abs_ok: f64, more: &str) -> String {
    format!(
        "risk = 'low'\n[gates.golden]\nenabled = false\n[rollout]\n{more}\n[[rollout.step]]\npercent = 50\nmin = '0s'\n\
         min_units = 50\n[[rollout.check]]\nmetric = 'errors'\nabs_ok = {abs_ok}\n\
         [[rollout.check]]\nmetric = 'latency'\nenabled = false\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n"
    )
}

/// A server whose releases nobody looks at but the test; `data` is its data folder.
pub(crate) async fn serving(repository: Repository, data: &Path) -> Server {
    let data = data.to_owned();
    let server = Server::start_with(repository, |config| {
        config.data_dir = data;
        config.release_looks = None;
    })
    .await;
    server.wait_ready().await;
    server
}

impl Server {
    /// The last release of `m`, as people see it.
    pub(crate) fn release(&self) -> Value {
        let all = self.app.service.releases().list(Some("m")).unwrap();
        all.as_array().unwrap().last().cloned().unwrap_or_default()
    }

    pub(crate) fn state(&self) -> String {
        self.release()["state"]["state"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    /// Looks once, a second of serving later.
    pub(crate) fn look(&self) {
        self.app.service.releases().look(Duration::from_secs(1));
    }

    /// Version 2 arrives by a load call.
    pub(crate) async fn arrive(&self, version: u64, file: &str, rules: &str) {
        self.repository.add("m", version, file, rules);
        let loaded = self.post("/v2/repository/models/m/load", "").await;
        assert_eq!(loaded.status, 200, "{loaded:?}");
    }
}

/// Clients of both protocols that ask until they are told to stop; every twentieth request holds the value 13.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    pub(crate) seen: Arc<Seen>,
}

/// What the clients saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) answered: AtomicUsize,
    /// Failures of version 2, and any other failure.
    canary_failed: AtomicUsize,
    failed: AtomicUsize,
    /// The version that requests which begin from now on must not get; 0: any may answer.
    pub(crate) gone: AtomicU64,
    /// Answers of such a version to such requests.
    late: AtomicUsize,
    /// Answers of version 1, which adds one, that are not its own to the bit.
    changed: AtomicUsize,
}

impl Clients {
    pub(crate) fn start(server: &Arc<Server>) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Seen>::default());
        let tasks = (0..4).map(|client| {
            let (server, stop, seen) = (server.clone(), stop.clone(), seen.clone());
            tokio::spawn(async move {
                let mut grpc = server.grpc().await;
                let mut turn = client * 5;
                while !stop.load(SeqCst) {
                    turn += 1;
                    let gone = seen.gone.load(SeqCst);
                    let value: f32 = if turn % 20 == 0 { 13.0 } else { 1.0 };
                    let sum = value + 1.0;
                    let (ok, version, same) = if client % 2 == 0 {
                        let body = json!({ "inputs": [{
                            "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value],
                        }] });
                        let answer = server.post("/v2/models/m/infer", body.to_string()).await;
                        let ok = answer.status == 200;
                        let version = answer.headers.get("x-model-version").cloned();
                        // What another version says need not even be JSON.
                        let same = ok
                            && version.as_deref() == Some("1")
                            && answer.json()["outputs"][0]["data"] == json!([sum, sum]);
                        (ok, version, same)
                    } else {
                        let mut message = message();
                        message.raw_input_contents =
                            vec![[value.to_le_bytes(), value.to_le_bytes()].concat().into()];
                        let (ok, metadata, same) = match grpc.model_infer(message).await {
                            Ok(answer) => {
                                let bytes = [sum.to_le_bytes(), sum.to_le_bytes()].concat();
                                let same = answer.get_ref().raw_output_contents == [bytes];
                                (true, answer.metadata().clone(), same)
                            }
                            Err(refusal) => (false, refusal.metadata().clone(), false),
                        };
                        let version = metadata.get("x-model-version");
                        let version = version.map(|version| version.to_str().unwrap().to_owned());
                        (ok, version, same)
                    };
                    seen.answered.fetch_add(1, SeqCst);
                    // Unless the test has changed its mind while the request was under way.
                    let still = seen.gone.load(SeqCst) == gone;
                    if still && version.as_deref() == Some(gone.to_string().as_str()) {
                        seen.late.fetch_add(1, SeqCst);
                    }
                    if ok && version.as_deref() == Some("1") && !same {
                        seen.changed.fetch_add(1, SeqCst);
                    }
                    if !ok && version.as_deref() == Some("2") {
                        seen.canary_failed.fetch_add(1, SeqCst);
                    } else if !ok {
                        seen.failed.fetch_add(1, SeqCst);
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks, seen }
    }

    /// Looks after every fifty answers until the release of `m` is in `state`.
    pub(crate) async fn until(&self, server: &Server, state: &str) {
        for _ in 0..400 {
            self.some_answers().await;
            server.look();
            if server.state() == state {
                let gone = if state == "live" { 1 } else { 2 };
                self.seen.gone.store(gone, SeqCst);
                return self.some_answers().await;
            }
        }
        panic!("{state} is not reached: {}", server.release());
    }

    /// Waits for fifty answers.
    pub(crate) async fn some_answers(&self) {
        let before = self.seen.answered.load(SeqCst);
        while self.seen.answered.load(SeqCst) < before + 50 {
            tokio::task::yield_now().await;
        }
    }

    /// Stops them; no request has failed but those of version 2 that had to. Returns how many of those there were.
    pub(crate) async fn stop(self) -> usize {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        assert_eq!(
            self.seen.late.load(SeqCst),
            0,
            "answers of a version that was gone"
        );
        assert_eq!(self.seen.failed.load(SeqCst), 0, "failures outside the canary");
        assert_eq!(
            self.seen.changed.load(SeqCst),
            0,
            "answers of the live version that are others"
        );
        self.seen.canary_failed.load(SeqCst)
    }
}

pub(crate) async fn stopped(server: Arc<Server>) -> Repository {
    let server = Arc::into_inner(server).expect("the clients are gone");
    let repository = server.repository;
    assert!(
        server
            .app
            .stop(Duration::from_secs(60), std::future::pending())
            .await
    );
    repository
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_candidate_takes_the_place_of_the_live_version() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    assert_eq!(
        server.state(),
        "none",
        "the first version is live without a release"
    );
    let clients = Clients::start(&server);
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary");
    let again = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(again.status, 200, "nothing new: {again:?}");
    server.repository.add("m", 3, &version_file(3), &rules);
    let busy = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(busy.status, 400, "one release at a time: {busy:?}");
    std::fs::remove_dir_all(server.repository.path().join("m/3")).unwrap();
    clients.until(&server, "live").await;
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "2");
    assert_eq!(answer.headers.get("x-release-id"), None);
    // The one before is at hand, and one call makes it live again.
    let caller = Caller {
        actor: "ann".into(),
        roles: vec![Role::Rollback],
    };
    clients.seen.gone.store(0, SeqCst);
    let releases = server.app.service.releases();
    releases
        .rollback(&caller, "m", None, "worse", &|| Ok(()))
        .unwrap();
    clients.seen.gone.store(2, SeqCst);
    clients.some_answers().await;
    for _ in 0..20 {
        let answer = server.post("/v2/models/m/infer", INFER).await;
        assert_eq!(answer.json()["model_version"], "1");
    }
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
}

/// A candidate of this file is sent back by this, with nothing failed but its own requests.
async fn sent_back(file: &str, reason: &str, most_failures: usize) {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.005, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server.arrive(2, file, &rules).await;
    clients.until(&server, "rolled_back").await;
    assert_eq!(
        server.release()["state"]["reason"],
        reason,
        "{}",
        server.release()
    );
    for _ in 0..50 {
        let answer = server.post("/v2/models/m/infer", INFER).await;
        assert_eq!(answer.json()["model_version"], "1");
    }
    let failures = clients.stop().await;
    assert!(
        failures <= most_failures,
        "{failures} requests of the canary failed"
    );
    // The same files are not tried again, whatever their number.
    server.arrive(3, file, &rules).await;
    assert_eq!(server.state(), "rolled_back");
    let pinned = server.post("/v2/models/m/versions/3/infer", INFER).await;
    assert_eq!(pinned.status, 404, "{pinned:?}");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_for_one_in_twenty_is_sent_back() {
    sent_back(&format!("{}fail_on 13\n", version_file(2)), "check", 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_panics_is_sent_back() {
    sent_back(&format!("{}panic_on 13\n", version_file(2)), "hard_trigger", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_whose_outputs_are_no_numbers_is_sent_back() {
    let file = "input x FP32 -1,2\noutput y FP32 -1,2\nop add NaN\n";
    sent_back(file, "hard_trigger", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_not_load_never_has_traffic() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.repository.add("m", 2, "fail load\n", &rules);
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 500, "{loaded:?}");
    let failed = server.release();
    assert_eq!(failed["state"]["reason"], "load");
    let why = failed["why"].as_str().unwrap();
    assert!(
        why.contains("it does not load: ") && why.contains("fail load"),
        "its loader says why: {why}"
    );
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1");
    // Put right, it may be tried again.
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_version_waits_for_someone_and_obeys() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "on_new_version = 'hold'");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "none");
    let releases = server.app.service.releases().clone();
    let caller = |roles: &[Role]| Caller {
        actor: "ann".into(),
        roles: roles.to_vec(),
    };
    let wish = |version| CreateRelease {
        version,
        supersede: false,
        reason: None,
    };
    let deploy = caller(&[Role::Deploy]);
    let refused = releases
        .create(&caller(&[]), "m", wish(2), &|| Ok(()))
        .unwrap_err();
    assert!(matches!(refused, ControlError::Forbidden(_)), "{refused:?}");
    let refused = releases.create(&deploy, "m", wish(9), &|| Ok(())).unwrap_err();
    assert!(matches!(refused, ControlError::Unknown(_)), "{refused:?}");
    let release = releases.create(&deploy, "m", wish(2), &|| Ok(())).unwrap();
    let id = release["id"].as_str().unwrap().to_owned();
    while server.state() != "canary" {
        tokio::task::yield_now().await;
    }
    let refused = releases.create(&deploy, "m", wish(2), &|| Ok(())).unwrap_err();
    assert!(matches!(refused, ControlError::Conflict(_)), "{refused:?}");
    let act = |action| releases.act(&deploy, "m", &id, action, None, &|| Ok(()));
    act(ReleaseAction::Pause).unwrap();
    assert_eq!(server.state(), "paused");
    assert!(matches!(
        act(ReleaseAction::Pause),
        Err(ControlError::Conflict(_))
    ));
    act(ReleaseAction::Resume).unwrap();
    assert!(matches!(
        act(ReleaseAction::Abort),
        Err(ControlError::Forbidden(_))
    ));
    let all = caller(&[Role::Promote]);
    releases
        .act(
            &all,
            "m",
            &id,
            ReleaseAction::Promote,
            Some("it is good"),
            &|| Ok(()),
        )
        .unwrap();
    assert_eq!(server.state(), "live");
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "2");
    drop(releases);
    stopped(server).await;
}

/// Copies the state of releases as it lies on disk: what a killed process leaves.
fn killed(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let folder = copy.path().join("state/rollout");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(from.join("state/rollout")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_the_release_stood_and_too_many_crashes_end_it() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    // A step that needs more units than the test sends.
    let rules = rules(0.2, "").replace("min_units = 50", "min_units = 100000");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    for _ in 0..50 {
        assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 200);
    }
    server.look();
    let before = server.release();
    let units = before["report"]["units"].as_u64().unwrap();
    assert_eq!(before["report"]["served"], "1s", "{before}");
    assert!(units > 5, "{before}");
    let crashed = killed(data.path());

    // A clean end and a start: the same release, the same counts, no suspicion.
    let repository = stopped(server).await;
    let server = Arc::new(serving(repository, data.path()).await);
    server.look();
    let after = server.release();
    assert_eq!(
        (&after["id"], server.state()),
        (&before["id"], "canary".to_owned())
    );
    assert_eq!(after["report"]["units"], before["report"]["units"]);
    let repository = stopped(server).await;

    // Killed once: it goes on. Killed twice: it is sent back.
    let server = Arc::new(serving(repository, crashed.path()).await);
    assert_eq!(server.state(), "canary");
    let again = killed(crashed.path());
    let repository = stopped(server).await;
    let server = Arc::new(serving(repository, again.path()).await);
    server.look();
    assert_eq!(server.state(), "rolled_back");
    assert_eq!(server.release()["state"]["reason"], "crash_loop");
    // A scrape does not wait for a model whose versions are being loaded or let go of.
    for line in [
        "crossfade_crash_loop_trips_total{model=\"m\"} 1",
        "crossfade_rollback_seconds{model=\"m\"} 0",
    ] {
        while !server.scrape().await.contains(line) {
            tokio::task::yield_now().await;
        }
    }
    for _ in 0..20 {
        let answer = server.post("/v2/models/m/infer", INFER).await;
        assert_eq!(answer.json()["model_version"], "1");
    }
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_finds_a_new_version_starts_its_release() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "route_key = ['header:x-user-id']");
    repository.add("m", 1, &version_file(1), &rules);
    let folder = data.path().to_owned();
    let server = Server::start_with(repository, |config| {
        config.data_dir = folder;
        config.release_looks = None;
        config.repository.mode = ControlMode::Poll;
        config.repository.poll = Duration::from_secs(86_400);
        config.repository.load_models.clear();
    })
    .await;
    server.wait_ready().await;
    let file = format!("{}fail_on 13\n", version_file(2));
    server.repository.add("m", 2, &file, &rules);
    // A change counts when two scans in a row agree.
    (0..2).for_each(|_| server.app.service.registry().poll_once());
    while server.state() != "canary" {
        tokio::task::yield_now().await;
    }
    // Of a user for whom every request fails, one failure counts.
    let ask = async |user: &str, value: f32| {
        let body = json!({ "inputs": [{
            "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value],
        }] });
        let headers = [("x-user-id", user)];
        let answer = server
            .post_with("/v2/models/m/infer", &headers, body.to_string().as_bytes())
            .await;
        assert!(answer.headers.contains_key("x-release-id"), "{answer:?}");
        answer
    };
    let mut unlucky = None;
    for user in (0..64).map(|user| user.to_string()) {
        if ask(&user, 1.0).await.headers["x-model-version"] == "2" {
            unlucky = Some(user);
            break;
        }
    }
    let unlucky = unlucky.expect("half of all users are in the canary");
    for _ in 0..15 {
        assert_eq!(ask(&unlucky, 13.0).await.status, 500);
    }
    server.look();
    let report = &server.release()["report"];
    assert_eq!(report["units"], 1, "{report}");
    assert_eq!(report["checks"][0]["events"]["canary"], 1, "{report}");
    let text = server.scrape().await;
    for line in [
        "crossfade_rollout_state{model=\"m\",state=\"canary\"} 1",
        "crossfade_rollout_percent{model=\"m\"} 50",
        "crossfade_promotions_total{model=\"m\"} 0",
    ] {
        assert!(
            text.lines().any(|got| got == line),
            "{line} is missing in\n{text}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_match_a_rule_go_to_its_side_and_are_not_counted() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let matching = "[[rollout.match]]\nheader = 'x-beta'\nvalue = '1'\nto = 'candidate'\n\
                    [[rollout.match]]\nheader = 'x-careful'\nto = 'stable'";
    let rules = rules(0.2, "").replace("percent = 50", "percent = 1") + matching;
    repository.add("m", 1, &version_file(1), &rules);
    let server = serving(repository, data.path()).await;
    let asked = async |headers: &[(&str, &str)]| {
        let answer = server
            .post_with("/v2/models/m/infer", headers, INFER.as_bytes())
            .await;
        answer.headers["x-model-version"].clone()
    };
    assert_eq!(asked(&[("x-beta", "1")]).await, "1", "there is no candidate");
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary");
    let mut grpc = server.grpc().await;
    for _ in 0..20 {
        assert_eq!(asked(&[("x-beta", "1")]).await, "2");
        assert_eq!(
            asked(&[("x-beta", "1"), ("x-careful", "yes")]).await,
            "2",
            "the first rule counts"
        );
        assert_eq!(asked(&[("x-careful", "yes")]).await, "1");
        assert_eq!(
            asked(&[("x-model-version", "1"), ("x-beta", "1")]).await,
            "1",
            "a version that is named"
        );
        let mut request = Request::new(message());
        request.metadata_mut().insert("x-beta", "1".parse().unwrap());
        let answer = grpc.model_infer(request).await.unwrap();
        assert_eq!(answer.metadata().get("x-model-version").unwrap(), "2");
    }
    server.look();
    assert_eq!(server.release()["report"]["units"], 0, "{}", server.release());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_has_to_give_the_known_answers() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "").replace("[gates.golden]\nenabled = false", "");
    repository.add("m", 1, &version_file(1), &rules);
    let golden = repository.path().join("m/golden");
    std::fs::create_dir(&golden).unwrap();
    std::fs::write(golden.join("one.request.json"), INFER).unwrap();
    let answer = |y: f64| {
        let outputs = json!([{ "name": "y", "datatype": "FP32", "shape": [1, 2], "data": [y, y + 1.0] }]);
        std::fs::write(
            golden.join("one.response.json"),
            json!({ "outputs": outputs }).to_string(),
        )
        .unwrap();
    };
    answer(2.0);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(
        server.release()["state"]["reason"],
        "gate",
        "{}",
        server.release()
    );
    let served = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(served.json()["model_version"], "1");
    assert!(
        server
            .scrape()
            .await
            .contains("crossfade_gate_result{model=\"m\",gate=\"golden\"} 0")
    );
    // Version 2 adds two.
    answer(3.0);
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary", "{}", server.release());
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_interface_moves_releases_and_each_call_is_recorded() {
    let repository = Repository::new();
    let rules = rules(0.2, "on_new_version = 'hold'");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Server::start_with(repository, |config| config.release_looks = None).await;
    server.wait_ready().await;
    server.arrive(2, &version_file(2), &rules).await;
    let ask = async |line: String, body: &str| {
        exchange(
            server.app.admin,
            &format!("{line} HTTP/1.1"),
            &[],
            body.as_bytes(),
        )
        .await
    };
    let all = "/crossfade/v1/models/m/rollouts";
    let missing = ask(format!("POST {all}"), r#"{"version":9}"#).await;
    assert_eq!(missing.status, 404, "{missing:?}");
    let created = ask(format!("POST {all}"), r#"{"version":2}"#).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.json()["id"].as_str().unwrap().to_owned();
    while server.state() != "canary" {
        tokio::task::yield_now().await;
    }
    let again = ask(format!("POST {all}"), r#"{"version":2}"#).await;
    assert_eq!(again.status, 409, "{again:?}");
    let seen = ask(format!("GET {all}/{id}"), "").await;
    assert_eq!((seen.status, &seen.json()["percent"]), (200, &json!(50.0)));
    let promoted = ask(format!("POST {all}/{id}:promote"), r#"{"reason":"seen enough"}"#).await;
    assert_eq!(
        (promoted.status, server.state().as_str()),
        (200, "live"),
        "{promoted:?}"
    );
    let back = ask(
        "POST /crossfade/v1/models/m:rollback".to_owned(),
        r#"{"reason":"worse"}"#,
    )
    .await;
    assert_eq!(back.status, 200, "{back:?}");
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1");
    let records = server.audit();
    let called = |record: &&Value| record["evidence"][0]["listener"] == "admin";
    let records: Vec<&Value> = records.iter().filter(called).collect();
    for record in &records {
        let peer = record["evidence"][0]["peer"].as_str().unwrap();
        assert!(peer.starts_with("127.0.0.1:"), "{record}");
    }
    assert_eq!(records.last().unwrap()["reason"], "worse");
    let gist: Vec<String> = records
        .iter()
        .map(|record| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            format!(
                "{} {}",
                text(&record["action"]),
                text(&record["after"]["outcome"])
            )
        })
        .collect();
    let expected = [
        "release.create refused",
        "release.create accepted",
        "release.create refused",
        "release.promote accepted",
        "model.rollback accepted",
    ];
    assert_eq!(gist, expected);
    server.stop().await;
}
