//! The server's configuration: flags over environment over `crossfade.toml` over defaults.
//!
//! Parse, then validate, then never check again: [`Flags`] and [`file::RawConfig`] are what was written,
//! [`ServerConfig`] is what the code may rely on.

mod admin;
mod client_args;
pub mod file;
mod flags;
mod inference_log;
pub mod reference;
pub(crate) mod revision;
mod sink;
mod webhook;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crossfade_journal::Hash;
use sha2::{Digest, Sha256};

use crate::admin::{Approver, Token};
use crate::outgoing::Target;
use crate::recorder::RecorderConfig;
use crate::release::NewsKind;
use crate::service::{Limits, TextModels};
use crate::webhook::Patience;
pub use client_args::{
    ActArgs, ApproveArgs, ClientCommand, DeployArgs, PlanArgs, RollbackArgs, RolloutCommand, ServerArgs,
    StatusArgs, SubjectArgs, SubjectCommand,
};
pub use flags::{
    AuditCommand, CheckArgs, Cli, Command, ConfigCommand, DEFAULT_DATA_DIR, DiffArgs, EffectiveArgs,
    ExportArgs, Flags, LogArgs, LogCommand, LogExportArgs, QueryArgs, ReplayArgs, TableFormat, TailArgs,
    TestArgs, VerifyArgs, VersionsArgs, WhichArgs,
};

/// What the code may rely on.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ServerConfig {
    /// Where the server keeps what must outlive it.
    pub data_dir: PathBuf,
    /// The time between two looks at a release; `None`: nobody looks but who calls.
    pub release_looks: Option<Duration>,
    /// The audit.
    pub audit: AuditConfig,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where metrics are scraped.
    pub metrics: SocketAddr,
    /// The admin listener.
    pub admin: AdminConfig,
    /// The models.
    pub repository: RepositoryConfig,
    /// The runtimes.
    pub runtimes: RuntimesConfig,
    /// Bounds.
    pub limits: Limits,
    /// Which models answer over paths of text that name none.
    pub text: TextModels,
    /// Logs.
    pub log: LogConfig,
    /// The inference log, if it is kept.
    pub recorder: Option<RecorderConfig>,
    /// Who gets its records.
    pub sinks: Vec<SinkConfig>,
    /// From the first SIGTERM: not ready, but still accepting, so that load balancers notice.
    pub drain_grace: Duration,
    /// After the grace: how long in-flight requests may take.
    pub exit_timeout: Duration,
    /// Who is told of releases.
    pub webhooks: Vec<WebhookConfig>,
    /// `[model.NAME]` tables, for the reader of model.toml.
    pub models: BTreeMap<String, toml::Table>,
}

/// Where models come from, and when.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RepositoryConfig {
    /// Directories of models.
    pub paths: Vec<PathBuf>,
    /// When models are loaded.
    pub mode: ControlMode,
    /// In explicit mode: names to load at start, `*` = all.
    pub load_models: Vec<String>,
    /// The time between two scans in poll mode.
    pub poll: Duration,
    /// `configs/NAME.pbtxt` instead of `config.pbtxt`.
    pub config_name: Option<String>,
    /// Threads that load.
    pub load_threads: usize,
    /// Whether readiness asks for every model due.
    pub strict_readiness: bool,
    /// Whether a model that fails to load at start ends the process.
    pub exit_on_error: bool,
    /// `max_batch_size` of a completed configuration; limits merging only.
    pub default_max_batch_size: u32,
    /// Whether missing configuration comes from the model file.
    pub auto_complete: bool,
}

/// When models are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlMode {
    /// All at start, then fixed.
    None,
    /// Rescan from time to time.
    Poll,
    /// By API.
    Explicit,
}

/// The runtimes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RuntimesConfig {
    /// ONNX Runtime's shared library, where given.
    pub ort_library: Option<PathBuf>,
    /// Folders of CUDA's and cuDNN's libraries.
    pub cuda_lib_dirs: Vec<PathBuf>,
    /// Threads that compute, over all models.
    pub cores: usize,
}

