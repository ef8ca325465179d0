//! `run`: what the flags say, checked, as a plan; then the run and what is written of it.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Usage, show};
use crate::assertion::Assertion;
use crate::capacity::SearchOptions;
use crate::commands::{SearchArgs, SweepArgs, Verdict};
use crate::duration;
use crate::during::Deed;
use crate::engine;
use crate::live::{Live, View};
use crate::plan::{Arrivals, Load, MixEntry, Payload, Plan, Values};
use crate::target::{Protocol, Target};

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The server: http://HOST:PORT or https://HOST:PORT, of its HTTP or its gRPC listener.
    #[arg(long)]
    url: String,
    /// What to speak.
    #[arg(long, value_enum, default_value = "http-binary")]
    protocol: Protocol,
    /// Certificates to trust for https, in PEM, instead of the system's.
    #[arg(long, value_name = "PEM")]
    ca_file: Option<PathBuf>,
    /// Where the server's repository and statistics calls are, if not at --url; always HTTP.
    #[arg(long, value_name = "URL")]
    control_url: Option<String>,

    /// The model to ask.
    #[arg(long, conflicts_with = "mix", help_heading = "What is sent")]
    model: Option<String>,
    /// The version or label to ask for.
    #[arg(long, requires = "model", help_heading = "What is sent")]
    version: Option<String>,
    /// Several models by weight: MODEL[/VERSION][@rows=N][:WEIGHT],… such as digits:3,iris@rows=8:1
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "What is sent"
    )]
    mix: Vec<String>,
    /// Rows of each request that --mix says nothing of.
    #[arg(long, default_value_t = 1, help_heading = "What is sent")]
    rows: u64,
    /// Where tensors get their values that no file gives.
    #[arg(long, value_enum, default_value = "random", help_heading = "What is sent")]
    values: ValuesArg,
    /// A tensor from a file, .npy or raw bytes: NAME=FILE.
    #[arg(long, value_name = "NAME=FILE", help_heading = "What is sent")]
    input: Vec<String>,
    /// A whole inference request in JSON, sent in the form of --protocol; needs no metadata.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "input",
        help_heading = "What is sent"
    )]
    request: Option<PathBuf>,
    /// The shape of an input with variable dimensions, rows included: NAME=1,128.
    #[arg(long, value_name = "NAME=DIMS", help_heading = "What is sent")]
    shape: Vec<String>,
    /// Random integers are drawn from LOW..HIGH, HIGH excluded.
    #[arg(
        long,
        value_name = "LOW..HIGH",
        default_value = "0..100",
        allow_hyphen_values = true,
        help_heading = "What is sent"
    )]
    integers: String,
    /// Bytes of each random string.
    #[arg(
        long,
        default_value_t = 16,
        value_name = "BYTES",
        help_heading = "What is sent"
    )]
    string_bytes: usize,
    /// Lengths that requests are to have, drawn from LOW..HIGH, HIGH excluded: of variable dimensions after the first, and
    /// of texts, in words.
    #[arg(long, value_name = "LOW..HIGH", help_heading = "What is sent")]
    lengths: Option<String>,
    /// The only inputs to send, of those that a model takes: NAME,…
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        conflicts_with = "request",
        help_heading = "What is sent"
    )]
    only: Vec<String>,
    /// Different bodies made of each kind of request, which take turns; 8 by default, 500 with --lengths.
    #[arg(long, value_name = "N", help_heading = "What is sent")]
    variants: Option<u32>,
    /// With http-raw: the path to POST to.
    #[arg(long, value_name = "PATH", help_heading = "What is sent")]
    path: Option<String>,
    /// With http-raw: the file whose bytes are the body.
    #[arg(long, value_name = "FILE", help_heading = "What is sent")]
    body: Option<PathBuf>,
    /// With http-raw: the body's Content-Type.
    #[arg(long, value_name = "TYPE", help_heading = "What is sent")]
    content_type: Option<String>,
    /// With http-raw: an Accept header.
    #[arg(long, value_name = "TYPE", help_heading = "What is sent")]
    accept: Option<String>,
    /// A header line of HTTP requests: `Name: value`.
    #[arg(long, value_name = "LINE", help_heading = "What is sent")]
    header: Vec<String>,

    /// Requests per second of poisson and constant arrivals.
    #[arg(long, value_name = "PER_SECOND", help_heading = "When it is sent")]
    rate: Option<f64>,
    /// poisson, constant, step:100,500,1000, ramp:100..1000, burst:BASE,PEAK,ON/PERIOD (burst:100,1000,100ms/1s), or
    /// file:PATH with one time in seconds per line.
    #[arg(long, default_value = "poisson", help_heading = "When it is sent")]
    arrivals: String,
    /// Closed loop instead: this many clients, each of which waits for its answer before it sends again.
    #[arg(long, value_name = "CLIENTS", conflicts_with_all = ["rate", "arrivals"], help_heading = "When it is sent")]
    concurrency: Option<u32>,
    /// The measured time.
    #[arg(long, default_value = "10s", value_parser = duration::parse, help_heading = "When it is sent")]
    duration: Duration,
    /// The time before it, sent but not measured.
    #[arg(long, default_value = "2s", value_parser = duration::parse, help_heading = "When it is sent")]
    warm_up: Duration,
    /// Connections opened at the start; HTTP opens more while all are busy.
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "When it is sent")]
    connections: u32,
    /// Threads that send and receive.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "When it is sent")]
    threads: u32,
    /// The most requests in flight in an open loop; those beyond count as errors, tester_overflow.
    #[arg(
        long,
        default_value_t = 900,
        value_name = "N",
        help_heading = "When it is sent"
    )]
    max_in_flight: u32,
    /// How long an answer is waited for.
    #[arg(long, default_value = "30s", value_parser = duration::parse, help_heading = "When it is sent")]
    timeout: Duration,
    /// What the server is told of how long an answer is waited for: x-request-timeout-ms, or grpc-timeout.
    #[arg(long, value_parser = duration::parse, help_heading = "When it is sent")]
    deadline: Option<Duration>,
    /// The seed of arrivals, mix and payloads: the same seed sends the same.
    #[arg(long, default_value_t = 1, help_heading = "When it is sent")]
    seed: u64,

    /// Do something to the server meanwhile; may be repeated: `swap digits 1->2 every 5s`, `label digits stable 1->2
    /// every 5s`, `load M at 3s`, `unload M at 5s`, `run COMMAND at 2s`.
    #[arg(long, value_name = "DEED", help_heading = "What else is done")]
    during: Vec<String>,
    /// What must hold, or the exit code is 1: errors=0,error_rate<0.1%,p99<20ms,throughput>900, or p99<1.2x of the part
    /// before the first --during.
    #[arg(long, value_name = "LIST", help_heading = "What else is done")]
    assert: Vec<String>,
    /// The server's process id on this machine: its CPU time and memory are read from /proc.
    #[arg(long, value_name = "PID", help_heading = "What else is done")]
    server_pid: Option<u32>,

    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    sweep: SweepArgs,

    /// Write the result, JSON, to this file.
    #[arg(long, short, value_name = "FILE", help_heading = "What is written")]
    out: Option<PathBuf>,
    /// A line per second to standard error, also where that is no terminal.
    #[arg(long, help_heading = "What is written")]
    progress: bool,
    /// Nothing but errors.
    #[arg(long, short, help_heading = "What is written")]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ValuesArg {
    /// Seeded random values.
    Random,
    /// Zeros and empty strings.
    Zeros,
}

