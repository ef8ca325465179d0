//! Constant tensors inside a model.

use crossfade_runtimes_core::{BytesElements, Datatype, Shape, Tensor};

use super::element_type;
use super::proto::{StringStringEntryProto, TensorProto};

/// A tensor with its values.
#[derive(Debug, Clone)]
pub struct Value(Tensor);

impl Value {
    /// A tensor in the seam's form; BYTES in wire form.
    pub fn new(tensor: Tensor) -> Self {
        Self(tensor)
    }

    /// A tensor of FP32.
    pub fn fp32(shape: impl Into<Shape>, values: &[f32]) -> Self {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>();
        Self::of(Datatype::Fp32, shape, data)
    }

    /// A tensor of INT64.
    pub fn int64(shape: impl Into<Shape>, values: &[i64]) -> Self {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>();
        Self::of(Datatype::Int64, shape, data)
    }

    fn of(datatype: Datatype, shape: impl Into<Shape>, data: Vec<u8>) -> Self {
        Self(Tensor {
            datatype,
            shape: shape.into(),
            data: data.into(),
        })
    }

    pub(super) fn into_proto(self, name: &str) -> TensorProto {
        let Tensor {
            datatype,
            shape,
            data,
        } = self.0;
        let mut proto = TensorProto {
            name: name.to_owned(),
            dims: c_dims(&shape),
            data_type: element_type(datatype),
            ..TensorProto::default()
        };
        match datatype {
            Datatype::Bytes => {
                proto.string_data = BytesElements::new(&data)
                    .map(|element| element.expect("the framing of a constant is right").to_vec())
                    .collect();
            }
            _ => proto.raw_data = Some(data.to_vec()),
        }
        proto
    }
}

/// A tensor whose bytes are in the file `location`.
pub(super) fn external(name: &str, datatype: Datatype, dims: &[usize], location: &str) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: c_dims(dims),
        data_type: element_type(datatype),
        external_data: vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: location.to_owned(),
        }],
        data_location: 1,
        ..TensorProto::default()
    }
}

fn c_dims(dims: &[usize]) -> Vec<i64> {
    dims.iter()
        .map(|&dim| i64::try_from(dim).expect("dimensions of a test model are small"))
        .collect()
}
