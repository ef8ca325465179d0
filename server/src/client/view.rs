//! Releases as lines of text. Pure: the time is an argument.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::events::Told;
use super::release::{Check, Release, Report};

/// Columns of a bar.
const BAR: usize = 24;

/// A line, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// The name of a thing.
    Title,
    /// It is as it should be.
    Good,
    /// Someone should look.
    Warn,
    /// It was sent back, or will be.
    Bad,
    /// What is only for completeness.
    Faint,
}

impl Line {
    pub(super) fn new(text: String, tone: Tone) -> Self {
        Self { text, tone }
    }

    /// At most so many columns, coloured if `colour`.
    pub(super) fn painted(&self, columns: usize, colour: bool) -> String {
        let text: String = self.text.chars().take(columns).collect();
        let code = match self.tone {
            Tone::Plain => return text,
            Tone::Title => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text
        }
    }
}

/// A release with all that is known of it. `now`: seconds since 1970.
pub(super) fn card(release: &Release, now: u64) -> Vec<Line> {
    let mut lines = vec![
        Line::new(
            format!(
                "{}  version {}, beside {}: {}",
                release.model,
                release.version,
                release.champion,
                stands(release)
            ),
            Tone::Title,
        ),
        Line::new(share(release), tone(release)),
    ];
    let report = release.report.as_ref().filter(|_| release.is_active());
    if let Some(report) = report {
        lines.extend(passed(release, report).map(|text| Line::new(text, Tone::Plain)));
        lines.extend(checks(report));
        for (index, missing) in missing(release, report).iter().enumerate() {
            let name = if index == 0 { "missing" } else { "" };
            lines.push(row(name, missing, Tone::Warn));
        }
    }
    if let Some(agreement) = &release.approval
        && let Some(missing) = agreement.missing
    {
        let by = match agreement.counted.as_slice() {
            [] => "nobody has agreed yet".to_owned(),
            names => format!("{} agreed", names.join(", ")),
        };
        let text = format!("{missing} of {} approvals: {by}", agreement.quorum);
        lines.push(row("missing", &text, Tone::Warn));
    }
    if let Some(why) = &release.why {
        lines.push(row("why", why, Tone::Plain));
    }
    if release.lost_counts > 0 {
        let lost = format!(
            "{} requests were not counted, of either version",
            release.lost_counts
        );
        lines.push(row("lost", &lost, Tone::Warn));
    }
    if let Some(failure) = &release.baseline_failure {
        let text = format!("none, so that latencies are not compared: {failure}");
        lines.push(row("baseline", &text, Tone::Warn));
    }
    let age = span(now.saturating_sub(release.created) as f64);
    let by = format!("{}, begun by {} {age} ago", release.id, release.actor);
    lines.push(row("release", &by, Tone::Faint));
    lines
}

/// A release in one line, for a log.
pub(super) fn summary(release: &Release) -> String {
    let mut line = format!(
        "{} version {}: {}",
        release.model,
        release.version,
        stands(release)
    );
    if !release.is_active() {
        if let Some(why) = &release.why {
            let _written = write!(line, ": {why}").is_ok();
        }
        return line;
    }
    let _written = write!(line, ", {} % of the requests", number(release.percent)).is_ok();
    if let Some(report) = &release.report {
        let _written = write!(
            line,
            ", {} units in {}",
            report.units,
            span(report.served.as_secs_f64())
        )
        .is_ok();
        for check in &report.checks {
            let evidence = check
                .log_e
                .map_or_else(String::new, |log_e| format!(" ln E {log_e:.2}"));
            let _written = write!(
                line,
                ", {} {}/{}{evidence}",
                check.metric, check.events.canary, check.events.control
            )
            .is_ok();
        }
    }
    line
}

/// A move of a release in one line.
pub(super) fn told(told: &Told) -> Line {
    let clock = told.at % 86_400;
    let mut text = format!(
        "{:02}:{:02}:{:02} UTC  {} version {}  {}",
        clock / 3600,
        clock / 60 % 60,
        clock % 60,
        told.model,
        told.version,
        told.event.replace('_', " ")
    );
    if let Some(to) = told
        .to
        .as_ref()
        .filter(|to| **to != told.event && told.event != "agreed")
    {
        let _written = write!(text, " → {}", to.replace('_', " ")).is_ok();
    }
    if !told.actor.is_empty() && told.actor != "crossfade" {
        let _written = write!(text, "  by {}", told.actor).is_ok();
    }
    if let Some(why) = &told.why {
        let _written = write!(text, "  {why}").is_ok();
    }
    let tone = match told.to.as_deref() {
        Some("live" | "promoting" | "baking") => Tone::Good,
        Some("rolling_back" | "rolled_back" | "failed") => Tone::Bad,
        Some("paused" | "awaiting_approval") => Tone::Warn,
        _ => Tone::Plain,
    };
    Line::new(text, tone)
}

