//! Records of one person taken out of files that are written already.
//!
//! A file with such records is written again without them; the manifest says that the one superseded the other, so that its chain
//! stays whole without the bytes that are gone.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use crossfade_journal::Hash;
use parquet::arrow::ProjectionMask;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use serde::Serialize;

use crate::blob;
use crate::compact::rewritten;
use crate::correction;
use crate::error::LogError;
use crate::keys::Keys;
use crate::kill;
use crate::manifest::{Entry, SealedFile};
use crate::seal::{NEW, Sealer};
use crate::table_file::{self, SUBJECT};

/// What an erasure did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whom the records were about, hexadecimal.
    pub subject_key: String,
    /// Records that are gone.
    pub rows: u64,
    /// Files that were written again.
    pub files: Vec<Rewritten>,
}

/// A file that was written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// Its place in the data folder.
    pub path: String,
    /// Records that it had of the person.
    pub rows: u64,
    /// Of its bytes before.
    pub sha256_before: Hash,
    /// The file that superseded it; `None`: it had no others.
    pub path_after: Option<String>,
    /// Of that one's bytes.
    pub sha256_after: Option<Hash>,
}

impl Sealer {
    /// Takes the records about a person out of every file. What is not sealed yet is not looked at.
    ///
    /// Errors: the system's; files before the one that failed are done, and it may be called again.
    /// Cost: reads one filter of each file; of those that may have a record, one column, and of those that have, everything.
    pub fn erase(&mut self, subject: [u8; 16]) -> Result<Certificate, LogError> {
        // What an earlier call could not remove.
        self.unlink_gone()?;
        let mut done = Certificate {
            subject_key: subject.iter().map(|byte| format!("{byte:02x}")).collect(),
            ..Certificate::default()
        };
        let files = self.manifest.content().files.values();
        let files: Vec<SealedFile> = files
            .filter(|file| {
                ["log/", correction::FOLDER]
                    .iter()
                    .any(|top| file.path.starts_with(top))
            })
            .cloned()
            .collect();
        for file in files {
            let path = self.data_dir.join(&file.path);
            // Encrypted files have no filters.
            let rows = if file.key.is_some() || may_have(&path, &subject)? {
                count(&path, &self.keys, &subject)?
            } else {
                0
            };
            if rows == 0 {
                continue;
            }
            self.unchanged(&file)?;
            // First: once the manifest has another file, nothing says where they are.
            if file.path.starts_with("log/") {
                blob::remove_about(&self.data_dir, &path, &self.keys, &subject)?;
            }
            let new = match rows < file.rows {
                true => Some(self.without(&file, &subject)?),
                false => None,
            };
            kill::at("erased");
            done.rows += rows;
            done.files.push(Rewritten {
                path: file.path.clone(),
                rows,
                sha256_before: file.sha256,
                path_after: new.as_ref().map(|new| new.path.clone()),
                sha256_after: new.as_ref().map(|new| new.sha256),
            });
            self.manifest.append(Entry::Superseded {
                old: file.path,
                old_sha256: file.sha256,
                new,
                reason: "erasure".to_owned(),
            })?;
            self.unlink_gone()?;
        }
        Ok(done)
    }

    /// Writes a file without the records about a person; the manifest does not name it yet.
    fn without(&self, file: &SealedFile, subject: &[u8; 16]) -> Result<SealedFile, LogError> {
        let place = rewritten(&file.path);
        let (old, new) = (
            self.data_dir.join(&file.path),
            self.data_dir.join(&place).with_extension(NEW),
        );
        let key = self.key(file.key.is_some())?;
        let reader = table_file::reader(&old, &self.keys)?;
        let mut writer = table_file::writer(&new, reader.schema().clone(), key.as_deref())?;
        let mut rows = 0;
        for table in reader.build()? {
            let table = table?;
            let others: BooleanArray = about(&table, subject).map(|is| Some(!is)).collect();
            let kept = filter_record_batch(&table, &others)?;
            rows += kept.num_rows();
            writer.write(&kept)?;
        }
        let to = writer.into_inner()?;
        to.sync_all().map_err(LogError::io(&new, "syncing it"))?;
        self.put_in_place(&place, rows, key.as_deref())
    }
}

/// Whether each row is about a person.
fn about<'a>(table: &'a RecordBatch, subject: &'a [u8; 16]) -> impl Iterator<Item = bool> + 'a {
    let keys = table
        .column_by_name(SUBJECT)
        .and_then(|column| column.as_fixed_size_binary_opt());
    (0..table.num_rows())
        .map(move |row| keys.is_some_and(|keys| keys.is_valid(row) && keys.value(row) == subject))
}

/// Whether a file may have a record about a person, by its filters; a file without them may.
fn may_have(path: &Path, subject: &[u8; 16]) -> Result<bool, LogError> {
    let file = File::open(path).map_err(LogError::io(path, "reading it"))?;
    let filters = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(filters).build();
    let reader = SerializedFileReader::new_with_options(file, options)?;
    for (place, group) in reader.metadata().row_groups().iter().enumerate() {
        let column = group
            .columns()
            .iter()
            .position(|column| column.column_path().string() == SUBJECT);
        let Some(column) = column else { continue };
        let own = reader.get_row_group(place)?;
        let filter = own.get_column_bloom_filter(column);
        if filter.is_none_or(|filter| filter.check(subject.as_slice())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many records of a file are about a person.
fn count(path: &Path, keys: &Keys, subject: &[u8; 16]) -> Result<u64, LogError> {
    let reader = table_file::reader(path, keys)?;
    let roots = reader
        .schema()
        .fields()
        .iter()
        .position(|field| field.name() == SUBJECT);
    let mask = ProjectionMask::roots(reader.parquet_schema(), roots);
    let mut rows = 0;
    for table in reader.with_projection(mask).build()? {
        rows += about(&table?, subject).filter(|is| *is).count() as u64;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
