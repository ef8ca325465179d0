//! Many small files of a day as one.
//!
//! The new file is whole and synced before the manifest says that it stands for the old ones, and only then they go. Whoever reads
//! files without the manifest may meet both for a moment, and tells them apart by `request_id`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{Field, Schema, SchemaRef};

use crate::error::LogError;
use crate::kill;
use crate::manifest::{Entry, SealedFile};
use crate::seal::{NEW, Sealer, digest};
use crate::table_file;

/// In the name of a file that others became: those of segments have none.
const JOINED: char = '+';
/// Of the files that become one at a time.
const MOST_BYTES: u64 = 256 << 20;

impl Sealer {
    /// Makes one file of those of a model, version and day, if `least` of them or more have less than `small` bytes each; of one day
    /// at a time. Returns how many files that was; `None`: there is nothing to do.
    ///
    /// Errors: the system's; the old files stay.
    pub fn compact(&mut self, least: usize, small: u64) -> Result<Option<usize>, LogError> {
        let mut folders: BTreeMap<&str, Vec<&SealedFile>> = BTreeMap::new();
        let files = self.manifest.content().files.values();
        for file in files.filter(|file| file.path.starts_with("log/") && file.bytes < small) {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(file);
        }
        let ready = folders.into_values().filter(|files| files.len() >= least.max(2));
        let ready: Vec<Vec<SealedFile>> = ready.map(bounded).collect();
        let mut failed = Ok(None);
        for files in ready {
            // What cannot be read in one folder is no reason to leave the others.
            match self.compact_files(&files) {
                Ok(false) => {}
                Ok(true) => return Ok(Some(files.len())),
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// Makes one file of these; returns whether it could.
    fn compact_files(&mut self, files: &[SealedFile]) -> Result<bool, LogError> {
        for file in files {
            self.unchanged(file)?;
        }
        let old: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        // Of another type in each file, a column stays in files of its own.
        let Some(schema) = self.union(&old)? else {
            return Ok(false);
        };
        let was_encrypted = files.iter().any(|file| file.key.is_some());
        let new = self.joined(&old, &schema, was_encrypted)?;
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        if new.rows != rows {
            self.unlink(&[new.path])?;
            return Err(LogError::Manifest(format!(
                "the files of `{}` have other rows than it says",
                old.first().map_or("", String::as_str)
            )));
        }
        kill::at("compacted");
        self.manifest.append(Entry::Compacted { old, new })?;
        kill::at("superseded");
        self.unlink_gone()?;
        Ok(true)
    }

    /// Errors: a file that is not as it was written, whose bytes must not get a new digest.
    pub(crate) fn unchanged(&self, file: &SealedFile) -> Result<(), LogError> {
        let path = self.data_dir.join(&file.path);
        let (sha256, _) = digest(&path).map_err(LogError::io(&path, "reading it"))?;
        match sha256 == file.sha256 {
            true => Ok(()),
            false => Err(LogError::Damaged(path)),
        }
    }

    /// Writes the rows of files, in their order, to one, which the manifest does not name yet.
    fn joined(
        &self,
        old: &[String],
        schema: &SchemaRef,
        was_encrypted: bool,
    ) -> Result<SealedFile, LogError> {
        let place = rewritten(old.first().map_or("", String::as_str));
        let new = self.data_dir.join(&place).with_extension(NEW);
        let key = self.key(was_encrypted)?;
        let mut writer = table_file::writer(&new, schema.clone(), key.as_deref())?;
        let mut rows = 0;
        for path in old {
            for table in table_file::reader(&self.data_dir.join(path), &self.keys)?.build()? {
                let table = table?;
                rows += table.num_rows();
                writer.write(&widened(&table, schema)?)?;
            }
        }
        let file = writer.into_inner()?;
        file.sync_all().map_err(LogError::io(&new, "syncing it"))?;
        self.put_in_place(&place, rows, key.as_deref())
    }

    /// The columns of all files; `None` where a column has another type in one than in another.
    fn union(&self, files: &[String]) -> Result<Option<SchemaRef>, LogError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut kinds: BTreeMap<String, Field> = BTreeMap::new();
        for path in files {
            let file = table_file::reader(&self.data_dir.join(path), &self.keys)?;
            for field in file.schema().fields() {
                match kinds.get(field.name()) {
                    // What a policy made is another thing than what was sent.
                    Some(kind)
                        if kind.data_type() == field.data_type() && kind.metadata() == field.metadata() => {}
                    Some(_) => return Ok(None),
                    None => {
                        kinds.insert(field.name().clone(), field.as_ref().clone());
                        fields.push(field.as_ref().clone());
                    }
                }
            }
        }
        Ok(Some(Arc::new(Schema::new(fields))))
    }

    /// Removes what a crash left: files that the manifest does not name. What was being sealed is sealed again.
    pub(crate) fn forget_unlisted(&self) -> Result<(), LogError> {
        let content = self.manifest.content();
        // One that has never named anything is new, or was lost: nothing is removed on its word.
        if content.segments.is_empty() {
            return Ok(());
        }
        let named = &content.files;
        let mut found = Vec::new();
        for top in ["log", "gap", "correction"] {
            files_below(&self.data_dir, Path::new(top), &mut found)
                .map_err(LogError::io(&self.data_dir.join(top), "reading it"))?;
        }
        found.retain(|file| !named.contains_key(file));
        self.unlink(&found)
    }
}

/// The place of a file that is made of this one: its segment's, and how often that was done. However often it is, names stay short.
pub(crate) fn rewritten(file: &str) -> String {
    let stem = file.strip_suffix(".parquet").unwrap_or(file);
    let (segment, times) = match stem.rsplit_once(JOINED) {
        Some((segment, times)) => (segment, times.parse().ok()),
        None => (stem, Some(0)),
    };
    match times {
        Some(times) => format!("{segment}{JOINED}{}.parquet", u64::saturating_add(times, 1)),
        // What was split is the name of a folder.
        None => format!("{stem}{JOINED}1.parquet"),
    }
}

/// The first of files, up to a bound of what is worked on at once.
fn bounded(files: Vec<&SealedFile>) -> Vec<SealedFile> {
    let mut bytes = 0;
    let within = files.into_iter().take_while(|file| {
        bytes += file.bytes;
        bytes <= MOST_BYTES
    });
    within.cloned().collect()
}

/// The log's files below a folder of the data folder, those that are not whole with them.
fn files_below(data_dir: &Path, folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(data_dir.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let is_ours = path
            .extension()
            .is_some_and(|extension| extension == "parquet" || extension == NEW);
        if entry.file_type()?.is_dir() {
            files_below(data_dir, &path, found)?;
        } else if let Some(path) = path.to_str().filter(|_| is_ours) {
            found.push(path.to_owned());
        }
    }
    Ok(())
}

/// A table with the columns of a schema, null where it has none.
pub(crate) fn widened(table: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, LogError> {
    let columns = schema.fields().iter().map(|field| {
        let column = table.column_by_name(field.name()).cloned();
        column.unwrap_or_else(|| new_null_array(field.data_type(), table.num_rows()))
    });
    Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
}

#[cfg(test)]
mod tests;
