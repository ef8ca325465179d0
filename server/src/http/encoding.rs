//! Content encodings: gzip and deflate (zlib), bounded after decompression (protocols.md §3).

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status as Progress};
use http::{HeaderMap, HeaderValue, header};

use super::reply::Failure;
use crate::status::Refusal;

/// A way to compress a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// RFC 9110 §8.4.1.2: deflate in zlib's wrapping.
    Deflate,
}

impl Encoding {
    /// The value of `Content-Encoding`.
    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        })
    }

    fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            Some(Encoding::Gzip)
        } else if name.eq_ignore_ascii_case("deflate") {
            Some(Encoding::Deflate)
        } else {
            None
        }
    }

    /// How a request's body is compressed; one encoding at most.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let mut found = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let names = text.split(',').map(str::trim);
            for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")) {
                match Self::named(name) {
                    Some(encoding) if found.is_none() => found = Some(encoding),
                    _ => return Err(Failure::Encoding(text.chars().take(64).collect())),
                }
            }
        }
        Ok(found)
    }

    /// How a response is wanted: the named encoding with the highest weight, gzip first among equals. `*` names
    /// none, so it asks for none.
    pub(super) fn of_response(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let mut parts = item.split(';').map(str::trim);
                let Some(encoding) = parts.next().and_then(Self::named) else {
                    continue;
                };
                let weight = parts
                    .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                    .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
                let better = match best {
                    None => weight > 0.0,
                    Some((_, held)) => weight > held || (weight == held && encoding == Encoding::Gzip),
                };
                if better {
                    best = Some((encoding, weight));
                }
            }
        }
        best.map(|(encoding, _)| encoding)
    }

    /// Decompresses a whole body.
    ///
    /// Errors: `TooLarge` past `max_bytes`; `InvalidInput` for a stream that is corrupt, cut off or followed by
    /// something else.
    pub(super) fn decompress(self, body: &[u8], max_bytes: usize) -> Result<Bytes, Failure> {
        match self {
            Encoding::Gzip => gunzip(body, max_bytes),
            Encoding::Deflate => inflate(body, max_bytes),
        }
    }

    /// Compresses the pieces of a body into one.
    pub(super) fn compress(self, pieces: &[Bytes]) -> Bytes {
        const FAST: Compression = Compression::fast();
        fn all<W: Write>(mut encoder: W, pieces: &[Bytes]) -> std::io::Result<W> {
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
}

fn corrupt(encoding: &str, why: impl std::fmt::Display) -> Failure {
    Refusal::invalid(format!("the request's {encoding} stream is broken: {why}")).into()
}

fn gunzip(body: &[u8], max_bytes: usize) -> Result<Bytes, Failure> {
    let mut out = Vec::new();
    let limit = (max_bytes as u64).saturating_add(1);
    let read = MultiGzDecoder::new(body).take(limit).read_to_end(&mut out);
    read.map_err(|error| corrupt("gzip", error))?;
    if out.len() > max_bytes {
        return Err(Failure::TooLarge { max: max_bytes });
    }
    Ok(out.into())
}

/// By hand, because flate2's reader takes a stream that is cut off for one that ended.
fn inflate(body: &[u8], max_bytes: usize) -> Result<Bytes, Failure> {
    let mut stream = Decompress::new(true);
    let mut out = Vec::with_capacity((4 * body.len()).clamp(64, 1 << 20));
    loop {
        let read = usize::try_from(stream.total_in()).expect("no more is read than there is");
        let before = stream.total_out();
        let progress = stream
            .decompress_vec(&body[read..], &mut out, FlushDecompress::None)
            .map_err(|error| corrupt("deflate", error))?;
        if out.len() > max_bytes {
            return Err(Failure::TooLarge { max: max_bytes });
        }
        let stuck = stream.total_in() == read as u64 && stream.total_out() == before;
        match progress {
            Progress::StreamEnd if stream.total_in() == body.len() as u64 => return Ok(out.into()),
            Progress::StreamEnd => return Err(corrupt("deflate", "more follows after its end")),
            _ if out.len() == out.capacity() => out.reserve(out.len()),
            _ if stuck => return Err(corrupt("deflate", "it ends early")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn request_encodings_are_named_or_refused() {
        for (values, expected) in [
            (&[][..], Some(None)),
            (&["identity"], Some(None)),
            (&[""], Some(None)),
            (&["GZip"], Some(Some(Encoding::Gzip))),
            (&["identity, deflate"], Some(Some(Encoding::Deflate))),
            (&["br"], None),
            (&["gzip, gzip"], None),
            (&["gzip", "deflate"], None),
        ] {
            let got = Encoding::of_request(&headers(header::CONTENT_ENCODING, values));
            assert_eq!(got.ok(), expected, "{values:?}");
        }
    }

    #[test]
    fn responses_are_compressed_only_when_asked() {
        for (values, expected) in [
            (&[][..], None),
            (&["*"], None),
            (&["identity, br"], None),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.0, deflate"], Some(Encoding::Deflate)),
            (&["deflate, gzip"], Some(Encoding::Gzip)),
            (&["gzip, deflate"], Some(Encoding::Gzip)),
            (&["deflate;q=0.9", "gzip; q=0.5"], Some(Encoding::Deflate)),
            (&["gzip;q=x"], None),
        ] {
            assert_eq!(
                Encoding::of_response(&headers(header::ACCEPT_ENCODING, values)),
                expected,
                "{values:?}"
            );
        }
    }

    #[test]
    fn broken_streams_are_refused() {
        for encoding in BOTH {
            let whole = encoding.compress(&[Bytes::from(vec![7; 1000])]);
            for cut in 0..whole.len() {
                let failure = encoding.decompress(&whole[..cut], 5000).expect_err("cut off");
                assert_eq!(failure.status(), 400, "{encoding:?} {cut}");
            }
            let followed = [&whole[..], b"xx"].concat();
            assert_eq!(
                encoding.decompress(&followed, 5000).unwrap_err().status(),
                400,
                "{encoding:?}"
            );
            assert_eq!(
                encoding.decompress(b"no such stream", 5000).unwrap_err().status(),
                400
            );
            assert_eq!(
                encoding.decompress(&whole, 999).unwrap_err().status(),
                413,
                "{encoding:?}"
            );
            assert_eq!(encoding.decompress(&whole, 1000).unwrap().len(), 1000);
        }
    }

    #[test]
    fn a_small_stream_cannot_fill_the_memory() {
        for encoding in BOTH {
            let bomb = encoding.compress(&vec![Bytes::from_static(&[0; 1 << 16]); 256]);
            assert!(bomb.len() < 1 << 18);
            assert_eq!(encoding.decompress(&bomb, 1 << 20).unwrap_err().status(), 413);
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_reads_back(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            for encoding in BOTH {
                let back = encoding.decompress(&encoding.compress(&pieces), 1 << 20).unwrap();
                prop_assert_eq!(back, pieces.concat());
            }
        }

        #[test]
        fn any_bytes_are_decompressed_without_a_panic(bytes: Vec<u8>) {
            for encoding in BOTH {
                drop(encoding.decompress(&bytes, 1000));
            }
        }
    }
}
