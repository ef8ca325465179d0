//! The bounded queue of one model version, and the place where its idle instances wait.
//!
//! One lock guards everything; no user code runs under it. When the queue is full a request is refused. An idle
//! instance is woken once per batch: while one is on its way, further pushes wake nobody, and whoever takes a
//! batch and leaves something behind wakes the next. At most one idle instance, the leader, waits for a batch to
//! fill; the others wait for work.
//!
//! Where a run takes less time than waking a thread, an idle instance is lent to whoever pushes: its thread sleeps
//! on, and what is pushed meanwhile waits until the instance is given back.

use std::time::{Duration, Instant};

use crate::adaptive::BatchCap;
use crate::cost::CostModel;
use crate::error::{JobError, SubmitError};
use crate::options::QueuePolicy;
use crate::policy::{self, Candidate, Decision, Forecast, Limits, Waiting, is_past};
use crate::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock};

mod admission;
mod lanes;
mod removal;

use lanes::{Entry, Lanes};

/// What the queue must know of its items.
pub trait Item {
    /// Whether nobody awaits the item any more.
    fn is_cancelled(&self) -> bool;

    /// Answers an item that is not to run. Called without the lock.
    fn refuse(self, reason: JobError);
}

/// How a queue behaves.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Bounds of a batch.
    pub limits: Limits,
    /// Whether items may merge; if not, each push wakes an instance of its own.
    pub merges: bool,
    /// One policy per priority level, the highest first; at least one.
    pub levels: Vec<QueuePolicy>,
    /// The bound on all levels together.
    pub max_requests: usize,
    /// Instances that take from the queue.
    pub instances: usize,
    /// Whether batches are made smaller than the limits where that costs less per row.
    pub learns: bool,
    /// The longest run, by recent experience, for which an idle instance is lent to the caller of
    /// [`push`](Queue::push); `None`: never.
    pub lend_within: Option<Duration>,
}

/// Where an item went.
pub enum Pushed<T> {
    /// Into the queue.
    Queued,
    /// Back to the caller, with an instance: it runs the batch now, on its own thread, and then calls
    /// [`Queue::give_back`].
    Lent(Batch<T>),
}

/// What a thread that waits for work gets.
pub enum Taken<T> {
    /// A batch to run.
    Batch(Batch<T>),
    /// An instance broke while it was lent: the thread takes it over, to replace it.
    Repair,
}

/// What an instance gets from [`Queue::take`].
pub struct Batch<T> {
    /// Items to run together, at least one, in service order. Who holds them owes each an answer.
    pub items: Vec<T>,
    /// What they cost together.
    pub cost: usize,
    /// Number of batches that were taken before this one.
    pub sequence: u64,
    /// When the batch was taken.
    pub taken: Instant,
}

/// What an instance reports of the batch that it took last.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// Cost of the batch.
    pub cost: usize,
    /// How long it kept the instance busy.
    pub duration: Duration,
    /// Whether it ran to its end, so that the duration says something about others.
    pub ok: bool,
}

/// Waiting items and waiting instances.
pub struct Queue<T> {
    settings: QueueSettings,
    state: Mutex<State<T>>,
    /// Where idle instances wait for work.
    work: Condvar,
    /// Where the leader waits for its batch to fill.
    fill: Condvar,
    /// Where instances that cannot be replaced yet wait for their next attempt.
    closing: Condvar,
    /// Cancelled items that may still be in the queue.
    cancelled: AtomicUsize,
    /// The lengths that a scrape reads, so that it does not take the lock.
    depth: AtomicUsize,
    healthy: AtomicUsize,
    cap: AtomicUsize,
}

struct State<T> {
    lanes: Lanes<T>,
    /// No item expires before this; it may come too early, never too late.
    next_expiry: Option<Instant>,
    /// Instances that wait on `work`, and how many of them have been told to wake.
    idle: usize,
    woken: usize,
    leader: Option<Leader>,
    /// Instances that are lent, or broke while they were; their threads are among the `idle` ones, and not `woken`.
    lent: usize,
    /// How many of them broke and wait for a thread.
    broken: usize,
    /// Instances that run a batch, and the cost of those batches.
    running: usize,
    running_cost: usize,
    healthy: usize,
    closed: bool,
    costs: CostModel,
    cap: BatchCap,
    /// What bounds the next batch: the settings, the learned cap, and no delay once the queue is closed.
    limits: Limits,
    taken: u64,
}

/// The instance that waits for its batch to fill, and what makes it look again.
struct Leader {
    until: Instant,
    enough: usize,
    /// Level of the first item it saw.
    level: usize,
    woken: bool,
}

