//! Copies of requests: what they show, and that no client sees anything of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crossfade_runtimes_fake::{Execution, Gate};
use crossfade_server::admin::{Caller, ReleaseAction, Role};
use serde_json::Value;

use crate::harness::{Repository, Server};
use crate::inference_log::copies_are_records;
use crate::release::{Clients, INFER, message, rules, serving, stopped, version_file};

/// Rules of a model of whose requests all are copied, with at most so many flips in a hundred.
fn shadowed(units: u32, more: &str) -> String {
    format!(
        "{}[rollout.shadow]\npercent = 100\nmin = '0s'\nmin_units = {units}\nmax_flip_rate = 0.2\n{more}",
        rules(0.2, "")
    ) + "[[rollout.check]]\nmetric = 'flips'\ncritical = true\n"
}

/// A server whose version 2, of this file, has reached shadow beside clients that ask.
async fn in_shadow(file: &str, rules: &str) -> (tempfile::TempDir, Arc<Server>, Clients) {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server.arrive(2, file, rules).await;
    assert_eq!(server.state(), "shadow", "{}", server.release());
    (data, server, clients)
}

/// Answers of both protocols are those of version 1.
async fn answers_are_untouched(server: &Server) {
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1", "{answer:?}");
    assert_eq!(answer.json()["outputs"][0]["data"], serde_json::json!([2.0, 3.0]));
    let mut client = server.grpc().await;
    let answer = client.model_infer(message()).await.unwrap().into_inner();
    assert_eq!(answer.model_version, "1");
    let ones: Vec<u8> = [1f32.to_le_bytes(), 1f32.to_le_bytes()].concat();
    assert_eq!(answer.raw_output_contents[0], ones);
}

/// Looks until the release has passed its shadow.
async fn passes(server: &Server, clients: &Clients) {
    for _ in 0..400 {
        clients.some_answers().await;
        server.look();
        if server.state() == "canary" {
            return;
        }
    }
    panic!("it does not pass: {}", server.release());
}

