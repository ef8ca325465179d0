//! A file in memory that many threads write to at once; the only `unsafe` of this crate.
//!
//! Whoever appends takes a range by one atomic exchange, fills it, and publishes it by storing its length. Ranges never overlap and
//! are never given out twice, so no two threads write the same byte.

#![expect(
    unsafe_code,
    reason = "threads write to disjoint ranges of one mapping; each block proves bounds, alignment and exclusiveness"
)]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::frame::{ALIGNMENT, FRAME_HEAD_BYTES, LENGTH_AT};

/// Bits of the tail that hold the offset; the others hold the number of the next record.
const OFFSET_BITS: u32 = 32;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// The file, mapped shared: what is stored in it is the kernel's, whatever becomes of the process.
pub(crate) struct Mapping {
    map: MmapRaw,
    bytes: usize,
    /// Where the next record begins, and its number.
    tail: AtomicU64,
    /// Records that were published.
    published: AtomicU64,
    /// Where the first record begins.
    first: usize,
}

/// A range that nobody else has.
pub(crate) struct Slot<'a> {
    mapping: &'a Mapping,
    offset: usize,
    bytes: usize,
    seq: u64,
    /// One thread fills it; publishing is from the same one.
    _not_sync: PhantomData<*const u8>,
}

impl Mapping {
    /// Maps all of a file of `bytes`; records begin at `first`.
    ///
    /// Errors: the system's. Panics for sizes that are no multiple of the alignment, or do not fit the tail.
    pub(crate) fn new(file: &File, bytes: u32, first: usize) -> io::Result<Self> {
        let size = usize::try_from(bytes).map_err(io::Error::other)?;
        assert!(
            size.is_multiple_of(ALIGNMENT)
                && first.is_multiple_of(ALIGNMENT)
                && first <= size
                && bytes <= 1 << 31,
            "a segment of {bytes} bytes"
        );
        let map = MmapOptions::new().len(size).map_raw(file)?;
        let tail = u64::try_from(first).map_err(io::Error::other)?;
        Ok(Self {
            map,
            bytes: size,
            tail: AtomicU64::new(tail),
            published: AtomicU64::new(0),
            first,
        })
    }

    /// Takes the next `bytes`, a multiple of the alignment and no less than a frame's head, if `spared` are left behind them; `None` once
    /// they are not, and ever after [`close`](Self::close).
    pub(crate) fn reserve(&self, bytes: usize, spared: usize) -> Option<Slot<'_>> {
        debug_assert!(bytes.is_multiple_of(ALIGNMENT) && bytes >= FRAME_HEAD_BYTES);
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            let offset = usize::try_from(tail & OFFSET_MASK).ok()?;
            let end = offset.checked_add(bytes)?;
            if end > self.bytes.checked_sub(spared)? {
                return None;
            }
            // `end` is at most 2^31, so it never runs over into the number.
            let next = ((tail >> OFFSET_BITS) + 1) << OFFSET_BITS | u64::try_from(end).ok()?;
            // Nothing is read that another thread wrote before: the order of the tail is all there is to agree on.
            match self
                .tail
                .compare_exchange_weak(tail, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Some(Slot {
                        mapping: self,
                        offset,
                        bytes,
                        seq: tail >> OFFSET_BITS,
                        _not_sync: PhantomData,
                    });
                }
                Err(now) => tail = now,
            }
        }
    }

    /// Bytes that were not taken.
    pub(crate) fn room(&self) -> usize {
        let offset = self.tail.load(Ordering::Relaxed) & OFFSET_MASK;
        usize::try_from(offset).map_or(0, |offset| self.bytes.saturating_sub(offset))
    }

    /// Gives out no more ranges. Returns how many there were.
    pub(crate) fn close(&self) -> u64 {
        let full = u64::try_from(self.bytes).unwrap_or(OFFSET_MASK);
        let closed = self
            .tail
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tail| {
                Some(tail & !OFFSET_MASK | full)
            });
        let (Ok(tail) | Err(tail)) = closed;
        tail >> OFFSET_BITS
    }

    /// How many ranges were given out.
    pub(crate) fn taken(&self) -> u64 {
        self.tail.load(Ordering::Relaxed) >> OFFSET_BITS
    }

    /// How many records are published. Whoever finds all of those that were taken sees what they hold.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Writes the header's page, before anything is taken.
    pub(crate) fn write_header(&mut self, page: &[u8]) {
        assert!(page.len() <= self.first, "a header of {} bytes", page.len());
        // SAFETY: the page ends before the first record, thus within the mapping; `&mut self` keeps every other thread out; the
        // mapping and `page` are different objects, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), self.map.as_mut_ptr(), page.len()) };
    }
}

impl Slot<'_> {
    /// The number of the record that belongs here.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Stores bytes at a place in the range.
    pub(crate) fn fill(&mut self, at: usize, bytes: &[u8]) {
        let end = at.checked_add(bytes.len());
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "{} bytes at {at} of a range of {}",
            bytes.len(),
            self.bytes
        );
        // SAFETY: `offset + at + bytes.len()` is at most `offset + self.bytes`, which `reserve` checked against the mapping's size. The
        // range belongs to this slot alone: the tail only grows, so no other slot has any of its bytes, and nothing reads a
        // range through a reference while the mapping lives. `bytes` is a Rust slice, and no slice points into the mapping.
        unsafe {
            let to = self.mapping.map.as_mut_ptr().add(self.offset + at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Stores the payload's length, which makes the record one.
    pub(crate) fn publish(self, length: u32) {
        // SAFETY: the four bytes lie within the range, which has room for a frame's head at least. Range and place are multiples of
        // eight and four in a mapping that begins at a page, so the pointer is aligned for `AtomicU32`. The mapping outlives the
        // reference. Other accesses to these bytes: `fill` of this same slot, before, by this thread.
        let place = unsafe {
            let at = self.mapping.map.as_mut_ptr().add(self.offset + LENGTH_AT);
            AtomicU32::from_ptr(at.cast())
        };
        place.store(length.to_le(), Ordering::Release);
        self.mapping.published.fetch_add(1, Ordering::Release);
    }
}
