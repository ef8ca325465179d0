//! gRPC unary calls straight on HTTP/2: messages are bytes made beforehand and framed once.

use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::{Answer, Failure};
use crate::target::Target;

/// The path of unary inference.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Flow-control windows that large answers fit in; a connection's own is four times this.
const WINDOW_BYTES: u32 = 16 << 20;

/// A frame head and, behind it, a message that many requests share.
pub type Frame = Chain<Bytes, Bytes>;

/// A version and an id, read out of a `ModelInferResponse` and nothing else with them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stamp {
    /// Field `model_version`.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// Field `id`.
    #[prost(string, tag = "3")]
    pub id: String,
}

/// Opens an HTTP/2 connection, whose frames are then moved by a task of its own on the current `LocalSet` or runtime.
///
/// Errors: [`Failure::Connect`].
pub async fn connect(target: &Target) -> Result<SendRequest<Frame>, Failure> {
    let io = target.connect().await.map_err(|_| Failure::Connect)?;
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_frame_size(1 << 20)
        .max_send_buffer_size(64 << 20)
        .handshake(io)
        .await
        .map_err(|_| Failure::Connect)?;
    // Ends when the last handle to the connection is dropped, or with the connection; each call learns of its failure.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            drop(error);
        }
    });
    Ok(send)
}

/// The head of a request to `path`, with `deadline` as its `grpc-timeout`, in milliseconds.
pub fn head(target: &Target, path: &str, deadline: Option<Duration>) -> Request<()> {
    let uri = http::Uri::builder()
        .scheme(target.scheme())
        .authority(target.authority.as_str())
        .path_and_query(format!("{}{path}", target.base))
        .build()
        .expect("the target's authority was parsed, and paths of the protocol are plain");
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("crossfade-loadtest/", env!("CARGO_PKG_VERSION"))),
    );
    // The protocol allows eight digits.
    if let Some(millis) = deadline.map(|deadline| deadline.as_millis().clamp(1, 99_999_999)) {
        let timeout = HeaderValue::try_from(format!("{millis}m")).expect("digits are a header value");
        headers.insert("grpc-timeout", timeout);
    }
    request
}

/// `message` behind its five bytes and `before`, which is part of the message too.
pub fn frame(before: &[u8], message: Bytes) -> Frame {
    let length = u32::try_from(before.len() + message.len())
        .expect("messages above 4 GiB are refused when they are made");
    let mut head = BytesMut::with_capacity(5 + before.len());
    head.put_u8(0);
    head.put_u32(length);
    head.extend_from_slice(before);
    bytes::Buf::chain(head.freeze(), message)
}

/// One call: `message` out, the answer's metadata and message back.
///
/// Errors: a status that is not OK, or [`Failure::Transport`] or [`Failure::Protocol`].
pub async fn call(
    send: SendRequest<Frame>,
    head: Request<()>,
    message: Bytes,
) -> Result<(HeaderMap, Bytes), Failure> {
    let mut send = send.ready().await.map_err(|_| Failure::Transport)?;
    let (answer, mut stream) = send.send_request(head, false).map_err(|_| Failure::Transport)?;
    stream
        .send_data(frame(&[], message), true)
        .map_err(|_| Failure::Transport)?;
    let (parts, mut body) = answer.await.map_err(|_| Failure::Transport)?.into_parts();
    if !parts.status.is_success() {
        return Err(Failure::Http(parts.status.as_u16()));
    }
    if let Some(status) = status(&parts.headers) {
        return Err(if status == 0 {
            Failure::Protocol
        } else {
            Failure::Grpc(status)
        });
    }
    let mut whole = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| Failure::Transport)?;
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(|_| Failure::Transport)?;
        // One chunk is the rule, and is not copied.
        if whole.is_empty() && rest.is_empty() {
            whole = chunk;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut whole));
            rest.extend_from_slice(&chunk);
        }
    }
    if !rest.is_empty() {
        whole = rest.freeze();
    }
    let trailers = body.trailers().await.map_err(|_| Failure::Transport)?;
    match trailers.as_ref().and_then(status) {
        Some(0) if whole.len() >= 5 => Ok((parts.headers, whole.slice(5..))),
        Some(status) if status != 0 => Err(Failure::Grpc(status)),
        _ => Err(Failure::Protocol),
    }
}

/// The version that an answer comes from: metadata `x-model-version`, else the message's own.
pub fn answer(headers: &HeaderMap, message: Bytes) -> Answer {
    let version = match headers.get("x-model-version") {
        Some(version) => Bytes::copy_from_slice(version.as_bytes()),
        None => <Stamp as prost::Message>::decode(message)
            .map_or_else(|_| Bytes::new(), |stamp| stamp.model_version.into()),
    };
    Answer { version }
}

/// `grpc-status`, if it is there and a number.
pub fn status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The name of a status code as the gRPC specification writes it.
pub fn code_name(code: i32) -> String {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let name = usize::try_from(code).ok().and_then(|code| names.get(code));
    name.map_or_else(|| format!("grpc_{code}"), |name| (*name).to_owned())
}

/// Takes the first whole message off `buffer`, without its frame head.
///
/// Errors: [`Failure::Protocol`] if it is compressed, which was not asked for.
pub fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(head) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    if head[0] != 0 {
        return Err(Failure::Protocol);
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}