/// How the server logs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// A tracing filter, such as `info` or `crossfade=debug`.
    pub filter: String,
    /// A line per request.
    pub access: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// The admin listener.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AdminConfig {
    /// Where it listens; loopback, unless there are tokens.
    pub listen: SocketAddr,
    /// Who may call; none: whoever reaches it.
    pub tokens: Vec<Token>,
    /// Whose signatures agree to releases; none: the holder of a token does, without a signature.
    pub approvers: Vec<Approver>,
    /// Whether load, unload and settings of the protocol are taken here only.
    pub v2_control: bool,
}

/// How the audit is kept.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AuditConfig {
    /// Signs the head after so many records.
    pub sign_every: NonZeroU64,
    /// A file with the key that signs.
    pub key: Option<PathBuf>,
}

/// One receiver of the inference log's records.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SinkConfig {
    /// Its name.
    pub name: String,
    /// Where it sends.
    pub(crate) to: SinkTarget,
    /// What an event is.
    pub format: EventFormat,
    /// In events of KServe's: the namespace.
    pub namespace: String,
    /// Only records of these models; empty: of all.
    pub models: Vec<String>,
    /// Only requests that were answered.
    pub only_success: bool,
    /// How often an event is sent that is refused.
    pub max_attempts: u32,
    /// Certificates that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
}

/// Where a sink sends, and so what.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SinkTarget {
    /// Events of records, by HTTP.
    Events {
        #[serde(skip)]
        /// Where to.
        target: Target,
    },
    /// Files of the log, into S3-compatible storage.
    Objects(Bucket),
}

/// A bucket of S3-compatible storage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What stands before every key, without a slash at its ends.
    pub prefix: String,
    /// Who has it, if not Amazon.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// Whether files of the log stay until they are there.
    pub upload_before_expiry: bool,
}

/// What a sink sends for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    /// One event with all that the log has, many in a request.
    #[default]
    Native,
    /// Two, as KServe's logger sends them: the request and its response.
    Kserve,
}

/// Who is told of releases, and of which moves.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WebhookConfig {
    /// As written.
    pub url: String,
    #[serde(skip)]
    pub(crate) target: Target,
    /// Which moves.
    pub events: Vec<NewsKind>,
    /// A file with the secret that messages are signed with.
    pub secret_file: PathBuf,
    /// Certificates, in PEM, that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long a receiver may take, and when it is asked again.
    #[serde(skip)]
    pub patience: Patience,
}

/// What is wrong with the configuration, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{path}`: {source}")]
    Read {
        /// As given.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the text names line and key.
    #[error("configuration file `{path}`: {reason}")]
    File {
        /// As given.
        path: String,
        /// What, and what to write instead.
        reason: String,
    },
    /// A value that cannot be used.
    #[error("{key}: {reason}")]
    Value {
        /// The key as in the file.
        key: &'static str,
        /// What is wrong and what is accepted.
        reason: String,
    },
}

