//! One thread of the tester: a runtime of its own, a share of the connections, every n-th request of the timetable.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, oneshot};

use super::alarm::Alarm;
use super::client::Client;
use super::recorder::Recorder;
use crate::plan::{Load, Plan};
use crate::rng::Rng;
use crate::wire::{Encoded, Failure};

/// Requests that are handed out in a row before answers get a turn.
const TURN: u32 = 16;
/// Distinguishes the draw of the mix from that of the arrivals under the same seed.
const MIX_SEED: u64 = 0x6d69_7865_6d69_7865;

/// What all threads of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The plan.
    pub(super) plan: Plan,
    /// The bodies of each kind of request.
    pub(super) bodies: Vec<Vec<Encoded>>,
}

/// A thread that has opened its connections and waits for the start.
#[derive(Debug)]
pub(super) struct Worker {
    /// What it counts.
    pub(super) recorder: Arc<Mutex<Recorder>>,
    thread: std::thread::JoinHandle<()>,
    start: Option<oneshot::Sender<Instant>>,
    done: oneshot::Receiver<Result<Spent>>,
}

/// What a thread used up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    /// CPU time from the end of the warm-up, in seconds.
    pub(super) cpu_s: f64,
    /// Time from the end of the warm-up, in seconds.
    pub(super) wall_s: f64,
    /// The most connections open at once.
    pub(super) connections: u32,
}

impl Worker {
    /// Starts thread `index` of `shared.plan.threads` and opens its connections.
    ///
    /// Errors: if the server cannot be connected to.
    pub(super) async fn spawn(shared: Arc<Shared>, index: u32, first_event_us: Option<i64>) -> Result<Self> {
        let recorder = Arc::new(Mutex::new(Recorder::new(shared.plan.mix.len(), first_event_us)));
        let (start, started) = oneshot::channel();
        let (ready_to, ready) = oneshot::channel();
        let (done_to, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("send-{index}")).spawn({
            let recorder = Arc::clone(&recorder);
            move || {
                let result = serve(&shared, index, &recorder, ready_to, started);
                // Nobody waits any more if the run was given up.
                drop(done_to.send(result));
            }
        })?;
        let mut worker = Self {
            recorder,
            thread,
            start: Some(start),
            done,
        };
        if ready.await.is_err() {
            worker.start = None;
            worker.join().await?;
            anyhow::bail!("a thread of the tester ended before the run");
        }
        Ok(worker)
    }

    /// Sets the end of the warm-up; the run begins with the warm-up before it.
    pub(super) fn start(&mut self, measured_from: Instant) {
        if let Some(start) = self.start.take() {
            // A thread that has ended says why when it is joined.
            start.send(measured_from).ok();
        }
    }

    /// Waits until the last request is answered.
    ///
    /// Errors: what ended the thread before.
    pub(super) async fn join(self) -> Result<Spent> {
        let spent = self.done.await.context("a thread of the tester panicked")?;
        // The thread has sent its last word; it ends within microseconds.
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the tester panicked"))?;
        spent
    }
}

/// The thread's whole life.
fn serve(
    shared: &Arc<Shared>,
    index: u32,
    recorder: &Arc<Mutex<Recorder>>,
    ready: oneshot::Sender<()>,
    start: oneshot::Receiver<Instant>,
) -> Result<Spent> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Answers are looked for often: what waits in the kernel would count as the server's latency.
        .event_interval(17)
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::open(&shared.plan, index).await?;
        if ready.send(()).is_err() {
            anyhow::bail!("the run was given up");
        }
        let Ok(measured_from) = start.await else {
            anyhow::bail!("the run was given up")
        };
        let hand = Rc::new(Hand {
            shared: Arc::clone(shared),
            client,
            recorder: Arc::clone(recorder),
            measured_from,
            in_flight: Cell::new(0),
            idle: Notify::new(),
            cpu_at_measuring: RefCell::new(None),
        });
        match &shared.plan.load {
            Load::Open(_) => hand.open_loop(index).await?,
            Load::Closed { concurrency } => hand.closed_loop(index, *concurrency).await?,
        }
        while hand.in_flight.get() > 0 {
            hand.idle.notified().await;
        }
        let now = thread_cpu_s();
        let from = hand.cpu_at_measuring.borrow().unwrap_or(now);
        Ok(Spent {
            cpu_s: now - from,
            wall_s: measured_from.elapsed().as_secs_f64(),
            connections: hand.client.connections(),
        })
    })
}

/// CPU time of the calling thread, in seconds.
fn thread_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of CPU time are few")]
    let seconds = time.tv_sec as f64;
    #[expect(clippy::cast_precision_loss, reason = "below 10^9")]
    let nanoseconds = time.tv_nsec as f64;
    seconds + nanoseconds / 1e9
}

/// The share of the load that a thread has in hand.
struct Hand {
    shared: Arc<Shared>,
    client: Client,
    recorder: Arc<Mutex<Recorder>>,
    measured_from: Instant,
    in_flight: Cell<u32>,
    idle: Notify,
    cpu_at_measuring: RefCell<Option<f64>>,
}

