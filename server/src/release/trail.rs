//! What the audit holds of a model's releases: each record of the log once, in the log's order.
//!
//! The log is written first and is what counts. How far the audit has followed it the audit itself says, by the number and
//! the hash of the log's last record that it has; so what a process that died between the two has not recorded is known
//! at the next start, and nothing is recorded twice. A log that the audit has nothing of, or another one than it followed,
//! is followed from its present end on: one record names that end, whose hash covers all before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossfade_journal::{Head, Reader};
use crossfade_rollout::State;
use serde_json::{Value, json};

use super::desk::SERVER;
use super::record::{Book, Record, Run};
use super::report;
use crate::admin::change::release;
use crate::audit::{Action, AuditLog, Entry};
use crate::control::object;

/// The audit's side of a log.
pub(super) struct Trail {
    audit: Arc<AuditLog>,
    model: String,
    /// The log's file.
    path: PathBuf,
    /// The log's end when it was opened.
    begins: Head,
    /// The last record that `book` has.
    at: Head,
    /// What follows from the log as far as the audit has it; of its releases the last one only.
    book: Book,
    /// The same before the last record, which may be withdrawn.
    earlier: Book,
    /// Something is missing.
    behind: bool,
}

impl Trail {
    /// Follows a log that was opened just now.
    ///
    /// * `begins`: its end
    pub(super) fn new(audit: &Arc<AuditLog>, model: &str, path: &Path, begins: Head) -> Self {
        Self {
            audit: audit.clone(),
            model: model.to_owned(),
            path: path.to_owned(),
            begins,
            at: Head::EMPTY,
            book: Book::default(),
            earlier: Book::default(),
            behind: true,
        }
    }

    /// Whether the audit may lack something that the log has.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Records what the log's last record says, and what is missing before it.
    ///
    /// * `head`: the record's place
    ///
    /// Errors: the audit cannot be written.
    pub(super) fn follow(&mut self, head: Head, record: &Record) -> Result<(), String> {
        self.behind = true;
        if self.place()? == Some(self.at) && self.at.seq.saturating_add(1) == head.seq {
            self.tell(head, record)?;
            self.behind = false;
            return Ok(());
        }
        self.catch_up(head)
    }

    /// Records all that the log has and the audit has not.
    ///
    /// * `head`: the log's last record
    ///
    /// Errors: the audit cannot be written; the log cannot be read.
    /// Cost: nothing where nothing is missing; else the log is read.
    pub(super) fn catch_up(&mut self, head: Head) -> Result<(), String> {
        self.behind = true;
        let place = self.place()?;
        if place != Some(head) {
            self.read_again(place)?;
        }
        self.behind = false;
        Ok(())
    }

    fn read_again(&mut self, place: Option<Head>) -> Result<(), String> {
        let known = match place {
            Some(place) if self.holds(place)? => place,
            place => self.begin(place)?,
        };
        (self.book, self.earlier, self.at) = (Book::default(), Book::default(), Head::EMPTY);
        for record in self.read()? {
            let record = record.map_err(|error| error.to_string())?;
            let head = record.head();
            let read: Record = serde_json::from_slice(&record.payload)
                .map_err(|error| format!("`{}`: record {}: {error}", self.path.display(), record.seq))?;
            match record.seq > known.seq {
                true => self.tell(head, &read)?,
                false => self.note(head, &read)?,
            }
        }
        Ok(())
    }

    /// Whether the log has this record.
    fn holds(&self, place: Head) -> Result<bool, String> {
        if place == Head::EMPTY {
            return Ok(true);
        }
        let mut records = self.read()?.map_while(Result::ok);
        Ok(records.any(|record| record.head() == place))
    }

    /// Follows the log from where it ended when it was opened; `before` is where the audit stood with another one.
    fn begin(&mut self, before: Option<Head>) -> Result<Head, String> {
        if let Some(before) = before {
            tracing::warn!(
                model = self.model, record = before.seq, hash = %before.hash,
                "the log of a model's releases is not the one that the audit has followed: this record is not in it"
            );
        }
        let end = |head: Head| json!({ "seq": head.seq, "hash": head.hash });
        let object = object("", &self.model);
        let entry = Entry::of_log(
            Action::FollowsLog,
            SERVER,
            &object,
            json!({}),
            &self.model,
            self.begins,
        );
        let entry = entry
            .before(before.map_or(Value::Null, end))
            .after(end(self.begins));
        self.write(entry)?;
        Ok(self.begins)
    }

    fn tell(&mut self, head: Head, record: &Record) -> Result<(), String> {
        self.write(entry(&self.model, &self.book, &self.earlier, head, record))?;
        self.note(head, record)
    }