impl ServerConfig {
    /// Joins the layers: `flags` (environment included) over `file` over the defaults in [`file::RawConfig`].
    pub fn resolve(flags: Flags, file: file::RawConfig) -> Result<Self, ConfigError> {
        let value = |key, reason: String| ConfigError::Value { key, reason };
        let cores = flags.cores.or(file.cores).unwrap_or_else(available_cores);
        if cores == 0 {
            return Err(value("cores", "must be at least 1".into()));
        }
        let mut paths = flags.model_repository;
        if paths.is_empty() {
            paths = file.repository.paths;
        }
        let mode = flags.model_control_mode.unwrap_or(file.repository.mode);
        let load_models = if flags.load_model.is_empty() {
            file.repository.load
        } else {
            flags.load_model
        };
        if mode != ControlMode::Explicit && !load_models.is_empty() {
            let reason = "only works with model-control-mode explicit; add `--model-control-mode explicit`";
            return Err(value("repository.load (--load-model)", reason.into()));
        }
        let poll = match flags.repository_poll_secs {
            Some(seconds) => Duration::from_secs(seconds),
            None => file.repository.poll.0,
        };
        if mode == ControlMode::Poll && poll.is_zero() {
            return Err(value(
                "repository.poll (--repository-poll-secs)",
                "must be longer than zero".into(),
            ));
        }
        let load_threads = flags
            .model_load_thread_count
            .unwrap_or(file.repository.load_threads);
        if load_threads == 0 {
            return Err(value("repository.load_threads", "must be at least 1".into()));
        }
        let bytes = &file.limits;
        if bytes.max_request_bytes == 0 || bytes.max_in_flight == 0 || bytes.max_connections == 0 {
            return Err(value("limits", "every limit must be at least 1".into()));
        }
        let sign_every = NonZeroU64::new(file.audit.sign_every)
            .ok_or_else(|| value("audit.sign_every", "must be at least 1".into()))?;
        let listen = |over: Option<IpAddr>, port: Option<u16>, file: SocketAddr| {
            SocketAddr::new(over.unwrap_or(file.ip()), port.unwrap_or(file.port()))
        };
        Ok(Self {
            data_dir: flags.data_dir.unwrap_or(file.data_dir),
            release_looks: Some(Duration::from_secs(1)),
            audit: AuditConfig {
                sign_every,
                key: file.audit.key,
            },
            http: listen(flags.http_address, flags.http_port, file.http.listen),
            grpc: listen(flags.grpc_address, flags.grpc_port, file.grpc.listen),
            metrics: listen(flags.metrics_address, flags.metrics_port, file.metrics.listen),
            admin: admin::resolve(
                listen(flags.admin_address, flags.admin_port, file.admin.listen),
                file.admin,
            )?,
            repository: RepositoryConfig {
                paths,
                mode,
                load_models,
                poll,
                config_name: flags.model_config_name.or(file.repository.config_name),
                load_threads,
                strict_readiness: flags.strict_readiness.unwrap_or(file.repository.strict_readiness),
                exit_on_error: flags.exit_on_error.unwrap_or(file.repository.exit_on_error),
                default_max_batch_size: flags
                    .default_max_batch_size
                    .unwrap_or(file.repository.default_max_batch_size),
                auto_complete: !flags.disable_auto_complete_config && file.repository.auto_complete,
            },
            runtimes: RuntimesConfig {
                ort_library: flags.ort_library.or(file.ort.library),
                cuda_lib_dirs: match flags.cuda_lib_dir.is_empty() {
                    true => file.ort.cuda_lib_dirs,
                    false => flags.cuda_lib_dir,
                },
                cores,
            },
            limits: file.limits.into(),
            text: file.text.into(),
            log: LogConfig {
                format: flags.log_format.unwrap_or(file.logging.format),
                filter: flags.log_filter.unwrap_or(file.logging.filter),
                access: flags.access_log.unwrap_or(file.logging.access),
            },
            sinks: match file.log.enabled {
                true => sink::resolve(file.log.sink.clone())?,
                false => Vec::new(),
            },
            recorder: file.log.resolve()?,
            drain_grace: flags
                .drain_grace_secs
                .map_or(file.drain_grace.0, Duration::from_secs),
            exit_timeout: flags
                .exit_timeout_secs
                .map_or(file.exit_timeout.0, Duration::from_secs),
            webhooks: webhook::resolve(file.webhook)?,
            models: file.model,
        })
    }
}

impl ServerConfig {
    /// The configuration in force, as one number: what the audit calls `config_rev`.
    pub fn revision(&self) -> Hash {
        revision::of(self).unwrap_or_else(|error| {
            // A path that is no text has no JSON.
            tracing::warn!(%error, "the configuration is told apart by its debug text");
            Hash(Sha256::digest(format!("{self:?}")).into())
        })
    }
}

/// Loopback: the server listens elsewhere only when told.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests;
