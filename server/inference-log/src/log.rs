//! The whole log of a data folder: what is in files, and what is not sealed yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowFilter};
use rustix::fs::{MemfdFlags, memfd_create};
use uuid::Uuid;

use crate::correction::{self, Correction};
use crate::error::{KeyError, LogError};
use crate::gap::Gap;
use crate::keys::Keys;
use crate::manifest::Content;
use crate::scan::scan;
use crate::schema::Schemas;
use crate::seal::{Read, date, found_in, schemas_in};
use crate::table::{Rows, gaps, grouped};
use crate::table_file::{self, SUBJECT};

/// How often a log is read that changes while it is.
const TURNS: usize = 5;

/// A log, as it was when it was opened; a server may be writing to it.
pub struct Log {
    data_dir: PathBuf,
    keys: Keys,
    files: Vec<TableFile>,
    gaps: Vec<TableFile>,
    corrections: Vec<TableFile>,
    unsealed: Vec<RecordBatch>,
    unsealed_gaps: Vec<Gap>,
}

/// A Parquet file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TableFile {
    path: PathBuf,
    /// The data key that it is encrypted with.
    key: Option<Uuid>,
}

/// A Parquet file for other programs.
#[derive(Debug)]
pub enum Readable {
    /// One of the log's.
    At(PathBuf),
    /// A file in memory, which goes with this.
    Memory(File),
}

impl Readable {
    /// Where programs of the same user find it while this process runs.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::At(path) => path.clone(),
            Self::Memory(file) => in_memory(file),
        }
    }

    fn made(tables: &[RecordBatch]) -> Result<Self, LogError> {
        let schema = tables
            .first()
            .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        Self::of(schema, tables.iter().map(|table| Ok(table.clone())))
    }

    fn copied(from: ParquetRecordBatchReaderBuilder<File>) -> Result<Self, LogError> {
        let schema = from.schema().clone();
        Self::of(schema, from.build()?)
    }

    fn of(
        schema: SchemaRef,
        tables: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> Result<Self, LogError> {
        let name = "crossfade-log";
        let memory = memory(name).map_err(LogError::io(Path::new(name), "making a file in memory"))?;
        let mut writer = table_file::writer_to(memory, schema, None)?;
        for table in tables {
            writer.write(&table?)?;
        }
        Ok(Self::Memory(writer.into_inner()?))
    }
}

