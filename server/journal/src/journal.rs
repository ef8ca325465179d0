//! One file with one writer: a record is on disk before `append` returns.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{self, MAX_PAYLOAD_BYTES, Problem};
use crate::hash::Head;
use crate::header::{Header, Purpose};
use crate::recovery::{self, Found, Tail};
use crate::storage::{self, DiskFile, Storage};

/// A journal open for writing. Other writers are refused until it is dropped; readers are not.
#[derive(Debug)]
pub struct Journal {
    storage: Box<dyn Storage>,
    path: PathBuf,
    head: Head,
    end: u64,
    frame: Vec<u8>,
    poison: Option<String>,
}

/// The end of a file that a crash had torn, cut off when it was opened. No record in it was ever acknowledged, unless
/// its bytes were changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Where it began, in bytes.
    pub offset: u64,
    /// How long it was, in bytes.
    pub bytes: u64,
    /// What was wrong with it.
    pub problem: Problem,
    /// The file that has it now.
    pub kept: PathBuf,
}

impl Journal {
    /// Opens the journal at `path`, or creates it; its folder has to be there, and its own name on disk.
    ///
    /// Returns what was cut off its end, if a crash had torn it: worth a warning.
    ///
    /// Errors: [`Error::Locked`]; [`Error::Broken`] or [`Error::Header`] if it is damaged, and then nothing was
    /// changed; [`Error::Purpose`]; [`Error::Io`].
    /// Cost: one pass over the file.
    pub fn open(path: &Path, purpose: Purpose) -> Result<(Self, Option<Cut>), Error> {
        Self::open_after(path, purpose, Head::EMPTY)
    }

    /// As [`Journal::open`], for a file whose first record follows `base`.
    ///
    /// Errors: also [`Error::Base`], if the file follows another record.
    pub fn open_after(path: &Path, purpose: Purpose, base: Head) -> Result<(Self, Option<Cut>), Error> {
        let storage = DiskFile::open_locked(path)?;
        Self::on(Box::new(storage), path, Header { purpose, base })
    }

    /// As [`Journal::open_after`], on a storage of the caller's, who has locked it. `path` is where it lies.
    pub fn on(
        mut storage: Box<dyn Storage>,
        path: &Path,
        header: Header,
    ) -> Result<(Self, Option<Cut>), Error> {
        let (head, end, cut) = match recovery::examine(storage.as_mut(), path, &header)? {
            None => (header.base, begin(storage.as_mut(), path, &header)?, None),
            Some(found) => {
                let cut = settle(storage.as_mut(), path, &header, &found)?;
                (found.head, found.end, cut)
            }
        };
        // Not only for a new file: whether an earlier attempt came as far as this is not known.
        storage::sync_folder_of(path)?;
        let journal = Self {
            storage,
            path: path.to_path_buf(),
            head,
            end,
            frame: Vec::new(),
            poison: None,
        };
        Ok((journal, cut))
    }

    /// Appends a record, and returns once it would survive a loss of power.
    ///
    /// After an error it is not known whether the record is there, except for [`Error::TooLarge`], which writes
    /// nothing. The journal then refuses everything until it is reopened, and reopening tells by the head.
    ///
    /// Errors: [`Error::TooLarge`], [`Error::Io`], [`Error::Poisoned`].
    /// Cost: one write and one fdatasync; it blocks for as long as they take.
    pub fn append(&mut self, payload: &[u8]) -> Result<Head, Error> {
        if let Some(reason) = &self.poison {
            return Err(Error::Poisoned {
                path: self.path.clone(),
                reason: reason.clone(),
            });
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::TooLarge {
                path: self.path.clone(),
                bytes: payload.len(),
            });
        }
        self.frame.clear();
        let head = frame::encode(&self.head, payload, &mut self.frame);
        let written = storage::write_all(self.storage.as_mut(), self.end, &self.frame);
        written.map_err(|error| self.poison("append to", error))?;
        self.storage.sync().map_err(|error| self.poison("sync", error))?;
        self.end += self.frame.len() as u64;
        self.head = head;
        Ok(head)
    }

    /// The last record, or what the first one will follow.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an earlier write failed, so that it has to be reopened.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    fn poison(&mut self, action: &'static str, source: io::Error) -> Error {
        self.poison = Some(source.to_string());
        Error::io(&self.path, action, source)
    }
}

/// Writes the header of a new file; returns where its first record goes.
fn begin(storage: &mut dyn Storage, path: &Path, header: &Header) -> Result<u64, Error> {
    let bytes = header.encode();
    storage
        .truncate(0)
        .and_then(|()| storage::write_all(storage, 0, &bytes))
        .and_then(|()| storage.sync())
        .map_err(|error| Error::io(path, "begin", error))?;
    Ok(bytes.len() as u64)
}

/// Cuts the torn tail off and makes the rest durable.
fn settle(
    storage: &mut dyn Storage,
    path: &Path,
    header: &Header,
    found: &Found,
) -> Result<Option<Cut>, Error> {
    let cut = found
        .tail
        .as_ref()
        .map(|tail| keep(path, found.end, tail))
        .transpose()?;
    if cut.is_some() {
        storage
            .truncate(found.end)
            .map_err(|error| Error::io(path, "cut the torn end off", error))?;
    }
    rewrite_last(storage, path, header, found)?;
    Ok(cut)
}

/// Writes the last record, or the header, once more and syncs it: if its own sync failed, the kernel may hold it as
/// clean although it never reached the disk (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
fn rewrite_last(storage: &mut dyn Storage, path: &Path, header: &Header, found: &Found) -> Result<(), Error> {
    let bytes = match found.last {
        0 => header.encode().to_vec(),
        last => recovery::read_from(storage, path, last, found.end - last)?,
    };
    storage::write_all(storage, found.last, &bytes)
        .and_then(|()| storage.sync())
        .map_err(|error| Error::io(path, "sync", error))
}

/// Stores what will be cut off in a file beside the journal, named for its place and its content.
fn keep(path: &Path, offset: u64, tail: &Tail) -> Result<Cut, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".torn-{offset}-{:08x}", crc32fast::hash(&tail.bytes)));
    let kept = PathBuf::from(name);
    fs::write(&kept, &tail.bytes)
        .and_then(|()| fs::File::open(&kept)?.sync_all())
        .map_err(|error| Error::io(&kept, "keep the torn end of the journal", error))?;
    storage::sync_folder_of(&kept)?; // before the only other copy goes
    Ok(Cut {
        offset,
        bytes: tail.bytes.len() as u64,
        problem: tail.problem.clone(),
        kept,
    })
}

#[cfg(test)]
mod tests;
