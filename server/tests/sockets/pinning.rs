//! Files that change under a version's number: refused where digests are pinned, loaded and written down elsewhere.

use std::path::Path;
use std::time::Duration;

use crossfade_server::config::ControlMode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Repository, Server, exchange};

const INFER: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;

/// `y = x + add`.
fn file(add: u64) -> String {
    format!("input x FP32 -1,2\noutput y FP32 -1,2\nop add {add}\n")
}

/// Rules whose versions wait for someone, and whose digests are pinned or recorded.
fn rules(signature: &str) -> String {
    format!(
        "risk = 'low'\n[gates]\nsignature = '{signature}'\n[gates.golden]\nenabled = false\n[rollout]\n\
         on_new_version = 'hold'\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n"
    )
}

async fn serving(repository: Repository, data: &Path, mode: ControlMode) -> Server {
    let data = data.to_owned();
    Server::start_with(repository, |config| {
        config.data_dir = data;
        config.release_looks = None;
        config.repository.mode = mode;
        config.repository.poll = Duration::from_secs(86_400);
        if mode != ControlMode::Explicit {
            config.repository.load_models.clear();
        }
    })
    .await
}

/// What version `version` adds to 1.
async fn adds(server: &Server, version: u64) -> Value {
    let answer = server
        .post(&format!("/v2/models/m/versions/{version}/infer"), INFER)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["outputs"][0]["data"][0].clone()
}

async fn ask(server: &Server, line: &str, body: &Value) -> (u16, Value) {
    let line = format!("{line} HTTP/1.1");
    let answer = exchange(server.app.admin, &line, &[], body.to_string().as_bytes()).await;
    (answer.status, answer.json())
}

async fn stopped(server: Server) -> Repository {
    assert!(
        server
            .app
            .stop(Duration::from_secs(60), std::future::pending())
            .await
    );
    server.repository
}

const LOAD: &str = "/v2/repository/models/m/load";

