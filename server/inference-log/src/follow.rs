//! What is appended to the segments of a data folder, while it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cipher::Cipher;
use crate::error::{KeyError, LogError};
use crate::frame::{ENCRYPTED, FRAME_HEAD_BYTES, Kind, framed, parse, payload_length};
use crate::header::{HEADER_BYTES, Header};
use crate::keys::Keys;
use crate::log::{Log, Selection};
use crate::manifest::Content;
use crate::record::Record;
use crate::schema::Schemas;
use crate::seal::{found_in, schemas_in};
use crate::table::{Row, grouped};

/// Bytes that are read of a segment at once.
const CHUNK: usize = 4 << 20;

/// Shows records as they come. Reads files only, so that it may run beside a server, or in it.
pub struct Follower {
    data_dir: PathBuf,
    keys: Keys,
    cursor: Cursor,
    /// Where reading goes on in segments that are open, and who wrote them.
    open: BTreeMap<Uuid, Open>,
    /// Nothing was read yet.
    is_new: bool,
}

/// How far a log was read, to be kept over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Every segment up to this one was read, but those of `segments`; ids are in the order of time.
    floor: Uuid,
    /// Segments of which a part was read, and the number of the record that comes next.
    segments: BTreeMap<Uuid, u64>,
}

/// A segment that records are read from.
#[derive(Default)]
struct Open {
    /// Where the next frame begins; 0: nothing was read yet.
    offset: usize,
    replica: String,
    is_encrypted: bool,
    cipher: Option<Cipher>,
}

impl Follower {
    /// Follows what comes from now on.
    ///
    /// Errors: as [`poll`](Self::poll).
    pub fn from_now(data_dir: &Path, keys: &Keys) -> Result<Self, LogError> {
        let sealed = Content::read(data_dir)?.segments;
        let mut follower = Self::resume(data_dir, keys, Cursor::default());
        follower.cursor.floor = sealed.last().copied().unwrap_or_default();
        // What is sealed already is over; of the others all that is there is.
        while !follower.poll()?.is_empty() {}
        Ok(follower)
    }

    /// Goes on where another follower stood.
    pub fn resume(data_dir: &Path, keys: &Keys, cursor: Cursor) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            keys: keys.clone(),
            cursor,
            open: BTreeMap::new(),
            is_new: true,
        }
    }

    /// How far it has read: all that [`poll`](Self::poll) has returned.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The records that came since the last call, or some of them; empty if none did. A record that is being written is shown the next
    /// time. Blocks for the disk.
    ///
    /// Errors: what cannot be read; it may be called again.
    pub fn poll(&mut self) -> Result<Vec<RecordBatch>, LogError> {
        let before = self.cursor.clone();
        let read = self.advance();
        if read.is_err() {
            // What was read of it is not shown.
            self.cursor = before;
            self.open.clear();
        } else {
            self.is_new = false;
        }
        read
    }

    fn advance(&mut self) -> Result<Vec<RecordBatch>, LogError> {
        let floor = self.cursor.floor;
        let schemas_at = schemas_in(&self.data_dir);
        let schemas = Schemas::open(&schemas_at).map_err(LogError::io(&schemas_at, "reading the schemas"))?;
        let (mut tables, mut there) = (Vec::new(), BTreeSet::new());
        let found = found_in(&self.data_dir)?;
        // What is sealed while they are looked at is found by the manifest, which is read after them.
        for path in &found {
            let Some(id) = id_of(path) else { continue };
            let is_over = id <= floor && !self.cursor.segments.contains_key(&id);
            if is_over {
                continue;
            }
            there.insert(id);
            let open = self.open.entry(id).or_default();
            let next = self.cursor.segments.get(&id).copied().unwrap_or_default();
            let (read, next) = open.read(path, next, &schemas, &self.keys)?;
            self.cursor.segments.insert(id, next);
            self.cursor.floor = self.cursor.floor.max(id);
            tables.extend(read);
        }
        let gone = self.cursor.segments.keys().any(|id| !there.contains(id));
        // A segment that is new may have had others before it.
        if gone || self.is_new || self.cursor.floor > floor {
            tables.extend(self.sealed(&there, floor)?);
        }
        Ok(tables)
    }

    /// What was not read of segments before they were sealed.
    ///
    /// * `there`: those that are not
    /// * `floor`: up to where all was read before
    fn sealed(&mut self, there: &BTreeSet<Uuid>, floor: Uuid) -> Result<Vec<RecordBatch>, LogError> {
        let content = Content::read(&self.data_dir)?;
        let cursor = &self.cursor;
        let wanted: BTreeMap<Uuid, u64> = content
            .segments
            .iter()
            .filter(|id| !there.contains(id))
            .filter_map(|id| match cursor.segments.get(id) {
                Some(next) => Some((*id, *next)),
                None => (*id > floor).then_some((*id, 0)),
            })
            .collect();
        let mut tables = Vec::new();
        if !wanted.is_empty() {
            let log = Log::sealed(&self.data_dir, &content, &self.keys);
            let segments = wanted.clone();
            let is_new = move |table: &RecordBatch, row: usize| {
                let of = table
                    .column_by_name("segment_id")
                    .and_then(|column| column.as_fixed_size_binary_opt());
                let at = table
                    .column_by_name("seq")
                    .and_then(|column| column.as_primitive_opt::<UInt64Type>());
                let id = of.and_then(|of| Uuid::from_slice(of.value(row)).ok());
                let next = id.and_then(|id| segments.get(&id));
                next.is_some_and(|next| at.is_some_and(|at| at.value(row) >= *next))
            };
            tables = log.find(&Selection::default(), &["segment_id", "seq"], is_new)?;
        }
        // Those that were neither there nor sealed never had a record.
        self.cursor.segments.retain(|id, _| there.contains(id));
        self.open.retain(|id, _| there.contains(id));
        let last = wanted.keys().next_back().copied().unwrap_or_default();
        self.cursor.floor = self.cursor.floor.max(last);
        Ok(tables)
    }
}

