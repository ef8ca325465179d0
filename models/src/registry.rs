//! The loaded versions of all models: routes requests to them, loads, swaps and unloads them.
//!
//! * A request costs one load of an immutable table and one reference count; it never waits for a loader.
//! * Loading runs on the load threads. Operations on one model run one after the other, on different models in
//!   parallel. A failed load leaves what served before in place.
//! * A version that was replaced or unloaded is dropped on the reaper's thread after its last request.
//! * Threads: `load-N`, `reaper`, and in mode `poll` `watch`. [`Registry::shutdown`] stops and joins them.

mod control;
mod operation;
mod overrides;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossfade_runtimes_core::ModelSignature;

use crate::config::{Completion, ModelConfig, RawConfig, json};
use crate::error::{ConfigError, LayoutError, LoadError, RegistryError, RouteError};
use crate::layout;
use crate::lifecycle::State;
use crate::scan::{Snapshot, diff};
use crate::watch;

use control::{Control, Job};
use operation::{Call, Done, Operation};
use table::{Reap, Table};

pub use table::Routed;

/// Makes what answers requests out of a model's files; the server implements it.
pub trait Loader: Send + Sync + 'static {
    /// What answers.
    type Servable: Send + Sync + 'static;

    /// Loads one version and warms it up. Runs on a load thread and may take long.
    ///
    /// After `Ok` the registry owns the servable and drops it on the reaper's thread.
    fn load(&self, request: &LoadRequest<'_>) -> Result<Loaded<Self::Servable>, LoadError>;
}

/// What a loader is asked for.
pub struct LoadRequest<'a> {
    /// The model.
    pub name: Arc<str>,
    /// The version.
    pub version: u64,
    /// The model's directory.
    pub model_directory: PathBuf,
    /// The version's directory.
    pub version_directory: PathBuf,
    /// The configuration, all sources merged.
    pub config: RawConfig,
    /// The label files that the configuration names.
    pub label_files: BTreeMap<String, String>,
    /// `max_batch_size` of a completed model that can batch.
    pub default_max_batch_size: u32,
    /// Whether absent keys are taken from the model file.
    pub auto_complete: bool,
    progress: &'a (dyn Fn(State) + Send + Sync),
}

impl LoadRequest<'_> {
    /// Reports that the load has come to `state`; only [`State::WarmingUp`] has an effect.
    pub fn progress(&self, state: State) {
        (self.progress)(state);
    }

    /// Where the model file is, by the configuration and the layout's rules.
    pub fn model_file(&self) -> Result<PathBuf, LayoutError> {
        layout::model_file(
            &self.version_directory,
            self.version,
            self.config.model_filename(),
        )
    }

    /// Completes the configuration with what the model file says.
    ///
    /// * `runtime`: name of the runtime that read the file
    pub fn complete(&self, signature: &ModelSignature, runtime: &str) -> Result<ModelConfig, ConfigError> {
        self.config.complete(&Completion {
            model: &self.name,
            signature,
            runtime,
            default_max_batch_size: self.default_max_batch_size,
            auto_complete: self.auto_complete,
            label_files: &self.label_files,
        })
    }
}

/// A loaded and warm version.
pub struct Loaded<S> {
    /// What answers.
    pub servable: S,
    /// The configuration it runs with.
    pub config: Arc<ModelConfig>,
}

/// How a registry works.
pub struct RegistryOptions {
    /// Repositories: a name, by default the path's last component, and the path.
    pub repositories: Vec<(Option<String>, PathBuf)>,
    /// Who decides what is loaded.
    pub mode: ControlMode,
    /// `configs/<name>.pbtxt` stands in for `config.pbtxt`.
    pub model_config_name: Option<String>,
    /// Models that load at the same time.
    pub load_threads: usize,
    /// Whether the server is ready only when each model due has a ready version.
    pub strict_readiness: bool,
    /// `max_batch_size` of a completed model that can batch.
    pub default_max_batch_size: u32,
    /// Whether absent keys are taken from the model file.
    pub auto_complete: bool,
    /// `[model.NAME]` of the server's file: stands above the model's own files.
    pub overrides: BTreeMap<String, RawConfig>,
}

impl Default for RegistryOptions {
    /// Triton's defaults, but 32 rows (a client written for Triton's 4 also works).
    fn default() -> Self {
        Self {
            repositories: Vec::new(),
            mode: ControlMode::None,
            model_config_name: None,
            load_threads: 4,
            strict_readiness: true,
            default_max_batch_size: 32,
            auto_complete: true,
            overrides: BTreeMap::new(),
        }
    }
}

/// Who decides what is loaded (protocols.md §8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlMode {
    /// Everything at start, then nothing.
    None,
    /// The repository, looked at this often.
    Poll(Duration),
    /// Calls; this at start.
    Explicit(AtStart),
}

/// What mode `explicit` loads at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtStart {
    /// Every model there is.
    All,
    /// These models.
    Models(Vec<String>),
}

/// What a load call may override (protocols.md §8).
#[derive(Debug, Clone, Default)]
pub struct LoadParameters {
    /// ModelConfig as JSON text; replaces the files' until the model is unloaded.
    pub config: Option<String>,
    /// `<version>/<name>` and content; these are then the whole model directory. Needs `config`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// A JSON object of label and version.
    pub labels: Option<String>,
}

/// One row of the repository index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// Absent where no version is known.
    pub version: Option<u64>,
    /// `LOADING`, `READY`, `UNLOADING`, `UNAVAILABLE`, or empty for a model that was never loaded.
    pub state: &'static str,
    /// Why it is not ready, or why its last update failed.
    pub reason: String,
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

