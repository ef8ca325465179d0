//! What only ONNX Runtime has: parameters, graph levels, devices.

use std::collections::BTreeMap;

use crossfade_runtimes_conformance::onnx::{add_constant, named};
use crossfade_runtimes_conformance::tensors::fp32;
use crossfade_runtimes_core::{
    Accelerator, Device, InstanceOptions, Model, ModelSource, Outputs, Runtime as _, RuntimeError,
};

use crate::library;

fn load(parameters: &[(&str, &str)], graph_level: Option<i32>) -> Result<Box<dyn Model>, RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    add_constant(named("batch"), &[1.0, 2.0]).write(&path).unwrap();
    let parameters: BTreeMap<String, String> = parameters
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    load_more(ModelSource {
        path,
        parameters,
        graph_level,
        ..ModelSource::default()
    })
}

fn load_more(source: ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
    library::open().load(&source)
}

/// What loading `x + c` says that is asked of a library for the CPU.
fn refused(change: impl FnOnce(&mut ModelSource)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    add_constant(named("batch"), &[1.0, 2.0]).write(&path).unwrap();
    let mut source = ModelSource {
        path,
        ..ModelSource::default()
    };
    change(&mut source);
    match load_more(source) {
        Err(error @ RuntimeError::Device { .. }) => error.to_string(),
        Err(other) => panic!("refused for another reason: {other:?}"),
        Ok(_) => panic!("this library loads it"),
    }
}

#[track_caller]
fn check_runs(model: &dyn Model) {
    let x = fp32([1, 2], &[10.0, 20.0]);
    let mut outputs = Outputs::all(1);
    let mut instance = model.instantiate(&InstanceOptions::default()).unwrap();
    instance.run(&[Some(x.view())], &mut outputs).unwrap();
    assert_eq!(outputs.into_tensors(), [Some(fp32([1, 2], &[11.0, 22.0]))]);
}

#[test]
fn every_parameter_makes_a_session_that_runs() {
    for parameters in [
        &[
            ("intra_op_thread_count", "2"),
            ("inter_op_thread_count", "2"),
            ("execution_mode", "1"),
        ][..],
        &[("execution_mode", "1")],
        &[("enable_mem_arena", "0"), ("enable_mem_pattern", "0")],
        &[
            ("enable_mem_arena", "1"),
            ("memory.enable_memory_arena_shrinkage", "cpu:0"),
        ],
        &[
            ("session.set_denormal_as_zero", "1"),
            ("session.disable_prepacking", "1"),
        ],
    ] {
        check_runs(&*load(parameters, None).unwrap());
    }
}

#[test]
fn every_graph_level_makes_a_session_that_runs_and_others_are_refused() {
    for level in [None, Some(-1), Some(0), Some(1), Some(2)] {
        check_runs(&*load(&[], level).unwrap());
    }
    let error = load(&[], Some(7)).err().unwrap();
    assert!(matches!(&error, RuntimeError::Parameter { key, .. } if key == "optimization.graph.level"));
}

#[test]
fn an_unknown_parameter_fails_the_load_and_names_the_known_ones() {
    let error = load(&[("intra_op_threads", "2")], None).err().unwrap();
    let text = error.to_string();
    assert!(matches!(&error, RuntimeError::Parameter { key, .. } if key == "intra_op_threads"));
    assert!(text.contains("intra_op_thread_count"), "{text}");
}

#[test]
fn a_device_that_is_not_served_is_refused() {
    let model = load(&[], None).unwrap();
    let error = model
        .instantiate(&InstanceOptions {
            device: Device::Cuda(0),
        })
        .err()
        .unwrap();
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error:?}");
}

#[test]
fn a_gpu_that_cannot_be_used_fails_the_load_and_says_what_to_do() {
    let library = library::open();
    if library.gpus().is_ok() {
        return; // On a machine with one there is nothing to refuse.
    }
    let error = library.gpus().unwrap_err().to_string();
    assert!(error.starts_with("device `cuda` cannot be used"), "{error}");
    let error = refused(|source| source.devices = vec![Device::Cuda(0)]);
    assert!(error.starts_with("device `cuda:0` cannot be used"), "{error}");
    assert!(
        ["onnxruntime-gpu", "driver", "--cuda-lib-dir"]
            .iter()
            .any(|advice| error.contains(advice)),
        "{error}"
    );
}

#[test]
fn an_accelerator_that_the_library_lacks_fails_the_load_and_names_the_package_that_has_it() {
    let openvino = Accelerator {
        name: "openvino".to_owned(),
        gpu: false,
        parameters: BTreeMap::new(),
    };
    let error = refused(|source| source.accelerators = vec![openvino]);
    assert!(error.contains("onnxruntime-openvino"), "{error}");
}

#[test]
fn options_for_gpus_are_checked_on_a_machine_without_one() {
    let error = load(&[("cuda.enable_cuda_graph", "perhaps")], None)
        .err()
        .unwrap();
    assert!(matches!(&error, RuntimeError::Parameter { key, .. } if key == "enable_cuda_graph"));
    check_runs(&*load(&[("gpu_mem_limit", "1073741824")], None).unwrap());
}

#[test]
fn a_model_tells_about_how_much_memory_it_takes() {
    assert!(load(&[], None).unwrap().memory_bytes() > 8);
}
