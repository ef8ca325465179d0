//! One record in bytes.
//!
//! ```text
//! magic u32 | length of the payload u32 | crc32 of all after u32 | seq u64 | previous hash [32] | hash [32] | payload
//! ```
//!
//! The length stands before the checksum and is covered by it. A frame holds both hashes, so that it can be judged
//! without its predecessor, and a record that was taken out can be told from one that was changed.

use crate::hash::{Hash, Head};
use crate::header::array;

/// The most bytes that one payload may have: 1 MiB. A length above it is damage, not a record.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEAD_BYTES: usize = 84;
/// Bytes of the largest frame.
pub(crate) const MAX_FRAME_BYTES: usize = FRAME_HEAD_BYTES + MAX_PAYLOAD_BYTES;
/// The first bytes of every frame. They are not UTF-8, so a payload of JSON never holds what looks like a frame.
pub(crate) const MAGIC: [u8; 4] = *b"\xF0rec";

/// One verified record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the chain, counted from 1.
    pub seq: u64,
    /// The hash of the record before it, or zeros.
    pub prev: Hash,
    /// sha256(`prev` ‖ `payload`).
    pub hash: Hash,
    /// What was appended.
    pub payload: Vec<u8>,
    /// Where its frame begins in the file, in bytes.
    pub offset: u64,
}

impl Record {
    /// The chain's head when this is its last record.
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file ends before the record does: what a crash leaves, or a file cut short.
    #[error("length: the file ends {missing} bytes before the record does")]
    Short {
        /// Bytes that are not there, counted to the end of the frame as far as it is known.
        missing: u64,
    },
    /// The length field is beyond the limit.
    #[error("length: {0} bytes are more than a record may have ({MAX_PAYLOAD_BYTES})")]
    Length(u32),
    /// No record begins here.
    #[error("magic: no record begins here")]
    Magic,
    /// The bytes are not those that were written.
    #[error("crc: the bytes are not those that were written")]
    Crc,
    /// Another record stands in its place: one was removed, repeated or moved.
    #[error("chain: record {0} stands in its place")]
    Sequence(u64),
    /// The record follows another one than the one before it.
    #[error("chain: it follows {found}, and the record before it is {expected}")]
    Chain {
        /// The previous hash as the record has it.
        found: Hash,
        /// The hash of the record before it.
        expected: Hash,
    },
    /// The hash is not that of the payload.
    #[error("hash: it says {found}, and its payload makes {expected}")]
    Hash {
        /// The hash as the record has it.
        found: Hash,
        /// sha256(previous ‖ payload).
        expected: Hash,
    },
}

/// Appends to `out` the frame of the record that follows `after`, and returns the new head.
pub(crate) fn encode(after: &Head, payload: &[u8], out: &mut Vec<u8>) -> Head {
    let head = Head {
        seq: after.seq.saturating_add(1),
        hash: after.hash.link(payload),
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&head.seq.to_le_bytes());
    out.extend_from_slice(&after.hash.0);
    out.extend_from_slice(&head.hash.0);
    out.extend_from_slice(payload);
    let crc = checksum(&length, &out[start + 12..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A frame's fixed part, read and not yet believed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead<'a> {
    bytes: &'a [u8; FRAME_HEAD_BYTES],
    /// Bytes of the payload, at most [`MAX_PAYLOAD_BYTES`].
    pub(crate) length: usize,
}

impl<'a> FrameHead<'a> {
    /// Reads the fixed part; its magic and the limit of its length are checked.
    pub(crate) fn read(bytes: &'a [u8; FRAME_HEAD_BYTES]) -> Result<Self, Problem> {
        if bytes[..4] != MAGIC {
            return Err(Problem::Magic);
        }
        let length = u32::from_le_bytes(array(&bytes[4..8]));
        match usize::try_from(length) {
            Ok(length) if length <= MAX_PAYLOAD_BYTES => Ok(Self { bytes, length }),
            _ => Err(Problem::Length(length)),
        }
    }

    /// The record's number, as it says.
    pub(crate) fn seq(&self) -> u64 {
        u64::from_le_bytes(array(&self.bytes[12..20]))
    }

    /// Whether the checksum covers this head and `payload`.
    pub(crate) fn covers(&self, payload: &[u8]) -> bool {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.bytes[4..8]);
        crc.update(&self.bytes[12..]);
        crc.update(payload);
        crc.finalize().to_le_bytes() == self.bytes[8..12]
    }

    /// The record, once it is found to follow `after`.
    pub(crate) fn verify(&self, after: &Head, payload: Vec<u8>, offset: u64) -> Result<Record, Problem> {
        if !self.covers(&payload) {
            return Err(Problem::Crc);
        }
        let record = Record {
            seq: self.seq(),
            prev: Hash(array(&self.bytes[20..52])),
            hash: Hash(array(&self.bytes[52..])),
            payload,
            offset,
        };
        if Some(record.seq) != after.seq.checked_add(1) {
            return Err(Problem::Sequence(record.seq));
        }
        if record.prev != after.hash {
            return Err(Problem::Chain {
                found: record.prev,
                expected: after.hash,
            });
        }
        match record.prev.link(&record.payload) {
            expected if expected == record.hash => Ok(record),
            expected => Err(Problem::Hash {
                found: record.hash,
                expected,
            }),
        }
    }
}

fn checksum(length: &[u8; 4], rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(length);
    crc.update(rest);
    crc.finalize()
}
