//! What a version's batches took, per way it runs: the served rate, from which it is seen whether the way was right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossfade_batcher::{BatchReport, Observer};

/// Counts batches and passes them on.
pub(crate) struct Meter {
    inner: Arc<dyn Observer>,
    rows: AtomicU64,
    batches: AtomicU64,
    busy_ns: AtomicU64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) batches: u64,
    /// Time that all instances together had batches in hand: gather, compute and scatter.
    pub(super) busy: Duration,
}

impl Meter {
    pub(crate) fn new(inner: Arc<dyn Observer>) -> Self {
        Self {
            inner,
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        // A batch may be in one of them only; over a window that is a batch's error, as its two ends are.
        Tally {
            rows: self.rows.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Tally {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(earlier.rows),
            batches: self.batches.saturating_sub(earlier.batches),
            busy: self.busy.saturating_sub(earlier.busy),
        }
    }

    /// Rows per second of so many instances that never pause. By the time that batches took, not by that of the
    /// window, whose ends cut batches in two.
    #[expect(clippy::cast_precision_loss, reason = "rows of a window of seconds")]
    pub(super) fn rows_per_s(self, instances: usize) -> f64 {
        if self.busy.is_zero() {
            return 0.0;
        }
        instances as f64 * self.rows as f64 / self.busy.as_secs_f64()
    }
}

impl Observer for Meter {
    fn batch(&self, report: &BatchReport) {
        if report.ok {
            self.rows.fetch_add(report.rows as u64, Ordering::Relaxed);
            self.batches.fetch_add(1, Ordering::Relaxed);
            let busy = report.gather + report.compute + report.scatter;
            let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
            self.busy_ns.fetch_add(busy, Ordering::Relaxed);
        }
        self.inner.batch(report);
    }

    fn instance_replaced(&self, reason: &str) {
        self.inner.instance_replaced(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_measured_by_the_time_of_its_batches() {
        let meter = Meter::new(Arc::new(()));
        let report = |rows, ok| BatchReport {
            rows,
            requests: 1,
            gather: Duration::from_millis(10),
            compute: Duration::from_millis(85),
            scatter: Duration::from_millis(5),
            ok,
            panicked: false,
        };
        meter.batch(&report(8, true));
        let before = meter.tally();
        for (rows, ok) in [(8, true), (4, true), (8, false)] {
            meter.batch(&report(rows, ok));
        }
        let window = meter.tally().since(before);
        assert_eq!((window.rows, window.batches), (12, 2));
        // 12 rows in 200 ms of an instance, and two of them.
        assert_eq!(window.rows_per_s(2), 120.0);
        assert_eq!(Tally::default().rows_per_s(2), 0.0);
    }
}
