use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::frame::{FRAME_HEAD_BYTES, MAX_FRAME_BYTES};
use crate::header::{HEADER_BYTES, HeaderProblem};
use crate::reader::{Reader, read_bytes, verify};
use crate::storage::faulty::{Fault, FaultyDisk};

const HEADER: Header = Header {
    purpose: Purpose::Rollout,
    base: Head::EMPTY,
};

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("fraud.log");
    (folder, path)
}

fn open(path: &Path) -> Journal {
    let (journal, cut) = Journal::open(path, Purpose::Rollout).unwrap();
    assert_eq!(cut, None);
    journal
}

fn payloads(path: &Path) -> Vec<Vec<u8>> {
    let records: Result<Vec<_>, _> = Reader::open(path).unwrap().collect();
    records
        .unwrap()
        .into_iter()
        .map(|record| record.payload)
        .collect()
}

/// A journal of these payloads, in bytes.
fn bytes_of(payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = HEADER.encode().to_vec();
    let mut head = Head::EMPTY;
    for payload in payloads {
        head = frame::encode(&head, payload, &mut bytes);
    }
    bytes
}

/// A journal on a disk that can fail. `folder` is only there for its name.
fn on(disk: &FaultyDisk, path: &Path) -> Result<(Journal, Option<Cut>), Error> {
    Journal::on(Box::new(disk.clone()), path, HEADER)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_appended_is_read_and_continued(
        rounds in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5), 1..4),
    ) {
        let (_folder, path) = folder();
        let mut all = Vec::new();
        let mut head = Head::EMPTY;
        for round in rounds {
            let mut journal = open(&path);
            prop_assert_eq!(journal.head(), head);
            for payload in round {
                let expected = Head { seq: head.seq + 1, hash: head.hash.link(&payload) };
                head = journal.append(&payload).unwrap();
                prop_assert_eq!(head, expected);
                all.push(payload);
            }
        }
        prop_assert_eq!(payloads(&path), all);
        prop_assert_eq!(verify(&path).unwrap().head, head);
    }

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        after_header in any::<bool>(),
    ) {
        let mut file = if after_header { bytes_of(&[b"one"]) } else { Vec::new() };
        file.extend_from_slice(&bytes);
        let read = read_bytes(&file);
        prop_assert_eq!(read.is_ok(), after_header && bytes.is_empty());
        let (_folder, path) = folder();
        let opened = on(&FaultyDisk::with(&file), &path);
        if after_header {
            prop_assert_eq!(opened.unwrap().0.head().seq, 1);
        }
    }
}

#[test]
fn the_file_is_what_the_format_says() {
    let (_folder, path) = folder();
    let mut journal = open(&path);
    journal.append(b"one").unwrap();
    journal.append(b"two").unwrap();
    assert_eq!(journal.size(), (HEADER_BYTES + 2 * (FRAME_HEAD_BYTES + 3)) as u64);
    assert_eq!(std::fs::read(&path).unwrap(), bytes_of(&[b"one", b"two"]));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_kept() {
    let whole = bytes_of(&[b"one", b"two", b"the last record"]);
    let end = whole.len() - FRAME_HEAD_BYTES - 15;
    for length in end..=whole.len() {
        let (_folder, path) = folder();
        std::fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, cut) = Journal::open(&path, Purpose::Rollout).unwrap();
        if length == end || length == whole.len() {
            assert_eq!(cut, None);
        } else {
            let cut = cut.unwrap();
            assert_eq!((cut.offset, cut.bytes), (end as u64, (length - end) as u64));
            assert_eq!(std::fs::read(cut.kept).unwrap(), whole[end..length]);
        }
        let expected = if length == whole.len() { 3 } else { 2 };
        assert_eq!(journal.head().seq, expected, "cut at {length}");
        journal.append(b"goes on").unwrap();
        drop(journal);
        assert_eq!(verify(&path).unwrap().records, expected + 1);
    }
}

#[test]
fn a_tail_of_zeros_or_rubbish_is_cut_off() {
    for tail in [
        vec![0; 3],
        vec![0; 5000],
        vec![0xAA; 100],
        frame::MAGIC.repeat(300),
    ] {
        let (_folder, path) = folder();
        let mut bytes = bytes_of(&[b"one"]);
        let end = bytes.len() as u64;
        bytes.extend_from_slice(&tail);
        std::fs::write(&path, bytes).unwrap();
        let (journal, cut) = Journal::open(&path, Purpose::Rollout).unwrap();
        assert_eq!(journal.size(), end);
        assert_eq!(cut.unwrap().bytes, tail.len() as u64);
    }
}

