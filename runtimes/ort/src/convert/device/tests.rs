//! The way to a device and back, taken with a device that is none: the driver's memory is the host's, and the session
//! computes on the CPU. All but CUDA's own part of a run is what it is on a GPU.

use std::path::PathBuf;

use crossfade_runtimes_conformance::onnx::{add_constant, named};
use crossfade_runtimes_conformance::tensors::fp32;
use crossfade_runtimes_conformance::{Capabilities, Subject, suite};
use crossfade_runtimes_core::{Instance, InstanceOptions, Model, ModelSource, OutputSlot, Runtime, Tensor};

use super::*;
use crate::driver::fake;
use crate::library::Library;
use crate::outlet::c_names;
use crate::session::OrtModel;
use crate::under_test::library;

/// ONNX Runtime, with instances that go to the fake device and back.
struct OnFake {
    graphs: bool,
}

struct FakeModel {
    library: Library,
    model: OrtModel,
    file: PathBuf,
    graphs: bool,
}

struct FakeInstance {
    signature: ModelSignature,
    executable: DeviceExecutable,
}

impl Runtime for OnFake {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        let library = library();
        Ok(Box::new(FakeModel {
            model: OrtModel::load(&library, source)?,
            file: source.model_file("model.onnx")?,
            library,
            graphs: self.graphs,
        }))
    }
}

impl FakeModel {
    fn executable(&self) -> DeviceExecutable {
        let session = Session::builder(self.library.environment())
            .unwrap()
            .commit_from_file(&self.file)
            .unwrap();
        let names = Names {
            inputs: c_names(&self.signature().inputs),
            outputs: c_names(&self.signature().outputs),
        };
        let options = DeviceOptions {
            device: Device::Cpu,
            graphs: self.graphs,
            run_options: &RunOptions::new,
        };
        DeviceExecutable::new(session, names, fake::lane(), &options).unwrap()
    }
}

impl Model for FakeModel {
    fn signature(&self) -> &ModelSignature {
        self.model.signature()
    }

    fn instantiate(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        Ok(Box::new(FakeInstance {
            signature: self.signature().clone(),
            executable: self.executable(),
        }))
    }
}

impl Instance for FakeInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        self.executable.run(&self.signature, inputs, outputs).map(|_| ())
    }
}

mod there_and_back {
    use super::*;

    suite!(Subject {
        runtime: &OnFake { graphs: false },
        capabilities: Capabilities::all(),
    });
}

mod with_graphs {
    use super::*;

    suite!(Subject {
        runtime: &OnFake { graphs: true },
        capabilities: Capabilities::all(),
    });
}

/// `x + [1, 2]` on the fake device.
fn adding(graphs: bool) -> FakeInstance {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    add_constant(named("batch"), &[1.0, 2.0]).write(&path).unwrap();
    let library = library();
    let source = ModelSource {
        path: path.clone(),
        ..ModelSource::default()
    };
    let model = FakeModel {
        model: OrtModel::load(&library, &source).unwrap(),
        file: path,
        library,
        graphs,
    };
    FakeInstance {
        signature: model.signature().clone(),
        executable: model.executable(),
    }
}

/// Runs `rows` rows of `value` with a foretold shape.
fn run(instance: &mut FakeInstance, rows: usize, value: f32) -> Result<Tensor, RuntimeError> {
    let x = fp32([rows, 2], &vec![value; rows * 2]);
    let mut outputs = Outputs::new(vec![OutputSlot::new(true, Some(Shape::from([rows, 2])))]);
    instance.run(&[Some(x.view())], &mut outputs)?;
    Ok(outputs.into_tensors().remove(0).unwrap())
}

fn sum(rows: usize, value: f32) -> Tensor {
    let row = [value + 1.0, value + 2.0];
    fp32([rows, 2], &row.repeat(rows))
}

#[test]
fn buffers_grow_with_the_batch_and_are_kept_for_smaller_ones() {
    let mut instance = adding(false);
    assert_eq!(run(&mut instance, 1, 1.0).unwrap(), sum(1, 1.0));
    let small = instance.executable.lane.held();
    assert_eq!(run(&mut instance, 300, 2.0).unwrap(), sum(300, 2.0));
    let large = instance.executable.lane.held();
    assert!(0 < small && small < large);
    assert_eq!(run(&mut instance, 7, 3.0).unwrap(), sum(7, 3.0));
    assert_eq!(instance.executable.lane.held(), large);
    assert!(instance.executable.device_bytes() >= large);
}

#[test]
fn recorded_shapes_keep_their_buffers_and_more_shapes_than_that_still_run() {
    let mut instance = adding(true);
    for round in 0..2u8 {
        for rows in 1..=20 {
            let value = f32::from(round);
            assert_eq!(
                run(&mut instance, rows, value).unwrap(),
                sum(rows, value),
                "{rows}"
            );
        }
    }
    let graphs = instance.executable.graphs.as_mut().unwrap();
    let first = graphs.staging(0).input(0, &instance.executable.lane, 1).unwrap();
    let address = first.device.as_ptr();
    run(&mut instance, 1, 5.0).unwrap();
    run(&mut instance, 20, 5.0).unwrap();
    let graphs = instance.executable.graphs.as_mut().unwrap();
    let first = graphs.staging(0).input(0, &instance.executable.lane, 1).unwrap();
    assert_eq!(first.device.as_ptr(), address);
}

#[test]
fn a_lost_device_is_told_from_a_run_that_failed_and_neither_takes_the_process_along() {
    let mut instance = adding(false);
    fake::fail(700);
    let error = run(&mut instance, 1, 1.0).unwrap_err();
    assert!(matches!(error, RuntimeError::DeviceLost { .. }), "{error}");
    fake::fail(2);
    let error = run(&mut instance, 1, 1.0).unwrap_err();
    assert!(matches!(error, RuntimeError::Run { .. }), "{error}");
    fake::fail(0);
    assert_eq!(run(&mut instance, 1, 1.0).unwrap(), sum(1, 1.0));
}
