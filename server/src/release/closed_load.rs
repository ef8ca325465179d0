//! The performance gate: latency and memory under a closed local load (rollout.md §6).
//!
//! A few requests are always on their way, each of one case, until there are enough or the time is over. The load knows
//! nothing of the network; memory is that of the whole process, and what else it does at that time is measured with it.

use std::time::{Duration, Instant};

use crossfade_rollout::gate::{GateOutcome, Measured, performance};
use crossfade_rollout::policy::Performance;
use serde_json::json;

use super::asker::{Asker, NoAnswer};
use super::report::Gate;
use crate::dataset::Case;
use crate::metrics::resident_bytes;
use crate::servable::Servable;

/// Requests that are on their way.
const AT_ONCE: usize = 4;
/// Requests before the latency counts.
const WARM_UP: usize = 50;
/// Requests that are enough for a 99th percentile.
const ENOUGH: usize = 2000;
/// The fewest: its 99th percentile is the second largest.
const FEWEST: usize = 200;
/// After so long the fewest are enough.
const LONG: Duration = Duration::from_secs(10);

/// What a load measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    requests: usize,
    p50: Duration,
    measured: Measured,
}

/// Puts a version under load.
///
/// * `cases`: asked in turn; at least one
/// * `resident_before`: resident memory before the version was loaded, bytes
///
/// Errors: a case that does not get an answer. Blocks for about ten seconds or less; longer for a slow model.
pub(super) fn run(
    servable: &Servable,
    cases: &[Case],
    resident_before: u64,
    asker: &Asker<'_>,
) -> Result<Load, NoAnswer> {
    let turn = |count: usize| cases.iter().cycle().take(count);
    asker.answers(servable, turn(WARM_UP), None, AT_ONCE)?;
    let began = Instant::now();
    let mut latencies: Vec<Duration> = Vec::new();
    let mut resident = resident_bytes();
    while latencies.len() < ENOUGH && (latencies.len() < FEWEST || began.elapsed() < LONG) {
        let answers = asker.answers(servable, turn(FEWEST), None, AT_ONCE)?;
        latencies.extend(answers.iter().map(|answer| answer.took));
        resident = resident.max(resident_bytes());
    }
    latencies.sort_unstable();
    Ok(Load {
        requests: latencies.len(),
        p50: quantile(&latencies, 50),
        measured: Measured {
            p99: quantile(&latencies, 99),
            rss_bytes: resident.saturating_sub(resident_before),
            vram_bytes: 0,
        },
    })
}

/// The value that so many percent do not exceed.
fn quantile(ascending: &[Duration], percent: usize) -> Duration {
    let rank = (ascending.len() * percent).div_ceil(100).saturating_sub(1);
    ascending.get(rank).copied().unwrap_or_default()
}

/// What the gate says of a load.
pub(super) fn gate(limits: &Performance, load: &Load) -> Gate {
    let Load {
        requests,
        p50,
        measured,
    } = load;
    let outcome: GateOutcome = performance(limits, measured);
    let p99 = measured.p99;
    let latency = limits
        .max_p99
        .map_or_else(String::new, |most| format!(", at most {most:?}"));
    let memory = limits
        .max_rss_bytes
        .map_or_else(String::new, |most| format!(", at most {most}"));
    Gate {
        name: "performance",
        outcome: outcome.into(),
        why: format!(
            "99th percentile {p99:?} of {requests} requests{latency}; {} bytes more{memory}",
            measured.rss_bytes
        ),
        evidence: json!({
            "requests": requests, "at_once": AT_ONCE, "p50_seconds": p50.as_secs_f64(), "p99_seconds": p99.as_secs_f64(),
            "rss_bytes": measured.rss_bytes, "limits": limits,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::report::Outcome;

    #[test]
    fn quantiles_are_of_the_sample() {
        let of = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        let check = |count, percent, expected| {
            assert_eq!(quantile(&of(count), percent), Duration::from_millis(expected));
        };
        check(200, 99, 198);
        check(200, 50, 100);
        check(1, 99, 1);
        check(0, 99, 0);
    }

    #[test]
    fn each_limit_holds() {
        let load = Load {
            requests: 200,
            p50: Duration::from_millis(1),
            measured: Measured {
                p99: Duration::from_millis(9),
                rss_bytes: 1000,
                vram_bytes: 0,
            },
        };
        let check = |max_p99: Option<u64>, max_rss_bytes, expected| {
            let limits = Performance {
                max_p99: max_p99.map(Duration::from_millis),
                max_rss_bytes,
                max_vram_bytes: None,
            };
            let gate = gate(&limits, &load);
            assert_eq!(gate.outcome, expected, "{}", gate.why);
        };
        check(Some(9), Some(1000), Outcome::Passed);
        check(Some(8), None, Outcome::Failed);
        check(None, Some(999), Outcome::Failed);
    }
}
