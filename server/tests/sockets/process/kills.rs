//! The real binary, killed in the moment in which it tells where a release stands: the next one stands there too, or
//! where its log had come to, divides requests so, and brings the release to its end (rollout.md §11.7).

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, Lines};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::harness::Answer;

/// Every stage that there is, each with little to show.
const RULES: &str = "[model]\nrisk = 'low'\n[gates.golden]\nenabled = false\n\
    [rollout]\non_new_version = 'hold'\nbake = '1s'\n[rollout.approval]\nbefore = ['promoting']\nquorum = 1\n\
    [rollout.shadow]\npercent = 100\nmin = '0s'\nmin_units = 5\ntol = 5\n\
    [[rollout.step]]\npercent = 50\nmin = '0s'\nmin_units = 5\n\
    [[rollout.check]]\nmetric = 'errors'\nabs_ok = 0.5\n\
    [[rollout.check]]\nmetric = 'latency'\nenabled = false\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n";

const ALL: &str = "/crossfade/v1/models/add/rollouts";

/// Between two requests of the clients, and between two looks at a release.
const PACE: Duration = Duration::from_millis(5);

impl Serving {
    async fn ask(&self, line: &str, body: &str) -> Answer {
        exchange(self.admin, &format!("{line} HTTP/1.1"), &[], body.as_bytes()).await
    }

    /// The version that answers a request.
    async fn version(&self) -> String {
        let body =
            json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20] }] });
        let line = "POST /v2/models/add/infer HTTP/1.1";
        let answer = exchange(self.http, line, &[], body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["outputs"][0]["data"], json!([11.0, 22.0]));
        answer.headers["x-model-version"].clone()
    }

    /// Does what a state asks for, on the way to another one.
    async fn obey(&self, state: &str, wanted: &str) {
        let release = self.release().await;
        let id = release["id"].as_str().unwrap();
        let (action, body) = match state {
            "canary" if wanted == "paused" => ("pause", json!({})),
            "canary" | "awaiting_approval" if is_sent_back(wanted) => ("abort", json!({ "reason": "worse" })),
            "paused" => ("resume", json!({})),
            "awaiting_approval" => ("approve", json!({ "subject": release["approval"]["subject"] })),
            _ => return,
        };
        let answer = self
            .ask(&format!("POST {ALL}/{id}:{action}"), &body.to_string())
            .await;
        assert_eq!(answer.status, 200, "{action}: {answer:?}");
    }

    /// Requests at a steady pace, until the task is aborted.
    fn clients(&self) -> JoinHandle<()> {
        let http = self.http;
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            loop {
                pace.tick().await;
                let body = json!({ "inputs": [{
                    "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20],
                }] });
                let line = "POST /v2/models/add/infer HTTP/1.1";
                let answer = exchange(http, line, &[], body.to_string().as_bytes()).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        })
    }
}

fn is_sent_back(state: &str) -> bool {
    ["rolling_back", "rolled_back"].contains(&state)
}

/// The moves of releases, as a process tells them.
struct Moves(Lines<tokio::io::BufReader<TcpStream>>);

impl Moves {
    /// From now on.
    async fn follow(serving: &Serving) -> Self {
        let mut stream = TcpStream::connect(serving.admin).await.unwrap();
        let request = "GET /crossfade/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = tokio::io::BufReader::new(stream).lines();
        while !lines.next_line().await.unwrap().expect("a whole head").is_empty() {}
        Self(lines)
    }

    /// The state that the release has come to.
    async fn next(&mut self) -> String {
        loop {
            let line = self.0.next_line().await.unwrap().expect("it goes on telling");
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            let told: Value = serde_json::from_str(data).unwrap();
            // That someone has agreed is told, too, and moves nothing by itself.
            if let Some(state) = told["to"].as_str().filter(|_| told["to"] != told["from"]) {
                return state.to_owned();
            }
        }
    }
}

