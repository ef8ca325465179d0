//! How many instances of how many threads give a model the most rows per second: measured once it is ready, at the
//! lowest priority.
//!
//! Two ways are compared: one instance that spreads a run over the threads that all models share, and one instance
//! per core, each run on its own thread alone. Neither is better for all models (dependencies.md, "What batching and
//! instances do on CPU").

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossfade_batcher::{Batcher, BatcherOptions, Observer};
use crossfade_models::config::Warmup;
use crossfade_runtimes_core::{
    Device, Instance, Model, ModelSignature, ModelSource, Outputs, Runtime, Tensor, TensorView,
};

use super::loader::factory;
use super::sample::{self, Fill};
use super::{Running, priority, warm_up};

/// How long each way runs in each round, at most, and how many runs of an instance are enough: a thousand small models
/// take seconds together, not minutes.
const SLICE: Duration = Duration::from_millis(60);
const ENOUGH_RUNS: u32 = 200;
const ROUNDS: usize = 3;
/// Rows per run that are tried.
const ROWS: [usize; 2] = [1, 8];
/// Sizes tried for variable dimensions, until the model accepts one.
const VARIABLE_SIZES: [usize; 5] = [16, 4, 1, 2, 64];
/// How much better single threads must be: the other way answers a lone request sooner.
const BETTER: f64 = 1.05;
/// How long a version must have been there: one that comes and goes is not worth a second copy of its weights.
const SETTLED: Duration = Duration::from_secs(2);
/// Between two looks whether it still is.
const LOOK: Duration = Duration::from_millis(50);
/// Versions that wait for their turn; one that finds no place stays as it is.
const WAITING: usize = 1024;

/// Rows per second of both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    /// One instance on the threads that models share.
    shared: f64,
    /// One instance of one thread per core.
    single: f64,
}

impl Rates {
    /// Whether an instance per core, each of one thread, is the better way.
    fn prefer_single(self) -> bool {
        self.single > BETTER * self.shared
    }
}

/// What a measurement is good for: the model's file as it was, on this many cores.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Artifact {
    path: PathBuf,
    bytes: u64,
    changed: Option<SystemTime>,
    cores: usize,
}

impl Artifact {
    /// The file at `path`, as it is now.
    pub(super) fn of(path: &Path, cores: usize) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            bytes: file.len(),
            changed: file.modified().ok(),
            cores,
        })
    }
}

/// A loaded version that may run otherwise than it does.
pub(super) struct Candidate {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// How it runs; gone once the version is.
    pub(super) running: Weak<ArcSwap<Running>>,
    pub(super) runtime: Arc<dyn Runtime>,
    /// Gives a model whose runs stay on their calling threads.
    pub(super) single: ModelSource,
    pub(super) signature: Arc<ModelSignature>,
    pub(super) warmup: Vec<Warmup>,
    /// The model's, with the data of its warm-up.
    pub(super) directory: PathBuf,
    pub(super) options: BatcherOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) cores: usize,
    pub(super) loaded: Instant,
    /// The model's file before it was loaded.
    pub(super) artifact: Option<Artifact>,
}

impl Candidate {
    fn instances(&self, model: &Arc<dyn Model>, count: usize) -> Result<Vec<Box<dyn Instance>>, String> {
        let factory = factory(model.clone(), self.signature.clone(), Device::Cpu);
        let made = (0..count).map(|_| factory()).collect::<Result<_, _>>();
        made.map_err(|error| error.to_string())
    }

    fn single_model(&self) -> Result<Arc<dyn Model>, String> {
        let gone = || "it was unloaded".to_owned();
        let serving = self.running.upgrade().ok_or_else(gone)?.load().model.clone();
        let loaded = self
            .runtime
            .load(&self.single)
            .map_err(|error| error.to_string())?;
        // Never other weights under the same version: the file must be the one that was loaded.
        let same = self.artifact == Artifact::of(&self.single.path, self.cores);
        if !same || loaded.signature() != serving.signature() {
            return Err("its file has changed since it was loaded".to_owned());
        }
        Ok(loaded.into())
    }

