//! ModelInfer: one request from its head to its answer, every exit through the scope.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, request};
use http_body::Body;

use super::framing::{self, Bounds, Messages};
use super::reply::{Failure, ReplyBody, answered, failed, identify, name_version};
use super::{decode, encode, head};
use crate::admit::{Admitted, admit, foresee};
use crate::encoding::Encoding;
use crate::infer::infer;
use crate::scope::{Outcome, Protocol, RequestScope};
use crate::service::Service;

/// A framed answer, and the permit that its request held.
struct Answer {
    pieces: Vec<Bytes>,
    encoding: Option<Encoding>,
    admitted: Admitted,
}

/// Answers one ModelInfer call whose head was read at `arrived`.
///
/// Its scope opens with the call, not with the first poll: one that is reset before that is recorded too.
pub(super) fn model_infer<B>(
    service: Arc<Service>,
    head: request::Parts,
    body: B,
    arrived: Instant,
) -> impl Future<Output = http::Response<ReplyBody>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let scope = RequestScope::open(&service, Protocol::Grpc, arrived);
    in_scope(service, scope, head, body)
}

async fn in_scope<B>(
    service: Arc<Service>,
    mut scope: RequestScope,
    head: request::Parts,
    body: B,
) -> http::Response<ReplyBody>
where
    B: Body<Data = Bytes> + Unpin,
{
    let id = scope.id();
    let answer = answer(&service, &mut scope, &head.headers, body).await;
    let outcome = match &answer {
        Ok(_) => Outcome::Ok,
        Err(failure) => {
            scope.note_error(failure.message());
            failure.outcome()
        }
    };
    let served = scope.served();
    let answer = match scope.finish(outcome).await {
        Ok(()) => answer,
        Err(refusal) => Err(refusal.into()),
    };
    // The permit is held until the answer is on its way.
    let (mut response, _permit) = match answer {
        Ok(answer) => (answered(answer.pieces, answer.encoding), Some(answer.admitted)),
        Err(failure) => (failed(failure), None),
    };
    identify(response.headers_mut(), id);
    name_version(response.headers_mut(), served.as_ref());
    response
}

async fn answer<B>(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: B,
) -> Result<Answer, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    if let Some(id) = head::client_id(headers) {
        scope.note_client_id(id);
    }
    if let Some(timeout) = head::timeout(headers)? {
        scope.limit_to(timeout);
    }
    let request_encoding = framing::of_request(headers)?;
    let encoding = framing::of_response(headers, request_encoding);
    let max_bytes = service.limits().max_request_bytes;
    let bounds = Bounds {
        max_bytes,
        idle: service.limits().body_idle_timeout,
        deadline: scope.deadline(),
    };
    let mut body = Messages::new(body, bounds, request_encoding);
    let announced = body.announced().await?;
    // An overloaded server refuses without reading; the permit is taken once the message is there, so that a slow
    // client holds none.
    foresee(service, scope, announced.len)?;
    let received = body.message(announced, service.arriving()).await?;
    // It stays counted while its end is waited for.
    let held = service.arriving().hold(received.len())?;
    body.end().await?;
    drop(held);
    let mut admitted = admit(service, scope, received.len())?;
    let message = received.decompress(|bytes| admitted.grow(service, bytes))?;
    let mut message = decode::parse(message)?;
    let request = decode::request(&mut message)
        .inspect_err(|_| scope.note_target(&message.model_name, &message.model_version))?;
    let response = infer(service, scope, headers, request).await?;
    let pieces = encode::unary(&response, encoding, max_bytes)?;
    Ok(Answer {
        pieces,
        encoding,
        admitted,
    })
}
