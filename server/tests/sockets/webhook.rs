//! Webhooks: moves of releases told to a receiver that is scripted, fails, and comes back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crossfade_server::admin::{Caller, ReleaseAction, Role};
use crossfade_server::config::file::RawConfig;
use crossfade_server::config::{Flags, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::commands::whole;
use crate::harness::{Repository, Server};
use crate::release::{rules, version_file};
use crate::tls::Authority;

const SECRET: &str = "a secret of some length";

/// A receiver that answers with these codes, then with 204, and hands on what it got.
async fn receiver(codes: &[u16]) -> (SocketAddr, UnboundedReceiver<String>) {
    let codes = Mutex::new(VecDeque::from(codes.to_vec()));
    receiver_that(move |_| codes.lock().unwrap().pop_front().unwrap_or(204)).await
}

/// A receiver that answers each request with a code, and hands on what it got.
pub(crate) async fn receiver_that(
    code: impl Fn(&str) -> u16 + Send + 'static,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (sender, got) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !whole(&request) {
                let mut piece = [0; 4096];
                match stream.read(&mut piece).await.unwrap() {
                    0 => break,
                    read => request.extend_from_slice(&piece[..read]),
                }
            }
            let request = String::from_utf8(request).unwrap();
            let code = code(&request);
            // The end of the server cuts a message off.
            if sender.send(request).is_err() {
                return;
            }
            let answer = format!("HTTP/1.1 {code} Scripted\r\ncontent-length: 0\r\n\r\n");
            let _cut = stream.write_all(answer.as_bytes()).await.is_ok();
        }
    });
    (at, got)
}

/// The next message's head, and what it tells.
async fn next(got: &mut UnboundedReceiver<String>) -> (String, Value) {
    let request = tokio::time::timeout(Duration::from_secs(60), got.recv()).await;
    let request = request.expect("a message within a minute").unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(body).unwrap())
}

/// A server that tells `at`; nobody looks at its releases.
async fn telling(repository: Repository, data: &Path, at: SocketAddr, events: &str) -> Server {
    telling_url(repository, data, &format!("http://{at}/hook?to=me"), events).await
}

async fn telling_url(repository: Repository, data: &Path, url: &str, more: &str) -> Server {
    let secret = data.join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let text = format!(
        "[[webhook]]\nurl = '{url}'\nsecret_file = '{}'\n{more}",
        secret.display()
    );
    let file = RawConfig::parse(&text).unwrap();
    let webhooks = ServerConfig::resolve(Flags::default(), file).unwrap().webhooks;
    let server = Server::start_with(repository, |config| {
        config.data_dir = data.join("data");
        config.release_looks = None;
        config.webhooks = webhooks;
        for webhook in &mut config.webhooks {
            webhook.patience.first = Duration::from_millis(1);
            webhook.patience.longest = Duration::from_millis(20);
        }
    })
    .await;
    server.wait_ready().await;
    server
}

fn caller() -> Caller {
    Caller {
        actor: "ann".into(),
        roles: Role::ALL.to_vec(),
    }
}

