//! Errors of journals, snapshots and the audit, by what an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::audit::AuditProblem;
use crate::frame::{MAX_PAYLOAD_BYTES, Problem};
use crate::hash::Head;
use crate::header::{HeaderProblem, Purpose};

/// Why a journal, a snapshot or an audit cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("`{}`: cannot {action}: {source}; {}", path.display(), advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted: "append", "sync", …
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another writer has it.
    #[error("`{}`: another process writes it; stop that process, or use another data directory", path.display())]
    Locked {
        /// The file that is locked.
        path: PathBuf,
    },
    /// The file is no journal, or its header is damaged.
    #[error("`{}`: {problem}; move it away, or restore it from a copy", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        problem: HeaderProblem,
    },
    /// The file is a journal of another purpose.
    #[error("`{}`: it is a journal of `{found}`, not of `{expected}`; check the data directory", path.display())]
    Purpose {
        /// The file.
        path: PathBuf,
        /// What it should be for.
        expected: Purpose,
        /// What it is for.
        found: Purpose,
    },
    /// The file begins after another record than the one before it.
    #[error("`{}`: it follows record {} ({}), and the one before it is {} ({}); a file is missing or was exchanged: restore it from a copy", path.display(), found.seq, found.hash, expected.seq, expected.hash)]
    Base {
        /// The file.
        path: PathBuf,
        /// Where the chain stands before it.
        expected: Head,
        /// Where the file says it begins.
        found: Head,
    },
    /// A record is damaged. Nothing was changed.
    #[error("`{}`: record {seq} at byte {offset}: {problem}; nothing was cut off: restore the file from a copy, or move it away and keep it as evidence", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The number of the first bad record.
        seq: u64,
        /// Where it begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A payload above the limit. Nothing was written.
    #[error("`{}`: a record of {bytes} bytes is more than the {MAX_PAYLOAD_BYTES} that one may have; store it elsewhere and record its digest", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes of the payload.
        bytes: usize,
    },
    /// An earlier write failed, so that what is on disk is not known.
    #[error("`{}`: an earlier write failed ({reason}); reopen the journal once the cause is gone", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The earlier failure.
        reason: String,
    },
    /// A snapshot that is damaged.
    #[error("`{}`: {problem}; remove it to start without it, or restore it from a copy", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// An audit record is damaged, or does not say what its place in the chain says.
    #[error("`{}`: audit record {seq} (line {line}): {problem}", path.display())]
    Audit {
        /// The export, or the file of the journal.
        path: PathBuf,
        /// The number of the first bad record.
        seq: u64,
        /// Its line in the export, counted from 1; in a journal the number of its record in what was read.
        line: u64,
        /// What is wrong with it.
        problem: AuditProblem,
    },
}

impl Error {
    /// The system's refusal, with the file and the attempt.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            action,
            source,
        }
    }
}

/// What to do about a system error.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free space on its volume, then reopen it"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let the server's user write there, or use another data directory"
        }
        io::ErrorKind::NotFound => "create its folder, or use another data directory",
        _ => "check the volume, then reopen it",
    }
}
