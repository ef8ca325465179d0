//! What a fake model computes: every datatype, no arithmetic library.

use bytes::Bytes;
use crossfade_runtimes_core::{
    BytesElements, Datatype, ModelSignature, Outputs, RuntimeError, Shape, TensorView, push_element,
};

/// What output `k` is, made from input `k`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Operation {
    /// The input.
    #[default]
    Identity,
    /// The input plus a number; integers wrap. BYTES, BOOL, FP16 and BF16 cannot.
    Add(f64),
}

impl Operation {
    /// Errors: `Unsupported`, naming an output that this operation cannot compute.
    pub(crate) fn check(self, signature: &ModelSignature, tag: Option<&str>) -> Result<(), RuntimeError> {
        let unsupported = |what: String| {
            Err(RuntimeError::Unsupported {
                runtime: "fake",
                what,
            })
        };
        for (index, output) in signature.outputs.iter().enumerate() {
            let Some(input) = signature.inputs.get(index) else {
                if output.datatype == Datatype::Bytes && tag.is_some() {
                    continue;
                }
                return unsupported(format!(
                    "output `{}` has no input of its position; it must be BYTES and hold the version_tag",
                    output.name
                ));
            };
            if input.datatype != output.datatype {
                return unsupported(format!(
                    "output `{}` has another datatype than input `{}`",
                    output.name, input.name
                ));
            }
            if let Operation::Add(_) = self
                && !can_add(output.datatype)
            {
                return unsupported(format!(
                    "output `{}`: {} cannot be added to",
                    output.name, output.datatype
                ));
            }
        }
        Ok(())
    }

    /// Computes the wanted outputs; those beyond the inputs hold `tag`, one element per row.
    pub(crate) fn run(
        self,
        signature: &ModelSignature,
        tag: Option<&str>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let rows = inputs.iter().flatten().next().map_or(1, rows);
        for index in 0..outputs.len() {
            if !outputs.wanted(index) {
                continue;
            }
            let spec = &signature.outputs[index];
            match inputs.get(index) {
                Some(Some(input)) => self.compute(index, input, outputs),
                Some(None) => {
                    return Err(RuntimeError::Run {
                        reason: format!("output `{}` needs an input that was left out", spec.name),
                    });
                }
                None => {
                    let mut data = Vec::new();
                    (0..rows).for_each(|_| push_element(&mut data, tag.unwrap_or_default().as_bytes()));
                    let dims = spec.shape.iter().enumerate().map(|(dim, size)| {
                        if dim == 0 { rows } else { size.fixed().unwrap_or(1) }
                    });
                    outputs.put(index, Datatype::Bytes, dims.collect::<Shape>(), Bytes::from(data));
                }
            }
        }
        Ok(())
    }

    fn compute(self, index: usize, input: &TensorView<'_>, outputs: &mut Outputs) {
        let shape = Shape::from(input.shape);
        let datatype = input.datatype;
        if datatype.width().is_none() {
            outputs.put(index, datatype, shape, Bytes::copy_from_slice(input.data));
            return;
        }
        let place = outputs.buffer(index, datatype, shape);
        place.copy_from_slice(input.data);
        if let Operation::Add(number) = self {
            add(place, datatype, number);
        }
    }
}

/// Dimension 0, or 1 for a scalar.
pub(crate) fn rows(view: &TensorView<'_>) -> usize {
    view.shape.first().copied().unwrap_or(1)
}

fn can_add(datatype: Datatype) -> bool {
    !matches!(
        datatype,
        Datatype::Bytes | Datatype::Bool | Datatype::Fp16 | Datatype::Bf16
    )
}

/// Calls `$then` with the elements' Rust type, for datatypes that have one.
macro_rules! with_type {
    ($datatype:expr, $then:ident, $otherwise:expr) => {
        match $datatype {
            Datatype::Uint8 => $then!(u8),
            Datatype::Uint16 => $then!(u16),
            Datatype::Uint32 => $then!(u32),
            Datatype::Uint64 => $then!(u64),
            Datatype::Int8 => $then!(i8),
            Datatype::Int16 => $then!(i16),
            Datatype::Int32 => $then!(i32),
            Datatype::Int64 => $then!(i64),
            Datatype::Fp32 => $then!(f32),
            Datatype::Fp64 => $then!(f64),
            Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => $otherwise,
        }
    };
}

/// A number type of the datatypes that can be added to.
trait Number: Copy {
    fn plus(self, number: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! number {
    ($($integer:ty)*) => {$(
        #[expect(clippy::cast_possible_truncation, reason = "a fake model wraps and rounds as Rust's `as` does")]
        impl Number for $integer {
            fn plus(self, number: f64) -> Self {
                self.wrapping_add(number as i64 as $integer)
            }

            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}

number!(u8 u16 u32 u64 i8 i16 i32 i64);

impl Number for f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the sum is rounded to the datatype"
    )]
    fn plus(self, number: f64) -> Self {
        self + number as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Number for f64 {
    fn plus(self, number: f64) -> Self {
        self + number
    }

    fn to_f64(self) -> f64 {
        self
    }
}

fn add(data: &mut [u8], datatype: Datatype, number: f64) {
    macro_rules! each {
        ($type:ty) => {
            for element in data.as_chunks_mut::<{ size_of::<$type>() }>().0 {
                *element = <$type>::from_le_bytes(*element).plus(number).to_le_bytes();
            }
        };
    }
    with_type!(datatype, each, unreachable!("checked when the model was loaded"));
}

/// Whether an element equals `value`: as a number, for BOOL as 0 or 1, for BYTES as its text.
pub(crate) fn contains(view: &TensorView<'_>, value: &str) -> bool {
    let number: Option<f64> = value.parse().ok();
    macro_rules! any {
        ($type:ty) => {
            view.data
                .as_chunks::<{ size_of::<$type>() }>()
                .0
                .iter()
                .any(|element| Some(<$type>::from_le_bytes(*element).to_f64()) == number)
        };
    }
    match view.datatype {
        Datatype::Bytes => BytesElements::new(view.data).any(|element| element == Ok(value.as_bytes())),
        Datatype::Bool => view.data.iter().any(|&byte| Some(f64::from(byte)) == number),
        datatype => with_type!(datatype, any, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(datatype: Datatype, input: &[u8], number: f64, expected: &[u8]) {
        let mut data = input.to_vec();
        add(&mut data, datatype, number);
        assert_eq!(data, expected);
    }

    #[test]
    fn adding_keeps_the_datatype_and_wraps() {
        check(Datatype::Uint8, &[1, 255], 1.0, &[2, 0]);
        check(Datatype::Int8, &[0x7f], 1.0, &[0x80]);
        check(Datatype::Fp32, &1.5f32.to_le_bytes(), 2.0, &3.5f32.to_le_bytes());
        check(Datatype::Int64, &7i64.to_le_bytes(), -8.0, &(-1i64).to_le_bytes());
    }

    #[test]
    fn values_are_found_by_datatype() {
        let view = |datatype, data| TensorView {
            datatype,
            shape: &[1],
            data,
        };
        assert!(contains(&view(Datatype::Int16, &[13, 0]), "13"));
        assert!(!contains(&view(Datatype::Int16, &[0, 13]), "13"));
        assert!(contains(&view(Datatype::Bytes, &[2, 0, 0, 0, b'h', b'i']), "hi"));
        assert!(contains(&view(Datatype::Bool, &[0, 1]), "1"));
        assert!(!contains(&view(Datatype::Fp16, &[0, 0]), "0"));
    }
}
