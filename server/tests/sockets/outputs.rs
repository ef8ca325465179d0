//! The answers of two versions, compared while both serve.

use std::sync::Arc;

use crate::harness::{Repository, Server};
use crate::release::{Clients, INFER, rules, serving, stopped, version_file};

/// Rules of a model whose answers are compared, and which passes a step once a window of them was closed.
fn watched(more: &str) -> String {
    rules(0.2, "")
        .replace("min_units = 50", "min_units = 1500")
        .replace(
            "metric = 'output'\nenabled = false",
            "metric = 'output'\nmax_psi = 0.25\ncritical = true",
        )
        + more
}

/// A release of this file reaches this state; returns the server, with nothing failed.
async fn released(file: &str, rules: &str, state: &str) -> Arc<Server> {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server.arrive(2, file, rules).await;
    clients.until(&server, state).await;
    assert_eq!(clients.stop().await, 0);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_whose_answers_have_shifted_is_sent_back() {
    let server = released(&version_file(2), &watched(""), "rolled_back").await;
    let release = server.release();
    assert_eq!(release["state"]["reason"], "check", "{release}");
    let cause = &release["report"]["verdict"]["fail"]["check"];
    assert_eq!(cause, "output", "{release}");
    let checks = release["report"]["checks"].as_array().unwrap();
    let output = checks.iter().find(|check| check["metric"] == "output").unwrap();
    assert!(output["psi"].as_f64().unwrap() > 0.25, "{release}");
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_with_the_same_answers_passes() {
    let server = released(&version_file(1), &watched(""), "live").await;
    let release = server.release();
    let checks = release["report"]["checks"].as_array().unwrap();
    let output = checks.iter().find(|check| check["metric"] == "output").unwrap();
    assert!(
        output["psi"].as_f64().unwrap() < 0.25 && output["units"].as_u64().unwrap() >= 500,
        "{release}"
    );
    stopped(server).await;
}

/// The numbers have shifted and the decisions have not: what `[decision]` says is compared.
#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_compared_where_there_are_some() {
    let rule = "[decision]\noutput = 'y'\nkind = 'threshold'\nthreshold = 10\n";
    let server = released(&version_file(2), &watched(rule), "live").await;
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_does_not_fit_the_model_stops_the_release_before_any_traffic() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = watched("[decision]\noutput = 'score'\nkind = 'argmax'\n");
    repository.add("m", 1, &version_file(1), &watched(""));
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(2), &rules).await;
    let release = server.release();
    assert_eq!(release["state"]["reason"], "gate", "{release}");
    assert!(
        release["why"].as_str().unwrap().contains("no output `score`"),
        "{release}"
    );
    stopped(server).await;
}

/// The lowest tier, as it is: nothing has to be left out.
#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_tier_releases_without_a_word_more() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = "risk = 'low'\n[gates.golden]\nenabled = false\n";
    repository.add("m", 1, &version_file(1), rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(1), rules).await;
    assert_eq!(server.state(), "canary");
    server.look();
    let checks = server.release()["report"]["checks"].clone();
    let names: Vec<_> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["metric"])
        .collect();
    assert_eq!(names, ["errors", "latency", "output"]);
    stopped(server).await;
}
