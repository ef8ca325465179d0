//! The connections of one thread: a pool of HTTP/1.1, or HTTP/2 in turn, or streams.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde::Deserialize;
use tokio::sync::Mutex;

use anyhow::Result;

use crate::plan::Plan;
use crate::target::{Protocol, Target};
use crate::wire::http1::Http1;
use crate::wire::stream::Stream;
use crate::wire::{Answer, Encoded, Failure, grpc};

/// Connections that speak the plan's protocol.
pub(super) struct Client {
    target: Target,
    kind: Kind,
    open: Cell<u32>,
    most_open: Cell<u32>,
    next: Cell<usize>,
}

enum Kind {
    /// Idle connections, the one used last on top; more are opened when there is none.
    Http(RefCell<Vec<Http1>>),
    /// Connections that requests take in turn; one that broke is opened anew by the next that needs it.
    Grpc {
        head: Box<Request<()>>,
        slots: Vec<Mutex<Option<SendRequest<grpc::Frame>>>>,
    },
    /// As `Grpc`.
    Streams(Vec<Mutex<Option<Stream>>>),
}

/// The one field of a JSON answer that is read.
#[derive(Deserialize)]
struct JsonStamp {
    #[serde(default)]
    model_version: Option<String>,
}

impl Client {
    /// Opens thread `index`'s share of the plan's connections.
    ///
    /// Errors: if the server cannot be connected to.
    pub(super) async fn open(plan: &Plan, index: u32) -> Result<Self> {
        let own =
            (plan.connections / plan.threads + u32::from(index < plan.connections % plan.threads)).max(1);
        let target = plan.target.clone();
        let refused = |_| {
            anyhow::anyhow!(
                "cannot connect to {}: does a server listen there, and does it speak {}?",
                target.url,
                target.protocol.name()
            )
        };
        let kind = match target.protocol {
            Protocol::HttpJson | Protocol::HttpBinary | Protocol::HttpRaw | Protocol::OpenAi => {
                let mut idle = Vec::new();
                for _ in 0..own {
                    idle.push(Http1::connect(&target).await.map_err(refused)?);
                }
                Kind::Http(RefCell::new(idle))
            }
            Protocol::Grpc => {
                let mut slots = Vec::new();
                for _ in 0..own {
                    slots.push(Mutex::new(Some(grpc::connect(&target).await.map_err(refused)?)));
                }
                Kind::Grpc {
                    head: Box::new(grpc::head(&target, grpc::INFER, plan.deadline)),
                    slots,
                }
            }
            Protocol::GrpcStream => {
                let mut slots = Vec::new();
                for _ in 0..own {
                    slots.push(Mutex::new(Some(Stream::open(&target).await.map_err(refused)?)));
                }
                Kind::Streams(slots)
            }
        };
        Ok(Self {
            target,
            kind,
            open: Cell::new(own),
            most_open: Cell::new(own),
            next: Cell::new(0),
        })
    }

    /// The most connections that were open at once.
    pub(super) fn connections(&self) -> u32 {
        self.most_open.get()
    }

    /// Sends `request` and waits for its answer.
    ///
    /// Errors: whatever the answer is instead. Dropping the future closes the HTTP/1.1 connection, resets the HTTP/2
    /// stream, or leaves the answer of a long stream to be thrown away.
    pub(super) async fn call(&self, request: &Encoded) -> Result<Answer, Failure> {
        match &self.kind {
            Kind::Http(idle) => self.http(idle, &request.bytes).await,
            Kind::Grpc { head, slots } => {
                let slot = &slots[self.turn(slots.len())];
                let send = {
                    let mut slot = slot.lock().await;
                    match &*slot {
                        Some(send) => send.clone(),
                        None => slot.insert(grpc::connect(&self.target).await?).clone(),
                    }
                };
                let result = grpc::call(send, Request::clone(head), request.bytes.clone()).await;
                if matches!(result, Err(Failure::Transport)) {
                    // Who comes next opens a new one; two failures at once may cost one connection too many.
                    *slot.lock().await = None;
                }
                result.map(|(headers, message)| grpc::answer(&headers, message))
            }
            Kind::Streams(slots) => {
                let receiver = {
                    let mut slot = slots[self.turn(slots.len())].lock().await;
                    let stream = match slot.take().filter(Stream::is_open) {
                        Some(stream) => slot.insert(stream),
                        None => slot.insert(Stream::open(&self.target).await?),
                    };
                    stream.send(request.bytes.clone())?
                };
                receiver.await.unwrap_or(Err(Failure::Transport))
            }
        }
    }

    /// Whose turn it is among `of` connections.
    fn turn(&self, of: usize) -> usize {
        let next = self.next.get();
        self.next.set((next + 1) % of);
        next
    }

    async fn http(&self, idle: &RefCell<Vec<Http1>>, request: &[u8]) -> Result<Answer, Failure> {
        let (mut connection, held) = loop {
            let last = idle.borrow_mut().pop();
            // Counts the connection as closed unless it comes back, also if this future is dropped.
            let held = Held(&self.open);
            let Some(mut last) = last else {
                self.open.set(self.open.get() + 1);
                self.most_open.set(self.most_open.get().max(self.open.get()));
                break (Http1::connect(&self.target).await?, held);
            };
            // A server may close what was idle for long; that is no failure of a request.
            if last.is_idle().await {
                break (last, held);
            }
        };
        let response = connection.exchange(request).await?;
        let answer = if (200..300).contains(&response.status) {
            let version = if response.version.is_empty() && self.target.protocol.has_tensors() {
                let json = response
                    .json_bytes
                    .unwrap_or(response.body.len())
                    .min(response.body.len());
                version_in(&response.body[..json])
            } else {
                response.version
            };
            Ok(Answer { version })
        } else {
            Err(Failure::Http(response.status))
        };
        if response.keep_alive {
            std::mem::forget(held);
            idle.borrow_mut().push(connection);
        }
        answer
    }
}

/// A connection that is in use; dropped, it is gone.
struct Held<'a>(&'a Cell<u32>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// `model_version` of an answer in JSON, or empty.
fn version_in(json: &[u8]) -> Bytes {
    let stamp = serde_json::from_slice::<JsonStamp>(json).ok();
    stamp
        .and_then(|stamp| stamp.model_version)
        .map_or_else(Bytes::new, Bytes::from)
}