/// An empty file in memory.
///
/// Errors: the system's.
pub fn memory(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Where programs of the same user find a file in memory, while this process has it open.
pub fn in_memory(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
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
    /// And about none of these.
    pub without: BTreeSet<[u8; 16]>,
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
            let own = subjects.filter(|subjects| subjects.is_valid(row));
            let own = own.map(|subjects| subjects.value(row));
            self.subject_key.is_none_or(|key| own == Some(&key[..]))
                && (self.without.is_empty()
                    || own.is_none_or(|own| !self.without.iter().any(|other| own == other)))
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
    /// * `keys`: what opens those that are encrypted
    ///
    /// Errors: what cannot be read; a manifest whose chain is broken.
    pub fn open(data_dir: &Path, keys: &Keys) -> Result<Self, LogError> {
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
            let Ok(mut found) = scan(bytes) else { continue };
            if content.segments.contains(&found.header.id) {
                continue;
            }
            found.decrypt(keys)?;
            let read = Read::of(&found);
            for group in grouped(read.rows, &schemas, found.header.replica())? {
                unsealed.push(group.table);
            }
            unsealed_gaps.extend(read.gaps);
        }
        Ok(Self {
            unsealed,
            unsealed_gaps,
            ..Self::sealed(data_dir, &content, keys)
        })
    }

    /// The part of a log that is in files.
    pub(crate) fn sealed(data_dir: &Path, content: &Content, keys: &Keys) -> Self {
        let under = |top: &str| {
            let files = content.files.values().filter(|file| file.path.starts_with(top));
            let mut files: Vec<TableFile> = files
                .map(|file| TableFile {
                    path: data_dir.join(&file.path),
                    key: file.key,
                })
                .collect();
            // As they were written, day after day, whatever model they are of.
            files.sort_by_key(|file| file.path.file_name().map(ToOwned::to_owned));
            files
        };
        Self {
            data_dir: data_dir.to_owned(),
            keys: keys.clone(),
            files: under("log/"),
            gaps: under("gap/"),
            corrections: under(correction::FOLDER),
            unsealed: Vec::new(),
            unsealed_gaps: Vec::new(),
        }
    }

    /// Parquet files that any program reads, and that hold all there is: those of the log, and files in memory for what is not sealed
    /// yet and for what is encrypted. Of each kind there is at least one, which may have no row: of records, of gaps, of corrections.
    ///
    /// Errors: what cannot be read.
    /// Cost: of a log that is encrypted, reads and writes all of it, and holds as many bytes in memory.
    pub fn readable(&self) -> Result<[Vec<Readable>; 3], LogError> {
        let mut records = vec![Readable::made(&[Rows::none()?])?];
        self.add(&self.files, &mut records)?;
        for table in &self.unsealed {
            records.push(Readable::made(std::slice::from_ref(table))?);
        }
        let mut missing = vec![Readable::made(&[gaps(&self.unsealed_gaps)?])?];
        self.add(&self.gaps, &mut missing)?;
        let mut corrections = vec![Readable::made(&[Correction::table(&[])?])?];
        self.add(&self.corrections, &mut corrections)?;
        Ok([records, missing, corrections])
    }

    fn add(&self, files: &[TableFile], to: &mut Vec<Readable>) -> Result<(), LogError> {
        for file in files {
            to.push(match file.key {
                None => Readable::At(file.path.clone()),
                Some(_) => Readable::copied(self.reader(file)?)?,
            });
        }
        Ok(())
    }

    /// What was put right of the records that are wanted, in tables of one file each.
    ///
    /// Errors: what cannot be read.
    pub fn corrections(&self, wanted: &Selection) -> Result<Vec<RecordBatch>, LogError> {
        let mut found = Vec::new();
        for file in &self.corrections {
            for table in self.reader(file)?.build()? {
                let kept = wanted.of(&table?)?;
                if kept.num_rows() > 0 {
                    found.push(kept);
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    fn reader(&self, file: &TableFile) -> Result<ParquetRecordBatchReaderBuilder<File>, LogError> {
        // Which key is missing is said here; the file would only say that one is.
        match self.keys.find(file.key.unwrap_or_default()) {
            Ok(_) => {}
            // It went with the last file that it opened.
            Err(KeyError::Gone(_)) if !file.path.exists() => {
                return Err(LogError::Changed(file.path.clone()));
            }
            Err(error) => return Err(error.into()),
        }
        table_file::reader(&file.path, &self.keys)
    }

    /// Shows the records that are wanted, in tables of one file each, those of the oldest segment first.
    ///
    /// Errors: what cannot be read, [`LogError::Changed`] among it; those of `show`.
    pub fn each<E: From<LogError>>(
        &self,
        wanted: &Selection,
        mut show: impl FnMut(&RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for file in self.files.iter().filter(|file| wanted.may_be_in(&file.path)) {
            let tables = self.reader(file)?.build();
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
            Err(LogError::Changed(_)) => with_log(&self.data_dir, &self.keys, LogError::is_changed, |log| {
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
        let files = self.files.iter().rev();
        for file in files.filter(|file| wanted.may_be_in(&file.path)) {
            if count >= rows {
                break;
            }
            for table in self.reader(file)?.build()? {
                let table = table?;
                let kept = wanted.of(&table)?;
                count += kept.num_rows();
                tables.push(kept);
            }
        }
        Ok(tables)
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
            Err(LogError::Changed(_)) => with_log(&self.data_dir, &self.keys, LogError::is_changed, |log| {
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
        for file in self.files.iter().filter(|file| wanted.may_be_in(&file.path)) {
            let file = self.reader(file)?;
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

/// Reads a log, and once more from the beginning if files were compacted or removed meanwhile.
///
/// Errors: those of `read`; [`LogError::Changed`] if it changes again and again.
pub fn with_log<T, E: From<LogError>>(
    data_dir: &Path,
    keys: &Keys,
    is_changed: impl Fn(&E) -> bool,
    mut read: impl FnMut(&Log) -> Result<T, E>,
) -> Result<T, E> {
    let mut turn = 0;
    loop {
        turn += 1;
        match read(&Log::open(data_dir, keys)?) {
            Err(error) if turn < TURNS && is_changed(&error) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