impl Hand {
    /// Sends what is due when it is due, whatever the server does.
    async fn open_loop(self: &Rc<Self>, index: u32) -> Result<()> {
        let plan = &self.shared.plan;
        let Load::Open(arrivals) = &plan.load else {
            return Ok(());
        };
        let alarm = Alarm::new().context("the tester cannot have a timer")?;
        let warm_up_s = plan.warm_up.as_secs_f64();
        let warm_up = arrivals
            .warm_up(plan.duration)
            .times(plan.warm_up, plan.seed ^ 1)
            .map(|time| time.as_secs_f64() - warm_up_s);
        let measured = arrivals
            .times(plan.duration, plan.seed)
            .map(|time| time.as_secs_f64());
        let threads = plan.threads as usize;
        let most = (plan.max_in_flight / plan.threads).max(1);
        let mut turn = 0;
        for (number, due_s) in warm_up
            .chain(measured)
            .enumerate()
            .skip(index as usize)
            .step_by(threads)
        {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a run lasts less than 10^12 seconds; it saturates"
            )]
            let due_us = (due_s * 1e6).floor() as i64;
            let due = self.at(due_us);
            if Instant::now() < due {
                alarm.wait(due).await?;
                turn = 0;
            } else {
                turn += 1;
                if turn % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            self.note_cpu(due_us);
            let entry = self.pick(number as u64);
            self.recorder().due(due_us);
            if self.in_flight.get() >= most {
                self.recorder()
                    .done(entry, due_us, self.now_us(), Err(Failure::Overflow), 0);
                continue;
            }
            let flight = Flight::begin(self);
            tokio::task::spawn_local(async move {
                let hand = &flight.0;
                hand.recorder().sent(due_us, hand.now_us());
                hand.request(number as u64, entry, due_us).await;
            });
        }
        Ok(())
    }

    /// Lets this thread's share of the clients send, each when it has its answer.
    async fn closed_loop(self: &Rc<Self>, index: u32, concurrency: u32) -> Result<()> {
        let plan = &self.shared.plan;
        let end_us = micros(plan.duration);
        let own = concurrency / plan.threads + u32::from(index < concurrency % plan.threads);
        let mut clients = tokio::task::JoinSet::new();
        Alarm::new()
            .context("the tester cannot have a timer")?
            .wait(self.at(-micros(plan.warm_up)))
            .await?;
        for client in 0..own {
            let hand = Rc::clone(self);
            let client = u64::from(index) << 32 | u64::from(client) << 40;
            clients.spawn_local(async move {
                for number in client.. {
                    let now_us = hand.now_us();
                    if now_us >= end_us {
                        break;
                    }
                    hand.note_cpu(now_us);
                    let entry = hand.pick(number);
                    hand.recorder().due(now_us);
                    hand.request(number, entry, now_us).await;
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.context("a client of the closed loop panicked")?;
        }
        Ok(())
    }

    /// One request from the send to its answer, which is counted.
    async fn request(&self, number: u64, entry: usize, due_us: i64) {
        let bodies = &self.shared.bodies[entry];
        let body = &bodies[usize::try_from(number % bodies.len() as u64).unwrap_or(0)];
        let answered = tokio::time::timeout(self.shared.plan.timeout, self.client.call(body)).await;
        let result = answered
            .unwrap_or(Err(Failure::Timeout))
            .map(|answer| answer.version);
        self.recorder()
            .done(entry, due_us, self.now_us(), result, body.tokens);
    }

    /// The kind of request that the `number`-th is.
    fn pick(&self, number: u64) -> usize {
        let mix = &self.shared.plan.mix;
        if mix.len() == 1 {
            return 0;
        }
        let total: f64 = mix.iter().map(|entry| entry.weight).sum();
        let mut left = Rng::of(self.shared.plan.seed ^ MIX_SEED, number).unit() * total;
        for (index, entry) in mix.iter().enumerate() {
            left -= entry.weight;
            if left <= 0.0 {
                return index;
            }
        }
        mix.len() - 1
    }

    fn note_cpu(&self, now_us: i64) {
        if now_us >= 0 && self.cpu_at_measuring.borrow().is_none() {
            *self.cpu_at_measuring.borrow_mut() = Some(thread_cpu_s());
        }
    }

    fn recorder(&self) -> std::sync::MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, us: i64) -> Instant {
        let distance = Duration::from_micros(us.unsigned_abs());
        if us < 0 {
            self.measured_from
                .checked_sub(distance)
                .unwrap_or(self.measured_from)
        } else {
            self.measured_from + distance
        }
    }

    fn now_us(&self) -> i64 {
        let now = Instant::now();
        match now.checked_duration_since(self.measured_from) {
            Some(since) => micros(since),
            None => -micros(self.measured_from - now),
        }
    }
}

/// A request in flight in an open loop; dropped, it is over, however it ended.
struct Flight(Rc<Hand>);

impl Flight {
    fn begin(hand: &Rc<Hand>) -> Self {
        hand.in_flight.set(hand.in_flight.get() + 1);
        Self(Rc::clone(hand))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        if self.0.in_flight.get() == 0 {
            self.0.idle.notify_one();
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
