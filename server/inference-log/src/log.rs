//! The whole log of a data folder: what is in files, and what is not sealed yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowFilter};

use crate::error::LogError;
use crate::gap::Gap;
use crate::manifest::Content;
use crate::scan::scan;
use crate::schema::Schemas;
use crate::seal::{Read, SUBJECT, date, found_in, schemas_in, write_table};
use crate::table::{Rows, gaps, grouped};

/// Rows that are read at once.
const ROWS: usize = 8192;
/// How often a log is read that changes while it is.
const TURNS: usize = 5;

/// A log, as it was when it was opened; a server may be writing to it.
pub struct Log {
    data_dir: PathBuf,
    files: Vec<PathBuf>,
    gaps: Vec<PathBuf>,
    unsealed: Vec<RecordBatch>,
    unsealed_gaps: Vec<Gap>,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of this model.
    pub model: Option<String>,
    /// Of this version.
    pub version: Option<String>,
    /// From then on, microseconds since 1970.
    pub since_us: Option<i64>,
    /// Before then.
    pub until_us: Option<i64>,
    /// About this person.
    pub subject_key: Option<[u8; 16]>,
}

impl Selection {
    /// Whether a file may have some of them.
    fn may_be_in(&self, path: &Path) -> bool {
        let Some(day) = path
            .components()
            .find_map(|part| part.as_os_str().to_str()?.strip_prefix("date="))
        else {
            return true;
        };
        let early = self.since_us.is_some_and(|since| day < date(since).as_str());
        let late = self.until_us.is_some_and(|until| day > date(until).as_str());
        !early && !late
    }

    /// The rows of a table that are.
    ///
    /// Errors: none, of tables of a log.
    pub fn of(&self, table: &RecordBatch) -> Result<RecordBatch, LogError> {
        Ok(filter_record_batch(table, &self.rows(table))?)
    }

    /// Which rows are.
    fn rows(&self, batch: &RecordBatch) -> BooleanArray {
        let text = |name: &str, wanted: &Option<String>, row: usize| {
            let Some(wanted) = wanted else { return true };
            let column = batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>());
            column.is_some_and(|column| column.is_valid(row) && column.value(row) == wanted)
        };
        let times = batch
            .column_by_name("ts")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let timely = |row: usize| {
            let at = times.map_or(0, |times| times.value(row));
            self.since_us.is_none_or(|since| at >= since) && self.until_us.is_none_or(|until| at < until)
        };
        let subjects = batch
            .column_by_name(SUBJECT)
            .and_then(|column| column.as_fixed_size_binary_opt());
        let about = |row: usize| {
            self.subject_key.is_none_or(|key| {
                subjects.is_some_and(|subjects| subjects.is_valid(row) && subjects.value(row) == key)
            })
        };
        (0..batch.num_rows())
            .map(|row| {
                Some(
                    timely(row)
                        && about(row)
                        && text("model", &self.model, row)
                        && text("version", &self.version, row),
                )
            })
            .collect()
    }
}

impl Log {
    /// Reads the manifest and the segments of a data folder.
    ///
    /// Errors: what cannot be read; a manifest whose chain is broken.
    pub fn open(data_dir: &Path) -> Result<Self, LogError> {
        let schemas_at = schemas_in(data_dir);
        let schemas = Schemas::open(&schemas_at).map_err(LogError::io(&schemas_at, "reading the schemas"))?;
        // Segments first: what is sealed meanwhile is in the manifest then, and is told by its id.
        let mut segments = Vec::new();
        for path in found_in(data_dir)? {
            match fs::read(&path) {
                Ok(bytes) => segments.push(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::io(&path, "reading it")(source)),
            }
        }
        let content = Content::read(data_dir)?;
        let (mut unsealed, mut unsealed_gaps) = (Vec::new(), Vec::new());
        for bytes in &segments {
            let Ok(found) = scan(bytes) else { continue };
            if content.segments.contains(&found.header.id) {
                continue;
            }
            let read = Read::of(&found);
            for group in grouped(read.rows, &schemas, found.header.replica())? {
                unsealed.push(group.table);
            }
            unsealed_gaps.extend(read.gaps);
        }
        Ok(Self {
            unsealed,
            unsealed_gaps,
            ..Self::sealed(data_dir, &content)
        })
    }

    /// The part of a log that is in files.
    pub(crate) fn sealed(data_dir: &Path, content: &Content) -> Self {
        let under = |top: &str| {
            let files = content.files.keys().filter(|path| path.starts_with(top));
            let mut files: Vec<PathBuf> = files.map(|path| data_dir.join(path)).collect();
            // As they were written, day after day, whatever model they are of.
            files.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
            files
        };
        Self {
            data_dir: data_dir.to_owned(),
            files: under("log/"),
            gaps: under("gap/"),
            unsealed: Vec::new(),
            unsealed_gaps: Vec::new(),
        }
    }

    /// The Parquet files of a folder that hold all there is: those of the log, and new ones in `scratch` for what is not sealed yet. Of
    /// both kinds there is at least one, which may have no row. First those of records, then those of gaps.
    ///
    /// Errors: what cannot be written.
    pub fn files(&self, scratch: &Path) -> Result<[Vec<PathBuf>; 2], LogError> {
        let write = |name: String, table: &RecordBatch| -> Result<PathBuf, LogError> {
            let path = scratch.join(name);
            write_table(&path, table)?;
            Ok(path)
        };
        let mut files = self.files.clone();
        let none = Rows::none()?;
        for (place, table) in std::iter::once(&none).chain(&self.unsealed).enumerate() {
            files.push(write(format!("unsealed-{place}.parquet"), table)?);
        }
        let mut gap_files = self.gaps.clone();
        gap_files.push(write(
            "unsealed-gaps.parquet".to_owned(),
            &gaps(&self.unsealed_gaps)?,
        )?);
        Ok([files, gap_files])
    }

