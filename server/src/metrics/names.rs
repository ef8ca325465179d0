//! The names of all series, in one place; docs/metrics.md is made from here.

/// What kind of series, and what it counts.
pub(super) struct Name {
    /// As Prometheus sees it.
    pub(super) name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub(super) kind: &'static str,
    /// One line.
    pub(super) help: &'static str,
}

const fn name(name: &'static str, kind: &'static str, help: &'static str) -> Name {
    Name { name, kind, help }
}

pub(super) const STAGE_SECONDS: Name = name(
    "crossfade_stage_duration_seconds",
    "histogram",
    "Time of successful requests by stage; the stages add up to total",
);
pub(super) const REQUESTS: Name = name(
    "crossfade_requests_total",
    "counter",
    "Requests by protocol and status, refused ones included",
);
pub(super) const BATCH_ROWS: Name = name("crossfade_batch_rows", "histogram", "Rows per execution");
pub(super) const BATCH_CAP: Name = name(
    "crossfade_batch_cap_rows",
    "gauge",
    "The most rows that requests are merged up to, by what was learnt of the version; of models whose rows differ in length, the most elements, such as tokens",
);
pub(super) const QUEUE_DEPTH: Name = name(
    "crossfade_queue_depth",
    "gauge",
    "Requests waiting for an instance",
);
pub(super) const IN_FLIGHT: Name = name(
    "crossfade_in_flight",
    "gauge",
    "Requests routed and not yet answered",
);
pub(super) const MODEL_MEMORY: Name = name(
    "crossfade_model_memory_bytes",
    "gauge",
    "Bytes held by the version's weights and instances, by device",
);
pub(super) const MODEL_INSTANCES: Name = name(
    "crossfade_model_instances",
    "gauge",
    "The version's instances by the device that they compute on",
);
pub(super) const INSTANCES_REPLACED: Name = name(
    "crossfade_instances_replaced_total",
    "counter",
    "Instances replaced after a panic or the loss of their device",
);
pub(super) const TOKENS: Name = name(
    "crossfade_tokens_total",
    "counter",
    "Tokens of requests to models that take text or tokens, padding left out",
);

pub(super) const NV_SUCCESS: Name = name(
    "nv_inference_request_success",
    "counter",
    "Successful requests (Triton's name)",
);
pub(super) const NV_FAILURE: Name = name(
    "nv_inference_request_failure",
    "counter",
    "Failed and refused requests by reason (Triton's name)",
);
pub(super) const NV_COUNT: Name = name(
    "nv_inference_count",
    "counter",
    "Rows of successful requests (Triton's name)",
);
pub(super) const NV_EXEC: Name = name(
    "nv_inference_exec_count",
    "counter",
    "Successful executions (Triton's name)",
);
pub(super) const NV_PENDING: Name = name(
    "nv_inference_pending_request_count",
    "gauge",
    "Requests waiting for an instance (Triton's name)",
);
pub(super) const NV_DURATIONS: [Name; 5] = [
    name(
        "nv_inference_request_duration_us",
        "counter",
        "Total time of successful requests (Triton's name)",
    ),
    name(
        "nv_inference_queue_duration_us",
        "counter",
        "Queue time (Triton's name)",
    ),
    name(
        "nv_inference_compute_input_duration_us",
        "counter",
        "Gather time (Triton's name)",
    ),
    name(
        "nv_inference_compute_infer_duration_us",
        "counter",
        "Compute time (Triton's name)",
    ),
    name(
        "nv_inference_compute_output_duration_us",
        "counter",
        "Scatter time (Triton's name)",
    ),
];

