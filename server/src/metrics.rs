//! Every series the server exposes: their names, the values behind them, and the text Prometheus reads.
//!
//! Values that requests touch are plain atomics, resolved once per loaded version ([`series::Series`]); a scrape
//! only reads them. Process-level values go through the `metrics` recorder.

pub mod histogram;
mod listener;
mod names;
mod render;
pub mod series;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossfade_runtimes_core::DeviceUse;
use metrics::{Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::gpu::GpuSample;
pub use listener::serve;
pub use series::{Series, Snapshot, Stage};

const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, None);

/// Model and version.
type SeriesKey = (Arc<str>, u64);

/// The values of the whole process.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By model and version; grows with versions ever loaded.
    series: Mutex<BTreeMap<SeriesKey, Arc<Series>>>,
    /// Requests that named no known model.
    unknown: Arc<Series>,
    /// The machine's GPUs when they were last looked at; none where nobody looks.
    gpus: ArcSwap<Vec<GpuSample>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let metrics = Self {
            recorder,
            handle,
            series: Mutex::default(),
            unknown: Arc::new(Series::new("".into(), None)),
            gpus: ArcSwap::default(),
        };
        for (name, help) in names::PROCESS {
            metrics
                .recorder
                .describe_gauge((*name).into(), None, (*help).into());
        }
        for names::Name { name, kind, help } in names::LABELLED {
            match kind {
                "gauge" => metrics.recorder.describe_gauge(name.into(), None, help.into()),
                _ => metrics.recorder.describe_counter(name.into(), None, help.into()),
            }
        }
        metrics
    }
}

impl Metrics {
    /// The series of a version, made at its first load; a reloaded version continues its counters.
    pub fn series(&self, model: &Arc<str>, version: u64) -> Arc<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((model.clone(), version))
            .or_insert_with(|| Arc::new(Series::new(model.clone(), Some(version))))
            .clone()
    }

    /// Where requests count that named no known model.
    pub fn unknown(&self) -> &Arc<Series> {
        &self.unknown
    }

    /// A gauge of the process, by one of the names below.
    pub fn gauge(&self, name: &'static str) -> Gauge {
        self.recorder
            .register_gauge(&Key::from_static_name(name), &METADATA)
    }

    /// Counts a record of the audit.
    pub(crate) fn audited(&self, action: &'static str, outcome: &'static str) {
        let labels = vec![
            Label::from_static_parts("action", action),
            Label::from_static_parts("outcome", outcome),
        ];
        let key = Key::from_parts(names::AUDIT_RECORDS.name, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts a try to tell a webhook.
    pub(crate) fn webhook(&self, result: &'static str) {
        let labels = vec![Label::from_static_parts("result", result)];
        let key = Key::from_parts(names::WEBHOOK_DELIVERIES.name, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts events that a sink has tried to send.
    pub(crate) fn sink(&self, sink: &str, result: &'static str, events: usize) {
        let labels = vec![
            Label::new("sink", sink.to_owned()),
            Label::from_static_parts("result", result),
        ];
        let key = Key::from_parts(names::SINK_EVENTS.name, labels);
        self.recorder
            .register_counter(&key, &METADATA)
            .increment(events as u64);
    }

    /// Counts what was done for a person.
    pub(crate) fn privacy(&self, operation: &'static str) {
        let labels = vec![Label::from_static_parts("operation", operation)];
        let key = Key::from_parts(names::PRIVACY_OPERATIONS.name, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// How old the oldest record is that a sink has not delivered.
    pub(crate) fn sink_lag(&self, sink: &str, lag: std::time::Duration) {
        let labels = vec![Label::new("sink", sink.to_owned())];
        let key = Key::from_parts(names::SINK_LAG.name, labels);
        self.recorder
            .register_gauge(&key, &METADATA)
            .set(lag.as_secs_f64());
    }

    /// Notes what the machine's GPUs do now.
    pub(crate) fn set_gpus(&self, gpus: Vec<GpuSample>) {
        self.gpus.store(Arc::new(gpus));
    }

    /// Everything, in Prometheus' text format. `loaded` are the versions that serve now; only their series, and
    /// that of unknown models, are shown. `released` are the models whose versions are released, `log` the inference log.
    pub fn render(
        &self,
        loaded: &[Loaded],
        released: &[Released],
        log: Option<&crate::recorder::Recorder>,
    ) -> String {
        self.gauge(names::RESIDENT_BYTES).set(resident_bytes() as f64);
        let mut out = self.handle.render();
        render::versions(&mut out, loaded, &self.unknown);
        render::releases(&mut out, released);
        render::gpus(&mut out, &self.gpus.load());
        if let Some(log) = log {
            render::log(&mut out, log);
        }
        out
    }
}

/// The table of docs/metrics.md.
pub fn reference() -> String {
    render::markdown()
}

/// A loaded version as a scrape sees it.
pub struct Loaded {
    /// Its counters.
    pub series: Arc<Series>,
    /// Requests waiting for an instance.
    pub queue_depth: usize,
    /// The most rows that requests are merged up to.
    pub batch_cap: usize,
    /// On which devices its instances compute, and what they hold there.
    pub devices: Vec<DeviceUse>,
}

/// The releases of a model as a scrape sees them.
#[derive(Clone)]
pub struct Released {
    /// The model.
    pub model: Arc<str>,
    /// Where its last release stands.
    pub state: Option<&'static str>,
    /// Share of the candidate.
    pub percent: f64,
    /// Requests of the stage: canary, control.
    pub units: [u64; 2],
    /// What the checks said at the last look.
    pub checks: Vec<CheckValues>,
    /// Whether each gate let its last candidate pass, and whether the live version still gives its known answers.
    pub gates: BTreeMap<String, bool>,
    /// How far known answers were off at most, by version.
    pub golden_diffs: BTreeMap<u64, f64>,
    /// Repetitions of known answers that the live version did not give, by version.
    pub golden_failures: BTreeMap<u64, u64>,
    /// Requests that were not counted.
    pub lost: u64,
    /// Versions that became live.
    pub promotions: u64,
    /// Versions that were sent back, by reason.
    pub rollbacks: BTreeMap<String, u64>,
    /// From the last decision to send a version back until requests went elsewhere.
    pub rolled_back_in: Option<Duration>,
    /// Copies of requests: pairs, flips, dropped.
    pub shadow: [u64; 3],
    /// Earlier versions at hand.
    pub warm: usize,
}

/// What a check said at the last look.
#[derive(Clone)]
pub struct CheckValues {
    /// Its metric.
    pub name: &'static str,
    /// ln E.
    pub log_e: Option<f64>,
    /// Events: canary, control.
    pub events: [u64; 2],
}

/// The names of the process-level gauges.
pub use names::{CONNECTIONS, IN_FLIGHT_BYTES, READY, RESIDENT_BYTES};

/// Resident memory of this process in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
