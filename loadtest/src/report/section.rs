//! The section of one run: its plots, its tables, what the tester says of itself, and how it was made.

use anyhow::Result;

use super::html::{Text, table};
use super::{moment, plots};
use crate::capacity::Micros;
use crate::result::{LoadKind, RunResult, Server, Summary, Tester};

/// Everything about one run, without a heading.
///
/// Errors: if its histogram cannot be read.
pub(super) fn section(name: &str, run: &RunResult) -> Result<String> {
    let mut html = verdicts(run);
    html.push_str(&honesty(&run.tester));
    html.push_str(&summaries(run));
    if let Some(chart) = plots::latencies(&[(name.to_owned(), run)])? {
        html.push_str(&chart.draw());
    }
    if !run.series.is_empty() {
        html.push_str(&plots::throughput(run).draw());
        html.push_str(&plots::latency_over_time(run).draw());
    }
    html.push_str(&events(run));
    html.push_str(&errors(&run.total));
    if let Some(server) = &run.server {
        html.push_str(&server_split(server));
        if let Some(chart) = plots::batches(server) {
            html.push_str(&chart.draw());
        }
    }
    html.push_str(&origin(run));
    Ok(html)
}

/// The header that [`summary_cells`] go under, behind columns of the caller's.
pub(super) const SUMMARY: [&str; 10] = [
    "sent",
    "answered",
    "failed",
    "answered/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "mean",
];

/// A summary as the cells of a table.
pub(super) fn summary_cells(summary: &Summary) -> Vec<String> {
    let latency = &summary.latency;
    let shown = |us: u64| {
        if latency.count == 0 {
            "–".to_owned()
        } else {
            Micros(us).to_string()
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "a mean of microseconds, rounded")]
    let mean = latency.mean_us.round() as u64;
    vec![
        summary.sent.to_string(),
        summary.ok.to_string(),
        summary.errors.values().sum::<u64>().to_string(),
        format!("{:.1}", summary.throughput_per_s),
        shown(latency.p50_us),
        shown(latency.p90_us),
        shown(latency.p99_us),
        shown(latency.p999_us),
        shown(latency.max_us),
        shown(mean),
    ]
}

fn verdicts(run: &RunResult) -> String {
    let items = run.assertions.iter().map(|assertion| {
        let (class, word) = if assertion.held {
            ("good", "held")
        } else {
            ("bad", "FAILED")
        };
        let (text, measured) = (Text(&assertion.text), Text(&assertion.measured));
        format!("<li><span class=\"{class}\">{word}</span> {text}: {measured}</li>\n")
    });
    let items: String = items.collect();
    if items.is_empty() {
        items
    } else {
        format!("<h3>Assertions</h3>\n<ul>{items}</ul>\n")
    }
}

/// What the tester says of itself, before any figure of its own making is read.
fn honesty(tester: &Tester) -> String {
    if tester.is_bottleneck {
        return format!(
            "<p class=\"bad\">The load tester was the bottleneck, so these figures describe it rather than the server: \
             {}</p>\n",
            Text(&tester.why)
        );
    }
    format!(
        "<p class=\"faint\">The load tester kept up: {} sends came more than 1 ms late (p99 {}, latest {}); it used {:.2} s \
         of CPU on {} thread(s), and could send {:.0} requests/s per core.</p>\n",
        tester.late_sends,
        Micros(tester.late_p99_us),
        Micros(tester.late_max_us),
        tester.cpu_s,
        tester.threads,
        tester.requests_per_core_second
    )
}

fn summaries(run: &RunResult) -> String {
    let mut rows = vec![row("all", &run.total)];
    let phases = [
        ("before the first event", &run.steady),
        ("since the first event", &run.during),
    ];
    rows.extend(
        phases
            .iter()
            .filter_map(|(name, summary)| Some(row(name, summary.as_ref()?))),
    );
    // One model's row would repeat the total.
    if run.by_model.len() > 1 {
        rows.extend(run.by_model.iter().map(|model| row(&model.model, &model.summary)));
    }
    rows.extend(run.by_version.iter().map(|version| {
        let answered_by = match version.version.as_str() {
            "" => format!("{}, version not named", version.model),
            named => format!("{} version {named}", version.model),
        };
        row(&answered_by, &version.summary)
    }));
    let header: Vec<&str> = ["requests"].into_iter().chain(SUMMARY).collect();
    format!(
        "<h3>By model and version that answered</h3>\n{}",
        table(&header, &rows)
    )
}

