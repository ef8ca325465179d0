//! How long a version takes, beside the baseline of the live one.

use std::sync::Arc;
use std::time::Duration;

use crossfade_runtimes_fake::Probe;
use serde_json::Value;

use super::{Clients, INFER, rules, serving, stopped, version_file};
use crate::harness::{Repository, Server, exchange};
use crate::shadow::is_on;

/// Rules of one step at `percent` that watch latency.
fn timed(percent: u32) -> String {
    rules(0.005, "warmup = 50")
        .replace("metric = 'latency'\nenabled = false", "metric = 'latency'")
        .replace("percent = 50", &format!("percent = {percent}"))
}

/// A slow version is found by its batches, although every request is answered: beside the live version, and beside its
/// baseline where most requests go to the live version.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_candidate_is_sent_back() {
    for percent in [50, 20] {
        slow_at(percent).await;
    }
}

async fn slow_at(percent: u32) {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = timed(percent);
    let batched = "batched\ndelay_ms 1\n";
    let file = |version| format!("{}{batched}", version_file(version));
    repository.add("m", 1, &file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server
        .arrive(2, &file(2).replace("delay_ms 1", "delay_ms 20"), &rules)
        .await;
    clients.until(&server, "rolled_back").await;
    assert_eq!(
        server.release()["state"]["reason"],
        "check",
        "{}",
        server.release()
    );
    assert_eq!(clients.stop().await, 0, "at {percent} %");
    // By its batches, before the medians of a thousand requests say anything.
    let release = server.release();
    let checks = release["report"]["checks"].as_array().unwrap();
    let latency = checks.iter().find(|check| check["metric"] == "latency").unwrap();
    assert!(
        latency["log_e"].as_f64() >= latency["fails_at"].as_f64(),
        "{latency}"
    );
    assert_eq!(release["baseline_failure"], Value::Null);
    let (baseline, all) = runs(&server);
    match percent {
        50 => assert_eq!(baseline, 0, "the live version is its own"),
        _ => assert!(baseline > 0 && baseline < all / 2, "{baseline} of {all}"),
    }
    stopped(server).await;
}

/// Runs of the live version on instances of its baseline, and all of them.
fn runs(server: &Server) -> (usize, usize) {
    let path = server.repository.path().join("m/1/model.fake");
    let history = server.fake.probe(&path).history();
    let baseline = history.iter().filter(|run| is_on(run, "m/1 baseline#"));
    (baseline.count(), history.len())
}

/// Chance chooses the requests of a baseline, as it chooses those of the new version; it is gone with the step.
#[tokio::test(flavor = "multi_thread")]
async fn only_requests_that_were_drawn_run_on_the_baseline() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = timed(20);
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    let path = server.repository.path().join("m/1/model.fake");
    let live = server.fake.probe(&path);
    // As many instances as the version has.
    alive(&live, 2).await;
    let ask = async |headers: &[(&str, &str)]| {
        let answer = server
            .post_with("/v2/models/m/infer", headers, INFER.as_bytes())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.headers["x-model-version"].clone()
    };
    // The warm-up of either and the like.
    let before = runs(&server).1;
    for _ in 0..100 {
        assert_eq!(ask(&[("x-model-version", "1")]).await, "1");
    }
    assert_eq!(runs(&server), (0, before + 100));
    let mut live_answers = 0;
    for _ in 0..400 {
        live_answers += usize::from(ask(&[]).await == "1");
    }
    let (baseline, all) = runs(&server);
    assert_eq!(all, before + 100 + live_answers, "each request runs once");
    // A fifth of all, by a binomial of standard deviation 8.
    assert!((40..=120).contains(&baseline), "{baseline} of 400");
    let (id, path) = (server.release()["id"].clone(), "/crossfade/v1/models/m/rollouts");
    let line = format!("POST {path}/{}:abort HTTP/1.1", id.as_str().unwrap());
    let aborted = exchange(server.app.admin, &line, &[], br#"{"reason":"enough"}"#).await;
    assert_eq!(aborted.status, 200, "{aborted:?}");
    alive(&live, 1).await;
    stopped(server).await;
}

/// Waits until a version has so many instances.
async fn alive(version: &Probe, instances: usize) {
    let wait = async {
        while version.instances_alive() != instances {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "{} instances", version.instances_alive());
}

/// A server that ends, or unloads the version, joins the threads of its baseline.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_baseline_when_its_version_goes() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = timed(20);
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    let path = server.repository.path().join("m/1/model.fake");
    let live = server.fake.probe(&path);
    alive(&live, 2).await;
    let unloaded = server.post("/v2/repository/models/m/unload", "").await;
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
    alive(&live, 0).await;
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    // A look finds it without one.
    server.look();
    alive(&live, 2).await;
    stopped(server).await;
    assert_eq!(live.instances_alive(), 0);
}