fn abort(server: &Server) {
    let id = server.release()["id"].as_str().unwrap().to_owned();
    let releases = server.app.service.releases();
    let aborted = releases.act(
        &caller(),
        "m",
        &id,
        ReleaseAction::Abort,
        Some("slow"),
        &|| Ok(()),
    );
    aborted.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_never_taken_holds_up_no_other_model() {
    let folder = tempfile::tempdir().unwrap();
    let refuses = |request: &str| {
        if request.contains(r#""model":"a""#) {
            500
        } else {
            204
        }
    };
    let (at, mut got) = receiver_that(refuses).await;
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("a", 1, &version_file(1), &rules);
    let server = telling(repository, folder.path(), at, "").await;
    let model = |message: Value| message["data"]["model"].as_str().unwrap().to_owned();
    let (_, first) = next(&mut got).await;
    assert_eq!(model(first), "a");
    // From now on the message of `a` is tried again and again.
    server.arrive(1, &version_file(1), &rules).await;
    let mut told = 0;
    while model(next(&mut got).await.1) != "m" {
        told += 1;
        assert!(told < 1000, "only of `a`");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_move_is_told_in_order_and_again_until_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver(&[500, 503, 429]).await;
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = telling(repository, folder.path(), at, "").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (head, message) = next(&mut got).await;
        assert!(head.starts_with("POST /hook?to=me HTTP/1.1"), "{head}");
        assert_eq!(message["data"]["event"], "adopted", "{message}");
        ids.push(message["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    server.arrive(2, &version_file(2), &rules).await;
    while server.state() != "canary" {
        tokio::task::yield_now().await;
    }
    abort(&server);
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, to)| to != "rolling_back") {
        let (_, message) = next(&mut got).await;
        let data = &message["data"];
        assert_eq!((&data["model"], &data["version"]), (&json!("m"), &json!(2)));
        let text = |key: &str| data[key].as_str().unwrap().to_owned();
        told.push((text("kind"), text("to")));
    }
    let to: Vec<&str> = told.iter().map(|(_, to)| to.as_str()).collect();
    assert_eq!(to, ["verifying", "loading", "gating", "canary", "rolling_back"]);
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[3..], ["transition", "rollback"]);
    let scrape = server.scrape().await;
    assert!(
        scrape.contains("crossfade_webhook_deliveries_total{result=\"failed\"} 3"),
        "{scrape}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_over_tls_is_told_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver(&[]).await;
    let authority = Authority::new("an authority");
    let file = folder.path().join("ca.pem");
    authority.write(&file);
    let trusted = format!("ca = '{}'", file.display());
    let url = |proxy: SocketAddr| format!("https://{proxy}/hook?to=me");

    // For another name: it is told nothing, and asked again.
    let other = authority.in_front_of(at, "elsewhere.test").await;
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules(0.2, ""));
    let data = folder.path().join("other");
    std::fs::create_dir(&data).unwrap();
    let server = telling_url(repository, &data, &url(other), &trusted).await;
    let failed = |scrape: String| {
        let series = "crossfade_webhook_deliveries_total{result=\"failed\"} ";
        let mut counts = scrape.lines().filter_map(|line| line.strip_prefix(series));
        counts.any(|count| count != "0")
    };
    while !failed(server.scrape().await) {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    assert!(got.try_recv().is_err(), "it was told");

    let proxy = authority.in_front_of(at, "127.0.0.1").await;
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules(0.2, ""));
    let server = telling_url(repository, folder.path(), &url(proxy), &trusted).await;
    let (head, message) = next(&mut got).await;
    assert!(head.starts_with("POST /hook?to=me HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("host: {proxy}")), "{head}");
    assert_eq!(message["data"]["event"], "adopted", "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_signed_and_only_what_was_asked_for_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (at, mut got) = receiver(&[400]).await;
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = telling(repository, folder.path(), at, "events = ['rollback']").await;
    server.arrive(2, &version_file(2), &rules).await;
    while server.state() != "canary" {
        tokio::task::yield_now().await;
    }
    abort(&server);
    let request = got.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, body.as_bytes());
    let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        head.contains(&format!("x-crossfade-signature: sha256={digits}")),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/cloudevents+json"),
        "{head}"
    );
    let message: Value = serde_json::from_str(body).unwrap();
    let data = &message["data"];
    assert_eq!(message["type"], "io.crossfade.release.v1");
    assert_eq!(
        (&data["why"], &data["actor"], &data["reason"]),
        (&json!("slow"), &json!("ann"), &json!("aborted"))
    );

    // A receiver that refuses a message does not get it again, but the next one.
    while server.state() != "rolled_back" {
        server.look();
        tokio::task::yield_now().await;
    }
    let (_, second) = next(&mut got).await;
    assert_eq!(second["data"]["to"], "rolled_back");
    let scrape = server.scrape().await;
    assert!(
        scrape.contains("crossfade_webhook_deliveries_total{result=\"refused\"} 1"),
        "{scrape}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_told_is_told_after_a_restart_and_the_rest_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let repository = Repository::new();
    let rules = rules(0.2, "on_new_version = 'hold'");
    repository.add("m", 1, &version_file(1), &rules);
    let server = telling(repository, folder.path(), gone, "").await;
    // A release is not held up by that.
    assert_eq!(server.state(), "none");
    let repository = server.repository;
    let stopped = server
        .app
        .stop(Duration::from_secs(60), std::future::pending())
        .await;
    assert!(stopped);

    let listener = TcpListener::bind(gone).await.unwrap();
    let server = telling(repository, folder.path(), gone, "").await;
    let message = async || {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !whole(&request) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            request.extend_from_slice(&piece[..read]);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let request = String::from_utf8(request).unwrap();
        serde_json::from_str::<Value>(request.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    assert_eq!(message().await["data"]["event"], "adopted");
    server.arrive(2, &version_file(2), &rules).await;
    let created = server.app.service.releases().create(
        &caller(),
        "m",
        crossfade_server::admin::CreateRelease {
            version: 2,
            supersede: false,
            reason: Some("newer".into()),
        },
        &|| Ok(()),
    );
    created.unwrap();
    let next = message().await;
    assert_eq!(
        (&next["data"]["event"], &next["data"]["why"]),
        (&json!("created"), &json!("newer"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_can_be_guessed_is_a_start_error() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "short\n").unwrap();
    let text = format!(
        "[[webhook]]\nurl = 'http://127.0.0.1:9/'\nsecret_file = '{}'\n",
        secret.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crossfade.toml");
    std::fs::write(&file, text).unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_crossfade"))
        .args([
            "serve",
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--metrics-port",
            "0",
            "--admin-port",
            "0",
            "--config",
        ])
        .arg(&file)
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .env("CROSSFADE_ORT_LIBRARY", "/nonexistent/libonnxruntime.so")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(
        stderr.contains("secret_file") && stderr.contains("16 bytes"),
        "{stderr}"
    );
}
