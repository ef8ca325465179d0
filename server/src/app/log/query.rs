//! `crossfade log query`: SQL over the whole log, by the DuckDB that is installed.
//!
//! DuckDB is not linked into the server: it would be several times the server's size, and whoever asks questions mostly has it. What
//! is not in a Parquet file yet is written to files in a temporary folder, so that a query sees every record.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use crossfade_inference_log::Log;
use tempfile::TempDir;

use super::exists;
use crate::config::{QueryArgs, TableFormat};

/// DuckDB, with the views `log` and `gap`.
pub(in crate::app) struct Duck {
    program: PathBuf,
    views: String,
    /// Where what is not sealed lies.
    _scratch: TempDir,
}

impl Duck {
    /// Has every record of a data folder ready.
    ///
    /// Errors: a log that cannot be read.
    pub(in crate::app) fn over(data_dir: &Path, program: &Path) -> Result<Self> {
        exists(data_dir)?;
        let scratch = TempDir::new().context("a temporary folder")?;
        let [records, gaps] = Log::open(data_dir)?.files(scratch.path())?;
        let view = |name: &str, files: &[PathBuf]| {
            let files: Vec<String> = files
                .iter()
                .map(|file| quoted(&file.display().to_string()))
                .collect();
            // Folders are named by model, version and day, too; the columns say the same.
            format!(
                "CREATE VIEW {name} AS SELECT * FROM read_parquet([{}], union_by_name = true, hive_partitioning = false);",
                files.join(", ")
            )
        };
        Ok(Self {
            program: program.to_owned(),
            views: view("log", &records) + &view("gap", &gaps),
            _scratch: scratch,
        })
    }

    /// The command that runs a statement.
    pub(in crate::app) fn command(&self, flags: &[&str], sql: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(flags).args(["-c", &self.views, "-c", sql]);
        command
    }

    /// Runs a statement; what it prints goes where this program's does.
    ///
    /// Errors: there is no DuckDB.
    pub(in crate::app) fn run(&self, flags: &[&str], sql: &str) -> Result<bool> {
        match self.command(flags, sql).status() {
            Ok(status) => Ok(status.success()),
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "`{}` is not there: install DuckDB's command line (`pip install duckdb-cli`), or name it with --duckdb",
                self.program.display()
            ),
            Err(error) => Err(error).with_context(|| format!("`{}`", self.program.display())),
        }
    }
}

/// A text as SQL writes it.
pub(in crate::app) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn run(args: &QueryArgs) -> Result<ExitCode> {
    let duck = Duck::over(&args.log.data_dir, &args.duckdb)?;
    let flags: &[&str] = match args.format {
        TableFormat::Table => &[],
        TableFormat::Csv => &["-csv"],
        TableFormat::Json => &["-json"],
    };
    Ok(match duck.run(flags, &args.sql)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
