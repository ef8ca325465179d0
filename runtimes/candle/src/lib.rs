//! candle behind the seam: transformer encoders as people publish them, from `config.json` and `model.safetensors`.
//!
//! A model is read once (`weights`) and shared by its instances. There are two ways to compute it: `packed`, our own
//! kernels for CPUs in FP32, which compute no padding; and `portable`, candle's operations, for every device and
//! datatype. Tests hold the one against the other.
//!
//! What is absent: nothing here knows text; tokens come in, numbers go out. `unsafe` is in `convert` alone.

mod card;
mod convert;
mod error;
mod gpu;
mod kernels;
mod packed;
mod parameters;
mod pooling;
mod portable;
mod session;
mod shards;
mod threads;
mod tokens;
mod weights;

use std::sync::Arc;
use std::thread::available_parallelism;

use crossfade_runtimes_core::{Model, ModelSource, Runtime, RuntimeError};

use session::CandleModel;
use threads::Threads;

/// The name of this runtime in configuration, errors and logs.
const NAME: &str = "candle";

/// The version that the workspace pins.
const VERSION: &str = "0.11.1";

/// The parameter with the threads of a run.
const THREADS: &str = "intra_op_thread_count";

/// candle, with the threads that its models share.
pub struct CandleRuntime {
    threads: Arc<Threads>,
}

impl CandleRuntime {
    /// A runtime whose models share a pool of `threads` threads; 0: one per core.
    ///
    /// Errors: `Unavailable` if the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, RuntimeError> {
        let threads = match threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Ok(Self {
            threads: Arc::new(Threads::start(threads)?),
        })
    }
}

impl Runtime for CandleRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platform(&self) -> &'static str {
        "candle_safetensors"
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        Ok(Box::new(CandleModel::load(&self.threads, source)?))
    }

    fn gpus(&self) -> Result<u32, RuntimeError> {
        gpu::count()
    }

    /// The same: runs stay on their calling threads as soon as there are as many as threads.
    fn single_threaded(&self, source: &ModelSource) -> Option<ModelSource> {
        (!source.parameters.contains_key(THREADS)).then(|| source.clone())
    }
}
