//! What tract says, as the seam's errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crossfade_runtimes_core::RuntimeError;
use tract_onnx::prelude::TractResult;

use crate::NAME;

/// The model needs something tract does not have.
pub(crate) fn unsupported(what: impl Into<String>) -> RuntimeError {
    let what: String = what.into();
    RuntimeError::Unsupported {
        runtime: NAME,
        what: format!("{what}; ONNX Runtime (runtime = \"ort\") may have it"),
    }
}

/// The file is no model.
pub(crate) fn load(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Load {
        reason: reason.into(),
    }
}

/// Calls tract; a panic of its is a failure like others. The message is the whole chain of causes, without the
/// model's folder.
///
/// Nothing that tract was changing outlives a panic: what it builds or runs is made inside `call`.
pub(crate) fn guarded<T>(file: &Path, call: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    let message = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic_message(&*panic),
    };
    let folders = [
        file.parent().map(Path::to_path_buf),
        file.parent().and_then(|folder| folder.canonicalize().ok()),
    ];
    let mut message = message.replace('\n', " ");
    for folder in folders.into_iter().flatten() {
        // A relative or root folder is too short to be told from other text.
        if folder.components().count() > 1 {
            message = message.replace(&format!("{}/", folder.display()), "");
        }
    }
    Err(message)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".to_owned())
}
