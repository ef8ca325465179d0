//! What the registry knows under its lock: every model with its versions, what is queued for it, and what was seen on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::IndexEntry;
use super::operation::Operation;
use super::overrides::Override;
use super::table::{Live, ModelRoutes, Table};
use crate::config::RawConfig;
use crate::lifecycle::{Event, State};
use crate::scan::{Fingerprint, Snapshot};
use crate::traffic::Division;

/// Everything under the lock.
pub(super) struct Control<S> {
    pub(super) models: BTreeMap<Arc<str>, Slot<S>>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) applied: Snapshot,
    pub(super) previous: Snapshot,
    /// The initial load has been queued.
    pub(super) started: bool,
    pub(super) start_failed: bool,
    pub(super) stopping: bool,
    generations: u64,
}

impl<S> Default for Control<S> {
    fn default() -> Self {
        Self {
            models: BTreeMap::new(),
            jobs: VecDeque::new(),
            applied: Snapshot::default(),
            previous: Snapshot::default(),
            started: false,
            start_failed: false,
            stopping: false,
            generations: 0,
        }
    }
}

/// Work for a load thread.
pub(super) enum Job {
    /// Find out what to load at start.
    Start,
    /// Run the next operation of this model.
    Model(Arc<str>),
}

/// One model.
pub(super) struct Slot<S> {
    pub(super) name: Arc<str>,
    pub(super) versions: BTreeMap<u64, VersionSlot<S>>,
    pub(super) chosen: Vec<u64>,
    /// Versions that were on disk when it was last looked at.
    on_disk: BTreeSet<u64>,
    /// Labels as model.toml has them.
    pub(super) file_labels: BTreeMap<String, u64>,
    /// Labels as a load call set them; they stand above the file's.
    pub(super) call_labels: BTreeMap<String, u64>,
    /// Labels in force.
    pub(super) labels: BTreeMap<String, u64>,
    /// How requests are divided, once the conductor has said so.
    pub(super) division: Option<Arc<Division>>,
    /// Why nothing of it could be loaded.
    pub(super) failure: Option<Arc<str>>,
    pub(super) over: Option<Arc<Override>>,
    /// Chosen at start, and not unloaded or removed since.
    pub(super) due: bool,
    /// Its first load has ended, one way or the other.
    pub(super) attempted: bool,
    /// Rises with every unload: a load that began before must not take effect.
    pub(super) epoch: u64,
    pub(super) queue: VecDeque<Operation>,
    pub(super) busy: bool,
}

/// One version.
pub(super) struct VersionSlot<S> {
    pub(super) state: State,
    pub(super) live: Option<Arc<Live<S>>>,
    /// Of the one that drains.
    pub(super) generation: u64,
    /// What was last tried.
    pub(super) tried: Option<Identity>,
    /// Why the last reload of a ready version failed.
    pub(super) update_failure: Option<Arc<str>>,
}

/// What makes a loaded version what it is.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) config: Arc<RawConfig>,
    pub(super) label_files: Arc<BTreeMap<String, String>>,
    pub(super) files: Fingerprint,
}

impl Identity {
    pub(super) fn same(&self, other: &Identity) -> bool {
        self.files == other.files
            && self.label_files == other.label_files
            && self.config.loads_like(&other.config)
    }
}

impl<S> Control<S> {
    pub(super) fn slot(&mut self, name: &str) -> &mut Slot<S> {
        let name: Arc<str> = Arc::from(name);
        self.models.entry(name.clone()).or_insert_with(|| Slot::new(name))
    }

