//! ONNX Runtime behind the seam: a shared library that is opened at run time, never linked.
//!
//! One library, one environment and one thread pool serve the whole process. On the CPU a session is shared by the
//! instances of a model, because the C API's `Run` may be called from several threads and weights are large. On a GPU,
//! and wherever an execution provider is asked for, each instance has a session of its own.
//! All `unsafe` is in `convert` and, for NVIDIA's driver, in `driver`.

mod convert;
mod cuda;
mod driver;
mod error;
mod ledger;
mod library;
mod outlet;
mod parameters;
mod providers;
mod session;
mod turns;
#[cfg(test)]
mod under_test;

use std::path::PathBuf;

use crossfade_runtimes_core::{Device, Model, ModelSource, Runtime, RuntimeError};

use library::Library;
use session::OrtModel;

/// The name of this runtime in configuration, errors and logs.
const NAME: &str = "ort";

/// The oldest ONNX Runtime that serves: its C API version is the floor this crate is built for.
pub const MINIMUM_VERSION: &str = "1.24";

/// Where the library is, and the threads it may use.
#[derive(Debug, Clone)]
pub struct OrtOptions {
    /// A path, or a bare file name that the system's loader searches for (after the executable's folder).
    pub library: PathBuf,
    /// Threads of the pool that all models share, the calling thread included; 0: one per core.
    pub intra_threads: usize,
    /// Folders with the libraries of CUDA and cuDNN, or of the wheels that bring them. They are looked for near the library,
    /// too.
    pub cuda_lib_dirs: Vec<PathBuf>,
}

/// ONNX Runtime, opened.
pub struct OrtRuntime {
    library: Library,
}

impl OrtRuntime {
    /// Opens the library and starts its environment and thread pool.
    ///
    /// A process has one environment: opening the same library again gives the one that is there, with the
    /// threads it began with.
    ///
    /// Errors: `Unavailable` when the file is missing, is no ONNX Runtime, is older than
    /// [`MINIMUM_VERSION`], or when this process already uses another one.
    pub fn open(options: &OrtOptions) -> Result<Self, RuntimeError> {
        Ok(Self {
            library: Library::open(options)?,
        })
    }

    /// The path it was opened from.
    pub fn library(&self) -> &std::path::Path {
        self.library.path()
    }
}

impl Runtime for OrtRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn version(&self) -> String {
        self.library.version().to_owned()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        Ok(Box::new(OrtModel::load(&self.library, source)?))
    }

    fn gpus(&self) -> Result<u32, RuntimeError> {
        let cuda = self.library.cuda().ready();
        cuda.map(|cuda| cuda.driver.devices())
            .map_err(|reason| error::device_named("cuda", reason))
    }

    fn single_threaded(&self, source: &ModelSource) -> Option<ModelSource> {
        const OF_THREADS: [&str; 3] = ["intra_op_thread_count", "inter_op_thread_count", "execution_mode"];
        let elsewhere = source.devices.iter().any(|device| *device != Device::Cpu);
        if elsewhere || OF_THREADS.iter().any(|&key| source.parameters.contains_key(key)) {
            return None;
        }
        let mut single = source.clone();
        single.parameters.insert(OF_THREADS[0].to_owned(), "1".to_owned());
        Some(single)
    }
}
