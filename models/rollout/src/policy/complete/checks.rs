//! The checks of a policy: those of the preset, changed and added to by the file.

use super::super::built::Element;
use super::super::check::{Check, Margins, Method, Metric};
use super::super::gates::{Decision, DecisionKind};
use super::super::preset::{self, Preset};
use super::super::raw::{RawCheck, RawTest};
use super::{at_least, level};
use crate::PolicyError;
use crate::duration::RawDuration;

/// Completes the checks, in the order of their metrics.
///
/// * `flip_rate`: the limit from `[rollout.shadow]`, where flips are counted
pub(super) fn complete(
    raw: &[RawCheck],
    flip_rate: Option<f64>,
    shadow: bool,
    decision: Option<&Decision>,
    preset: &Preset,
) -> Result<Vec<Check>, PolicyError> {
    for (index, check) in raw.iter().enumerate() {
        if raw.iter().take(index).any(|before| before.metric == check.metric) {
            let key = format!("rollout.check.{}", check.metric.name());
            return Err(PolicyError::invalid(key, "it is there twice"));
        }
    }
    let metrics = [
        Metric::Errors,
        Metric::Latency,
        Metric::Quality,
        Metric::Output,
        Metric::Flips,
    ];
    let mut checks = Vec::new();
    for metric in metrics {
        let file = raw.iter().find(|check| check.metric == metric);
        if let Some(check) = file {
            check_keys(check)?;
        }
        let by_default = match metric {
            Metric::Errors | Metric::Latency | Metric::Output => true,
            Metric::Quality => false,
            Metric::Flips => shadow,
        };
        if !file.map_or(by_default, |check| check.enabled.unwrap_or(true)) {
            continue;
        }
        if metric == Metric::Flips && !shadow {
            let problem = "flips are counted in shadow, and there is none";
            return Err(PolicyError::invalid("rollout.check.flips", problem));
        }
        let critical = match metric {
            Metric::Errors | Metric::Latency | Metric::Quality => true,
            Metric::Output => preset.max_psi.is_some(),
            Metric::Flips => preset.flips_critical,
        };
        checks.push(Check {
            metric,
            method: method(metric, file, flip_rate, decision, preset)?,
            critical: file.and_then(|check| check.critical).unwrap_or(critical),
        });
    }
    Ok(checks)
}

fn method(
    metric: Metric,
    file: Option<&RawCheck>,
    flip_rate: Option<f64>,
    decision: Option<&Decision>,
    preset: &Preset,
) -> Result<Method, PolicyError> {
    Ok(match metric {
        Metric::Errors => Method::Events(margins(metric, file, preset::ERRORS.0, Some(preset::ERRORS.1))?),
        Metric::Latency => Method::Exceed {
            margins: margins(metric, file, preset::LATENCY.0, Some(preset::LATENCY.1))?,
            slack: file
                .and_then(|check| check.slack)
                .map_or(preset::SLACK, |RawDuration(slack)| slack),
        },
        Metric::Quality => Method::Events(margins(metric, file, 1.0, None)?),
        Metric::Output => {
            let warn = file
                .and_then(|check| check.warn_distance)
                .unwrap_or(preset::WARN_DISTANCE);
            let classes = match file.and_then(|check| check.test) {
                Some(test) => test == RawTest::Chi2,
                None => decision.is_some_and(|decision| decision.kind != DecisionKind::None),
            };
            let max_psi = file.and_then(|check| check.max_psi).or(preset.max_psi);
            Method::Distribution {
                classes,
                warn_distance: level("rollout.check.output.warn_distance", warn)?,
                max_psi: max_psi
                    .map(|psi| at_least("rollout.check.output.max_psi", 0.0, psi))
                    .transpose()?,
            }
        }
        Metric::Flips => {
            let limit = file.and_then(|check| check.max_flip_rate).or(flip_rate);
            let limit = limit.unwrap_or(preset::MAX_FLIP_RATE);
            Method::Flips {
                max_flip_rate: level("rollout.shadow.max_flip_rate", limit)?,
            }
        }
    })
}

fn margins(
    metric: Metric,
    file: Option<&RawCheck>,
    tolerance: f64,
    abs_ok: Option<f64>,
) -> Result<Margins, PolicyError> {
    let key = |name: &str| format!("rollout.check.{}.{name}", metric.name());
    let tolerance = file.and_then(|check| check.tolerance).unwrap_or(tolerance);
    let tolerance = at_least(&key("tolerance"), 1.0, tolerance)?;
    let margin = file
        .and_then(|check| check.margin)
        .unwrap_or_else(|| preset::margin(tolerance));
    let abs_ok = file.and_then(|check| check.abs_ok).or(abs_ok);
    Ok(Margins {
        tolerance,
        margin: at_least(&key("margin"), tolerance, margin)?,
        abs_ok: abs_ok.map(|rate| level(&key("abs_ok"), rate)).transpose()?,
    })
}

/// Refuses a test or a limit that the metric does not have, rather than ignoring it.
fn check_keys(check: &RawCheck) -> Result<(), PolicyError> {
    let name = check.metric.name();
    let tests: &[RawTest] = match check.metric {
        Metric::Errors | Metric::Quality => &[RawTest::Events],
        Metric::Latency => &[RawTest::Exceed],
        Metric::Output => &[RawTest::Ks, RawTest::Chi2],
        Metric::Flips => &[RawTest::Bounds],
    };
    if check.test.is_some_and(|test| !tests.contains(&test)) {
        let key = format!("rollout.check.{name}.test");
        let names: Vec<_> = tests
            .iter()
            .map(|test| format!("{test:?}").to_lowercase())
            .collect();
        return Err(PolicyError::invalid(
            key,
            format!("expected {}", names.join(" or ")),
        ));
    }
    let counts = matches!(check.metric, Metric::Errors | Metric::Quality | Metric::Latency);
    let output = check.metric == Metric::Output;
    for (set, allowed, limit) in [
        (check.tolerance.is_some(), counts, "tolerance"),
        (check.margin.is_some(), counts, "margin"),
        (check.abs_ok.is_some(), counts, "abs_ok"),
        (check.slack.is_some(), check.metric == Metric::Latency, "slack"),
        (check.warn_distance.is_some(), output, "warn_distance"),
        (check.max_psi.is_some(), output, "max_psi"),
        (
            check.max_flip_rate.is_some(),
            check.metric == Metric::Flips,
            "max_flip_rate",
        ),
    ] {
        if set && !allowed {
            let key = format!("rollout.check.{name}.{limit}");
            return Err(PolicyError::invalid(
                key,
                format!("a check of \"{name}\" has no such limit"),
            ));
        }
    }
    Ok(())
}

/// What must be built for a check of this metric.
pub(super) fn element(metric: Metric) -> Option<Element> {
    match metric {
        Metric::Errors | Metric::Latency => None,
        Metric::Quality => Some(Element::LiveQuality),
        Metric::Output => Some(Element::OutputDistribution),
        Metric::Flips => Some(Element::Flips),
    }
}
