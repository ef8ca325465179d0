//! Where the ONNX Runtime library is looked for, and what is said when it is nowhere.

use std::path::{Path, PathBuf};

use crossfade_runtimes_core::RuntimeError;

/// The versioned name that the library gives itself, and the name a development package adds.
const NAMES: [&str; 2] = if cfg!(target_os = "macos") {
    ["libonnxruntime.1.dylib", "libonnxruntime.dylib"]
} else {
    ["libonnxruntime.so.1", "libonnxruntime.so"]
};

/// The paths to try, in order: the explicit one alone, or else next to the executable and then the bare names,
/// which the system's loader searches for.
pub(crate) fn candidates(explicit: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        // Relative to the working directory, as a user means it; the binding would take the executable's folder.
        return vec![std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())];
    }
    let executable = std::env::current_exe().ok();
    let folder = executable.as_deref().and_then(Path::parent);
    let beside = NAMES.iter().filter_map(|name| Some(folder?.join(name)));
    beside.chain(NAMES.iter().map(PathBuf::from)).collect()
}

/// Opens the first candidate that opens.
///
/// Errors: `Unavailable` with what each candidate said, and what to do.
pub(crate) fn first_that_opens<T>(
    candidates: &[PathBuf],
    explicit: bool,
    open: impl Fn(&Path) -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    let mut tried = Vec::new();
    for path in candidates {
        if path.is_absolute() && !path.exists() {
            tried.push(format!("{} does not exist", path.display()));
            continue;
        }
        match open(path) {
            Ok(opened) => return Ok(opened),
            Err(RuntimeError::Unavailable { reason, .. }) => tried.push(reason),
            Err(other) => tried.push(other.to_string()),
        }
    }
    let advice = if explicit {
        "correct the path (ort.library), or leave it out to have the usual places searched"
    } else {
        "put the library next to the executable, install it, or name it (ort.library); \
         in a checkout: cargo xtask onnxruntime"
    };
    Err(RuntimeError::Unavailable {
        runtime: "ort",
        reason: format!("{}; {advice}", tried.join("; ")),
    })
}
