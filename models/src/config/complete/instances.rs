//! Executable copies: `instance_group`, and `[instances]` of our own over it.

use crossfade_runtimes_core::Device;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Given;
use crate::config::Instances;
use crate::config::raw::{DeviceChoice, OwnKeys};
use crate::error::ConfigError;

/// More copies of one model than this are a slip of the pen.
const MOST_INSTANCES: u32 = 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GivenGroup {
    kind: String,
    count: i32,
    gpus: Vec<i32>,
    passive: bool,
    pub(super) profile: Vec<String>,
    pub(super) host_policy: String,
    pub(super) rate_limiter: Option<Value>,
    pub(super) secondary_devices: Vec<Value>,
}

impl GivenGroup {
    fn wants_gpu(&self) -> bool {
        self.kind == "KIND_GPU" || (!self.gpus.is_empty() && self.kind != "KIND_CPU")
    }
}

/// How many instances and where.
///
/// Errors: a GPU is asked for without permission to fall back; a negative or huge count; a passive group.
pub(super) fn instances(
    given: &Given,
    own: &OwnKeys,
    warnings: &mut Vec<String>,
) -> Result<Instances, ConfigError> {
    let mut total = 0u32;
    for group in &given.instance_group {
        if group.passive {
            return Err(ConfigError::unsupported(
                "instance_group.passive",
                "every instance takes requests",
            ));
        }
        if group.kind == "KIND_CPU" && !group.gpus.is_empty() {
            return Err(ConfigError::invalid(
                "instance_group.gpus",
                "a group of KIND_CPU has no gpus",
            ));
        }
        let count = u32::try_from(group.count).map_err(|_| {
            ConfigError::invalid(
                "instance_group.count",
                format!("must not be negative, got {}", group.count),
            )
        })?;
        total = total.saturating_add(count.max(1));
    }
    let count = own.instance_count.or((total > 0).then_some(total));
    if let Some(count) = count
        && !(1..=MOST_INSTANCES).contains(&count)
    {
        return Err(ConfigError::invalid(
            "instances",
            format!("count must be from 1 to {MOST_INSTANCES}, got {count}"),
        ));
    }
    let gpu = match own.device {
        Some(DeviceChoice::Cuda(_)) => true,
        Some(DeviceChoice::Cpu) => false,
        Some(DeviceChoice::Auto) | None => given.instance_group.iter().any(GivenGroup::wants_gpu),
    };
    if gpu && own.fallback_cpu == Some(true) {
        warnings.push("a GPU is asked for and this build has no CUDA: the model runs on the CPU".to_owned());
    }
    if gpu && own.fallback_cpu != Some(true) {
        return Err(ConfigError::unsupported(
            "instance_group: KIND_GPU",
            "no CUDA in this build; use KIND_CPU, or allow the change with `fallback = \"cpu\"` under [instances] in model.toml",
        ));
    }
    Ok(Instances {
        count,
        device: Device::Cpu,
        optimise: own.optimise.unwrap_or_default(),
    })
}

/// Writes one group into a document that has none.
pub(super) fn write(document: &mut Map<String, Value>, instances: &Instances, model: &str) {
    let groups = document.entry("instance_group").or_insert_with(|| json!([]));
    if let Value::Array(groups) = groups
        && (groups.is_empty()
            || instances
                .count
                .is_some_and(|count| total(groups) != u64::from(count)))
    {
        *groups = vec![json!({ "name": model, "kind": "KIND_CPU", "count": instances.count.unwrap_or(1) })];
    }
}

/// How many instances some groups ask for.
pub(in crate::config) fn total(groups: &[Value]) -> u64 {
    groups
        .iter()
        .map(|group| group.get("count").and_then(Value::as_u64).unwrap_or(0).max(1))
        .sum()
}
