//! What releases must not be fooled by: versions that hang, files that go, calls that come at a bad time.

use std::collections::BTreeSet;

use crossfade_models::{Conductor, Found};
use crossfade_runtimes_fake::Gate;

use super::*;

fn caller(roles: &[Role]) -> Caller {
    Caller {
        actor: "ann".into(),
        roles: roles.to_vec(),
    }
}

/// A server with version 1 of `m` live, under these rules.
async fn live(rules: &str, data: &Path) -> Arc<Server> {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), rules);
    Arc::new(serving(repository, data).await)
}

/// A model that refuses what it was given has failed: the signature had let it through.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_refuses_what_fits_the_signature_is_sent_back() {
    let file = format!("{}refuse_on 13\n", version_file(2));
    sent_back(&file, "check", 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_hangs_is_sent_back() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    let hangs = format!("{}delay_ms 3000\n", version_file(2));
    server.arrive(2, &hangs, &rules).await;
    assert_eq!(server.state(), "canary", "{}", server.release());
    let asked = (0..24).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.post("/v2/models/m/infer", INFER).await })
    });
    let asked: Vec<_> = asked.collect();
    let series = server
        .app
        .service
        .registry()
        .route("m", "2")
        .unwrap()
        .series()
        .clone();
    while series.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..29 {
        server.look();
        assert_eq!(server.state(), "canary", "{}", server.release());
    }
    (0..3).for_each(|_| server.look());
    assert_eq!(server.state(), "rolling_back", "{}", server.release());
    assert_eq!(server.release()["state"]["reason"], "hard_trigger");
    for answer in asked {
        answer.await.unwrap();
    }
    server.look();
    assert_eq!(server.state(), "rolled_back");
    stopped(server).await;
}

/// Whether a run ever ends is not known: whoever waits for it waits, and nobody else comes to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_hangs_for_good_keeps_nobody_but_who_has_asked_it() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    let gate = Gate::closed();
    gate.open();
    server.fake.hold_runs(gate.clone());
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary", "{}", server.release());
    gate.close();
    let mut asked = Vec::new();
    for _ in 0..12 {
        let http = server.clone();
        asked.push(tokio::spawn(async move {
            let answer = http.post("/v2/models/m/infer", INFER).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.headers["x-model-version"].clone()
        }));
        let mut grpc = server.grpc().await;
        asked.push(tokio::spawn(async move {
            let answer = grpc.model_infer(message()).await.unwrap();
            answer.into_inner().model_version
        }));
    }
    let candidate = server.app.service.registry().route("m", "2").unwrap();
    let series = candidate.series().clone();
    drop(candidate);
    while series.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..32 {
        server.look();
    }
    let release = server.release();
    assert_eq!(
        release["state"],
        json!({ "state": "rolling_back", "reason": "hard_trigger", "restore": false }),
        "{release}"
    );
    assert_eq!(
        release["report"]["verdict"],
        json!({ "fail": { "hard_trigger": "hang" } }),
        "{release}"
    );
    // From here on the live version answers everyone, on both protocols.
    let clients = Clients::start(&server);
    clients.seen.gone.store(2, SeqCst);
    clients.some_answers().await;
    clients.some_answers().await;
    server.look();
    assert_eq!(
        server.state(),
        "rolling_back",
        "its last requests are not answered yet"
    );
    assert_eq!(clients.stop().await, 0);
    // Those that had asked it are answered as soon as it is.
    gate.open();
    let mut versions = Vec::new();
    for answer in asked {
        versions.push(answer.await.unwrap());
    }
    assert!(versions.contains(&"1".to_owned()) && versions.contains(&"2".to_owned()));
    server.look();
    assert_eq!(server.state(), "rolled_back");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_file_is_refused_beside_the_live_version() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    let clients = Clients::start(&server);
    clients.seen.gone.store(2, SeqCst);
    clients.some_answers().await;
    // The first half of what was meant.
    let file = version_file(2);
    server.repository.add("m", 2, &file[..file.len() / 2], &rules);
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 500, "{loaded:?}");
    let release = server.release();
    assert_eq!(
        release["state"],
        json!({ "state": "failed", "reason": "load" }),
        "{release}"
    );
    let why = release["why"].as_str().unwrap();
    assert!(
        why.contains("it does not load: ") && why.contains("line 2"),
        "{why}"
    );
    clients.some_answers().await;
    assert_eq!(clients.stop().await, 0);
    stopped(server).await;
}

