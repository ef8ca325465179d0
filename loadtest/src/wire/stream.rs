//! ModelStreamInfer: one bidirectional stream per connection, answers matched to requests by id.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{Answer, Failure, grpc};
use crate::target::Target;

const PATH: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A `ModelStreamInferResponse`, as much of it as is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    error_message: String,
    #[prost(message, optional, tag = "2")]
    infer_response: Option<grpc::Stamp>,
}

type Waiting = Rc<RefCell<VecDeque<(u64, oneshot::Sender<Result<Answer, Failure>>)>>>;

/// An open stream.
pub struct Stream {
    send: h2::SendStream<grpc::Frame>,
    waiting: Waiting,
    next: u64,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    /// Opens a connection and a stream on it. Needs a `LocalSet`, on which a task then reads the answers.
    ///
    /// Errors: [`Failure::Connect`].
    pub async fn open(target: &Target) -> Result<Self, Failure> {
        let connection = grpc::connect(target).await?;
        let mut connection = connection.ready().await.map_err(|_| Failure::Connect)?;
        let (answer, send) = connection
            .send_request(grpc::head(target, PATH, None), false)
            .map_err(|_| Failure::Connect)?;
        let waiting = Waiting::default();
        let reader = tokio::task::spawn_local({
            let waiting = Rc::clone(&waiting);
            async move {
                let failure = read(answer, &waiting).await;
                for (_, sender) in waiting.take() {
                    // Whoever gave up waiting has counted a failure of its own.
                    drop(sender.send(Err(failure)));
                }
                // The connection lives as long as its stream.
                drop(connection);
            }
        });
        Ok(Self {
            send,
            waiting,
            next: 0,
            reader,
        })
    }

    /// Whether it can take requests.
    pub fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }

    /// Sends `message`, a `ModelInferRequest` without an id; the receiver gets its first answer.
    ///
    /// Errors: [`Failure::Transport`] if the stream has ended.
    pub fn send(&mut self, message: Bytes) -> Result<oneshot::Receiver<Result<Answer, Failure>>, Failure> {
        let id = self.next;
        self.next += 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back((id, sender));
        // Fields of a message may come in any order: the id goes before the bytes that all requests share.
        let text = id.to_string();
        let mut field = vec![
            0x1a,
            u8::try_from(text.len()).expect("a number of 64 bits has at most 20 digits"),
        ];
        field.extend_from_slice(text.as_bytes());
        self.send
            .send_data(grpc::frame(&field, message), false)
            .map_err(|_| Failure::Transport)?;
        Ok(receiver)
    }
}

/// Reads answers until the stream ends, and says how it ended.
async fn read(answer: h2::client::ResponseFuture, waiting: &Waiting) -> Failure {
    let Ok(answer) = answer.await else {
        return Failure::Transport;
    };
    let (parts, mut body) = answer.into_parts();
    if let Some(status) = grpc::status(&parts.headers) {
        return Failure::Grpc(status);
    }
    if !parts.status.is_success() {
        return Failure::Http(parts.status.as_u16());
    }
    let mut buffer = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else {
            return Failure::Transport;
        };
        if body.flow_control().release_capacity(chunk.len()).is_err() {
            return Failure::Transport;
        }
        buffer.extend_from_slice(&chunk);
        loop {
            match grpc::take_message(&mut buffer) {
                Ok(Some(message)) => deliver(message, waiting),
                Ok(None) => break,
                Err(failure) => return failure,
            }
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => grpc::status(&trailers)
            .filter(|status| *status != 0)
            .map_or(Failure::Transport, Failure::Grpc),
        _ => Failure::Transport,
    }
}

/// Gives an answer to the request with its id, or to the oldest if the server names none.
fn deliver(message: Bytes, waiting: &Waiting) {
    let decoded = <Message as prost::Message>::decode(message);
    let id = decoded
        .as_ref()
        .ok()
        .and_then(|message| message.infer_response.as_ref()?.id.parse::<u64>().ok());
    let mut waiting = waiting.borrow_mut();
    let at = match id {
        Some(id) => waiting.iter().position(|(waiting, _)| *waiting == id),
        None => (!waiting.is_empty()).then_some(0),
    };
    // A second answer to the same request, of a model that gives several, finds nobody waiting.
    let Some((_, sender)) = at.and_then(|at| waiting.remove(at)) else {
        return;
    };
    let result = match decoded {
        Err(_) => Err(Failure::Protocol),
        Ok(message) if !message.error_message.is_empty() => Err(Failure::StreamMessage),
        Ok(message) => Ok(Answer {
            version: message.infer_response.unwrap_or_default().model_version.into(),
        }),
    };
    // Whoever gave up waiting has counted a failure of its own.
    drop(sender.send(result));
}
