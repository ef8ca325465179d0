//! Plots: what of a result is drawn, and over which axes.

use anyhow::Result;

use super::axis::{Axis, short};
use super::chart::{Chart, Series, Shape};
use crate::capacity::Micros;
use crate::result::{RunResult, Second, Server};

/// The distribution of latencies of each named run: microseconds on a logarithmic scale over percentiles, spaced so that
/// each further nine takes as much room as the one before.
///
/// Errors: if a histogram cannot be read. `None` if no run has an answer.
pub(super) fn latencies(runs: &[(String, &RunResult)]) -> Result<Option<Chart>> {
    let mut series = Vec::new();
    for (name, run) in runs {
        let distribution = run.total.latency.distribution()?;
        if distribution.count() == 0 {
            continue;
        }
        // The maximum of n answers stands where one in n is: further right the sample says nothing.
        let nines = float(distribution.count()).log10();
        let steps = 120_u32;
        let points = (0..=steps).map(|step| {
            let nine = nines * f64::from(step) / f64::from(steps);
            let share = if step == steps {
                1.0
            } else {
                1.0 - 10_f64.powf(-nine)
            };
            (nine, float(distribution.at(share)))
        });
        series.push(Series::line(name.clone(), points.collect()));
    }
    if series.is_empty() {
        return Ok(None);
    }
    let widest = series
        .iter()
        .flat_map(|line| &line.points)
        .map(|(x, _)| *x)
        .fold(1.0, f64::max);
    let marks = [
        ("0", 0.0),
        ("50 %", 0.5),
        ("90 %", 0.9),
        ("99 %", 0.99),
        ("99.9 %", 0.999),
        ("99.99 %", 0.9999),
    ];
    let marks = marks.map(|(text, share): (&str, f64)| (-(1.0 - share).log10(), text.to_owned()));
    let marks = marks.into_iter().chain([(5.0, "99.999 %".to_owned())]).collect();
    Ok(Some(Chart {
        title: "Latency distribution".to_owned(),
        x: (Axis::with_ticks(widest, marks), "percentile"),
        y: (micros(series.iter()), "latency"),
        series,
        events: Vec::new(),
    }))
}

/// Requests due, answered and failed in each second.
pub(super) fn throughput(run: &RunResult) -> Chart {
    let line = |name: &str, of: fn(&Second) -> u64| Series::line(name, over_time(&run.series, of));
    let mut series = vec![
        line("due", |second| second.sent),
        line("answered", |second| second.ok),
    ];
    if run.series.iter().any(|second| second.errors > 0) {
        series.push(line("failed", |second| second.errors));
    }
    let highest = series.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    Chart {
        title: "Throughput over time".to_owned(),
        x: time(&run.series),
        y: (Axis::from_zero(highest), "requests/s"),
        series,
        events: events(run),
    }
}

/// Latencies in each second.
pub(super) fn latency_over_time(run: &RunResult) -> Chart {
    let answered = |of: fn(&Second) -> u64| {
        let points = run.series.iter().filter(|second| second.ok > 0);
        points
            .map(|second| (middle(second), float(of(second).max(1))))
            .collect()
    };
    let series = vec![
        Series::line("p50", answered(|second| second.p50_us)),
        Series::line("p99", answered(|second| second.p99_us)),
        Series::line("max", answered(|second| second.max_us)),
    ];
    Chart {
        title: "Latency over time".to_owned(),
        x: time(&run.series),
        y: (micros(series.iter()), "latency"),
        series,
        events: events(run),
    }
}

