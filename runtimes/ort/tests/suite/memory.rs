//! Memory comes back when a model is unloaded.

use std::path::Path;

use crossfade_runtimes_conformance::onnx::{ModelBuilder, Value, named};
use crossfade_runtimes_conformance::tensors::fp32;
use crossfade_runtimes_core::{Datatype, Dim, InstanceOptions, ModelSource, Outputs, Runtime as _};
use crossfade_runtimes_ort::OrtRuntime;

use crate::library;

const WIDTH: usize = 1024;
const LAYERS: usize = 12;

/// Layers of `tanh(x · w)`; 4 MiB of weights each.
fn layers() -> ModelBuilder {
    let weights = vec![0.01f32; WIDTH * WIDTH];
    let dims = || [named("rows"), Dim::Fixed(WIDTH)];
    let mut model = ModelBuilder::new().input("x0", Datatype::Fp32, dims());
    for layer in 0..LAYERS {
        let (x, w, y, next) = (
            format!("x{layer}"),
            format!("w{layer}"),
            format!("y{layer}"),
            format!("x{}", layer + 1),
        );
        model = model
            .initializer(&w, Value::fp32([WIDTH, WIDTH], &weights))
            .node("MatMul", [&*x, &*w], [&*y])
            .node("Tanh", [&*y], [&*next]);
    }
    model.output(&format!("x{LAYERS}"), Datatype::Fp32, dims())
}

fn cycle(runtime: &OrtRuntime, path: &Path) {
    let source = ModelSource {
        path: path.to_path_buf(),
        ..ModelSource::default()
    };
    let model = runtime.load(&source).unwrap();
    let mut instance = model.instantiate(&InstanceOptions::default()).unwrap();
    let x = fp32([64, WIDTH], &vec![0.5; 64 * WIDTH]);
    instance.run(&[Some(x.view())], &mut Outputs::all(1)).unwrap();
}

/// Resident memory of this process in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[cfg(target_os = "linux")]
#[test]
fn unloading_gives_the_memory_of_a_model_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    layers().write(&path).unwrap();
    let runtime = library::open();
    // The first use of the library and of its threads leaves something behind, whatever the model.
    cycle(&runtime, &path);
    let first = resident();
    for _ in 0..10 {
        cycle(&runtime, &path);
    }
    let last = resident();
    // The model is 48 MiB; what the heap keeps differs by 20 MiB from run to run.
    assert!(
        last < first + 48,
        "{first} MiB after the first unload, {last} MiB after ten more"
    );
}
