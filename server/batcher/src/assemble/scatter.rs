//! The outputs of a batch, checked once and cut into one slice per request; copies no tensor bytes.

use bytes::Bytes;
use crossfade_runtimes_core::{BytesElements, ModelSignature, Outputs, RuntimeError, Tensor, TensorSpec};

use super::{Member, model_spec, wrong_output};
use crate::policy::{length, padded_inputs};

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
    let padded = padded_inputs(signature);
    let lengths: Vec<Option<usize>> = members
        .iter()
        .map(|member| length(&padded, member.inputs))
        .collect();
    let wanted: Vec<bool> = (0..outputs.len()).map(|index| outputs.wanted(index)).collect();
    for (index, tensor) in outputs.into_tensors().into_iter().enumerate() {
        if !wanted[index] {
            continue;
        }
        let spec = &signature.outputs[index];
        let tensor = tensor.ok_or_else(|| wrong_output(spec, "nothing"))?;
        let parts = cut(spec, tensor, members, rows)?;
        let parts = shorten(spec, parts, &lengths)?;
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

/// Cuts what is as long as the longest of the batch to each member's own length; copies those that are shorter.
fn shorten(
    spec: &TensorSpec,
    parts: Vec<Tensor>,
    lengths: &[Option<usize>],
) -> Result<Vec<Tensor>, RuntimeError> {
    let Some(dim) = spec
        .padding
        .filter(|_| spec.reshape.is_none())
        .map(|padding| padding.dim)
    else {
        return Ok(parts);
    };
    let Some(longest) = lengths.iter().copied().flatten().max() else {
        return Ok(parts);
    };
    let own = |(part, length): (Tensor, &Option<usize>)| {
        let (Some(width), Some(length)) = (spec.datatype.width(), *length) else {
            return Ok(part);
        };
        if part.shape.get(dim) != Some(&longest) {
            let got = format!("{} {} for inputs of {longest}", part.datatype, part.shape);
            return Err(wrong_output(spec, got));
        }
        if length == longest {
            return Ok(part);
        }
        let inner = part.shape[dim + 1..].iter().product::<usize>() * width;
        let pieces = part.data.chunks_exact(longest * inner);
        let data: Vec<u8> = pieces
            .flat_map(|piece| &piece[..length * inner])
            .copied()
            .collect();
        let sizes = part.shape.iter().enumerate();
        Ok(Tensor {
            datatype: part.datatype,
            shape: sizes
                .map(|(index, &size)| if index == dim { length } else { size })
                .collect(),
            data: Bytes::from(data),
        })
    };
    parts.into_iter().zip(lengths).map(own).collect()
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