    fn measure(&self) -> Result<Rates, String> {
        let gone = || "it was unloaded".to_owned();
        let model = self.running.upgrade().ok_or_else(gone)?.load().model.clone();
        let mut shared = self.instances(&model, 1)?;
        let mut single = self.instances(&self.single_model()?, self.cores)?;
        let max_rows = if self.options.merge {
            self.options.max_rows
        } else {
            1
        };
        compare(&self.signature, &mut shared, &mut single, max_rows, &|| {
            self.running.strong_count() > 0
        })
    }

    /// Instances of one thread each, warmed up, in place of the one there is.
    fn adopt(&self, how: String) -> Result<(), String> {
        let (model, instances) = priority::lowered("calibrate", || {
            let model = self.single_model()?;
            let mut instances = self.instances(&model, self.cores)?;
            for instance in &mut instances {
                warm_up::run(&self.signature, &self.warmup, &self.directory, &mut **instance)?;
            }
            Ok::<_, String>((model, instances))
        })
        .map_err(|error| error.to_string())??;
        let batcher = Batcher::start(
            self.signature.clone(),
            instances,
            factory(model.clone(), self.signature.clone(), Device::Cpu),
            self.options.clone(),
            self.observer.clone(),
        )
        .map_err(|error| error.to_string())?;
        let new = Arc::new(Running::new(batcher, model));
        new.note(how);
        if let Some(running) = self.running.upgrade() {
            drop_alone(running.swap(new));
        }
        Ok(())
    }
}

/// The thread that measures, one version after the other. Dropping it ends the thread after what it is at.
pub(super) struct Calibrator {
    queue: Option<SyncSender<Candidate>>,
    thread: Option<JoinHandle<()>>,
}

impl Calibrator {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, turns) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("calibrate".to_owned())
            .spawn(move || run(&turns))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Queues a version that is about to be ready.
    pub(super) fn submit(&self, candidate: Candidate) {
        let name = candidate.name.clone();
        if let Some(queue) = &self.queue
            && queue.try_send(candidate).is_err()
        {
            tracing::debug!(model = %name, "not calibrated: too many models wait for it");
        }
    }
}

impl Drop for Calibrator {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the calibration thread panicked");
        }
    }
}

fn run(turns: &Receiver<Candidate>) {
    let mut known: HashMap<Artifact, Rates> = HashMap::new();
    while let Ok(candidate) = turns.recv() {
        // A model that panics on made-up inputs ends its own calibration only.
        let calibrated = catch_unwind(AssertUnwindSafe(|| calibrate(&candidate, &mut known)))
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        if let Err(reason) = calibrated {
            let Candidate { name, version, .. } = &candidate;
            tracing::debug!(model = %name, version, reason, "not calibrated");
        }
    }
}

