//! A configuration as one source gives it: everything optional, in the canonical form of the schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::ConfigError;
use crate::version::VersionPolicy;

/// What one source says; every key may be absent.
///
/// Keys of Triton's ModelConfig are kept in one canonical form (snake_case, enums by name, integers as numbers),
/// whatever language they came in; keys that only crossfade has stand beside them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawConfig {
    /// Keys of ModelConfig, checked against its schema.
    pub(crate) fields: Map<String, Value>,
    /// Keys of our own.
    pub(crate) own: OwnKeys,
    /// What was accepted and still deserves a word, such as a trailing comma.
    pub(crate) warnings: Vec<String>,
}

/// Keys that Triton's configuration does not have (protocols.md §10.4).
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OwnKeys {
    pub(crate) runtime: Option<RuntimeChoice>,
    pub(crate) instance_count: Option<u32>,
    pub(crate) device: Option<DeviceChoice>,
    pub(crate) fallback_cpu: Option<bool>,
    pub(crate) optimise: Option<super::Optimise>,
    pub(crate) learn_rows: Option<bool>,
    pub(crate) warmup_data: Option<super::WarmupData>,
    pub(crate) warmup_rows: Option<u32>,
    pub(crate) labels: Option<BTreeMap<String, u64>>,
    /// What it says of releases: `risk`, `rollout`, `gates`, `decision`.
    pub(crate) release: toml::Table,
}

/// Which runtime a configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Whichever is there: ort, else tract. Triton's `onnxruntime` means this too.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
    /// candle.
    Candle,
    /// The programmable runtime of the tests.
    Fake,
}

impl RuntimeChoice {
    /// Every choice.
    pub const ALL: [RuntimeChoice; 5] = [
        RuntimeChoice::Auto,
        RuntimeChoice::Ort,
        RuntimeChoice::Tract,
        RuntimeChoice::Candle,
        RuntimeChoice::Fake,
    ];

    /// As configuration writes it.
    pub const fn name(self) -> &'static str {
        match self {
            RuntimeChoice::Auto => "auto",
            RuntimeChoice::Ort => "ort",
            RuntimeChoice::Tract => "tract",
            RuntimeChoice::Candle => "candle",
            RuntimeChoice::Fake => "fake",
        }
    }

    /// The choice of this name, if any.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

/// Where instances shall compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if the build and the machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device; any, or the one of this index.
    Cuda(Option<u32>),
}

impl RawConfig {
    /// All that it says, as one document, for telling configurations apart.
    pub fn document(&self) -> Value {
        let own = &self.own;
        // Values of our own keys have no form but their own; two that differ differ in this one too.
        let text = |value: &dyn std::fmt::Debug| Value::from(format!("{value:?}"));
        json!({
            "fields": self.fields,
            "runtime": text(&own.runtime),
            "instances": text(&(own.instance_count, own.device, own.fallback_cpu, own.optimise, own.learn_rows)),
            "warmup": text(&(&own.warmup_data, own.warmup_rows)),
            "labels": own.labels,
            "release": own.release,
        })
    }

    /// Puts `over` on top of `under`, key by key.
    ///
    /// Messages merge by their own keys; a list (inputs, instance groups, warm-ups) and the version policy are
    /// replaced as a whole.
    pub fn merge(over: RawConfig, under: RawConfig) -> RawConfig {
        let mut fields = under.fields;
        merge_maps(over.fields, &mut fields);
        let labels = match (over.own.labels, under.own.labels) {
            (Some(over), Some(mut labels)) => {
                labels.extend(over);
                Some(labels)
            }
            (over, under) => over.or(under),
        };
        let mut release = under.own.release;
        super::policy::merge(over.own.release, &mut release);
        let own = OwnKeys {
            release,
            runtime: over.own.runtime.or(under.own.runtime),
            instance_count: over.own.instance_count.or(under.own.instance_count),
            device: over.own.device.or(under.own.device),
            fallback_cpu: over.own.fallback_cpu.or(under.own.fallback_cpu),
            optimise: over.own.optimise.or(under.own.optimise),
            learn_rows: over.own.learn_rows.or(under.own.learn_rows),
            warmup_data: over.own.warmup_data.or(under.own.warmup_data),
            warmup_rows: over.own.warmup_rows.or(under.own.warmup_rows),
            labels,
        };
        let warnings = over.warnings.into_iter().chain(under.warnings).collect();
        RawConfig {
            fields,
            own,
            warnings,
        }
    }

