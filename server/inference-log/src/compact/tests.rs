//! Nothing is lost or doubled when files become one.

use super::*;
use crate::keys::Keys;
use crate::log::tests::{Data, ids};
use crate::log::{Log, Selection};
use crate::verify::verify;

const NOON: i64 = 1_795_435_200_000_000;
const SMALL: u64 = 1 << 20;

fn all(data: &Data) -> Vec<u8> {
    let mut tables = Vec::new();
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    log.each(&Selection::default(), |table| -> Result<(), LogError> {
        tables.push(table.clone());
        Ok(())
    })
    .unwrap();
    ids(&tables)
}

fn files(data: &Data) -> Vec<String> {
    let sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    sealer.manifest().content().files.keys().cloned().collect()
}

#[test]
fn files_of_a_day_become_one_again_and_again() {
    let data = Data::new();
    for id in 0..4 {
        data.put(id, NOON, "1");
        data.put(100 + id, NOON, "2");
        data.seal();
    }
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!(
        sealer.compact(5, SMALL).unwrap(),
        None,
        "there are not enough of any day"
    );
    assert_eq!(sealer.compact(4, 10).unwrap(), None, "they are not small");
    assert_eq!(sealer.compact(4, SMALL).unwrap(), Some(4));
    assert_eq!(sealer.compact(4, SMALL).unwrap(), Some(4));
    assert_eq!(sealer.compact(4, SMALL).unwrap(), None);
    drop(sealer);
    assert_eq!(files(&data).len(), 2);
    data.put(4, NOON, "1");
    data.seal();
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!(
        sealer.compact(2, SMALL).unwrap(),
        Some(2),
        "what was joined is joined again"
    );
    drop(sealer);
    let mut seen = all(&data);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 100, 101, 102, 103]);
    let verified = verify(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.files), (0, 2), "{verified:?}");
    for file in files(&data) {
        assert!(data.folder.path().join(&file).is_file(), "{file}");
    }
}

/// A crash leaves the new file unnamed, or the old ones behind; both are gone when the log is opened again.
#[test]
fn what_a_crash_left_goes() {
    let data = Data::new();
    for id in 0..2 {
        data.put(id, NOON, "1");
        data.seal();
    }
    let old = files(&data);
    let root = data.folder.path();
    let unnamed = format!("{}+2.parquet", old[0].strip_suffix(".parquet").unwrap());
    fs::copy(root.join(&old[0]), root.join(&unnamed)).unwrap();
    assert_eq!(files(&data), old);
    assert!(!root.join(&unnamed).exists());
    let kept = fs::read(root.join(&old[1])).unwrap();
    let mut sealer = Sealer::open(root, &Keys::none()).unwrap();
    assert_eq!(sealer.compact(2, SMALL).unwrap(), Some(2));
    drop(sealer);
    fs::write(root.join(&old[1]), kept).unwrap();
    assert_eq!(files(&data).len(), 1);
    assert!(!root.join(&old[1]).exists());
    assert_eq!(all(&data), [0, 1]);
}

/// A file that was changed does not get a new digest by being put into another one, nor by an erasure.
#[test]
fn what_was_changed_is_left_as_it_is() {
    let data = Data::new();
    for id in 0..2 {
        data.put(id, NOON, "1");
        data.seal();
    }
    let before = files(&data);
    let path = data.folder.path().join(&before[0]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    let error = sealer.compact(2, SMALL).unwrap_err();
    assert!(
        matches!(&error, LogError::Damaged(which) if *which == path),
        "{error}"
    );
    drop(sealer);
    assert_eq!(files(&data), before);
    assert_eq!(
        verify(data.folder.path(), &Keys::none()).unwrap().damaged.len(),
        1
    );
}

/// A file that is written again and again keeps a name that a disk takes, and never that of the one it is made of.
#[test]
fn names_stay_short() {
    let mut name = "log/model=a+b/x-0.parquet".to_owned();
    for times in 1..=1000 {
        name = rewritten(&name);
        assert_eq!(name, format!("log/model=a+b/x-0+{times}.parquet"));
    }
}
