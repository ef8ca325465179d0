//! What shall serve, by the disk, the configuration and what calls have set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::control::Identity;
use super::overrides::Override;
use super::{Found, Loader, Registry};
use crate::config::RawConfig;
use crate::error::{LayoutError, RegistryError};
use crate::layout::{self, ConfigFiles};
use crate::scan;

/// What shall serve, as found on disk.
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) config: Arc<RawConfig>,
    pub(super) label_files: Arc<BTreeMap<String, String>>,
    pub(super) on_disk: BTreeSet<u64>,
    pub(super) chosen: Vec<u64>,
    /// Loaded versions that stay as they are.
    pub(super) held: BTreeSet<u64>,
    /// As chosen, in the order in which they are loaded.
    pub(super) order: Vec<u64>,
    pub(super) identities: BTreeMap<u64, Identity>,
}

/// Why there is no plan.
pub(super) enum NoPlan {
    /// No repository holds the model.
    Absent,
    /// It is there and unusable; the versions that are still on disk, where they could be listed.
    Broken(String, Option<BTreeSet<u64>>),
    /// It does not fit the active release.
    Refused(RegistryError),
}

impl<L: Loader> Registry<L> {
    /// Looks at the disk. Takes no lock.
    ///
    /// * `called`: a load call asks
    /// * `caller`: of whom, where that is known
    pub(super) fn plan(
        &self,
        name: &str,
        over: Option<&Override>,
        called: bool,
        caller: Option<&str>,
    ) -> Result<Plan, NoPlan> {
        let broken = |error: String| NoPlan::Broken(error, None);
        let directory = match over.and_then(Override::path) {
            Some(directory) => directory,
            None => self.find(name)?,
        };
        let on_disk = layout::versions(&directory).map_err(|error| broken(error.to_string()))?;
        for warning in &on_disk.warnings {
            tracing::warn!(model = %name, %warning, "repository");
        }
        let on_disk: BTreeSet<u64> = on_disk.found.into_iter().collect();
        let broken = |error: String| NoPlan::Broken(error, Some(on_disk.clone()));
        if on_disk.is_empty() {
            return Err(broken(LayoutError::NoVersions.to_string()));
        }
        let files = match over {
            // A call may replace how the model runs, but not the rules by which its versions are released.
            Some(over) => {
                let home = self.find(name).unwrap_or_else(|_| directory.clone());
                let files = ConfigFiles::read(&home, self.options.model_config_name.as_deref());
                let files = files.map(ConfigFiles::merged).unwrap_or_default();
                over.config.clone().with_release_of(files)
            }
            None => ConfigFiles::read(&directory, self.options.model_config_name.as_deref())
                .map_err(|error| broken(error.to_string()))?
                .merged(),
        };
        let server = self.options.overrides.get(name).cloned().unwrap_or_default();
        let config = Arc::new(RawConfig::merge(server, files));
        let policy = config
            .version_policy()
            .map_err(|error| broken(error.to_string()))?;
        let label_files = Arc::new(
            layout::read_label_files(&directory, &config).map_err(|error| broken(error.to_string()))?,
        );
        let mut chosen = policy.choose(&on_disk.iter().copied().collect::<Vec<_>>());
        let mut held = BTreeSet::new();
        let mut order: Vec<u64> = chosen.iter().rev().copied().collect();
        if let Some(conductor) = &self.options.conductor {
            let rules = config.policy().map_err(|error| broken(error.to_string()))?;
            if rules.is_active() && over.and_then(Override::path).is_some() {
                let message = "its versions are released: put the new one into the repository, rather than into the call";
                return Err(NoPlan::Refused(RegistryError::Conflict(message.to_owned())));
            }
            let found = Found {
                model: name,
                policy: &rules,
                config: &config,
                directory: &directory,
                on_disk: &on_disk,
                chosen: &chosen,
                called,
                caller,
            };
            if let Some(directed) = conductor.plan(&found).map_err(NoPlan::Refused)? {
                order.clone_from(&directed.versions);
                (chosen, held) = (directed.versions, directed.held);
                chosen.sort_unstable();
            }
        }
        if chosen.is_empty() {
            return Err(broken(format!(
                "version_policy chooses none of the versions {on_disk:?}"
            )));
        }
        let identities = chosen.iter().map(|&version| {
            let files = scan::fingerprint(&directory.join(version.to_string()), 4);
            (
                version,
                Identity {
                    config: config.clone(),
                    label_files: label_files.clone(),
                    files,
                },
            )
        });
        let identities = identities.collect();
        Ok(Plan {
            directory,
            config,
            label_files,
            on_disk,
            chosen,
            held,
            order,
            identities,
        })
    }

    pub(super) fn find(&self, name: &str) -> Result<PathBuf, NoPlan> {
        if layout::check_name(name).is_err() {
            return Err(NoPlan::Absent);
        }
        let paths = self.options.repositories.iter().map(|(_, path)| path.join(name));
        let mut found: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
        match (found.pop(), found.len()) {
            (None, _) => Err(NoPlan::Absent),
            (Some(path), 0) => Ok(path),
            (Some(_), more) => Err(NoPlan::Broken(
                LayoutError::Duplicate { count: more + 1 }.to_string(),
                None,
            )),
        }
    }
}
