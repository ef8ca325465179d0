//! Parquet files of tables, as the log writes and reads them: compressed, with filters, and encrypted where the log is.

use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::error::LogError;
use crate::keys::{DataKey, Keys};

/// The column with whom a record is about.
pub(crate) const SUBJECT: &str = "subject_key";
/// Rows that are read at once.
pub(crate) const ROWS: usize = 8192;
/// Rows of a row group: what a reader has to hold at once.
const GROUP_ROWS: usize = 64 * 1024;
/// Levels beyond it take much longer and save little.
const ZSTD_LEVEL: i32 = 3;

/// Begins a file.
///
/// * `key`: what it is encrypted with
///
/// Errors: the system's.
pub(crate) fn writer(
    path: &Path,
    schema: SchemaRef,
    key: Option<&DataKey>,
) -> Result<ArrowWriter<File>, LogError> {
    let file = File::create(path).map_err(LogError::io(path, "creating it"))?;
    writer_to(file, schema, key)
}

/// Begins a file that is there and empty.
pub(crate) fn writer_to(
    file: File,
    schema: SchemaRef,
    key: Option<&DataKey>,
) -> Result<ArrowWriter<File>, LogError> {
    Ok(ArrowWriter::try_new(file, schema, Some(properties(key)?))?)
}

/// Writes a table as a file.
///
/// Errors: the system's.
pub(crate) fn write(path: &Path, table: &RecordBatch, key: Option<&DataKey>) -> Result<File, LogError> {
    let mut writer = writer(path, table.schema(), key)?;
    writer.write(table)?;
    Ok(writer.into_inner()?)
}

/// A file, to be read.
///
/// Errors: [`LogError::Changed`] for one that is there no more; a key that is missing.
pub(crate) fn reader(path: &Path, keys: &Keys) -> Result<ParquetRecordBatchReaderBuilder<File>, LogError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LogError::Changed(path.to_owned()),
        _ => LogError::io(path, "reading it")(source),
    })?;
    let mut options = ArrowReaderOptions::new();
    if let Some(properties) = keys.properties()? {
        options = options.with_file_decryption_properties(properties);
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    Ok(reader.with_batch_size(ROWS))
}

fn properties(key: Option<&DataKey>) -> Result<WriterProperties, LogError> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL)?;
    let unique = ColumnPath::from("request_id");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_dictionary_enabled(unique.clone(), false);
    Ok(match key {
        Some(key) => properties
            .with_file_encryption_properties(key.properties()?)
            .build(),
        // They would lie beside the encrypted pages as they are.
        None => properties
            .set_column_bloom_filter_enabled(unique, true)
            .set_column_bloom_filter_enabled(ColumnPath::from(SUBJECT), true)
            .build(),
    })
}
