//! What persons have asked for: that their records are not used, or that no model decides about them.
//!
//! Kept by the keyed digests of their ids in `state/subjects`, so that the file says nothing of who they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use crossfade_journal::snapshot;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The persons, by what they have asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Persons {
    /// Their records stay and are not used.
    restricted: BTreeSet<Uuid>,
    /// No model decides about them.
    objecting: BTreeSet<Uuid>,
}

/// What someone asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Records are kept, and left out of exports, comparisons and sinks.
    Restrict,
    /// Requests about the person are refused.
    Object,
    /// Both end.
    Lift,
}

/// What was asked for, as it is in force.
#[derive(Debug)]
pub(crate) struct Wishes {
    file: PathBuf,
    now: ArcSwap<Persons>,
    turn: Mutex<()>,
}

/// Why it is not known, or not written down.
#[derive(Debug, thiserror::Error)]
#[error("`{file}`: {reason}")]
pub(crate) struct WishError {
    file: String,
    reason: String,
}

impl Wishes {
    /// Reads them from a data folder; a folder without them has none.
    ///
    /// Errors: a file that is damaged: nobody's wish is forgotten in silence.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, WishError> {
        let file = data_dir.join("state").join("subjects");
        let failed = |reason: String| WishError {
            file: file.display().to_string(),
            reason,
        };
        let persons = match snapshot::read(&file).map_err(|error| failed(error.to_string()))? {
            Some(text) => serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?,
            None => Persons::default(),
        };
        Ok(Self {
            file,
            now: ArcSwap::from_pointee(persons),
            turn: Mutex::default(),
        })
    }

    /// Whether no model may decide about a person. Cost: one atomic load where nobody has asked for it.
    pub(crate) fn objects(&self, subject: &[u8; 16]) -> bool {
        let now = self.now.load();
        !now.objecting.is_empty() && now.objecting.contains(&Uuid::from_bytes(*subject))
    }

    /// Whose records are not used.
    pub(crate) fn restricted(&self) -> BTreeSet<[u8; 16]> {
        self.now
            .load()
            .restricted
            .iter()
            .map(|id| id.into_bytes())
            .collect()
    }

    /// Writes down what someone asks for; it is on disk and in force when this returns. Returns whether anything has changed. Blocks for
    /// the disk.
    ///
    /// Errors: the system's; then it is not in force.
    pub(crate) fn note(&self, subject: [u8; 16], wish: Wish) -> Result<bool, WishError> {
        let _one = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut persons = Persons::clone(&self.now.load());
        let id = Uuid::from_bytes(subject);
        let is_new = match wish {
            Wish::Restrict => persons.restricted.insert(id),
            Wish::Object => persons.objecting.insert(id),
            Wish::Lift => persons.restricted.remove(&id) | persons.objecting.remove(&id),
        };
        if is_new {
            let failed = |reason: String| WishError {
                file: self.file.display().to_string(),
                reason,
            };
            let text = serde_json::to_vec(&persons).map_err(|error| failed(error.to_string()))?;
            snapshot::replace(&self.file, &text).map_err(|error| failed(error.to_string()))?;
            self.now.store(persons.into());
        }
        Ok(is_new)
    }
}

/// Whose records are not used, by the files of a data folder.
///
/// Errors: as [`Wishes::open`].
pub(crate) fn restricted_in(data_dir: &Path) -> Result<BTreeSet<[u8; 16]>, WishError> {
    Wishes::open(data_dir).map(|wishes| wishes.restricted())
}

/// How many persons no model may decide about, by the files of a data folder.
///
/// Errors: as [`Wishes::open`].
pub(crate) fn objecting_in(data_dir: &Path) -> Result<usize, WishError> {
    Wishes::open(data_dir).map(|wishes| wishes.now.load().objecting.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: [u8; 16] = [1; 16];
    const BOB: [u8; 16] = [2; 16];

    #[test]
    fn wishes_hold_over_a_restart_until_they_are_lifted() {
        let data = tempfile::tempdir().unwrap();
        crossfade_journal::storage::create_folder(&data.path().join("state")).unwrap();
        let wishes = Wishes::open(data.path()).unwrap();
        assert!(!wishes.objects(&ANN) && wishes.restricted().is_empty());
        assert!(wishes.note(ANN, Wish::Object).unwrap());
        assert!(!wishes.note(ANN, Wish::Object).unwrap(), "it was so already");
        assert!(wishes.note(BOB, Wish::Restrict).unwrap());
        let wishes = Wishes::open(data.path()).unwrap();
        assert!(wishes.objects(&ANN) && !wishes.objects(&BOB));
        assert_eq!(wishes.restricted(), [BOB].into());
        assert_eq!(
            (
                objecting_in(data.path()).unwrap(),
                restricted_in(data.path()).unwrap()
            ),
            (1, [BOB].into())
        );
        assert!(wishes.note(ANN, Wish::Lift).unwrap() && wishes.note(BOB, Wish::Lift).unwrap());
        assert!(!wishes.note(BOB, Wish::Lift).unwrap());
        let wishes = Wishes::open(data.path()).unwrap();
        assert!(!wishes.objects(&ANN) && wishes.restricted().is_empty());
    }

    #[test]
    fn wishes_that_cannot_be_read_are_not_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let state = data.path().join("state");
        crossfade_journal::storage::create_folder(&state).unwrap();
        std::fs::write(state.join("subjects"), "damaged").unwrap();
        let error = Wishes::open(data.path()).unwrap_err().to_string();
        assert!(error.contains("subjects"), "{error}");
    }

    #[test]
    fn a_wish_that_cannot_be_written_is_not_in_force() {
        let data = tempfile::tempdir().unwrap();
        let wishes = Wishes::open(data.path()).unwrap();
        assert!(
            wishes.note(ANN, Wish::Object).is_err(),
            "there is no folder for it"
        );
        assert!(!wishes.objects(&ANN));
    }
}
