//! A run as parsed and validated: what to send, where, and when.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that [`crate::engine::run`] needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The command line, for the result.
    pub command: Vec<String>,
    /// Where requests go.
    pub target: Target,
    /// What is sent; never empty.
    pub mix: Vec<MixEntry>,
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
    /// The seed of arrivals, mix and payloads.
    pub seed: u64,
    /// The server's process id, if its CPU and memory are to be read.
    pub server_pid: Option<u32>,
}

/// A server and a protocol to speak to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL as given.
    pub url: String,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Host and port, as the `Host` header has them.
    pub authority: String,
    /// The host alone, for the certificate.
    pub host: String,
    /// Where to connect.
    pub address: SocketAddr,
    /// A path before `/v2`, without a slash at its end; usually empty.
    pub base: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// Certificates to trust beside none others, in PEM.
    pub ca_file: Option<PathBuf>,
}

/// A protocol and the form of its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ModelInfer, one call per request.
    Grpc,
    /// ModelStreamInfer, one stream per connection.
    GrpcStream,
    /// HTTP/1.1, tensors as JSON numbers.
    HttpJson,
    /// HTTP/1.1, tensors as raw bytes behind a JSON head.
    HttpBinary,
    /// HTTP/1.1, a fixed body to a fixed path of any server.
    HttpRaw,
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

/// A timetable of sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    /// Evenly, this many per second.
    Constant(f64),
    /// A Poisson process of this many per second.
    Poisson(f64),
}

/// One kind of request.
#[derive(Debug, Clone)]
pub struct MixEntry {
    /// Unique in the mix.
    pub name: String,
    /// The model.
    pub model: String,
}

impl Plan {
    /// The same plan with a mean of `rate` requests per second, evenly or as the Poisson process that it was; every
    /// other load becomes a Poisson process.
    #[must_use]
    pub fn at_rate(&self, rate: f64) -> Self {
        let load = match &self.load {
            Load::Open(Arrivals::Constant(_)) => Load::Open(Arrivals::Constant(rate)),
            Load::Open(Arrivals::Poisson(_)) | Load::Closed { .. } => Load::Open(Arrivals::Poisson(rate)),
        };
        Self { load, ..self.clone() }
    }
}
