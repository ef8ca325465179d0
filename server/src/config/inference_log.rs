//! `[log]`: from what was written to what the code may rely on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use super::file::RawDuration;
use super::sink::RawSink;
use crate::recorder::{
    Ack, Encryption, FieldPolicy, KeySource, NoPolicy, OnFull, RecorderConfig, SEGMENT_BYTES,
};

/// `[log]`: the inference log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// Whether it is kept.
    pub enabled: bool,
    /// What an answer waits for.
    pub ack: Ack,
    /// What becomes of requests whose records do not fit.
    pub on_full: OnFull,
    /// With `block`: the longest that an answer waits for room.
    pub max_wait: RawDuration,
    /// The probability with which a request is recorded.
    pub rate: f64,
    /// The longest time until records are on disk.
    pub sync: RawDuration,
    /// The longest time until records are in a Parquet file.
    pub seal_after: RawDuration,
    /// How long files stay.
    pub retention: RawDuration,
    /// Bytes of all files.
    pub max_bytes: u64,
    /// Bytes of the disk that stay free.
    pub min_free_bytes: u64,
    /// Bytes of what is not sealed yet.
    pub buffer_bytes: u64,
    /// Inputs and outputs.
    pub payload: RawPayload,
    /// What becomes of them: by model, then by `in.NAME`, `out.NAME` and `*`.
    pub fields: BTreeMap<String, BTreeMap<String, String>>,
    /// Whom requests are about.
    pub subject: RawSubject,
    /// Who asks.
    pub caller: RawCaller,
    /// What records are encrypted with.
    pub encryption: Option<RawEncryption>,
    /// Who gets every record.
    pub sink: Vec<RawSink>,
}

/// `[log.subject]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSubject {
    /// The header with the id.
    pub header: String,
    /// The secret behind its digest.
    pub pepper_file: Option<PathBuf>,
}

impl Default for RawSubject {
    fn default() -> Self {
        Self {
            header: RecorderConfig::default().subject_header.to_string(),
            pepper_file: None,
        }
    }
}

/// `[log.caller]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCaller {
    /// The header in which a gateway says who asks.
    pub header: Option<String>,
}

/// `[log.encryption]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEncryption {
    /// Whether what comes is encrypted.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Where the key is.
    pub key: String,
    /// Where the keys are that it was before.
    #[serde(default)]
    pub previous: Vec<String>,
}

fn yes() -> bool {
    true
}

/// `[log.payload]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPayload {
    /// Larger tensors are not kept, but in the digest of the inputs.
    pub max_bytes: usize,
    /// They are kept, in a file for each request that has any.
    pub blobs: bool,
}

impl Default for RawLog {
    fn default() -> Self {
        let config = RecorderConfig::default();
        Self {
            enabled: true,
            ack: config.ack,
            on_full: config.on_full,
            max_wait: RawDuration(config.max_wait),
            rate: config.rate,
            sync: RawDuration(config.sync),
            seal_after: RawDuration(config.seal_after),
            retention: RawDuration(config.retention),
            max_bytes: config.max_bytes,
            min_free_bytes: config.min_free_bytes,
            buffer_bytes: config.buffer_bytes,
            payload: RawPayload::default(),
            fields: BTreeMap::new(),
            subject: RawSubject::default(),
            caller: RawCaller::default(),
            encryption: None,
            sink: Vec::new(),
        }
    }
}

impl Default for RawPayload {
    fn default() -> Self {
        Self {
            max_bytes: RecorderConfig::default().payload_max_bytes,
            blobs: false,
        }
    }
}

impl RawLog {
    /// What the code may rely on; nothing where no log is kept.
    ///
    /// Errors: [`ConfigError::Value`].
    pub(super) fn resolve(self) -> Result<Option<RecorderConfig>, ConfigError> {
        let value = |key, reason: &str| ConfigError::Value {
            key,
            reason: reason.to_owned(),
        };
        if !(0.0..=1.0).contains(&self.rate) {
            return Err(value("log.rate", "must be a probability, from 0 to 1"));
        }
        let least = 4 * u64::from(SEGMENT_BYTES);
        if self.buffer_bytes < least || self.max_bytes < self.buffer_bytes {
            let reason = format!(
                "log.buffer_bytes must be {least} or more, four segments, and log.max_bytes no less than it"
            );
            return Err(value("log.buffer_bytes, log.max_bytes", &reason));
        }
        if self.sync.0.is_zero() || self.seal_after.0.is_zero() {
            return Err(value("log.sync, log.seal_after", "must be longer than zero"));
        }
        let subject_header = self.subject.header.parse().map_err(|_| {
            let reason = format!("`{}` is no name of a header", self.subject.header);
            value("log.subject.header", &reason)
        })?;
        let mut fields: BTreeMap<String, BTreeMap<String, FieldPolicy>> = BTreeMap::new();
        for (model, texts) in self.fields {
            let own = fields.entry(model.clone()).or_default();
            for (name, text) in texts {
                let policy = text.parse().map_err(|error: NoPolicy| {
                    value("log.fields", &format!("`{model}`, `{name}`: {error}"))
                })?;
                own.insert(name, policy);
            }
        }
        let header = |header: &String| {
            header.parse().map_err(|_| {
                let reason = format!("`{header}` is no name of a header");
                value("log.caller.header", &reason)
            })
        };
        let caller_header = self.caller.header.as_ref().map(header).transpose()?;
        let source = |text: &str| {
            let source = text.parse::<KeySource>();
            source.map_err(|error| value("log.encryption", &error.to_string()))
        };
        let encryption = match &self.encryption {
            None => None,
            Some(raw) => Some(Encryption {
                enabled: raw.enabled,
                key: source(&raw.key)?,
                previous: raw
                    .previous
                    .iter()
                    .map(|text| source(text))
                    .collect::<Result<_, _>>()?,
            }),
        };
        Ok(self.enabled.then_some(RecorderConfig {
            fields,
            subject_header,
            pepper_file: self.subject.pepper_file,
            encryption,
            caller_header,
            ack: self.ack,
            on_full: self.on_full,
            max_wait: self.max_wait.0,
            rate: self.rate,
            sync: self.sync.0,
            seal_after: self.seal_after.0,
            retention: self.retention.0,
            max_bytes: self.max_bytes,
            min_free_bytes: self.min_free_bytes,
            buffer_bytes: self.buffer_bytes,
            segment_bytes: SEGMENT_BYTES,
            payload_max_bytes: self.payload.max_bytes,
            blobs: self.payload.blobs,
        }))
    }
}
