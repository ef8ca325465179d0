use std::fs;

use crossfade_journal::audit::{AuditRecord, records, verify};
use serde_json::json;

use super::*;

const REV: Hash = Hash([7; 32]);

fn config(key: Option<PathBuf>) -> AuditConfig {
    AuditConfig {
        sign_every: NonZeroU64::new(2).unwrap(),
        key,
    }
}

fn open(folder: &Path) -> Arc<AuditLog> {
    AuditLog::open(Some(folder.to_owned()), &config(None), REV, Arc::default()).unwrap()
}

fn entry(object: &str) -> Entry {
    let call = Call::anonymous(Listener::Http, Some("127.0.0.1:9".parse().unwrap()));
    Entry::new(call, Action::Unload, object)
}

fn written(folder: &Path) -> Vec<AuditRecord> {
    records(folder, 0).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_record_says_who_did_what_and_how_it_ended() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("audit");
    let log = open(&folder);
    let unloaded = entry("model/a")
        .before(json!({ "versions": [1] }))
        .ended(Outcome::Ok);
    assert_eq!(log.write(unloaded), Ok(1));
    let second = entry("model/b").reason("too slow");
    let refusal = log.refused(second, Refusal::new(Status::Conflict, "no"));
    assert_eq!(refusal.status, Status::Conflict);

    let written = written(&folder);
    let event = &written[0].event;
    assert_eq!(
        (event.actor.as_str(), event.action.as_str()),
        ("anonymous", "model.unload")
    );
    assert_eq!((event.object.as_str(), event.config_rev), ("model/a", REV));
    assert_eq!(event.before, json!({ "versions": [1] }));
    assert_eq!(event.after, json!({ "outcome": "ok" }));
    assert_eq!(
        event.evidence,
        [json!({ "listener": "http", "peer": "127.0.0.1:9" })]
    );
    assert_eq!(
        written[1].event.after,
        json!({ "outcome": "refused", "error": "no" })
    );
    assert_eq!(
        (event.reason.as_str(), written[1].event.reason.as_str()),
        ("", "too slow")
    );
    assert_eq!(verify(&folder, log.head()).unwrap().seq, 2);
}

#[test]
fn a_client_cannot_make_a_record_long() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("audit");
    let log = open(&folder);
    let long = "ü".repeat(1 << 20);
    log.refused(entry(&long), Refusal::invalid(long.clone()));
    let line = written(&folder)[0].line().unwrap();
    assert!(line.len() < 8 * 1024, "{}", line.len());
}

#[test]
fn it_goes_on_where_it_ended_and_has_one_writer() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("audit");
    let first = open(&folder);
    first.write(entry("a").ended(Outcome::Ok)).unwrap();
    assert!(AuditLog::open(Some(folder.clone()), &config(None), REV, Arc::default()).is_err());
    drop(first);
    assert_eq!(open(&folder).write(entry("b").ended(Outcome::Ok)), Ok(2));
    assert_eq!(verify(&folder, None).unwrap().seq, 2);
}

#[test]
fn a_damaged_audit_is_not_continued() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("audit");
    let log = open(&folder);
    for object in ["a", "b", "c"] {
        log.write(entry(object).ended(Outcome::Ok)).unwrap();
    }
    drop(log);
    let file = folder.join("00000000000000000001.journal");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes
        .windows(10)
        .position(|part| part == b"\"object\":\"")
        .unwrap();
    bytes[at + 10] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = AuditLog::open(Some(folder), &config(None), REV, Arc::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("record 1"), "{error}");
}

#[test]
fn heads_are_signed_with_the_key_and_a_file_that_is_no_key_is_named() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("audit");
    let key = above.path().join("key.pem");
    fs::write(&key, "no key").unwrap();
    let opened = |key: &Path| {
        let config = config(Some(key.to_owned()));
        AuditLog::open(Some(folder.clone()), &config, REV, Arc::default())
    };
    let error = opened(&key).err().unwrap().to_string();
    assert!(
        error.contains("key.pem") && error.contains("PRIVATE KEY"),
        "{error}"
    );
    // RFC 8410 §10.3.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    fs::write(&key, pem).unwrap();
    let log = opened(&key).unwrap();
    for object in ["a", "b", "c"] {
        log.write(entry(object).ended(Outcome::Ok)).unwrap();
    }
    let signed = crossfade_journal::audit::read_signed(&folder).unwrap().unwrap();
    assert_eq!(signed.seq, 2);
    assert!(signed.verify(&[signed.key]).is_ok());
}

#[test]
fn without_a_data_folder_nothing_is_recorded_and_so_nothing_done() {
    let log = AuditLog::open(None, &config(None), REV, Arc::default()).unwrap();
    let refusal = log.write(entry("model/a")).unwrap_err();
    assert_eq!(refusal.status, Status::NotReady);
    assert!(refusal.message.contains("--data-dir"), "{refusal}");
    assert_eq!(log.lines(0, 10).unwrap_err().status, Status::NotReady);
}

#[test]
fn strangers_do_not_fill_the_disk() {
    let above = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let log = open(&above.path().join("audit"));
    for _ in 0..REFUSALS + 50 {
        log.refused(entry("model/a"), Refusal::new(Status::Conflict, "no"));
    }
    let written = written(&above.path().join("audit")).len() as u64;
    // However long it takes: one more per second.
    let most = u64::from(REFUSALS) + began.elapsed().as_secs();
    assert!(
        (u64::from(REFUSALS)..=most).contains(&written),
        "{written} of at most {most}"
    );
}
