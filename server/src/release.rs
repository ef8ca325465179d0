//! Releases: a new version of a model gets a share of the requests, is judged by what they show, and takes the place
//! of the live version or is sent back.
//!
//! `record` is what is written down and what follows from it, `log` where, `trail` what the audit says of it, `tally` how requests are counted without
//! waiting, `decision` and `outputs` how answers are read and compared, `shadow` copies of requests, `silence`
//! versions that hang, `desk` the one place where a release of a model moves on, `control` what people may ask for, `news`
//! what is told of it, `forecast` what it could see. `approving` is who has to agree, `rules` by which rules a release
//! ends, `pinning` what follows when files change. `examination` is the gates before traffic, one file each; `gating`
//! runs them for a release, `rehearsal` repeats one on the live version, and `report` is what they said. What is
//! decided, and when, is `models/rollout`'s.
//!
//! What is absent: no request waits for anything here. A look holds the lock of one model's desk, for as long as a
//! file takes to be synced; requests only read the route table and send a count.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossfade_journal::Hash;
use crossfade_models::{Conductor, Directed, Found, Registry, RegistryError};
use tokio::sync::broadcast;

use crate::admin::Approvers;
use crate::audit::AuditLog;
use crate::metrics::Released;
use crate::servable::{Examiner, Servable, ServableLoader};

mod approving;
pub mod audited;
pub mod control;
mod decision;
mod desk;
pub(crate) mod digest;
mod elements;
pub(crate) mod forecast;
mod log;
mod news;
mod outputs;
mod pinning;
mod record;
mod rules;
mod shadow;
mod silence;
mod tally;
mod trail;

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

pub(crate) use decision::{Reader, Reading};
use desk::Desk;
pub(crate) use digest::Digests;
use forecast::Traced;
pub use news::{News, NewsKind};
pub(crate) use outputs::Watch;
use rehearsal::{Rehearsal, Stage};
pub(crate) use shadow::{Difference, RequestCopy, Rule, Shadow};
pub(crate) use tally::{Count, Fault};
use world::World;

/// How long a scrape may wait for releases that are being moved on.
const SCRAPE_WAITS: Duration = Duration::from_millis(20);

