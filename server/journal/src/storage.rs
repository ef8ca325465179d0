//! The seam to the disk: what a journal asks of a file, so that tests can make it fail.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::Error;

/// One file with one writer.
///
/// A failed [`Storage::sync`] leaves open which bytes are durable; a second one may succeed without writing what the
/// first one lost. So a caller gives up after a failure, reads again, and writes again what it still wants.
pub trait Storage: fmt::Debug + Send {
    /// Its size in bytes.
    fn size(&mut self) -> io::Result<u64>;
    /// Reads from `offset` into `buffer`; returns how many bytes, 0 at the end.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes at `offset`; returns how many of `bytes` were taken.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes everything written, and the size, survive a loss of power.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `size` bytes.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
}

/// A file on disk.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
}

impl DiskFile {
    /// Opens `path` for writing, creates it if it is not there, and locks it against other writers until dropped.
    ///
    /// Errors: [`Error::Locked`], [`Error::Io`].
    pub fn open_locked(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| Error::io(path, "open", error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: path.to_path_buf(),
            }),
            Err(TryLockError::Error(error)) => Err(Error::io(path, "lock", error)),
        }
    }

    /// Creates `path` anew, emptied if it is there. Not locked.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        File::create(path).map(|file| Self { file })
    }
}

impl Storage for DiskFile {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read(buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data() // the size counts as data: without it what was appended cannot be read back
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }
}

/// Writes all of `bytes`, however few the storage takes at a time.
pub(crate) fn write_all(storage: &mut dyn Storage, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match storage.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                bytes = bytes.get(taken..).unwrap_or_default();
                offset += taken as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the names in the folder of `path` durable: a new file is lost without it, however often it is synced itself.
pub(crate) fn sync_folder_of(path: &Path) -> Result<(), Error> {
    sync_names_beside(path).map_err(|error| Error::io(folder_of(path), "sync", error))
}

/// Creates a folder, and those above it that are missing, each with its name on disk in the one above it: a file that is
/// synced in a folder whose own name is lost with the power is lost too.
///
/// Errors: what the system says; that something else than a folder lies there too.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let made = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            create_folder(above.ok_or(error)?)?;
            fs::create_dir(path)
        }
        made => made,
    };
    match made {
        Ok(()) => sync_names_beside(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            match sync_names_beside(path) {
                // A folder that someone else has made in one that we may pass through and not read.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                // Whether an earlier attempt came as far as this is not known.
                synced => synced,
            }
        }
        Err(error) => Err(error),
    }
}

fn sync_names_beside(path: &Path) -> io::Result<()> {
    File::open(folder_of(path)).and_then(|folder| folder.sync_all())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A storage as a stream, from its beginning.
#[derive(Debug)]
pub(crate) struct FromStart<'a> {
    pub(crate) storage: &'a mut dyn Storage,
    pub(crate) offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.storage.read_at(self.offset, buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
pub(crate) mod faulty;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_those_above_it_and_may_be_there_already() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b/c");
        for _ in 0..2 {
            create_folder(&path).unwrap();
            assert!(path.is_dir());
        }
        assert!(create_folder(Path::new(".")).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        File::create(&file).unwrap();
        assert!(create_folder(&file).is_err());
        assert!(create_folder(&file.join("below")).is_err());
        assert!(create_folder(Path::new("")).is_err());
    }
}