/// Latencies against the rate that was offered, one dot per run; `None` with fewer than two different rates.
pub(super) fn against_load(runs: &[RunResult]) -> Option<Chart> {
    let mut rated: Vec<(f64, &RunResult)> = runs
        .iter()
        .filter(|run| run.total.latency.count > 0)
        .filter_map(|run| Some((run.load.rate?, run)))
        .collect();
    rated.sort_by(|a, b| a.0.total_cmp(&b.0));
    if rated.first()?.0 >= rated.last()?.0 {
        return None;
    }
    let series = [
        ("p50", (|run| run.total.latency.p50_us) as fn(&RunResult) -> u64),
        ("p99", |run| run.total.latency.p99_us),
        ("p99.9", |run| run.total.latency.p999_us),
    ]
    .map(|(name, of)| {
        let dots: Vec<(f64, f64)> = rated
            .iter()
            .map(|(rate, run)| (*rate, float(of(run).max(1))))
            .collect();
        Series {
            dots: dots.clone(),
            ..Series::line(name, by_rate(&dots))
        }
    });
    Some(Chart {
        title: "Latency against offered load".to_owned(),
        x: (
            Axis::from_zero(rated.iter().map(|(rate, _)| *rate)),
            "requests/s offered",
        ),
        y: (micros(series.iter()), "latency"),
        series: series.into(),
        events: Vec::new(),
    })
}

/// How many batches the server ran, by rows; `None` if it does not say.
pub(super) fn batches(server: &Server) -> Option<Chart> {
    if server.batches.is_empty() {
        return None;
    }
    let indexed = || {
        server
            .batches
            .iter()
            .zip(1_u32..)
            .map(|(batch, index)| (batch, f64::from(index)))
    };
    let last = indexed().map(|(_, index)| index).fold(0.0, f64::max);
    // Past a dozen bars their names would touch.
    let apart = (last / 12.0).ceil().max(1.0);
    let names = indexed()
        .filter(|(_, index)| (index - 1.0) % apart < 0.5)
        .map(|(batch, index)| (index, short(float(batch.rows))))
        .collect();
    let points: Vec<(f64, f64)> = indexed()
        .map(|(batch, index)| (index, float(batch.count)))
        .collect();
    Some(Chart {
        title: "Batch sizes".to_owned(),
        x: (Axis::with_ticks(last + 1.0, names), "rows per batch"),
        y: (Axis::from_zero(points.iter().map(|(_, count)| *count)), "batches"),
        series: vec![Series {
            shape: Shape::Bars,
            ..Series::line("batches", points)
        }],
        events: Vec::new(),
    })
}

/// One point per rate: the geometric mean of the dots there, which stand in order of their rates.
fn by_rate(dots: &[(f64, f64)]) -> Vec<(f64, f64)> {
    dots.chunk_by(|a, b| (a.0 - b.0).abs() <= 1e-9 * a.0.abs())
        .map(|chunk| {
            let logarithms: f64 = chunk.iter().map(|(_, value)| value.ln()).sum();
            (chunk[0].0, (logarithms / chunk.len() as f64).exp())
        })
        .collect()
}

fn micros<'a>(series: impl Iterator<Item = &'a Series>) -> Axis {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a tick is a small number of microseconds"
    )]
    let text = |us: f64| Micros(us.round() as u64).to_string();
    Axis::log(
        series
            .flat_map(|line| line.points.iter().chain(&line.dots))
            .map(|(_, y)| *y),
        text,
    )
}

fn time(series: &[Second]) -> (Axis, &'static str) {
    (
        Axis::from_zero(series.iter().map(|second| float(second.second + 1))),
        "seconds",
    )
}

fn over_time(series: &[Second], of: fn(&Second) -> u64) -> Vec<(f64, f64)> {
    series
        .iter()
        .map(|second| (middle(second), float(of(second))))
        .collect()
}

/// A second stands in the middle of the time that it covers, so that an event stands before what it caused.
fn middle(second: &Second) -> f64 {
    float(second.second) + 0.5
}

/// Events are numbered; the table below the plot says what they were. Where answers came after the last send, its end is
/// marked too: what lies behind it is no load.
fn events(run: &RunResult) -> Vec<(f64, String)> {
    let numbered = run
        .events
        .iter()
        .zip(1_u32..)
        .map(|(event, number)| (event.at_s, number.to_string()));
    let drained = run
        .series
        .last()
        .is_some_and(|last| float(last.second) >= run.load.duration_s);
    numbered
        .chain(drained.then(|| (run.load.duration_s, "end".to_owned())))
        .collect()
}

fn float(value: u64) -> f64 {
    value as f64
}
