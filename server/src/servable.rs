//! A servable: the signature, the batcher and the counters of one loaded version; and how one is made.

mod apart;
mod baseline;
mod calibration;
#[cfg(test)]
mod fixture;
mod loader;
mod placement;
mod priority;
mod probe;
mod sample;
mod text;
mod warm_up;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use crossfade_batcher::{BatchReport, Batcher, Observer};
use crossfade_models::ModelConfig;
use crossfade_models::config::finding;
use crossfade_runtimes_core::{Device, DeviceUse, Model, ModelSignature, Tensor};

use crate::metrics::{Series, Snapshot};
use crate::recorder::Provenance;
use baseline::Baseline;
use calibration::Meter;
pub use loader::{Examiner, ServableLoader};
pub(crate) use priority::lower as lower_priority;
use sample::Fill;
pub(crate) use text::Fronted;
pub(crate) use text::TextStage;

/// One loaded version, ready to answer. Dropping it joins its instance threads: never on a request's thread.
pub struct Servable {
    name: Arc<str>,
    version: u64,
    signature: Arc<ModelSignature>,
    /// How it runs; calibration may change that.
    running: Arc<ArcSwap<Running>>,
    config: Arc<ModelConfig>,
    platform: &'static str,
    /// Why requests are not merged, for a model whose configuration was completed.
    unmerged: Option<String>,
    artifact_sha256: Option<String>,
    /// What its records in the inference log say of it, if that is kept.
    provenance: Option<Arc<Provenance>>,
    labels: Vec<Vec<String>>,
    /// What makes tokens of a request's text.
    stage: Option<TextStage>,
    /// Whether calibration leaves it as it is.
    rests: Arc<AtomicBool>,
    baseline: Arc<Baseline>,
    series: Arc<Series>,
    loaded_at: Snapshot,
}

/// A model and the instances that run it.
pub struct Running {
    /// Where requests go.
    pub batcher: Batcher,
    model: Arc<dyn Model>,
    /// What its batches took.
    meter: Arc<Meter>,
    instances: usize,
    /// What calibration has to say.
    calibration: ArcSwapOption<Calibration>,
}

/// What `/config` tells of calibration.
enum Calibration {
    /// Why there are as many instances as there are.
    Chosen(String),
    /// Why that is not known yet.
    Waits(String),
}

impl Running {
    fn new(batcher: Batcher, model: Arc<dyn Model>, meter: Arc<Meter>, instances: usize) -> Self {
        Self {
            batcher,
            model,
            meter,
            instances,
            calibration: ArcSwapOption::empty(),
        }
    }

    /// Notes why it runs as it does.
    fn chose(&self, how: String) {
        self.calibration.store(Some(Arc::new(Calibration::Chosen(how))));
    }

    /// Notes why that is not known yet.
    fn waits(&self, why: String) {
        self.calibration.store(Some(Arc::new(Calibration::Waits(why))));
    }
}

impl Servable {
    /// The model's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version's number.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What clients send and get.
    pub fn signature(&self) -> &ModelSignature {
        &self.signature
    }

    /// How it runs now. Held for as long as a request is submitted, not for as long as it waits.
    pub fn running(&self) -> impl Deref<Target = Arc<Running>> {
        self.running.load()
    }

    /// Requests that wait, those for its baseline with them.
    pub(crate) fn queue_depth(&self) -> usize {
        self.running.load().batcher.depth() + self.baseline.depth()
    }

    /// Has calibration leave it as it is, or look at it again: while two versions are compared, neither changes its way of
    /// running.
    pub(crate) fn rest(&self, rests: bool) {
        self.rests.store(rests, Relaxed);
    }

