//! Explains what is wrong with a repository: what the files say, what the model expects, what to write instead.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crossfade_runtimes_core::ModelSignature;

use crate::config::{Completion, ModelConfig, RawConfig, WarmupData, nearest};
use crate::error::{ConfigError, LayoutError};
use crate::layout::{self, ConfigFiles, ModelDirectory};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The model would serve, perhaps not as intended.
    Warning,
    /// The model would not serve.
    Error,
}

/// Something wrong, in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The model; absent for the repository itself.
    pub model: Option<String>,
    /// The file below the model's directory.
    pub file: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        })?;
        if let Some(model) = &self.model {
            write!(f, "{model}: ")?;
        }
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What models are checked with.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// `configs/<name>.pbtxt` stands in for `config.pbtxt`.
    pub model_config_name: Option<String>,
    /// `max_batch_size` of a completed model that can batch.
    pub default_max_batch_size: u32,
    /// Whether absent keys are taken from the model file.
    pub auto_complete: bool,
    /// `[model.NAME]` of the server's file.
    pub overrides: BTreeMap<String, RawConfig>,
}

impl Default for CheckOptions {
    /// As the registry's.
    fn default() -> Self {
        Self {
            model_config_name: None,
            default_max_batch_size: 32,
            auto_complete: true,
            overrides: BTreeMap::new(),
        }
    }
}

/// A model file that shall be opened.
#[derive(Debug)]
pub struct ProbeRequest<'a> {
    /// The model file.
    pub model_file: &'a Path,
    /// The folder of its version.
    pub version_directory: &'a Path,
    /// The configuration, all sources merged.
    pub config: &'a RawConfig,
}

/// What a runtime says of a model file.
#[derive(Debug, Clone)]
pub struct Probed {
    /// Its inputs and outputs.
    pub signature: ModelSignature,
    /// Name of the runtime.
    pub runtime: String,
}

