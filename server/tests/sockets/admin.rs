//! The admin listener: who may call, what it answers, and what it records.

use crossfade_proto::inference as wire;
use crossfade_server::admin::{Role, Token};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::{ADD_ONE, Answer, Repository, Server, exchange};

const LOAD: &str = "/v2/repository/models/add/load";

async fn serving(change: impl FnOnce(&mut crossfade_server::config::ServerConfig)) -> Server {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let server = Server::start_with(repository, change).await;
    server.wait_ready().await;
    server
}

/// `method` and path, over the admin listener, with a token if there is one.
async fn ask(server: &Server, line: &str, token: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let headers = if token.is_empty() { &[][..] } else { &headers[..] };
    let line = format!("{line} HTTP/1.1");
    exchange(server.app.admin, &line, headers, body.as_bytes()).await
}

fn token(name: &str, text: &str, roles: &[Role]) -> Token {
    Token {
        name: name.to_owned(),
        sha256: Sha256::digest(text).into(),
        roles: roles.to_vec(),
        groups: Default::default(),
    }
}

/// Actor, role, action and outcome.
fn gist(record: &Value) -> [&str; 4] {
    [
        record["actor"].as_str().unwrap(),
        record["role"].as_str().unwrap(),
        record["action"].as_str().unwrap(),
        record["after"]["outcome"].as_str().unwrap(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_whoever_reaches_loopback_is_local() {
    let server = serving(|_| {}).await;
    let health = ask(&server, "GET /crossfade/v1/health", "", "").await.json();
    assert_eq!((&health["live"], &health["ready"]), (&json!(true), &json!(true)));
    assert_eq!(health["audit"]["seq"], 0);
    let loaded = ask(&server, &format!("POST {LOAD}"), "", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert_eq!(
        gist(&server.audit()[0]),
        ["local", "deploy", "model.load", "accepted"]
    );
    assert_eq!(server.audit()[0]["evidence"][0]["listener"], "admin");

    let page = [("origin", "http://example.org")];
    let line = format!("POST {LOAD} HTTP/1.1");
    let refused = exchange(server.app.admin, &line, &page, b"").await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(
        gist(&server.audit()[1]),
        ["anonymous", "", "model.load", "refused"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_their_roles_decide_and_refused_calls_are_recorded() {
    let tokens = vec![
        token("ci", "secret", &[Role::Deploy]),
        token("reader", "weak", &[]),
    ];
    let server = serving(|config| config.admin.tokens = tokens).await;
    let load = format!("POST {LOAD}");
    for (given, status) in [("", 401), ("Secret", 401), ("weak", 403), ("secret", 200)] {
        let answer = ask(&server, &load, given, "").await;
        assert_eq!(answer.status, status, "{given}: {answer:?}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
    }
    let records = server.audit();
    let expected = [
        ["anonymous", "", "model.load", "refused"],
        ["anonymous", "", "model.load", "refused"],
        ["reader", "", "model.load", "refused"],
        ["ci", "deploy", "model.load", "accepted"],
    ];
    assert_eq!(records.iter().map(gist).collect::<Vec<_>>(), expected);
    assert!(records.iter().all(|record| !record.to_string().contains("ecret")));

    let health = "GET /crossfade/v1/health";
    assert_eq!(ask(&server, health, "", "").await.status, 401);
    assert_eq!(ask(&server, health, "weak", "").await.status, 200);
    assert_eq!(server.audit().len(), 4, "reading is not recorded");
    // The other listeners ask nobody, unless changes are taken here only.
    assert_eq!(server.post(LOAD, "").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_can_be_taken_by_the_admin_listener_only() {
    let server = serving(|config| config.admin.v2_control = true).await;
    let at = server.app.admin.to_string();
    for (path, body) in [
        (LOAD, ""),
        ("/v2/repository/models/add/unload", ""),
        ("/v2/logging", r#"{"log_info":false}"#),
        ("/v2/trace/setting", r#"{"trace_level":"OFF"}"#),
    ] {
        let refused = server.post(path, body).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.error().contains(&at), "{refused:?}");
    }
    let unload = wire::RepositoryModelUnloadRequest {
        model_name: "add".to_owned(),
        ..Default::default()
    };
    let refused = server.grpc().await.repository_model_unload(unload).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(server.get("/v2/logging").await.json()["log_info"], true);
    assert_eq!(server.get("/v2/models/add/ready").await.status, 200);

    let changed = ask(&server, "POST /v2/logging", "", r#"{"log_info":false}"#).await;
    assert_eq!(changed.json()["log_info"], false, "{changed:?}");
    let outcomes: Vec<Value> = server
        .audit()
        .iter()
        .map(|r| r["after"]["outcome"].clone())
        .collect();
    let refused = "refused";
    assert_eq!(outcomes, [refused, refused, refused, refused, refused, "ok"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_read_in_pages_that_verify() {
    let server = serving(|_| {}).await;
    for level in 0..5 {
        server
            .post("/v2/logging", format!(r#"{{"log_verbose_level":{level}}}"#))
            .await;
    }
    let page = |query: &str| {
        let line = format!("GET /crossfade/v1/audit{query}");
        let server = &server;
        async move { ask(server, &line, "", "").await }
    };
    let whole = page("").await;
    let text = String::from_utf8(whole.body.clone()).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert_eq!(whole.headers["content-type"], "application/x-ndjson");
    let path = std::path::Path::new("page");
    let head =
        crossfade_journal::audit::export::verify(&whole.body[..], path, crossfade_journal::Head::EMPTY, None);
    let head = head.unwrap();
    assert_eq!(
        whole.headers["x-audit-head"],
        format!("{}:{}", head.seq, head.hash)
    );

    let middle = page("?since=1&limit=2").await;
    let seqs: Vec<Value> = String::from_utf8(middle.body)
        .unwrap()
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["seq"].clone()
        })
        .collect();
    assert_eq!(seqs, [2, 3]);
    let none = page("?since=5").await;
    assert_eq!((none.status, none.body.len()), (200, 0));
    assert_eq!(page("?since=99").await.status, 200);
    for wrong in ["?since=x", "?since", "?sinze=1", "?since=-1"] {
        assert_eq!(page(wrong).await.status, 400, "{wrong}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_records_as_they_are_written_and_end_with_the_server() {
    let server = serving(|_| {}).await;
    let mut stream = TcpStream::connect(server.app.admin).await.unwrap();
    let get = b"GET /crossfade/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let mut reader = BufReader::new(stream).lines();
    // The head is there: from here on nothing is missed.
    while !reader.next_line().await.unwrap().unwrap().is_empty() {}
    for model in ["add", "absent"] {
        server
            .post(&format!("/v2/repository/models/{model}/unload"), "")
            .await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let line = reader.next_line().await.unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            seen.push(serde_json::from_str::<Value>(data).unwrap());
        }
    }
    assert_eq!(seen, server.audit());
    // A reader does not hold the server up.
    server.stop().await;
    while let Some(line) = reader.next_line().await.unwrap() {
        assert!(!line.contains("data"), "{line}");
    }
}

/// What models were asked is not for everyone who may change them.
#[tokio::test(flavor = "multi_thread")]
async fn the_inference_log_is_for_those_who_may_inspect_it() {
    let path = "GET /crossfade/v1/log/stream";
    let tokens = vec![
        token("ci", "deploys", &[Role::Deploy]),
        token("auditor", "inspects", &[Role::Inspect]),
    ];
    let server = serving(|config| {
        config.admin.tokens = tokens;
        config.recorder = None;
    })
    .await;
    assert_eq!(ask(&server, path, "", "").await.status, 401);
    let refused = ask(&server, path, "deploys", "").await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.error().contains("inspect"), "{refused:?}");
    let off = ask(&server, path, "inspects", "").await;
    assert_eq!(off.status, 501, "{off:?}");
    assert!(off.error().contains("log.enabled"), "{off:?}");
    server.stop().await;
    let server = serving(|_| {}).await;
    let wrong = ask(&server, &format!("{path}?modle=m"), "", "").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_released_is_unknown_to_releases_and_records_say_who_asked() {
    let server = serving(|_| {}).await;
    let rollouts = "/crossfade/v1/models/add/rollouts";
    for (line, body, status) in [
        (format!("GET {rollouts}"), "", 404),
        (format!("POST {rollouts}"), r#"{"version":2}"#, 404),
        (format!("POST {rollouts}/r1:abort"), "{", 400),
        (
            "POST /crossfade/v1/models/add:rollback".to_owned(),
            r#"{"reason":"slow"}"#,
            404,
        ),
        (format!("GET {rollouts}/r1:abort"), "", 405),
        (format!("DELETE {rollouts}"), "", 405),
        (format!("POST {rollouts}/r1:approve"), "{}", 404),
        ("GET /crossfade/v1/nothing".to_owned(), "", 404),
        ("GET /v2/models/add".to_owned(), "", 404),
        ("POST /v2/models/add/infer".to_owned(), "{}", 404),
        ("POST /crossfade/v1/models/..%2f:rollback".to_owned(), "", 400),
    ] {
        let answer = ask(&server, &line, "", body).await;
        assert_eq!(answer.status, status, "{line}: {answer:?}");
    }
    let actions: Vec<Value> = server.audit().iter().map(|r| r["action"].clone()).collect();
    assert_eq!(
        actions,
        [
            "release.create",
            "release.abort",
            "model.rollback",
            "release.approve"
        ]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_are_refused() {
    let server = serving(|_| {}).await;
    for body in ["{", "[]", "null", "\u{0}"] {
        let answer = ask(&server, &format!("POST {LOAD}"), "", body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    let line = format!("POST {LOAD} HTTP/1.1");
    let conditional = exchange(server.app.admin, &line, &[("if-none-match", "1")], b"").await;
    assert_eq!(conditional.status, 501, "{conditional:?}");
    let records = server.audit();
    assert_eq!(records.len(), 5);
    assert!(
        records.iter().all(|r| r["after"]["outcome"] == "refused"),
        "{records:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_protocol_with_a_key_is_carried_out_once() {
    let server = serving(|_| {}).await;
    let keyed = async |path: &str, key: &str, body: &str| {
        let line = format!("POST {path} HTTP/1.1");
        let headers = [("idempotency-key", key)];
        exchange(server.app.admin, &line, &headers, body.as_bytes()).await
    };
    let (logging, verbose) = ("/v2/logging", r#"{"log_verbose_level":3}"#);
    let first = keyed(logging, "k1", verbose).await;
    assert_eq!(
        (first.status, &first.json()["log_verbose_level"]),
        (200, &json!(3))
    );
    ask(&server, "POST /v2/logging", "", r#"{"log_verbose_level":0}"#).await;
    let again = keyed(logging, "k1", verbose).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(server.get(logging).await.json()["log_verbose_level"], 0);
    assert_eq!(server.audit().len(), 2, "the second time nothing is done");

    let other = keyed(logging, "k1", "{}").await;
    assert_eq!(other.status, 409, "{other:?}");
    let absent = "/v2/repository/models/absent/load";
    for (path, key, body, status) in [
        (LOAD, "k2", "", 200),
        (absent, "k3", "", 404),
        (LOAD, "k4", "{", 400),
    ] {
        let first = keyed(path, key, body).await;
        assert_eq!(first.status, status, "{path}: {first:?}");
        let recorded = server.audit().len();
        let again = keyed(path, key, body).await;
        assert_eq!((again.status, again.json()), (status, first.json()), "{path}");
        assert_eq!(server.audit().len(), recorded, "{path}");
    }
    // A configuration that is not in force is no answer that is kept.
    let headers = [("idempotency-key", "k5"), ("if-match", "0")];
    for _ in 0..2 {
        let line = format!("POST {LOAD} HTTP/1.1");
        let stale = exchange(server.app.admin, &line, &headers, b"").await;
        assert_eq!(stale.status, 412, "{stale:?}");
    }
    // The other listeners know nobody whose key it could be.
    let before = server.audit().len();
    for _ in 0..2 {
        let passed = server
            .post_with(logging, &[("idempotency-key", "k1")], verbose.as_bytes())
            .await;
        assert_eq!(passed.status, 200, "{passed:?}");
    }
    assert_eq!(server.audit().len(), before + 2);
    server.stop().await;
}
