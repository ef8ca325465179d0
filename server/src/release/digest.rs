//! The digest of an artifact: what a version's folder holds, by names and bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// sha256 over the files of a version's folder, hexadecimal: of each, in order of its path, the path, its length and
/// its bytes.
///
/// Errors: what the system says. Cost: reads every byte.
pub(super) fn of(folder: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    add(folder, "", &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn add(folder: &Path, under: &str, hash: &mut Sha256) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{under}/{}", entry.file_name().to_string_lossy());
        // Follows links, as loading does.
        let about = fs::metadata(entry.path())?;
        if about.is_dir() {
            add(&entry.path(), &name, hash)?;
            continue;
        }
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(about.len().to_le_bytes());
        let mut file = File::open(entry.path())?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => hash.update(piece.get(..read).unwrap_or_default()),
            }
        }
    }
    Ok(())
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
        write("1/model.onnx", "abc");
        write("1/data/weights", "d");
        write("2/model.onnx", "abc");
        write("2/data/weights", "d");
        write("3/model.onnx", "abcd");
        write("3/data/weights", "");
        let digest = |version: &str| of(&root.path().join(version)).unwrap();
        assert_eq!(digest("1"), digest("2"));
        assert_ne!(digest("1"), digest("3"));
        assert_eq!(digest("1").len(), 64);
    }
}
