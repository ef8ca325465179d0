//! The admin interface over gRPC, on the listener of its HTTP, and the conditions that calls of both may set.

use std::path::Path;

use crossfade_journal::approval::{Approval, Subject};
use crossfade_proto::admin as wire;
use crossfade_proto::admin::rollouts_client::RolloutsClient;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::approval::{ALL, STRICT, approvers, gist, key, records, repository, serving, waiting};
use crate::harness::{Answer, Server, exchange};

async fn client(server: &Server) -> RolloutsClient<Channel> {
    let to = format!("http://{}", server.app.admin);
    RolloutsClient::connect(to).await.unwrap()
}

/// A message with a token and other metadata.
fn by<T>(token: &str, metadata: &[(&'static str, &str)], message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn one(id: &str) -> wire::GetRequest {
    wire::GetRequest {
        model: "m".to_owned(),
        id: id.to_owned(),
    }
}

fn act(id: &str) -> wire::ActRequest {
    wire::ActRequest {
        model: "m".to_owned(),
        id: id.to_owned(),
        reason: None,
    }
}

fn create() -> wire::CreateRequest {
    wire::CreateRequest {
        model: "m".to_owned(),
        version: 2,
        supersede: false,
        reason: None,
    }
}

/// An approval of what a release shows, by the owner of a key.
fn approval(shown: &wire::Rollout, seed: u8) -> wire::ApproveRequest {
    let subject = shown.subject.clone().unwrap();
    let signed = Subject {
        release_id: subject.release_id.clone(),
        before: subject.before.clone(),
        artifact_sha256: subject.artifact_sha256.parse().unwrap(),
        report_sha256: subject.report_sha256.parse().unwrap(),
        config_rev: subject.config_rev.parse().unwrap(),
    };
    let approval = Approval::sign(&signed, &key(seed));
    wire::ApproveRequest {
        model: "m".to_owned(),
        id: shown.id.clone(),
        subject: Some(subject),
        key: Some(approval.key.to_string()),
        signature: Some(approval.signature.to_string()),
        ..wire::ApproveRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_the_same_roles_and_rules_hold_and_each_call_is_one_record() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let before = records(data.path()).len();
    let mut grpc = client(&server).await;
    let shown = grpc.get(by("ci", &[], one(&id))).await.unwrap().into_inner();
    assert_eq!(
        (shown.state.as_str(), shown.missing_approvals),
        ("awaiting_approval", 2)
    );
    let whole: Value = serde_json::from_str(&shown.json).unwrap();
    assert_eq!(whole, server.seen(&id).await, "it is what HTTP answers");
    let mut watched = grpc.watch(by("ci", &[], one(&id))).await.unwrap().into_inner();
    assert_eq!(
        watched.message().await.unwrap().unwrap().state,
        "awaiting_approval"
    );

    let good = |seed| approval(&shown, seed);
    let mut unsigned = good(3);
    unsigned.signature = None;
    let mut broken = good(3);
    broken.key = Some("xyz".to_owned());
    let mut changed = good(3);
    changed.subject.as_mut().unwrap().config_rev = "0".repeat(64);
    let mut late = good(3);
    (late.r#override, late.reason) = (true, Some("late".to_owned()));
    for (token, message, code) in [
        ("nobody", good(3), Code::Unauthenticated),
        ("ci", good(3), Code::PermissionDenied),
        ("bob", unsigned, Code::PermissionDenied),
        ("bob", broken, Code::InvalidArgument),
        ("bob", changed, Code::FailedPrecondition),
        ("bob", good(1), Code::PermissionDenied),
        ("bob", good(2), Code::PermissionDenied),
        ("bob", late, Code::PermissionDenied),
    ] {
        let refused = grpc.approve(by(token, &[], message)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{token}: {refused}");
    }
    let first = grpc.approve(by("bob", &[], good(3))).await.unwrap().into_inner();
    assert_eq!(first.missing_approvals, 1);
    let second = grpc.approve(by("ann", &[], good(4))).await.unwrap().into_inner();
    assert_eq!((second.state.as_str(), second.percent), ("canary", 50.0));

    let again = grpc.create(by("ann", &[], create())).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    assert_eq!(
        grpc.pause(by("ann", &[], act(&id)))
            .await
            .unwrap()
            .into_inner()
            .state,
        "paused"
    );
    assert_eq!(
        grpc.resume(by("ann", &[], act(&id)))
            .await
            .unwrap()
            .into_inner()
            .state,
        "canary"
    );
    let refused = grpc.promote(by("ann", &[], act(&id))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let because = wire::ActRequest {
        reason: Some("seen enough".to_owned()),
        ..act(&id)
    };
    assert_eq!(
        grpc.promote(by("ops", &[], because))
            .await
            .unwrap()
            .into_inner()
            .state,
        "live"
    );
    let over = grpc.abort(by("ops", &[], act(&id))).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition, "{over}");
    let back = wire::RollbackRequest {
        model: "m".to_owned(),
        to: None,
        reason: "worse".to_owned(),
    };
    assert_eq!(
        grpc.rollback(by("ops", &[], back))
            .await
            .unwrap()
            .into_inner()
            .live,
        1
    );

    // The stream tells of what it saw, and ends with the release.
    let mut last = String::new();
    while let Some(state) = watched.message().await.unwrap() {
        last = state.state;
    }
    assert_eq!(last, "live");
    let all = grpc
        .list(by("ci", &[], wire::ListRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.rollouts.len(), 1);
    let unknown = grpc.get(by("ci", &[], one("r9"))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let recorded = records(data.path());
    let gists: Vec<String> = recorded[before..].iter().map(gist).collect();
    let mut expected = vec!["release.approve refused"; 7];
    expected.push("release.override refused");
    expected.extend(["release.approve accepted"; 2]);
    expected.extend([
        "release.create refused",
        "release.pause accepted",
        "release.resume accepted",
    ]);
    expected.extend([
        "release.promote refused",
        "release.promote accepted",
        "release.abort refused",
    ]);
    assert_eq!(gists, expected);
    let asked = wire::ListAuditRequest { since: 0, limit: 0 };
    let listed = grpc.list_audit(by("ci", &[], asked)).await.unwrap().into_inner();
    let last: Value = serde_json::from_str(listed.records.last().unwrap()).unwrap();
    assert_eq!(
        (&last["action"], &last["actor"]),
        (&json!("release.restored"), &json!("ops"))
    );
    assert_eq!(
        listed.head,
        format!("{}:{}", last["seq"], last["hash"].as_str().unwrap())
    );
    let refused = grpc.list_audit(Request::new(asked)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.stop().await;
}

/// A call over HTTP by ann, with one header more.
async fn create_with(server: &Server, header: (&str, &str), body: &Value) -> Answer {
    let headers = [("authorization", "Bearer ann"), header];
    let line = format!("POST {ALL} HTTP/1.1");
    exchange(server.app.admin, &line, &headers, body.to_string().as_bytes()).await
}

fn created(data: &Path) -> usize {
    let all = records(data);
    all.iter()
        .filter(|record| gist(record) == "release.create accepted")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_key_is_carried_out_once_however_often_it_comes() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let aborted = server
        .tell("ops", format!("POST {ALL}/{id}:abort"), &json!({}))
        .await;
    assert_eq!(aborted.status, 200, "{aborted:?}");
    let body = json!({ "version": 2 });
    let before = created(data.path());
    let first = create_with(&server, ("idempotency-key", "k1"), &body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = create_with(&server, ("idempotency-key", "k1"), &body).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    // Over the other protocol it is the same call.
    let mut grpc = client(&server).await;
    let same = grpc
        .create(by("ann", &[("idempotency-key", "k1")], create()))
        .await
        .unwrap();
    assert_eq!(same.into_inner().id, first.json()["id"].as_str().unwrap());
    assert_eq!(created(data.path()), before + 1);

    let other = create_with(&server, ("idempotency-key", "k1"), &json!({ "version": 3 })).await;
    assert_eq!(other.status, 409, "{other:?}");
    // Someone else's key is another one, and so is the call: the release is active.
    let theirs = grpc
        .create(by("ci", &[("idempotency-key", "k1")], create()))
        .await
        .unwrap_err();
    assert_eq!(theirs.code(), Code::FailedPrecondition, "{theirs}");
    let long = create_with(&server, ("idempotency-key", &"k".repeat(256)), &body).await;
    assert_eq!(long.status, 400, "{long:?}");
    let refused = records(data.path())
        .iter()
        .rev()
        .take(3)
        .map(gist)
        .collect::<Vec<_>>();
    assert_eq!(refused, ["release.create refused"; 3]);

    let repository = server.stopped().await;
    let server = serving(repository, data.path(), approvers()).await;
    let again = create_with(&server, ("idempotency-key", "k1"), &body).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_carried_out_only_under_the_configuration_that_it_names() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let rev = server.seen(&id).await["config_rev"].as_str().unwrap().to_owned();
    let health = server
        .tell("ci", "GET /crossfade/v1/health".to_owned(), &json!({}))
        .await
        .json();
    let server_rev = health["config_rev"].as_str().unwrap().to_owned();
    assert_ne!(rev, server_rev);
    let before = records(data.path()).len();
    let supersede = json!({ "version": 2, "supersede": true });
    for stale in ["0", &server_rev, &"0".repeat(64)] {
        let refused = create_with(&server, ("if-match", stale), &supersede).await;
        assert_eq!(refused.status, 412, "{stale}: {refused:?}");
    }
    let mut grpc = client(&server).await;
    let refused = grpc
        .abort(by("ops", &[("if-match", &server_rev)], act(&id)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let gists: Vec<String> = records(data.path())[before..].iter().map(gist).collect();
    let create = "release.create refused";
    assert_eq!(gists, [create, create, create, "release.abort refused"]);
    assert_eq!(server.seen(&id).await["state"]["state"], "awaiting_approval");
    let quoted = format!("\"{rev}\"");
    let held = grpc
        .abort(by("ops", &[("if-match", &quoted)], act(&id)))
        .await
        .unwrap();
    assert_eq!(held.into_inner().state, "failed");

    // Calls of the protocol take it too: of the server where they are about no model of ours.
    let settings = async |rev: &str| {
        let headers = [("authorization", "Bearer ci"), ("if-match", rev)];
        exchange(server.app.admin, "POST /v2/logging HTTP/1.1", &headers, b"{}")
            .await
            .status
    };
    assert_eq!(settings(&rev).await, 412);
    assert_eq!(settings(&server_rev).await, 200);
    server.stop().await;
}
