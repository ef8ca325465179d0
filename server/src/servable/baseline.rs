//! A baseline: instances of their own for a part of a version's requests.
//!
//! A version that gets a tenth of the requests has smaller batches than the live version and nearly always finds it at work
//! beside it, which the live version itself mostly does not: of two equal versions the one with fewer requests takes longer. So
//! the time of a version that is being released is compared with that of as many requests of the live version, run in the same
//! way but on the live version's weights, which are there once (rollout.md §5.4; docs/statistics.md).

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossfade_batcher::{Batcher, BatcherOptions, Observer};
use crossfade_models::config::Warmup;
use crossfade_runtimes_core::{Device, Instance, ModelSignature};

use super::loader::{factory, guarded};
use super::{Running, Servable, drop_alone, priority, warm_up};

/// How long one that could not be made is not tried again; twice as long after each further time, up to [`LONGEST`].
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(480);

/// What a version's baseline is made of, and the baseline while there is one.
pub(super) struct Baseline {
    /// How the version runs; the baseline runs in the same way.
    pub(super) running: Weak<ArcSwap<Running>>,
    pub(super) signature: Arc<ModelSignature>,
    pub(super) warmup: Vec<Warmup>,
    pub(super) devices: Vec<Device>,
    /// The model's, with the data of its warm-up.
    pub(super) directory: PathBuf,
    pub(super) options: BatcherOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) kept: Kept,
}

/// Whether there is a baseline.
#[derive(Default)]
pub(super) struct Kept {
    batcher: ArcSwapOption<Batcher>,
    wish: Mutex<Wish>,
    changed: Condvar,
}

#[derive(Default)]
struct Wish {
    wanted: bool,
    /// The thread that makes it, and takes it away once it is not wanted any more.
    keeper: Option<JoinHandle<()>>,
    /// Whether that thread looks at no wish any more.
    is_over: bool,
    /// Why there was none to be had.
    failed: Option<Failed>,
}

struct Failed {
    why: String,
    times: u32,
    again: Instant,
}

impl Servable {
    /// Where requests of the baseline go, while there is one that can answer.
    pub(crate) fn baseline(&self) -> Option<Arc<Batcher>> {
        let baseline = self.baseline.kept.batcher.load_full();
        baseline.filter(|batcher| batcher.healthy_instances() > 0)
    }

    /// Has a baseline kept, or none. Returns at once: it is made on a thread of its own. One that could not be made is tried
    /// again by later calls, half a minute apart and then ever longer.
    pub(crate) fn keep_baseline(&self, wanted: bool) {
        self.baseline.keep(wanted);
    }

    /// Why there is no baseline although one is wanted, if it could not be made.
    pub(crate) fn baseline_failure(&self) -> Option<String> {
        let wish = self.baseline.kept.wish();
        let failed = wish.failed.as_ref().filter(|_| wish.wanted);
        failed.map(|failed| failed.why.clone())
    }
}

impl Drop for Servable {
    /// Waits for the baseline's threads, as for the version's own.
    fn drop(&mut self) {
        self.baseline.end();
    }
}

impl Kept {
    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until none is wanted.
    fn wait(&self) {
        let wish = self.changed.wait_while(self.wish(), |wish| wish.wanted);
        drop(wish.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Baseline {
    /// Requests that wait for it.
    pub(super) fn depth(&self) -> usize {
        self.kept
            .batcher
            .load()
            .as_ref()
            .map_or(0, |batcher| batcher.depth())
    }

    fn keep(self: &Arc<Self>, wanted: bool) {
        let mut wish = self.kept.wish();
        wish.wanted = wanted;
        if !wanted {
            wish.failed = None;
            self.kept.changed.notify_all();
            return;
        }
        if wish
            .keeper
            .as_ref()
            .is_some_and(|keeper| !wish.is_over && !keeper.is_finished())
        {
            return;
        }
        // It holds no lock any more and is about to end, or has.
        if wish.keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            self.fail(&mut wish, "its thread panicked".to_owned());
        }
        if wish
            .failed
            .as_ref()
            .is_some_and(|failed| Instant::now() < failed.again)
        {
            return;
        }
        let this = self.clone();
        let started = std::thread::Builder::new()
            .name(self.options.name.to_string())
            .spawn(move || this.settle());
        match started {
            Ok(keeper) => (wish.keeper, wish.is_over) = (Some(keeper), false),
            Err(error) => self.fail(&mut wish, format!("cannot start its thread: {error}")),
        }
    }

    /// Has none kept, for good, and waits for its threads.
    fn end(self: &Arc<Self>) {
        self.keep(false);
        let keeper = self.kept.wish().keeper.take();
        if keeper.is_some_and(|keeper| keeper.join().is_err()) {
            tracing::error!(model = %self.options.name, "the thread that keeps a baseline panicked");
        }
    }

    /// Makes it and takes it away, until none is wanted or none can be had. Nothing is dropped under the lock.
    fn settle(&self) {
        loop {
            match self.make() {
                Ok(Some(batcher)) if self.kept.wish().wanted => {
                    tracing::debug!(model = %self.options.name, "a baseline for the version that is being released");
                    self.kept.wish().failed = None;
                    self.kept.batcher.store(Some(Arc::new(batcher)));
                    self.kept.wait();
                    if let Some(batcher) = self.kept.batcher.swap(None) {
                        drop_alone(batcher);
                    }
                }
                Err(reason) => {
                    let mut wish = self.kept.wish();
                    if wish.wanted {
                        wish.is_over = true;
                        return self.fail(&mut wish, reason);
                    }
                }
                // Nobody wants it any more.
                Ok(_) => {}
            }
            let mut wish = self.kept.wish();
            wish.is_over = !wish.wanted;
            if wish.is_over {
                return;
            }
        }
    }

    fn fail(&self, wish: &mut Wish, why: String) {
        let times = wish
            .failed
            .as_ref()
            .map_or(1, |failed| failed.times.saturating_add(1));
        let pause = PAUSE.saturating_mul(1 << (times - 1).min(10)).min(LONGEST);
        tracing::warn!(
            model = %self.options.name, reason = why, again_s = pause.as_secs(),
            "no baseline for the version that is being released: their latencies are not compared"
        );
        let again = Instant::now() + pause;
        wish.failed = Some(Failed { why, times, again });
    }

    /// As many instances as the version has, of the same weights, warmed up; nothing if it is not wanted any more.
    fn make(&self) -> Result<Option<Batcher>, String> {
        let running = self.running.upgrade().ok_or("the version was unloaded")?;
        let (model, count) = {
            let running = running.load();
            (running.model.clone(), running.instances)
        };
        drop(running);
        let factory = factory(model, self.signature.clone(), &self.devices);
        let mut instances: Vec<Box<dyn Instance>> = Vec::new();
        let is_wanted = || self.kept.wish().wanted;
        let make = || {
            guarded(|| {
                while instances.len() < count && is_wanted() {
                    let mut instance = factory().map_err(|error| error.to_string())?;
                    if is_wanted() {
                        warm_up::run(&self.signature, &self.warmup, &self.directory, &mut *instance)?;
                        instances.push(instance);
                    }
                }
                Ok(())
            })
        };
        priority::lowered(&format!("load {}", self.options.name), make)
            .map_err(|error| format!("cannot start a load thread: {error}"))??;
        if instances.len() < count {
            return Ok(None);
        }
        // On this thread, at ordinary priority: instance threads inherit it.
        let (signature, options) = (self.signature.clone(), self.options.clone());
        let batcher = Batcher::start(signature, instances, factory, options, self.observer.clone());
        batcher.map(Some).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
