//! The machine's NVIDIA GPUs as a scrape shows them: looked at on a thread of their own, never by a request or a scrape.
//!
//! A driver can take long to answer, or not answer at all; what is shown then is what was seen last.

mod nvml;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::metrics::Metrics;
use nvml::Nvml;

/// Between two looks, as long as Triton's `--metrics-interval-ms` is by default.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long the end of the process waits for a look that is under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one GPU does at a moment; each value is absent where the GPU or its driver does not tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GpuSample {
    /// Its name for all programs, such as `GPU-5a1c…`.
    pub(crate) uuid: String,
    /// Share of the last moments in which it computed, 0 to 1.
    pub(crate) utilization: Option<f64>,
    /// Bytes: all, in use.
    pub(crate) memory: Option<(u64, u64)>,
    /// What it takes now.
    pub(crate) power_watts: Option<f64>,
    /// What it may take.
    pub(crate) power_limit_watts: Option<f64>,
    /// What it has taken since the server looked first.
    pub(crate) energy_joules: Option<f64>,
}

impl GpuSample {
    /// The values in the order of their series.
    pub(crate) const VALUES: [fn(&GpuSample) -> Option<f64>; 6] = [
        |sample| sample.utilization,
        |sample| sample.memory.map(|(total, _)| total as f64),
        |sample| sample.memory.map(|(_, used)| used as f64),
        |sample| sample.power_watts,
        |sample| sample.power_limit_watts,
        |sample| sample.energy_joules,
    ];
}

/// Looks at GPUs until it is dropped.
pub(crate) struct GpuSampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GpuSampler {
    /// Starts to look; nothing on a machine without NVML, as most are.
    pub(crate) fn start(metrics: &Arc<Metrics>) -> Option<Self> {
        let nvml = Nvml::open()
            .inspect_err(|reason| tracing::debug!(reason, "no metrics of GPUs"))
            .ok()?;
        let stop = Arc::<AtomicBool>::default();
        let (stopped, metrics) = (stop.clone(), Arc::downgrade(metrics));
        let thread = std::thread::Builder::new()
            .name("gpus".to_owned())
            .spawn(move || look(&nvml, &stopped, &metrics))
            .inspect_err(|error| tracing::warn!(%error, "no metrics of GPUs: their thread cannot be started"))
            .ok()?;
        Some(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for GpuSampler {
    fn drop(&mut self) {
        // Only a wish; the thread sees it after its next look at the latest.
        self.stop.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let began = Instant::now();
        while !thread.is_finished() {
            if began.elapsed() > PATIENCE {
                tracing::warn!("the GPU's driver does not answer; the process ends without it");
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the thread that looks at GPUs panicked");
        }
    }
}

fn look(nvml: &Nvml, stopped: &AtomicBool, metrics: &Weak<Metrics>) {
    while !stopped.load(Relaxed) {
        let samples = nvml.samples();
        let Some(metrics) = metrics.upgrade() else { return };
        metrics.set_gpus(samples);
        drop(metrics);
        std::thread::park_timeout(INTERVAL);
    }
}
