//! Typed tensor contents: each datatype has its field, and each value must fit the datatype.

use bytes::Bytes;
use crossfade_proto::inference::InferTensorContents;
use crossfade_runtimes_core::{Datatype, push_element};

/// Whether no field has an element.
pub(super) fn is_empty(contents: &InferTensorContents) -> bool {
    fields(contents).into_iter().all(|(_, len)| len == 0)
}

/// Every field with its number of elements.
fn fields(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

/// The field that holds elements of `datatype`; `None` for those that only travel raw (protocols.md §1).
const fn field_of(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("bool_contents"),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some("uint_contents"),
        Datatype::Uint64 => Some("uint64_contents"),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some("int_contents"),
        Datatype::Int64 => Some("int64_contents"),
        Datatype::Fp32 => Some("fp32_contents"),
        Datatype::Fp64 => Some("fp64_contents"),
        Datatype::Bytes => Some("bytes_contents"),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// The contents as tensor bytes, BYTES in wire form.
///
/// Errors: elements in another field than the datatype's, a value that does not fit it, or not `elements`
/// elements.
pub(super) fn bytes(
    datatype: Datatype,
    contents: &InferTensorContents,
    elements: usize,
) -> Result<Bytes, String> {
    let raw_only = || format!("{datatype} has no typed contents; use raw_input_contents");
    let field = field_of(datatype).ok_or_else(raw_only)?;
    for (other, len) in fields(contents) {
        if other != field && len > 0 {
            return Err(format!("{datatype} belongs in {field}, but {other} is given"));
        }
        if other == field && len != elements {
            return Err(format!(
                "the shape has {elements} elements, but {field} has {len}"
            ));
        }
    }
    let ints = &contents.int_contents;
    let uints = &contents.uint_contents;
    let data = match datatype {
        Datatype::Bool => contents
            .bool_contents
            .iter()
            .map(|&value| u8::from(value))
            .collect(),
        Datatype::Uint8 => narrowed(datatype, uints, u8::to_le_bytes)?,
        Datatype::Uint16 => narrowed(datatype, uints, u16::to_le_bytes)?,
        Datatype::Uint32 => written(uints, u32::to_le_bytes),
        Datatype::Uint64 => written(&contents.uint64_contents, u64::to_le_bytes),
        Datatype::Int8 => narrowed(datatype, ints, i8::to_le_bytes)?,
        Datatype::Int16 => narrowed(datatype, ints, i16::to_le_bytes)?,
        Datatype::Int32 => written(ints, i32::to_le_bytes),
        Datatype::Int64 => written(&contents.int64_contents, i64::to_le_bytes),
        Datatype::Fp32 => written(&contents.fp32_contents, f32::to_le_bytes),
        Datatype::Fp64 => written(&contents.fp64_contents, f64::to_le_bytes),
        Datatype::Bytes => framed(&contents.bytes_contents),
        Datatype::Fp16 | Datatype::Bf16 => return Err(raw_only()),
    };
    Ok(data.into())
}

fn written<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * N);
    values
        .iter()
        .for_each(|&value| out.extend_from_slice(&to_bytes(value)));
    out
}

/// Values of a wider type that must fit `T`.
fn narrowed<W, T, const N: usize>(
    datatype: Datatype,
    values: &[W],
    to_bytes: fn(T) -> [u8; N],
) -> Result<Vec<u8>, String>
where
    W: Copy + std::fmt::Display,
    T: TryFrom<W>,
{
    let mut out = Vec::with_capacity(values.len() * N);
    for (index, &value) in values.iter().enumerate() {
        let narrow = T::try_from(value)
            .map_err(|_| format!("element {index} is {value}, which does not fit {datatype}"))?;
        out.extend_from_slice(&to_bytes(narrow));
    }
    Ok(out)
}

/// Elements came in a gRPC message, whose length is a u32, so that of each fits its prefix.
fn framed(elements: &[Bytes]) -> Vec<u8> {
    let bytes: usize = elements.iter().map(|element| element.len() + 4).sum();
    let mut out = Vec::with_capacity(bytes);
    elements
        .iter()
        .for_each(|element| push_element(&mut out, element));
    out
}
