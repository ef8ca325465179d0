//! Inputs, outputs and the batch dimension: given, completed, and compared with the model file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_runtimes_core::{Datatype, Dim, ShapeSpec, TensorSpec};
use serde_json::{Map, Value, json};

use super::{Batch, Completion, ConfigTensor, Given, GivenTensor, Tensors, without_batch};
use crate::error::ConfigError;

/// The `max_batch_size` of a completed model whose rows have lengths: more rows than its elements leave room for.
const ROWS_WITH_LENGTHS: u32 = 1024;

/// Decides `max_batch_size`.
///
/// Errors: it is negative, or above 0 while a tensor of the model has no variable first dimension.
pub(super) fn batch(given: &Given, with: &Completion<'_>) -> Result<Batch, ConfigError> {
    if let Some(explicit) = given.max_batch_size {
        let max_batch_size = u32::try_from(explicit).map_err(|_| {
            ConfigError::invalid("max_batch_size", format!("must not be negative, got {explicit}"))
        })?;
        if max_batch_size > 0 {
            must_have_batch(with)?;
        }
        return Ok(Batch {
            max_batch_size,
            completed: false,
        });
    }
    if with.auto_complete && can_batch(with) && !has_full_shapes(given, with) {
        // Batches of rows of different lengths are bounded by their elements.
        let lengths = with.signature.inputs.iter().any(|spec| spec.padding.is_some());
        let rows = with.default_max_batch_size;
        return Ok(Batch {
            max_batch_size: if lengths && rows > 0 {
                rows.max(ROWS_WITH_LENGTHS)
            } else {
                rows
            },
            completed: rows > 0,
        });
    }
    Ok(Batch {
        max_batch_size: 0,
        completed: false,
    })
}

