//! Queueing and merging: `dynamic_batching` and what stands in for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Batch, Given};
use crate::config::raw::OwnKeys;
use crate::config::{Batching, QueuePolicy, TimeoutAction};
use crate::error::ConfigError;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GivenBatching {
    preferred_batch_size: Vec<i32>,
    max_queue_delay_microseconds: u64,
    preserve_ordering: bool,
    priority_levels: u64,
    default_priority_level: u64,
    default_queue_policy: GivenPolicy,
    priority_queue_policy: BTreeMap<String, GivenPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenPolicy {
    timeout_action: String,
    default_timeout_microseconds: u64,
    allow_timeout_override: bool,
    max_queue_size: u32,
}

impl GivenPolicy {
    fn effective(&self) -> QueuePolicy {
        let timeout = Some(self.default_timeout_microseconds).filter(|micros| *micros > 0);
        QueuePolicy {
            timeout_action: match self.timeout_action.as_str() {
                "DELAY" => TimeoutAction::Delay,
                _ => TimeoutAction::Reject,
            },
            timeout: timeout.map(Duration::from_micros),
            allow_timeout_override: self.allow_timeout_override,
            max_size: Some(self.max_queue_size).filter(|size| *size > 0),
        }
    }
}

/// Requests merge if a scheduler is given, or if `max_batch_size > 1` (as Triton does for ONNX).
pub(super) fn batching(given: &Given, own: &OwnKeys, batch: &Batch) -> Result<Batching, ConfigError> {
    let default = GivenBatching::default();
    let scheduler = given.dynamic_batching.as_ref().unwrap_or(&default);
    let enabled = batch.max_batch_size > 0 && (given.dynamic_batching.is_some() || batch.max_batch_size > 1);
    let levels = scheduler.priority_levels;
    let level_range = |field: &str, level: u64| {
        if (1..=levels).contains(&level) {
            return Ok(());
        }
        Err(ConfigError::invalid(
            format!("dynamic_batching.{field}"),
            format!("must be a level from 1 to priority_levels ({levels}), got {level}"),
        ))
    };
    if levels > 0 || scheduler.default_priority_level > 0 {
        level_range("default_priority_level", scheduler.default_priority_level)?;
    }
    let mut level_queues = BTreeMap::new();
    for (level, policy) in &scheduler.priority_queue_policy {
        let number = level.parse().map_err(|_| {
            ConfigError::invalid(
                "dynamic_batching.priority_queue_policy",
                format!("`{level}` is not a level"),
            )
        })?;
        level_range("priority_queue_policy", number)?;
        level_queues.insert(number, policy.effective());
    }
    Ok(Batching {
        enabled,
        max_rows: if enabled { batch.max_batch_size } else { 0 },
        learn: own.learn_rows.unwrap_or(true),
        preferred_rows: preferred(scheduler, batch)?,
        max_delay: Duration::from_micros(scheduler.max_queue_delay_microseconds),
        preserve_ordering: scheduler.preserve_ordering,
        priority_levels: levels,
        default_priority: scheduler.default_priority_level,
        queue: scheduler.default_queue_policy.effective(),
        level_queues,
    })
}

fn preferred(scheduler: &GivenBatching, batch: &Batch) -> Result<Vec<u32>, ConfigError> {
    let mut sizes = Vec::with_capacity(scheduler.preferred_batch_size.len());
    for &size in &scheduler.preferred_batch_size {
        match u32::try_from(size) {
            Ok(rows) if rows > 0 && rows <= batch.max_batch_size => sizes.push(rows),
            _ => {
                return Err(ConfigError::invalid(
                    "dynamic_batching.preferred_batch_size",
                    format!(
                        "must be from 1 to max_batch_size ({}), got {size}",
                        batch.max_batch_size
                    ),
                ));
            }
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}
