//! A model's log of releases on disk, the snapshot of its counts, and the marker of the crash-loop breaker.
//!
//! ```text
//! <data_dir>/state/rollout/<model>.log       every record, synced before it takes effect
//! <data_dir>/state/rollout/<model>.counts    counts of the active release, replaced at a look
//! <data_dir>/state/rollout/<model>.marker    there while a release has traffic; gone after a clean end
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossfade_journal::storage::create_folder;
use crossfade_journal::{Error, Head, Journal, Purpose, Reader, snapshot};
use crossfade_rollout::ledger::Ledger;
use serde::{Deserialize, Serialize};

use super::record::{Book, Record};
use super::trail::Trail;
use crate::audit::AuditLog;

/// A log open for writing.
pub(super) struct Log {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    journal: Option<Journal>,
    /// The last record that is known to be on disk.
    head: Head,
    /// A record of which that is not known.
    uncertain: Option<Record>,
    /// What takes the last record back, which was refused and is on disk.
    withdrawal: Option<Record>,
    /// The audit, which follows.
    trail: Trail,
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
    pub(super) fn open(folder: &Path, model: &str, audit: &Arc<AuditLog>) -> Result<(Self, Book), String> {
        let file = |suffix: &str| folder.join(format!("{model}.{suffix}"));
        create_folder(folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        let path = file("log");
        let (journal, cut) = Journal::open(&path, Purpose::Rollout).map_err(text)?;
        if let Some(cut) = cut {
            tracing::warn!(model, bytes = cut.bytes, kept = %cut.kept.display(), "the end of a log was torn");
        }
        let mut book = Book::default();
        for record in records(&path)? {
            let (seq, read) = record?;
            book.apply(&read)
                .map_err(|problem| format!("`{}`: record {seq}: {problem}", path.display()))?;
        }
        let mut log = Log {
            trail: Trail::new(audit, model, &path, journal.head()),
            path,
            head: journal.head(),
            journal: Some(journal),
            uncertain: None,
            withdrawal: None,
            counts: file("counts"),
            marker: file("marker"),
        };
        // What a process that died has not recorded. Without the audit the live version is served all the same.
        if let Err(error) = log.catch_up() {
            tracing::error!(
                model,
                error,
                "the audit does not follow the log of a model's releases yet"
            );
        }
        Ok((log, book))
    }

    /// Writes a record, then the audit's record of it; they are on disk when this returns. After a failure the log is opened
    /// again.
    ///
    /// Errors: the log cannot be written; nor the audit, for a record by which a release goes on, which is withdrawn then.
    /// What does not wait is recorded later: see [`catch_up`](Self::catch_up).
    pub(super) fn append(&mut self, record: &Record) -> Result<(), String> {
        self.take_back()?;
        if record.leads_on() {
            self.trail.catch_up(self.head)?;
        }
        self.put(record)?;
        let Err(error) = self.trail.follow(self.head, record) else {
            return Ok(());
        };
        if !record.leads_on() {
            tracing::error!(log = %self.path.display(), error, "what does not wait is not in the audit yet");
            return Ok(());
        }
        self.withdraw(&error);
        if let Err(error) = self.take_back() {
            tracing::error!(log = %self.path.display(), error, "a move that was refused is in the log until it can be withdrawn");
        }
        Err(error)
    }

    /// Has the audit record what it lacks. Returns whether it lacked anything.
    ///
    /// Errors: the audit, or the log, cannot be written.
    pub(super) fn catch_up(&mut self) -> Result<bool, String> {
        if !self.trail.is_behind() && self.withdrawal.is_none() {
            return Ok(false);
        }
        self.take_back()?;
        self.trail.catch_up(self.head)?;
        Ok(true)
    }

    /// Writes a record to the log.
    fn put(&mut self, record: &Record) -> Result<(), String> {
        let line = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => Journal::open(&self.path, Purpose::Rollout).map_err(text)?.0,
        };
        if let Some(before) = self.uncertain.take()
            && journal.head().seq > self.head.seq
        {
            self.head = journal.head();
            self.journal = Some(journal);
            if before == *record {
                return Ok(());
            }
            if before.leads_on() {
                // It was refused, and has arrived all the same.
                self.withdraw("the log could not be written");
                self.take_back()?;
            }
            return self.put(record);
        }
        match journal.append(&line) {
            Ok(head) => {
                self.head = head;
                self.journal = Some(journal);
                Ok(())
            }
            Err(error) => {
                self.uncertain = Some(record.clone());
                Err(text(error))
            }
        }
    }

    /// The last record shall be withdrawn before another one follows it.
    fn withdraw(&mut self, why: &str) {
        self.withdrawal = Some(Record::Withdrawn {
            seq: self.head.seq,
            why: why.to_owned(),
        });
    }

    /// Writes the withdrawal that is due.
    fn take_back(&mut self) -> Result<(), String> {
        if let Some(withdrawal) = self.withdrawal.clone() {
            self.put(&withdrawal)?;
            self.withdrawal = None;
            // The audit follows with the next record, or at a look.
            let _later = self.trail.follow(self.head, &withdrawal).is_err();
        }
        Ok(())
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

/// The records of a log that count, in order, each with its number. It may be written meanwhile.
///
/// Errors: the file is no log; in its place, a record that is damaged or cannot be read.
pub(super) fn records(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(u64, Record), String>> + use<>, String> {
    let place = path.display().to_string();
    let read = move |record: Result<crossfade_journal::Record, Error>| {
        let record = record.map_err(text)?;
        let read = serde_json::from_slice(&record.payload);
        let read: Record = read.map_err(|error| format!("`{place}`: record {}: {error}", record.seq))?;
        Ok((record.seq, read))
    };
    let mut records = Reader::open(path).map_err(text)?.map(read).peekable();
    Ok(std::iter::from_fn(move || {
        loop {
            let record = records.next()?;
            let withdrawn = match (&record, records.peek()) {
                (Ok((seq, _)), Some(Ok((_, Record::Withdrawn { seq: withdrawn, .. })))) => seq == withdrawn,
                _ => false,
            };
            if !withdrawn {
                return Some(record);
            }
            let _withdrawal = records.next().is_some();
        }
    }))
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
