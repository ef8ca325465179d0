//! Shapes without end, operators without an implementation.

use std::collections::BTreeMap;

use crossfade_runtimes_conformance::onnx::{ModelBuilder, add_constant, named};
use crossfade_runtimes_conformance::tensors::fp32;
use crossfade_runtimes_core::{
    Datatype, Dim, InstanceOptions, ModelSource, Outputs, Runtime as _, RuntimeError, Tensor,
};
use crossfade_runtimes_tract::TractRuntime;

fn source(model: &ModelBuilder, folder: &tempfile::TempDir) -> ModelSource {
    let path = folder.path().join("model.onnx");
    model.write(&path).expect("the model can be written");
    ModelSource {
        path,
        ..ModelSource::default()
    }
}

fn load_error(source: &ModelSource) -> RuntimeError {
    TractRuntime::new(1)
        .load(source)
        .err()
        .expect("the model is refused")
}

#[test]
fn more_shapes_than_plans_are_kept_still_give_the_right_values() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let source = source(&add_constant(named("batch"), &[1.0, 2.0]), &folder);
    let model = TractRuntime::new(1).load(&source).expect("the model loads");
    let mut instance = model
        .instantiate(&InstanceOptions::default())
        .expect("an instance can be made");
    // Up and down twice: plans are made, kept, passed over for the symbolic one, and replaced.
    for rows in (1..150).chain((1..150).rev()).chain(1..150) {
        let x: Tensor = fp32([rows, 2], &vec![10.0; rows * 2]);
        let mut outputs = Outputs::all(1);
        instance
            .run(&[Some(x.view())], &mut outputs)
            .expect("the run succeeds");
        let y: Vec<f32> = [11.0, 12.0].into_iter().cycle().take(rows * 2).collect();
        assert_eq!(outputs.into_tensors(), [Some(fp32([rows, 2], &y))]);
    }
}

#[test]
fn dimensions_besides_the_rows_vary_freely() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let dims = || [named("batch"), Dim::Any, named("batch")];
    let model = ModelBuilder::new()
        .input("x", Datatype::Fp32, dims())
        .output("y", Datatype::Fp32, dims())
        .node("Neg", ["x"], ["y"]);
    let model = TractRuntime::new(1)
        .load(&source(&model, &folder))
        .expect("the model loads");
    let mut instance = model
        .instantiate(&InstanceOptions::default())
        .expect("an instance can be made");
    for (rows, length) in [(1, 1), (1, 7), (2, 7), (2, 3), (1, 7)] {
        let count = rows * length * rows;
        let x = fp32([rows, length, rows], &vec![1.5; count]);
        let mut outputs = Outputs::all(1);
        instance
            .run(&[Some(x.view())], &mut outputs)
            .expect("the run succeeds");
        assert_eq!(
            outputs.into_tensors(),
            [Some(fp32([rows, length, rows], &vec![-1.5; count]))]
        );
    }
}

#[test]
fn unknown_operators_are_named_with_the_runtime_that_may_have_them() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let model = ModelBuilder::new()
        .input("x", Datatype::Fp32, [named("n")])
        .output("y", Datatype::Fp32, [named("n")])
        .node("Sparkle", ["x"], ["z"])
        .node("Glitter", ["z"], ["y"]);
    let error = load_error(&source(&model, &folder));
    assert!(
        matches!(error, RuntimeError::Unsupported { runtime: "tract", .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("Glitter, Sparkle") && text.contains("runtime = \"ort\""),
        "{text}"
    );
}

#[test]
fn parameters_of_another_runtime_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let source = ModelSource {
        parameters: BTreeMap::from([("intra_op_thread_count".to_owned(), "2".to_owned())]),
        ..source(&add_constant(named("batch"), &[1.0]), &folder)
    };
    let error = load_error(&source);
    assert!(matches!(&error, RuntimeError::Parameter { key, .. } if key == "intra_op_thread_count"));
}