#[tokio::test(flavor = "multi_thread")]
async fn pinned_files_that_change_are_refused_and_what_is_loaded_serves() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &file(1), &rules("pinned"));
    let server = serving(repository, data.path(), ControlMode::Explicit).await;
    server.wait_ready().await;
    server.repository.add("m", 1, &file(20), &rules("pinned"));
    let refused = server.post(LOAD, "").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.error().contains("pinned"), "{refused:?}");
    assert_eq!(adds(&server, 1).await, 2.0);
    let repository = stopped(server).await;

    // After a restart nothing is loaded that is not what was seen.
    let server = serving(repository, data.path(), ControlMode::Explicit).await;
    let refused = server.post(LOAD, "").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert_eq!(server.get("/v2/models/m/ready").await.status, 503);
    server.repository.add("m", 1, &file(1), &rules("pinned"));
    assert_eq!(server.post(LOAD, "").await.status, 200);
    assert_eq!(adds(&server, 1).await, 2.0);

    // A version that waits was seen too; releasing other files under its number takes a role and a reason.
    server.repository.add("m", 2, &file(2), &rules("pinned"));
    assert_eq!(server.post(LOAD, "").await.status, 200);
    server.repository.add("m", 2, &file(30), &rules("pinned"));
    let all = "POST /crossfade/v1/models/m/rollouts";
    let (status, error) = ask(&server, all, &json!({ "version": 2 })).await;
    assert_eq!(status, 409, "{error}");
    let (status, error) = ask(&server, all, &json!({ "version": 2, "reason": "a typing error" })).await;
    assert_eq!(status, 201, "{error}");
    let id = error["id"].as_str().unwrap().to_owned();
    let get = format!("GET /crossfade/v1/models/m/rollouts/{id}");
    while ask(&server, &get, &json!({})).await.1["state"]["state"] != "canary" {
        tokio::task::yield_now().await;
    }
    assert_eq!(adds(&server, 2).await, 31.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_leaves_pinned_files_and_takes_up_others() {
    for (signature, expected) in [("pinned", 2.0), ("recorded", 21.0)] {
        let data = tempfile::tempdir().unwrap();
        let repository = Repository::new();
        repository.add("m", 1, &file(1), &rules(signature));
        let server = serving(repository, data.path(), ControlMode::Poll).await;
        server.wait_ready().await;
        assert_eq!(adds(&server, 1).await, 2.0);
        server.repository.add("m", 1, &file(20), &rules(signature));
        // A change counts when two scans in a row agree; once the second is through, so is what follows.
        (0..2).for_each(|_| server.app.service.registry().poll_once());
        server.repository.add("other", 1, &file(1), "");
        (0..2).for_each(|_| server.app.service.registry().poll_once());
        while server.get("/v2/models/other/ready").await.status != 200 {
            tokio::task::yield_now().await;
        }
        while expected != 2.0 && adds(&server, 1).await != expected {
            tokio::task::yield_now().await;
        }
        assert_eq!(adds(&server, 1).await, expected, "{signature}");
        server.stop().await;
    }
}

/// A release of files that are loaded again goes on with the digest that they have now.
#[tokio::test(flavor = "multi_thread")]
async fn recorded_files_that_change_are_loaded_and_their_digest_written_down() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &file(1), &rules("recorded"));
    let server = serving(repository, data.path(), ControlMode::Explicit).await;
    server.wait_ready().await;
    server.repository.add("m", 2, &file(2), &rules("recorded"));
    assert_eq!(server.post(LOAD, "").await.status, 200);
    let all = "/crossfade/v1/models/m/rollouts";
    let (status, created) = ask(&server, &format!("POST {all}"), &json!({ "version": 2 })).await;
    assert_eq!(status, 201, "{created}");
    let get = format!("GET {all}/{}", created["id"].as_str().unwrap());
    let mut before = created;
    while before["state"]["state"] != "canary" {
        before = ask(&server, &get, &json!({})).await.1;
    }
    for version in [1, 2] {
        server
            .repository
            .add("m", version, &file(40 + version), &rules("recorded"));
    }
    assert_eq!(server.post(LOAD, "").await.status, 200);
    // What the candidate had shown was of other files.
    let after = ask(&server, &get, &json!({})).await.1;
    assert_eq!(after["state"]["reason"], "aborted", "{after}");
    let why = after["why"].as_str().unwrap();
    assert!(
        why.contains("its files have changed since its release began"),
        "{why}"
    );
    assert_eq!(
        adds(&server, 1).await,
        json!(42.0),
        "the live version is what lies there now"
    );
    assert_ne!(after["champion_sha256"], before["champion_sha256"]);
    assert_eq!(after["champion_sha256"].as_str().unwrap().len(), 64, "{after}");
    let config = server.get("/v2/models/m/versions/1/config").await.json();
    let shown = &config["parameters"]["crossfade.artifact_sha256"]["string_value"];
    assert_eq!(*shown, after["champion_sha256"]);
    let repository = stopped(server).await;
    let server = serving(repository, data.path(), ControlMode::Explicit).await;
    server.wait_ready().await;
    let again = ask(&server, &get, &json!({})).await.1;
    assert_eq!(again["champion_sha256"], after["champion_sha256"]);
    server.stop().await;
}

/// Who has no policy at all still sees what answers: the files as they were loaded.
#[tokio::test(flavor = "multi_thread")]
async fn every_version_shows_the_digest_of_its_files() {
    let repository = Repository::new();
    repository.add("m", 1, &file(1), "");
    let server = Server::start(repository).await;
    let digest = async || {
        let config = server.get("/v2/models/m/config").await.json();
        let shown = &config["parameters"]["crossfade.artifact_sha256"]["string_value"];
        shown.as_str().unwrap().to_owned()
    };
    let first = digest().await;
    assert_eq!(first.len(), 64);
    let own = Sha256::digest(file(1));
    let own: String = own.iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = format!(
        r#"[{{"path":"model.fake","sha256":"{own}","size":{}}}]"#,
        file(1).len()
    );
    let expected = Sha256::digest(manifest);
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(first, expected);
    server.repository.add("m", 1, &file(2), "");
    assert_eq!(server.post(LOAD, "").await.status, 200);
    assert_ne!(digest().await, first);
    server.stop().await;
}
