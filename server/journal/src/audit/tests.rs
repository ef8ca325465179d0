use std::fs;

use tempfile::TempDir;

use super::record::tests::event;
use super::*;
use crate::frame::Problem;

fn options() -> AuditOptions {
    AuditOptions {
        max_file_bytes: 1600, // three records
        sign_every: NonZeroU64::new(3).unwrap(),
        key: Some(SigningKey::from_seed(&[1; 32]).unwrap()),
    }
}

fn open(folder: &Path) -> Audit {
    let (audit, cut) = Audit::open(folder, options()).unwrap();
    assert_eq!(cut, None);
    audit
}

/// Seven records, the head signed after the third and the sixth.
fn seven() -> (TempDir, PathBuf) {
    let outer = TempDir::new().unwrap();
    let folder = outer.path().join("audit");
    let mut audit = open(&folder);
    for seq in 1..=7 {
        let record = audit.append(event(seq)).unwrap();
        assert_eq!(record.head(), audit.head());
        let signed = audit.sign_if_due().unwrap();
        assert_eq!(signed.map(|signed| signed.seq), (seq % 3 == 0).then_some(seq));
    }
    drop(audit);
    (outer, folder)
}

fn last_file(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "journal"))
        .max()
        .unwrap()
}

#[test]
fn records_are_read_exported_and_verified() {
    let (_outer, folder) = seven();
    let head = open(&folder).head();
    assert_eq!(head.seq, 7);
    assert_eq!(verify(&folder, Some(head)).unwrap(), head);
    let seqs: Vec<u64> = records(&folder, 4)
        .unwrap()
        .map(|record| record.unwrap().seq)
        .collect();
    assert_eq!(seqs, [5, 6, 7]);
    let mut text = Vec::new();
    let written = export::write(records(&folder, 0).unwrap(), &mut text, Path::new("out")).unwrap();
    assert_eq!(written, Some(head));
    let verified = export::verify(&text[..], Path::new("out"), Head::EMPTY, Some(head)).unwrap();
    assert_eq!(verified, head);
}

#[test]
fn the_signed_head_counts_on_over_reopening() {
    let (_outer, folder) = seven();
    let mut audit = open(&folder);
    let key = options().key.unwrap().public_key();
    assert_eq!(audit.signed_head().unwrap().verify(&[key]).unwrap().seq, 6);
    audit.append(event(8)).unwrap();
    assert_eq!(audit.sign_if_due().unwrap(), None);
    audit.append(event(9)).unwrap();
    let signed = audit.sign_if_due().unwrap().unwrap();
    assert_eq!(signed.verify(&[key]), Ok(audit.head()));
    assert_eq!(read_signed(&folder).unwrap(), Some(signed));
}

#[test]
fn without_a_key_no_head_is_signed() {
    let outer = TempDir::new().unwrap();
    let (mut audit, _) = Audit::open(
        outer.path(),
        AuditOptions {
            key: None,
            ..options()
        },
    )
    .unwrap();
    for seq in 1..=4 {
        audit.append(event(seq)).unwrap();
        assert_eq!(audit.sign_if_due().unwrap(), None);
    }
}

#[test]
fn records_missing_at_the_end_are_seen_against_the_signed_head() {
    let (_outer, folder) = seven();
    let head = open(&folder).head();
    let file = last_file(&folder);
    assert!(file.ends_with("00000000000000000007.journal"), "{file:?}");
    // Record 7 was not signed yet: only a head that was kept elsewhere shows that it is gone.
    fs::remove_file(&file).unwrap();
    assert_eq!(open(&folder).head().seq, 6);
    let error = verify(&folder, Some(head)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Audit {
                seq: 7,
                problem: AuditProblem::Truncated {
                    expected: 7,
                    missing: 1
                },
                ..
            }
        ),
        "{error}"
    );
    // Record 6 was.
    fs::remove_file(last_file(&folder)).ok();
    fs::remove_file(last_file(&folder)).unwrap();
    let error = Audit::open(&folder, options()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Audit {
                problem: AuditProblem::Truncated { expected: 6, .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_audit_that_was_written_anew_is_seen_against_the_signed_head() {
    let (_outer, folder) = seven();
    let anew = folder.with_extension("anew");
    let mut audit = open(&anew);
    for seq in 1..=7 {
        let mut event = event(seq);
        event.reason = "another story".to_owned();
        audit.append(event).unwrap();
    }
    drop(audit);
    assert_eq!(verify(&anew, None).unwrap().seq, 7);
    fs::copy(folder.join("head"), anew.join("head")).unwrap();
    let error = Audit::open(&anew, options()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Audit {
                seq: 6,
                problem: AuditProblem::Rewritten { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_changed_signed_head_is_refused() {
    let (_outer, folder) = seven();
    let mut signed = read_signed(&folder).unwrap().unwrap();
    signed.seq = 5;
    snapshot::replace(&folder.join("head"), &serde_json::to_vec(&signed).unwrap()).unwrap();
    let error = Audit::open(&folder, options()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Audit {
                problem: AuditProblem::Signature,
                ..
            }
        ),
        "{error}"
    );
    snapshot::replace(&folder.join("head"), b"{}").unwrap();
    assert!(matches!(
        Audit::open(&folder, options()),
        Err(Error::Snapshot { .. })
    ));
}

#[test]
fn a_changed_byte_in_the_journal_is_named() {
    let (_outer, folder) = seven();
    let file = folder.join("00000000000000000001.journal");
    let whole = fs::read(&file).unwrap();
    for at in (72..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let found = match verify(&folder, None).unwrap_err() {
            Error::Broken { seq, offset, .. } => (seq, offset),
            other => panic!("{other}"),
        };
        fs::write(&file, &whole).unwrap();
        let holds = series::records(&folder, Purpose::Audit, 0)
            .unwrap()
            .map(Result::unwrap)
            .filter(|record| record.offset <= at as u64)
            .take_while(|record| record.seq <= 3)
            .last()
            .unwrap();
        assert_eq!(found, (holds.seq, holds.offset), "byte {at}");
    }
}

#[test]
fn a_journal_of_other_things_is_no_audit() {
    let outer = TempDir::new().unwrap();
    let (mut series, _) = Series::open(outer.path(), Purpose::Audit, 2000).unwrap();
    series.append(b"{}").unwrap();
    drop(series);
    let error = verify(outer.path(), None).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Audit {
                seq: 1,
                problem: AuditProblem::Field(_),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_event_that_has_no_canonical_spelling_is_refused_and_leaves_the_audit_whole() {
    let (_outer, folder) = seven();
    let mut audit = open(&folder);
    let mut bad = event(8);
    bad.after = serde_json::json!(u64::MAX);
    let error = audit.append(bad).unwrap_err();
    assert!(error.to_string().contains("write it as a string"), "{error}");
    assert_eq!(audit.append(event(8)).unwrap().seq, 8);
    assert_eq!(verify(&folder, None).unwrap().seq, 8);
}

#[test]
fn a_torn_record_was_never_acknowledged() {
    let (_outer, folder) = seven();
    let file = last_file(&folder);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let error = verify(&folder, None).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Broken {
                seq: 7,
                problem: Problem::Short { missing: 5 },
                ..
            }
        ),
        "{error}"
    );
    let (audit, cut) = Audit::open(&folder, options()).unwrap();
    assert_eq!((audit.head().seq, cut.is_some()), (6, true));
}
