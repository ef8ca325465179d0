//! A model's log of releases on disk, the snapshot of its counts, and the marker of the crash-loop breaker.
//!
//! ```text
//! <data_dir>/state/rollout/<model>.log       every record, synced before it takes effect
//! <data_dir>/state/rollout/<model>.counts    counts of the active release, replaced at a look
//! <data_dir>/state/rollout/<model>.marker    there while a release has traffic; gone after a clean end
//! ```

use std::path::{Path, PathBuf};

use crossfade_journal::{Error, Journal, Purpose, Reader, snapshot};
use crossfade_rollout::ledger::Ledger;
use serde::{Deserialize, Serialize};

use super::record::{Book, Record};

/// A log open for writing.
pub(super) struct Log {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    journal: Option<Journal>,
    /// The last record that is known to be on disk.
    head: u64,
    /// A record of which that is not known.
    uncertain: Option<Vec<u8>>,
    counts: PathBuf,
    marker: PathBuf,
}

/// Counts of a release at a look.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Of which release.
    pub(super) release: String,
    /// What was counted.
    pub(super) ledger: Ledger,
}

/// Which release had traffic, and when the process ended uncleanly with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    /// The release.
    pub(super) release: String,
    /// Seconds since 1970 of the starts that found the marker.
    pub(super) unclean: Vec<u64>,
}

impl Log {
    /// Opens or creates the log of a model, and reads it back.
    ///
    /// Errors: a log that is damaged, held by another process, or contradicts itself; a folder that cannot be written.
    pub(super) fn open(folder: &Path, model: &str) -> Result<(Self, Book), String> {
        let file = |suffix: &str| folder.join(format!("{model}.{suffix}"));
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        let path = file("log");
        let (journal, cut) = Journal::open(&path, Purpose::Rollout).map_err(text)?;
        if let Some(cut) = cut {
            tracing::warn!(model, bytes = cut.bytes, kept = %cut.kept.display(), "the end of a log was torn");
        }
        let mut book = Book::default();
        for record in Reader::open(&path).map_err(text)? {
            let record = record.map_err(text)?;
            let read: Record = serde_json::from_slice(&record.payload)
                .map_err(|error| format!("`{}`: record {}: {error}", path.display(), record.seq))?;
            book.apply(&read)
                .map_err(|problem| format!("`{}`: record {}: {problem}", path.display(), record.seq))?;
        }
        let log = Log {
            path,
            head: journal.head().seq,
            journal: Some(journal),
            uncertain: None,
            counts: file("counts"),
            marker: file("marker"),
        };
        Ok((log, book))
    }

    /// Writes a record; it is on disk when this returns. After a failure the log is opened again.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), String> {
        let line = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => Journal::open(&self.path, Purpose::Rollout).map_err(text)?.0,
        };
        let arrived = journal.head().seq > self.head;
        if arrived && self.uncertain.take().as_ref() == Some(&line) {
            self.head = journal.head().seq;
            self.journal = Some(journal);
            return Ok(());
        }
        match journal.append(&line) {
            Ok(head) => {
                self.head = head.seq;
                self.journal = Some(journal);
                Ok(())
            }
            Err(error) => {
                self.head = journal.head().seq;
                self.uncertain = Some(line);
                Err(text(error))
            }
        }
    }

    /// Replaces the counts; returns how many bytes they are.
    pub(super) fn keep_counts(&self, counts: &Counts) -> Result<usize, String> {
        keep(&self.counts, counts)
    }

    /// The counts of a release, if its last ones are there and readable.
    pub(super) fn counts(&self, release: &str) -> Option<Ledger> {
        let counts: Counts = read(&self.counts)?;
        (counts.release == release).then_some(counts.ledger)
    }

    /// The marker, if the process did not end cleanly with a release.
    pub(super) fn marker(&self) -> Option<Marker> {
        read(&self.marker)
    }

    /// Sets the marker.
    pub(super) fn mark(&self, marker: &Marker) -> Result<(), String> {
        keep(&self.marker, marker).map(|_| ())
    }

    /// Removes the marker: the release is over, or the process ends as it should.
    pub(super) fn unmark(&self) -> Result<(), String> {
        snapshot::remove(&self.marker).map_err(text)
    }
}

/// Whether a model was ever released.
pub(super) fn exists(folder: &Path, model: &str) -> bool {
    folder.join(format!("{model}.log")).exists()
}

fn keep(path: &Path, content: &impl Serialize) -> Result<usize, String> {
    let bytes = serde_json::to_vec(content).map_err(|error| error.to_string())?;
    snapshot::replace(path, &bytes).map_err(text)?;
    Ok(bytes.len())
}

/// What a snapshot holds; one that cannot be read counts as none, with a warning.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let found = snapshot::read(path).map_err(text).and_then(|bytes| {
        let parsed = bytes.map(|bytes| serde_json::from_slice(&bytes));
        parsed.transpose().map_err(|error| error.to_string())
    });
    found.unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "a snapshot of a release cannot be used");
        None
    })
}

fn text(error: Error) -> String {
    error.to_string()
}
