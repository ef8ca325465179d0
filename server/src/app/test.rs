//! `crossfade test DIR`: the gates that a new version has to pass, without a server.
//!
//! The candidate is the newest version of a model, and what it is compared with the version before it. Earlier versions
//! are evaluated one after the other where a trend is asked for. The gates are those of `release::examination`.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossfade_models::config::RawConfig as ModelFile;
use crossfade_models::layout;
use crossfade_rollout::Policy;
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use serde_json::Value;

use super::loading;
use crate::config::TestArgs;
use crate::config::file::RawConfig;
use crate::metrics::resident_bytes;
use crate::release::examination::{self, Examination};
use crate::release::history::History;
use crate::release::report::{Gate, GateReport, Outcome};
use crate::servable::{Servable, ServableLoader};

mod junit;

/// What one model's gates said.
struct Tested {
    report: GateReport,
    took: Duration,
}

/// Prints every gate; the exit code is 1 if any failed.
///
/// Errors: what keeps the tests from being run at all; what a model does wrong is a failed gate.
pub(super) fn run(args: &TestArgs) -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: args.ort_library.clone(),
        intra_threads: cores,
        cuda_lib_dirs: args.cuda_lib_dir.clone(),
    });
    let tested = test(args, Arc::new(runtimes))?;
    if let Some(path) = &args.junit {
        let failed = || format!("cannot write `{}`", path.display());
        let file = File::create(path).with_context(failed)?;
        junit::report(&tested).serialize(file).with_context(failed)?;
    }
    say(&table(&tested));
    Ok(match tested.iter().all(|tested| tested.report.passed()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Tests the models that are named, or all of the repository.
fn test(args: &TestArgs, runtimes: Arc<Runtimes>) -> Result<Vec<Tested>> {
    let server = RawConfig::read_named(args.config.as_deref())?;
    let found = layout::models(&args.repository);
    let found = found
        .with_context(|| format!("`{}`", args.repository.display()))?
        .found;
    if let Some(unknown) = args
        .model
        .iter()
        .find(|name| !found.iter().any(|model| model.name == **name))
    {
        bail!("`{}` has no model `{unknown}`", args.repository.display());
    }
    let wanted = |name: &String| args.model.is_empty() || args.model.contains(name);
    let found: Vec<_> = found.into_iter().filter(|model| wanted(&model.name)).collect();
    if found.is_empty() {
        bail!("`{}` has no model", args.repository.display());
    }
    if args.version.or(args.against).is_some() && found.len() != 1 {
        bail!("--version and --against are for one model; name it with --model");
    }
    let loader = loading::loader(runtimes);
    let tested = found.iter().map(|model| {
        let began = Instant::now();
        let report = Bench::new(args, &server, &loader, &model.name, &model.path).test();
        Tested {
            report,
            took: began.elapsed(),
        }
    });
    Ok(tested.collect())
}

/// One model and what it is tested with.
struct Bench<'a> {
    args: &'a TestArgs,
    server: &'a RawConfig,
    loader: &'a ServableLoader,
    name: &'a str,
    directory: &'a Path,
    stop: AtomicBool,
}

impl<'a> Bench<'a> {
    fn new(
        args: &'a TestArgs,
        server: &'a RawConfig,
        loader: &'a ServableLoader,
        name: &'a str,
        directory: &'a Path,
    ) -> Self {
        Self {
            args,
            server,
            loader,
            name,
            directory,
            stop: AtomicBool::new(false),
        }
    }

    fn test(&self) -> GateReport {
        let mut report = GateReport {
            model: self.name.to_owned(),
            version: String::new(),
            champion: None,
            gates: Vec::new(),
        };
        if let Err((gate, problem)) = self.examine(&mut report) {
            report.gates.push(Gate {
                name: gate,
                outcome: Outcome::Failed,
                why: problem,
                evidence: Value::Null,
            });
        }
        report
    }

    /// Errors: which gate could not be come to, and why.
    fn examine(&self, report: &mut GateReport) -> Result<(), (&'static str, String)> {
        let (config, mut policy) = self.configuration().map_err(|problem| ("policy", problem))?;
        let (before, candidate) = self.versions().map_err(|problem| ("load", problem))?;
        report.version = candidate.to_string();
        report.champion = before.last().map(u64::to_string);
        let load = |version: u64| {
            let loaded = self.load(version, &config);
            loaded.map_err(|problem| ("load", format!("version {version}: {problem}")))
        };
        // Known answers are only asked for where there are some, unless the model's versions are released.
        let golden = policy.gates.golden.as_ref();
        let unknown = golden.is_some_and(|golden| !self.directory.join(&golden.file).exists());
        let skipped = (unknown && !policy.is_active()).then(|| Gate {
            name: "golden",
            outcome: Outcome::Skipped,
            why: "there are no known answers".to_owned(),
            evidence: Value::Null,
        });
        if skipped.is_some() {
            policy.gates.golden = None;
        }
        let history = self.history(&policy, &before, &config);
        let champion = before.last().filter(|_| policy.gates.quality.is_some());
        let champion = champion.map(|version| load(*version)).transpose()?;
        let resident_before = resident_bytes();
        let candidate = load(candidate)?;
        let examination = Examination {
            candidate: &candidate,
            champion: champion.as_ref(),
            directory: self.directory,
            gates: &policy.gates,
            decision: policy.decision.as_ref(),
            before: &before,
            history: &history,
            resident_before,
            stop: &self.stop,
        };
        if let Some(examined) = examination.run() {
            report.gates = examined.report.gates;
        }
        report.gates.extend(skipped);
        Ok(())
    }

    /// What the model's files say, under the server's file.
    fn configuration(&self) -> Result<(ModelFile, Policy), String> {
        let name = self.args.model_config_name.as_deref();
        loading::configuration(self.name, self.directory, self.server, name)
    }

    /// The versions before the candidate, ascending, and the candidate.
    fn versions(&self) -> Result<(Vec<u64>, u64), String> {
        let versions = layout::versions(self.directory)
            .map_err(|error| error.to_string())?
            .found;
        let newest = versions.last().copied();
        let candidate = self.args.version.or(newest).ok_or("it has no version")?;
        let known = |version: &u64| match versions.contains(version) {
            true => Ok(()),
            false => Err(format!("it has no version {version}")),
        };
        known(&candidate)?;
        let mut before: Vec<u64> = versions
            .iter()
            .copied()
            .filter(|version| *version < candidate)
            .collect();
        if let Some(against) = self.args.against {
            known(&against)?;
            if against == candidate {
                return Err(format!("version {candidate} cannot be compared with itself"));
            }
            before.retain(|version| *version < against);
            before.push(against);
        }
        Ok((before, candidate))
    }

    /// What the versions before the one that is compared with were worth; one that does not load has no value.
    fn history(&self, policy: &Policy, before: &[u64], config: &ModelFile) -> History {
        let mut history = History::default();
        let (Some(trend), Some(quality), [earlier @ .., _]) =
            (&policy.gates.trend, &policy.gates.quality, before)
        else {
            return history;
        };
        let first = earlier.len().saturating_sub(trend.last);
        for version in earlier.get(first..).unwrap_or_default() {
            let Ok(servable) = self.load(*version, config) else {
                continue;
            };
            let decision = policy.decision.as_ref();
            let point = examination::value(quality, decision, self.directory, &servable, &self.stop);
            point.into_iter().for_each(|point| history.note(point));
        }
        history
    }

    fn load(&self, version: u64, config: &ModelFile) -> Result<Servable, String> {
        loading::load(self.loader, self.name, version, self.directory, config)
    }
}

/// What people read: a line per gate, and one that sums up.
fn table(tested: &[Tested]) -> String {
    let mut rows = vec![["model", "version", "against", "gate", "outcome", ""].map(str::to_owned)];
    for GateReport {
        model,
        version,
        champion,
        gates,
    } in tested.iter().map(|tested| &tested.report)
    {
        rows.extend(gates.iter().map(|gate| {
            let against = champion.as_deref().unwrap_or("-");
            let cells = [model, version, against, gate.name, gate.outcome.name(), &gate.why];
            cells.map(str::to_owned)
        }));
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(|column| if column < 5 { width(column) } else { 0 });
    let lines = rows.iter().map(|row| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    let mut lines: Vec<String> = lines.collect();
    let gates = || tested.iter().flat_map(|tested| &tested.report.gates);
    let count = |outcome| gates().filter(|gate| gate.outcome == outcome).count();
    lines.push(format!(
        "{} gates of {} models: {} failed, {} inconclusive, {} skipped",
        gates().count(),
        tested.len(),
        count(Outcome::Failed),
        count(Outcome::Inconclusive),
        count(Outcome::Skipped)
    ));
    lines.join("\n")
}

#[expect(clippy::print_stdout, reason = "the results are the command's output")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests;
