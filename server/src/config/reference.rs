//! The reference of every configuration key: docs/configuration.md is made from here.
//!
//! Flags, variables and most meanings come from the command line's own definition, defaults from the default
//! configuration; only which flag sets which key is written down here, and tests compare it with both.

mod model_keys;

use std::fmt::{Display, Write};

use clap::{Arg, CommandFactory, ValueEnum};

use super::Cli;
use super::file::RawConfig;

/// A key of `crossfade.toml`, or a flag without one.
struct Key {
    /// As in the file; empty for what only the command line has.
    key: &'static str,
    /// Flags that set it, without dashes.
    flags: &'static [&'static str],
    /// Empty: what the flag's help says.
    meaning: &'static str,
    /// As it would stand in the file; empty: no value.
    default: fn(&RawConfig) -> String,
}

const fn key(
    key: &'static str,
    flags: &'static [&'static str],
    meaning: &'static str,
    default: fn(&RawConfig) -> String,
) -> Key {
    Key {
        key,
        flags,
        meaning,
        default,
    }
}

/// What `crossfade serve` can be told.
#[rustfmt::skip]
const SERVER: &[Key] = &[
    key("", &["config"], "", |_| text("`crossfade.toml`, if it is there")),
    key("data_dir", &["data-dir"], "", |c| quoted(c.data_dir.display())),
    key("repository.paths", &["model-repository"], "", |c| list(&c.repository.paths)),
    key("repository.mode", &["model-control-mode"], "", |c| choice(c.repository.mode)),
    key("repository.poll", &["repository-poll-secs"], "Time between two scans in poll mode", |c| quoted(c.repository.poll)),
    key("repository.load", &["load-model"], "", |c| list(&c.repository.load)),
    key("repository.strict_readiness", &["strict-readiness"], "", |c| literal(c.repository.strict_readiness)),
    key("repository.exit_on_error", &["exit-on-error"], "", |c| literal(c.repository.exit_on_error)),
    key("repository.config_name", &["model-config-name"], "", |c| path(c.repository.config_name.as_ref())),
    key("repository.auto_complete", &["disable-auto-complete-config"], "Complete configurations from the model file; the flag turns it off", |c| literal(c.repository.auto_complete)),
    key("repository.default_max_batch_size", &["default-max-batch-size"], "", |c| number(c.repository.default_max_batch_size)),
    key("repository.load_threads", &["model-load-thread-count"], "", |c| number(c.repository.load_threads)),
    key("http.listen", &["http-address", "http-port"], "Address and port of HTTP; port 0 takes a free one", |c| quoted(c.http.listen)),
    key("grpc.listen", &["grpc-address", "grpc-port"], "Address and port of gRPC; port 0 takes a free one", |c| quoted(c.grpc.listen)),
    key("metrics.listen", &["metrics-address", "metrics-port"], "Address and port of `/metrics`; port 0 takes a free one", |c| quoted(c.metrics.listen)),
    key("admin.listen", &["admin-address", "admin-port"], "Address and port of the admin interface; another address than loopback needs tokens", |c| quoted(c.admin.listen)),
    key("admin.tokens", &[], "Who may call the admin interface: `[{ name, sha256, roles, groups }]`; without any, all who reach loopback", |_| "`[]`".to_owned()),
    key("admin.approvers", &[], "Whose Ed25519 signatures agree to releases: `[{ name, key, groups }]`; without any, the role `approve` of a token is enough", |_| "`[]`".to_owned()),
    key("admin.v2_control", &[], "The admin listener alone takes load, unload and settings of the protocol", |c| literal(c.admin.v2_control)),
    key("ort.library", &["ort-library"], "ONNX Runtime's shared library", |c| match &c.ort.library {
        Some(library) => quoted(library.display()),
        None => text("beside the executable, then the system's library path"),
    }),
    key("ort.cuda_lib_dirs", &["cuda-lib-dir"], "Folders with the libraries of CUDA and cuDNN, or `site-packages/nvidia` of their [wheels](gpu.md); those beside ONNX Runtime's own are found without", |c| list(&c.ort.cuda_lib_dirs)),
    key("cores", &["cores"], "Threads that compute, over all models", |c| match c.cores {
        Some(cores) => number(cores),
        None => text("the machine's cores"),
    }),
    key("exit_timeout", &["exit-timeout-secs"], "How long in-flight requests may take after SIGTERM and the grace", |c| quoted(c.exit_timeout)),
    key("drain_grace", &["drain-grace-secs"], "Time between \"not ready\" and closing the listeners after SIGTERM, for load balancers to notice", |c| quoted(c.drain_grace)),
    key("limits.max_request_bytes", &[], "Largest request, after decompression", |c| number(c.limits.max_request_bytes)),
    key("limits.max_in_flight", &[], "Requests between admission and answer; one more is refused as overloaded", |c| number(c.limits.max_in_flight)),
    key("limits.max_in_flight_bytes", &[], "Bytes of request bodies held at once; likewise", |c| number(c.limits.max_in_flight_bytes)),
    key("limits.max_connections", &[], "Open connections per listener", |c| number(c.limits.max_connections)),
    key("limits.max_queue", &[], "Requests waiting per model version, whatever its own queue policy says", |c| number(c.limits.max_queue)),
    key("limits.header_timeout", &[], "Longest time to send a request's head", |c| quoted(c.limits.header_timeout)),
    key("limits.body_idle_timeout", &[], "Longest pause inside a request's body", |c| quoted(c.limits.body_idle_timeout)),
    key("limits.max_stream_in_flight", &[], "Requests in flight on one gRPC stream", |c| number(c.limits.max_stream_in_flight)),
    key("limits.lend_within", &[], "The longest run, by recent ones of its model, that stays on the thread that decoded its request, if an instance is idle; `0s`: each goes to the thread of an instance", |c| quoted(c.limits.lend_within)),
    key("logging.format", &["log-format"], "", |c| choice(c.logging.format)),
    key("logging.filter", &["log-filter"], "", |c| quoted(&c.logging.filter)),
    key("logging.access", &["access-log"], "", |c| literal(c.logging.access)),
    key("log.enabled", &[], "Whether every inference is recorded, in `data_dir`", |c| literal(c.log.enabled)),
    key("log.ack", &[], "What an answer waits for: `kernel`, its record survives a kill of the process; `disk`, and a loss of power; `memory`, here the same as `kernel`", |_| "`\"kernel\"`".to_owned()),
    key("log.on_full", &[], "Where there is no room for a record: `drop` serves the request, counts it and writes a gap record; `block` waits, and refuses it in the end; `sample` records fewer requests in time", |_| "`\"drop\"`".to_owned()),
    key("log.max_wait", &[], "With `on_full = \"block\"`: the longest that an answer waits for room", |c| quoted(c.log.max_wait)),
    key("log.rate", &[], "The probability with which a request is recorded; what fails, a canary and copies always are", |c| format!("`{:?}`", c.log.rate)),
    key("log.sync", &[], "The longest time until records are on disk", |c| quoted(c.log.sync)),
    key("log.seal_after", &[], "The longest time until records are in a Parquet file", |c| quoted(c.log.seal_after)),
    key("log.retention", &[], "Files of days that are longer ago are removed", |c| quoted(c.log.retention)),
    key("log.max_bytes", &[], "The oldest files are removed until all have no more bytes", |c| number(c.log.max_bytes)),
    key("log.min_free_bytes", &[], "The oldest files are removed until so much of the disk is free; where none are left there is no room for records", |c| number(c.log.min_free_bytes)),
    key("log.buffer_bytes", &[], "Bytes of segments that are not in Parquet files yet; beyond it there is no room for records", |c| number(c.log.buffer_bytes)),
    key("log.payload.max_bytes", &[], "Larger tensors are not kept; the digest of the inputs is", |c| number(c.log.payload.max_bytes)),
    key("log.payload.blobs", &[], "Larger tensors are kept all the same: each request that has any gets a file of its own below `blob/`", |_| literal(false)),
    key("log.fields", &[], "What becomes of inputs and outputs before they are written, by model: `[log.fields.MODEL]` with `\"in.NAME\"`, `\"out.NAME\"` or `\"*\"` = [a policy](inference-log.md#what-is-not-to-be-written)", |_| text("all are kept")),
    key("log.subject.header", &[], "The header (gRPC: metadata) with the id of the person that a request is about; only a keyed digest is written", |c| quoted(&c.log.subject.header)),
    key("log.subject.pepper_file", &[], "File with the secret, 32 bytes or more, behind that digest; whoever loses it finds nobody again", |_| text("`state/pepper` in the data folder, made if it is not there")),
    key("log.caller.header", &[], "The header (gRPC: metadata) in which the gateway before the server says who asks, such as `x-consumer-username`; recorded as `caller`", |_| text("nobody says so")),
    key("log.encryption.key", &[], "What a log is [encrypted](inference-log.md#encryption) with: `file:PATH`, `env:NAME` or `command:PROGRAM ARGUMENTS`; 32 bytes as they are, in hexadecimal or in base64", |_| text("it is not encrypted")),
    key("log.encryption.previous", &[], "The keys that it was before; what they wrapped is wrapped again with `key` when the server starts", |_| "`[]`".to_owned()),
    key("log.encryption.enabled", &[], "`false`: what comes is not encrypted, and what was can be read", |_| literal(true)),
    key("log.sink.name", &[], "Of each `[[log.sink]]`, who gets [every record](inference-log.md#sending-it-elsewhere): names it in metrics and in `state/sinks`", |_| String::new()),
    key("log.sink.url", &[], "Where its CloudEvents go, `https://…` or `http://…`; or where whole files go, `s3://BUCKET/PREFIX`", |_| String::new()),
    key("log.sink.endpoint", &[], "With `s3://`: the address of the storage, if it is not Amazon's", |_| text("Amazon's")),
    key("log.sink.region", &[], "With `s3://`", |_| text("`\"us-east-1\"`")),
    key("log.sink.upload_before_expiry", &[], "With `s3://`: files stay here until they are there, however old they are", |_| literal(false)),
    key("log.sink.format", &[], "What is sent for a record: `native`, one event with its row; `kserve`, the two events of KServe's logger, request and response", |_| text("`\"native\"`")),
    key("log.sink.namespace", &[], "With `format = \"kserve\"`: the extension `namespace`", |_| text("`\"default\"`")),
    key("log.sink.models", &[], "Only records of these models", |_| text("of all")),
    key("log.sink.only_success", &[], "Only requests that were answered", |_| literal(false)),
    key("log.sink.max_attempts", &[], "How often an event is sent that is refused before it goes to `sink_dead`", |_| number(5)),
    key("log.sink.ca", &[], "File of certificates (PEM) that an `https://` receiver's is signed by", |_| text("the system's")),
    key("text.embed_model", &[], "The model that answers `/embed`; absent: the only one that can", |c| path(c.text.embed_model.as_ref())),
    key("text.rerank_model", &[], "The model that answers `/rerank`; absent: the only one that can", |c| path(c.text.rerank_model.as_ref())),
    key("text.predict_model", &[], "The model that answers `/predict`; absent: the only one that can", |c| path(c.text.predict_model.as_ref())),
    key("text.max_inputs", &[], "The most texts of one request over those paths and `/v1/embeddings`", |c| number(c.text.max_inputs)),
    key("audit.sign_every", &[], "Records after which the audit's head is signed again, if there is a key", |c| number(c.audit.sign_every)),
    key("audit.key", &[], "File with the Ed25519 key (PEM, `openssl genpkey -algorithm ed25519`) that signs the audit's head", |c| path(c.audit.key.as_ref().map(|key| key.display().to_string()).as_ref())),
    key("webhook.url", &[], "Of each `[[webhook]]`: where moves of releases are told, `https://…` or `http://…`", |_| String::new()),
    key("webhook.events", &[], "Which of them", |_| "`[\"transition\", \"rollback\", \"approval\"]`".to_owned()),
    key("webhook.secret_file", &[], "File with the secret, 16 bytes or more, that signs messages", |_| String::new()),
    key("webhook.ca", &[], "File of certificates (PEM) that an `https://` receiver's is signed by", |_| text("the system's")),
    key("model.NAME", &[], "Settings of one model, over its own files: the keys of `model.toml`, those of `[model]` without that prefix", |_| String::new()),
];

