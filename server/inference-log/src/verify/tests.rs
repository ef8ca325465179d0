//! Nothing is changed or lost unnoticed.

use std::path::PathBuf;

use super::*;
use crate::frame::{Kind, Mark};
use crate::gap::Gap;
use crate::keys::Keys;
use crate::manifest::manifest_in;
use crate::record::{Origin, Record};
use crate::seal::{Sealer, segments_in};
use crate::writer::{Writer, Written};

const RUN: Uuid = Uuid::from_u128(5);

/// A folder with a log of three records and a gap of two, sealed; `received` is what the last mark says.
fn sealed(received: u64, last: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut sealer = Sealer::open(folder.path(), &Keys::none()).unwrap();
    let writer = Writer::open(&segments_in(folder.path()), 12 << 20, "", RUN, &Keys::none()).unwrap();
    for _ in 0..3 {
        let mut head = Vec::new();
        let origin = Origin {
            model: "m",
            version: "1",
            ..Origin::default()
        };
        Record {
            origin,
            ..Record::default()
        }
        .encode(&mut head);
        assert_eq!(writer.append(Kind::Inference, 0, &[&head]), Written::Done);
    }
    let gap = Gap {
        from_us: 0,
        to_us: 0,
        count: 2,
        reason: "full".to_owned(),
        model: None,
    };
    writer.append(Kind::Gap, 0, &[&gap.encode()]);
    let mark = Mark {
        run: RUN,
        received,
        sampled_out: 0,
        lost: 2,
        last,
    };
    writer.append(Kind::Mark, 0, &[&mark.encode()]);
    for segment in writer.end() {
        sealer.seal(segment.path()).unwrap();
    }
    folder
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let content = Content::read(folder).unwrap();
    content.files.keys().map(|path| folder.join(path)).collect()
}

#[test]
fn what_is_whole_says_what_is_missing() {
    for (received, last, whole) in [
        (5, true, true),
        (6, true, false),
        (4, true, false),
        (4, false, true),
        (6, false, false),
    ] {
        let folder = sealed(received, last);
        let verified = verify(folder.path(), &Keys::none()).unwrap();
        assert_eq!((verified.files, verified.records, verified.missing), (2, 3, 2));
        assert_eq!(verified.gaps.len(), 1);
        assert_eq!(
            verified.damaged.is_empty(),
            whole,
            "{received} {last}: {:?}",
            verified.damaged
        );
    }
    let folder = tempfile::tempdir().unwrap();
    drop(Sealer::open(folder.path(), &Keys::none()).unwrap());
    assert_eq!(verify(folder.path(), &Keys::none()).unwrap(), Verified::default());
}

#[test]
fn a_changed_or_missing_file_is_named() {
    let folder = sealed(5, true);
    for path in files(folder.path()) {
        let before = fs::read(&path).unwrap();
        for at in [0, before.len() / 2, before.len() - 1] {
            let mut bytes = before.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let damaged = verify(folder.path(), &Keys::none()).unwrap().damaged;
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(damaged.len() == 1 && damaged[0].contains(name), "{damaged:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(verify(folder.path(), &Keys::none()).unwrap().damaged.len(), 1);
        fs::write(&path, before).unwrap();
    }
    assert!(verify(folder.path(), &Keys::none()).unwrap().damaged.is_empty());
    let manifest = manifest_in(folder.path());
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    assert!(verify(folder.path(), &Keys::none()).is_err());
}

#[test]
fn segments_that_are_not_sealed_count() {
    let folder = sealed(5, true);
    let writer = Writer::open(
        &segments_in(folder.path()),
        12 << 20,
        "",
        Uuid::from_u128(6),
        &Keys::none(),
    )
    .unwrap();
    let mut head = Vec::new();
    Record::default().encode(&mut head);
    writer.append(Kind::Inference, 0, &[&head]);
    let mark = |received| Mark {
        run: Uuid::from_u128(6),
        received,
        ..Mark::default()
    };
    writer.append(Kind::Mark, 0, &[&mark(1).encode()]);
    let verified = verify(folder.path(), &Keys::none()).unwrap();
    assert_eq!((verified.records, verified.damaged.len()), (4, 0));
    writer.append(Kind::Mark, 0, &[&mark(2).encode()]);
    assert_eq!(verify(folder.path(), &Keys::none()).unwrap().damaged.len(), 1);
}

/// Whatever byte of whatever file is changed, verify does not call the log whole, and says where.
#[test]
fn any_changed_byte_is_noticed() {
    let sealed = sealed(5, false);
    let root = sealed.path();
    // A segment that is not sealed, too.
    let writer = Writer::open(
        &segments_in(root),
        12 << 20,
        "",
        Uuid::from_u128(6),
        &Keys::none(),
    )
    .unwrap();
    for _ in 0..3 {
        let mut head = Vec::new();
        Record::default().encode(&mut head);
        writer.append(Kind::Inference, 0, &[&head]);
    }
    let segment = writer.end().remove(0).path().to_owned();
    let content = Content::read(root).unwrap();
    let mut files: Vec<PathBuf> = content.files.keys().map(|file| root.join(file)).collect();
    files.extend([manifest_in(root), segment]);
    assert!(verify(root, &Keys::none()).unwrap().damaged.is_empty());
    let mut tried = 0;
    for path in files {
        let whole = fs::read(&path).unwrap();
        let last = whole.iter().rposition(|byte| *byte != 0).unwrap();
        // All bytes of what is short, some of what is long, and one behind the last.
        let step = (last / 60).max(1);
        for at in (0..=last).step_by(step).chain([(last + 64).min(whole.len() - 1)]) {
            let mut changed = whole.clone();
            changed[at] ^= 0x11;
            fs::write(&path, &changed).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            match verify(root, &Keys::none()) {
                Ok(found) => {
                    let named = found.damaged.iter().any(|line| line.contains(name));
                    assert!(named, "{name}, byte {at}: {found:?}");
                }
                // A broken chain is an error of its own, which names the manifest.
                Err(error) => assert!(
                    error.to_string().contains("manifest"),
                    "{name}, byte {at}: {error}"
                ),
            }
            tried += 1;
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(verify(root, &Keys::none()).unwrap().damaged.is_empty());
    assert!(tried > 200, "{tried}");
}
