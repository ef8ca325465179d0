//! Sinks: every record reaches its receiver, whatever becomes of the receiver or the server meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crossfade_server::config::file::RawConfig;
use crossfade_server::config::{Flags, ServerConfig};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::harness::{Repository, Server};
use crate::release::{INFER, version_file};
use crate::webhook::receiver_that;

/// A server of the models `m` and `other` that sends its records to `at`.
async fn sending(data: &Path, at: SocketAddr, more: &str) -> Server {
    let repository = Repository::new();
    for model in ["m", "other"] {
        repository.add(model, 1, &version_file(1), "");
    }
    let text = format!("[[log.sink]]\nname = 'lake'\nurl = 'http://{at}/events'\n{more}");
    let config = ServerConfig::resolve(Flags::default(), RawConfig::parse(&text).unwrap()).unwrap();
    let server = Server::start_with(repository, |options| {
        options.data_dir = data.to_owned();
        options.sinks = config.sinks;
    });
    let server = server.await;
    server.wait_ready().await;
    server
}

async fn asked(server: &Server, model: &str, body: &str) -> String {
    let answer = server
        .post(&format!("/v2/models/{model}/infer"), body.to_owned())
        .await;
    answer.headers["x-request-id"].clone()
}

/// The events of a request to the receiver.
fn events(request: &str) -> Vec<Value> {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let is_batch = head.contains("content-type: application/cloudevents-batch+json");
    assert!(
        is_batch || head.contains("content-type: application/cloudevents+json"),
        "{head}"
    );
    match serde_json::from_str(body).unwrap() {
        Value::Array(events) if is_batch => events,
        event if !is_batch => vec![event],
        other => panic!("{other}"),
    }
}

/// How often each request was told, until all of `wanted` were.
async fn told(got: &mut UnboundedReceiver<String>, wanted: &[String]) -> BTreeMap<String, (usize, Value)> {
    let mut seen: BTreeMap<String, (usize, Value)> = BTreeMap::new();
    while !wanted.iter().all(|id| seen.contains_key(id)) {
        let request = tokio::time::timeout(Duration::from_secs(60), got.recv()).await;
        let request = request.expect("an event within a minute").unwrap();
        for event in events(&request) {
            let id = event["id"].as_str().unwrap().to_owned();
            let count = seen.get(&id).map_or(0, |(count, _)| *count);
            seen.insert(id, (count + 1, event));
        }
    }
    seen
}

/// A receiver that is away is lag: through it, and through a restart of the server, each record arrives, and none that was before.
#[tokio::test(flavor = "multi_thread")]
async fn every_record_arrives_although_the_receiver_was_away() {
    let data = tempfile::tempdir().unwrap();
    // Nobody listens there yet.
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = held.local_addr().unwrap();
    drop(held);
    let server = sending(data.path(), at, "").await;
    let mut wanted = Vec::new();
    for _ in 0..20 {
        wanted.push(asked(&server, "m", INFER).await);
    }
    wanted.push(asked(&server, "m", "{").await);
    server.stop().await;
    // What was recorded is sealed now, and the receiver is another one, elsewhere: a sink is known by its name.
    let (at, mut got) = receiver_that({
        let tries = std::sync::atomic::AtomicUsize::new(0);
        move |_| match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 | 1 => 503,
            _ => 204,
        }
    })
    .await;
    let server = sending(data.path(), at, "").await;
    wanted.push(asked(&server, "other", INFER).await);
    let seen = told(&mut got, &wanted).await;
    assert_eq!(seen.keys().collect::<BTreeSet<_>>(), wanted.iter().collect());
    let event = &seen[&wanted[0]].1;
    assert_eq!(
        (&event["type"], &event["subject"]),
        (&"io.crossfade.inference".into(), &"m".into())
    );
    assert_eq!(
        (&event["specversion"], &event["data"]["out.y.0"]),
        (&"1.0".into(), &2.0.into())
    );
    assert_eq!(event["data"]["request_id"], event["id"]);
    assert_eq!(seen[&wanted[20]].1["data"]["outcome"], "invalid_input");
    let delivered = "crossfade_sink_events_total{sink=\"lake\",result=\"delivered\"} 22";
    while !server.scrape().await.contains(delivered) {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    // What was delivered is not sent again.
    let server = sending(data.path(), at, "").await;
    let last = asked(&server, "m", INFER).await;
    let seen = told(&mut got, std::slice::from_ref(&last)).await;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&last]);
    server.stop().await;
}

