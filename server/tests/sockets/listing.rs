//! Lists of releases, page by page: over HTTP, over gRPC and from the command line.

use crossfade_proto::admin as wire;
use crossfade_proto::admin::rollouts_client::RolloutsClient;
use serde_json::{Value, json};
use tonic::Code;

use crate::commands::{command, done, fails};
use crate::harness::{Answer, Repository, Server, exchange};
use crate::release::{rules, version_file};

const OF_M: &str = "/crossfade/v1/models/m/rollouts";

async fn ask(server: &Server, line: &str, body: &Value) -> Answer {
    let line = format!("{line} HTTP/1.1");
    exchange(server.app.admin, &line, &[], body.to_string().as_bytes()).await
}

/// Versions and ids of a list.
fn told(answer: &Value) -> (Vec<u64>, Vec<String>) {
    let rollouts = answer["rollouts"].as_array().unwrap();
    let version = |release: &Value| release["version"].as_u64().unwrap();
    let id = |release: &Value| release["id"].as_str().unwrap().to_owned();
    (
        rollouts.iter().map(version).collect(),
        rollouts.iter().map(id).collect(),
    )
}

/// A server whose model `m` has had three releases, each of which ended the one before.
async fn with_three_releases() -> Server {
    let rules = rules(0.2, "on_new_version = 'hold'");
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules);
    let server = Server::start_with(repository, |config| config.release_looks = None).await;
    server.wait_ready().await;
    for version in 2..=4 {
        server
            .repository
            .add("m", version, &version_file(version), &rules);
        let body = json!({ "version": version, "supersede": version > 2 });
        let created = ask(&server, &format!("POST {OF_M}"), &body).await;
        assert_eq!(created.status, 201, "{created:?}");
        while server.state() != "canary" {
            tokio::task::yield_now().await;
        }
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_told_newest_first_and_page_by_page_over_both_protocols() {
    let server = with_three_releases().await;
    let get = async |path: &str| ask(&server, &format!("GET {path}"), &json!({})).await;
    let all = get(OF_M).await.json();
    let (versions, ids) = told(&all);
    assert_eq!((versions, &all["next"]), (vec![4, 3, 2], &Value::Null));
    let first = get(&format!("{OF_M}?limit=2")).await.json();
    assert_eq!(told(&first).0, [4, 3]);
    assert_eq!(first["next"], json!(ids[1]));
    let second = get(&format!("{OF_M}?limit=2&before={}", ids[1])).await.json();
    assert_eq!((told(&second).0, &second["next"]), (vec![2], &Value::Null));
    let none = get(&format!("{OF_M}?before={}", ids[2])).await.json();
    assert_eq!((told(&none).0, &none["next"]), (vec![], &Value::Null));
    let latest = get("/crossfade/v1/rollouts").await.json();
    assert_eq!(told(&latest).0, [4]);
    for (path, status) in [
        (format!("{OF_M}?limit=0"), 400),
        (format!("{OF_M}?limit=x"), 400),
        (format!("{OF_M}?before="), 400),
        (format!("{OF_M}?after=1"), 400),
        (format!("{OF_M}?before=r9"), 404),
        ("/crossfade/v1/rollouts?limit=1".to_owned(), 400),
        ("/crossfade/v1/models/other/rollouts".to_owned(), 404),
    ] {
        let refused = get(&path).await;
        assert_eq!(refused.status, status, "{path}: {refused:?}");
    }

    let mut grpc = RolloutsClient::connect(format!("http://{}", server.app.admin))
        .await
        .unwrap();
    let asked = |model: &str, limit: u64, before: &str| wire::ListRequest {
        model: model.to_owned(),
        limit,
        before: before.to_owned(),
    };
    let page = grpc.list(asked("m", 2, "")).await.unwrap().into_inner();
    let versions: Vec<u64> = page.rollouts.iter().map(|release| release.version).collect();
    assert_eq!((versions, page.next.as_str()), (vec![4, 3], ids[1].as_str()));
    let page = grpc.list(asked("m", 2, &page.next)).await.unwrap().into_inner();
    assert_eq!((page.rollouts.len(), page.next.as_str()), (1, ""));
    let latest = grpc.list(asked("", 0, "")).await.unwrap().into_inner();
    assert_eq!((latest.rollouts.len(), latest.rollouts[0].version), (1, 4));
    let refused = grpc.list(asked("", 2, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = grpc.list(asked("m", 0, "r9")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_the_latest_release_and_earlier_ones_by_id() {
    let server = with_three_releases().await;
    let at = server.app.admin;
    let all: Value = serde_json::from_str(&done(at, "rollout status m --json").await).unwrap();
    let (versions, ids) = told(&json!({ "rollouts": all }));
    assert_eq!(versions, [4, 3, 2]);
    let latest = done(at, "rollout status").await;
    assert!(
        latest.contains("m  version 4") && !latest.contains("version 3"),
        "{latest}"
    );
    let earlier = done(at, &format!("rollout status {}", ids[2])).await;
    assert!(earlier.contains("m  version 2"), "{earlier}");
    let one = done(at, &format!("rollout status {} --json", ids[1])).await;
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(
        (one.as_array().unwrap().len(), &one[0]["version"]),
        (1, &json!(3))
    );
    assert_eq!(done(at, "rollout status other --json").await, "[]\n");
    let ended = fails(command(at, &format!("rollout abort {}", ids[2])), 1).await;
    assert!(ended.contains("has ended"), "{ended}");
    server.stop().await;
}
