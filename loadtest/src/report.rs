//! The report: one HTML page of any number of results, with nothing fetched from elsewhere and no script.
//!
//! Everything that comes from a result is escaped. The page is also well-formed XML, which its tests rely on.

use anyhow::{Result, bail};

use crate::capacity::{Capacity, Phase};
use crate::result::RunResult;
use crate::sweep::Sweep;

use html::{Text, table};

mod axis;
mod chart;
mod html;
mod plots;
mod section;

const STYLE: &str = include_str!("report/style.css");

/// The most runs whose distributions share a plot: as many as there are colours.
const OVERLAID: usize = 6;

/// The page of `results`, each with the name it is to have there (usually its file's).
///
/// Errors: if there is nothing to show, or if a histogram cannot be read.
pub fn page(results: &[(String, Sweep)]) -> Result<String> {
    let runs = named_runs(results);
    let Some((_, first)) = runs.first() else {
        bail!("there is no run to report; give at least one result file");
    };
    let title = format!("Load on {} ({})", first.target.url, first.target.protocol);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"faint\">Latencies count from when a request was due, not from when it was sent, unless the load was a \
         closed loop.</p>\n",
        title = Text(&title)
    );
    for (name, sweep) in results {
        if let Some(capacity) = &sweep.capacity {
            html.push_str(&answer(name, capacity));
        }
    }
    if runs.len() > 1 {
        html.push_str(&overview(&runs)?);
    }
    for (name, run) in &runs {
        let body = section::section(name, run)?;
        // One run is the page; of many each waits until it is asked for.
        if runs.len() == 1 {
            html.push_str(&body);
        } else {
            html.push_str(&format!(
                "<details><summary>{}</summary>\n{body}</details>\n",
                Text(name)
            ));
        }
    }
    html.push_str("</body></html>\n");
    Ok(html)
}

fn named_runs(results: &[(String, Sweep)]) -> Vec<(String, &RunResult)> {
    let named = results.iter().flat_map(|(name, sweep)| {
        sweep.runs.iter().zip(1_u32..).map(move |(run, number)| {
            let rate = run
                .load
                .rate
                .map_or_else(String::new, |rate| format!(", {rate:.0}/s"));
            let name = if sweep.runs.len() > 1 {
                format!("{name} #{number}{rate}")
            } else {
                name.clone()
            };
            (name, run)
        })
    });
    named.collect()
}

fn answer(name: &str, capacity: &Capacity) -> String {
    let rows: Vec<Vec<String>> = capacity
        .probes
        .iter()
        .zip(1_u32..)
        .map(|(probe, number)| {
            let phase = match probe.phase {
                Phase::Bracket => "bracket",
                Phase::Bisect => "bisect",
                Phase::Border => "repeat at the border",
            };
            let outcome = if probe.held {
                "held".to_owned()
            } else {
                probe.misses.join("; ")
            };
            vec![
                number.to_string(),
                format!("{:.0}", probe.rate),
                phase.to_owned(),
                outcome,
            ]
        })
        .collect();
    format!(
        "<h2>Capacity: {}</h2>\n<p class=\"answer\">{}</p>\n<details><summary>{} runs of the search</summary>\n{}</details>\n",
        Text(name),
        Text(&capacity.statement),
        rows.len(),
        table(&["run", "requests/s", "part of the search", "outcome"], &rows)
    )
}

/// What the runs have to say side by side.
fn overview(runs: &[(String, &RunResult)]) -> Result<String> {
    let header: Vec<&str> = ["run"].into_iter().chain(section::SUMMARY).collect();
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|(name, run)| {
            [name.clone()]
                .into_iter()
                .chain(section::summary_cells(&run.total))
                .collect()
        })
        .collect();
    let mut html = String::from("<h2>Side by side</h2>\n");
    let slow = runs.iter().filter(|(_, run)| run.tester.is_bottleneck).count();
    if slow > 0 {
        html.push_str(&format!(
            "<p class=\"bad\">In {slow} of {} runs the load tester was the bottleneck; each says why below.</p>\n",
            runs.len()
        ));
    }
    let all: Vec<RunResult> = runs.iter().map(|(_, run)| (*run).clone()).collect();
    if let Some(chart) = plots::against_load(&all) {
        html.push_str(&chart.draw());
    }
    if runs.len() <= OVERLAID
        && let Some(chart) = plots::latencies(runs)?
    {
        html.push_str(&chart.draw());
    }
    html.push_str(&table(&header, &rows));
    html.push_str("<h2>Each run</h2>\n");
    Ok(html)
}

/// A time since the Unix epoch as `2026-11-22 06:46:29 UTC`.
///
/// Source of the calendar arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests;
