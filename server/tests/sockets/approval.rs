//! Approvals: who can agree to a release, to what, and that each call is one record.

use std::path::Path;

use crossfade_journal::approval::{Approval, Subject};
use crossfade_journal::keys::SigningKey;
use crossfade_server::admin::{Approver, Role, Token};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, Repository, Server, exchange};

/// `y = x + version`.
fn version_file(version: u64) -> String {
    format!("input x FP32 -1,2\noutput y FP32 -1,2\nop add {version}\n")
}

/// Rules whose releases wait for people before the first request.
fn rules(approval: &str) -> String {
    format!(
        "risk = 'low'\n[gates.golden]\nenabled = false\n[rollout]\non_new_version = 'hold'\n[rollout.approval]\n\
         before = ['canary']\n{approval}\n[[rollout.step]]\npercent = 50\nmin = '0s'\nmin_units = 50\n\
         [[rollout.check]]\nmetric = 'errors'\nabs_ok = 0.2\n[[rollout.check]]\nmetric = 'latency'\nenabled = false\n\
         [[rollout.check]]\nmetric = 'output'\nenabled = false\n"
    )
}

/// The strictest rules of the matrix.
pub(crate) const STRICT: &str = "quorum = 2\nnot_author = true\nindependent = true";

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

/// Who there is: ann starts releases, the others are her colleagues and those of other groups.
const PEOPLE: [(&str, u8, &[&str]); 5] = [
    ("ann", 1, &["ml"]),
    ("bob", 2, &["ml"]),
    ("eve", 3, &["risk"]),
    ("dan", 4, &["ops"]),
    ("zoe", 5, &[]),
];

pub(crate) fn approvers() -> Vec<Approver> {
    let person = |(name, seed, groups): &(&str, u8, &[&str])| Approver {
        name: (*name).to_owned(),
        key: key(*seed).public_key(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
    };
    PEOPLE.iter().map(person).collect()
}

/// Each token's text is its name.
pub(crate) fn tokens() -> Vec<Token> {
    let token = |name: &str, roles: &[Role]| Token {
        name: name.to_owned(),
        sha256: Sha256::digest(name).into(),
        roles: roles.to_vec(),
        groups: Default::default(),
    };
    vec![
        token("ann", &[Role::Deploy, Role::Approve]),
        token("bob", &[Role::Approve]),
        token("root", &[Role::Override]),
        token("ci", &[Role::Deploy]),
        token("ops", &[Role::Promote, Role::Rollback]),
        token("chief", &[Role::Deploy, Role::Override]),
    ]
}

/// A server on these folders, with these who can agree.
pub(crate) async fn serving(repository: Repository, data: &Path, approvers: Vec<Approver>) -> Server {
    let data = data.to_owned();
    let server = Server::start_with(repository, |config| {
        config.data_dir = data;
        config.release_looks = None;
        config.admin.tokens = tokens();
        config.admin.approvers = approvers;
    })
    .await;
    server.wait_ready().await;
    server
}

/// A repository with versions 1, live, and 2, which waits for someone to deploy it.
pub(crate) fn repository(approval: &str) -> Repository {
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules(approval));
    repository
}

pub(crate) const ALL: &str = "/crossfade/v1/models/m/rollouts";

impl Server {
    pub(crate) async fn tell(&self, token: &str, line: String, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let line = format!("{line} HTTP/1.1");
        exchange(self.app.admin, &line, &headers, body.to_string().as_bytes()).await
    }

