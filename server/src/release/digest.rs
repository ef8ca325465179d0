//! The digest of an artifact: what a version's folder holds, by names and bytes (mlflow.md, "Content hashing").

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crossfade_journal::audit::canonical::text;
use crossfade_models::scan::{Fingerprint, fingerprint};
use sha2::{Digest, Sha256};

/// Signs the others, and is none of them.
const SIGNATURE: &str = "model.sig";

/// One file of a manifest.
struct Entry {
    /// Below the folder, parts joined by `/`.
    path: String,
    size: u64,
    sha256: String,
}

/// How deep folders below a version are followed to see whether anything has changed.
pub(super) const DEPTH: usize = 16;

/// Digests of versions' folders, of which each is read once.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<HashMap<PathBuf, (Fingerprint, String)>>);

impl Digests {
    /// The digest of a folder; it is read only if names, sizes or times have changed since it was. Blocks: for load threads.
    ///
    /// Errors: as [`of`].
    pub(crate) fn of(&self, folder: &Path) -> io::Result<String> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fingerprint(folder, DEPTH);
        if let Some((seen, digest)) = lock().get(folder)
            && *seen == now
        {
            return Ok(digest.clone());
        }
        let digest = of(folder)?;
        let mut known = lock();
        // Of versions that are gone nothing stays.
        known.retain(|folder, _| folder.is_dir());
        known.insert(folder.to_owned(), (now, digest.clone()));
        Ok(digest)
    }
}

/// sha256 of the manifest of a version's folder, hexadecimal: the canonical JSON (RFC 8785) of
/// `[{"path", "sha256", "size"}, …]`, sorted by the bytes of `path`, without `model.sig`.
///
/// Errors: what the system says; a name that is no text. Cost: reads every byte.
pub(crate) fn of(folder: &Path) -> io::Result<String> {
    let mut entries = Vec::new();
    add(folder, "", &mut entries)?;
    entries.sort_by(|one, other| one.path.as_bytes().cmp(other.path.as_bytes()));
    let entries = entries.iter().map(|entry| {
        let Entry { path, size, sha256 } = entry;
        // Names are in order; digits and numbers below 2^53 need no more care.
        format!(r#"{{"path":{},"sha256":"{sha256}","size":{size}}}"#, text(path))
    });
    let manifest = format!("[{}]", entries.collect::<Vec<_>>().join(","));
    Ok(hexadecimal(&Sha256::digest(manifest)))
}

fn add(folder: &Path, under: &str, entries: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| {
            let message = format!("the name {} is not UTF-8", name.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        let path = format!("{under}{name}");
        // Follows links, as loading does.
        let about = fs::metadata(entry.path())?;
        if about.is_dir() {
            add(&entry.path(), &format!("{path}/"), entries)?;
        } else if path != SIGNATURE {
            let (size, sha256) = read(&entry.path())?;
            entries.push(Entry { path, size, sha256 });
        }
    }
    Ok(())
}

/// Length and sha256 of a file, of the bytes that were read.
fn read(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, hexadecimal(&hash.finalize()))),
            read => {
                hash.update(piece.get(..read).unwrap_or_default());
                size += read as u64;
            }
        }
    }
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bytes_make_the_digest() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let digest = |version: &str| of(&root.path().join(version)).unwrap();
        write("1/model.onnx", "abc");
        write("1/data/weights", "d");
        let before = digest("1");
        // The order of creation and the signature make no difference.
        write("2/data/weights", "d");
        write("2/model.onnx", "abc");
        write("2/model.sig", "{}");
        assert_eq!(before, digest("2"));
        for (version, path, content) in [
            ("3", "3/model.onnx", "abd"),
            ("4", "4/data/more", "d"),
            ("5", "5/data/model.sig", "{}"),
        ] {
            write(&format!("{version}/model.onnx"), "abc");
            write(&format!("{version}/data/weights"), "d");
            write(path, content);
            assert_ne!(before, digest(version), "{path}");
        }
        fs::rename(
            root.path().join("2/data/weights"),
            root.path().join("2/data/weight"),
        )
        .unwrap();
        assert_ne!(before, digest("2"));
    }

    #[test]
    fn a_folder_is_read_again_once_it_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("1"), root.path().join("2"));
        for folder in [&one, &two] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("a"), "").unwrap();
        }
        let digests = Digests::default();
        assert_eq!(digests.of(&one).unwrap(), digests.of(&two).unwrap());
        // What is remembered is told, not what lies there.
        digests.0.lock().unwrap().get_mut(&one).unwrap().1 = "remembered".to_owned();
        assert_eq!(digests.of(&one).unwrap(), "remembered");
        fs::write(one.join("a"), "b").unwrap();
        assert_eq!(digests.of(&one).unwrap(), of(&one).unwrap());
        fs::remove_dir_all(&one).unwrap();
        assert!(digests.of(&one).is_err());
        fs::write(two.join("b"), "").unwrap();
        digests.of(&two).unwrap();
        assert_eq!(digests.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_digest_is_that_of_the_manifest() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let manifest = format!(r#"[{{"path":"a","sha256":"{empty}","size":0}}]"#);
        assert_eq!(of(root.path()).unwrap(), hexadecimal(&Sha256::digest(manifest)));
    }
}
