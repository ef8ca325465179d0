//! What calibration found, by model file, in memory and on disk: a restart measures nothing again.
//!
//! ```text
//! <data_dir>/state/calibration.json    a list of entries, replaced whole; may be removed at any time
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::choice::{Choice, Way};

/// Entries kept; those that were found first go first.
const MOST: usize = 4096;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 16 << 20;

/// What a measurement is good for: the model's file as it was, run like this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Artifact {
    /// Absolute, where that can be told.
    path: PathBuf,
    bytes: u64,
    changed_ns: u64,
    cores: usize,
    /// Runtime and its version, device, and what the configuration tells it.
    how: String,
}

impl Artifact {
    /// The file at `path`, as it is now.
    pub(crate) fn of(path: &Path, cores: usize, how: String) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        let changed = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            path: std::path::absolute(path).ok()?,
            bytes: file.len(),
            changed_ns: u64::try_from(changed.as_nanos()).ok()?,
            cores,
            how,
        })
    }

    /// Whether it is of the same model: the file of the same name in a folder beside this one's, run in the same way.
    fn is_kin(&self, other: &Self) -> bool {
        let model = |artifact: &Self| artifact.path.parent().and_then(Path::parent).map(Path::to_owned);
        model(self) == model(other)
            && self.path.file_name() == other.path.file_name()
            && (self.cores, &self.how) == (other.cores, &other.how)
    }

    /// Whether the file is still the same.
    pub(super) fn is_current(&self) -> bool {
        Self::of(&self.path, self.cores, self.how.clone()).as_ref() == Some(self)
    }
}

/// What was found of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(super) way: Way,
    /// Rows per second of each way.
    pub(super) shared: f64,
    pub(super) single: f64,
    /// Whether requests showed it; otherwise a quiet moment.
    pub(super) served: bool,
    /// Seconds since 1970 of the measurement.
    pub(super) at: u64,
}

impl Known {
    /// The better way.
    pub(crate) fn way(self) -> Way {
        self.way
    }

    pub(super) fn new(choice: Choice, served: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            way: choice.way,
            shared: choice.shared,
            single: choice.single,
            served,
            at: now.as_secs(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    artifact: Artifact,
    #[serde(flatten)]
    known: Known,
}

/// Everything known.
#[derive(Default)]
pub(crate) struct Store {
    path: Option<PathBuf>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    of: BTreeMap<Artifact, Known>,
    /// Whether the file does not have all of it yet.
    changed: bool,
}

impl Store {
    /// With what the file at `path` holds. One that cannot be read, or that another version wrote otherwise, is as
    /// good as none.
    pub(crate) fn open(path: PathBuf) -> Self {
        let of = match read(&path) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "models are calibrated anew");
                }
                BTreeMap::new()
            }
        };
        Self {
            path: Some(path),
            entries: Mutex::new(Entries { of, changed: false }),
        }
    }

    /// What is known of it.
    pub(crate) fn get(&self, artifact: &Artifact) -> Option<Known> {
        self.entries().of.get(artifact).copied()
    }

    /// How another version of the same model runs best, the one measured last: what a new version begins with.
    pub(crate) fn way_of_kin(&self, artifact: &Artifact) -> Option<Way> {
        let entries = self.entries();
        let kin = entries.of.iter().filter(|(other, _)| other.is_kin(artifact));
        kin.max_by_key(|(_, known)| known.at).map(|(_, known)| known.way)
    }

    /// Keeps it in memory, until [`save`](Self::save) writes it.
    pub(super) fn put(&self, artifact: Artifact, known: Known) {
        let mut entries = self.entries();
        // The same file as it was before will not come back.
        entries
            .of
            .retain(|other, _| other.path != artifact.path || other.how != artifact.how);
        entries.of.insert(artifact, known);
        while entries.of.len() > MOST {
            let oldest = entries.of.iter().min_by_key(|(_, known)| known.at);
            let Some(oldest) = oldest.map(|(artifact, _)| artifact.clone()) else {
                break;
            };
            entries.of.remove(&oldest);
        }
        entries.changed = true;
    }

    /// Writes what has changed, if anything has; not while the lock is held. Failure is told once per change.
    pub(super) fn save(&self) {
        let Some(path) = &self.path else { return };
        let list: Vec<Entry> = {
            let mut entries = self.entries();
            if !std::mem::take(&mut entries.changed) {
                return;
            }
            let entry = |(artifact, &known): (&Artifact, &Known)| Entry {
                artifact: artifact.clone(),
                known,
            };
            entries.of.iter().map(entry).collect()
        };
        let text = serde_json::to_vec_pretty(&list).map_err(io::Error::other);
        if let Err(error) = text.and_then(|text| write(path, &text)) {
            tracing::warn!(path = %path.display(), %error, "calibration is not kept");
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Artifact, Known>> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other("too large"));
    }
    let entries: Vec<Entry> = serde_json::from_slice(&std::fs::read(path)?)?;
    let entries = entries.into_iter().map(|entry| (entry.artifact, entry.known));
    Ok(entries.collect())
}

/// Whole or not at all. Not synced: what a power cut loses is measured again.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("json.new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
