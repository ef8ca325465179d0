//! What both front ends hold: the registry, the limits, the metrics, the state of the process.

use std::time::Duration;

/// The shared heart of the server; front ends hold it in an `Arc`.
pub struct Service {
    limits: Limits,
}

/// Bounds that protect the process from its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request, after decompression.
    pub max_request_bytes: usize,
    /// Requests between admission and answer.
    pub max_in_flight: usize,
    /// Bytes of request bodies held at once.
    pub max_in_flight_bytes: usize,
    /// Open connections per listener.
    pub max_connections: usize,
    /// Reading a request head.
    pub header_timeout: Duration,
    /// The longest pause inside a request body.
    pub body_idle_timeout: Duration,
    /// Requests in flight on one gRPC stream.
    pub max_stream_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 256 << 20,
            max_in_flight: 4096,
            max_in_flight_bytes: 4 << 30,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(15),
            body_idle_timeout: Duration::from_secs(30),
            max_stream_in_flight: 64,
        }
    }
}

impl Service {
    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the access log is on: one line per request.
    pub fn access_log(&self) -> bool {
        false
    }
}