    pub(super) fn enqueue(&mut self, name: &str, operation: Operation) {
        let slot = self.slot(name);
        slot.queue.push_back(operation);
        if !slot.busy {
            slot.busy = true;
            let name = slot.name.clone();
            self.jobs.push_back(Job::Model(name));
        }
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// Stops routing to a model and gives back what was queued for it.
    pub(super) fn unload(&mut self, name: &str) -> Vec<Operation> {
        let Some(slot) = self.models.get_mut(name) else {
            return Vec::new();
        };
        slot.let_go();
        slot.queue.drain(..).collect()
    }

    pub(super) fn abandon_all(&mut self) -> Vec<Operation> {
        self.jobs.clear();
        self.models
            .values_mut()
            .flat_map(|slot| slot.queue.drain(..))
            .collect()
    }

    pub(super) fn drain_all(&mut self) {
        self.models.values_mut().for_each(Slot::let_go);
    }

    /// A draining version is gone.
    pub(super) fn drained(&mut self, name: &str, version: u64, generation: u64) {
        let Some(slot) = self.models.get_mut(name) else {
            return;
        };
        if let Some(entry) = slot.versions.get_mut(&version)
            && entry.state == State::Draining
            && entry.generation == generation
        {
            entry.step(Event::Drained);
            slot.forget_absent();
            self.forget_if_empty(name);
        }
    }

    /// Forgets a model of which nothing is left.
    pub(super) fn forget_if_empty(&mut self, name: &str) {
        let empty =
            |slot: &Slot<S>| slot.versions.is_empty() && slot.failure.is_none() && !slot.due && !slot.busy;
        if self.models.get(name).is_some_and(empty) {
            self.models.remove(name);
        }
    }

    /// What requests shall see, given what they see now; of the models only `changed` is looked at again, or all.
    pub(super) fn table(&self, now: &Table<S>, changed: Option<&str>, strict: bool) -> Table<S> {
        let mut models;
        match changed {
            Some(name) => {
                models = now.models.clone();
                match self.models.get(name).filter(|slot| slot.concerns_requests()) {
                    Some(slot) => models.insert(slot.name.clone(), Arc::new(slot.routes())),
                    None => models.remove(name),
                };
            }
            None => {
                let slots = self.models.values().filter(|slot| slot.concerns_requests());
                models = slots
                    .map(|slot| (slot.name.clone(), Arc::new(slot.routes())))
                    .collect();
            }
        }
        let due = || self.models.values().filter(|slot| slot.due);
        let ready = self.started
            && !self.stopping
            && due().all(|slot| slot.attempted)
            && !(strict && (self.start_failed || due().any(|slot| !slot.has_live())));
        Table { models, ready }
    }

    /// The models due that have no ready version, once each was attempted.
    pub(super) fn initial_failures(&self) -> Option<Vec<String>> {
        let due = || self.models.values().filter(|slot| slot.due);
        if !self.started || !due().all(|slot| slot.attempted) {
            return None;
        }
        Some(
            due()
                .filter(|slot| !slot.has_live())
                .map(|slot| slot.name.to_string())
                .collect(),
        )
    }

    /// The rows of the models that `wanted` names.
    pub(super) fn index(&self, wanted: impl Fn(&str) -> bool) -> Vec<IndexEntry> {
        let mut entries = Vec::new();
        for slot in self.models.values().filter(|slot| wanted(&slot.name)) {
            let row = |version, state, reason: &str| IndexEntry {
                name: slot.name.to_string(),
                version,
                state,
                reason: reason.to_owned(),
            };
            for (version, entry) in &slot.versions {
                entries.push(row(
                    Some(*version),
                    entry.state.index_name(),
                    &entry.reason(slot.failure.as_deref()),
                ));
            }
            if slot.versions.is_empty() {
                match &slot.failure {
                    Some(failure) => entries.push(row(None, "UNAVAILABLE", failure)),
                    None if slot.busy => entries.push(row(None, "LOADING", "")),
                    None => {}
                }
            }
        }
        entries
    }
}

impl<S> Slot<S> {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            versions: BTreeMap::new(),
            chosen: Vec::new(),
            on_disk: BTreeSet::new(),
            file_labels: BTreeMap::new(),
            call_labels: BTreeMap::new(),
            labels: BTreeMap::new(),
            division: None,
            failure: None,
            over: None,
            due: false,
            attempted: false,
            epoch: 0,
            queue: VecDeque::new(),
            busy: false,
        }
    }

    pub(super) fn has_live(&self) -> bool {
        self.versions.values().any(|entry| entry.live.is_some())
    }

    pub(super) fn is_live(&self, version: u64) -> bool {
        self.versions
            .get(&version)
            .is_some_and(|entry| entry.live.is_some())
    }

    /// The versions that answer.
    pub(super) fn live_versions(&self) -> BTreeSet<u64> {
        let live = self.versions.iter().filter(|(_, entry)| entry.live.is_some());
        live.map(|(version, _)| *version).collect()
    }

    /// A model that is unloaded, or was never loaded, is unknown to requests.
    fn concerns_requests(&self) -> bool {
        self.failure.is_some()
            || self.busy
            || self
                .versions
                .values()
                .any(|entry| !matches!(entry.state, State::Draining | State::Unloaded))
    }

    fn routes(&self) -> ModelRoutes<S> {
        let live = self
            .versions
            .iter()
            .filter_map(|(version, entry)| Some((*version, entry.live.clone()?)));
        ModelRoutes {
            name: self.name.clone(),
            states: self
                .versions
                .iter()
                .map(|(version, entry)| (*version, entry.state.clone()))
                .collect(),
            live: live.collect(),
            chosen: self.chosen.clone(),
            labels: self.labels.clone(),
            division: self.division.clone(),
            failure: self.failure.clone(),
        }
    }

    /// The slot of a version, made if need be.
    pub(super) fn version(&mut self, version: u64) -> &mut VersionSlot<S> {
        self.versions.entry(version).or_insert_with(|| VersionSlot {
            state: State::Unloaded,
            live: None,
            generation: 0,
            tried: None,
            update_failure: None,
        })
    }

    /// Lets every version drain and forgets what calls have set.
    pub(super) fn let_go(&mut self) {
        let versions: Vec<u64> = self.versions.keys().copied().collect();
        for version in versions {
            self.drain(version);
        }
        self.epoch += 1;
        self.due = false;
        self.failure = None;
        self.over = None;
        self.division = None;
        self.chosen.clear();
        self.labels.clear();
        self.file_labels.clear();
        self.call_labels.clear();
    }

    /// Stops routing to a version; it is freed after its last request.
    pub(super) fn drain(&mut self, version: u64) {
        let Some(entry) = self.versions.get_mut(&version) else {
            return;
        };
        entry.tried = None;
        entry.update_failure = None;
        match entry.live.take() {
            Some(live) => {
                entry.generation = live.generation;
                entry.step(Event::Drain);
                tracing::info!(model = %self.name, version, "draining");
            }
            None if entry.state == State::Draining => {}
            // It never served, or its load has just been abandoned.
            None => entry.state = State::Unloaded,
        }
    }

    /// Notes what is on disk and forgets what is neither there nor in memory.
    pub(super) fn set_on_disk(&mut self, on_disk: BTreeSet<u64>) {
        self.on_disk = on_disk;
        self.forget_absent();
    }

    fn forget_absent(&mut self) {
        let on_disk = &self.on_disk;
        self.versions
            .retain(|version, entry| on_disk.contains(version) || entry.state != State::Unloaded);
    }

    /// Moves labels to the versions they shall point at, where those are ready; others keep their target while it
    /// serves.
    pub(super) fn settle_labels(&mut self) {
        let mut wanted = self.file_labels.clone();
        wanted.extend(self.call_labels.clone());
        let settled = wanted.into_iter().map(|(label, version)| {
            let before = self
                .labels
                .get(&label)
                .copied()
                .filter(|before| self.is_live(*before));
            let target = match before {
                Some(before) if !self.is_live(version) => before,
                _ => version,
            };
            (label, target)
        });
        self.labels = settled.collect();
    }
}

impl<S> VersionSlot<S> {
    /// Takes a step of its life; an illegal one would be a mistake of the registry and leaves the state alone.
    pub(super) fn step(&mut self, event: Event) {
        match self.state.clone().after(event) {
            Ok(state) => self.state = state,
            Err(error) => {
                debug_assert!(false, "{error}");
                tracing::error!(%error, "a version took an impossible step");
            }
        }
    }

    /// Why it is in this state, or why its last update failed; `failure` is the model's.
    fn reason(&self, failure: Option<&str>) -> String {
        match &self.state {
            State::Failed(reason) => reason.to_string(),
            State::Unloaded => "unloaded".to_owned(),
            State::Ready => match self.update_failure.as_deref().or(failure) {
                Some(failure) => format!("the last update failed and the former one serves: {failure}"),
                None => String::new(),
            },
            State::Loading | State::WarmingUp | State::Draining => String::new(),
        }
    }
}