/// The page docs/configuration.md.
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    out.push_str("| key | default | flag | environment | meaning |\n|---|---|---|---|---|\n");
    let defaults = RawConfig::default();
    let serve = serve_flags();
    for Key {
        key,
        flags,
        meaning,
        default,
    } in SERVER
    {
        let args = || flags.iter().filter_map(|flag| find(&serve, flag));
        let meaning = if meaning.is_empty() {
            args().map(help).collect::<Vec<_>>().join("; ")
        } else {
            (*meaning).into()
        };
        let names = args().map(|arg| code(&dashed(arg)));
        let variables = args().filter_map(|arg| Some(code(arg.get_env()?.to_str()?)));
        row(
            &mut out,
            &[
                code(key),
                default(&defaults),
                join(names),
                join(variables),
                meaning,
            ],
        );
    }
    out.push_str(MODEL_INTRODUCTION);
    model_keys::write(&mut out);
    out
}

const INTRODUCTION: &str = "\
<!-- Made by `cargo xtask docs` from server/src/config; a test compares it with the code. -->

# Configuration

`crossfade serve` takes flags, environment variables and one file, `crossfade.toml`. A flag wins over its variable, the
variable over the file, the file over the default. Every key is optional. An unknown key is an error that names the
nearest known one. Durations are strings with a unit: `us`, `ms`, `s`, `m`, `h`, `d`. `crossfade serve --help` lists the
flags; those that may be given more than once take a comma-separated list as a variable.

