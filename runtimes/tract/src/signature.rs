//! The signature as the model file writes it, and what in the file tract cannot serve.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crossfade_runtimes_core::{Datatype, Dim, ModelSignature, RuntimeError, ShapeSpec, TensorSpec};
use tract_onnx::Onnx;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

use crate::error::{load, unsupported};

/// Reads the signature of `proto`.
///
/// Errors: `Load` without a graph, `Unsupported` for what is no tensor of a datatype tract has.
pub(crate) fn read(proto: &ModelProto) -> Result<ModelSignature, RuntimeError> {
    let graph = graph(proto)?;
    // An input with a value in the file is a weight that older files list twice.
    let weights: BTreeSet<&str> = graph.initializer.iter().map(|tensor| &*tensor.name).collect();
    let inputs = graph.input.iter().filter(|input| !weights.contains(&*input.name));
    Ok(ModelSignature {
        inputs: inputs
            .map(|input| read_spec("input", input))
            .collect::<Result<_, _>>()?,
        outputs: graph
            .output
            .iter()
            .map(|output| read_spec("output", output))
            .collect::<Result<_, _>>()?,
        batched: false,
        ..ModelSignature::default()
    })
}

/// Refuses operators that tract does not know, all at once.
pub(crate) fn check_operators(onnx: &Onnx, proto: &ModelProto) -> Result<(), RuntimeError> {
    let unknown: BTreeSet<&str> = graph(proto)?
        .node
        .iter()
        .map(|node| &*node.op_type)
        .filter(|operator| !onnx.op_register.0.contains_key(*operator))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let unknown: Vec<&str> = unknown.into_iter().collect();
    Err(unsupported(format!("operators {}", unknown.join(", "))))
}

/// Refuses a model whose weights are in files that are not there.
pub(crate) fn check_external_data(proto: &ModelProto, folder: &Path) -> Result<(), RuntimeError> {
    let graph = graph(proto)?;
    let constants = graph
        .node
        .iter()
        .flat_map(|node| &node.attribute)
        .filter_map(|attribute| attribute.t.as_ref());
    let location = |tensor: &TensorProto| -> Option<String> {
        let entry = tensor
            .external_data
            .iter()
            .find(|entry| entry.key == "location")?;
        Some(entry.value.clone())
    };
    let missing = graph
        .initializer
        .iter()
        .chain(constants)
        .filter_map(location)
        .find(|location| !folder.join(location).is_file());
    match missing {
        Some(location) => Err(load(format!(
            "external data `{location}` is not beside the model file"
        ))),
        None => Ok(()),
    }
}

fn graph(proto: &ModelProto) -> Result<&GraphProto, RuntimeError> {
    proto
        .graph
        .as_ref()
        .ok_or_else(|| load("the file holds no ONNX graph"))
}

fn read_spec(side: &str, info: &ValueInfoProto) -> Result<TensorSpec, RuntimeError> {
    let name = &info.name;
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|kind| kind.value.as_ref())
    else {
        return Err(unsupported(format!(
            "{side} `{name}` is no tensor (a sequence, a map or an optional value)"
        )));
    };
    let datatype = match datatype(tensor.elem_type) {
        Ok(datatype) => datatype,
        Err(kind) => return Err(unsupported(format!("{side} `{name}` is a tensor of {kind}"))),
    };
    let Some(shape) = &tensor.shape else {
        return Err(unsupported(format!(
            "{side} `{name}` has no shape in the model file"
        )));
    };
    let shape: ShapeSpec = shape
        .dim
        .iter()
        .map(|dim| match &dim.value {
            Some(DimValue::DimValue(size)) => usize::try_from(*size).map_or(Dim::Any, Dim::Fixed),
            Some(DimValue::DimParam(name)) if !name.is_empty() => Dim::Named(Arc::from(&**name)),
            Some(DimValue::DimParam(_)) | None => Dim::Any,
        })
        .collect();
    Ok(TensorSpec::new(name.as_str(), datatype, shape))
}

/// The datatype of an ONNX element type, or the name of one that tract cannot serve.
fn datatype(element: i32) -> Result<Datatype, String> {
    Ok(match element {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        9 => Datatype::Bool,
        10 => Datatype::Fp16,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        8 => return Err("BYTES (strings)".to_owned()),
        16 => return Err("BF16".to_owned()),
        other => return Err(format!("ONNX element type {other}")),
    })
}
