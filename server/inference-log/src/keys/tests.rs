//! Of what is encrypted nothing can be read without the keys, and everything with them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use proptest::prelude::*;

use super::*;
use crate::error::LogError;
use crate::follow::{Cursor, Follower};
use crate::log::tests::Data;
use crate::log::{Log, Selection};
use crate::scan::scan;
use crate::seal::{Sealer, segments_in};
use crate::verify::verify;
use crate::writer::Writer;

const NOON: i64 = 1_795_435_200_000_000;
const FIRST: WrappingKey = WrappingKey([1; KEY_BYTES]);
const SECOND: WrappingKey = WrappingKey([2; KEY_BYTES]);
/// What nobody may find in a file.
const SECRET: &str = "a-version-that-nobody-is-to-know";

fn encrypted() -> Data {
    Data::with(|folder| Keys::open(folder, vec![FIRST]).unwrap())
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Whether a text is in a file, anywhere.
fn is_written(folder: &Path, text: &str) -> bool {
    let has = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    files(folder).iter().any(has)
}

fn rows(data: &Data, keys: &Keys) -> Result<Vec<(u8, String)>, LogError> {
    let mut rows = Vec::new();
    Log::open(data.folder.path(), keys)?.each(&Selection::default(), |table| -> Result<(), LogError> {
        let ids = table.column_by_name("request_id").unwrap().as_fixed_size_binary();
        let versions = table.column_by_name("version").unwrap().as_string::<i32>();
        rows.extend((0..ids.len()).map(|row| (ids.value(row)[0], versions.value(row).to_owned())));
        Ok(())
    })?;
    rows.sort();
    Ok(rows)
}

#[test]
fn records_are_read_with_their_keys_and_by_nobody_else() {
    let data = encrypted();
    let folder = data.folder.path();
    let all = [(1, SECRET.to_owned()), (2, SECRET.to_owned())];
    data.put(1, NOON, SECRET);
    assert!(!is_written(&segments_in(folder), SECRET));
    assert_eq!(rows(&data, &data.keys).unwrap(), all[..1]);
    data.seal();
    data.put(2, NOON, SECRET);
    // Another process, which reads the keys from their files.
    let again = Keys::open(folder, vec![FIRST]).unwrap();
    assert_eq!(rows(&data, &again).unwrap(), all);
    let mut follower = Follower::resume(folder, &again, Cursor::default());
    let tables = follower.poll().unwrap();
    assert_eq!(tables.iter().map(|table| table.num_rows()).sum::<usize>(), 2);
    let error = rows(&data, &Keys::none()).unwrap_err().to_string();
    assert!(error.contains("log.encryption.key"), "{error}");
    let error = Keys::open(folder, vec![SECOND]).unwrap_err().to_string();
    assert!(
        error.contains("log.encryption.previous") && error.contains(&FIRST.name()),
        "{error}"
    );
    // The name of a version is a folder's name; inside of files it is nowhere.
    assert!(!is_written(&folder.join("log"), SECRET));
    let [file] = &files(&folder.join("log"))[..] else {
        panic!("one file")
    };
    assert!(fs::read(file).unwrap().starts_with(b"PARE"));
    // Whether it is whole is seen without a key.
    for keys in [Keys::none(), again] {
        let verified = verify(folder, &keys).unwrap();
        assert_eq!(
            (verified.records, verified.files, verified.damaged),
            (2, 1, Vec::new())
        );
    }
}

/// Other programs read files in memory; on the disk nothing is written as it is.
#[test]
fn other_programs_read_it_from_memory() {
    let data = encrypted();
    data.put(1, NOON, SECRET);
    data.seal();
    data.put(2, NOON, SECRET);
    let log = Log::open(data.folder.path(), &data.keys).unwrap();
    let [records, _, _] = log.readable().unwrap();
    let rows = records.iter().map(|file| {
        assert!(file.path().starts_with("/proc"), "{file:?}");
        let reader = crate::table_file::reader(&file.path(), &Keys::none()).unwrap();
        reader.metadata().file_metadata().num_rows()
    });
    assert_eq!(rows.sum::<i64>(), 2);
    assert!(!is_written(&data.folder.path().join("log"), SECRET));
}

#[test]
fn a_log_that_was_plain_goes_on_encrypted() {
    let data = Data::new();
    data.put(1, NOON, "1");
    data.seal();
    data.put(2, NOON, "1");
    let keys = Keys::open(data.folder.path(), vec![FIRST]).unwrap();
    let data = Data { keys, ..data };
    data.seal();
    assert_eq!(
        rows(&data, &data.keys).unwrap(),
        [(1, "1".to_owned()), (2, "1".to_owned())]
    );
    let mut sealer = Sealer::open(data.folder.path(), &data.keys).unwrap();
    assert_eq!(sealer.compact(2, 1 << 20).unwrap(), Some(2));
    assert_eq!(rows(&data, &data.keys).unwrap().len(), 2);
    assert!(rows(&data, &Keys::none()).is_err());
}

#[test]
fn a_person_is_erased_from_encrypted_files() {
    let data = encrypted();
    data.put_about(Some([7; 16]), 1, NOON, "1");
    data.put(2, NOON, "1");
    data.seal();
    let mut sealer = Sealer::open(data.folder.path(), &data.keys).unwrap();
    assert_eq!(sealer.erase([8; 16]).unwrap().rows, 0);
    assert_eq!(sealer.erase([7; 16]).unwrap().rows, 1);
    assert_eq!(rows(&data, &data.keys).unwrap(), [(2, "1".to_owned())]);
    assert!(
        verify(data.folder.path(), &Keys::none())
            .unwrap()
            .damaged
            .is_empty()
    );
}

/// Nothing but the wrapped keys is written.
#[test]
fn a_wrapping_key_is_rotated() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    data.seal();
    let before = files(&folder.join("log"));
    let bytes = fs::read(&before[0]).unwrap();
    let both = Keys::open(folder, vec![SECOND, FIRST]).unwrap();
    assert_eq!(both.wrap_again().unwrap(), 1);
    assert_eq!(both.wrap_again().unwrap(), 0);
    assert!(Keys::open(folder, vec![FIRST]).is_err());
    let new = Keys::open(folder, vec![SECOND]).unwrap();
    assert_eq!(rows(&data, &new).unwrap().len(), 1);
    assert_eq!(
        (files(&folder.join("log")), fs::read(&before[0]).unwrap()),
        (before.clone(), bytes)
    );
}

