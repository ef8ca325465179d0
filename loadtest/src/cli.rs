//! The command line: `run` becomes a plan, the others are commands over results.

mod run;
mod show;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands::{CompareArgs, CsvArgs, ReportArgs, Verdict};
pub use run::RunArgs;

/// A load tester for any server of the Open Inference Protocol (KServe V2), open loop by default.
///
/// Exit codes: 0 if all is well, 1 if an assertion or comparison fails or a run cannot be made, 2 for a wrong command line.
#[derive(Debug, Parser)]
#[command(name = "crossfade-loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send load to a server and measure how it answers.
    Run(Box<RunArgs>),
    /// Compare results of two sides, and say what exceeds the noise.
    Compare(CompareArgs),
    /// Make one self-contained HTML page of results.
    Report(ReportArgs),
    /// Print results as CSV.
    Csv(CsvArgs),
}

/// A mistake on the command line: exit code 2.
#[derive(Debug)]
pub struct Usage(anyhow::Error);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Usage {}

impl Cli {
    /// Does what was asked; `line` is the whole command line, for the result.
    ///
    /// Errors: what went wrong; [`Usage`] if it is the command line.
    pub async fn execute(self, line: Vec<String>) -> Result<Verdict> {
        match self.command {
            Command::Run(args) => args.run(line).await,
            Command::Compare(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Csv(args) => args.run(),
        }
    }
}