/// Opens a model file; the error is in plain words.
pub type Probe<'a> = &'a dyn Fn(&ProbeRequest<'_>) -> Result<Probed, String>;

/// Checks every model of the repositories that its policy chooses to serve.
pub fn check(repositories: &[PathBuf], options: &CheckOptions, probe: Probe<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut models: BTreeMap<String, Vec<ModelDirectory>> = BTreeMap::new();
    for repository in repositories {
        let mut report = Report {
            model: None,
            findings: &mut findings,
        };
        let shown = repository.display();
        match layout::models(repository) {
            Err(error) => report.error(None, format!("{shown}: {error}")),
            Ok(listing) => {
                listing
                    .warnings
                    .into_iter()
                    .for_each(|warning| report.warning(None, format!("{shown}: {warning}")));
                if listing.found.is_empty() {
                    report.warning(
                        None,
                        format!("{shown}: there is no model in it: expected <model>/<version>/model.onnx"),
                    );
                }
                for model in listing.found {
                    models.entry(model.name.clone()).or_default().push(model);
                }
            }
        }
        for name in file_names(repository)
            .into_iter()
            .filter(|name| name.ends_with(".onnx"))
        {
            let stem = name.trim_end_matches(".onnx").to_owned();
            report.warning(
                None,
                format!("{shown}: `{name}` is not served; move it to {stem}/1/model.onnx"),
            );
        }
    }
    for (name, directories) in models {
        let mut report = Report {
            model: Some(name.clone()),
            findings: &mut findings,
        };
        if directories.len() > 1 {
            report.error(
                None,
                LayoutError::Duplicate {
                    count: directories.len(),
                }
                .to_string(),
            );
        }
        for model in &directories {
            check_model(model, options, probe, &mut report);
        }
    }
    findings
}

/// Collects what is found in one model.
struct Report<'a> {
    model: Option<String>,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    fn error(&mut self, file: Option<&str>, message: String) {
        self.add(Severity::Error, file, message);
    }

    fn warning(&mut self, file: Option<&str>, message: String) {
        self.add(Severity::Warning, file, message);
    }

    fn add(&mut self, severity: Severity, file: Option<&str>, message: String) {
        let finding = Finding {
            severity,
            model: self.model.clone(),
            file: file.map(str::to_owned),
            message,
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn config_error(&mut self, error: ConfigError) {
        match error {
            ConfigError::File { file, source } => self.error(Some(&file), source.to_string()),
            error => self.error(None, error.to_string()),
        }
    }
}

fn check_model(model: &ModelDirectory, options: &CheckOptions, probe: Probe<'_>, report: &mut Report<'_>) {
    check_file_names(&model.path, report);
    let files = ConfigFiles::read(&model.path, options.model_config_name.as_deref());
    let config = match files {
        Err(error) => {
            report.config_error(error);
            None
        }
        Ok(files) => {
            check_config_files(&files, report);
            let server = options.overrides.get(&model.name).cloned().unwrap_or_default();
            Some(RawConfig::merge(server, files.merged()))
        }
    };
    let versions = match layout::versions(&model.path) {
        Err(error) => return report.error(None, error.to_string()),
        Ok(listing) => listing,
    };
    versions
        .warnings
        .into_iter()
        .for_each(|warning| report.warning(None, warning));
    if versions.found.is_empty() {
        let stray = file_names(&model.path)
            .into_iter()
            .find(|name| name.ends_with(".onnx"));
        let advice = stray
            .map(|name| format!("; move `{name}` to 1/model.onnx"))
            .unwrap_or_default();
        return report.error(None, format!("{}{advice}", LayoutError::NoVersions));
    }
    let Some(config) = config else { return };
    if let Err(error) = config.policy() {
        report.config_error(error);
    }
    let chosen = match config.version_policy() {
        Ok(policy) => policy.choose(&versions.found),
        Err(error) => return report.config_error(error),
    };
    if chosen.is_empty() {
        report.error(
            None,
            format!("version_policy chooses none of the versions {:?}", versions.found),
        );
    }
    for (label, version) in config.labels() {
        if !chosen.contains(&version) {
            report.warning(
                Some("model.toml"),
                format!(
                    "label `{label}` points at version {version}, and the versions served are {chosen:?}"
                ),
            );
        }
    }
    for version in chosen {
        check_version(model, version, &config, options, probe, report);
    }
}

/// What each file says alone, and what the two say against each other.
fn check_config_files(files: &ConfigFiles, report: &mut Report<'_>) {
    let Some((name, pbtxt)) = &files.pbtxt else { return };
    for warning in pbtxt.warnings() {
        report.warning(Some(name), warning.clone());
    }
    if let Some(toml) = &files.toml {
        for path in toml.contradictions(pbtxt) {
            report.warning(
                Some(name),
                format!(
                    "`{path}` is also set in model.toml, to another value; model.toml wins, so remove it here"
                ),
            );
        }
    }
}

/// Files whose names are almost those that are read.
fn check_file_names(model: &Path, report: &mut Report<'_>) {
    const READ: [&str; 2] = ["config.pbtxt", "model.toml"];
    for name in file_names(model) {
        let near = nearest(&name, READ).filter(|near| strsim::levenshtein(&name, near) <= 3);
        if let Some(near) = near.filter(|_| !READ.contains(&name.as_str())) {
            report.warning(
                Some(&name),
                format!("this file is not read; did you mean `{near}`?"),
            );
        }
    }
}

fn check_version(
    model: &ModelDirectory,
    version: u64,
    config: &RawConfig,
    options: &CheckOptions,
    probe: Probe<'_>,
    report: &mut Report<'_>,
) {
    if let Err(error) = config.runtime() {
        return report.config_error(error);
    }
    let directory = model.path.join(version.to_string());
    let model_file = match layout::model_file(
        &directory,
        version,
        config.model_filename(),
        config.runtime().unwrap_or_default(),
    ) {
        Ok(file) => file,
        Err(error) => return report.error(None, error.to_string()),
    };
    let shown = model_file
        .strip_prefix(&model.path)
        .unwrap_or(&model_file)
        .display()
        .to_string();
    let label_files = match layout::read_label_files(&model.path, config) {
        Ok(files) => files,
        Err(error) => return report.config_error(error),
    };
    let probed = match probe(&ProbeRequest {
        model_file: &model_file,
        version_directory: &directory,
        config,
    }) {
        Ok(probed) => probed,
        Err(reason) => return report.error(Some(&shown), reason),
    };
    let completed = config.complete(&Completion {
        model: &model.name,
        signature: &probed.signature,
        runtime: &probed.runtime,
        default_max_batch_size: options.default_max_batch_size,
        auto_complete: options.auto_complete,
        label_files: &label_files,
    });
    match completed {
        Err(error) => report.error(None, format!("version {version}: {error}")),
        Ok(completed) => check_completed(model, config, &completed, report),
    }
}

fn check_completed(model: &ModelDirectory, raw: &RawConfig, config: &ModelConfig, report: &mut Report<'_>) {
    for warning in config
        .warnings
        .iter()
        .filter(|warning| !raw.warnings().contains(warning))
    {
        report.warning(None, warning.clone());
    }
    for sample in &config.warmup {
        for input in &sample.inputs {
            if let WarmupData::File(file) = &input.data
                && !model.path.join("warmup").join(file).is_file()
            {
                report.error(
                    Some(&format!("warmup/{file}")),
                    format!(
                        "warm-up `{}` needs this file for input `{}`, and it is not there",
                        sample.name, input.name
                    ),
                );
            }
        }
    }
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
