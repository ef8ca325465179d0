//! Requests as bytes: what is written to the connection, made once before the run.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use crossfade_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use prost::Message as _;
use serde_json::{Value, json};

use super::tensor::{self, Datatype, Tensor};
use super::words;
use crate::plan::{MixEntry, Plan};
use crate::rng::Rng;
use crate::target::Protocol;
use crate::wire::{Encoded, http1};

/// The request of `entry` with these inputs, in the protocol of the plan.
///
/// Errors: if a tensor has no form in it.
pub fn tensors(plan: &Plan, entry: &MixEntry, tensors: &[Tensor]) -> Result<Encoded> {
    match plan.target.protocol {
        Protocol::Grpc | Protocol::GrpcStream => grpc(entry, tensors),
        Protocol::HttpJson => {
            let inputs = tensors.iter().map(json_input).collect::<Result<Vec<_>>>()?;
            let body = serde_json::to_vec(&json!({ "inputs": inputs }))?;
            Ok(http(plan, entry, &[("Content-Type", "application/json")], &body))
        }
        Protocol::HttpBinary => {
            let inputs: Vec<Value> = tensors
                .iter()
                .map(|tensor| {
                    let mut input = described(tensor);
                    input["parameters"] = json!({ "binary_data_size": tensor.bytes.len() });
                    input
                })
                .collect();
            let mut body = serde_json::to_vec(
                &json!({ "parameters": { "binary_data_output": true }, "inputs": inputs }),
            )?;
            let json_bytes = body.len().to_string();
            tensors
                .iter()
                .for_each(|tensor| body.extend_from_slice(&tensor.bytes));
            let headers = [
                ("Content-Type", "application/octet-stream"),
                ("Inference-Header-Content-Length", json_bytes.as_str()),
            ];
            Ok(http(plan, entry, &headers, &body))
        }
        Protocol::HttpRaw | Protocol::OpenAi => bail!("{} has no tensors", plan.target.protocol.name()),
    }
}

/// As many texts of `length` words as `entry` has rows, or of the bytes of a random string, as OpenAI's interface has them.
///
/// Errors: if a version is asked for, which that interface has no field for.
pub fn texts(plan: &Plan, entry: &MixEntry, length: Option<u64>, rng: &mut Rng) -> Result<Encoded> {
    if let Some(version) = &entry.version {
        bail!(
            "model `{}`: openai has no field for version `{version}`; leave it away, or send a --header",
            entry.model
        );
    }
    let made = (0..entry.rows).map(|_| match length {
        Some(length) => words::text(length, rng),
        None => tensor::string(plan.payload.string_bytes, rng),
    });
    let texts: Vec<String> = made.collect();
    let body = serde_json::to_vec(&json!({ "model": entry.model, "input": texts }))?;
    Ok(encoded(
        plan,
        "/v1/embeddings",
        &[("Content-Type", "application/json")],
        &body,
    ))
}

/// The raw request of `entry`, whose model is the path.
pub fn raw(plan: &Plan, entry: &MixEntry) -> Encoded {
    let path = if entry.model.starts_with('/') {
        entry.model.clone()
    } else {
        format!("/{}", entry.model)
    };
    encoded(plan, &path, &[], &plan.payload.raw_body)
}

fn grpc(entry: &MixEntry, tensors: &[Tensor]) -> Result<Encoded> {
    let mut request = ModelInferRequest {
        model_name: entry.model.clone(),
        model_version: entry.version.clone().unwrap_or_default(),
        ..ModelInferRequest::default()
    };
    for tensor in tensors {
        let shape = tensor
            .shape
            .iter()
            .map(|dim| i64::try_from(*dim))
            .collect::<Result<_, _>>();
        request.inputs.push(InferInputTensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype.name().to_owned(),
            shape: shape.with_context(|| format!("input `{}`: its shape is too large", tensor.name))?,
            ..InferInputTensor::default()
        });
        request
            .raw_input_contents
            .push(Bytes::copy_from_slice(&tensor.bytes));
    }
    let bytes = request.encode_to_vec();
    // An id of at most 22 bytes may come before it.
    if bytes.len() as u64 > u64::from(u32::MAX) - 64 {
        bail!("a request of {} bytes is too large for gRPC", bytes.len());
    }
    Ok(Encoded {
        body_bytes: bytes.len() as u64,
        bytes: bytes.into(),
        tokens: 0,
    })
}

