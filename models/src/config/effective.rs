//! The configuration that a version runs with: typed, complete, and checked against the model file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossfade_runtimes_core::{Datatype, Device, Dim, ModelSignature, ShapeSpec, TensorSpec};
use serde_json::Value;

use super::finding;
use crate::version::VersionPolicy;

/// What the server relies on; made by [`RawConfig::complete`](super::RawConfig::complete).
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Model name: that of its directory.
    pub name: String,
    /// Triton's `platform`, given or completed, such as `onnxruntime_onnx`.
    pub platform: String,
    /// Triton's `backend`, given or completed.
    pub backend: String,
    /// 0: shapes are taken as they are. Else dimension 0 of every tensor is the batch.
    pub max_batch_size: u32,
    /// Whether `max_batch_size` was completed from the model file. It then limits merging only, not one request,
    /// and requests may be merged only after a probe has shown that merging does not change answers.
    pub completed: bool,
    /// Inputs that clients may send, in the model's order.
    pub inputs: Vec<ConfigTensor>,
    /// Outputs that clients may ask for, in the model's order; may be fewer than the model computes.
    pub outputs: Vec<ConfigTensor>,
    /// Which versions are served.
    pub version_policy: VersionPolicy,
    /// How requests are queued and merged.
    pub batching: Batching,
    /// Executable copies.
    pub instances: Instances,
    /// Runs on every instance before the version may answer.
    pub warmup: Vec<Warmup>,
    /// Several answers per request; only through streams.
    pub decoupled: bool,
    /// File name of the model, where one is configured.
    pub model_filename: Option<String>,
    /// For the runtime.
    pub parameters: BTreeMap<String, String>,
    /// `optimization.graph.level`, for the runtime.
    pub graph_level: Option<i32>,
    /// sha256 of the canonical effective configuration, in hexadecimal.
    pub config_rev: String,
    /// What was accepted and deserves a word: tuning fields without effect, trailing commas.
    pub warnings: Vec<String>,
    /// The effective ModelConfig in canonical form, without scalar defaults.
    pub(super) document: serde_json::Map<String, Value>,
}

/// One input or output as the configuration sees it: no batch dimension when `max_batch_size > 0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigTensor {
    /// Its name.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions as clients see them.
    pub dims: ShapeSpec,
    /// Dimensions as the model sees them, where they differ.
    pub reshape: Option<ShapeSpec>,
    /// Inputs only: a request may leave it out.
    pub optional: bool,
    /// Outputs only: class names by index, from `label_filename`.
    pub labels: Option<Arc<[Arc<str>]>>,
}

/// How requests are queued and merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// Whether requests of several clients may run together.
    pub enabled: bool,
    /// Most rows of a merged batch; 0 where nothing merges.
    pub max_rows: u32,
    /// Whether batches stay below `max_rows` where larger ones turn out to cost more per row.
    pub learn: bool,
    /// Batch sizes to aim for, ascending; empty: as many as wait, up to `max_rows`.
    pub preferred_rows: Vec<u32>,
    /// How long a request may wait for company while no instance is idle, or for a preferred size.
    pub max_delay: Duration,
    /// Answers leave in the order of their requests.
    pub preserve_ordering: bool,
    /// 0: no priorities. Else priorities are 1 (highest) to this.
    pub priority_levels: u64,
    /// Of requests that name none; 0 without priorities.
    pub default_priority: u64,
    /// The queue's rules.
    pub queue: QueuePolicy,
    /// Rules of single priority levels.
    pub level_queues: BTreeMap<u64, QueuePolicy>,
}

impl Batching {
    /// The rules for a priority level.
    pub fn queue_of(&self, level: u64) -> &QueuePolicy {
        self.level_queues.get(&level).unwrap_or(&self.queue)
    }
}

/// Rules of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// What happens to a request that waited too long.
    pub timeout_action: TimeoutAction,
    /// How long it may wait; `None`: as long as its own deadline allows.
    pub timeout: Option<Duration>,
    /// Triton's `allow_timeout_override`; kept and echoed, clients can always shorten.
    pub allow_timeout_override: bool,
    /// Most requests that wait; `None`: the server's bound alone.
    pub max_size: Option<u32>,
}

/// What happens to a request that waited too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It moves behind the others.
    Delay,
}

