//! The real binary: its command line, its exit codes, its signals.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crossfade_journal::audit::AuditRecord;
use crossfade_runtimes_conformance::onnx::{self, named};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::harness::{Answer, exchange};

mod kills;

/// The binary, with a data folder.
fn crossfade(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossfade"));
    // tract serves: these tests are about the process, not about a runtime.
    command.env("CROSSFADE_ORT_LIBRARY", "/nonexistent/libonnxruntime.so");
    command.env("CROSSFADE_DATA_DIR", data);
    command
}

fn run(args: &[&str]) -> Output {
    let data = tempfile::tempdir().unwrap();
    crossfade(data.path()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A repository with one model that tract runs: `y = x + [1, 2]`.
fn repository() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    onnx::add_constant(named("N"), &[1.0, 2.0])
        .write(&directory.path().join("add/1/model.onnx"))
        .unwrap();
    directory
}

/// A serving process, killed when dropped.
struct Serving {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    data: tempfile::TempDir,
}

impl Serving {
    fn start(repository: &Path, more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::spawn(crossfade(data.path()), data, repository, more)
    }

    fn spawn(mut command: Command, data: tempfile::TempDir, repository: &Path, more: &[&str]) -> Self {
        let mut child = command
            .args([
                "serve",
                "--http-port",
                "0",
                "--grpc-port",
                "0",
                "--metrics-port",
                "0",
                "--admin-port",
                "0",
                "--model-repository",
            ])
            .arg(repository)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the server ended before it listened"
            );
        }
        let address = |name: &str| -> SocketAddr {
            let (_, rest) = line.split_once(name).unwrap();
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (http, admin) = (address("http="), address("admin="));
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Self {
            child,
            http,
            admin,
            data,
        }
    }

    async fn wait_ready(&self) {
        while exchange(self.http, "GET /v2/health/ready HTTP/1.1", &[], b"")
            .await
            .status
            != 200
        {
            tokio::task::yield_now().await;
        }
    }

    fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_with_tract_alone_and_ends_cleanly_on_sigterm() {
    let repository = repository();
    let mut serving = Serving::start(repository.path(), &[]);
    serving.wait_ready().await;
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20] }] });
    let answer = exchange(
        serving.http,
        "POST /v2/models/add/infer HTTP/1.1",
        &[],
        body.to_string().as_bytes(),
    )
    .await;
    assert_eq!(
        answer.json()["outputs"][0]["data"],
        json!([11.0, 22.0]),
        "{answer:?}"
    );
    let metadata = exchange(serving.http, "GET /v2/models/add HTTP/1.1", &[], b"")
        .await
        .json();
    assert_eq!(metadata["platform"], "tract_onnx");
    serving.terminate();
    let status = tokio::task::spawn_blocking(move || serving.child.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_at_start_ends_the_process_only_when_asked() {
    let repository = repository();
    std::fs::create_dir_all(repository.path().join("broken/1")).unwrap();
    std::fs::write(repository.path().join("broken/1/model.onnx"), "no model").unwrap();

    let serving = Serving::start(repository.path(), &["--strict-readiness=false"]);
    serving.wait_ready().await;
    let index = exchange(serving.http, "POST /v2/repository/index HTTP/1.1", &[], b"")
        .await
        .json();
    let broken = index
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "broken")
        .unwrap();
    assert_eq!(broken["state"], "UNAVAILABLE");
    drop(serving);

    let mut strict = Serving::start(repository.path(), &["--exit-on-error"]);
    let status = tokio::task::spawn_blocking(move || strict.child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let ended = run(&[
        "serve",
        "--grpc-port",
        &port,
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--admin-port",
        "0",
    ]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = text(&ended.stderr);
    assert!(
        stderr.contains(&port) && stderr.contains("--grpc-port"),
        "{stderr}"
    );
}

#[test]
fn the_file_that_serve_would_read_is_read_by_the_commands_about_models_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("models/m");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(model.join("model.toml"), "[model]\nrisk = 'low'\n").unwrap();
    let file = "repository.paths = ['models']\n[model.m]\nrollout.keep_warm = 2\n";
    std::fs::write(folder.path().join("crossfade.toml"), file).unwrap();
    let effective = || {
        let mut command = crossfade(folder.path());
        command
            .args(["config", "effective", "m"])
            .current_dir(folder.path())
            .env_remove("CROSSFADE_CONFIG")
            .env_remove("CROSSFADE_MODEL_REPOSITORY");
        command
    };
    let read = effective().output().unwrap();
    assert!(read.status.success(), "{}", text(&read.stderr));
    let rules: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(rules["keep_warm"], json!(2));
    // A file that is named takes its place.
    let other = folder.path().join("other.toml");
    std::fs::write(&other, "repository.paths = ['models']\n").unwrap();
    let read = effective().arg("--config").arg(&other).output().unwrap();
    let rules: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_ne!(rules["keep_warm"], json!(2));
}

#[test]
fn a_wrong_configuration_file_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.toml");
    std::fs::write(&file, "[repository]\npathes = []\n").unwrap();
    let ended = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = text(&ended.stderr);
    assert!(
        stderr.contains("own.toml") && stderr.contains("did you mean `paths`?"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_folder_does_not_start() {
    let repository = repository();
    let first = Serving::start(repository.path(), &[]);
    let second = crossfade(first.data.path())
        .args([
            "serve",
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--metrics-port",
            "0",
            "--admin-port",
            "0",
        ])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = text(&second.stderr);
    assert!(
        stderr.contains("another server uses it") && stderr.contains("--data-dir"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_verified_and_exported_and_a_changed_byte_is_found() {
    let repository = repository();
    let mut serving = Serving::start(repository.path(), &["--model-control-mode", "explicit"]);
    serving.wait_ready().await;
    for model in ["add", "absent"] {
        let path = format!("POST /v2/repository/models/{model}/load HTTP/1.1");
        exchange(serving.http, &path, &[], b"").await;
    }
    serving.terminate();
    let status = serving.child.wait().unwrap();
    assert!(status.success(), "{status}");

    let data = serving.data.path();
    let audit = |args: &[&str]| crossfade(data).arg("audit").args(args).output().unwrap();
    let verified = audit(&["verify"]);
    assert!(verified.status.success(), "{verified:?}");
    let stdout = text(&verified.stdout);
    assert!(stdout.contains("2 records"), "{stdout}");
    let head = stdout.lines().last().unwrap().strip_prefix("head ").unwrap();

    let exported = audit(&["export"]);
    assert!(exported.status.success(), "{exported:?}");
    let lines = text(&exported.stdout);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let file = data.join("audit.jsonl");
    let verify_export = |content: &str| {
        std::fs::write(&file, content).unwrap();
        audit(&["verify", file.to_str().unwrap(), "--head", head])
    };
    // The variable that names the data folder does not stand against an export.
    assert!(
        verify_export(&lines).status.success(),
        "{:?}",
        verify_export(&lines)
    );
    let changed = verify_export(&lines.replace("absent", "absEnt"));
    assert_eq!(changed.status.code(), Some(1));
    assert!(text(&changed.stderr).contains("record 2"), "{changed:?}");
    let first = lines.lines().next().unwrap();
    let cut = verify_export(&format!("{first}\n"));
    assert_eq!(cut.status.code(), Some(1));
    assert!(text(&cut.stderr).contains("missing"), "{cut:?}");

    let journal = data.join("audit/00000000000000000001.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = bytes.windows(6).position(|part| part == b"absent").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let damaged = audit(&["verify"]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stderr).contains("record 2"), "{damaged:?}");
}

/// A server whose files have at most a few KiB: the system refuses to append to a longer one, as it does on a full disk.
fn limited(data: &Path) -> Command {
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_crossfade"))
        .env("CROSSFADE_ORT_LIBRARY", "/nonexistent/libonnxruntime.so")
        .env("CROSSFADE_DATA_DIR", data);
    limited
}

#[test]
fn a_disk_without_room_for_the_inference_log_is_said_at_the_start() {
    let (repository, data) = (repository(), tempfile::tempdir().unwrap());
    let mut limited = limited(data.path());
    let ports = ["--http-port", "--grpc-port", "--metrics-port", "--admin-port"];
    let ended = limited
        .args(["serve", "--model-repository"])
        .arg(repository.path())
        .args(ports.iter().flat_map(|port| [*port, "0"]))
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let stderr = text(&ended.stderr);
    assert!(stderr.contains("log.enabled = false"), "{stderr}");
    assert!(stderr.contains("taking its place on disk"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_more_records_stops_changes_and_not_inferences() {
    let (repository, data) = (repository(), tempfile::tempdir().unwrap());
    let limited = limited(data.path());
    let config = data.path().join("crossfade.toml");
    std::fs::write(&config, "[log]\nenabled = false\n").unwrap();
    let more = [
        "--config",
        config.to_str().unwrap(),
        "--model-control-mode",
        "explicit",
        "--load-model",
        "add",
    ];
    let mut serving = Serving::spawn(limited, data, repository.path(), &more);
    serving.wait_ready().await;
    // The shortest record there is: where it does not fit, none does.
    let change = || {
        let line = "POST /v2/trace/setting HTTP/1.1";
        exchange(serving.http, line, &[], br#"{"trace_level":"OFF"}"#)
    };
    let mut taken = 0;
    let refused = loop {
        assert!(taken < 64, "the limit was never reached");
        let answer = change().await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.error().contains("audit"), "{refused:?}");

    let unload = exchange(
        serving.http,
        "POST /v2/repository/models/add/unload HTTP/1.1",
        &[],
        b"",
    )
    .await;
    assert_eq!(unload.status, 503, "{unload:?}");
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20] }] });
    let infer = "POST /v2/models/add/infer HTTP/1.1";
    let inferred = exchange(serving.http, infer, &[], body.to_string().as_bytes()).await;
    assert_eq!(inferred.status, 200, "nothing was unloaded: {inferred:?}");

    serving.terminate();
    serving.child.wait().unwrap();
    let verified = crossfade(serving.data.path())
        .args(["audit", "verify"])
        .output()
        .unwrap();
    let stdout = text(&verified.stdout);
    assert!(
        stdout.contains(&format!("{taken} records")),
        "{stdout} {verified:?}"
    );
}

#[test]
fn an_audit_that_is_not_there_is_not_a_good_one() {
    let ended = run(&["audit", "verify"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("--data-dir"), "{ended:?}");
}

#[test]
fn check_explains_and_its_exit_code_tells() {
    let repository = repository();
    let path = repository.path().to_str().unwrap();
    let good = run(&["check", path]);
    assert!(good.status.success(), "{}", text(&good.stdout));

    let config = "max_batch_size: 4\ninput { name: \"z\" data_type: TYPE_FP32 dims: 2 }\n";
    std::fs::write(repository.path().join("add/config.pbtxt"), config).unwrap();
    let bad = run(&["check", path]);
    assert_eq!(bad.status.code(), Some(1));
    let stdout = text(&bad.stdout);
    assert!(
        stdout.contains("error: add") && stdout.contains("`z`") && stdout.contains("`x`"),
        "{stdout}"
    );
}

#[test]
fn check_knows_what_a_tokenizer_adds_to_a_model() {
    let directory = tempfile::tempdir().unwrap();
    let version = directory.path().join("encoder/1");
    std::fs::create_dir_all(&version).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimes/candle/tests/models/bert");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(file), version.join(file)).unwrap();
    }
    let config = "input [ { name: \"text\" data_type: TYPE_STRING dims: [ 1 ] } ]\n\
                  output [ { name: \"embeddings\" data_type: TYPE_FP32 dims: [ 24 ] } ]\n\
                  max_batch_size: 8\n\
                  parameters { key: \"text.pooling\" value { string_value: \"cls\" } }\n";
    let file = directory.path().join("encoder/config.pbtxt");
    std::fs::write(&file, config).unwrap();
    let path = directory.path().to_str().unwrap();
    let good = run(&["check", path]);
    assert!(good.status.success(), "{}", text(&good.stdout));
    std::fs::write(&file, config.replace("cls", "lcs")).unwrap();
    let bad = run(&["check", path]);
    assert!(!bad.status.success());
    assert!(
        text(&bad.stdout).contains("text.pooling"),
        "{}",
        text(&bad.stdout)
    );
}

#[test]
fn help_names_what_there_is() {
    let help = run(&["serve", "--help"]);
    let stdout = text(&help.stdout);
    for flag in [
        "--model-repository",
        "--model-control-mode",
        "--exit-timeout-secs",
        "CROSSFADE_GRPC_PORT",
    ] {
        assert!(stdout.contains(flag), "{flag} is missing in {stdout}");
    }
}

/// The version that answers and the release that is active, once there is one, or none.
async fn answered_with(serving: &Serving, release: bool) -> (String, Option<String>) {
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20] }] });
    loop {
        let line = "POST /v2/models/add/infer HTTP/1.1";
        let answer = exchange(serving.http, line, &[], body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let active = answer.headers.get("x-release-id").cloned();
        if active.is_some() == release {
            return (answer.headers["x-model-version"].clone(), active);
        }
        tokio::task::yield_now().await;
    }
}

/// A process that is killed goes on with the same release; killed again, it takes the new version back.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_survives_a_kill_and_ends_with_the_second() {
    let (repository, data) = (repository(), tempfile::tempdir().unwrap());
    let folder = repository.path().join("add");
    let rules = "[model]\nrisk = 'low'\n[gates.golden]\nenabled = false\n[[rollout.check]]\nmetric = 'output'\n\
                 enabled = false\n";
    std::fs::write(folder.join("model.toml"), rules).unwrap();
    let more = [
        "--model-control-mode",
        "poll",
        "--repository-poll-secs",
        "1",
        "--data-dir",
    ];
    let more = [&more[..], &[data.path().to_str().unwrap()]].concat();
    let start = || Serving::start(repository.path(), &more);
    let first = start();
    first.wait_ready().await;
    assert_eq!(answered_with(&first, false).await, ("1".to_owned(), None));
    onnx::add_constant(named("N"), &[1.0, 2.0])
        .write(&folder.join("2/model.onnx"))
        .unwrap();
    let (_, release) = answered_with(&first, true).await;
    drop(first);

    let second = start();
    second.wait_ready().await;
    let (_, same) = answered_with(&second, true).await;
    assert_eq!(same, release);
    drop(second);

    let third = start();
    third.wait_ready().await;
    let (version, _) = answered_with(&third, false).await;
    assert_eq!(version, "1");
}

/// Rules whose releases have one step of 50 %, and watch errors only.
const RELEASED: &str = "[model]\nrisk = 'low'\n[gates.golden]\nenabled = false\n[[rollout.step]]\npercent = 50\n\
    min = '0s'\nmin_units = 20\n[[rollout.check]]\nmetric = 'errors'\nabs_ok = 0.2\n\
    [[rollout.check]]\nmetric = 'latency'\nenabled = false\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n";

impl Serving {
    /// The system refuses to make files of the server longer than this, as a full disk would.
    fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit {
            current: bytes,
            maximum: getrlimit(Resource::Fsize).maximum,
        };
        let pid = Pid::from_child(&self.child);
        prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        exchange(self.http, &format!("POST {path} HTTP/1.1"), &[], body.as_bytes()).await
    }

    /// The last release of `add`; null before there is one.
    async fn release(&self) -> Value {
        let get = "GET /crossfade/v1/models/add/rollouts HTTP/1.1";
        let all = exchange(self.admin, get, &[], b"").await.json();
        all["rollouts"][0].clone()
    }

    /// Puts version `version` of `add` there, whose answers are `x + [by, by]`, and has it released up to its canary.
    async fn release_next(&self, repository: &Path, version: u64, by: f32) {
        onnx::add_constant(named("N"), &[by, by])
            .write(&repository.join(format!("add/{version}/model.onnx")))
            .unwrap();
        let loaded = self.post("/v2/repository/models/add/load", "").await;
        assert_eq!(loaded.status, 200, "{loaded:?}");
        assert_eq!(self.release().await["state"]["state"], "canary");
    }

    /// Asks until a release of `add` is in `state`, and the log of releases has `record`.
    async fn ask_until(&self, state: &str, record: &[u8]) {
        let body =
            json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20] }] });
        let log = self.data.path().join("state/rollout/add.log");
        loop {
            let answer = self.post("/v2/models/add/infer", &body.to_string()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let there = std::fs::read(&log).unwrap();
            let there = there.windows(record.len()).any(|part| part == record);
            if there && self.release().await["state"]["state"] == state {
                return;
            }
        }
    }

    fn audit_file(&self) -> std::path::PathBuf {
        self.data.path().join("audit/00000000000000000001.journal")
    }

    /// What the audit says happened with releases, in order.
    fn audited(&self) -> Vec<String> {
        let records = crossfade_journal::audit::records(&self.data.path().join("audit"), 0).unwrap();
        // The server may be writing the last one.
        let records = records.map_while(Result::ok);
        let event = |record: AuditRecord| {
            let event = record.event.evidence.first()?.get("event")?.as_str()?;
            Some(event.to_owned())
        };
        records.filter_map(event).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_audit_takes_no_record_no_release_goes_on_and_a_bad_one_goes_back() {
    let (repository, data) = (repository(), tempfile::tempdir().unwrap());
    std::fs::write(repository.path().join("add/model.toml"), RELEASED).unwrap();
    let mut deaf = Command::new("sh");
    deaf.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_crossfade"))
        .env("CROSSFADE_ORT_LIBRARY", "/nonexistent/libonnxruntime.so")
        .env("CROSSFADE_DATA_DIR", data.path());
    let more = ["--model-control-mode", "explicit", "--load-model", "add"];
    let mut serving = Serving::spawn(deaf, data, repository.path(), &more);
    serving.wait_ready().await;
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    let full = |serving: &Serving| serving.limit_files(Some(length(&serving.audit_file())));

    serving.release_next(repository.path(), 2, 3.0).await;
    // So that there is room for the log of releases where there is none for the audit.
    let log = serving.data.path().join("state/rollout/add.log");
    while length(&serving.audit_file()) < 4 * length(&log) {
        let changed = serving
            .post("/v2/trace/setting", r#"{"trace_level":"OFF"}"#)
            .await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    full(&serving);
    serving.ask_until("canary", b"\"record\":\"withdrawn\"").await;
    let refused = serving.post("/v2/repository/models/add/load", "").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(!serving.audited().contains(&"stage_passed".to_owned()));

    // There is room again.
    serving.limit_files(None);
    serving.ask_until("live", b"\"event\":\"switched\"").await;
    let moves = serving.audited();
    let from = moves.iter().position(|event| event == "stage_passed").unwrap();
    let expected = ["stage_passed", "withdrawn", "stage_passed", "switched"];
    assert_eq!(moves[from..], expected);

    // Nobody asks the next one anything before there is no room again.
    serving.release_next(repository.path(), 3, f32::NAN).await;
    let before = serving.audited();
    full(&serving);
    serving.ask_until("rolled_back", b"\"event\":\"drained\"").await;
    assert_eq!(serving.audited(), before);
    serving.limit_files(None);
    while serving.audited().len() < before.len() + 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(serving.audited()[before.len()..], ["failed", "drained"]);

    serving.terminate();
    serving.child.wait().unwrap();
    let verified = crossfade(serving.data.path())
        .args(["audit", "verify"])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
