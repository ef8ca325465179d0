//! The one ONNX Runtime library of a process: opened, checked, and given its thread pool.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crossfade_runtimes_core::RuntimeError;
use ort::LoadDynamicError;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use crate::convert;
use crate::cuda::Cuda;
use crate::error::unavailable;
use crate::{MINIMUM_VERSION, OrtOptions};

/// Set once, by the first library that opens. Kept for ever: the environment may be made only once.
static OPENED: Mutex<Option<Library>> = Mutex::new(None);

/// An open library and its environment.
#[derive(Clone)]
pub(crate) struct Library {
    path: Arc<Path>,
    version: Arc<str>,
    threads: usize,
    environment: Environment,
    cuda: Arc<Cuda>,
}

impl Library {
    /// Opens the library, or gives the one this process already has.
    pub(crate) fn open(options: &OrtOptions) -> Result<Self, RuntimeError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Some(library) if *library.path == *options.library => Ok(library.clone()),
            Some(library) => Err(unavailable(format!(
                "this process already uses {}; a process can use one ONNX Runtime only",
                library.path.display()
            ))),
            None => {
                check_file(&options.library)?;
                // A library that answers with nonsense makes the binding panic.
                let library = catch_unwind(AssertUnwindSafe(|| open(options)))
                    .map_err(|panic| broken(&options.library, &panic_message(&*panic)))??;
                Ok(opened.insert(library).clone())
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Threads of the shared pool, the calling thread included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What of CUDA is here.
    pub(crate) fn cuda(&self) -> &Cuda {
        &self.cuda
    }
}

/// The text of a caught panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".to_owned())
}

fn open(options: &OrtOptions) -> Result<Library, RuntimeError> {
    let path = &options.library;
    if !convert::opt_out_of_telemetry() {
        let set = convert::TELEMETRY_SWITCH;
        tracing::warn!(
            set,
            "ONNX Runtime may send usage data: opened beside other threads, without this variable"
        );
    }
    // Nothing of `ort` may be called before this: any other call opens a library by its own rules, and panics
    // where there is none.
    let builder = ort::init_from(path).map_err(|error| refused(path, &error))?;
    let threads = match options.intra_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let pool = || -> ort::Result<GlobalThreadPoolOptions> {
        // Spinning would double the CPU time per item where cores are shared (docs/benchmarks.md).
        GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            .with_spin_control(false)
    };
    let start = |error: ort::Error| broken(path, error.message());
    let environment = builder
        .with_name("crossfade")
        .with_telemetry(false)
        .with_global_thread_pool(pool().map_err(start)?)
        .with_logger(Arc::new(log))
        .build()
        .map_err(start)?;
    // The binding asks for everything; formatting verbose messages would cost each run.
    environment.set_log_level(LogLevel::Warning);
    Ok(Library {
        path: Arc::from(path.as_path()),
        version: Arc::from(version(path)),
        threads,
        environment,
        cuda: Arc::new(Cuda::new(path, &options.cuda_lib_dirs)),
    })
}

/// The library's messages. Failures also come back as errors and are reported there, so nearly all are details.
fn log(level: LogLevel, _category: &str, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(id, location, detail = message, "ONNX Runtime cannot go on"),
        // What an executor logs is the error of one run, which its caller gets and may have caused.
        LogLevel::Error if !location.contains("executor") => {
            tracing::warn!(id, location, detail = message, "ONNX Runtime reports an error");
        }
        LogLevel::Error | LogLevel::Warning => {
            tracing::debug!(id, location, detail = message, "ONNX Runtime")
        }
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(id, location, detail = message, "ONNX Runtime"),
    }
}

/// Full version from the build's branch name (`rel-1.31.1`), else the minor version.
fn version(path: &Path) -> String {
    let release = ort::info()
        .split("git-branch=rel-")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    match release {
        Some(release) => release.trim().to_owned(),
        None => ort::util::probe(path).map_or_else(|| "unknown".to_owned(), |minor| format!("1.{minor}")),
    }
}

/// Refuses what the system's loader would crash on.
fn check_file(path: &Path) -> Result<(), RuntimeError> {
    match cut_off(path) {
        Some(reason) => Err(broken(path, &reason)),
        None => Ok(()),
    }
}

/// What is wrong with an ELF file that ends before its own section table, on which the system's loader would crash.
pub(crate) fn cut_off(path: &Path) -> Option<String> {
    use std::io::Read as _;

    // A bare name is searched for by the loader, and a missing file is best reported by it.
    let mut file = std::fs::File::open(path).ok()?;
    let mut header = [0u8; 64];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // ELF-64 header: e_shoff at 0x28, e_shentsize at 0x3A, e_shnum at 0x3C.
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0u8; 8];
    offset.copy_from_slice(&header[0x28..0x30]);
    let end = u64::from_le_bytes(offset).saturating_add(half(0x3A) * half(0x3C));
    let len = file.metadata().ok()?.len();
    (len < end).then(|| format!("the file is cut off: {len} bytes of {end} or more"))
}

fn refused(path: &Path, error: &LoadDynamicError) -> RuntimeError {
    let path: PathBuf = path.to_path_buf();
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            unavailable(format!("cannot open {}: {error}", path.display()))
        }
        LoadDynamicError::MissingApi { .. } => unavailable(format!(
            "{} is no ONNX Runtime: it has no OrtGetApiBase",
            path.display()
        )),
        LoadDynamicError::InvalidVersionString => broken(&path, "its version is not text"),
        LoadDynamicError::BadVersion { version_str, .. } => unavailable(format!(
            "{} is ONNX Runtime {version_str}, but {MINIMUM_VERSION} or newer is needed",
            path.display()
        )),
    }
}

fn broken(path: &Path, reason: &str) -> RuntimeError {
    unavailable(format!(
        "{} cannot be used as ONNX Runtime: {reason}",
        path.display()
    ))
}