    /// Such as `onnxruntime_onnx`.
    pub fn platform(&self) -> &'static str {
        self.platform
    }

    /// What its records in the inference log say of it.
    pub(crate) fn provenance(&self) -> Option<&Arc<Provenance>> {
        self.provenance.as_ref()
    }

    /// sha256 of its files as they were loaded, hexadecimal; `None` where it was not taken.
    pub fn artifact_sha256(&self) -> Option<&str> {
        self.artifact_sha256.as_deref()
    }

    /// Labels of output `index`, empty where it has none.
    pub fn labels(&self, index: usize) -> &[String] {
        self.labels.get(index).map_or(&[], Vec::as_slice)
    }

    /// What makes tokens of a request's text; `None` for a model that takes none.
    pub(crate) fn text(&self) -> Option<&TextStage> {
        self.stage.as_ref()
    }

    /// The counters, which outlive a reload.
    pub fn series(&self) -> &Arc<Series> {
        &self.series
    }

    /// What was counted since this version was loaded.
    pub fn statistics(&self) -> Snapshot {
        self.series.snapshot().since(&self.loaded_at)
    }

    /// Made-up inputs of one row: zeros, and one where a size is not given.
    pub(crate) fn made_up(&self) -> Vec<(String, Tensor)> {
        // As clients send them, whatever the model makes of it.
        let mut signature = (*self.signature).clone();
        signature.inputs.iter_mut().for_each(|spec| spec.reshape = None);
        let tensors = sample::inputs(&signature, 1, 1, |_| Fill::Zero);
        let named = signature.inputs.iter().zip(tensors);
        named
            .filter_map(|(spec, tensor)| Some((spec.name.to_string(), tensor?)))
            .collect()
    }

    /// Bytes held by weights and instances, wherever they are, as far as the runtime can tell.
    pub fn memory_bytes(&self) -> u64 {
        self.devices().iter().map(|there| there.bytes).sum()
    }

    /// On which devices its instances compute, and what they hold there.
    pub fn devices(&self) -> Vec<DeviceUse> {
        let running = self.running.load();
        let devices = running.model.devices();
        if !devices.is_empty() {
            return devices;
        }
        vec![DeviceUse {
            device: Device::Cpu,
            instances: running.instances,
            bytes: running.model.memory_bytes(),
            served_by: "cpu".to_owned(),
        }]
    }

    /// What `/config` tells of devices; nothing where all is on the CPU and nothing else was asked for.
    fn told_of_devices(&self) -> Option<String> {
        let devices = self.devices();
        let instead = self.config.instances.instead.as_deref();
        if instead.is_none() && devices.iter().all(|there| there.served_by == "cpu") {
            return None;
        }
        let told = |there: &DeviceUse| {
            let DeviceUse {
                device,
                instances,
                served_by,
                ..
            } = there;
            format!("{device}: {instances} instances ({served_by})")
        };
        let told: Vec<String> = devices.iter().map(told).collect();
        let why = instead.map(|why| format!("; a GPU was asked for: {why}"));
        Some(told.join("; ") + &why.unwrap_or_default())
    }

    /// The effective configuration as Triton's ModelConfig JSON, with what was found out since: why requests are not
    /// merged, how many instances were best, and how many rows.
    pub fn config_json(&self) -> serde_json::Value {
        let mut json = self.config.to_json();
        let running = self.running.load();
        if let Some(rows) = running.batcher.lowered_rows() {
            let name = match running.batcher.counts_elements() {
                true => finding::BATCH_CAP_ELEMENTS,
                false => finding::BATCH_CAP_ROWS,
            };
            finding::show(&mut json, name, &rows.to_string());
        }
        if let Some(reason) = &self.unmerged {
            finding::show(&mut json, finding::UNMERGED, reason);
        }
        if let Some(devices) = self.told_of_devices() {
            finding::show(&mut json, finding::DEVICES, &devices);
        }
        if let Some(calibration) = &*running.calibration.load() {
            match &**calibration {
                Calibration::Chosen(how) => finding::show(&mut json, finding::INSTANCES, how),
                Calibration::Waits(why) => finding::show(&mut json, finding::CALIBRATION, why),
            }
        }
        json
    }
}

/// Drops `old`, which joins its threads, once no request holds it any more: each does for as long as submitting takes.
fn drop_alone<T>(mut old: Arc<T>) {
    loop {
        match Arc::try_unwrap(old) {
            Ok(last) => return drop(last),
            Err(shared) => old = shared,
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Counts what the batcher does.
struct Counter(Arc<Series>);

impl Observer for Counter {
    fn batch(&self, report: &BatchReport) {
        if report.ok {
            self.0
                .batch(report.rows, report.gather, report.compute, report.scatter);
        }
    }

    fn instance_replaced(&self, reason: &str) {
        self.0.instance_replaced();
        let series = &self.0;
        tracing::warn!(model = %series.model, version = series.version, reason, "instance replaced");
    }
}
