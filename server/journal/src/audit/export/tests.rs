use proptest::prelude::*;

use super::*;
use crate::audit::record::tests::event;
use crate::hash::Hash;

const RECORDS: u64 = 5;

fn records() -> Vec<AuditRecord> {
    let mut head = Head::EMPTY;
    (1..=RECORDS)
        .map(|seq| {
            let (record, _) = AuditRecord::following(&head, event(seq)).unwrap();
            head = record.head();
            record
        })
        .collect()
}

fn export(records: &[AuditRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    write(records.iter().cloned().map(Ok), &mut out, Path::new("out")).unwrap();
    out
}

fn check(text: &[u8], expected: Option<Head>) -> Result<Head, (u64, u64, AuditProblem)> {
    match verify(text, Path::new("audit.jsonl"), Head::EMPTY, expected) {
        Ok(head) => Ok(head),
        Err(Error::Audit {
            seq, line, problem, ..
        }) => Err((seq, line, problem)),
        Err(other) => panic!("{other}"),
    }
}

/// The lines in this order.
fn lines(order: &[usize]) -> Vec<u8> {
    let records = records();
    export(
        &order
            .iter()
            .map(|&index| records[index].clone())
            .collect::<Vec<_>>(),
    )
}

#[test]
fn a_whole_export_is_verified() {
    let records = records();
    let head = records[4].head();
    assert_eq!(check(&export(&records), None), Ok(head));
    for record in &records {
        assert_eq!(check(&export(&records), Some(record.head())), Ok(head));
    }
    assert_eq!(check(b"", None), Ok(Head::EMPTY));
    let part = verify(
        &export(&records[2..])[..],
        Path::new("part"),
        records[1].head(),
        Some(head),
    );
    assert_eq!(part.unwrap(), head);
}

#[test]
fn any_changed_byte_is_found_in_its_line() {
    let whole = export(&records());
    let mut line = 1;
    for at in 0..whole.len() {
        for change in [0x01, 0x04, 0x20, 0x80] {
            let mut text = whole.clone();
            text[at] ^= change;
            let (seq, found, _) = check(&text, None).unwrap_err();
            assert_eq!((seq, found), (line, line), "byte {at} ^ {change}");
        }
        line += u64::from(whole[at] == b'\n');
    }
    assert_eq!(line, RECORDS + 1);
}

#[test]
fn removed_repeated_and_moved_records_are_named() {
    let problem = |order: &[usize]| check(&lines(order), None).unwrap_err();
    assert_eq!(problem(&[1, 2, 3, 4]), (1, 1, AuditProblem::Sequence(2)));
    assert_eq!(problem(&[0, 1, 3, 4]), (3, 3, AuditProblem::Sequence(4)));
    assert_eq!(problem(&[0, 1, 1, 2]), (3, 3, AuditProblem::Sequence(2)));
    assert_eq!(problem(&[0, 2, 1, 3]), (2, 2, AuditProblem::Sequence(3)));
}

#[test]
fn a_missing_end_is_seen_against_a_head_only() {
    let head = records()[4].head();
    for kept in 0..4_usize {
        let text = lines(&(0..kept).collect::<Vec<_>>());
        assert_eq!(check(&text, None).unwrap().seq, kept as u64);
        let next = kept as u64 + 1;
        let missing = RECORDS - kept as u64;
        let problem = AuditProblem::Truncated { expected: 5, missing };
        assert_eq!(check(&text, Some(head)), Err((next, next, problem)));
    }
}

#[test]
fn a_chain_that_was_written_anew_is_seen_against_a_head_only() {
    let old = records();
    let mut head = Head::EMPTY;
    let mut anew = Vec::new();
    for mut record in old.clone() {
        if record.seq == 3 {
            record.event.actor = "mallory".to_owned();
        }
        let (record, _) = AuditRecord::following(&head, record.event).unwrap();
        head = record.head();
        anew.push(record);
    }
    assert_eq!(check(&export(&anew), None), Ok(head));
    assert_eq!(check(&export(&anew), Some(old[1].head())), Ok(head));
    let rewritten = AuditProblem::Rewritten {
        found: anew[3].hash,
        expected: old[3].hash,
    };
    assert_eq!(check(&export(&anew), Some(old[3].head())), Err((4, 4, rewritten)));
    // A forged record in the old chain does not fit between its neighbours.
    let mut mixed = old.clone();
    mixed[2] = anew[2].clone();
    let chain = AuditProblem::Chain {
        found: old[2].hash,
        expected: anew[2].hash,
    };
    assert_eq!(check(&export(&mixed), None), Err((4, 4, chain)));
}

#[test]
fn a_part_of_an_export_is_checked_against_what_it_covers() {
    let records = records();
    let text = export(&records[2..]);
    let problem = |after, expected| match verify(&text[..], Path::new("part"), after, Some(expected)) {
        Err(Error::Audit { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        problem(records[1].head(), records[0].head()),
        AuditProblem::Uncovered(1)
    );
    let other = Head {
        seq: 2,
        hash: Hash::ZERO,
    };
    assert!(matches!(
        problem(records[1].head(), other),
        AuditProblem::Rewritten { .. }
    ));
}

#[test]
fn a_line_without_an_end_or_too_long_is_refused() {
    let mut text = lines(&[0, 1]);
    text.pop();
    assert_eq!(check(&text, None), Err((2, 2, AuditProblem::Line)));
    let long = vec![b' '; MAX_LINE_BYTES + 1];
    assert_eq!(check(&long, None), Err((1, 1, AuditProblem::Line)));
    assert!(matches!(check(b"\n", None), Err((1, 1, AuditProblem::Json(_)))));
}

#[test]
fn an_error_among_the_records_ends_the_export() {
    let broken = Error::Locked { path: "x".into() };
    let mut out = Vec::new();
    let written = write(
        [Ok(records()[0].clone()), Err(broken)].into_iter(),
        &mut out,
        Path::new("out"),
    );
    assert!(matches!(written, Err(Error::Locked { .. })));
    assert_eq!(check(&out, None).unwrap().seq, 1);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(text in prop::collection::vec(any::<u8>(), 1..300)) {
        prop_assert!(check(&text, None).is_err());
    }
}
