//! What is refused, and how.

use std::path::Path;

use crossfade_runtimes_core::{Datatype, Dim, ModelSource, Outputs, RuntimeError, Shape};

use crate::Subject;
use crate::harness::{run, run_foretold};
use crate::onnx::{Attribute, ModelBuilder, Value, add_constant, named, sequence_output};
use crate::tensors::{fp32, int64};

/// A caller that foretells another shape than the model computes gets an error or the true shape, never wrong
/// values; the instance stays usable.
pub fn a_wrongly_foretold_shape_is_an_error_or_corrected(subject: &Subject<'_>) {
    let loaded = subject.load(&add_constant(named("batch"), &[1.0, 2.0]));
    let mut instance = loaded.instance();
    let x = fp32([2, 2], &[0.0; 4]);
    let y = [fp32([2, 2], &[1.0, 2.0, 1.0, 2.0])];
    for wrong in [
        Shape::from([3, 2]),
        Shape::from([2, 2, 1]),
        Shape::from([1, 2]),
        Shape::from([0, 2]),
    ] {
        match run_foretold(&mut *instance, &[&x], &[wrong]) {
            Ok(result) => assert_eq!(result, y),
            Err(RuntimeError::Output { name, .. }) => assert_eq!(&*name, "y"),
            Err(other) => panic!("another error than one about the output: {other:?}"),
        }
        assert_eq!(run(&mut *instance, &[&x], 1).unwrap(), y);
    }

    // A constant is not computed, only handed out.
    let constant = ModelBuilder::new()
        .output("c", Datatype::Fp32, [Dim::Fixed(2)])
        .initializer("c", Value::fp32([2], &[1.0, 2.0]));
    let loaded = subject.load(&constant);
    let mut instance = loaded.instance();
    for wrong in [Shape::from([1]), Shape::from([1000])] {
        match run_foretold(&mut *instance, &[], &[wrong]) {
            Ok(result) => assert_eq!(result, [fp32([2], &[1.0, 2.0])]),
            Err(error) => assert!(matches!(error, RuntimeError::Output { .. }), "{error:?}"),
        }
    }
}

/// An input that the model needs and the caller leaves out.
pub fn a_missing_input_is_the_callers_mistake(subject: &Subject<'_>) {
    let loaded = subject.load(&add_constant(named("batch"), &[1.0]));
    let mut instance = loaded.instance();
    let error = instance.run(&[None], &mut Outputs::all(1)).unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidInput { .. }), "{error:?}");
    assert!(error.to_string().contains('x'), "{error}");
}

/// An index out of range fails one run.
pub fn a_failed_run_leaves_the_instance_usable(subject: &Subject<'_>) {
    let model = ModelBuilder::new()
        .input("i", Datatype::Int64, [named("n")])
        .output("y", Datatype::Fp32, [named("n")])
        .initializer("table", Value::fp32([3], &[10.0, 11.0, 12.0]))
        .node_with("Gather", ["table", "i"], ["y"], [("axis", Attribute::Int(0))]);
    let loaded = subject.load(&model);
    let mut instance = loaded.instance();
    for _ in 0..3 {
        let error = run(&mut *instance, &[&int64([1], &[7])], 1).unwrap_err();
        assert!(
            matches!(
                error,
                RuntimeError::InvalidInput { .. } | RuntimeError::Run { .. }
            ),
            "{error:?}"
        );
        let result = run(&mut *instance, &[&int64([2], &[2, 0])], 1).unwrap();
        assert_eq!(result, [fp32([2], &[12.0, 10.0])]);
    }
}

/// The protocol has tensors only.
pub fn sequence_outputs_are_refused_by_name(subject: &Subject<'_>) {
    subject.refuses(&sequence_output(), "`y`");
}

/// FLOAT8E4M3FN is an ONNX datatype that the protocol does not have.
pub fn datatypes_outside_the_protocol_are_refused_by_name(subject: &Subject<'_>) {
    let model = ModelBuilder::new()
        .opset(19)
        .raw_input("x", 17, [Dim::Fixed(2)])
        .output("y", Datatype::Fp32, [Dim::Fixed(2)])
        .node_with("Cast", ["x"], ["y"], [("to", Attribute::Int(1))]);
    subject.refuses(&model, "`x`");
}

/// A signature has ranks; a model file may leave them out.
pub fn inputs_without_a_shape_are_refused_by_name(subject: &Subject<'_>) {
    let model = ModelBuilder::new()
        .shapeless_input("x", Datatype::Fp32)
        .output("y", Datatype::Fp32, [named("n")])
        .initializer("flat", Value::int64([1], &[-1]))
        .node("Reshape", ["x", "flat"], ["y"]);
    subject.refuses(&model, "`x`");
}

/// Files that are no models; what is said goes to clients of the control API, so no path of the machine is in it.
pub fn broken_empty_and_missing_files_are_load_errors_without_paths(subject: &Subject<'_>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let whole = add_constant(named("batch"), &[1.0; 64]).build();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("the file can be written");
        path
    };
    for path in [
        write(
            "text.onnx",
            b"version https://example.invalid/spec/v1\noid sha256:0\n",
        ),
        write("empty.onnx", b""),
        write("cut.onnx", &whole[..whole.len() / 2]),
        folder.path().join("missing.onnx"),
        folder.path().to_path_buf().join("missing"),
    ] {
        let error = load_error(subject, &path);
        assert!(
            matches!(error, RuntimeError::Load { .. }),
            "{}: {error:?}",
            path.display()
        );
        let text = error.to_string();
        assert!(!text.contains(&*folder.path().to_string_lossy()), "{text}");
    }
}

/// Weights in a second file: loaded from the model's folder, whether file or folder is named; missing, a load error.
pub fn external_data_is_found_beside_the_model_and_missed_by_name(subject: &Subject<'_>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let model = ModelBuilder::new()
        .input("x", Datatype::Fp32, [named("batch"), Dim::Fixed(64)])
        .output("y", Datatype::Fp32, [named("batch"), Dim::Fixed(64)])
        .external_initializer("c", Datatype::Fp32, &[64], "weights.bin")
        .node("Add", ["x", "c"], ["y"]);
    let file = folder.path().join("model.onnx");
    model.write(&file).expect("the model can be written");

    let error = load_error(subject, &file);
    assert!(matches!(error, RuntimeError::Load { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("weights.bin"), "{text}");
    assert!(!text.contains(&*folder.path().to_string_lossy()), "{text}");

    let weights: Vec<f32> = (0u8..64).map(f32::from).collect();
    std::fs::write(folder.path().join("weights.bin"), &*fp32([64], &weights).data)
        .expect("weights can be written");
    for path in [file.as_path(), folder.path()] {
        let source = ModelSource {
            path: path.to_path_buf(),
            ..ModelSource::default()
        };
        let model = subject.runtime.load(&source).expect("the model loads");
        let mut instance = model
            .instantiate(&Default::default())
            .expect("an instance can be made");
        let result = run(&mut *instance, &[&fp32([1, 64], &[0.0; 64])], 1).unwrap();
        assert_eq!(result, [fp32([1, 64], &weights)]);
    }
}

fn load_error(subject: &Subject<'_>, path: &Path) -> RuntimeError {
    let source = ModelSource {
        path: path.to_path_buf(),
        ..ModelSource::default()
    };
    match subject.runtime.load(&source) {
        Ok(_) => panic!("{} loaded", path.display()),
        Err(error) => error,
    }
}
