//! ModelStreamInfer: every message an ordinary inference, answers in request order.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use crossfade_proto::inference::InferParameter;
use crossfade_proto::inference::infer_parameter::ParameterChoice;
use futures_util::stream::{self, FuturesOrdered};
use http::{HeaderMap, request};
use http_body::Body;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::framing::{self, Bounds, Messages, Received};
use super::reply::{Failure, REQUEST_ID, ReplyBody, failed, identify, with_messages};
use super::{decode, encode, head};
use crate::admit::admit;
use crate::encoding::Encoding;
use crate::infer::{InferRequest, MODEL_VERSION, Parameter, RELEASE_ID, infer};
use crate::scope::{Outcome, Protocol, RequestId, RequestScope, Served};
use crate::service::Service;
use crate::status::Refusal;

/// Answers one ModelStreamInfer call; `stopping` ends it once its outstanding requests are answered.
pub(super) fn model_stream_infer<B>(
    service: Arc<Service>,
    head: &request::Parts,
    body: B,
    arrived: Instant,
    stopping: CancellationToken,
) -> http::Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let mut response = match Call::of(service, head, arrived) {
        Ok(call) => {
            let encoding = call.encoding;
            let call = Arc::new(call);
            let answers = Answers {
                incoming: Some(Box::pin(messages(call.clone(), body))),
                in_flight: FuturesOrdered::new(),
                end: None,
                stopping: Box::pin(stopping.cancelled_owned()),
                late: call
                    .deadline
                    .map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into()))),
                call,
            };
            with_messages(
                ReplyBody::Stream(Vec::new().into_iter(), Box::new(answers)),
                encoding,
            )
        }
        Err(refusal) => failed(refusal.into()),
    };
    identify(response.headers_mut(), RequestId::new());
    response
}

/// What the messages of a call share.
struct Call {
    service: Arc<Service>,
    client_id: Option<Box<str>>,
    /// The call's metadata, which holds for each of its requests.
    headers: HeaderMap,
    errors_end_it: bool,
    deadline: Option<Instant>,
    /// How requests are compressed.
    request_encoding: Option<Encoding>,
    /// How answers are compressed.
    encoding: Option<Encoding>,
}

impl Call {
    fn of(service: Arc<Service>, head: &request::Parts, arrived: Instant) -> Result<Self, Refusal> {
        let headers = &head.headers;
        let timeout = head::timeout(headers)?;
        let request_encoding = framing::of_request(headers)?;
        Ok(Self {
            client_id: head::client_id(headers).map(Into::into),
            headers: headers.clone(),
            errors_end_it: head::errors_end_the_stream(headers),
            deadline: timeout.and_then(|timeout| arrived.checked_add(timeout)),
            request_encoding,
            encoding: framing::of_response(headers, request_encoding),
            service,
        })
    }
}

impl Call {
    /// The scope of a request that arrived at this time.
    fn opened(&self, arrived: Instant) -> RequestScope {
        let mut scope = RequestScope::open(&self.service, Protocol::GrpcStream, arrived);
        if let Some(client_id) = &self.client_id {
            scope.note_client_id(client_id);
        }
        if let Some(deadline) = self.deadline {
            scope.limit_to(deadline.saturating_duration_since(arrived));
        }
        scope
    }
}

/// The requests of a call as they travelled, until the framing is broken.
///
/// Between two of them a client may be silent; inside one it may pause as long as inside any request. A message that
/// is arriving holds no permit, and is counted with all the others that are.
fn messages<B>(call: Arc<Call>, body: B) -> impl Stream<Item = Result<Received, Failure>> + Send
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let limits = call.service.limits();
    let bounds = Bounds {
        max_bytes: limits.max_request_bytes,
        idle: limits.body_idle_timeout,
        deadline: None,
    };
    let messages = Messages::new(body, bounds, call.request_encoding);
    stream::try_unfold((messages, call), |(mut messages, call)| async move {
        if !messages.another().await? {
            return Ok(None);
        }
        let arrived = Instant::now();
        let read = match messages.announced().await {
            Ok(announced) => messages.message(announced, call.service.arriving()).await,
            Err(failure) => Err(failure),
        };
        // What could not be read was a request, too.
        let message = read.inspect_err(|failure| {
            call.opened(arrived)
                .end_at_once(failure.outcome(), failure.message());
        })?;
        Ok(Some((message, (messages, call))))
    })
}

