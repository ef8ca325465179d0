//! Versions of a repository, for the commands that run them without a server.

use std::path::Path;
use std::sync::Arc;

use crossfade_models::config::{RawConfig as ModelFile, toml};
use crossfade_models::layout::ConfigFiles;
use crossfade_models::{LoadRequest, Loader};
use crossfade_rollout::Policy;
use crossfade_runtimes::Runtimes;

use crate::config::file::RawConfig;
use crate::metrics::Metrics;
use crate::servable::{Servable, ServableLoader};
use crate::service::Limits;

/// What loads them.
pub(super) fn loader(runtimes: Arc<Runtimes>) -> ServableLoader {
    // One core: nothing is calibrated, which would disturb what is measured, and so nothing is kept in the folder.
    let metrics = Arc::new(Metrics::default());
    ServableLoader::new(runtimes, metrics, &Limits::default(), 1, Path::new(""))
}

/// What a model's files say, under the server's file, and the rules of its releases.
///
/// * `name`: of another `configs/NAME.pbtxt`
///
/// Errors: what is wrong with them.
pub(super) fn configuration(
    model: &str,
    directory: &Path,
    server: &RawConfig,
    name: Option<&str>,
) -> Result<(ModelFile, Policy), String> {
    let text = |error: crossfade_models::ConfigError| error.to_string();
    let files = ConfigFiles::read(directory, name).map_err(text)?;
    let over = match server.model.get(model) {
        Some(table) => toml::from_table(table.clone()).map_err(text)?,
        None => ModelFile::default(),
    };
    let config = ModelFile::merge(over, files.merged());
    let policy = config.policy().map_err(text)?;
    Ok((config, policy))
}

/// Loads a version.
///
/// Errors: why it cannot be.
pub(super) fn load(
    loader: &ServableLoader,
    model: &str,
    version: u64,
    directory: &Path,
    config: &ModelFile,
) -> Result<Servable, String> {
    let request = LoadRequest::alone(model, version, directory, config.clone());
    let request = request.map_err(|error| error.to_string())?;
    let loaded = loader.load(&request).map_err(|error| error.to_string())?;
    Ok(loaded.servable)
}
