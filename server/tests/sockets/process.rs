//! The real binary: its command line, its exit codes, its signals.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crossfade_runtimes_conformance::onnx::{self, named};
use serde_json::json;

use crate::harness::exchange;

fn crossfade() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossfade"));
    // tract serves: these tests are about the process, not about a runtime.
    command.env("CROSSFADE_ORT_LIBRARY", "/nonexistent/libonnxruntime.so");
    command
}

fn run(args: &[&str]) -> Output {
    crossfade().args(args).output().unwrap()
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
}

impl Serving {
    fn start(repository: &Path, more: &[&str]) -> Self {
        let mut child = crossfade()
            .args([
                "serve",
                "--http-port",
                "0",
                "--grpc-port",
                "0",
                "--metrics-port",
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
        let http = line
            .split("http=")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Self { child, http }
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
    ]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = text(&ended.stderr);
    assert!(
        stderr.contains(&port) && stderr.contains("--grpc-port"),
        "{stderr}"
    );
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
