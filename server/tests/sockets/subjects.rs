//! What a person may ask of the inference log, end to end: records that are not used, decisions that no model makes, what is put right.

use std::path::Path;

use crossfade_inference_log::{Keys, verify};
use crossfade_server::config::file::RawConfig;
use crossfade_server::config::{Flags, ServerConfig};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::{Answer, Repository, Server, exchange};
use crate::release::{INFER, message, version_file};
use crate::webhook::receiver_that;

/// A server with a sink.
async fn serving(data: &Path, sink: &str) -> Server {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let config = ServerConfig::resolve(Flags::default(), RawConfig::parse(sink).unwrap()).unwrap();
    let server = Server::start_with(repository, |options| {
        options.data_dir = data.to_owned();
        options.sinks = config.sinks;
    });
    let server = server.await;
    server.wait_ready().await;
    server
}

/// Asks by both protocols; the codes, and the id of the answer over HTTP.
async fn ask(server: &Server, subject: &'static str) -> (u16, Code, String) {
    let headers = [("x-subject-id", subject)];
    let answer = server
        .post_with("/v2/models/m/infer", &headers, INFER.as_bytes())
        .await;
    let mut request = Request::new(message());
    request
        .metadata_mut()
        .insert("x-subject-id", subject.parse().unwrap());
    let code = match server.grpc().await.model_infer(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    };
    (answer.status, code, answer.headers["x-request-id"].clone())
}

async fn call(server: &Server, what: &str, body: &Value) -> Answer {
    let line = format!("POST /crossfade/v1/subjects:{what} HTTP/1.1");
    exchange(server.app.admin, &line, &[], body.to_string().as_bytes()).await
}

fn whom(subject: &str) -> Value {
    json!({ "subject": subject, "reason": "asked for it" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_objects_is_decided_about_by_nobody_here() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(data.path(), "").await;
    let fine = (200, Code::Ok);
    let refused = (409, Code::FailedPrecondition);
    let codes = async |server: &Server, subject| {
        let (http, grpc, _) = ask(server, subject).await;
        (http, grpc)
    };
    assert_eq!(codes(&server, "ann").await, fine);
    let done = call(&server, "object", &whom("ann")).await;
    assert_eq!((done.status, done.json()["changed"].clone()), (200, json!(true)));
    assert_eq!(
        call(&server, "object", &whom("ann")).await.json()["changed"],
        false
    );
    assert_eq!(codes(&server, "ann").await, refused);
    assert_eq!(codes(&server, "bob").await, fine);
    assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 200);
    server.stop().await;
    let server = serving(data.path(), "").await;
    assert_eq!(codes(&server, "ann").await, refused, "over a restart");
    server.stop().await;
    // Without the log nobody would know who she is.
    let folder = data.path().to_owned();
    let off = Server::try_start(Repository::new(), |options| {
        options.data_dir = folder;
        options.recorder = None;
    });
    let error = off.await.err().unwrap();
    assert!(
        error.contains("1 persons object") && error.contains("log.enabled"),
        "{error}"
    );
    let server = serving(data.path(), "").await;
    call(&server, "lift", &whom("ann")).await;
    assert_eq!(codes(&server, "ann").await, fine);
    let scrape = server.scrape().await;
    let counted = "crossfade_privacy_operations_total{operation=\"subject.lift\"} 1";
    assert!(scrape.contains(counted), "{scrape}");
    let audit = exchange(server.app.admin, "GET /crossfade/v1/audit HTTP/1.1", &[], b"").await;
    let audit = String::from_utf8(audit.body.to_vec()).unwrap();
    let count = |action: &str| audit.matches(&format!("\"action\":\"{action}\"")).count();
    assert_eq!(
        (count("subject.object"), count("subject.lift")),
        (4, 2),
        "{audit}"
    );
    assert!(!audit.contains("ann"), "whose key it is stays unsaid");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_person_who_restricts_them_are_not_sent_on() {
    let data = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver_that(|_| 204).await;
    let sink = format!("[[log.sink]]\nname = 'lake'\nurl = 'http://{at}/events'\n");
    let server = serving(data.path(), &sink).await;
    assert_eq!(call(&server, "restrict", &whom("ann")).await.status, 200);
    let (status, _, hers) = ask(&server, "ann").await;
    assert_eq!(status, 200, "she is served");
    let (_, _, his) = ask(&server, "bob").await;
    let mut sent = String::new();
    while !sent.contains(&his) {
        sent += &got.recv().await.unwrap();
    }
    assert!(!sent.contains(&hers), "{sent}");
    call(&server, "lift", &whom("ann")).await;
    let (_, _, later) = ask(&server, "ann").await;
    while !sent.contains(&later) {
        sent += &got.recv().await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_right_lies_beside_the_record() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(data.path(), "").await;
    let (_, _, id) = ask(&server, "ann").await;
    let rectify = |subject: &str, id: &str, right: Value| json!({ "subject": subject, "reason": "she has moved", "request_id": id, "correction": right });
    let right = json!({ "in.x": [3, 4] });
    let nobody = "0192e4a0-0000-7000-8000-000000000000";
    for (body, expected) in [
        (whom("ann"), 400),
        (rectify("ann", &id, json!({})), 400),
        (rectify("ann", "x", right.clone()), 400),
        (rectify("ann", nobody, right.clone()), 404),
        // Of another person.
        (rectify("bob", &id, right.clone()), 404),
    ] {
        let answer = call(&server, "rectify", &body).await;
        assert_eq!(answer.status, expected, "{body}: {answer:?}");
    }
    let extra = json!({ "subject": "ann", "reason": "x", "request_id": id });
    assert_eq!(
        call(&server, "erase", &extra).await.status,
        400,
        "nothing is erased by mistake"
    );
    let done = call(&server, "rectify", &rectify("ann", &id, right)).await;
    assert_eq!(done.status, 200, "{done:?}");
    let path = data.path().join(done.json()["path"].as_str().unwrap());
    assert!(path.exists());
    // What was put right goes with the person, too: both records, and the correction.
    let certificate = call(&server, "erase", &whom("ann")).await;
    assert_eq!(certificate.json()["rows"], 3, "{certificate:?}");
    assert!(!path.exists());
    server.stop().await;
    let verified = verify(data.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged, verified.missing), (Vec::new(), 0));
}

/// Nobody asks in the name of a person but who has the role for it.
#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_none() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(data.path(), "").await;
    assert_eq!(call(&server, "forget", &whom("ann")).await.status, 404);
    let got = exchange(
        server.app.admin,
        "GET /crossfade/v1/subjects:object HTTP/1.1",
        &[],
        b"",
    )
    .await;
    assert_eq!(got.status, 405);
    server.stop().await;
}
