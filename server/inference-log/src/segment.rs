//! A file of records that many threads append to, none waiting for another.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cipher::{Cipher, TAG_BYTES};
use crate::error::SegmentError;
use crate::fault;
use crate::frame::{ENCRYPTED, FRAME_HEAD_BYTES, FrameHead, Kind, LENGTH_AT, MAX_PAYLOAD_BYTES, framed};
use crate::header::{HEADER_BYTES, Header};
use crate::keys::DataKey;
use crate::kill;
use crate::mapping::{Mapping, Slot};

/// Bytes at the end that are left for what has to be said without room: gaps and marks, once in a while and when the log ends.
const SPARED: usize = 64 << 10;

thread_local! {
    /// Where a record is encrypted; keeps its capacity.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A segment, open for records.
pub struct Segment {
    path: PathBuf,
    header: Header,
    file: File,
    mapping: Mapping,
    /// What inferences are encrypted with.
    cipher: Option<Cipher>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the segment, under this number.
    At(u64),
    /// The segment is full or closed: the record belongs in the next one.
    Full,
    /// It is empty, or larger than any record may be ([`MAX_PAYLOAD_BYTES`]).
    Size,
}

impl Segment {
    /// Makes a segment; its place on disk is taken at once, so a full disk is an error here and not later. The file, its header and its
    /// name are synced. Of one that cannot be made nothing stays.
    ///
    /// * `key`: what inferences are encrypted with, and only they: gaps and marks hold numbers that whoever checks the log needs
    ///
    /// Errors: [`SegmentError`]: a file that is there already, a disk that is full, a size that no segment can have.
    /// Blocks for the disk.
    pub fn create(path: &Path, mut header: Header, key: Option<&DataKey>) -> Result<Self, SegmentError> {
        header.key = key.map(DataKey::id).unwrap_or_default();
        let cipher = key.map(|key| key.segment(&header.encode()));
        let bytes = header.bytes;
        let least = HEADER_BYTES + framed(MAX_PAYLOAD_BYTES) + SPARED;
        let fits =
            usize::try_from(bytes).is_ok_and(|size| size >= least && size.is_multiple_of(HEADER_BYTES));
        if !fits || bytes > 1 << 31 {
            return Err(SegmentError::Size(bytes.into()));
        }
        if path.exists() {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(SegmentError::io(path, "creating it")(there));
        }
        let made = Self::made(path, header, cipher);
        if made.is_err() {
            // Else one would be left for each try.
            let _gone = std::fs::remove_file(path).is_ok();
        }
        made
    }

    fn made(path: &Path, header: Header, cipher: Option<Cipher>) -> Result<Self, SegmentError> {
        let bytes = header.bytes;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(SegmentError::io(path, "creating it"))?;
        let all = u64::from(bytes);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, all)
            .map_err(|error| SegmentError::io(path, "taking its place on disk")(error.into()))?;
        let mut mapping = Mapping::new(&file, bytes, HEADER_BYTES)
            .map_err(SegmentError::io(path, "mapping it into memory"))?;
        kill::at("allocated");
        mapping.write_header(&header.encode());
        fault::synced(path, || file.sync_all()).map_err(SegmentError::io(path, "syncing its header"))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(SegmentError::io(path, "syncing its name"))?;
        Ok(Self {
            path: path.to_owned(),
            header,
            file,
            mapping,
            cipher,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.header.id
    }

    /// Appends a record whose payload is `parts`, one behind the other. When it returns, the record survives a kill of the process,
    /// and [`sync`](Self::sync) makes it survive a loss of power. Waits for nobody; no system call.
    ///
    /// * `flags`: the highest bit is the segment's own, and zero
    pub fn append(&self, kind: Kind, flags: u8, schema: u16, parts: &[&[u8]]) -> Appended {
        self.put(kind, flags, schema, parts, SPARED)
    }

    /// Appends a record to the end of the segment that [`append`](Self::append) leaves alone: what has to be said at last.
    pub fn append_last(&self, kind: Kind, payload: &[u8]) -> Appended {
        self.put(kind, 0, 0, &[payload], 0)
    }

    fn put(&self, kind: Kind, flags: u8, schema: u16, parts: &[&[u8]], spared: usize) -> Appended {
        let cipher = self.cipher.as_ref().filter(|_| kind == Kind::Inference);
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size == 0 {
            return Appended::Size;
        }
        let size = size + cipher.map_or(0, |_| TAG_BYTES);
        let length = match u32::try_from(size) {
            Ok(length) if (1..=MAX_PAYLOAD_BYTES).contains(&size) => length,
            _ => return Appended::Size,
        };
        let Some(mut slot) = self.mapping.reserve(framed(size), spared) else {
            return Appended::Full;
        };
        kill::at("reserved");
        let seq = slot.seq();
        let head = FrameHead {
            kind,
            flags: flags | cipher.map_or(0, |_| ENCRYPTED),
            schema,
            seq,
        };
        match cipher {
            None => Self::fill(&mut slot, self.header.id, head, length, parts),
            Some(cipher) => SEALED.with_borrow_mut(|sealed| {
                cipher.seal(head, parts, sealed);
                Self::fill(&mut slot, self.header.id, head, length, &[sealed]);
            }),
        }
        kill::at("filled");
        slot.publish(length);
        kill::at("published");
        Appended::At(seq)
    }

    /// Writes a record into its place, all but its length.
    fn fill(slot: &mut Slot<'_>, segment: Uuid, head: FrameHead, length: u32, parts: &[&[u8]]) {
        let head = head.unpublished(head.crc(segment, length, parts));
        // Not the length, which is the last to be stored.
        slot.fill(0, &head[..LENGTH_AT]);
        slot.fill(LENGTH_AT + 4, &head[LENGTH_AT + 4..]);
        let mut at = FRAME_HEAD_BYTES;
        for part in parts {
            slot.fill(at, part);
            at += part.len();
        }
    }

    /// Has every record that was appended before on disk when it returns.
    ///
    /// Errors: the system's; what is on disk is not known then, and asking again does not tell: the records belong in another
    /// segment.
    pub fn sync(&self) -> Result<(), SegmentError> {
        fault::synced(&self.path, || Ok(rustix::fs::fdatasync(&self.file)?))
            .map_err(SegmentError::io(&self.path, "syncing it"))
    }

    /// Takes no more records from now on. Returns how many were begun; see [`is_finished`](Self::is_finished).
    pub fn close(&self) -> u64 {
        self.mapping.close()
    }

    /// Whether every record that was begun is written. Of a closed segment it stays true.
    pub fn is_finished(&self) -> bool {
        self.mapping.taken() == self.mapping.published()
    }

    /// Bytes that are left for records; none of a closed segment.
    pub(crate) fn room(&self) -> usize {
        self.mapping.room().saturating_sub(SPARED)
    }

    /// How many records were begun.
    pub fn records(&self) -> u64 {
        self.mapping.taken()
    }
}

#[cfg(test)]
mod tests;
