//! Tensors that own their bytes, and views of them.

use bytes::Bytes;

use crate::{Datatype, Shape};

/// A tensor with shared bytes: row-major, little-endian, no padding; BYTES in wire form.
///
/// `data` may be a slice of a request and so have any alignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions; for a batching model the first is the rows.
    pub shape: Shape,
    /// Elements. Fixed width: `element_count × width` bytes. BYTES: framed elements.
    pub data: Bytes,
}

impl Tensor {
    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            datatype: self.datatype,
            shape: &self.shape,
            data: &self.data,
        }
    }
}

/// A borrowed tensor, as an [`Instance`](crate::Instance) receives it.
///
/// Invariants, checked before one is made: fixed width: `data.len() == element_count × width`; BYTES: the framing
/// holds exactly `element_count` elements. Views given to an instance by the batcher are aligned to 64 bytes;
/// a runtime that needs alignment still checks it and copies otherwise.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions.
    pub shape: &'a [usize],
    /// Elements, row-major, little-endian; BYTES in wire form.
    pub data: &'a [u8],
}
