//! The command line. Flags are named as Triton's where they mean the same.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use crossfade_journal::Head;
use crossfade_journal::audit::Timestamp;

use super::client_args::ClientCommand;
use super::{ControlMode, LogFormat};
use crate::recorder::KeySource;

/// A model inference server: ONNX models over the Open Inference Protocol (KServe V2), gRPC and HTTP.
#[derive(Debug, Parser)]
#[command(name = "crossfade", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of one or more repositories
    Serve(Box<Flags>),
    /// Explain what is wrong with a model repository; exit code 1 if anything is
    Check(CheckArgs),
    /// Run the gates that a new version has to pass, without a server; exit code 1 if any fails
    Test(TestArgs),
    /// Show configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check or print the record of every call that changed something
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The record of every inference
    #[command(subcommand)]
    Log(LogCommand),
    /// Ask a version again what it was asked once, and hold both answers against each other; exit code 1 if they differ, 2 if it cannot be asked
    Replay(ReplayArgs),
    /// Ask two versions what was asked before, and say how their answers differ
    Diff(DiffArgs),
    /// Those that talk to a running server
    #[command(flatten)]
    Client(ClientCommand),
}

/// What of the configuration is shown.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the rules of a model's releases, with all that the preset of its tier adds
    Effective(EffectiveArgs),
}

/// Flags of `crossfade config effective`.
#[derive(Debug, Args)]
pub struct EffectiveArgs {
    /// The model
    pub model: String,
    /// Directory of models; by default those of the configuration file
    #[arg(
        long,
        env = "CROSSFADE_MODEL_REPOSITORY",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub model_repository: Vec<PathBuf>,
    /// Configuration file, whose [model.NAME] stands above model.toml [default: crossfade.toml, if it is there]
    #[arg(long, env = "CROSSFADE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check the whole chain; names the first bad record, and then the exit code is 1
    Verify(VerifyArgs),
    /// Print the records as JSON Lines
    Export(ExportArgs),
}

/// Flags of `crossfade audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// An export to check in place of the server's own audit
    #[arg(value_name = "FILE.jsonl")]
    pub export: Option<PathBuf>,
    /// The server's data folder
    #[arg(
        long,
        env = "CROSSFADE_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,
    /// A head that was kept elsewhere: without it records missing at the end go unseen
    #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
    pub head: Option<Head>,
    /// The head that the first line of an export follows, if it is not a whole audit
    #[arg(long, value_name = "SEQ:HASH", value_parser = head, requires = "export")]
    pub after: Option<Head>,
}

/// What to do with the inference log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every file and count; the exit code is 1 where something was changed or lost, 2 where the log says what is missing
    Verify(LogArgs),
    /// Make Parquet files of what is not in one yet; no server may use the data folder
    Seal(LogArgs),
    /// Ask DuckDB: `log` is every record, those that are not in a file yet with them, `gap` what is missing, and `correction` what persons have put right
    Query(QueryArgs),
    /// Print the last records as JSON lines
    Tail(TailArgs),
    /// Write records to a file
    Export(LogExportArgs),
    /// Print the keys of the Parquet files of a log that is encrypted, for other programs: the id that a file names, and the key in base64
    Keys(LogArgs),
}

/// Flags of `crossfade log verify`, `seal` and `keys`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The server's data folder
    #[arg(
        long,
        env = "CROSSFADE_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,
    /// Of a log that is encrypted, its key: file:PATH, env:NAME or command:PROGRAM ARGUMENTS; may be given more than once
    #[arg(long, env = "CROSSFADE_LOG_KEY", value_name = "SOURCE")]
    pub log_key: Vec<KeySource>,
}

/// Flags of `crossfade log query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// What to ask
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub format: TableFormat,
    /// DuckDB's command line [default: `duckdb`, as found by PATH]
    #[arg(long, env = "CROSSFADE_DUCKDB", value_name = "FILE", default_value = "duckdb")]
    pub duckdb: PathBuf,
    /// Whose log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TableFormat {
    /// For people.
    Table,
    /// Comma-separated values with a head.
    Csv,
    /// An array of objects.
    Json,
}