impl RunArgs {
    /// Makes the run, or the search, and writes what was found.
    ///
    /// Errors: [`Usage`] if the flags do not fit together; else why the run could not be made.
    pub(super) async fn run(self: Box<Self>, line: Vec<String>) -> Result<Verdict> {
        let plan = self.plan(line).await.map_err(Usage)?;
        let mut live = Live::new(
            View::choose(self.progress, self.quiet, std::io::stderr().is_terminal()),
            std::io::stderr(),
        );
        let (json, text, held) = if self.search.find_capacity {
            let sweep = self.search.search(&plan, &mut live).await?;
            let capacity = sweep.capacity.as_ref();
            let text = capacity
                .map(|capacity| format!("{}\n", capacity.statement))
                .unwrap_or_default();
            let found = capacity.is_some_and(|capacity| capacity.rate.is_some());
            (serde_json::to_string_pretty(&sweep)?, text, found)
        } else if !self.sweep.sweep.is_empty() {
            let sweep = self.sweep.run(&plan, &mut live).await?;
            let held = sweep
                .runs
                .iter()
                .flat_map(|run| &run.assertions)
                .all(|assertion| assertion.held);
            let text = sweep.runs.iter().map(show::run).collect::<Vec<_>>().join("\n");
            (serde_json::to_string_pretty(&sweep)?, text, held)
        } else {
            let result = engine::run(&plan, &mut |tick| live.tick(tick)).await?;
            let held = result.assertions.iter().all(|assertion| assertion.held);
            (serde_json::to_string_pretty(&result)?, show::run(&result), held)
        };
        live.end();
        if !self.quiet {
            std::io::stdout()
                .lock()
                .write_all(text.as_bytes())
                .context("the standard output is closed")?;
        }
        if let Some(path) = &self.out {
            std::fs::write(path, json + "\n")
                .with_context(|| format!("{} cannot be written; is its folder there?", path.display()))?;
        }
        Ok(if held { Verdict::Passed } else { Verdict::Failed })
    }

