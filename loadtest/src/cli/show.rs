//! A result in a few lines for the terminal.

use std::fmt::Write as _;

use crate::result::{LoadKind, RunResult, Summary};

/// What one run found, as text.
pub(super) fn run(result: &RunResult) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    write_run(&mut text, result).ok();
    text
}

fn write_run(text: &mut String, result: &RunResult) -> std::fmt::Result {
    let (load, total) = (&result.load, &result.total);
    let kind = match load.kind {
        LoadKind::Open => format!("open loop, {}", load.arrivals),
        LoadKind::Closed => format!(
            "CLOSED LOOP, {} clients: a stall lowers the load",
            load.concurrency.unwrap_or(0)
        ),
    };
    let server = format!("{} {}", result.target.server_name, result.target.server_version);
    writeln!(
        text,
        "{} {} {}",
        result.target.url,
        result.target.protocol,
        server.trim()
    )?;
    writeln!(
        text,
        "{kind}; {} s after {} s of warm-up, {} connections",
        load.duration_s, load.warm_up_s, load.connections
    )?;
    let tokens = match total.tokens {
        0 => String::new(),
        _ => format!(", {:.0} tokens/s", total.tokens_per_s),
    };
    writeln!(
        text,
        "sent {}, answered {}, {:.1}/s{tokens}",
        total.sent, total.ok, total.throughput_per_s
    )?;
    for (kind, count) in &total.errors {
        writeln!(text, "  error {kind}: {count}")?;
    }
    writeln!(
        text,
        "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "latency in ms", "mean", "p50", "p99", "p99.9", "max"
    )?;
    line(text, "all", total)?;
    if result.by_model.len() > 1 {
        for model in &result.by_model {
            line(text, &model.model, &model.summary)?;
        }
    }
    for part in result.by_version.iter().filter(|part| part.summary.ok > 0) {
        line(
            text,
            &format!(
                "{} version {}",
                part.model,
                if part.version.is_empty() {
                    "?"
                } else {
                    &part.version
                }
            ),
            &part.summary,
        )?;
    }
    if let (Some(steady), Some(during)) = (&result.steady, &result.during) {
        line(text, "before the first event", steady)?;
        line(text, "after it", during)?;
    }
    if let Some(server) = &result.server {
        if server.requests > 0 {
            writeln!(
                text,
                "server: {:.1} µs a request, of them queue {:.1}, compute {:.1}; {} batches, {:.2} requests each",
                server.request_us_mean,
                server.queue_us_mean,
                server.compute_us_mean,
                server.executions,
                ratio(server.requests, server.executions)
            )?;
        }
        if let Some(cpu_s) = server.cpu_s {
            let mib = server.memory_bytes.unwrap_or(0) >> 20;
            writeln!(text, "server process: {cpu_s:.2} s of CPU, {mib} MiB resident")?;
        }
    }
    for event in &result.events {
        writeln!(
            text,
            "{:>7.2} s  {} ({:.0} ms): {}",
            event.at_s,
            event.action,
            event.took_s * 1000.0,
            event.outcome
        )?;
    }
    let tester = &result.tester;
    writeln!(
        text,
        "tester: {:.2} s of CPU, {:.0} requests/s per core, {} sent more than 1 ms late (p99 {} µs, max {} µs)",
        tester.cpu_s,
        tester.requests_per_core_second,
        tester.late_sends,
        tester.late_p99_us,
        tester.late_max_us
    )?;
    if tester.is_bottleneck {
        writeln!(text, "THE TESTER WAS THE BOTTLENECK: {}", tester.why)?;
    }
    for assertion in &result.assertions {
        let verdict = if assertion.held { "held  " } else { "FAILED" };
        writeln!(text, "{verdict} {}: {}", assertion.text, assertion.measured)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / (b as f64).max(1.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a run are far below 2^53"
)]
fn line(text: &mut String, name: &str, summary: &Summary) -> std::fmt::Result {
    let latency = &summary.latency;
    let ms = |us: u64| us as f64 / 1000.0;
    writeln!(
        text,
        "{name:<24} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>10.3}",
        latency.mean_us / 1000.0,
        ms(latency.p50_us),
        ms(latency.p99_us),
        ms(latency.p999_us),
        ms(latency.max_us)
    )
}
