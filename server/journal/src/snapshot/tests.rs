use tempfile::TempDir;

use super::*;
use crate::storage::faulty::{Fault, FaultyDisk};

#[test]
fn the_last_content_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("counters");
    assert_eq!(read(&path).unwrap(), None);
    for content in [&b"one"[..], b"", &[7; 10_000]] {
        replace(&path, content).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(content));
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file stays"
    );
    remove(&path).unwrap();
    assert_eq!(read(&path).unwrap(), None);
    remove(&path).unwrap();
}

#[test]
fn a_failure_before_the_rename_leaves_the_old_content() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("counters");
    replace(&path, b"old").unwrap();
    for fault in [Fault::Full(0), Fault::Full(10), Fault::Sync] {
        let disk = FaultyDisk::default();
        disk.set(Some(fault));
        let error = replace_through(&path, b"new", |_| Ok(Box::new(disk))).unwrap_err();
        assert!(error.to_string().contains("counters.new"), "{error}");
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"old"[..]), "{fault:?}");
    }
    fs::write(folder.path().join("counters.new"), b"half of a").unwrap();
    assert_eq!(read(&path).unwrap().as_deref(), Some(&b"old"[..]));
    replace(&path, b"new").unwrap();
    assert_eq!(read(&path).unwrap().as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_target_that_cannot_be_replaced_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("taken");
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        replace(&path, b"x"),
        Err(Error::Io {
            action: "replace",
            ..
        })
    ));
    let missing = folder.path().join("no/counters");
    assert!(matches!(
        replace(&missing, b"x"),
        Err(Error::Io { action: "create", .. })
    ));
}

#[test]
fn any_changed_or_missing_byte_is_found() {
    let whole = encode(b"content");
    assert_eq!(decode(&whole).unwrap(), b"content");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert!(decode(&changed).is_err(), "byte {at}");
        assert!(decode(&whole[..at]).is_err(), "cut at {at}");
    }
    assert!(decode(&[&whole[..], b"x"].concat()).is_err());
}

#[test]
fn a_damaged_snapshot_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("marker");
    fs::write(&path, b"not a snapshot, and long enough for one").unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("marker") && error.contains("not those of a snapshot"),
        "{error}"
    );
    assert!(matches!(
        replace(&path, &vec![0; MAX_SNAPSHOT_BYTES + 1]),
        Err(Error::Snapshot { .. })
    ));
}
