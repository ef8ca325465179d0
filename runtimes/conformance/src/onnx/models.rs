//! Models that several suites use.

use crossfade_runtimes_core::{Datatype, Dim};

use super::{ModelBuilder, Value};

/// `y = x`, of one datatype and shape.
pub fn identity(datatype: Datatype, dims: impl IntoIterator<Item = Dim>) -> ModelBuilder {
    let dims: Vec<Dim> = dims.into_iter().collect();
    ModelBuilder::new()
        .input("x", datatype, dims.clone())
        .output("y", datatype, dims)
        .node("Identity", ["x"], ["y"])
}

/// `y = x + c` in FP32, where `x` and `y` are `[batch, width]` and `c` is `[width]`.
pub fn add_constant(batch: Dim, constant: &[f32]) -> ModelBuilder {
    let dims = [batch, Dim::Fixed(constant.len())];
    ModelBuilder::new()
        .input("x", Datatype::Fp32, dims.clone())
        .output("y", Datatype::Fp32, dims)
        .initializer("c", Value::fp32([constant.len()], constant))
        .node("Add", ["x", "c"], ["y"])
}

/// `y[2, n]`: the indices of the values of `x[rows, 3]` (FP32) that are not 0; `n` is known only after the run.
pub fn nonzero() -> ModelBuilder {
    ModelBuilder::new()
        .input("x", Datatype::Fp32, [super::named("rows"), Dim::Fixed(3)])
        .output("y", Datatype::Int64, [Dim::Fixed(2), super::named("n")])
        .node("NonZero", ["x"], ["y"])
}

/// `y`: a sequence of the rows of `x[rows, 3]` (FP32); no tensor, so no runtime serves it.
pub fn sequence_output() -> ModelBuilder {
    ModelBuilder::new()
        .input("x", Datatype::Fp32, [super::named("rows"), Dim::Fixed(3)])
        .sequence_output("y", Datatype::Fp32)
        .node("SplitToSequence", ["x"], ["y"])
}
