//! The server's own log: events with fields, as text or JSON, to standard error; its level can change at run time.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Changes the filter of the running log.
#[derive(Clone)]
pub struct LogControl {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "log filter `{filter}`: {reason}; write a level such as `info`, or `warn,crossfade_server=debug`"
    )]
    Filter {
        /// As configured.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// There is a log already.
    #[error("the log is set up already: {0}")]
    Installed(String),
}

/// Sets up the process's log. Called once, by main.
pub fn init(config: &LogConfig) -> Result<LogControl, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(&config.filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let installed = match config.format {
        LogFormat::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr))
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    installed.map_err(|error| TelemetryError::Installed(error.to_string()))?;
    Ok(LogControl { handle: Some(handle) })
}

impl LogControl {
    /// For a server inside a test, whose log is not its own: settings are kept but change nothing.
    pub fn detached() -> Self {
        Self { handle: None }
    }

    /// Replaces the filter.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let new = parse(filter)?;
        if let Some(handle) = &self.handle
            && let Err(error) = handle.reload(new)
        {
            tracing::warn!(%error, "the log filter could not be replaced");
        }
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}
