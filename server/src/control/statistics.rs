//! A version's counters as the statistics calls report them (protocols.md §9).

use crossfade_runtimes_core::{Device, DeviceUse};

use super::{BatchStatistics, ModelStatistics, StatisticDuration};
use crate::metrics::{Snapshot, Stage};
use crate::servable::Servable;

/// Statistics of `servable` since it was loaded.
pub(super) fn of(servable: &Servable) -> ModelStatistics {
    let Snapshot {
        stages,
        fail,
        rows,
        last_inference_ms,
        batches,
    } = servable.statistics();
    let stage = |stage: Stage| pair(stages[stage as usize]);
    ModelStatistics {
        name: servable.name().to_string(),
        version: servable.version(),
        last_inference: last_inference_ms,
        inference_count: rows,
        execution_count: batches.values().map(|times| times.count).sum(),
        success: stage(Stage::Total),
        fail: pair(fail),
        queue: stage(Stage::Queue),
        compute_input: stage(Stage::Gather),
        compute_infer: stage(Stage::Compute),
        compute_output: stage(Stage::Scatter),
        batches: batches
            .into_iter()
            .map(|(rows, times)| BatchStatistics {
                batch_size: rows as u64,
                compute_input: pair((times.count, times.gather_ns)),
                compute_infer: pair((times.count, times.compute_ns)),
                compute_output: pair((times.count, times.scatter_ns)),
            })
            .collect(),
        memory: servable.devices().iter().map(memory).collect(),
    }
}

fn memory(there: &DeviceUse) -> (&'static str, i64, u64) {
    match there.device {
        Device::Cpu => ("CPU", 0, there.bytes),
        Device::Cuda(index) => ("GPU", i64::from(index), there.bytes),
    }
}

fn pair((count, ns): (u64, u64)) -> StatisticDuration {
    StatisticDuration { count, ns }
}
