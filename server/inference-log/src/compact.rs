//! Many small files of a day as one.
//!
//! The new file is whole and synced before the manifest says that it stands for the old ones, and only then they go. Whoever reads
//! files without the manifest may meet both for a moment, and tells them apart by `request_id`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::LogError;
use crate::kill;
use crate::manifest::{Entry, SealedFile};
use crate::seal::{NEW, Sealer, properties};

/// In the name of a file that others became: those of segments have none.
const JOINED: char = '+';
/// Rows that are read at once.
const ROWS: usize = 8192;

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
        let ready: Vec<(Vec<String>, u64)> = ready
            .map(|files| {
                let rows = files.iter().map(|file| file.rows).sum();
                (files.into_iter().map(|file| file.path.clone()).collect(), rows)
            })
            .collect();
        for (old, rows) in ready {
            // Of another type in each file, a column stays in files of its own.
            let Some(schema) = union(&self.data_dir, &old)? else {
                continue;
            };
            let new = self.joined(&old, &schema)?;
            if new.rows != rows {
                self.unlink(&[new.path])?;
                return Err(LogError::Manifest(format!(
                    "the files of `{}` have other rows than it says",
                    old.first().map_or("", String::as_str)
                )));
            }
            kill::at("compacted");
            let count = old.len();
            self.manifest.append(Entry::Compacted { old, new })?;
            kill::at("superseded");
            self.unlink(&self.manifest.content().gone)?;
            return Ok(Some(count));
        }
        Ok(None)
    }

    /// Writes the rows of files, in their order, to one, which the manifest does not name yet.
    fn joined(&self, old: &[String], schema: &SchemaRef) -> Result<SealedFile, LogError> {
        let first = old
            .first()
            .and_then(|file| file.strip_suffix(".parquet"))
            .unwrap_or_default();
        let place = format!("{first}{JOINED}{}.parquet", old.len());
        let new = self.data_dir.join(&place).with_extension(NEW);
        let file = File::create(&new).map_err(LogError::io(&new, "creating it"))?;
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()?))?;
        let mut rows = 0;
        for path in old {
            let path = self.data_dir.join(path);
            let file = File::open(&path).map_err(LogError::io(&path, "reading it"))?;
            for table in ParquetRecordBatchReaderBuilder::try_new(file)?
                .with_batch_size(ROWS)
                .build()?
            {
                let table = table?;
                rows += table.num_rows();
                writer.write(&widened(&table, schema)?)?;
            }
        }
        let file = writer.into_inner()?;
        file.sync_all().map_err(LogError::io(&new, "syncing it"))?;
        self.put_in_place(&place, rows)
    }

    /// Removes what a crash left of a compaction: a joined file that the manifest does not name.
    pub(crate) fn forget_unlisted(&self) -> Result<(), LogError> {
        if self.manifest.content().files.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        joined_below(&self.data_dir, Path::new("log"), &mut found)
            .map_err(LogError::io(&self.data_dir.join("log"), "reading it"))?;
        found.retain(|file| !self.manifest.content().files.contains_key(file));
        self.unlink(&found)
    }
}

/// The joined files below a folder of the data folder.
fn joined_below(data_dir: &Path, folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(data_dir.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            joined_below(data_dir, &path, found)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && name.contains(JOINED)
            && let Some(path) = path.to_str()
        {
            found.push(path.to_owned());
        }
    }
    Ok(())
}

/// The columns of all files; `None` where a column has another type in one than in another.
fn union(data_dir: &Path, files: &[String]) -> Result<Option<SchemaRef>, LogError> {
    let mut fields: Vec<Field> = Vec::new();
    let mut kinds: BTreeMap<String, DataType> = BTreeMap::new();
    for path in files {
        let path = data_dir.join(path);
        let file = File::open(&path).map_err(LogError::io(&path, "reading it"))?;
        let schema = ParquetRecordBatchReaderBuilder::try_new(file)?.schema().clone();
        for field in schema.fields() {
            match kinds.get(field.name()) {
                Some(kind) if kind == field.data_type() => {}
                Some(_) => return Ok(None),
                None => {
                    kinds.insert(field.name().clone(), field.data_type().clone());
                    fields.push(field.as_ref().clone());
                }
            }
        }
    }
    Ok(Some(Arc::new(Schema::new(fields))))
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
