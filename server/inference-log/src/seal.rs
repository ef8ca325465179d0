//! From segments to Parquet files: each file is whole and synced, then in the manifest, and only then its segment goes.
//!
//! Names come from the segment's id, so that whatever a crash interrupts is done again in the same way.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossfade_journal::Hash;
use crossfade_journal::audit::Timestamp;
use crossfade_journal::storage::create_folder;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::blob::blob_days;
use crate::correction;
use crate::error::{KeyError, LogError};
use crate::frame::{Kind, Mark};
use crate::gap::Gap;
use crate::header::{HEADER_BYTES, Header};
use crate::keys::{DataKey, Keys};
use crate::kill;
use crate::manifest::{Entry, Manifest, RunMark, Sealed, SealedFile};
use crate::record::Record;
use crate::scan::{Frame, Scan, scan};
use crate::schema::Schemas;
use crate::table::{Row, gaps, grouped};
use crate::table_file;
use crate::writer::{DAY, EXTENSION};

/// Files that one entry of the manifest takes away.
const REMOVED: usize = 1000;
/// How the file of a segment ends that was put aside.
const ASIDE: &str = "damaged";
/// How a file ends that is not whole yet.
pub(crate) const NEW: &str = "new";
/// Stands for a model or version that is not known, where a folder needs a name; readers of such folders take it for NULL.
const NOBODY: &str = "__HIVE_DEFAULT_PARTITION__";

/// Where segments are in a data folder.
pub fn segments_in(data_dir: &Path) -> PathBuf {
    data_dir.join("segments")
}

/// Where the definitions of schemas are in a data folder.
pub fn schemas_in(data_dir: &Path) -> PathBuf {
    data_dir.join("state").join("schema")
}

/// Seals the segments of a data folder.
#[derive(Debug)]
pub struct Sealer {
    pub(crate) data_dir: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) keys: Keys,
    /// Files that are in the log no more, and could not be removed yet.
    left: Vec<String>,
}

/// What came of a segment.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It became files.
    Sealed(Sealed),
    /// It had been sealed before, and was still there.
    Again,
    /// It is damaged from its first bytes on, and was put aside under this name.
    Aside(PathBuf),
    /// There was nothing in it.
    Empty,
}

