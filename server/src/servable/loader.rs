//! Makes servables: model file → runtime → configuration → warm-up → probe → batcher → gates, where it is the first
//! version. Runs on load threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crossfade_batcher::{Batcher, BatcherOptions, InstanceFactory, QueuePolicy, TimeoutAction};
use crossfade_journal::Hash;
use crossfade_models::config::{self, ModelConfig};
use crossfade_models::{LoadError, LoadRequest, Loaded, Loader, State};
use crossfade_runtimes::Runtimes;
use crossfade_runtimes_core::{
    Device, Instance, InstanceOptions, Model, ModelSignature, ModelSource, OutputSlot, Outputs, Runtime,
    RuntimeError, TensorSpec, TensorView,
};

use super::baseline::{Baseline, Kept};
use super::calibration::{Artifact, Calibrator, Candidate, Known, Meter, Way};
use super::placement::{self, Placed};
use super::text::{Fronted, Tokenizing};
use super::{Counter, Running, Servable, priority, probe, warm_up};
use crate::metrics::Metrics;
use crate::recorder::{Provenance, Recorder};
use crate::release::Digests;
use crate::service::Limits;

/// Says whether a version may serve, once it is loaded and before anyone can reach it.
pub trait Examiner: Send + Sync {
    /// Examines a version. Blocks: for load threads.
    ///
    /// Errors: why it may not serve.
    fn examine(&self, version: &Servable) -> Result<(), String>;
}

/// Makes servables for the registry.
pub struct ServableLoader {
    runtimes: Arc<Runtimes>,
    metrics: Arc<Metrics>,
    /// Requests waiting per version, whatever its own policy says.
    max_queue: usize,
    /// The longest run on the thread of a request.
    lend_within: Duration,
    /// Cores that compute.
    cores: usize,
    /// `None` where there is one core, or no thread could be started.
    calibrator: Option<Calibrator>,
    /// Without one every version that loads may serve.
    examiner: Option<Arc<dyn Examiner>>,
    digests: Option<Arc<Digests>>,
    recorder: Option<Arc<Recorder>>,
    tokenizing: Tokenizing,
}

impl ServableLoader {
    /// A loader over these runtimes, counting into `metrics`; keeps in `data_dir` what calibration finds.
    pub fn new(
        runtimes: Arc<Runtimes>,
        metrics: Arc<Metrics>,
        limits: &Limits,
        cores: usize,
        data_dir: &Path,
    ) -> Self {
        let kept = data_dir.join("state").join("calibration.json");
        let start = || {
            Calibrator::start(kept)
                .inspect_err(|error| tracing::warn!(%error, "models are not calibrated"))
                .ok()
        };
        let calibrator = (cores > 1).then(start).flatten();
        Self {
            runtimes,
            metrics,
            max_queue: limits.max_queue,
            lend_within: limits.lend_within,
            cores,
            calibrator,
            examiner: None,
            digests: None,
            recorder: None,
            tokenizing: Tokenizing::new(cores),
        }
    }

    /// Has requests of what is loaded recorded.
    pub(crate) fn recorded_by(self, recorder: Option<Arc<Recorder>>) -> Self {
        Self { recorder, ..self }
    }

    /// Has the digests of what is loaded told.
    pub(crate) fn knowing(self, digests: Arc<Digests>) -> Self {
        Self {
            digests: Some(digests),
            ..self
        }
    }

    /// Has versions examined.
    pub fn examined_by(self, examiner: Arc<dyn Examiner>) -> Self {
        Self {
            examiner: Some(examiner),
            ..self
        }
    }
}

/// The most elements of a batch of rows with lengths, such as tokens. On a CPU more gain nothing, and those behind them
/// wait (`cargo xtask encoders`); GPUs want more.
const ELEMENTS_ON_CPU: usize = 2048;
const ELEMENTS_ON_GPU: usize = 16_384;

