//! tract behind the seam: pure Rust, always there.
//!
//! tract optimises a model for the shapes of its inputs, so a model keeps a few plans, one per number of rows
//! (`plans`). What tract lacks (strings, BF16, sequences, some operators) is refused at load with the reason.
//! There is no `unsafe` here: `convert` copies.

mod convert;
mod error;
mod plans;
mod session;
mod signature;

use std::thread::available_parallelism;

use crossfade_runtimes_core::{Model, ModelSource, Runtime, RuntimeError};
use tract_onnx::prelude::multithread::Executor;

use session::TractModel;

/// The name of this runtime in configuration, errors and logs.
const NAME: &str = "tract";

/// The version that the workspace pins.
const VERSION: &str = "0.23.9";

/// tract, with the threads that its models share.
pub struct TractRuntime {
    executor: Executor,
}

impl TractRuntime {
    /// A runtime whose models share a pool of `threads` threads for large matrix products; 0: one per core.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let executor = match threads {
            1 => Executor::SingleThread,
            threads => Executor::multithread_with_name(threads, "tract"),
        };
        Self { executor }
    }
}

impl Runtime for TractRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platform(&self) -> &'static str {
        "tract_onnx"
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        Ok(Box::new(TractModel::load(&self.executor, source)?))
    }
}