fn calibrate(candidate: &Candidate, known: &mut HashMap<Artifact, Rates>) -> Result<(), String> {
    let due = candidate.loaded + SETTLED;
    loop {
        if candidate.running.strong_count() == 0 {
            return Err("it was unloaded".to_owned());
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::park_timeout(left.min(LOOK));
    }
    let artifact = candidate.artifact.clone();
    let rates = match artifact.as_ref().and_then(|artifact| known.get(artifact)) {
        Some(&rates) => rates,
        None => {
            let measured = priority::lowered("calibrate", || candidate.measure());
            measured.map_err(|error| error.to_string())??
        }
    };
    if let Some(artifact) = artifact {
        known.insert(artifact, rates);
    }
    let Candidate {
        name, version, cores, ..
    } = candidate;
    let instances = if rates.prefer_single() { *cores } else { 1 };
    let Rates { shared, single } = rates;
    tracing::info!(model = %name, version, instances, shared, single, "calibrated");
    let how = format!(
        "{instances} of {} by calibration: one instance {shared:.0} rows/s, {cores} of one thread each {single:.0}",
        if instances > 1 {
            "one thread each"
        } else {
            "all threads"
        },
    );
    if rates.prefer_single() {
        candidate.adopt(how)
    } else {
        if let Some(running) = candidate.running.upgrade() {
            running.load().note(how);
        }
        Ok(())
    }
}

/// Measures both ways in turn, and takes the median of each.
///
/// Errors: the model does not run made-up inputs; it was unloaded (`wanted` says no).
fn compare(
    signature: &ModelSignature,
    shared: &mut [Box<dyn Instance>],
    single: &mut [Box<dyn Instance>],
    max_rows: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Rates, String> {
    let sizes: Vec<usize> = ROWS.into_iter().filter(|&rows| rows <= max_rows.max(1)).collect();
    let samples: Vec<(usize, Vec<Tensor>)> = sizes
        .into_iter()
        .map(|rows| Ok((rows, inputs(signature, rows, &mut *shared[0])?)))
        .collect::<Result<_, String>>()?;
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (rates, instances) in rounds.iter_mut().zip([&mut *shared, &mut *single]) {
            let mut best = 0.0f64;
            for (rows, inputs) in &samples {
                if !wanted() {
                    return Err("it was unloaded".to_owned());
                }
                best = best.max(rows_per_second(signature, instances, inputs, *rows)?);
            }
            rates.push(best);
        }
    }
    let [shared, single] = rounds.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    Ok(Rates { shared, single })
}

/// Inputs that the model accepts.
fn inputs(
    signature: &ModelSignature,
    rows: usize,
    instance: &mut dyn Instance,
) -> Result<Vec<Tensor>, String> {
    let mut refused = String::new();
    for variable in VARIABLE_SIZES {
        let made = signature.inputs.iter();
        let made: Vec<Tensor> = made
            .map(|spec| sample::tensor(spec, signature.batched, rows, variable, Fill::Random(1)))
            .collect();
        match once(signature, instance, &made) {
            Ok(()) => return Ok(made),
            Err(reason) => refused = reason,
        }
    }
    Err(refused)
}

fn once(signature: &ModelSignature, instance: &mut dyn Instance, inputs: &[Tensor]) -> Result<(), String> {
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|tensor| Some(tensor.view())).collect();
    let mut outputs = Outputs::all(signature.outputs.len());
    instance
        .run(&views, &mut outputs)
        .map_err(|error| error.to_string())
}

/// Runs all instances side by side for a slice of time.
fn rows_per_second(
    signature: &ModelSignature,
    instances: &mut [Box<dyn Instance>],
    inputs: &[Tensor],
    rows: usize,
) -> Result<f64, String> {
    let start = Instant::now();
    let runs = std::thread::scope(|scope| {
        // Threads of a lowered one are as low.
        let threads: Vec<_> = instances
            .iter_mut()
            .map(|instance| {
                scope.spawn(move || {
                    let mut runs = 0u32;
                    while runs == 0 || (runs < ENOUGH_RUNS && start.elapsed() < SLICE) {
                        once(signature, &mut **instance, inputs)?;
                        runs += 1;
                    }
                    Ok(runs)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let panicked = |_| Err("the model panicked".to_owned());
            thread.join().unwrap_or_else(panicked)
        });
        // All are joined, whatever the first of them says.
        let joined: Vec<Result<u32, String>> = joined.collect();
        joined.into_iter().sum::<Result<u32, String>>()
    })?;
    let rows = f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
    Ok(f64::from(runs) * rows / start.elapsed().as_secs_f64())
}

/// Drops `old`, which joins its threads, once no request holds it any more: each does for as long as submitting takes.
fn drop_alone(mut old: Arc<Running>) {
    loop {
        match Arc::try_unwrap(old) {
            Ok(last) => return drop(last),
            Err(shared) => old = shared,
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests;
