//! Small ONNX models, written in code.
//!
//! ```
//! use crossfade_runtimes_conformance::onnx::{ModelBuilder, Value, named};
//! use crossfade_runtimes_core::{Datatype, Dim};
//!
//! let bytes = ModelBuilder::new()
//!     .input("x", Datatype::Fp32, [named("batch"), Dim::Fixed(3)])
//!     .output("y", Datatype::Fp32, [named("batch"), Dim::Fixed(3)])
//!     .initializer("c", Value::fp32([3], &[1.0, 2.0, 3.0]))
//!     .node("Add", ["x", "c"], ["y"])
//!     .build();
//! assert!(!bytes.is_empty());
//! ```

mod models;
mod proto;
mod value;

use std::path::Path;
use std::sync::Arc;

use crossfade_runtimes_core::{Datatype, Dim};
use prost::Message as _;

pub use models::{add_constant, identity, nonzero, sequence_output};
pub use value::Value;

use proto::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    SequenceTypeProto, TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto,
};

/// A dimension of the name.
pub fn named(name: &str) -> Dim {
    Dim::Named(Arc::from(name))
}

/// The constant that an operator is given.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A text.
    Text(String),
    /// A tensor.
    Tensor(Value),
}

/// Writes an ONNX model with one graph; nodes in the order they are added.
#[derive(Debug, Clone)]
pub struct ModelBuilder {
    ir_version: i64,
    opset: i64,
    graph: GraphProto,
}

impl Default for ModelBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelBuilder {
    /// A model without nodes: IR version 10, operator set 17.
    pub fn new() -> Self {
        let graph = GraphProto {
            name: "graph".to_owned(),
            ..GraphProto::default()
        };
        Self {
            ir_version: 10,
            opset: 17,
            graph,
        }
    }

    /// Sets the version of the default operator set.
    #[must_use]
    pub fn opset(mut self, version: i64) -> Self {
        self.opset = version;
        self
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, name: &str, datatype: Datatype, dims: impl IntoIterator<Item = Dim>) -> Self {
        self.graph
            .input
            .push(value_info(name, tensor_type(element_type(datatype), Some(dims))));
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, name: &str, datatype: Datatype, dims: impl IntoIterator<Item = Dim>) -> Self {
        self.graph
            .output
            .push(value_info(name, tensor_type(element_type(datatype), Some(dims))));
        self
    }

    /// Adds an input of an ONNX element type that the protocol does not have, such as 14, COMPLEX64.
    #[must_use]
    pub fn raw_input(mut self, name: &str, element: i32, dims: impl IntoIterator<Item = Dim>) -> Self {
        self.graph
            .input
            .push(value_info(name, tensor_type(element, Some(dims))));
        self
    }

    /// Adds an output of an ONNX element type that the protocol does not have.
    #[must_use]
    pub fn raw_output(mut self, name: &str, element: i32, dims: impl IntoIterator<Item = Dim>) -> Self {
        self.graph
            .output
            .push(value_info(name, tensor_type(element, Some(dims))));
        self
    }

    /// Adds an input whose rank is unknown.
    #[must_use]
    pub fn shapeless_input(mut self, name: &str, datatype: Datatype) -> Self {
        let value = tensor_type(element_type(datatype), None::<[Dim; 0]>);
        self.graph.input.push(value_info(name, value));
        self
    }

    /// Adds an output that is a sequence of tensors.
    #[must_use]
    pub fn sequence_output(mut self, name: &str, datatype: Datatype) -> Self {
        let element = tensor_type(element_type(datatype), None::<[Dim; 0]>);
        let sequence = SequenceTypeProto {
            elem_type: Some(Box::new(element)),
        };
        let value = TypeProto {
            value: Some(TypeValue::Sequence(Box::new(sequence))),
        };
        self.graph.output.push(value_info(name, value));
        self
    }

    /// Adds a weight.
    #[must_use]
    pub fn initializer(mut self, name: &str, value: Value) -> Self {
        self.graph.initializer.push(value.into_proto(name));
        self
    }

