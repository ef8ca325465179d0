//! Files in, answers out.

use super::*;
use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, InstanceOptions, Outputs, Shape, Tensor, push_element};

fn load(text: &str) -> Result<(Box<dyn Model>, Probe), RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file::NAME), text).unwrap();
    let runtime = FakeRuntime::new();
    let source = ModelSource {
        path: folder.path().to_owned(),
        ..ModelSource::default()
    };
    let model = runtime.load(&source)?;
    Ok((model, runtime.probe(&folder.path().join(file::NAME))))
}

fn run(model: &dyn Model, inputs: &[Tensor]) -> Result<Vec<Option<Tensor>>, RuntimeError> {
    let mut instance = model.instantiate(&InstanceOptions::default())?;
    let mut outputs = Outputs::all(model.signature().outputs.len());
    let views: Vec<_> = inputs.iter().map(|tensor| Some(tensor.view())).collect();
    instance.run(&views, &mut outputs)?;
    Ok(outputs.into_tensors())
}

fn fp32(shape: impl Into<Shape>, values: &[f32]) -> Tensor {
    Tensor {
        datatype: Datatype::Fp32,
        shape: shape.into(),
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[test]
fn a_file_becomes_a_model_that_adds_and_tells_its_version() {
    let (model, probe) = load(
        "input x FP32 -1,2\noutput y FP32 -1,2\noutput version BYTES -1\nop add 1\nversion_tag blue\nmemory 64",
    )
    .unwrap();
    let outputs = run(&*model, &[fp32([2, 2], &[1.0, 2.0, 3.0, 4.0])]).unwrap();
    assert_eq!(outputs[0], Some(fp32([2, 2], &[2.0, 3.0, 4.0, 5.0])));
    let mut tag = Vec::new();
    push_element(&mut tag, b"blue");
    push_element(&mut tag, b"blue");
    assert_eq!(outputs[1].as_ref().unwrap().data, tag);
    assert_eq!(model.memory_bytes(), 64);
    assert_eq!(probe.batch_rows(), [2]);
    assert_eq!((probe.instances_made(), probe.instances_alive()), (1, 0));
}

#[test]
fn identity_gives_back_every_datatype() {
    for datatype in Datatype::ALL {
        let (model, _) = load(&format!("input x {datatype} -1\noutput y {datatype} -1")).unwrap();
        let data = match datatype.width() {
            Some(width) => vec![1; 3 * width],
            None => {
                let mut data = Vec::new();
                ["", "a", "bc"]
                    .iter()
                    .for_each(|text| push_element(&mut data, text.as_bytes()));
                data
            }
        };
        let tensor = Tensor {
            datatype,
            shape: Shape::from([3]),
            data: Bytes::from(data),
        };
        assert_eq!(
            run(&*model, std::slice::from_ref(&tensor)).unwrap()[0],
            Some(tensor)
        );
    }
}

#[test]
fn failures_are_of_the_kind_the_file_asks_for() {
    let tensors = "input x FP32 -1\noutput y FP32 -1\n";
    let load = |line: &str| load(&format!("{tensors}{line}"));
    let input = fp32([1], &[13.0]);
    let kind = |line: &str| run(&*load(line).unwrap().0, std::slice::from_ref(&input));
    assert!(matches!(load("fail load"), Err(RuntimeError::Load { .. })));
    assert!(matches!(kind("fail instantiate"), Err(RuntimeError::Load { .. })));
    assert!(matches!(kind("fail run"), Err(RuntimeError::Run { .. })));
    assert!(matches!(kind("fail_on 13"), Err(RuntimeError::Run { .. })));
    assert!(matches!(
        kind("refuse_on 13"),
        Err(RuntimeError::InvalidInput { .. })
    ));
    assert!(kind("refuse_on 14").is_ok());
    let panicking = load("panic_on 13").unwrap().0;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(&*panicking, std::slice::from_ref(&input))
    }));
    assert!(panic.is_err());
    assert!(matches!(load("op add one"), Err(RuntimeError::Load { .. })));
}

#[test]
fn an_operation_that_does_not_fit_is_refused_at_load() {
    for text in [
        "input x BOOL 1\noutput y BOOL 1\nop add 1",
        "input x FP32 1\noutput y FP64 1",
        "output y FP32 1",
        "output y BYTES 1",
    ] {
        assert!(
            matches!(load(text), Err(RuntimeError::Unsupported { .. })),
            "{text}"
        );
    }
}