/// What the slow part of a load gives: everything but the threads.
struct Prepared {
    fronted: Fronted,
    model: Arc<dyn Model>,
    config: ModelConfig,
    /// What clients and the batcher see.
    signature: Arc<ModelSignature>,
    factory: InstanceFactory,
    instances: Vec<Box<dyn Instance>>,
    /// Why requests are not merged although the configuration would allow it.
    unmerged: Option<String>,
    /// The most rows of a request of text that is not divided.
    max_rows: Option<usize>,
    /// Where the way it runs is to be found out, or is known.
    calibration: Option<Calibrated>,
    /// Of its files.
    artifact_sha256: Option<String>,
}

/// What calibration needs of a load.
struct Calibrated {
    /// How to load the model for one instance of all threads, and for instances of one thread.
    shared: ModelSource,
    single: ModelSource,
    /// The model's file before it was loaded.
    artifact: Option<Artifact>,
    /// What was found before.
    known: Option<Known>,
    /// How the version runs until more is known.
    begins: Way,
}

impl Calibrated {
    /// The source of one thread, where the version begins with it.
    fn begins_single(&self) -> Option<&ModelSource> {
        (self.begins == Way::Single).then_some(&self.single)
    }
}

impl Loader for ServableLoader {
    type Servable = Servable;

    fn load(&self, request: &LoadRequest<'_>) -> Result<Loaded<Servable>, LoadError> {
        let name = request.name.clone();
        let version = request.version;
        let thread = format!("load {name}/{version}");
        let prepared = priority::lowered(&thread, || self.prepare(request))
            .map_err(|error| LoadError::Refused(format!("cannot start a load thread: {error}")))??;
        let Prepared {
            fronted,
            model,
            config,
            signature,
            factory,
            instances,
            unmerged,
            max_rows,
            calibration,
            artifact_sha256,
        } = prepared;
        for warning in &config.warnings {
            tracing::warn!(model = %name, version, warning, "model configuration");
        }
        if !config.instances.on_cpu() {
            let devices = placement::named(&config.instances.devices);
            tracing::info!(model = %name, version, devices, instances = config.instances.count, "instances are on GPUs");
        }
        if let Some(reason) = &unmerged {
            tracing::info!(model = %name, version, reason, "requests are not merged");
        }
        let runtime = fronted.runtime.clone();
        let series = self.metrics.series(&name, version);
        let observer = Arc::new(Counter(series.clone()));
        let meter = Arc::new(Meter::new(observer.clone()));
        let count = instances.len();
        let options = self.options(
            &name,
            version,
            &config,
            unmerged.is_none(),
            fronted.max_batch_tokens,
        );
        // On the load thread, at ordinary priority: instance threads inherit it.
        let batcher = Batcher::start(
            signature.clone(),
            instances,
            factory,
            options.clone(),
            meter.clone(),
        )
        .map_err(|error| LoadError::Refused(error.to_string()))?;
        let config = Arc::new(config);
        let running = Arc::new(ArcSwap::from_pointee(Running::new(batcher, model, meter, count)));
        let rests = Arc::<AtomicBool>::default();
        if let (Some(calibrator), Some(calibration)) = (&self.calibrator, calibration) {
            let Calibrated {
                shared,
                single,
                artifact,
                known,
                begins,
            } = calibration;
            calibrator.submit(Candidate {
                name: name.clone(),
                version,
                running: Arc::downgrade(&running),
                runtime: runtime.clone(),
                shared,
                single,
                known,
                begins,
                rests: rests.clone(),
                signature: signature.clone(),
                warmup: config.warmup.clone(),
                directory: request.model_directory.clone(),
                options: options.clone(),
                observer: observer.clone(),
                cores: self.cores,
                loaded: Instant::now(),
                artifact,
            });
        }
        let baseline = Baseline {
            running: Arc::downgrade(&running),
            signature: signature.clone(),
            warmup: config.warmup.clone(),
            devices: config.instances.devices.clone(),
            directory: request.model_directory.clone(),
            options: BatcherOptions {
                name: format!("{name}/{version} baseline").into(),
                ..options
            },
            observer,
            kept: Kept::default(),
        };
        let provenance = match &self.recorder {
            None => None,
            Some(recorder) => {
                let policies = recorder.policies(&name, &signature).map_err(LoadError::Refused)?;
                // Before the version is routed: a record never names a schema that is not on disk.
                Some(Arc::new(Provenance {
                    recorder: recorder.clone(),
                    schema: recorder.schema(&signature, policies.as_ref()),
                    policies,
                    artifact_sha256: artifact_sha256.as_deref().and_then(hash),
                    config_rev: hash(&config.config_rev),
                    runtime: runtime.name(),
                    device: placement::named(&config.instances.devices),
                }))
            }
        };
        let servable = Servable {
            name,
            provenance,
            version,
            labels: labels(&signature, &config, fronted.labels()),
            stage: fronted.stage(&signature, max_rows, &self.tokenizing)?,
            signature,
            running,
            config: config.clone(),
            platform: runtime.platform(),
            unmerged,
            artifact_sha256,
            rests,
            baseline: Arc::new(baseline),
            loaded_at: series.snapshot(),
            series,
        };
        if let Some(examiner) = &self.examiner {
            examiner.examine(&servable).map_err(LoadError::Refused)?;
        }
        Ok(Loaded { servable, config })
    }
}