/// Executable copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// How many in all; `None`: the server chooses.
    pub count: Option<u32>,
    /// Where they compute: one for each instance, or one for all.
    pub devices: Vec<Device>,
    /// Why the CPU stands in for the GPUs that were asked for, where it does.
    pub instead: Option<String>,
    /// What they are tuned for.
    pub optimise: Optimise,
}

impl Instances {
    /// Whether all of them compute on the CPU.
    pub fn on_cpu(&self) -> bool {
        self.devices.iter().all(|device| *device == Device::Cpu)
    }
}

/// What instances are tuned for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Optimise {
    /// Most rows per second.
    #[default]
    Throughput,
    /// Shortest time per request.
    Latency,
}

/// One warm-up sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    /// Its name, for logs.
    pub name: String,
    /// Rows; 0 or 1 for models without a batch dimension.
    pub rows: u32,
    /// How often it runs on every instance; at least 1.
    pub count: u32,
    /// One per input.
    pub inputs: Vec<WarmupInput>,
}

/// One input of a warm-up sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupInput {
    /// Input name.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, without the batch dimension.
    pub dims: Vec<usize>,
    /// Its elements.
    pub data: WarmupData,
}

/// Where the elements of a warm-up input come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmupData {
    /// Zeros; empty strings for BYTES.
    Zero,
    /// Random ones.
    Random,
    /// This file below the model's `warmup/`: raw little-endian elements of one row, or framed BYTES.
    File(String),
}

impl ModelConfig {
    /// The signature that clients see: batch dimension included, reshapes, optional inputs.
    ///
    /// Inputs and outputs are those of the configuration, in the model's order; outputs that the configuration leaves
    /// out are absent. Names of variable dimensions are kept from `file`, the model's own signature.
    pub fn signature(&self, file: &ModelSignature) -> ModelSignature {
        let batched = self.max_batch_size > 0;
        let tensors = |configured: &[ConfigTensor], file: &[TensorSpec]| {
            configured
                .iter()
                .map(|tensor| {
                    let model = file.iter().find(|spec| spec.name == tensor.name);
                    let model_shape = model.map(|spec| spec.shape.0.as_slice()).unwrap_or_default();
                    let full = |dims: &ShapeSpec| {
                        let batch = batched.then(|| model_shape.first().cloned().unwrap_or(Dim::Any));
                        let spec: ShapeSpec = batch.into_iter().chain(dims.iter().cloned()).collect();
                        spec
                    };
                    let mut spec = TensorSpec::new(tensor.name.clone(), tensor.datatype, full(&tensor.dims));
                    match &tensor.reshape {
                        Some(reshape) => spec.reshape = Some(full(reshape)),
                        None => {
                            spec.shape = with_names(&spec.shape, model_shape);
                            spec.padding = model.and_then(|model| model.padding).filter(|_| batched);
                        }
                    }
                    spec.optional = tensor.optional;
                    spec
                })
                .collect()
        };
        ModelSignature {
            inputs: tensors(&self.inputs, &file.inputs),
            outputs: tensors(&self.outputs, &file.outputs),
            batched,
            max_rows: (batched && !self.completed)
                .then(|| usize::try_from(self.max_batch_size).unwrap_or(usize::MAX)),
            skips_padding: file.skips_padding,
        }
    }

    /// Triton's ModelConfig as JSON: snake_case, enums by name, 64-bit integers as numbers, scalar defaults printed.
    pub fn to_json(&self) -> Value {
        let mut document = self.document.clone();
        super::schema::MODEL_CONFIG.fill_defaults(&mut document);
        let mut json = Value::Object(document);
        if self.completed {
            let rows = self.max_batch_size.to_string();
            finding::show(&mut json, finding::COMPLETED_BATCH, &rows);
        }
        if self.instances.count.is_none() {
            finding::show(&mut json, finding::COMPLETED_INSTANCES, "1");
        }
        json
    }
}

/// Variable dimensions take the model's name for them.
fn with_names(spec: &ShapeSpec, model: &[Dim]) -> ShapeSpec {
    spec.iter()
        .enumerate()
        .map(|(k, dim)| match (dim, model.get(k)) {
            (Dim::Any, Some(named @ Dim::Named(_))) => named.clone(),
            (dim, _) => dim.clone(),
        })
        .collect()
}
