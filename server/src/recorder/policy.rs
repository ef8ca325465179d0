//! What becomes of the values of an input or output before they are written: nothing of what a policy takes away reaches a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use crossfade_inference_log::Schema;
use crossfade_runtimes_core::{BytesElements, Datatype, ModelSignature, Tensor, TensorSpec, push_element};
use half::{bf16, f16};

use super::detect;
use super::pepper::Pepper;

/// Stands for every input and output that is not named.
const OTHERS: &str = "*";

/// What becomes of the values of a column.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FieldPolicy {
    /// They are written as they are.
    Keep,
    /// They are not written.
    Drop,
    /// BYTES: a keyed digest of each element, the same for the same element.
    Hash,
    /// BYTES: no more than the first bytes of each element.
    Truncate(usize),
    /// BYTES: e-mail addresses, phone numbers, IBANs, card numbers and IP addresses give way to their kind.
    Mask,
    /// Numbers: the largest multiple of a width that is not larger.
    Bucket(f64),
    /// Floating-point numbers: with noise of this scale (Laplace).
    Noise(f64),
}

/// A text that is no policy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` is no policy: expected keep, drop, hash, mask, truncate:BYTES, bucket:WIDTH or noise:SCALE")]
pub struct NoPolicy(String);

impl FromStr for FieldPolicy {
    type Err = NoPolicy;

    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        let wrong = || NoPolicy(text.to_owned());
        let number = |text: &str| {
            text.parse::<f64>()
                .ok()
                .filter(|number| number.is_finite() && *number > 0.0)
        };
        Ok(match text.split_once(':') {
            None => match text {
                "keep" => Self::Keep,
                "drop" => Self::Drop,
                "hash" => Self::Hash,
                "mask" => Self::Mask,
                _ => return Err(wrong()),
            },
            Some(("truncate", most)) => Self::Truncate(most.parse().map_err(|_| wrong())?),
            Some(("bucket", width)) => Self::Bucket(number(width).ok_or_else(wrong)?),
            Some(("noise", scale)) => Self::Noise(number(scale).ok_or_else(wrong)?),
            Some(_) => return Err(wrong()),
        })
    }
}

impl TryFrom<String> for FieldPolicy {
    type Error = NoPolicy;

    fn try_from(text: String) -> Result<Self, NoPolicy> {
        text.parse()
    }
}

impl From<FieldPolicy> for String {
    fn from(policy: FieldPolicy) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for FieldPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Drop => f.write_str("drop"),
            Self::Hash => f.write_str("hash"),
            Self::Mask => f.write_str("mask"),
            Self::Truncate(most) => write!(f, "truncate:{most}"),
            Self::Bucket(width) => write!(f, "bucket:{width}"),
            Self::Noise(scale) => write!(f, "noise:{scale}"),
        }
    }
}

/// What becomes of the inputs and outputs of a version, each in the order of its signature.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(super) inputs: Vec<FieldPolicy>,
    pub(super) outputs: Vec<FieldPolicy>,
    pepper: Arc<Pepper>,
}

impl Policies {
    /// The policies of a signature.
    ///
    /// * `fields`: by `in.NAME`, `out.NAME` and `*`
    ///
    /// Errors: a name that the signature does not have; a policy that its datatype cannot have.
    pub(super) fn of(
        fields: &BTreeMap<String, FieldPolicy>,
        signature: &ModelSignature,
        pepper: &Arc<Pepper>,
    ) -> Result<Self, String> {
        let known = |name: &str, prefix: &str, specs: &[TensorSpec]| {
            let tensor = name.strip_prefix(prefix);
            tensor.is_some_and(|tensor| specs.iter().any(|spec| &*spec.name == tensor))
        };
        if let Some(unknown) = fields.keys().find(|name| {
            *name != OTHERS
                && !known(name, "in.", &signature.inputs)
                && !known(name, "out.", &signature.outputs)
        }) {
            return Err(format!(
                "log.fields: the model has no `{unknown}`; names are in.NAME, out.NAME and *"
            ));
        }
        let all = |prefix: &str, specs: &[TensorSpec]| -> Result<Vec<FieldPolicy>, String> {
            let of = |spec: &TensorSpec| {
                let own = fields.get(&format!("{prefix}{}", spec.name));
                let policy = own.or_else(|| fields.get(OTHERS)).unwrap_or(&FieldPolicy::Keep);
                match policy.suits(spec.datatype) {
                    true => Ok(policy.clone()),
                    // For others, what can be done to any datatype.
                    false if own.is_none() => Ok(FieldPolicy::Drop),
                    false => Err(format!(
                        "log.fields: `{policy}` cannot be done to `{prefix}{}`, which is {}",
                        spec.name, spec.datatype
                    )),
                }
            };
            specs.iter().map(of).collect()
        };
        Ok(Self {
            inputs: all("in.", &signature.inputs)?,
            outputs: all("out.", &signature.outputs)?,
            pepper: pepper.clone(),
        })
    }

