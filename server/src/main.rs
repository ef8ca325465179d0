//! Arguments → configuration → [`app::main`] → exit code, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use crossfade_server::app;
use crossfade_server::config::Cli;

/// Returns memory to the system after an unload, and is faster for many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    app::main(Cli::parse().command)
}