    pub(crate) async fn seen(&self, id: &str) -> Value {
        let answer = self.tell("ci", format!("GET {ALL}/{id}"), &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn approve(&self, token: &str, id: &str, body: &Value) -> Answer {
        self.tell(token, format!("POST {ALL}/{id}:approve"), body).await
    }

    pub(crate) async fn stopped(self) -> Repository {
        let stop = self
            .app
            .stop(std::time::Duration::from_secs(60), std::future::pending());
        assert!(stop.await);
        self.repository
    }
}

/// The subject of a release, signed by someone.
pub(crate) fn signed(view: &Value, seed: u8) -> Value {
    let subject: Subject = serde_json::from_value(view["approval"]["subject"].clone()).unwrap();
    let approval = Approval::sign(&subject, &key(seed));
    json!({ "subject": subject, "key": approval.key, "signature": approval.signature })
}

/// Ann starts the release of version 2; returns its id once it waits for people.
pub(crate) async fn waiting(server: &Server, approval: &str) -> String {
    server.repository.add("m", 2, &version_file(2), &rules(approval));
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    let created = server
        .tell("ann", format!("POST {ALL}"), &json!({ "version": 2 }))
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.json()["id"].as_str().unwrap().to_owned();
    while server.seen(&id).await["state"]["state"] != "awaiting_approval" {
        tokio::task::yield_now().await;
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn only_signatures_that_the_rules_count_lead_on_and_each_call_is_one_record() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let before = records(data.path()).len();
    let view = server.seen(&id).await;
    assert_eq!(view["approval"]["missing"], 2, "{view}");
    assert_eq!(view["approval"]["author"], "ann");
    assert_eq!(
        view["approval"]["subject"]["artifact_sha256"],
        view["artifact_sha256"]
    );

    let good = |seed| signed(&view, seed);
    let with = |key: &str, value: Value| {
        let mut body = good(3);
        body[key] = value;
        body
    };
    let mut changed = good(3);
    changed["subject"]["report_sha256"] = json!("0".repeat(64));
    let mut unsigned = good(3);
    unsigned.as_object_mut().unwrap().remove("signature");
    let only_subject = json!({ "subject": good(3)["subject"] });
    let cases = [
        // A token alone, half a signature, a stranger's key, a signature of someone else.
        ("bob", only_subject, 403),
        ("bob", unsigned, 403),
        ("bob", good(9), 403),
        ("bob", with("signature", good(4)["signature"].clone()), 403),
        ("bob", with("signature", json!("xyz")), 400),
        ("bob", with("surprise", json!(1)), 400),
        ("bob", json!({}), 400),
        // Something else was signed.
        ("bob", changed, 409),
        // The author, a colleague of hers, someone in no group.
        ("bob", good(1), 403),
        ("bob", good(2), 403),
        ("bob", good(5), 403),
        // Who brings it needs the role.
        ("ci", good(3), 403),
        ("nobody", good(3), 401),
        ("bob", json!({ "override": true, "reason": "late" }), 403),
    ];
    let mut calls = 0;
    for (token, body, status) in &cases {
        let answer = server.approve(token, &id, body).await;
        assert_eq!(answer.status, *status, "{token} {body}: {answer:?}");
        calls += 1;
        let recorded = records(data.path());
        assert_eq!(recorded.len(), before + calls, "{token} {body}");
        assert_eq!(recorded.last().unwrap()["after"]["outcome"], "refused");
    }
    assert_eq!(server.seen(&id).await["approval"]["missing"], 2);
    // Nobody asks version 2 anything yet.
    let pinned = server.get("/v2/models/m/versions/2/ready").await;
    assert_eq!(pinned.status, 200, "it is loaded: {pinned:?}");

    let first = server.approve("bob", &id, &good(3)).await;
    assert_eq!(first.status, 200, "{first:?}");
    let view = first.json();
    assert_eq!(view["state"]["state"], "awaiting_approval");
    assert_eq!(
        (&view["approval"]["counted"], &view["approval"]["missing"]),
        (&json!(["eve"]), &json!(1))
    );
    assert_eq!(
        server.approve("bob", &id, &good(3)).await.status,
        409,
        "once is enough"
    );
    let second = server.approve("ann", &id, &good(4)).await;
    assert_eq!(second.json()["state"]["state"], "canary", "{second:?}");
    assert_eq!(second.json()["why"], "approved by dan, eve");
    assert_eq!(
        server.approve("bob", &id, &good(3)).await.status,
        409,
        "it waits no more"
    );

    let all = records(data.path());
    let gist: Vec<String> = all[before..].iter().map(gist).collect();
    let mut expected = vec!["release.approve refused".to_owned(); cases.len() - 1];
    // Which role was meant, the record says too.
    expected.push("release.override refused".to_owned());
    let end = ["accepted", "refused", "accepted", "refused"];
    expected.extend(end.map(|outcome| format!("release.approve {outcome}")));
    assert_eq!(gist, expected);
    let evidence = &all[before + cases.len()]["evidence"][1];
    assert_eq!(evidence["key"], json!(key(3).public_key()), "{evidence}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_needs_its_role_and_a_reason() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let view = server.seen(&id).await;
    for (token, body) in [
        ("root", json!({ "override": true })),
        ("root", json!({ "override": true, "reason": " " })),
        ("ann", json!({ "override": true, "reason": "late" })),
        ("root", signed(&view, 3)),
    ] {
        let answer = server.approve(token, &id, &body).await;
        assert_eq!(answer.status, 403, "{token} {body}: {answer:?}");
    }
    let body = json!({ "override": true, "reason": "the site is down" });
    let answer = server.approve("root", &id, &body).await;
    assert_eq!(answer.json()["state"]["state"], "canary", "{answer:?}");
    let last = records(data.path()).pop().unwrap();
    assert_eq!(gist(&last), "release.override accepted");
    assert_eq!(
        (&last["actor"], &last["role"]),
        (&json!("root"), &json!("override"))
    );
    assert_eq!(last["reason"], "the site is down");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_through_restarts_and_a_change_of_the_configuration_voids() {
    let data = tempfile::tempdir().unwrap();
    let server = serving(repository(STRICT), data.path(), approvers()).await;
    let id = waiting(&server, STRICT).await;
    let view = server.seen(&id).await;
    assert_eq!(server.approve("bob", &id, &signed(&view, 3)).await.status, 200);
    let repository = server.stopped().await;

    // Nothing has changed: what was given counts.
    let server = serving(repository, data.path(), approvers()).await;
    let again = server.seen(&id).await;
    assert_eq!(again["state"], view["state"]);
    assert_eq!(again["approval"]["subject"], view["approval"]["subject"]);
    assert_eq!(again["approval"]["counted"], json!(["eve"]));
    let repository = server.stopped().await;

    // The file asks for less now: the release keeps its rules, and those who agreed are asked again.
    repository.configure("m", &rules("quorum = 1"));
    let server = serving(repository, data.path(), approvers()).await;
    let after = server.seen(&id).await;
    let approval = &after["approval"];
    assert_eq!(
        (&approval["quorum"], &approval["missing"]),
        (&json!(2), &json!(2)),
        "{after}"
    );
    assert_eq!(approval["refused"], json!({ "eve": "void" }));
    assert_ne!(
        approval["subject"]["config_rev"],
        view["approval"]["subject"]["config_rev"]
    );
    assert_eq!(server.approve("bob", &id, &signed(&view, 4)).await.status, 409);
    for seed in [3, 4] {
        let answer = server.approve("bob", &id, &signed(&after, seed)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.seen(&id).await["state"]["state"], "canary");

    // Without any rules left in the file it still ends by its own; then nothing is released any more.
    let repository = server.stopped().await;
    repository.configure("m", "");
    let server = serving(repository, data.path(), approvers()).await;
    assert_eq!(server.seen(&id).await["state"]["state"], "canary");
    let aborted = server
        .tell("ann", format!("POST {ALL}/{id}:abort"), &json!({}))
        .await;
    assert_eq!(aborted.status, 403, "{aborted:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_known_keys_the_role_is_enough_and_the_author_may_be_excluded() {
    let data = tempfile::tempdir().unwrap();
    let rules = "not_author = true";
    let server = serving(repository(rules), data.path(), Vec::new()).await;
    let id = waiting(&server, rules).await;
    let view = server.seen(&id).await;
    let subject = json!({ "subject": view["approval"]["subject"] });
    for (token, body, status) in [
        ("bob", json!({}), 400),
        ("bob", signed(&view, 3), 400),
        ("ann", subject.clone(), 403),
        ("bob", subject.clone(), 200),
    ] {
        let answer = server.approve(token, &id, &body).await;
        assert_eq!(answer.status, status, "{token}: {answer:?}");
    }
    assert_eq!(server.seen(&id).await["state"]["state"], "canary");
    server.stop().await;
}

/// Nobody is the author of what a scan, or a caller without a name, has found.
#[tokio::test(flavor = "multi_thread")]
async fn who_loads_a_version_is_the_author_of_the_release_that_follows() {
    let load = "/v2/repository/models/m/load";
    for (token, author, status) in [(Some("ann"), json!("ann"), 403), (None, Value::Null, 200)] {
        let data = tempfile::tempdir().unwrap();
        let rules = rules("not_author = true").replace("'hold'", "'canary'");
        let repository = Repository::new();
        repository.add("m", 1, &version_file(1), &rules);
        let server = serving(repository, data.path(), Vec::new()).await;
        server.repository.add("m", 2, &version_file(2), &rules);
        let loaded = match token {
            Some(token) => server.tell(token, format!("POST {load}"), &json!({})).await,
            None => server.post(load, "").await,
        };
        assert_eq!(loaded.status, 200, "{loaded:?}");
        let all = server.tell("ci", format!("GET {ALL}"), &json!({})).await.json();
        let id = all["rollouts"][0]["id"].as_str().unwrap();
        let view = server.seen(id).await;
        assert_eq!(view["state"]["state"], "awaiting_approval", "{view}");
        assert_eq!(view["approval"]["author"], author);
        let subject = json!({ "subject": view["approval"]["subject"] });
        let own = server.approve("ann", id, &subject).await;
        assert_eq!(own.status, status, "{own:?}");
        server.stop().await;
    }
}

const INFER: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;

/// Between the last step and everyone the live version answers alone, until people have agreed.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_waits_for_people_before_it_is_promoted() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules("quorum = 1").replace("'canary'", "'promoting'");
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), &rules);
    let server = serving(repository, data.path(), approvers()).await;
    server.repository.add("m", 2, &version_file(2), &rules);
    assert_eq!(server.post("/v2/repository/models/m/load", "").await.status, 200);
    let answered_by = async || {
        let answer = server.post("/v2/models/m/infer", INFER).await;
        answer.headers["x-model-version"].clone()
    };
    for (end, live) in [("rolled_back", "1"), ("live", "2")] {
        let body = json!({ "version": 2, "reason": "again" });
        let token = if end == "live" { "chief" } else { "ann" };
        let created = server.tell(token, format!("POST {ALL}"), &body).await;
        assert_eq!(created.status, 201, "{created:?}");
        let id = created.json()["id"].as_str().unwrap().to_owned();
        while server.seen(&id).await["state"]["state"] != "canary" {
            tokio::task::yield_now().await;
        }
        let early = server
            .approve("bob", &id, &signed(&server.seen(&id).await, 3))
            .await;
        assert_eq!(early.status, 409, "{early:?}");
        let promoted = server
            .tell(
                "ops",
                format!("POST {ALL}/{id}:promote"),
                &json!({ "reason": "seen enough" }),
            )
            .await;
        assert_eq!(
            promoted.json()["state"],
            json!({ "state": "awaiting_approval", "next": "promoting" })
        );
        for _ in 0..20 {
            assert_eq!(answered_by().await, "1");
        }
        if end == "live" {
            let approved = server
                .approve("bob", &id, &signed(&server.seen(&id).await, 3))
                .await;
            assert_eq!(approved.status, 200, "{approved:?}");
        } else {
            let aborted = server
                .tell("ops", format!("POST {ALL}/{id}:abort"), &json!({}))
                .await;
            assert_eq!(aborted.status, 200, "{aborted:?}");
            server
                .app
                .service
                .releases()
                .look(std::time::Duration::from_secs(1));
        }
        assert_eq!(server.seen(&id).await["state"]["state"], end);
        assert_eq!(answered_by().await, live);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_nobody_approves_in_time_fails() {
    let data = tempfile::tempdir().unwrap();
    let rules = "timeout = '0s'";
    let server = serving(repository(rules), data.path(), approvers()).await;
    let id = waiting(&server, rules).await;
    server
        .app
        .service
        .releases()
        .look(std::time::Duration::from_secs(1));
    let view = server.seen(&id).await;
    assert_eq!(
        view["state"],
        json!({ "state": "failed", "reason": "approval_timeout" })
    );
    assert_eq!(server.approve("bob", &id, &json!({})).await.status, 409);
    server.stop().await;
}

/// Action and outcome.
pub(crate) fn gist(record: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    format!(
        "{} {}",
        text(&record["action"]),
        text(&record["after"]["outcome"])
    )
}

/// The records of calls that concern releases, in order, verified.
pub(crate) fn records(data: &Path) -> Vec<Value> {
    let records = crossfade_journal::audit::records(&data.join("audit"), 0).unwrap();
    records
        .map(|record| serde_json::from_str(&record.unwrap().line().unwrap()).unwrap())
        .filter(|record: &Value| {
            let called = record["evidence"][0]["listener"].is_string();
            called && record["action"].as_str().unwrap().starts_with("release.")
        })
        .collect()
}