    /// Says in a schema what becomes of its columns.
    pub(super) fn note(&self, schema: &mut Schema) {
        let columns = schema.inputs.iter_mut().zip(&self.inputs);
        let columns = columns.chain(schema.outputs.iter_mut().zip(&self.outputs));
        for (column, policy) in columns.filter(|(_, policy)| **policy != FieldPolicy::Keep) {
            column.policy = Some(policy.to_string());
        }
    }

    /// Whether some input is not written as it is.
    pub(super) fn hide_inputs(&self) -> bool {
        self.inputs.iter().any(|policy| *policy != FieldPolicy::Keep)
    }

    /// An input as it is written, by its place.
    pub(super) fn input(&self, place: usize, tensor: &Tensor) -> Option<Tensor> {
        self.inputs.get(place)?.applied(tensor, &self.pepper)
    }

    /// An output as it is written, by its place.
    pub(super) fn output(&self, place: usize, tensor: &Tensor) -> Option<Tensor> {
        self.outputs.get(place)?.applied(tensor, &self.pepper)
    }
}

impl FieldPolicy {
    /// Whether it can be done to a datatype.
    fn suits(&self, datatype: Datatype) -> bool {
        match self {
            Self::Keep | Self::Drop => true,
            Self::Hash | Self::Truncate(_) | Self::Mask => datatype == Datatype::Bytes,
            Self::Bucket(_) => !matches!(datatype, Datatype::Bytes | Datatype::Bool),
            Self::Noise(_) => {
                matches!(
                    datatype,
                    Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
                )
            }
        }
    }

    /// A tensor as it is written; `None`: it is not.
    fn applied(&self, tensor: &Tensor, pepper: &Pepper) -> Option<Tensor> {
        let data = match self {
            Self::Keep => return Some(tensor.clone()),
            Self::Drop => return None,
            Self::Hash => elements(tensor, |element| pepper.digest(b"field", element).to_vec()),
            Self::Truncate(most) => elements(tensor, |element| {
                let end = match std::str::from_utf8(element) {
                    Ok(text) => text.floor_char_boundary(*most),
                    Err(_) => (*most).min(element.len()),
                };
                element[..end].to_vec()
            }),
            Self::Mask => elements(tensor, |element| match std::str::from_utf8(element) {
                Ok(text) => detect::masked(text).into_bytes(),
                // What is no text cannot be looked through.
                Err(_) => b"[bytes]".to_vec(),
            }),
            Self::Bucket(width) => numbers(tensor, |number| (number / width).floor() * width),
            Self::Noise(scale) => numbers(tensor, |number| number + scale * laplace()),
        };
        Some(Tensor {
            data,
            ..tensor.clone()
        })
    }
}

/// A BYTES tensor with other elements.
fn elements(tensor: &Tensor, change: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
    let mut data = Vec::with_capacity(tensor.data.len());
    for element in BytesElements::new(&tensor.data).map_while(Result::ok) {
        push_element(&mut data, &change(element));
    }
    data.into()
}

/// A tensor of numbers with other numbers; those that do not fit become the nearest that do.
fn numbers(tensor: &Tensor, change: impl Fn(f64) -> f64) -> Bytes {
    macro_rules! changed {
        ($type:ty, $wide:expr, $narrow:expr) => {{
            let (wide, narrow) = ($wide, $narrow);
            let numbers = tensor.data.chunks_exact(size_of::<$type>()).flat_map(|bytes| {
                let number = <$type>::from_le_bytes(bytes.try_into().unwrap_or_default());
                <$type>::to_le_bytes(narrow(change(wide(number))))
            });
            numbers.collect::<Vec<u8>>()
        }};
    }
    macro_rules! integers {
        ($type:ty) => {
            changed!($type, |number: $type| number as f64, |number: f64| number
                as $type)
        };
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_lossless,
        reason = "what is written is coarser than what was sent; casts of floating-point numbers saturate"
    )]
    let data = match tensor.datatype {
        Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Fp16 => changed!(f16, |number: f16| number.to_f64(), f16::from_f64),
        Datatype::Bf16 => changed!(bf16, |number: bf16| number.to_f64(), bf16::from_f64),
        Datatype::Fp32 => changed!(f32, f64::from, |number: f64| number as f32),
        Datatype::Fp64 => changed!(f64, |number: f64| number, |number: f64| number),
        Datatype::Bool | Datatype::Bytes => Vec::new(),
    };
    data.into()
}

/// A draw of the Laplace distribution with scale 1, of which nothing can be foretold.
fn laplace() -> f64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // 52 random bits; version and variant are others.
    let bits = (high >> 16 << 16) ^ (low << 2);
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let uniform = (bits >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
    -uniform.signum() * (1.0 - 2.0 * uniform.abs()).max(f64::MIN_POSITIVE).ln()
}

#[cfg(test)]
mod tests;
