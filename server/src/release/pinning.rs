//! Digests of a model's versions: written down at first sight, and what follows when files change under a number
//! (rollout.md §1).
//!
//! Where digests are pinned, files are read before they are loaded, and changed ones are refused; else after, and the
//! new digest is written down. Files are read again only when their names, sizes or times have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crossfade_models::scan::{Fingerprint, fingerprint};
use crossfade_models::{Found, RegistryError};
use crossfade_rollout::policy::Trust;
use crossfade_rollout::state::{Event, Reason};

use super::desk::{Desk, SERVER};
use super::digest::{self, DEPTH, Digests};
use super::record::Record;
use super::world::World;

/// What is known of the files of a model's versions.
#[derive(Default)]
pub(super) struct Artifacts {
    /// The digest of what lay there when it had this fingerprint.
    read: BTreeMap<u64, (Fingerprint, String)>,
    /// What was complained about.
    told: BTreeSet<(u64, String)>,
}

/// Versions whose files have to be read.
#[derive(Default)]
pub(super) struct Unread(Vec<(u64, PathBuf, Fingerprint)>);

/// What their files were.
pub(super) struct WasRead(Vec<(u64, Fingerprint, io::Result<String>)>);

impl Unread {
    /// Reads the files. Blocks: for load threads and calls of people.
    pub(super) fn read(self, digests: &Digests) -> WasRead {
        let read = self.0.into_iter();
        WasRead(
            read.map(|(version, folder, seen)| (version, seen, digests.of(&folder)))
                .collect(),
        )
    }
}

/// What may be loaded where digests are pinned.
pub(super) struct Pinned {
    /// The versions whose files are those that were seen first.
    pub(super) usable: BTreeSet<u64>,
    /// Those of them that the version policy chooses.
    pub(super) chosen: Vec<u64>,
    /// Versions that are loaded and stay as they are.
    pub(super) held: BTreeSet<u64>,
}

impl Desk {
    /// Whether files that change under a number are refused.
    fn is_pinned(&self) -> bool {
        self.policy.gates.signature >= Trust::Pinned
    }

    /// The versions to read before anything is loaded.
    pub(super) fn unread_before(&self, found: &Found<'_>) -> Unread {
        if !self.is_pinned() {
            return Unread::default();
        }
        self.unread(found.directory, &self.concerned(found))
    }

    /// The versions to read after they were loaded.
    pub(super) fn unread_after(&self, live: &BTreeSet<u64>) -> Unread {
        self.unread(&self.directory, live)
    }

    /// A version to read before a release of it is begun.
    pub(super) fn unread_new(&self, version: u64) -> Unread {
        let is_there = self.directory.join(version.to_string()).is_dir();
        let versions = is_there.then_some(version).into_iter().collect();
        self.unread(&self.directory, &versions)
    }

    fn unread(&self, directory: &Path, versions: &BTreeSet<u64>) -> Unread {
        let unread = versions.iter().filter_map(|version| {
            let folder = directory.join(version.to_string());
            let now = fingerprint(&folder, DEPTH);
            let known = self.artifacts.read.get(version);
            known
                .is_none_or(|(seen, _)| *seen != now)
                .then_some((*version, folder, now))
        });
        Unread(unread.collect())
    }

    /// The versions that could be loaded.
    fn concerned(&self, found: &Found<'_>) -> BTreeSet<u64> {
        let book = &self.book;
        let own = book
            .champion
            .into_iter()
            .chain(book.candidate())
            .chain(book.warm.iter().copied());
        let there = |version: &u64| found.on_disk.contains(version);
        own.chain(found.chosen.iter().copied()).filter(there).collect()
    }

    /// Notes what was read.
    pub(super) fn learn(&mut self, read: WasRead) {
        for (version, seen, digest) in read.0 {
            match digest {
                Ok(digest) => {
                    self.artifacts.read.insert(version, (seen, digest));
                }
                // Loading says more of what is wrong with it.
                Err(error) => tracing::warn!(model = %self.model, version, %error, "files cannot be read"),
            }
        }
    }

