//! From requests to a batch and back: gather copies the inputs together, scatter cuts the outputs apart.

use crossfade_runtimes_core::{
    ModelSignature, OutputSlot, Outputs, RuntimeError, Shape, ShapeSpec, Tensor, TensorSpec,
};

mod gather;
mod scatter;

pub use gather::Gather;
pub use scatter::scatter;

/// One request of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Checked inputs in signature order, shapes as the client sent them.
    pub inputs: &'a [Option<Tensor>],
    /// Wanted outputs, as indices of the signature, in requested order.
    pub outputs: &'a [usize],
    /// Rows of the request.
    pub rows: usize,
}

/// Prepares the outputs of a run of `rows` rows: what any member wants, and its shape where the signature fixes
/// every dimension besides the rows.
pub fn expect_outputs(signature: &ModelSignature, members: &[Member<'_>], rows: usize) -> Outputs {
    let slots = signature.outputs.iter().enumerate().map(|(index, spec)| {
        let wanted = members.iter().any(|member| member.outputs.contains(&index));
        OutputSlot::new(wanted, expected_shape(signature, spec, rows))
    });
    Outputs::new(slots.collect())
}

fn expected_shape(signature: &ModelSignature, spec: &TensorSpec, rows: usize) -> Option<Shape> {
    let model = model_spec(spec);
    if !signature.batched {
        return model.iter().map(|dim| dim.fixed()).collect();
    }
    let inner = model.get(1..)?.iter().map(|dim| dim.fixed());
    std::iter::once(Some(rows)).chain(inner).collect()
}

/// The shape as the model has it, before clients see it reshaped.
fn model_spec(spec: &TensorSpec) -> &ShapeSpec {
    spec.reshape.as_ref().unwrap_or(&spec.shape)
}

/// The error for an output that is not what the signature says.
fn wrong_output(spec: &TensorSpec, got: impl Into<String>) -> RuntimeError {
    RuntimeError::Output {
        name: spec.name.clone(),
        expected_datatype: spec.datatype,
        expected_shape: model_spec(spec).clone(),
        got: got.into(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
