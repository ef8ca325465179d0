//! The whole suite on a real GPU: `cargo xtask gpu`, which names ONNX Runtime's library and CUDA's folder.

#![expect(
    clippy::unwrap_used,
    reason = "tests: a panic is how one tells what went wrong"
)]

use std::path::PathBuf;
use std::sync::OnceLock;

use crossfade_runtimes_conformance::onnx::{ModelBuilder, Value, named};
use crossfade_runtimes_conformance::tensors::{fp32, tensor, to_f64};
use crossfade_runtimes_conformance::{Capabilities, Subject, suite};
use crossfade_runtimes_core::{
    Datatype, Device, Dim, Instance, InstanceOptions, Model, ModelSignature, ModelSource, OutputSlot,
    Outputs, Runtime, RuntimeError, Shape,
};
use crossfade_runtimes_ort::{OrtOptions, OrtRuntime};

/// ONNX Runtime with every model on the first GPU, but those of which no operator has a kernel there, such as copies of
/// strings: they are on the CPU, as the refusal says that they should be.
struct OnGpu(OrtRuntime);

struct Placed {
    model: Box<dyn Model>,
    device: Device,
}

impl Runtime for OnGpu {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn platform(&self) -> &'static str {
        self.0.platform()
    }

    fn version(&self) -> String {
        self.0.version()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        let on = |device: Device| {
            let source = ModelSource {
                devices: vec![device],
                ..source.clone()
            };
            let model = self.0.load(&source)?;
            Ok(Box::new(Placed { model, device }) as Box<dyn Model>)
        };
        match on(Device::Cuda(0)) {
            Err(RuntimeError::Unsupported { what, .. }) if what.contains("nodes runs with") => {
                on(Device::Cpu)
            }
            loaded => loaded,
        }
    }
}

impl Model for Placed {
    fn signature(&self) -> &ModelSignature {
        self.model.signature()
    }

    fn instantiate(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        self.model.instantiate(&InstanceOptions { device: self.device })
    }
}

/// `CROSSFADE_CUDA_LIB_DIR`, with commas between folders, as the server takes it.
fn cuda_folders() -> Vec<PathBuf> {
    let given = std::env::var("CROSSFADE_CUDA_LIB_DIR").unwrap_or_default();
    let folders = given.split(',').filter(|folder| !folder.is_empty());
    folders.map(PathBuf::from).collect()
}

/// The runtime; without a GPU to run on, a panic that says so.
fn gpu() -> &'static OnGpu {
    static RUNTIME: OnceLock<OnGpu> = OnceLock::new();
    let open = || {
        let runtime = OrtRuntime::open(&OrtOptions {
            library: PathBuf::from(std::env::var_os("CROSSFADE_ORT_LIBRARY").unwrap()),
            intra_threads: 2,
            cuda_lib_dirs: cuda_folders(),
        });
        let runtime = runtime.unwrap();
        assert!(runtime.gpus().unwrap() > 0);
        OnGpu(runtime)
    };
    RUNTIME.get_or_init(open)
}

suite!(Subject {
    runtime: gpu(),
    capabilities: Capabilities::all(),
});

const WIDTH: usize = 256;

/// Two layers, `tanh(x · w) · v`, with the same weights in any precision.
fn layers(datatype: Datatype, values: &[f32]) -> ModelBuilder {
    let weight = |from: usize| {
        let values = values[from..from + WIDTH * WIDTH].iter();
        let data: Vec<u8> = match datatype {
            Datatype::Fp64 => values.flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
            _ => values.flat_map(|value| value.to_le_bytes()).collect(),
        };
        Value::new(tensor(datatype, [WIDTH, WIDTH], data))
    };
    let dims = || [named("rows"), Dim::Fixed(WIDTH)];
    ModelBuilder::new()
        .input("x", datatype, dims())
        .output("y", datatype, dims())
        .initializer("w", weight(0))
        .initializer("v", weight(WIDTH * WIDTH))
        .node("MatMul", ["x", "w"], ["a"])
        .node("Tanh", ["a"], ["b"])
        .node("MatMul", ["b", "v"], ["y"])
}

/// Numbers from −0.0625 to 0.0625 that look like chance and are always the same for a seed.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / f32::from(u16::MAX) * 0.125 - 0.0625
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn run(
    runtime: &dyn Runtime,
    model: &ModelBuilder,
    device: Device,
    parameters: &[(&str, &str)],
    x: &crossfade_runtimes_core::Tensor,
) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    model.write(&path).unwrap();
    let source = ModelSource {
        path,
        devices: vec![device],
        parameters: parameters
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..ModelSource::default()
    };
    let model = runtime.load(&source).unwrap();
    let mut instance = model.instantiate(&InstanceOptions { device }).unwrap();
    let mut outputs = Outputs::new(vec![OutputSlot::new(true, Some(x.shape.clone()))]);
    instance.run(&[Some(x.view())], &mut outputs).unwrap();
    to_f64(&outputs.into_tensors().remove(0).unwrap())
}

/// The largest difference of any element between a GPU's FP32 and the CPU's FP64.
fn furthest(rows: usize, parameters: &[(&str, &str)]) -> f64 {
    let OnGpu(runtime) = gpu();
    let weights = numbers(1, 2 * WIDTH * WIDTH);
    let values = numbers(2, rows * WIDTH);
    let x = fp32([rows, WIDTH], &values);
    let wide: Vec<u8> = values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
    let exact = tensor(Datatype::Fp64, Shape::from([rows, WIDTH]), wide);
    let single = layers(Datatype::Fp32, &weights);
    let double = layers(Datatype::Fp64, &weights);
    let got = run(runtime, &single, Device::Cuda(0), parameters, &x);
    let expected = run(runtime, &double, Device::Cpu, &[], &exact);
    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

/// Simulated in FP32 with sums in order, these products are off by 3 · 10⁻⁸ at most, with ten bits of mantissa by 10⁻⁵.
const FP32: f64 = 5e-7;

#[test]
fn results_are_those_of_the_cpu_in_higher_precision() {
    for rows in [1, 7, 64] {
        let off = furthest(rows, &[]);
        assert!(off < FP32, "{rows} rows: {off}");
    }
}

#[test]
fn the_bound_on_results_would_show_a_shorter_mantissa() {
    let off = furthest(64, &[("cuda.use_tf32", "1")]);
    assert!(
        off > FP32,
        "TF32 is off by {off} only: is the GPU older than Ampere?"
    );
}
