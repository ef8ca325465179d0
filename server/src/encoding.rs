//! Content encodings of both protocols: gzip and deflate (zlib), bounded after decompression.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status as Progress};

use crate::status::Refusal;

/// A way to compress a body or a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which both protocols call deflate (RFC 9110 §8.4.1.2).
    Deflate,
}

/// Why something is not decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecompressError {
    /// More comes out of it than is allowed.
    #[error("larger than the limit once decompressed")]
    TooLarge,
    /// There is no room for more of it now.
    #[error("{0}")]
    Refused(Refusal),
    /// It is not what its encoding says, is cut off, or goes on after its end.
    #[error("not a valid {encoding} stream: {reason}")]
    Broken { encoding: &'static str, reason: String },
}

impl Encoding {
    /// Both.
    pub(crate) const ALL: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    /// The name in headers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }

    /// Decompresses the whole of `compressed` into at most `max_bytes` bytes; `grow` is asked before the memory for
    /// so many in all is taken.
    pub(crate) fn decompress(
        self,
        compressed: &[u8],
        max_bytes: usize,
        mut grow: impl FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<Bytes, DecompressError> {
        let mut out = Output {
            bytes: Vec::new(),
            max_bytes,
            grow: &mut grow,
        };
        match self {
            Encoding::Gzip => gunzip(compressed, &mut out)?,
            Encoding::Deflate => inflate(compressed, &mut out)?,
        }
        Ok(out.bytes.into())
    }

    /// Compresses the pieces of a body into one.
    pub(crate) fn compress(self, pieces: &[Bytes]) -> Bytes {
        const FAST: Compression = Compression::fast();
        fn all<W: Write>(mut encoder: W, pieces: &[Bytes]) -> io::Result<W> {
            pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
            Ok(encoder)
        }
        let compressed = match self {
            Encoding::Gzip => all(GzEncoder::new(Vec::new(), FAST), pieces).and_then(GzEncoder::finish),
            Encoding::Deflate => {
                all(ZlibEncoder::new(Vec::new(), FAST), pieces).and_then(ZlibEncoder::finish)
            }
        };
        compressed.expect("writing to memory does not fail").into()
    }

    fn broken(self, reason: impl ToString) -> DecompressError {
        DecompressError::Broken {
            encoding: self.name(),
            reason: reason.to_string(),
        }
    }
}

/// The first piece of memory that is taken for what comes out.
const FIRST: usize = 16 << 10;

/// What comes out, in memory that grows by doubling.
struct Output<'a> {
    bytes: Vec<u8>,
    max_bytes: usize,
    grow: &'a mut dyn FnMut(usize) -> Result<(), Refusal>,
}

impl Output<'_> {
    /// Makes room for one byte more at least. One more than allowed tells "too large" from "just fits".
    fn reserve(&mut self) -> Result<(), DecompressError> {
        if self.bytes.len() > self.max_bytes {
            return Err(DecompressError::TooLarge);
        }
        if self.bytes.len() == self.bytes.capacity() {
            let total = (2 * self.bytes.len())
                .max(FIRST)
                .min(self.max_bytes.saturating_add(1));
            (self.grow)(total).map_err(DecompressError::Refused)?;
            self.bytes.reserve_exact(total - self.bytes.len());
        }
        Ok(())
    }
}

fn gunzip(compressed: &[u8], out: &mut Output<'_>) -> Result<(), DecompressError> {
    let mut decoder = MultiGzDecoder::new(compressed);
    loop {
        out.reserve()?;
        let start = out.bytes.len();
        out.bytes.resize(out.bytes.capacity(), 0);
        let read = decoder.read(&mut out.bytes[start..]);
        let read = read.map_err(|error| Encoding::Gzip.broken(error))?;
        out.bytes.truncate(start + read);
        if read == 0 {
            return Ok(());
        }
    }
}

/// By hand, because flate2's reader takes a stream that is cut off for one that ended.
fn inflate(compressed: &[u8], out: &mut Output<'_>) -> Result<(), DecompressError> {
    let broken = |reason: &str| Err(Encoding::Deflate.broken(reason));
    let mut stream = Decompress::new(true);
    loop {
        out.reserve()?;
        let read = usize::try_from(stream.total_in()).expect("no more is read than there is");
        let before = stream.total_out();
        let progress = stream
            .decompress_vec(&compressed[read..], &mut out.bytes, FlushDecompress::None)
            .map_err(|error| Encoding::Deflate.broken(error))?;
        if out.bytes.len() > out.max_bytes {
            return Err(DecompressError::TooLarge);
        }
        let stuck = stream.total_in() == read as u64 && stream.total_out() == before;
        match progress {
            Progress::StreamEnd if stream.total_in() == compressed.len() as u64 => return Ok(()),
            Progress::StreamEnd => return broken("more follows after its end"),
            _ if out.bytes.len() == out.bytes.capacity() => {}
            _ if stuck => return broken("it ends early"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn anything(_: usize) -> Result<(), Refusal> {
        Ok(())
    }

    #[test]
    fn memory_is_asked_for_before_it_is_taken() {
        for encoding in Encoding::ALL {
            let whole = encoding.compress(&[Bytes::from(vec![7; 100_000])]);
            let mut asked = Vec::new();
            let out = encoding.decompress(&whole, 1 << 20, |total| {
                asked.push(total);
                Ok(())
            });
            assert_eq!(out.unwrap().len(), 100_000);
            assert!(asked.is_sorted() && *asked.last().unwrap() < 300_000, "{asked:?}");
            let full = Refusal::invalid("full");
            let refused = encoding.decompress(&whole, 1 << 20, |total| {
                if total > 50_000 { Err(full.clone()) } else { Ok(()) }
            });
            assert_eq!(refused, Err(DecompressError::Refused(full)));
        }
    }

    #[test]
    fn broken_streams_are_refused() {
        for encoding in Encoding::ALL {
            let broken = |bytes: &[u8]| {
                let error = encoding
                    .decompress(bytes, 5000, anything)
                    .expect_err("it is broken");
                assert!(matches!(error, DecompressError::Broken { .. }), "{error}");
            };
            let whole = encoding.compress(&[Bytes::from(vec![7; 1000])]);
            (0..whole.len()).for_each(|cut| broken(&whole[..cut]));
            broken(&[&whole[..], b"xx"].concat());
            broken(b"no such stream");
            assert_eq!(
                encoding.decompress(&whole, 999, anything),
                Err(DecompressError::TooLarge)
            );
            assert_eq!(encoding.decompress(&whole, 1000, anything).unwrap().len(), 1000);
        }
    }

    #[test]
    fn a_small_stream_cannot_fill_the_memory() {
        for encoding in Encoding::ALL {
            let bomb = encoding.compress(&vec![Bytes::from_static(&[0; 1 << 16]); 256]);
            assert!(bomb.len() < 1 << 18);
            assert_eq!(
                encoding.decompress(&bomb, 1 << 20, anything),
                Err(DecompressError::TooLarge)
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_reads_back(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            for encoding in Encoding::ALL {
                let back = encoding.decompress(&encoding.compress(&pieces), 1 << 20, anything).unwrap();
                prop_assert_eq!(back, pieces.concat());
            }
        }

        #[test]
        fn any_bytes_are_decompressed_without_a_panic(bytes: Vec<u8>) {
            for encoding in Encoding::ALL {
                drop(encoding.decompress(&bytes, 1000, anything));
            }
        }
    }
}