pub(super) const ROLLOUT_STATE: Name = name(
    "crossfade_rollout_state",
    "gauge",
    "1 for the state of a model's last release",
);
pub(super) const ROLLOUT_PERCENT: Name = name(
    "crossfade_rollout_percent",
    "gauge",
    "Share of the requests that go to the version being released",
);
pub(super) const ROLLOUT_LOG_E: Name = name(
    "crossfade_rollout_log_e",
    "gauge",
    "Evidence of a check that the version being released is worse, ln E at the last look",
);
pub(super) const ROLLOUT_UNITS: Name = name(
    "crossfade_rollout_units_total",
    "counter",
    "Requests that count for a release, by arm; begins again with every stage",
);
pub(super) const ROLLOUT_EVENTS: Name = name(
    "crossfade_rollout_events_total",
    "counter",
    "Events of a check by arm; begins again with every release",
);
pub(super) const ROLLOUT_LOST: Name = name(
    "crossfade_rollout_lost_total",
    "counter",
    "Requests of releases that were not counted, because too many waited for it",
);
pub(super) const GATE_RESULT: Name = name(
    "crossfade_gate_result",
    "gauge",
    "1 if a gate let the last new version pass, 0 if not; golden_interval: whether the live version still gives its known answers",
);
pub(super) const GOLDEN_DIFF: Name = name(
    "crossfade_golden_max_abs_diff",
    "gauge",
    "The largest difference of a version's answers from the known ones when it was last asked for them",
);
pub(super) const GOLDEN_FAILURES: Name = name(
    "crossfade_golden_failures_total",
    "counter",
    "Repetitions of the golden gate that a live version failed",
);
pub(super) const ROLLBACKS: Name = name(
    "crossfade_rollbacks_total",
    "counter",
    "Versions that were sent back, by reason",
);
pub(super) const ROLLBACK_SECONDS: Name = name(
    "crossfade_rollback_seconds",
    "gauge",
    "How long the last version that was sent back got new requests after the decision",
);
pub(super) const CRASH_LOOP_TRIPS: Name = name(
    "crossfade_crash_loop_trips_total",
    "counter",
    "Versions that were sent back because the process ended uncleanly too often with them",
);
pub(super) const PROMOTIONS: Name = name(
    "crossfade_promotions_total",
    "counter",
    "Versions that became live by a release",
);
pub(super) const SHADOW_PAIRS: Name = name(
    "crossfade_shadow_pairs_total",
    "counter",
    "Copies of requests that a version being released has answered",
);
pub(super) const SHADOW_FLIPS: Name = name(
    "crossfade_shadow_flips_total",
    "counter",
    "Copies that it has decided otherwise than the live version",
);
pub(super) const SHADOW_DROPPED: Name = name(
    "crossfade_shadow_dropped_total",
    "counter",
    "Copies that were dropped for want of room, because the live version was busy",
);
pub(super) const WARM_VERSIONS: Name = name(
    "crossfade_warm_versions",
    "gauge",
    "Earlier versions that can be live again at once",
);

/// Every series of a model's releases.
pub(super) const RELEASES: [&Name; 17] = [
    &ROLLOUT_STATE,
    &ROLLOUT_PERCENT,
    &ROLLOUT_LOG_E,
    &ROLLOUT_UNITS,
    &ROLLOUT_EVENTS,
    &ROLLOUT_LOST,
    &GATE_RESULT,
    &GOLDEN_DIFF,
    &GOLDEN_FAILURES,
    &ROLLBACKS,
    &ROLLBACK_SECONDS,
    &CRASH_LOOP_TRIPS,
    &PROMOTIONS,
    &SHADOW_PAIRS,
    &SHADOW_FLIPS,
    &SHADOW_DROPPED,
    &WARM_VERSIONS,
];

pub(super) const LOG_RECORDS: Name = name(
    "crossfade_log_records_total",
    "counter",
    "Requests with a record in the inference log",
);
pub(super) const LOG_LOST: Name = name(
    "crossfade_log_lost_records_total",
    "counter",
    "Requests without one, by reason; each is in a gap record",
);
pub(super) const LOG_SAMPLED_OUT: Name = name(
    "crossfade_log_sampled_out_total",
    "counter",
    "Requests that sampling left out",
);
pub(super) const LOG_BYTES: Name = name(
    "crossfade_log_bytes_total",
    "counter",
    "Bytes of records in segments",
);
pub(super) const LOG_SEALED: Name = name(
    "crossfade_log_sealed_rows_total",
    "counter",
    "Records in Parquet files",
);
pub(super) const LOG_BUFFER: Name = name(
    "crossfade_log_buffer_bytes",
    "gauge",
    "Bytes on disk of segments that are not sealed",
);
pub(super) const LOG_LAG: Name = name(
    "crossfade_log_lag_seconds",
    "gauge",
    "How long ago the oldest record was made that is in no Parquet file yet, at most",
);
pub(super) const LOG_DISK_FREE: Name = name(
    "crossfade_log_disk_free_bytes",
    "gauge",
    "Bytes that are free on the disk of the data folder",
);
pub(super) const LOG_FAILURES: Name = name(
    "crossfade_log_failures_total",
    "counter",
    "Times that the disk refused the inference log: the server's log says what",
);

