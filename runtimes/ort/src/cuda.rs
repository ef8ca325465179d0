//! Whether CUDA can be used here: the provider beside the library, NVIDIA's driver, the libraries of CUDA and cuDNN.
//!
//! Looked at when it is first asked for, once in a process; what is missing is told to everyone who asks.

mod folders;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};

use crate::driver::Driver;
use crate::library::cut_off;
use crate::providers::Kind;

/// What ONNX Runtime opens from its own folder when the provider is asked for.
const PROVIDER: [&str; 2] = [
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
];

/// CUDA beside one ONNX Runtime.
pub(crate) struct Cuda {
    library: PathBuf,
    given: Vec<PathBuf>,
    ready: OnceLock<Result<Ready, String>>,
}

/// CUDA, as far as it can be told before a model is loaded.
pub(crate) struct Ready {
    pub(crate) driver: &'static Driver,
    folders: Vec<PathBuf>,
}

impl Cuda {
    /// Nothing is looked at yet.
    ///
    /// * `library`: ONNX Runtime's own
    /// * `given`: folders that the operator names
    pub(crate) fn new(library: &Path, given: &[PathBuf]) -> Self {
        Self {
            library: library.to_owned(),
            given: given.to_vec(),
            ready: OnceLock::new(),
        }
    }

    /// Finds and opens what CUDA needs.
    ///
    /// Errors: the first thing that is missing or broken, and what to do.
    pub(crate) fn ready(&self) -> Result<&Ready, String> {
        let ready = self.ready.get_or_init(|| self.look());
        ready.as_ref().map_err(Clone::clone)
    }

    fn look(&self) -> Result<Ready, String> {
        check_provider(&self.library, Kind::Cuda.is_built())?;
        let folders = folders::of(&self.given, &self.library)?;
        let driver = Driver::open()?;
        preload(&folders)?;
        tracing::info!(
            devices = driver.devices(),
            driver_cuda = driver.cuda_version(),
            folders = folders.len(),
            "CUDA can be used"
        );
        Ok(Ready { driver, folders })
    }
}

impl Ready {
    /// What to do about a library that the provider did not find.
    pub(crate) fn advice(&self) -> String {
        let searched: Vec<_> = self
            .folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let searched = match searched.is_empty() {
            true => "no folder".to_owned(),
            false => searched.join(", "),
        };
        format!(
            "the driver runs CUDA {} and older; CUDA and cuDNN were looked for in {searched}, then in the system's library path; \
             name their folders (--cuda-lib-dir, ort.cuda_lib_dirs)",
            self.driver.cuda_version()
        )
    }
}

/// Whether the library was built with the provider and has it beside it.
fn check_provider(library: &Path, is_built: bool) -> Result<(), String> {
    let install = "install the wheel onnxruntime-gpu and name its library (--ort-library, ort.library)";
    if !is_built {
        return Err(format!(
            "{} is an ONNX Runtime for the CPU alone; {install}",
            library.display()
        ));
    }
    // A bare name was found by the system's loader, which does not say where.
    let Some(folder) = library.parent().filter(|folder| folder.is_absolute()) else {
        return Ok(());
    };
    for name in PROVIDER {
        let file = folder.join(name);
        if !file.is_file() {
            return Err(format!(
                "{name} is not beside ONNX Runtime's library, in {}; keep the files of its package together, or {install}",
                folder.display()
            ));
        }
        if let Some(reason) = cut_off(&file) {
            return Err(format!("{}: {reason}; {install}", file.display()));
        }
    }
    Ok(())
}

/// Opens the libraries that are in these folders, each from the first that has it: who asks for them by name later gets
/// those. The others are the system's loader's to find.
fn preload(folders: &[PathBuf]) -> Result<(), String> {
    for name in CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS) {
        let mut files = folders.iter().map(|folder| folder.join(name));
        let Some(file) = files.find(|file| file.is_file()) else {
            continue;
        };
        let broken = |reason: String| {
            Err(format!(
                "{} cannot be opened: {reason}; install its package again, or name another folder (--cuda-lib-dir, \
                 ort.cuda_lib_dirs)",
                file.display()
            ))
        };
        if let Some(reason) = cut_off(&file) {
            return broken(reason);
        }
        if let Err(error) = ort::util::preload_dylib(&file) {
            return broken(error.to_string());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, content: &[u8]) {
        std::fs::write(folder.join(name), content).unwrap();
    }

    #[test]
    fn a_library_for_the_cpu_is_told_from_one_whose_files_are_apart() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so.1");
        let error = check_provider(&library, false).unwrap_err();
        assert!(error.contains("for the CPU alone"), "{error}");
        assert!(error.contains("onnxruntime-gpu"), "{error}");

        let error = check_provider(&library, true).unwrap_err();
        assert!(error.contains(PROVIDER[0]), "{error}");
        write(folder.path(), PROVIDER[0], b"");
        let error = check_provider(&library, true).unwrap_err();
        assert!(error.contains(PROVIDER[1]), "{error}");
        write(folder.path(), PROVIDER[1], b"");
        assert_eq!(check_provider(&library, true), Ok(()));
        assert_eq!(check_provider(Path::new("libonnxruntime.so.1"), true), Ok(()));
    }

    #[test]
    fn a_broken_library_of_cuda_is_named_and_one_that_is_nowhere_is_left_to_the_system() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(preload(&[folder.path().to_owned()]), Ok(()));
        write(folder.path(), "libcublas.so.13", b"this is no library");
        let error = preload(&[folder.path().to_owned()]).unwrap_err();
        assert!(error.contains("libcublas.so.13"), "{error}");
        assert!(error.contains("--cuda-lib-dir"), "{error}");
    }
}
