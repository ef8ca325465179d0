//! Why a segment cannot be used.

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
