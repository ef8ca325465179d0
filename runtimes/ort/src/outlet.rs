//! A session's inputs and outputs as the seam has them.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use crossfade_runtimes_core::{Datatype, Dim, ModelSignature, RuntimeError, ShapeSpec, TensorSpec};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::convert::{self, Side};
use crate::error::{self, unsupported};

/// What goes in and out, as the model file says.
///
/// Errors: `Unsupported`, naming an input or output that is no tensor of the protocol.
pub(crate) fn signature(session: &Session) -> Result<ModelSignature, RuntimeError> {
    Ok(ModelSignature {
        inputs: read_side(session, Side::Input)?,
        outputs: read_side(session, Side::Output)?,
        batched: false,
        ..ModelSignature::default()
    })
}

/// The names of inputs or outputs, as the C API takes them.
pub(crate) fn c_names(specs: &[TensorSpec]) -> Vec<CString> {
    specs
        .iter()
        .map(|spec| CString::new(spec.name.as_bytes()).expect("the name came from a C string"))
        .collect()
}

fn read_side(session: &Session, side: Side) -> Result<Vec<TensorSpec>, RuntimeError> {
    let outlets = match side {
        Side::Input => session.inputs(),
        Side::Output => session.outputs(),
    };
    outlets
        .iter()
        .enumerate()
        .map(|(index, outlet)| {
            let spec = read_outlet(outlet, side)?;
            if convert::is_dense_with_rank(session, side, index).map_err(|error| error::load(&error, Path::new("")))? {
                Ok(spec)
            } else {
                Err(unsupported(format!(
                    "{side} `{}` is sparse or has no shape in the model file; write one there, with a name for each \
                     variable dimension",
                    outlet.name()
                )))
            }
        })
        .collect()
}

fn read_outlet(outlet: &Outlet, side: Side) -> Result<TensorSpec, RuntimeError> {
    let name = outlet.name();
    let kind = match outlet.dtype() {
        ValueType::Tensor {
            ty,
            shape,
            dimension_symbols,
        } => match datatype(*ty) {
            Some(datatype) => {
                let dims = shape.iter().zip(dimension_symbols.iter());
                let shape: ShapeSpec = dims.map(|(&size, symbol)| dim(size, symbol)).collect();
                return Ok(TensorSpec::new(name, datatype, shape));
            }
            None => format!("a tensor of {ty}"),
        },
        ValueType::Sequence(element) => format!("a sequence ({element})"),
        ValueType::Map { key, value } => format!("a map from {key} to {value}"),
        ValueType::Optional(inner) => format!("an optional value ({inner})"),
    };
    Err(unsupported(format!(
        "{side} `{name}` is {kind}; served are tensors of the fourteen datatypes of the protocol"
    )))
}

fn dim(size: i64, symbol: &str) -> Dim {
    match usize::try_from(size) {
        Ok(size) => Dim::Fixed(size),
        Err(_) if symbol.is_empty() => Dim::Any,
        Err(_) => Dim::Named(Arc::from(symbol)),
    }
}

fn datatype(ty: TensorElementType) -> Option<Datatype> {
    Some(match ty {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        _ => return None,
    })
}
