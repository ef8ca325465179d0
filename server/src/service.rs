//! What both front ends hold: the registry, the limits, the metrics, the state of the process.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossfade_models::{Registry, RegistryOptions};
use tokio::sync::watch;

use crate::admit::Permits;
use crate::arriving::Arriving;
use crate::audit::AuditLog;
use crate::control::Changes;
use crate::metrics::{self, Loaded, Metrics, Series};
use crate::recorder::Recorder;
use crate::release::Releases;
use crate::servable::ServableLoader;

/// The shared heart of the server; front ends hold it in an `Arc`.
pub struct Service {
    limits: Limits,
    permits: Arc<Permits>,
    arriving: Arriving,
    metrics: Arc<Metrics>,
    registry: Arc<Registry<ServableLoader>>,
    releases: Arc<Releases>,
    recorder: Option<Arc<Recorder>>,
    pub(crate) changes: Changes,
    access_log: bool,
    draining: AtomicBool,
    ready: watch::Sender<bool>,
    text: OnceLock<TextModels>,
}

/// Which models answer over paths that name none (`[text]`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TextModels {
    /// Of `/embed`.
    pub embed: Option<String>,
    /// Of `/rerank`.
    pub rerank: Option<String>,
    /// Of `/predict`.
    pub predict: Option<String>,
    /// The most texts of one request over those paths and `/v1/embeddings`.
    pub max_inputs: usize,
}

impl Default for TextModels {
    /// As many inputs as OpenAI takes.
    fn default() -> Self {
        Self {
            embed: None,
            rerank: None,
            predict: None,
            max_inputs: 2048,
        }
    }
}

/// What is written of every request.
#[derive(Default)]
pub struct Written {
    /// A line in the server's log.
    pub access_log: bool,
    /// A record in the inference log.
    pub recorder: Option<Arc<Recorder>>,
}

/// Bounds that protect the process from its clients.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Limits {
    /// Largest request, after decompression.
    pub max_request_bytes: usize,
    /// Requests between admission and answer.
    pub max_in_flight: usize,
    /// Bytes of request bodies held at once.
    pub max_in_flight_bytes: usize,
    /// Open connections per listener.
    pub max_connections: usize,
    /// Requests waiting per model version, whatever its own queue policy says.
    pub max_queue: usize,
    /// Reading a request head.
    pub header_timeout: Duration,
    /// The longest pause inside a request body.
    pub body_idle_timeout: Duration,
    /// Requests in flight on one gRPC stream.
    pub max_stream_in_flight: usize,
    /// The longest run, by recent ones of its model, that stays on the thread that decoded its request; zero: each goes to
    /// the thread of an instance.
    pub lend_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 256 << 20,
            max_in_flight: 4096,
            max_in_flight_bytes: 4 << 30,
            max_connections: 16_384,
            max_queue: 1024,
            header_timeout: Duration::from_secs(15),
            body_idle_timeout: Duration::from_secs(30),
            max_stream_in_flight: 64,
            // Waking a thread and being woken by it costs about this much where cores are few.
            lend_within: Duration::from_micros(50),
        }
    }
}

impl Service {
    /// A service over a registry that is made here but not started.
    pub fn new(
        limits: Limits,
        written: Written,
        metrics: Arc<Metrics>,
        mut options: RegistryOptions,
        releases: Arc<Releases>,
        loader: ServableLoader,
        changes: Changes,
    ) -> Arc<Self> {
        options.conductor = Some(releases.clone());
        let registry = Registry::new(options, loader);
        releases.attach(&registry);
        let service = Arc::new(Self {
            arriving: Arriving::new(limits.max_in_flight_bytes),
            limits,
            permits: Arc::default(),
            metrics,
            registry,
            releases,
            recorder: written.recorder,
            changes,
            access_log: written.access_log,
            draining: AtomicBool::new(false),
            ready: watch::Sender::new(false),
            text: OnceLock::new(),
        });
        let weak: Weak<Self> = Arc::downgrade(&service);
        service.registry.on_change(move |_| {
            if let Some(service) = weak.upgrade() {
                service.refresh_ready();
            }
        });
        service
    }

    /// Says which models answer over paths that name none; once, before anything is served.
    pub fn bind_text(&self, models: TextModels) {
        let bound = self.text.set(models);
        debug_assert!(bound.is_ok(), "bound once");
    }

    /// Which models answer over paths that name none.
    pub(crate) fn text_models(&self) -> &TextModels {
        self.text.get_or_init(TextModels::default)
    }

    /// Names of the classes of an output; empty where it has none, or the version is not there any more.
    pub(crate) fn labels_of(&self, model: &str, version: u64, output: &str) -> Vec<String> {
        let models = self.registry.models();
        let served = models
            .iter()
            .find(|served| &**served.name() == model && served.version() == version);
        let labels = served.and_then(|served| {
            let outputs = &served.signature().outputs;
            let index = outputs.iter().position(|spec| &*spec.name == output)?;
            Some(served.labels(index).to_vec())
        });
        labels.unwrap_or_default()
    }

    /// The inference log, if it is kept.
    pub(crate) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.as_ref()
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What admitted requests hold.
    pub fn permits(&self) -> &Arc<Permits> {
        &self.permits
    }

    /// The bytes of requests that are still arriving.
    pub(crate) fn arriving(&self) -> &Arriving {
        &self.arriving
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The models.
    pub fn registry(&self) -> &Arc<Registry<ServableLoader>> {
        &self.registry
    }

    /// The releases.
    pub fn releases(&self) -> &Arc<Releases> {
        &self.releases
    }

    /// The audit.
    pub(crate) fn audit(&self) -> &Arc<AuditLog> {
        &self.changes.audit
    }

    /// Whether the access log is on: one line per request.
    pub fn access_log(&self) -> bool {
        self.access_log
    }

    /// From here on the server says that it is not ready; it still answers.
    pub fn drain(&self) {
        self.draining.store(true, SeqCst);
        self.refresh_ready();
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// Whether the server is ready (protocols.md §7); recomputed at every call.
    pub fn ready(&self) -> bool {
        !self.draining() && self.registry.ready()
    }

    /// A receiver that changes whenever readiness does.
    pub fn watch_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Tells the watchers if readiness changed.
    fn refresh_ready(&self) {
        let now = self.ready();
        self.ready
            .send_if_modified(|ready| std::mem::replace(ready, now) != now);
    }

    /// The counters of the version that `model` and `version`, as a client wrote them, name.
    pub(crate) fn series_of(&self, model: &str, version: &str) -> Option<Arc<Series>> {
        let routed = self
            .registry
            .route(model, version)
            .or_else(|_| self.registry.route(model, ""))
            .ok()?;
        Some(routed.series().clone())
    }

    /// A connection was opened (+1) or closed (−1).
    pub(crate) fn count_connection(&self, change: f64) {
        self.metrics.gauge(metrics::CONNECTIONS).increment(change);
    }

    /// Everything a scrape shows.
    pub fn render_metrics(&self) -> String {
        self.metrics
            .gauge(metrics::READY)
            .set(f64::from(u8::from(self.ready())));
        self.metrics
            .gauge(metrics::IN_FLIGHT_BYTES)
            .set(self.permits.bytes() as f64);
        let loaded: Vec<Loaded> = self
            .registry
            .models()
            .iter()
            .map(|version| Loaded {
                series: version.series().clone(),
                queue_depth: version.queue_depth(),
                batch_cap: version.running().batcher.learnt_rows(),
                devices: version.devices(),
            })
            .collect();
        self.metrics
            .render(&loaded, &self.releases.values(), self.recorder.as_deref())
    }
}
