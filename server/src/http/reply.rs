//! Responses: bodies of several pieces, and errors as the protocol words them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::json::response::push_string;
use crate::infer;
use crate::scope::{Outcome, RequestId, Served};
use crate::status::{REPOSITORY_CONFLICT, Refusal, Status};

/// The server's id of a request, on every response.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Below this a copy into one piece is cheaper than one more slice to write.
const FLATTEN: usize = 64 << 10;

/// A response body: the pieces, in order; or a stream of them, of no known length.
#[derive(Debug, Default)]
pub(super) struct ReplyBody {
    pieces: VecDeque<Bytes>,
    left: u64,
    live: Option<Live>,
    grpc: Option<tonic::body::Body>,
}

/// Pieces that are not there yet.
struct Live(Pin<Box<dyn Stream<Item = Bytes> + Send>>);

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl ReplyBody {
    /// A body of these pieces; small ones are joined.
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let pieces = if pieces.len() > 1 && len <= FLATTEN {
            vec![pieces.concat().into()]
        } else {
            pieces
        };
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self {
            pieces,
            left: len as u64,
            ..Self::default()
        }
    }

    /// A body that goes on until `pieces` ends.
    pub(super) fn live(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self {
            live: Some(Live(Box::pin(pieces))),
            ..Self::default()
        }
    }

    /// A body of gRPC, which the admin listener speaks too.
    pub(super) fn grpc(body: tonic::body::Body) -> Self {
        Self {
            grpc: Some(body),
            ..Self::default()
        }
    }

    /// Bytes still to be sent.
    pub(super) fn len(&self) -> u64 {
        self.left
    }
}

impl From<Vec<u8>> for ReplyBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(vec![bytes.into()])
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(body) = &mut self.grpc {
            // What the library writes ends with trailers, not with an error.
            let frame = Pin::new(body).poll_frame(cx);
            return frame.map(|frame| frame.and_then(Result::ok).map(Ok));
        }
        if let Some(Live(pieces)) = &mut self.live {
            return pieces
                .as_mut()
                .poll_next(cx)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece))));
        }
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.grpc {
            Some(body) => body.is_end_stream(),
            None => self.left == 0 && self.live.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.live.is_some() || self.grpc.is_some() {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.left),
        }
    }
}

