//! The command `crossfade-loadtest`.

use std::process::ExitCode;

use clap::Parser as _;
use crossfade_loadtest::cli::{Cli, Usage};
use crossfade_loadtest::commands::Verdict;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(cli.execute(std::env::args().collect()))),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
