//! The loaded versions of all models: routes requests to them, loads, swaps and unloads them.
//!
//! * A request costs one load of an immutable table and one reference count; it never waits for a loader.
//! * Loading runs on the load threads. Operations on one model run one after the other, on different models in
//!   parallel. A failed load leaves what served before in place.
//! * A version that was replaced or unloaded is dropped on the reaper's thread after its last request.
//! * Threads: `load-N`, `reaper`, and in mode `poll` `watch`. [`Registry::shutdown`] stops and joins them.

mod control;
mod operation;
mod options;
mod overrides;
mod plan;
mod table;
mod threads;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::config::json;
use crate::error::{LayoutError, RegistryError, RouteError};
use crate::layout;
use crate::scan::{Snapshot, diff};
use crate::traffic::{Division, Wish};

use control::{Control, Job};
use operation::{Call, Done, Operation};
use table::{Reap, Table};
use threads::Threads;

pub use options::{
    AtStart, Conductor, ControlMode, Directed, Found, IndexEntry, LoadParameters, LoadRequest, Loaded,
    Loader, RegistryOptions,
};
pub use table::{Choice, Routed};

/// A load call that was checked and has not begun.
pub struct PreparedLoad {
    name: String,
    call: Call,
}

impl PreparedLoad {
    /// Says who asks for it, where that is known.
    pub fn asked_by(mut self, caller: Option<String>) -> Self {
        self.call.caller = caller;
        self
    }
}

/// Told of readiness.
type Listener = Box<dyn Fn(bool) + Send>;

/// The loaded versions of all models.
pub struct Registry<L: Loader> {
    options: RegistryOptions,
    loader: L,
    table: ArcSwap<Table<L::Servable>>,
    control: Mutex<Control<L::Servable>>,
    /// Work for the load threads, or the stop.
    wake: Condvar,
    /// The stop, for the watch thread.
    stopped: Condvar,
    reaper: Sender<Reap<L::Servable>>,
    reaper_end: Mutex<Option<Receiver<Reap<L::Servable>>>>,
    threads: Mutex<Threads>,
    listener: Mutex<Option<Listener>>,
}

impl<L: Loader> Registry<L> {
    /// A registry that holds nothing yet; see [`start`](Self::start).
    pub fn new(options: RegistryOptions, loader: L) -> Arc<Self> {
        let (reaper, reaper_end) = channel();
        Arc::new(Self {
            options,
            loader,
            table: ArcSwap::from_pointee(Table::default()),
            control: Mutex::new(Control::default()),
            wake: Condvar::new(),
            stopped: Condvar::new(),
            reaper,
            reaper_end: Mutex::new(Some(reaper_end)),
            threads: Mutex::new(Threads::default()),
            listener: Mutex::new(None),
        })
    }

    /// Finds the version that answers.
    ///
    /// * `selector`: empty, a positive number or a label of the model
    ///
    /// The answer keeps the version alive until it is dropped. Cost: no lock, no allocation on success.
    pub fn route(&self, model: &str, selector: &str) -> Result<Routed<L::Servable>, RouteError> {
        self.table.load().route(model, selector)
    }

    /// Finds the version that answers a request, by what it wishes for and, where it wishes for none, by how the
    /// model's requests are divided.
    ///
    /// Cost: one load of the table, at most one hash; no lock, no allocation on success.
    pub fn choose(&self, model: &str, wish: &Wish<'_>) -> Result<Choice<L::Servable>, RouteError> {
        self.table.load().choose(model, wish)
    }

    /// Divides the requests of a model from here on; `None`: the version policy alone decides again.
    ///
    /// When it returns, no new request is routed by the former division. Errors: the model is not known.
    pub fn divide(&self, name: &str, division: Option<Division>) -> Result<(), RegistryError> {
        let mut control = self.locked();
        let slot = control.models.get_mut(name);
        let slot = slot.ok_or_else(|| RegistryError::NotFound(format!("model `{name}` is not loaded")))?;
        slot.division = division.map(Arc::new);
        self.publish(&control, name);
        Ok(())
    }

    /// Has it found out again which versions of a model shall be loaded; for the conductor. Nothing happens to a model
    /// that is unloaded.
    pub fn refresh(&self, name: &str) {
        let unloaded = |slot: &control::Slot<L::Servable>| slot.chosen.is_empty() && !slot.busy;
        if self.locked().models.get(name).is_none_or(unloaded) {
            return;
        }
        let operation = Operation::Sync {
            call: None,
            done: None,
        };
        // At the end of the process nothing is loaded any more.
        let _stopping = self.enqueue(name, operation).is_some();
    }

