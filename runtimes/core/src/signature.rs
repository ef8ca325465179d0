//! What a model takes and gives, and the one place where a request is checked against it.

use std::sync::Arc;

use crate::{BytesElements, Datatype, FramingError, Shape, ShapeSpec, Tensor};

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, as clients use it.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Allowed shapes as clients see them, batch dimension included.
    pub shape: ShapeSpec,
    /// The shape the model wants instead of `shape` (Triton's `reshape`), batch dimension included.
    pub reshape: Option<ShapeSpec>,
    /// Inputs only: the request may leave it out.
    pub optional: bool,
    /// A dimension in which requests of one batch may differ.
    pub padding: Option<Padding>,
}

/// A dimension in which requests may differ and still share a batch: the shorter ones are filled up to the longest.
///
/// A model says so of all inputs of which it knows, by another of them, what was filled up (`attention_mask`), and of the
/// outputs that are as long: they are cut to each request's own length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// The dimension; not 0, which is the rows.
    pub dim: usize,
    /// What is filled in; 0 for floats.
    pub fill: i64,
}

impl TensorSpec {
    /// A required tensor without a reshape.
    pub fn new(name: impl Into<Arc<str>>, datatype: Datatype, shape: ShapeSpec) -> Self {
        Self {
            name: name.into(),
            datatype,
            shape,
            reshape: None,
            optional: false,
            padding: None,
        }
    }

    /// The shape the model gets for a client's `shape`, which this spec accepts.
    ///
    /// Errors: `None` if the reshape does not keep the number of elements.
    pub fn model_shape(&self, shape: &Shape) -> Option<Shape> {
        match &self.reshape {
            None => Some(shape.clone()),
            Some(reshape) => map_variable_dims(&self.shape, reshape, shape),
        }
    }

    /// The shape a client gets for the model's `shape`; the inverse of [`model_shape`](Self::model_shape).
    pub fn client_shape(&self, shape: &Shape) -> Option<Shape> {
        match &self.reshape {
            None => Some(shape.clone()),
            Some(reshape) => map_variable_dims(reshape, &self.shape, shape),
        }
    }
}

/// Carries the sizes of `from`'s variable dimensions over to `to`'s, in order (Triton's rule for `reshape`).
fn map_variable_dims(from: &ShapeSpec, to: &ShapeSpec, shape: &Shape) -> Option<Shape> {
    if !from.accepts(shape) {
        return None;
    }
    let mut sizes = from
        .iter()
        .zip(shape.iter())
        .filter(|(dim, _)| dim.fixed().is_none())
        .map(|(_, &size)| size);
    let mapped: Shape = to
        .iter()
        .map(|dim| dim.fixed().or_else(|| sizes.next()))
        .collect::<Option<Shape>>()?;
    (sizes.next().is_none() && mapped.element_count() == shape.element_count()).then_some(mapped)
}

/// Everything a model takes and gives, in the model's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSignature {
    /// Inputs in model order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in model order.
    pub outputs: Vec<TensorSpec>,
    /// Whether dimension 0 of every input and output is the batch (`max_batch_size > 0`).
    pub batched: bool,
    /// The most rows one request may have, where the configuration sets a limit.
    pub max_rows: Option<usize>,
    /// Whether what is filled up by [`Padding`] costs nothing: the runtime leaves it out.
    pub skips_padding: bool,
}

/// Why an input does not fit the signature; every one is the client's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// No input of that name.
    #[error("unexpected input `{name}`; the model has {}", list(.known))]
    Unknown {
        /// The name in the request.
        name: String,
        /// The names the model has.
        known: Vec<Arc<str>>,
    },
    /// A required input is absent.
    #[error("input `{name}` is missing")]
    Missing {
        /// Its name.
        name: Arc<str>,
    },
    /// The same input twice.
    #[error("input `{name}` is given twice")]
    Duplicate {
        /// Its name.
        name: Arc<str>,
    },
    /// Another datatype than the model's.
    #[error("input `{name}`: expected datatype {expected}, got {got}")]
    Datatype {
        /// Input name.
        name: Arc<str>,
        /// The model's.
        expected: Datatype,
        /// The request's.
        got: Datatype,
    },
    /// Rank or a fixed dimension differs.
    #[error("input `{name}`: expected shape {expected}, got {got}")]
    Shape {
        /// Input name.
        name: Arc<str>,
        /// The model's.
        expected: ShapeSpec,
        /// The request's.
        got: Shape,
    },
    /// The product of the dimensions does not fit.
    #[error("input `{name}`: shape {got} has too many elements")]
    TooManyElements {
        /// Input name.
        name: Arc<str>,
        /// The request's shape.
        got: Shape,
    },
    /// Another number of bytes than the shape needs.
    #[error("input `{name}`: shape {shape} of {datatype} needs {expected} bytes, got {got}")]
    ByteSize {
        /// Input name.
        name: Arc<str>,
        /// Its datatype.
        datatype: Datatype,
        /// Its shape.
        shape: Shape,
        /// Elements × width.
        expected: usize,
        /// Bytes in the request.
        got: usize,
    },
    /// The framing of a BYTES tensor is broken.
    #[error("input `{name}`: {source}")]
    Framing {
        /// Input name.
        name: Arc<str>,
        /// Where it breaks.
        source: FramingError,
    },
    /// A BOOL element other than 0 and 1.
    #[error("input `{name}`: element {index} of a BOOL tensor is neither 0 nor 1")]
    BoolValue {
        /// Input name.
        name: Arc<str>,
        /// Index of the element.
        index: usize,
    },
    /// Inputs disagree on the batch dimension.
    #[error(
        "input `{name}` has {got} rows, but input `{first}` has {expected}; all inputs share dimension 0"
    )]
    Rows {
        /// Input name.
        name: Arc<str>,
        /// The input it is compared with.
        first: Arc<str>,
        /// Rows of `first`.
        expected: usize,
        /// Rows of `name`.
        got: usize,
    },
    /// More rows than the model takes.
    #[error("the request has {got} rows, but the model takes at most {max} (max_batch_size)")]
    TooManyRows {
        /// Rows in the request.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// An output was requested that the model does not have.
    #[error("unknown requested output `{name}`; the model has {}", list(.known))]
    UnknownOutput {
        /// The name in the request.
        name: String,
        /// The names the model has.
        known: Vec<Arc<str>>,
    },
}