#[test]
fn a_key_that_was_changed_is_noticed() {
    let data = encrypted();
    let folder = data.folder.path();
    let id = wrapped_in(folder).unwrap()[0];
    let path = keys_in(folder).join(id.to_string());
    let mut wrapped = snapshot::read(&path).unwrap().unwrap();
    *wrapped.last_mut().unwrap() ^= 1;
    snapshot::replace(&path, &wrapped).unwrap();
    let error = Keys::open(folder, vec![FIRST]).unwrap_err().to_string();
    assert!(
        error.contains(&id.to_string()) && error.contains("not what was written"),
        "{error}"
    );
}

const DAYS: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A key is made each day, and goes with the last file that it opens.
#[test]
fn keys_go_with_what_they_open() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    data.seal();
    let first = data.keys.current(0).unwrap().unwrap().id();
    let later = data.keys.current(u64::MAX).unwrap().unwrap().id();
    assert_ne!(first, later);
    assert_eq!(
        data.keys.current(0).unwrap().unwrap().id(),
        later,
        "a clock that goes back"
    );
    let mut sealer = Sealer::open(folder, &data.keys).unwrap();
    assert_eq!(sealer.forget_keys(now()).unwrap(), 0, "they are too young");
    // That of the file is used, and of the open segments.
    assert_eq!(sealer.forget_keys(now() + 3 * DAYS).unwrap(), 1);
    let mut left: BTreeSet<Uuid> = wrapped_in(folder).unwrap().into_iter().collect();
    assert!(left.contains(&first) && !left.contains(&later));
    for segment in data.writer.end() {
        fs::remove_file(segment.path()).unwrap();
    }
    left.retain(|id| {
        sealer
            .manifest()
            .content()
            .files
            .values()
            .any(|file| file.key == Some(*id))
    });
    sealer.forget_keys(now() + 3 * DAYS).unwrap();
    assert_eq!(
        wrapped_in(folder).unwrap().into_iter().collect::<BTreeSet<_>>(),
        left
    );
    assert!(!left.is_empty());
    let files: Vec<String> = sealer.manifest().content().files.keys().cloned().collect();
    let copy = fs::read(folder.join(&files[0])).unwrap();
    sealer.remove(files.clone(), "retention").unwrap();
    assert_eq!(sealer.forget_keys(now() + 3 * DAYS).unwrap(), left.len());
    assert!(wrapped_in(folder).unwrap().is_empty());
    // What a copy of the file is worth then.
    let place = folder.join("copy.parquet");
    fs::write(&place, copy).unwrap();
    let keys = Keys::open(folder, vec![FIRST]).unwrap();
    assert!(crate::table_file::reader(&place, &keys).is_err());
}