type Requests = dyn Stream<Item = Result<Received, Failure>> + Send;
type Answer = Result<Vec<Bytes>, tonic::Status>;

/// The answers of one call, framed, in request order. Dropping it drops the requests in flight, which cancels them.
pub(super) struct Answers {
    call: Arc<Call>,
    /// `None` once no more requests are read.
    incoming: Option<Pin<Box<Requests>>>,
    in_flight: FuturesOrdered<Answering>,
    /// What the call ends with after its last answer; `None` is OK.
    end: Option<tonic::Status>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    late: Option<Pin<Box<Sleep>>>,
}

/// An answer on its way, in a task of its own: a client that does not read holds its answers, but no permit. Dropping
/// it cancels the request.
struct Answering(JoinHandle<Answer>);

impl Future for Answering {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let ended = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(
            ended.unwrap_or_else(|_| Err(tonic::Status::internal("the request failed in the server"))),
        )
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
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
                match incoming.as_mut().poll_next(cx) {
                    Poll::Pending => return,
                    Poll::Ready(None) => self.stop_reading(None),
                    Poll::Ready(Some(Err(failure))) => self.stop_reading(Some(failure.status())),
                    Poll::Ready(Some(Ok(message))) => {
                        let arrived = Instant::now();
                        // Here, not in the task: one that is dropped before it runs is a request that was cancelled.
                        let answer = answer(self.call.clone(), self.call.opened(arrived), message);
                        self.in_flight.push_back(Answering(tokio::spawn(answer)));
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
async fn answer(call: Arc<Call>, mut scope: RequestScope, message: Received) -> Answer {
    let id = scope.id();
    let mut asked = Asked::default();
    let answer = answer_in_scope(&call, &mut scope, message, &mut asked).await;
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
    match answer {
        Ok(pieces) => Ok(pieces),
        Err(failure) if call.errors_end_it || failure.is_oversize() => Err(failure.status()),
        Err(failure) => {
            let message = failure.status().message().to_owned();
            let parameters = parameters(id, served, asked.final_marker);
            Ok(encode::stream_error(message, asked.id, parameters))
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
    call: &Call,
    scope: &mut RequestScope,
    received: Received,
    asked: &mut Asked,
) -> Result<Vec<Bytes>, Failure> {
    let service = &*call.service;
    let mut admitted = admit(service, scope, received.len())?;
    let message = received.decompress(|bytes| admitted.grow(service, bytes))?;
    let mut message = decode::parse(message)?;
    asked.id.clone_from(&message.id);
    let request = decode::request(&mut message)
        .inspect_err(|_| scope.note_target(&message.model_name, &message.model_version))?;
    asked.final_marker = wants_final_marker(&request);
    let response = infer(service, scope, &call.headers, request).await?;
    let parameters = parameters(scope.id(), scope.served(), asked.final_marker);
    let max_bytes = service.limits().max_request_bytes;
    Ok(encode::streamed(&response, parameters, call.encoding, max_bytes)?)
}

fn wants_final_marker(request: &InferRequest) -> bool {
    request.parameters.get("triton_enable_empty_final_response") == Some(&Parameter::Bool(true))
}

/// What unary calls say in headers, and the mark of the last response.
fn parameters(id: RequestId, served: Option<Served>, final_marker: bool) -> BTreeMap<String, InferParameter> {
    let text = |value: String| ParameterChoice::StringParam(value);
    let version = served.as_ref().map(|served| served.version);
    let release = served.and_then(|served| served.release);
    [
        Some((REQUEST_ID, text(id.to_string()))),
        version.map(|version| (MODEL_VERSION, text(version.to_string()))),
        release.map(|release| (RELEASE_ID, text(release.to_string()))),
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
