//! How a model is batched and queued (protocols.md §10.2, `dynamic_batching`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::BatcherError;

/// How one version of a model is batched and queued.
#[derive(Debug, Clone)]
pub struct BatcherOptions {
    /// `model/version`; the instance threads are named `model/version#k`.
    pub name: Arc<str>,
    /// The most rows a merged batch has; a larger request runs alone.
    pub max_rows: usize,
    /// The most elements, rows times their length, that a batch of a model with lengths has; a larger request runs
    /// alone.
    pub max_elements: usize,
    /// Whether requests are merged at all; if not, each runs alone.
    pub merge: bool,
    /// Batch sizes to prefer, in rows; empty: as many as fit.
    pub preferred_rows: Vec<usize>,
    /// How long an idle instance waits for a fuller batch; zero: never.
    pub max_delay: Duration,
    /// Whether answers are given in the order in which requests were taken from the queue.
    pub preserve_ordering: bool,
    /// Number of priorities, 1 the highest; 0: priorities are off and a job's is ignored.
    pub priority_levels: u32,
    /// The priority of jobs that name none; in `1..=priority_levels` unless priorities are off.
    pub default_priority: u32,
    /// Queue policy of every priority without one of its own.
    pub queue: QueuePolicy,
    /// Queue policies of single priorities.
    pub queue_by_priority: BTreeMap<u32, QueuePolicy>,
    /// The server's bound on the whole queue, in requests; always applies. Requests above it are refused.
    pub max_queue_requests: usize,
    /// Whether batches stay below `max_rows` where larger ones cost more per row.
    pub learn_rows: bool,
    /// The longest run, by recent experience, that the thread of [`submit`](crate::Batcher::submit) does itself on an
    /// idle instance; `None`: never.
    pub lend_within: Option<Duration>,
}

impl BatcherOptions {
    /// Merging up to `max_rows` without delay or priorities, with a queue of 1024 requests; nothing is learnt or lent.
    pub fn new(name: impl Into<Arc<str>>, max_rows: usize) -> Self {
        Self {
            name: name.into(),
            max_rows,
            max_elements: usize::MAX,
            merge: max_rows > 1,
            preferred_rows: Vec::new(),
            max_delay: Duration::ZERO,
            preserve_ordering: false,
            priority_levels: 0,
            default_priority: 0,
            queue: QueuePolicy::default(),
            queue_by_priority: BTreeMap::new(),
            max_queue_requests: 1024,
            learn_rows: false,
            lend_within: None,
        }
    }

    /// Number of queues, one per priority.
    pub(crate) fn levels(&self) -> u32 {
        self.priority_levels.max(1)
    }

    /// The policy of `priority`, which counts from 1.
    pub(crate) fn policy(&self, priority: u32) -> QueuePolicy {
        match self.queue_by_priority.get(&priority) {
            Some(own) if self.priority_levels > 0 => own.clone(),
            _ => self.queue.clone(),
        }
    }

    /// Errors: `Option`, naming the first that does not fit the others.
    pub(crate) fn validate(&self) -> Result<(), BatcherError> {
        let wrong = |option, reason: String| BatcherError::Option {
            name: self.name.clone(),
            option,
            reason,
        };
        let levels = self.priority_levels;
        if levels > MAX_PRIORITY_LEVELS {
            return Err(wrong(
                "priority_levels",
                format!("{levels} given, at most {MAX_PRIORITY_LEVELS} are accepted"),
            ));
        }
        if levels > 0 && !(1..=levels).contains(&self.default_priority) {
            return Err(wrong(
                "default_priority_level",
                format!("{} given, 1 to {levels} are accepted", self.default_priority),
            ));
        }
        if let Some(other) = self
            .queue_by_priority
            .keys()
            .find(|&priority| levels > 0 && !(1..=levels).contains(priority))
        {
            return Err(wrong(
                "priority_queue_policy",
                format!("key {other} given, 1 to {levels} are accepted"),
            ));
        }
        if self.max_queue_requests == 0 {
            return Err(wrong(
                "max_queue_requests",
                "0 given, at least 1 is needed".to_owned(),
            ));
        }
        if let Some(rows) = self
            .preferred_rows
            .iter()
            .find(|&&rows| rows == 0 || rows > self.max_rows)
        {
            return Err(wrong(
                "preferred_batch_size",
                format!("{rows} given, 1 to {} are accepted", self.max_rows),
            ));
        }
        Ok(())
    }
}

/// Each level has a queue of its own; a configuration with more of them is a mistake.
const MAX_PRIORITY_LEVELS: u32 = 1024;

/// Bounds of one priority's queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// The most requests that wait; `None` or 0: only the server's bound applies.
    pub max_requests: Option<usize>,
    /// How long after its arrival a request may wait; `None` or zero: as long as its deadline allows.
    pub default_timeout: Option<Duration>,
    /// What happens after `default_timeout`.
    pub timeout_action: TimeoutAction,
}

/// What happens to a request whose queue timeout passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It is answered with [`JobError::QueueTimeout`](crate::JobError::QueueTimeout).
    #[default]
    Reject,
    /// It waits behind the others of its priority; its deadline still removes it.
    Delay,
}
