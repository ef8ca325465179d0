//! A journal that goes on from file to file: bounded files, one chain.
//!
//! Files are named for their first record, `00000000000000000001.journal`. Each begins after the last record of the
//! one before it, so a file that is missing or exchanged is found. Nothing here deletes a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::Record;
use crate::hash::Head;
use crate::header::{Header, Purpose};
use crate::journal::{Cut, Journal};
use crate::reader::{self, Reader};
use crate::storage::{self, DiskFile};

const EXTENSION: &str = "journal";

/// A folder of journal files open for writing.
#[derive(Debug)]
pub struct Series {
    folder: PathBuf,
    purpose: Purpose,
    max_file_bytes: u64,
    journal: Journal,
    _lock: DiskFile,
}

impl Series {
    /// Opens the series in `folder`, or begins it; the folder is created, the one above it has to be there.
    ///
    /// A file that has reached `max_file_bytes` is followed by a new one. Returns what was cut off the last file's
    /// end, if a crash had torn it.
    ///
    /// Errors: as [`Journal::open`], of any file; [`Error::Base`] if a file is missing.
    /// Cost: one pass over all files.
    pub fn open(folder: &Path, purpose: Purpose, max_file_bytes: u64) -> Result<(Self, Option<Cut>), Error> {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(folder, "create", error));
            }
            _ => storage::sync_folder_of(folder)?,
        }
        let lock = DiskFile::open_locked(&folder.join("lock"))?;
        let mut files = files(folder)?;
        let last = files.pop();
        let before = verify_files(&files, purpose)?;
        let path = last.unwrap_or_else(|| file(folder, before));
        let (journal, cut) = Journal::open_after(&path, purpose, before)?;
        let series = Self {
            folder: folder.to_path_buf(),
            purpose,
            max_file_bytes,
            journal,
            _lock: lock,
        };
        Ok((series, cut))
    }

    /// As [`Journal::append`]; begins the next file first if the last one is full.
    pub fn append(&mut self, payload: &[u8]) -> Result<Head, Error> {
        if self.journal.size() >= self.max_file_bytes && !self.journal.is_poisoned() {
            let head = self.journal.head();
            let path = file(&self.folder, head);
            if path != self.journal.path() {
                self.journal = Journal::open_after(&path, self.purpose, head)?.0;
            }
        }
        self.journal.append(payload)
    }

    /// The last record of the chain.
    pub fn head(&self) -> Head {
        self.journal.head()
    }

    /// The file that is written now.
    pub fn path(&self) -> &Path {
        self.journal.path()
    }
}

/// The records of the series in `folder` that follow number `after`, in order, each verified.
///
/// Errors: as [`Reader::open`] and of its items; [`Error::Base`] if a file is missing.
pub fn records(folder: &Path, purpose: Purpose, after: u64) -> Result<Records, Error> {
    let mut files = files(folder)?;
    let older = files
        .iter()
        .rposition(|path| first_seq(path).is_some_and(|first| first <= after.saturating_add(1)))
        .unwrap_or(0);
    files.drain(..older);
    Ok(Records {
        files: files.into_iter(),
        purpose,
        after,
        reader: None,
        head: None,
        ended: false,
    })
}

/// A stream of the records of a series. It ends after the first error.
#[derive(Debug)]
pub struct Records {
    files: std::vec::IntoIter<PathBuf>,
    purpose: Purpose,
    after: u64,
    reader: Option<Reader<io::BufReader<fs::File>>>,
    head: Option<Head>,
    ended: bool,
}

impl Records {
    fn step(&mut self) -> Result<Option<Record>, Error> {
        loop {
            if let Some(record) = self.reader.as_mut().and_then(Iterator::next) {
                let record = record?;
                self.head = Some(record.head());
                if record.seq > self.after {
                    return Ok(Some(record));
                }
                continue;
            }
            let Some(path) = self.files.next() else {
                return Ok(None);
            };
            let reader = Reader::open(&path)?;
            let base = self.head.unwrap_or(reader.header().base);
            belongs(&path, self.purpose, base, &reader)?;
            self.head = Some(base);
            self.reader = Some(reader);
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// Checks every byte of the series in `folder`, and that its files follow each other from record 1 on.
///
/// Errors: as [`reader::verify`], of the first bad file; [`Error::Base`] if a file is missing.
pub fn verify(folder: &Path, purpose: Purpose) -> Result<Head, Error> {
    verify_files(&files(folder)?, purpose)
}

fn verify_files(files: &[PathBuf], purpose: Purpose) -> Result<Head, Error> {
    let mut head = Head::EMPTY;
    for path in files {
        let reader = Reader::open(path)?;
        belongs(path, purpose, head, &reader)?;
        head = reader.verify()?.head;
    }
    Ok(head)
}

/// Whether the file is of this series and follows `base`.
fn belongs(path: &Path, purpose: Purpose, base: Head, reader: &Reader<impl io::Read>) -> Result<(), Error> {
    reader::check(&reader.header(), &Header { purpose, base }, path)
}

fn file(folder: &Path, after: Head) -> PathBuf {
    folder.join(format!("{:020}.{EXTENSION}", after.seq.saturating_add(1)))
}

fn first_seq(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The journal files of `folder`, oldest first.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| Error::io(folder, "list", error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
