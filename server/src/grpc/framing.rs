//! gRPC's framing of messages: five bytes, then the message, maybe compressed.
//!
//! Read here instead of by the library, so that a request is judged by its announced size before its body
//! is buffered, a message that arrives in one piece is not copied, and a broken one is the client's mistake.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt as _;

use super::reply::Failure;
use crate::arriving::Arriving;
use crate::encoding::{DecompressError, Encoding};
use crate::status::{Refusal, Status};

/// Bytes of the frame prefix: a flag and a big-endian length.
pub(crate) const PREFIX: usize = 5;

/// What `grpc-accept-encoding` says about this server.
pub(crate) const ACCEPTED: &str = "identity,deflate,gzip";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What the messages of a request are compressed with.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let Some(value) = headers.get(GRPC_ENCODING) else {
        return Ok(None);
    };
    let name = value.to_str().unwrap_or_default();
    if name == "identity" {
        return Ok(None);
    }
    let known = Encoding::ALL.into_iter().find(|encoding| encoding.name() == name);
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
pub(crate) fn of_response(headers: &HeaderMap, request: Option<Encoding>) -> Option<Encoding> {
    let accepted = headers.get(GRPC_ACCEPT_ENCODING)?.to_str().ok()?;
    request.filter(|encoding| accepted.split(',').any(|name| name.trim() == encoding.name()))
}

/// Leaves in `headers` only what [`of_response`] chose, for the library to follow.
pub(crate) fn narrow(headers: &mut HeaderMap) {
    let request = of_request(headers).unwrap_or_default();
    match of_response(headers, request) {
        Some(encoding) => headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(encoding.name())),
        None => headers.remove(GRPC_ACCEPT_ENCODING),
    };
}

/// The prefix of a message of `len` bytes.
pub(crate) fn prefix(compressed: bool, len: u32) -> [u8; PREFIX] {
    let [a, b, c, d] = len.to_be_bytes();
    [u8::from(compressed), a, b, c, d]
}

/// What a prefix announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    compressed: bool,
    /// Bytes of the message as it travels.
    pub(crate) len: usize,
}

/// A message as it travelled.
#[derive(Debug)]
pub(crate) struct Received {
    bytes: Bytes,
    compressed: bool,
    encoding: Option<Encoding>,
    max_bytes: usize,
}

impl Received {
    /// Bytes as they travelled.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message itself, decompressed if it is compressed: then it may be many times as large, and `grow` is asked
    /// before memory is taken for it.
    ///
    /// Errors: `InvalidInput` if it is not what its encoding says; too large; what `grow` says.
    pub(crate) fn decompress(self, grow: impl FnMut(usize) -> Result<(), Refusal>) -> Result<Bytes, Failure> {
        if !self.compressed {
            return Ok(self.bytes);
        }
        let Some(encoding) = self.encoding else {
            let message = "the message is compressed, but there is no grpc-encoding";
            return Err(Refusal::invalid(message).into());
        };
        let max = self.max_bytes;
        let message = encoding.decompress(&self.bytes, max, grow);
        message.map_err(|error| match error {
            DecompressError::TooLarge => too_large(max + 1, max),
            DecompressError::Refused(refusal) => refusal.into(),
            DecompressError::Broken { .. } => Refusal::invalid(format!("the message is {error}")).into(),
        })
    }
}

/// Bounds of reading a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The largest message, before and after decompression.
    pub(crate) max_bytes: usize,
    /// The longest pause inside a message.
    pub(crate) idle: Duration,
    /// When the client stops waiting.
    pub(crate) deadline: Option<Instant>,
}

/// The messages of a request's body.
pub(crate) struct Messages<B> {
    body: B,
    /// Received and not yet taken.
    received: Bytes,
    bounds: Bounds,
    encoding: Option<Encoding>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Nothing is read yet; compressed messages are compressed with `encoding`.
    pub(crate) fn new(body: B, bounds: Bounds, encoding: Option<Encoding>) -> Self {
        Self {
            body,
            received: Bytes::new(),
            bounds,
            encoding,
        }
    }

