//! Payloads: the tensors of a request, made from a model's metadata or read from files, and their bytes on the wire.

pub mod encode;
pub mod npy;
pub mod tensor;
mod words;

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::plan::{MixEntry, Payload, Plan, Values};
use crate::rng::Rng;
use crate::target::Protocol;
use crate::wire::Encoded;
use tensor::{Datatype, Tensor};

/// What a model takes, by its own metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// Its inputs.
    pub inputs: Vec<Input>,
}

/// One input of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its datatype's V2 name.
    pub datatype: String,
    /// Its shape; negative dimensions are variable.
    pub shape: Vec<i64>,
}

/// Bodies together larger than this are made in fewer variants.
const MAX_VARIANT_BYTES: u64 = 256 << 20;

/// The bodies of one kind of request, which take turns.
///
/// `signature`: none if the body is raw or read whole from a file. The same seed gives the same bodies.
///
/// Errors: if the metadata leaves something open that no option says, or a file does not fit it.
pub fn bodies(plan: &Plan, index: usize, signature: Option<&Signature>) -> Result<Vec<Encoded>> {
    let entry = &plan.mix[index];
    if plan.target.protocol == Protocol::HttpRaw {
        return Ok(vec![encode::raw(plan, entry)]);
    }
    if let Some(path) = &plan.payload.request {
        let tensors = tensor::from_request(path)?;
        return Ok(vec![encode::tensors(plan, entry, &tensors)?]);
    }
    let variants = match plan.payload.values {
        Values::Zeros if plan.payload.lengths.is_none() => 1,
        Values::Random | Values::Zeros => plan.payload.variant_count(),
    };
    let mut bodies: Vec<Encoded> = Vec::new();
    for variant in 0..variants {
        let mut rng = Rng::of(plan.seed, ((index as u64) << 32) | u64::from(variant));
        let length = plan.payload.lengths.map(|range| rng.length(range));
        let mut body = match signature {
            _ if plan.target.protocol == Protocol::OpenAi => encode::texts(plan, entry, length, &mut rng)?,
            Some(signature) => {
                let tensors = make(&plan.payload, entry, signature, length, &mut rng)?;
                encode::tensors(plan, entry, &tensors)?
            }
            None => bail!(
                "model `{}`: no metadata; give a request with --request",
                entry.model
            ),
        };
        body.tokens = length.unwrap_or(0) * entry.rows;
        let full = (bodies.len() as u64 + 2) * body.body_bytes > MAX_VARIANT_BYTES;
        bodies.push(body);
        if full {
            break;
        }
    }
    Ok(bodies)
}

/// One tensor for each input of `signature` that is to be sent.
fn make(
    payload: &Payload,
    entry: &MixEntry,
    signature: &Signature,
    length: Option<u64>,
    rng: &mut Rng,
) -> Result<Vec<Tensor>> {
    if signature.inputs.is_empty() {
        bail!(
            "model `{}`: its metadata names no inputs; give a request with --request",
            entry.model
        );
    }
    signature
        .inputs
        .iter()
        .filter(|input| payload.only.is_empty() || payload.only.contains(&input.name))
        .map(|input| make_one(payload, entry, input, length, rng))
        .collect()
}

fn make_one(
    payload: &Payload,
    entry: &MixEntry,
    input: &Input,
    length: Option<u64>,
    rng: &mut Rng,
) -> Result<Tensor> {
    let datatype = Datatype::parse(&input.datatype)
        .with_context(|| format!("model `{}`, input `{}`", entry.model, input.name))?;
    let from_file = payload.inputs.get(&input.name);
    if let Some(path) = from_file.filter(|path| path.extension().is_some_and(|end| end == "npy")) {
        let mut tensor = npy::read(path)?;
        tensor.name.clone_from(&input.name);
        if tensor.datatype != datatype {
            bail!(
                "input `{}`: {} holds {}, the model takes {}",
                input.name,
                path.display(),
                tensor.datatype.name(),
                datatype.name()
            );
        }
        return Ok(tensor);
    }
    let shape = shape(payload, entry, input, length)?;
    if let Some(path) = from_file {
        return tensor_from_raw(path, input, datatype, shape);
    }
    Tensor::made(&input.name, datatype, shape, payload, length, rng).with_context(|| {
        format!(
            "model `{}`, input `{}`: too large to be made",
            entry.model, input.name
        )
    })
}

fn tensor_from_raw(path: &Path, input: &Input, datatype: Datatype, shape: Vec<u64>) -> Result<Tensor> {
    let bytes = std::fs::read(path).with_context(|| format!("input `{}`: {}", input.name, path.display()))?;
    let tensor = Tensor {
        name: input.name.clone(),
        datatype,
        shape,
        bytes,
    };
    if let (Some(width), Some(elements)) = (datatype.width(), tensor.elements())
        && elements.checked_mul(width as u64) != Some(tensor.bytes.len() as u64)
    {
        bail!(
            "input `{}`: {} has {} bytes, shape {:?} of {} takes {}; set the shape with --shape or the rows with --rows",
            input.name,
            path.display(),
            tensor.bytes.len(),
            tensor.shape,
            datatype.name(),
            elements * width as u64
        );
    }
    Ok(tensor)
}

/// The input's shape with its variable dimensions settled: the first is the rows, others are the length or must be told.
fn shape(payload: &Payload, entry: &MixEntry, input: &Input, length: Option<u64>) -> Result<Vec<u64>> {
    if let Some(shape) = payload.shapes.get(&input.name) {
        return Ok(shape.clone());
    }
    let mut shape = Vec::with_capacity(input.shape.len());
    for (at, dim) in input.shape.iter().enumerate() {
        match (u64::try_from(*dim), length) {
            (Ok(dim), _) => shape.push(dim),
            (Err(_), _) if at == 0 => shape.push(entry.rows),
            (Err(_), Some(length)) => shape.push(length),
            (Err(_), None) => bail!(
                "model `{}`, input `{}`: dimension {at} of {:?} is variable; say how large with --shape {}=… or --lengths",
                entry.model,
                input.name,
                input.shape,
                input.name
            ),
        }
    }
    if entry.rows > 1 && input.shape.first().is_none_or(|dim| *dim >= 0) {
        bail!(
            "model `{}`, input `{}`: {} rows do not fit its shape {:?}, which leaves no dimension for them; leave rows away",
            entry.model,
            input.name,
            entry.rows,
            input.shape
        );
    }
    Ok(shape)
}

#[cfg(test)]
mod tests;
