//! What is appended to the segments of a data folder, while it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use uuid::Uuid;

use crate::error::LogError;
use crate::frame::{FRAME_HEAD_BYTES, Kind, framed, parse, payload_length};
use crate::header::{HEADER_BYTES, Header};
use crate::log::{Log, Selection};
use crate::record::Record;
use crate::schema::Schemas;
use crate::seal::{found_in, schemas_in};
use crate::table::{Row, grouped};

/// Bytes that are read of a segment at once.
const CHUNK: usize = 4 << 20;
/// Segments that were sealed are remembered, so that what is in their files is not shown again.
const REMEMBERED: usize = 64;

/// Shows records as they come. Reads files only, so that it may run beside a server, or in it.
pub struct Follower {
    data_dir: PathBuf,
    /// How far each segment was read.
    places: BTreeMap<Uuid, Place>,
}

/// How far a segment was read.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Where the next frame begins.
    offset: usize,
    /// The number of the next record.
    seq: u64,
    replica: String,
    /// It was sealed, and what was not read of it before was shown.
    is_done: bool,
}

impl Follower {
    /// Follows what comes from now on.
    ///
    /// Errors: as [`poll`](Self::poll).
    pub fn from_now(data_dir: &Path) -> Result<Self, LogError> {
        let mut follower = Self {
            data_dir: data_dir.to_owned(),
            places: BTreeMap::new(),
        };
        while !follower.poll()?.is_empty() {}
        Ok(follower)
    }

    /// The records that came since the last call, or some of them; empty if none did. A record that is being written is shown the next
    /// time. Blocks for the disk.
    ///
    /// Errors: what cannot be read.
    pub fn poll(&mut self) -> Result<Vec<RecordBatch>, LogError> {
        let schemas_at = schemas_in(&self.data_dir);
        let schemas = Schemas::open(&schemas_at).map_err(LogError::io(&schemas_at, "reading the schemas"))?;
        let (mut tables, mut there) = (Vec::new(), Vec::new());
        for path in found_in(&self.data_dir)? {
            let Some(id) = id_of(&path) else { continue };
            there.push(id);
            let place = self.places.entry(id).or_default();
            tables.extend(place.read(&path, &schemas)?);
        }
        let gone = |(id, place): (&Uuid, &Place)| (!place.is_done && !there.contains(id)).then_some(*id);
        let gone: Vec<Uuid> = self.places.iter().filter_map(gone).collect();
        if !gone.is_empty() {
            tables.extend(self.sealed(&gone)?);
        }
        while self.places.len() > REMEMBERED {
            // The oldest: ids are in the order of time.
            self.places.pop_first();
        }
        Ok(tables)
    }

    /// What was not read of segments before they were sealed.
    fn sealed(&mut self, gone: &[Uuid]) -> Result<Vec<RecordBatch>, LogError> {
        let log = Log::open(&self.data_dir)?;
        let mut tables = Vec::new();
        for id in gone {
            let Some(place) = self.places.get_mut(id) else {
                continue;
            };
            let (id, seq) = (*id, place.seq);
            let is_new = move |table: &RecordBatch, row: usize| {
                let of = table
                    .column_by_name("segment_id")
                    .and_then(|column| column.as_fixed_size_binary_opt());
                let at = table
                    .column_by_name("seq")
                    .and_then(|column| column.as_primitive_opt::<UInt64Type>());
                of.is_some_and(|of| of.value(row) == id.as_bytes())
                    && at.is_some_and(|at| at.value(row) >= seq)
            };
            tables.extend(log.find(&Selection::default(), &["segment_id", "seq"], is_new)?);
            place.is_done = true;
        }
        Ok(tables)
    }
}

impl Place {
    /// Reads the records behind the last one that was read.
    fn read(&mut self, path: &Path, schemas: &Schemas) -> Result<Vec<RecordBatch>, LogError> {
        let failed = LogError::io(path, "reading it");
        let file = match File::open(path) {
            Ok(file) => file,
            // Sealed meanwhile; the next call finds it so.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let id = id_of(path).unwrap_or_default();
        if self.offset == 0 {
            let mut page = [0; HEADER_BYTES];
            if file.read_exact_at(&mut page, 0).is_err() {
                return Ok(Vec::new());
            }
            let Ok(header) = Header::decode(&page) else {
                return Ok(Vec::new());
            };
            self.replica = header.replica().to_owned();
            self.offset = HEADER_BYTES;
        }
        let mut chunk = read_at(&file, self.offset, CHUNK).map_err(LogError::io(path, "reading it"))?;
        if let Some(length) = payload_length(&chunk)
            && framed(length) > chunk.len()
        {
            chunk = read_at(&file, self.offset, framed(length)).map_err(LogError::io(path, "reading it"))?;
        }
        let mut rows = Vec::new();
        let mut at = 0;
        while at + FRAME_HEAD_BYTES <= chunk.len() {
            let Some((head, payload)) = parse(&chunk[at..], id) else {
                break;
            };
            if head.kind == Kind::Inference
                && let Ok(record) = Record::decode(payload)
            {
                rows.push(Row {
                    record,
                    segment: id,
                    seq: head.seq,
                    schema: head.schema,
                });
            }
            self.seq = head.seq + 1;
            at += framed(payload.len());
        }
        self.offset += at;
        let groups = grouped(rows, schemas, &self.replica)?;
        Ok(groups.into_iter().map(|group| group.table).collect())
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
