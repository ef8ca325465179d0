//! Everything but inference that clients can ask: metadata, configuration, statistics, repository, settings.
//! Protocol-neutral; the front ends translate.

use std::collections::BTreeMap;

use crate::infer::Parameter;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// What the server says about itself.
#[derive(Debug, Clone)]
pub struct ServerMetadata {
    /// `crossfade`
    pub name: &'static str,
    /// Package version.
    pub version: &'static str,
    /// Protocol extensions that are served.
    pub extensions: Vec<&'static str>,
}

/// What a model says about itself.
#[derive(Debug, Clone)]
pub struct ModelMetadata {
    /// Model name.
    pub name: String,
    /// Ready versions, ascending.
    pub versions: Vec<u64>,
    /// Such as `onnxruntime_onnx`.
    pub platform: String,
    /// Name, datatype (wire name) and shape (−1 = variable), batch dimension included.
    pub inputs: Vec<TensorMetadata>,
    /// Likewise.
    pub outputs: Vec<TensorMetadata>,
}

/// One tensor in metadata.
#[derive(Debug, Clone)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Wire name of its datatype.
    pub datatype: &'static str,
    /// −1 = variable.
    pub shape: Vec<i64>,
}

/// One row of the repository index.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// Model name.
    pub name: String,
    /// Absent for a model that was never loaded.
    pub version: Option<u64>,
    /// `LOADING`, `READY`, `UNLOADING`, `UNAVAILABLE`, or empty.
    pub state: &'static str,
    /// Why it is not ready.
    pub reason: String,
}

/// A count of events and the time they took together.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatisticDuration {
    /// Events.
    pub count: u64,
    /// Nanoseconds, summed.
    pub ns: u64,
}

/// Statistics of one version since it was loaded (protocols.md §9).
#[derive(Debug, Clone, Default)]
pub struct ModelStatistics {
    /// Model name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// Milliseconds since the epoch.
    pub last_inference: u64,
    /// Rows of successful requests.
    pub inference_count: u64,
    /// Successful batches.
    pub execution_count: u64,
    /// Per request, arrival to answer, successful.
    pub success: StatisticDuration,
    /// Per request, arrival to answer, failed.
    pub fail: StatisticDuration,
    /// Per request: waiting.
    pub queue: StatisticDuration,
    /// Per request: gather.
    pub compute_input: StatisticDuration,
    /// Per request: compute.
    pub compute_infer: StatisticDuration,
    /// Per request: scatter.
    pub compute_output: StatisticDuration,
    /// Per batch size, per execution.
    pub batches: Vec<BatchStatistics>,
    /// Type (`CPU`, `GPU`), device id, bytes.
    pub memory: Vec<(&'static str, i64, u64)>,
}

/// Statistics of the executions with one batch size.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchStatistics {
    /// Rows.
    pub batch_size: u64,
    /// Gather.
    pub compute_input: StatisticDuration,
    /// Compute.
    pub compute_infer: StatisticDuration,
    /// Scatter.
    pub compute_output: StatisticDuration,
}

/// What a load call may override (protocols.md §8).
#[derive(Debug, Clone, Default)]
pub struct LoadParameters {
    /// `config`: ModelConfig as JSON text.
    pub config: Option<String>,
    /// `file:<version>/<name>`, without the prefix, to content (base64 already removed).
    pub files: BTreeMap<String, Vec<u8>>,
    /// `labels`: JSON text.
    pub labels: Option<String>,
}

/// A trace or log setting.
pub type Settings = BTreeMap<String, Parameter>;

fn unwired() -> Refusal {
    Refusal::new(Status::Internal, "not wired yet")
}

impl Service {
    /// What the server says about itself.
    pub fn server_metadata(&self) -> ServerMetadata {
        ServerMetadata {
            name: "crossfade",
            version: env!("CARGO_PKG_VERSION"),
            extensions: vec![],
        }
    }

    /// Whether the server is ready (protocols.md §7); recomputed at every call.
    pub fn ready(&self) -> bool {
        false
    }

    /// A receiver that changes whenever readiness does.
    pub fn watch_ready(&self) -> tokio::sync::watch::Receiver<bool> {
        tokio::sync::watch::channel(false).1
    }

    /// Whether a model (`version` empty) or a version is ready.
    ///
    /// Errors: `NotFound` if unknown, `InvalidInput` for a version that is neither a number nor a label.
    pub fn model_ready(&self, _model: &str, _version: &str) -> Result<bool, Refusal> {
        Err(unwired())
    }

    /// Metadata of a model. Errors: `NotFound`, `InvalidInput`, `NotReady`.
    pub fn model_metadata(&self, _model: &str, _version: &str) -> Result<ModelMetadata, Refusal> {
        Err(unwired())
    }

    /// The effective configuration as Triton's ModelConfig JSON (snake_case, enums by name).
    pub fn model_config(&self, _model: &str, _version: &str) -> Result<serde_json::Value, Refusal> {
        Err(unwired())
    }

    /// Statistics of one model, or of all if `model` is empty.
    pub fn statistics(&self, _model: &str, _version: &str) -> Result<Vec<ModelStatistics>, Refusal> {
        Err(unwired())
    }

    /// The repository index; `repository` empty = all.
    pub fn index(&self, _repository: &str, _ready_only: bool) -> Result<Vec<IndexEntry>, Refusal> {
        Err(unwired())
    }

    /// Loads or reloads a model; returns once every chosen version is ready or failed.
    pub async fn load(
        &self,
        _repository: &str,
        _model: &str,
        _parameters: LoadParameters,
    ) -> Result<(), Refusal> {
        Err(unwired())
    }

    /// Unloads a model; returns once it is no longer routed to.
    pub async fn unload(&self, _repository: &str, _model: &str) -> Result<(), Refusal> {
        Err(unwired())
    }

    /// Reads (empty `changes`) or writes log settings and returns them all.
    pub fn log_settings(&self, _changes: Settings) -> Result<Settings, Refusal> {
        Err(unwired())
    }

    /// Reads (empty `changes`) or writes trace settings and returns them all, each a list of strings.
    pub fn trace_settings(
        &self,
        _model: &str,
        _changes: BTreeMap<String, Vec<String>>,
    ) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
        Err(unwired())
    }
}
