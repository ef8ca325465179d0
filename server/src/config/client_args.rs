//! The commands that talk to a running server over its admin listener.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// A command for a running server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Release a version of a model, or put a new one into its repository and release that
    Deploy(DeployArgs),
    /// See releases, and move them on
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Send an active release back, or make the version before live again
    Rollback(RollbackArgs),
    /// Agree to what a release waits for, with a signature
    Approve(ApproveArgs),
    /// What a person may ask of the inference log; prints what was done
    #[command(subcommand)]
    Subject(SubjectCommand),
}

/// What a person asks for.
#[derive(Debug, Subcommand)]
pub enum SubjectCommand {
    /// Take what is known of them out of the log
    Erase(SubjectArgs),
    /// Keep it, and leave it out of exports, comparisons and sinks
    Restrict(SubjectArgs),
    /// Refuse requests about them: no model decides
    Object(SubjectArgs),
    /// End a restriction and an objection
    Lift(SubjectArgs),
    /// Put right what a record says; the record stays as it is
    Rectify(RectifyArgs),
}

/// Arguments of `crossfade subject rectify`.
#[derive(Debug, Args)]
pub struct RectifyArgs {
    /// The `x-request-id` of the answer whose record it is
    #[arg(long, value_name = "ID")]
    pub request_id: uuid::Uuid,
    /// What is right, as a JSON object by the names of columns, such as '{"in.age": 41}'
    #[arg(long, value_name = "JSON")]
    pub correction: String,
    /// Who and why.
    #[command(flatten)]
    pub subject: SubjectArgs,
}

/// Arguments of `crossfade subject`.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// The id of the person, as `x-subject-id` has it; `-`: from standard input, so that no other program sees it
    pub subject: String,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which server, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The server's admin listener
    #[arg(
        long,
        env = "CROSSFADE_ADMIN_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8003"
    )]
    pub admin_url: String,
    /// File that holds the token [default: the variable CROSSFADE_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates to trust, in PEM, for an https:// address [default: the system's]
    #[arg(long, env = "CROSSFADE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Arguments of `crossfade deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// A version number that is in the repository; or a folder, or a file, that is put there as the next version
    #[arg(value_name = "VERSION|FOLDER")]
    pub source: String,
    /// The model
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// The model repository that the server reads, to put a folder or a file into
    #[arg(long, env = "CROSSFADE_MODEL_REPOSITORY", value_name = "DIR")]
    pub model_repository: Option<PathBuf>,
    /// End a release that is active first
    #[arg(long)]
    pub supersede: bool,
    /// Stay until the version is live (exit code 0) or sent back (exit code 4)
    #[arg(long)]
    pub wait: bool,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to do with releases.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// How releases stand, with the numbers behind it
    Status(StatusArgs),
    /// What each step of a model's releases can see, before one begins
    Plan(PlanArgs),
    /// Freeze the share of a release
    Pause(ActArgs),
    /// Let it go on
    Resume(ActArgs),
    /// Skip what is left of its steps
    Promote(ActArgs),
    /// Send its version back
    Abort(ActArgs),
}

/// Arguments of `crossfade rollout status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The model, or a release's id [default: the last release of every model]
    pub model: Option<String>,
    /// Stay and show every change; on a terminal, a view that is drawn anew each second
    #[arg(short, long)]
    pub watch: bool,
    /// Print what the server answers
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Arguments of `crossfade rollout plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The model
    pub model: String,
    /// Requests per second, or new users per second where a model is routed by user [default: as the server observed]
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Ask no server: read the rules from this repository
    #[arg(long, value_name = "DIR", requires = "rate")]
    pub model_repository: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Arguments of `pause`, `resume`, `promote` and `abort`.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// The model whose release is active, or a release's id
    #[arg(value_name = "MODEL|ID")]
    pub release: String,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Arguments of `crossfade rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The model
    pub model: String,
    /// The version to go back to [default: the one before]
    #[arg(long, value_name = "VERSION")]
    pub to: Option<u64>,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Arguments of `crossfade approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The release's id, or the model whose release is active
    #[arg(value_name = "RELEASE", required_unless_present = "new_key")]
    pub release: Option<String>,
    /// File with the Ed25519 key that signs, PEM or 64 hexadecimal digits [default: agree as the token's holder]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Agree without being asked; for those who have looked at the release before
    #[arg(long)]
    pub yes: bool,
    /// Make a key, write it to this file, and print its public half
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "key", "yes"])]
    pub new_key: Option<PathBuf>,
    /// Which server
    #[command(flatten)]
    pub server: ServerArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn read(line: &str) -> Result<ClientCommand, String> {
        let args = ["crossfade"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Client(command) => Ok(command),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_command_says_what_and_why_and_where() {
        let line = "deploy ./new --model m --reason better --supersede --wait --admin-url http://h:1";
        let Ok(ClientCommand::Deploy(args)) = read(line) else {
            panic!("{line}");
        };
        assert_eq!((args.source.as_str(), args.model.as_str()), ("./new", "m"));
        assert!(args.supersede && args.wait);
        assert_eq!(args.server.admin_url, "http://h:1");
        let Ok(ClientCommand::Rollout(RolloutCommand::Status(args))) = read("rollout status -w") else {
            panic!("status");
        };
        assert!(args.watch && args.model.is_none());
        assert!(matches!(
            read("rollout abort r1 --reason slow"),
            Ok(ClientCommand::Rollout(RolloutCommand::Abort(ActArgs {
                reason: Some(_),
                ..
            })))
        ));
        assert!(matches!(
            read("approve --new-key k.pem"),
            Ok(ClientCommand::Approve(ApproveArgs { release: None, .. }))
        ));
    }

    #[test]
    fn what_is_missing_or_contradicts_is_named() {
        for (line, expected) in [
            ("deploy 3 --model m", "--reason"),
            ("deploy 3 --reason x", "--model"),
            ("rollback m", "--reason"),
            ("rollback m --to newest --reason x", "--to"),
            ("rollout", "Usage"),
            ("rollout status -w --json", "--json"),
            ("rollout plan m --model-repository d", "--rate"),
            ("approve", "RELEASE"),
            ("approve r1 --key k --new-key n", "--new-key"),
            ("rollout status --token secret", "--token"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
