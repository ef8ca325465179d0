//! The one table that maps outcomes to codes of both protocols (protocols.md §6).

use std::fmt;

use http::StatusCode;
use tonic::Code;

/// Why a request was not answered with a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The request is wrong: decoding, signature, version string, configuration given to load.
    InvalidInput,
    /// The admin listener does not know who calls.
    Unauthenticated,
    /// The caller may not do this, or not over this listener.
    Forbidden,
    /// Unknown model, or a version that is absent or unloaded.
    NotFound,
    /// The version exists but cannot answer now; or the server starts or drains.
    NotReady,
    /// The operation does not fit the server's state or mode.
    Conflict,
    /// The person whom it is about objects to being decided about by a model.
    HumanReview,
    /// The configuration that the call expects is not the one in force.
    Stale,
    /// No permit, queue full.
    Overloaded,
    /// Too late.
    DeadlineExceeded,
    /// The client went away; never sent.
    Cancelled,
    /// A part of the protocol that is not offered.
    Unsupported,
    /// Runtime failure, panic, failed load.
    Internal,
}

/// Conflict on the V2 repository routes, whose clients expect 400 (protocols.md §6).
pub const REPOSITORY_CONFLICT: StatusCode = StatusCode::BAD_REQUEST;

impl Status {
    /// Every row, for metrics and tests.
    pub const ALL: [Status; 13] = [
        Status::InvalidInput,
        Status::Unauthenticated,
        Status::Forbidden,
        Status::NotFound,
        Status::NotReady,
        Status::Conflict,
        Status::HumanReview,
        Status::Stale,
        Status::Overloaded,
        Status::DeadlineExceeded,
        Status::Cancelled,
        Status::Unsupported,
        Status::Internal,
    ];

    /// The row: code of gRPC, code of HTTP, name in metrics.
    #[rustfmt::skip]
    const fn row(self) -> (Code, u16, &'static str) {
        match self {                      //  gRPC                      HTTP  metrics
            Status::InvalidInput     => (Code::InvalidArgument,    400, "invalid_input"),
            Status::Unauthenticated  => (Code::Unauthenticated,    401, "unauthenticated"),
            Status::Forbidden        => (Code::PermissionDenied,   403, "forbidden"),
            Status::NotFound         => (Code::NotFound,           404, "not_found"),
            Status::NotReady         => (Code::Unavailable,        503, "not_ready"),
            Status::Conflict         => (Code::FailedPrecondition, 409, "conflict"),
            Status::HumanReview      => (Code::FailedPrecondition, 409, "human_review"),
            Status::Stale            => (Code::Aborted,            412, "stale"),
            Status::Overloaded       => (Code::ResourceExhausted,  429, "overloaded"),
            Status::DeadlineExceeded => (Code::DeadlineExceeded,   504, "deadline_exceeded"),
            Status::Cancelled        => (Code::Cancelled,          499, "cancelled"),
            Status::Unsupported      => (Code::Unimplemented,      501, "unsupported"),
            Status::Internal         => (Code::Internal,           500, "internal"),
        }
    }

    /// The gRPC code.
    pub const fn grpc(self) -> Code {
        self.row().0
    }

    /// The HTTP code.
    pub fn http(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).expect("the table holds codes between 100 and 999")
    }

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        self.row().2
    }
}

/// A request refused or failed: the row of the table, and a message that names the offender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The row.
    pub status: Status,
    /// What the client is told: model, tensor, what was expected, what came. No paths, no tensor contents.
    pub message: String,
}

impl Refusal {
    /// A refusal with this row and message.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The client's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidInput, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        tonic::Status::new(refusal.status.grpc(), refusal.message)
    }
}
