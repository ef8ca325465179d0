//! The three traits a runtime implements.

use std::collections::BTreeMap;
use std::fmt;
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
    /// Errors: `Load`, `Unsupported` (naming what), `Parameter`, `Device`.
    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError>;

    /// `source`, changed so that each run stays on its calling thread; `None` where the runtime cannot do that, or
    /// where the source's parameters already say what threads do.
    fn single_threaded(&self, source: &ModelSource) -> Option<ModelSource> {
        let _ = source;
        None
    }

    /// How many CUDA devices it can compute on here.
    ///
    /// Errors: `Unsupported` for a runtime that knows no GPUs; `Device` with what is missing, and what to do.
    fn gpus(&self) -> Result<u32, RuntimeError> {
        Err(RuntimeError::Unsupported {
            runtime: self.name(),
            what: "it computes on the CPU only".to_owned(),
        })
    }
}

/// A loaded model: weights and signature, shared by its instances.
pub trait Model: Send + Sync {
    /// What goes in and out, as the model file says: full shapes, batch dimension included.
    fn signature(&self) -> &ModelSignature;

    /// Makes one executable copy. Runs on a load thread, or on that of an instance which is replaced.
    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError>;

    /// Bytes of the host's memory held by weights and instances, where the runtime can tell; 0 otherwise.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// What its instances hold on which devices, by device; empty where all are on the CPU and nothing more is known.
    fn devices(&self) -> Vec<DeviceUse> {
        Vec::new()
    }
}

/// One executable copy of a model; one owner at a time: its thread, or the task it is lent to.
pub trait Instance: Send {
    /// Runs the model once.
    ///
    /// * `inputs`: one per input of the signature, in its order; `None` where an optional input was left out
    /// * `outputs`: one slot per output of the signature; each wanted one is set on `Ok`
    ///
    /// Errors: `Run`, `InvalidInput`, `Output`, and `Device` where something that its device needs is missing; the instance
    /// stays usable. After `DeviceLost`, and after a panic, the caller drops it.
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
    /// `optimization.execution_accelerators` of the configuration, in its order.
    pub accelerators: Vec<Accelerator>,
    /// Where instances will compute; empty: on the CPU.
    pub devices: Vec<Device>,
}

/// A part of a runtime that a configuration asks for by name, such as `tensorrt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// Its name, as configured.
    pub name: String,
    /// For instances on GPUs; else for those on the CPU.
    pub gpu: bool,
    /// Its parameters, as configured.
    pub parameters: BTreeMap<String, String>,
}

/// How one instance shall run.
#[derive(Debug, Clone, Default)]
pub struct InstanceOptions {
    /// Where it computes.
    pub device: Device,
}

/// A device that computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The host's cores.
    #[default]
    Cpu,
    /// The CUDA device of this index.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// What the instances of a model hold on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUse {
    /// The device.
    pub device: Device,
    /// Instances that compute there.
    pub instances: usize,
    /// Bytes of the device's memory; 0 where the runtime cannot tell.
    pub bytes: u64,
    /// What of the model runs there, such as `CUDA: 11 of 12 nodes`.
    pub served_by: String,
}
