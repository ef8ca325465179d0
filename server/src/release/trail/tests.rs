use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU64;

use crossfade_journal::audit::{records, verify};
use crossfade_journal::{Hash, Journal, Purpose};
use crossfade_rollout::state::{Event, Path as Way};
use tempfile::TempDir;

use super::super::log::{self, Log};
use super::super::record::Created;
use super::*;
use crate::config::AuditConfig;

const AUDIT_FILE: &str = "audit/00000000000000000001.journal";

fn audit(data: &Path) -> Arc<AuditLog> {
    let config = AuditConfig {
        sign_every: NonZeroU64::MIN,
        key: None,
    };
    let folder = data.join("audit");
    AuditLog::open(Some(folder), &config, Hash([7; 32]), Arc::default()).unwrap()
}

fn open(data: &Path) -> (Log, Book) {
    Log::open(&data.join("logs"), "m", &audit(data)).unwrap()
}

fn moved(event: Event, state: State) -> Record {
    Record::Moved {
        id: "r2".into(),
        event,
        state,
        actor: SERVER.into(),
        why: None,
        at: 4,
    }
}

fn created() -> Record {
    Record::Created(Created {
        id: "r2".into(),
        version: u64::MAX,
        champion: 1,
        digest: "d2".into(),
        path: Way {
            champion: true,
            steps: 1,
            ..Way::default()
        },
        policy: Value::Null,
        config_rev: None,
        actor: "ann".into(),
        why: Some("newer".into()),
        at: 3,
    })
}

/// A release from the first version to the way back.
fn whole() -> Vec<Record> {
    let adopted = Record::Adopted {
        version: 1,
        seen: BTreeSet::from([1]),
        at: 1,
    };
    let seen = Record::Seen {
        version: 1,
        digest: "d1".into(),
        at: 2,
    };
    let gated = Record::Gated {
        id: "r2".into(),
        report: r#"{"gates":[{"name":"golden","outcome":"passed"}]}"#.into(),
        at: 4,
    };
    let restored = Record::Restored {
        version: 1,
        actor: "bob".into(),
        why: "worse".into(),
        at: 5,
    };
    vec![
        adopted,
        seen,
        created(),
        moved(Event::Verified, State::Loading),
        moved(Event::Loaded, State::Gating),
        gated,
        moved(Event::GatesPassed, State::Canary { step: 0 }),
        moved(Event::StagePassed, State::Promoting),
        moved(Event::Switched, State::Live),
        restored,
    ]
}

/// All that the audit says, but for when; verified.
fn told(data: &Path) -> Vec<Value> {
    let folder = data.join("audit");
    verify(&folder, None).unwrap();
    let records = records(&folder, 0).unwrap();
    let said = records.map(|record| {
        let mut said: Value = serde_json::from_str(&record.unwrap().line().unwrap()).unwrap();
        for key in ["ts", "hash", "prev_hash"] {
            said.as_object_mut().unwrap().remove(key);
        }
        said
    });
    said.collect()
}

fn actions(told: &[Value]) -> Vec<&str> {
    told.iter().map(|said| said["action"].as_str().unwrap()).collect()
}

/// The number of the log's record that each record of the audit names.
fn places(told: &[Value]) -> Vec<u64> {
    told.iter()
        .map(|said| said["evidence"][0]["log"]["seq"].as_u64().unwrap())
        .collect()
}

fn written() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let mut log = open(data.path()).0;
    for record in whole() {
        log.append(&record).unwrap();
    }
    data
}

#[test]
fn each_record_of_the_log_is_one_of_the_audit_and_names_it() {
    let data = written();
    let told = told(data.path());
    let expected = [
        "release.log",
        "release.adopted",
        "release.seen",
        "release.created",
        "release.moved",
        "release.moved",
        "release.gated",
        "release.moved",
        "release.moved",
        "release.moved",
        "release.restored",
    ];
    assert_eq!(actions(&told), expected);
    assert_eq!(places(&told), (0..=10).collect::<Vec<_>>());
    let log = Reader::open(&data.path().join("logs/m.log")).unwrap();
    for record in log.map(Result::unwrap) {
        let place = &told[usize::try_from(record.seq).unwrap()]["evidence"][0]["log"];
        assert_eq!(
            *place,
            json!({ "model": "m", "seq": record.seq, "hash": record.hash })
        );
    }
    let begun = &told[3];
    assert_eq!(
        (&begun["actor"], &begun["role"], &begun["reason"]),
        (&json!("ann"), &json!(""), &json!("newer"))
    );
    assert_eq!(begun["object"], "model/m/rollout/r2");
    assert_eq!(
        (&begun["before"], &begun["after"]["value"]),
        (&Value::Null, &json!({ "state": "verifying" }))
    );
    let evidence = &begun["evidence"][0];
    assert_eq!(evidence["version"], u64::MAX.to_string(), "exactly");
    assert_eq!(
        (&evidence["artifact_sha256"], &evidence["champion"]),
        (&json!("d2"), &json!("1"))
    );
    let to_canary = &told[7];
    assert_eq!(
        (&to_canary["actor"], &to_canary["role"]),
        (&json!("crossfade"), &json!("server"))
    );
    assert_eq!(to_canary["before"], json!({ "state": "gating" }));
    assert_eq!(
        to_canary["after"],
        json!({ "outcome": "ok", "value": { "state": "canary", "step": 0 } })
    );
    assert_eq!(to_canary["evidence"][0]["event"], "gates_passed");
    assert_eq!(told[6]["evidence"][0]["passed"], json!({ "golden": true }));
    let back = &told[10];
    assert_eq!(
        (&back["actor"], &back["reason"]),
        (&json!("bob"), &json!("worse"))
    );
    assert_eq!(back["object"], "model/m");
    assert_eq!(back["before"], json!({ "live": u64::MAX.to_string() }));
    assert_eq!(back["after"]["value"], json!({ "live": "1" }));
}

