//! A figure that a comparison judges: where it stands in a result, and what its seconds say.

use serde::Serialize;

use crate::noise::{Part, Scale};
use crate::result::{RunResult, Second};

/// One of the compared figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Requests answered without an error per second.
    Throughput,
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// 99.9th percentile of the latency.
    P999,
    /// The share of requests that failed.
    Errors,
    /// CPU time of the server per answered request.
    ServerCpu,
}

impl Figure {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Throughput,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::Errors,
        Self::ServerCpu,
    ];

    /// What it is called in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Errors => "errors",
            Self::ServerCpu => "server CPU",
        }
    }

    /// The unit of [`Figure::of`].
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "requests/s",
            Self::P50 | Self::P99 | Self::P999 => "µs",
            Self::Errors => "of requests",
            Self::ServerCpu => "µs/request",
        }
    }

    /// Whether a larger value is the better one.
    pub fn more_is_better(self) -> bool {
        self == Self::Throughput
    }

    /// How two values of it are set against each other.
    pub fn scale(self) -> Scale {
        if self == Self::Errors {
            Scale::Difference
        } else {
            Scale::Ratio
        }
    }

    /// Its value in `run`, in [`Figure::unit`]; `None` where the run did not measure it.
    pub fn of(self, run: &RunResult) -> Option<f64> {
        let total = &run.total;
        let answered = total.latency.count > 0;
        match self {
            Self::Throughput => Some(total.throughput_per_s),
            Self::P50 => answered.then_some(total.latency.p50_us as f64),
            Self::P99 => answered.then_some(total.latency.p99_us as f64),
            Self::P999 => answered.then_some(total.latency.p999_us as f64),
            Self::Errors => {
                let failures: u64 = total.errors.values().sum();
                (total.sent > 0).then(|| failures as f64 / total.sent as f64)
            }
            Self::ServerCpu => {
                let cpu_s = run.server.as_ref()?.cpu_s?;
                (total.ok > 0).then(|| cpu_s * 1e6 / total.ok as f64)
            }
        }
    }

    /// What each measured second of `run` adds to it; `None` where the series does not have it.
    pub fn parts(self, run: &RunResult) -> Option<Vec<Part>> {
        let part: fn(&Second) -> Part = match self {
            Self::Throughput => |second| once(second.ok),
            Self::P50 => |second| latency(second, second.p50_us),
            Self::P99 => |second| latency(second, second.p99_us),
            Self::Errors => |second| Part {
                amount: float(second.errors),
                weight: float(second.ok + second.errors),
            },
            Self::P999 | Self::ServerCpu => return None,
        };
        // Seconds past the measured time only drain: their counts are what was left over.
        let measured = run
            .series
            .iter()
            .filter(|second| float(second.second) + 1.0 <= run.load.duration_s);
        Some(measured.map(part).collect())
    }
}

/// A second counts once, whatever happened in it.
fn once(amount: u64) -> Part {
    Part {
        amount: float(amount),
        weight: 1.0,
    }
}

/// A second without answers has no latency.
fn latency(second: &Second, us: u64) -> Part {
    if second.ok == 0 {
        Part {
            amount: 0.0,
            weight: 0.0,
        }
    } else {
        once(us)
    }
}

fn float(value: u64) -> f64 {
    value as f64
}
