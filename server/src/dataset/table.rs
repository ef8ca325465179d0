//! A data set in a Parquet file: columns `in.NAME`, `out.NAME` and `label`, one request per row.
//!
//! Columns of other names are passed over, so that a file may carry ids and notes. Types come from Parquet's own
//! schema; what other tools write beside it is not needed and not read.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;

use super::column::{self, Problem};
use super::{Case, DatasetError, Reading, Want};
use crossfade_runtimes_core::TensorSpec;

/// Rows that are decoded at once: enough to be quick, few enough that rows of images fit.
const ROWS: usize = 64;

/// What a column is for.
#[derive(Debug, Clone)]
enum Role {
    /// An input of the signature.
    Input(TensorSpec),
    /// An output of the signature.
    Output(TensorSpec),
    /// The right answer.
    Label,
}

/// A column that is read.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    role: Role,
}

/// The cases of a Parquet file.
pub(crate) struct Table {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    /// In the order of the batches' columns.
    columns: Vec<Column>,
    /// Whether a row is one row of a batch.
    batched: bool,
    batch: Option<RecordBatch>,
    /// The next row, in the batch and in the file.
    next: usize,
    row: usize,
    failed: bool,
}

impl Table {
    /// Opens a file; `path` is what errors call it.
    ///
    /// Errors: it is no Parquet file; a required column is missing; a column for a tensor that the model does not have.
    pub(crate) fn open(
        path: &Path,
        file: impl ChunkReader + 'static,
        reading: Reading<'_>,
    ) -> Result<Self, DatasetError> {
        let broken = |problem: String| DatasetError::File {
            path: path.to_owned(),
            problem,
        };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))
            .map_err(|error| broken(format!("it cannot be read as Parquet: {error}")))?;
        check_places(builder.metadata()).map_err(&broken)?;
        let names = builder
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        let (roots, columns) = columns(names, reading).map_err(|(column, problem)| DatasetError::Column {
            path: path.to_owned(),
            column,
            problem,
        })?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader = guarded(|| builder.with_batch_size(ROWS).with_projection(mask).build());
        let reader = reader.map_err(broken)?;
        Ok(Table {
            path: path.to_owned(),
            reader,
            columns,
            batched: reading.signature.batched,
            batch: None,
            next: 0,
            row: 0,
            failed: false,
        })
    }

    /// The next row.
    fn case(&mut self) -> Result<Option<Case>, DatasetError> {
        while self
            .batch
            .as_ref()
            .is_none_or(|batch| self.next >= batch.num_rows())
        {
            let batch = guarded(|| self.reader.next().transpose()).map_err(|error| DatasetError::File {
                path: self.path.clone(),
                problem: format!("after row {}: {error}", self.row),
            })?;
            let Some(batch) = batch else {
                return Ok(None);
            };
            (self.batch, self.next) = (Some(batch), 0);
        }
        let Some(batch) = &self.batch else {
            return Ok(None);
        };
        self.row += 1;
        let mut case = Case {
            name: format!("row {}", self.row),
            inputs: Vec::new(),
            outputs: Vec::new(),
            labels: Vec::new(),
        };
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            let named = |problem: Problem| match problem {
                Problem::Type(problem) => DatasetError::Column {
                    path: self.path.clone(),
                    column: column.name.clone(),
                    problem,
                },
                Problem::Value(problem) => DatasetError::Value {
                    path: self.path.clone(),
                    column: column.name.clone(),
                    row: self.row,
                    problem,
                },
            };
            match &column.role {
                Role::Label => {
                    let label = column::label(array, self.next).map_err(named)?;
                    case.labels.push(label);
                }
                // Left out, as a request may leave it out.
                Role::Input(spec) if spec.optional && array.is_null(self.next) => {}
                Role::Input(spec) => {
                    let tensor = column::tensor(array, self.next, spec, self.batched).map_err(named)?;
                    case.inputs.push((spec.name.to_string(), tensor));
                }
                Role::Output(spec) => {
                    let tensor = column::tensor(array, self.next, spec, self.batched).map_err(named)?;
                    case.outputs.push((spec.name.to_string(), tensor));
                }
            }
        }
        self.next += 1;
        Ok(Some(case))
    }
}

impl Iterator for Table {
    type Item = Result<Case, DatasetError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let case = self.case().transpose();
        self.failed = matches!(case, Some(Err(_)));
        case
    }
}

/// What the library makes of a file; of one that it panics on, too.
fn guarded<T, E: Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("it is damaged: the Parquet library panicked on it; the log has where".to_owned()),
    }
}

/// Errors: a column that begins before the file or has less than no bytes, on which the library panics.
fn check_places(metadata: &ParquetMetaData) -> Result<(), String> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    for column in columns {
        let places = [
            column.dictionary_page_offset().unwrap_or_default(),
            column.data_page_offset(),
            column.compressed_size(),
        ];
        if places.iter().any(|place| *place < 0) {
            let path = column.column_path();
            return Err(format!(
                "column {path} is damaged: its place in the file is negative"
            ));
        }
    }
    Ok(())
}

/// The columns to read, and their positions; or the column that is wrong, and why.
fn columns<'n>(
    names: impl Iterator<Item = &'n str>,
    reading: Reading<'_>,
) -> Result<(Vec<usize>, Vec<Column>), (String, String)> {
    let signature = reading.signature;
    let (mut roots, mut columns) = (Vec::<usize>::new(), Vec::<Column>::new());
    for (root, name) in names.enumerate() {
        let find = |specs: &[TensorSpec], tensor: &str, kind: &str| {
            let found = specs.iter().find(|spec| &*spec.name == tensor).cloned();
            found.ok_or_else(|| (name.to_owned(), format!("the model has no {kind} `{tensor}`")))
        };
        let role = match (name.split_once('.'), reading.want) {
            (Some(("in", tensor)), _) => Role::Input(find(&signature.inputs, tensor, "input")?),
            (Some(("out", tensor)), Want::Outputs) => {
                Role::Output(find(&signature.outputs, tensor, "output")?)
            }
            (None, Want::Labels) if name == "label" => Role::Label,
            _ => continue,
        };
        if columns.iter().any(|column| column.name == name) {
            return Err((name.to_owned(), "it is there twice".to_owned()));
        }
        roots.push(root);
        columns.push(Column {
            name: name.to_owned(),
            role,
        });
    }
    let there = |name: &str| columns.iter().any(|column| column.name == name);
    let missing = "it is missing".to_owned();
    for spec in signature.inputs.iter().filter(|spec| !spec.optional) {
        let name = format!("in.{}", spec.name);
        if !there(&name) {
            return Err((name, missing));
        }
    }
    let answered = |column: &Column| matches!(column.role, Role::Output(_));
    match reading.want {
        Want::Outputs if !columns.iter().any(answered) => Err((
            "out.*".to_owned(),
            "there is none: name each as `out.` and the output's name".to_owned(),
        )),
        Want::Labels if !there("label") => Err(("label".to_owned(), missing)),
        _ => Ok((roots, columns)),
    }
}
