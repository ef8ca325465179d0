//! The first 72 bytes of a journal file: what it is for, and what its first record follows.
//!
//! ```text
//! magic [8] | format version u32 | purpose [16] | base seq u64 | base hash [32] | crc32 of all before u32
//! ```
//!
//! Numbers are little-endian here and in the frames.

use std::fmt;

use crate::hash::{Hash, Head};

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 72;
/// The line feed and the carriage return show a file that was copied as text.
const MAGIC: [u8; 8] = *b"xfjrnl\r\n";
const FORMAT: u32 = 1;
const CRC_AT: usize = HEADER_BYTES - 4;

/// What a journal is for. A file of one purpose is never opened as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The transitions of one model's rollouts.
    Rollout,
    /// The audit records.
    Audit,
    /// The files that make up the inference log.
    Manifest,
}

impl Purpose {
    /// Its name in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Audit => "audit",
            Self::Manifest => "manifest",
        }
    }

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.name().len()].copy_from_slice(self.name().as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        [Self::Rollout, Self::Audit, Self::Manifest]
            .into_iter()
            .find(|purpose| purpose.bytes() == bytes)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the journal is for.
    pub purpose: Purpose,
    /// The record that the file's first record follows.
    pub base: Head,
}

/// Why bytes are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// Fewer bytes than a header has.
    #[error("only {0} of the 72 bytes of a header are there")]
    Short(usize),
    /// The file is something else.
    #[error("its first bytes are not those of a journal")]
    Magic,
    /// A format that this release does not know.
    #[error("format {0} is not known to this release, which reads format 1; use the release that wrote it")]
    Format(u32),
    /// Damaged.
    #[error("its header does not match its checksum")]
    Crc,
    /// A purpose that this release does not know.
    #[error("its purpose is not known to this release; use the release that wrote it")]
    Purpose,
}

impl Header {
    /// The header in bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.purpose.bytes());
        bytes[28..36].copy_from_slice(&self.base.seq.to_le_bytes());
        bytes[36..CRC_AT].copy_from_slice(&self.base.hash.0);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`; what follows it is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderProblem::Short(bytes.len()));
        };
        if bytes[..8] != MAGIC {
            return Err(HeaderProblem::Magic);
        }
        if crc32fast::hash(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(HeaderProblem::Crc);
        }
        let format = u32::from_le_bytes(array(&bytes[8..12]));
        if format != FORMAT {
            return Err(HeaderProblem::Format(format));
        }
        Ok(Self {
            purpose: Purpose::from_bytes(&bytes[12..28]).ok_or(HeaderProblem::Purpose)?,
            base: Head {
                seq: u64::from_le_bytes(array(&bytes[28..36])),
                hash: Hash(array(&bytes[36..CRC_AT])),
            },
        })
    }

    /// Whether `bytes` are what a crash can leave of writing this header to a new file: a part of it, or zeros.
    pub(crate) fn is_torn(&self, bytes: &[u8]) -> bool {
        bytes.len() <= HEADER_BYTES
            && (bytes.iter().all(|&byte| byte == 0)
                || (bytes.len() < HEADER_BYTES && self.encode().starts_with(bytes)))
    }
}

/// `bytes` as an array of a length that the caller has cut them to.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        purpose: Purpose::Manifest,
        base: Head {
            seq: 7,
            hash: Hash([5; 32]),
        },
    };

    #[test]
    fn a_header_is_read_as_it_was_written() {
        assert_eq!(Header::decode(&HEADER.encode()), Ok(HEADER));
    }

    #[test]
    fn a_header_of_another_format_says_which() {
        let mut bytes = HEADER.encode();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderProblem::Format(2)));
    }

    #[test]
    fn a_purpose_of_a_later_release_is_refused() {
        let mut bytes = HEADER.encode();
        bytes[12..16].copy_from_slice(b"news");
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderProblem::Purpose));
    }

    #[test]
    fn only_a_beginning_or_zeros_are_a_torn_header() {
        let whole = HEADER.encode();
        assert!((0..HEADER_BYTES).all(|length| HEADER.is_torn(&whole[..length])));
        assert!(HEADER.is_torn(&[0; HEADER_BYTES]));
        assert!(!HEADER.is_torn(&[0; HEADER_BYTES + 1]));
        assert!(!HEADER.is_torn(&whole));
        assert!(!HEADER.is_torn(b"notes of my own"));
    }
}
