//! The audit of this server: each call that changes something is one record on disk before it takes effect, refused
//! calls included; and so is each record of a release's log.
//!
//! It is not on the path of an inference. While the disk fails, calls that change something are refused, and each of
//! them tries to open the audit again.

mod entry;
mod logs;
mod strangers;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossfade_journal::audit::{self, Audit, AuditOptions, AuditRecord};
use crossfade_journal::keys::SigningKey;
use crossfade_journal::{Error as JournalError, Hash, Head};
use serde_json::json;
use tokio::sync::broadcast;

pub use self::entry::{Action, Call, Entry, Listener, Outcome};
use self::logs::Logs;
use self::strangers::Strangers;
use crate::config::AuditConfig;
use crate::metrics::Metrics;
use crate::status::{Refusal, Status};

/// A file of this size is followed by a new one: opening the audit reads all of them.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Refused calls of strangers that are recorded one by one before only one per second is.
const REFUSALS: u32 = 100;

/// Records that are kept for those who follow.
const KEPT: usize = 256;

/// Why the audit cannot be opened at start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The key cannot be read.
    #[error("audit.key `{path}`: {reason}")]
    Key {
        /// As configured.
        path: String,
        /// Why.
        reason: String,
    },
    /// The records cannot be opened, or are damaged.
    #[error("the audit cannot be opened: {0}")]
    Journal(#[from] JournalError),
}

/// The audit, open for writing.
pub struct AuditLog {
    /// `None`: this server has no data folder.
    folder: Option<PathBuf>,
    sign_every: NonZeroU64,
    /// PEM; the key itself cannot be kept for opening the audit again.
    key: Option<String>,
    config_rev: Hash,
    metrics: Arc<Metrics>,
    /// `None` after a failure.
    open: Mutex<Option<Opened>>,
    /// Refused calls of callers without a name.
    strangers: Mutex<Strangers>,
    /// Each record, once it is on disk.
    written: broadcast::Sender<AuditRecord>,
}

/// The audit as it is on disk.
struct Opened {
    audit: Audit,
    /// Where it stands with the logs that it follows.
    logs: Logs,
}

