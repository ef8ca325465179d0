//! gRPC's framing of the one message of a unary request: five bytes, then the message, maybe compressed.
//!
//! Read here instead of by the library, so that a request is admitted by its announced size before its body
//! is buffered, a message that arrives in one piece is not copied, and a broken one is the client's mistake.

use std::io::Read as _;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderName};
use http_body::Body;
use http_body_util::BodyExt as _;

use super::reply::Failure;
use crate::status::{Refusal, Status};

/// Bytes of the frame prefix: a flag and a big-endian length.
pub(super) const PREFIX: usize = 5;

/// What `grpc-accept-encoding` says about this server.
pub(super) const ACCEPTED: &str = "identity,deflate,gzip";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A compression that is offered both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// RFC 1952
    Gzip,
    /// RFC 1950, which gRPC calls deflate
    Deflate,
}

impl Encoding {
    const ALL: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    /// The name in headers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }

    /// What the request's message is compressed with.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get(GRPC_ENCODING) else {
            return Ok(None);
        };
        let name = value.to_str().unwrap_or_default();
        if name == "identity" {
            return Ok(None);
        }
        let known = Self::ALL.into_iter().find(|encoding| encoding.name() == name);
        known.map(Some).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            let message = format!("grpc-encoding `{name}` is not offered; the server takes {ACCEPTED}");
            Refusal::new(Status::Unsupported, message)
        })
    }

    /// What the response is compressed with: as the request, if the client accepts that.
    ///
    /// Most clients announce gzip with every call without meaning to pay for it, so an uncompressed request
    /// gets an uncompressed answer.
    pub(super) fn of_response(headers: &HeaderMap, request: Option<Self>) -> Option<Self> {
        let accepted = headers.get(GRPC_ACCEPT_ENCODING)?.to_str().ok()?;
        request.filter(|encoding| accepted.split(',').any(|name| name.trim() == encoding.name()))
    }

    /// Leaves in `headers` only what [`of_response`](Self::of_response) chose, for the library to follow.
    pub(super) fn narrow(headers: &mut HeaderMap) {
        let request = Self::of_request(headers).unwrap_or_default();
        match Self::of_response(headers, request) {
            Some(encoding) => headers.insert(
                GRPC_ACCEPT_ENCODING,
                http::HeaderValue::from_static(encoding.name()),
            ),
            None => headers.remove(GRPC_ACCEPT_ENCODING),
        };
    }
}

/// The prefix of a message of `len` bytes.
pub(super) fn prefix(compressed: bool, len: u32) -> [u8; PREFIX] {
    let [a, b, c, d] = len.to_be_bytes();
    [u8::from(compressed), a, b, c, d]
}

/// What a prefix announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    compressed: bool,
    /// Bytes of the message as it travels.
    pub(super) len: usize,
}

/// Bounds of reading a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The largest message, before and after decompression.
    pub(super) max_bytes: usize,
    /// The longest pause.
    pub(super) idle: Duration,
    /// When the client stops waiting.
    pub(super) deadline: Option<Instant>,
}

/// The body of a unary request.
pub(super) struct UnaryBody<B> {
    body: B,
    /// Received and not yet taken.
    received: Bytes,
    bounds: Bounds,
}

