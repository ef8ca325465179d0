//! Instances and their threads: take a batch, gather, run, scatter, answer; replace an instance that panics or loses
//! its device.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crossfade_runtimes_core::{Instance, ModelSignature, RuntimeError, Tensor};

use crate::assemble::{Gather, Member, expect_outputs, scatter};
use crate::error::JobError;
use crate::observer::{BatchReport, Observer};
use crate::outbox::{Outbox, Turnstile};
use crate::policy::is_past;
use crate::queue::{Batch, Finished, Queue, Taken};
use crate::request::{Answer, Request, Timings};

/// Makes a new instance of the model where one panicked; called on that instance's thread.
pub type InstanceFactory = Arc<dyn Fn() -> Result<Box<dyn Instance>, RuntimeError> + Send + Sync>;

/// Tells the time; tests give one that they move by hand.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// First and longest pause between two attempts to replace an instance.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the instance threads of a batcher share.
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) signature: Arc<ModelSignature>,
    pub(crate) queue: Arc<Queue<Request>>,
    /// The instances; who holds a seat's lock runs it. The queue sees to it that there is one for each who may.
    pub(crate) seats: Vec<Mutex<Seat>>,
    pub(crate) factory: InstanceFactory,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Clock,
    pub(crate) turnstile: Option<Turnstile>,
}

/// One instance, and what it needs to run batches.
pub(crate) struct Seat {
    gather: Gather,
    /// `None` only while it is replaced.
    instance: Option<Box<dyn Instance>>,
    /// Why nothing may run here until the instance is replaced: it panicked, or lost its device.
    broken: Option<String>,
}

impl Seat {
    /// A seat for `instance`.
    pub(crate) fn new(signature: &ModelSignature, instance: Box<dyn Instance>) -> Self {
        Self {
            gather: Gather::new(signature),
            instance: Some(instance),
            broken: None,
        }
    }
}

impl Shared {
    /// A free seat that `fits`, number `first` if it is free.
    ///
    /// There is one, but for moments: all are looked at by others, or one is still lent while the queue closes.
    fn seat(&self, first: usize, fits: impl Fn(&Seat) -> bool) -> MutexGuard<'_, Seat> {
        loop {
            if let Some(seat) = self.try_seat(first, &fits) {
                return seat;
            }
            std::thread::park_timeout(SEAT_PAUSE);
        }
    }

    fn try_seat(&self, first: usize, fits: &impl Fn(&Seat) -> bool) -> Option<MutexGuard<'_, Seat>> {
        let count = self.seats.len();
        (first..first + count).find_map(|index| match self.seats[index % count].try_lock() {
            Ok(seat) => fits(&seat).then_some(seat),
            Err(TryLockError::Poisoned(seat)) => Some(seat.into_inner()).filter(|seat| fits(seat)),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// The seat for a batch: a sound one, or a broken one that is replaced first; `None` if that cannot be.
    fn seat_for_batch(&self, index: usize) -> Option<Worker<'_>> {
        let sound = |seat: &Seat| seat.broken.is_none();
        let seat = self
            .try_seat(index, &sound)
            .unwrap_or_else(|| self.seat(index, |_| true));
        let Some(reason) = seat.broken.clone() else {
            return Some(Worker { shared: self, seat });
        };
        self.queue.take_over_broken();
        Worker { shared: self, seat }.replace(&reason)
    }
}

/// Between two looks for a free seat.
const SEAT_PAUSE: Duration = Duration::from_micros(50);

/// Runs batches until the queue is closed and empty. This is the whole life of instance thread `index`.
pub(crate) fn run(shared: &Shared, index: usize) {
    let retire = RetireOnPanic(shared);
    let mut finished = None;
    while let Some(taken) = shared.queue.take(finished.take(), &*shared.clock) {
        let alive = match taken {
            Taken::Batch(batch) => {
                // Without an instance the batch is dropped, which answers it: the batcher closes.
                let Some(mut worker) = shared.seat_for_batch(index) else {
                    break;
                };
                let (report, outcome) = worker.serve(batch);
                if let Some(reason) = broke(&outcome) {
                    shared.queue.finish(report);
                    worker.replace(&reason).is_some()
                } else {
                    finished = Some(report);
                    true
                }
            }
            Taken::Repair => {
                let seat = shared.seat(index, |seat| seat.broken.is_some());
                let reason = seat.broken.clone().unwrap_or_default();
                Worker { shared, seat }.replace(&reason).is_some()
            }
        };
        if !alive {
            break;
        }
    }
    drop(retire);
}

