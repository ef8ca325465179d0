//! ModelInferRequest to [`InferRequest`]: raw tensors are slices of the request, typed ones are written out.

use std::collections::BTreeMap;
use std::mem::take;

use bytes::Bytes;
use crossfade_proto::inference::infer_parameter::ParameterChoice;
use crossfade_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crossfade_proto::inference::{InferParameter, ModelInferRequest};
use crossfade_runtimes_core::{Datatype, Shape, Tensor};
use prost::Message as _;

use crate::infer::{InferRequest, Inputs, Parameter, RequestedOutput};
use crate::status::{Refusal, Status};

mod typed;

/// Decodes the bytes of a ModelInferRequest message.
///
/// Errors: `InvalidInput` naming the tensor, `Unsupported` for shared memory. Never panics.
pub fn request_from_wire(message: Bytes) -> Result<InferRequest, Refusal> {
    request(&mut parse(message)?)
}

/// The message alone, so that a refusal of its content can still name its model and id.
pub(super) fn parse(message: Bytes) -> Result<ModelInferRequest, Refusal> {
    ModelInferRequest::decode(message)
        .map_err(|error| Refusal::invalid(format!("the message is not a ModelInferRequest: {error}")))
}

/// Checks everything that needs no model, and takes the tensors over without copying raw ones.
///
/// After an error `message` still has its model, version and id.
pub(super) fn request(message: &mut ModelInferRequest) -> Result<InferRequest, Refusal> {
    let inputs = inputs(take(&mut message.inputs), take(&mut message.raw_input_contents))?;
    let outputs = outputs(take(&mut message.outputs))?;
    let parameters = parameters(take(&mut message.parameters))?;
    Ok(InferRequest {
        model: take(&mut message.model_name),
        version: take(&mut message.model_version),
        id: (!message.id.is_empty()).then(|| take(&mut message.id)),
        parameters,
        inputs,
        outputs,
        wanted: None,
    })
}

fn inputs(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Inputs, Refusal> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(Refusal::invalid(format!(
            "raw_input_contents has {} entries for {} inputs; it needs one per input",
            raw.len(),
            inputs.len()
        )));
    }
    let mut raw = raw.into_iter();
    let mut named = Vec::with_capacity(inputs.len());
    for input in inputs {
        let tensor = tensor(&input, raw.next())?;
        named.push((input.name, tensor));
    }
    Ok(Inputs::Named(named))
}

fn tensor(input: &InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, Refusal> {
    let refuse = |what: String| Refusal::invalid(format!("input `{}`: {what}", clip(&input.name)));
    no_shared_memory("input", &input.name, &input.parameters)?;
    let datatype: Datatype = input
        .datatype
        .parse()
        .map_err(|error| refuse(format!("{error}")))?;
    let shape = shape(&input.shape).map_err(refuse)?;
    let elements = shape
        .element_count()
        .ok_or_else(|| refuse(format!("shape {shape} has too many elements")))?;
    let contents = input
        .contents
        .as_ref()
        .filter(|contents| !typed::is_empty(contents));
    let data = match (raw, contents) {
        (Some(_), Some(_)) => {
            return Err(refuse(
                "contents and raw_input_contents are both given; use one of them".into(),
            ));
        }
        (Some(raw), None) => raw,
        (None, Some(contents)) => typed::bytes(datatype, contents, elements).map_err(refuse)?,
        (None, None) if elements == 0 => Bytes::new(),
        (None, None) => {
            return Err(refuse(format!(
                "shape {shape} has elements, but there is no data"
            )));
        }
    };
    Ok(Tensor {
        datatype,
        shape,
        data,
    })
}

fn shape(dims: &[i64]) -> Result<Shape, String> {
    dims.iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| format!("dimension {dim} of the shape is negative")))
        .collect()
}

fn outputs(outputs: Vec<InferRequestedOutputTensor>) -> Result<Option<Vec<RequestedOutput>>, Refusal> {
    if outputs.is_empty() {
        return Ok(None);
    }
    outputs
        .into_iter()
        .map(output)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, Refusal> {
    no_shared_memory("output", &output.name, &output.parameters)?;
    let classification = match output.parameters.get("classification") {
        None => 0,
        Some(parameter) => classes(parameter).ok_or_else(|| {
            let name = clip(&output.name);
            Refusal::invalid(format!(
                "requested output `{name}`: parameter `classification` must be an integer that is not negative"
            ))
        })?,
    };
    Ok(RequestedOutput {
        name: output.name,
        classification,
        binary: None,
    })
}

fn classes(parameter: &InferParameter) -> Option<usize> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(n) => usize::try_from(*n).ok(),
        ParameterChoice::Uint64Param(n) => usize::try_from(*n).ok(),
        ParameterChoice::BoolParam(_) | ParameterChoice::StringParam(_) | ParameterChoice::DoubleParam(_) => {
            None
        }
    }
}

fn parameters(parameters: BTreeMap<String, InferParameter>) -> Result<BTreeMap<String, Parameter>, Refusal> {
    parameters
        .into_iter()
        .map(|(key, parameter)| match parameter.parameter_choice {
            Some(choice) => Ok((key, value(choice))),
            None => Err(Refusal::invalid(format!(
                "parameter `{}` has no value",
                clip(&key)
            ))),
        })
        .collect()
}

fn value(choice: ParameterChoice) -> Parameter {
    match choice {
        ParameterChoice::BoolParam(value) => Parameter::Bool(value),
        ParameterChoice::Int64Param(value) => Parameter::Int(value),
        ParameterChoice::Uint64Param(value) => Parameter::Uint(value),
        ParameterChoice::DoubleParam(value) => Parameter::Double(value),
        ParameterChoice::StringParam(value) => Parameter::String(value),
    }
}

/// Shared memory is not offered (protocols.md §1).
fn no_shared_memory(
    role: &str,
    name: &str,
    parameters: &BTreeMap<String, InferParameter>,
) -> Result<(), Refusal> {
    match parameters.keys().find(|key| key.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(key) => Err(Refusal::new(
            Status::Unsupported,
            format!(
                "{role} `{}`: parameter `{key}`: shared memory is not offered",
                clip(name)
            ),
        )),
    }
}

/// A client's text, short enough for an error message.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests;