impl Open {
    /// Reads records behind those that were read, from this number on. Returns the number of the next one, too.
    fn read(
        &mut self,
        path: &Path,
        from: u64,
        schemas: &Schemas,
        keys: &Keys,
    ) -> Result<(Vec<RecordBatch>, u64), LogError> {
        let failed = LogError::io(path, "reading it");
        let file = match File::open(path) {
            Ok(file) => file,
            // Sealed meanwhile; the next call finds it so.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), from)),
            Err(source) => return Err(failed(source)),
        };
        let id = id_of(path).unwrap_or_default();
        if self.offset == 0 {
            let mut page = [0; HEADER_BYTES];
            if file.read_exact_at(&mut page, 0).is_err() {
                return Ok((Vec::new(), from));
            }
            let Ok(header) = Header::decode(&page) else {
                return Ok((Vec::new(), from));
            };
            self.replica = header.replica().to_owned();
            self.is_encrypted = !header.key.is_nil();
            self.cipher = match keys.find(header.key) {
                Ok(key) => key.map(|key| key.segment(&header.encode())),
                // What is in it is read by nobody any more; what comes after it is.
                Err(error @ KeyError::Gone(_)) => {
                    tracing::error!(file = %path.display(), %error, "a segment of the log that cannot be read");
                    None
                }
                Err(error) => return Err(error.into()),
            };
            self.offset = HEADER_BYTES;
        }
        // Mostly nothing has come: that is seen by a few bytes.
        let head = read_at(&file, self.offset, FRAME_HEAD_BYTES).map_err(LogError::io(path, "reading it"))?;
        if payload_length(&head).is_none() {
            return Ok((Vec::new(), from));
        }
        let mut chunk = read_at(&file, self.offset, CHUNK).map_err(LogError::io(path, "reading it"))?;
        if let Some(length) = payload_length(&chunk)
            && framed(length) > chunk.len()
        {
            chunk = read_at(&file, self.offset, framed(length)).map_err(LogError::io(path, "reading it"))?;
        }
        let (mut payloads, mut next) = (Vec::new(), from);
        let mut at = 0;
        while at + FRAME_HEAD_BYTES <= chunk.len() {
            let Some((head, payload)) = parse(&chunk[at..], id) else {
                break;
            };
            if head.kind == Kind::Inference && head.seq >= from {
                let is_encrypted = head.flags & ENCRYPTED != 0;
                // Else it was written by nobody who has the key.
                let cipher = self.cipher.as_ref().filter(|_| is_encrypted);
                let is_forged = is_encrypted != self.is_encrypted;
                payloads.push((
                    head,
                    match cipher {
                        Some(cipher) => Cow::Owned(cipher.open(head, payload).unwrap_or_default()),
                        None if is_forged || is_encrypted => Cow::Borrowed(&[][..]),
                        None => Cow::Borrowed(payload),
                    },
                ));
            }
            next = next.max(head.seq + 1);
            at += framed(payload.len());
        }
        let rows = payloads.iter().filter_map(|(head, payload)| {
            Some(Row {
                record: Record::decode(payload).ok()?,
                segment: id,
                seq: head.seq,
                schema: head.schema,
            })
        });
        let rows = rows.collect();
        self.offset += at;
        let groups = grouped(rows, schemas, &self.replica)?;
        Ok((groups.into_iter().map(|group| group.table).collect(), next))
    }
}

/// Bytes of a file, as many as there are.
fn read_at(file: &File, offset: usize, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut filled = 0;
    while filled < most {
        match file.read_at(&mut bytes[filled..], (offset + filled) as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn id_of(path: &Path) -> Option<Uuid> {
    Uuid::parse_str(path.file_stem()?.to_str()?).ok()
}

#[cfg(test)]
mod tests;