/// The releases of all models.
pub struct Releases {
    world: World,
    desks: Mutex<BTreeMap<Arc<str>, Arc<Mutex<Desk>>>>,
    /// How many requests came lately.
    traced: Mutex<BTreeMap<Arc<str>, Traced>>,
    /// What the last scrape showed.
    shown: Mutex<BTreeMap<Arc<str>, Released>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where known answers are asked for again.
    stage: Mutex<Stage>,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Releases {
    /// Releases whose state lies in a data folder; nothing is written before a model is released.
    ///
    /// * `audit`: what holds every move of theirs
    /// * `approvers`: who can agree to them
    /// * `config_rev`: the server's configuration
    pub fn new(data_dir: &Path, audit: Arc<AuditLog>, approvers: Approvers, config_rev: Hash) -> Arc<Self> {
        let folder = data_dir.join("state").join("rollout");
        Arc::new(Self {
            world: World::new(folder, audit, approvers, config_rev),
            desks: Mutex::default(),
            traced: Mutex::default(),
            shown: Mutex::default(),
            thread: Mutex::default(),
            stage: Mutex::default(),
            stop: Arc::default(),
        })
    }

    /// The digests of files, for whoever loads them.
    pub(crate) fn digests(&self) -> Arc<Digests> {
        self.world.digests.clone()
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
        let desks: Vec<_> = lock(&self.desks).clone().into_iter().collect();
        for (model, desk) in desks {
            let look = || {
                // A move that had to wait for the disk may be made now.
                if lock(&desk).catch_up() {
                    self.world.refresh(&model);
                }
                lock(&desk).look(&self.world, served, now());
                self.rehearse(&desk, served);
            };
            // The other models' releases are looked at all the same.
            if catch_unwind(AssertUnwindSafe(look)).is_err() {
                tracing::error!(%model, "a look at a release panicked");
            }
            let counters = self.world.counters(&model);
            lock(&self.traced)
                .entry(model)
                .or_default()
                .look(served, counters);
        }
    }

    /// Hears of each move from now on; who is too far behind loses the oldest, and reads [`news`](Self::news).
    pub fn follow(&self) -> broadcast::Receiver<Arc<News>> {
        self.world.news().follow()
    }

    /// The moves of a model after a place in its log, `most` of them. Blocks for the disk.
    pub fn news(&self, model: &str, after: u64, most: usize) -> Result<Vec<News>, String> {
        news::after(&self.world.folder, model, after, most)
    }

    /// The models of whose releases there is a log, and its length in bytes. Blocks for the disk.
    pub fn told_of(&self) -> BTreeMap<String, u64> {
        news::models(&self.world.folder)
    }

    /// Has the live version asked for its known answers again, if it is time.
    fn rehearse(&self, desk: &Arc<Mutex<Desk>>, served: Duration) {
        let mut stage = lock(&self.stage);
        // While one is on its way, the others stay due.
        let free = stage.is_free();
        let due = lock(desk).rehearse(&self.world, served, free);
        if let Some(rehearsal) = due {
            self.repeat(&mut stage, desk.clone(), rehearsal);
        }
    }

    /// Asks the live version for its known answers again, beside its requests.
    fn repeat(&self, stage: &mut Stage, desk: Arc<Mutex<Desk>>, rehearsal: Rehearsal) {
        let stop = self.world.stop.clone();
        let version = rehearsal.servable.version();
        let asked = desk.clone();
        let begun = stage.begin(
            move || rehearsal.run(&stop),
            move |found| lock(&desk).rehearsed(version, found),
        );
        if let Err(error) = begun {
            lock(&asked).rehearsed(version, None);
            tracing::error!(%error, "known answers are not asked for again");
        }
    }

    /// Ends the gates that run and all copies of requests, so that nobody has to wait for them; before the registry stops.
    pub(crate) fn interrupt(&self) {
        self.world.stop.store(true, Relaxed);
        self.world.end();
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
        let desks: Vec<_> = lock(&self.desks).values().cloned().collect();
        for desk in desks {
            lock(&desk).close(&self.world);
        }
    }

    /// Counts a request of a release. Never waits.
    pub(crate) fn count(&self, release: &str, count: Count) {
        self.world.count(release, count);
    }

    /// Which answers to the requests of a release are read, while two versions are compared by them.
    pub(crate) fn watch(&self, release: &str) -> Option<Arc<Watch>> {
        self.world.watch(release)
    }

    /// Where the requests of a release leave copies, while it is in shadow.
    pub(crate) fn shadow(&self, release: &str) -> Option<Arc<Shadow>> {
        self.world.shadow(release)
    }

    /// Waits for the last copies of requests: before the versions are unloaded.
    pub(crate) fn end_copies(&self) {
        let desks = std::mem::take(&mut *lock(&self.desks));
        for desk in desks.into_values() {
            lock(&desk).shadow.close();
        }
    }

    /// What a scrape shows.
    pub(crate) fn values(&self) -> Vec<Released> {
        // A look may be waiting for the disk: after a little patience what was shown before is shown again.
        let until = Instant::now() + SCRAPE_WAITS;
        let mut shown = lock(&self.shown);
        if let Some(desks) = locked_by(&self.desks, until) {
            shown.retain(|model, _| desks.contains_key(model));
            for (model, desk) in desks.iter() {
                if let Some(desk) = locked_by(desk, until) {
                    shown.insert(model.clone(), desk.values());
                }
            }
        }
        shown.values().cloned().collect()
    }

    fn desk(&self, model: &str) -> Option<Arc<Mutex<Desk>>> {
        lock(&self.desks).get(model).cloned()
    }

    /// Whether a release began under earlier rules and has not ended; it ends by those.
    fn is_releasing(&self, found: &Found<'_>) -> Result<bool, RegistryError> {
        if self.desk(found.model).is_none() && !log::exists(&self.world.folder, found.model) {
            return Ok(false);
        }
        let desk = self.open(found)?;
        let active = lock(&desk).book.active().is_some();
        Ok(active)
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

impl Examiner for Releases {
    fn examine(&self, version: &Servable) -> Result<(), String> {
        let Some(desk) = self.desk(version.name()) else {
            return Ok(());
        };
        // The desk stays free while the gates run, which may take long.
        let gating = lock(&desk).first_gating(version.version());
        let Some(gating) = gating else {
            return Ok(());
        };
        match gating.run_on(&self.world, version) {
            Some(examined) => lock(&desk).first_gated(&gating, &examined, now()),
            None => Err("the process ended while its gates ran".to_owned()),
        }
    }
}

impl Conductor for Releases {
    fn plan(&self, found: &Found<'_>) -> Result<Option<Directed>, RegistryError> {
        if !found.policy.is_active() && !self.is_releasing(found)? {
            let desk = lock(&self.desks).remove(found.model);
            if let Some(desk) = desk {
                tracing::info!(model = found.model, "its versions are not released any more");
                let mut desk = lock(&desk);
                desk.close(&self.world);
                self.world.divide(found.model, None);
            }
            return Ok(None);
        }
        let desk = self.open(found)?;
        // The desk stays free while files are read, which may take long.
        let unread = {
            let mut desk = lock(&desk);
            desk.take_rules(found);
            desk.unread_before(found)
        };
        let read = unread.read(&self.world.digests);
        let mut desk = lock(&desk);
        desk.learn(read);
        let pinned = desk.pin(&self.world, found, now())?;
        let usable = Found {
            on_disk: &pinned.usable,
            chosen: &pinned.chosen,
            ..*found
        };
        let versions = desk.plan(&self.world, &usable, now())?;
        desk.on_disk.clone_from(found.on_disk);
        Ok(Some(Directed {
            versions,
            held: pinned.held,
        }))
    }

    fn settled(&self, model: &str, live: &BTreeSet<u64>) {
        let Some(desk) = self.desk(model) else {
            return;
        };
        let unread = lock(&desk).unread_after(live);
        let read = unread.read(&self.world.digests);
        {
            let mut desk = lock(&desk);
            desk.learn(read);
            desk.record_digests(&self.world, live, now());
            desk.settled(&self.world, live, now());
        }
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

/// The lock, if it is free before `until`.
fn locked_by<T>(mutex: &Mutex<T>, until: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

/// A poisoned lock only means that another thread panicked between two consistent states.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
