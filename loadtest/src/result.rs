//! The result of one run: what the JSON file holds and everything after the engine reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use summary::Latencies;

#[cfg(test)]
pub(crate) mod fixtures;
mod summary;

/// The value of [`RunResult::schema`] that this version writes.
pub const SCHEMA: u32 = 1;

/// Everything that one run found out.
///
/// Times of requests count from their intended send time in an open loop, from the real one in a closed loop.
/// Requests of the warm-up are in none of the figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The form of this file: [`SCHEMA`].
    pub schema: u32,
    /// The version of crossfade-loadtest that wrote it.
    pub tool_version: String,
    /// When the run began (its warm-up, if it has one), in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// The command line, program first.
    pub command: Vec<String>,
    /// The server.
    pub target: Target,
    /// The machine of the tester.
    pub machine: Machine,
    /// How requests were timed.
    pub load: Load,
    /// What was sent, in which proportion.
    pub mix: Vec<MixEntry>,
    /// Everything together.
    pub total: Summary,
    /// By model, in the order of the mix.
    pub by_model: Vec<ModelSummary>,
    /// By model and version that answered; answers without a version and failures count under version `""`.
    pub by_version: Vec<VersionSummary>,
    /// Requests due before the first event, if there were events.
    #[serde(default)]
    pub steady: Option<Summary>,
    /// Requests due after the first event, if there were events.
    #[serde(default)]
    pub during: Option<Summary>,
    /// Second by second; the first begins with the end of the warm-up, the last ones may lie after the last send.
    pub series: Vec<Second>,
    /// What the tester itself cost, and whether it was in the way.
    pub tester: Tester,
    /// What the server says about itself, where it says anything.
    #[serde(default)]
    pub server: Option<Server>,
    /// What was done to the server during the run.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What was asserted, and whether it held.
    #[serde(default)]
    pub assertions: Vec<AssertionResult>,
}

/// The server under load.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {
    /// Scheme, host, port and perhaps a path before `/v2`.
    pub url: String,
    /// `grpc`, `grpc-stream`, `http-json`, `http-binary`, `http-raw` or `openai`.
    pub protocol: String,
    /// The name in its server metadata, or empty.
    pub server_name: String,
    /// The version in its server metadata, or empty.
    pub server_version: String,
}

/// The machine that the tester ran on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that the tester may use.
    pub cores: u32,
    /// The processor's name, or empty.
    pub cpu: String,
    /// Operating system and kernel release.
    pub os: String,
}

/// Whether requests follow a timetable or each other's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadKind {
    /// Requests are sent when they are due, whatever the server does.
    Open,
    /// Each of a fixed number of clients waits for its answer before it sends again; a stall lowers the load.
    Closed,
}

/// How requests were timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Open or closed loop.
    pub kind: LoadKind,
    /// The arrivals in words (`poisson`, `burst 100/s, 1000/s for 100 ms every 1 s`); `closed` in a closed loop.
    pub arrivals: String,
    /// Mean requests per second that the timetable asks for; none in a closed loop.
    pub rate: Option<f64>,
    /// Clients of the closed loop.
    pub concurrency: Option<u32>,
    /// The most connections that were open at once.
    pub connections: u32,
    /// Seconds measured.
    pub duration_s: f64,
    /// Seconds before, not measured.
    pub warm_up_s: f64,
    /// Requests of the warm-up, in none of the figures.
    #[serde(default)]
    pub warm_up_requests: u64,
    /// The seed of arrivals, mix and payloads.
    pub seed: u64,
}

/// One kind of request of the mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixEntry {
    /// Model, version and rows in one word, unique in the mix: `iris`, `iris/2`, `iris@rows=8`.
    pub name: String,
    /// The model asked, or the path of raw requests.
    pub model: String,
    /// The version or label asked for, if any.
    pub version: Option<String>,
    /// Rows of each request.
    pub rows: u64,
    /// Its share of the requests is this over the sum of all weights.
    pub weight: f64,
    /// Bytes of the body of one request, framing excluded.
    pub request_bytes: u64,
}