#[test]
fn a_tail_longer_than_a_record_is_damage() {
    let (_folder, path) = folder();
    let mut bytes = bytes_of(&[b"one"]);
    let offset = bytes.len() as u64;
    bytes.resize(bytes.len() + MAX_FRAME_BYTES + 1, 0);
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(&path, Purpose::Rollout).unwrap_err();
    assert!(
        matches!(error, Error::Broken { seq: 2, offset: at, problem: Problem::Magic, .. } if at == offset),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_changed_record_before_a_torn_one_is_damage() {
    let (_folder, path) = folder();
    let mut bytes = bytes_of(&[b"one", b"two", b"three"]);
    let offset = HEADER_BYTES + FRAME_HEAD_BYTES + 3;
    bytes[offset + FRAME_HEAD_BYTES] ^= 1;
    bytes.truncate(bytes.len() - 2);
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(&path, Purpose::Rollout).unwrap_err();
    assert!(
        matches!(error, Error::Broken { seq: 2, offset: at, problem: Problem::Crc, .. } if at == offset as u64),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn any_changed_byte_is_found_in_its_record() {
    let whole = bytes_of(&[b"first", b"", b"third record"]);
    let begins = [
        HEADER_BYTES,
        HEADER_BYTES + 89,
        HEADER_BYTES + 89 + 84,
        whole.len(),
    ];
    for at in 0..whole.len() {
        for change in [0x01, 0x20, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let record = begins.iter().filter(|&&begin| begin <= at).count();
            let (_folder, path) = folder();
            std::fs::write(&path, &bytes).unwrap();
            let verified = verify(&path).unwrap_err();
            match (record, verified) {
                (0, Error::Header { .. }) => {}
                (1.., Error::Broken { seq, offset, .. }) => {
                    assert_eq!(
                        (seq, offset),
                        (record as u64, begins[record - 1] as u64),
                        "byte {at}"
                    );
                }
                (_, other) => panic!("byte {at}: {other}"),
            }
            if change == 0x20 {
                reopening_reports(&path, record, &bytes);
            }
        }
    }
}

/// Opening refuses damage in the middle and leaves it; what is damaged at the end is cut off, reported and kept.
fn reopening_reports(path: &Path, record: usize, bytes: &[u8]) {
    match (record, Journal::open(path, Purpose::Rollout)) {
        (0..=2, Err(_)) => assert_eq!(std::fs::read(path).unwrap(), bytes),
        (3, Ok((journal, Some(cut)))) => {
            assert_eq!(journal.head().seq, 2);
            assert_eq!(
                std::fs::read(cut.kept).unwrap(),
                bytes[bytes.len() - FRAME_HEAD_BYTES - 12..]
            );
        }
        (_, other) => panic!("record {record}: {other:?}"),
    }
}

#[test]
fn records_removed_repeated_moved_or_forged_are_told_apart() {
    let frames = |order: &[usize]| {
        let whole = bytes_of(&[b"aaa", b"bbb", b"ccc"]);
        let frame = |index: usize| &whole[HEADER_BYTES + index * 87..HEADER_BYTES + (index + 1) * 87];
        let mut bytes = HEADER.encode().to_vec();
        order
            .iter()
            .for_each(|&index| bytes.extend_from_slice(frame(index)));
        bytes
    };
    let problem = |bytes: &[u8]| match read_bytes(bytes) {
        Err(Error::Broken { seq, problem, .. }) => (seq, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&frames(&[0, 2])), (2, Problem::Sequence(3)));
    assert_eq!(problem(&frames(&[1, 2])), (1, Problem::Sequence(2)));
    assert_eq!(problem(&frames(&[0, 1, 1])), (3, Problem::Sequence(2)));
    assert_eq!(problem(&frames(&[0, 2, 1])), (2, Problem::Sequence(3)));

    // A record of another chain, with a right number and checksum.
    let mut bytes = frames(&[0]);
    let elsewhere = Head {
        seq: 1,
        hash: crate::Hash([9; 32]),
    };
    frame::encode(&elsewhere, b"bbb", &mut bytes);
    assert!(matches!(problem(&bytes), (2, Problem::Chain { .. })));

    // A payload exchanged together with its checksum.
    let mut bytes = frames(&[0, 1]);
    let start = HEADER_BYTES + 87;
    bytes[start + 84] = b'x';
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[start + 4..start + 8]);
    crc.update(&bytes[start + 12..]);
    bytes[start + 8..start + 12].copy_from_slice(&crc.finalize().to_le_bytes());
    assert!(matches!(problem(&bytes), (2, Problem::Hash { .. })));

    // None of it is what a crash leaves: opening changes nothing, even at the end of the file.
    let (_folder, path) = folder();
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        Journal::open(&path, Purpose::Rollout),
        Err(Error::Broken { seq: 2, .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_length_beyond_the_limit_is_not_read() {
    let mut bytes = bytes_of(&[b"one"]);
    bytes[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&0x0010_0001_u32.to_le_bytes());
    assert!(matches!(
        read_bytes(&bytes),
        Err(Error::Broken {
            seq: 1,
            problem: Problem::Length(_),
            ..
        })
    ));
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let (_folder, path) = folder();
    let mut first = open(&path);
    first.append(b"one").unwrap();
    assert!(matches!(
        Journal::open(&path, Purpose::Rollout),
        Err(Error::Locked { .. })
    ));
    assert_eq!(payloads(&path), [b"one"]);
    drop(first);
    assert_eq!(open(&path).head().seq, 1);
}

#[test]
fn a_file_of_another_purpose_or_kind_is_left_alone() {
    let (folder, path) = folder();
    drop(open(&path));
    let error = Journal::open(&path, Purpose::Audit).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a journal of `rollout`, not of `audit`"),
        "{error}"
    );
    let notes = folder.path().join("notes");
    std::fs::write(&notes, "mine").unwrap();
    let error = Journal::open(&notes, Purpose::Audit).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Header {
                problem: HeaderProblem::Short(4),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read(&notes).unwrap(), b"mine");
    let missing = folder.path().join("no/such/folder.log");
    let error = Journal::open(&missing, Purpose::Audit).unwrap_err();
    assert!(error.to_string().contains("create its folder"), "{error}");
}

#[test]
fn a_header_torn_at_any_byte_is_begun_again() {
    for length in 0..HEADER_BYTES {
        let (_folder, path) = folder();
        std::fs::write(&path, &HEADER.encode()[..length]).unwrap();
        let mut journal = open(&path);
        journal.append(b"one").unwrap();
        assert_eq!(payloads(&path), [b"one"]);
    }
}

#[test]
fn the_largest_record_fits_and_a_larger_one_leaves_the_journal_whole() {
    let (_folder, path) = folder();
    let mut journal = open(&path);
    let largest = vec![7; MAX_PAYLOAD_BYTES];
    journal.append(&largest).unwrap();
    let error = journal.append(&vec![7; MAX_PAYLOAD_BYTES + 1]).unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { bytes: 1_048_577, .. }),
        "{error}"
    );
    journal.append(b"goes on").unwrap();
    assert_eq!(payloads(&path), [largest, b"goes on".to_vec()]);
}

#[test]
fn short_and_interrupted_writes_are_completed() {
    for fault in [Fault::Short(1), Fault::Short(7), Fault::Interrupted] {
        let (_folder, path) = folder();
        let disk = FaultyDisk::default();
        disk.set(Some(fault));
        let mut journal = on(&disk, &path).unwrap().0;
        journal.append(b"one").unwrap();
        journal.append(b"two").unwrap();
        assert_eq!(disk.bytes(), bytes_of(&[b"one", b"two"]));
    }
}

#[test]
fn a_full_disk_poisons_until_the_journal_is_reopened() {
    for room in 0..FRAME_HEAD_BYTES + 3 {
        let (_folder, path) = folder();
        let disk = FaultyDisk::default();
        let mut journal = on(&disk, &path).unwrap().0;
        journal.append(b"one").unwrap();
        disk.set(Some(Fault::Full(room)));
        let error = journal.append(b"two").unwrap_err();
        assert!(error.to_string().contains("cannot append to"), "{error}");
        assert!(
            error
                .to_string()
                .contains("free space on its volume, then reopen it"),
            "{error}"
        );
        disk.set(None);
        let syncs = disk.syncs();
        let error = journal.append(b"three").unwrap_err();
        assert!(
            matches!(error, Error::Poisoned { .. }) && journal.is_poisoned(),
            "{error}"
        );
        assert_eq!(disk.syncs(), syncs);
        let (mut journal, cut) = on(&disk, &path).unwrap();
        assert_eq!((journal.head().seq, cut.is_some()), (1, room > 0));
        journal.append(b"three").unwrap();
        disk.lose_power();
        assert_eq!(disk.bytes(), bytes_of(&[b"one", b"three"]));
    }
}

#[test]
fn a_failed_sync_is_never_taken_for_a_good_one() {
    let (_folder, path) = folder();
    let disk = FaultyDisk::default();
    let mut journal = on(&disk, &path).unwrap().0;
    journal.append(b"one").unwrap();
    disk.set(Some(Fault::Sync));
    let error = journal.append(b"two").unwrap_err();
    assert!(error.to_string().contains("cannot sync"), "{error}");
    assert!(matches!(journal.append(b"three"), Err(Error::Poisoned { .. })));
    // The kernel shows the record, although the disk never got it; reopening writes it again.
    let (mut journal, cut) = on(&disk, &path).unwrap();
    assert_eq!((journal.head().seq, cut), (2, None));
    journal.append(b"three").unwrap();
    disk.lose_power();
    assert_eq!(disk.bytes(), bytes_of(&[b"one", b"two", b"three"]));
}

#[test]
fn a_header_that_was_not_synced_is_written_again() {
    let (_folder, path) = folder();
    let disk = FaultyDisk::default();
    disk.set(Some(Fault::Sync));
    assert!(matches!(on(&disk, &path), Err(Error::Io { action: "begin", .. })));
    let mut journal = on(&disk, &path).unwrap().0;
    journal.append(b"one").unwrap();
    disk.lose_power();
    assert_eq!(disk.bytes(), bytes_of(&[b"one"]));
}

#[test]
fn a_journal_that_cannot_be_settled_is_not_opened() {
    let (_folder, path) = folder();
    let mut torn = bytes_of(&[b"one", b"two"]);
    torn.pop();
    for fault in [Fault::Truncate, Fault::Sync, Fault::Full(0)] {
        let disk = FaultyDisk::with(&torn);
        disk.set(Some(fault));
        assert!(matches!(on(&disk, &path), Err(Error::Io { .. })), "{fault:?}");
        disk.set(None);
        assert_eq!(on(&disk, &path).unwrap().0.head().seq, 1);
    }
}

#[test]
fn every_acknowledged_record_survives_a_loss_of_power_at_any_moment() {
    let (_folder, path) = folder();
    for acknowledged in 0..5_u64 {
        for room in [0, 1, 50, 86] {
            let disk = FaultyDisk::default();
            let mut journal = on(&disk, &path).unwrap().0;
            for seq in 1..=acknowledged {
                assert_eq!(journal.append(&seq.to_le_bytes()).unwrap().seq, seq);
            }
            disk.set(Some(Fault::Full(room)));
            journal.append(b"never acknowledged").unwrap_err();
            disk.lose_power();
            disk.set(None);
            let journal = on(&disk, &path).unwrap().0;
            assert_eq!(journal.head().seq, acknowledged);
        }
    }
}

#[test]
fn a_chain_goes_on_in_another_file() {
    let (folder, path) = folder();
    let mut journal = open(&path);
    let head = journal.append(b"one").unwrap();
    let next = folder.path().join("next.log");
    let (mut journal, _) = Journal::open_after(&next, Purpose::Rollout, head).unwrap();
    assert_eq!(
        journal.append(b"two").unwrap(),
        Head {
            seq: 2,
            hash: head.hash.link(b"two")
        }
    );
    drop(journal);
    assert!(matches!(
        Journal::open(&next, Purpose::Rollout),
        Err(Error::Base { .. })
    ));
    assert_eq!(
        Journal::open_after(&next, Purpose::Rollout, head)
            .unwrap()
            .0
            .head()
            .seq,
        2
    );
}