    /// Loads or reloads a model.
    ///
    /// `done` is called exactly once, on some thread, when every version chosen by the policy is ready or failed;
    /// at once if the call is refused. A failure leaves what served before in place.
    pub fn load(
        &self,
        name: &str,
        parameters: LoadParameters,
        done: Box<dyn FnOnce(Result<(), RegistryError>) + Send>,
    ) {
        match self.prepare_load(name, parameters) {
            Err(error) => done(Err(error)),
            Ok(load) => self.start_load(load, done),
        }
    }

    /// Checks what can be known of a load before it begins, so that the caller can write down that it will.
    ///
    /// Reads directories. Errors: `Conflict` outside of mode `explicit`, `InvalidInput`, `NotFound` for a model that
    /// is neither known nor in a repository.
    pub fn prepare_load(
        &self,
        name: &str,
        parameters: LoadParameters,
    ) -> Result<PreparedLoad, RegistryError> {
        let call = self.read_call(name, parameters)?;
        let known = call.config.is_some() || self.locked().models.contains_key(name);
        if !known && matches!(self.find(name), Err(plan::NoPlan::Absent)) {
            return Err(RegistryError::NotFound(format!(
                "model `{name}` is in no repository"
            )));
        }
        Ok(PreparedLoad {
            name: name.to_owned(),
            call,
        })
    }

    /// Begins a load; `done` as for [`load`](Self::load).
    pub fn start_load(&self, load: PreparedLoad, done: Box<dyn FnOnce(Result<(), RegistryError>) + Send>) {
        let operation = Operation::Sync {
            call: Some(load.call),
            done: Some(Done(done)),
        };
        let refused = self.enqueue(&load.name, operation);
        if let Some(Operation::Sync { done: Some(done), .. }) = refused {
            (done.0)(Err(RegistryError::Conflict(
                "the server is shutting down".to_owned(),
            )));
        }
    }

    fn read_call(&self, name: &str, parameters: LoadParameters) -> Result<Call, RegistryError> {
        self.must_be_explicit("load")?;
        layout::check_name(name).map_err(|error| RegistryError::InvalidInput(error.to_string()))?;
        if !parameters.files.is_empty() && parameters.config.is_none() {
            return Err(RegistryError::InvalidInput(
                "file overrides need a `config` override".to_owned(),
            ));
        }
        let config = parameters
            .config
            .map(|text| json::read(&text).map_err(|error| error.in_file("config")))
            .transpose()
            .map_err(|error| RegistryError::InvalidInput(error.to_string()))?;
        let labels = parameters
            .labels
            .as_deref()
            .map(overrides::read_labels)
            .transpose()?;
        overrides::check_files(&parameters.files)?;
        Ok(Call {
            config,
            files: parameters.files,
            labels,
            caller: None,
        })
    }

    /// Stops routing to a model and returns; its versions are freed after their last requests. A load of it that is
    /// in progress is abandoned. Unknown models are fine.
    pub fn unload(&self, name: &str) -> Result<(), RegistryError> {
        self.must_be_explicit("unload")?;
        let abandoned = {
            let mut control = self.locked();
            let abandoned = control.unload(name);
            self.publish(&control, name);
            abandoned
        };
        for operation in abandoned {
            operation.refuse(RegistryError::Conflict(format!(
                "model `{name}` was unloaded meanwhile"
            )));
        }
        self.notify();
        Ok(())
    }

    /// Whether calls load and unload models here; `what` is the call that asks.
    ///
    /// Errors: `Conflict` outside of mode `explicit`.
    pub fn must_be_explicit(&self, what: &str) -> Result<(), RegistryError> {
        let mode = match self.options.mode {
            ControlMode::Explicit(_) => return Ok(()),
            ControlMode::None => "none",
            ControlMode::Poll(_) => "poll",
        };
        Err(RegistryError::Conflict(format!(
            "{what} calls need model-control-mode `explicit`; the server runs in mode `{mode}`"
        )))
    }

    /// Every known version and, in the named repository (empty: all), every model that was never loaded.
    ///
    /// Reads directories: not for a thread that must not block. Errors: no repository of that name.
    pub fn index(&self, repository: &str, ready_only: bool) -> Result<Vec<IndexEntry>, RegistryError> {
        let names = self.repository_names();
        if !repository.is_empty() && !names.iter().any(|name| name == repository) {
            return Err(RegistryError::NotFound(format!(
                "unknown repository `{repository}`"
            )));
        }
        let mut on_disk = std::collections::BTreeSet::new();
        for ((_, path), name) in self.options.repositories.iter().zip(&names) {
            if repository.is_empty() || name == repository {
                let listing = layout::models(path)
                    .map(|listing| listing.found)
                    .unwrap_or_default();
                on_disk.extend(listing.into_iter().map(|model| model.name));
            }
        }
        let mut entries = self
            .locked()
            .index(|name| repository.is_empty() || on_disk.contains(name));
        if ready_only {
            entries.retain(|entry| entry.state == "READY");
        } else {
            on_disk.retain(|name| entries.iter().all(|entry| entry.name != *name));
            entries.extend(on_disk.into_iter().map(|name| IndexEntry {
                name,
                version: None,
                state: "",
                reason: String::new(),
            }));
            entries.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        }
        Ok(entries)
    }

