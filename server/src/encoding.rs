//! Content encodings of both protocols: gzip and deflate (zlib), bounded after decompression.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status as Progress};

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

    /// Decompresses the whole of `compressed` into at most `max_bytes` bytes.
    pub(crate) fn decompress(self, compressed: &[u8], max_bytes: usize) -> Result<Bytes, DecompressError> {
        match self {
            Encoding::Gzip => gunzip(compressed, max_bytes),
            Encoding::Deflate => inflate(compressed, max_bytes),
        }
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

fn gunzip(compressed: &[u8], max_bytes: usize) -> Result<Bytes, DecompressError> {
    let mut out = Vec::new();
    // One byte more than allowed tells "too large" from "just fits".
    let limit = (max_bytes as u64).saturating_add(1);
    let read = MultiGzDecoder::new(compressed).take(limit).read_to_end(&mut out);
    read.map_err(|error| Encoding::Gzip.broken(error))?;
    if out.len() > max_bytes {
        return Err(DecompressError::TooLarge);
    }
    Ok(out.into())
}

/// By hand, because flate2's reader takes a stream that is cut off for one that ended.
fn inflate(compressed: &[u8], max_bytes: usize) -> Result<Bytes, DecompressError> {
    let broken = |reason: &str| Err(Encoding::Deflate.broken(reason));
    let mut stream = Decompress::new(true);
    let mut out = Vec::with_capacity((4 * compressed.len()).clamp(64, 1 << 20));
    loop {
        let read = usize::try_from(stream.total_in()).expect("no more is read than there is");
        let before = stream.total_out();
        let progress = stream
            .decompress_vec(&compressed[read..], &mut out, FlushDecompress::None)
            .map_err(|error| Encoding::Deflate.broken(error))?;
        if out.len() > max_bytes {
            return Err(DecompressError::TooLarge);
        }
        let stuck = stream.total_in() == read as u64 && stream.total_out() == before;
        match progress {
            Progress::StreamEnd if stream.total_in() == compressed.len() as u64 => return Ok(out.into()),
            Progress::StreamEnd => return broken("more follows after its end"),
            _ if out.len() == out.capacity() => out.reserve(out.len()),
            _ if stuck => return broken("it ends early"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_streams_are_refused() {
        for encoding in Encoding::ALL {
            let broken = |bytes: &[u8]| {
                let error = encoding.decompress(bytes, 5000).expect_err("it is broken");
                assert!(matches!(error, DecompressError::Broken { .. }), "{error}");
            };
            let whole = encoding.compress(&[Bytes::from(vec![7; 1000])]);
            (0..whole.len()).for_each(|cut| broken(&whole[..cut]));
            broken(&[&whole[..], b"xx"].concat());
            broken(b"no such stream");
            assert_eq!(encoding.decompress(&whole, 999), Err(DecompressError::TooLarge));
            assert_eq!(encoding.decompress(&whole, 1000).unwrap().len(), 1000);
        }
    }

    #[test]
    fn a_small_stream_cannot_fill_the_memory() {
        for encoding in Encoding::ALL {
            let bomb = encoding.compress(&vec![Bytes::from_static(&[0; 1 << 16]); 256]);
            assert!(bomb.len() < 1 << 18);
            assert_eq!(
                encoding.decompress(&bomb, 1 << 20),
                Err(DecompressError::TooLarge)
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_reads_back(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            for encoding in Encoding::ALL {
                let back = encoding.decompress(&encoding.compress(&pieces), 1 << 20).unwrap();
                prop_assert_eq!(back, pieces.concat());
            }
        }

        #[test]
        fn any_bytes_are_decompressed_without_a_panic(bytes: Vec<u8>) {
            for encoding in Encoding::ALL {
                drop(encoding.decompress(&bytes, 1000));
            }
        }
    }
}
