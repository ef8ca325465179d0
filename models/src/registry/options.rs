//! What a registry is made with, and what it asks of the one that loads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossfade_rollout::Policy;
use crossfade_runtimes_core::ModelSignature;

use crate::config::{Completion, ModelConfig, RawConfig};
use crate::error::{ConfigError, LayoutError, LoadError, RegistryError};
use crate::layout;
use crate::lifecycle::State;

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
    pub(super) progress: &'a (dyn Fn(State) + Send + Sync),
}

impl LoadRequest<'static> {
    /// A request without a registry, for what tries a version and does not serve it; otherwise as by the registry's
    /// defaults.
    ///
    /// * `directory`: the model's
    /// * `config`: all sources merged
    ///
    /// Errors: a label file that cannot be read.
    pub fn alone(name: &str, version: u64, directory: &Path, config: RawConfig) -> Result<Self, ConfigError> {
        let defaults = RegistryOptions::default();
        Ok(Self {
            name: name.into(),
            version,
            model_directory: directory.to_owned(),
            version_directory: directory.join(version.to_string()),
            label_files: layout::read_label_files(directory, &config)?,
            config,
            default_max_batch_size: defaults.default_max_batch_size,
            auto_complete: defaults.auto_complete,
            progress: &|_| {},
        })
    }
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
            // A name that nobody knows is told when the runtime is looked for.
            self.config.runtime().unwrap_or_default(),
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

/// What a model has when it is found out which of its versions shall be loaded.
pub struct Found<'a> {
    /// The model.
    pub model: &'a str,
    /// The rules of its releases.
    pub policy: &'a Policy,
    /// All that is configured of it.
    pub config: &'a RawConfig,
    /// Its directory.
    pub directory: &'a Path,
    /// The versions that are there.
    pub on_disk: &'a BTreeSet<u64>,
    /// Those that the version policy chooses, ascending.
    pub chosen: &'a [u64],
    /// A load call asks, rather than a scan.
    pub called: bool,
    /// Whose call, where that is known.
    pub caller: Option<&'a str>,
}

/// What a conductor wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directed {
    /// The versions that shall be loaded.
    pub versions: Vec<u64>,
    /// Those among them that stay as they are while they are loaded, although their files have changed.
    pub held: BTreeSet<u64>,
}

/// Decides which versions of a model are loaded and who answers, for models whose versions are released.
///
/// Called on load threads, for one model by one thread at a time, without any lock of the registry: it may call
/// [`divide`](super::Registry::divide).
pub trait Conductor: Send + Sync {
    /// Which versions shall be loaded, in that order; `None`: the version policy decides alone.
    ///
    /// Errors: `Conflict` for a call that does not fit the active release, `LoadFailed` where nothing may take the place
    /// of a live version whose files are gone. What serves goes on serving then.
    fn plan(&self, found: &Found<'_>) -> Result<Option<Directed>, RegistryError>;

    /// Every version that was planned is live or has failed.
    ///
    /// * `live`: the versions that answer
    fn settled(&self, model: &str, live: &BTreeSet<u64>);
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
    /// Who releases versions; without one each is put in at once.
    pub conductor: Option<Arc<dyn Conductor>>,
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
            conductor: None,
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
