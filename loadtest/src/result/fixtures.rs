//! Results for tests: small, whole, and the same each time.

use super::{
    Batches, Latencies, Load, LoadKind, Machine, MixEntry, ModelSummary, RunResult, SCHEMA, Second, Server,
    Summary, Target, Tester, VersionSummary,
};

/// An open-loop run of ten seconds at `rate` requests per second whose latencies were `latencies_us`, ten of each second
/// after the other, and whose every request was answered.
pub(crate) fn run(rate: f64, latencies_us: &[u64]) -> RunResult {
    let total = summary(latencies_us);
    let share = latencies_us.len().div_ceil(10).max(1);
    let series = latencies_us
        .chunks(share)
        .enumerate()
        .map(|(index, part)| second(index as u64, part))
        .collect();
    RunResult {
        schema: SCHEMA,
        tool_version: "0.1.0".to_owned(),
        started_unix_ms: 1_800_000_000_000,
        command: vec!["crossfade-loadtest".to_owned(), "run".to_owned()],
        target: Target {
            url: "http://localhost:8000".to_owned(),
            protocol: "http-binary".to_owned(),
            server_name: "crossfade".to_owned(),
            server_version: "0.1.0".to_owned(),
        },
        machine: Machine {
            cores: 2,
            cpu: "a processor".to_owned(),
            os: "Linux 6".to_owned(),
        },
        load: Load {
            kind: LoadKind::Open,
            arrivals: "poisson".to_owned(),
            rate: Some(rate),
            concurrency: None,
            connections: 2,
            duration_s: 10.0,
            warm_up_s: 2.0,
            warm_up_requests: 0,
            seed: 1,
        },
        mix: vec![MixEntry {
            name: "iris".to_owned(),
            model: "iris".to_owned(),
            version: None,
            rows: 1,
            weight: 1.0,
            request_bytes: 150,
        }],
        by_model: vec![ModelSummary {
            model: "iris".to_owned(),
            summary: total.clone(),
        }],
        by_version: vec![VersionSummary {
            model: "iris".to_owned(),
            version: "1".to_owned(),
            summary: total.clone(),
        }],
        total,
        steady: None,
        during: None,
        series,
        tester: Tester {
            threads: 1,
            cpu_s: 0.5,
            requests_per_core_second: 50_000.0,
            ..Tester::default()
        },
        server: Some(Server {
            requests: 90,
            executions: 60,
            queue_us_mean: 20.0,
            compute_us_mean: 100.0,
            request_us_mean: 150.0,
            batches: vec![Batches { rows: 1, count: 40 }, Batches { rows: 4, count: 20 }],
            cpu_s: Some(1.0),
            ..Server::default()
        }),
        events: Vec::new(),
        assertions: Vec::new(),
    }
}

/// The summary of requests that took `latencies_us` and were all answered, in ten seconds.
pub(crate) fn summary(latencies_us: &[u64]) -> Summary {
    let mut latencies = Latencies::default();
    latencies_us.iter().for_each(|us| latencies.record(*us));
    let count = latencies.count();
    Summary {
        sent: count,
        ok: count,
        throughput_per_s: count as f64 / 10.0,
        latency: latencies.summary(),
        ..Summary::default()
    }
}

fn second(second: u64, latencies_us: &[u64]) -> Second {
    let mut latencies = Latencies::default();
    latencies_us.iter().for_each(|us| latencies.record(*us));
    let count = latencies.count();
    let (p50_us, p99_us) = (latencies.at(0.5), latencies.at(0.99));
    Second {
        second,
        sent: count,
        ok: count,
        errors: 0,
        p50_us,
        p99_us,
        max_us: latencies.at(1.0),
        in_flight: 1,
    }
}