    /// Keys that both set, to different values: what `check` warns about.
    pub fn contradictions(&self, other: &RawConfig) -> Vec<String> {
        let mut found = Vec::new();
        contradictions(&self.fields, &other.fields, "", &mut found);
        let theirs = |key: &str| other.fields.get(key);
        let named = theirs("backend").or(theirs("platform")).is_some();
        if let (Some(ours), Ok(their_choice), true) = (self.own.runtime, other.runtime(), named)
            && ours != their_choice
            && (ours, their_choice) != (RuntimeChoice::Ort, RuntimeChoice::Auto)
        {
            found.push(
                if theirs("backend").is_some() {
                    "backend"
                } else {
                    "platform"
                }
                .to_owned(),
            );
        }
        if let (Some(count), Some(Value::Array(groups))) = (self.own.instance_count, theirs("instance_group"))
        {
            let counts = groups
                .iter()
                .map(|group| group.get("count").and_then(Value::as_u64).unwrap_or(0).max(1));
            if counts.sum::<u64>() != u64::from(count) {
                found.push("instance_group.count".to_owned());
            }
        }
        if self.own.warmup_data.is_some() && theirs("model_warmup").is_some() {
            found.push("model_warmup".to_owned());
        }
        found
    }

    /// Which runtime is asked for: `runtime` of our own, else Triton's `backend` or `platform`.
    ///
    /// Errors: a backend that is recognised and not served, or unknown.
    pub fn runtime(&self) -> Result<RuntimeChoice, ConfigError> {
        if let Some(choice) = self.own.runtime {
            return Ok(choice);
        }
        let text = |key: &str| {
            self.fields
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let backend = text("backend")
            .map(|name| runtime_of("backend", name))
            .transpose()?;
        let platform = text("platform")
            .map(|name| runtime_of("platform", name))
            .transpose()?;
        match (backend, platform) {
            (Some(backend), Some(platform)) if backend != platform => Err(ConfigError::invalid(
                "backend",
                format!(
                    "backend `{}` and platform `{}` name different runtimes; keep one of them",
                    text("backend").unwrap_or_default(),
                    text("platform").unwrap_or_default()
                ),
            )),
            (backend, platform) => Ok(backend.or(platform).unwrap_or_default()),
        }
    }

    /// `version_policy`, by default the latest one.
    pub fn version_policy(&self) -> Result<VersionPolicy, ConfigError> {
        let Some(policy) = self.fields.get("version_policy") else {
            return Ok(VersionPolicy::default());
        };
        let invalid = |problem: &str| Err(ConfigError::invalid("version_policy", problem));
        if let Some(latest) = policy.get("latest") {
            let count = latest.get("num_versions").and_then(Value::as_u64).unwrap_or(1);
            return match usize::try_from(count) {
                Ok(0) => invalid("num_versions must be at least 1"),
                Ok(count) => Ok(VersionPolicy::Latest(count)),
                Err(_) => invalid("num_versions is too large"),
            };
        }
        if let Some(specific) = policy.get("specific") {
            let versions = specific
                .get("versions")
                .and_then(Value::as_array)
                .map(Vec::as_slice);
            let versions: Option<Vec<u64>> = versions
                .unwrap_or_default()
                .iter()
                .map(|version| version.as_u64().filter(|version| *version > 0))
                .collect();
            return match versions {
                Some(versions) if !versions.is_empty() => Ok(VersionPolicy::Specific(versions)),
                _ => invalid("specific needs at least one version number, and only positive ones"),
            };
        }
        if policy.get("all").is_some() {
            return Ok(VersionPolicy::All);
        }
        Ok(VersionPolicy::default())
    }

    /// `[labels]` of model.toml: label and the version it points at.
    pub fn labels(&self) -> BTreeMap<String, u64> {
        self.own.labels.clone().unwrap_or_default()
    }

    /// `default_model_filename`, where it is set.
    pub fn model_filename(&self) -> Option<&str> {
        self.fields
            .get("default_model_filename")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
    }

    /// The `parameters` map, for the runtime.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let parameters = self.fields.get("parameters").and_then(Value::as_object);
        parameters
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                let value = value
                    .get("string_value")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                (key.clone(), value.to_owned())
            })
            .collect()
    }

    /// `optimization.graph.level`, where it is set.
    pub fn graph_level(&self) -> Option<i32> {
        let level = self.fields.get("optimization")?.get("graph")?.get("level")?;
        level.as_i64().and_then(|level| i32::try_from(level).ok())
    }

    /// The label files that outputs name.
    pub fn label_filenames(&self) -> Vec<String> {
        let outputs = self.fields.get("output").and_then(Value::as_array);
        outputs
            .into_iter()
            .flatten()
            .filter_map(|output| output.get("label_filename").and_then(Value::as_str))
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// What was accepted and still deserves a word.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a version loaded with `self` would be the same with `other`: labels and version policy aside.
    pub(crate) fn loads_like(&self, other: &RawConfig) -> bool {
        let bare = |config: &RawConfig| {
            let mut bare = config.clone();
            bare.fields.remove("version_policy");
            bare.own.labels = None;
            bare.own.release.clear();
            bare.warnings.clear();
            bare
        };
        bare(self) == bare(other)
    }
}

