//! A baseline: instances of their own for a part of a version's requests.
//!
//! A version that gets a tenth of the requests finds colder caches and smaller batches, and nearly always the live version at
//! work beside it, which the live version itself mostly does not: of two equal versions the one with fewer requests takes
//! longer. So the time of a version that is being released is compared with that of as many requests of the live version, run
//! in the same way (rollout.md §5.4; docs/statistics.md).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossfade_batcher::{Batcher, BatcherOptions, Observer};
use crossfade_models::config::Warmup;
use crossfade_runtimes_core::{Device, ModelSignature};

use super::loader::{factory, guarded};
use super::{Running, Servable, drop_alone, warm_up};

/// What a version's baseline is made of, and the baseline while there is one.
pub(super) struct Baseline {
    /// How the version runs; the baseline runs in the same way.
    pub(super) running: Weak<ArcSwap<Running>>,
    pub(super) signature: Arc<ModelSignature>,
    pub(super) warmup: Vec<Warmup>,
    pub(super) device: Device,
    /// The model's, with the data of its warm-up.
    pub(super) directory: PathBuf,
    pub(super) options: BatcherOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) kept: Kept,
}

/// Whether there is a baseline.
#[derive(Default)]
pub(super) struct Kept {
    wanted: AtomicBool,
    batcher: ArcSwapOption<Batcher>,
    /// Held by the thread that makes it or takes it away.
    turn: Mutex<()>,
}

impl Servable {
    /// Where requests of the baseline go, while there is one that can answer.
    pub(crate) fn baseline(&self) -> Option<Arc<Batcher>> {
        let baseline = self.baseline.kept.batcher.load_full();
        baseline.filter(|batcher| batcher.healthy_instances() > 0)
    }

    /// Has a baseline kept, or none. Returns at once: it is made on a thread of its own, and one that cannot be made is logged
    /// and not tried again while it is wanted.
    pub(crate) fn keep_baseline(&self, wanted: bool) {
        self.baseline.keep(wanted);
    }
}

impl Baseline {
    fn keep(self: &Arc<Self>, wanted: bool) {
        if self.kept.wanted.swap(wanted, SeqCst) == wanted {
            return;
        }
        let name = &self.options.name;
        let this = self.clone();
        let started = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || this.settle());
        if let Err(error) = started {
            tracing::error!(model = %name, %error, "no thread for a baseline: latencies are not compared");
        }
    }

    /// Makes it or takes it away, until it is as it is wanted.
    fn settle(&self) {
        let _turn = self.kept.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.kept.wanted.load(SeqCst) {
            if let Some(batcher) = self.kept.batcher.swap(None) {
                drop_alone(batcher);
            }
            return;
        }
        if self.kept.batcher.load().is_some() {
            return;
        }
        let name = &self.options.name;
        match self.make() {
            // Whoever wants none any more waits for its turn.
            Ok(batcher) => {
                tracing::debug!(model = %name, "a baseline for the version that is being released");
                self.kept.batcher.store(Some(Arc::new(batcher)));
            }
            Err(reason) => tracing::warn!(
                model = %name, reason,
                "no baseline for the version that is being released: their latencies are not compared"
            ),
        }
    }

    /// As many instances as the version has, of the same weights, warmed up.
    fn make(&self) -> Result<Batcher, String> {
        let running = self.running.upgrade().ok_or("the version was unloaded")?;
        let (model, count) = {
            let running = running.load();
            (running.model.clone(), running.instances)
        };
        drop(running);
        let factory = factory(model, self.signature.clone(), self.device);
        let mut instances = Vec::new();
        guarded(|| {
            for _ in 0..count {
                let mut instance = factory().map_err(|error| error.to_string())?;
                warm_up::run(&self.signature, &self.warmup, &self.directory, &mut *instance)?;
                instances.push(instance);
            }
            Ok(())
        })?;
        Batcher::start(
            self.signature.clone(),
            instances,
            factory,
            self.options.clone(),
            self.observer.clone(),
        )
        .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