/// The process dies after each record of the log, before the audit's or in the middle of it.
#[test]
fn a_kill_between_the_two_writes_loses_no_record_and_repeats_none() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join(AUDIT_FILE);
    let mut before = Vec::new();
    let mut log = open(data.path()).0;
    for record in whole() {
        before.push(fs::read(&file).unwrap().len());
        log.append(&record).unwrap();
    }
    drop(log);
    let expected = told(data.path());
    let bytes = fs::read(&file).unwrap();
    for end in before {
        for torn in [0, 40] {
            fs::write(&file, &bytes[..end + torn]).unwrap();
            for _ in 0..2 {
                drop(open(data.path()));
                assert_eq!(told(data.path()), expected, "cut at {end} + {torn}");
            }
        }
    }
}

#[test]
fn a_log_from_before_is_followed_from_its_end_on() {
    let data = written();
    fs::remove_dir_all(data.path().join("audit")).unwrap();
    let mut log = open(data.path()).0;
    let begun = told(data.path());
    assert_eq!((actions(&begun), places(&begun)), (vec!["release.log"], vec![10]));
    assert_eq!(begun[0]["before"], Value::Null);
    log.append(&created()).unwrap();
    drop(log);
    drop(open(data.path()));
    assert_eq!(places(&told(data.path())), [10, 11]);
}

#[test]
fn a_log_that_is_another_one_is_not_taken_for_the_one_before() {
    let data = written();
    let path = data.path().join("logs/m.log");
    let whole_log = fs::read(&path).unwrap();
    let places_of = || places(&told(data.path())).split_off(11);

    fs::remove_file(&path).unwrap();
    let mut log = open(data.path()).0;
    log.append(&whole()[1]).unwrap();
    drop(log);
    assert_eq!(places_of(), [0, 1], "a new one from its beginning");
    let begun = &told(data.path())[11];
    assert_eq!(
        (&begun["before"]["seq"], &begun["after"]["value"]["seq"]),
        (&json!(10), &json!(0))
    );

    // An older copy of the first one is put back.
    fs::write(&path, &whole_log).unwrap();
    drop(open(data.path()));
    assert_eq!(places_of(), [0, 1, 10]);
    drop(open(data.path()));
    assert_eq!(places_of(), [0, 1, 10], "once");
}

#[test]
fn nothing_leads_on_without_the_audit_and_what_does_not_wait_is_recorded_later() {
    let data = tempfile::tempdir().unwrap();
    let config = AuditConfig {
        sign_every: NonZeroU64::MIN,
        key: None,
    };
    let none = AuditLog::open(None, &config, Hash([7; 32]), Arc::default()).unwrap();
    let (mut log, _) = Log::open(&data.path().join("logs"), "m", &none).unwrap();
    let records = whole();
    log.append(&records[0]).unwrap();
    log.append(&records[1]).unwrap();
    let error = log.append(&created()).unwrap_err();
    assert!(error.contains("data folder"), "{error}");
    assert!(log.catch_up().is_err());
    drop(log);
    assert_eq!(log::records(&data.path().join("logs/m.log")).unwrap().count(), 2);
}

/// What the audit could not take is in the log, and so is that it never took effect.
#[test]
fn a_move_that_was_withdrawn_has_not_been_made() {
    let data = tempfile::tempdir().unwrap();
    drop(open(data.path()));
    let path = data.path().join("logs/m.log");
    let (mut journal, _) = Journal::open(&path, Purpose::Rollout).unwrap();
    let withdrawn = Record::Withdrawn {
        seq: 3,
        why: "the audit".into(),
    };
    for record in [
        whole()[0].clone(),
        created(),
        moved(Event::Verified, State::Loading),
        withdrawn,
    ] {
        journal.append(&serde_json::to_vec(&record).unwrap()).unwrap();
    }
    drop(journal);
    let (mut log, book) = open(data.path());
    assert_eq!(book.runs[0].state, State::Verifying);
    log.append(&moved(Event::Verified, State::Loading)).unwrap();
    drop(log);
    let told = told(data.path());
    let expected = ["release.moved", "release.withdrawn", "release.moved"];
    assert_eq!(actions(&told)[3..], expected);
    let states = |at: usize| (&told[at]["before"]["state"], &told[at]["after"]["value"]["state"]);
    assert_eq!(states(3), (&json!("verifying"), &json!("loading")));
    assert_eq!(states(4), (&json!("loading"), &json!("verifying")));
    assert_eq!(states(5), (&json!("verifying"), &json!("loading")));
    assert_eq!(told[4]["object"], "model/m/rollout/r2");
    assert_eq!(open(data.path()).1.runs[0].state, State::Loading);
}
