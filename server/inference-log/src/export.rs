//! Records as one table for other programs: of files with different columns, and with labels from elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::compact::widened;
use crate::error::LogError;
use crate::log::{Log, Selection};
use crate::table_file;

/// Columns of a training set beside those of tensors.
const JOINED: [&str; 4] = ["request_id", "ts", "model", "version"];
/// What is known of a request later.
const LABELS: [&str; 2] = ["label", "weight"];

/// What later became known of requests: the files of the folder `feedback`, with columns `request_id`, `label` and perhaps `weight`.
#[derive(Debug, Default)]
pub struct Labels {
    tables: Vec<RecordBatch>,
    /// Table and row of a request; of several the last one that was read.
    places: HashMap<[u8; 16], (usize, usize)>,
}

impl Labels {
    /// Reads them; a folder that is not there has none.
    ///
    /// Errors: what cannot be read; a file without `request_id`, 16 bytes each.
    pub fn read(data_dir: &Path) -> Result<Self, LogError> {
        let mut labels = Self::default();
        let folder = data_dir.join("feedback");
        if folder.is_dir() {
            labels.add(&folder)?;
        }
        Ok(labels)
    }

    fn add(&mut self, folder: &Path) -> Result<(), LogError> {
        let read = LogError::io(folder, "reading it");
        let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
        let mut paths: Vec<_> = entries.map_err(read)?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.add(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let file = File::open(&path).map_err(LogError::io(&path, "reading it"))?;
                for table in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
                    self.note(table?)?;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, table: RecordBatch) -> Result<(), LogError> {
        let wrong =
            || ArrowError::SchemaError("feedback has no column `request_id` of 16 bytes each".to_owned());
        let ids = table.column_by_name("request_id").ok_or_else(wrong)?;
        let ids = ids.as_fixed_size_binary_opt().ok_or_else(wrong)?;
        for row in (0..ids.len()).filter(|row| ids.is_valid(*row)) {
            let id = ids.value(row).try_into().map_err(|_| wrong())?;
            self.places.insert(id, (self.tables.len(), row));
        }
        self.tables.push(table);
        Ok(())
    }

    /// The type of a column, where a file has it.
    fn kind(&self, name: &str) -> Option<DataType> {
        let mut columns = self.tables.iter().filter_map(|table| table.column_by_name(name));
        columns.next().map(|column| column.data_type().clone())
    }

    /// What is known of the requests of a table; null where nothing is.
    fn column(&self, name: &str, kind: &DataType, ids: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let mut arrays: Vec<ArrayRef> = vec![new_null_array(kind, 1)];
        let of = |table: &RecordBatch| {
            let column = table
                .column_by_name(name)
                .filter(|column| column.data_type() == kind);
            column
                .cloned()
                .unwrap_or_else(|| new_null_array(kind, table.num_rows()))
        };
        arrays.extend(self.tables.iter().map(of));
        let ids = ids.as_fixed_size_binary_opt();
        let rows = ids.map_or(0, Array::len);
        let places = (0..rows).map(|row| {
            let id = ids.and_then(|ids| ids.value(row).try_into().ok());
            let place = id.and_then(|id: [u8; 16]| self.places.get(&id));
            place.map_or((0, 0), |(table, row)| (table + 1, *row))
        });
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        interleave(&arrays, &places.collect::<Vec<_>>())
    }
}

/// Writes records to one Parquet file; returns how many.
///
/// * `labels`: makes it a training set: only what was answered, only inputs, outputs and labels
///
/// Errors: what cannot be read or written; columns of one name and different types.
pub fn export(log: &Log, wanted: &Selection, labels: Option<&Labels>, to: &Path) -> Result<usize, LogError> {
    let schema = schema(log, wanted, labels)?;
    // It is for others, who have no key.
    let mut writer = table_file::writer(to, schema.clone(), None)?;
    let mut rows = 0;
    log.each(wanted, |table| -> Result<(), LogError> {
        let table = match labels {
            Some(labels) => joined(table, labels)?,
            None => table.clone(),
        };
        rows += table.num_rows();
        Ok(writer.write(&widened(&table, &schema)?)?)
    })?;
    let file = writer.into_inner()?;
    file.sync_all().map_err(LogError::io(to, "syncing it"))?;
    Ok(rows)
}

/// The columns of all tables.
fn schema(log: &Log, wanted: &Selection, labels: Option<&Labels>) -> Result<SchemaRef, LogError> {
    let mut order: Vec<Field> = Vec::new();
    let mut kinds: BTreeMap<String, DataType> = BTreeMap::new();
    log.each(wanted, |table| -> Result<(), LogError> {
        let table = match labels {
            Some(labels) => joined(&table.slice(0, 1), labels)?,
            None => table.slice(0, 1),
        };
        for field in table.schema().fields() {
            let known = kinds.entry(field.name().clone()).or_insert_with(|| {
                order.push(field.as_ref().clone());
                field.data_type().clone()
            });
            if known != field.data_type() {
                let problem = format!(
                    "column `{}` is {known} in one file and {} in another; choose a --model and a --version",
                    field.name(),
                    field.data_type()
                );
                return Err(ArrowError::SchemaError(problem).into());
            }
        }
        Ok(())
    })?;
    Ok(Arc::new(Schema::new(order)))
}

/// What was answered, as a row of a training set.
fn joined(table: &RecordBatch, labels: &Labels) -> Result<RecordBatch, LogError> {
    let outcomes = table
        .column_by_name("outcome")
        .and_then(|column| column.as_string_opt::<i32>());
    let is_ok =
        (0..table.num_rows()).map(|row| Some(outcomes.is_some_and(|column| column.value(row) == "ok")));
    let table = filter_record_batch(table, &is_ok.collect())?;
    let schema = table.schema();
    let is_wanted =
        |name: &str| JOINED.contains(&name) || name.starts_with("in.") || name.starts_with("out.");
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = schema
        .fields()
        .iter()
        .zip(table.columns())
        .filter(|(field, _)| is_wanted(field.name()))
        .map(|(field, column)| (field.as_ref().clone(), column.clone()))
        .unzip();
    if let Some(ids) = table.column_by_name("request_id") {
        for name in LABELS {
            if let Some(kind) = labels.kind(name) {
                columns.push(labels.column(name, &kind, ids)?);
                fields.push(Field::new(name, kind, true));
            }
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

#[cfg(test)]
mod tests;
