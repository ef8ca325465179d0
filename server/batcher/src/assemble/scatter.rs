//! The outputs of a batch, checked once and cut into one slice per request; copies no tensor bytes.

use bytes::Bytes;
use crossfade_runtimes_core::{BytesElements, ModelSignature, Outputs, RuntimeError, Tensor, TensorSpec};

use super::{Member, model_spec, wrong_output};

/// Cuts the outputs of a run into the members' answers, each in the member's order and in client shape.
///
/// Errors: `Output` if a wanted output is absent, has another datatype, shape or size than the signature says, or
/// in a batch of several members other rows than the batch.
/// Cost: a slice per member and wanted output; BYTES framing is walked once.
pub fn scatter(
    signature: &ModelSignature,
    outputs: Outputs,
    members: &[Member<'_>],
    rows: usize,
) -> Result<Vec<Vec<Tensor>>, RuntimeError> {
    let mut answers: Vec<Vec<Option<Tensor>>> = members
        .iter()
        .map(|member| vec![None; member.outputs.len()])
        .collect();
    let wanted: Vec<bool> = (0..outputs.len()).map(|index| outputs.wanted(index)).collect();
    for (index, tensor) in outputs.into_tensors().into_iter().enumerate() {
        if !wanted[index] {
            continue;
        }
        let spec = &signature.outputs[index];
        let tensor = tensor.ok_or_else(|| wrong_output(spec, "nothing"))?;
        let parts = cut(spec, tensor, members, rows)?;
        for ((answer, member), part) in answers.iter_mut().zip(members).zip(parts) {
            for (place, _) in member
                .outputs
                .iter()
                .enumerate()
                .filter(|&(_, &output)| output == index)
            {
                answer[place] = Some(part.clone());
            }
        }
    }
    let complete = |answer: Vec<Option<Tensor>>| answer.into_iter().collect::<Option<Vec<Tensor>>>();
    Ok(answers
        .into_iter()
        .map(|answer| complete(answer).expect("every output that a member wants was wanted of the run"))
        .collect())
}

/// Checks one output and cuts it: one part per member, in order.
fn cut(
    spec: &TensorSpec,
    mut tensor: Tensor,
    members: &[Member<'_>],
    rows: usize,
) -> Result<Vec<Tensor>, RuntimeError> {
    let describe = |tensor: &Tensor| format!("{} {}", tensor.datatype, tensor.shape);
    if tensor.datatype != spec.datatype || !model_spec(spec).accepts(&tensor.shape) {
        return Err(wrong_output(spec, describe(&tensor)));
    }
    let merged = members.len() > 1;
    if merged && (tensor.shape.is_empty() || tensor.shape.rows() != rows) {
        return Err(wrong_output(
            spec,
            format!("{} for {rows} rows", describe(&tensor)),
        ));
    }
    let count = tensor.shape.element_count();
    let size = |count: usize| spec.datatype.width().and_then(|width| count.checked_mul(width));
    if spec.datatype.width().is_some() && count.and_then(size) != Some(tensor.data.len()) {
        return Err(wrong_output(
            spec,
            format!("{} in {} bytes", describe(&tensor), tensor.data.len()),
        ));
    }
    tensor.shape = spec
        .client_shape(&tensor.shape)
        .ok_or_else(|| wrong_output(spec, describe(&tensor)))?;
    if !merged {
        if spec.datatype.width().is_none() {
            BytesElements::check(&tensor.data, count.unwrap_or(usize::MAX))
                .map_err(|error| wrong_output(spec, format!("{}: {error}", describe(&tensor))))?;
        }
        return Ok(vec![tensor]);
    }
    let slices = match spec.datatype.width() {
        Some(_) => cut_fixed(&tensor.data, members, rows),
        None => {
            let per_row = count.unwrap_or(usize::MAX) / rows.max(1);
            cut_bytes(&tensor.data, members, per_row)
                .map_err(|error| wrong_output(spec, format!("{}: {error}", describe(&tensor))))?
        }
    };
    let part = |(data, member): (Bytes, &Member<'_>)| Tensor {
        datatype: tensor.datatype,
        shape: tensor.shape.with_rows(member.rows),
        data,
    };
    Ok(slices.into_iter().zip(members).map(part).collect())
}

/// Rows of equal size.
fn cut_fixed(data: &Bytes, members: &[Member<'_>], rows: usize) -> Vec<Bytes> {
    let row = data.len() / rows.max(1);
    let mut start = 0;
    let slice = |member: &Member<'_>| {
        let end = start + member.rows * row;
        let slice = data.slice(start..end);
        start = end;
        slice
    };
    members.iter().map(slice).collect()
}

/// Rows of `per_row` framed elements each; the framing must end with the last.
fn cut_bytes(data: &Bytes, members: &[Member<'_>], per_row: usize) -> Result<Vec<Bytes>, String> {
    let mut elements = BytesElements::new(data);
    let mut slices = Vec::with_capacity(members.len());
    for member in members {
        let start = data.len() - elements.rest().len();
        for _ in 0..member.rows.saturating_mul(per_row) {
            match elements.next() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("too few elements".to_owned()),
            }
        }
        slices.push(data.slice(start..data.len() - elements.rest().len()));
    }
    if elements.rest().is_empty() {
        Ok(slices)
    } else {
        Err("more elements than the shape has".to_owned())
    }
}
