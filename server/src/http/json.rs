//! Inference requests and responses as JSON (protocols.md §3): the codec of tensors that are not binary.
//!
//! The reader is our own because numbers go straight from the text into a tensor: no tree, no recursion, and no
//! more memory than the text accounts for, whatever a shape announces.

mod number;
mod reader;
pub(crate) mod request;
pub(crate) mod response;
mod tensor;

use bytes::Bytes;

use super::binary::{self, Decoded};
use crate::infer::InferResponse;
use crate::status::Refusal;

/// Decodes a request whose whole body is JSON.
///
/// Errors: `InvalidInput`; `Unsupported` for shared memory.
pub fn decode_request(model: &str, version: &str, body: &Bytes) -> Result<Decoded, Refusal> {
    binary::decode_request(model, version, body, None)
}

/// Encodes a response with every output as JSON.
///
/// Errors: `InvalidInput` for an output that JSON cannot carry (FP16, BF16, bytes that are no text).
pub fn encode_response(response: &InferResponse) -> Result<Bytes, Refusal> {
    let mut out = Vec::with_capacity(256);
    response::write(response, |_| false, &mut out)?;
    Ok(out.into())
}
