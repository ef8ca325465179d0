//! The binary tensor extension (protocols.md §4): JSON, then raw tensors, in one body.

use bytes::Bytes;
use crossfade_runtimes_core::Tensor;

use super::json::{request, response};
use crate::infer::{InferRequest, InferResponse, Inputs, Parameter};
use crate::status::Refusal;

/// The header that says how many bytes of a body are JSON.
pub const HEADER_LENGTH: http::HeaderName = http::HeaderName::from_static("inference-header-content-length");

/// A decoded request, and how its answer shall look.
#[derive(Debug)]
pub struct Decoded {
    /// What `infer` takes.
    pub request: InferRequest,
    /// What the encoder needs once `infer` has consumed the request.
    pub forms: Forms,
}

/// Which outputs the client wants in binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forms {
    default: bool,
    named: Vec<(String, bool)>,
}

impl Forms {
    /// Whether the output of this name shall be binary; the first request for a name counts.
    pub fn binary(&self, name: &str) -> bool {
        self.named
            .iter()
            .find(|(named, _)| named == name)
            .map_or(self.default, |&(_, binary)| binary)
    }
}

/// Decodes a request body.
///
/// * `header_length`: the value of `Inference-Header-Content-Length`, if the header is there; without it the whole
///   body is JSON
/// * binary tensors, and a raw body, are slices of `body`: no copy
///
/// Errors: `InvalidInput`, with the messages that existing clients know; `Unsupported` for shared memory.
pub fn decode_request(
    model: &str,
    version: &str,
    body: &Bytes,
    header_length: Option<&str>,
) -> Result<Decoded, Refusal> {
    let named = InferRequest {
        model: model.to_owned(),
        version: version.to_owned(),
        ..InferRequest::default()
    };
    let json_len = match header_length {
        None => body.len(),
        Some(text) => json_length(text, body.len())?,
    };
    if header_length.is_some() && json_len == 0 {
        return Ok(Decoded {
            request: InferRequest {
                inputs: Inputs::RawBody(body.clone()),
                ..named
            },
            forms: Forms {
                default: true,
                named: Vec::new(),
            },
        });
    }
    let document = request::read(&body[..json_len])?;
    let forms = forms(&document)?;
    Ok(Decoded {
        request: InferRequest {
            id: document.id,
            parameters: document.parameters,
            inputs: Inputs::Named(tensors(model, document.inputs, body, json_len)?),
            outputs: document.outputs,
            ..named
        },
        forms,
    })
}

/// Reads the header's value: digits only, at most the body's length.
fn json_length(text: &str, body_len: usize) -> Result<usize, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = text.parse().ok().filter(|&length| digits && length <= body_len);
    length.ok_or_else(|| {
        Refusal::invalid(format!(
            "inference header size should be in range (0, {body_len}), got: {}",
            request::clip(text)
        ))
    })
}

fn forms(document: &request::Document) -> Result<Forms, Refusal> {
    let default = match document.parameters.get("binary_data_output") {
        None => false,
        Some(Parameter::Bool(binary)) => *binary,
        Some(_) => {
            return Err(Refusal::invalid(
                "parameter `binary_data_output` must be true or false",
            ));
        }
    };
    let requested = document.outputs.iter().flatten();
    let named = requested
        .filter_map(|output| Some((output.name.clone(), output.binary?)))
        .collect();
    Ok(Forms { default, named })
}

/// Cuts the binary tensors out of what follows the JSON, in input order.
fn tensors(
    model: &str,
    inputs: Vec<request::Input>,
    body: &Bytes,
    json_len: usize,
) -> Result<Vec<(String, Tensor)>, Refusal> {
    let mut at = json_len;
    let mut tensors = Vec::with_capacity(inputs.len());
    for request::Input {
        name,
        datatype,
        shape,
        data,
    } in inputs
    {
        let data = match data {
            request::Data::Json(data) => data,
            request::Data::Binary(size) => {
                if let Some(width) = datatype.width()
                    && shape.element_count().and_then(|count| count.checked_mul(width)) != Some(size)
                {
                    return Err(Refusal::invalid(format!(
                        "input `{}`: `binary_data_size` is {size}, which is not the size of {datatype} {shape}",
                        request::clip(&name)
                    )));
                }
                let left = body.len() - at;
                if size > left {
                    return Err(Refusal::invalid(format!(
                        "unexpected size for input '{}', expecting {} additional bytes for model '{model}'",
                        request::clip(&name),
                        size - left
                    )));
                }
                at += size;
                body.slice(at - size..at)
            }
        };
        let tensor = Tensor {
            datatype,
            shape,
            data,
        };
        tensors.push((name, tensor));
    }
    if at < body.len() {
        return Err(Refusal::invalid(format!(
            "unexpected additional input data for model '{model}'"
        )));
    }
    Ok(tensors)
}

/// An encoded response.
#[derive(Debug)]
pub struct Encoded {
    /// The body's pieces, in order; tensors are the response's own bytes.
    pub parts: Vec<Bytes>,
    /// The value of `Inference-Header-Content-Length`; `None` if the body is plain JSON.
    pub header_length: Option<usize>,
}

/// Encodes a response: binary outputs follow the JSON if there are any.
///
/// Errors: `InvalidInput` for an output asked for as JSON that JSON cannot carry.
/// Cost: no copy of binary tensors.
pub fn encode_response(response: &InferResponse, forms: &Forms) -> Result<Encoded, Refusal> {
    let binary: Vec<bool> = response
        .outputs
        .iter()
        .map(|(name, _)| forms.binary(name))
        .collect();
    let mut json = Vec::with_capacity(256);
    response::write(response, |k| binary[k], &mut json)?;
    let header_length = binary.contains(&true).then_some(json.len());
    let tensors = response.outputs.iter().zip(&binary);
    let tensors = tensors
        .filter(|(_, binary)| **binary)
        .map(|((_, tensor), _)| tensor.data.clone());
    Ok(Encoded {
        parts: std::iter::once(Bytes::from(json)).chain(tensors).collect(),
        header_length,
    })
}

#[cfg(test)]
mod tests;
