//! Which files make up the log: written down, in a hash chain, before a segment goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crossfade_journal::audit::canonical::canonical;
use crossfade_journal::{Hash, Journal, Purpose, Reader};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::LogError;

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// A segment became files.
    Sealed(Sealed),
    /// Small files became one; their rows are in it.
    Compacted {
        /// Their places in the data folder.
        old: Vec<String>,
        /// What they became.
        new: SealedFile,
    },
    /// A file was written again without some of its rows.
    Superseded {
        /// Its place in the data folder.
        old: String,
        /// Of its bytes.
        old_sha256: Hash,
        /// What it became; `None`: no row was left.
        new: Option<SealedFile>,
        /// Why.
        reason: String,
    },
    /// A file came beside those of segments.
    Added(SealedFile),
    /// Files are gone: too old, or too many.
    Removed {
        /// Their places in the data folder.
        files: Vec<String>,
        /// Why.
        reason: String,
    },
}

/// A segment that became files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Its id.
    pub segment: Uuid,
    /// Which start of the server wrote it.
    pub run: Uuid,
    /// Of all its bytes.
    pub sha256: Hash,
    /// The records of inferences that it had.
    pub records: u64,
    /// Requests that are missing, by its gap records and its holes.
    pub missing: u64,
    /// What the process had counted, run by run, as the last mark of each in this segment says.
    pub marks: Vec<RunMark>,
    /// What it became.
    pub files: Vec<SealedFile>,
}

/// The last mark of a run of the server in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunMark {
    /// The run.
    pub run: Uuid,
    /// Requests that had finished since it began.
    pub received: u64,
    /// Of them, left out by sampling.
    pub sampled_out: u64,
    /// Of them, lost.
    pub lost: u64,
    /// Whether it is the last one, written when nothing was under way any more.
    pub last: bool,
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFile {
    /// Its place in the data folder.
    pub path: String,
    /// Of its bytes.
    pub sha256: Hash,
    /// Its length.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The data key that it is encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Uuid>,
}

/// The manifest of a data folder, open for writing.
#[derive(Debug)]
pub struct Manifest {
    data_dir: PathBuf,
    /// `None` after a failure: what is on disk is read again then.
    journal: Option<Journal>,
    content: Content,
}

/// What a manifest says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// Segments that were sealed.
    pub segments: BTreeSet<Uuid>,
    /// The files there are, by place.
    pub files: BTreeMap<String, SealedFile>,
    /// Every sealing, oldest first.
    pub sealed: Vec<Sealed>,
    /// Files in whose place others came.
    pub replaced: BTreeSet<String>,
    /// Files that the last entry has taken away.
    pub(crate) gone: Vec<String>,
}

/// Where the manifest lies in a data folder.
pub fn manifest_in(data_dir: &Path) -> PathBuf {
    data_dir.join("state").join("log.manifest")
}

impl Manifest {
    /// Opens it, or begins one; its folder has to be there.
    ///
    /// Errors: [`LogError::Journal`], or `Manifest` for an entry that this release cannot read.
    pub fn open(data_dir: &Path) -> Result<Self, LogError> {
        let path = manifest_in(data_dir);
        let (journal, cut) = Journal::open(&path, Purpose::Manifest)?;
        if let Some(cut) = cut {
            tracing::warn!(file = %path.display(), bytes = cut.bytes, kept = %cut.kept.display(), "the torn end of the manifest");
        }
        let content = Content::read(data_dir)?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            journal: Some(journal),
            content,
        })
    }

    /// Writes an entry down; it is on disk when this returns.
    ///
    /// Errors: [`LogError::Journal`]; then nobody knows whether it is there, and the next call reads what is.
    pub fn append(&mut self, entry: Entry) -> Result<(), LogError> {
        let value = serde_json::to_value(&entry).map_err(|error| LogError::Manifest(error.to_string()))?;
        let text = canonical(&value).map_err(|error| LogError::Manifest(error.to_string()))?;
        self.reopen()?;
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        if let Err(error) = journal.append(text.as_bytes()) {
            self.journal = None;
            return Err(error.into());
        }
        self.content.note(entry);
        Ok(())
    }

    /// Opens it again after a failure.
    ///
    /// Errors: as [`open`](Self::open).
    pub(crate) fn reopen(&mut self) -> Result<(), LogError> {
        if self.journal.is_none() {
            let data_dir = self.data_dir.clone();
            *self = Self::open(&data_dir)?;
        }
        Ok(())
    }

    /// Whether what it says is what is on disk: after a failure nobody knows.
    pub(crate) fn is_open(&self) -> bool {
        self.journal.is_some()
    }

    /// What it says.
    pub fn content(&self) -> &Content {
        &self.content
    }
}