/// `canary, step 1 of 2`.
fn stands(release: &Release) -> String {
    let state = &release.state;
    if let Some(live) = release.replaced_by() {
        return format!("was live, and version {live} is now");
    }
    let mut text = state.name.replace('_', " ");
    if let Some(step) = state.step {
        let of = release
            .rules
            .as_ref()
            .map(|rules| format!(" of {}", rules.steps.len()));
        let _written = write!(text, ", step {}{}", step + 1, of.unwrap_or_default()).is_ok();
    }
    if let Some(next) = &state.next {
        let _written = write!(text, " before {}", next.replace('_', " ")).is_ok();
    }
    if let Some(reason) = &state.reason {
        let _written = write!(text, " ({})", reason.replace('_', " ")).is_ok();
    }
    text
}

fn tone(release: &Release) -> Tone {
    match release.state.name.as_str() {
        "paused" | "awaiting_approval" => Tone::Warn,
        _ if release.replaced_by().is_some() => Tone::Warn,
        _ if release.is_sent_back() => Tone::Bad,
        _ => Tone::Good,
    }
}

fn share(release: &Release) -> String {
    let whole = release.is_live() && release.replaced_by().is_none();
    let percent = if whole { 100.0 } else { release.percent };
    row(
        "share",
        &format!("[{}] {} %", bar(percent / 100.0), number(percent)),
        Tone::Plain,
    )
    .text
}

/// How far the step is.
fn passed(release: &Release, report: &Report) -> Option<String> {
    let served = report.served.as_secs_f64();
    let text = match release.step() {
        Some(step) => format!(
            "{} of at least {}, at most {} · {} of at least {} units",
            span(served),
            span(step.min_s),
            span(step.max_s),
            report.units,
            step.min_units
        ),
        None if release.state.name == "baking" => {
            let bake = release.rules.as_ref().map_or(0.0, |rules| rules.bake_s);
            format!("{} of {}", span(served), span(bake))
        }
        None => return None,
    };
    let requests = report.requests;
    let seen = format!("{} requests, {} beside it", requests.canary, requests.control);
    Some(row("step", &format!("{text} ({seen})"), Tone::Plain).text)
}

fn checks(report: &Report) -> impl Iterator<Item = Line> {
    let head = (!report.checks.is_empty()).then(|| {
        let text = format!(
            "  {:<8} {:>18} {:>9}   {:<42} {}",
            "check", "new version", "beside", "that it is worse: ln E, sent back at", "says"
        );
        Line::new(text, Tone::Faint)
    });
    head.into_iter().chain(report.checks.iter().map(check))
}

fn check(check: &Check) -> Line {
    let evidence = match (check.log_e, check.fails_at) {
        (Some(log_e), Some(fails_at)) => {
            format!("{log_e:>7.2} [{}] {fails_at:.2}", bar(log_e / fails_at))
        }
        _ => match (check.distance, check.psi) {
            (Some(distance), Some(psi)) => format!("distance {distance:.3}, stability {psi:.3}"),
            _ => String::new(),
        },
    };
    let tone = match check.outcome.as_str() {
        "failed" => Tone::Bad,
        "warned" => Tone::Warn,
        "passed" => Tone::Good,
        _ => Tone::Plain,
    };
    let canary = format!("{} of {}", check.events.canary, check.units);
    Line::new(
        format!(
            "  {:<8} {canary:>18} {:>9}   {evidence:<42} {}",
            check.metric, check.events.control, check.outcome
        ),
        tone,
    )
}

/// What a step waits for.
fn missing(release: &Release, report: &Report) -> Vec<String> {
    let mut missing = Vec::new();
    if let Some(step) = release.step() {
        let units = step.min_units.saturating_sub(report.units);
        if units > 0 {
            missing.push(format!("{units} units"));
        }
        let time = step.min_s - report.served.as_secs_f64();
        if time > 0.0 {
            missing.push(span(time));
        }
    }
    let limits = release.rules.as_ref().map(|rules| rules.checks.as_slice());
    for check in report.checks.iter().filter(|check| check.outcome == "open") {
        let limit = limits
            .unwrap_or_default()
            .iter()
            .find(|limit| limit.metric == check.metric);
        if limit.is_some_and(|limit| !limit.critical) {
            continue;
        }
        let shown = check.upper.zip(limit.and_then(|limit| limit.abs_ok));
        missing.push(match shown {
            Some((upper, ok)) => format!(
                "{}: may be as bad as {}, has to be below {}, or no worse than beside",
                check.metric,
                percent(upper),
                percent(ok)
            ),
            None => format!("{}: not shown yet", check.metric),
        });
    }
    missing
}

fn row(name: &str, text: &str, tone: Tone) -> Line {
    Line::new(format!("  {name:<8} {text}"), tone)
}

/// A share of [`BAR`] columns.
pub(super) fn bar(share: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of columns; no number is none"
    )]
    let filled = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!("{}{}", "#".repeat(filled), "·".repeat(BAR - filled))
}

/// `1h 5m`, `42s`.
pub(super) fn span(seconds: f64) -> String {
    if seconds > 0.0 && seconds < 1.0 {
        return "under 1s".to_owned();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and whole seconds are meant"
    )]
    let whole = seconds.ceil() as u64;
    let parts = [
        (whole / 86_400, 'd'),
        (whole / 3600 % 24, 'h'),
        (whole / 60 % 60, 'm'),
        (whole % 60, 's'),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// A share as people read it.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        percent if percent >= 10.0 => 0,
        percent if percent >= 1.0 => 1,
        _ => 2,
    };
    format!("{percent:.digits$} %")
}

/// Without zeros that say nothing.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
