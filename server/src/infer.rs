//! The one function that every front end calls: route → check → submit → await.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use crossfade_runtimes_core::Tensor;

use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::Refusal;

/// An inference request, decoded from either protocol.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// Model name as the client wrote it.
    pub model: String,
    /// Version as the client wrote it: empty, digits or a label.
    pub version: String,
    /// The client's id, echoed in the answer.
    pub id: Option<String>,
    /// Request parameters, reserved ones included.
    pub parameters: BTreeMap<String, Parameter>,
    /// The tensors.
    pub inputs: Inputs,
    /// Requested outputs in order; `None` means all.
    pub outputs: Option<Vec<RequestedOutput>>,
}

/// The tensors of a request.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Name and tensor, in request order; not yet checked against the signature.
    Named(Vec<(String, Tensor)>),
    /// HTTP's raw-body request: the whole body is the only input, its shape follows from the signature.
    RawBody(Bytes),
}

impl Default for Inputs {
    fn default() -> Self {
        Inputs::Named(Vec::new())
    }
}

/// A parameter's value: any of the five types of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `bool_param`
    Bool(bool),
    /// `int64_param`
    Int(i64),
    /// `uint64_param`
    Uint(u64),
    /// `double_param`
    Double(f64),
    /// `string_param`
    String(String),
}

/// An output that the client asked for.
#[derive(Debug, Clone, Default)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Top-n classes instead of the tensor, where n > 0 (Triton's classification extension).
    pub classification: usize,
    /// HTTP: the client wants it binary; `None`: the request's default decides.
    pub binary: Option<bool>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// Model that answered.
    pub model: Arc<str>,
    /// Version that answered.
    pub version: u64,
    /// The client's id.
    pub id: Option<String>,
    /// In requested order, or model order.
    pub outputs: Vec<(Arc<str>, Tensor)>,
}

/// Answers one request.
///
/// The model, the version and the batcher's timings are noted in `scope`; reserved parameters (`timeout`,
/// `priority`) are read here. Dropping the future cancels the request.
///
/// Errors: every row of the status table except Unsupported; never panics on input.
pub async fn infer(
    service: &Service,
    scope: &mut RequestScope,
    request: InferRequest,
) -> Result<InferResponse, Refusal> {
    let _ = (service, scope, request);
    Err(Refusal::new(crate::status::Status::Internal, "not wired yet"))
}
