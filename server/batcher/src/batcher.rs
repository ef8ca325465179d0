//! The handle of a model version's batcher: submit, look, close.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossfade_runtimes_core::{Instance, ModelSignature};

use crate::error::{BatcherError, SubmitError};
use crate::instance::{self, Clock, InstanceFactory, Seat, Shared};
use crate::observer::Observer;
use crate::options::BatcherOptions;
use crate::outbox::Turnstile;
use crate::policy::{Limits, MergeRule, Waiting, is_past};
use crate::queue::{Pushed, Queue, QueueSettings};
use crate::reply::reply;
use crate::request::{Job, Pending, Request};

/// The batcher of one version of a model: a queue, and one thread per instance.
///
/// Dropping it closes it, finishes what is queued and joins the threads: do that where waiting is allowed, not on
/// a request's thread.
pub struct Batcher {
    queue: Arc<Queue<Request>>,
    rule: MergeRule,
    max_elements: usize,
    max_rows: usize,
    priority_levels: u32,
    default_priority: u32,
    inputs: usize,
    outputs: usize,
    clock: Clock,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Batcher {
    /// Starts one thread per instance, named `model/version#k`.
    ///
    /// * `factory`: makes the successor of an instance that panicked
    ///
    /// Errors: `NoInstances`, `Option` naming the option, `Thread`; no thread is left then.
    pub fn start(
        signature: Arc<ModelSignature>,
        instances: Vec<Box<dyn Instance>>,
        factory: InstanceFactory,
        options: BatcherOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Batcher, BatcherError> {
        let clock: Clock = Arc::new(Instant::now);
        Self::start_with_clock(signature, instances, factory, options, observer, clock)
    }

    /// As [`start`](Self::start), with a clock that tests can move.
    pub fn start_with_clock(
        signature: Arc<ModelSignature>,
        instances: Vec<Box<dyn Instance>>,
        factory: InstanceFactory,
        options: BatcherOptions,
        observer: Arc<dyn Observer>,
        clock: Clock,
    ) -> Result<Batcher, BatcherError> {
        options.validate()?;
        if instances.is_empty() {
            return Err(BatcherError::NoInstances { name: options.name });
        }
        let rule = MergeRule::new(&signature, options.merge);
        let queue = Arc::new(Queue::new(settings(&options, &signature, &rule, instances.len())));
        let count = instances.len();
        let shared = Arc::new(Shared {
            name: options.name.clone(),
            seats: instances
                .into_iter()
                .map(|instance| Mutex::new(Seat::new(&signature, instance)))
                .collect(),
            signature: signature.clone(),
            queue: queue.clone(),
            factory,
            observer,
            clock: clock.clone(),
            turnstile: options.preserve_ordering.then(Turnstile::default),
        });
        // From here on, dropping `batcher` closes the queue and joins the threads that were started.
        let mut batcher = Batcher {
            queue,
            rule,
            max_elements: options.max_elements,
            max_rows: options.max_rows,
            priority_levels: options.priority_levels,
            default_priority: options.default_priority,
            inputs: signature.inputs.len(),
            outputs: signature.outputs.len(),
            clock,
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for index in 0..count {
            let thread = format!("{}#{index}", options.name);
            let shared = shared.clone();
            let handle = std::thread::Builder::new()
                .name(thread.clone())
                .spawn(move || instance::run(&shared, index))
                .map_err(|source| BatcherError::Thread { thread, source })?;
            batcher.threads.push(handle);
        }
        Ok(batcher)
    }

    /// Queues a job, or runs it here and now, if an instance is idle and a run takes less time than waking its thread.
    /// On `Ok` it will be answered, unless the `Pending` is dropped; on `Err` it was dropped.
    ///
    /// Errors: `PriorityOutOfRange`, `AlreadyLate`, `Closed`, `NoInstance`, `QueueFull`, `WouldBeLate`.
    /// Panics if the job was not checked against the signature that the batcher was started with.
    /// Cost: one lock, no copy of tensor bytes; or a run of at most [`BatcherOptions::lend_within`] by recent experience.
    pub fn submit(&self, job: Job) -> Result<Pending, SubmitError> {
        assert_eq!(
            job.inputs.len(),
            self.inputs,
            "one entry per input of the signature"
        );
        assert!(
            job.outputs.iter().all(|&output| output < self.outputs),
            "outputs are indices of the signature"
        );
        let level = self.level(job.priority)?;
        let now = (self.clock)();
        if is_past(job.deadline, now) {
            return Err(SubmitError::AlreadyLate);
        }
        let (key, alone) = self.rule.key(&job.inputs, job.rows);
        let length = self.rule.length(&job.inputs);
        let waiting = Waiting {
            cost: job.rows.saturating_mul(length),
            length,
            key,
            alone,
            queued: now,
            deadline: job.deadline,
        };
        let arrived = job.arrived;
        let (sender, receiver) = reply();
        let request = Request {
            job,
            submitted: now,
            reply: sender,
        };
        if let Pushed::Lent(batch) = self.queue.push(request, waiting, level, arrived)? {
            instance::run_lent(&self.shared, batch);
        }
        Ok(Pending {
            receiver,
            queue: self.queue.clone(),
        })
    }

    /// The queue of a priority: 0 is the highest.
    fn level(&self, priority: u32) -> Result<usize, SubmitError> {
        let max = self.priority_levels;
        if max == 0 {
            return Ok(0);
        }
        let priority = if priority == 0 {
            self.default_priority
        } else {
            priority
        };
        match usize::try_from(priority) {
            Ok(got) if priority <= max => Ok(got - 1),
            _ => Err(SubmitError::PriorityOutOfRange { got: priority, max }),
        }
    }

    /// The priority of work that may wait for everything else; the default one of a model that has no levels.
    pub fn lowest_priority(&self) -> u32 {
        self.priority_levels
    }

    /// Requests in the queue, cancelled ones included until an instance looks; takes no lock.
    pub fn depth(&self) -> usize {
        self.queue.depth()
    }

    /// The most rows that requests are merged up to, by what was learnt of this model, or elements of a model with
    /// lengths; takes no lock.
    pub fn learnt_rows(&self) -> usize {
        self.queue.cap()
    }

    /// The most elements, rows times their length, of a merged batch.
    pub fn max_elements(&self) -> usize {
        self.max_elements
    }

    /// The most rows of a merged batch.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Whether requests have lengths that differ within a batch, so that elements count and not rows.
    pub fn counts_elements(&self) -> bool {
        self.rule.pads()
    }

    /// The same where it is less than is allowed.
    pub fn lowered_rows(&self) -> Option<usize> {
        self.queue.lowered_cap()
    }

    /// Instances that run or can run batches; takes no lock.
    pub fn healthy_instances(&self) -> usize {
        self.queue.healthy()
    }

    /// Whether every instance runs a batch, at this moment; takes the queue's lock.
    pub fn is_busy(&self) -> bool {
        self.queue.is_busy()
    }

    /// How long a job of the default priority would wait for its run, by the cost of recent batches; zero while
    /// an instance is idle. `submit` refuses by it; a caller may tell clients when to come back.
    pub fn estimated_wait(&self) -> Duration {
        self.queue.estimated_wait(self.level(0).unwrap_or(0))
    }

    /// Refuses further jobs; those queued are finished. Returns at once.
    pub fn close(&self) {
        self.queue.close();
    }
}

fn settings(
    options: &BatcherOptions,
    signature: &ModelSignature,
    rule: &MergeRule,
    instances: usize,
) -> QueueSettings {
    let lengths = rule.pads();
    QueueSettings {
        limits: Limits {
            max_cost: if lengths {
                options.max_elements
            } else {
                options.max_rows
            },
            max_rows: options.max_rows,
            pads: lengths && !signature.skips_padding,
            // They are numbers of rows.
            preferred: match lengths {
                true => Vec::new(),
                false => options.preferred_rows.clone(),
            },
            max_delay: options.max_delay,
            in_order: options.preserve_ordering,
        },
        merges: rule.merges(),
        levels: (1..=options.levels())
            .map(|priority| options.policy(priority))
            .collect(),
        max_requests: options.max_queue_requests,
        instances,
        // Preferred sizes are somebody's decision.
        learns: options.learn_rows && rule.merges() && options.preferred_rows.is_empty(),
        // A lent instance answers before a batch could fill, and out of turn.
        lend_within: options
            .lend_within
            .filter(|_| options.max_delay.is_zero() && !options.preserve_ordering),
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.close();
        let this = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // An observer may hold the last handle; its thread cannot wait for itself.
            if thread.thread().id() != this && thread.join().is_err() {
                tracing::error!("an instance thread panicked outside its instance");
            }
        }
    }
}
