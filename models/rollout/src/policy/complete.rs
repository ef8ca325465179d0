//! From what a file says to a policy: the preset fills the gaps, and every key is checked once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::built::{Built, Element};
use super::gates::{DecisionKind, Trust};
use super::preset::{self, Preset, longest};
use super::raw::{RawApproval, RawDecision, RawKind, RawMatch, RawPolicy, RawShadow, RawStep};
use super::{
    Approval, Decision, KeySource, Match, Metric, OnInconclusive, OnNewVersion, Policy, Risk, Shadow, Step,
};
use crate::PolicyError;
use crate::duration::RawDuration;
use crate::state::Approvable;

mod checks;
mod gates;

/// Completes and validates.
pub(super) fn complete(raw: RawPolicy, built: &Built) -> Result<Policy, PolicyError> {
    let preset = Preset::of(raw.risk);
    let rollout = raw.rollout;
    let decision = raw.decision.map(decision).transpose()?;
    let shadow = shadow(rollout.shadow.as_ref(), preset)?;
    let policy = Policy {
        risk: raw.risk,
        on_new_version: rollout.on_new_version.unwrap_or(match raw.risk {
            None => OnNewVersion::Immediate,
            Some(_) => OnNewVersion::Canary,
        }),
        route_key: rollout
            .route_key
            .iter()
            .map(|text| key_source(text))
            .collect::<Result<_, _>>()?,
        matches: rollout
            .matches
            .into_iter()
            .enumerate()
            .map(|(index, raw)| matching(index, raw))
            .collect::<Result<_, _>>()?,
        alpha: level("rollout.alpha", rollout.alpha.unwrap_or(preset::ALPHA))?,
        alpha_pass: level(
            "rollout.alpha_pass",
            rollout.alpha_pass.unwrap_or(preset::ALPHA_PASS),
        )?,
        keep_warm: rollout.keep_warm.unwrap_or(preset::KEEP_WARM),
        bake: rollout.bake.map_or(preset.bake, |RawDuration(bake)| bake),
        on_inconclusive: rollout.on_inconclusive.unwrap_or(OnInconclusive::Hold),
        invalid_output: rollout.invalid_output.unwrap_or_default(),
        strict: rollout.strict.unwrap_or(false),
        hard_limit: hard_limit(rollout.hard_limit_ms)?,
        warmup: rollout.warmup.unwrap_or(preset::WARMUP),
        steps: rollout
            .step
            .map_or_else(|| Ok(preset.steps()), |raw| steps(&raw))?,
        checks: checks::complete(
            &rollout.check,
            rollout.shadow.as_ref().and_then(|shadow| shadow.max_flip_rate),
            shadow.is_some(),
            decision.as_ref(),
            preset,
        )?,
        approval: approval(rollout.approval, preset)?,
        gates: gates::complete(raw.gates, preset)?,
        shadow,
        decision,
    };
    if policy.is_active() || policy.risk.is_some() {
        check_predictions(&policy)?;
        check_built(&policy, built)?;
        check_flips(&policy)?;
    }
    Ok(policy)
}

/// A probability that is neither 0 nor 1.
fn level(key: &str, value: f64) -> Result<f64, PolicyError> {
    if value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    Err(PolicyError::invalid(
        key,
        format!("expected more than 0 and less than 1, got {value}"),
    ))
}

/// A number of at least `least`.
fn at_least(key: &str, least: f64, value: f64) -> Result<f64, PolicyError> {
    if value >= least && value.is_finite() {
        return Ok(value);
    }
    Err(PolicyError::invalid(
        key,
        format!("expected a number of at least {least}, got {value}"),
    ))
}

fn key_source(text: &str) -> Result<KeySource, PolicyError> {
    match text.split_once(':') {
        Some(("header", name)) if !name.is_empty() => Ok(KeySource::Header(name.to_ascii_lowercase())),
        Some(("input", name)) if !name.is_empty() => Ok(KeySource::Input(name.to_owned())),
        _ => Err(PolicyError::invalid(
            "rollout.route_key",
            format!("expected \"header:NAME\" or \"input:NAME\", got \"{text}\""),
        )),
    }
}

fn matching(index: usize, raw: RawMatch) -> Result<Match, PolicyError> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if raw.header.is_empty() || !raw.header.bytes().all(name) {
        let key = format!("rollout.match[{index}].header");
        return Err(PolicyError::invalid(
            key,
            format!("\"{}\" is no name of a header", raw.header),
        ));
    }
    Ok(Match {
        header: raw.header.to_ascii_lowercase(),
        value: raw.value,
        to: raw.to,
    })
}

fn hard_limit(milliseconds: Option<u64>) -> Result<Option<Duration>, PolicyError> {
    match milliseconds {
        Some(0) => Err(PolicyError::invalid(
            "rollout.hard_limit_ms",
            "expected at least 1; leave it out for no limit",
        )),
        other => Ok(other.map(Duration::from_millis)),
    }
}