    /// The plan that the flags describe.
    async fn plan(&self, line: Vec<String>) -> Result<Plan> {
        let target = Target::resolve(&self.url, self.protocol, self.ca_file.as_deref()).await?;
        let control = match &self.control_url {
            Some(url) => {
                let ca_file = self.ca_file.as_deref().filter(|_| url.starts_with("https"));
                Some(Target::resolve(url, Protocol::HttpJson, ca_file).await?)
            }
            None => None,
        };
        let mut plan = Plan::new(target, self.mix()?);
        plan.command = line;
        plan.control = control;
        plan.payload = self.payload()?;
        plan.load = self.load()?;
        plan.duration = self.duration;
        plan.warm_up = self.warm_up;
        plan.connections = self.connections;
        plan.threads = self.threads;
        plan.max_in_flight = self.max_in_flight;
        plan.timeout = self.timeout;
        plan.deadline = self.deadline;
        plan.seed = self.seed;
        plan.server_pid = self.server_pid;
        for (name, value) in [
            ("--duration", self.duration.as_micros()),
            ("--timeout", self.timeout.as_micros()),
            ("--connections", u128::from(self.connections)),
            ("--threads", u128::from(self.threads)),
            ("--max-in-flight", u128::from(self.max_in_flight)),
        ] {
            if value == 0 {
                bail!("{name} 0: must be more");
            }
        }
        for text in &self.during {
            plan.during.push(Deed::parse(text, self.duration)?);
        }
        for text in &self.assert {
            plan.assertions.append(&mut Assertion::parse_list(text)?);
        }
        if plan.during.is_empty() && plan.assertions.iter().any(Assertion::is_relative) {
            bail!(
                "--assert with a multiple such as p99<1.2x compares with the time before the first --during: add one"
            );
        }
        if let Some(pid) = self.server_pid
            && crate::machine::process(pid).is_none()
        {
            bail!("--server-pid {pid}: no such process on this machine");
        }
        Ok(plan)
    }