/// Why a request is not answered with success.
#[derive(Debug)]
pub(super) enum Failure {
    /// A row of the status table.
    Refused(Refusal),
    /// A row of the status table, on a repository route.
    Repository(Refusal),
    /// 404: no such path.
    UnknownPath,
    /// 405; what the path allows.
    Method { allow: &'static str },
    /// 413: the body, as sent or decompressed.
    TooLarge { max: usize },
    /// 415: a content encoding that is not known.
    Encoding(String),
    /// 408: a pause inside the body.
    Stalled { idle: Duration },
    /// 400: a body that is not what the path takes; what the reader says.
    Json(String),
    /// 400: more inputs than one request may have.
    TooMany(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl Failure {
    /// As the scope records it; what HTTP alone has is the client's mistake.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Failure::Refused(refusal) | Failure::Repository(refusal) => Outcome::Refused(refusal.status),
            Failure::UnknownPath
            | Failure::Method { .. }
            | Failure::TooLarge { .. }
            | Failure::Encoding(_)
            | Failure::Json(_)
            | Failure::TooMany(_)
            | Failure::Stalled { .. } => Outcome::Refused(Status::InvalidInput),
        }
    }

    /// As a row of the status table; what HTTP alone has is the client's mistake.
    pub(super) fn into_refusal(self) -> Refusal {
        let message = self.message();
        match self {
            Failure::Refused(refusal) | Failure::Repository(refusal) => refusal,
            Failure::UnknownPath
            | Failure::Method { .. }
            | Failure::TooLarge { .. }
            | Failure::Encoding(_)
            | Failure::Json(_)
            | Failure::TooMany(_)
            | Failure::Stalled { .. } => Refusal::invalid(message),
        }
    }

    /// Whether there is no use in reading on.
    pub(super) fn client_is_silent(&self) -> bool {
        match self {
            Failure::Stalled { .. } => true,
            Failure::Refused(refusal) | Failure::Repository(refusal) => refusal.status == Status::Cancelled,
            Failure::UnknownPath
            | Failure::Method { .. }
            | Failure::TooLarge { .. }
            | Failure::Json(_)
            | Failure::TooMany(_)
            | Failure::Encoding(_) => false,
        }
    }

    /// The status code.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Failure::Repository(refusal) if refusal.status == Status::Conflict => REPOSITORY_CONFLICT,
            Failure::Refused(refusal) | Failure::Repository(refusal) => refusal.status.http(),
            Failure::UnknownPath => StatusCode::NOT_FOUND,
            Failure::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Failure::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::Stalled { .. } => StatusCode::REQUEST_TIMEOUT,
            Failure::Json(_) | Failure::TooMany(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    pub(super) fn message(&self) -> String {
        match self {
            Failure::Refused(refusal) | Failure::Repository(refusal) => refusal.message.clone(),
            Failure::UnknownPath => "unknown path".to_owned(),
            Failure::Method { allow } => format!("method not allowed; the path takes {allow}"),
            Failure::TooLarge { max } => {
                format!("the request is larger than {max} bytes (max_request_bytes)")
            }
            Failure::Encoding(encoding) => {
                format!("content encoding `{encoding}` is not known; use gzip, deflate or identity")
            }
            Failure::Json(reason) => format!("the request is not as expected: {reason}"),
            Failure::TooMany(message) => message.clone(),
            Failure::Stalled { idle } => format!("no part of the request's body came for {idle:?}"),
        }
    }

    /// The response.
    pub(super) fn response(&self) -> Response<ReplyBody> {
        let mut body = b"{\"error\":".to_vec();
        push_string(&self.message(), &mut body);
        body.push(b'}');
        let mut response = json(self.status(), body);
        let headers = response.headers_mut();
        match self {
            Failure::Method { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Failure::Encoding(_) => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
            }
            _ if self.status() == StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ if self.status() == StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// A response whose body is JSON.
pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Puts the server's id of the request on its response.
pub(super) fn identify(response: &mut Response<ReplyBody>, id: RequestId) {
    let id = HeaderValue::from_maybe_shared(Bytes::from(id.to_string())).expect("a UUID is a header value");
    response.headers_mut().insert(REQUEST_ID, id);
}

/// Names the version that answered, or failed to, and the release that was active.
pub(super) fn name_version(response: &mut Response<ReplyBody>, served: Option<&Served>) {
    let Some(Served { version, release }) = served else {
        return;
    };
    let headers = response.headers_mut();
    headers.insert(infer::MODEL_VERSION, HeaderValue::from(*version));
    if let Some(release) = release.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(infer::RELEASE_ID, release);
    }
}

/// Leaves out the body, as the answer to HEAD does, but not its length.
pub(super) fn without_body(response: Response<ReplyBody>) -> Response<ReplyBody> {
    let (mut head, body) = response.into_parts();
    head.headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(head, ReplyBody::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[test]
    fn failures_have_the_codes_and_headers_of_the_protocol() {
        let refused = |status| Failure::Refused(Refusal::new(status, "x"));
        for (failure, code, name, value) in [
            (refused(Status::Overloaded), 429, "retry-after", "1"),
            (refused(Status::Conflict), 409, "content-type", "application/json"),
            (
                Failure::Repository(Refusal::new(Status::Conflict, "x")),
                400,
                "content-type",
                "application/json",
            ),
            (
                Failure::Repository(Refusal::new(Status::NotFound, "x")),
                404,
                "content-type",
                "application/json",
            ),
            (
                refused(Status::Unauthenticated),
                401,
                "www-authenticate",
                "Bearer",
            ),
            (Failure::UnknownPath, 404, "content-type", "application/json"),
            (Failure::Method { allow: "POST" }, 405, "allow", "POST"),
            (
                Failure::TooLarge { max: 1 },
                413,
                "content-type",
                "application/json",
            ),
            (
                Failure::Encoding("br".to_owned()),
                415,
                "accept-encoding",
                "gzip, deflate",
            ),
            (
                Failure::Stalled {
                    idle: Duration::from_secs(3),
                },
                408,
                "content-type",
                "application/json",
            ),
        ] {
            let response = failure.response();
            assert_eq!(response.status(), code);
            assert_eq!(response.headers()[name], value);
        }
    }

    #[tokio::test]
    async fn bodies_say_their_length_and_keep_their_order() {
        for size in [1, FLATTEN] {
            let pieces: Vec<Bytes> = (0..4u8).map(|k| vec![k; size].into()).collect();
            let body = ReplyBody::new(pieces.clone());
            assert_eq!(body.size_hint().exact(), Some(4 * size as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), pieces.concat());
        }
        assert!(ReplyBody::new(vec![Bytes::new()]).is_end_stream());
    }
}
