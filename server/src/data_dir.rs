//! The data folder: what must outlive the process, and belongs to one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crossfade_journal::storage::create_folder;

/// A data folder that this process holds, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The system gives the lock back with the file, however the process ends.
    _lock: File,
}

/// Why a data folder cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server holds it.
    #[error(
        "data folder `{}`: another server uses it; stop that one, or choose another folder with --data-dir",
        path.display()
    )]
    InUse {
        /// As given.
        path: PathBuf,
    },
    /// It cannot be created or written.
    #[error("data folder `{}`: {source}; choose one that can be written with --data-dir", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the folder if it is not there, and locks it.
    ///
    /// Errors: [`DataDirError::InUse`] if another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        create_folder(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Where the audit lies.
    pub fn audit(&self) -> PathBuf {
        audit_in(&self.path)
    }
}

/// Where the audit lies in a data folder.
pub(crate) fn audit_in(data_dir: &Path) -> PathBuf {
    data_dir.join("audit")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("file") && error.contains("--data-dir"), "{error}");
    }
}