```toml
# crossfade.toml
exit_timeout = \"30s\"
http.listen = \"127.0.0.1:8000\"
ort.library = \"lib/libonnxruntime.so.1\"
repository = { paths = [\"./models\"], mode = \"poll\", poll = \"15s\" }

[model.digits]                   # over model.toml and config.pbtxt of the model `digits`
batching.max_delay = \"5ms\"
```

## The server

";

const MODEL_INTRODUCTION: &str = "
## A model

`model.toml` stands in the model's folder, beside or instead of Triton's `config.pbtxt`. Per key, this wins over that:
`[model.NAME]` of `crossfade.toml`, `model.toml`, `config.pbtxt`, the model file. What `config.pbtxt` can say is in
[serve your own model](serve-your-own-model.md). Keys whose field is in brackets are set in another form there.

";

/// The flags of `crossfade serve`.
fn serve_flags() -> Vec<Arg> {
    let mut command = Cli::command();
    command.build();
    let serve = command
        .find_subcommand("serve")
        .expect("the command line has `serve`");
    serve
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| long != "help"))
        .cloned()
        .collect()
}

fn find<'a>(flags: &'a [Arg], long: &str) -> Option<&'a Arg> {
    flags.iter().find(|arg| arg.get_long() == Some(long))
}

fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // The default has a column of its own.
    help.split(" [default:").next().unwrap_or_default().to_owned()
}

fn dashed(arg: &Arg) -> String {
    format!("--{}", arg.get_long().unwrap_or_default())
}

fn row(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(out, "| {} |", cells.join(" | ")).expect("a String takes any text");
}

fn join(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(" ")
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

fn text(prose: &str) -> String {
    prose.to_owned()
}

fn literal(value: bool) -> String {
    format!("`{value}`")
}

fn quoted(value: impl Display) -> String {
    format!("`\"{value}\"`")
}

fn list<T: std::fmt::Debug>(values: &[T]) -> String {
    format!("`{values:?}`")
}

fn path(value: Option<&String>) -> String {
    value.map(quoted).unwrap_or_default()
}

fn choice(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| quoted(value.get_name()))
        .unwrap_or_default()
}

/// Grouped by three, as TOML allows: `268_435_456`.
fn number(value: impl std::fmt::Display) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    format!("`{grouped}`")
}

#[cfg(test)]
mod tests;