impl<T: Item> Queue<T> {
    /// An empty, open queue whose instances are all healthy and about to call [`take`](Self::take).
    pub fn new(settings: QueueSettings) -> Self {
        let healthy = settings.instances;
        Self {
            state: Mutex::new(State {
                lanes: Lanes::new(settings.levels.len()),
                next_expiry: None,
                idle: 0,
                woken: 0,
                leader: None,
                lent: 0,
                broken: 0,
                running: 0,
                running_cost: 0,
                healthy,
                closed: false,
                costs: CostModel::default(),
                cap: BatchCap::new(settings.limits.max_cost),
                limits: settings.limits.clone(),
                taken: 0,
            }),
            work: Condvar::new(),
            fill: Condvar::new(),
            closing: Condvar::new(),
            cancelled: AtomicUsize::new(0),
            depth: AtomicUsize::new(0),
            healthy: AtomicUsize::new(healthy),
            cap: AtomicUsize::new(settings.limits.max_cost),
            settings,
        }
    }

    /// Adds an item at `level` (0 is the highest priority), and wakes an instance if that makes a batch; or gives it
    /// back to be run at once.
    ///
    /// On `Queued` the queue owns the item: it comes out of [`take`](Self::take), or is refused. On `Err` it was
    /// dropped. A full queue is first rid of cancelled and expired items.
    pub fn push(
        &self,
        item: T,
        waiting: Waiting,
        level: usize,
        arrived: Instant,
    ) -> Result<Pushed<T>, SubmitError> {
        let now = waiting.queued;
        let policy = &self.settings.levels[level];
        let timeout = policy.default_timeout.filter(|timeout| !timeout.is_zero());
        let entry = Entry {
            timeout: timeout.map(|timeout| arrived + timeout),
            waiting,
            item,
        };
        let mut state = lock(&self.state);
        if let Err(refused) = self.admit(&state, &entry.waiting, level) {
            if !matches!(refused, SubmitError::QueueFull { .. }) {
                return Err(refused);
            }
            state = self.clear(state, now);
            self.admit(&state, &entry.waiting, level)?;
        }
        if self.lends(&state, entry.waiting.cost) {
            state.lent += 1;
            return Ok(Pushed::Lent(state.start(
                vec![entry.item],
                entry.waiting.cost,
                now,
            )));
        }
        for expiry in [entry.waiting.deadline, entry.timeout].into_iter().flatten() {
            state.next_expiry = Some(state.next_expiry.map_or(expiry, |next| next.min(expiry)));
        }
        let wakes_leader = state.leader.as_ref().is_some_and(|leader| {
            let waiting = &entry.waiting;
            let together = (state.lanes.cost() + waiting.cost).min(state.limits.max_cost);
            let latest = waiting.latest_start(state.costs.surely(1, together));
            state.lanes.cost() + waiting.cost >= leader.enough
                || waiting.alone
                || level < leader.level
                || latest.is_some_and(|latest| latest < leader.until)
        });
        debug_assert!(!is_past(entry.waiting.deadline, now), "refused by the caller");
        state.lanes.push(level, entry);
        self.depth.store(state.lanes.len(), Ordering::SeqCst);
        match &mut state.leader {
            None => self.wake_one(state, !self.settings.merges),
            Some(leader) if wakes_leader && !leader.woken => {
                leader.woken = true;
                drop(state);
                self.fill.notify_one();
            }
            Some(_) => {}
        }
        Ok(Pushed::Queued)
    }

    /// Takes the next batch for an idle instance, waiting for one; `None` once the queue is closed and empty.
    ///
    /// `finished` reports the previous batch.
    pub fn take(&self, finished: Option<Finished>, clock: &dyn Fn() -> Instant) -> Option<Taken<T>> {
        let mut state = lock(&self.state);
        if let Some(finished) = finished {
            self.finished(&mut state, finished);
        }
        loop {
            // A closed queue needs the instance only for what is still inside.
            if state.broken > 0 && (!state.closed || state.lanes.len() > 0) {
                state.broken -= 1;
                state.lent -= 1;
                // What was pushed since it broke woke nobody: it is for another instance.
                if state.lanes.len() > 0 && state.leader.is_none() {
                    self.wake_one(state, false);
                }
                return Some(Taken::Repair);
            }
            let now = clock();
            state = self.clear(state, now);
            match self.decide(&state, now) {
                Decision::Run(chosen) => {
                    let (items, cost) = state.lanes.remove(&chosen);
                    let batch = state.start(items, cost, now);
                    self.depth.store(state.lanes.len(), Ordering::SeqCst);
                    if state.lanes.len() > 0 && state.leader.is_none() {
                        self.wake_one(state, false);
                    }
                    return Some(Taken::Batch(batch));
                }
                Decision::Idle if state.closed => return None,
                Decision::Wait { until, enough } if state.leader.is_none() => {
                    let level = state.lanes.first_level().unwrap_or(0);
                    state.leader = Some(Leader {
                        until,
                        enough,
                        level,
                        woken: false,
                    });
                    state = self.lead(state, until.saturating_duration_since(now));
                }
                Decision::Wait { .. } | Decision::Idle => state = self.follow(state),
            }
        }
    }

    /// Reports the previous batch of an instance that will not [`take`](Self::take) soon.
    pub fn finish(&self, finished: Finished) {
        self.finished(&mut lock(&self.state), finished);
    }

