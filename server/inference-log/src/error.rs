//! Why a segment, or the log made of them, cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::header::HeaderProblem;

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file system refused.
    #[error("segment `{path}`: {doing}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no segment, or one that this release cannot read.
    #[error("segment `{path}`: {problem}")]
    Header {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// What it is encrypted with.
    #[error("a segment: {0}")]
    Key(#[from] KeyError),
    /// A size that no segment can have.
    #[error(
        "a segment of {0} bytes: it has to hold its header and the largest record, and be less than 2 GiB"
    )]
    Size(u64),
}

impl SegmentError {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, doing, source }
    }
}

/// Why something that is encrypted cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is encrypted, and no key was named.
    #[error("it is encrypted with data key {0}: name the key in `log.encryption.key`, or with --log-key")]
    None(uuid::Uuid),
    /// A data key is not there.
    #[error(
        "data key {0} is not in `state/keys` of the data folder; what it encrypted cannot be read without it"
    )]
    Gone(uuid::Uuid),
    /// A data key is wrapped with a key that was not named.
    #[error(
        "`{path}` is wrapped with the key {by}, and {known:?} are named: name that one, too, in `log.encryption.previous` or with --log-key"
    )]
    Wrapped {
        /// Its file.
        path: PathBuf,
        /// What wraps it.
        by: String,
        /// What was named.
        known: Vec<String>,
    },
    /// A file of keys cannot be used.
    #[error("`{0}`: {1}")]
    File(PathBuf, String),
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused.
    #[error("`{path}`: {doing}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// What it is encrypted with.
    #[error("the keys of the log: {0}")]
    Key(#[from] KeyError),
    /// The manifest's chain.
    #[error("the manifest: {0}")]
    Journal(#[from] crossfade_journal::Error),
    /// An entry of the manifest.
    #[error("the manifest: {0}; use the release that wrote it")]
    Manifest(String),
    /// A file is not as it was written.
    #[error("`{0}`: not the bytes that were written; `crossfade log verify` says what else is not")]
    Damaged(PathBuf),
    /// Files were compacted or removed while they were read.
    #[error("`{0}`: it became part of another file, or was removed, while the log was read; read it again")]
    Changed(PathBuf),
    /// Columns that do not become a table.
    #[error("a table of the log: {0}")]
    Table(#[from] arrow_schema::ArrowError),
    /// A file that is not written.
    #[error("a file of the log: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
}

impl LogError {
    /// Whether reading again from the beginning may help.
    pub fn is_changed(&self) -> bool {
        matches!(self, Self::Changed(_))
    }

    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, doing, source }
    }
}