/// A manifest that was lost names nothing, which is no reason to lose the files as well; nor is a segment whose beginning is damaged.
#[test]
fn keys_stay_where_it_is_not_known_what_they_open() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    data.seal();
    let count = wrapped_in(folder).unwrap().len();
    fs::remove_file(crate::manifest::manifest_in(folder)).unwrap();
    let sealer = Sealer::open(folder, &data.keys).unwrap();
    assert_eq!(sealer.forget_keys(now() + 3 * DAYS).unwrap(), 0);
    assert_eq!(wrapped_in(folder).unwrap().len(), count);

    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    data.seal();
    // Another start of the server, with a data key of its own.
    let other = Keys::open(folder, vec![FIRST]).unwrap();
    let writer = Writer::open(&segments_in(folder), 12 << 20, "here", Uuid::nil(), &other).unwrap();
    writer.append(crate::frame::Kind::Inference, 0, &[b"x"]);
    let mut sealer = Sealer::open(folder, &data.keys).unwrap();
    for segment in writer.end() {
        let mut bytes = fs::read(segment.path()).unwrap();
        bytes[20] ^= 1;
        fs::write(segment.path(), bytes).unwrap();
        assert!(matches!(
            sealer.seal(segment.path()).unwrap(),
            crate::Outcome::Aside(_)
        ));
    }
    assert_eq!(wrapped_in(folder).unwrap().len(), 2);
    assert_eq!(sealer.forget_keys(now() + 3 * DAYS).unwrap(), 0);
}

/// Whoever does not encrypt what comes, or only seals what a server has left, makes nothing plain.
#[test]
fn what_was_encrypted_stays_so() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, SECRET);
    let keys = Keys::open(folder, vec![FIRST]).unwrap().reading();
    let data = Data { keys, ..data };
    let folder = data.folder.path();
    data.seal();
    data.put_about(Some([7; 16]), 2, NOON, SECRET);
    data.put(3, NOON, SECRET);
    data.seal();
    let is_plain = || {
        let files = files(&data.folder.path().join("log"));
        let plain = files
            .iter()
            .filter(|file| !fs::read(file).unwrap().starts_with(b"PARE"))
            .count();
        (files.len(), plain)
    };
    assert_eq!(is_plain(), (2, 0));
    let mut sealer = Sealer::open(folder, &data.keys).unwrap();
    assert_eq!(sealer.erase([7; 16]).unwrap().rows, 1);
    assert_eq!(is_plain(), (2, 0));
    assert_eq!(sealer.compact(2, 1 << 20).unwrap(), Some(2));
    assert_eq!(is_plain(), (1, 0));
    assert_eq!(rows(&data, &data.keys).unwrap().len(), 2);
}

