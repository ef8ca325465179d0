//! Latencies: a histogram while they are recorded, percentiles and text once they are written.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use super::Latency;

/// The longest latency that is told apart, in microseconds: an hour. Longer ones count as this.
const LONGEST_US: u64 = 3_600_000_000;

/// A histogram of latencies in microseconds, three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST_US, 3)
                .expect("the bounds are in order and 3 digits are allowed"),
        )
    }
}

impl Latencies {
    /// Counts one latency in microseconds; 0 counts as 1.
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    /// Adds the latencies of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in microseconds that a share `quantile` (0 to 1) of them does not exceed; 0 without any.
    pub fn at(&self, quantile: f64) -> u64 {
        if self.0.is_empty() {
            0
        } else {
            self.0.value_at_quantile(quantile)
        }
    }

    /// How many exceed `us` microseconds, to three digits.
    pub fn above(&self, us: u64) -> u64 {
        self.0.len() - self.0.count_between(0, us.max(1))
    }

    /// The histogram, in microseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// The figures that a result holds.
    pub fn summary(&self) -> Latency {
        if self.0.is_empty() {
            return Latency::default();
        }
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.0, &mut bytes)
            .expect("a histogram can be written to memory");
        Latency {
            count: self.0.len(),
            min_us: self.0.min(),
            mean_us: self.0.mean(),
            p50_us: self.at(0.5),
            p90_us: self.at(0.9),
            p95_us: self.at(0.95),
            p99_us: self.at(0.99),
            p999_us: self.at(0.999),
            max_us: self.0.max(),
            histogram: STANDARD.encode(bytes),
        }
    }
}

impl Latency {
    /// The whole distribution in microseconds.
    ///
    /// Errors: if `histogram` is neither empty nor what this tool writes.
    pub fn distribution(&self) -> Result<Latencies> {
        if self.histogram.is_empty() {
            return Ok(Latencies::default());
        }
        let bytes = STANDARD
            .decode(&self.histogram)
            .context("the histogram of a result is not base64; was the file edited?")?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| anyhow::anyhow!("the histogram of a result cannot be read: {error:?}"))?;
        let mut latencies = Latencies::default();
        latencies
            .0
            .add(&histogram)
            .context("the histogram of a result holds latencies above an hour")?;
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::Latencies;

    #[test]
    fn a_distribution_survives_the_file() {
        let mut latencies = Latencies::default();
        for us in [0, 1, 250, 1_000_000, u64::MAX] {
            latencies.record(us);
        }
        let read = latencies.summary().distribution().unwrap();
        assert_eq!(read.histogram(), latencies.histogram());
        assert_eq!((read.count(), read.at(0.5), read.above(300)), (5, 250, 2));
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        let summary = Latencies::default().summary();
        assert_eq!(summary, super::Latency::default());
        assert_eq!(summary.distribution().unwrap().count(), 0);
    }
}
