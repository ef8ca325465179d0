//! Everything but inference that clients can ask: metadata, configuration, statistics, repository, settings.
//! Protocol-neutral; the front ends translate.

mod changes;
pub mod settings;
mod statistics;

use std::collections::BTreeMap;

pub use changes::Changes;
pub(crate) use changes::{object, trace_object};
pub use crossfade_models::{IndexEntry, LoadParameters};
use crossfade_models::{RegistryError, RouteError};
use crossfade_runtimes_core::TensorSpec;

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

/// A trace or log setting.
pub type Settings = BTreeMap<String, Parameter>;

/// The parameter of a configuration that says what files a version is, where that is known.
const ARTIFACT: &str = "crossfade.artifact_sha256";

/// What clients may branch on; only what is served.
const EXTENSIONS: [&str; 8] = [
    "binary_tensor_data",
    "classification",
    "model_repository",
    "model_configuration",
    "statistics",
    "parameters",
    "schedule_policy",
    "logging",
];

impl Service {
    /// What the server says about itself.
    pub fn server_metadata(&self) -> ServerMetadata {
        ServerMetadata {
            name: "crossfade",
            version: env!("CARGO_PKG_VERSION"),
            extensions: EXTENSIONS.into(),
        }
    }

    /// Whether a model (`version` empty) or a version is ready.
    ///
    /// Errors: `NotFound` if unknown, `InvalidInput` for a version that is neither a number nor a label.
    pub fn model_ready(&self, model: &str, version: &str) -> Result<bool, Refusal> {
        match self.registry().route(model, version) {
            Ok(routed) => Ok(!self.draining() && routed.running().batcher.healthy_instances() > 0),
            Err(RouteError::NotReady { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Metadata of a model. Errors: `NotFound`, `InvalidInput`, `NotReady`.
    pub fn model_metadata(&self, model: &str, version: &str) -> Result<ModelMetadata, Refusal> {
        let routed = self.registry().route(model, version)?;
        let signature = routed.signature();
        Ok(ModelMetadata {
            name: routed.name().to_string(),
            versions: self.registry().ready_versions(model)?,
            platform: routed.platform().to_owned(),
            inputs: signature.inputs.iter().map(tensor_metadata).collect(),
            outputs: signature.outputs.iter().map(tensor_metadata).collect(),
        })
    }

    /// The effective configuration as Triton's ModelConfig JSON (snake_case, enums by name).
    pub fn model_config(&self, model: &str, version: &str) -> Result<serde_json::Value, Refusal> {
        let servable = self.registry().route(model, version)?;
        let mut config = servable.config_json();
        if let Some(sha256) = servable.artifact_sha256() {
            config["parameters"][ARTIFACT] = serde_json::json!({ "string_value": sha256 });
        }
        Ok(config)
    }

    /// Statistics of one model, or of all if `model` is empty.
    pub fn statistics(&self, model: &str, version: &str) -> Result<Vec<ModelStatistics>, Refusal> {
        if model.is_empty() {
            return Ok(self
                .registry()
                .models()
                .iter()
                .map(|servable| statistics::of(servable))
                .collect());
        }
        let routed = self.registry().route(model, version)?;
        if !version.is_empty() {
            return Ok(vec![statistics::of(&routed)]);
        }
        let all = self.registry().models();
        let of_model = all.iter().filter(|servable| **servable.name() == *model);
        Ok(of_model.map(|servable| statistics::of(servable)).collect())
    }

    /// The repository index; `repository` empty = all.
    pub async fn index(&self, repository: &str, ready_only: bool) -> Result<Vec<IndexEntry>, Refusal> {
        let (registry, repository) = (self.registry().clone(), repository.to_owned());
        // Reads directories.
        let listed = tokio::task::spawn_blocking(move || registry.index(&repository, ready_only)).await;
        Ok(listed.map_err(|error| Refusal::new(Status::Internal, error.to_string()))??)
    }
}

fn tensor_metadata(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name.to_string(),
        datatype: spec.datatype.wire_name(),
        shape: spec.shape.wire(),
    }
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        let status = match error {
            RouteError::UnknownModel { .. } | RouteError::UnknownVersion { .. } => Status::NotFound,
            RouteError::InvalidVersion { .. } => Status::InvalidInput,
            RouteError::NotReady { .. } => Status::NotReady,
        };
        Refusal::new(status, error.to_string())
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let status = match error {
            RegistryError::NotFound(_) => Status::NotFound,
            RegistryError::Conflict(_) => Status::Conflict,
            RegistryError::InvalidInput(_) => Status::InvalidInput,
            RegistryError::LoadFailed { .. } => Status::Internal,
        };
        Refusal::new(status, error.to_string())
    }
}
