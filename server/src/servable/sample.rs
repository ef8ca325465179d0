//! Made-up inputs, for warm-up and for the merge probe.

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, ModelSignature, Shape, Tensor, TensorSpec, push_element};

/// What the elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Zeros, false, empty strings.
    Zero,
    /// From this seed: floats in [0, 1), integers 0 and 1, short strings of digits.
    Random(u64),
}

/// Tensors for the inputs of `signature`, as [`tensor`] makes them; each has a seed of its own.
///
/// What may be left out is left out; where that is everything, one input is given: that of which there may be more or less
/// in a batch, or else the first.
pub(super) fn inputs(
    signature: &ModelSignature,
    rows: usize,
    variable: usize,
    fill: impl Fn(u64) -> Fill,
) -> Vec<Option<Tensor>> {
    let specs = &signature.inputs;
    let given = match specs.iter().all(|spec| spec.optional) {
        true => Some(specs.iter().position(|spec| spec.padding.is_some()).unwrap_or(0)),
        false => None,
    };
    let of = |(index, spec): (usize, &TensorSpec)| {
        let seed = u64::try_from(index).unwrap_or_default();
        let wanted = given.map_or(!spec.optional, |given| given == index);
        wanted.then(|| tensor(spec, signature.batched, rows, variable, fill(seed)))
    };
    specs.iter().enumerate().map(of).collect()
}

/// A tensor for `spec`: `rows` in dimension 0 if `batched`, `variable` in every other variable dimension.
pub(super) fn tensor(spec: &TensorSpec, batched: bool, rows: usize, variable: usize, fill: Fill) -> Tensor {
    let dims = spec.reshape.as_ref().unwrap_or(&spec.shape).iter().enumerate();
    let shape: Shape = dims
        .map(|(k, dim)| {
            if k == 0 && batched {
                rows
            } else {
                dim.fixed().unwrap_or(variable)
            }
        })
        .collect();
    filled(spec.datatype, shape, fill)
}

/// A tensor of this datatype and shape.
///
/// Panics if the shape is too large for memory; shapes come from configurations that were checked.
pub(super) fn filled(datatype: Datatype, shape: Shape, fill: Fill) -> Tensor {
    let count = shape
        .element_count()
        .expect("a configured shape has a countable number of elements");
    let mut random = Random(match fill {
        Fill::Zero => 0,
        Fill::Random(seed) => seed.wrapping_mul(2).wrapping_add(1),
    });
    let zero = fill == Fill::Zero;
    let mut data = Vec::new();
    for _ in 0..count {
        let unit = if zero { 0.0 } else { random.unit() };
        let bit = u8::from(unit >= 0.5);
        match datatype {
            Datatype::Fp32 => data.extend_from_slice(&single(unit).to_le_bytes()),
            Datatype::Fp64 => data.extend_from_slice(&unit.to_le_bytes()),
            Datatype::Fp16 => data.extend_from_slice(&half::f16::from_f64(unit).to_le_bytes()),
            Datatype::Bf16 => data.extend_from_slice(&half::bf16::from_f64(unit).to_le_bytes()),
            Datatype::Bytes if zero => push_element(&mut data, b""),
            Datatype::Bytes => push_element(&mut data, format!("{:.3}", unit * 10.0).as_bytes()),
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => data.push(bit),
            Datatype::Uint16 | Datatype::Int16 => data.extend_from_slice(&u16::from(bit).to_le_bytes()),
            Datatype::Uint32 | Datatype::Int32 => data.extend_from_slice(&u32::from(bit).to_le_bytes()),
            Datatype::Uint64 | Datatype::Int64 => data.extend_from_slice(&u64::from(bit).to_le_bytes()),
        }
    }
    Tensor {
        datatype,
        shape,
        data: Bytes::from(data),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a made-up number need not be exact"
)]
fn single(unit: f64) -> f32 {
    unit as f32
}

/// A small generator, so that warm-up and probe are the same at every load (splitmix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::ShapeSpec;

    #[test]
    fn samples_fit_their_signature() {
        for datatype in Datatype::ALL {
            let spec = TensorSpec::new("x", datatype, ShapeSpec::from(&[-1, 3, -1][..]));
            let signature = ModelSignature {
                inputs: vec![spec.clone()],
                batched: true,
                ..Default::default()
            };
            for fill in [Fill::Zero, Fill::Random(7)] {
                let sample = tensor(&spec, true, 2, 4, fill);
                assert_eq!(sample.shape, Shape::from([2, 3, 4]));
                assert_eq!(
                    signature.check([("x", sample)]).map(|(_, rows)| rows),
                    Ok(2),
                    "{datatype}"
                );
            }
        }
        let float = |seed| filled(Datatype::Fp64, [4].into(), Fill::Random(seed));
        assert_eq!(float(1), float(1));
        assert_ne!(float(1), float(2));
    }
}