impl Sealer {
    /// Opens the manifest of a data folder.
    ///
    /// * `keys`: what files are encrypted with, if there are any
    ///
    /// Errors: as [`Manifest::open`], and the system's.
    pub fn open(data_dir: &Path, keys: &Keys) -> Result<Self, LogError> {
        for folder in [
            segments_in(data_dir),
            data_dir.join("state"),
            data_dir.join("log"),
            data_dir.join("gap"),
            data_dir.join(correction::FOLDER),
        ] {
            create_folder(&folder).map_err(LogError::io(&folder, "creating it"))?;
        }
        let sealer = Self {
            data_dir: data_dir.to_owned(),
            manifest: Manifest::open(data_dir)?,
            keys: keys.clone(),
            left: Vec::new(),
        };
        sealer.forget_unlisted()?;
        Ok(sealer)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Removes files; they are in the manifest no more when this returns.
    ///
    /// Errors: the manifest's, and then the files stay; the system's, and then they go when the log is opened again.
    pub fn remove(&mut self, files: Vec<String>, reason: &str) -> Result<(), LogError> {
        for files in files.chunks(REMOVED) {
            // Said first: a file that nobody names is no harm, one that is named and gone looks like damage.
            self.manifest.append(Entry::Removed {
                files: files.to_vec(),
                reason: reason.to_owned(),
            })?;
            kill::at("removed");
            self.unlink_gone()?;
        }
        Ok(())
    }

    /// Removes what the last entry has taken away, and what earlier ones have and could not be removed.
    pub(crate) fn unlink_gone(&mut self) -> Result<(), LogError> {
        self.left.extend(self.manifest.content().gone.iter().cloned());
        while let Some(file) = self.left.last() {
            self.unlink(std::slice::from_ref(file))?;
            self.left.pop();
        }
        Ok(())
    }

    pub(crate) fn unlink(&self, files: &[String]) -> Result<(), LogError> {
        for file in files {
            let path = self.data_dir.join(file);
            match fs::remove_file(&path) {
                // A loss of power must not bring it back.
                Ok(()) => sync_folder_of(&path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::io(&path, "removing it")(source)),
            }
            // The folder of a day, version or model goes with its last file.
            for folder in Path::new(file).ancestors().skip(1).take(3) {
                let is_top = folder.components().count() < 2;
                if is_top || fs::remove_dir(self.data_dir.join(folder)).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The segments that lie there, oldest first.
    ///
    /// Errors: the system's.
    pub fn found(&self) -> Result<Vec<PathBuf>, LogError> {
        found_in(&self.data_dir)
    }

    /// Seals a segment that nobody writes to, and removes it.
    ///
    /// Errors: the system's; the segment stays, and sealing may be tried again.
    pub fn seal(&mut self, path: &Path) -> Result<Outcome, LogError> {
        let bytes = fs::read(path).map_err(LogError::io(path, "reading it"))?;
        let mut found = match scan(&bytes) {
            Ok(found) => found,
            Err(problem) => return self.put_aside(path, &bytes, &problem.to_string()),
        };
        let id = found.header.id;
        self.manifest.reopen()?;
        if self.manifest.content().segments.contains(&id) {
            remove(path)?;
            return Ok(Outcome::Again);
        }
        if found.frames.is_empty() && found.holes.is_empty() {
            remove(path)?;
            return Ok(Outcome::Empty);
        }
        match found.decrypt(&self.keys) {
            Ok(forged) => {
                for offset in forged {
                    tracing::error!(segment = %id, offset, "a record of the log that is not what was encrypted");
                }
            }
            // It would never be sealed, and hold up all that comes after it.
            Err(error @ KeyError::Gone(_)) => return self.put_aside(path, &bytes, &error.to_string()),
            Err(error) => return Err(error.into()),
        }
        let sealed = self.files(&found, Hash(Sha256::digest(&bytes).into()))?;
        kill::at("sealed");
        self.manifest.append(Entry::Sealed(sealed.clone()))?;
        kill::at("listed");
        remove(path)?;
        Ok(Outcome::Sealed(sealed))
    }

    /// A segment whose beginning is not readable: never begun, if it is all zeros; else it is kept for whoever can tell.
    fn put_aside(&self, path: &Path, bytes: &[u8], problem: &str) -> Result<Outcome, LogError> {
        if bytes.iter().all(|byte| *byte == 0) {
            remove(path)?;
            return Ok(Outcome::Empty);
        }
        let aside = path.with_extension(ASIDE);
        tracing::error!(file = %path.display(), problem, kept = %aside.display(), "a segment of the log that cannot be read");
        fs::rename(path, &aside).map_err(LogError::io(path, "putting it aside"))?;
        sync_folder_of(path)?;
        Ok(Outcome::Aside(aside))
    }

    fn files(&self, found: &Scan<'_>, sha256: Hash) -> Result<Sealed, LogError> {
        let schemas = Schemas::open(&schemas_in(&self.data_dir))
            .map_err(LogError::io(&schemas_in(&self.data_dir), "reading the schemas"))?;
        let read = Read::of(found);
        let mut files = Vec::new();
        let key = self.key(!found.header.key.is_nil())?;
        let records = read.rows.len();
        let groups = grouped(read.rows, &schemas, found.header.replica())?;
        for (part, group) in groups.into_iter().enumerate() {
            let place = format!(
                "log/model={}/version={}/date={}/{}-{part}.parquet",
                named(&group.model),
                named(&group.version),
                group.date,
                found.header.id
            );
            files.push(self.write(&place, &group.table, key.as_deref())?);
        }
        if !read.gaps.is_empty() {
            files.push(self.write(
                &format!("gap/{}.parquet", found.header.id),
                &gaps(&read.gaps)?,
                None,
            )?);
        }
        Ok(Sealed {
            segment: found.header.id,
            run: found.header.run,
            sha256,
            records: u64::try_from(records).unwrap_or(u64::MAX),
            missing: read.gaps.iter().map(|gap| gap.count).sum(),
            marks: read.marks,
            files,
        })
    }

    /// Writes a file beside its place, syncs it, and puts it there.
    pub(crate) fn write(
        &self,
        place: &str,
        table: &arrow_array::RecordBatch,
        key: Option<&DataKey>,
    ) -> Result<SealedFile, LogError> {
        let path = self.data_dir.join(place);
        let folder = path.parent().unwrap_or(&self.data_dir);
        create_folder(folder).map_err(LogError::io(folder, "creating it"))?;
        let new = path.with_extension(NEW);
        table_file::write(&new, table, key)?
            .sync_all()
            .map_err(LogError::io(&new, "syncing it"))?;
        self.put_in_place(place, table.num_rows(), key)
    }

    /// What files are encrypted with that are written now.
    ///
    /// * `was_encrypted`: what they are made of
    ///
    /// Errors: the system's; what was encrypted, and no key: it does not become plain.
    pub(crate) fn key(&self, was_encrypted: bool) -> Result<Option<Arc<DataKey>>, LogError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = now.as_secs() / DAY;
        match was_encrypted {
            false => Ok(self.keys.current(day)?),
            true => match self.keys.again(day)? {
                None => Err(KeyError::None(Uuid::nil()).into()),
                key => Ok(key),
            },
        }
    }

    /// Removes data keys that open nothing any more, and are two days old.
    ///
    /// * `now`: since 1970
    ///
    /// Errors: the system's.
    pub fn forget_keys(&self, now: Duration) -> Result<usize, LogError> {
        // One that has never named anything is new, or was lost: nothing is removed on its word.
        if self.manifest.content().segments.is_empty() || !self.manifest.is_open() {
            return Ok(0);
        }
        let files = self.manifest.content().files.values();
        let mut used: BTreeSet<Uuid> = files.filter_map(|file| file.key).collect();
        // What was put aside may not even say what it is encrypted with: what was in use when it was begun stays.
        let aside: Vec<u64> = aside_in(&self.data_dir)?
            .iter()
            .filter_map(|path| Uuid::parse_str(path.file_stem()?.to_str()?).ok()?.get_timestamp())
            .map(|time| time.to_unix().0)
            .collect();
        for path in self.found()? {
            match header_of(&path) {
                Ok(header) => used.extend(header.map(|header| header.key)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::io(&path, "reading it")(source)),
            }
        }
        // What is written with until the next one is made, and a day beyond.
        let before = now.as_secs().saturating_sub(2 * DAY);
        // Files of records with large tensors are in no manifest; each was written on its day, or soon after.
        let blobs = blob_days(&self.data_dir).map_err(LogError::io(&self.data_dir, "looking at blobs"))?;
        let days = blobs.iter().filter_map(|(folder, _)| {
            let day = folder.file_name()?.to_str()?.strip_prefix("date=")?;
            let at: Timestamp = format!("{day}T00:00:00.000000Z").parse().ok()?;
            u64::try_from(at.unix_micros() / 1_000_000).ok()
        });
        let before = days
            .map(|day| day.saturating_sub(DAY))
            .chain([before])
            .min()
            .unwrap_or(before);
        let is_used = |id: Uuid| {
            let made = id.get_timestamp().map_or(0, |time| time.to_unix().0);
            let in_use = |at: &u64| made <= *at && at - made <= 2 * DAY;
            used.contains(&id) || aside.iter().any(in_use)
        };
        Ok(self.keys.forget(is_used, before)?)
    }

    /// Has a file that was written beside its place there.
    ///
    /// * `rows`: of it
    /// * `key`: what it is encrypted with
    pub(crate) fn put_in_place(
        &self,
        place: &str,
        rows: usize,
        key: Option<&DataKey>,
    ) -> Result<SealedFile, LogError> {
        let path = self.data_dir.join(place);
        let new = path.with_extension(NEW);
        let (sha256, bytes) = digest(&new).map_err(LogError::io(&new, "reading it back"))?;
        kill::at("written");
        fs::rename(&new, &path).map_err(LogError::io(&path, "putting it in its place"))?;
        sync_folder_of(&path)?;
        Ok(SealedFile {
            path: place.to_owned(),
            sha256,
            bytes,
            rows: rows as u64,
            key: key.map(DataKey::id),
        })
    }
}

/// sha256 and length of a file.
pub(crate) fn digest(path: &Path) -> io::Result<(Hash, u64)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((Hash(hash.finalize().into()), bytes)),
            read => {
                hash.update(piece.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
        }
    }
}

/// What a segment says of itself; `None` for a file that is none.
fn header_of(path: &Path) -> io::Result<Option<Header>> {
    let mut page = Vec::new();
    let first = HEADER_BYTES as u64;
    File::open(path)?.take(first).read_to_end(&mut page)?;
    Ok(Header::decode(&page).ok())
}

/// The segments of a data folder, oldest first.
pub(crate) fn found_in(data_dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    files_in(&segments_in(data_dir), EXTENSION)
}

/// Those that were put aside.
pub(crate) fn aside_in(data_dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    files_in(&segments_in(data_dir), ASIDE)
}

fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, LogError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|own| own == extension) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    };
    read().map_err(LogError::io(folder, "reading it"))
}