/// Runs one batch on the thread of the caller, to whom the queue lent an instance.
pub(crate) fn run_lent(shared: &Shared, batch: Batch<Request>) {
    let mut loan = Loan {
        shared,
        finished: Finished {
            cost: batch.cost,
            duration: Duration::ZERO,
            ok: false,
        },
        broke: false,
    };
    let mut worker = Worker {
        shared,
        seat: shared.seat(0, |seat| seat.broken.is_none()),
    };
    let (report, outcome) = worker.serve(batch);
    loan.finished = report;
    if let Some(reason) = broke(&outcome) {
        // Making a new one may take long: its thread does that.
        worker.seat.broken = Some(reason);
        loan.broke = true;
    }
}

/// Gives a lent instance back, also when an observer panicked.
struct Loan<'a> {
    shared: &'a Shared,
    finished: Finished,
    broke: bool,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.shared.queue.give_back(self.finished, self.broke);
    }
}

/// Should the thread itself panic (an observer can), its instance is counted as lost and nobody waits for it.
struct RetireOnPanic<'a>(&'a Shared);

impl Drop for RetireOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.retire();
        }
    }
}

/// Why a batch has no answers.
enum Failure {
    Run(RuntimeError),
    Panic(String),
    /// Its device failed under it: as after a panic, the instance must not be used again.
    Lost(RuntimeError),
}

/// Why the instance has to be replaced after this, if it has.
fn broke(outcome: &Result<(), Failure>) -> Option<String> {
    match outcome {
        Ok(()) | Err(Failure::Run(_)) => None,
        Err(Failure::Panic(reason)) => Some(reason.clone()),
        Err(Failure::Lost(error)) => Some(error.to_string()),
    }
}

/// One execution that gave answers: outputs per member, and when its stages ended.
struct Execution {
    outputs: Vec<Vec<Tensor>>,
    report: BatchReport,
}

/// Who runs batches on a seat.
struct Worker<'a> {
    shared: &'a Shared,
    seat: MutexGuard<'a, Seat>,
}

impl<'a> Worker<'a> {
    /// Runs `batch` and answers each of its requests; a failure is the batch's, and callers have been told.
    fn serve(&mut self, batch: Batch<Request>) -> (Finished, Result<(), Failure>) {
        let Batch {
            items,
            cost,
            sequence,
            taken,
        } = batch;
        let outcome = self.answer(items, sequence, taken);
        let report = Finished {
            cost,
            duration: (self.shared.clock)().saturating_duration_since(taken),
            ok: outcome.is_ok(),
        };
        (report, outcome)
    }

    fn answer(&mut self, requests: Vec<Request>, sequence: u64, taken: Instant) -> Result<(), Failure> {
        let mut outbox = Outbox::new(self.shared.turnstile.as_ref(), sequence);
        let members: Vec<Member<'_>> = requests.iter().map(member).collect();
        match self.execute(&members, taken) {
            Ok(execution) => {
                drop(members);
                self.seat.gather.release();
                for (index, (request, outputs)) in requests.into_iter().zip(execution.outputs).enumerate() {
                    let timings = Timings {
                        batch_index: index,
                        ..timings(&execution.report, request.submitted, taken)
                    };
                    outbox.put(request.reply, Ok(Answer { outputs, timings }));
                }
                Ok(())
            }
            Err(Failure::Run(RuntimeError::Run { .. } | RuntimeError::InvalidInput { .. }))
                if requests.len() > 1 =>
            {
                self.answer_one_by_one(requests, outbox)
            }
            Err(failure) => {
                let error = Arc::new(failure.error());
                for request in requests {
                    outbox.put(request.reply, Err(JobError::Runtime(error.clone())));
                }
                Err(failure)
            }
        }
    }

