//! Tensors for tests, made from Rust values.

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Shape, Tensor, push_element};

/// A tensor of FP32.
pub fn fp32(shape: impl Into<Shape>, values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(Datatype::Fp32, shape, data)
}

/// A tensor of INT64.
pub fn int64(shape: impl Into<Shape>, values: &[i64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(Datatype::Int64, shape, data)
}

/// A tensor of BYTES.
pub fn bytes(shape: impl Into<Shape>, elements: &[&[u8]]) -> Tensor {
    let mut data = Vec::new();
    elements
        .iter()
        .for_each(|element| push_element(&mut data, element));
    tensor(Datatype::Bytes, shape, data)
}

/// A tensor over given bytes: fixed width or, for BYTES, wire form.
pub fn tensor(datatype: Datatype, shape: impl Into<Shape>, data: impl Into<Bytes>) -> Tensor {
    Tensor {
        datatype,
        shape: shape.into(),
        data: data.into(),
    }
}

/// `count` values of `datatype` that differ from each other where the datatype allows it, as floats small whole
/// numbers and halves.
pub fn sample(datatype: Datatype, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let count = shape.element_count().expect("samples are small");
    let data: Vec<u8> = (0..count).flat_map(|k| element(datatype, k)).collect();
    tensor(datatype, shape, data)
}

/// The values of a tensor of FP16, FP32, FP64 or INT64 as `f64`.
///
/// Panics for other datatypes.
pub fn to_f64(tensor: &Tensor) -> Vec<f64> {
    let width = tensor.datatype.width().expect("numbers have a width");
    let read = |bytes: &[u8]| match tensor.datatype {
        Datatype::Fp16 => half_to_f64(u16::from_le_bytes([bytes[0], bytes[1]])),
        Datatype::Fp32 => f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))),
        Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
        other => panic!("values of {other} are compared as bytes"),
    };
    tensor.data.chunks_exact(width).map(read).collect()
}

/// One number in FP16, FP32 or FP64; a multiple of 1/8 below 256, so that it is exact in each.
pub fn from_eighths(datatype: Datatype, eighths: i32) -> Vec<u8> {
    let value = f64::from(eighths) / 8.0;
    match datatype {
        Datatype::Fp64 => value.to_le_bytes().to_vec(),
        Datatype::Fp32 => narrow(value).to_le_bytes().to_vec(),
        Datatype::Fp16 => half_bits(narrow(value)).to_le_bytes().to_vec(),
        other => panic!("{other} is no floating point datatype of the arithmetic cases"),
    }
}

fn element(datatype: Datatype, k: usize) -> Vec<u8> {
    // One byte per element is enough to tell elements apart; samples have fewer than 251.
    let byte = u8::try_from(k % 251).expect("a remainder below 251");
    let sign = if k.is_multiple_of(2) { 1.0 } else { -1.0 };
    let real = sign * f64::from(byte) * 0.5;
    match datatype {
        Datatype::Bool => vec![byte % 2],
        Datatype::Uint8 | Datatype::Int8 => vec![byte],
        Datatype::Fp64 => real.to_le_bytes().to_vec(),
        Datatype::Fp32 => narrow(real).to_le_bytes().to_vec(),
        Datatype::Fp16 => half_bits(narrow(real)).to_le_bytes().to_vec(),
        // The upper half of an FP32.
        Datatype::Bf16 => narrow(real).to_le_bytes()[2..].to_vec(),
        Datatype::Bytes => {
            let mut wire = Vec::new();
            push_element(&mut wire, format!("element {k}").as_bytes());
            wire
        }
        // Differing low and high bytes show wrong widths and orders.
        Datatype::Uint16
        | Datatype::Int16
        | Datatype::Uint32
        | Datatype::Int32
        | Datatype::Uint64
        | Datatype::Int64 => {
            let mut bytes = vec![0; datatype.width().expect("integers have a width")];
            bytes[0] = byte;
            *bytes.last_mut().expect("two bytes or more") = byte ^ 0x5A;
            bytes
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the values are exact in FP32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// FP16 bits of a value that FP16 has exactly and as a normal number, or 0.
fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = u16::from(value.is_sign_negative()) << 15;
    if value == 0.0 {
        return sign;
    }
    let exponent = ((bits >> 23) & 0xFF) + 15 - 127;
    let rest = (exponent << 10) | ((bits >> 13) & 0x3FF);
    sign | u16::try_from(rest).expect("the value is in FP16's range")
}

fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from((bits >> 10) & 0x1F);
    let fraction = f64::from(bits & 0x3FF) / 1024.0;
    match exponent {
        0 => sign * fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        exponent => sign * (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_trip() {
        for eighths in [0, 1, -1, 8, -12, 2047] {
            let data = from_eighths(Datatype::Fp16, eighths);
            assert_eq!(
                to_f64(&tensor(Datatype::Fp16, [1], data)),
                [f64::from(eighths) / 8.0]
            );
        }
    }
}
