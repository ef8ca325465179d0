//! The counters of one version: written by requests, read by scrapes and by the statistics calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::histogram::{DURATION_BOUNDS, Histogram, ROW_BOUNDS};
use crate::scope::Protocol;
use crate::status::Status;

/// A part of a request's life; the parts add up to the last, `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Head read to submission: reading, decoding, routing, checking.
    Decode,
    /// Waiting for an instance.
    Queue,
    /// Copying the batch together.
    Gather,
    /// The runtime's run.
    Compute,
    /// Handing out the rows.
    Scatter,
    /// Reply received to response encoded.
    Encode,
    /// All of it.
    Total,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 7] = [
        Stage::Decode,
        Stage::Queue,
        Stage::Gather,
        Stage::Compute,
        Stage::Scatter,
        Stage::Encode,
        Stage::Total,
    ];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Queue => "queue",
            Stage::Gather => "gather",
            Stage::Compute => "compute",
            Stage::Scatter => "scatter",
            Stage::Encode => "encode",
            Stage::Total => "total",
        }
    }
}

/// Number of status labels: `ok` and the rows of the table.
const STATUSES: usize = Status::ALL.len() + 1;

/// All counters of one version. `Relaxed` throughout: each is a counter of its own.
pub struct Series {
    /// Label `model`.
    pub model: Arc<str>,
    /// Label `version`; `None` for requests of unknown models.
    pub version: Option<u64>,
    pub(super) stages: [Histogram<17>; 7],
    pub(super) batch_rows: Histogram<11>,
    pub(super) requests: [[AtomicU64; STATUSES]; Protocol::ALL.len()],
    pub(super) in_flight: AtomicU64,
    pub(super) instances_replaced: AtomicU64,
    /// Tokens of requests that were texts or tokens.
    pub(super) tokens: AtomicU64,
    fail_ns: AtomicU64,
    success_rows: AtomicU64,
    last_inference_ms: AtomicU64,
    batches: Mutex<BTreeMap<usize, BatchTimes>>,
}

/// Executions of one batch size, times in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchTimes {
    /// Executions.
    pub count: u64,
    /// Gather.
    pub gather_ns: u64,
    /// Compute.
    pub compute_ns: u64,
    /// Scatter.
    pub scatter_ns: u64,
}

/// Everything the statistics calls report, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Count and nanoseconds by stage of successful requests, as in [`Stage::ALL`].
    pub stages: [(u64, u64); 7],
    /// Failed and refused requests: count, nanoseconds.
    pub fail: (u64, u64),
    /// Rows of successful requests.
    pub rows: u64,
    /// Milliseconds since the epoch.
    pub last_inference_ms: u64,
    /// By batch size.
    pub batches: BTreeMap<usize, BatchTimes>,
}

impl Series {
    /// Counters at zero.
    pub fn new(model: Arc<str>, version: Option<u64>) -> Self {
        Self {
            model,
            version,
            stages: std::array::from_fn(|_| Histogram::new(&DURATION_BOUNDS)),
            batch_rows: Histogram::new(&ROW_BOUNDS),
            requests: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            in_flight: AtomicU64::new(0),
            instances_replaced: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            fail_ns: AtomicU64::new(0),
            success_rows: AtomicU64::new(0),
            last_inference_ms: AtomicU64::new(0),
            batches: Mutex::default(),
        }
    }

    /// A successful request of `rows` rows, with the time of each stage as in [`Stage::ALL`].
    pub fn success(&self, protocol: Protocol, rows: usize, stages: &[Duration; 7]) {
        self.requests[protocol as usize][0].fetch_add(1, Relaxed);
        for (histogram, stage) in self.stages.iter().zip(stages) {
            histogram.record(nanos(*stage));
        }
        self.success_rows.fetch_add(rows as u64, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_inference_ms
            .store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A request that was refused or failed.
    pub fn failure(&self, protocol: Protocol, status: Status, total: Duration) {
        self.requests[protocol as usize][1 + status as usize].fetch_add(1, Relaxed);
        self.fail_ns.fetch_add(nanos(total), Relaxed);
    }

    /// A successful execution.
    pub fn batch(&self, rows: usize, gather: Duration, compute: Duration, scatter: Duration) {
        self.batch_rows.record(rows as u64);
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let times = batches.entry(rows).or_default();
        times.count += 1;
        times.gather_ns += nanos(gather);
        times.compute_ns += nanos(compute);
        times.scatter_ns += nanos(scatter);
    }

    /// An instance panicked and was replaced.
    pub fn instance_replaced(&self) {
        self.instances_replaced.fetch_add(1, Relaxed);
    }

    /// A request has so many tokens.
    pub fn tokens(&self, tokens: usize) {
        self.tokens.fetch_add(tokens as u64, Relaxed);
    }

    /// A request was routed here.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A routed request ended.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Requests that were routed and have not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Requests with this status, over all protocols; `None` is `ok`.
    pub fn requests(&self, status: Option<Status>) -> u64 {
        let index = status.map_or(0, |status| 1 + status as usize);
        self.requests
            .iter()
            .map(|by_status| by_status[index].load(Relaxed))
            .sum()
    }

    /// Whether any request was counted.
    pub fn used(&self) -> bool {
        self.requests
            .iter()
            .flatten()
            .any(|count| count.load(Relaxed) > 0)
    }

    /// Everything at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let fail = Status::ALL
            .into_iter()
            .map(|status| self.requests(Some(status)))
            .sum();
        Snapshot {
            stages: std::array::from_fn(|k| (self.stages[k].count(), self.stages[k].sum())),
            fail: (fail, self.fail_ns.load(Relaxed)),
            rows: self.success_rows.load(Relaxed),
            last_inference_ms: self.last_inference_ms.load(Relaxed),
            batches: self
                .batches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

impl Snapshot {
    /// What happened since `earlier`, a snapshot of the same series.
    pub fn since(mut self, earlier: &Snapshot) -> Snapshot {
        for (now, before) in self.stages.iter_mut().zip(&earlier.stages) {
            *now = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        }
        self.fail = (
            self.fail.0.saturating_sub(earlier.fail.0),
            self.fail.1.saturating_sub(earlier.fail.1),
        );
        self.rows = self.rows.saturating_sub(earlier.rows);
        for (rows, before) in &earlier.batches {
            if let Some(now) = self.batches.get_mut(rows) {
                now.count -= before.count;
                now.gather_ns -= before.gather_ns;
                now.compute_ns -= before.compute_ns;
                now.scatter_ns -= before.scatter_ns;
            }
        }
        self.batches.retain(|_, times| times.count > 0);
        if self.stages[Stage::Total as usize].0 == 0 {
            self.last_inference_ms = 0;
        }
        self
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_restart_where_counters_continue() {
        let series = Series::new("m".into(), Some(1));
        let stages = [Duration::from_micros(10); 7];
        series.success(Protocol::Grpc, 3, &stages);
        series.batch(3, stages[0], stages[0], stages[0]);
        let baseline = series.snapshot();
        series.success(Protocol::Http, 2, &stages);
        series.failure(Protocol::Http, Status::InvalidInput, stages[0]);
        series.batch(3, stages[0], stages[0], stages[0]);
        let since = series.snapshot().since(&baseline);
        assert_eq!(
            (since.rows, since.stages[6], since.fail),
            (2, (1, 10_000), (1, 10_000))
        );
        assert_eq!(since.batches[&3].count, 1);
        assert_eq!(series.requests(None), 2);
        let quiet = series.snapshot().since(&series.snapshot());
        assert_eq!((quiet.batches.len(), quiet.last_inference_ms), (0, 0));
    }
}
