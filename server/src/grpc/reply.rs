//! What goes back: the body of a response, a failure as status, and the headers that every answer carries.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio_stream::Stream as _;

use super::framing::ACCEPTED;
use super::stream::Answers;
use crate::encoding::Encoding;
use crate::infer::{MODEL_VERSION, RELEASE_ID};
use crate::scope::{Outcome, RequestId, Served};
use crate::status::{Refusal, Status};

/// The header with the server's own id of a request.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// A longer status message may exceed what clients accept as headers.
const MAX_MESSAGE: usize = 2048;

/// A refusal, or a message over the size limit: the one case whose code is not the table's (protocols.md §6).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    refusal: Refusal,
    oversize: bool,
}

impl Failure {
    /// A message over the size limit: recorded as the client's mistake, answered RESOURCE_EXHAUSTED.
    pub(super) fn too_large(message: String) -> Self {
        Self {
            refusal: Refusal::invalid(message),
            oversize: true,
        }
    }

    /// Whether a message was over the size limit, as it travelled or decompressed.
    pub(super) fn is_oversize(&self) -> bool {
        self.oversize
    }

    /// What the client is told.
    pub(super) fn message(&self) -> &str {
        &self.refusal.message
    }

    /// How the request is recorded.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Refused(self.refusal.status)
    }

    /// What the client gets.
    pub(crate) fn status(self) -> tonic::Status {
        if self.oversize {
            tonic::Status::resource_exhausted(clip(self.refusal.message))
        } else {
            status(self.refusal)
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            oversize: false,
        }
    }
}

/// The refusal as gRPC says it.
pub(super) fn status(refusal: Refusal) -> tonic::Status {
    tonic::Status::new(refusal.status.grpc(), clip(refusal.message))
}

/// A message short enough to travel as a header.
pub(super) fn clip(mut message: String) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE);
    message.truncate(end);
    message
}

/// A response that is all headers.
pub(super) fn failed(failure: Failure) -> http::Response<ReplyBody> {
    let unsupported = failure.refusal.status == Status::Unsupported;
    let mut response: http::Response<ReplyBody> = failure.status().into_http();
    if unsupported {
        let accepted = HeaderValue::from_static(ACCEPTED);
        response
            .headers_mut()
            .insert(HeaderName::from_static("grpc-accept-encoding"), accepted);
    }
    response
}

/// A response with one message, framed in `pieces`.
pub(super) fn answered(pieces: Vec<Bytes>, encoding: Option<Encoding>) -> http::Response<ReplyBody> {
    with_messages(ReplyBody::Message(pieces.into_iter()), encoding)
}

/// A response of framed messages, which are compressed with `encoding` or not at all.
pub(super) fn with_messages(body: ReplyBody, encoding: Option<Encoding>) -> http::Response<ReplyBody> {
    let mut response = http::Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    if let Some(encoding) = encoding {
        let name = HeaderValue::from_static(encoding.name());
        headers.insert(HeaderName::from_static("grpc-encoding"), name);
    }
    response
}

/// Adds `x-request-id`.
pub(super) fn identify(headers: &mut HeaderMap, id: RequestId) {
    let mut text = BytesMut::with_capacity(36);
    write!(text, "{id}").expect("a growing buffer takes every text");
    let value =
        HeaderValue::from_maybe_shared(text.freeze()).expect("an id is hexadecimal digits and dashes");
    headers.insert(HeaderName::from_static(REQUEST_ID), value);
}

/// Names the version that answered, or failed to, and the release that was active.
pub(super) fn name_version(headers: &mut HeaderMap, served: Option<&Served>) {
    let Some(Served { version, release }) = served else {
        return;
    };
    headers.insert(
        HeaderName::from_static(MODEL_VERSION),
        HeaderValue::from(*version),
    );
    if let Some(release) = release.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(HeaderName::from_static(RELEASE_ID), release);
    }
}

/// The body of any response.
#[derive(Default)]
pub(super) enum ReplyBody {
    /// Nothing, or nothing more.
    #[default]
    Empty,
    /// The pieces of one framed message, then the trailers of success.
    Message(vec::IntoIter<Bytes>),
    /// The messages of a stream: the pieces of the one that is being sent, and those to come.
    Stream(vec::IntoIter<Bytes>, Box<Answers>),
    /// What the library wrote.
    Library(tonic::body::Body),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match &mut *self {
            ReplyBody::Empty => Poll::Ready(None),
            ReplyBody::Library(body) => Pin::new(body).poll_frame(cx),
            ReplyBody::Message(pieces) => {
                if let Some(piece) = pieces.next() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                *self = ReplyBody::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(success()))))
            }
            ReplyBody::Stream(pieces, answers) => loop {
                if let Some(piece) = pieces.next() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                let trailers = match ready!(Pin::new(&mut **answers).poll_next(cx)) {
                    Some(Ok(message)) => {
                        *pieces = message.into_iter();
                        continue;
                    }
                    Some(Err(status)) => trailers(&status),
                    None => success(),
                };
                *self = ReplyBody::Empty;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Empty => true,
            ReplyBody::Message(_) | ReplyBody::Stream(..) => false,
            ReplyBody::Library(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Empty => SizeHint::with_exact(0),
            ReplyBody::Message(_) | ReplyBody::Stream(..) => SizeHint::default(),
            ReplyBody::Library(body) => body.size_hint(),
        }
    }
}

/// The trailers of a response that is complete.
fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The trailers of a response that ends with `status`.
fn trailers(status: &tonic::Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its metadata cannot travel; its code always can.
        trailers.insert(
            tonic::Status::GRPC_STATUS,
            HeaderValue::from(status.code() as i32),
        );
    }
    trailers
}
