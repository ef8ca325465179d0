//! Completes a [`RawConfig`] from the model file and checks the two against each other (protocols.md §10.2).

mod batching;
pub(super) mod instances;
mod tensors;
mod warmup;

use std::collections::BTreeMap;

use crossfade_runtimes_core::{Accelerator, Device, Dim, ModelSignature, ShapeSpec};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::effective::{ConfigTensor, ModelConfig};
use super::placement::Placement;
use super::raw::RawConfig;
use crate::error::ConfigError;

/// What a configuration is completed with.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a> {
    /// Name of the model's directory.
    pub model: &'a str,
    /// What the model file says: full shapes.
    pub signature: &'a ModelSignature,
    /// Name of the runtime that loaded it.
    pub runtime: &'a str,
    /// `max_batch_size` of a completed model that can batch.
    pub default_max_batch_size: u32,
    /// Whether absent keys are taken from the model file.
    pub auto_complete: bool,
    /// Content of the label files, by name.
    pub label_files: &'a BTreeMap<String, String>,
}

impl RawConfig {
    /// The effective configuration.
    ///
    /// Errors: a field that is not offered, a value that makes no sense, or what the configuration and the model
    /// file disagree on, with both sides.
    pub fn complete(&self, with: &Completion<'_>) -> Result<ModelConfig, ConfigError> {
        let given = Given::read(&self.fields)?;
        if given
            .name
            .as_deref()
            .is_some_and(|name| !name.is_empty() && name != with.model)
        {
            return Err(ConfigError::invalid(
                "name",
                format!(
                    "`{}` is not the directory's name; write `{}` or leave it out",
                    given.name.unwrap_or_default(),
                    with.model
                ),
            ));
        }
        self.runtime()?;
        let mut warnings = self.warnings.clone();
        refuse_what_changes_results(&given)?;
        refuse_accelerators(&given, with.runtime)?;
        warn_of_what_only_tunes(&given, &mut warnings);

        let batch = tensors::batch(&given, with)?;
        let inputs = tensors::inputs(&given, with, batch.max_batch_size > 0)?;
        let outputs = tensors::outputs(&given, with, batch.max_batch_size > 0)?;
        let batching = batching::batching(&given, &self.own, &batch)?;
        let instances = instances::instances(&given, &self.own)?;
        let warmup = warmup::warmup(&given, &self.own, &inputs, batch.max_batch_size)?;

        let (backend, platform) = names_of(&given, with.runtime);
        let mut document = self.fields.clone();
        document.insert("name".to_owned(), with.model.into());
        document.insert("backend".to_owned(), backend.as_str().into());
        document.insert("platform".to_owned(), platform.as_str().into());
        document.insert("max_batch_size".to_owned(), batch.max_batch_size.into());
        document
            .entry("version_policy")
            .or_insert_with(|| json!({ "latest": { "num_versions": 1 } }));
        tensors::write(&mut document, "input", &inputs);
        tensors::write(&mut document, "output", &outputs);
        if batching.enabled {
            document.entry("dynamic_batching").or_insert_with(|| json!({}));
        }
        instances::write(&mut document, &instances, with.model);

        Ok(ModelConfig {
            name: with.model.to_owned(),
            platform,
            backend,
            max_batch_size: batch.max_batch_size,
            completed: batch.completed,
            inputs,
            outputs,
            version_policy: self.version_policy()?,
            batching,
            instances,
            warmup,
            decoupled: given
                .model_transaction_policy
                .is_some_and(|policy| policy.decoupled),
            model_filename: self.model_filename().map(str::to_owned),
            parameters: self.parameters(),
            graph_level: self.graph_level(),
            config_rev: revision(&document, self),
            warnings,
            document,
        })
    }
}

impl RawConfig {
    /// Where instances shall compute, as far as it can be told before the model is loaded.
    ///
    /// Errors: what no instance group may say.
    pub fn placement(&self) -> Result<Placement, ConfigError> {
        instances::placement(&Given::read(&self.fields)?, &self.own)
    }

    /// `optimization.execution_accelerators`, for the runtime.
    pub fn accelerators(&self) -> Result<Vec<Accelerator>, ConfigError> {
        let GivenAccelerators {
            gpu_execution_accelerator,
            cpu_execution_accelerator,
        } = Given::read(&self.fields)?.optimization.execution_accelerators;
        let of = |gpu: bool| {
            move |GivenAccelerator { name, parameters }| Accelerator {
                name,
                gpu,
                parameters,
            }
        };
        let on_gpus = gpu_execution_accelerator.into_iter().map(of(true));
        Ok(on_gpus
            .chain(cpu_execution_accelerator.into_iter().map(of(false)))
            .collect())
    }
}