/// Keys that hold one choice: a choice above replaces the one below.
const WHOLE: [&str; 1] = ["version_policy"];

fn merge_maps(over: Map<String, Value>, under: &mut Map<String, Value>) {
    for (key, value) in over {
        match (value, under.get_mut(&key)) {
            (Value::Object(value), Some(Value::Object(below))) if !WHOLE.contains(&key.as_str()) => {
                merge_maps(value, below);
            }
            (value, _) => {
                under.insert(key, value);
            }
        }
    }
}

fn contradictions(a: &Map<String, Value>, b: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for (key, ours) in a {
        let Some(theirs) = b.get(key) else { continue };
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (ours, theirs) {
            (Value::Object(ours), Value::Object(theirs)) => contradictions(ours, theirs, &path, found),
            (ours, theirs) if ours != theirs => found.push(path),
            _ => {}
        }
    }
}

/// The runtime behind one of Triton's backend or platform names.
fn runtime_of(field: &str, name: &str) -> Result<RuntimeChoice, ConfigError> {
    let reason = match name {
        "onnxruntime" | "onnxruntime_onnx" => return Ok(RuntimeChoice::Auto),
        "ort" => return Ok(RuntimeChoice::Ort),
        "tract" | "tract_onnx" => return Ok(RuntimeChoice::Tract),
        "candle" | "candle_safetensors" => return Ok(RuntimeChoice::Candle),
        "fake" => return Ok(RuntimeChoice::Fake),
        "tensorrt" | "tensorrt_plan" => "TensorRT plans are not served; export the model to ONNX",
        "pytorch" | "pytorch_libtorch" => "TorchScript is not served; export it with torch.onnx",
        "tensorflow" | "tensorflow_savedmodel" | "tensorflow_graphdef" => {
            "TensorFlow models are not served; convert them with tf2onnx"
        }
        "openvino" => "OpenVINO models are not served; serve the ONNX model they came from",
        "python" => "models that are Python code are not served",
        "ensemble" => "ensembles are not served; call the models one after the other",
        "dali" | "vllm" | "tensorrtllm" | "fil" => "this backend has no counterpart here",
        _ => {
            let known = ["onnxruntime", "onnxruntime_onnx", "ort", "tract", "candle"];
            let hint = super::nearest(name, known).map(|near| format!(", did you mean `{near}`?"));
            return Err(ConfigError::invalid(
                field,
                format!(
                    "unknown {field} `{name}`{}",
                    hint.unwrap_or_else(|| "; use `onnxruntime`".to_owned())
                ),
            ));
        }
    };
    Err(ConfigError::unsupported(format!("{field}: {name}"), reason))
}
