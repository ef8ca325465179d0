//! Whether a log is what it claims to be: every file unchanged, and every request recorded or said to be missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::error::{KeyError, LogError};
use crate::keys::Keys;
use crate::manifest::{Content, RunMark, Sealed};
use crate::scan::scan;
use crate::seal::{Read, aside_in, digest, found_in};

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

/// Checks the log of a data folder; a server may be writing to it. Needs no key: checksums and digests are of what is encrypted.
///
/// * `keys`: also whether records that are not sealed yet are what was encrypted
///
/// Errors: what cannot be read at all, and a manifest whose chain is broken.
pub fn verify(data_dir: &Path, keys: &Keys) -> Result<Verified, LogError> {
    let mut verified = Verified::default();
    for path in aside_in(data_dir)? {
        let line = format!("{}: a segment that could not be read, put aside", path.display());
        verified.damaged.push(line);
    }
    // Segments first: what is sealed meanwhile is in the manifest then, and is told by its id.
    let open = open_segments(data_dir, keys, &mut verified)?;
    let content = Content::read(data_dir)?;
    let mut runs: BTreeMap<Uuid, Run> = BTreeMap::new();
    let unsealed = open
        .into_iter()
        .filter(|segment| !content.segments.contains(&segment.segment));
    for part in content.sealed.iter().cloned().map(Part::from).chain(unsealed) {
        runs.entry(part.run)
            .or_default()
            .add(part.records, part.missing, &part.marks);
        verified.records += part.records;
        verified.missing += part.missing;
        verified.damaged.extend(part.damaged);
        if part.missing > 0 {
            let (missing, segment) = (part.missing, part.segment);
            verified
                .gaps
                .push(format!("{missing} requests in segment {segment}"));
        }
    }
    for (id, run) in &runs {
        run.check(*id, &mut verified);
    }
    let mut now = None;
    for file in content.files.values() {
        match digest(&data_dir.join(&file.path)) {
            Ok((sha256, _)) if sha256 == file.sha256 => verified.files += 1,
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
    Ok(verified)
}

/// What one segment adds to its run.
struct Part {
    segment: Uuid,
    run: Uuid,
    records: u64,
    missing: u64,
    marks: Vec<RunMark>,
    damaged: Vec<String>,
}

impl From<Sealed> for Part {
    fn from(sealed: Sealed) -> Self {
        Self {
            segment: sealed.segment,
            run: sealed.run,
            records: sealed.records,
            missing: sealed.missing,
            marks: sealed.marks,
            damaged: Vec::new(),
        }
    }
}

/// The segments that lie there.
fn open_segments(data_dir: &Path, keys: &Keys, verified: &mut Verified) -> Result<Vec<Part>, LogError> {
    let mut parts = Vec::new();
    for path in found_in(data_dir)? {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // Sealed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(LogError::io(&path, "reading it")(source)),
        };
        let Ok(mut found) = scan(&bytes) else {
            if bytes.iter().any(|byte| *byte != 0) {
                verified.damaged.push(format!("{}: no segment", path.display()));
            }
            continue;
        };
        let forged = match keys.is_none() {
            true => Vec::new(),
            false => match found.decrypt(keys) {
                Ok(forged) => forged,
                Err(error @ KeyError::Gone(_)) => {
                    verified.damaged.push(format!("{}: {error}", path.display()));
                    Vec::new()
                }
                Err(error) => return Err(error.into()),
            },
        };
        let read = Read::of(&found);
        // One at the end may be a record that is being written.
        let holes = found.holes.iter();
        let writing = holes
            .clone()
            .filter(|hole| hole.records.is_none() && !hole.is_changed)
            .count() as u64;
        let changed = holes.filter(|hole| hole.is_changed).map(|hole| hole.offset);
        let changed = changed
            .chain(found.filled.iter().copied())
            .chain(forged)
            .map(|offset| {
                format!(
                    "{}: the record at byte {offset} is not what was written, or a loss of power tore it",
                    path.display()
                )
            });
        parts.push(Part {
            segment: found.header.id,
            run: found.header.run,
            records: read.rows.len() as u64 + read.encrypted,
            missing: read.gaps.iter().map(|gap| gap.count).sum::<u64>() - writing,
            damaged: changed.collect(),
            marks: read.marks,
        });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
