//! How far a webhook has come in each model's log, on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crossfade_journal::snapshot;
use crossfade_journal::storage::create_folder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::release::Releases;

/// The places, and where they are kept.
pub(super) struct Cursor {
    file: PathBuf,
    kept: Kept,
}

/// A cursor as it is to be kept.
pub(super) struct Moved {
    file: PathBuf,
    text: Result<Vec<u8>, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    url: String,
    /// The last record that was told, or passed over, by model.
    models: BTreeMap<String, u64>,
}

impl Cursor {
    /// The cursor of a URL. One that is new begins at the end of every log: what happened before is not told.
    ///
    /// Errors: a file that cannot be read or written.
    pub(super) fn open(state: &Path, url: &str, releases: &Releases) -> Result<Self, String> {
        let name: String = Sha256::digest(url)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder = state.join("webhooks");
        create_folder(&folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        let file = folder.join(format!("{name}.json"));
        let found = snapshot::read(&file).map_err(|error| error.to_string())?;
        let kept = match found {
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| format!("`{}`: {error}; remove it to begin anew", file.display()))?,
            None => Kept {
                url: url.to_owned(),
                models: releases
                    .told_of()
                    .into_keys()
                    .map(|model| end(releases, model))
                    .collect::<Result<_, _>>()?,
            },
        };
        let cursor = Self { file, kept };
        cursor.moment().keep()?;
        Ok(cursor)
    }

    /// The place in a model's log; a model of which nothing was told yet is told from its beginning.
    pub(super) fn of(&self, model: &str) -> u64 {
        self.kept.models.get(model).copied().unwrap_or_default()
    }

    /// Goes on to a record; what is returned has to be kept.
    pub(super) fn moved(&mut self, model: &str, seq: u64) -> Moved {
        self.kept.models.insert(model.to_owned(), seq);
        self.moment()
    }

    fn moment(&self) -> Moved {
        Moved {
            file: self.file.clone(),
            text: serde_json::to_vec(&self.kept).map_err(|error| error.to_string()),
        }
    }
}

impl Moved {
    /// Writes it; a loss of power leaves this or the one before. Blocks for the disk.
    pub(super) fn keep(self) -> Result<(), String> {
        snapshot::replace(&self.file, &self.text?).map_err(|error| error.to_string())
    }
}

/// A model and the last record of its log.
///
/// Errors: the log cannot be opened.
fn end(releases: &Releases, model: String) -> Result<(String, u64), String> {
    let news = releases.news(&model, 0, usize::MAX)?;
    let seq = news.last().and_then(|news| news.seq).unwrap_or_default();
    Ok((model, seq))
}
