//! A run as parsed and validated: what to send, where, and when.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::arrivals::Arrivals;
use crate::assertion::Assertion;
use crate::during::Deed;
pub use crate::target::{Protocol, Target};

/// Everything that [`crate::engine::run`] needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The command line, for the result.
    pub command: Vec<String>,
    /// Where requests go.
    pub target: Target,
    /// Where the server's control plane is, if not at `target`.
    pub control: Option<Target>,
    /// What is sent; never empty.
    pub mix: Vec<MixEntry>,
    /// What the tensors hold.
    pub payload: Payload,
    /// When it is sent.
    pub load: Load,
    /// The measured time.
    pub duration: Duration,
    /// The time before it.
    pub warm_up: Duration,
    /// Connections opened at the start; HTTP/1.1 opens more when all are busy.
    pub connections: u32,
    /// Threads that send and receive.
    pub threads: u32,
    /// The most requests in flight in an open loop; those beyond fail as `tester_overflow`.
    pub max_in_flight: u32,
    /// How long an answer is waited for, from the send.
    pub timeout: Duration,
    /// What gRPC calls tell the server of the client's patience; HTTP requests have a header for it in their payload.
    pub deadline: Option<Duration>,
    /// The seed of arrivals, mix and payloads.
    pub seed: u64,
    /// What is done to the server during the run.
    pub during: Vec<Deed>,
    /// What must hold at the end.
    pub assertions: Vec<Assertion>,
    /// The server's process id, if its CPU and memory are to be read.
    pub server_pid: Option<u32>,
}

/// When requests are sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// By a timetable.
    Open(Arrivals),
    /// By `concurrency` clients, each of which waits for its answer.
    Closed {
        /// Clients.
        concurrency: u32,
    },
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct MixEntry {
    /// Unique in the mix.
    pub name: String,
    /// The model; of a raw request, the path.
    pub model: String,
    /// The version or label asked for.
    pub version: Option<String>,
    /// Rows of a request: dimension 0 where the model leaves it open.
    pub rows: u64,
    /// Its share of the requests is this over the sum of all.
    pub weight: f64,
}

/// What the tensors of a request hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    /// Where values come from that no file gives.
    pub values: Values,
    /// Tensors from files, by input: `.npy`, or raw bytes of the whole tensor otherwise.
    pub inputs: BTreeMap<String, PathBuf>,
    /// A request of the protocol in JSON, in place of everything else.
    pub request: Option<PathBuf>,
    /// Whole shapes, by input.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// Each request's length is drawn from this range, its end excluded: its variable dimensions after the first, and the
    /// words of its texts.
    pub lengths: Option<(u64, u64)>,
    /// The only inputs that are sent; empty: all.
    pub only: Vec<String>,
    /// Integers are drawn from this range, its end excluded.
    pub integers: (i64, i64),
    /// Bytes of each random element of a BYTES tensor.
    pub string_bytes: usize,
    /// How many different bodies are made of each kind of request; they take turns. None: [`Self::VARIANTS`], or
    /// [`Self::VARIANTS_BY_LENGTH`] where lengths are drawn.
    pub variants: Option<u32>,
    /// Header lines of HTTP requests, name and value.
    pub headers: Vec<(String, String)>,
    /// The body of raw requests.
    pub raw_body: Vec<u8>,
}

/// Where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Seeded random numbers: floats in 0..1, integers in a range, printable strings.
    Random,
    /// Zeros and empty strings.
    Zeros,
}

impl Payload {
    /// Bodies of each kind of request.
    pub const VARIANTS: u32 = 8;
    /// Bodies of each kind of request where they differ in length: enough that their mean is that of the range.
    pub const VARIANTS_BY_LENGTH: u32 = 500;

    /// How many different bodies are to be made; at least one.
    pub fn variant_count(&self) -> u32 {
        let usual = match self.lengths {
            Some(_) => Self::VARIANTS_BY_LENGTH,
            None => Self::VARIANTS,
        };
        self.variants.unwrap_or(usual).max(1)
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self {
            values: Values::Random,
            inputs: BTreeMap::new(),
            request: None,
            shapes: BTreeMap::new(),
            lengths: None,
            only: Vec::new(),
            // Small, so that token numbers and indices stay inside most vocabularies and tables.
            integers: (0, 100),
            string_bytes: 16,
            variants: None,
            headers: Vec::new(),
            raw_body: Vec::new(),
        }
    }
}

