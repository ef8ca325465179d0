//! The files behind a model source.

use std::path::{Path, PathBuf};

use crate::{ModelSource, RuntimeError};

/// The file of a transformer's weights as they are published: whole, or the list of the files that hold them.
pub const WEIGHTS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];

impl ModelSource {
    /// The model file: the source's path itself, or, where that is a directory, `usual` in it, or else its only
    /// file of the same extension.
    ///
    /// Errors: `Load`, naming the last part of the path.
    pub fn model_file(&self, usual: &str) -> Result<PathBuf, RuntimeError> {
        let path = &self.path;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let refuse = |reason: String| Err(RuntimeError::Load { reason });
        if path.is_file() {
            return Ok(path.clone());
        }
        if !path.is_dir() {
            return refuse(format!("there is no file or directory `{name}`"));
        }
        let file = path.join(usual);
        if file.is_file() {
            return Ok(file);
        }
        let entries = std::fs::read_dir(path).map_err(|error| RuntimeError::Load {
            reason: format!("directory `{name}` cannot be read: {error}"),
        })?;
        let mut alike = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Path::new(usual).extension());
        match (alike.next(), alike.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => refuse(format!("directory `{name}` holds no {usual}")),
            (Some(_), Some(_)) => refuse(format!("directory `{name}` holds several models, but no {usual}")),
        }
    }

    /// Size of the model's files: of the file, or of the files directly in the directory.
    pub fn bytes_on_disk(&self) -> u64 {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        match std::fs::read_dir(&self.path) {
            Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
            Err(_) => size(&self.path),
        }
    }
}