/// A record whose key is gone holds up nothing that comes after it.
#[test]
fn a_segment_whose_key_is_gone_is_put_aside() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    for id in wrapped_in(folder).unwrap() {
        fs::remove_file(keys_in(folder).join(id.to_string())).unwrap();
    }
    let keys = Keys::open(folder, vec![FIRST]).unwrap();
    let mut follower = Follower::resume(folder, &keys, Cursor::default());
    assert!(follower.poll().unwrap().is_empty());
    assert_eq!(verify(folder, &keys).unwrap().damaged.len(), 1);
    let data = Data { keys, ..data };
    let folder = data.folder.path();
    data.seal();
    data.put(2, NOON, "1");
    assert!(
        files(&segments_in(folder))
            .iter()
            .any(|path| path.to_str().unwrap().ends_with("damaged"))
    );
}

/// Whoever changes a record and its checksum, too, has no key.
#[test]
fn a_record_that_was_forged_is_found_with_the_key() {
    let data = encrypted();
    let folder = data.folder.path();
    data.put(1, NOON, "1");
    let [path] = &files(&segments_in(folder))[..] else {
        panic!("one segment")
    };
    let mut bytes = fs::read(path).unwrap();
    let (offset, id) = {
        let found = scan(&bytes).unwrap();
        (found.frames[0].offset, found.header.id)
    };
    bytes[offset + crate::frame::FRAME_HEAD_BYTES] ^= 1;
    let length = crate::frame::payload_length(&bytes[offset..]).unwrap();
    let begin = offset + crate::frame::FRAME_HEAD_BYTES;
    let payload = bytes[begin..begin + length].to_vec();
    let head = crate::frame::FrameHead {
        kind: crate::frame::Kind::Inference,
        flags: crate::frame::ENCRYPTED,
        schema: 0,
        seq: 0,
    };
    let crc = head.crc(id, u32::try_from(length).unwrap(), &[&payload]);
    bytes[offset + 8..offset + 12].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, &bytes).unwrap();
    assert!(
        verify(folder, &Keys::none()).unwrap().damaged.is_empty(),
        "the checksum is right"
    );
    assert_eq!(verify(folder, &data.keys).unwrap().damaged.len(), 1);
    assert_eq!(rows(&data, &data.keys).unwrap(), []);
    // As if it had never been encrypted.
    let mut plain = Vec::new();
    let record = crate::record::Record {
        request_id: [1; 16],
        ts_us: NOON,
        ..crate::record::Record::default()
    };
    record.encode(&mut plain);
    let size = plain.len();
    let head = crate::frame::FrameHead { flags: 0, ..head };
    let crc = head.crc(id, u32::try_from(size).unwrap(), &[&plain]);
    bytes[offset..offset + crate::frame::FRAME_HEAD_BYTES].copy_from_slice(&head.unpublished(crc));
    bytes[offset + 4..offset + 8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    bytes[begin..begin + length].fill(0);
    bytes[begin..begin + size].copy_from_slice(&plain);
    fs::write(path, &bytes).unwrap();
    assert_eq!(scan(&bytes).unwrap().frames.len(), 1);
    assert_eq!(verify(folder, &data.keys).unwrap().damaged.len(), 1);
    assert_eq!(rows(&data, &data.keys).unwrap(), []);
    let mut follower = Follower::resume(folder, &data.keys, Cursor::default());
    assert!(follower.poll().unwrap().is_empty());
}

proptest! {
    /// Every payload comes back, and under no other head.
    #[test]
    fn a_payload_is_sealed_under_its_head(payload: Vec<u8>, seq in 0_u64..1 << 40, other in 0_u64..1 << 40) {
        let key = DataKey { id: Uuid::from_u128(1), secret: [3; KEY_BYTES] };
        let cipher = key.segment(b"a header");
        let head = |seq| crate::frame::FrameHead { kind: crate::frame::Kind::Inference, flags: crate::frame::ENCRYPTED, schema: 2, seq };
        let mut sealed = Vec::new();
        cipher.seal(head(seq), &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]], &mut sealed);
        prop_assert_eq!(sealed.len(), payload.len() + crate::cipher::TAG_BYTES);
        let opened = cipher.open(head(seq), &sealed);
        prop_assert_eq!(opened.as_deref(), Some(&payload[..]));
        if other != seq {
            prop_assert_eq!(cipher.open(head(other), &sealed), None);
        }
        prop_assert_eq!(key.segment(b"another").open(head(seq), &sealed), None);
    }
}
