//! Releases: a new version of a model gets a share of the requests, is judged by what they show, and takes the place
//! of the live version or is sent back.
//!
//! `record` is what is written down and what follows from it, `log` where, `tally` how requests are counted without
//! waiting, `desk` the one place where a release of a model moves on, `control` what people may ask for. `examination`
//! is the gates before traffic, one file each; `gating` runs them for a release, `rehearsal` repeats one on the live
//! version, and `report` is what they said. What is decided, and when, is `models/rollout`'s.
//!
//! What is absent: no request waits for anything here. A look holds the lock of one model's desk, for as long as a
//! file takes to be synced; requests only read the route table and send a count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossfade_models::{Conductor, Found, Registry, RegistryError};

use crate::metrics::Released;
use crate::servable::ServableLoader;

pub mod audited;
pub mod control;
mod desk;
mod digest;
mod log;
mod record;
mod tally;

mod asker;
mod closed_load;
pub(crate) mod examination;
mod gating;
mod golden;
pub(crate) mod history;
mod prediction;
mod quality;
mod rehearsal;
pub(crate) mod report;

mod world;

use desk::Desk;
use rehearsal::{Rehearsal, Stage};
pub(crate) use tally::Count;
use world::World;

/// The releases of all models.
pub struct Releases {
    world: World,
    desks: Mutex<BTreeMap<Arc<str>, Arc<Mutex<Desk>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where known answers are asked for again.
    stage: Mutex<Stage>,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Releases {
    /// Releases whose state lies in a data folder; nothing is written before a model is released.
    pub fn new(data_dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            world: World::new(data_dir.join("state").join("rollout")),
            desks: Mutex::default(),
            thread: Mutex::default(),
            stage: Mutex::default(),
            stop: Arc::default(),
        })
    }

    /// Makes the registry known; before it starts.
    pub(crate) fn attach(&self, registry: &Arc<Registry<ServableLoader>>) {
        self.world.attach(registry);
    }

    /// Starts to look at releases this often, on the thread `releases`, until [`close`](Self::close).
    pub fn start(self: &Arc<Self>, every: Duration) {
        let (releases, stop) = (Arc::downgrade(self), self.stop.clone());
        let body = move || {
            let mut before = Instant::now();
            while !stopped_within(&stop, every) {
                let Some(releases) = releases.upgrade() else {
                    return;
                };
                let now = Instant::now();
                releases.look(now - before);
                before = now;
            }
        };
        match Builder::new().name("releases".to_owned()).spawn(body) {
            Ok(thread) => *lock(&self.thread) = Some(thread),
            Err(error) => tracing::error!(%error, "nobody looks at releases"),
        }
    }

    /// Looks at every active release once.
    ///
    /// * `served`: serving time since the last look
    pub fn look(&self, served: Duration) {
        let desks: Vec<_> = lock(&self.desks).values().cloned().collect();
        for desk in desks {
            lock(&desk).look(&self.world, served, now());
            let mut stage = lock(&self.stage);
            // While one is on its way, the others stay due.
            let free = stage.is_free();
            let due = lock(&desk).rehearse(&self.world, served, free);
            if let Some(rehearsal) = due {
                self.repeat(&mut stage, desk, rehearsal);
            }
        }
    }

    /// Asks the live version for its known answers again, beside its requests.
    fn repeat(&self, stage: &mut Stage, desk: Arc<Mutex<Desk>>, rehearsal: Rehearsal) {
        let stop = self.world.stop.clone();
        let version = rehearsal.servable.version();
        let begun = stage.begin(
            move || rehearsal.run(&stop),
            move |found| lock(&desk).rehearsed(version, found),
        );
        if let Err(error) = begun {
            tracing::error!(%error, "known answers are not asked for again");
        }
    }

    /// Ends the gates that run, so that nobody has to wait for them; before the registry stops.
    pub(crate) fn interrupt(&self) {
        self.world.stop.store(true, Relaxed);
        lock(&self.stage).end();
    }

    /// Ends the looks and keeps what was counted, so that the next start goes on from here.
    pub fn close(&self) {
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks at releases had panicked");
        }
        let desks = std::mem::take(&mut *lock(&self.desks));
        for desk in desks.into_values() {
            lock(&desk).close();
        }
    }

    /// Counts a request of a release. Never waits.
    pub(crate) fn count(&self, release: &str, count: Count) {
        self.world.count(release, count);
    }

    /// What a scrape shows.
    pub(crate) fn values(&self) -> Vec<Released> {
        let desks: Vec<_> = lock(&self.desks).values().cloned().collect();
        desks.iter().map(|desk| lock(desk).values()).collect()
    }

    fn desk(&self, model: &str) -> Option<Arc<Mutex<Desk>>> {
        lock(&self.desks).get(model).cloned()
    }

    /// The desk of a model, opened if need be.
    fn open(&self, found: &Found<'_>) -> Result<Arc<Mutex<Desk>>, RegistryError> {
        let mut desks = lock(&self.desks);
        if let Some(desk) = desks.get(found.model) {
            return Ok(desk.clone());
        }
        let desk = Desk::open(&self.world, found.model, found.policy, now());
        let desk = desk.map_err(|reason| RegistryError::LoadFailed {
            model: found.model.to_owned(),
            reason: format!("the state of its releases cannot be used: {reason}"),
        })?;
        let desk = Arc::new(Mutex::new(desk));
        desks.insert(found.model.into(), desk.clone());
        Ok(desk)
    }
}

impl Conductor for Releases {
    fn plan(&self, found: &Found<'_>) -> Result<Option<Vec<u64>>, RegistryError> {
        if !found.policy.is_active() {
            let desk = lock(&self.desks).remove(found.model);
            if let Some(desk) = desk {
                tracing::info!(model = found.model, "its versions are not released any more");
                lock(&desk).close();
                self.world.divide(found.model, None);
            }
            return Ok(None);
        }
        let desk = self.open(found)?;
        let wanted = lock(&desk).plan(&self.world, found, now());
        wanted.map(Some)
    }

    fn settled(&self, model: &str, live: &BTreeSet<u64>) {
        let Some(desk) = self.desk(model) else {
            return;
        };
        lock(&desk).settled(&self.world, live, now());
        // The desk stays free while the gates run, which may take long.
        let gating = lock(&desk).gating();
        if let Some(gating) = gating {
            // Those that the end of the process cuts off run again at the next start.
            if let Some(examined) = gating.run(&self.world) {
                lock(&desk).gated(&self.world, &gating, &examined, now());
            }
        }
    }
}

/// Waits; true once it is over.
fn stopped_within(stop: &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let (stopped, told) = stop;
    let waited = told.wait_timeout_while(lock(stopped), time, |stopped| !*stopped);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// A poisoned lock only means that another thread panicked between two consistent states.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
