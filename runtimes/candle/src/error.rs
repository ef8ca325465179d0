//! What goes wrong with a model's files, as the seam's errors.

use crossfade_runtimes_core::RuntimeError;

use crate::NAME;

/// The model needs something this runtime does not have.
pub(crate) fn unsupported(what: impl Into<String>) -> RuntimeError {
    RuntimeError::Unsupported {
        runtime: NAME,
        what: what.into(),
    }
}

/// The files are no model.
pub(crate) fn load(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Load {
        reason: reason.into(),
    }
}

/// The values of a request are at fault.
pub(crate) fn refused(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::InvalidInput {
        reason: reason.into(),
    }
}

/// candle could not load.
pub(crate) fn not_loaded(error: &candle_core::Error) -> RuntimeError {
    load(first_line(error))
}

/// candle could not compute.
pub(crate) fn not_run(error: &candle_core::Error) -> RuntimeError {
    RuntimeError::Run {
        reason: first_line(error),
    }
}

/// An error's message without the backtrace that it may hold.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