impl ServableLoader {
    /// Reads, completes, warms up and probes; all at the lowest priority.
    fn prepare(&self, request: &LoadRequest<'_>) -> Result<Prepared, LoadError> {
        let raw = &request.config;
        let file = request.model_file()?;
        let (fronted, source) = Fronted::open(&self.runtimes, raw, file, &request.version_directory)?;
        let runtime = &fronted.runtime;
        let wish = raw.placement()?;
        let placed = Placed::find(&wish, &**runtime)?;
        // What is loaded lies there now; a file that is changed meanwhile is loaded again.
        let artifact_sha256 = self.digests.as_ref().and_then(|digests| {
            let digest = digests.of(&request.version_directory);
            digest
                .inspect_err(|error| tracing::warn!(model = %request.name, version = request.version, %error, "no digest of its files"))
                .ok()
        });
        placed.attempt(&wish, |placed| {
            let prepared = self.prepare_on(request, &fronted, &source, placed)?;
            Ok(Prepared {
                artifact_sha256: artifact_sha256.clone(),
                ..prepared
            })
        })
    }

    /// The part of [`prepare`](Self::prepare) that is done again where the CPU stands in for a device.
    fn prepare_on(
        &self,
        request: &LoadRequest<'_>,
        fronted: &Fronted,
        source: &ModelSource,
        placed: &Placed,
    ) -> Result<Prepared, LoadError> {
        let runtime = &fronted.runtime;
        let source = ModelSource {
            devices: placed.devices.clone(),
            ..source.clone()
        };
        let calibration = self.calibration(&**runtime, &source);
        let known = calibration.as_ref().and_then(Calibrated::begins_single);
        let mut model: Arc<dyn Model> = match known {
            Some(single) => runtime.load(single)?.into(),
            None => runtime.load(&source)?.into(),
        };
        let config = request
            .complete(model.signature(), runtime.name())?
            .placed(&placed.devices, placed.instead.as_deref());
        let given = config.instances.count.is_some() || placed.on_gpus();
        let wanted = !given && config.instances.optimise == config::Optimise::Throughput;
        let mut count = config.instances.count.unwrap_or(1).max(1);
        match known.is_some() {
            true if wanted => count = u32::try_from(self.cores).unwrap_or(count),
            // It was known of a configuration that asked for nothing.
            true => model = runtime.load(&source)?.into(),
            false => {}
        }
        let mut signature = config.signature(model.signature());
        let max_rows = fronted.take_max_rows(&mut signature);
        let signature = Arc::new(signature);
        let factory = factory(model.clone(), signature.clone(), &config.instances.devices);
        let mut instances = (0..count).map(|_| factory()).collect::<Result<Vec<_>, _>>()?;

        request.progress(State::WarmingUp);
        for instance in &mut instances {
            guarded(|| {
                warm_up::run(
                    &signature,
                    &config.warmup,
                    &request.model_directory,
                    &mut **instance,
                )
            })
            .map_err(LoadError::Refused)?;
        }
        if placed.on_gpus() && !probe::trial(&signature, &mut *instances[0])? {
            instances[0] = factory()?;
        }
        let mut unmerged = None;
        if config.completed && config.batching.enabled {
            let probed = guarded(|| probe::probe(&signature, &mut *instances[0]));
            unmerged = probed.err();
            if unmerged.is_some() {
                // The probe's inputs are made up; an instance that they upset does not serve.
                instances[0] = factory()?;
            }
        }
        Ok(Prepared {
            calibration: calibration.filter(|_| wanted),
            fronted: fronted.clone(),
            model,
            config,
            signature,
            factory,
            instances,
            unmerged,
            max_rows,
            artifact_sha256: None,
        })
    }