fn must_have_batch(with: &Completion<'_>) -> Result<(), ConfigError> {
    for (kind, spec) in tensors(with) {
        let first = spec.shape.first();
        if first.is_none_or(|dim| dim.fixed().is_some()) {
            return Err(ConfigError::Mismatch {
                tensor: format!("{kind} `{}`", spec.name),
                config: "max_batch_size > 0, so dimension 0 is the batch".to_owned(),
                model: match first {
                    None => "it is a scalar".to_owned(),
                    Some(_) => format!("its shape is {}, with a fixed dimension 0", spec.shape),
                },
                advice: "write `max_batch_size: 0`, or export the model with a variable first dimension"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// Every tensor has a variable first dimension, and named ones share one name: another name is another thing.
fn can_batch(with: &Completion<'_>) -> bool {
    let mut name: Option<&Arc<str>> = None;
    !with.signature.inputs.is_empty()
        && tensors(with).all(|(_, spec)| match spec.shape.first() {
            Some(Dim::Any) => true,
            Some(Dim::Named(other)) => *name.get_or_insert(other) == other,
            Some(Dim::Fixed(_)) | None => false,
        })
}

/// Whether the given dims include dimension 0: they were written for `max_batch_size: 0`.
fn has_full_shapes(given: &Given, with: &Completion<'_>) -> bool {
    let full = |given: &Option<Vec<GivenTensor>>, model: &[TensorSpec]| {
        given.iter().flatten().any(|tensor| {
            let shape = tensor
                .reshape
                .as_ref()
                .map(|reshape| &reshape.shape)
                .or(tensor.dims.as_ref());
            let spec = model.iter().find(|spec| *spec.name == *tensor.name);
            matches!((shape, spec), (Some(shape), Some(spec)) if shape.len() == spec.shape.len())
        })
    };
    full(&given.input, &with.signature.inputs) || full(&given.output, &with.signature.outputs)
}

fn tensors<'a>(with: &Completion<'a>) -> impl Iterator<Item = (&'static str, &'a TensorSpec)> {
    let inputs = with.signature.inputs.iter().map(|spec| ("input", spec));
    inputs.chain(with.signature.outputs.iter().map(|spec| ("output", spec)))
}

/// The inputs, in the model's order.
pub(super) fn inputs(given: &Given, with: &Completion<'_>, batched: bool) -> Result<Tensors, ConfigError> {
    let tensors = merge(
        "input",
        given.input.as_deref(),
        &with.signature.inputs,
        with,
        batched,
    )?;
    for spec in &with.signature.inputs {
        if !spec.optional && !tensors.iter().any(|tensor| tensor.name == spec.name) {
            return Err(ConfigError::Mismatch {
                tensor: format!("input `{}`", spec.name),
                config: "nothing".to_owned(),
                model: "it is required".to_owned(),
                advice: "add it to the inputs, or remove them all to take them from the model".to_owned(),
            });
        }
    }
    Ok(tensors)
}

/// The outputs, in the model's order; those that are left out are not offered.
pub(super) fn outputs(given: &Given, with: &Completion<'_>, batched: bool) -> Result<Tensors, ConfigError> {
    merge(
        "output",
        given.output.as_deref(),
        &with.signature.outputs,
        with,
        batched,
    )
}

fn merge(
    kind: &str,
    given: Option<&[GivenTensor]>,
    model: &[TensorSpec],
    with: &Completion<'_>,
    batched: bool,
) -> Result<Tensors, ConfigError> {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        if !with.auto_complete && !model.is_empty() {
            return Err(ConfigError::invalid(
                kind,
                "must be given when auto-completion is off",
            ));
        }
        return Ok(model.iter().map(|spec| completed(spec, batched)).collect());
    }
    let mut tensors = Vec::with_capacity(given.len());
    for (k, tensor) in given.iter().enumerate() {
        if given[..k].iter().any(|before| before.name == tensor.name) {
            return Err(ConfigError::invalid(
                format!("{kind} `{}`", tensor.name),
                "given twice",
            ));
        }
        let Some(index) = model.iter().position(|spec| *spec.name == *tensor.name) else {
            return Err(unknown(kind, &tensor.name, model));
        };
        tensors.push((index, checked(kind, tensor, &model[index], with, batched)?));
    }
    tensors.sort_by_key(|(index, _)| *index);
    Ok(tensors.into_iter().map(|(_, tensor)| tensor).collect())
}

fn unknown(kind: &str, name: &str, model: &[TensorSpec]) -> ConfigError {
    let names = model.iter().map(|spec| &*spec.name);
    let advice = super::super::nearest(name, names.clone()).map_or_else(
        || "use the model's names".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    let list = names
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    ConfigError::Mismatch {
        tensor: format!("{kind} `{name}`"),
        config: "it exists".to_owned(),
        model: format!("its {kind}s are {}", if list.is_empty() { "none" } else { &list }),
        advice,
    }
}

fn completed(spec: &TensorSpec, batched: bool) -> ConfigTensor {
    ConfigTensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        dims: without_batch(&spec.shape, batched),
        reshape: None,
        optional: spec.optional,
        labels: None,
    }
}

fn checked(
    kind: &str,
    given: &GivenTensor,
    spec: &TensorSpec,
    with: &Completion<'_>,
    batched: bool,
) -> Result<ConfigTensor, ConfigError> {
    let tensor = format!("{kind} `{}`", given.name);
    let given_type = given.data_type.as_deref().and_then(Datatype::from_config_name);
    if let Some(datatype) = given_type
        && datatype != spec.datatype
    {
        return Err(ConfigError::Mismatch {
            tensor,
            config: datatype.config_name().to_owned(),
            model: spec.datatype.config_name().to_owned(),
            advice: format!("write `data_type: {}`", spec.datatype.config_name()),
        });
    }
    if !with.auto_complete && (given_type.is_none() || given.dims.is_none()) {
        return Err(ConfigError::invalid(
            tensor,
            "data_type and dims must be given when auto-completion is off",
        ));
    }
    let model_dims = without_batch(&spec.shape, batched);
    let (dims, reshape) = match (&given.dims, &given.reshape) {
        (None, None) => (model_dims, None),
        (None, Some(_)) => {
            return Err(ConfigError::invalid(
                tensor,
                "reshape needs dims: the shape that clients send",
            ));
        }
        (Some(dims), None) => (dims_of(dims, &tensor, "dims")?, None),
        (Some(dims), Some(reshape)) => {
            let dims = dims_of(dims, &tensor, "dims")?;
            let shape = dims_of(&reshape.shape, &tensor, "reshape.shape")?;
            keeps_elements(&dims, &shape, &tensor)?;
            (dims, Some(shape))
        }
    };
    compare(reshape.as_ref().unwrap_or(&dims), spec, batched, &tensor)?;
    if given.optional == Some(true) && !spec.optional {
        return Err(ConfigError::Mismatch {
            tensor,
            config: "optional".to_owned(),
            model: "it is required".to_owned(),
            advice: "remove `optional: true`".to_owned(),
        });
    }
    Ok(ConfigTensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        dims,
        reshape,
        optional: given.optional.unwrap_or(spec.optional),
        labels: labels(given, with.label_files)?,
    })
}

fn dims_of(dims: &[i64], tensor: &str, field: &str) -> Result<ShapeSpec, ConfigError> {
    dims.iter()
        .map(|&dim| match usize::try_from(dim) {
            Ok(size) => Ok(Dim::Fixed(size)),
            Err(_) if dim == -1 => Ok(Dim::Any),
            Err(_) => Err(ConfigError::invalid(
                format!("{tensor}: {field}"),
                format!("a dimension is a size, or -1 for any, got {dim}"),
            )),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(ShapeSpec)
}

/// A reshape keeps the number of elements, and its variable dimensions map in order.
fn keeps_elements(dims: &ShapeSpec, reshape: &ShapeSpec, tensor: &str) -> Result<(), ConfigError> {
    let variable = |spec: &ShapeSpec| spec.iter().filter(|dim| dim.fixed().is_none()).count();
    let product = |spec: &ShapeSpec| {
        spec.iter()
            .filter_map(Dim::fixed)
            .try_fold(1usize, usize::checked_mul)
    };
    if variable(dims) == variable(reshape) && product(dims).is_some() && product(dims) == product(reshape) {
        return Ok(());
    }
    Err(ConfigError::invalid(
        format!("{tensor}: reshape"),
        format!(
            "dims {dims} and reshape {reshape} must have the same number of elements and of variable dimensions"
        ),
    ))
}

/// Rank equal, and the model's fixed dimensions are the configuration's.
fn compare(dims: &ShapeSpec, spec: &TensorSpec, batched: bool, tensor: &str) -> Result<(), ConfigError> {
    let model = without_batch(&spec.shape, batched);
    let fits = dims.len() == model.len()
        && dims
            .iter()
            .zip(model.iter())
            .all(|(ours, model)| model.fixed().is_none() || ours.fixed() == model.fixed());
    if fits {
        return Ok(());
    }
    let explain = if batched {
        " (without the batch dimension, as max_batch_size > 0)"
    } else {
        ""
    };
    let advice = if batched && dims.len() == spec.shape.len() {
        format!("write `dims: {model}`: the batch dimension is not part of dims when max_batch_size > 0")
    } else if !batched && dims.len() + 1 == spec.shape.len() {
        format!("write `dims: {model}`, or set max_batch_size above 0 if dimension 0 is the batch")
    } else {
        format!("write `dims: {model}`")
    };
    Err(ConfigError::Mismatch {
        tensor: tensor.to_owned(),
        config: format!("dims {dims}"),
        model: format!("{model}{explain}"),
        advice,
    })
}

fn labels(
    given: &GivenTensor,
    files: &BTreeMap<String, String>,
) -> Result<Option<Arc<[Arc<str>]>>, ConfigError> {
    let Some(name) = given.label_filename.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let text = files.get(name).ok_or_else(|| ConfigError::Read {
        file: name.to_owned(),
        reason: "there is no such file in the model directory".to_owned(),
    })?;
    Ok(Some(text.lines().map(Arc::from).collect()))
}

/// Writes the effective tensors into the document; what they keep of their given form stays.
pub(super) fn write(document: &mut Map<String, Value>, key: &str, tensors: &[ConfigTensor]) {
    let given = match document.remove(key) {
        Some(Value::Array(given)) => given,
        _ => Vec::new(),
    };
    let written = tensors.iter().map(|tensor| {
        let before = given
            .iter()
            .find(|value| value.get("name").and_then(Value::as_str) == Some(&tensor.name));
        let mut value = before.and_then(Value::as_object).cloned().unwrap_or_default();
        value.insert("name".to_owned(), json!(&*tensor.name));
        value.insert("data_type".to_owned(), json!(tensor.datatype.config_name()));
        value.insert("dims".to_owned(), json!(tensor.dims.wire()));
        if tensor.optional {
            value.insert("optional".to_owned(), json!(true));
        }
        Value::Object(value)
    });
    let written = written.collect();
    document.insert(key.to_owned(), written);
}
