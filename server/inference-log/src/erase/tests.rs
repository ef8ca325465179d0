//! Of whom nothing is to be left nothing is, and of the others everything.

use super::*;
use crate::keys::Keys;
use crate::log::tests::{Data, ids};
use crate::log::{Log, Selection};
use crate::record::Record;
use crate::verify::verify;

const NOON: i64 = 1_795_435_200_000_000;
const ANN: [u8; 16] = [0xa1; 16];
const BOB: [u8; 16] = [0xb2; 16];

fn put(data: &Data, id: u8, subject: Option<[u8; 16]>) {
    let record = Record {
        request_id: [id; 16],
        ts_us: NOON,
        subject_key: subject,
        ..Record::default()
    };
    let mut head = Vec::new();
    record.encode(&mut head);
    data.writer.append(crate::frame::Kind::Inference, 0, &[&head]);
}

fn all(data: &Data) -> Vec<u8> {
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    let mut found = ids(&log.newest(&Selection::default(), usize::MAX).unwrap());
    found.sort_unstable();
    found
}

#[test]
fn records_about_a_person_go_and_the_chain_stays_whole() {
    let data = Data::new();
    put(&data, 1, Some(ANN));
    put(&data, 2, Some(BOB));
    put(&data, 3, None);
    data.seal();
    put(&data, 4, Some(BOB));
    data.seal();
    put(&data, 5, Some(ANN));
    data.seal();
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    let before = sealer.manifest().content().files.clone();
    let done = sealer.erase(ANN).unwrap();
    assert_eq!((done.rows, done.files.len()), (2, 2), "{done:?}");
    assert_eq!(done.subject_key, "a1".repeat(16));
    assert!(
        done.files[0].path_after.is_some() && done.files[1].path_after.is_none(),
        "{done:?}"
    );
    for file in &done.files {
        assert_eq!(before[&file.path].sha256, file.sha256_before);
        assert!(!data.folder.path().join(&file.path).exists());
    }
    assert_eq!(sealer.erase(ANN).unwrap().rows, 0, "once is enough");
    drop(sealer);
    assert_eq!(all(&data), [2, 3, 4]);
    let verified = verify(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.files), (0, 2), "{verified:?}");
    // Opened again, nothing else goes.
    drop(Sealer::open(data.folder.path(), &Keys::none()).unwrap());
    assert_eq!(all(&data), [2, 3, 4]);
    let mut folders = vec![data.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let bytes = std::fs::read(&path).unwrap();
                    let found = bytes.windows(16).any(|window| window == ANN);
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }
}

/// By its filter a file is passed over without being read.
#[test]
fn files_without_such_records_are_not_read() {
    let data = Data::new();
    put(&data, 1, Some(BOB));
    data.seal();
    let sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    let file = sealer.manifest().content().files.keys().next().unwrap().clone();
    let path = data.folder.path().join(file);
    assert!(may_have(&path, &BOB).unwrap());
    assert!(!may_have(&path, &ANN).unwrap());
}
