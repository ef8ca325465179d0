//! What was sent is what comes back.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::record::{LoggedTensor, Origin, Record};
use crate::schema::{Schema, Schemas};
use crate::table::{Row, grouped};

const DATATYPES: [Datatype; 14] = [
    Datatype::Bool,
    Datatype::Uint8,
    Datatype::Uint16,
    Datatype::Uint32,
    Datatype::Uint64,
    Datatype::Int8,
    Datatype::Int16,
    Datatype::Int32,
    Datatype::Int64,
    Datatype::Fp16,
    Datatype::Bf16,
    Datatype::Fp32,
    Datatype::Fp64,
    Datatype::Bytes,
];

/// A tensor of some signature: sizes of its dimensions, and which of them vary.
fn tensor() -> impl Strategy<Value = (TensorSpec, Tensor)> {
    let dims = prop::collection::vec((1_usize..5, any::<bool>()), 1..4);
    (prop::sample::select(&DATATYPES[..]), dims, any::<u64>()).prop_map(|(datatype, dims, seed)| {
        let sizes: Vec<usize> = dims.iter().map(|(size, _)| *size).collect();
        let spec: Vec<i64> = dims
            .iter()
            .map(|(size, varies)| {
                if *varies {
                    -1
                } else {
                    i64::try_from(*size).unwrap()
                }
            })
            .collect();
        let count: usize = sizes.iter().product();
        let mut data = Vec::new();
        let mut next = seed;
        for _ in 0..count {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = next.to_le_bytes();
            match (datatype, datatype.width()) {
                (Datatype::Bool, _) => data.push(noise[7] & 1),
                // A quiet number: not every bit pattern of a NaN comes back of wider ones.
                (Datatype::Fp16, _) => data.extend(f16::from_f32(f32::from(noise[7])).to_le_bytes()),
                (Datatype::Bf16, _) => data.extend(bf16::from_f32(f32::from(noise[7])).to_le_bytes()),
                (_, Some(width)) => data.extend(&noise[8 - width..]),
                (_, None) => push_element(&mut data, &noise[..usize::from(noise[7] % 8)]),
            }
        }
        let tensor = Tensor {
            datatype,
            shape: Shape::from(&*sizes),
            data: data.into(),
        };
        (TensorSpec::new("x", datatype, ShapeSpec::from(&*spec)), tensor)
    })
}

/// A table of one record with these tensors, all named alike, each of its own schema.
fn table(tensors: &[(TensorSpec, Tensor)]) -> RecordBatch {
    let folder = tempfile::tempdir().unwrap();
    let mut schemas = Schemas::open(folder.path()).unwrap();
    let mut rows = Vec::new();
    for (seq, (spec, tensor)) in (0..).zip(tensors) {
        let schema = Schema {
            batched: true,
            inputs: vec![Column::of(spec)],
            outputs: Vec::new(),
        };
        let logged = LoggedTensor {
            side: Side::Input,
            column: 0,
            shape: tensor.shape.iter().map(|size| *size as u64).collect(),
            bytes: &tensor.data,
        };
        rows.push(Row {
            record: Record {
                origin: Origin {
                    model: "m",
                    version: "1",
                    ..Origin::default()
                },
                tensors: vec![logged],
                ..Record::default()
            },
            segment: Uuid::nil(),
            seq,
            schema: schemas.number(&schema).unwrap(),
        });
    }
    let mut groups = grouped(rows, &schemas, "").unwrap();
    groups.remove(0).table
}

proptest! {
    #[test]
    fn a_tensor_comes_back_bit_for_bit((spec, tensor) in tensor()) {
        let table = table(&[(spec.clone(), tensor.clone())]);
        prop_assert_eq!(restored(&table, 0, Side::Input, &spec), Restored::Tensor(tensor));
        prop_assert_eq!(restored(&table, 0, Side::Output, &spec), Restored::Missing);
    }

    /// Versions of a model may have tensors of one name and other kinds.
    #[test]
    fn each_of_two_kinds_comes_back(one in tensor(), other in tensor()) {
        let table = table(&[one.clone(), other.clone()]);
        for (row, (spec, tensor)) in [one, other].into_iter().enumerate() {
            prop_assert_eq!(restored(&table, row, Side::Input, &spec), Restored::Tensor(tensor));
        }
    }
}

#[test]
fn what_is_of_another_kind_is_told_from_what_is_missing() {
    let spec = |datatype, shape: &[i64]| TensorSpec::new("x", datatype, ShapeSpec::from(shape));
    let tensor = Tensor {
        datatype: Datatype::Fp32,
        shape: Shape::from([1, 3]),
        data: vec![0; 12].into(),
    };
    let table = table(&[(spec(Datatype::Fp32, &[-1, 3]), tensor)]);
    let of = |spec: &TensorSpec| restored(&table, 0, Side::Input, spec);
    assert_eq!(of(&spec(Datatype::Int32, &[-1, 3])), Restored::Other);
    assert_eq!(
        of(&TensorSpec::new(
            "y",
            Datatype::Fp32,
            ShapeSpec::from(&[-1, 3][..])
        )),
        Restored::Missing
    );
}
