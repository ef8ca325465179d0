//! The audit as JSON Lines: one record per line in canonical JSON, verifiable without the server.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use super::chain::Chain;
use super::record::{AuditProblem, AuditRecord};
use crate::error::Error;
use crate::frame::MAX_PAYLOAD_BYTES;
use crate::hash::Head;

/// The most bytes of a line: a record and its hash.
const MAX_LINE_BYTES: usize = MAX_PAYLOAD_BYTES + 128;

/// Writes `records` to `out`, one per line; returns the last one's place, or `None` without records.
///
/// Errors: the first error of `records`; [`Error::Io`] naming `path`, which is where `out` goes.
pub fn write(
    records: impl Iterator<Item = Result<AuditRecord, Error>>,
    out: &mut impl Write,
    path: &Path,
) -> Result<Option<Head>, Error> {
    let mut last = None;
    for (index, record) in records.enumerate() {
        let record = record?;
        let line = record.line().map_err(|problem| Error::Audit {
            path: path.to_path_buf(),
            seq: record.seq,
            line: index as u64 + 1,
            problem,
        })?;
        writeln!(out, "{line}").map_err(|error| Error::io(path, "write", error))?;
        last = Some(record.head());
    }
    out.flush().map_err(|error| Error::io(path, "write", error))?;
    Ok(last)
}

/// Checks an export, every byte of it, and returns its last record's place.
///
/// * `after`: the record that the first line follows; [`Head::EMPTY`] for a whole audit
/// * `expected`: a head that was signed or exported earlier; without it a missing end goes unseen
/// * `path`: what errors name
///
/// Errors: [`Error::Audit`] names the first bad record and its line; [`Error::Io`].
pub fn verify(
    mut input: impl BufRead,
    path: &Path,
    after: Head,
    expected: Option<Head>,
) -> Result<Head, Error> {
    let mut line = 1;
    let at = |problem, seq, line| Error::Audit {
        path: path.to_path_buf(),
        seq,
        line,
        problem,
    };
    let mut chain = Chain::new(after, expected).map_err(|problem| at(problem, after.seq, line))?;
    let mut text = Vec::new();
    loop {
        let next = chain.head().seq.saturating_add(1);
        let whole = read_line(&mut input, &mut text).map_err(|error| Error::io(path, "read", error))?;
        if text.is_empty() && !whole {
            return chain
                .finish()
                .map(|()| chain.head())
                .map_err(|problem| at(problem, next, line));
        }
        check(&mut chain, &text, whole).map_err(|problem| at(problem, next, line))?;
        line += 1;
    }
}

fn check(chain: &mut Chain, text: &[u8], whole: bool) -> Result<(), AuditProblem> {
    if !whole {
        return Err(AuditProblem::Line);
    }
    chain.accept(&AuditRecord::from_line(text)?)
}

/// Reads a line without its line feed; returns whether it had one within the limit.
fn read_line(input: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    input.take(MAX_LINE_BYTES as u64).read_until(b'\n', text)?;
    let whole = text.last() == Some(&b'\n');
    if whole {
        text.pop();
    }
    Ok(whole)
}

#[cfg(test)]
mod tests;
