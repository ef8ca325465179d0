//! `crossfade check`: what is wrong with a repository, in plain words.

use std::process::ExitCode;

use crossfade_models::check::{CheckOptions, ProbeRequest, Probed, Severity, check};
use crossfade_models::config::RawConfig;
use crossfade_runtimes::{Runtimes, RuntimesOptions};

use crate::config::CheckArgs;
use crate::servable::Fronted;

/// Prints every finding; the exit code is 1 if a model would not serve.
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: args.ort_library.clone(),
        intra_threads: 1,
        cuda_lib_dirs: Vec::new(),
    });
    let options = CheckOptions {
        model_config_name: args.model_config_name.clone(),
        ..CheckOptions::default()
    };
    let findings = check(&args.repositories, &options, &|request: &ProbeRequest<'_>| {
        probe(&runtimes, request)
    });
    for finding in &findings {
        say(&finding.to_string());
    }
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    say(&format!(
        "{errors} errors, {warnings} warnings ({})",
        runtimes.describe()
    ));
    if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What the model file says, by the runtime that would serve it.
fn probe(runtimes: &Runtimes, request: &ProbeRequest<'_>) -> Result<Probed, String> {
    let config: &RawConfig = request.config;
    let file = request.model_file.to_owned();
    let opened = Fronted::open(runtimes, config, file, request.version_directory);
    // What the file says, it says on the CPU too.
    let (Fronted { runtime, .. }, source) = opened.map_err(|error| error.to_string())?;
    let model = runtime.load(&source).map_err(|error| error.to_string())?;
    Ok(Probed {
        signature: model.signature().clone(),
        runtime: runtime.name().to_owned(),
    })
}

#[expect(clippy::print_stdout, reason = "the findings are the command's output")]
fn say(line: &str) {
    println!("{line}");
}
