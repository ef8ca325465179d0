//! `crossfade check`: what is wrong with a repository, in plain words.

use std::process::ExitCode;

use crossfade_models::check::{CheckOptions, ProbeRequest, Probed, Severity, check};
use crossfade_models::config::RawConfig;
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use crossfade_runtimes_core::{ModelSource, RuntimeError};

use crate::config::CheckArgs;
use crate::servable::runtime_choice;

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
    let choice = runtime_choice(config.runtime().map_err(|error| error.to_string())?);
    let text = |error: RuntimeError| error.to_string();
    let runtime = runtimes.get(&choice, request.model_file).map_err(text)?;
    let source = ModelSource {
        path: request.model_file.to_owned(),
        parameters: config.parameters(),
        graph_level: config.graph_level(),
        accelerators: config.accelerators().map_err(|error| error.to_string())?,
        // What the file says, it says on the CPU too.
        devices: Vec::new(),
    };
    let model = runtime.load(&source).map_err(text)?;
    Ok(Probed {
        signature: model.signature().clone(),
        runtime: runtime.name().to_owned(),
    })
}

#[expect(clippy::print_stdout, reason = "the findings are the command's output")]
fn say(line: &str) {
    println!("{line}");
}
