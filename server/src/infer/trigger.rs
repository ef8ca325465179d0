//! What an answer of a version that is being released must not be (rollout.md §4).

use crossfade_batcher::{Answer, JobError};
use crossfade_rollout::ledger::HardTrigger;
use crossfade_runtimes_core::{Datatype, RuntimeError, Tensor};
use half::{bf16, f16};

/// The hard trigger that an answer is, if it is one: a panic, a lost device, an output that does not fit the signature, or one with a
/// number that is NaN or infinite, though no input has one.
///
/// Cost: reads every floating-point output once, and the inputs after an output that has such a number.
pub(crate) fn of(inputs: &[Option<Tensor>], answer: &Result<Answer, JobError>) -> Option<HardTrigger> {
    match answer {
        Ok(answer) => {
            let broken = answer.outputs.iter().any(|tensor| !is_finite(tensor));
            let asked_for = || inputs.iter().flatten().any(|tensor| !is_finite(tensor));
            (broken && !asked_for()).then_some(HardTrigger::InvalidOutput)
        }
        Err(JobError::Runtime(error)) => match **error {
            RuntimeError::Panicked { .. } => Some(HardTrigger::Panic),
            RuntimeError::Output { .. } => Some(HardTrigger::InvalidOutput),
            RuntimeError::DeviceLost { .. } => Some(HardTrigger::DeviceLost),
            RuntimeError::Unavailable { .. }
            | RuntimeError::Load { .. }
            | RuntimeError::Unsupported { .. }
            | RuntimeError::Parameter { .. }
            | RuntimeError::Device { .. }
            | RuntimeError::InvalidInput { .. }
            | RuntimeError::Run { .. } => None,
        },
        Err(_) => None,
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    let data = &tensor.data;
    match tensor.datatype {
        Datatype::Fp16 => all(data, |bytes| f16::from_le_bytes(bytes).is_finite()),
        Datatype::Bf16 => all(data, |bytes| bf16::from_le_bytes(bytes).is_finite()),
        Datatype::Fp32 => all(data, |bytes| f32::from_le_bytes(bytes).is_finite()),
        Datatype::Fp64 => all(data, |bytes| f64::from_le_bytes(bytes).is_finite()),
        _ => true,
    }
}

fn all<const N: usize>(data: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
    let (elements, _) = data.as_chunks();
    elements.iter().all(|bytes| is_finite(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Shape;

    #[test]
    fn what_a_client_put_in_is_not_the_versions_fault() {
        let tensor = |value: f32| Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from([1]),
            data: value.to_le_bytes().to_vec().into(),
        };
        let check = |input: Option<f32>, output: f32, expected: Option<HardTrigger>| {
            let answer = Answer {
                outputs: vec![tensor(output)],
                timings: crossfade_batcher::Timings::default(),
            };
            assert_eq!(
                of(&[None, input.map(tensor)], &Ok(answer)),
                expected,
                "{input:?} {output}"
            );
        };
        check(Some(1.0), f32::NAN, Some(HardTrigger::InvalidOutput));
        check(None, f32::INFINITY, Some(HardTrigger::InvalidOutput));
        check(Some(f32::NAN), f32::NAN, None);
        check(Some(f32::NAN), 1.0, None);
    }

    #[test]
    fn a_number_that_is_none_is_found() {
        let check = |datatype, data: &[u8], expected: bool| {
            let tensor = Tensor {
                datatype,
                shape: Shape::from([1]),
                data: data.to_vec().into(),
            };
            assert_eq!(is_finite(&tensor), expected, "{datatype:?}");
        };
        check(Datatype::Fp16, &f16::NAN.to_le_bytes(), false);
        check(Datatype::Bf16, &bf16::INFINITY.to_le_bytes(), false);
        check(Datatype::Fp32, &f32::NAN.to_le_bytes(), false);
        check(Datatype::Fp32, &1f32.to_le_bytes(), true);
        check(Datatype::Fp64, &f64::NEG_INFINITY.to_le_bytes(), false);
        check(Datatype::Int32, &u32::MAX.to_le_bytes(), true);
    }
}
