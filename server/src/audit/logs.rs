//! Where the audit stands with the logs that it follows: each of its records of a log names the log's record by number and
//! hash, as the first piece of its evidence, which no caller writes.

use std::collections::BTreeMap;

use crossfade_journal::audit::AuditRecord;
use crossfade_journal::{Hash, Head};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The last record of each log that the audit has, by the log's name.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<String, Head>);

/// A record of a log, as evidence names it.
#[derive(Serialize, Deserialize)]
struct Place {
    model: String,
    seq: u64,
    hash: Hash,
}

impl Logs {
    /// Takes in the next record of the audit.
    pub(super) fn note(&mut self, record: &AuditRecord) {
        let named = record.event.evidence.first().and_then(|first| first.get("log"));
        if let Some(Ok(Place { model, seq, hash })) = named.map(Place::deserialize) {
            self.0.insert(model, Head { seq, hash });
        }
    }

    /// The last record of a log that the audit has; `None` if it has nothing of it.
    pub(super) fn place(&self, log: &str) -> Option<Head> {
        self.0.get(log).copied()
    }
}

/// Evidence that names a record of a model's log.
pub(super) fn place(model: &str, head: Head) -> Value {
    json!(Place {
        model: model.to_owned(),
        seq: head.seq,
        hash: head.hash,
    })
}
