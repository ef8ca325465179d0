//! [`InferResponse`] to the bytes of its message: large tensors are shared, small ones copied once.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use crossfade_proto::inference::model_infer_response::InferOutputTensor;
use crossfade_proto::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use crossfade_runtimes_core::Tensor;
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::framing::{PREFIX, prefix};
use crate::encoding::Encoding;
use crate::infer::InferResponse;
use crate::status::{Refusal, Status};

/// From here on a tensor travels as a DATA frame of its own instead of being copied beside the others: a copy
/// of this size takes about as long as one more frame.
const SHARED_FROM: usize = 16 * 1024;

/// `raw_output_contents = 6` and `infer_response = 2`, both length-delimited.
const RAW_KEY: u8 = (6 << 3) | 2;
const RESPONSE_KEY: u8 = (2 << 3) | 2;

/// A message in pieces that follow one another.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn put(&mut self, data: &Bytes) {
        if data.len() < SHARED_FROM {
            self.open.extend_from_slice(data);
        } else {
            self.close();
            self.done.push(data.clone());
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }

    fn into_done(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }
}

/// The answer of ModelInfer as a gRPC frame: prefix and message, compressed as the request was.
///
/// Errors: `Internal` if the message is longer than `max` bytes.
pub(super) fn unary(
    response: &InferResponse,
    encoding: Option<Encoding>,
    max: usize,
) -> Result<Vec<Bytes>, Refusal> {
    let head = head(response, BTreeMap::new());
    let len = head.encoded_len() + raw_len(response);
    framed(len, copied_len(&head, response), encoding, max, |pieces| {
        put_response(pieces, &head, response);
    })
}

/// One message of ModelStreamInfer that answers a request, as a gRPC frame.
///
/// Errors: `Internal` if the message is longer than `max` bytes.
pub(super) fn streamed(
    response: &InferResponse,
    parameters: BTreeMap<String, InferParameter>,
    encoding: Option<Encoding>,
    max: usize,
) -> Result<Vec<Bytes>, Refusal> {
    let head = head(response, parameters);
    let inner = head.encoded_len() + raw_len(response);
    let key = 1 + encoded_len_varint(widen(inner));
    framed(
        key + inner,
        key + copied_len(&head, response),
        encoding,
        max,
        |pieces| {
            pieces.open.put_u8(RESPONSE_KEY);
            encode_varint(widen(inner), &mut pieces.open);
            put_response(pieces, &head, response);
        },
    )
}

/// One message of ModelStreamInfer that refuses a request, as a gRPC frame.
pub(super) fn stream_error(
    message: String,
    id: String,
    parameters: BTreeMap<String, InferParameter>,
) -> Vec<Bytes> {
    let infer_response = ModelInferResponse {
        id,
        parameters,
        ..Default::default()
    };
    let message = ModelStreamInferResponse {
        error_message: message,
        infer_response: Some(infer_response),
    };
    let len = message.encoded_len();
    framed(len, len, None, usize::MAX, |pieces| {
        message.encode_raw(&mut pieces.open)
    })
    .expect("a clipped message and an id that came in a message fit a frame")
}

/// A frame around the message of `len` bytes that `put` writes, `copied` of them into one piece.
fn framed(
    len: usize,
    copied: usize,
    encoding: Option<Encoding>,
    max: usize,
    put: impl FnOnce(&mut Pieces),
) -> Result<Vec<Bytes>, Refusal> {
    let announced = within(len, max)?;
    let mut pieces = Pieces::default();
    pieces.open.reserve(PREFIX + copied);
    let Some(encoding) = encoding else {
        pieces.open.put_slice(&prefix(false, announced));
        put(&mut pieces);
        return Ok(pieces.into_done());
    };
    put(&mut pieces);
    let compressed = encoding.compress(&pieces.into_done());
    let prefix = prefix(true, within(compressed.len(), max)?);
    Ok(vec![Bytes::copy_from_slice(&prefix), compressed])
}

/// Everything but the tensor data.
fn head(response: &InferResponse, parameters: BTreeMap<String, InferParameter>) -> ModelInferResponse {
    ModelInferResponse {
        model_name: response.model.to_string(),
        model_version: response.version.to_string(),
        id: response.id.clone().unwrap_or_default(),
        parameters,
        outputs: response
            .outputs
            .iter()
            .map(|(name, tensor)| output(name, tensor))
            .collect(),
        raw_output_contents: Vec::new(),
    }
}

fn output(name: &str, tensor: &Tensor) -> InferOutputTensor {
    InferOutputTensor {
        name: name.to_owned(),
        datatype: tensor.datatype.wire_name().to_owned(),
        shape: tensor
            .shape
            .iter()
            .map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))
            .collect(),
        parameters: BTreeMap::new(),
        contents: None,
    }
}

/// `raw_output_contents` has the highest number of the message, so that it may simply follow the head.
fn put_response(pieces: &mut Pieces, head: &ModelInferResponse, response: &InferResponse) {
    head.encode_raw(&mut pieces.open);
    for (_, tensor) in &response.outputs {
        pieces.open.put_u8(RAW_KEY);
        encode_varint(widen(tensor.data.len()), &mut pieces.open);
        pieces.put(&tensor.data);
    }
}

fn raw_len(response: &InferResponse) -> usize {
    let lens = response.outputs.iter().map(|(_, tensor)| tensor.data.len());
    lens.map(|len| 1 + encoded_len_varint(widen(len)) + len).sum()
}

/// Upper bound of what `put_response` copies.
fn copied_len(head: &ModelInferResponse, response: &InferResponse) -> usize {
    let lens = response.outputs.iter().map(|(_, tensor)| tensor.data.len());
    let copied = lens.map(|len| if len < SHARED_FROM { len + 11 } else { 11 });
    head.encoded_len() + copied.sum::<usize>()
}

fn widen(len: usize) -> u64 {
    u64::try_from(len).expect("no supported platform has more than 64 bits")
}

fn within(len: usize, max: usize) -> Result<u32, Refusal> {
    u32::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| {
        let message =
            format!("the response has {len} bytes, more than the limit of {max} (max_request_bytes)");
        Refusal::new(Status::Internal, message)
    })
}

#[cfg(test)]
mod tests;
