//! Executable copies: `instance_group`, and `[instances]` of our own over it.

use std::collections::BTreeMap;

use crossfade_runtimes_core::Device;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Given;
use crate::config::raw::{DeviceChoice, OwnKeys};
use crate::config::{Instances, On, Placement};
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

    fn wants_cpu(&self) -> bool {
        matches!(self.kind.as_str(), "KIND_CPU" | "KIND_MODEL") && self.gpus.is_empty()
    }

    /// Errors: what no group may say.
    fn check(&self) -> Result<(), ConfigError> {
        if self.passive {
            return Err(ConfigError::unsupported(
                "instance_group.passive",
                "every instance takes requests",
            ));
        }
        if self.kind == "KIND_CPU" && !self.gpus.is_empty() {
            return Err(ConfigError::invalid(
                "instance_group.gpus",
                "a group of KIND_CPU has no gpus",
            ));
        }
        if self.count < 0 {
            return Err(ConfigError::invalid(
                "instance_group.count",
                format!("must not be negative, got {}", self.count),
            ));
        }
        Ok(())
    }

    fn count(&self) -> u32 {
        self.count.max(1).unsigned_abs()
    }
}

/// How many instances and where.
///
/// Errors: what no group may say, a huge count, groups on GPUs and on the CPU at once.
pub(super) fn instances(given: &Given, own: &OwnKeys) -> Result<Instances, ConfigError> {
    let placement = placement(given, own)?;
    let total = given
        .instance_group
        .iter()
        .fold(0, |total: u32, group| total.saturating_add(group.count()));
    let count = own.instance_count.or((total > 0).then_some(total));
    let gpus: &[u32] = match &placement.on {
        On::Auto | On::Cpu => &[],
        // How many there are is found out on the machine.
        On::Gpus(named) if named.is_empty() => &[0],
        On::Gpus(named) => named,
    };
    let count = match gpus.len() {
        0 => count,
        several => Some(
            placement
                .per_device
                .saturating_mul(u32::try_from(several).unwrap_or(u32::MAX)),
        ),
    };
    if let Some(count) = count
        && !(1..=MOST_INSTANCES).contains(&count)
    {
        return Err(ConfigError::invalid(
            "instances",
            format!("count must be from 1 to {MOST_INSTANCES}, got {count}"),
        ));
    }
    let rounds = (0..placement.per_device).flat_map(|_| gpus.iter().copied());
    let devices = match gpus {
        [] => vec![Device::Cpu],
        _ => rounds.map(Device::Cuda).collect(),
    };
    Ok(Instances {
        count,
        devices,
        instead: None,
        optimise: own.optimise.unwrap_or_default(),
    })
}

/// Where instances shall compute: `[instances] device`, else groups, else accelerators that only GPUs have.
pub(super) fn placement(given: &Given, own: &OwnKeys) -> Result<Placement, ConfigError> {
    let groups = &given.instance_group;
    groups.iter().try_for_each(GivenGroup::check)?;
    let accelerated = !given
        .optimization
        .execution_accelerators
        .gpu_execution_accelerator
        .is_empty();
    let total = groups
        .iter()
        .fold(0, |total: u32, group| total.saturating_add(group.count()));
    let each = own.instance_count.unwrap_or(total.max(1));
    let (on, per_device) = match own.device {
        Some(DeviceChoice::Cpu) => (On::Cpu, each),
        // Triton's gpus are signed.
        Some(DeviceChoice::Cuda(Some(index))) if i32::try_from(index).is_err() => {
            let problem = format!("there is no GPU {index}");
            return Err(ConfigError::invalid("[instances] device", problem));
        }
        Some(DeviceChoice::Cuda(index)) => (On::Gpus(index.into_iter().collect()), each),
        Some(DeviceChoice::Auto) | None if groups.iter().any(GivenGroup::wants_gpu) => {
            named(groups, own.instance_count, each)?
        }
        Some(DeviceChoice::Auto) | None if accelerated => (On::Gpus(Vec::new()), each),
        Some(DeviceChoice::Auto) | None if groups.iter().any(GivenGroup::wants_cpu) => (On::Cpu, each),
        Some(DeviceChoice::Auto) | None => (On::Auto, each),
    };
    Ok(Placement {
        on,
        per_device,
        fallback_cpu: own.fallback_cpu == Some(true),
    })
}