    /// The digest of a version's files as they are now; they are read again only if they have changed since they were.
    pub(super) fn digest_of(&mut self, folder: &Path, version: u64) -> io::Result<String> {
        let now = fingerprint(folder, DEPTH);
        if let Some((seen, digest)) = self.artifacts.read.get(&version)
            && *seen == now
        {
            return Ok(digest.clone());
        }
        let digest = digest::of(folder)?;
        self.artifacts.read.insert(version, (now, digest.clone()));
        Ok(digest)
    }

    /// Whether a version's files, as they were last read, are not those that were written down.
    pub(super) fn has_changed(&self, version: u64) -> bool {
        let read = self.artifacts.read.get(&version).map(|(_, digest)| digest);
        matches!((read, self.book.digests.get(&version)), (Some(read), Some(known)) if read != known)
    }

    /// Holds the files against what was written down, and writes down what was not yet.
    ///
    /// Errors: `Conflict` for a call while files have changed; `LoadFailed` if nothing is left to load.
    pub(super) fn pin(
        &mut self,
        world: &World,
        found: &Found<'_>,
        now: u64,
    ) -> Result<Pinned, RegistryError> {
        let mut usable = found.on_disk.clone();
        let mut held = BTreeSet::new();
        let mut problem = None;
        for version in self.concerned(found) {
            let Some((_, digest)) = self.artifacts.read.get(&version).cloned() else {
                continue;
            };
            let Some(known) = self.book.digests.get(&version).cloned() else {
                self.see(version, digest, now);
                continue;
            };
            if known == digest || !self.is_pinned() {
                continue;
            }
            let message = format!(
                "version {version}: its files have changed from {known} to {digest}, and its digest is pinned; put them back, \
                 or give them a number of their own"
            );
            if self.artifacts.told.insert((version, digest)) {
                tracing::warn!(model = %self.model, version, "{message}");
            }
            problem = Some(message);
            if world.series(&self.model, version).is_some() {
                held.insert(version);
            } else {
                usable.remove(&version);
            }
        }
        if let Some(message) = problem {
            if found.called {
                return Err(RegistryError::Conflict(message));
            }
            if usable.is_empty() {
                return Err(RegistryError::LoadFailed {
                    model: self.model.to_string(),
                    reason: message,
                });
            }
        }
        let chosen = found.chosen.iter().copied();
        let chosen = chosen.filter(|version| usable.contains(version)).collect();
        Ok(Pinned { usable, chosen, held })
    }

    /// Writes down the digests of what was loaded, where that has not been done.
    ///
    /// A candidate whose files are not those that its release began with is taken back: what its gates, its approvals and
    /// its counts say is of other files.
    pub(super) fn record_digests(&mut self, world: &World, live: &BTreeSet<u64>, now: u64) {
        let released = self
            .book
            .active()
            .map(|run| (run.created.version, run.created.digest.clone()));
        if let Some((version, digest)) = released
            && live.contains(&version)
            && let Some((_, found)) = self.artifacts.read.get(&version)
            && *found != digest
        {
            let why = format!("its files have changed since its release began, from {digest} to {found}");
            let failed = Event::Failed {
                reason: Reason::Aborted,
            };
            self.advance_or_warn(world, failed, SERVER, Some(why), now);
        }
        if self.is_pinned() {
            return;
        }
        for version in live {
            let Some((_, digest)) = self.artifacts.read.get(version).cloned() else {
                continue;
            };
            let known = self.book.digests.get(version);
            if known != Some(&digest) {
                if let Some(known) = known {
                    tracing::info!(model = %self.model, version, known, digest, "other files under the same number");
                }
                self.see(*version, digest, now);
            }
        }
    }

    fn see(&mut self, version: u64, digest: String, at: u64) {
        let record = Record::Seen { version, digest, at };
        let written = self.write(&record);
        self.warn_unless(written);
        self.note(&record);
    }

    /// Whether a version's files are pinned and others than these.
    pub(super) fn is_changed(&self, version: u64, digest: &str) -> bool {
        let known = self.book.digests.get(&version);
        self.is_pinned() && known.is_some_and(|known| known != digest)
    }
}