impl AuditLog {
    /// Opens the audit in `folder`, or begins it; without a folder every call that would be recorded is refused.
    /// `config_rev` goes into every record.
    ///
    /// Errors: [`AuditError`]; records that are damaged too, because nothing may follow them.
    /// Cost: two passes over all records.
    pub fn open(
        folder: Option<PathBuf>,
        config: &AuditConfig,
        config_rev: Hash,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, AuditError> {
        let key = config.key.as_deref().map(read_key).transpose()?;
        let log = Self {
            folder,
            sign_every: config.sign_every,
            key,
            config_rev,
            metrics,
            open: Mutex::new(None),
            strangers: Mutex::new(Strangers::new(Instant::now())),
            written: broadcast::Sender::new(KEPT),
        };
        if let Some(folder) = &log.folder {
            let opened = log.opened(folder)?;
            *log.locked() = Some(opened);
        }
        Ok(Arc::new(log))
    }

    /// Appends a record, and returns its number once it would survive a loss of power. Blocks for the disk.
    ///
    /// Errors: `NotReady` if it cannot be written: then the call must not take effect.
    pub fn write(&self, entry: Entry) -> Result<u64, Refusal> {
        let (action, outcome) = (entry.action(), entry.outcome());
        let folder = self.folder()?;
        let mut open = self.locked();
        let written = self.append(folder, &mut open, entry);
        match written {
            Ok(seq) => {
                self.metrics.audited(action.name(), outcome.name());
                Ok(seq)
            }
            Err(error) => {
                // What is on disk is not known any more. Opened again it is, and a torn end is off; if that fails too,
                // the next call tries it again.
                *open = None;
                *open = self.opened(folder).ok();
                tracing::error!(%error, action = action.name(), "the audit cannot be written");
                Err(unwritable())
            }
        }
    }

    /// The last record of a model's log of releases that the audit has; `None` if it has nothing of it. What it has is
    /// read again after a failure. Blocks for the disk then.
    ///
    /// Errors: `NotReady` while the audit cannot be written.
    pub(crate) fn place(&self, log: &str) -> Result<Option<Head>, Refusal> {
        let folder = self.folder()?;
        let mut open = self.locked();
        if open.is_none() {
            let opened = self.opened(folder).map_err(|error| {
                tracing::error!(%error, "the audit cannot be opened");
                unwritable()
            })?;
            *open = Some(opened);
        }
        Ok(open.as_ref().and_then(|open| open.logs.place(log)))
    }

    /// Records that a call was refused, and returns why; if that cannot be recorded, this is why.
    ///
    /// Of callers without a name, no more than `REFUSALS` at once and one per second are recorded each by itself; the next
    /// record says how many there were besides. Else whoever reaches a listener could fill the disk.
    pub fn refused(&self, entry: Entry, refusal: Refusal) -> Refusal {
        let entry = match entry.is_anonymous() {
            false => entry,
            true => {
                let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(unrecorded) = strangers.admit(Instant::now()) else {
                    return refusal;
                };
                match unrecorded {
                    0 => entry,
                    more => entry.evidence(json!({ "refused_besides": more })),
                }
            }
        };
        let written = self.write(entry.ended(Outcome::Refused).error(&refusal.message));
        written.err().unwrap_or(refusal)
    }

    /// The records that follow number `since`, `limit` of them at most, as an export has them; and the place of the last
    /// of them, or `since` in none. Blocks for the disk.
    ///
    /// Errors: `Internal` if they cannot be read, or are damaged.
    pub fn lines(&self, since: u64, limit: usize) -> Result<(Vec<u8>, Option<Head>), Refusal> {
        // What follows the head is being written.
        let end = self.head().map_or(u64::MAX, |head| head.seq);
        let folder = self.folder()?;
        let read = || {
            let records = audit::records(folder, since)?
                .take(usize::try_from(end.saturating_sub(since)).unwrap_or(usize::MAX))
                .take(limit);
            let mut lines = Vec::new();
            let last = audit::export::write(records, &mut lines, folder)?;
            Ok((lines, last))
        };
        read().map_err(|error: JournalError| {
            tracing::error!(%error, "the audit cannot be read");
            Refusal::new(
                Status::Internal,
                "the audit cannot be read; the server's log says why",
            )
        })
    }

    /// Hears of each record from now on; who is more than `KEPT` behind loses the oldest, and is told how many.
    pub fn follow(&self) -> broadcast::Receiver<AuditRecord> {
        self.written.subscribe()
    }

    /// The last record's place; `None` while the audit cannot be written.
    pub fn head(&self) -> Option<Head> {
        self.locked().as_ref().map(|open| open.audit.head())
    }

    /// Errors: `NotReady` for a server without a data folder.
    fn folder(&self) -> Result<&Path, Refusal> {
        let message = "this server has no data folder, so nothing that changes it can be recorded or done; start it with \
                       --data-dir DIR, a folder that it can write";
        let folder = self.folder.as_deref();
        folder.ok_or_else(|| Refusal::new(Status::NotReady, message))
    }

    fn append(&self, folder: &Path, open: &mut Option<Opened>, entry: Entry) -> Result<u64, JournalError> {
        let Opened { audit, logs } = match open {
            Some(open) => open,
            None => open.insert(self.opened(folder)?),
        };
        let record = audit.append(entry.event(self.config_rev))?;
        logs.note(&record);
        let seq = record.seq;
        // Nobody may be listening.
        let _heard = self.written.send(record);
        match audit.sign_if_due() {
            Ok(Some(signed)) => tracing::info!(
                seq = signed.seq, hash = %signed.hash, key = %signed.key, signature = %signed.signature,
                "signed the audit's head"
            ),
            Ok(None) => {}
            // The record stands; the head is due again with the next one.
            Err(error) => tracing::warn!(%error, "the audit's head could not be signed"),
        }
        Ok(seq)
    }

    fn opened(&self, folder: &Path) -> Result<Opened, JournalError> {
        let key = self.key.as_deref().and_then(|pem| SigningKey::from_pem(pem).ok());
        let options = AuditOptions {
            max_file_bytes: MAX_FILE_BYTES,
            sign_every: self.sign_every,
            key,
        };
        let mut logs = Logs::default();
        let (audit, cut) = Audit::open_reading(folder, options, |record| logs.note(record))?;
        if let Some(cut) = cut {
            tracing::warn!(
                bytes = cut.bytes, kept = %cut.kept.display(),
                "the audit ended in a record that was never finished; it was cut off and kept"
            );
        }
        Ok(Opened { audit, logs })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Opened>> {
        // A panic between two records leaves the audit as it was.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unwritable() -> Refusal {
    let message = "the audit cannot be written, so nothing that changes the server is done; its log says why";
    Refusal::new(Status::NotReady, message)
}

/// Reads a key's PEM and checks that it is one.
fn read_key(path: &Path) -> Result<String, AuditError> {
    let failed = |reason: String| AuditError::Key {
        path: path.display().to_string(),
        reason,
    };
    let pem = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    SigningKey::from_pem(&pem).map_err(|error| failed(error.to_string()))?;
    Ok(pem)
}

#[cfg(test)]
mod tests;
