//! What a batcher tells of its work, for metrics.

use std::time::Duration;

/// Sees every execution; called on the instance threads, before the answers are sent, so it must be quick.
pub trait Observer: Send + Sync {
    /// One run of an instance ended.
    fn batch(&self, report: &BatchReport);

    /// An instance panicked and a new one took its place.
    fn instance_replaced(&self, reason: &str) {
        let _ = reason;
    }
}

/// One execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Rows of the batch.
    pub rows: usize,
    /// Requests of the batch.
    pub requests: usize,
    /// Building the batch.
    pub gather: Duration,
    /// The model.
    pub compute: Duration,
    /// Checking the outputs and cutting them up.
    pub scatter: Duration,
    /// Whether it gave answers. A failed batch of several is run again one by one, each with its own report.
    pub ok: bool,
    /// Whether the instance panicked.
    pub panicked: bool,
}

/// An observer that looks away.
impl Observer for () {
    fn batch(&self, _: &BatchReport) {}
}
