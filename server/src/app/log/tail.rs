//! `crossfade log tail`: the last records, and those that come.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use crossfade_inference_log::{Follower, Log, write_lines};

use super::{exists, keys, selection};
use crate::config::TailArgs;

/// Between two looks for records that came.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn run(args: &TailArgs) -> Result<ExitCode> {
    let data_dir = &args.log.data_dir;
    exists(data_dir)?;
    let wanted = selection(&args.which);
    // Before the records that are there are read: what comes meanwhile is shown, at worst twice.
    let keys = keys(&args.log)?;
    let follower = args
        .follow
        .then(|| Follower::from_now(data_dir, &keys))
        .transpose()?;
    let tables = Log::open(data_dir, &keys)?.newest(&wanted, args.lines)?;
    let lines = lines(&tables)?;
    let last = lines.len().saturating_sub(args.lines);
    show(lines.iter().skip(last))?;
    let Some(mut follower) = follower else {
        return Ok(ExitCode::SUCCESS);
    };
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    loop {
        let tables = follower.poll()?;
        if tables.is_empty() {
            waiting.block_on(async { tokio::time::sleep(LOOK).await });
            continue;
        }
        let kept: Result<Vec<RecordBatch>, _> = tables.iter().map(|table| wanted.of(table)).collect();
        if !show(self::lines(&kept?)?.iter())? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The records of all tables as lines, in the order of time.
fn lines(tables: &[RecordBatch]) -> Result<Vec<String>> {
    let mut timed = Vec::new();
    for table in tables {
        let mut text = Vec::new();
        write_lines(table, &mut text)?;
        let text = String::from_utf8(text)?;
        let times = table
            .column_by_name("ts")
            .map(|column| column.as_primitive::<TimestampMicrosecondType>());
        let times = times.map_or(&[][..], |times| times.values());
        timed.extend(times.iter().copied().zip(text.lines().map(str::to_owned)));
    }
    timed.sort_by_key(|(at, _)| *at);
    Ok(timed.into_iter().map(|(_, line)| line).collect())
}

/// Prints lines; returns whether anyone reads them.
fn show<'a>(lines: impl Iterator<Item = &'a String>) -> Result<bool> {
    let mut out = io::stdout().lock();
    for line in lines {
        match writeln!(out, "{line}") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        flushed => Ok(flushed.map(|()| true)?),
    }
}
