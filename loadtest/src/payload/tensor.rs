//! A tensor as the wire has it: little-endian elements in a row, BYTES elements behind their lengths.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::words;
use crate::plan::{Payload, Values};
use crate::rng::Rng;

/// The most elements of a tensor that is made.
const MAX_ELEMENTS: u64 = 1 << 30;

/// A datatype of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the protocol's names")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    Bytes,
}

const NAMES: [(Datatype, &str); 14] = [
    (Datatype::Bool, "BOOL"),
    (Datatype::Uint8, "UINT8"),
    (Datatype::Uint16, "UINT16"),
    (Datatype::Uint32, "UINT32"),
    (Datatype::Uint64, "UINT64"),
    (Datatype::Int8, "INT8"),
    (Datatype::Int16, "INT16"),
    (Datatype::Int32, "INT32"),
    (Datatype::Int64, "INT64"),
    (Datatype::Fp16, "FP16"),
    (Datatype::Fp32, "FP32"),
    (Datatype::Fp64, "FP64"),
    (Datatype::Bf16, "BF16"),
    (Datatype::Bytes, "BYTES"),
];

impl Datatype {
    /// The datatype of this V2 name.
    ///
    /// Errors: if there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found
            .map(|(datatype, _)| *datatype)
            .with_context(|| format!("datatype `{name}` is not of the protocol"))
    }

    /// Its V2 name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(datatype, _)| *datatype == self)
            .map_or("", |(_, name)| name)
    }

    /// Bytes of an element; none for BYTES.
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Least value and least value beyond of an integer, as far as 64 bits with a sign hold them.
    fn range(self) -> (i64, i64) {
        match self {
            Self::Uint8 => (0, 1 << 8),
            Self::Uint16 => (0, 1 << 16),
            Self::Uint32 => (0, 1 << 32),
            Self::Uint64 => (0, i64::MAX),
            Self::Int8 => (-(1 << 7), 1 << 7),
            Self::Int16 => (-(1 << 15), 1 << 15),
            Self::Int32 => (-(1 << 31), 1 << 31),
            _ => (i64::MIN, i64::MAX),
        }
    }
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The input's name.
    pub name: String,
    /// The datatype.
    pub datatype: Datatype,
    /// The shape.
    pub shape: Vec<u64>,
    /// The elements, little-endian, row-major; each BYTES element behind four bytes of length.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// The product of the shape; none if it overflows.
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(*dim))
    }

    /// A tensor of values as `payload` has them; with a `length`, each random BYTES element is a text of so many words.
    ///
    /// Errors: if it has more than 2^30 elements.
    pub fn made(
        name: &str,
        datatype: Datatype,
        shape: Vec<u64>,
        payload: &Payload,
        length: Option<u64>,
        rng: &mut Rng,
    ) -> Result<Self> {
        let mut tensor = Self {
            name: name.to_owned(),
            datatype,
            shape,
            bytes: Vec::new(),
        };
        let elements = tensor.elements().filter(|elements| *elements <= MAX_ELEMENTS);
        let elements = elements.with_context(|| format!("shape {:?}", tensor.shape))?;
        let (low, high) = (
            payload.integers.0.max(datatype.range().0),
            payload.integers.1.min(datatype.range().1),
        );
        for _ in 0..elements {
            let zeros = payload.values == Values::Zeros;
            match datatype {
                Datatype::Bytes => {
                    let element: Vec<u8> = match length {
                        _ if zeros => Vec::new(),
                        Some(length) => words::text(length, rng).into_bytes(),
                        None => string(payload.string_bytes, rng).into_bytes(),
                    };
                    push_element(&mut tensor.bytes, &element)?;
                }
                _ if zeros => tensor
                    .bytes
                    .resize(tensor.bytes.len() + datatype.width().unwrap_or(0), 0),
                Datatype::Bool => tensor.bytes.push(u8::from(rng.word() & 1 == 1)),
                #[expect(clippy::cast_possible_truncation, reason = "rounding is all it is")]
                Datatype::Fp32 => tensor.bytes.extend_from_slice(&(rng.unit() as f32).to_le_bytes()),
                Datatype::Fp64 => tensor.bytes.extend_from_slice(&rng.unit().to_le_bytes()),
                // Sixteenths, so that no rounding has to be done: exponent −1, then the bits of the fraction.
                Datatype::Fp16 => tensor
                    .bytes
                    .extend_from_slice(&(0x3800 | fraction(rng, 10)).to_le_bytes()),
                Datatype::Bf16 => tensor
                    .bytes
                    .extend_from_slice(&(0x3f00 | fraction(rng, 7)).to_le_bytes()),
                _ => {
                    let value = rng.between(low, high).to_le_bytes();
                    tensor
                        .bytes
                        .extend_from_slice(&value[..datatype.width().unwrap_or(0)]);
                }
            }
        }
        Ok(tensor)
    }
}

