//! `crossfade log`: the inference log without a server; all but `seal` also beside one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossfade_inference_log::{Keys, Selection, segments_in, verify};

use super::say;
use crate::config::{LogArgs, LogCommand, WhichArgs};
use crate::data_dir::DataDir;
use crate::recorder::{keys_to_read, seal_all};

mod export;
mod query;
mod tail;

pub(super) use query::{Duck, quoted};

/// More than is shown of anything.
const SHOWN: usize = 20;

/// Runs one of them.
///
/// Errors: a log that cannot be read, a data folder that a server uses.
pub(super) fn run(command: &LogCommand) -> Result<ExitCode> {
    match command {
        LogCommand::Verify(args) => verified(args),
        LogCommand::Seal(args) => seal(args),
        LogCommand::Query(args) => query::run(args),
        LogCommand::Tail(args) => tail::run(args),
        LogCommand::Export(args) => export::run(args),
        LogCommand::Keys(args) => show_keys(args),
    }
}

fn verified(args: &LogArgs) -> Result<ExitCode> {
    exists(&args.data_dir)?;
    let found = verify(&args.data_dir, &keys(args)?)?;
    say(&format!(
        "{} records were written, {} files are as they were",
        found.records, found.files
    ));
    list("missing", &found.gaps);
    list("damaged", &found.damaged);
    Ok(match (found.damaged.is_empty(), found.missing) {
        (false, _) => ExitCode::from(1),
        (true, 0) => ExitCode::SUCCESS,
        (true, missing) => {
            say(&format!("{missing} requests are missing, and the log says so"));
            ExitCode::from(2)
        }
    })
}

fn list(what: &str, lines: &[String]) {
    for line in lines.iter().take(SHOWN) {
        say(&format!("{what}: {line}"));
    }
    if let Some(more) = lines.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        say(&format!("{what}: and {more} more"));
    }
}

fn seal(args: &LogArgs) -> Result<ExitCode> {
    exists(&args.data_dir)?;
    let _held = DataDir::open(&args.data_dir)?;
    let rows = seal_all(&args.data_dir, &keys(args)?)?;
    say(&format!("{rows} records are in Parquet files now"));
    Ok(ExitCode::SUCCESS)
}

/// Errors: there is no log.
pub(super) fn exists(data_dir: &Path) -> Result<()> {
    if segments_in(data_dir).is_dir() {
        return Ok(());
    }
    bail!(
        "there is no inference log in the data folder `{}`; name the server's with --data-dir",
        data_dir.display()
    )
}

/// What opens a log that is encrypted.
///
/// Errors: a key that cannot be read, or is not that of this log.
pub(super) fn keys(args: &LogArgs) -> Result<Keys> {
    Ok(keys_to_read(&args.data_dir, &args.log_key)?)
}

/// Prints what opens the Parquet files.
fn show_keys(args: &LogArgs) -> Result<ExitCode> {
    exists(&args.data_dir)?;
    for (id, secret) in keys(args)?.of_files() {
        say(&format!("{id} {}", STANDARD.encode(secret)));
    }
    Ok(ExitCode::SUCCESS)
}

/// The records that are meant.
fn selection(which: &WhichArgs) -> Selection {
    Selection {
        model: which.model.clone(),
        version: which.version.clone(),
        since_us: which.since,
        until_us: which.until,
        ..Selection::default()
    }
}
