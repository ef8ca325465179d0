//! Errors of the model repository, by what a caller can act on.

use std::sync::Arc;

use crossfade_runtimes_core::RuntimeError;

use crate::lifecycle::State;

/// A configuration that cannot be read, is contradictory, or does not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file of the model directory is at fault.
    #[error("{file}: {source}")]
    File {
        /// Its name below the model directory.
        file: String,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// A file of the model directory cannot be read.
    #[error("`{file}` cannot be read: {reason}")]
    Read {
        /// Its name below the model directory.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Text that is not in its language, or a value of the wrong kind.
    #[error("{place}: {problem}")]
    Text {
        /// Line and column, or the path of the key.
        place: String,
        /// What is wrong and what is accepted.
        problem: String,
    },
    /// A key that the language does not have.
    #[error("{place}: unknown field `{name}`{}{}", .owner.as_ref().map(|owner| format!(" in {owner}")).unwrap_or_default(), suggestion(.nearest.as_deref()))]
    UnknownField {
        /// Line and column, or the path of the table that holds it.
        place: String,
        /// The key.
        name: String,
        /// The message it stands in, where it has a name.
        owner: Option<String>,
        /// The known name nearest to it.
        nearest: Option<String>,
    },
    /// A part of the language that crossfade does not offer, and that would change results if ignored.
    #[error("`{field}` is not supported: {reason}")]
    Unsupported {
        /// The field.
        field: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// A value that is of the right kind and still makes no sense.
    #[error("`{field}`: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// The configuration and the model file disagree.
    #[error("{tensor}: the configuration says {config}, the model file says {model}; {advice}")]
    Mismatch {
        /// ``input `x` `` or ``output `y` ``.
        tensor: String,
        /// The configuration's side.
        config: String,
        /// The model's side.
        model: String,
        /// What to write instead.
        advice: String,
    },
}

impl ConfigError {
    /// Names the file that holds the mistake.
    #[must_use]
    pub fn in_file(self, file: &str) -> Self {
        match self {
            ConfigError::File { .. } | ConfigError::Read { .. } => self,
            other => ConfigError::File {
                file: file.to_owned(),
                source: Box::new(other),
            },
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        ConfigError::Unsupported {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn text(place: impl ToString, problem: impl Into<String>) -> Self {
        ConfigError::Text {
            place: place.to_string(),
            problem: problem.into(),
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// A model directory that is not laid out as protocols.md §10.1 says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A name that cannot be a directory's.
    #[error("model name {name:?} is not usable: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A directory cannot be listed.
    #[error("the directory cannot be read: {reason}")]
    Directory {
        /// What the system said.
        reason: String,
    },
    /// No version directory that holds anything.
    #[error(
        "the model has no version directory: expected a directory named by a positive number, such as `1`, that holds the model file"
    )]
    NoVersions,
    /// A version directory without a model file.
    #[error("version {version} has no `{expected}`{hint}")]
    NoModelFile {
        /// The version.
        version: u64,
        /// The file that was looked for.
        expected: String,
        /// What was found instead and what to do; begins with punctuation, or is empty.
        hint: String,
    },
    /// A model file of a format that is not served.
    #[error(
        "version {version} holds `{file}`: {format} models are not supported; export the model to ONNX as `model.onnx`"
    )]
    Format {
        /// The version.
        version: u64,
        /// The file.
        file: String,
        /// Its format.
        format: &'static str,
    },
    /// The same model in several repositories.
    #[error("the model is in {count} repositories; keep it in one of them")]
    Duplicate {
        /// How many hold it.
        count: usize,
    },
}

/// Why a version could not be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Its warm-up.
    #[error("warm-up `{sample}` failed: {reason}")]
    WarmUp {
        /// Name of the warm-up sample.
        sample: String,
        /// What went wrong.
        reason: String,
    },
    /// Anything else that keeps it from serving.
    #[error("{0}")]
    Refused(String),
    /// The loader panicked.
    #[error("the load panicked: {0}")]
    Panicked(String),
}

/// Why a request finds no version that answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No model of that name is served.
    #[error("unknown model `{model}`")]
    UnknownModel {
        /// The name in the request.
        model: String,
    },
    /// The model has no such version, or it was unloaded.
    #[error("model `{model}` has no version {version}")]
    UnknownVersion {
        /// The model.
        model: Arc<str>,
        /// The version asked for.
        version: u64,
    },
    /// Neither a version number nor a label of the model.
    #[error("model `{model}`: `{selector}` is neither a positive version number nor a label of the model")]
    InvalidVersion {
        /// The model.
        model: Arc<str>,
        /// The text in the request.
        selector: String,
    },
    /// It exists but cannot answer now.
    #[error("model `{model}`{} is not ready: {}", .version.map(|version| format!(" version {version}")).unwrap_or_default(), describe(.state, .reason))]
    NotReady {
        /// The model.
        model: Arc<str>,
        /// The version, where one was meant.
        version: Option<u64>,
        /// Its state.
        state: State,
        /// Why.
        reason: Arc<str>,
    },
}

fn describe(state: &State, reason: &str) -> String {
    if reason.is_empty() {
        state.describe().to_owned()
    } else {
        format!("{}: {reason}", state.describe())
    }
}

/// Why a load, unload or index call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No repository holds the model, or no repository has that name.
    #[error("{0}")]
    NotFound(String),
    /// The call does not fit the control mode or the state of the model.
    #[error("{0}")]
    Conflict(String),
    /// The call's parameters are wrong.
    #[error("{0}")]
    InvalidInput(String),
    /// At least one version chosen by the policy is not ready; what served before still serves.
    #[error("failed to load model `{model}`: {reason}")]
    LoadFailed {
        /// The model.
        model: String,
        /// Version and reason of each failure.
        reason: String,
    },
}
