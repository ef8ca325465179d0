//! What a repository looks like at one moment, and what has changed for certain between moments.
//!
//! [`diff`] is pure: a change counts only when two scans in a row agree on it, so half-copied files are left alone.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::LayoutError;
use crate::layout;

/// Directories below a version are followed this deep.
const MAX_DEPTH: usize = 4;

/// Names, sizes and times of some files, condensed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

/// One model at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSnapshot {
    /// Its directories: more than one is an error of the repositories.
    pub directories: Vec<PathBuf>,
    /// Its configuration, label and warm-up files.
    pub config: Fingerprint,
    /// Its versions that hold anything.
    pub versions: BTreeMap<u64, Fingerprint>,
}

/// All models at one moment, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The models.
    pub models: BTreeMap<String, ModelSnapshot>,
}

/// Something that changed for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new model, with its versions.
    ModelAdded(String),
    /// A model that is gone.
    ModelRemoved(String),
    /// Configuration, labels, warm-up files, or where the model stands.
    ConfigChanged(String),
    /// A new version.
    VersionAdded(String, u64),
    /// A version that is gone.
    VersionRemoved(String, u64),
    /// Other files under the same version.
    VersionChanged(String, u64),
}

impl Change {
    /// The model that changed.
    pub fn model(&self) -> &str {
        match self {
            Change::ModelAdded(model) | Change::ModelRemoved(model) | Change::ConfigChanged(model) => model,
            Change::VersionAdded(model, _)
            | Change::VersionRemoved(model, _)
            | Change::VersionChanged(model, _) => model,
        }
    }
}

impl Snapshot {
    /// Looks at the repositories.
    ///
    /// Errors: a repository cannot be listed. (A model that cannot be listed counts as without versions.)
    pub fn take<'a>(repositories: impl IntoIterator<Item = &'a Path>) -> Result<Self, LayoutError> {
        let mut snapshot = Snapshot::default();
        for repository in repositories {
            for model in layout::models(repository)?.found {
                let seen = ModelSnapshot::take(&model.path);
                let entry = snapshot.models.entry(model.name).or_default();
                entry.directories.extend(seen.directories);
                entry.versions.extend(seen.versions);
                entry.config = Fingerprint(entry.config.0 ^ seen.config.0);
            }
        }
        Ok(snapshot)
    }

    /// Brings what `changes` name to the state of `latest`.
    pub fn apply(&mut self, changes: &[Change], latest: &Snapshot) {
        for change in changes {
            let Some(new) = latest.models.get(change.model()) else {
                self.models.remove(change.model());
                continue;
            };
            let own = self.models.entry(change.model().to_owned()).or_default();
            match change {
                Change::ModelAdded(_) | Change::ModelRemoved(_) => *own = new.clone(),
                Change::ConfigChanged(_) => {
                    own.config = new.config;
                    own.directories.clone_from(&new.directories);
                }
                Change::VersionAdded(_, version)
                | Change::VersionRemoved(_, version)
                | Change::VersionChanged(_, version) => match new.versions.get(version) {
                    Some(fingerprint) => {
                        own.versions.insert(*version, *fingerprint);
                    }
                    None => {
                        own.versions.remove(version);
                    }
                },
            }
        }
    }
}

impl ModelSnapshot {
    /// Looks at one model's directory.
    pub fn take(directory: &Path) -> Self {
        let versions = layout::versions(directory)
            .map(|listing| listing.found)
            .unwrap_or_default();
        let versions = versions.into_iter().map(|version| {
            (
                version,
                fingerprint(&directory.join(version.to_string()), MAX_DEPTH),
            )
        });
        let mut hasher = DefaultHasher::new();
        for (part, depth) in [("", 0), ("configs", 0), ("warmup", 0)] {
            fingerprint(&directory.join(part), depth).0.hash(&mut hasher);
        }
        ModelSnapshot {
            directories: vec![directory.to_owned()],
            config: Fingerprint(hasher.finish()),
            versions: versions.collect(),
        }
    }
}

/// Names, sizes and times of the files below a directory, `depth` directories deep; an absent one is empty.
pub fn fingerprint(directory: &Path, depth: usize) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    hash_directory(directory, depth, &mut hasher);
    Fingerprint(hasher.finish())
}

fn hash_directory(directory: &Path, depth: usize, hasher: &mut DefaultHasher) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_file() {
            let modified = metadata
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            (path.file_name(), metadata.len(), modified).hash(hasher);
        } else if depth > 0 {
            path.file_name().hash(hasher);
            hash_directory(&path, depth - 1, hasher);
        }
    }
}

/// What changed since `applied` and is the same in both scans.
pub fn diff(applied: &Snapshot, previous: &Snapshot, latest: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, new) in &latest.models {
        let Some(before) = previous.models.get(name) else {
            continue;
        };
        match applied.models.get(name) {
            None if before == new => changes.push(Change::ModelAdded(name.clone())),
            None => {}
            Some(old) => diff_model(name, old, before, new, &mut changes),
        }
    }
    let gone = applied
        .models
        .keys()
        .filter(|name| !latest.models.contains_key(*name) && !previous.models.contains_key(*name));
    changes.extend(gone.map(|name| Change::ModelRemoved(name.clone())));
    changes
}

fn diff_model(
    name: &str,
    applied: &ModelSnapshot,
    previous: &ModelSnapshot,
    latest: &ModelSnapshot,
    changes: &mut Vec<Change>,
) {
    let settled = latest.config == previous.config && latest.directories == previous.directories;
    if settled && (latest.config != applied.config || latest.directories != applied.directories) {
        changes.push(Change::ConfigChanged(name.to_owned()));
    }
    for (&version, new) in &latest.versions {
        if previous.versions.get(&version) != Some(new) {
            continue;
        }
        match applied.versions.get(&version) {
            None => changes.push(Change::VersionAdded(name.to_owned(), version)),
            Some(old) if old != new => changes.push(Change::VersionChanged(name.to_owned(), version)),
            Some(_) => {}
        }
    }
    for &version in applied.versions.keys() {
        if !latest.versions.contains_key(&version) && !previous.versions.contains_key(&version) {
            changes.push(Change::VersionRemoved(name.to_owned(), version));
        }
    }
}

#[cfg(test)]
mod tests;
