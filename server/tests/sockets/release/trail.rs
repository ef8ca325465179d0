//! What the audit holds of releases: every record of their logs once, in order, whatever happens between the two.

use crossfade_journal::{Reader, audit};

use super::*;

/// The audit, verified.
fn audited(data: &Path) -> Vec<Value> {
    let folder = data.join("audit");
    audit::verify(&folder, None).unwrap();
    let records = audit::records(&folder, 0).unwrap();
    records
        .map(|record| serde_json::from_str(&record.unwrap().line().unwrap()).unwrap())
        .collect()
}

/// Those of its records that follow the log of `m`, from the log's first one on.
fn followed(data: &Path) -> Vec<Value> {
    let mut all = audited(data);
    all.retain(|record| record["evidence"][0]["log"]["seq"].as_u64() > Some(0));
    all
}

/// What happened, and from which state to which.
fn moves(data: &Path) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let gist = |record: &Value| {
        format!(
            "{} {} {}",
            word(&record["evidence"][0]["event"]),
            word(&record["before"]["state"]),
            word(&record["after"]["value"]["state"])
        )
    };
    followed(data).iter().map(gist).collect()
}

/// The audit has exactly the records that the log has, by number and hash.
fn follows_the_log(data: &Path) {
    let log = Reader::open(&data.join("state/rollout/m.log")).unwrap();
    let logged = log.map(|record| {
        let record = record.unwrap();
        json!({ "model": "m", "seq": record.seq, "hash": record.hash })
    });
    let told = followed(data)
        .into_iter()
        .map(|record| record["evidence"][0]["log"].clone());
    assert_eq!(told.collect::<Vec<_>>(), logged.collect::<Vec<_>>());
}

/// Until traffic, of a version that arrives by itself.
const TO_CANARY: [&str; 7] = [
    "adopted - -",
    "seen - -",
    "created - verifying",
    "verified verifying loading",
    "loaded loading gating",
    "gated gating gating",
    "gates_passed gating canary",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_exactly_the_moves_of_a_good_candidate() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.2, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    server.arrive(2, &version_file(2), &rules).await;
    clients.until(&server, "live").await;
    assert_eq!(clients.stop().await, 0);
    let caller = Caller {
        actor: "ann".into(),
        roles: vec![Role::Rollback],
    };
    let releases = server.app.service.releases();
    releases
        .rollback(&caller, "m", None, "worse", &|| Ok(()))
        .unwrap();
    let id = server.release()["id"].as_str().unwrap().to_owned();
    stopped(server).await;

    let mut expected = TO_CANARY.to_vec();
    expected.extend([
        "stage_passed canary promoting",
        "switched promoting live",
        "restored - -",
    ]);
    assert_eq!(moves(data.path()), expected);
    follows_the_log(data.path());
    let told = followed(data.path());
    for record in &told[2..9] {
        assert_eq!(record["object"], format!("model/m/rollout/{id}"));
        assert_eq!(
            (&record["actor"], &record["role"]),
            (&json!("crossfade"), &json!("server"))
        );
        assert_eq!(record["evidence"][0]["version"], "2");
        assert!(record["evidence"][0]["artifact_sha256"].is_string(), "{record}");
    }
    let back = &told[9];
    assert_eq!(
        (&back["actor"], &back["reason"]),
        (&json!("ann"), &json!("worse"))
    );
    assert_eq!(
        (&back["before"], &back["after"]["value"]),
        (&json!({ "live": "2" }), &json!({ "live": "1" }))
    );
}

/// The audit is cut where the process could have died: after the log had a record, before the audit had its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_sent_back_is_recorded_once_also_by_a_server_that_died_before() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(0.005, "");
    repository.add("m", 1, &version_file(1), &rules);
    let server = Arc::new(serving(repository, data.path()).await);
    let clients = Clients::start(&server);
    let nan = "input x FP32 -1,2\noutput y FP32 -1,2\nop add NaN\n";
    server.arrive(2, nan, &rules).await;
    clients.until(&server, "rolled_back").await;
    clients.stop().await;
    let mut repository = stopped(server).await;

    let mut expected = TO_CANARY.to_vec();
    expected.extend(["failed canary rolling_back", "drained rolling_back rolled_back"]);
    assert_eq!(moves(data.path()), expected);
    follows_the_log(data.path());
    let failed = followed(data.path()).remove(7);
    assert_eq!(failed["after"]["value"]["reason"], "hard_trigger");
    assert!(!failed["reason"].as_str().unwrap().is_empty(), "{failed}");

    let file = data.path().join("audit/00000000000000000001.journal");
    let whole = std::fs::read(&file).unwrap();
    let records: Vec<_> = Reader::open(&file).unwrap().map(Result::unwrap).collect();
    for record in records {
        let text = String::from_utf8(record.payload).unwrap();
        if !text.contains("\"event\":\"failed\"") && !text.contains("\"event\":\"drained\"") {
            continue;
        }
        std::fs::write(&file, &whole[..usize::try_from(record.offset).unwrap()]).unwrap();
        let server = Arc::new(serving(repository, data.path()).await);
        repository = stopped(server).await;
        assert_eq!(moves(data.path()), expected);
        follows_the_log(data.path());
    }

    // Whoever changes what it says of a move is found out.
    let mut changed = std::fs::read(&file).unwrap();
    let at = changed
        .windows(12)
        .rposition(|part| part == b"rolling_back")
        .unwrap();
    changed[at] ^= 1;
    std::fs::write(&file, changed).unwrap();
    let error = audit::verify(&data.path().join("audit"), None).unwrap_err();
    assert!(error.to_string().contains("record "), "{error}");
}