    /// Shows the records that are wanted, in tables of one file each, those of the oldest segment first.
    ///
    /// Errors: what cannot be read, [`LogError::Changed`] among it; those of `show`.
    pub fn each<E: From<LogError>>(
        &self,
        wanted: &Selection,
        mut show: impl FnMut(&RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for path in self.files.iter().filter(|path| wanted.may_be_in(path)) {
            let file = opened(path)?;
            let tables = ParquetRecordBatchReaderBuilder::try_new(file)
                .and_then(|file| file.with_batch_size(ROWS).build());
            for table in tables.map_err(LogError::from)? {
                let table = table.map_err(LogError::from)?;
                let kept = wanted.of(&table)?;
                if kept.num_rows() > 0 {
                    show(&kept)?;
                }
            }
        }
        for table in &self.unsealed {
            let kept = wanted.of(table)?;
            if kept.num_rows() > 0 {
                show(&kept)?;
            }
        }
        Ok(())
    }

    /// Tables with the newest records that are wanted: so many rows or more, if there are. The newest tables come first.
    ///
    /// Errors: what cannot be read.
    pub fn newest(&self, wanted: &Selection, rows: usize) -> Result<Vec<RecordBatch>, LogError> {
        match self.newest_of(wanted, rows) {
            Err(LogError::Changed(_)) => with_log(&self.data_dir, LogError::is_changed, |log| {
                log.newest_of(wanted, rows)
            }),
            done => done,
        }
    }

    fn newest_of(&self, wanted: &Selection, rows: usize) -> Result<Vec<RecordBatch>, LogError> {
        let (mut tables, mut count) = (Vec::new(), 0);
        for table in self.unsealed.iter().rev() {
            let kept = wanted.of(table)?;
            count += kept.num_rows();
            tables.push(kept);
        }
        for path in self.files.iter().rev().filter(|path| wanted.may_be_in(path)) {
            if count >= rows {
                break;
            }
            for table in Self::tables(path)? {
                let kept = wanted.of(&table)?;
                count += kept.num_rows();
                tables.push(kept);
            }
        }
        Ok(tables)
    }

    /// All of a file.
    fn tables(path: &Path) -> Result<Vec<RecordBatch>, LogError> {
        let file = opened(path)?;
        let tables = ParquetRecordBatchReaderBuilder::try_new(file)?
            .with_batch_size(ROWS)
            .build()?;
        Ok(tables.collect::<Result<_, _>>()?)
    }

    /// The records of which `is` says so, each table those of one file. Reads of each file only `columns`, and the rest where there
    /// is something.
    ///
    /// * `wanted`: only its times are looked at
    /// * `columns`: all that `is` is shown, in the order of the file
    ///
    /// Errors: what cannot be read.
    pub fn find(
        &self,
        wanted: &Selection,
        columns: &[&str],
        is: impl Fn(&RecordBatch, usize) -> bool + Clone + Send + 'static,
    ) -> Result<Vec<RecordBatch>, LogError> {
        match self.found(wanted, columns, is.clone()) {
            Err(LogError::Changed(_)) => with_log(&self.data_dir, LogError::is_changed, |log| {
                log.found(wanted, columns, is.clone())
            }),
            done => done,
        }
    }

    fn found(
        &self,
        wanted: &Selection,
        columns: &[&str],
        is: impl Fn(&RecordBatch, usize) -> bool + Clone + Send + 'static,
    ) -> Result<Vec<RecordBatch>, LogError> {
        let rows = |is: &dyn Fn(&RecordBatch, usize) -> bool, table: &RecordBatch| -> BooleanArray {
            (0..table.num_rows()).map(|row| Some(is(table, row))).collect()
        };
        let mut found = Vec::new();
        for path in self.files.iter().filter(|path| wanted.may_be_in(path)) {
            let file = opened(path)?;
            let file = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(ROWS);
            let names: BTreeSet<&str> = columns.iter().copied().collect();
            let roots = file.schema().fields().iter().enumerate();
            let roots = roots.filter(|(_, field)| names.contains(field.name().as_str()));
            let mask = ProjectionMask::roots(file.parquet_schema(), roots.map(|(root, _)| root));
            let is = is.clone();
            let filter = ArrowPredicateFn::new(mask, move |table: RecordBatch| Ok(rows(&is, &table)));
            let tables = file
                .with_row_filter(RowFilter::new(vec![Box::new(filter)]))
                .build()?;
            for table in tables {
                let table = table?;
                if table.num_rows() > 0 {
                    found.push(table);
                }
            }
        }
        for table in &self.unsealed {
            let kept = filter_record_batch(table, &rows(&is, table))?;
            if kept.num_rows() > 0 {
                found.push(kept);
            }
        }
        Ok(found)
    }
}

/// A file of the log.
///
/// Errors: [`LogError::Changed`] for one that is there no more.
fn opened(path: &Path) -> Result<File, LogError> {
    File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LogError::Changed(path.to_owned()),
        _ => LogError::io(path, "reading it")(source),
    })
}

/// Reads a log, and once more from the beginning if files were compacted or removed meanwhile.
///
/// Errors: those of `read`; [`LogError::Changed`] if it changes again and again.
pub fn with_log<T, E: From<LogError>>(
    data_dir: &Path,
    is_changed: impl Fn(&E) -> bool,
    mut read: impl FnMut(&Log) -> Result<T, E>,
) -> Result<T, E> {
    let mut turn = 0;
    loop {
        turn += 1;
        match read(&Log::open(data_dir)?) {
            Err(error) if turn < TURNS && is_changed(&error) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
