//! `crossfade.toml`, as written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Visitor};

use super::flags::DEFAULT_DATA_DIR;
use super::inference_log::RawLog;
use super::{ConfigError, ControlMode, LOOPBACK, LogFormat};
use crate::admin::Role;
use crate::release::NewsKind;
use crate::service::{Limits, TextModels};

/// Read if it is there and no other file is named.
const DEFAULT_FILE: &str = "crossfade.toml";

/// The whole file. Every key is optional; the defaults stand in the `Default` of each table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Where the server keeps what must outlive it.
    pub data_dir: PathBuf,
    /// After SIGTERM and the grace: how long in-flight requests may take.
    pub exit_timeout: RawDuration,
    /// After SIGTERM: not ready, still accepting.
    pub drain_grace: RawDuration,
    /// Threads that compute; absent: the machine's cores.
    pub cores: Option<usize>,
    /// Where HTTP listens.
    pub http: RawHttp,
    /// Where gRPC listens.
    pub grpc: RawGrpc,
    /// Where metrics are scraped.
    pub metrics: RawMetrics,
    /// Where the server is changed.
    pub admin: RawAdmin,
    /// ONNX Runtime.
    pub ort: RawOrt,
    /// The models.
    pub repository: RawRepository,
    /// Bounds.
    pub limits: RawLimits,
    /// The inference log.
    pub log: RawLog,
    /// The server's own log.
    pub logging: RawLogging,
    /// The audit.
    pub audit: RawAudit,
    /// Models behind the paths of text that name none.
    pub text: RawText,
    /// Who is told of releases.
    pub webhook: Vec<RawWebhook>,
    /// Per model, keys as in model.toml.
    pub model: BTreeMap<String, toml::Table>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: DEFAULT_DATA_DIR.into(),
            // Triton's default, which orchestrators are set up for.
            exit_timeout: RawDuration(Duration::from_secs(30)),
            // Off: without a load balancer it only makes stopping slow.
            drain_grace: RawDuration(Duration::ZERO),
            cores: None,
            http: RawHttp::default(),
            grpc: RawGrpc::default(),
            metrics: RawMetrics::default(),
            admin: RawAdmin::default(),
            ort: RawOrt::default(),
            repository: RawRepository::default(),
            limits: RawLimits::default(),
            log: RawLog::default(),
            logging: RawLogging::default(),
            audit: RawAudit::default(),
            webhook: Vec::new(),
            text: RawText::default(),
            model: BTreeMap::new(),
        }
    }
}

macro_rules! listener {
    ($name:ident, $port:literal, $what:literal) => {
        #[doc = $what]
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// Address and port; port 0 takes a free one.
            pub listen: SocketAddr,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    listen: SocketAddr::new(LOOPBACK, $port),
                }
            }
        }
    };
}

listener!(RawHttp, 8000, "`[http]`");
listener!(RawGrpc, 8001, "`[grpc]`");
listener!(RawMetrics, 8002, "`[metrics]`");

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmin {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may call; without any, all who reach loopback.
    pub tokens: Vec<RawToken>,
    /// Whose signatures agree to releases; without any, tokens do.
    pub approvers: Vec<RawApprover>,
    /// Whether load, unload and settings of the protocol are taken here only.
    pub v2_control: bool,
}

impl Default for RawAdmin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(LOOPBACK, 8003),
            tokens: Vec::new(),
            approvers: Vec::new(),
            // Clients of the protocol expect its calls where it is served.
            v2_control: false,
        }
    }
}

/// One of `admin.tokens`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawToken {
    /// Who holds it.
    pub name: String,
    /// sha256 of the token, in lower-case hexadecimal digits.
    pub sha256: String,
    /// What its holder may do; none: only read.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// The groups its holder is in, for the rules of approvals.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}

/// One of `admin.approvers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApprover {
    /// Who holds it; the name of a token, where it is the same person.
    pub name: String,
    /// The public key, in lower-case hexadecimal digits.
    pub key: String,
    /// The groups they are in.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}

/// `[text]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawText {
    /// The model of `/embed`; absent: the only one that can.
    pub embed_model: Option<String>,
    /// The model of `/rerank`.
    pub rerank_model: Option<String>,
    /// The model of `/predict`.
    pub predict_model: Option<String>,
    /// The most texts of one request.
    pub max_inputs: usize,
}

impl Default for RawText {
    fn default() -> Self {
        Self {
            embed_model: None,
            rerank_model: None,
            predict_model: None,
            max_inputs: TextModels::default().max_inputs,
        }
    }
}

impl From<RawText> for TextModels {
    fn from(raw: RawText) -> Self {
        Self {
            embed: raw.embed_model,
            rerank: raw.rerank_model,
            predict: raw.predict_model,
            max_inputs: raw.max_inputs,
        }
    }
}

/// `[ort]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawOrt {
    /// The shared library; absent: beside the executable, then the system's library path.
    pub library: Option<PathBuf>,
    /// Folders of CUDA's and cuDNN's libraries, besides those near the library.
    pub cuda_lib_dirs: Vec<PathBuf>,
}

/// `[repository]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRepository {
    /// Directories of models.
    pub paths: Vec<PathBuf>,
    /// When models are loaded.
    pub mode: ControlMode,
    /// In explicit mode: loaded at start.
    pub load: Vec<String>,
    /// Between two scans in poll mode.
    pub poll: RawDuration,
    /// `configs/NAME.pbtxt` instead of `config.pbtxt`.
    pub config_name: Option<String>,
    /// Threads that load.
    pub load_threads: usize,
    /// Ready only when every model due is.
    pub strict_readiness: bool,
    /// End the process when a model fails to load at start.
    pub exit_on_error: bool,
    /// Merging limit of completed configurations.
    pub default_max_batch_size: u32,
    /// Complete configurations from the model file.
    pub auto_complete: bool,
}