    fn mix(&self) -> Result<Vec<MixEntry>> {
        if self.protocol == Protocol::HttpRaw {
            let Some(path) = &self.path else {
                bail!("--protocol http-raw needs --path, such as --path /predict")
            };
            return Ok(vec![MixEntry::of(path)]);
        }
        if self.path.is_some() || self.body.is_some() {
            bail!("--path and --body belong to --protocol http-raw");
        }
        let mut mix: Vec<MixEntry> = match &self.model {
            Some(model) => vec![MixEntry {
                rows: self.rows,
                version: self.version.clone(),
                ..MixEntry::of(model)
            }],
            None => self
                .mix
                .iter()
                .map(|text| MixEntry::parse(text, self.rows))
                .collect::<Result<_>>()?,
        };
        if mix.is_empty() {
            bail!("say what to send: --model NAME, or --mix digits:3,iris:1");
        }
        if self.rows == 0 {
            bail!("--rows 0: must be more");
        }
        if self.request.is_some() && mix.len() > 1 {
            bail!("--request is one request for one model; leave --mix away");
        }
        for index in 1..mix.len() {
            let name = mix[index].name.clone();
            if mix[..index].iter().any(|other| other.name == name) {
                mix[index].name = format!("{name}#{}", index + 1);
            }
        }
        Ok(mix)
    }

    fn load(&self) -> Result<Load> {
        match self.concurrency {
            Some(0) => bail!("--concurrency 0: must be more"),
            Some(concurrency) => Ok(Load::Closed { concurrency }),
            None => Ok(Load::Open(arrivals(
                &self.arrivals,
                self.rate.or_else(|| self.first_rate()),
            )?)),
        }
    }

    /// The rate that a search or a sweep begins with; neither asks for one.
    fn first_rate(&self) -> Option<f64> {
        if !matches!(self.arrivals.as_str(), "poisson" | "constant") {
            return None;
        }
        let search = self
            .search
            .find_capacity
            .then_some(SearchOptions::default().first_rate);
        search.or_else(|| self.sweep.sweep.first().copied())
    }

    fn payload(&self) -> Result<Payload> {
        let mut payload = Payload {
            values: match self.values {
                ValuesArg::Random => Values::Random,
                ValuesArg::Zeros => Values::Zeros,
            },
            request: self.request.clone(),
            string_bytes: self.string_bytes,
            variants: self.variants,
            only: self.only.clone(),
            ..Payload::default()
        };
        let pairs = |flag: &str, given: &[String]| -> Result<BTreeMap<String, String>> {
            let pair = |text: &String| {
                let pair = text
                    .split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                pair.with_context(|| format!("{flag} `{text}`: expected NAME=…"))
            };
            given.iter().map(pair).collect()
        };
        for (name, file) in pairs("--input", &self.input)? {
            payload.inputs.insert(name, file.into());
        }
        for (name, dims) in pairs("--shape", &self.shape)? {
            let shape: Result<Vec<u64>, _> = dims
                .split(',')
                .filter(|dim| !dim.is_empty())
                .map(|dim| dim.trim().parse())
                .collect();
            let shape =
                shape.with_context(|| format!("--shape {name}={dims}: expected such as {name}=1,128"))?;
            payload.shapes.insert(name, shape);
        }
        payload.integers = range("--integers", &self.integers, "0..100")?;
        let lengths = self.lengths.as_deref();
        payload.lengths = lengths
            .map(|text| range("--lengths", text, "5..257"))
            .transpose()?;
        if payload.lengths.is_some() && !(self.request.is_none() && self.protocol != Protocol::HttpRaw) {
            bail!("--lengths has no use with a request that is given as a whole");
        }
        let own = self.header.iter().map(|line| {
            let pair = line.split_once(':').filter(|_| !line.contains(['\r', '\n']));
            let pair = pair.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
            pair.with_context(|| format!("--header `{line}`: expected `Name: value`"))
        });
        payload.headers = own.collect::<Result<_>>()?;
        for (name, value) in [("Content-Type", &self.content_type), ("Accept", &self.accept)] {
            if let Some(value) = value {
                payload.headers.push((name.to_owned(), value.clone()));
            }
        }
        if !payload.headers.is_empty() && self.protocol.is_grpc() {
            bail!("--header, --content-type and --accept are for HTTP protocols");
        }
        match (self.deadline, self.protocol) {
            (Some(_), Protocol::GrpcStream) => {
                bail!("--deadline: the requests of a gRPC stream have none of their own")
            }
            (Some(_), Protocol::Grpc) | (None, _) => {}
            (Some(deadline), _) => {
                let millis = deadline.as_millis().max(1).to_string();
                payload.headers.push(("x-request-timeout-ms".to_owned(), millis));
            }
        }
        if let Some(path) = &self.body {
            payload.raw_body = std::fs::read(path).with_context(|| format!("--body {}", path.display()))?;
        }
        Ok(payload)
    }
}