    /// What calibration needs to compare the ways of running `source`; `None` where there is but one.
    fn calibration(&self, runtime: &dyn Runtime, source: &ModelSource) -> Option<Calibrated> {
        let calibrator = self.calibrator.as_ref()?;
        let single = runtime.single_threaded(source)?;
        let (name, version) = (runtime.name(), runtime.version());
        let ModelSource {
            path,
            parameters,
            graph_level,
            accelerators,
            ..
        } = source;
        // What the providers of a session do with threads is their own.
        if !accelerators.is_empty() {
            return None;
        }
        let how = format!("{name} {version}, cpu, {parameters:?}, {graph_level:?}");
        let artifact = Artifact::of(path, self.cores, how);
        let known = artifact.as_ref().and_then(|artifact| calibrator.known(artifact));
        let kin = || artifact.as_ref().map(|artifact| calibrator.begins(artifact));
        Some(Calibrated {
            begins: known.map(|known| known.way()).or_else(kin).unwrap_or(Way::Shared),
            known,
            shared: source.clone(),
            single,
            artifact,
        })
    }

    fn options(
        &self,
        name: &str,
        version: u64,
        config: &ModelConfig,
        merge: bool,
        max_tokens: Option<usize>,
    ) -> BatcherOptions {
        let batching = &config.batching;
        let rows = |rows: u32| usize::try_from(rows).unwrap_or(usize::MAX);
        BatcherOptions {
            name: format!("{name}/{version}").into(),
            max_rows: rows(batching.max_rows.max(1)),
            max_elements: max_tokens.unwrap_or(match config.instances.on_cpu() {
                true => ELEMENTS_ON_CPU,
                false => ELEMENTS_ON_GPU,
            }),
            merge: merge && batching.enabled,
            preferred_rows: batching
                .preferred_rows
                .iter()
                .map(|&preferred| rows(preferred))
                .collect(),
            max_delay: batching.max_delay,
            preserve_ordering: batching.preserve_ordering,
            priority_levels: level(batching.priority_levels),
            default_priority: level(batching.default_priority),
            queue: queue(&batching.queue),
            queue_by_priority: batching
                .level_queues
                .iter()
                .map(|(&priority, policy)| (level(priority), queue(policy)))
                .collect::<BTreeMap<_, _>>(),
            max_queue_requests: self.max_queue,
            learn_rows: batching.learn,
            // What the libraries of a GPU keep for a thread they would keep for each thread that is lent an instance.
            lend_within: Some(self.lend_within)
                .filter(|within| !within.is_zero() && config.instances.on_cpu()),
        }
    }
}

/// The bytes of a sha256 in hexadecimal digits.
fn hash(digits: &str) -> Option<[u8; 32]> {
    digits.parse().ok().map(|Hash(bytes)| bytes)
}

fn level(level: u64) -> u32 {
    u32::try_from(level).unwrap_or(u32::MAX)
}