impl Plan {
    /// A plan with every default: a Poisson process of 100 requests per second to `mix` for ten seconds after one of
    /// warm-up.
    pub fn new(target: Target, mix: Vec<MixEntry>) -> Self {
        Self {
            command: Vec::new(),
            target,
            control: None,
            mix,
            payload: Payload::default(),
            load: Load::Open(Arrivals::Poisson(100.0)),
            duration: Duration::from_secs(10),
            warm_up: Duration::from_secs(1),
            connections: 4,
            threads: 1,
            // As many connections as an HTTP/1.1 server is asked to bear at worst, below the usual limit of 1024 files.
            max_in_flight: 900,
            timeout: Duration::from_secs(30),
            deadline: None,
            seed: 1,
            during: Vec::new(),
            assertions: Vec::new(),
            server_pid: None,
        }
    }

    /// The same plan with `rate` requests per second: evenly if it was even, else as a Poisson process.
    #[must_use]
    pub fn at_rate(&self, rate: f64) -> Self {
        let load = match &self.load {
            Load::Open(Arrivals::Constant(_)) => Load::Open(Arrivals::Constant(rate)),
            _ => Load::Open(Arrivals::Poisson(rate)),
        };
        Self { load, ..self.clone() }
    }
}

impl MixEntry {
    /// One row for `model`, with weight 1.
    pub fn of(model: &str) -> Self {
        Self {
            name: model.to_owned(),
            model: model.to_owned(),
            version: None,
            rows: 1,
            weight: 1.0,
        }
    }

    /// `model[/version][@rows=N][:weight]`, as `--mix` takes it.
    ///
    /// Errors: if a part is empty or a number is not positive; the message says what is expected.
    pub fn parse(text: &str, rows: u64) -> anyhow::Result<Self> {
        let expected = || {
            format!(
                "mix `{text}`: expected MODEL[/VERSION][@rows=N][:WEIGHT], such as digits:3 or iris/2@rows=8:1"
            )
        };
        let (name, weight) = match text.rsplit_once(':') {
            Some((name, weight)) => (
                name,
                weight
                    .trim()
                    .parse::<f64>()
                    .map_err(|_| anyhow::anyhow!(expected()))?,
            ),
            None => (text, 1.0),
        };
        let (model, rows) = match name.split_once('@') {
            Some((model, option)) => {
                let rows = option
                    .trim()
                    .strip_prefix("rows=")
                    .and_then(|rows| rows.trim().parse().ok());
                (model, rows.ok_or_else(|| anyhow::anyhow!(expected()))?)
            }
            None => (name, rows),
        };
        let (model, version) = match model.split_once('/') {
            Some((model, version)) => (model.trim(), Some(version.trim().to_owned())),
            None => (model.trim(), None),
        };
        if model.is_empty()
            || version.as_deref() == Some("")
            || !(weight > 0.0 && weight.is_finite())
            || rows == 0
        {
            anyhow::bail!(expected());
        }
        Ok(Self {
            name: name.trim().to_owned(),
            model: model.to_owned(),
            version,
            rows,
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::MixEntry;

    #[test]
    fn a_mix_entry_has_version_rows_and_weight() {
        let entry = MixEntry::parse("iris/2@rows=8:1.5", 1).unwrap();
        let expected = MixEntry {
            name: "iris/2@rows=8".to_owned(),
            model: "iris".to_owned(),
            version: Some("2".to_owned()),
            rows: 8,
            weight: 1.5,
        };
        assert_eq!(entry, expected);
        assert_eq!(MixEntry::parse("iris", 1).unwrap(), MixEntry::of("iris"));
        assert_eq!(MixEntry::parse("iris:2", 4).unwrap().rows, 4);
    }

    #[test]
    fn what_is_no_mix_entry_is_refused_with_an_example() {
        for text in [
            "",
            "iris:",
            "iris:-1",
            "iris@8",
            "iris@rows=0",
            "iris/",
            ":3",
            "iris:inf",
        ] {
            let message = MixEntry::parse(text, 1).unwrap_err().to_string();
            assert!(message.contains("MODEL[/VERSION]"), "{text}: {message}");
        }
    }
}