/// Which records are meant.
#[derive(Debug, Clone, Default, Args)]
pub struct WhichArgs {
    /// Only of this model
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Only of this version
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Only from then on: 2026-11-23 or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<i64>,
    /// Only before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<i64>,
}

/// Flags of `crossfade log tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// How many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    pub lines: usize,
    /// Go on with those that come
    #[arg(short, long)]
    pub follow: bool,
    /// Which records.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Whose log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `crossfade log export`.
#[derive(Debug, Args)]
pub struct LogExportArgs {
    /// Where to; its name ends in .parquet or .jsonl
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A training set of one model: inputs, outputs and, where the folder `feedback` knows them, labels
    #[arg(long, requires = "model")]
    pub joined: bool,
    /// Only records about this person, by the id that `x-subject-id` had
    #[arg(long, value_name = "ID")]
    pub subject: Option<String>,
    /// File with the secret behind the digests of persons [default: state/pepper in the data folder]
    #[arg(long, value_name = "FILE", requires = "subject")]
    pub pepper_file: Option<PathBuf>,
    /// Only when requests came, for `crossfade-loadtest run --arrivals file:FILE`: seconds since the first, one per line
    #[arg(long, conflicts_with = "joined")]
    pub arrivals: bool,
    /// Which records.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Whose log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where versions are, for commands that run them without a server.
#[derive(Debug, Clone, Args)]
pub struct VersionsArgs {
    /// Directories of models
    #[arg(
        long,
        env = "CROSSFADE_MODEL_REPOSITORY",
        required = true,
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub model_repository: Vec<PathBuf>,
    /// Configuration file, whose [model.NAME] stands above model.toml [default: crossfade.toml, if it is there]
    #[arg(long, env = "CROSSFADE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// ONNX Runtime's shared library
    #[arg(long, env = "CROSSFADE_ORT_LIBRARY", value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// Folder with libraries of CUDA and cuDNN, or `site-packages/nvidia` of their wheels; may be given more than once
    #[arg(
        long,
        env = "CROSSFADE_CUDA_LIB_DIR",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub cuda_lib_dir: Vec<PathBuf>,
}

/// Flags of `crossfade replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The `x-request-id` of each answer
    #[arg(required = true, value_name = "REQUEST_ID")]
    pub request_ids: Vec<uuid::Uuid>,
    /// Take numbers for equal that are so many representable numbers apart
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub ulp: u64,
    /// Where the versions are.
    #[command(flatten)]
    pub versions: VersionsArgs,
    /// Whose log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `crossfade diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The version that the other is held against
    #[arg(value_name = "A")]
    pub one: u64,
    /// The other
    #[arg(value_name = "B")]
    pub other: u64,
    /// The model
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// What they are asked: `log:` and a condition of SQL on the records, such as log:'ts > now() - INTERVAL 1 DAY'; with nothing behind it, all
    #[arg(long, value_name = "log:WHERE", default_value = "log:", value_parser = data)]
    pub data: String,
    /// No more requests than so many, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// DuckDB's command line, for a condition [default: `duckdb`, as found by PATH]
    #[arg(long, env = "CROSSFADE_DUCKDB", value_name = "FILE", default_value = "duckdb")]
    pub duckdb: PathBuf,
    /// Where the versions are.
    #[command(flatten)]
    pub versions: VersionsArgs,
    /// Whose log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Reads `log:WHERE`.
fn data(text: &str) -> Result<String, String> {
    let condition = text.strip_prefix("log:").map(str::trim);
    condition
        .map(str::to_owned)
        .ok_or_else(|| "expected log: and a condition, such as log:'ts > now() - INTERVAL 1 DAY'".to_owned())
}

/// Reads a day or a point in time as microseconds since 1970.
fn time(text: &str) -> Result<i64, String> {
    let whole = match (text.len(), text.strip_suffix('Z')) {
        (10, _) => format!("{text}T00:00:00.000000Z"),
        (20, Some(seconds)) => format!("{seconds}.000000Z"),
        _ => text.to_owned(),
    };
    let time: Result<Timestamp, _> = whole.parse();
    time.map(|time| time.unix_micros())
        .map_err(|_| "expected a time in UTC, such as 2026-11-23 or 2026-11-23T12:00:00Z".to_owned())
}

/// Flags of `crossfade audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The server's data folder
    #[arg(
        long,
        env = "CROSSFADE_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,
    /// Only records after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub since: u64,
}

