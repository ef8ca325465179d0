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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_explicit_path_the_executable_folder_comes_before_the_system() {
        let candidates = candidates(None);
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        assert_eq!(candidates.len(), 4);
        assert!(candidates[..2].iter().all(|path| path.parent() == Some(&folder)));
        assert!(
            candidates[2..]
                .iter()
                .all(|path| path.parent() == Some(Path::new("")))
        );
    }

    #[test]
    fn the_first_library_that_opens_is_taken_and_every_failure_is_told() {
        let candidates = [PathBuf::from("a"), PathBuf::from("b"), PathBuf::from("c")];
        let open = |path: &Path| match path.to_str() {
            Some("b") => Ok("opened"),
            _ => Err(RuntimeError::Unavailable {
                runtime: "ort",
                reason: format!("{} is text", path.display()),
            }),
        };
        assert_eq!(first_that_opens(&candidates, false, open).unwrap(), "opened");
        let error =
            first_that_opens(&[candidates[0].clone(), candidates[2].clone()], false, open).unwrap_err();
        assert!(error.to_string().contains("a is text; c is text"));
    }
}
