//! What an existing file means when it is opened for writing: whole, torn at its end by a crash, or damaged.
//!
//! Appends are synced one by one, so a crash tears at most the last record. What is bad is taken for a torn tail only
//! if it is no longer than the one record and no record can be found in it; everything else is damage and is left as it
//! is. A last record whose bytes were changed later cannot be told from a torn one, which is why what is cut off is
//! kept beside the file.

use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::Error;
use crate::frame::{FRAME_HEAD_BYTES, FrameHead, MAGIC, MAX_FRAME_BYTES, Problem};
use crate::hash::Head;
use crate::header::{HEADER_BYTES, Header};
use crate::reader::{self, Bad, Reader, Stop};
use crate::storage::{FromStart, Storage};

/// How many bytes of supposed records are checked when a tail is searched; in doubt it is damage.
const SEARCH_BYTES: usize = 16 << 20;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its last record, or its base.
    pub(crate) head: Head,
    /// The end of its last record, in bytes.
    pub(crate) end: u64,
    /// The beginning of its last record; 0, that of the header, without records.
    pub(crate) last: u64,
    /// What a crash left after that.
    pub(crate) tail: Option<Tail>,
}

/// The end of a file that a crash tore.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) bytes: Vec<u8>,
    pub(crate) problem: Problem,
}

/// Reads the whole of `storage`; `None` if it holds nothing yet, or the torn beginning of `header`.
///
/// Errors: [`Error::Broken`] and [`Error::Header`] for damage, [`Error::Purpose`] and [`Error::Base`] for another file
/// than the one that is meant, [`Error::Io`].
pub(crate) fn examine(
    storage: &mut dyn Storage,
    path: &Path,
    header: &Header,
) -> Result<Option<Found>, Error> {
    let size = storage.size().map_err(|error| Error::io(path, "read", error))?;
    if size <= HEADER_BYTES as u64 && header.is_torn(&read_from(storage, path, 0, HEADER_BYTES as u64)?) {
        return Ok(None);
    }
    let input = BufReader::with_capacity(1 << 16, FromStart { storage, offset: 0 });
    let mut reader = Reader::new(input, path)?;
    reader::check(&reader.header(), header, path)?;
    let mut last = 0;
    let bad = loop {
        match reader.step() {
            Ok(Some(record)) => last = record.offset,
            Ok(None) => break None,
            Err(Stop::Bad(bad)) => break Some(bad),
            Err(stop) => return Err(stop.into_error(path)),
        }
    };
    let (head, end) = (reader.head(), reader.offset());
    let tail = bad.map(|bad| torn(storage, path, size, bad)).transpose()?;
    Ok(Some(Found {
        head,
        end,
        last,
        tail,
    }))
}

/// The tail that begins at the bad place, if a crash can have left it.
fn torn(storage: &mut dyn Storage, path: &Path, size: u64, bad: Bad) -> Result<Tail, Error> {
    // A frame that its checksum covers is no accident of a crash.
    let forged = !matches!(
        bad.problem,
        Problem::Short { .. } | Problem::Length(_) | Problem::Magic | Problem::Crc
    );
    if forged || size.saturating_sub(bad.offset) > MAX_FRAME_BYTES as u64 {
        return Err(Stop::Bad(bad).into_error(path));
    }
    let bytes = read_from(storage, path, bad.offset, MAX_FRAME_BYTES as u64)?;
    if is_more_than_its_frame(&bytes) || holds_a_record(&bytes) {
        return Err(Stop::Bad(bad).into_error(path));
    }
    Ok(Tail {
        bytes,
        problem: bad.problem,
    })
}

/// Whether something follows the frame that `bytes` begin with, as far as its head can be read.
fn is_more_than_its_frame(bytes: &[u8]) -> bool {
    let head = bytes.first_chunk().map(FrameHead::read);
    matches!(head, Some(Ok(frame)) if bytes.len() > FRAME_HEAD_BYTES + frame.length)
}

/// Whether a whole frame begins anywhere after the first byte, or whether that would take too long to find out.
fn holds_a_record(bytes: &[u8]) -> bool {
    let mut left = SEARCH_BYTES;
    for start in 1..bytes.len() {
        let Some(head) = bytes[start..].first_chunk::<FRAME_HEAD_BYTES>() else {
            return false;
        };
        if head[..4] != MAGIC {
            continue;
        }
        let Ok(frame) = FrameHead::read(head) else {
            continue;
        };
        let after = &bytes[start + FRAME_HEAD_BYTES..];
        if let Some(payload) = after.get(..frame.length) {
            left = left.saturating_sub(FRAME_HEAD_BYTES + payload.len());
            if left == 0 || frame.covers(payload) {
                return true;
            }
        }
    }
    false
}

/// At most `limit` bytes from `offset`.
pub(crate) fn read_from(
    storage: &mut dyn Storage,
    path: &Path,
    offset: u64,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    FromStart { storage, offset }
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(path, "read", error))?;
    Ok(bytes)
}
