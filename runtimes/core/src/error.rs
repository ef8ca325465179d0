//! What can go wrong behind the seam.

use std::sync::Arc;

use crate::{Datatype, ShapeSpec};

/// A failure of a runtime, by what a caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime's native library could not be opened.
    #[error("runtime `{runtime}` is not available: {reason}")]
    Unavailable {
        /// Runtime name, such as `ort`.
        runtime: &'static str,
        /// What was tried, and what to do.
        reason: String,
    },
    /// The model file cannot be read or parsed.
    #[error("cannot load the model: {reason}")]
    Load {
        /// What the runtime said, without paths.
        reason: String,
    },
    /// The model needs something this runtime does not have.
    #[error("runtime `{runtime}` cannot serve this model: {what}")]
    Unsupported {
        /// Runtime name.
        runtime: &'static str,
        /// The operator, datatype or kind of output, and which runtime has it.
        what: String,
    },
    /// A parameter or option of the model's configuration is wrong.
    #[error("parameter `{key}`: {reason}")]
    Parameter {
        /// The key as configured.
        key: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// A device cannot be used: no driver, a missing library, too little memory.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// The device as configured, such as `cuda:0`.
        device: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The model computed something other than its signature says.
    #[error("output `{name}`: the model declares {expected_datatype} {expected_shape}, but computed {got}")]
    Output {
        /// Output name.
        name: Arc<str>,
        /// Declared datatype.
        expected_datatype: Datatype,
        /// Declared shape.
        expected_shape: ShapeSpec,
        /// What came out.
        got: String,
    },
    /// The run itself failed; the instance may be used again.
    #[error("inference failed: {reason}")]
    Run {
        /// What the runtime said.
        reason: String,
    },
    /// The input was refused by the model while it ran: these values, not the server, are at fault.
    #[error("the model refused the input: {reason}")]
    InvalidInput {
        /// What the runtime said.
        reason: String,
    },
    /// The device failed while the instance ran on it; the instance must not be used again.
    #[error("device `{device}` is lost: {reason}")]
    DeviceLost {
        /// The device, such as `cuda:0`.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The instance panicked and must not be used again.
    #[error("the instance panicked: {reason}")]
    Panicked {
        /// The panic's message.
        reason: String,
    },
}
