//! How many instances of how many threads give a model the most rows per second: found out once it is ready, and again
//! when requests show that it was wrong.
//!
//! Two ways are compared: one instance that spreads a run over the threads that all models share, and one instance
//! per core, each run on its own thread alone. Neither is better for all models (docs/benchmarks.md, "The push").
//! A version is measured in a quiet moment ([`quiet`]); if there is none, later. Under requests that leave its instances no
//! pause, the two ways serve in turn for some seconds ([`trial`]). What was found is kept by model file ([`store`]). A new
//! version begins in the way of the one before it, and while two versions are compared both stay as they are: else the
//! comparison would be one of ways.

mod choice;
mod meter;
mod quiet;
mod store;
mod trial;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossfade_batcher::{Batcher, BatcherOptions, Observer};
use crossfade_models::config::Warmup;
use crossfade_runtimes_core::{Device, Instance, Model, ModelSignature, ModelSource, Runtime};

use super::loader::factory;
use super::{Running, drop_alone, priority, warm_up};
pub(super) use choice::Way;
use choice::{Choice, Judgement};
pub(super) use meter::Meter;
pub(super) use store::{Artifact, Known, Store};

/// How long a version must have been there: one that comes and goes is not worth a second copy of its weights.
const SETTLED: Duration = Duration::from_secs(2);
/// Between two looks at what is due, and at how busy versions are.
const LOOK: Duration = Duration::from_millis(250);
/// Looks in a row at which a version was busy, before both ways serve in turn.
const BUSY_LOOKS: u32 = 3;
/// After a disturbed measurement: twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// After a choice by served requests until the next: twice as long each time, up to the second.
const RECHECK: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(6 * 3600));
/// Versions that wait to be looked at; one that finds no place stays as it is.
const WAITING: usize = 1024;

/// The first of `bounds`, doubled for each of the `times` before, up to the second.
fn backoff(bounds: (Duration, Duration), times: u32) -> Duration {
    bounds.0.saturating_mul(1 << times.min(16)).min(bounds.1)
}

/// A loaded version that may run otherwise than it does.
pub(super) struct Candidate {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// How it runs; gone once the version is.
    pub(super) running: Weak<ArcSwap<Running>>,
    pub(super) runtime: Arc<dyn Runtime>,
    /// Gives a model whose runs use the threads that all share.
    pub(super) shared: ModelSource,
    /// Gives a model whose runs stay on their calling threads.
    pub(super) single: ModelSource,
    /// What was known of its file before it was loaded.
    pub(super) known: Option<Known>,
    /// How it runs once it is loaded.
    pub(super) begins: Way,
    /// Whether it stays as it is for now: it is compared with another version.
    pub(super) rests: Arc<AtomicBool>,
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
    fn running(&self) -> Result<Arc<ArcSwap<Running>>, String> {
        self.running.upgrade().ok_or_else(|| "it was unloaded".to_owned())
    }

    fn instances(&self, model: &Arc<dyn Model>, way: Way) -> Result<Vec<Box<dyn Instance>>, String> {
        let count = match way {
            Way::Shared => 1,
            Way::Single => self.cores,
        };
        let factory = factory(model.clone(), self.signature.clone(), &[Device::Cpu]);
        let made = (0..count).map(|_| factory()).collect::<Result<_, _>>();
        made.map_err(|error| error.to_string())
    }

    /// The model, loaded once more for `way`.
    fn model(&self, way: Way) -> Result<Arc<dyn Model>, String> {
        let serving = self.running()?.load().model.clone();
        let source = match way {
            Way::Shared => &self.shared,
            Way::Single => &self.single,
        };
        let loaded = self.runtime.load(source).map_err(|error| error.to_string())?;
        // Never other weights under the same version: the file must be the one that was loaded.
        let same = self.artifact.as_ref().is_some_and(Artifact::is_current);
        if !same || loaded.signature() != serving.signature() {
            return Err("its file has changed since it was loaded".to_owned());
        }
        Ok(loaded.into())
    }

    /// Measures a version that runs in `way`, on instances of its own.
    fn measure(&self, way: Way) -> Result<Judgement, String> {
        let serving = self.running()?.load().model.clone();
        let other = self.model(way.other())?;
        let (shared, single) = match way {
            Way::Shared => (&serving, &other),
            Way::Single => (&other, &serving),
        };
        let mut shared = self.instances(shared, Way::Shared)?;
        let mut single = self.instances(single, Way::Single)?;
        let max_rows = if self.options.merge {
            self.options.max_rows
        } else {
            1
        };
        let wanted = || self.running.strong_count() > 0;
        quiet::measure(way, &self.signature, &mut shared, &mut single, max_rows, &wanted)
    }

