//! Whether a log is what it claims to be: every file unchanged, and every request recorded or said to be missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crossfade_journal::Hash;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::LogError;
use crate::manifest::{Content, RunMark};
use crate::scan::scan;
use crate::seal::{Read, aside_in, found_in};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// What is not as it was written: a file, and how.
    pub damaged: Vec<String>,
    /// What is missing, and said to be.
    pub gaps: Vec<String>,
    /// Files that are as they were written.
    pub files: u64,
    /// Their rows of inferences, and those in segments that are not sealed yet.
    pub records: u64,
    /// Requests that are missing.
    pub missing: u64,
}

/// A start of a server, over all its segments.
#[derive(Debug, Default)]
struct Run {
    records: u64,
    missing: u64,
    mark: Option<RunMark>,
}

impl Run {
    fn add(&mut self, records: u64, missing: u64, marks: &[RunMark]) {
        self.records += records;
        self.missing += missing;
        for mark in marks {
            if self.mark.is_none_or(|known| mark.received >= known.received) {
                self.mark = Some(*mark);
            }
        }
    }

    /// Whether every request that had finished is a record, or said to be missing.
    fn check(&self, id: Uuid, into: &mut Verified) {
        let Some(mark) = self.mark else { return };
        // A kill may come between the loss of a request and its gap record: the mark says it then.
        let unsaid = mark.lost.saturating_sub(self.missing);
        if unsaid > 0 {
            into.missing += unsaid;
            into.gaps
                .push(format!("{unsaid} requests of run {id}, as its last mark says"));
        }
        let there = self.records + mark.sampled_out + self.missing + unsaid;
        let enough = match mark.last {
            true => there == mark.received,
            // Since that mark there were more: a kill leaves up to a second of them uncounted.
            false => there >= mark.received,
        };
        if !enough {
            into.damaged.push(format!(
                "run {id}: {} requests had finished, and {} are recorded, {} sampled out, {} said to be missing",
                mark.received, self.records, mark.sampled_out, self.missing
            ));
        }
    }
}

/// Checks the log of a data folder; a server may be writing to it.
///
/// Errors: what cannot be read at all, and a manifest whose chain is broken.
pub fn verify(data_dir: &Path) -> Result<Verified, LogError> {
    let content = Content::read(data_dir)?;
    let mut verified = Verified::default();
    let mut runs: BTreeMap<Uuid, Run> = BTreeMap::new();
    for sealed in &content.sealed {
        let run = runs.entry(sealed.run).or_default();
        run.add(sealed.records, sealed.missing, &sealed.marks);
        verified.records += sealed.records;
        verified.missing += sealed.missing;
        if sealed.missing > 0 {
            let segment = sealed.segment;
            verified
                .gaps
                .push(format!("{} requests in segment {segment}", sealed.missing));
        }
    }
    let mut now = None;
    for file in content.files.values() {
        match fs::read(data_dir.join(&file.path)) {
            Ok(bytes) if Hash(Sha256::digest(&bytes).into()) == file.sha256 => verified.files += 1,
            Ok(_) => verified
                .damaged
                .push(format!("{}: not the bytes that were written", file.path)),
            Err(error) => {
                // Compacted or removed meanwhile, or not there although it should be.
                if now.is_none() {
                    now = Some(Content::read(data_dir)?);
                }
                if now.as_ref().is_some_and(|now| now.files.contains_key(&file.path)) {
                    verified.damaged.push(format!("{}: {error}", file.path));
                }
            }
        }
    }
    for path in aside_in(data_dir)? {
        let line = format!("{}: a segment that could not be read, put aside", path.display());
        verified.damaged.push(line);
    }
    for path in found_in(data_dir)? {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // Sealed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(LogError::io(&path, "reading it")(source)),
        };
        let Ok(found) = scan(&bytes) else {
            if bytes.iter().any(|byte| *byte != 0) {
                verified.damaged.push(format!("{}: no segment", path.display()));
            }
            continue;
        };
        if content.segments.contains(&found.header.id) {
            continue;
        }
        let read = Read::of(&found);
        // A hole at its end may be a record that is being written.
        let missing = read.gaps.iter().map(|gap| gap.count).sum::<u64>();
        let records = read.rows.len() as u64;
        runs.entry(found.header.run)
            .or_default()
            .add(records, missing, &read.marks);
        verified.records += records;
    }
    for (id, run) in &runs {
        run.check(*id, &mut verified);
    }
    Ok(verified)
}

#[cfg(test)]
mod tests;
