//! The segments that records go to, one after the other.
//!
//! Requests append; one keeper, a thread of the server's, has the next segment ready, and takes those that are full.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::error::SegmentError;
use crate::frame::{Kind, MAX_PAYLOAD_BYTES, framed};
use crate::header::Header;
use crate::keys::Keys;
use crate::segment::{Appended, Segment};

/// How the file of a segment ends.
pub const EXTENSION: &str = "seg";
/// Seconds; a data key is made for each.
pub(crate) const DAY: u64 = 24 * 60 * 60;

/// Where records are appended.
pub struct Writer {
    folder: PathBuf,
    bytes: u32,
    replica: [u8; 32],
    run: Uuid,
    keys: Keys,
    current: ArcSwap<Segment>,
    /// Whether the next segment is ready.
    spare: AtomicBool,
    turn: Mutex<Turn>,
}

/// What the keeper has prepared, and what it has to take.
struct Turn {
    next: Option<Arc<Segment>>,
    full: Vec<Arc<Segment>>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is in a segment.
    Done,
    /// It is in the segment that was prepared: another one has to be.
    Next,
    /// The segment is full and the next one is not there yet.
    Full,
    /// No record may be as large.
    Size,
}

impl Writer {
    /// Begins the first segment in `folder`, which has to be there.
    ///
    /// * `bytes`: of a segment; a multiple of 4096, and more than two times the largest record
    /// * `replica`: which server this is; cut after 32 bytes
    /// * `run`: which start of it
    /// * `keys`: what inferences are encrypted with, if there are any
    ///
    /// Errors: as [`Segment::create`].
    pub fn open(
        folder: &Path,
        bytes: u32,
        replica: &str,
        run: Uuid,
        keys: &Keys,
    ) -> Result<Self, SegmentError> {
        let mut name = [0; 32];
        let fits = replica.floor_char_boundary(name.len());
        name[..fits].copy_from_slice(&replica.as_bytes()[..fits]);
        let first = segment(folder, bytes, name, run, keys)?;
        Ok(Self {
            folder: folder.to_owned(),
            bytes,
            replica: name,
            run,
            keys: keys.clone(),
            current: ArcSwap::from_pointee(first),
            spare: AtomicBool::new(false),
            turn: Mutex::new(Turn {
                next: None,
                full: Vec::new(),
            }),
        })
    }

    /// Appends a record whose payload is `parts`. Never waits for a disk.
    ///
    /// Cost: one atomic load, one reservation, one copy of each part, a checksum.
    pub fn append(&self, kind: Kind, schema: u16, parts: &[&[u8]]) -> Written {
        let mut written = Written::Done;
        loop {
            let current = self.current.load();
            match current.append(kind, 0, schema, parts) {
                Appended::At(_) => return written,
                Appended::Size => return Written::Size,
                Appended::Full if self.advance(&current) => written = Written::Next,
                Appended::Full => return Written::Full,
            }
        }
    }

    /// Appends what the log ends with, for which there is room in a full segment, too.
    pub fn append_last(&self, kind: Kind, payload: &[u8]) -> Written {
        match self.current.load().append_last(kind, payload) {
            Appended::At(_) => Written::Done,
            Appended::Size => Written::Size,
            Appended::Full => Written::Full,
        }
    }

    /// Whether a record with a payload of so many bytes would find room now; others may take it first.
    pub fn has_room(&self, bytes: usize) -> bool {
        let bytes = framed(bytes.min(MAX_PAYLOAD_BYTES));
        self.spare.load(Ordering::Acquire) || self.current.load().room() >= bytes
    }

    /// Goes on to the next segment, if `full` is still the current one. Returns whether there is another now.
    fn advance(&self, full: &Arc<Segment>) -> bool {
        let mut turn = self.turn();
        if !Arc::ptr_eq(&self.current.load(), full) {
            return true;
        }
        let Some(next) = turn.next.take() else {
            return false;
        };
        self.spare.store(false, Ordering::Release);
        self.current.store(next);
        full.close();
        turn.full.push(full.clone());
        true
    }

    /// Has the next segment ready. Blocks for the disk: for the keeper.
    ///
    /// Errors: as [`Segment::create`]; records are refused once the current segment is full, until this succeeds.
    pub fn prepare(&self) -> Result<(), SegmentError> {
        if self.turn().next.is_some() {
            return Ok(());
        }
        let next = Arc::new(segment(
            &self.folder,
            self.bytes,
            self.replica,
            self.run,
            &self.keys,
        )?);
        // Under the lock: whoever takes it says so under the same.
        let mut turn = self.turn();
        turn.next = Some(next);
        self.spare.store(true, Ordering::Release);
        Ok(())
    }

    /// Closes the current segment although it has room, unless there is nothing in it. Returns whether what was appended before is in
    /// closed segments now: while the next one is missing it is not.
    pub fn rotate(&self) -> bool {
        let current = self.current.load_full();
        current.records() == 0 || self.advance(&current)
    }

    /// Whether closed segments wait to be taken.
    pub fn has_full(&self) -> bool {
        !self.turn().full.is_empty()
    }

    /// The segments that take no more records and in which every one that was begun is written: to be sealed.
    pub fn take_full(&self) -> Vec<Arc<Segment>> {
        let mut turn = self.turn();
        let (done, left) = std::mem::take(&mut turn.full)
            .into_iter()
            .partition(|segment| segment.is_finished());
        turn.full = left;
        done
    }

    /// Has everything that was appended before on disk when it returns. Blocks for the disk.
    ///
    /// Errors: the first of the system's; a segment that it is about takes no more records, since asking for it again would not tell
    /// what is on disk, and what is in it is in the kernel's hands.
    pub fn sync(&self) -> Result<(), SegmentError> {
        let mut segments = self.turn().full.clone();
        segments.push(self.current.load_full());
        let mut done = Ok(());
        for segment in segments {
            if let Err(error) = segment.sync() {
                segment.close();
                self.advance(&segment);
                done = done.and(Err(error));
            }
        }
        done
    }

    /// Ends: closes the current segment, gives back what was only prepared, and returns the segments that are left to seal.
    pub fn end(&self) -> Vec<Arc<Segment>> {
        let current = self.current.load_full();
        current.close();
        let mut turn = self.turn();
        if let Some(next) = turn.next.take() {
            self.spare.store(false, Ordering::Release);
            // Nothing was ever in it; what stays is found at the next start.
            drop(std::fs::remove_file(next.path()));
        }
        let mut left = std::mem::take(&mut turn.full);
        left.push(current);
        left
    }

    /// Segments that take records, are ready to, or have taken their last and are not handed over yet.
    pub fn segments(&self) -> usize {
        let turn = self.turn();
        turn.full.len() + 1 + usize::from(turn.next.is_some())
    }

    /// Whether the next segment is ready.
    pub fn is_prepared(&self) -> bool {
        self.spare.load(Ordering::Acquire)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment with an id of its own; ids are in the order of time.
fn segment(
    folder: &Path,
    bytes: u32,
    replica: [u8; 32],
    run: Uuid,
    keys: &Keys,
) -> Result<Segment, SegmentError> {
    let id = Uuid::now_v7();
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |time| time.to_unix());
    let began_us = i64::try_from(seconds)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    let header = Header {
        id,
        bytes,
        began_us: began_us.saturating_add(i64::from(nanos / 1000)),
        run,
        key: Uuid::nil(),
        replica,
    };
    let key = keys.current(seconds / DAY)?;
    Segment::create(&folder.join(format!("{id}.{EXTENSION}")), header, key.as_deref())
}

#[cfg(test)]
mod tests;
