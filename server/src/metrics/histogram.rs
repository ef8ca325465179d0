//! A histogram with fixed bounds whose buckets are atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of values at most each bound, and above the last; and their sum.
///
/// `Relaxed` throughout: every cell is a counter of its own, and a scrape may see an update half done.
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

/// Durations in nanoseconds: 1-2-5 from 50 µs to 10 s (protocols.md §9).
pub const DURATION_BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Rows per execution.
pub const ROW_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

impl<const N: usize> Histogram<N> {
    /// An empty histogram.
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds one value.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts
            .get(bucket)
            .unwrap_or(&self.above)
            .fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum::<u64>() + self.above.load(Relaxed)
    }

    /// Each bound with the number of values at most as large, ascending; without the last, infinite one.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds
            .iter()
            .zip(&self.counts)
            .scan(0, |below, (&bound, count)| {
                *below += count.load(Relaxed);
                Some((bound, *below))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_its_bucket_and_all_above() {
        let histogram = Histogram::new(&ROW_BOUNDS);
        for value in [1, 2, 3, 1024, 5000] {
            histogram.record(value);
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative[..3], [(1, 1), (2, 2), (4, 3)]);
        assert_eq!(cumulative[10], (1024, 4));
        assert_eq!((histogram.count(), histogram.sum()), (5, 6030));
    }
}