/// The longest time of a stage, which must not be below its least.
fn max_of(key: &str, min: Duration, max: Option<RawDuration>) -> Result<Duration, PolicyError> {
    match max {
        None => Ok(longest(min)),
        Some(RawDuration(max)) if max >= min => Ok(max),
        Some(_) => Err(PolicyError::invalid(key, "it is shorter than `min`")),
    }
}

fn steps(raw: &[RawStep]) -> Result<Vec<Step>, PolicyError> {
    let mut steps: Vec<Step> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let key = |name: &str| format!("rollout.step[{index}].{name}");
        if !(raw.percent > 0.0 && raw.percent < 100.0) {
            let problem = format!(
                "expected more than 0 and less than 100, got {}; the last step, to 100, is the promotion",
                raw.percent
            );
            return Err(PolicyError::invalid(key("percent"), problem));
        }
        if steps.last().is_some_and(|before| before.percent >= raw.percent) {
            return Err(PolicyError::invalid(
                key("percent"),
                "expected more than in the step before",
            ));
        }
        let RawDuration(min) = raw.min;
        steps.push(Step {
            percent: raw.percent,
            min,
            max: max_of(&key("max"), min, raw.max)?,
            min_units: raw.min_units.unwrap_or(100),
        });
    }
    if steps.is_empty() {
        return Err(PolicyError::invalid("rollout.step", "expected at least one step"));
    }
    Ok(steps)
}

/// The shadow stage of the file, of the preset, or none.
fn shadow(raw: Option<&RawShadow>, preset: &Preset) -> Result<Option<Shadow>, PolicyError> {
    let nothing = RawShadow::default();
    let enabled = raw.map_or(preset.shadow.is_some(), |raw| raw.enabled.unwrap_or(true));
    if !enabled {
        return Ok(None);
    }
    let raw = raw.unwrap_or(&nothing);
    let percent = raw.percent.unwrap_or(preset::SHADOW_PERCENT);
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(PolicyError::invalid(
            "rollout.shadow.percent",
            format!("expected more than 0 and at most 100, got {percent}"),
        ));
    }
    let min = raw.min.map_or(preset::SHADOW_MIN, |RawDuration(min)| min);
    let tolerance = raw
        .tol
        .map(|tol| at_least("rollout.shadow.tol", 0.0, tol))
        .transpose()?;
    Ok(Some(Shadow {
        percent,
        min,
        max: max_of("rollout.shadow.max", min, raw.max)?,
        min_units: raw.min_units.or(preset.shadow).unwrap_or(500),
        tolerance,
    }))
}

fn approval(raw: RawApproval, preset: &Preset) -> Result<Approval, PolicyError> {
    let quorum = match (&raw.before, raw.quorum) {
        (_, Some(quorum)) => quorum,
        (Some(before), None) if !before.is_empty() => preset.quorum.max(1),
        (_, None) => preset.quorum,
    };
    let before: BTreeSet<Approvable> = match raw.before {
        Some(before) => before.into_iter().collect(),
        None if quorum > 0 => BTreeSet::from([Approvable::Promoting]),
        None => BTreeSet::new(),
    };
    if quorum == 0 && !before.is_empty() {
        return Err(PolicyError::invalid(
            "rollout.approval.quorum",
            "expected at least 1, since `before` is set",
        ));
    }
    Ok(Approval {
        before,
        quorum,
        not_author: raw.not_author.unwrap_or(preset.not_author),
        independent: raw.independent.unwrap_or(preset.independent),
        groups: raw.groups.into_iter().collect(),
        timeout: raw.timeout.map(|RawDuration(timeout)| timeout),
    })
}

fn decision(raw: RawDecision) -> Result<Decision, PolicyError> {
    let kind = match (raw.kind, raw.threshold) {
        (RawKind::Threshold, Some(threshold)) if threshold.is_finite() => DecisionKind::Threshold(threshold),
        (RawKind::Threshold, _) => {
            let problem = "expected a number, since `kind` is \"threshold\"";
            return Err(PolicyError::invalid("decision.threshold", problem));
        }
        (_, Some(_)) => {
            let problem = "it is only for `kind` \"threshold\"";
            return Err(PolicyError::invalid("decision.threshold", problem));
        }
        (RawKind::Argmax, None) => DecisionKind::Argmax,
        (RawKind::None, None) => DecisionKind::None,
    };
    if matches!(kind, DecisionKind::Threshold(_)) && !matches!(raw.labels.len(), 0 | 2) {
        let problem = format!(
            "a threshold tells two classes apart, got {} names",
            raw.labels.len()
        );
        return Err(PolicyError::invalid("decision.labels", problem));
    }
    Ok(Decision {
        output: raw.output,
        kind,
        labels: raw.labels,
    })
}

