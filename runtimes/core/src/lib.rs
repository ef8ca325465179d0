//! The seam between the server and whatever runs a model.
//!
//! Three levels, because weights are shared and scratch memory is not: a [`Runtime`] loads a [`Model`]
//! (weights and signature, shared), a model makes [`Instance`]s (one owner at a time). The seam is
//! tensor-shaped, not task-shaped. Nothing here knows a protocol, an executor or a serialisation format.

mod buffer;
mod bytes_tensor;
mod datatype;
mod error;
mod outputs;
mod runtime;
mod shape;
mod signature;
mod source;
mod tensor;

pub use buffer::AlignedBuffer;
pub use bytes_tensor::{BytesElements, FramingError, push_element};
pub use datatype::{Datatype, UnknownDatatype};
pub use error::RuntimeError;
pub use outputs::{OutputSlot, Outputs};
pub use runtime::{Accelerator, Device, DeviceUse, Instance, InstanceOptions, Model, ModelSource, Runtime};
pub use shape::{Dim, Shape, ShapeSpec};
pub use signature::{InputError, ModelSignature, Padding, TensorSpec};
pub use source::WEIGHTS;
pub use tensor::{Tensor, TensorView};
