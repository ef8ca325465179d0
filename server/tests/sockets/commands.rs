//! The commands that talk to a running server: the real binary, against a server in this process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use crossfade_journal::approval::{Approval, Subject};
use crossfade_journal::keys::{PublicKey, Signature};
use crossfade_server::admin::{Role, Token};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::approval;
use crate::harness::{Repository, Server};
use crate::release::{rules, version_file};

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
pub(crate) const UNREACHABLE: i32 = 3;
const SENT_BACK: i32 = 4;

/// A command for the server at `admin`.
pub(crate) fn command(admin: SocketAddr, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossfade"));
    command
        .args(line.split_whitespace())
        .env("CROSSFADE_ADMIN_URL", format!("http://{admin}"))
        .env_remove("CROSSFADE_TOKEN")
        .env_remove("CROSSFADE_CA_FILE")
        .stdin(Stdio::null());
    command
}

/// Runs a command beside the server.
pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// What it printed; it must have succeeded.
pub(crate) async fn done(admin: SocketAddr, line: &str) -> String {
    let output = output(command(admin, line)).await;
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it said to this exit code.
pub(crate) async fn fails(command: Command, code: i32) -> String {
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A server whose model `m` has version 1 live and waits to be told of others; nobody looks.
async fn holding() -> Server {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules(0.2, "on_new_version = 'hold'"));
    let server = Server::start_with(repository, |config| config.release_looks = None).await;
    server.wait_ready().await;
    server
}

async fn reached(server: &Server, state: &str) {
    while server.state() != state {
        tokio::task::yield_now().await;
    }
}

/// A folder that holds version `version`, and the repository's path.
fn candidate(folder: &Path, version: u64) -> String {
    std::fs::write(folder.join("model.fake"), version_file(version)).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_deployed_and_its_release_is_seen_and_moved() {
    let server = holding().await;
    let at = server.app.admin;
    assert_eq!(
        done(at, "rollout status").await,
        "no model has had a release yet\n"
    );

    let folder = tempfile::tempdir().unwrap();
    let source = candidate(folder.path(), 2);
    let repository = server.repository.path().to_str().unwrap().to_owned();
    let deploy = format!("deploy {source} --model m --reason newer --model-repository {repository}");
    let begun = done(at, &deploy).await;
    assert!(
        begun.contains("is version 2 of m now") && begun.contains("beside 1"),
        "{begun}"
    );
    reached(&server, "canary").await;

    let busy = fails(command(at, &deploy), REFUSED).await;
    assert!(
        busy.contains("is active") && busy.contains("--supersede"),
        "{busy}"
    );
    assert!(
        !server.repository.path().join("m/3").exists(),
        "nothing was put there"
    );

    server.look();
    let shown = done(at, "rollout status m").await;
    for part in [
        "m  version 2, beside 1: canary, step 1 of 1",
        "50 %",
        "missing",
        "errors",
        "begun by local",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let all: Value = serde_json::from_str(&done(at, "rollout status --json").await).unwrap();
    assert_eq!(
        (all.as_array().unwrap().len(), &all[0]["version"]),
        (1, &json!(2))
    );
    let id = all[0]["id"].as_str().unwrap().to_owned();

    let paused = done(at, "rollout pause m --reason lunch").await;
    assert!(paused.contains("paused") && paused.contains("lunch"), "{paused}");
    let resumed = done(at, &format!("rollout resume {id}")).await;
    assert!(resumed.contains("canary"), "{resumed}");
    let promoted = done(at, "rollout promote m --reason enough").await;
    assert!(
        promoted.contains("live") && promoted.contains("100 %"),
        "{promoted}"
    );
    let again = fails(command(at, "rollout abort m"), REFUSED).await;
    assert!(again.contains("has ended"), "{again}");
    let back = done(at, "rollback m --reason worse").await;
    assert_eq!(back, "m: version 1 is live again\n");

    let records = server.audit();
    let reasons: Vec<&Value> = records.iter().map(|record| &record["reason"]).collect();
    assert!(
        reasons.contains(&&json!("newer")) && reasons.contains(&&json!("worse")),
        "{records:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_when_the_release_does_and_the_exit_code_tells() {
    let server = holding().await;
    let at = server.app.admin;
    let answer = version_file(2);
    server
        .repository
        .add("m", 2, &answer, &rules(0.2, "on_new_version = 'hold'"));
    let waiting = tokio::spawn(output(command(at, "deploy 2 --model m --reason good --wait")));
    reached(&server, "canary").await;
    server.look();
    assert!(!server.release()["report"].is_null());
    done(at, "rollout promote m --reason enough").await;
    let promoted = waiting.await.unwrap();
    assert_eq!(promoted.status.code(), Some(0), "{promoted:?}");
    let lines = String::from_utf8(promoted.stdout).unwrap();
    assert!(
        lines.contains("m version 2: live") && !lines.contains('\x1b'),
        "{lines}"
    );

    // Other files: what was promoted is no reason to refuse them.
    server
        .repository
        .add("m", 3, &version_file(3), &rules(0.2, "on_new_version = 'hold'"));
    let waiting = tokio::spawn(output(command(at, "deploy 3 --model m --reason bad --wait")));
    reached(&server, "canary").await;
    assert!(server.release()["report"].is_null(), "what the one before showed");
    done(at, "rollout abort m --reason looks-odd").await;
    while server.state() != "rolled_back" {
        server.look();
        tokio::task::yield_now().await;
    }
    let sent_back = waiting.await.unwrap();
    assert_eq!(sent_back.status.code(), Some(SENT_BACK), "{sent_back:?}");
    let why = String::from_utf8(sent_back.stderr).unwrap();
    assert!(why.contains("version 3 of m is not live"), "{why}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_sees_each_move_as_a_line() {
    let server = holding().await;
    let at = server.app.admin;
    let mut child = command(at, "rollout status m -w")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut until = async |part: &str| {
        loop {
            let line = seen.recv().await.unwrap();
            assert!(!line.contains('\x1b'), "{line}");
            if line.contains(part) {
                return line;
            }
        }
    };
    server
        .repository
        .add("m", 2, &version_file(2), &rules(0.2, "on_new_version = 'hold'"));
    done(at, "deploy 2 --model m --reason newer").await;
    until("m version 2: canary, step 1 of 1, 50 % of the requests").await;
    done(at, "rollout promote m --reason enough").await;
    let told = until("promoted → promoting").await;
    assert!(
        told.contains("UTC  m version 2") && told.contains("by local  enough"),
        "{told}"
    );
    until("m version 2: live").await;
    child.kill().unwrap();
    child.wait().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_from_a_file_or_the_environment() {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules(0.2, ""));
    let token = Token {
        name: "ci".to_owned(),
        sha256: Sha256::digest("secret").into(),
        roles: vec![Role::Deploy],
        groups: Default::default(),
    };
    let server = Server::start_with(repository, |config| config.admin.tokens = vec![token]).await;
    server.wait_ready().await;
    let at = server.app.admin;
    let nobody = fails(command(at, "rollout status"), REFUSED).await;
    assert!(
        nobody.contains("--token-file") && nobody.contains("CROSSFADE_TOKEN"),
        "{nobody}"
    );
    let mut known = command(at, "rollout status");
    known.env("CROSSFADE_TOKEN", "secret");
    assert!(output(known).await.status.success());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let line = format!("--token-file {}", file.path().display());
    done(at, &format!("rollout status {line}")).await;
    let role = fails(command(at, &format!("rollback m --reason x {line}")), REFUSED).await;
    assert!(role.contains("needs the role `rollback`"), "{role}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_has_exit_codes_of_its_own() {
    let server = holding().await;
    let at = server.app.admin;
    for (line, code, part) in [
        ("deploy 9 --model m --reason x", REFUSED, "has no version 9"),
        (
            "deploy 2 --model other --reason x",
            REFUSED,
            "model `other` is unknown",
        ),
        ("rollout pause other", REFUSED, "no model and no release `other`"),
        ("rollback m --reason x", REFUSED, "no earlier version"),
        ("deploy 2 --model m", USAGE, "--reason"),
        (
            "deploy nowhere --model m --reason x",
            USAGE,
            "neither a version number nor a folder",
        ),
        ("deploy / --model m --reason x", USAGE, "--model-repository"),
        ("rollout status --token-file /nonexistent", USAGE, "--token-file"),
        ("rollout status --token secret", USAGE, "--token"),
        ("rollout status --admin-url ftp://h", USAGE, "https://HOST"),
        (
            "rollout status --ca-file /nonexistent --admin-url https://127.0.0.1",
            USAGE,
            "certificates in PEM",
        ),
        ("rollout status --ca-file /nonexistent", USAGE, "without TLS"),
        ("approve m --key /nonexistent", USAGE, "--key"),
        ("approve", USAGE, "RELEASE"),
        ("approve other", REFUSED, "no model and no release"),
        ("rollout plan m", REFUSED, "give a rate"),
        ("rollout plan m --rate=-1", REFUSED, "no rate"),
        ("rollout plan m --model-repository .", USAGE, "--rate"),
    ] {
        let said = fails(command(at, line), code).await;
        assert!(said.contains(part), "{line}: {said}");
    }
    server.stop().await;
    let said = fails(command(at, "rollout status"), UNREACHABLE).await;
    assert!(
        said.contains("cannot reach") && said.contains("--admin-url"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_of_what_was_observed_or_without_a_server() {
    let server = holding().await;
    let at = server.app.admin;
    server.look();
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] }] });
    for _ in 0..20 {
        assert_eq!(
            server.post("/v2/models/m/infer", body.to_string()).await.status,
            200
        );
    }
    server.look();
    let observed: Value = serde_json::from_str(&done(at, "rollout plan m --json").await).unwrap();
    assert_eq!(
        (&observed["rate"], &observed["observed_s"]),
        (&json!(20.0), &json!(1.0))
    );
    let shown = done(at, "rollout plan m").await;
    assert!(
        shown.contains("20 requests per second as observed over 1s"),
        "{shown}"
    );
    let given = done(at, "rollout plan m --rate 200 --json").await;
    let repository = server.repository.path().display();
    let offline = done(
        at,
        &format!("rollout plan m --rate 200 --json --model-repository {repository}"),
    )
    .await;
    assert_eq!(given, offline);
    // Next to no traffic shows nothing, and is not called safe.
    let blind = done(at, "rollout plan m --rate 0.0001").await;
    assert!(blind.contains("NOT SAFE"), "{blind}");
    server.stop().await;
}

/// Answers each request by its first line, and keeps the requests.
async fn scripted(answers: impl Fn(&str) -> Value + Send + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let seen = kept.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !whole(&request) {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "a request broke off");
                request.extend_from_slice(&piece[..read]);
            }
            let request = String::from_utf8(request).unwrap();
            let body = answers(request.lines().next().unwrap()).to_string();
            seen.lock().unwrap().push(request);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .await
                .unwrap();
        }
    });
    (at, kept)
}

