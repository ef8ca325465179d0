use serde_json::json;

use super::*;

pub(crate) fn event(seq: u64) -> Event {
    Event {
        ts: Timestamp::from_unix_micros(1_767_225_600_000_000 + 1_000_000 * seq as i64).unwrap(),
        actor: "alice".to_owned(),
        role: "promote".to_owned(),
        action: "rollout.promote".to_owned(),
        object: "fraud".to_owned(),
        before: json!({"state": "canary", "percent": 0.5}),
        after: json!({"state": "promoting"}),
        reason: "passed \"all\" checks".to_owned(),
        evidence: vec![json!({"log_e": -1.25e-7}), json!("sha256:00")],
        config_rev: Hash([0xab; 32]),
    }
}

fn record() -> AuditRecord {
    AuditRecord::following(&Head::EMPTY, event(1)).unwrap().0
}

#[test]
fn the_hash_is_that_of_the_canonical_json_without_it() {
    let (record, body) = AuditRecord::following(&Head::EMPTY, event(0)).unwrap();
    let expected = format!(
        "{{\"action\":\"rollout.promote\",\"actor\":\"alice\",\"after\":{{\"state\":\"promoting\"}},\
         \"before\":{{\"percent\":0.5,\"state\":\"canary\"}},\"config_rev\":\"{}\",\
         \"evidence\":[{{\"log_e\":-1.25e-7}},\"sha256:00\"],\"object\":\"fraud\",\"prev_hash\":\"{}\",\
         \"reason\":\"passed \\\"all\\\" checks\",\"role\":\"promote\",\"seq\":1,\
         \"ts\":\"2026-01-01T00:00:00.000000Z\"}}",
        "ab".repeat(32),
        "0".repeat(64),
    );
    assert_eq!(body, expected);
    assert_eq!(record.hash, Hash::ZERO.link(expected.as_bytes()));
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let first = record();
    let (second, body) = AuditRecord::following(&first.head(), event(2)).unwrap();
    assert_eq!((second.seq, second.prev_hash), (2, first.hash));
    assert_eq!(
        AuditRecord::from_line(second.line().unwrap().as_bytes()),
        Ok(second.clone())
    );
    assert_eq!(
        AuditRecord::from_payload(body.as_bytes(), second.hash),
        Ok(second)
    );
}

#[test]
fn another_spelling_of_the_same_record_is_refused() {
    let line = record().line().unwrap();
    for (from, to) in [
        (",\"actor\"", ", \"actor\""),
        ("1.25e-7", "1.25E-7"),
        ("0.5", "0.50"),
        ("alice", "\\u0061lice"),
        ("\"seq\":1", "\"seq\":1,\"seq\":1"),
    ] {
        let other = line.replacen(from, to, 1);
        assert_ne!(other, line);
        let read = AuditRecord::from_line(other.as_bytes());
        assert_eq!(read, Err(AuditProblem::Spelling), "{to}");
    }
}

/// The line with one member changed, written canonically.
fn changed(name: &str, to: Option<Value>) -> Result<AuditRecord, AuditProblem> {
    let mut value: Value = serde_json::from_str(&record().line().unwrap()).unwrap();
    let members = value.as_object_mut().unwrap();
    match to {
        Some(to) => members.insert(name.to_owned(), to),
        None => members.remove(name),
    };
    AuditRecord::from_line(canonical(&value).unwrap().as_bytes())
}

#[test]
fn a_field_that_is_missing_unknown_or_of_another_kind_is_named() {
    for name in ["seq", "ts", "actor", "before", "evidence", "prev_hash", "hash"] {
        let problem = changed(name, None).unwrap_err();
        assert!(
            matches!(&problem, AuditProblem::Field(text) if text.contains(name)),
            "{problem}"
        );
    }
    for (name, to) in [
        ("more", json!(1)),
        ("seq", json!(-1)),
        ("ts", json!("today")),
        ("hash", json!("00")),
    ] {
        let problem = changed(name, Some(to)).unwrap_err();
        assert!(matches!(&problem, AuditProblem::Field(_)), "{name}: {problem}");
    }
    let problem = changed("actor", Some(json!("mallory"))).unwrap_err();
    assert!(matches!(problem, AuditProblem::Hash { .. }), "{problem}");
    assert!(matches!(
        AuditRecord::from_line(b"[]"),
        Err(AuditProblem::Field(_))
    ));
    assert!(matches!(AuditRecord::from_line(b"{"), Err(AuditProblem::Json(_))));
    assert!(matches!(
        AuditRecord::from_line(b"9007199254740993"),
        Err(AuditProblem::Value(_))
    ));
}

#[test]
fn an_event_that_cannot_be_read_back_is_refused() {
    let mut event = event(1);
    event.before = json!(u64::MAX);
    let refused = AuditRecord::following(&Head::EMPTY, event);
    assert!(matches!(
        refused,
        Err(AuditProblem::Value(NotCanonical::Integer(_)))
    ));
}