impl<B> UnaryBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Nothing is read yet.
    pub(super) fn new(body: B, bounds: Bounds) -> Self {
        Self {
            body,
            received: Bytes::new(),
            bounds,
        }
    }

    /// Reads the prefix.
    ///
    /// Errors: `InvalidInput` without a whole prefix or with an unknown flag; too large; see [`Self::next`].
    pub(super) async fn announced(&mut self) -> Result<Announced, Failure> {
        while self.received.len() < PREFIX {
            let more = self.next().await?.ok_or_else(|| truncated("its prefix"))?;
            self.received = join(&self.received, more);
        }
        let compressed = match self.received.get_u8() {
            0 => false,
            1 => true,
            flag => {
                let message = format!("the message prefix has compression flag {flag}; expected 0 or 1");
                return Err(Refusal::invalid(message).into());
            }
        };
        let len = usize::try_from(self.received.get_u32()).unwrap_or(usize::MAX);
        if len > self.bounds.max_bytes {
            return Err(self.too_large(len));
        }
        Ok(Announced { compressed, len })
    }

    /// Reads the message and the end of the request; decompresses.
    ///
    /// Errors: `InvalidInput` if the request ends early, goes on after the message or is not what
    /// `encoding` says; too large; see [`Self::next`].
    pub(super) async fn message(
        mut self,
        announced: Announced,
        encoding: Option<Encoding>,
    ) -> Result<Bytes, Failure> {
        let whole = self.collect(announced.len).await?;
        while !self.body.is_end_stream() {
            match self.next().await? {
                None => break,
                Some(more) if more.is_empty() => {}
                Some(_) => return Err(surplus()),
            }
        }
        match (announced.compressed, encoding) {
            (false, _) => Ok(whole),
            (true, Some(encoding)) => self.decompressed(encoding, &whole),
            (true, None) => {
                let message = "the message is compressed, but there is no grpc-encoding";
                Err(Refusal::invalid(message).into())
            }
        }
    }

    async fn collect(&mut self, len: usize) -> Result<Bytes, Failure> {
        if self.received.len() < len {
            // The length is backed by the request's permit, and memory is committed only as bytes arrive.
            let mut whole = BytesMut::with_capacity(len);
            whole.extend_from_slice(&self.received);
            while whole.len() < len {
                let more = self.next().await?.ok_or_else(|| truncated("its message"))?;
                whole.extend_from_slice(&more);
            }
            self.received = whole.freeze();
        }
        if self.received.len() > len {
            return Err(surplus());
        }
        Ok(std::mem::take(&mut self.received))
    }

    /// The next data frame, `None` at the end.
    ///
    /// Errors: `DeadlineExceeded` after a pause or past the deadline; `Cancelled` if the client went away.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.patience(), Pin::new(&mut self.body).frame())
                .await
                .map_err(|_| Refusal::new(Status::DeadlineExceeded, "the request did not arrive in time"))?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(Refusal::new(Status::Cancelled, "the request was reset").into()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn patience(&self) -> Duration {
        let Bounds { idle, deadline, .. } = self.bounds;
        deadline.map_or(idle, |deadline| {
            idle.min(deadline.saturating_duration_since(Instant::now()))
        })
    }

    fn decompressed(&self, encoding: Encoding, data: &[u8]) -> Result<Bytes, Failure> {
        // One byte more than allowed tells "too large" from "just fits".
        let limit = u64::try_from(self.bounds.max_bytes)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut out = Vec::with_capacity(data.len());
        match encoding {
            Encoding::Gzip => GzDecoder::new(data).take(limit).read_to_end(&mut out),
            Encoding::Deflate => ZlibDecoder::new(data).take(limit).read_to_end(&mut out),
        }
        .map_err(|error| {
            let name = encoding.name();
            Refusal::invalid(format!("the message is not valid {name}: {error}"))
        })?;
        if out.len() > self.bounds.max_bytes {
            return Err(self.too_large(out.len()));
        }
        Ok(out.into())
    }

    fn too_large(&self, len: usize) -> Failure {
        let max = self.bounds.max_bytes;
        Failure::too_large(format!(
            "the message has {len} bytes or more; the server takes at most {max} (max_request_bytes)"
        ))
    }
}

fn join(received: &Bytes, more: Bytes) -> Bytes {
    if received.is_empty() {
        return more;
    }
    let mut joined = BytesMut::with_capacity(received.len() + more.len());
    joined.extend_from_slice(received);
    joined.extend_from_slice(&more);
    joined.freeze()
}

fn truncated(what: &str) -> Failure {
    Refusal::invalid(format!("the request ended before {what} was complete")).into()
}

fn surplus() -> Failure {
    Refusal::invalid("the request goes on after its one message").into()
}

#[cfg(test)]
mod tests;
