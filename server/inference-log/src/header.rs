//! The first 4 KiB of a segment.
//!
//! ```text
//! magic [8] | format u32 | bytes of the file u32 | segment id [16] | began, microseconds since 1970 i64 |
//! run [16] | key id [16] | replica [32] | crc32 of all before u32 | zeros
//! ```
//!
//! Numbers are little-endian here and in the frames. No schema: the segment serves all models, and each record names its own.

use uuid::Uuid;

/// Bytes of a header: one page, so that the records begin at the next.
pub const HEADER_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"xfsegm\r\n";
const FORMAT: u32 = 1;
const CRC_AT: usize = 104;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its id, which is in the name of every file that is made of it.
    pub id: Uuid,
    /// Bytes of the file.
    pub bytes: u32,
    /// When it was begun, microseconds since 1970.
    pub began_us: i64,
    /// Which start of the server wrote it.
    pub run: Uuid,
    /// The data key behind what its records are encrypted with, or zeros.
    pub key: Uuid,
    /// The server that wrote it: UTF-8, filled up with zeros.
    pub replica: [u8; 32],
}

/// Why bytes are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// Fewer bytes than a header has.
    #[error("only {0} of the {HEADER_BYTES} bytes of a header are there")]
    Short(usize),
    /// The file is something else.
    #[error("its first bytes are not those of a segment")]
    Magic,
    /// A format that this release does not know.
    #[error(
        "format {0} is not known to this release, which reads format {FORMAT}; use the release that wrote it"
    )]
    Format(u32),
    /// The bytes are not those that were written.
    #[error("crc: its header is not the one that was written")]
    Crc,
}

impl Header {
    /// The server that wrote it.
    pub(crate) fn replica(&self) -> &str {
        let end = self.replica.iter().position(|byte| *byte == 0);
        let name = self.replica.get(..end.unwrap_or(self.replica.len()));
        std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }

    /// The bytes on disk.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            page[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&FORMAT.to_le_bytes());
        put(&self.bytes.to_le_bytes());
        put(self.id.as_bytes());
        put(&self.began_us.to_le_bytes());
        put(self.run.as_bytes());
        put(self.key.as_bytes());
        put(&self.replica);
        let crc = crc32fast::hash(&page[..CRC_AT]);
        page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Reads the first bytes of a file.
    ///
    /// Errors: [`HeaderProblem`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        let page: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderProblem::Short(bytes.len()))?;
        if page[..8] != MAGIC {
            return Err(HeaderProblem::Magic);
        }
        let format = u32::from_le_bytes(field(page, 8));
        if format != FORMAT {
            return Err(HeaderProblem::Format(format));
        }
        let rest = page.get(CRC_AT + 4..).unwrap_or_default();
        let crc = u32::from_le_bytes(field(page, CRC_AT));
        if crc32fast::hash(&page[..CRC_AT]) != crc || rest.iter().any(|byte| *byte != 0) {
            return Err(HeaderProblem::Crc);
        }
        Ok(Self {
            bytes: u32::from_le_bytes(field(page, 12)),
            id: Uuid::from_bytes(field(page, 16)),
            began_us: i64::from_le_bytes(field(page, 32)),
            run: Uuid::from_bytes(field(page, 40)),
            key: Uuid::from_bytes(field(page, 56)),
            replica: field(page, 72),
        })
    }
}

/// The bytes at a place that is inside.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            id: Uuid::from_u128(7),
            bytes: 1 << 20,
            began_us: -5,
            run: Uuid::from_u128(1),
            key: Uuid::from_u128(2),
            replica: *b"replica-of-the-first-test-here!!",
        }
    }

    #[test]
    fn a_header_is_read_back() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_changed_byte_of_it_is_noticed() {
        for at in 0..CRC_AT + 4 {
            let mut page = header().encode();
            page[at] ^= 1;
            assert!(Header::decode(&page).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_header_says_why() {
        let page = header().encode();
        assert_eq!(Header::decode(&page[..100]), Err(HeaderProblem::Short(100)));
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), Err(HeaderProblem::Magic));
        let mut newer = page;
        newer[8] = 2;
        assert_eq!(Header::decode(&newer), Err(HeaderProblem::Format(2)));
    }
}
