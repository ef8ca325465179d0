//! `[[log.sink]]`: from what was written to what the code may rely on.

use std::path::PathBuf;

use http::HeaderValue;
use serde::Deserialize;

use super::{Bucket, ConfigError, EventFormat, SinkConfig, SinkTarget};
use crate::outgoing::Target;

/// One `[[log.sink]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSink {
    /// Names it in metrics, and the file in which it keeps how far it has come.
    pub name: String,
    /// Where events go.
    pub url: String,
    /// What an event is.
    #[serde(default)]
    pub format: EventFormat,
    /// In events of KServe's: the namespace.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Of S3-compatible storage: its address, if it is not Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Of S3-compatible storage.
    #[serde(default)]
    pub region: Option<String>,
    /// Of S3-compatible storage: files of the log stay until they are there.
    #[serde(default)]
    pub upload_before_expiry: bool,
    /// Only records of these models; absent: of all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Only requests that were answered.
    #[serde(default)]
    pub only_success: bool,
    /// How often an event is sent that is refused.
    #[serde(default = "attempts")]
    pub max_attempts: u32,
    /// Certificates, in PEM, that are trusted instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn namespace() -> String {
    "default".to_owned()
}

fn attempts() -> u32 {
    5
}

/// Checks every `[[log.sink]]`.
///
/// Errors: a name that is no file's, or is there twice; a URL that cannot be asked; certificates for one that is asked without TLS.
pub(super) fn resolve(file: Vec<RawSink>) -> Result<Vec<SinkConfig>, ConfigError> {
    let mut sinks: Vec<SinkConfig> = Vec::new();
    for raw in file {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
        if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.chars().all(plain) {
            let reason = format!("`{}`: a name has up to 64 letters, digits, - and _", raw.name);
            return Err(wrong("log.sink.name", reason));
        }
        if sinks.iter().any(|known| known.name == raw.name) {
            return Err(wrong("log.sink.name", format!("`{}` is there twice", raw.name)));
        }
        let (to, is_secure) = match raw.url.strip_prefix("s3://") {
            Some(place) => objects(place, &raw)?,
            None => events(&raw)?,
        };
        if raw.ca.is_some() && !is_secure {
            let reason = format!("`{}` is asked without TLS; write https://", raw.name);
            return Err(wrong("log.sink.ca", reason));
        }
        if HeaderValue::from_str(&raw.namespace).is_err() {
            let reason = format!("`{}` cannot be sent in a header", raw.namespace.escape_debug());
            return Err(wrong("log.sink.namespace", reason));
        }
        if raw.max_attempts == 0 {
            return Err(wrong("log.sink.max_attempts", "must be 1 or more".to_owned()));
        }
        sinks.push(SinkConfig {
            name: raw.name,
            to,
            format: raw.format,
            namespace: raw.namespace,
            models: raw.models,
            only_success: raw.only_success,
            max_attempts: raw.max_attempts,
            ca: raw.ca,
        });
    }
    Ok(sinks)
}

/// A sink of events, and whether it is asked over TLS.
fn events(raw: &RawSink) -> Result<(SinkTarget, bool), ConfigError> {
    let target = Target::parse(&raw.url).map_err(|error| wrong("log.sink.url", error.to_string()))?;
    if raw.endpoint.is_some() || raw.region.is_some() || raw.upload_before_expiry {
        let reason = "endpoint, region and upload_before_expiry belong to a url of s3://BUCKET/PREFIX";
        return Err(wrong("log.sink", reason.to_owned()));
    }
    let is_secure = target.is_secure();
    Ok((SinkTarget::Events { target }, is_secure))
}

/// A sink of files, and whether it is asked over TLS.
///
/// * `place`: BUCKET/PREFIX
fn objects(place: &str, raw: &RawSink) -> Result<(SinkTarget, bool), ConfigError> {
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let plain = |char: char| char.is_ascii_alphanumeric() || "-.".contains(char);
    if name.len() < 3 || !name.chars().all(plain) {
        let reason = format!("`{}`: expected s3://BUCKET/PREFIX", raw.url);
        return Err(wrong("log.sink.url", reason));
    }
    if !raw.models.is_empty() || raw.only_success || raw.format != EventFormat::Native {
        let reason = "models, only_success and format choose among events; s3:// gets whole files";
        return Err(wrong("log.sink", reason.to_owned()));
    }
    let endpoint = raw.endpoint.as_deref().map(Target::parse).transpose();
    let endpoint = endpoint.map_err(|error| wrong("log.sink.endpoint", error.to_string()))?;
    let bucket = Bucket {
        name: name.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        endpoint: raw.endpoint.clone(),
        region: raw.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
        upload_before_expiry: raw.upload_before_expiry,
    };
    let is_secure = endpoint.is_none_or(|endpoint| endpoint.is_secure());
    Ok((SinkTarget::Objects(bucket), is_secure))
}

fn wrong(key: &'static str, reason: String) -> ConfigError {
    ConfigError::Value { key, reason }
}

#[cfg(test)]
mod tests {
    use super::super::file::RawConfig;
    use super::*;

    fn of(text: &str) -> Result<Vec<SinkConfig>, String> {
        let file = RawConfig::parse(text)?;
        resolve(file.log.sink).map_err(|error| error.to_string())
    }

    #[test]
    fn a_sink_is_a_name_and_a_url() {
        let sinks = of("[[log.sink]]\nname = 'lake'\nurl = 'http://h/a'\n").unwrap();
        assert_eq!((sinks[0].max_attempts, sinks[0].only_success), (5, false));
        assert!(sinks[0].models.is_empty());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_its_key() {
        for (more, expected) in [
            ("name = '../x'\nurl = 'http://h'", "log.sink.name"),
            ("name = ''\nurl = 'http://h'", "log.sink.name"),
            ("name = 'a'\nurl = 'ftp://h'", "log.sink.url"),
            ("name = 'a'\nurl = 'http://h'\nca = 'ca.pem'", "log.sink.ca"),
            ("name = 'a'\nurl = 'http://h'\nmax_attempts = 0", "max_attempts"),
            (
                "name = 'a'\nurl = 'http://h'\n[[log.sink]]\nname = 'a'\nurl = 'http://i'",
                "twice",
            ),
            ("name = 'a'", "url"),
            ("name = 'a'\nurl = 's3://b'", "s3://BUCKET/PREFIX"),
            (
                "name = 'a'\nurl = 's3://bucket'\nonly_success = true",
                "whole files",
            ),
            (
                "name = 'a'\nurl = 's3://bucket'\nendpoint = 'h:1'",
                "log.sink.endpoint",
            ),
            ("name = 'a'\nurl = 'http://h'\nregion = 'x'", "s3://"),
            ("name = 'a'\nurl = 'http://h'\nformat = 'xml'", "xml"),
            (
                "name = 'a'\nurl = 'http://h'\nnamespace = \"a\\nb\"",
                "log.sink.namespace",
            ),
        ] {
            let error = of(&format!("[[log.sink]]\n{more}")).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }
}