    fn finished(&self, state: &mut State<T>, finished: Finished) {
        state.running -= 1;
        state.running_cost -= finished.cost;
        if !finished.ok {
            return;
        }
        state.costs.observe(finished.cost, finished.duration);
        if self.settings.learns {
            state.cap.observe(finished.cost, finished.duration);
            state.limits.max_cost = state.cap.rows();
            self.cap.store(state.cap.learnt(), Ordering::SeqCst);
        }
    }

    /// Takes back an instance that was lent, and wakes its thread if there is something to do: what was pushed
    /// meanwhile, or, if the instance `broke`, replacing it.
    pub fn give_back(&self, finished: Finished, broke: bool) {
        let mut state = lock(&self.state);
        self.finished(&mut state, finished);
        if broke {
            state.broken += 1;
            if state.woken < state.idle {
                state.woken += 1;
                drop(state);
                self.work.notify_one();
            }
            return;
        }
        state.lent -= 1;
        if state.lanes.len() > 0 && state.leader.is_none() {
            self.wake_one(state, false);
        }
    }

    /// Notes that a thread found nothing but a broken instance for its batch, and replaces that.
    pub fn take_over_broken(&self) {
        let mut state = lock(&self.state);
        state.broken = state.broken.saturating_sub(1);
        state.lent = state.lent.saturating_sub(1);
    }

    /// Whether an item that costs `cost` is run by its caller: nothing waits, an instance is idle whose thread was
    /// not told to wake, and waking it would take longer than the run.
    fn lends(&self, state: &State<T>, cost: usize) -> bool {
        self.settings.lend_within.is_some_and(|within| {
            state.lanes.len() == 0
                && state.leader.is_none()
                && state.idle.saturating_sub(state.woken) > state.lent
                && state.costs.is_within(cost, within)
        })
    }

    /// What to run now. A closed queue gets nothing more, so its batches do not wait.
    fn decide(&self, state: &State<T>, now: Instant) -> Decision {
        let candidates = state.lanes.iter().map(|entry| Candidate {
            waiting: &entry.waiting,
            cancelled: entry.item.is_cancelled(),
        });
        let forecast = Forecast {
            waiting: state.lanes.cost(),
            run: &|cost| state.costs.surely(1, cost),
        };
        policy::decide(candidates, &state.limits, forecast, now)
    }

    /// Waits as the leader, until told or until `timeout` is over.
    fn lead<'a>(&'a self, state: MutexGuard<'a, State<T>>, timeout: Duration) -> MutexGuard<'a, State<T>> {
        let (mut state, _) = self
            .fill
            .wait_timeout(state, timeout)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.leader = None;
        state
    }

    /// Waits for work, until told.
    fn follow<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        state.idle += 1;
        while state.woken == 0 && !state.closed {
            state = self
                .work
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.woken = state.woken.saturating_sub(1);
        state.idle -= 1;
        state
    }

    /// Wakes one idle instance, if there is one that was not told yet; unless `each`, only if none was told.
    fn wake_one(&self, mut state: MutexGuard<'_, State<T>>, each: bool) {
        let idle = state.idle.saturating_sub(state.lent);
        if state.woken < if each { idle } else { idle.min(1) } {
            state.woken += 1;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Refuses further items; those inside are still taken. Instances end when the queue is empty.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.limits.max_delay = Duration::ZERO;
        drop(state);
        self.work.notify_all();
        self.fill.notify_all();
        self.closing.notify_all();
    }

    /// Notes that a lost instance is back.
    pub fn revive(&self) {
        let mut state = lock(&self.state);
        state.healthy += 1;
        self.healthy.store(state.healthy, Ordering::SeqCst);
    }

    /// Waits for `delay`, or until the queue is closed; says whether it is closed.
    pub fn pause(&self, delay: Duration) -> bool {
        let state = lock(&self.state);
        if state.closed {
            return true;
        }
        let (state, _) = self
            .closing
            .wait_timeout(state, delay)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.closed
    }

    /// Items that wait; takes no lock.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::SeqCst)
    }

    /// The cost of the largest batch worth running, by what was learnt; takes no lock.
    pub fn cap(&self) -> usize {
        self.cap.load(Ordering::SeqCst)
    }

    /// The same where it is below what the settings allow.
    pub fn lowered_cap(&self) -> Option<usize> {
        Some(self.cap()).filter(|&cap| cap < self.settings.limits.max_cost)
    }

    /// Instances that run or can run batches; takes no lock.
    pub fn healthy(&self) -> usize {
        self.healthy.load(Ordering::SeqCst)
    }
}

impl<T> State<T> {
    fn start(&mut self, items: Vec<T>, cost: usize, now: Instant) -> Batch<T> {
        let sequence = self.taken;
        self.taken += 1;
        self.running += 1;
        self.running_cost += cost;
        Batch {
            items,
            cost,
            sequence,
            taken: now,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