    fn note(&mut self, head: Head, record: &Record) -> Result<(), String> {
        if let Record::Withdrawn { .. } = record {
            self.book = self.earlier.clone();
        } else {
            self.earlier = self.book.clone();
            self.book.apply(record)?;
            let last = self.book.runs.len().saturating_sub(1);
            self.book.runs.drain(..last);
        }
        self.at = head;
        Ok(())
    }

    fn place(&self) -> Result<Option<Head>, String> {
        self.audit.place(&self.model).map_err(|refusal| refusal.message)
    }

    fn write(&self, entry: Entry) -> Result<(), String> {
        let written = self.audit.write(entry);
        written.map(|_seq| ()).map_err(|refusal| refusal.message)
    }

    fn read(&self) -> Result<Reader<std::io::BufReader<std::fs::File>>, String> {
        Reader::open(&self.path).map_err(|error| error.to_string())
    }
}

/// What the audit says of a record of the log.
///
/// * `book`, `earlier`: what follows from all before it, and from all before the one before it
fn entry(model: &str, book: &Book, earlier: &Book, head: Head, record: &Record) -> Entry {
    let run = book.runs.last();
    let same = |before: &&Run| run.is_some_and(|run| run.created.id == before.created.id);
    let (state, was) = (state(run), state(earlier.runs.last().filter(same)));
    let of =
        |action, actor: &str, object: &str, what| Entry::of_log(action, actor, object, what, model, head);
    let of_release = |action, actor: &str, id: &str, mut what: Value| {
        if let Some(run) = run.filter(|run| run.created.id == id) {
            what["version"] = text(run.created.version);
            what["artifact_sha256"] = json!(run.created.digest);
        }
        of(action, actor, &release(model, id), what)
    };
    let of_model = |action, actor: &str, version: u64, mut what: Value| {
        what["version"] = text(version);
        what["artifact_sha256"] = json!(book.digests.get(&version));
        of(action, actor, &object("", model), what)
    };
    match record {
        Record::Adopted { version, at, .. } => {
            let what = json!({ "event": "adopted", "at": at });
            let entry = of_model(Action::Adopted, SERVER, *version, what);
            entry.before(live(book.champion)).after(live(Some(*version)))
        }
        Record::Seen { version, digest, at } => {
            let files = |digest: Option<&String>| json!({ "artifact_sha256": digest });
            let known = files(book.digests.get(version));
            let mut what = json!({ "event": "seen", "at": at, "version": text(*version) });
            what["artifact_sha256"] = json!(digest);
            let entry = of(Action::Seen, SERVER, &object("", model), what);
            entry.before(known).after(files(Some(digest)))
        }
        Record::Created(created) => {
            let mut what = json!({ "event": "created", "at": created.at, "version": text(created.version) });
            what["artifact_sha256"] = json!(created.digest);
            what["champion"] = text(created.champion);
            let object = release(model, &created.id);
            let entry = of(Action::Created, &created.actor, &object, what);
            let entry = entry.after(json!(State::Verifying));
            entry.reason(created.why.as_deref().unwrap_or_default())
        }
        Record::Moved {
            id,
            event,
            state: next,
            actor,
            why,
            at,
        } => {
            let what = json!({ "event": event.to_string(), "at": at });
            let entry = of_release(Action::Moved, actor, id, what);
            let entry = entry.before(state).after(json!(next));
            entry.reason(why.as_deref().unwrap_or_default())
        }
        Record::Gated { id, report, at } => {
            let what = json!({
                "event": "gated", "at": at,
                "report_sha256": report::report_sha256(report), "passed": report::passed(report),
            });
            of_release(Action::Gated, SERVER, id, what)
                .before(state.clone())
                .after(state)
        }
        Record::Approved {
            id, given, key, at, ..
        } => {
            let what = json!({ "event": "agreed", "at": at, "key": key });
            of_release(Action::Approved, &given.by.name, id, what)
                .before(state.clone())
                .after(state)
        }
        Record::Restored {
            version,
            actor,
            why,
            at,
        } => {
            let what = json!({ "event": "restored", "at": at });
            let entry = of_model(Action::Restored, actor, *version, what).reason(why);
            entry.before(live(book.champion)).after(live(Some(*version)))
        }
        Record::Withdrawn { seq, why } => {
            let what = json!({ "event": "withdrawn", "withdrawn": seq });
            let entry = match run {
                Some(run) => of_release(Action::Withdrawn, SERVER, &run.created.id, what),
                None => of(Action::Withdrawn, SERVER, &object("", model), what),
            };
            entry.before(state).after(was).reason(why)
        }
    }
}

fn state(run: Option<&Run>) -> Value {
    run.map_or(Value::Null, |run| json!(run.state))
}

fn live(version: Option<u64>) -> Value {
    json!({ "live": version.map(text) })
}

/// Not every version is a number that JSON can hold.
fn text(version: u64) -> Value {
    version.to_string().into()
}

#[cfg(test)]
mod tests;