fn queue(policy: &config::QueuePolicy) -> QueuePolicy {
    QueuePolicy {
        max_requests: policy
            .max_size
            .map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
        default_timeout: policy.timeout,
        timeout_action: match policy.timeout_action {
            config::TimeoutAction::Reject => TimeoutAction::Reject,
            config::TimeoutAction::Delay => TimeoutAction::Delay,
        },
    }
}

/// Class names per output of the signature.
fn labels(signature: &ModelSignature, config: &ModelConfig, folder: &[String]) -> Vec<Vec<String>> {
    let configured = |name: &str| {
        let output = config.outputs.iter().find(|output| *output.name == *name)?;
        Some(
            output
                .labels
                .as_deref()?
                .iter()
                .map(|label| label.to_string())
                .collect(),
        )
    };
    let of = |spec: &TensorSpec| {
        configured(&spec.name).unwrap_or_else(|| match &*spec.name {
            "logits" => folder.to_vec(),
            _ => Vec::new(),
        })
    };
    signature.outputs.iter().map(of).collect()
}

/// Runs `work`, with a panic as an error: a model that panics fails its load, not the process.
pub(super) fn guarded(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    caught.unwrap_or_else(|panic| Err(format!("the instance panicked: {}", message(&*panic))))
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Makes instances whose inputs and outputs are those of `signature`, which may leave some of the model's out.
pub(super) fn factory(
    model: Arc<dyn Model>,
    signature: Arc<ModelSignature>,
    devices: &[Device],
) -> InstanceFactory {
    let devices = devices.to_vec();
    let own = model.signature();
    let inputs = positions(&signature.inputs, &own.inputs);
    let outputs = positions(&signature.outputs, &own.outputs);
    let (all_inputs, all_outputs) = (own.inputs.len(), own.outputs.len());
    let every = inputs.len() == all_inputs && outputs.len() == all_outputs;
    Arc::new(move || {
        let there: Vec<_> = model
            .devices()
            .iter()
            .map(|there| (there.device, there.instances))
            .collect();
        let device = placement::next(&devices, &there);
        let instance = model.instantiate(&InstanceOptions { device })?;
        if every {
            return Ok(instance);
        }
        let (inputs, outputs) = (inputs.clone(), outputs.clone());
        Ok(Box::new(Subset {
            instance,
            inputs,
            all_inputs,
            outputs,
            all_outputs,
        }) as Box<dyn Instance>)
    })
}

/// Where the served tensors are among the model's own; both are in the model's order.
fn positions(served: &[TensorSpec], own: &[TensorSpec]) -> Vec<usize> {
    served
        .iter()
        .filter_map(|spec| own.iter().position(|own| own.name == spec.name))
        .collect()
}

/// An instance of which the configuration leaves out some outputs or optional inputs.
struct Subset {
    instance: Box<dyn Instance>,
    /// Indices of the model's inputs that are served.
    inputs: Vec<usize>,
    all_inputs: usize,
    /// Indices of the model's outputs that are served.
    outputs: Vec<usize>,
    all_outputs: usize,
}

impl Instance for Subset {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let mut given = vec![None; self.all_inputs];
        for (view, &own) in inputs.iter().zip(&self.inputs) {
            given[own] = *view;
        }
        let mut slots: Vec<OutputSlot> = (0..self.all_outputs)
            .map(|_| OutputSlot::new(false, None))
            .collect();
        for (index, &own) in self.outputs.iter().enumerate() {
            slots[own] = OutputSlot::new(outputs.wanted(index), outputs.expected(index).cloned());
        }
        let mut all = Outputs::new(slots);
        self.instance.run(&given, &mut all)?;
        let mut tensors = all.into_tensors();
        for (index, &own) in self.outputs.iter().enumerate() {
            if let Some(tensor) = tensors[own].take() {
                outputs.put(index, tensor.datatype, tensor.shape, tensor.data);
            }
        }
        Ok(())
    }
}
