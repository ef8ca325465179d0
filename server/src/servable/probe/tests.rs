use super::*;
use crossfade_runtimes_core::{RuntimeError, ShapeSpec, TensorSpec, TensorView};

/// An instance made of a function from rows of floats to rows of floats.
struct Rows(fn(&[f32]) -> Result<Vec<f32>, String>);

impl Instance for Rows {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let input = inputs[0].expect("the probe gives every input");
        let values: Vec<f32> = input
            .data
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect();
        let result = (self.0)(&values).map_err(|reason| RuntimeError::Run { reason })?;
        let data: Vec<u8> = result.iter().flat_map(|v| v.to_le_bytes()).collect();
        outputs.put(0, Datatype::Fp32, [result.len() / 2, 2].into(), data.into());
        Ok(())
    }
}

#[track_caller]
fn check(run: fn(&[f32]) -> Result<Vec<f32>, String>, expected: Result<(), &str>) {
    let spec = |name| TensorSpec::new(name, Datatype::Fp32, ShapeSpec::from(&[-1, 2][..]));
    let signature = ModelSignature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        max_rows: None,
        ..Default::default()
    };
    let got = probe(&signature, &mut Rows(run));
    match expected {
        Ok(()) => assert_eq!(got, Ok(())),
        Err(part) => assert!(got.as_ref().is_err_and(|reason| reason.contains(part)), "{got:?}"),
    }
}

#[test]
fn a_trial_tells_what_a_device_lacks_from_what_a_model_does_not_take() {
    struct Fails(fn() -> RuntimeError);
    impl Instance for Fails {
        fn run(&mut self, _: &[Option<TensorView<'_>>], _: &mut Outputs) -> Result<(), RuntimeError> {
            Err((self.0)())
        }
    }
    let signature = ModelSignature::default();
    let of_device = || RuntimeError::Device {
        device: "cuda:0".to_owned(),
        reason: "no cuDNN".to_owned(),
    };
    let of_model = || RuntimeError::Run {
        reason: "no such shape".to_owned(),
    };
    assert!(matches!(
        trial(&signature, &mut Fails(of_device)),
        Err(RuntimeError::Device { .. })
    ));
    assert!(!trial(&signature, &mut Fails(of_model)).unwrap());
}

#[test]
fn a_model_that_keeps_rows_apart_may_be_merged() {
    check(
        |values| Ok(values.iter().map(|v| v * 2.0 + 1.0).collect()),
        Ok(()),
    );
}

#[test]
fn a_model_that_mixes_rows_may_not() {
    let mean = |values: &[f32]| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        Ok(values.iter().map(|v| v - mean).collect())
    };
    check(mean, Err("a row depends on the rows beside it"));
}

#[test]
fn a_model_that_changes_the_number_of_rows_may_not() {
    check(
        |_| Ok(vec![1.0, 2.0]),
        Err("two rows in do not give two rows out"),
    );
}

#[test]
fn a_model_that_cannot_run_made_up_inputs_may_not() {
    check(|_| Err("no such index".into()), Err("no such index"));
}