fn list(names: &[Arc<str>]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

impl ModelSignature {
    /// Checks a request's tensors and puts them into model order.
    ///
    /// * returns one entry per input of the signature, `None` where an optional input was left out, and the
    ///   rows of the request: dimension 0 for a batching model, else 1
    /// * shapes are still as the client sent them; `reshape` is applied by [`TensorSpec::model_shape`]
    ///
    /// Cost: no copy of tensor bytes; BYTES framing and BOOL values are walked once.
    pub fn check<N: AsRef<str>>(
        &self,
        tensors: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<(Vec<Option<Tensor>>, usize), InputError> {
        let mut ordered: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        for (name, tensor) in tensors {
            let name = name.as_ref();
            let Some(index) = self.inputs.iter().position(|spec| &*spec.name == name) else {
                return Err(InputError::Unknown {
                    name: clip(name),
                    known: names(&self.inputs),
                });
            };
            let spec = &self.inputs[index];
            if ordered[index].is_some() {
                return Err(InputError::Duplicate {
                    name: spec.name.clone(),
                });
            }
            check_tensor(spec, &tensor)?;
            ordered[index] = Some(tensor);
        }
        if let Some(missing) = self
            .inputs
            .iter()
            .zip(&ordered)
            .find(|(spec, tensor)| tensor.is_none() && !spec.optional)
        {
            return Err(InputError::Missing {
                name: missing.0.name.clone(),
            });
        }
        let rows = self.rows(&ordered)?;
        Ok((ordered, rows))
    }

    /// Resolves requested output names into indices of the signature, in requested order, each once;
    /// `None` means every output in model order.
    pub fn resolve_outputs<'a>(
        &self,
        requested: Option<impl IntoIterator<Item = &'a str>>,
    ) -> Result<Vec<usize>, InputError> {
        let Some(requested) = requested else {
            return Ok((0..self.outputs.len()).collect());
        };
        let mut indices = Vec::new();
        for name in requested {
            let Some(index) = self.outputs.iter().position(|spec| &*spec.name == name) else {
                return Err(InputError::UnknownOutput {
                    name: clip(name),
                    known: names(&self.outputs),
                });
            };
            if !indices.contains(&index) {
                indices.push(index);
            }
        }
        Ok(indices)
    }

    fn rows(&self, ordered: &[Option<Tensor>]) -> Result<usize, InputError> {
        if !self.batched {
            return Ok(1);
        }
        let mut first: Option<(&TensorSpec, usize)> = None;
        for (spec, tensor) in self.inputs.iter().zip(ordered) {
            let Some(tensor) = tensor else { continue };
            let got = tensor.shape.rows();
            match first {
                None => first = Some((spec, got)),
                Some((other, expected)) if expected != got => {
                    return Err(InputError::Rows {
                        name: spec.name.clone(),
                        first: other.name.clone(),
                        expected,
                        got,
                    });
                }
                Some(_) => {}
            }
        }
        let rows = first.map_or(1, |(_, rows)| rows);
        match self.max_rows {
            Some(max) if rows > max => Err(InputError::TooManyRows { got: rows, max }),
            _ => Ok(rows),
        }
    }
}

fn names(specs: &[TensorSpec]) -> Vec<Arc<str>> {
    specs.iter().map(|spec| spec.name.clone()).collect()
}

/// A client's text, short enough for an error message.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

fn check_tensor(spec: &TensorSpec, tensor: &Tensor) -> Result<(), InputError> {
    let name = || spec.name.clone();
    if tensor.datatype != spec.datatype {
        return Err(InputError::Datatype {
            name: name(),
            expected: spec.datatype,
            got: tensor.datatype,
        });
    }
    if !spec.shape.accepts(&tensor.shape) {
        return Err(InputError::Shape {
            name: name(),
            expected: spec.shape.clone(),
            got: tensor.shape.clone(),
        });
    }
    let too_many = || InputError::TooManyElements {
        name: name(),
        got: tensor.shape.clone(),
    };
    let count = tensor.shape.element_count().ok_or_else(too_many)?;
    match tensor.datatype.width() {
        Some(width) => {
            let expected = count.checked_mul(width).ok_or_else(too_many)?;
            let got = tensor.data.len();
            if got != expected {
                let (datatype, shape) = (tensor.datatype, tensor.shape.clone());
                return Err(InputError::ByteSize {
                    name: name(),
                    datatype,
                    shape,
                    expected,
                    got,
                });
            }
            if tensor.datatype == Datatype::Bool
                && let Some(index) = tensor.data.iter().position(|&byte| byte > 1)
            {
                return Err(InputError::BoolValue { name: name(), index });
            }
            Ok(())
        }
        None => BytesElements::check(&tensor.data, count)
            .map_err(|source| InputError::Framing { name: name(), source }),
    }
}

#[cfg(test)]
mod tests;
