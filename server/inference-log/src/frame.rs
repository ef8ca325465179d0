//! One record in a segment.
//!
//! ```text
//! magic u32 | length of the payload u32 | crc32 u32 | kind u8 | flags u8 | schema u16 | seq u64 | payload | zeros up to 8
//! ```
//!
//! The checksum begins with the segment's id, which no client knows: a payload that looks like a frame is none. The length is
//! stored last, by whoever writes the record: as long as it is zero, the record is not there.

use uuid::Uuid;

use crate::header::field;

/// Bytes of a frame before its payload.
pub const FRAME_HEAD_BYTES: usize = 24;
/// The most bytes that one payload may have: 8 MiB. A length above it is damage, not a record.
pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;
/// Frames begin at multiples of it.
pub(crate) const ALIGNMENT: usize = 8;
/// The first bytes of every frame. They are not UTF-8.
pub(crate) const MAGIC: [u8; 4] = *b"\xF1inf";
pub(crate) const LENGTH_AT: usize = 4;
/// The flag of a record whose payload is encrypted.
pub(crate) const ENCRYPTED: u8 = 1 << 7;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One inference.
    Inference,
    /// The opening of a stream.
    StreamOpen,
    /// Records that are missing.
    Gap,
    /// What was received so far; see [`Mark`].
    Mark,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Inference, Kind::StreamOpen, Kind::Gap, Kind::Mark];

    fn number(self) -> u8 {
        match self {
            Kind::Inference => 1,
            Kind::StreamOpen => 2,
            Kind::Gap => 3,
            Kind::Mark => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// How many requests there were since the server started: what the records are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Which start of which server.
    pub run: Uuid,
    /// Requests that have finished.
    pub received: u64,
    /// Of them, those that sampling left out.
    pub sampled_out: u64,
    /// Of them, those that could not be recorded.
    pub lost: u64,
    /// Whether it is the last one of the run, and nothing was under way any more.
    pub last: bool,
}

impl Mark {
    /// Bytes of a mark.
    pub const BYTES: usize = 41;

    /// The payload.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(self.run.as_bytes());
        let numbers = [self.received, self.sampled_out, self.lost];
        for (place, number) in bytes[16..40].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40] = u8::from(self.last);
        bytes
    }

    /// Reads a payload; `None` for one of another length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let number = |at| u64::from_le_bytes(field(bytes, at));
        Some(Self {
            run: Uuid::from_bytes(field(bytes, 0)),
            received: number(16),
            sampled_out: number(24),
            lost: number(32),
            last: bytes[40] != 0,
        })
    }
}

/// A frame's head, without its length and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) schema: u16,
    pub(crate) seq: u64,
}

impl FrameHead {
    /// The twelve bytes behind the checksum.
    pub(crate) fn tail(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[0] = self.kind.number();
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.schema.to_le_bytes());
        bytes[4..].copy_from_slice(&self.seq.to_le_bytes());
        bytes
    }

    /// The head as it is on disk before the record is there: its length is zero.
    pub(crate) fn unpublished(self, crc: u32) -> [u8; FRAME_HEAD_BYTES] {
        let mut bytes = [0; FRAME_HEAD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes[12..].copy_from_slice(&self.tail());
        bytes
    }

    /// The checksum of a record.
    pub(crate) fn crc(self, segment: Uuid, length: u32, parts: &[&[u8]]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(segment.as_bytes());
        crc.update(&length.to_le_bytes());
        crc.update(&self.tail());
        for part in parts {
            crc.update(part);
        }
        crc.finalize()
    }
}

/// Bytes that a record takes in the file.
pub(crate) fn framed(payload: usize) -> usize {
    (FRAME_HEAD_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// The length that the record with these first bytes says its payload has; `None` where none begins.
pub(crate) fn payload_length(bytes: &[u8]) -> Option<usize> {
    let head: &[u8; FRAME_HEAD_BYTES] = bytes.first_chunk()?;
    if head[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(field(head, LENGTH_AT));
    usize::try_from(length)
        .ok()
        .filter(|size| (1..=MAX_PAYLOAD_BYTES).contains(size))
}

/// The record that begins with these bytes, and its payload; `None` where there is none, or a damaged one.
pub(crate) fn parse(bytes: &[u8], segment: Uuid) -> Option<(FrameHead, &[u8])> {
    let size = payload_length(bytes)?;
    let length = u32::try_from(size).ok()?;
    let head: &[u8; FRAME_HEAD_BYTES] = bytes.first_chunk()?;
    let payload = bytes.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + size)?;
    let found = FrameHead {
        kind: Kind::from_number(head[12])?,
        flags: head[13],
        schema: u16::from_le_bytes(field(head, 14)),
        seq: u64::from_le_bytes(field(head, 16)),
    };
    let crc = u32::from_le_bytes(field(head, 8));
    (found.crc(segment, length, &[payload]) == crc).then_some((found, payload))
}
