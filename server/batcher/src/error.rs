//! Why a job is refused, why an accepted one fails, and why a batcher does not start.

use std::sync::Arc;

use crossfade_runtimes_core::RuntimeError;

/// A job that was not taken; its tensors are dropped and nothing was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue of the model, or of the job's priority, has no room.
    #[error("the queue is full ({limit} requests); retry later")]
    QueueFull {
        /// The bound that was met.
        limit: usize,
    },
    /// The batcher takes no more jobs, because its version is being unloaded.
    #[error("the model version is shutting down")]
    Closed,
    /// Every instance failed and none could be replaced yet.
    #[error("no healthy instance of the model is left; one is being replaced")]
    NoInstance,
    /// The deadline passed before the job was queued.
    #[error("the deadline passed before the request was queued")]
    AlreadyLate,
    /// By the current estimate the job cannot finish before its deadline.
    #[error("the request cannot finish before its deadline: {ahead} requests are queued ahead of it")]
    WouldBeLate {
        /// Requests in the queue.
        ahead: usize,
    },
    /// The priority is above the configured number of levels.
    #[error("priority {got} is out of range; the model has levels 1 (highest) to {max}")]
    PriorityOutOfRange {
        /// The job's priority.
        got: u32,
        /// The lowest priority there is.
        max: u32,
    },
}

/// A job that was taken and has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JobError {
    /// The client's deadline passed while the job was queued.
    #[error("the deadline passed while the request was queued")]
    DeadlineExceeded,
    /// The model's own queue timeout passed and its action is to reject.
    #[error("the model's queue timeout passed before the request could run")]
    QueueTimeout,
    /// The run failed; every member of the batch has the same error.
    #[error(transparent)]
    Runtime(#[from] Arc<RuntimeError>),
    /// The last healthy instance failed while the job was queued.
    #[error("no healthy instance of the model is left; one is being replaced")]
    NoInstance,
    /// The batcher ended before the job ran.
    #[error("the model version shut down before the request could run")]
    Shutdown,
}

/// A batcher that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BatcherError {
    /// It was given no instance.
    #[error("`{name}` has no instance; give at least one")]
    NoInstances {
        /// `model/version`.
        name: Arc<str>,
    },
    /// An option does not fit the others.
    #[error("`{name}`: {option}: {reason}")]
    Option {
        /// `model/version`.
        name: Arc<str>,
        /// The option.
        option: &'static str,
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// The system refused a thread.
    #[error("cannot start thread `{thread}`")]
    Thread {
        /// The thread's name.
        thread: String,
        /// What the system said.
        source: std::io::Error,
    },
}