    /// After a failed batch: runs each member alone, so that the values of one cannot fail its neighbours.
    fn answer_one_by_one(&mut self, requests: Vec<Request>, mut outbox: Outbox<'_>) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for request in requests {
            let start = (self.shared.clock)();
            let result = if let Err(failure @ (Failure::Panic(_) | Failure::Lost(_))) = &outcome {
                Err(JobError::Runtime(Arc::new(failure.error())))
            } else if request.reply.is_cancelled() || is_past(request.job.deadline, start) {
                Err(JobError::DeadlineExceeded)
            } else {
                match self.execute(&[member(&request)], start) {
                    Ok(mut execution) => Ok(Answer {
                        outputs: execution.outputs.pop().unwrap_or_default(),
                        timings: timings(&execution.report, request.submitted, start),
                    }),
                    Err(failure) => {
                        let error = Arc::new(failure.error());
                        outcome = Err(failure);
                        Err(JobError::Runtime(error))
                    }
                }
            };
            outbox.put(request.reply, result);
        }
        outcome
    }

    /// One execution, and its report to the observer.
    fn execute(&mut self, members: &[Member<'_>], start: Instant) -> Result<Execution, Failure> {
        let clock = &self.shared.clock;
        let rows = members.iter().map(|member| member.rows).sum();
        let mut report = BatchReport {
            rows,
            requests: members.len(),
            gather: Duration::ZERO,
            compute: Duration::ZERO,
            scatter: Duration::ZERO,
            ok: false,
            panicked: false,
        };
        let outputs = self.stages(members, rows, start, clock, &mut report);
        report.ok = outputs.is_ok();
        report.panicked = matches!(outputs, Err(Failure::Panic(_)));
        self.shared.observer.batch(&report);
        outputs.map(|outputs| Execution { outputs, report })
    }

    fn stages(
        &mut self,
        members: &[Member<'_>],
        rows: usize,
        start: Instant,
        clock: &Clock,
        report: &mut BatchReport,
    ) -> Result<Vec<Vec<Tensor>>, Failure> {
        let signature = &self.shared.signature;
        let Seat { gather, instance, .. } = &mut *self.seat;
        let gathered = gather.gather(signature, members, rows);
        let mut outputs = expect_outputs(signature, members, rows);
        let gather_end = clock();
        report.gather = gather_end.saturating_duration_since(start);
        gathered.map_err(Failure::Run)?;

        let views = gather.views(signature);
        let instance = instance
            .as_mut()
            .expect("only a seat that is being replaced has no instance");
        let run = catch_unwind(AssertUnwindSafe(|| instance.run(&views, &mut outputs)));
        let compute_end = clock();
        report.compute = compute_end.saturating_duration_since(gather_end);
        match run {
            Ok(Err(error @ RuntimeError::DeviceLost { .. })) => return Err(Failure::Lost(error)),
            Ok(result) => result.map_err(Failure::Run)?,
            Err(panic) => return Err(Failure::Panic(message(panic))),
        }

        let answers = scatter(signature, outputs, members, rows);
        report.scatter = clock().saturating_duration_since(compute_end);
        answers.map_err(Failure::Run)
    }

    /// Puts a new instance into the seat, as soon as the factory makes one; `None` if the batcher closes before.
    ///
    /// The instance counts as lost from the first failed attempt on. The old one is dropped here.
    fn replace(mut self, reason: &str) -> Option<Worker<'a>> {
        let shared = self.shared;
        self.seat.broken = Some(reason.to_owned());
        let panicked = self.seat.instance.take();
        if catch_unwind(AssertUnwindSafe(|| drop(panicked))).is_err() {
            tracing::warn!(model = %shared.name, "the panicked instance panicked again when it was dropped");
        }
        let mut pause = FIRST_PAUSE;
        let mut lost = false;
        let instance = loop {
            match make(&shared.factory) {
                Ok(instance) => break instance,
                Err(error) => {
                    tracing::warn!(model = %shared.name, %error, retry_in = ?pause, "cannot replace an instance");
                }
            }
            if !lost {
                shared.queue.retire();
                lost = true;
            }
            if shared.queue.pause(pause) {
                return None;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        *self.seat = Seat::new(&shared.signature, instance);
        if lost {
            shared.queue.revive();
        }
        tracing::warn!(model = %shared.name, reason, "an instance broke and was replaced");
        shared.observer.instance_replaced(reason);
        Some(self)
    }
}

impl Failure {
    fn error(&self) -> RuntimeError {
        match self {
            Failure::Run(error) | Failure::Lost(error) => error.clone(),
            Failure::Panic(reason) => panicked(reason),
        }
    }
}

fn panicked(reason: &str) -> RuntimeError {
    RuntimeError::Panicked {
        reason: reason.to_owned(),
    }
}

fn make(factory: &InstanceFactory) -> Result<Box<dyn Instance>, RuntimeError> {
    catch_unwind(AssertUnwindSafe(|| factory())).unwrap_or_else(|panic| Err(panicked(&message(panic))))
}

/// The text of a panic.
fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "no message".to_owned(),
        },
    }
}

fn member(request: &Request) -> Member<'_> {
    Member {
        inputs: &request.job.inputs,
        outputs: &request.job.outputs,
        rows: request.job.rows,
    }
}

fn timings(report: &BatchReport, submitted: Instant, start: Instant) -> Timings {
    Timings {
        queue: start.saturating_duration_since(submitted),
        gather: report.gather,
        compute: report.compute,
        scatter: report.scatter,
        batch_rows: report.rows,
        batch_requests: report.requests,
        batch_index: 0,
        started: Some(start),
    }
}