/// The GPUs of groups, and the instances on each: by their counts, if no other is given.
fn named(groups: &[GivenGroup], count: Option<u32>, each: u32) -> Result<(On, u32), ConfigError> {
    if groups.iter().any(GivenGroup::wants_cpu) {
        return Err(ConfigError::unsupported(
            "instance_group",
            "groups on GPUs and on the CPU at once; serve the model twice, under two names",
        ));
    }
    if groups.iter().all(|group| group.gpus.is_empty()) {
        return Ok((On::Gpus(Vec::new()), each));
    }
    let mut gpus = Vec::new();
    for group in groups {
        if group.gpus.is_empty() {
            return Err(ConfigError::invalid(
                "instance_group.gpus",
                "name them in every group on GPUs, or in none",
            ));
        }
        for &gpu in &group.gpus {
            let index = u32::try_from(gpu).map_err(|_| {
                ConfigError::invalid("instance_group.gpus", format!("must not be negative, got {gpu}"))
            })?;
            let times = if count.is_some() {
                1
            } else {
                group.count().min(MOST_INSTANCES)
            };
            if count.is_none() || !gpus.contains(&index) {
                gpus.extend(std::iter::repeat_n(index, times as usize));
            }
            if gpus.len() > MOST_INSTANCES as usize {
                return Err(ConfigError::invalid(
                    "instances",
                    format!("there may be {MOST_INSTANCES} at most"),
                ));
            }
        }
    }
    Ok((On::Gpus(gpus), count.unwrap_or(1)))
}

/// Writes groups into a document that has none, or others than the instances are in.
pub(in crate::config) fn write(document: &mut Map<String, Value>, instances: &Instances, model: &str) {
    let groups = document.entry("instance_group").or_insert_with(|| json!([]));
    let Value::Array(groups) = groups else { return };
    let kind = |group: &Value| group.get("kind").and_then(Value::as_str).map(str::to_owned);
    if !instances.on_cpu() {
        let others = |group: &Value| kind(group).as_deref() != Some("KIND_GPU");
        if groups.is_empty() || groups.iter().any(others) {
            *groups = on_gpus(instances, model);
        }
        return;
    }
    let elsewhere = |group: &Value| {
        let gpus = group.get("gpus").and_then(Value::as_array);
        kind(group).as_deref() == Some("KIND_GPU") || gpus.is_some_and(|gpus| !gpus.is_empty())
    };
    let other = instances
        .count
        .is_some_and(|count| total(groups) != u64::from(count));
    if groups.is_empty() || other || groups.iter().any(elsewhere) {
        *groups = vec![json!({ "name": model, "kind": "KIND_CPU", "count": instances.count.unwrap_or(1) })];
    }
}

/// Writes the groups of instances whose devices were found out on the machine.
pub(in crate::config) fn rewrite(document: &mut Map<String, Value>, instances: &Instances, model: &str) {
    if !instances.on_cpu() {
        document.insert("instance_group".to_owned(), on_gpus(instances, model).into());
    } else {
        write(document, instances, model);
    }
}

/// A group for each GPU, with the instances that it has; one for all where each has as many.
fn on_gpus(instances: &Instances, model: &str) -> Vec<Value> {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for device in &instances.devices {
        if let Device::Cuda(index) = device {
            *counts.entry(*index).or_default() += 1;
        }
    }
    let group = |gpus: Vec<u32>, count: u32| json!({ "name": model, "kind": "KIND_GPU", "gpus": gpus, "count": count });
    let mut each = counts.values();
    match each.next() {
        Some(first) if each.all(|count| count == first) => {
            vec![group(counts.keys().copied().collect(), *first)]
        }
        _ => counts
            .iter()
            .map(|(gpu, count)| group(vec![*gpu], *count))
            .collect(),
    }
}

/// How many instances some groups ask for.
pub(in crate::config) fn total(groups: &[Value]) -> u64 {
    groups
        .iter()
        .map(|group| group.get("count").and_then(Value::as_u64).unwrap_or(0).max(1))
        .sum()
}
