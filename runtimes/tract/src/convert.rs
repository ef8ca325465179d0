//! Tensors in and out of tract. Copies both ways; nothing here is `unsafe`.

use crossfade_runtimes_core::{Datatype, Outputs, RuntimeError, Shape, TensorSpec, TensorView};
use tract_onnx::prelude::{DatumType, TValue, Tensor, TractResult};

/// A tract tensor with the view's values.
pub(crate) fn to_tract(view: &TensorView<'_>) -> TractResult<TValue> {
    let mut tensor = Tensor::zero_dt(datum_type(view.datatype), view.shape)?;
    tensor.as_bytes_mut().copy_from_slice(view.data);
    Ok(tensor.into())
}

/// Copies a computed tensor into output `index`.
pub(crate) fn take_output(
    value: &Tensor,
    spec: &TensorSpec,
    index: usize,
    outputs: &mut Outputs,
) -> Result<(), RuntimeError> {
    let mismatch = |got: String| RuntimeError::Output {
        name: spec.name.clone(),
        expected_datatype: spec.datatype,
        expected_shape: spec.shape.clone(),
        got,
    };
    // Sizes that were computed from shapes have a type of tract's own.
    let wanted = datum_type(spec.datatype);
    let cast = (value.datum_type() == DatumType::TDim).then(|| value.cast_to_dt(wanted));
    let cast = cast
        .transpose()
        .map_err(|error| mismatch(format!("a symbolic size ({error:#})")))?;
    let value = cast.as_deref().unwrap_or(value);
    if value.datum_type() != wanted {
        return Err(mismatch(format!("elements of type {:?}", value.datum_type())));
    }
    if !value.is_plain_ram() {
        return Err(mismatch("a tensor in a packed form".to_owned()));
    }
    let data = value.as_bytes();
    let buffer = outputs.buffer(index, spec.datatype, Shape::from(value.shape()));
    if buffer.len() != data.len() {
        return Err(mismatch(format!(
            "{} bytes for shape {:?}",
            data.len(),
            value.shape()
        )));
    }
    buffer.copy_from_slice(data);
    Ok(())
}

/// tract's name of a datatype; `signature` let only these through.
pub(crate) fn datum_type(datatype: Datatype) -> DatumType {
    match datatype {
        Datatype::Bool => DatumType::Bool,
        Datatype::Uint8 => DatumType::U8,
        Datatype::Uint16 => DatumType::U16,
        Datatype::Uint32 => DatumType::U32,
        Datatype::Uint64 => DatumType::U64,
        Datatype::Int8 => DatumType::I8,
        Datatype::Int16 => DatumType::I16,
        Datatype::Int32 => DatumType::I32,
        Datatype::Int64 => DatumType::I64,
        Datatype::Fp16 => DatumType::F16,
        Datatype::Fp32 => DatumType::F32,
        Datatype::Fp64 => DatumType::F64,
        Datatype::Bytes | Datatype::Bf16 => unreachable!("the signature refuses {datatype}"),
    }
}
