//! Runtimes by name: which of them this process has, and which one serves a model.
//!
//! The only file with `cfg(feature = "<runtime>")`. Nothing here fails because a native library is missing: the
//! reason is kept and told to whoever asks for that runtime.

#[cfg(feature = "ort")]
mod search;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crossfade_runtimes_core::{Runtime, RuntimeError, WEIGHTS};

/// How the runtimes are opened.
#[derive(Debug, Clone, Default)]
pub struct RuntimesOptions {
    /// The ONNX Runtime library that flag, environment or configuration names; nothing else is tried then.
    pub ort_library: Option<PathBuf>,
    /// Threads that the models of one runtime share, the calling thread included; 0: one per core.
    pub intra_threads: usize,
    /// Folders with the libraries of CUDA and cuDNN, for ONNX Runtime; besides those near its library.
    pub cuda_lib_dirs: Vec<PathBuf>,
}

/// Which runtime a model's configuration asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// By the file: ONNX Runtime if it was found, else tract; candle for safetensors.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
    /// candle.
    Candle,
    /// A registered runtime.
    Named(String),
}

impl FromStr for RuntimeChoice {
    type Err = Infallible;

    /// Reads `auto`, `ort`, `tract`, `candle` or the name of a registered runtime; whether there is one of that name is
    /// found out by [`Runtimes::get`].
    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(match name {
            "auto" => Self::Auto,
            "ort" => Self::Ort,
            "tract" => Self::Tract,
            "candle" => Self::Candle,
            other => Self::Named(other.to_owned()),
        })
    }
}

/// The runtimes of this process.
pub struct Runtimes {
    ort: Result<Arc<dyn Runtime>, RuntimeError>,
    tract: Result<Arc<dyn Runtime>, RuntimeError>,
    candle: Result<Arc<dyn Runtime>, RuntimeError>,
    registered: BTreeMap<&'static str, Arc<dyn Runtime>>,
    /// Where ONNX Runtime was opened, for the log line at start.
    ort_library: Option<PathBuf>,
}

impl Runtimes {
    /// Opens what can be opened. Never fails: a missing library is reported by [`get`](Self::get).
    ///
    /// ONNX Runtime is looked for where `options` says, or else next to the executable, then in the system's
    /// library path.
    pub fn open(options: &RuntimesOptions) -> Self {
        let (ort, ort_library) = match open_ort(options) {
            Ok((runtime, library)) => (Ok(runtime), Some(library)),
            Err(error) => (Err(error), None),
        };
        Self {
            ort,
            tract: open_tract(options),
            candle: open_candle(options),
            registered: BTreeMap::new(),
            ort_library,
        }
    }

    /// Adds a runtime under its own name; `get` prefers it to a built-in one of that name.
    pub fn register(&mut self, runtime: Arc<dyn Runtime>) {
        self.registered.insert(runtime.name(), runtime);
    }

    /// The runtime that serves `model_file`.
    ///
    /// Errors: `Unavailable` with every place that was tried; `Parameter` for a name nobody has.
    pub fn get(&self, choice: &RuntimeChoice, model_file: &Path) -> Result<Arc<dyn Runtime>, RuntimeError> {
        let built_in = |name: &str, runtime: &Result<Arc<dyn Runtime>, RuntimeError>| {
            self.registered
                .get(name)
                .map_or_else(|| runtime.clone(), |runtime| Ok(Arc::clone(runtime)))
        };
        match choice {
            RuntimeChoice::Ort => built_in("ort", &self.ort),
            RuntimeChoice::Tract => built_in("tract", &self.tract),
            RuntimeChoice::Candle => built_in("candle", &self.candle),
            // Only ONNX Runtime reads its own format.
            RuntimeChoice::Auto if has_extension(model_file, "ort") => built_in("ort", &self.ort),
            RuntimeChoice::Auto if is_weights(model_file) => built_in("candle", &self.candle),
            RuntimeChoice::Auto => built_in("ort", &self.ort)
                .or_else(|missing| built_in("tract", &self.tract).map_err(|_| missing)),
            RuntimeChoice::Named(name) => {
                let known = self.registered.get(name.as_str()).map(Arc::clone);
                known.ok_or_else(|| self.unknown(name))
            }
        }
    }

