//! Data sets of gates: rows of inputs whose answers or labels are known, from pairs of JSON files or from a Parquet file
//! (rollout.md §6).
//!
//! `pairs` reads a folder, `table` a Parquet file and `column` one value of it, `label` says what a right answer is.
//! Cases come one after the other, so that a file may be larger than memory; what is wrong is named by file, column
//! and row.
//!
//! What is absent: nothing is sent to a model here, and nothing is judged.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crossfade_runtimes_core::{ModelSignature, Tensor};
use sha2::{Digest, Sha256};

mod column;
mod label;
mod pairs;
mod table;

pub(crate) use label::Label;
pub(crate) use table::Table;

/// A request and what is known of its answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    /// What to call it: a file's name or `row 7`.
    pub(crate) name: String,
    /// By name, not yet checked against a signature.
    pub(crate) inputs: Vec<(String, Tensor)>,
    /// The outputs that it must get, by name; empty where nobody asked for them.
    pub(crate) outputs: Vec<(String, Tensor)>,
    /// One for each row of the request; empty where nobody asked for them.
    pub(crate) labels: Vec<Label>,
}

/// What a case must hold besides its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing.
    Inputs,
    /// The outputs that it must get.
    Outputs,
    /// The labels of its rows.
    Labels,
}

/// For whom a data set is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    /// What columns are read as.
    pub(crate) signature: &'a ModelSignature,
    /// Outputs that are said to be of another version are passed over.
    pub(crate) version: u64,
    /// What a case must hold.
    pub(crate) want: Want,
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    /// A file or folder cannot be read.
    #[error("`{}`: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}`: {problem}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A column is missing, or of a type that the model's tensor cannot be made of.
    #[error("`{}`: column `{column}`: {problem}", .path.display())]
    Column {
        /// In which file.
        path: PathBuf,
        /// Its name.
        column: String,
        /// What is wrong.
        problem: String,
    },
    /// A value cannot be used.
    #[error("`{}`: column `{column}`, row {row}: {problem}", .path.display())]
    Value {
        /// In which file.
        path: PathBuf,
        /// Of which column.
        column: String,
        /// The first is 1.
        row: usize,
        /// What is wrong.
        problem: String,
    },
}

/// The cases of a data set, in its order.
pub(crate) type Cases<'a> = Box<dyn Iterator<Item = Result<Case, DatasetError>> + 'a>;

/// Opens a folder of JSON pairs, or a Parquet file.
///
/// Errors: what cannot be read, a column that does not fit. Later ones come with the cases.
pub(crate) fn open<'a>(path: &Path, reading: Reading<'a>) -> Result<Cases<'a>, DatasetError> {
    let failed = |source| DatasetError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        return pairs::cases(path, reading);
    }
    let file = File::open(path).map_err(failed)?;
    Ok(Box::new(Table::open(path, file, reading)?))
}

/// sha256 of a file's bytes, hexadecimal.
///
/// Errors: what the system says.
pub(crate) fn digest_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