/// One event that its receiver does not take holds up no other.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_put_aside() {
    let data = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver_that(|request| {
        if request.contains("invalid_input") {
            422
        } else {
            204
        }
    })
    .await;
    let server = sending(data.path(), at, "max_attempts = 2\nmodels = ['m']\n").await;
    let mut wanted = vec![asked(&server, "m", INFER).await];
    let bad = asked(&server, "m", &INFER.replace("[1,2]}", "[1]}")).await;
    let other = asked(&server, "other", INFER).await;
    wanted.push(asked(&server, "m", INFER).await);
    let seen = told(&mut got, &wanted).await;
    assert!(!seen.contains_key(&other), "it was not asked for");
    let dead = data.path().join(format!("sink_dead/lake/{bad}.json"));
    while !dead.exists() {
        tokio::task::yield_now().await;
    }
    let scrape = server.scrape().await;
    assert!(
        scrape.contains("crossfade_sink_events_total{sink=\"lake\",result=\"dead\"} 1"),
        "{scrape}"
    );
    assert!(
        scrape.contains("crossfade_sink_lag_seconds{sink=\"lake\"}"),
        "{scrape}"
    );
    server.stop().await;
    let event: Value = serde_json::from_slice(&std::fs::read(dead).unwrap()).unwrap();
    assert_eq!(event["id"], bad.as_str());
}

/// What of a KServe event is the same each time: its attributes but the times, and its data.
fn gist(request: &str) -> (BTreeMap<String, String>, Value) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let attributes = head.lines().filter_map(|line| line.split_once(": "));
    let attributes = attributes
        .filter(|(name, _)| name.starts_with("ce-") || *name == "content-type")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (attributes, serde_json::from_str(body).unwrap())
}

/// The events that KServe's logger would send, failed requests among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_goes_out_as_kserve_would_tell_it() {
    let data = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver_that(|_| 204).await;
    let server = sending(data.path(), at, "format = 'kserve'\nnamespace = 'prod'\n").await;
    let named = INFER.replacen('{', r#"{"id":"the client's","#, 1);
    let fine = asked(&server, "m", &named).await;
    let wrong = asked(&server, "m", &INFER.replace("[1,2]}", "[1]}")).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let request = tokio::time::timeout(Duration::from_secs(60), got.recv()).await;
        seen.push(gist(&request.expect("an event within a minute").unwrap()));
    }
    server.stop().await;
    for (attributes, _) in &mut seen {
        let time = attributes.remove("ce-time").unwrap();
        assert_eq!(attributes.remove("ce-recordedtime").unwrap(), time);
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert!(attributes.remove("ce-source").unwrap().starts_with("crossfade/"));
    }
    let attributes = |id: &str, kind: &str, outcome: &str| -> BTreeMap<String, String> {
        [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-type", &format!("org.kubeflow.serving.inference.{kind}")),
            ("ce-inferenceservicename", "m"),
            ("ce-namespace", "prod"),
            ("ce-component", "predictor"),
            ("ce-endpoint", "default"),
            (
                "ce-metadata",
                &format!("{{%22outcome%22:[%22{outcome}%22],%22x-model-version%22:[%221%22],%22x-request-id%22:[%22{id}%22]}}"),
            ),
            ("content-type", "application/json"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    };
    assert_eq!(seen[0].0, attributes(&fine, "request", "ok"));
    assert_eq!(
        seen[0].1,
        serde_json::json!({
            "id": "the client's",
            "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0] }],
        })
    );
    assert_eq!(seen[1].0, attributes(&fine, "response", "ok"));
    assert_eq!(
        seen[1].1,
        serde_json::json!({
            "model_name": "m",
            "model_version": "1",
            "id": "the client's",
            "outputs": [{ "name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 3.0] }],
        })
    );
    assert_eq!(seen[2].0, attributes(&wrong, "request", "invalid_input"));
    assert_eq!(seen[3].0["ce-type"], "org.kubeflow.serving.inference.response");
    let error = seen[3].1["error"].as_str().unwrap();
    assert!(error.contains('x'), "{error}");
}