/// From medium up something must look at what the model says, not only at how it runs.
fn check_predictions(policy: &Policy) -> Result<(), PolicyError> {
    let looks = policy.gates.quality.is_some() || policy.checks.iter().any(super::Check::watches_predictions);
    if policy.risk < Some(Risk::Medium) || looks {
        return Ok(());
    }
    Err(PolicyError::invalid(
        "risk",
        "nothing looks at predictions: set `gates.quality`, or a check of \"quality\", \"output\" or \"flips\"",
    ))
}

/// Refuses to count flips where nothing says what a flip is: with any difference, every new model would fail.
fn check_flips(policy: &Policy) -> Result<(), PolicyError> {
    let decides = |decision: &Decision| decision.kind != DecisionKind::None;
    let known = policy.decision.as_ref().is_some_and(decides)
        || policy
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.tolerance.is_some());
    let counted = policy.checks.iter().any(|check| check.metric == Metric::Flips);
    if known || !counted {
        return Ok(());
    }
    Err(PolicyError::invalid(
        "rollout.shadow.tol",
        "nothing says what a flip is: set `[decision]`, or the difference of two numbers from which on they are one; or \
         add `[[rollout.check]]` with `metric = \"flips\"` and `enabled = false`",
    ))
}

/// Names the first element that the policy asks for and that is not there.
fn check_built(policy: &Policy, built: &Built) -> Result<(), PolicyError> {
    let gates = &policy.gates;
    let asked = [
        (
            gates.signature == Trust::Pinned,
            "gates.signature",
            Element::PinnedDigest,
            " = \"recorded\"",
        ),
        (
            gates.signature == Trust::Required,
            "gates.signature",
            Element::Signature,
            " = \"recorded\"",
        ),
        (
            gates.golden.is_some(),
            "gates.golden",
            Element::GoldenGate,
            ".enabled = false",
        ),
        (
            gates.golden.as_ref().is_some_and(|golden| is_table(&golden.file)),
            "gates.golden.file",
            Element::GoldenTable,
            " = \"golden\"",
        ),
        (
            gates
                .golden
                .as_ref()
                .is_some_and(|golden| golden.interval.is_some()),
            "gates.golden",
            Element::GoldenInterval,
            "` without `interval",
        ),
        (
            gates.quality.is_some(),
            "gates.quality",
            Element::QualityGate,
            ".enabled = false",
        ),
        (
            gates.trend.is_some(),
            "gates.trend",
            Element::TrendGate,
            ".enabled = false",
        ),
        (gates.slices, "gates.slices", Element::SliceGate, " = false"),
        (
            gates.performance.is_some(),
            "gates.performance",
            Element::PerformanceGate,
            ".enabled = false",
        ),
        (
            gates
                .performance
                .is_some_and(|performance| performance.max_vram_bytes.is_some()),
            "gates.performance",
            Element::DeviceMemory,
            "` without `max_vram_bytes",
        ),
        (
            policy.shadow.is_some(),
            "rollout.shadow",
            Element::Shadow,
            ".enabled = false",
        ),
        (
            policy.approval.quorum > 0,
            "rollout.approval.quorum",
            Element::Approval,
            " = 0",
        ),
    ];
    if let Some(KeySource::Input(name)) = policy
        .route_key
        .iter()
        .find(|source| matches!(source, KeySource::Input(_)))
        && !built.has(Element::InputKey)
    {
        let advice = format!("leave out `input:{name}`, and name a header instead");
        return Err(not_built("rollout.route_key", Element::InputKey, &advice));
    }
    if policy.decision.is_some() && !built.has(Element::Decision) {
        return Err(not_built("decision", Element::Decision, "leave the table out"));
    }
    for (asked, key, element, without) in asked {
        if asked && !built.has(element) {
            return Err(not_built(
                key,
                element,
                &format!("set `{key}{without}` to do without"),
            ));
        }
    }
    for check in &policy.checks {
        if let Some(element) = checks::element(check.metric)
            && !built.has(element)
        {
            let name = check.metric.name();
            let advice = format!(
                "add `[[rollout.check]]` with `metric = \"{name}\"` and `enabled = false` to do without"
            );
            return Err(not_built(&format!("rollout.check.{name}"), element, &advice));
        }
    }
    Ok(())
}

/// Whether golden rows lie in a Parquet file.
fn is_table(file: &std::path::Path) -> bool {
    file.extension().is_some_and(|extension| extension == "parquet")
}

fn not_built(key: &str, element: Element, advice: &str) -> PolicyError {
    PolicyError::NotBuilt {
        key: key.to_owned(),
        element: element.describe(),
        advice: format!("; {advice}"),
    }
}
