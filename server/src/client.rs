//! The commands that talk to a running server: each asks its admin listener and says what that answered.
//!
//! `wire` asks, `release` and `events` are what it answers, `view` makes lines of that, `watch` shows them as they
//! change; the rest are commands. Exit codes are those of [`ClientError`].
//!
//! What is absent: no command decides anything about a release; the server does.

mod approve;
mod deploy;
mod plan;
mod repository;
mod rollout;
mod subject;

mod watch;

mod events;
mod release;
mod view;

mod wire;

use std::io::{self, Write};
use std::process::ExitCode;

use wire::Server;

use crate::config::{ClientCommand, RolloutCommand};
use crate::outgoing::{OutgoingError, TrustError, UrlError};

/// Holds the token where no file is named; never an argument, which others on the machine could read.
const TOKEN: &str = "CROSSFADE_TOKEN";

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    /// The server says no; exit code 1.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked like that; exit code 2, as for arguments that cannot be read.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers; exit code 3.
    #[error("{0}")]
    Unreachable(String),
    /// The release that was waited for is not live; exit code 4.
    #[error("{0}")]
    SentBack(String),
}

impl ClientError {
    const fn code(&self) -> u8 {
        match self {
            ClientError::Refused(_) => 1,
            ClientError::Usage(_) => 2,
            ClientError::Unreachable(_) => 3,
            ClientError::SentBack(_) => 4,
        }
    }
}

impl From<UrlError> for ClientError {
    fn from(error: UrlError) -> Self {
        ClientError::Usage(format!("--admin-url: {error}"))
    }
}

impl From<TrustError> for ClientError {
    fn from(error: TrustError) -> Self {
        ClientError::Usage(format!("--ca-file: {error}"))
    }
}

impl From<OutgoingError> for ClientError {
    fn from(error: OutgoingError) -> Self {
        ClientError::Unreachable(match error {
            OutgoingError::Tls { .. } => {
                format!("{error}; does --admin-url name an address that speaks TLS?")
            }
            OutgoingError::Unreachable { .. } | OutgoingError::Broken { .. } => format!(
                "{error}; is `crossfade serve` running, and does --admin-url name its admin listener?"
            ),
        })
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: ClientCommand) -> ExitCode {
    let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(command, token)),
        Err(error) => Err(ClientError::Usage(format!("cannot start: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.code())
        }
    }
}

async fn dispatch(command: ClientCommand, token: Option<String>) -> Result<(), ClientError> {
    let server = |args| Server::new(args, token);
    match command {
        ClientCommand::Deploy(args) => deploy::run(&server(&args.server)?, &args).await,
        ClientCommand::Rollout(RolloutCommand::Status(args)) => {
            rollout::status(&server(&args.server)?, &args).await
        }
        ClientCommand::Rollout(RolloutCommand::Plan(args)) => match &args.model_repository {
            Some(repository) => plan::offline(&args, repository),
            None => plan::ask(&server(&args.server)?, &args).await,
        },
        ClientCommand::Rollout(RolloutCommand::Pause(args)) => {
            rollout::act(&server(&args.server)?, &args, "pause").await
        }
        ClientCommand::Rollout(RolloutCommand::Resume(args)) => {
            rollout::act(&server(&args.server)?, &args, "resume").await
        }
        ClientCommand::Rollout(RolloutCommand::Promote(args)) => {
            rollout::act(&server(&args.server)?, &args, "promote").await
        }
        ClientCommand::Rollout(RolloutCommand::Abort(args)) => {
            rollout::act(&server(&args.server)?, &args, "abort").await
        }
        ClientCommand::Rollback(args) => rollout::back(&server(&args.server)?, &args).await,
        ClientCommand::Subject(command) => {
            let args = subject::args(&command);
            subject::run(&server(&args.server)?, &command).await
        }
        ClientCommand::Approve(args) => match &args.new_key {
            Some(file) => approve::new_key(file),
            None => approve::run(&server(&args.server)?, &args).await,
        },
    }
}

#[expect(
    clippy::print_stderr,
    reason = "why a command is not done is told to its caller"
)]
fn report(error: &ClientError) {
    eprintln!("error: {error}");
}

/// Writes a line to standard output; nobody may be reading any more, which is no reason to fail.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _read = writeln!(out, "{line}").and_then(|()| out.flush()).is_ok();
}
