//! Where the key of a log that is encrypted comes from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossfade_inference_log::{KEY_BYTES, KeyError, Keys, WrappingKey, wrapped_in};

/// How records are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Encryption {
    /// Whether what comes is; what was can be read in any case.
    pub enabled: bool,
    /// What data keys are wrapped with.
    pub key: KeySource,
    /// What they were wrapped with before.
    pub previous: Vec<KeySource>,
}

/// From where a key is read: 32 bytes as they are, in hexadecimal, or in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// What a program prints; it is given these arguments, and no shell reads them.
    Program(Vec<String>),
}

/// A text that names no source.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` names no key: expected file:PATH, env:NAME or command:PROGRAM ARGUMENTS")]
pub struct NoSource(String);

impl FromStr for KeySource {
    type Err = NoSource;

    fn from_str(text: &str) -> Result<Self, NoSource> {
        let words = |words: &str| words.split_whitespace().map(str::to_owned).collect();
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name.to_owned())),
            Some(("command", line)) if !line.trim().is_empty() => Ok(Self::Program(words(line))),
            _ => Err(NoSource(text.to_owned())),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::Program(words) => write!(f, "command:{}", words.join(" ")),
        }
    }
}

impl serde::Serialize for KeySource {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Why the log has no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoKeys {
    /// It could not be read.
    #[error("`{key}`: {reason}")]
    Source { key: String, reason: String },
    /// It is no key, or not that of this log.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl KeySource {
    /// Reads the key; a program is waited for.
    fn read(&self) -> Result<WrappingKey, NoKeys> {
        let failed = |reason: String| NoKeys::Source {
            key: self.to_string(),
            reason,
        };
        let bytes = match self {
            Self::File(path) => std::fs::read(path).map_err(|error| failed(error.to_string()))?,
            Self::Variable(name) => std::env::var(name)
                .map_err(|error| failed(error.to_string()))?
                .into_bytes(),
            Self::Program(words) => {
                let (program, arguments) = words.split_first().expect("it was parsed with a word");
                let done = Command::new(program).args(arguments).output();
                let done = done.map_err(|error| failed(error.to_string()))?;
                if !done.status.success() {
                    let said = String::from_utf8_lossy(&done.stderr);
                    return Err(failed(format!("{}: {}", done.status, said.trim())));
                }
                done.stdout
            }
        };
        let length = bytes.len();
        key(bytes).ok_or_else(|| {
            failed(format!(
                "expected {KEY_BYTES} bytes as they are, in hexadecimal or in base64 (`openssl rand -hex 32`), and not these {length}"
            ))
        })
    }
}

fn key(bytes: Vec<u8>) -> Option<WrappingKey> {
    let bytes = match <[u8; KEY_BYTES]>::try_from(bytes) {
        // Text of that length says less than 32 bytes do: half a key in hexadecimal, or a word.
        Ok(bytes) if !bytes.iter().all(u8::is_ascii_graphic) => return Some(WrappingKey::new(bytes)),
        Ok(bytes) => bytes.to_vec(),
        Err(bytes) => bytes,
    };
    let text = std::str::from_utf8(&bytes).ok()?.trim();
    let bytes = if text.len() == 2 * KEY_BYTES {
        let pairs = (0..KEY_BYTES).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok());
        pairs.collect::<Option<Vec<u8>>>()?
    } else {
        STANDARD.decode(text).ok()?
    };
    Some(WrappingKey::new(bytes.try_into().ok()?))
}

/// The keys that these sources open, for whoever only reads.
///
/// Errors: a source that cannot be read; a data key that none of them opens.
pub(crate) fn keys_to_read(data_dir: &Path, sources: &[KeySource]) -> Result<Keys, NoKeys> {
    Ok(Keys::open(data_dir, wrapping(sources)?)?.reading())
}

fn wrapping(sources: &[KeySource]) -> Result<Vec<WrappingKey>, NoKeys> {
    sources.iter().map(KeySource::read).collect()
}