    /// Names of the repositories: configured, or the last component of the path.
    pub fn repository_names(&self) -> Vec<String> {
        let names = self.options.repositories.iter().map(|(name, path)| {
            name.clone().unwrap_or_else(|| {
                path.file_name()
                    .unwrap_or(path.as_os_str())
                    .to_string_lossy()
                    .into_owned()
            })
        });
        names.collect()
    }

    /// Whether the initial load was attempted for every model due and, if readiness is strict, each has a ready version.
    pub fn ready(&self) -> bool {
        self.table.load().ready
    }

    /// The models due at start that have no ready version, once each was attempted; `None` before that.
    pub fn initial_failures(&self) -> Option<Vec<String>> {
        self.locked().initial_failures()
    }

    /// Whether the version that `selector` means is ready; `Err` if there is none of that name.
    pub fn model_ready(&self, name: &str, selector: &str) -> Result<bool, RouteError> {
        match self.route(name, selector) {
            Ok(_) => Ok(true),
            Err(RouteError::NotReady { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every ready version, by name and number. The answers keep their versions alive; drop them soon.
    pub fn models(&self) -> Vec<Routed<L::Servable>> {
        self.table.load().all()
    }

    /// The ready versions of a model, ascending.
    ///
    /// Errors: as a route without version.
    pub fn ready_versions(&self, name: &str) -> Result<Vec<u64>, RouteError> {
        self.table.load().ready_versions(name)
    }

    /// Calls `listener` with [`ready`](Self::ready) after every change, from whichever thread made it; calls never
    /// overlap and the last one has the last word. It must not call back into [`load`](Self::load) or wait.
    pub fn on_change(&self, listener: impl Fn(bool) + Send + 'static) {
        *lock(&self.listener) = Some(Box::new(listener));
        self.notify();
    }

    /// Looks at the repositories once and starts what has changed for certain.
    pub fn poll_once(&self) {
        if !self.locked().started {
            return;
        }
        let latest = match self.scan() {
            Ok(latest) => latest,
            Err(error) => {
                tracing::warn!(%error, "a repository cannot be scanned; nothing changes");
                return;
            }
        };
        let mut control = self.locked();
        let previous = std::mem::replace(&mut control.previous, latest.clone());
        let changes = diff(&control.applied, &previous, &latest);
        control.applied.apply(&changes, &latest);
        let mut models: Vec<&str> = changes.iter().map(crate::scan::Change::model).collect();
        models.sort_unstable();
        models.dedup();
        for model in models {
            tracing::info!(model, "the repository has changed");
            control.enqueue(
                model,
                Operation::Sync {
                    call: None,
                    done: None,
                },
            );
        }
        drop(control);
        self.wake.notify_all();
    }

    fn scan(&self) -> Result<Snapshot, LayoutError> {
        Snapshot::take(self.options.repositories.iter().map(|(_, path)| path.as_path()))
    }

    /// Queues an operation; gives it back if the registry stops.
    fn enqueue(&self, name: &str, operation: Operation) -> Option<Operation> {
        let mut control = self.locked();
        if control.stopping {
            return Some(operation);
        }
        control.enqueue(name, operation);
        self.publish(&control, name);
        drop(control);
        self.wake.notify_one();
        None
    }

    fn locked(&self) -> MutexGuard<'_, Control<L::Servable>> {
        lock(&self.control)
    }

    /// Makes the state under the lock the one that requests see.
    fn publish_all(&self, control: &Control<L::Servable>) {
        let table = control.table(&self.table.load(), None, self.options.strict_readiness);
        self.table.store(Arc::new(table));
    }

    /// Likewise, where only one model has changed. Cost: a copy of the map of models, not of the models.
    fn publish(&self, control: &Control<L::Servable>, name: &str) {
        let table = control.table(&self.table.load(), Some(name), self.options.strict_readiness);
        self.table.store(Arc::new(table));
    }

    fn notify(&self) {
        if let Some(listener) = &*lock(&self.listener) {
            listener(self.ready());
        }
    }
}

/// A poisoned lock only means that another thread panicked between two consistent states.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
