//! HTTP's raw-body request: the body is the model's one input (protocols.md §4).

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Dim, ModelSignature, Shape, Tensor, push_element};

use crate::status::Refusal;

/// The tensor that `body` is, by name; its shape is solved from the body's length.
///
/// Errors: the model has not exactly one input, or more than one variable dimension besides the batch, or the
/// length does not fit.
pub(super) fn tensor(signature: &ModelSignature, body: Bytes) -> Result<(String, Tensor), Refusal> {
    let [spec] = &signature.inputs[..] else {
        let count = signature.inputs.len();
        let message =
            format!("a raw-body request needs a model with exactly one input; this one has {count}");
        return Err(Refusal::invalid(message));
    };
    let name = &spec.name;
    // The batch counts as 1.
    let dims: Vec<Option<usize>> = spec
        .shape
        .iter()
        .enumerate()
        .map(|(k, dim)| {
            if k == 0 && signature.batched {
                Some(1)
            } else {
                Dim::fixed(dim)
            }
        })
        .collect();
    let Some(width) = spec.datatype.width() else {
        let one = dims.iter().all(|dim| dim.is_none_or(|size| size == 1));
        if !one || dims.iter().filter(|dim| dim.is_none()).count() > 1 {
            let message = format!(
                "input `{name}`: a raw-body request needs a BYTES input of shape [1], got {}",
                spec.shape
            );
            return Err(Refusal::invalid(message));
        }
        let shape = dims.iter().map(|dim| dim.unwrap_or(1)).collect();
        let mut data = Vec::with_capacity(body.len() + 4);
        push_element(&mut data, &body);
        return Ok((
            name.to_string(),
            Tensor {
                datatype: Datatype::Bytes,
                shape,
                data: data.into(),
            },
        ));
    };
    let variable = dims.iter().filter(|dim| dim.is_none()).count();
    if variable > 1 {
        let message = format!(
            "input `{name}`: a raw-body request needs at most one variable dimension besides the batch, the model has {}",
            spec.shape
        );
        return Err(Refusal::invalid(message));
    }
    let known = dims
        .iter()
        .flatten()
        .try_fold(width, |bytes, &dim| bytes.checked_mul(dim));
    let solved = match known {
        Some(known) if known > 0 && body.len().is_multiple_of(known) => Some(body.len() / known),
        Some(0) if body.is_empty() => Some(0),
        _ => None,
    };
    match solved {
        Some(size) if variable == 1 || size == 1 || known == Some(0) => {
            let shape: Shape = dims.iter().map(|dim| dim.unwrap_or(size)).collect();
            Ok((
                name.to_string(),
                Tensor {
                    datatype: spec.datatype,
                    shape,
                    data: body,
                },
            ))
        }
        _ => Err(Refusal::invalid(format!(
            "input `{name}`: a body of {} bytes does not fit shape {} of {}",
            body.len(),
            spec.shape,
            spec.datatype
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::{ShapeSpec, TensorSpec};

    #[track_caller]
    fn check(datatype: Datatype, dims: &[i64], batched: bool, bytes: usize, expected: Option<&[usize]>) {
        let signature = ModelSignature {
            inputs: vec![TensorSpec::new("x", datatype, ShapeSpec::from(dims))],
            batched,
            ..ModelSignature::default()
        };
        let shape = tensor(&signature, vec![0; bytes].into())
            .ok()
            .map(|(_, tensor)| tensor.shape);
        assert_eq!(shape, expected.map(Shape::from));
    }

    #[test]
    fn the_one_variable_dimension_is_solved() {
        check(Datatype::Fp32, &[-1, 4], false, 48, Some(&[3, 4]));
        check(Datatype::Fp32, &[-1, 4], true, 16, Some(&[1, 4]));
        check(Datatype::Fp32, &[-1, 4], true, 32, None);
        check(Datatype::Fp32, &[-1, -1, 2], true, 24, Some(&[1, 3, 2]));
        check(Datatype::Fp32, &[-1, -1, 2], false, 24, None);
        check(Datatype::Fp32, &[4], false, 15, None);
        check(Datatype::Fp32, &[], false, 4, Some(&[]));
        check(Datatype::Bytes, &[1], false, 7, Some(&[1]));
        check(Datatype::Bytes, &[-1, 1], true, 7, Some(&[1, 1]));
        check(Datatype::Bytes, &[2], false, 7, None);
    }
}