    /// The version in `way`, warmed up, beside the one that serves. Loads at the lowest priority.
    fn make(&self, way: Way) -> Result<Arc<Running>, String> {
        let (model, instances) = priority::lowered("calibrate", || {
            let model = self.model(way)?;
            let mut instances = self.instances(&model, way)?;
            for instance in &mut instances {
                warm_up::run(&self.signature, &self.warmup, &self.directory, &mut **instance)?;
            }
            Ok::<_, String>((model, instances))
        })
        .map_err(|error| error.to_string())??;
        let count = instances.len();
        let meter = Arc::new(Meter::new(self.observer.clone()));
        let batcher = Batcher::start(
            self.signature.clone(),
            instances,
            factory(model.clone(), self.signature.clone(), &[Device::Cpu]),
            self.options.clone(),
            meter.clone(),
        )
        .map_err(|error| error.to_string())?;
        Ok(Arc::new(Running::new(batcher, model, meter, count)))
    }

    /// What `/config` says of a choice.
    fn says(&self, known: Known, basis: &str) -> String {
        let Self { cores, .. } = self;
        let Known { shared, single, .. } = known;
        let chosen = match known.way {
            Way::Shared => "1 of all threads".to_owned(),
            Way::Single => format!("{cores} of one thread each"),
        };
        format!(
            "{chosen} by calibration: one instance {shared:.0} rows/s, {cores} of one thread each {single:.0} ({basis})"
        )
    }
}

/// A version, and how far calibration is with it.
struct Entry {
    candidate: Candidate,
    way: Way,
    /// Whether the way it runs was chosen; otherwise it is the one that versions begin with.
    chosen: bool,
    /// Disturbed measurements so far, and when the next may be.
    attempts: u32,
    quiet_after: Instant,
    /// Choices by served requests, failures to make one since, and when the next may be.
    trials: u32,
    failed_trials: u32,
    trial_after: Instant,
    looked: Instant,
    /// Looks in a row at which no instance was idle.
    busy_looks: u32,
}

impl Entry {
    fn new(candidate: Candidate) -> Self {
        let known = candidate.known;
        if let (Some(known), Some(running)) = (known, candidate.running.upgrade()) {
            running.load().chose(candidate.says(known, "found before"));
        }
        let settled = candidate.loaded + SETTLED;
        let served = known.is_some_and(|known| known.served);
        Self {
            way: candidate.begins,
            chosen: known.is_some(),
            attempts: 0,
            quiet_after: settled,
            trials: u32::from(served),
            failed_trials: 0,
            trial_after: if served { settled + RECHECK.0 } else { settled },
            looked: candidate.loaded,
            busy_looks: 0,
            candidate,
        }
    }

    /// Does what is due.
    ///
    /// Errors: why nothing more can be found out about this version.
    fn step(&mut self, store: &Store) -> Result<(), String> {
        if self.candidate.rests.load(Relaxed) {
            // Gone meanwhile?
            self.candidate.running()?;
            self.busy_looks = 0;
            return Ok(());
        }
        let now = Instant::now();
        if self.is_busy(now)? && now >= self.trial_after {
            let judged = trial::run(&self.candidate, self.way)?;
            self.busy_looks = 0;
            return self.tried(judged, store);
        }
        if self.chosen || now < self.quiet_after {
            return Ok(());
        }
        let found = self
            .candidate
            .artifact
            .as_ref()
            .and_then(|found| store.get(found));
        if let Some(known) = found {
            return self.choose(known, "found before");
        }
        let (candidate, way) = (&self.candidate, self.way);
        let measured = priority::lowered("calibrate", || match quiet::is_quiet(candidate.cores) {
            true => candidate.measure(way),
            false => Ok(Judgement::Disturbed),
        });
        let judged = measured.map_err(|error| error.to_string())??;
        self.measured(judged, store)
    }

    /// Looks, not too often, whether its instances have no pause, for some looks in a row.
    fn is_busy(&mut self, now: Instant) -> Result<bool, String> {
        if now.saturating_duration_since(self.looked) >= LOOK {
            self.looked = now;
            let cell = self.candidate.running()?;
            let running = cell.load();
            // One instance may be kept busy by one client that waits for each answer.
            let several = running.instances > 1 || running.batcher.depth() > 0;
            let busy = several && running.batcher.is_busy();
            self.busy_looks = if busy { self.busy_looks + 1 } else { 0 };
        }
        Ok(self.busy_looks >= BUSY_LOOKS)
    }

