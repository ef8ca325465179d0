//! The files of the log: segments sealed, old ones removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossfade_inference_log::{
    BLOBS, Certificate, Correction, Keys, LogError, Outcome, SealedFile, Sealer, blob_days,
};
use crossfade_journal::audit::Timestamp;
use uuid::Uuid;

use super::RecorderConfig;

/// So many files of a day become one, while they are small: bytes.
const TOGETHER: usize = 32;
const SMALL: u64 = 32 << 20;

/// The files, and how long they stay.
pub(super) struct Held {
    sealer: Sealer,
    data_dir: PathBuf,
    retention: Duration,
    max_bytes: u64,
}

impl Held {
    pub(super) fn new(data_dir: &Path, sealer: Sealer, config: &RecorderConfig) -> Self {
        Self {
            sealer,
            data_dir: data_dir.to_owned(),
            retention: config.retention,
            max_bytes: config.max_bytes,
        }
    }

    /// Removes files of days that are too long ago, and the oldest until the others are small enough and enough of the disk is free.
    ///
    /// * `unsealed`: bytes of segments
    /// * `wanted`: bytes that are not free on the disk and should be
    /// * `may_go`: whether nobody waits for a file any more
    ///
    /// Errors: the manifest's; the files stay then, or are removed the next time.
    pub(super) fn sweep(
        &mut self,
        unsealed: u64,
        wanted: u64,
        may_go: impl Fn(&str) -> bool,
    ) -> Result<(), LogError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest = day(now.saturating_sub(self.retention));
        let files = &self.sealer.manifest().content().files;
        let mut dated: Vec<(String, String, u64)> = files
            .values()
            .map(|file| (date_of(&file.path), file.path.clone(), file.bytes))
            .collect();
        let days = blob_days(&self.data_dir).map_err(|source| LogError::Io {
            path: self.data_dir.join(BLOBS),
            doing: "looking at it",
            source,
        })?;
        dated.extend(days.into_iter().map(|(folder, bytes)| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("{BLOBS}/{name}");
            (date_of(&place), place, bytes)
        }));
        dated.sort();
        let mut left = dated
            .iter()
            .fold(unsealed, |sum, (.., bytes)| sum.saturating_add(*bytes));
        let mut wanted = wanted;
        let mut removed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut blobs = Vec::new();
        for (date, path, bytes) in dated {
            let reason = if !date.is_empty() && date < oldest {
                "retention"
            } else if left > self.max_bytes {
                "max_bytes"
            } else if wanted > 0 {
                "min_free_bytes"
            } else {
                break;
            };
            let is_blobs = path.starts_with(BLOBS);
            if !is_blobs && !may_go(&path) {
                continue;
            }
            left = left.saturating_sub(bytes);
            wanted = wanted.saturating_sub(bytes);
            match is_blobs {
                true => blobs.push(path),
                false => removed.entry(reason).or_default().push(path),
            }
        }
        for day in blobs {
            tracing::info!(day, "files of records with large tensors are removed");
            let folder = self.data_dir.join(day);
            fs::remove_dir_all(&folder).map_err(|source| LogError::Io {
                path: folder,
                doing: "removing it",
                source,
            })?;
        }
        for (reason, files) in removed {
            tracing::info!(
                files = files.len(),
                reason,
                "files of the inference log are removed"
            );
            self.sealer.remove(files, reason)?;
        }
        Ok(())
    }

    /// Removes data keys that open nothing any more.
    ///
    /// Errors: the system's; they are removed the next time.
    pub(super) fn forget_keys(&self) -> Result<(), LogError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let keys = self.sealer.forget_keys(now)?;
        if keys > 0 {
            tracing::info!(
                keys,
                "data keys of the inference log are removed: what they opened is gone"
            );
        }
        Ok(())
    }
}

impl Held {
    /// Seals a segment; returns how many records became rows.
    ///
    /// Errors: the segment stays, and may be sealed later.
    pub(super) fn seal(&mut self, path: &Path) -> Result<u64, LogError> {
        Ok(match self.sealer.seal(path)? {
            Outcome::Sealed(sealed) => {
                tracing::debug!(segment = %sealed.segment, records = sealed.records, files = sealed.files.len(), "sealed");
                sealed.records
            }
            Outcome::Again | Outcome::Aside(_) | Outcome::Empty => 0,
        })
    }

    /// Takes the records about a person out of the files.
    ///
    /// Errors: the system's; it may be asked for again.
    pub(super) fn erase(&mut self, subject: [u8; 16]) -> Result<Certificate, LogError> {
        self.sealer.erase(subject)
    }

    /// Writes a correction down.
    ///
    /// Errors: the system's.
    pub(super) fn correct(&mut self, correction: &Correction) -> Result<SealedFile, LogError> {
        self.sealer.correct(correction)
    }

    /// Makes one file of many small ones, where there are.
    ///
    /// Errors: the system's.
    pub(super) fn compact(&mut self) -> Result<(), LogError> {
        if let Some(files) = self.sealer.compact(TOGETHER, SMALL)? {
            tracing::debug!(files, "files of the inference log are one now");
        }
        Ok(())
    }
}

/// Seals every segment of a data folder that no server uses. Returns the rows that became files.
///
/// Errors: as [`Sealer::open`] and [`Sealer::seal`].
pub(crate) fn seal_all(data_dir: &Path, keys: &Keys) -> Result<u64, LogError> {
    let mut sealer = Sealer::open(data_dir, keys)?;
    let mut rows = 0;
    for path in sealer.found()? {
        if let Outcome::Sealed(sealed) = sealer.seal(&path)? {
            rows += sealed.records;
        }
    }
    Ok(rows)
}

/// The day that a file is of: by its folder, or by the id of its segment.
fn date_of(path: &str) -> String {
    let folder = path.split('/').find_map(|part| part.strip_prefix("date="));
    let segment = || {
        let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
        let (seconds, _) = Uuid::parse_str(name).ok()?.get_timestamp()?.to_unix();
        Some(day(Duration::from_secs(seconds)))
    };
    folder.map(str::to_owned).or_else(segment).unwrap_or_default()
}

fn day(since: Duration) -> String {
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let text = Timestamp::from_unix_micros(micros).map(|time| time.to_string());
    text.map_or_else(|_| String::new(), |text| text[..10].to_owned())
}