    /// Adds a weight whose bytes are all of the file `location`, next to the model.
    #[must_use]
    pub fn external_initializer(
        mut self,
        name: &str,
        datatype: Datatype,
        dims: &[usize],
        location: &str,
    ) -> Self {
        self.graph
            .initializer
            .push(value::external(name, datatype, dims, location));
        self
    }

    /// Adds an operator without attributes.
    #[must_use]
    pub fn node<'a>(
        self,
        operator: &str,
        inputs: impl IntoIterator<Item = &'a str>,
        outputs: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.node_with(operator, inputs, outputs, [])
    }

    /// Adds an operator.
    #[must_use]
    pub fn node_with<'a>(
        mut self,
        operator: &str,
        inputs: impl IntoIterator<Item = &'a str>,
        outputs: impl IntoIterator<Item = &'a str>,
        attributes: impl IntoIterator<Item = (&'a str, Attribute)>,
    ) -> Self {
        self.graph.node.push(NodeProto {
            name: format!("{operator}_{}", self.graph.node.len()),
            op_type: operator.to_owned(),
            input: inputs.into_iter().map(str::to_owned).collect(),
            output: outputs.into_iter().map(str::to_owned).collect(),
            attribute: attributes
                .into_iter()
                .map(|(name, attribute)| attribute_proto(name, attribute))
                .collect(),
            domain: String::new(),
        });
        self
    }

    /// The model's bytes.
    pub fn build(&self) -> Vec<u8> {
        let opset = OperatorSetIdProto {
            domain: String::new(),
            version: self.opset,
        };
        let model = ModelProto {
            ir_version: self.ir_version,
            producer_name: "crossfade-runtimes-conformance".to_owned(),
            graph: Some(self.graph.clone()),
            opset_import: vec![opset],
        };
        model.encode_to_vec()
    }

    /// Writes the model to `path`, making the folder.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, self.build())
    }
}

/// The number of a datatype in ONNX's `TensorProto.DataType`.
pub fn element_type(datatype: Datatype) -> i32 {
    match datatype {
        Datatype::Fp32 => 1,
        Datatype::Uint8 => 2,
        Datatype::Int8 => 3,
        Datatype::Uint16 => 4,
        Datatype::Int16 => 5,
        Datatype::Int32 => 6,
        Datatype::Int64 => 7,
        Datatype::Bytes => 8,
        Datatype::Bool => 9,
        Datatype::Fp16 => 10,
        Datatype::Fp64 => 11,
        Datatype::Uint32 => 12,
        Datatype::Uint64 => 13,
        Datatype::Bf16 => 16,
    }
}

fn value_info(name: &str, value: TypeProto) -> ValueInfoProto {
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(value),
    }
}

fn tensor_type(elem_type: i32, dims: Option<impl IntoIterator<Item = Dim>>) -> TypeProto {
    let shape = dims.map(|dims| TensorShapeProto {
        dim: dims.into_iter().map(dimension).collect(),
    });
    TypeProto {
        value: Some(TypeValue::Tensor(TensorTypeProto { elem_type, shape })),
    }
}

fn dimension(dim: Dim) -> DimensionProto {
    let value = match dim {
        Dim::Fixed(_) => Some(DimensionValue::Size(dim.wire())),
        Dim::Named(name) => Some(DimensionValue::Name(name.to_string())),
        Dim::Any => None,
    };
    DimensionProto { value }
}

fn attribute_proto(name: &str, attribute: Attribute) -> AttributeProto {
    let mut proto = AttributeProto {
        name: name.to_owned(),
        ..AttributeProto::default()
    };
    proto.r#type = match attribute {
        Attribute::Float(value) => {
            proto.f = value;
            1
        }
        Attribute::Int(value) => {
            proto.i = value;
            2
        }
        Attribute::Text(value) => {
            proto.s = value.into_bytes();
            3
        }
        Attribute::Tensor(value) => {
            proto.t = Some(value.into_proto(""));
            4
        }
        Attribute::Ints(values) => {
            proto.ints = values;
            7
        }
    };
    proto
}