/// Reads LOW..HIGH, HIGH excluded.
///
/// Errors: if it is none, or empty.
fn range<T: std::str::FromStr + PartialOrd>(flag: &str, text: &str, example: &str) -> Result<(T, T)> {
    let read = text
        .split_once("..")
        .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    let expected = || format!("{flag} `{text}`: expected LOW..HIGH, such as {example}");
    read.filter(|(low, high): &(T, T)| low < high)
        .with_context(expected)
}

/// Reads `--arrivals`, with `--rate` where the kind has one.
fn arrivals(text: &str, rate: Option<f64>) -> Result<Arrivals> {
    let expected = || {
        format!(
            "--arrivals `{text}`: expected poisson, constant, step:100,500, ramp:100..1000, burst:100,1000,100ms/1s or \
             file:PATH"
        )
    };
    let number = |text: &str| {
        let number = text
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && *number >= 0.0);
        number.with_context(expected)
    };
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    if matches!(kind, "poisson" | "constant") && rest.is_empty() {
        let rate = rate.context(
            "say how much to send: --rate 1000 (requests per second), or --concurrency 8 for a closed loop",
        )?;
        if !(rate > 0.0 && rate.is_finite()) {
            bail!("--rate {rate}: must be above zero");
        }
        return Ok(if kind == "poisson" {
            Arrivals::Poisson(rate)
        } else {
            Arrivals::Constant(rate)
        });
    }
    if rate.is_some() {
        bail!("--rate belongs to poisson and constant arrivals; `{kind}` has rates of its own");
    }
    match kind {
        "step" => Ok(Arrivals::Steps(
            rest.split(',').map(number).collect::<Result<_>>()?,
        )),
        "ramp" => {
            let (from, to) = rest.split_once("..").with_context(expected)?;
            Ok(Arrivals::Ramp(number(from)?, number(to)?))
        }
        "burst" => {
            let parts: Vec<&str> = rest.split(',').collect();
            let [base, peak, times] = parts.as_slice() else {
                bail!(expected())
            };
            let (on, period) = times.split_once('/').with_context(expected)?;
            let (on, period) = (duration::parse(on)?, duration::parse(period)?);
            if on.is_zero() || on > period {
                bail!("--arrivals `{text}`: a burst is longer than nothing and not longer than its period");
            }
            Ok(Arrivals::Burst {
                base: number(base)?,
                peak: number(peak)?,
                on,
                period,
            })
        }
        "file" => {
            let lines = std::fs::read_to_string(rest).with_context(|| format!("--arrivals file:{rest}"))?;
            let mut times = Vec::new();
            for (index, line) in lines
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim().is_empty())
            {
                let time = number(line).map_err(|_| {
                    anyhow::anyhow!("{rest}, line {}: `{line}` is no time in seconds", index + 1)
                })?;
                times.push(time);
            }
            times.sort_by(f64::total_cmp);
            Ok(Arrivals::Times(times.into()))
        }
        _ => bail!(expected()),
    }
}

#[cfg(test)]
mod tests;
