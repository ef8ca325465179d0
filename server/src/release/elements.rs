//! The elements of a tensor as numbers, one after the other, whatever their datatype.

use crossfade_runtimes_core::{Datatype, Tensor};
use half::{bf16, f16};

/// The elements as numbers, row-major; `None` for text.
pub(super) fn numbers(tensor: &Tensor) -> Option<impl ExactSizeIterator<Item = f64>> {
    let datatype = tensor.datatype;
    let width = datatype.width()?;
    let elements = tensor.data.chunks_exact(width);
    Some(elements.map(move |bytes| number(datatype, bytes)))
}

/// Whether the elements can be NaN or infinite.
pub(super) fn is_floating(datatype: Datatype) -> bool {
    matches!(
        datatype,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    )
}

/// One element, of the datatype's width.
fn number(datatype: Datatype, bytes: &[u8]) -> f64 {
    match datatype {
        Datatype::Bool | Datatype::Uint8 => f64::from(u8::from_le_bytes(whole(bytes))),
        Datatype::Int8 => f64::from(i8::from_le_bytes(whole(bytes))),
        Datatype::Uint16 => f64::from(u16::from_le_bytes(whole(bytes))),
        Datatype::Int16 => f64::from(i16::from_le_bytes(whole(bytes))),
        Datatype::Uint32 => f64::from(u32::from_le_bytes(whole(bytes))),
        Datatype::Int32 => f64::from(i32::from_le_bytes(whole(bytes))),
        Datatype::Uint64 => u64::from_le_bytes(whole(bytes)) as f64,
        Datatype::Int64 => i64::from_le_bytes(whole(bytes)) as f64,
        Datatype::Fp16 => f16::from_le_bytes(whole(bytes)).to_f64(),
        Datatype::Bf16 => bf16::from_le_bytes(whole(bytes)).to_f64(),
        Datatype::Fp32 => f64::from(f32::from_le_bytes(whole(bytes))),
        Datatype::Fp64 => f64::from_le_bytes(whole(bytes)),
        // It has no width, so that nothing is cut from it.
        Datatype::Bytes => f64::NAN,
    }
}

/// Exactly `N` bytes; zeros where there are others, which no caller has.
fn whole<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Shape;

    #[test]
    fn every_datatype_but_text_has_numbers() {
        let check = |datatype, data: &[u8], expected: Option<&[f64]>| {
            let tensor = Tensor {
                datatype,
                shape: Shape::from([2]),
                data: data.to_vec().into(),
            };
            let got: Option<Vec<f64>> = numbers(&tensor).map(Iterator::collect);
            assert_eq!(got.as_deref(), expected, "{datatype:?}");
        };
        check(Datatype::Bool, &[0, 1], Some(&[0.0, 1.0]));
        check(Datatype::Int8, &[255, 1], Some(&[-1.0, 1.0]));
        check(Datatype::Uint8, &[255, 1], Some(&[255.0, 1.0]));
        check(Datatype::Int16, &[255, 255, 2, 0], Some(&[-1.0, 2.0]));
        check(Datatype::Uint16, &[255, 255, 2, 0], Some(&[65535.0, 2.0]));
        let both = |a: &[u8], b: &[u8]| [a, b].concat();
        let data = both(&(-3i32).to_le_bytes(), &4i32.to_le_bytes());
        check(Datatype::Int32, &data, Some(&[-3.0, 4.0]));
        let data = both(&3u32.to_le_bytes(), &u32::MAX.to_le_bytes());
        check(Datatype::Uint32, &data, Some(&[3.0, 4_294_967_295.0]));
        let data = both(&(-3i64).to_le_bytes(), &4i64.to_le_bytes());
        check(Datatype::Int64, &data, Some(&[-3.0, 4.0]));
        let data = both(&3u64.to_le_bytes(), &4u64.to_le_bytes());
        check(Datatype::Uint64, &data, Some(&[3.0, 4.0]));
        let data = both(
            &f16::from_f32(0.5).to_le_bytes(),
            &f16::from_f32(-2.0).to_le_bytes(),
        );
        check(Datatype::Fp16, &data, Some(&[0.5, -2.0]));
        let data = both(
            &bf16::from_f32(0.5).to_le_bytes(),
            &bf16::from_f32(-2.0).to_le_bytes(),
        );
        check(Datatype::Bf16, &data, Some(&[0.5, -2.0]));
        let data = both(&0.5f32.to_le_bytes(), &(-2f32).to_le_bytes());
        check(Datatype::Fp32, &data, Some(&[0.5, -2.0]));
        let data = both(&0.5f64.to_le_bytes(), &(-2f64).to_le_bytes());
        check(Datatype::Fp64, &data, Some(&[0.5, -2.0]));
        check(Datatype::Bytes, b"\x01\0\0\0a\x01\0\0\0b", None);
    }
}