impl ModelConfig {
    /// The configuration with its instances where they are on this machine.
    ///
    /// * `devices`: one for each instance; on the CPU one for all
    /// * `instead`: why the CPU stands in for the GPUs that were asked for, where it does
    #[must_use]
    pub fn placed(mut self, devices: &[Device], instead: Option<&str>) -> Self {
        if devices.iter().any(|device| *device != Device::Cpu) {
            self.instances.count = u32::try_from(devices.len()).ok();
        }
        self.instances.devices = devices.to_vec();
        self.instances.instead = instead.map(str::to_owned);
        instances::rewrite(&mut self.document, &self.instances, &self.name);
        if let Some(reason) = instead {
            self.warnings.push(format!(
                "a GPU is asked for, and the model runs on the CPU: {reason}"
            ));
        }
        self
    }
}

/// The canonical document, typed. Its schema was checked when it was read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    name: Option<String>,
    platform: Option<String>,
    backend: Option<String>,
    runtime: Option<String>,
    max_batch_size: Option<i32>,
    input: Option<Vec<GivenTensor>>,
    output: Option<Vec<GivenTensor>>,
    batch_input: Vec<Value>,
    batch_output: Vec<Value>,
    optimization: GivenOptimization,
    dynamic_batching: Option<batching::GivenBatching>,
    sequence_batching: Option<Value>,
    ensemble_scheduling: Option<Value>,
    instance_group: Vec<instances::GivenGroup>,
    cc_model_filenames: Map<String, Value>,
    metric_tags: Map<String, Value>,
    model_warmup: Vec<warmup::GivenWarmup>,
    model_operations: Map<String, Value>,
    model_transaction_policy: Option<GivenTransactionPolicy>,
    model_repository_agents: Option<Value>,
    response_cache: Map<String, Value>,
    model_metrics: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenTensor {
    name: String,
    data_type: Option<String>,
    dims: Option<Vec<i64>>,
    reshape: Option<GivenReshape>,
    label_filename: Option<String>,
    is_shape_tensor: bool,
    allow_ragged_batch: bool,
    is_non_linear_format_io: bool,
    optional: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenReshape {
    shape: Vec<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenOptimization {
    cuda: Option<Value>,
    execution_accelerators: GivenAccelerators,
    input_pinned_memory: Option<Value>,
    output_pinned_memory: Option<Value>,
    gather_kernel_buffer_threshold: Option<u32>,
    eager_batching: Option<bool>,
    priority: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenAccelerators {
    gpu_execution_accelerator: Vec<GivenAccelerator>,
    cpu_execution_accelerator: Vec<GivenAccelerator>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenAccelerator {
    name: String,
    parameters: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenTransactionPolicy {
    decoupled: bool,
}

impl Given {
    fn read(fields: &Map<String, Value>) -> Result<Self, ConfigError> {
        Given::deserialize(Value::Object(fields.clone()))
            .map_err(|error| ConfigError::text("configuration", error.to_string()))
    }
}

/// Whether dimension 0 is the batch, and how that came about.
struct Batch {
    max_batch_size: u32,
    completed: bool,
}

fn refuse_what_changes_results(given: &Given) -> Result<(), ConfigError> {
    let refuse = |present: bool, field: &str, reason: &str| {
        if present {
            Err(ConfigError::unsupported(field, reason))
        } else {
            Ok(())
        }
    };
    refuse(
        given.sequence_batching.is_some(),
        "sequence_batching",
        "stateful models are not served",
    )?;
    refuse(
        given.ensemble_scheduling.is_some(),
        "ensemble_scheduling",
        "ensembles are not served; call the models one after the other",
    )?;
    refuse(
        !given.batch_input.is_empty(),
        "batch_input",
        "inputs made by the batcher are not offered",
    )?;
    refuse(
        !given.batch_output.is_empty(),
        "batch_output",
        "outputs made by the batcher are not offered",
    )?;
    let operations = given
        .model_operations
        .get("op_library_filename")
        .and_then(Value::as_array);
    refuse(
        operations.is_some_and(|files| !files.is_empty()),
        "model_operations",
        "custom operator libraries are not loaded",
    )?;
    refuse(
        given.model_repository_agents.is_some(),
        "model_repository_agents",
        "repository agents are not run",
    )?;
    for (kind, tensors) in [("input", &given.input), ("output", &given.output)] {
        for tensor in tensors.iter().flatten() {
            let field = |key: &str| format!("{kind} `{}`: {key}", tensor.name);
            refuse(
                tensor.is_shape_tensor,
                &field("is_shape_tensor"),
                "shape tensors exist in TensorRT only",
            )?;
            refuse(
                tensor.is_non_linear_format_io,
                &field("is_non_linear_format_io"),
                "non-linear formats exist in TensorRT only",
            )?;
            refuse(
                tensor.allow_ragged_batch,
                &field("allow_ragged_batch"),
                "ragged batches need batch_input, which is not offered; requests of one shape still merge",
            )?;
        }
    }
    Ok(())
}

/// Only ONNX Runtime has accelerators; which of them is its own to say, when it loads the model.
fn refuse_accelerators(given: &Given, runtime: &str) -> Result<(), ConfigError> {
    let accelerators = &given.optimization.execution_accelerators;
    let first = accelerators
        .gpu_execution_accelerator
        .iter()
        .chain(&accelerators.cpu_execution_accelerator)
        .next();
    match first {
        Some(accelerator) if runtime != "ort" => Err(ConfigError::unsupported(
            format!("optimization.execution_accelerators: {}", accelerator.name),
            format!("runtime `{runtime}` has no accelerators; remove it, or serve the model with `ort`"),
        )),
        _ => Ok(()),
    }
}

fn warn_of_what_only_tunes(given: &Given, warnings: &mut Vec<String>) {
    let optimization = &given.optimization;
    let groups = &given.instance_group;
    for (present, field) in [
        (optimization.cuda.is_some(), "optimization.cuda"),
        (
            optimization.input_pinned_memory.is_some(),
            "optimization.input_pinned_memory",
        ),
        (
            optimization.output_pinned_memory.is_some(),
            "optimization.output_pinned_memory",
        ),
        (
            optimization.gather_kernel_buffer_threshold.is_some(),
            "optimization.gather_kernel_buffer_threshold",
        ),
        (
            optimization.eager_batching.is_some(),
            "optimization.eager_batching",
        ),
        (optimization.priority.is_some(), "optimization.priority"),
        (
            groups.iter().any(|group| group.rate_limiter.is_some()),
            "instance_group.rate_limiter",
        ),
        (
            groups.iter().any(|group| !group.host_policy.is_empty()),
            "instance_group.host_policy",
        ),
        (
            groups.iter().any(|group| !group.profile.is_empty()),
            "instance_group.profile",
        ),
        (
            groups.iter().any(|group| !group.secondary_devices.is_empty()),
            "instance_group.secondary_devices",
        ),
        (!given.metric_tags.is_empty(), "metric_tags"),
        (given.model_metrics.is_some(), "model_metrics"),
        (!given.cc_model_filenames.is_empty(), "cc_model_filenames"),
        (
            given.response_cache.get("enable") == Some(&Value::Bool(true)),
            "response_cache",
        ),
        (
            given
                .runtime
                .as_deref()
                .is_some_and(|runtime| !runtime.is_empty()),
            "runtime",
        ),
    ] {
        if present {
            warnings.push(format!("`{field}` only tunes; it is kept and has no effect"));
        }
    }
}

/// Triton's backend and platform: as given, else those of the runtime.
fn names_of(given: &Given, runtime: &str) -> (String, String) {
    let (backend, platform) = match runtime {
        "ort" => ("onnxruntime", "onnxruntime_onnx"),
        "tract" => ("tract", "tract_onnx"),
        "candle" => ("candle", "candle_safetensors"),
        other => (other, other),
    };
    let or = |given: &Option<String>, default: &str| {
        given
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| default.to_owned())
    };
    match (&given.backend, &given.platform) {
        // One given name decides the other: the pair never names two runtimes.
        (Some(name), None) if name == "onnxruntime" => (name.clone(), "onnxruntime_onnx".to_owned()),
        (None, Some(name)) if name == "onnxruntime_onnx" => ("onnxruntime".to_owned(), name.clone()),
        _ => (or(&given.backend, backend), or(&given.platform, platform)),
    }
}

/// sha256 over the document with sorted keys, and over our own keys.
fn revision(document: &Map<String, Value>, raw: &RawConfig) -> String {
    let mut text = String::new();
    canonical(&Value::Object(document.clone()), &mut text);
    let mut own = raw.own.clone();
    own.labels = None; // labels move without a reload
    text.push_str(&format!("{own:?}"));
    Sha256::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for key in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(&map[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// The dims that the configuration shows for a model's shape.
fn without_batch(shape: &ShapeSpec, batched: bool) -> ShapeSpec {
    shape
        .iter()
        .skip(usize::from(batched))
        .map(|dim| match dim {
            Dim::Fixed(size) => Dim::Fixed(*size),
            Dim::Any | Dim::Named(_) => Dim::Any,
        })
        .collect()
}

/// What inputs and outputs need of each other.
type Tensors = Vec<ConfigTensor>;

#[cfg(test)]
mod tests;
