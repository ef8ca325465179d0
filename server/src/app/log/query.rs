//! `crossfade log query`: SQL over the whole log, by the DuckDB that is installed.
//!
//! DuckDB is not linked into the server: it would be several times the server's size, and whoever asks questions mostly has it. What
//! is not in a Parquet file yet, or is encrypted, it reads from files in memory, so that a query sees every record and nothing lies on
//! the disk as it is.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use crossfade_inference_log::{Log, Readable, in_memory, memory};

use super::{exists, keys};
use crate::app::raise_open_files;
use crate::config::{LogArgs, QueryArgs, TableFormat};

/// DuckDB, with the views `log`, `gap` and `correction`.
pub(in crate::app) struct Duck {
    program: PathBuf,
    /// What makes the views, as a file in memory: of many files it is longer than a command line may be.
    views: File,
    /// What lies in memory, and goes with it.
    _files: [Vec<Readable>; 3],
}

impl Duck {
    /// Has every record of a data folder ready.
    ///
    /// Errors: a log that cannot be read.
    pub(in crate::app) fn over(log: &LogArgs, program: &Path) -> Result<Self> {
        exists(&log.data_dir)?;
        // One in memory for each that is encrypted.
        raise_open_files();
        let keys = keys(log)?;
        let files = Log::open(&log.data_dir, &keys)?.readable()?;
        let view = |name: &str, files: &[Readable]| {
            let files: Vec<String> = files
                .iter()
                .map(|file| quoted(&file.path().display().to_string()))
                .collect();
            // Folders are named by model, version and day, too; the columns say the same.
            format!(
                "CREATE VIEW {name} AS SELECT * FROM read_parquet([{}], union_by_name = true, hive_partitioning = false);",
                files.join(", ")
            )
        };
        let mut views = memory("crossfade-views")?;
        if !keys.is_none() {
            // Else what has no room in memory would lie on the disk as it is.
            writeln!(views, "SET temp_directory = '';")?;
        }
        for (name, files) in ["log", "gap", "correction"].into_iter().zip(&files) {
            writeln!(views, "{}", view(name, files))?;
        }
        Ok(Self {
            program: program.to_owned(),
            views,
            _files: files,
        })
    }

    /// Runs a statement; what it prints goes where this program's does. Returns whether DuckDB took it.
    ///
    /// Errors: there is no DuckDB.
    pub(in crate::app) fn run(&self, flags: &[&str], sql: &str) -> Result<bool> {
        let mut command = Command::new(&self.program);
        let views = format!(".read {}", in_memory(&self.views).display());
        command.args(flags).args(["-c", &views, "-c", sql]);
        match command.status() {
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
    let duck = Duck::over(&args.log, &args.duckdb)?;
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
