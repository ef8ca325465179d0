//! Weights in one file, or in several with an index of them (`model.safetensors.index.json`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crossfade_runtimes_core::RuntimeError;
use serde::Deserialize;

use crate::error::load;

/// What Hugging Face's `save_pretrained` writes beside weights that it divides.
#[derive(Debug, Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// The files that hold the weights of `path`: itself, or those that it lists.
///
/// Errors: `Load` if it is no index, or lists what is no file beside it.
pub(crate) fn of(path: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(vec![path.to_owned()]);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::read(path).map_err(|error| load(format!("{name} cannot be read: {error}")))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| load(format!("{name} is no index of weights: {error}")))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(load(format!("{name} lists no file")));
    }
    names
        .into_iter()
        .map(|file| {
            let beside = path.with_file_name(&file);
            let plain = Path::new(&file)
                .file_name()
                .is_some_and(|last| last == file.as_str());
            if plain && beside.is_file() {
                Ok(beside)
            } else {
                Err(load(format!("{name} lists `{file}`, which is no file beside it")))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_beside_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        let (one, two) = (
            folder.path().join("1.safetensors"),
            folder.path().join("2.safetensors"),
        );
        for file in [&one, &two] {
            std::fs::write(file, "").unwrap();
        }
        let listed = |text: &str| {
            std::fs::write(&index, text).unwrap();
            of(&index).map_err(|error| error.to_string())
        };
        assert_eq!(of(&one).unwrap(), std::slice::from_ref(&one));
        let map = r#"{"metadata": {"total_size": 9}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
        assert_eq!(listed(map).unwrap(), [one, two]);
        for (text, why) in [
            ("[]", "no index"),
            ("{", "no index"),
            (r#"{"weight_map": {}}"#, "lists no file"),
            (r#"{"weight_map": {"a": "3.safetensors"}}"#, "`3.safetensors`"),
            (
                r#"{"weight_map": {"a": "../1.safetensors"}}"#,
                "`../1.safetensors`",
            ),
            (r#"{"weight_map": {"a": "./1.safetensors"}}"#, "`./1.safetensors`"),
            (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "`/etc/passwd`"),
            (r#"{"weight_map": {"a": ""}}"#, "``"),
            (r#"{"weight_map": {"a": ".."}}"#, "`..`"),
        ] {
            let refused = listed(text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
            assert!(refused.contains("model.safetensors.index.json"), "{refused}");
        }
        assert!(of(&folder.path().join("absent.json")).is_err());
    }
}
