//! What is told of releases: each record of a model's log once it counts, and again from the log for who missed it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crossfade_rollout::State;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;

use super::log;
use super::record::{Book, Record};

/// Moves that wait for a follower; who is further behind loses the oldest, and reads the log.
const KEPT: usize = 256;

/// A move of a release, or of a model's live version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct News {
    /// Its place in the model's log; `None` for who is told as it happens: a move back may not be written yet.
    pub seq: Option<u64>,
    /// What kind.
    pub kind: NewsKind,
    /// The model.
    pub model: String,
    /// The release, where there is one.
    pub release: Option<String>,
    /// The version that it is about.
    pub version: u64,
    /// The version that is, or was, live beside it.
    pub champion: Option<u64>,
    /// The state before.
    pub from: Option<&'static str>,
    /// The state now.
    pub to: Option<&'static str>,
    /// Why it ended badly, in a word.
    pub reason: Option<Value>,
    /// What happened.
    pub event: String,
    /// Who did it: a name, or `crossfade`.
    pub actor: String,
    /// Why, where someone or something said so.
    pub why: Option<String>,
    /// Seconds since 1970.
    pub at: u64,
}

/// Where moves are told as they take effect.
#[derive(Debug, Clone)]
pub(super) struct Teller(broadcast::Sender<Arc<News>>);

impl Default for Teller {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Teller {
    /// Tells of a move. Never waits.
    pub(super) fn tell(&self, news: News) {
        // Nobody may be listening.
        let _heard = self.0.send(Arc::new(news)).is_ok();
    }

    /// Hears of each move from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Arc<News>> {
        self.0.subscribe()
    }
}

/// What kind of move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewsKind {
    /// A release begins, goes on, or has ended well.
    Transition,
    /// A version is sent back, or an earlier one is live again.
    Rollback,
    /// A release waits for approvals.
    Approval,
}

impl News {
    /// What is told of a record that follows on `book`; nothing of files that were found.
    pub(super) fn of(model: &str, seq: Option<u64>, book: &Book, record: &Record) -> Option<Self> {
        let mut news = Self {
            seq,
            kind: NewsKind::Transition,
            model: model.to_owned(),
            release: None,
            version: 0,
            champion: book.champion,
            from: None,
            to: None,
            reason: None,
            event: String::new(),
            actor: super::desk::SERVER.to_owned(),
            why: None,
            at: 0,
        };
        match record {
            Record::Adopted { version, at, .. } => {
                news.event = "adopted".to_owned();
                (news.version, news.at) = (*version, *at);
            }
            Record::Created(created) => {
                news.event = "created".to_owned();
                (news.version, news.at) = (created.version, created.at);
                news.release = Some(created.id.clone());
                news.to = Some(State::Verifying.name());
                news.actor.clone_from(&created.actor);
                news.why.clone_from(&created.why);
            }
            Record::Moved {
                id,
                event,
                state,
                actor,
                why,
                at,
            } => {
                let run = book.runs.last();
                news.version = run.map_or(0, |run| run.created.version);
                news.champion = run.map(|run| run.created.champion);
                news.from = run.map(|run| run.state.name());
                news.to = Some(state.name());
                news.kind = kind(state);
                news.reason = serde_json::to_value(state)
                    .ok()
                    .and_then(|state| state.get("reason").cloned());
                news.event = event.to_string();
                news.release = Some(id.clone());
                news.actor.clone_from(actor);
                news.why.clone_from(why);
                news.at = *at;
            }
            Record::Seen { .. } | Record::Gated { .. } | Record::Withdrawn { .. } => return None,
            Record::Approved { id, given, at, .. } => {
                let run = book.runs.last();
                news.version = run.map_or(0, |run| run.created.version);
                news.from = run.map(|run| run.state.name());
                news.to = news.from;
                news.event = "agreed".to_owned();
                news.release = Some(id.clone());
                news.actor.clone_from(&given.by.name);
                news.at = *at;
            }
            Record::Restored {
                version,
                actor,
                why,
                at,
            } => {
                news.kind = NewsKind::Rollback;
                news.event = "restored".to_owned();
                (news.version, news.at) = (*version, *at);
                news.actor.clone_from(actor);
                news.why = Some(why.clone());
            }
        }
        Some(news)
    }
}

fn kind(state: &State) -> NewsKind {
    match state {
        State::RollingBack { .. } | State::RolledBack { .. } | State::Failed { .. } => NewsKind::Rollback,
        State::AwaitingApproval { .. } => NewsKind::Approval,
        _ => NewsKind::Transition,
    }
}

/// What a model's log holds after a place in it, `most` moves of it. Blocks for the disk.
///
/// The log may be written meanwhile: a record that is there in part ends what is read, and comes with the next question.
///
/// Errors: the log cannot be opened.
pub(super) fn after(folder: &Path, model: &str, seq: u64, most: usize) -> Result<Vec<News>, String> {
    let records = log::records(&folder.join(format!("{model}.log")))?;
    let mut book = Book::default();
    let mut news = Vec::new();
    for (place, read) in records.map_while(Result::ok) {
        if place > seq {
            if news.len() == most {
                break;
            }
            news.extend(News::of(model, Some(place), &book, &read));
        }
        if book.apply(&read).is_err() {
            break;
        }
    }
    Ok(news)
}

/// The models that have a log, and its length in bytes. Blocks for the disk.
pub(super) fn models(folder: &Path) -> BTreeMap<String, u64> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    let log = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let model = name.strip_suffix(".log")?;
        Some((model.to_owned(), entry.metadata().ok()?.len()))
    };
    entries.filter_map(Result::ok).filter_map(log).collect()
}