#[derive(Default)]
struct Threads {
    load_and_watch: Vec<JoinHandle<()>>,
    reaper: Option<JoinHandle<()>>,
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

    /// Starts the threads and, on them, the initial load. The threads keep the registry alive until
    /// [`shutdown`](Self::shutdown). A second call does nothing.
    pub fn start(self: &Arc<Self>) {
        let Some(reaper_end) = lock(&self.reaper_end).take() else {
            return;
        };
        let mut threads = lock(&self.threads);
        let registry = Arc::clone(self);
        threads.reaper = Some(spawn("reaper".to_owned(), move || registry.reap(&reaper_end)));
        for k in 0..self.options.load_threads.max(1) {
            let registry = Arc::clone(self);
            threads
                .load_and_watch
                .push(spawn(format!("load-{k}"), move || registry.work()));
        }
        if let ControlMode::Poll(every) = self.options.mode {
            let registry = Arc::clone(self);
            threads
                .load_and_watch
                .push(spawn("watch".to_owned(), move || watch::run(&registry, every)));
        }
        drop(threads);
        self.locked().jobs.push_back(Job::Start);
        self.wake.notify_one();
    }

    /// Finds the version that answers.
    ///
    /// * `selector`: empty, a positive number or a label of the model
    ///
    /// The answer keeps the version alive until it is dropped. Cost: no lock, no allocation on success.
    pub fn route(&self, model: &str, selector: &str) -> Result<Routed<L::Servable>, RouteError> {
        self.table.load().route(model, selector)
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
        match self.read_call(name, parameters) {
            Err(error) => done(Err(error)),
            Ok(call) => {
                let operation = Operation::Sync {
                    call: Some(call),
                    done: Some(Done(done)),
                };
                let refused = self.enqueue(name, operation);
                if let Some(Operation::Sync { done: Some(done), .. }) = refused {
                    (done.0)(Err(RegistryError::Conflict(
                        "the server is shutting down".to_owned(),
                    )));
                }
            }
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

    fn must_be_explicit(&self, what: &str) -> Result<(), RegistryError> {
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

    /// Waits; false once the registry stops.
    pub(crate) fn wait_unless_stopped(&self, time: Duration) -> bool {
        let control = self.locked();
        let (control, _) = self
            .stopped
            .wait_timeout_while(control, time, |control| !control.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        !control.stopping
    }

    /// Stops routing, loading and watching, and joins the threads. Versions whose requests are still in flight are
    /// dropped by their last request. Waits for loads in progress.
    pub fn shutdown(&self) {
        let abandoned = {
            let mut control = self.locked();
            control.stopping = true;
            control.abandon_all()
        };
        self.wake.notify_all();
        self.stopped.notify_all();
        for operation in abandoned {
            operation.refuse(RegistryError::Conflict("the server is shutting down".to_owned()));
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads.load_and_watch {
            join(thread);
        }
        {
            let mut control = self.locked();
            control.drain_all();
            self.publish_all(&control);
        }
        self.notify();
        if let Some(reaper) = threads.reaper {
            self.reaper.send(Reap::Stop).unwrap_or_default();
            join(reaper);
        }
    }

    /// The body of a load thread.
    fn work(&self) {
        loop {
            let job = {
                let control = self.locked();
                let idle = |control: &mut Control<L::Servable>| !control.stopping && control.jobs.is_empty();
                let mut control = self
                    .wake
                    .wait_while(control, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                if control.stopping {
                    return;
                }
                control.jobs.pop_front()
            };
            match job {
                Some(Job::Start) => self.initial_load(),
                Some(Job::Model(name)) => self.operate(&name),
                None => {}
            }
        }
    }

    fn initial_load(&self) {
        let (all, named) = match &self.options.mode {
            ControlMode::None | ControlMode::Poll(_) | ControlMode::Explicit(AtStart::All) => {
                (true, Vec::new())
            }
            ControlMode::Explicit(AtStart::Models(names)) => {
                (names.iter().any(|name| name == "*"), names.clone())
            }
        };
        let snapshot = if all { self.scan() } else { Ok(Snapshot::default()) };
        let mut control = self.locked();
        match snapshot {
            Ok(snapshot) => {
                control.applied = snapshot.clone();
                control.previous = snapshot;
            }
            Err(error) => {
                tracing::error!(%error, "a repository cannot be read; no model is loaded");
                control.start_failed = true;
            }
        }
        let mut names: Vec<String> = control.applied.models.keys().cloned().collect();
        names.extend(named.into_iter().filter(|name| name != "*"));
        names.sort();
        names.dedup();
        for name in names {
            control.slot(&name).due = true;
            control.enqueue(
                &name,
                Operation::Sync {
                    call: None,
                    done: None,
                },
            );
        }
        control.started = true;
        self.publish_all(&control);
        drop(control);
        self.wake.notify_all();
        self.notify();
    }

    /// The body of the reaper's thread.
    fn reap(&self, end: &Receiver<Reap<L::Servable>>) {
        while let Ok(Reap::Servable {
            name,
            version,
            generation,
            servable,
        }) = end.recv()
        {
            drop(servable);
            let mut control = self.locked();
            control.drained(&name, version, generation);
            drop(control);
            self.notify();
            tracing::info!(model = %name, version, "unloaded");
        }
        // Whatever was let go before the stop.
        while let Ok(reap) = end.try_recv() {
            drop(reap);
        }
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

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new()
        .name(name)
        .spawn(body)
        .expect("the system has no thread left for the registry")
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        tracing::error!(
            panic = operation::panic_message(&*panic),
            "a thread of the registry has panicked"
        );
    }
}

#[cfg(test)]
mod tests;