/// Where the data is when nothing else is said.
pub const DEFAULT_DATA_DIR: &str = "./crossfade-data";

/// Reads `SEQ:HASH`.
fn head(text: &str) -> Result<Head, String> {
    let wrong = || "expected SEQ:HASH, as `crossfade audit verify` prints it".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Head {
        seq: seq.parse().map_err(|_| wrong())?,
        hash: hash.parse().map_err(|_| wrong())?,
    })
}

/// Flags of `crossfade check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Repository directories
    #[arg(required = true, value_name = "DIR")]
    pub repositories: Vec<PathBuf>,
    /// Use configs/NAME.pbtxt instead of config.pbtxt where a model has it
    #[arg(long, value_name = "NAME")]
    pub model_config_name: Option<String>,
    /// ONNX Runtime's shared library
    #[arg(long, env = "CROSSFADE_ORT_LIBRARY", value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
}

/// Flags of `crossfade test`.
#[derive(Debug, Default, Args)]
pub struct TestArgs {
    /// Directory of models
    #[arg(value_name = "DIR")]
    pub repository: PathBuf,
    /// Only this model; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// The version to test, of one model [default: the newest]
    #[arg(long, value_name = "NUMBER")]
    pub version: Option<u64>,
    /// The version to compare it with [default: the one before it]
    #[arg(long, value_name = "NUMBER")]
    pub against: Option<u64>,
    /// Write the results there as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Configuration file, whose [model.NAME] stands above model.toml [default: crossfade.toml, if it is there]
    #[arg(long, env = "CROSSFADE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Use configs/NAME.pbtxt instead of config.pbtxt where a model has it
    #[arg(long, value_name = "NAME")]
    pub model_config_name: Option<String>,
    /// ONNX Runtime's shared library
    #[arg(long, env = "CROSSFADE_ORT_LIBRARY", value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// Folder with libraries of CUDA and cuDNN, or `site-packages/nvidia` of their wheels; may be given more than once
    #[arg(
        long,
        env = "CROSSFADE_CUDA_LIB_DIR",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub cuda_lib_dir: Vec<PathBuf>,
}