/// Requests are divided as the release says.
async fn is_divided(serving: &Serving) {
    loop {
        let before = serving.release().await;
        let mut second = 0;
        for _ in 0..40 {
            match serving.version().await.as_str() {
                "1" => {}
                "2" => second += 1,
                other => panic!("version {other} answers"),
            }
        }
        // A look may have moved it meanwhile.
        if serving.release().await["state"] != before["state"] {
            continue;
        }
        let percent = match before["state"]["state"] == "live" {
            true => 100.0,
            false => before["percent"].as_f64().unwrap(),
        };
        match percent {
            0.0 => assert_eq!(second, 0, "{before}"),
            100.0 => assert_eq!(second, 40, "{before}"),
            // By chance alone once in 2^39.
            _ => assert!((1..40).contains(&second), "{second} of 40: {before}"),
        }
        return;
    }
}

/// A process is killed as soon as its release comes to a state; the next one stands in one of `after`.
async fn killed(wanted: &str, after: &[&str]) {
    let (repository, data) = (repository(), tempfile::tempdir().unwrap());
    let folder = repository.path().join("add");
    std::fs::write(folder.join("model.toml"), RULES).unwrap();
    let more = [
        "--model-control-mode",
        "explicit",
        "--load-model",
        "add",
        "--data-dir",
    ];
    let more = [&more[..], &[data.path().to_str().unwrap()]].concat();
    let first = Serving::start(repository.path(), &more);
    first.wait_ready().await;
    onnx::add_constant(named("N"), &[1.0, 2.0])
        .write(&folder.join("2/model.onnx"))
        .unwrap();
    let mut moves = Moves::follow(&first).await;
    let clients = first.clients();
    let created = first.ask(&format!("POST {ALL}"), r#"{"version":2}"#).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.json()["id"].clone();
    loop {
        let state = moves.next().await;
        if state == wanted {
            break;
        }
        first.obey(&state, wanted).await;
    }
    answered_throughout(clients).await;
    drop(first);

    let second = Serving::start(repository.path(), &more);
    second.wait_ready().await;
    let release = second.release().await;
    assert_eq!(release["id"], id, "the same release: {release}");
    let state = release["state"]["state"].as_str().unwrap();
    assert!(after.contains(&state), "{wanted} is followed by {release}");
    is_divided(&second).await;

    let clients = second.clients();
    let end = if is_sent_back(wanted) {
        "rolled_back"
    } else {
        "live"
    };
    let mut pace = tokio::time::interval(PACE * 10);
    loop {
        let state = second.release().await["state"]["state"].clone();
        if state == end {
            break;
        }
        second.obey(state.as_str().unwrap(), end).await;
        pace.tick().await;
    }
    is_divided(&second).await;
    answered_throughout(clients).await;
}

/// Ends the clients, which would see their server go; none of their requests has failed.
async fn answered_throughout(clients: JoinHandle<()>) {
    clients.abort();
    let ended = clients.await.expect_err("they go on until they are stopped");
    assert!(ended.is_cancelled(), "{ended}");
}

/// What a start comes through by itself, before the first copy.
const BEFORE_TRAFFIC: [&str; 4] = ["verifying", "loading", "gating", "shadow"];

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_a_release_begins() {
    killed("verifying", &BEFORE_TRAFFIC).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_candidate_loads() {
    killed("loading", &BEFORE_TRAFFIC[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_gates_run() {
    killed("gating", &BEFORE_TRAFFIC[2..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_shadow() {
    killed("shadow", &["shadow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_canary() {
    killed("canary", &["canary"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_paused() {
    killed("paused", &["paused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_people_think() {
    killed("awaiting_approval", &["awaiting_approval"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_everyone_is_about_to_move() {
    killed("promoting", &["promoting", "baking", "live"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_bakes() {
    killed("baking", &["baking", "live"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_it_is_live() {
    killed("live", &["live"]).await;
}

/// What takes requests away from a version takes effect, and is told, before it is on disk.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_goes_back() {
    killed("rolling_back", &["canary", "rolling_back", "rolled_back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_it_is_back() {
    killed("rolled_back", &["rolling_back", "rolled_back"]).await;
}