/// The keys of a server's log. Those that were wrapped with an earlier key are wrapped again.
///
/// Errors: as [`keys_to_read`]; a log that is encrypted, and no key for it.
pub(crate) fn keys(data_dir: &Path, encryption: Option<&Encryption>) -> Result<Keys, NoKeys> {
    let Some(encryption) = encryption else {
        return match wrapped_in(data_dir)?.first() {
            Some(id) => Err(KeyError::None(*id).into()),
            None => Ok(Keys::none()),
        };
    };
    let mut sources = vec![encryption.key.clone()];
    sources.extend(encryption.previous.iter().cloned());
    let keys = Keys::open(data_dir, wrapping(&sources)?)?;
    let count = keys.wrap_again()?;
    if count > 0 {
        tracing::info!(
            count,
            "data keys of the inference log are wrapped with another key now"
        );
    }
    Ok(match encryption.enabled {
        true => keys,
        false => keys.reading(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_kind() {
        for (text, expected) in [
            ("file:/k", KeySource::File("/k".into())),
            ("env:KEY", KeySource::Variable("KEY".to_owned())),
            (
                "command:vault read  key",
                KeySource::Program(vec!["vault".to_owned(), "read".to_owned(), "key".to_owned()]),
            ),
        ] {
            let source: KeySource = text.parse().unwrap();
            assert_eq!(source, expected);
        }
        for wrong in ["", "/k", "file:", "env:", "command: ", "vault:x"] {
            let error = wrong.parse::<KeySource>().unwrap_err().to_string();
            assert!(error.contains("file:PATH"), "{error}");
        }
    }

    #[test]
    fn a_key_is_32_bytes_however_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            KeySource::File(path.clone()).read()
        };
        let bytes = [0xAB; KEY_BYTES];
        let expected = WrappingKey::new(bytes);
        assert_eq!(read(&bytes).unwrap(), expected);
        assert_eq!(
            read(format!("{}\n", "ab".repeat(32)).as_bytes()).unwrap(),
            expected
        );
        let base64 = format!("{}\n", STANDARD.encode(bytes));
        assert_eq!(read(base64.as_bytes()).unwrap(), expected);
        let printed: KeySource = format!("command:cat {}", path.display()).parse().unwrap();
        assert_eq!(printed.read().unwrap(), expected);
        for wrong in [
            &b"short"[..],
            &[b'a'; 32],
            &[0xAB; 33],
            "ä".repeat(32).as_bytes(),
            b"",
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("32 bytes") && !error.contains("short"), "{error}");
        }
        for (source, expected) in [
            ("file:/nowhere/key", "No such file"),
            ("env:CROSSFADE_NO_SUCH_VARIABLE", "not found"),
            ("command:false", "exit status: 1"),
            ("command:/nowhere/program", "No such file"),
        ] {
            let error = source
                .parse::<KeySource>()
                .unwrap()
                .read()
                .unwrap_err()
                .to_string();
            assert!(error.contains(source) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_log_that_is_encrypted_needs_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, byte: u8| {
            let path = folder.path().join(name);
            std::fs::write(&path, [byte; KEY_BYTES]).unwrap();
            KeySource::File(path)
        };
        let (first, second) = (write("first", 1), write("second", 2));
        let data = folder.path().join("data");
        let with = |key: &KeySource, previous: &[&KeySource]| Encryption {
            enabled: true,
            key: key.clone(),
            previous: previous.iter().map(|source| (*source).clone()).collect(),
        };
        assert!(keys(&data, None).unwrap().is_none());
        let config = super::super::RecorderConfig {
            encryption: Some(with(&first, &[])),
            ..Default::default()
        };
        super::super::Recorder::open(&data, &config).unwrap().close();
        let error = keys(&data, None).unwrap_err().to_string();
        assert!(error.contains("log.encryption.key"), "{error}");
        let error = keys(&data, Some(&with(&second, &[]))).unwrap_err().to_string();
        assert!(error.contains("log.encryption.previous"), "{error}");
        keys(&data, Some(&with(&second, &[&first]))).unwrap();
        keys(&data, Some(&with(&second, &[]))).unwrap();
        assert!(keys_to_read(&data, &[first]).is_err());
    }
}