impl Content {
    /// Reads the manifest of a data folder; a folder without one has an empty log.
    ///
    /// Errors: [`LogError::Journal`] for a chain that is broken, `Manifest` for an entry that this release cannot read.
    pub fn read(data_dir: &Path) -> Result<Self, LogError> {
        let path = manifest_in(data_dir);
        let mut content = Self::default();
        if !path.exists() {
            return Ok(content);
        }
        for record in Reader::open(&path)? {
            let record = record?;
            let entry = serde_json::from_slice(&record.payload)
                .map_err(|error| LogError::Manifest(format!("entry {}: {error}", record.seq)))?;
            content.note(entry);
        }
        Ok(content)
    }

    fn note(&mut self, entry: Entry) {
        match entry {
            Entry::Sealed(sealed) => {
                self.segments.insert(sealed.segment);
                let files = sealed.files.iter().map(|file| (file.path.clone(), file.clone()));
                self.files.extend(files);
                self.sealed.push(sealed);
            }
            Entry::Compacted { old, new } => {
                old.iter().for_each(|file| drop(self.files.remove(file)));
                self.replaced.extend(old.iter().cloned());
                self.files.insert(new.path.clone(), new);
                self.gone = old;
            }
            Entry::Superseded { old, new, .. } => {
                self.files.remove(&old);
                self.replaced.insert(old.clone());
                self.files.extend(new.map(|new| (new.path.clone(), new)));
                self.gone = vec![old];
            }
            Entry::Added(file) => {
                self.files.insert(file.path.clone(), file);
            }
            Entry::Removed { files, .. } => {
                files.iter().for_each(|file| drop(self.files.remove(file)));
                self.gone = files;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use crossfade_journal::storage::{DiskFile, Storage};
    use crossfade_journal::{Head, Header};

    use super::*;
    use crate::keys::Keys;
    use crate::seal::Sealer;

    /// A disk that takes `left` more syncs, and then none.
    #[derive(Debug)]
    struct Failing {
        disk: DiskFile,
        left: u32,
    }

    impl Storage for Failing {
        fn size(&mut self) -> io::Result<u64> {
            self.disk.size()
        }

        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.disk.read_at(offset, buffer)
        }

        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
            self.disk.write_at(offset, bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the disk fails"))?;
            self.disk.sync()
        }

        fn truncate(&mut self, size: u64) -> io::Result<()> {
            self.disk.truncate(size)
        }
    }

    /// After a failure what is on disk is read again, and the chain goes on.
    #[test]
    fn a_manifest_that_has_failed_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        drop(Sealer::open(folder.path(), &Keys::none()).unwrap());
        let mut manifest = Manifest::open(folder.path()).unwrap();
        let removed = |file: &str| Entry::Removed {
            files: vec![file.to_owned()],
            reason: "retention".to_owned(),
        };
        manifest.append(removed("a")).unwrap();
        manifest.journal = None;
        let path = manifest_in(folder.path());
        let disk = DiskFile::open_locked(&path).unwrap();
        let header = Header {
            purpose: Purpose::Manifest,
            base: Head::EMPTY,
        };
        // Opening syncs once.
        let (journal, _) = Journal::on(Box::new(Failing { disk, left: 1 }), &path, header).unwrap();
        manifest.journal = Some(journal);
        assert!(matches!(manifest.append(removed("b")), Err(LogError::Journal(_))));
        manifest.append(removed("c")).unwrap();
        assert_eq!(manifest.content().gone, ["c"]);
        drop(manifest);
        assert_eq!(Content::read(folder.path()).unwrap().gone, ["c"]);
    }
}