impl Default for RawRepository {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            mode: ControlMode::None,
            load: Vec::new(),
            poll: RawDuration(Duration::from_secs(15)),
            config_name: None,
            load_threads: 4,
            strict_readiness: true,
            exit_on_error: false,
            // protocols.md §10.2: a client written for Triton's 4 also works with 32.
            default_max_batch_size: 32,
            auto_complete: true,
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Largest request, after decompression.
    pub max_request_bytes: usize,
    /// Requests between admission and answer.
    pub max_in_flight: usize,
    /// Bytes of request bodies held at once.
    pub max_in_flight_bytes: usize,
    /// Open connections per listener.
    pub max_connections: usize,
    /// Requests waiting per model version, whatever its own queue policy says.
    pub max_queue: usize,
    /// Reading a request head.
    pub header_timeout: RawDuration,
    /// The longest pause inside a request body.
    pub body_idle_timeout: RawDuration,
    /// Requests in flight on one gRPC stream.
    pub max_stream_in_flight: usize,
    /// The longest run that stays on the thread that decoded its request.
    pub lend_within: RawDuration,
}

impl Default for RawLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            max_request_bytes: limits.max_request_bytes,
            max_in_flight: limits.max_in_flight,
            max_in_flight_bytes: limits.max_in_flight_bytes,
            max_connections: limits.max_connections,
            max_queue: limits.max_queue,
            header_timeout: RawDuration(limits.header_timeout),
            body_idle_timeout: RawDuration(limits.body_idle_timeout),
            max_stream_in_flight: limits.max_stream_in_flight,
            lend_within: RawDuration(limits.lend_within),
        }
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        Self {
            max_request_bytes: raw.max_request_bytes,
            max_in_flight: raw.max_in_flight,
            max_in_flight_bytes: raw.max_in_flight_bytes,
            max_connections: raw.max_connections,
            max_queue: raw.max_queue,
            header_timeout: raw.header_timeout.0,
            body_idle_timeout: raw.body_idle_timeout.0,
            max_stream_in_flight: raw.max_stream_in_flight,
            lend_within: raw.lend_within.0,
        }
    }
}

/// `[logging]`: the server's own log, not the inference log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogging {
    /// Text or JSON.
    pub format: LogFormat,
    /// A tracing filter.
    pub filter: String,
    /// A line per request.
    pub access: bool,
}

impl Default for RawLogging {
    fn default() -> Self {
        // ort writes about itself at info; our own start line says what matters of it.
        Self {
            format: LogFormat::Text,
            filter: "info,ort=warn".into(),
            access: false,
        }
    }
}

/// `[audit]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// Sign the head after so many records.
    pub sign_every: u64,
    /// The private key that signs; absent: no head is signed.
    pub key: Option<PathBuf>,
}

impl Default for RawAudit {
    fn default() -> Self {
        // A signature costs little beside the sync of a record; more would only move the file that holds the last one.
        Self {
            sign_every: 100,
            key: None,
        }
    }
}

/// One `[[webhook]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    /// Where messages go.
    pub url: String,
    /// Which moves are told; absent: all.
    #[serde(default = "every_kind")]
    pub events: Vec<NewsKind>,
    /// A file with the secret that messages are signed with.
    pub secret_file: PathBuf,
    /// Certificates, in PEM, that are trusted instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn every_kind() -> Vec<NewsKind> {
    vec![NewsKind::Transition, NewsKind::Rollback, NewsKind::Approval]
}

/// A number and a unit: `us`, `ms`, `s`, `m`, `h`, `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDuration(pub Duration);

impl fmt::Display for RawDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            _ if micros.is_multiple_of(1_000_000) => write!(f, "{}s", micros / 1_000_000),
            _ if micros.is_multiple_of(1000) => write!(f, "{}ms", micros / 1000),
            _ => write!(f, "{micros}us"),
        }
    }
}

impl std::str::FromStr for RawDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        crossfade_rollout::duration::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = RawDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as \"5ms\" or \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl RawConfig {
    /// Reads the file that is named; else `crossfade.toml` in the working directory, if it is there.
    ///
    /// Errors: as [`read`](Self::read).
    pub fn read_named(path: Option<&Path>) -> Result<Self, ConfigError> {
        match path {
            Some(path) => Self::read(path),
            None if Path::new(DEFAULT_FILE).exists() => Self::read(DEFAULT_FILE.as_ref()),
            None => Ok(Self::default()),
        }
    }

    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: shown.clone(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| ConfigError::File { path: shown, reason })
    }

    /// Reads the file's text.
    ///
    /// Errors: what is wrong, with line and column; an unknown key with the nearest known one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(table) = text.parse::<toml::Table>()
            && table.get("admin").is_some_and(|admin| admin.get("jwt").is_some())
        {
            return Err("`admin.jwt` is not supported yet; use `admin.tokens`".to_owned());
        }
        toml::from_str(text).map_err(|error| {
            let reason = error.to_string();
            match nearest_key(error.message()) {
                Some(nearest) => format!("{}\ndid you mean `{nearest}`?", reason.trim_end()),
                None => reason,
            }
        })
    }
}

/// From "unknown field `lisen`, expected one of `listen`, …" the nearest expected name.
fn nearest_key(message: &str) -> Option<&str> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}
