//! Small files that are replaced as a whole: counters per look, the marker of the crash-loop breaker.
//!
//! A reader sees the old content or the new one, also after a loss of power.
//!
//! ```text
//! magic [8] | format version u32 | crc32 of all after u32 | length of the content u64 | content
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::header::array;
use crate::storage::{self, DiskFile, Storage};

/// The most bytes that a snapshot may have: 64 MiB.
pub const MAX_SNAPSHOT_BYTES: usize = 64 << 20;
const MAGIC: [u8; 8] = *b"xfsnap\r\n";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 24;

/// Replaces the snapshot at `path` by `content`; on disk when it returns.
///
/// One writer at a time: two would share the temporary file beside it. After an error the old content stands, or, if
/// only the folder could not be synced, the new one does and may be lost with the power.
///
/// Errors: [`Error::Io`], [`Error::Snapshot`] above the limit.
/// Cost: one file written and synced, one folder synced.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    replace_through(path, content, |temporary| {
        Ok(Box::new(DiskFile::create(temporary)?))
    })
}

/// The content of the snapshot at `path`; `None` if there is none.
///
/// Errors: [`Error::Snapshot`] if it is damaged, [`Error::Io`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |error| Error::io(path, "read", error);
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if size > (HEAD_BYTES + MAX_SNAPSHOT_BYTES) as u64 {
        return Err(damaged(path, "it is larger than a snapshot may be"));
    }
    let bytes = fs::read(path).map_err(failed)?;
    decode(&bytes).map(Some).map_err(|problem| damaged(path, problem))
}

/// Removes the snapshot at `path`, if there is one; gone from disk when it returns.
///
/// Errors: [`Error::Io`].
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove", error)),
        _ => storage::sync_folder_of(path),
    }
}

/// As [`replace`], with the temporary file opened by `open`.
fn replace_through(
    path: &Path,
    content: &[u8],
    open: impl FnOnce(&Path) -> io::Result<Box<dyn Storage>>,
) -> Result<(), Error> {
    if content.len() > MAX_SNAPSHOT_BYTES {
        return Err(damaged(path, "its new content is larger than a snapshot may be"));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = open(&temporary).map_err(|error| Error::io(&temporary, "create", error))?;
    storage::write_all(file.as_mut(), 0, &encode(content))
        .and_then(|()| file.sync())
        .map_err(|error| Error::io(&temporary, "write", error))?;
    fs::rename(&temporary, path).map_err(|error| Error::io(path, "replace", error))?;
    storage::sync_folder_of(path)
}

fn encode(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + content.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(content);
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The content of a snapshot in memory.
///
/// Errors: what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Err("it is shorter than the head of a snapshot");
    };
    if head[..8] != MAGIC {
        return Err("its first bytes are not those of a snapshot");
    }
    if head[8..12] != FORMAT.to_le_bytes() {
        return Err("its format is not known to this release");
    }
    let content = &bytes[HEAD_BYTES..];
    if u64::from_le_bytes(array(&head[16..])) != content.len() as u64 {
        return Err("its length is not the one it was written with");
    }
    if crc32fast::hash(&bytes[16..]).to_le_bytes() != head[12..16] {
        return Err("its bytes are not those that were written");
    }
    Ok(content.to_vec())
}

fn damaged(path: &Path, problem: &'static str) -> Error {
    Error::Snapshot {
        path: path.to_path_buf(),
        problem,
    }
}

#[cfg(test)]
mod tests;