/// Counts and latencies of some set of requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that were due in the measured time.
    pub sent: u64,
    /// Requests answered without an error.
    pub ok: u64,
    /// Failures by kind: an HTTP status (`429`), a gRPC status (`UNAVAILABLE`), or one of `connect`, `transport`,
    /// `timeout`, `protocol`, and `tester_overflow` for those the tester had no room for.
    pub errors: BTreeMap<String, u64>,
    /// Requests answered without an error per second, until the last answer.
    pub throughput_per_s: f64,
    /// Lengths of the requests answered without an error, times their rows: tokens, or words of texts. 0 where no lengths
    /// were drawn.
    #[serde(default)]
    pub tokens: u64,
    /// The same per second, until the last answer.
    #[serde(default)]
    pub tokens_per_s: f64,
    /// Latencies of the requests answered without an error.
    pub latency: Latency,
}

/// A distribution of latencies, all in microseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many there are; 0 makes all the others 0.
    pub count: u64,
    /// The smallest.
    pub min_us: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// The 90th percentile.
    pub p90_us: u64,
    /// The 95th percentile.
    pub p95_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The 99.9th percentile.
    pub p999_us: u64,
    /// The largest.
    pub max_us: u64,
    /// The whole distribution in microseconds, three digits: HdrHistogram's V2 form, base64. Empty if there is none.
    pub histogram: String,
}

/// The summary of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// The model.
    pub model: String,
    /// Its requests.
    pub summary: Summary,
}

/// The summary of one version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionSummary {
    /// The model.
    pub model: String,
    /// The version that answered, as the server names it; empty if it names none, and for failures.
    pub version: String,
    /// The requests that it answered.
    pub summary: Summary,
}

/// One second of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Second {
    /// Its number; 0 begins with the end of the warm-up.
    pub second: u64,
    /// Requests due in it.
    pub sent: u64,
    /// Answers without an error that came in it.
    pub ok: u64,
    /// Failures that came in it.
    pub errors: u64,
    /// Median latency of the answers that came in it, in microseconds; 0 without any.
    pub p50_us: u64,
    /// Their 99th percentile, in microseconds.
    pub p99_us: u64,
    /// Their largest, in microseconds.
    pub max_us: u64,
    /// Requests due and not yet answered at its end.
    pub in_flight: u64,
}

/// What the tester cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tester {
    /// Threads that sent and received.
    #[serde(default)]
    pub threads: u32,
    /// CPU time of those threads in the measured time, in seconds.
    pub cpu_s: f64,
    /// Requests sent per second of CPU time at this load; more load shares wake-ups, and one core then sends more.
    pub requests_per_core_second: f64,
    /// Requests sent more than 1 ms after they were due.
    pub late_sends: u64,
    /// The 99th percentile of how late requests were sent, in microseconds.
    pub late_p99_us: u64,
    /// The latest, in microseconds.
    pub late_max_us: u64,
    /// Whether the figures describe the tester rather than the server.
    pub is_bottleneck: bool,
    /// Why, in words; empty if it is not.
    pub why: String,
}

/// What the server says about the measured time, from its statistics and, with its process id, from the kernel.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Server {
    /// Requests that its statistics counted as successful.
    pub requests: u64,
    /// Batches that it ran.
    pub executions: u64,
    /// Mean time in its queue per request, in microseconds.
    pub queue_us_mean: f64,
    /// Mean time of preparing inputs per request, in microseconds.
    pub compute_input_us_mean: f64,
    /// Mean time in the model per request, in microseconds.
    pub compute_us_mean: f64,
    /// Mean time of preparing outputs per request, in microseconds.
    pub compute_output_us_mean: f64,
    /// Mean time from its receipt to its answer per request, in microseconds.
    pub request_us_mean: f64,
    /// How many batches it ran, by rows; empty if it does not say.
    pub batches: Vec<Batches>,
    /// CPU time of its process in the measured time, in seconds; only with its process id.
    pub cpu_s: Option<f64>,
    /// Resident memory of its process at the end, in bytes; only with its process id.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// Batches of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batches {
    /// Rows of each.
    pub rows: u64,
    /// How many.
    pub count: u64,
}

/// Something that was done to the server during the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it began, in seconds from the end of the warm-up.
    pub at_s: f64,
    /// How long it took, in seconds.
    #[serde(default)]
    pub took_s: f64,
    /// What, in the words of `--during`: `swap digits to 2`.
    pub action: String,
    /// `ok`, or what went wrong.
    pub outcome: String,
}

/// An assertion and what was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionResult {
    /// The assertion as written: `p99<20ms`.
    pub text: String,
    /// What was measured, with its unit.
    pub measured: String,
    /// Whether it held.
    pub held: bool,
}