fn row(name: &str, summary: &Summary) -> Vec<String> {
    [name.to_owned()]
        .into_iter()
        .chain(summary_cells(summary))
        .collect()
}

fn events(run: &RunResult) -> String {
    let rows: Vec<Vec<String>> = run
        .events
        .iter()
        .zip(1_u32..)
        .map(|(event, number)| {
            let (at, took) = (format!("{:.2} s", event.at_s), format!("{:.2} s", event.took_s));
            vec![
                number.to_string(),
                event.action.clone(),
                at,
                took,
                event.outcome.clone(),
            ]
        })
        .collect();
    let body = table(&["event", "action", "at", "took", "outcome"], &rows);
    if body.is_empty() {
        body
    } else {
        format!("<h3>What was done to the server</h3>\n{body}")
    }
}

fn errors(total: &Summary) -> String {
    let rows: Vec<Vec<String>> = total
        .errors
        .iter()
        .map(|(kind, count)| vec![kind.clone(), count.to_string()])
        .collect();
    let body = table(&["failure", "requests"], &rows);
    if body.is_empty() {
        body
    } else {
        format!("<h3>Failures</h3>\n{body}")
    }
}

fn server_split(server: &Server) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a mean of microseconds, rounded")]
    let us = |mean: f64| Micros(mean.round() as u64).to_string();
    let mut rows = vec![
        vec!["queue, mean".to_owned(), us(server.queue_us_mean)],
        vec![
            "preparing inputs, mean".to_owned(),
            us(server.compute_input_us_mean),
        ],
        vec!["compute, mean".to_owned(), us(server.compute_us_mean)],
        vec![
            "preparing outputs, mean".to_owned(),
            us(server.compute_output_us_mean),
        ],
        vec!["whole request, mean".to_owned(), us(server.request_us_mean)],
        vec!["requests".to_owned(), server.requests.to_string()],
        vec!["batches".to_owned(), server.executions.to_string()],
    ];
    if let Some(cpu_s) = server.cpu_s {
        rows.push(vec!["CPU time".to_owned(), format!("{cpu_s:.2} s")]);
        if server.requests > 0 {
            let per_request = cpu_s * 1e6 / server.requests as f64;
            rows.push(vec!["CPU time per request".to_owned(), us(per_request)]);
        }
    }
    if let Some(bytes) = server.memory_bytes {
        rows.push(vec![
            "resident memory at the end".to_owned(),
            format!("{:.1} MB", bytes as f64 / 1e6),
        ]);
    }
    format!(
        "<h3>What the server says</h3>\n{}",
        table(&["figure", "value"], &rows)
    )
}

fn origin(run: &RunResult) -> String {
    let (target, load, machine) = (&run.target, &run.load, &run.machine);
    let asked = match load.kind {
        LoadKind::Open => match load.rate {
            Some(rate) => format!("open loop, {}, {rate:.1} requests/s", load.arrivals),
            None => format!("open loop, {}", load.arrivals),
        },
        LoadKind::Closed => format!(
            "closed loop, {} clients: each waits for its answer, so a stall lowers the load",
            load.concurrency.unwrap_or(0)
        ),
    };
    let mix = run.mix.iter().map(|entry| {
        vec![
            entry.name.clone(),
            entry.rows.to_string(),
            entry.weight.to_string(),
            entry.request_bytes.to_string(),
        ]
    });
    let rows = vec![
        vec![
            "server".to_owned(),
            format!("{} {}", target.server_name, target.server_version),
        ],
        vec![
            "reached at".to_owned(),
            format!("{}, {}", target.url, target.protocol),
        ],
        vec!["load".to_owned(), asked],
        vec!["connections".to_owned(), load.connections.to_string()],
        vec![
            "measured".to_owned(),
            format!("{} s after {} s of warm-up", load.duration_s, load.warm_up_s),
        ],
        vec!["seed".to_owned(), load.seed.to_string()],
        vec!["began".to_owned(), moment(run.started_unix_ms)],
        vec![
            "tester's machine".to_owned(),
            format!("{} cores, {}, {}", machine.cores, machine.cpu, machine.os),
        ],
        vec![
            "tester".to_owned(),
            format!("crossfade-loadtest {}", run.tool_version),
        ],
    ];
    format!(
        "<h3>How it was made</h3>\n<pre>{}</pre>\n{}{}",
        Text(&run.command.join(" ")),
        table(&["", ""], &rows),
        table(&["request", "rows", "weight", "bytes"], &mix.collect::<Vec<_>>())
    )
}