/// What a segment holds, by kind.
pub(crate) struct Read<'a> {
    pub(crate) rows: Vec<Row<'a>>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) marks: Vec<RunMark>,
    /// Records that were not decrypted.
    pub(crate) encrypted: u64,
}

impl<'a> Read<'a> {
    pub(crate) fn of(found: &'a Scan<'_>) -> Self {
        let mut read = Self {
            rows: Vec::new(),
            gaps: Vec::new(),
            marks: Vec::new(),
            encrypted: 0,
        };
        for frame in &found.frames {
            read.frame(found.header.id, frame);
        }
        for hole in &found.holes {
            // When that was can be told by its neighbours only.
            let before = read.rows.iter().rev().find(|row| row.seq < hole.seq);
            let after = read.rows.iter().find(|row| row.seq >= hole.seq);
            let time = |row: Option<&Row<'_>>| row.map(|row| row.record.ts_us);
            let began = found.header.began_us;
            let from_us = time(before).unwrap_or(began);
            read.gaps.push(Gap {
                from_us,
                to_us: time(after).unwrap_or(from_us),
                count: hole.records.unwrap_or(1),
                reason: if hole.is_changed { "changed" } else { "unfinished" }.to_owned(),
                model: None,
            });
        }
        read
    }

    fn frame(&mut self, segment: Uuid, frame: &'a Frame<'_>) {
        match frame.kind {
            Kind::Inference if frame.is_encrypted() => self.encrypted += 1,
            Kind::Inference => match Record::decode(&frame.payload) {
                Ok(record) => self.rows.push(Row {
                    record,
                    segment,
                    seq: frame.seq,
                    schema: frame.schema,
                }),
                Err(problem) => {
                    tracing::error!(%segment, seq = frame.seq, %problem, "a record of the log that cannot be read");
                    self.unreadable(segment_time(segment));
                }
            },
            Kind::Gap => match Gap::decode(&frame.payload) {
                Some(gap) => self.gaps.push(gap),
                None => self.unreadable(segment_time(segment)),
            },
            Kind::Mark => {
                if let Some(mark) = Mark::decode(&frame.payload) {
                    let mark = RunMark {
                        run: mark.run,
                        received: mark.received,
                        sampled_out: mark.sampled_out,
                        lost: mark.lost,
                        last: mark.last,
                    };
                    self.marks.retain(|other| other.run != mark.run);
                    self.marks.push(mark);
                }
            }
            Kind::StreamOpen => {}
        }
    }

