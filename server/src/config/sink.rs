//! `[[log.sink]]`: from what was written to what the code may rely on.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, SinkConfig};
use crate::outgoing::Target;

/// One `[[log.sink]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSink {
    /// Names it in metrics, and the file in which it keeps how far it has come.
    pub name: String,
    /// Where events go.
    pub url: String,
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
        let target = Target::parse(&raw.url).map_err(|error| wrong("log.sink.url", error.to_string()))?;
        if raw.ca.is_some() && !target.is_secure() {
            let reason = format!("`{}` is asked without TLS; write https://", target.url());
            return Err(wrong("log.sink.ca", reason));
        }
        if raw.max_attempts == 0 {
            return Err(wrong("log.sink.max_attempts", "must be 1 or more".to_owned()));
        }
        sinks.push(SinkConfig {
            name: raw.name,
            target,
            models: raw.models,
            only_success: raw.only_success,
            max_attempts: raw.max_attempts,
            ca: raw.ca,
        });
    }
    Ok(sinks)
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
        ] {
            let error = of(&format!("[[log.sink]]\n{more}")).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }
}
