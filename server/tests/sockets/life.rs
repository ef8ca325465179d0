//! The life of the process and of versions: start, swap, drain, what is seen from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crossfade_runtimes_fake::Gate;
use crossfade_server::config::ServerConfig;
use serde_json::json;

use crate::harness::{ADD_ONE, Repository, Server};

const INFER: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;

/// An explicit batch size: no merge probe runs at load, where a closed gate would hold it.
const UNPROBED: &str = "[batching]\nmax_rows = 8\n";

/// `y = x + version`, so that an answer tells which version made it.
fn version_file(version: u64) -> String {
    format!("input x FP32 -1,2\noutput y FP32 -1,2\nop add {version}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_models_is_ready() {
    let server = Server::start(Repository::new()).await;
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
    assert_eq!(
        server.get("/v2/health/live").await.json(),
        json!({ "live": true, "ready": true })
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_drop_nothing_and_answers_name_their_version() {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "[versions]\nspecific = [1]\n");
    let lends = |config: &mut ServerConfig| config.limits.lend_within = Duration::from_millis(1);
    let server = Arc::new(Server::start_with(repository, lends).await);
    server.wait_ready().await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (server, stop, answered) = (server.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let answer = server.post("/v2/models/m/infer", INFER).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let json = answer.json();
                    let version: f64 = json["model_version"].as_str().unwrap().parse().unwrap();
                    assert_eq!(json["outputs"][0]["data"], json!([1.0 + version, 2.0 + version]));
                    answered.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for version in [2, 3, 2, 1, 3] {
        let seen = answered.load(SeqCst);
        server.repository.add(
            "m",
            version,
            &version_file(version),
            &format!("[versions]\nspecific = [{version}]\n"),
        );
        let loaded = server.post("/v2/repository/models/m/load", "").await;
        assert_eq!(loaded.status, 200, "{loaded:?}");
        let now = server.post("/v2/models/m/infer", INFER).await.json();
        assert_eq!(now["model_version"], version.to_string());
        while answered.load(SeqCst) < seen + 20 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    Arc::into_inner(server)
        .expect("the clients are gone")
        .stop()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_new_version_leaves_the_old_one_serving() {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let server = Server::start(repository).await;
    server.repository.add("m", 2, "fail load\n", "");
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 500, "{loaded:?}");
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(
        (answer.status, &answer.json()["model_version"]),
        (200, &json!("1"))
    );
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
    let index = server.post("/v2/repository/index", "").await.json();
    let state = |version: &str| {
        let entry = index
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["version"] == version)
            .unwrap();
        entry["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (state("1").as_str(), state("2").as_str()),
        ("READY", "UNAVAILABLE")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_was_accepted() {
    let repository = Repository::new();
    repository.add("m", 1, ADD_ONE, UNPROBED);
    let server = Server::start_with(repository, |_| {}).await;
    let gate = Gate::closed();
    server.wait_ready().await;
    server.post("/v2/repository/models/m/unload", "").await;
    server.fake.hold_runs(gate.clone());
    assert_eq!(server.post("/v2/repository/models/m/load", "").await.status, 200);

    let mut client = server.grpc().await;
    let http = server.app.http;
    let held_http = tokio::spawn(async move {
        crate::harness::exchange(http, "POST /v2/models/m/infer HTTP/1.1", &[], INFER.as_bytes()).await
    });
    let request = crossfade_proto::inference::ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![
            crossfade_proto::inference::model_infer_request::InferInputTensor {
                name: "x".into(),
                datatype: "FP32".into(),
                shape: vec![1, 2],
                ..Default::default()
            },
        ],
        raw_input_contents: vec![vec![0; 8].into()],
        ..Default::default()
    };
    let held_grpc = tokio::spawn(async move { client.model_infer(request).await });
    while server.app.service.permits().requests() < 2 {
        tokio::task::yield_now().await;
    }
    server.app.service.drain();
    assert_eq!(server.get("/v2/health/ready").await.status, 503);
    assert_eq!(
        server.get("/v2/health/live").await.json(),
        json!({ "live": true, "ready": false })
    );
    let stopping = tokio::spawn(server.stop());
    gate.open();
    stopping.await.unwrap();
    assert_eq!(held_http.await.unwrap().status, 200);
    assert!(held_grpc.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_statistics_and_answers_agree() {
    let repository = Repository::new();
    repository.add("m", 1, ADD_ONE, "");
    let server = Server::start(repository).await;
    let two = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[1,2,3,4]}]}"#;
    for body in [INFER, two, two] {
        assert_eq!(server.post("/v2/models/m/infer", body).await.status, 200);
    }
    assert_eq!(server.post("/v2/models/m/infer", "{").await.status, 400);
    assert_eq!(server.post("/v2/models/nobody/infer", INFER).await.status, 404);
    let stats = server.get("/v2/models/m/stats").await.json();
    let stats = &stats["model_stats"][0];
    assert_eq!(
        (
            &stats["inference_count"],
            &stats["inference_stats"]["success"]["count"]
        ),
        (&json!(5), &json!(3))
    );
    assert_eq!(stats["inference_stats"]["fail"]["count"], 1);
    assert_eq!(stats["execution_count"], 3);
    let text = server.scrape().await;
    for line in [
        "crossfade_requests_total{model=\"m\",version=\"1\",protocol=\"http\",status=\"ok\"} 3",
        "crossfade_requests_total{model=\"m\",version=\"1\",protocol=\"http\",status=\"invalid_input\"} 1",
        "crossfade_requests_total{model=\"\",version=\"\",protocol=\"http\",status=\"not_found\"} 1",
        "nv_inference_count{model=\"m\",version=\"1\"} 5",
        "crossfade_in_flight{model=\"m\",version=\"1\"} 0",
    ] {
        assert!(
            text.lines().any(|got| got == line),
            "{line} is missing in\n{text}"
        );
    }
    let sum = |stage: &str| {
        let start =
            format!("crossfade_stage_duration_seconds_sum{{model=\"m\",version=\"1\",stage=\"{stage}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        line.parse::<f64>().unwrap()
    };
    let parts: f64 = ["decode", "queue", "gather", "compute", "scatter", "encode"]
        .map(sum)
        .iter()
        .sum();
    assert!((parts - sum("total")).abs() < 1e-6, "{parts} of {}", sum("total"));

    // A reload restarts the statistics; the counters go on.
    server.repository.add("m", 1, ADD_ONE, "[instances]\ncount = 2\n");
    assert_eq!(server.post("/v2/repository/models/m/load", "").await.status, 200);
    let stats = server.get("/v2/models/m/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 0);
    assert!(
        server
            .scrape()
            .await
            .contains("nv_inference_count{model=\"m\",version=\"1\"} 5")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let repository = Repository::new();
    repository.add("m", 1, ADD_ONE, UNPROBED);
    let server = Server::start(repository).await;
    let gate = Gate::closed();
    server.post("/v2/repository/models/m/unload", "").await;
    server.fake.hold_runs(gate.clone());
    assert_eq!(server.post("/v2/repository/models/m/load", "").await.status, 200);
    let probe = server
        .fake
        .probe(&server.repository.path().join("m/1/model.fake"));
    let before = probe.executions();
    let http = server.app.http;
    let ask = move || async move {
        crate::harness::exchange(http, "POST /v2/models/m/infer HTTP/1.1", &[], INFER.as_bytes()).await
    };
    let running = tokio::spawn(ask());
    while server.app.service.permits().requests() < 1 {
        tokio::task::yield_now().await;
    }
    let arrived = gate.clone();
    tokio::task::spawn_blocking(move || arrived.wait_for_arrivals(1))
        .await
        .unwrap();
    let vanishing: Vec<_> = (0..10).map(|_| tokio::spawn(ask())).collect();
    while server.app.service.permits().requests() < 11 {
        tokio::task::yield_now().await;
    }
    for client in &vanishing {
        client.abort();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while server.app.service.permits().requests() > 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "cancelled requests still hold permits"
        );
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(
        probe.executions() - before,
        1,
        "requests whose client had gone never ran"
    );
    assert!(
        server
            .scrape()
            .await
            .contains("protocol=\"http\",status=\"cancelled\"} 10")
    );
    server.stop().await;
}