/// Requests that clients got wrong, or gave up, say nothing about a version.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_version_answered_does_not_count() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    server.arrive(2, &version_file(2), &rules).await;
    for _ in 0..60 {
        let wrong = server.post("/v2/models/m/infer", r#"{"inputs":[]}"#).await;
        assert_eq!(wrong.status, 400);
    }
    server.look();
    let requests = server.release()["report"]["requests"].clone();
    assert_eq!(requests, json!({ "canary": 0, "control": 0 }));
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_a_load_call_do_not_pass_by_the_rules() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    let file = "aW5wdXQgeCBGUDMyIC0xLDIKb3V0cHV0IHkgRlAzMiAtMSwyCm9wIGFkZCA5Cg==";
    let body = json!({ "parameters": {
        "config": json!({ "backend": "fake", "input": [{ "name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2] }],
            "output": [{ "name": "y", "data_type": "TYPE_FP32", "dims": [-1, 2] }] }).to_string(),
        "file:9/model.fake": file,
    } });
    let refused = server
        .post("/v2/repository/models/m/load", body.to_string())
        .await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.error().contains("released"), "{refused:?}");
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_version_whose_files_are_gone_serves_on_and_nothing_untried_takes_its_place() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    server.arrive(2, &version_file(2), &rules).await;
    assert_eq!(server.state(), "canary");
    std::fs::remove_dir_all(server.repository.path().join("m/1")).unwrap();
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_ne!(loaded.status, 200, "{loaded:?}");
    assert!(loaded.error().contains("version 1"), "{loaded:?}");
    for _ in 0..40 {
        let answer = server.post("/v2/models/m/infer", INFER).await;
        assert_eq!(answer.json()["model_version"], "1", "{}", server.release());
    }
    server.look();
    assert_eq!(server.state(), "rolled_back");
    stopped(server).await;
}

/// The disk was listed, and only then the version came and its release began.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_from_before_a_candidate_came_does_not_end_its_release() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    server.arrive(2, &version_file(2), &rules).await;
    let directory = server.repository.path().join("m");
    let text = std::fs::read_to_string(directory.join("model.toml")).unwrap();
    let config = crossfade_models::config::toml::read(&text).unwrap();
    let releases = server.app.service.releases();
    let list = || {
        let found = Found {
            model: "m",
            policy: &config.policy().unwrap(),
            config: &config,
            directory: &directory,
            on_disk: &BTreeSet::from([1]),
            chosen: &[1],
            called: false,
            caller: None,
        };
        let planned = Conductor::plan(&**releases, &found).unwrap().unwrap().versions;
        Conductor::settled(&**releases, "m", &BTreeSet::from([1, 2]));
        planned
    };
    assert_eq!(list(), [1]);
    assert_eq!(server.state(), "canary");
    std::fs::remove_dir_all(directory.join("2")).unwrap();
    list();
    assert_eq!(
        server.release()["why"],
        "its files are gone, or are not those that were released"
    );
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_below_the_live_one_does_not_arrive_by_itself() {
    let data = tempfile::tempdir().unwrap();
    let rules = format!("{}[versions]\nall = true\n", rules(0.2, ""));
    let server = live(&rules, data.path()).await;
    let clients = Clients::start(&server);
    server.repository.add("m", 2, &version_file(2), &rules);
    server.arrive(3, &version_file(3), &rules).await;
    assert_eq!(server.release()["version"], 3);
    let id = server.release()["id"].as_str().unwrap().to_owned();
    let promote = ReleaseAction::Promote;
    server
        .app
        .service
        .releases()
        .act(
            &caller(&[Role::Promote]),
            "m",
            &id,
            promote,
            Some("seen enough"),
            &|| Ok(()),
        )
        .unwrap();
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert_eq!(
        (server.release()["version"].clone(), server.state()),
        (json!(3), "live".to_owned())
    );
    clients.stop().await;
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn superseding_while_baking_goes_back_to_the_version_before() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "bake = '1h'");
    let server = live(&rules, data.path()).await;
    server.arrive(2, &version_file(2), &rules).await;
    let id = server.release()["id"].as_str().unwrap().to_owned();
    let releases = server.app.service.releases();
    let all = caller(&[Role::Deploy, Role::Promote]);
    releases
        .act(
            &all,
            "m",
            &id,
            ReleaseAction::Promote,
            Some("seen enough"),
            &|| Ok(()),
        )
        .unwrap();
    assert_eq!(server.state(), "baking");
    server.repository.add("m", 3, &version_file(3), &rules);
    let scanned = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(scanned.status, 400, "one release at a time: {scanned:?}");
    let supersede = |version| CreateRelease {
        version,
        supersede: true,
        reason: None,
    };
    let live = releases.create(&all, "m", supersede(1), &|| Ok(())).unwrap_err();
    assert!(matches!(live, ControlError::Conflict(_)), "{live}");
    let created = releases.create(&all, "m", supersede(3), &|| Ok(())).unwrap();
    assert_eq!((&created["champion"], &created["live"]), (&json!(1), &json!(1)));
    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.json()["model_version"], "1");
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_model_stays_unloaded_whatever_becomes_of_its_release() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(0.2, "");
    let server = live(&rules, data.path()).await;
    server.arrive(2, &version_file(2), &rules).await;
    let id = server.release()["id"].as_str().unwrap().to_owned();
    let unloaded = server.post("/v2/repository/models/m/unload", "").await;
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
    server.look();
    assert_eq!(server.state(), "canary", "it waits");
    let releases = server.app.service.releases();
    let abort = ReleaseAction::Abort;
    releases
        .act(&caller(&[Role::Rollback]), "m", &id, abort, None, &|| Ok(()))
        .unwrap();
    server.look();
    assert_eq!(server.state(), "rolled_back");
    // A load that nobody asked for would stand in the queue before this one, and would have been done by then.
    let other = server.post("/v2/repository/models/none/load", "").await;
    assert_eq!(other.status, 404, "{other:?}");
    assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 404);
    stopped(server).await;
}
