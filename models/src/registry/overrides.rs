//! What load calls bring along: a configuration, files, labels.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::config::RawConfig;
use crate::error::RegistryError;
use crate::{layout, traffic, version};

/// What stands in for a model's files until it is unloaded.
pub(super) struct Override {
    pub(super) config: RawConfig,
    /// A private directory that holds the given files and goes with the override.
    pub(super) directory: Option<std::sync::Arc<TempDir>>,
}

impl Override {
    /// The model directory made of the given files.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.directory
            .as_ref()
            .map(|directory| directory.path().to_owned())
    }
}

/// Checks the paths `<version>/<name>`.
pub(super) fn check_files(files: &BTreeMap<String, Vec<u8>>) -> Result<(), RegistryError> {
    for path in files.keys() {
        let fits = path.split_once('/').is_some_and(|(version, name)| {
            version::parse_directory(version).is_some() && layout::is_safe_relative(name)
        });
        if !fits {
            return Err(RegistryError::InvalidInput(format!(
                "file `{}`: expected `<version>/<name>` with a positive version and a relative name without `..`",
                path.chars().take(120).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Writes the files into a private directory. The paths were checked.
pub(super) fn write_files(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("crossfade-model-").tempdir()?;
    for (path, content) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        fs::write(path, content)?;
    }
    Ok(directory)
}

/// Reads `{"label": version}`.
pub(super) fn read_labels(text: &str) -> Result<BTreeMap<String, u64>, RegistryError> {
    let invalid = |problem: String| RegistryError::InvalidInput(format!("labels: {problem}"));
    let value: Value = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let Value::Object(object) = value else {
        return Err(invalid(
            "expected a JSON object such as {\"stable\": 1}".to_owned(),
        ));
    };
    object
        .into_iter()
        .map(|(label, version)| {
            let shown: String = label.chars().take(64).collect();
            if !traffic::is_label(&label) {
                return Err(invalid(format!(
                    "`{shown}`: a label is not empty and not a number"
                )));
            }
            match version.as_u64().filter(|version| *version > 0) {
                Some(version) => Ok((label, version)),
                None => Err(invalid(format!(
                    "`{shown}`: expected a positive version number, got {version}"
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_paths_stay_in_their_version() {
        let check = |path: &str, fits: bool| {
            let files = BTreeMap::from([(path.to_owned(), vec![])]);
            assert_eq!(check_files(&files).is_ok(), fits, "{path}");
        };
        check("1/model.onnx", true);
        check("1/model.onnx/weights.bin", true);
        for path in [
            "model.onnx",
            "0/model.onnx",
            "01/m",
            "1/../m",
            "1/",
            "1//etc/passwd",
            "-1/m",
            "../1/m",
            "v/m",
        ] {
            check(path, false);
        }
    }

    #[test]
    fn labels_are_an_object_of_positive_versions() {
        assert_eq!(
            read_labels(r#"{"stable": 2}"#).unwrap(),
            BTreeMap::from([("stable".to_owned(), 2)])
        );
        for text in [
            "",
            "[]",
            r#"{"a": 0}"#,
            r#"{"a": "1"}"#,
            r#"{"7": 1}"#,
            r#"{"": 1}"#,
            r#"{"a": -1}"#,
        ] {
            assert!(read_labels(text).is_err(), "{text}");
        }
    }
}