    fn unreadable(&mut self, at_us: i64) {
        self.gaps.push(Gap {
            from_us: at_us,
            to_us: at_us,
            count: 1,
            reason: "unreadable".to_owned(),
            model: None,
        });
    }
}

/// When a segment was begun, by its id; microseconds since 1970.
fn segment_time(id: Uuid) -> i64 {
    let seconds = id.get_timestamp().map_or(0, |time| time.to_unix().0);
    i64::try_from(seconds)
        .unwrap_or_default()
        .saturating_mul(1_000_000)
}

/// The day of a point in time, as folders are named by it.
pub(crate) fn date(us: i64) -> String {
    let time = Timestamp::from_unix_micros(us).map(|time| time.to_string());
    time.map_or_else(|_| "0000-01-01".to_owned(), |text| text[..10].to_owned())
}

/// A name as a part of a path: what could end it, or mean another folder, is escaped, and a long one is cut (the number of the part
/// tells files apart).
fn named(name: &str) -> String {
    if name.is_empty() {
        return NOBODY.to_owned();
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let dots = name.bytes().all(|byte| byte == b'.');
    let escaped = name.bytes().take(80).map(|byte| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        b'.' if !dots => ".".to_owned(),
        byte => format!("%{byte:02X}"),
    });
    let whole: String = escaped.collect();
    match name.len() {
        ..=80 => whole,
        // Names that begin alike stay apart.
        _ => format!("{whole}~{:08x}", crc32fast::hash(name.as_bytes())),
    }
}

fn remove(path: &Path) -> Result<(), LogError> {
    fs::remove_file(path).map_err(LogError::io(path, "removing it"))?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> Result<(), LogError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(LogError::io(folder, "syncing it"))
}

#[cfg(test)]
mod tests;