/// Random bits of a fraction: with exponent −1 the value is in 0.5..1.
fn fraction(rng: &mut Rng, bits: u32) -> u16 {
    u16::try_from(rng.word() >> (64 - bits)).unwrap_or(0)
}

/// Small letters.
pub(super) fn string(bytes: usize, rng: &mut Rng) -> String {
    let letter = |_| char::from(b'a' + u8::try_from(rng.index(26)).unwrap_or(0));
    (0..bytes).map(letter).collect()
}

/// Adds a BYTES element.
///
/// Errors: if it is longer than 4 GiB.
pub fn push_element(bytes: &mut Vec<u8>, element: &[u8]) -> Result<()> {
    let length = u32::try_from(element.len()).context("an element of BYTES is longer than 4 GiB")?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(element);
    Ok(())
}

#[derive(Deserialize)]
struct RequestFile {
    inputs: Vec<InputOfFile>,
}

#[derive(Deserialize)]
struct InputOfFile {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    data: Value,
}

/// The tensors of a request of the protocol in JSON.
///
/// Errors: if the file is not one, or an element does not fit its datatype.
pub fn from_request(path: &Path) -> Result<Vec<Tensor>> {
    let text = std::fs::read(path).with_context(|| format!("--request {}", path.display()))?;
    let file: RequestFile = serde_json::from_slice(&text).with_context(|| {
        format!(
            "--request {}: expected an inference request in JSON, with inputs",
            path.display()
        )
    })?;
    file.inputs
        .into_iter()
        .map(|input| {
            let name = input.name.clone();
            from_json(input).with_context(|| format!("--request {}: input `{name}`", path.display()))
        })
        .collect()
}

fn from_json(input: InputOfFile) -> Result<Tensor> {
    let datatype = Datatype::parse(&input.datatype)?;
    let mut tensor = Tensor {
        name: input.name,
        datatype,
        shape: input.shape,
        bytes: Vec::new(),
    };
    let count = push_json(&mut tensor.bytes, datatype, &input.data)?;
    if tensor.elements() != Some(count) {
        bail!("{count} elements do not fit shape {:?}", tensor.shape);
    }
    Ok(tensor)
}

/// Adds the elements of `value`, flat or nested, and says how many they are.
fn push_json(bytes: &mut Vec<u8>, datatype: Datatype, value: &Value) -> Result<u64> {
    if let Value::Array(values) = value {
        return values.iter().map(|value| push_json(bytes, datatype, value)).sum();
    }
    let wrong = || format!("`{value}` is no {}", datatype.name());
    match datatype {
        Datatype::Bool => {
            let truth = value.as_bool().or_else(|| {
                value
                    .as_u64()
                    .filter(|number| *number < 2)
                    .map(|number| number == 1)
            });
            bytes.push(u8::from(truth.with_context(wrong)?));
        }
        Datatype::Bytes => push_element(bytes, value.as_str().with_context(wrong)?.as_bytes())?,
        #[expect(clippy::cast_possible_truncation, reason = "rounding is all it is")]
        Datatype::Fp32 => {
            bytes.extend_from_slice(&(value.as_f64().with_context(wrong)? as f32).to_le_bytes())
        }
        Datatype::Fp64 => bytes.extend_from_slice(&value.as_f64().with_context(wrong)?.to_le_bytes()),
        Datatype::Fp16 | Datatype::Bf16 => bail!(
            "{} has no form in JSON; use .npy or raw bytes (--input)",
            datatype.name()
        ),
        Datatype::Uint64 => bytes.extend_from_slice(&value.as_u64().with_context(wrong)?.to_le_bytes()),
        _ => {
            let (low, beyond) = datatype.range();
            let number = value
                .as_i64()
                .filter(|number| *number >= low && (*number < beyond || beyond == i64::MAX));
            let number = number.with_context(wrong)?.to_le_bytes();
            bytes.extend_from_slice(&number[..datatype.width().unwrap_or(0)]);
        }
    }
    Ok(1)
}