/// Whether a request with a content length is all there.
pub(crate) fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_signs_what_the_release_shows() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("ann.pem");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let new_key = format!("approve --new-key {}", key.display());
    let public: PublicKey = done(nowhere, &new_key).await.trim().parse().unwrap();
    let twice = fails(command(nowhere, &new_key), USAGE).await;
    assert!(twice.contains("exists"), "{twice}");

    let digest = |digit: &str| digit.repeat(64);
    let subject = json!({
        "release_id": "r1", "artifact_sha256": digest("a"), "report_sha256": digest("b"), "config_rev": digest("c"),
        "before": "promoting",
    });
    let release = json!({
        "id": "r1", "model": "a/b", "version": 2, "champion": 1, "approval": { "subject": subject, "quorum": 2 },
        "state": { "state": "awaiting_approval", "next": "promoting" },
    });
    let (at, seen) = scripted(
        move |line| match line.starts_with("GET /crossfade/v1/rollouts ") {
            true => json!({ "rollouts": [release], "next": null }),
            false => release.clone(),
        },
    )
    .await;
    let said = done(at, &format!("approve r1 --yes --key {}", key.display())).await;
    assert!(said.contains("awaiting approval before promoting"), "{said}");
    let post = seen.lock().unwrap().last().unwrap().clone();
    let path = "POST /crossfade/v1/models/a%2Fb/rollouts/r1:approve HTTP/1.1";
    assert!(post.starts_with(path), "{post}");
    let body: Value = serde_json::from_str(post.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["subject"], subject);
    let approval = Approval {
        key: body["key"].as_str().unwrap().parse().unwrap(),
        signature: body["signature"].as_str().unwrap().parse::<Signature>().unwrap(),
    };
    assert_eq!(approval.key, public);
    let subject: Subject = serde_json::from_value(subject).unwrap();
    assert!(approval.verifies(&subject));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_on_once_enough_have_signed_from_the_command_line() {
    let data = tempfile::tempdir().unwrap();
    let server = approval::serving(
        approval::repository(approval::STRICT),
        data.path(),
        approval::approvers(),
    )
    .await;
    let id = approval::waiting(&server, approval::STRICT).await;
    let agree = async |seed: u8, release: &str| {
        let key = data.path().join(format!("{seed}.key"));
        std::fs::write(&key, format!("{seed:02x}").repeat(32)).unwrap();
        let mut command = command(
            server.app.admin,
            &format!("approve {release} --yes --key {}", key.display()),
        );
        command.env("CROSSFADE_TOKEN", "bob");
        output(command).await
    };
    let own = agree(1, &id).await;
    assert_eq!(own.status.code(), Some(REFUSED), "{own:?}");
    let first = agree(3, &id).await;
    let shown = String::from_utf8(first.stdout).unwrap();
    assert!(shown.contains("missing  1 of 2 approvals: eve agreed"), "{shown}");
    let second = agree(4, "m").await;
    assert!(second.status.success(), "{second:?}");
    assert_eq!(server.state(), "canary");
    server.stopped().await;
}
