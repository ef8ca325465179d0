//! One inference request from its head to its answer, every exit through the scope.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::Incoming;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Front;
use super::binary::{self, Decoded, HEADER_LENGTH};
use super::body::{self, Bounds};
use super::encoding;
use super::reply::{BINARY, Failure, JSON, ReplyBody, identify, name_version};
use super::routes::Model;
use super::text::TextRoute;
use crate::admit::{admit, foresee};
use crate::encoding::{DecompressError, Encoding};
use crate::infer::infer;
use crate::scope::{Outcome, RequestScope};
use crate::status::Refusal;

/// JSON and (de)compression take about a millisecond for this much; more is announced to the other workers.
const HEAVY: usize = 256 << 10;

/// What is asked, and in whose words it is answered.
pub(super) enum Ask {
    /// A model, in those of REST v2.
    Model(Model),
    /// Text.
    Text(TextRoute),
}

/// Answers one request, whose scope opened with its head.
///
/// An overloaded server refuses before it reads the body; the permit is taken once the body is all there. Until then a
/// client that is slow or silent holds its socket and the bytes it has sent, which have a bound of their own, but no
/// permit, however long it takes.
pub(super) async fn answer(
    front: &Arc<Front>,
    mut scope: RequestScope,
    head: &Parts,
    mut body: Incoming,
    ask: &Ask,
) -> Response<ReplyBody> {
    let id = scope.id();
    let answer = attempt(front, &mut scope, &head.headers, &mut body, ask).await;
    let outcome = match &answer {
        Ok(_) => Outcome::Ok,
        Err(failure) => {
            if let Ask::Model(model) = ask {
                scope.note_target(&model.name, &model.version);
            }
            scope.note_error(&failure.message());
            failure.outcome()
        }
    };
    let served = scope.served();
    let answer = match scope.finish(outcome).await {
        Ok(()) => answer,
        Err(refusal) => Err(refusal.into()),
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(failure) => {
            linger(&failure, &head.headers, body).await;
            match ask {
                Ask::Model(_) => failure.response(),
                Ask::Text(route) => route.refusal(&failure),
            }
        }
    };
    identify(&mut response, id);
    name_version(&mut response, served.as_ref());
    response
}

/// The response to a request that failed, once its client can be expected to read it.
pub(super) async fn refuse(failure: &Failure, headers: &HeaderMap, body: Incoming) -> Response<ReplyBody> {
    linger(failure, headers, body).await;
    failure.response()
}

async fn linger(failure: &Failure, headers: &HeaderMap, body: Incoming) {
    if !failure.client_is_silent() && !headers.contains_key(header::EXPECT) {
        body::discard(body).await;
    }
}

async fn attempt(
    front: &Arc<Front>,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: &mut Incoming,
    ask: &Ask,
) -> Result<Response<ReplyBody>, Failure> {
    let service = &*front.service;
    if let Some(id) = headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
        scope.note_client_id(id);
    }
    for name in ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"] {
        if let Some(value) = headers.get(name) {
            scope.limit_to(timeout(name, value)?);
        }
    }
    let announced = http_body::Body::size_hint(&*body)
        .exact()
        .and_then(|bytes| usize::try_from(bytes).ok());
    foresee(service, scope, announced.unwrap_or(0))?;
    let encoding = encoding::of_request(headers)?;
    let body = received(front, body, scope.deadline()).await?;
    let mut admitted = admit(service, scope, body.len())?;
    let max = service.limits().max_request_bytes;
    let body = decompressed(body, encoding, max, |bytes| admitted.grow(service, bytes))?;

    let model = match ask {
        Ask::Model(model) => model,
        Ask::Text(route) => {
            let answer = route.answer(service, scope, headers, &body).await?;
            return Ok(compressed(headers, vec![answer.into()], JSON));
        }
    };
    let Decoded { request, forms } = decode(model, &body, headers.get(HEADER_LENGTH))?;
    drop(body);
    let response = infer(service, scope, headers, request).await?;

    let text: usize = response
        .outputs
        .iter()
        .map(|(name, tensor)| match forms.binary(name) {
            true => 0,
            false => tensor.data.len(),
        })
        .sum();
    let encoded = heavy(text, || binary::encode_response(&response, &forms))?;
    let kind = match encoded.header_length {
        Some(_) => BINARY,
        None => JSON,
    };
    let mut reply = compressed(headers, encoded.parts, kind);
    if let Some(length) = encoded.header_length {
        reply
            .headers_mut()
            .insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    Ok(reply)
}

/// A response of these pieces, compressed if the client's `headers` ask for it.
fn compressed(headers: &HeaderMap, mut pieces: Vec<Bytes>, kind: HeaderValue) -> Response<ReplyBody> {
    let encoding = encoding::of_response(headers);
    if let Some(encoding) = encoding {
        let len = pieces.iter().map(Bytes::len).sum();
        pieces = vec![heavy(len, || encoding.compress(&pieces))];
    }
    let mut reply = Response::new(ReplyBody::new(pieces));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(encoding) = encoding {
        headers.insert(
            header::CONTENT_ENCODING,
            HeaderValue::from_static(encoding.name()),
        );
    }
    reply
}

/// Reads a header of whole milliseconds.
fn timeout(name: &str, value: &HeaderValue) -> Result<Duration, Refusal> {
    let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| Refusal::invalid(format!("header `{name}` must be a number of milliseconds")))
}

/// Reads a body, and decompresses it if it is compressed.
pub(super) async fn read(
    front: &Front,
    headers: &HeaderMap,
    body: &mut Incoming,
    deadline: Option<Instant>,
) -> Result<Bytes, Failure> {
    let encoding = encoding::of_request(headers)?;
    let body = received(front, body, deadline).await?;
    // Calls that control the server are few, and hold no permit.
    decompressed(body, encoding, front.service.limits().max_request_bytes, |_| {
        Ok(())
    })
}

/// Reads a body as it travels.
async fn received(front: &Front, body: &mut Incoming, deadline: Option<Instant>) -> Result<Bytes, Failure> {
    let limits = front.service.limits();
    let bounds = Bounds {
        max_bytes: limits.max_request_bytes,
        idle: limits.body_idle_timeout,
        deadline,
    };
    body::read(body, bounds, front.service.arriving()).await
}

fn decompressed(
    body: Bytes,
    encoding: Option<Encoding>,
    max: usize,
    grow: impl FnMut(usize) -> Result<(), Refusal>,
) -> Result<Bytes, Failure> {
    let Some(encoding) = encoding else {
        return Ok(body);
    };
    // What comes out may be many times as large.
    heavy(body.len().saturating_mul(16), || {
        encoding.decompress(&body, max, grow)
    })
    .map_err(|error| match error {
        DecompressError::TooLarge => Failure::TooLarge { max },
        DecompressError::Refused(refusal) => refusal.into(),
        DecompressError::Broken { .. } => Refusal::invalid(format!("the request is {error}")).into(),
    })
}

fn decode(model: &Model, body: &Bytes, header_length: Option<&HeaderValue>) -> Result<Decoded, Refusal> {
    let header_length = header_length.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = header_length
        .as_ref()
        .and_then(|length| length.parse().ok())
        .unwrap_or(body.len());
    heavy(text.min(body.len()), || {
        binary::decode_request(&model.name, &model.version, body, header_length.as_deref())
    })
}

/// Does work over `bytes` bytes; where it takes long, other tasks of this worker move to another one.
pub(super) fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let many_workers = || matches!(Handle::current().runtime_flavor(), RuntimeFlavor::MultiThread);
    if bytes > HEAVY && many_workers() {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