pub(super) const LOG_BLOBS: Name = name(
    "crossfade_log_blobs_total",
    "counter",
    "Records with large tensors that have a file of their own",
);
pub(super) const LOG_LOST_BLOBS: Name = name(
    "crossfade_log_lost_blobs_total",
    "counter",
    "Records with large tensors without one, since too many waited or the disk refused",
);

/// Every series of the inference log.
pub(super) const LOG: [&Name; 11] = [
    &LOG_RECORDS,
    &LOG_LOST,
    &LOG_SAMPLED_OUT,
    &LOG_BYTES,
    &LOG_SEALED,
    &LOG_BUFFER,
    &LOG_LAG,
    &LOG_DISK_FREE,
    &LOG_FAILURES,
    &LOG_BLOBS,
    &LOG_LOST_BLOBS,
];

/// Every series of the machine's GPUs, all with the label `gpu_uuid`; absent on a machine without NVML.
pub(super) const GPUS: [Name; 6] = [
    name(
        "nv_gpu_utilization",
        "gauge",
        "Share of the last moments in which a GPU computed, 0 to 1 (Triton's name)",
    ),
    name(
        "nv_gpu_memory_total_bytes",
        "gauge",
        "Memory of a GPU (Triton's name)",
    ),
    name(
        "nv_gpu_memory_used_bytes",
        "gauge",
        "Memory of a GPU that is in use, by whatever process (Triton's name)",
    ),
    name(
        "nv_gpu_power_usage",
        "gauge",
        "Watts that a GPU takes (Triton's name)",
    ),
    name(
        "nv_gpu_power_limit",
        "gauge",
        "Watts that a GPU may take (Triton's name)",
    ),
    name(
        "nv_energy_consumption",
        "counter",
        "Joules that a GPU has taken since the server was started (Triton's name)",
    ),
];

/// Whether the server is ready.
pub const READY: &str = "crossfade_ready";
/// Open connections of all listeners.
pub const CONNECTIONS: &str = "crossfade_connections";
/// Bytes of request bodies held.
pub const IN_FLIGHT_BYTES: &str = "crossfade_in_flight_bytes";
/// Resident memory.
pub const RESIDENT_BYTES: &str = "crossfade_resident_bytes";

/// Records that the audit took.
pub(super) const AUDIT_RECORDS: Name = name(
    "crossfade_audit_records_total",
    "counter",
    "Records of the audit by action and outcome",
);

/// Messages to webhooks.
pub(super) const WEBHOOK_DELIVERIES: Name = name(
    "crossfade_webhook_deliveries_total",
    "counter",
    "Tries to deliver a message to a webhook, by result: delivered, refused, failed",
);

/// Events of sinks.
pub(super) const SINK_EVENTS: Name = name(
    "crossfade_sink_events_total",
    "counter",
    "Records that were sent to a sink of the inference log, by result: delivered, refused, failed, dead",
);

/// How far sinks are behind.
pub(super) const SINK_LAG: Name = name(
    "crossfade_sink_lag_seconds",
    "gauge",
    "Age of the oldest record that a sink has not delivered",
);

/// What persons have asked of the inference log.
pub(super) const PRIVACY_OPERATIONS: Name = name(
    "crossfade_privacy_operations_total",
    "counter",
    "What was done for a person in the inference log, by operation, such as subject.erase",
);

/// Series whose labels come with what is counted.
pub(super) const LABELLED: [Name; 5] = [
    AUDIT_RECORDS,
    WEBHOOK_DELIVERIES,
    SINK_EVENTS,
    SINK_LAG,
    PRIVACY_OPERATIONS,
];

/// Gauges of the process, with their help texts.
pub(super) const PROCESS: &[(&str, &str)] = &[
    (READY, "1 while the server is ready"),
    (
        CONNECTIONS,
        "Open client connections of all listeners but this one",
    ),
    (IN_FLIGHT_BYTES, "Bytes of request bodies held"),
    (RESIDENT_BYTES, "Resident memory of the process"),
];

/// Every series of a version.
pub(super) fn versioned() -> impl Iterator<Item = &'static Name> {
    [
        &STAGE_SECONDS,
        &REQUESTS,
        &BATCH_ROWS,
        &BATCH_CAP,
        &QUEUE_DEPTH,
        &IN_FLIGHT,
        &MODEL_MEMORY,
        &MODEL_INSTANCES,
        &INSTANCES_REPLACED,
        &TOKENS,
        &NV_SUCCESS,
        &NV_FAILURE,
        &NV_COUNT,
        &NV_EXEC,
        &NV_PENDING,
    ]
    .into_iter()
    .chain(&NV_DURATIONS)
}
