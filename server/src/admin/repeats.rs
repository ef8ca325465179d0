//! Answers that are kept for calls that come again with the same `Idempotency-Key`.
//!
//! The latest of them, for a day at most; they outlive the process, but for a call during which it dies.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossfade_journal::storage::create_folder;
use crossfade_journal::{Hash, snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::status::{Refusal, Status};

/// Answers that are kept: as many as can be written down with each further one.
const KEPT: usize = 256;
/// Seconds.
const DAY: u64 = 86_400;

/// Kept answers.
#[derive(Default)]
pub(super) struct Repeats {
    /// Where they are written down.
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Oldest first.
    answers: VecDeque<Answered>,
    /// Actor and key of calls that are being carried out.
    under_way: BTreeSet<(String, String)>,
}

/// One call and its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    actor: String,
    key: String,
    call: Hash,
    answer: Option<Value>,
    refusal: Option<(Status, String)>,
    at: u64,
}

/// Whether a call is new.
pub(super) enum Begun {
    /// It was carried out, with this answer.
    Before(Result<Value, Refusal>),
    /// It is carried out now.
    Now(Turn),
}

/// A call that is being carried out; dropped without an answer, it may come again.
pub(super) struct Turn {
    repeats: Arc<Repeats>,
    actor: String,
    key: String,
    call: Hash,
}

impl Repeats {
    /// Answers that are kept in a file; those of before are read.
    pub(super) fn open(path: &Path) -> Self {
        // If that fails, writing says so.
        let _made = path.parent().map(create_folder);
        let read = snapshot::read(path).map_err(|error| error.to_string());
        let read = read.and_then(|bytes| {
            let answers = bytes.map(|bytes| serde_json::from_slice(&bytes));
            answers.transpose().map_err(|error| error.to_string())
        });
        let answers = read.unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), error, "answers to calls with a key are forgotten");
            None
        });
        Self {
            path: Some(path.to_owned()),
            inner: Mutex::new(Inner {
                answers: answers.unwrap_or_default(),
                under_way: BTreeSet::new(),
            }),
        }
    }

    /// Errors: `Conflict` if the key is of another call, or its call is under way.
    pub(super) fn begin(self: &Arc<Self>, actor: &str, key: &str, call: Hash) -> Result<Begun, Refusal> {
        let mut inner = self.locked();
        let now = now();
        inner
            .answers
            .retain(|answered| now < answered.at.saturating_add(DAY));
        let mut known = inner.answers.iter();
        if let Some(known) = known.find(|answered| answered.actor == actor && answered.key == key) {
            if known.call != call {
                let message = format!("`idempotency-key` {key} was sent with another call before");
                return Err(Refusal::new(Status::Conflict, message));
            }
            let refusal = known.refusal.clone();
            return Ok(Begun::Before(match refusal {
                Some((status, message)) => Err(Refusal::new(status, message)),
                None => Ok(known.answer.clone().unwrap_or_default()),
            }));
        }
        if !inner.under_way.insert((actor.to_owned(), key.to_owned())) {
            let message = format!("the call with the `idempotency-key` {key} is under way");
            return Err(Refusal::new(Status::Conflict, message));
        }
        Ok(Begun::Now(Turn {
            repeats: self.clone(),
            actor: actor.to_owned(),
            key: key.to_owned(),
            call,
        }))
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        // Between any two statements the answers are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Keeps the answer, unless the server was only not able to give one. Blocks for the disk.
    pub(super) fn end(self, answer: Result<&Value, &Refusal>) {
        let passing = |refusal: &&Refusal| matches!(refusal.status, Status::NotReady | Status::Internal);
        if answer.as_ref().err().is_some_and(passing) {
            return;
        }
        let mut inner = self.repeats.locked();
        inner.answers.push_back(Answered {
            actor: self.actor.clone(),
            key: self.key.clone(),
            call: self.call,
            answer: answer.ok().cloned(),
            refusal: answer
                .err()
                .map(|refusal| (refusal.status, refusal.message.clone())),
            at: now(),
        });
        let over = inner.answers.len().saturating_sub(KEPT);
        inner.answers.drain(..over);
        let Some(path) = &self.repeats.path else {
            return;
        };
        let written = serde_json::to_vec(&inner.answers).map_err(|error| error.to_string());
        let written =
            written.and_then(|bytes| snapshot::replace(path, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!(
                error,
                "an answer to a call with a key will not outlive the process"
            );
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let call = (std::mem::take(&mut self.actor), std::mem::take(&mut self.key));
        self.repeats.locked().under_way.remove(&call);
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CALL: Hash = Hash([1; 32]);

    fn turn(begun: Begun) -> Turn {
        match begun {
            Begun::Now(turn) => turn,
            Begun::Before(answer) => panic!("it was answered: {answer:?}"),
        }
    }

    #[test]
    fn a_key_belongs_to_one_call_of_one_caller_and_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repeats");
        let repeats = Arc::new(Repeats::open(&path));
        let first = turn(repeats.begin("ann", "k", CALL).unwrap());
        assert!(repeats.begin("ann", "k", CALL).is_err(), "it is under way");
        turn(repeats.begin("bob", "k", CALL).unwrap()).end(Ok(&json!(2)));
        first.end(Ok(&json!(1)));
        assert!(repeats.begin("ann", "k", Hash([2; 32])).is_err(), "another call");
        // It outlives the process.
        let repeats = Arc::new(Repeats::open(&path));
        for (actor, expected) in [("ann", 1), ("bob", 2)] {
            match repeats.begin(actor, "k", CALL).unwrap() {
                Begun::Before(answer) => assert_eq!(answer, Ok(json!(expected))),
                Begun::Now(_) => panic!("{actor} is forgotten"),
            }
        }
        for number in 0..KEPT {
            turn(repeats.begin("eve", &number.to_string(), CALL).unwrap()).end(Ok(&json!(null)));
        }
        drop(turn(repeats.begin("ann", "k", CALL).unwrap()));
    }

    #[test]
    fn refusals_are_kept_and_failures_are_not() {
        let repeats = Arc::new(Repeats::default());
        let conflict = Refusal::new(Status::Conflict, "it is live");
        turn(repeats.begin("ann", "a", CALL).unwrap()).end(Err(&conflict));
        match repeats.begin("ann", "a", CALL).unwrap() {
            Begun::Before(answer) => assert_eq!(answer, Err(conflict)),
            Begun::Now(_) => panic!("it is forgotten"),
        }
        let down = Refusal::new(Status::NotReady, "the disk is full");
        turn(repeats.begin("ann", "b", CALL).unwrap()).end(Err(&down));
        turn(repeats.begin("ann", "b", CALL).unwrap()).end(Ok(&json!(1)));
    }
}