    /// Waits, however long it takes, until another message begins; `false` at the end of the request.
    pub(crate) async fn another(&mut self) -> Result<bool, Failure> {
        while self.received.is_empty() {
            match Self::data(&mut self.body).await? {
                None => return Ok(false),
                Some(data) => self.received = data,
            }
        }
        Ok(true)
    }

    /// Reads a prefix.
    ///
    /// Errors: `InvalidInput` without a whole prefix or with an unknown flag; too large; see [`Self::next`].
    pub(crate) async fn announced(&mut self) -> Result<Announced, Failure> {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        while filled < PREFIX {
            if self.received.is_empty() {
                self.received = self.next().await?.ok_or_else(|| truncated("its prefix"))?;
            }
            let take = self.received.len().min(PREFIX - filled);
            self.received.copy_to_slice(&mut prefix[filled..filled + take]);
            filled += take;
        }
        let [flag, length @ ..] = prefix;
        let compressed = match flag {
            0 => false,
            1 => true,
            flag => {
                let message = format!("the message prefix has compression flag {flag}; expected 0 or 1");
                return Err(Refusal::invalid(message).into());
            }
        };
        let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if len > self.bounds.max_bytes {
            return Err(too_large(len, self.bounds.max_bytes));
        }
        Ok(Announced { compressed, len })
    }

    /// Reads the end of a request that has no further message.
    ///
    /// Errors: `InvalidInput` if there is more; see [`Self::next`].
    pub(crate) async fn end(&mut self) -> Result<(), Failure> {
        while self.received.is_empty() && !self.body.is_end_stream() {
            match self.next().await? {
                None => break,
                Some(more) => self.received = more,
            }
        }
        if self.received.is_empty() {
            Ok(())
        } else {
            Err(Refusal::invalid("the request goes on after its one message").into())
        }
    }

    /// Reads the message that was announced.
    ///
    /// Errors: `InvalidInput` if the request ends early; `Overloaded`; see [`Self::next`].
    pub(crate) async fn message(
        &mut self,
        announced: Announced,
        arriving: &Arriving,
    ) -> Result<Received, Failure> {
        Ok(Received {
            bytes: self.collect(announced.len, arriving).await?,
            compressed: announced.compressed,
            encoding: self.encoding,
            max_bytes: self.bounds.max_bytes,
        })
    }

    /// Reads `len` bytes.
    async fn collect(&mut self, len: usize, arriving: &Arriving) -> Result<Bytes, Failure> {
        if self.received.is_empty() && len > 0 {
            self.received = self.next().await?.ok_or_else(|| truncated("its message"))?;
        }
        if self.received.len() >= len {
            return Ok(self.received.split_to(len));
        }
        let mut whole = arriving.buffer(len);
        loop {
            let take = self.received.len().min(len - whole.len());
            whole.push(&self.received.split_to(take))?;
            if whole.len() == len {
                return Ok(whole.freeze());
            }
            self.received = self.next().await?.ok_or_else(|| truncated("its message"))?;
        }
    }

    /// The next data frame, `None` at the end.
    ///
    /// Errors: `DeadlineExceeded` after a pause or past the deadline; `Cancelled` if the client went away.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let Bounds { idle, deadline, .. } = self.bounds;
        let patience = deadline.map_or(idle, |deadline| {
            idle.min(deadline.saturating_duration_since(Instant::now()))
        });
        tokio::time::timeout(patience, Self::data(&mut self.body))
            .await
            .map_err(|_| Refusal::new(Status::DeadlineExceeded, "the request did not arrive in time"))?
    }

    async fn data(body: &mut B) -> Result<Option<Bytes>, Failure> {
        loop {
            match Pin::new(&mut *body).frame().await {
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
}

fn too_large(len: usize, max: usize) -> Failure {
    Failure::too_large(format!(
        "the message has {len} bytes or more; the server takes at most {max} (max_request_bytes)"
    ))
}

fn truncated(what: &str) -> Failure {
    Refusal::invalid(format!("the request ended before {what} was complete")).into()
}

#[cfg(test)]
mod tests;
