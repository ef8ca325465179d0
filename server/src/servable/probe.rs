//! The load-time probe: may requests of this model be merged? (protocols.md §10.2, auto-completion) And the trial on a device.
//!
//! A model file with a variable first dimension may mix its rows. Two different inputs are run alone and merged;
//! only if each row comes out the same may requests be merged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use crossfade_runtimes_core::{
    BytesElements, Datatype, Instance, ModelSignature, Outputs, RuntimeError, Tensor,
};

use super::sample::{self, Fill};

/// Sizes tried for variable dimensions, until the model accepts one.
const VARIABLE_SIZES: [usize; 5] = [4, 1, 16, 2, 64];

/// `Ok` if rows came out of a merged run as they did alone; otherwise why requests are not merged.
pub(super) fn probe(signature: &ModelSignature, instance: &mut dyn Instance) -> Result<(), String> {
    let mut refused = String::new();
    for variable in VARIABLE_SIZES {
        match compare(signature, instance, variable) {
            Ok(()) => return Ok(()),
            Err(Probe::Mixed(reason)) => return Err(reason),
            Err(Probe::Refused(reason)) => refused = reason,
        }
        if !signature
            .inputs
            .iter()
            .any(|spec| spec.shape.iter().skip(1).any(|dim| dim.fixed().is_none()))
        {
            break;
        }
    }
    Err(format!(
        "the load-time probe could not run the model on made-up inputs: {refused}"
    ))
}

/// Runs a model on a device once, on made-up inputs: what the device's libraries lack or have not opened yet comes to light
/// before the version may answer. `false` if the model did not take the inputs.
///
/// Errors: those of the device.
pub(super) fn trial(signature: &ModelSignature, instance: &mut dyn Instance) -> Result<bool, RuntimeError> {
    for variable in VARIABLE_SIZES {
        let inputs = sample::inputs(signature, 1, variable, Fill::Random);
        let views: Vec<_> = inputs
            .iter()
            .map(|tensor| tensor.as_ref().map(Tensor::view))
            .collect();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            instance.run(&views, &mut Outputs::all(signature.outputs.len()))
        }));
        match ran {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(error @ (RuntimeError::Device { .. } | RuntimeError::DeviceLost { .. }))) => {
                return Err(error);
            }
            Ok(Err(_)) => {}
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

enum Probe {
    /// The model did not run on these shapes or values.
    Refused(String),
    /// The rows of the merged run differ.
    Mixed(String),
}

fn compare(signature: &ModelSignature, instance: &mut dyn Instance, variable: usize) -> Result<(), Probe> {
    let inputs = |odd: u64| sample::inputs(signature, 1, variable, |seed| Fill::Random(2 * seed + odd));
    let (first, second) = (inputs(0), inputs(1));
    let pairs = first.iter().zip(&second);
    let merged: Vec<Option<Tensor>> = pairs.map(|(a, b)| Some(join(a.as_ref()?, b.as_ref()?))).collect();
    let alone = [
        run(signature, instance, &first)?,
        run(signature, instance, &second)?,
    ];
    let together = run(signature, instance, &merged)?;
    for (index, spec) in signature.outputs.iter().enumerate() {
        let mixed = |what: &str| {
            let name = &spec.name;
            Probe::Mixed(format!("output `{name}`: {what}, so requests are not merged"))
        };
        if together[index].shape.first() != Some(&2) {
            return Err(mixed("two rows in do not give two rows out"));
        }
        let rows = rows(&together[index]).ok_or_else(|| mixed("its elements cannot be told apart by row"))?;
        for (row, alone) in rows.iter().zip(&alone) {
            if !same(spec.datatype, row, &alone[index].data) {
                return Err(mixed("a row depends on the rows beside it"));
            }
        }
    }
    Ok(())
}

fn run(
    signature: &ModelSignature,
    instance: &mut dyn Instance,
    inputs: &[Option<Tensor>],
) -> Result<Vec<Tensor>, Probe> {
    let views: Vec<_> = inputs
        .iter()
        .map(|tensor| tensor.as_ref().map(Tensor::view))
        .collect();
    let mut outputs = Outputs::all(signature.outputs.len());
    instance
        .run(&views, &mut outputs)
        .map_err(|error| Probe::Refused(error.to_string()))?;
    let tensors: Option<Vec<Tensor>> = outputs.into_tensors().into_iter().collect();
    tensors.ok_or_else(|| Probe::Refused("an output is missing".into()))
}

/// Two tensors of one row each as one of two rows.
fn join(a: &Tensor, b: &Tensor) -> Tensor {
    let data = [&a.data[..], &b.data[..]].concat();
    Tensor {
        datatype: a.datatype,
        shape: a.shape.with_rows(2),
        data: Bytes::from(data),
    }
}

/// The two rows of a tensor; `None` if its data do not split.
fn rows(tensor: &Tensor) -> Option<[&[u8]; 2]> {
    let data = &tensor.data[..];
    if tensor.datatype.width().is_some() {
        return Some(data.split_at_checked(data.len() / 2)?.into());
    }
    let per_row = tensor.shape.element_count()? / 2;
    let mut elements = BytesElements::new(data);
    for _ in 0..per_row {
        elements.next()?.ok()?;
    }
    let rest = elements.rest();
    Some([&data[..data.len() - rest.len()], rest])
}

/// Equal within what another order of summation explains; integers, booleans and strings exactly.
fn same(datatype: Datatype, a: &[u8], b: &[u8]) -> bool {
    let close = |a: f64, b: f64, tolerance: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
    };
    macro_rules! floats {
        ($number:ty, $read:expr, $tolerance:expr) => {{
            let read = |bytes: &[u8]| -> Vec<f64> {
                let chunks = bytes.chunks_exact(size_of::<$number>());
                chunks
                    .map(|c| $read(c.try_into().expect("chunks of the number's size")))
                    .collect()
            };
            a.len() == b.len()
                && read(a)
                    .into_iter()
                    .zip(read(b))
                    .all(|(a, b)| close(a, b, $tolerance))
        }};
    }
    match datatype {
        Datatype::Fp32 => floats!(f32, |c| f64::from(f32::from_le_bytes(c)), 1e-4),
        Datatype::Fp64 => floats!(f64, f64::from_le_bytes, 1e-9),
        Datatype::Fp16 => floats!(u16, |c| half::f16::from_le_bytes(c).to_f64(), 1e-2),
        Datatype::Bf16 => floats!(u16, |c| half::bf16::from_le_bytes(c).to_f64(), 5e-2),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