    /// The file to read where `auto` could read others of the folder: where ONNX Runtime is missing, the weights beside an export
    /// of them, which candle reads faster than tract the export.
    pub fn preferred(&self, choice: &RuntimeChoice, model_file: PathBuf) -> PathBuf {
        let weights = WEIGHTS
            .iter()
            .map(|name| model_file.with_file_name(name))
            .find(|file| file.is_file());
        let better = *choice == RuntimeChoice::Auto
            && self.ort.is_err()
            && self.candle.is_ok()
            && has_extension(&model_file, "onnx");
        weights.filter(|_| better).unwrap_or(model_file)
    }

    /// One line for the log at start: which runtime serves models that name none, and why.
    pub fn describe(&self) -> String {
        let named = |runtime: &Arc<dyn Runtime>| format!("{} {}", runtime.name(), runtime.version());
        let ort = match (&self.ort, &self.ort_library) {
            (Ok(runtime), Some(library)) => format!("{} from {}", named(runtime), library.display()),
            (Ok(runtime), None) => named(runtime),
            (Err(error), _) => error.to_string(),
        };
        let tract = self.tract.as_ref().map_or_else(RuntimeError::to_string, named);
        let candle = self.candle.as_ref().map_or_else(RuntimeError::to_string, named);
        let default = match (&self.ort, &self.tract) {
            (Ok(_), _) => "ort",
            (Err(_), Ok(_)) => "tract",
            (Err(_), Err(_)) => "none",
        };
        let others: String = self
            .registered
            .values()
            .map(|runtime| format!("; {}", named(runtime)))
            .collect();
        format!("default {default}; {ort}; {tract}; {candle}{others}")
    }

    fn unknown(&self, name: &str) -> RuntimeError {
        let registered: String = self.registered.keys().map(|name| format!(", {name}")).collect();
        RuntimeError::Parameter {
            key: "runtime".to_owned(),
            reason: format!(
                "there is no runtime `{name}`; this build has auto, ort, tract, candle{registered}"
            ),
        }
    }
}

#[cfg(feature = "ort")]
fn open_ort(options: &RuntimesOptions) -> Result<(Arc<dyn Runtime>, PathBuf), RuntimeError> {
    use crossfade_runtimes_ort::{OrtOptions, OrtRuntime};

    let explicit = options.ort_library.as_deref();
    search::first_that_opens(&search::candidates(explicit), explicit.is_some(), |library| {
        let runtime = OrtRuntime::open(&OrtOptions {
            library: library.to_path_buf(),
            intra_threads: options.intra_threads,
            cuda_lib_dirs: options.cuda_lib_dirs.clone(),
        })?;
        let library = runtime.library().to_path_buf();
        Ok((Arc::new(runtime) as Arc<dyn Runtime>, library))
    })
}

#[cfg(not(feature = "ort"))]
fn open_ort(_: &RuntimesOptions) -> Result<(Arc<dyn Runtime>, PathBuf), RuntimeError> {
    Err(not_built("ort"))
}

#[cfg(feature = "tract")]
fn open_tract(options: &RuntimesOptions) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let runtime = crossfade_runtimes_tract::TractRuntime::new(options.intra_threads);
    Ok(Arc::new(runtime))
}

#[cfg(not(feature = "tract"))]
fn open_tract(_: &RuntimesOptions) -> Result<Arc<dyn Runtime>, RuntimeError> {
    Err(not_built("tract"))
}

#[cfg(feature = "candle")]
fn open_candle(options: &RuntimesOptions) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let runtime = crossfade_runtimes_candle::CandleRuntime::new(options.intra_threads)?;
    Ok(Arc::new(runtime))
}

#[cfg(not(feature = "candle"))]
fn open_candle(_: &RuntimesOptions) -> Result<Arc<dyn Runtime>, RuntimeError> {
    Err(not_built("candle"))
}

/// Whether `file` holds a transformer's weights, or lists the files that do.
fn is_weights(file: &Path) -> bool {
    has_extension(file, "safetensors") || file.file_name().is_some_and(|name| name == WEIGHTS[1])
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|its| its == extension)
}

#[cfg(not(all(feature = "ort", feature = "tract", feature = "candle")))]
fn not_built(runtime: &'static str) -> RuntimeError {
    RuntimeError::Unavailable {
        runtime,
        reason: format!("crossfade was built without it (cargo feature `{runtime}`)"),
    }
}

#[cfg(all(test, feature = "ort", feature = "tract"))]
mod tests;