fn http(plan: &Plan, entry: &MixEntry, headers: &[(&str, &str)], body: &[u8]) -> Encoded {
    let version = entry
        .version
        .as_ref()
        .map(|version| format!("/versions/{}", escaped(version)))
        .unwrap_or_default();
    let path = format!("/v2/models/{}{version}/infer", escaped(&entry.model));
    encoded(plan, &path, headers, body)
}

fn encoded(plan: &Plan, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Encoded {
    let own = plan
        .payload
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let overridden = |name: &str| {
        plan.payload
            .headers
            .iter()
            .any(|(own, _)| own.eq_ignore_ascii_case(name))
    };
    let kept = headers.iter().copied().filter(|(name, _)| !overridden(name));
    let headers: Vec<(&str, &str)> = kept.chain(own).collect();
    let bytes = http1::request(&plan.target, "POST", path, &headers, body);
    Encoded {
        bytes,
        body_bytes: body.len() as u64,
        tokens: 0,
    }
}

/// Percent-encodes what may not stand in one segment of a path.
pub fn escaped(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn described(tensor: &Tensor) -> Value {
    json!({ "name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype.name() })
}

/// A tensor as JSON.
///
/// Errors: for datatypes without a form in JSON, and for BYTES that are not UTF-8.
fn json_input(tensor: &Tensor) -> Result<Value> {
    let mut input = described(tensor);
    let refused = || {
        format!(
            "input `{}`: {} has no form in JSON; use --protocol http-binary or grpc",
            tensor.name,
            tensor.datatype.name()
        )
    };
    let bytes = tensor.bytes.as_slice();
    input["data"] = match tensor.datatype {
        Datatype::Bool => bytes.iter().map(|byte| Value::from(*byte != 0)).collect(),
        Datatype::Uint8 => numbers(bytes, |[a]: [u8; 1]| Value::from(a)),
        Datatype::Uint16 => numbers(bytes, |element| u16::from_le_bytes(element).into()),
        Datatype::Uint32 => numbers(bytes, |element| u32::from_le_bytes(element).into()),
        Datatype::Uint64 => numbers(bytes, |element| u64::from_le_bytes(element).into()),
        Datatype::Int8 => numbers(bytes, |element| i8::from_le_bytes(element).into()),
        Datatype::Int16 => numbers(bytes, |element| i16::from_le_bytes(element).into()),
        Datatype::Int32 => numbers(bytes, |element| i32::from_le_bytes(element).into()),
        Datatype::Int64 => numbers(bytes, |element| i64::from_le_bytes(element).into()),
        Datatype::Fp32 => numbers(bytes, |element| shortest(f32::from_le_bytes(element))),
        Datatype::Fp64 => numbers(bytes, |element| f64::from_le_bytes(element).into()),
        Datatype::Fp16 | Datatype::Bf16 => bail!(refused()),
        Datatype::Bytes => strings(bytes).with_context(refused)?,
    };
    Ok(input)
}

fn numbers<const N: usize>(bytes: &[u8], to_value: impl Fn([u8; N]) -> Value) -> Value {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|element| to_value(*element))
        .collect()
}

/// The double whose shortest form is that of the float: `0.1`, not `0.10000000149011612`.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn strings(mut bytes: &[u8]) -> Result<Value> {
    let mut values = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (element, rest) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .context("an element is cut short")?;
        values.push(Value::from(
            std::str::from_utf8(element).context("an element is not UTF-8")?,
        ));
        bytes = rest;
    }
    Ok(values.into())
}
