//! ModelStreamInfer: every message an ordinary inference, answers in request order.

use std::collections::BTreeMap;
use std::future::{self, Future, Ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use crossfade_proto::inference::InferParameter;
use crossfade_proto::inference::infer_parameter::ParameterChoice;
use futures_util::stream::FuturesOrdered;
use http_body::Body;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::server::{Grpc, StreamingService};

use self::codec::Pieces;
use super::reply::{MODEL_VERSION, REQUEST_ID, clip, status};
use super::{decode, encode, head};
use crate::admit::admit;
use crate::infer::{InferRequest, Parameter, infer};
use crate::scope::{Outcome, Protocol, RequestId, RequestScope};
use crate::service::Service;
use crate::status::Refusal;

mod codec;

/// Answers one ModelStreamInfer call; `stopping` ends it once its outstanding requests are answered.
pub(super) async fn model_stream_infer<B>(
    service: Arc<Service>,
    request: http::Request<B>,
    arrived: Instant,
    stopping: CancellationToken,
) -> http::Response<tonic::body::Body>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let max_bytes = service.limits().max_request_bytes;
    let headers = request.headers();
    let deadline = match head::timeout(headers) {
        Ok(timeout) => timeout.and_then(|timeout| arrived.checked_add(timeout)),
        Err(refusal) => return status(refusal).into_http(),
    };
    let call = Call {
        client_id: head::client_id(headers).map(Into::into),
        errors_end_it: head::errors_end_the_stream(headers),
        deadline,
        service,
    };
    Grpc::new(codec::Codec)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(max_bytes)
        .streaming(
            Handler {
                call: Arc::new(call),
                stopping,
            },
            request,
        )
        .await
}

/// What the messages of a call share.
struct Call {
    service: Arc<Service>,
    client_id: Option<Box<str>>,
    errors_end_it: bool,
    deadline: Option<Instant>,
}

struct Handler {
    call: Arc<Call>,
    stopping: CancellationToken,
}

impl StreamingService<Bytes> for Handler {
    type Response = Pieces;
    type ResponseStream = Answers;
    type Future = Ready<Result<tonic::Response<Answers>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let deadline = self.call.deadline;
        future::ready(Ok(tonic::Response::new(Answers {
            incoming: Some(request.into_inner()),
            in_flight: FuturesOrdered::new(),
            end: None,
            stopping: Box::pin(self.stopping.clone().cancelled_owned()),
            late: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into()))),
            call: self.call.clone(),
        })))
    }
}

type Answer = Result<Pieces, tonic::Status>;

/// The answers of one call, in request order. Dropping it drops the requests in flight, which cancels them.
struct Answers {
    call: Arc<Call>,
    /// `None` once no more requests are read.
    incoming: Option<Streaming<Bytes>>,
    in_flight: FuturesOrdered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// What the call ends with after its last answer; `None` is OK.
    end: Option<tonic::Status>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Answers {
    /// Takes what has arrived, as far as the bound of requests in flight allows.
    fn read(&mut self, cx: &mut Context<'_>) {
        let max = self.call.service.limits().max_stream_in_flight.max(1);
        while let Some(incoming) = &mut self.incoming {
            if self.stopping.as_mut().poll(cx).is_ready() {
                self.stop_reading(Some(tonic::Status::unavailable("the server is draining")));
            } else if let Some(late) = &mut self.late
                && late.as_mut().poll(cx).is_ready()
            {
                self.stop_reading(Some(tonic::Status::deadline_exceeded(
                    "the deadline of the stream has passed",
                )));
            } else if self.in_flight.len() >= max {
                return;
            } else {
                match Pin::new(incoming).poll_next(cx) {
                    Poll::Pending => return,
                    Poll::Ready(None) => self.stop_reading(None),
                    Poll::Ready(Some(Err(status))) => self.stop_reading(Some(status)),
                    Poll::Ready(Some(Ok(message))) => {
                        let answer = answer(self.call.clone(), message, Instant::now());
                        self.in_flight.push_back(Box::pin(answer));
                    }
                }
            }
        }
    }

    fn stop_reading(&mut self, end: Option<tonic::Status>) {
        self.incoming = None;
        self.end = end;
    }
}

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let this = &mut *self;
        this.read(cx);
        match Pin::new(&mut this.in_flight).poll_next(cx) {
            Poll::Ready(Some(Err(status))) => {
                this.stop_reading(None);
                this.in_flight = FuturesOrdered::new();
                Poll::Ready(Some(Err(status)))
            }
            Poll::Ready(Some(answer)) => Poll::Ready(Some(answer)),
            Poll::Ready(None) if this.incoming.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(this.end.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Answers one message, a refusal included; an error ends the stream.
async fn answer(call: Arc<Call>, message: Bytes, arrived: Instant) -> Answer {
    let service = &call.service;
    let mut scope = RequestScope::open(service, Protocol::GrpcStream, arrived);
    let id = scope.id();
    if let Some(client_id) = &call.client_id {
        scope.note_client_id(client_id);
    }
    if let Some(deadline) = call.deadline {
        scope.limit_to(deadline.saturating_duration_since(arrived));
    }
    let mut asked = Asked::default();
    let answer = answer_in_scope(service, &mut scope, message, &mut asked).await;
    let outcome = answer.as_ref().map_or_else(Outcome::from, |_| Outcome::Ok);
    scope.finish(outcome).await;
    match answer {
        Ok(pieces) => Ok(pieces),
        Err(refusal) if call.errors_end_it => Err(status(refusal)),
        Err(refusal) => {
            let message = clip(refusal.message);
            Ok(Pieces(encode::stream_error(
                message,
                asked.id,
                parameters(id, None, asked.final_marker),
            )))
        }
    }
}

/// What a request asks for its answer, known as far as it was decoded.
#[derive(Default)]
struct Asked {
    id: String,
    /// `triton_enable_empty_final_response`
    final_marker: bool,
}

async fn answer_in_scope(
    service: &Service,
    scope: &mut RequestScope,
    message: Bytes,
    asked: &mut Asked,
) -> Result<Pieces, Refusal> {
    let _admitted = admit(service, scope, message.len())?;
    let mut message = decode::parse(message)?;
    asked.id.clone_from(&message.id);
    let request = decode::request(&mut message)
        .inspect_err(|_| scope.note_target(&message.model_name, &message.model_version))?;
    asked.final_marker = wants_final_marker(&request);
    let response = infer(service, scope, request).await?;
    let parameters = parameters(scope.id(), Some(response.version), asked.final_marker);
    encode::streamed(&response, parameters, service.limits().max_request_bytes).map(Pieces)
}

fn wants_final_marker(request: &InferRequest) -> bool {
    request.parameters.get("triton_enable_empty_final_response") == Some(&Parameter::Bool(true))
}

/// What unary calls say in headers, and the mark of the last response.
fn parameters(id: RequestId, version: Option<u64>, final_marker: bool) -> BTreeMap<String, InferParameter> {
    let text = |value: String| ParameterChoice::StringParam(value);
    [
        Some((REQUEST_ID, text(id.to_string()))),
        version.map(|version| (MODEL_VERSION, text(version.to_string()))),
        final_marker.then_some(("triton_final_response", ParameterChoice::BoolParam(true))),
    ]
    .into_iter()
    .flatten()
    .map(|(key, choice)| {
        let parameter = InferParameter {
            parameter_choice: Some(choice),
        };
        (key.to_owned(), parameter)
    })
    .collect()
}
