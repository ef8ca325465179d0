//! What a release acts on: the registry's routes, the counters of its requests, the folder of its logs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use crossfade_journal::Hash;
use crossfade_models::{Division, Registry, RouteError, Routed, State as Life};

use super::digest::Digests;
use super::forecast::Counters;
use super::news::Teller;
use super::outputs::Watch;
use super::shadow::Shadow;
use super::tally::{Count, Tally};
use crate::admin::Approvers;
use crate::audit::AuditLog;
use crate::metrics::Series;
use crate::servable::{Servable, ServableLoader};
use crate::status::Status;

/// Tallies by release.
type Tallies = HashMap<Box<str>, Arc<Tally>>;

/// The server around a release.
pub(super) struct World {
    /// Where logs lie.
    pub(super) folder: PathBuf,
    /// What follows them.
    pub(super) audit: Arc<AuditLog>,
    /// The process ends: gates stop where they are.
    pub(super) stop: Arc<AtomicBool>,
    /// Who can agree to releases.
    pub(super) approvers: Arc<Approvers>,
    /// The server's configuration.
    pub(super) server_rev: Hash,
    registry: OnceLock<Weak<Registry<ServableLoader>>>,
    tallies: ArcSwap<Tallies>,
    news: Teller,
    /// What versions' files are.
    pub(super) digests: Arc<Digests>,
    /// The server ends: nothing is started any more.
    ends: AtomicBool,
}

impl World {
    pub(super) fn new(folder: PathBuf, audit: Arc<AuditLog>, approvers: Approvers, server_rev: Hash) -> Self {
        Self {
            folder,
            audit,
            stop: Arc::default(),
            approvers: Arc::new(approvers),
            server_rev,
            registry: OnceLock::new(),
            tallies: ArcSwap::default(),
            news: Teller::default(),
            digests: Arc::default(),
            ends: AtomicBool::new(false),
        }
    }

    /// Makes the registry known; the first call counts.
    pub(super) fn attach(&self, registry: &Arc<Registry<ServableLoader>>) {
        let _first = self.registry.set(Arc::downgrade(registry)).is_ok();
    }

    fn registry(&self) -> Option<Arc<Registry<ServableLoader>>> {
        self.registry.get().and_then(Weak::upgrade)
    }

    /// The registry, for those that must not keep it alive.
    pub(super) fn weak_registry(&self) -> Weak<Registry<ServableLoader>> {
        self.registry.get().cloned().unwrap_or_default()
    }

    /// The server ends.
    pub(super) fn end(&self) {
        self.ends.store(true, SeqCst);
    }

    /// Whether the server ends.
    pub(super) fn ends(&self) -> bool {
        self.ends.load(SeqCst)
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

    /// Why a version could not be loaded, if that was so.
    pub(super) fn load_failure(&self, model: &str, version: u64) -> Option<String> {
        let registry = self.registry()?;
        match registry.route(model, &version.to_string()).err()? {
            RouteError::NotReady {
                state: Life::Failed(reason),
                ..
            } => Some(reason.to_string()),
            _ => None,
        }
    }

    /// The counters of a version that is live.
    pub(super) fn series(&self, model: &str, version: u64) -> Option<Arc<Series>> {
        Some(self.servable(model, version)?.series().clone())
    }

    /// Where moves are told.
    pub(super) fn news(&self) -> &Teller {
        &self.news
    }

    /// The requests of a model's live versions so far.
    pub(super) fn counters(&self, model: &str) -> Counters {
        let live = self
            .registry()
            .map(|registry| registry.models())
            .unwrap_or_default();
        let of = |series: &Series| {
            let count = |status| series.requests(Some(status));
            let all: u64 = Status::ALL.into_iter().map(count).sum();
            let failed = [Status::Internal, Status::NotReady, Status::DeadlineExceeded];
            (
                series.requests(None) + all,
                failed.into_iter().map(count).sum::<u64>(),
            )
        };
        live.iter()
            .map(|servable| servable.series())
            .filter(|series| &*series.model == model)
            .filter_map(|series| Some((series.version?, of(series))))
            .collect()
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

    /// Which answers to the requests of a release are read.
    pub(super) fn watch(&self, release: &str) -> Option<Arc<Watch>> {
        self.tallies.load().get(release)?.watch()
    }

    /// Where the requests of a release leave copies.
    pub(super) fn shadow(&self, release: &str) -> Option<Arc<Shadow>> {
        self.tallies.load().get(release)?.copies()
    }

    /// Counts a request. Cost: one atomic load, one look-up, one try to send; never waits.
    pub(super) fn count(&self, release: &str, count: Count) {
        if let Some(tally) = self.tallies.load().get(release) {
            tally.count(count);
        }
    }
}
