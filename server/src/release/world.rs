//! What a release acts on: the registry's routes, the counters of its requests, the folder of its logs.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use crossfade_journal::Hash;
use crossfade_models::{Division, Registry, Routed};

use super::tally::{Count, Tally};
use crate::admin::Approvers;
use crate::metrics::Series;
use crate::servable::{Servable, ServableLoader};

/// Tallies by release.
type Tallies = HashMap<Box<str>, Arc<Tally>>;

/// Digests of versions, by model.
type Artifacts = HashMap<Box<str>, BTreeMap<u64, String>>;

/// The server around a release.
pub(super) struct World {
    /// Where logs lie.
    pub(super) folder: PathBuf,
    /// The process ends: gates stop where they are.
    pub(super) stop: Arc<AtomicBool>,
    /// Who can agree to releases.
    pub(super) approvers: Arc<Approvers>,
    /// The server's configuration.
    pub(super) server_rev: Hash,
    registry: OnceLock<Weak<Registry<ServableLoader>>>,
    tallies: ArcSwap<Tallies>,
    artifacts: ArcSwap<Artifacts>,
}

impl World {
    pub(super) fn new(folder: PathBuf, approvers: Approvers, server_rev: Hash) -> Self {
        Self {
            folder,
            stop: Arc::default(),
            approvers: Arc::new(approvers),
            server_rev,
            registry: OnceLock::new(),
            tallies: ArcSwap::default(),
            artifacts: ArcSwap::default(),
        }
    }

    /// Makes the registry known; the first call counts.
    pub(super) fn attach(&self, registry: &Arc<Registry<ServableLoader>>) {
        let _first = self.registry.set(Arc::downgrade(registry)).is_ok();
    }

    fn registry(&self) -> Option<Arc<Registry<ServableLoader>>> {
        self.registry.get().and_then(Weak::upgrade)
    }

    /// Divides the requests of a model. When it returns, no new request is routed by the former division.
    pub(super) fn divide(&self, model: &str, division: Option<Division>) {
        let divided = self.registry().map(|registry| registry.divide(model, division));
        if let Some(Err(error)) = divided {
            tracing::debug!(model, %error, "there is nothing to divide");
        }
    }

    /// Has the model's versions loaded or let go of, as they are wanted now.
    pub(super) fn refresh(&self, model: &str) {
        if let Some(registry) = self.registry() {
            registry.refresh(model);
        }
    }

    /// A version that is live.
    pub(super) fn servable(&self, model: &str, version: u64) -> Option<Routed<Servable>> {
        self.registry()?.route(model, &version.to_string()).ok()
    }

    /// The counters of a version that is live.
    pub(super) fn series(&self, model: &str, version: u64) -> Option<Arc<Series>> {
        Some(self.servable(model, version)?.series().clone())
    }

    /// Makes known what the files of a model's versions are.
    pub(super) fn publish(&self, model: &str, digests: &BTreeMap<u64, String>) {
        if self.artifacts.load().get(model) == Some(digests) {
            return;
        }
        self.artifacts.rcu(|artifacts| {
            let mut artifacts = Artifacts::clone(artifacts);
            artifacts.insert(model.into(), digests.clone());
            artifacts
        });
    }

    /// sha256 of a version's files, hexadecimal, if it is known. Never waits.
    pub(super) fn artifact(&self, model: &str, version: u64) -> Option<String> {
        self.artifacts.load().get(model)?.get(&version).cloned()
    }

    /// Requests of a release are counted from here on.
    pub(super) fn listen(&self, release: &str, tally: &Arc<Tally>) {
        self.tallies.rcu(|tallies| {
            let mut tallies = Tallies::clone(tallies);
            tallies.insert(release.into(), tally.clone());
            tallies
        });
    }

    /// Requests of a release are not counted any more.
    pub(super) fn silence(&self, release: &str) {
        self.tallies.rcu(|tallies| {
            let mut tallies = Tallies::clone(tallies);
            tallies.remove(release);
            tallies
        });
    }

    /// Counts a request. Cost: one atomic load, one look-up, one try to send; never waits.
    pub(super) fn count(&self, release: &str, count: Count) {
        if let Some(tally) = self.tallies.load().get(release) {
            tally.count(count);
        }
    }
}
