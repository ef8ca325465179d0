//! The wire: one request out, one answer or failure back, in each protocol.

pub mod grpc;
pub mod http1;
pub mod stream;

use bytes::Bytes;

/// A request that is ready to be written.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// HTTP: head and body. gRPC: the message, without its frame.
    pub bytes: Bytes,
    /// Bytes of the body or message alone.
    pub body_bytes: u64,
    /// Rows times the length that was drawn for the request; 0 where none was.
    pub tokens: u64,
}

/// What an answer is told apart by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The version that answered, as the server names it; empty if it does not.
    pub version: Bytes,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// An HTTP status that is not 2xx.
    Http(u16),
    /// A gRPC status that is not OK.
    Grpc(i32),
    /// A message of a stream that says what failed.
    StreamMessage,
    /// The connection could not be opened.
    Connect,
    /// The connection broke before the answer.
    Transport,
    /// The answer did not come in time.
    Timeout,
    /// What came is not the protocol.
    Protocol,
    /// The tester has as many requests in flight as it may; this one was not sent.
    Overflow,
}

impl Failure {
    /// Its name in results.
    pub fn name(self) -> String {
        let name = match self {
            Self::Http(status) => return status.to_string(),
            Self::Grpc(code) => return grpc::code_name(code),
            Self::StreamMessage => "stream_message",
            Self::Connect => "connect",
            Self::Transport => "transport",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Overflow => "tester_overflow",
        };
        name.to_owned()
    }
}