/// Flags of `crossfade serve`; each overrides its key in the configuration file.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Configuration file [default: crossfade.toml, if it exists]
    #[arg(long, env = "CROSSFADE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of what must outlive the server, such as the audit and the state of releases; one server per folder
    #[arg(long, env = "CROSSFADE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of models; may be given more than once
    #[arg(
        long,
        visible_alias = "model-store",
        env = "CROSSFADE_MODEL_REPOSITORY",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub model_repository: Vec<PathBuf>,
    /// When models are loaded: all at start (none), by rescanning (poll), or by API (explicit)
    #[arg(long, env = "CROSSFADE_MODEL_CONTROL_MODE", value_name = "MODE")]
    pub model_control_mode: Option<ControlMode>,
    /// Seconds between two scans in poll mode
    #[arg(long, env = "CROSSFADE_REPOSITORY_POLL_SECS", value_name = "N")]
    pub repository_poll_secs: Option<u64>,
    /// Model to load at start in explicit mode; `*` = all; may be given more than once
    #[arg(
        long,
        env = "CROSSFADE_LOAD_MODEL",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub load_model: Vec<String>,
    /// Use configs/NAME.pbtxt instead of config.pbtxt where a model has it
    #[arg(long, env = "CROSSFADE_MODEL_CONFIG_NAME", value_name = "NAME")]
    pub model_config_name: Option<String>,
    /// Threads that load models
    #[arg(long, env = "CROSSFADE_MODEL_LOAD_THREAD_COUNT", value_name = "N")]
    pub model_load_thread_count: Option<usize>,
    /// Do not complete configurations from the model file
    #[arg(long, env = "CROSSFADE_DISABLE_AUTO_COMPLETE_CONFIG")]
    pub disable_auto_complete_config: bool,
    /// max_batch_size of a completed configuration
    #[arg(long, env = "CROSSFADE_DEFAULT_MAX_BATCH_SIZE", value_name = "N")]
    pub default_max_batch_size: Option<u32>,
    /// End the process when a model fails to load at start
    #[arg(long, env = "CROSSFADE_EXIT_ON_ERROR", action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub exit_on_error: Option<bool>,
    /// Ready only when every model due has a ready version
    #[arg(long, env = "CROSSFADE_STRICT_READINESS", action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub strict_readiness: Option<bool>,
    /// Seconds that in-flight requests may take after SIGTERM
    #[arg(long, env = "CROSSFADE_EXIT_TIMEOUT_SECS", value_name = "N")]
    pub exit_timeout_secs: Option<u64>,
    /// Seconds between "not ready" and closing the listeners after SIGTERM, for load balancers to notice
    #[arg(long, env = "CROSSFADE_DRAIN_GRACE_SECS", value_name = "N")]
    pub drain_grace_secs: Option<u64>,
    /// Address HTTP listens on
    #[arg(long, env = "CROSSFADE_HTTP_ADDRESS", value_name = "IP")]
    pub http_address: Option<IpAddr>,
    /// Port of HTTP; 0 takes a free one
    #[arg(long, env = "CROSSFADE_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Address gRPC listens on
    #[arg(long, env = "CROSSFADE_GRPC_ADDRESS", value_name = "IP")]
    pub grpc_address: Option<IpAddr>,
    /// Port of gRPC; 0 takes a free one
    #[arg(long, env = "CROSSFADE_GRPC_PORT", value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// Address metrics listen on
    #[arg(long, env = "CROSSFADE_METRICS_ADDRESS", value_name = "IP")]
    pub metrics_address: Option<IpAddr>,
    /// Port of metrics; 0 takes a free one
    #[arg(long, env = "CROSSFADE_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Address the admin interface listens on; another than loopback needs `admin.tokens`
    #[arg(long, env = "CROSSFADE_ADMIN_ADDRESS", value_name = "IP")]
    pub admin_address: Option<IpAddr>,
    /// Port of the admin interface; 0 takes a free one
    #[arg(long, env = "CROSSFADE_ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// ONNX Runtime's shared library [default: beside the executable, then the system's library path]
    #[arg(long, env = "CROSSFADE_ORT_LIBRARY", value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// Folder with libraries of CUDA and cuDNN, or `site-packages/nvidia` of their wheels; may be given more than once
    #[arg(
        long,
        env = "CROSSFADE_CUDA_LIB_DIR",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub cuda_lib_dir: Vec<PathBuf>,
    /// Threads that compute, over all models [default: the machine's cores]
    #[arg(long, env = "CROSSFADE_CORES", value_name = "N")]
    pub cores: Option<usize>,
    /// Form of log lines
    #[arg(long, env = "CROSSFADE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, such as `info` or `warn,crossfade_server=debug`
    #[arg(long, env = "CROSSFADE_LOG", value_name = "FILTER")]
    pub log_filter: Option<String>,
    /// A log line per request
    #[arg(long, env = "CROSSFADE_ACCESS_LOG", action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub access_log: Option<bool>,
}
