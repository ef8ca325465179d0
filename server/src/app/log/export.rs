//! `crossfade log export`: records for other programs: all of them, a training set, or when they came.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use crossfade_inference_log::{Labels, Log, LogError, Selection, export, with_log, write_lines};

use super::{exists, keys, selection};
use crate::app::say;
use crate::config::LogExportArgs;
use crate::recorder::{Pepper, pepper_in, restricted_in};

pub(super) fn run(args: &LogExportArgs) -> Result<ExitCode> {
    let data_dir = &args.log.data_dir;
    exists(data_dir)?;
    let is_changed = |error: &anyhow::Error| error.downcast_ref().is_some_and(LogError::is_changed);
    let rows = with_log(data_dir, &keys(&args.log)?, is_changed, |log| write(args, log))?;
    say(&format!("{rows} records in `{}`", args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes what is wanted; returns how many records that are.
fn write(args: &LogExportArgs, log: &Log) -> Result<usize> {
    let mut wanted = selection(&args.which);
    if let Some(subject) = &args.subject {
        let named = args.pepper_file.clone();
        let path = named.unwrap_or_else(|| pepper_in(&args.log.data_dir));
        let pepper = Pepper::read(&path)
            .with_context(|| format!("`{}`; name it with --pepper-file", path.display()))?;
        wanted.subject_key = Some(pepper.subject(subject.as_bytes()));
    } else {
        // A person gets what is known of them, whatever else they have asked for.
        wanted.without = restricted_in(&args.log.data_dir)?;
    }
    let extension = args.out.extension().and_then(|extension| extension.to_str());
    let rows = match (args.arrivals, extension) {
        (true, _) => arrivals(log, &wanted, &args.out)?,
        (false, Some("parquet")) => {
            let labels = args
                .joined
                .then(|| Labels::read(&args.log.data_dir))
                .transpose()?;
            export(log, &wanted, labels.as_ref(), &args.out)?
        }
        (false, Some("jsonl")) if !args.joined => lines(log, &wanted, &args.out)?,
        (false, _) if args.joined => bail!(
            "--out `{}`: a training set is a .parquet file",
            args.out.display()
        ),
        (false, _) => bail!(
            "--out `{}`: the name has to end in .parquet or .jsonl",
            args.out.display()
        ),
    };
    Ok(rows)
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(BufWriter::new(file))
}

fn lines(log: &Log, wanted: &Selection, to: &Path) -> Result<usize> {
    let mut file = create(to)?;
    let mut rows = 0;
    log.each(wanted, |table| {
        rows += table.num_rows();
        write_lines(table, &mut file)
    })?;
    if wanted.subject_key.is_some() {
        for table in log.corrections(wanted)? {
            rows += table.num_rows();
            write_lines(&table, &mut file)?;
        }
    }
    file.flush()?;
    Ok(rows)
}

/// Seconds since the first request, one per line.
fn arrivals(log: &Log, wanted: &Selection, to: &Path) -> Result<usize> {
    let mut times = Vec::new();
    log.each(wanted, |table| -> Result<()> {
        // What was copied to a version in shadow came from nobody.
        let stages = table
            .column_by_name("stage")
            .map(|column| column.as_string::<i32>());
        let at = table
            .column_by_name("ts")
            .map(|column| column.as_primitive::<TimestampMicrosecondType>());
        if let (Some(stages), Some(at)) = (stages, at) {
            let came = stages
                .iter()
                .zip(at.values())
                .filter(|(stage, _)| *stage != Some("shadow"));
            times.extend(came.map(|(_, at)| *at));
        }
        Ok(())
    })?;
    times.sort_unstable();
    let Some(first) = times.first().copied() else {
        bail!("no request is meant: look at --model, --version, --since and --until");
    };
    let mut file = create(to)?;
    for at in &times {
        let since = u64::try_from(at - first).unwrap_or_default();
        writeln!(file, "{}.{:06}", since / 1_000_000, since % 1_000_000)?;
    }
    file.flush()?;
    Ok(times.len())
}
