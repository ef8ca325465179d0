//! The three traits a runtime implements.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{ModelSignature, Outputs, RuntimeError, TensorView};

/// A way to run models; one value per process.
pub trait Runtime: Send + Sync {
    /// The name used in configuration and logs: `ort`, `tract`, `candle`, `fake`.
    fn name(&self) -> &'static str;

    /// The `platform` that metadata announces, such as `onnxruntime_onnx`.
    fn platform(&self) -> &'static str;

    /// Version of the library behind it, for logs and metadata.
    fn version(&self) -> String;

    /// Reads a model file: weights and signature. May take long; runs on a load thread.
    ///
    /// Errors: `Load`, `Unsupported` (naming what), `Parameter`.
    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError>;

    /// `source`, changed so that each run stays on its calling thread; `None` where the runtime cannot do that, or
    /// where the source's parameters already say what threads do.
    fn single_threaded(&self, source: &ModelSource) -> Option<ModelSource> {
        let _ = source;
        None
    }
}

/// A loaded model: weights and signature, shared by its instances.
pub trait Model: Send + Sync {
    /// What goes in and out, as the model file says: full shapes, batch dimension included.
    fn signature(&self) -> &ModelSignature;

    /// Makes one executable copy. Runs on a load thread.
    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError>;

    /// Bytes held by weights and instances, where the runtime can tell; 0 otherwise.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// One executable copy of a model; one owner at a time: its thread, or the task it is lent to.
pub trait Instance: Send {
    /// Runs the model once.
    ///
    /// * `inputs`: one per input of the signature, in its order; `None` where an optional input was left out
    /// * `outputs`: one slot per output of the signature; each wanted one is set on `Ok`
    ///
    /// Errors: `Run`, `InvalidInput`, `Output`; the instance stays usable. May panic: the caller then drops it.
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError>;
}

/// What a runtime needs to find a model.
#[derive(Debug, Clone, Default)]
pub struct ModelSource {
    /// The model file, or the directory that holds it with its external data.
    pub path: PathBuf,
    /// The `parameters` of the model's configuration, runtime-specific (protocols.md §10.2).
    pub parameters: BTreeMap<String, String>,
    /// `optimization.graph.level` of the configuration, where set.
    pub graph_level: Option<i32>,
}

/// How one instance shall run.
#[derive(Debug, Clone, Default)]
pub struct InstanceOptions {
    /// Where it computes.
    pub device: Device,
}

/// A device that computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The host's cores.
    #[default]
    Cpu,
    /// The CUDA device of this index.
    Cuda(u32),
}