    /// What a measurement on made-up inputs leads to. A disturbed one is not kept.
    fn measured(&mut self, judged: Judgement, store: &Store) -> Result<(), String> {
        let Judgement::Chosen(choice) = judged else {
            let pause = backoff(PAUSE, self.attempts);
            self.attempts += 1;
            self.quiet_after = Instant::now() + pause;
            let attempts = self.attempts;
            self.candidate.running()?.load().waits(format!(
                "not calibrated yet: other load on the cores at each of {attempts} attempts; the next in {pause:?}, or \
                 under full load"
            ));
            return Ok(());
        };
        let known = self.keep(choice, false, store);
        if self.candidate.rests.load(Relaxed) {
            // It began to be compared with another version meanwhile: this is found again when that is over.
            return Ok(());
        }
        self.choose(known, &format!("{} quiet rounds", choice.rounds))
    }

    /// What a trial leads to: the version already runs in the way that was chosen.
    fn tried(&mut self, judged: Judgement, store: &Store) -> Result<(), String> {
        let now = Instant::now();
        let Judgement::Chosen(choice) = judged else {
            self.trial_after = now + backoff(PAUSE, self.failed_trials);
            self.failed_trials += 1;
            let (name, version) = (&self.candidate.name, self.candidate.version);
            tracing::debug!(model = %name, version, "both ways served in turn, but not under full load");
            return Ok(());
        };
        self.trial_after = now + backoff(RECHECK, self.trials);
        self.trials += 1;
        self.failed_trials = 0;
        let known = self.keep(choice, true, store);
        self.way = known.way;
        self.choose(known, &format!("{} rounds under load", choice.rounds))
    }

    fn keep(&self, choice: Choice, served: bool, store: &Store) -> Known {
        let known = Known::new(choice, served);
        if let Some(artifact) = &self.candidate.artifact {
            store.put(artifact.clone(), known);
        }
        known
    }

    /// Changes over if it has to, and says so.
    fn choose(&mut self, known: Known, basis: &str) -> Result<(), String> {
        let candidate = &self.candidate;
        if known.way != self.way {
            let made = candidate.make(known.way)?;
            drop_alone(candidate.running()?.swap(made));
        }
        (self.way, self.chosen) = (known.way, true);
        let cell = candidate.running()?;
        let running = cell.load();
        let (name, version, instances) = (&candidate.name, candidate.version, running.instances);
        let Known { shared, single, .. } = known;
        tracing::info!(model = %name, version, instances, shared, single, basis, "calibrated");
        running.chose(candidate.says(known, basis));
        Ok(())
    }
}

/// The thread that measures, one version after the other. Dropping it ends the thread after what it is at.
pub(super) struct Calibrator {
    queue: Option<SyncSender<Candidate>>,
    thread: Option<JoinHandle<()>>,
    store: Arc<Store>,
}

impl Calibrator {
    /// Starts the thread.
    ///
    /// * `kept`: the file that holds what was found
    pub(super) fn start(kept: PathBuf) -> std::io::Result<Self> {
        let store = Arc::new(Store::open(kept));
        let (queue, turns) = sync_channel(WAITING);
        let known = store.clone();
        let thread = std::thread::Builder::new()
            .name("calibrate".to_owned())
            .spawn(move || run(&turns, &known))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            store,
        })
    }

    /// What was found of an artifact before.
    pub(super) fn known(&self, artifact: &Artifact) -> Option<Known> {
        self.store.get(artifact)
    }

    /// How an artifact of which nothing was found begins: as the model's last version did best.
    pub(super) fn begins(&self, artifact: &Artifact) -> Way {
        self.store.way_of_kin(artifact).unwrap_or(Way::Shared)
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

fn run(turns: &Receiver<Candidate>, store: &Store) {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        // Versions are there until they are unloaded; with none there is nothing to look at.
        let next = if entries.is_empty() {
            turns.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            turns.recv_timeout(LOOK)
        };
        match next {
            Ok(candidate) => entries.push(Entry::new(candidate)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return store.save(),
        }
        entries.extend(turns.try_iter().map(Entry::new));
        entries.retain_mut(|entry| {
            // A model that panics on made-up inputs ends its own calibration only.
            let stepped = catch_unwind(AssertUnwindSafe(|| entry.step(store)))
                .unwrap_or_else(|_| Err("it panicked".to_owned()));
            if let Err(reason) = &stepped {
                let Candidate { name, version, .. } = &entry.candidate;
                tracing::debug!(model = %name, version, reason, "not calibrated any more");
            }
            stepped.is_ok()
        });
        store.save();
    }
}

#[cfg(test)]
mod tests;