/// A candidate of this file is sent back in shadow, and no client sees any of it. Returns the release.
async fn fails(file: &str, rules: &str, reasons: &[&str]) -> Value {
    let (_data, server, clients) = in_shadow(file, rules).await;
    answers_are_untouched(&server).await;
    clients.until(&server, "rolled_back").await;
    let release = server.release();
    let reason = release["state"]["reason"].as_str().unwrap();
    assert!(reasons.contains(&reason), "{release}");
    assert_eq!(release["report"]["stage"]["stage"], "shadow", "{release}");
    answers_are_untouched(&server).await;
    assert_eq!(clients.stop().await, 0, "no client's request went to it");
    stopped(server).await;
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_answers_alike_passes_and_no_answer_changes() {
    let (data, server, clients) = in_shadow(&version_file(1), &shadowed(60, "tol = 0.1\n")).await;
    answers_are_untouched(&server).await;
    passes(&server, &clients).await;
    let shadow = server.release()["shadow"].clone();
    assert!(shadow["pairs"].as_u64().unwrap() >= 60, "{shadow}");
    assert_eq!(
        (&shadow["flips"], &shadow["max_abs_diff"]),
        (&0.into(), &0.0.into())
    );
    assert_eq!(shadow["percent"], 0.0, "it is over");
    let text = server.scrape().await;
    let count = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(count("crossfade_shadow_pairs_total") >= 60.0);
    assert_eq!(count("crossfade_shadow_flips_total"), 0.0);
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
    copies_are_records(data.path(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_is_sent_back_before_a_client_meets_it() {
    let file = format!("{}fail_on 13\n", version_file(1));
    let release = fails(&file, &shadowed(100_000, "tol = 0.1\n"), &["check"]).await;
    assert!(
        release["shadow"]["candidate_failed"].as_u64().unwrap() >= 5,
        "{release}"
    );
    assert_eq!(release["report"]["verdict"]["fail"]["check"], "errors");
}

/// Whichever comes first: more than half of twenty, or so many on one side only that chance does not explain them.
const SOON: [&str; 2] = ["hard_trigger", "check"];

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_always_fails_is_sent_back_at_once() {
    let file = format!("{}fail run\n", version_file(1));
    fails(&file, &shadowed(100_000, "tol = 0.1\n"), &SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_panics_is_sent_back_in_shadow() {
    let file = format!("{}panic_on 13\n", version_file(1));
    fails(&file, &shadowed(100_000, "tol = 0.1\n"), &["hard_trigger"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_says_no_numbers_is_sent_back_in_shadow() {
    let file = "input x FP32 -1,2\noutput y FP32 -1,2\nop add NaN\n";
    let release = fails(file, &shadowed(100_000, "tol = 0.1\n"), &["hard_trigger"]).await;
    assert!(
        release["shadow"]["not_finite"].as_u64().unwrap() >= 1,
        "{release}"
    );
}

/// No request waits for a copy, no copy waits without bound, and what never answers does not pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_hangs_is_sent_back_in_shadow_and_delays_nobody() {
    let rules = shadowed(5, "tol = 0.1\n");
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let gate = Gate::closed();
    gate.open();
    server.fake.hold_runs(gate.clone());
    server.arrive(2, &version_file(1), &rules).await;
    assert_eq!(server.state(), "shadow", "{}", server.release());
    gate.close();
    let runs = server
        .fake
        .probe(&server.repository.path().join("m/2/model.fake"));
    let copied = || runs.history().iter().filter(|run| is_on(run, "apart")).count();
    let clients = Clients::start(&server);
    while copied() == 0 {
        clients.some_answers().await;
    }
    // More requests than copies have room; every one is answered while the candidate says nothing.
    for _ in 0..12 {
        clients.some_answers().await;
    }
    answers_are_untouched(&server).await;
    for _ in 0..29 {
        server.look();
        assert_eq!(server.state(), "shadow", "{}", server.release());
    }
    // A little more where a request of the live version was slow itself.
    for _ in 0..400 {
        if server.state() == "shadow" {
            server.look();
        }
    }
    let release = server.release();
    assert_eq!(release["state"]["reason"], "hard_trigger", "{release}");
    assert_eq!(
        release["report"]["verdict"]["fail"]["hard_trigger"], "hang",
        "{release}"
    );
    let shadow = &release["shadow"];
    assert_eq!(shadow["pairs"], 0, "{release}");
    assert!(shadow["dropped"].as_u64().unwrap() >= 1, "{release}");
    assert_eq!(copied(), 1, "nothing else was put to it");
    clients.some_answers().await;
    answers_are_untouched(&server).await;
    server.look();
    assert_eq!(server.state(), "rolling_back", "its run has not ended");
    gate.open();
    clients.until(&server, "rolled_back").await;
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_with_other_inputs_is_sent_back_in_shadow() {
    let file = "input x FP32 -1,3\noutput y FP32 -1,3\nop add 1\n";
    fails(file, &shadowed(100_000, "tol = 0.1\n"), &SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_decides_otherwise_is_sent_back_in_shadow() {
    let release = fails(&version_file(2), &shadowed(100_000, "tol = 0.1\n"), &["check"]).await;
    assert_eq!(release["report"]["verdict"]["fail"]["check"], "flips");
    let shadow = &release["shadow"];
    assert_eq!(shadow["flips"], shadow["pairs"], "{release}");
    assert_eq!(
        (&shadow["max_abs_diff"], &shadow["mean_abs_diff"]),
        (&1.0.into(), &1.0.into())
    );
    assert_eq!(shadow["worst_request"].as_str().unwrap().len(), 36, "{release}");
    // The numbers differ and the decision does not.
    let rule = "[decision]\noutput = 'y'\nkind = 'threshold'\nthreshold = 8\n";
    let (_data, server, clients) = in_shadow(&version_file(2), &shadowed(60, rule)).await;
    passes(&server, &clients).await;
    assert_eq!(server.release()["shadow"]["max_abs_diff"], 1.0);
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
    // A decision that differs is named by its labels: of what clients ask with, 13 alone gets there.
    let rule = "[decision]\noutput = 'y'\nkind = 'threshold'\nthreshold = 14.5\nlabels = ['ok', 'fraud']\n";
    let release = fails(
        &version_file(2),
        &shadowed(100_000, rule).replace("0.2\n[dec", "0.01\n[dec"),
        &["check"],
    )
    .await;
    let decisions = release["shadow"]["decisions"].as_array().unwrap();
    assert_eq!(decisions.len(), 1, "{release}");
    assert_eq!(
        (&decisions[0]["live"], &decisions[0]["candidate"]),
        (&"ok".into(), &"fraud".into())
    );
}

/// What chance does not divide is not copied.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_name_a_version_are_not_copied() {
    let rules = shadowed(100_000, "tol = 0.1\n");
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    server.arrive(2, &version_file(1), &rules).await;
    for version in ["1", "2"] {
        let path = format!("/v2/models/m/versions/{version}/infer");
        for _ in 0..20 {
            assert_eq!(server.post(&path, INFER).await.json()["model_version"], version);
        }
    }
    let runs = || server.release()["shadow"]["pairs"].as_u64().unwrap();
    server.post("/v2/models/m/infer", INFER).await;
    while runs() == 0 {
        // No time passes: one that answers nothing for long would be sent back.
        server.app.service.releases().look(Duration::ZERO);
        tokio::task::yield_now().await;
    }
    assert_eq!(runs(), 1, "the one that named none");
    stopped(server).await;
}

/// While the live version is busy nothing is run: copies wait, and those that do not fit are dropped and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_and_counts_while_the_live_version_is_busy() {
    let rules = shadowed(100_000, "tol = 0.1\n");
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    // Its runs take longer than those of the clients are apart.
    repository.add("m", 1, &format!("{}delay_ms 1\n", version_file(1)), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server.arrive(2, &version_file(1), &rules).await;
    let dropped = || server.release()["shadow"]["dropped"].as_u64().unwrap();
    while dropped() == 0 {
        clients.some_answers().await;
        server.look();
    }
    assert_eq!(server.state(), "shadow");
    let text = server.scrape().await;
    assert!(
        !text.contains("crossfade_shadow_dropped_total{model=\"m\"} 0"),
        "{text}"
    );
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_sent_back_and_a_server_ends_in_the_middle_of_shadow() {
    let (data, server, clients) = in_shadow(&version_file(1), &shadowed(100_000, "tol = 0.1\n")).await;
    clients.some_answers().await;
    server.look();
    // Paused it goes on being compared; only hard triggers count.
    let id = server.release()["id"].as_str().unwrap().to_owned();
    let caller = Caller {
        actor: "ann".into(),
        roles: vec![Role::Deploy, Role::Rollback],
    };
    let releases = server.app.service.releases().clone();
    let act = |action| {
        releases
            .act(&caller, "m", &id, action, Some("a try"), &|| Ok(()))
            .unwrap()
    };
    act(ReleaseAction::Pause);
    clients.some_answers().await;
    server.look();
    assert_eq!(server.state(), "paused");
    act(ReleaseAction::Resume);
    assert_eq!(server.state(), "shadow");
    assert_eq!(clients.stop().await, 0);
    drop(releases);

    // The server ends with copies under way, and the next one goes on with the same release and its counts.
    let units = server.release()["report"]["units"].clone();
    let repository = stopped(server).await;
    let server = Arc::new(serving(repository, data.path()).await);
    assert_eq!(
        (server.state().as_str(), &server.release()["id"]),
        ("shadow", &id.clone().into())
    );
    let clients = Clients::start(&server);
    clients.some_answers().await;
    server.look();
    assert!(server.release()["report"]["units"].as_u64() >= units.as_u64());

    // Sent back by hand while copies run.
    let releases = server.app.service.releases().clone();
    releases
        .rollback(&caller, "m", None, "a try", &|| Ok(()))
        .unwrap();
    clients.seen.gone.store(2, SeqCst);
    clients.until(&server, "rolled_back").await;
    answers_are_untouched(&server).await;
    assert_eq!(clients.stop().await, 0);
    drop(releases);
    stopped(server).await;
}

/// Whether a run was on a thread of such a name.
pub(crate) fn is_on(run: &Execution, thread: &str) -> bool {
    run.thread.as_deref().is_some_and(|name| name.contains(thread))
}

/// Copies run on an instance that requests do not use, on a thread of its own.
#[tokio::test(flavor = "multi_thread")]
async fn copies_have_an_instance_of_their_own() {
    let (_data, server, clients) = in_shadow(&version_file(1), &shadowed(30, "tol = 0.1\n")).await;
    passes(&server, &clients).await;
    assert_eq!(clients.stop().await, 0);
    let pinned = server.post("/v2/models/m/versions/2/infer", INFER).await;
    assert_eq!(pinned.status, 200, "{pinned:?}");
    let runs = server
        .fake
        .probe(&server.repository.path().join("m/2/model.fake"));
    let history = runs.history();
    let copied: usize = history
        .iter()
        .filter(|run| is_on(run, "apart"))
        .map(|run| run.rows)
        .sum();
    assert!(copied >= 30, "{history:?}");
    assert!(
        history.iter().any(|run| is_on(run, "m/2#")),
        "what a client asks runs elsewhere: {history:?}"
    );
    stopped(server).await;
}
