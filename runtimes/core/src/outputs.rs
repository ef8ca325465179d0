//! Where an instance puts its answers.

use bytes::Bytes;

use crate::{AlignedBuffer, Datatype, Shape, Tensor};

/// The outputs of one run, in the order of the model's signature.
///
/// Before the run the caller says which outputs are wanted and, where it can tell, their shape. The runtime
/// then either fills a buffer that the caller provides ([`Outputs::buffer`], fixed-width datatypes) or hands
/// over bytes of its own ([`Outputs::put`], needed where the shape is known only afterwards, and for BYTES).
#[derive(Default)]
pub struct Outputs {
    slots: Vec<OutputSlot>,
}

/// One output of a run.
#[derive(Default)]
pub struct OutputSlot {
    wanted: bool,
    expected: Option<Shape>,
    content: Option<Content>,
}

struct Content {
    datatype: Datatype,
    shape: Shape,
    data: Data,
}

enum Data {
    Caller(AlignedBuffer),
    Runtime(Bytes),
}

impl OutputSlot {
    /// A slot for an output; `expected` is its shape in this run, where it can be told beforehand.
    pub fn new(wanted: bool, expected: Option<Shape>) -> Self {
        Self {
            wanted,
            expected,
            content: None,
        }
    }
}

impl Outputs {
    /// One slot per output of the signature, in its order.
    pub fn new(slots: Vec<OutputSlot>) -> Self {
        Self { slots }
    }

    /// Slots that are all wanted and of unknown shape.
    pub fn all(count: usize) -> Self {
        Self::new((0..count).map(|_| OutputSlot::new(true, None)).collect())
    }

    /// Number of outputs in the signature.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the model has no outputs.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether anyone asked for output `index`; a runtime may skip the others.
    pub fn wanted(&self, index: usize) -> bool {
        self.slots[index].wanted
    }

    /// The shape that output `index` will have, where the caller knows it.
    pub fn expected(&self, index: usize) -> Option<&Shape> {
        self.slots[index].expected.as_ref()
    }

    /// A zeroed, 64-byte aligned buffer for output `index`, exactly as long as `shape` needs.
    ///
    /// Panics if `datatype` is BYTES or the size overflows: such outputs are [`put`](Self::put).
    pub fn buffer(&mut self, index: usize, datatype: Datatype, shape: Shape) -> &mut [u8] {
        let width = datatype
            .width()
            .expect("BYTES outputs are put, not filled in place");
        let len = shape.element_count().and_then(|count| count.checked_mul(width));
        let buffer = AlignedBuffer::zeroed(len.expect("a runtime's output fits into memory"));
        let content = self.slots[index].content.insert(Content {
            datatype,
            shape,
            data: Data::Caller(buffer),
        });
        match &mut content.data {
            Data::Caller(buffer) => buffer.as_mut_slice(),
            Data::Runtime(_) => unreachable!("a caller's buffer was inserted on the line above"),
        }
    }

    /// Sets output `index` to bytes that the runtime made: fixed width or, for BYTES, wire form.
    pub fn put(&mut self, index: usize, datatype: Datatype, shape: Shape, data: Bytes) {
        self.slots[index].content = Some(Content {
            datatype,
            shape,
            data: Data::Runtime(data),
        });
    }

    /// The results, in signature order; `None` where the runtime set nothing. Copies no tensor bytes.
    pub fn into_tensors(self) -> Vec<Option<Tensor>> {
        self.slots
            .into_iter()
            .map(|slot| {
                slot.content.map(
                    |Content {
                         datatype,
                         shape,
                         data,
                     }| {
                        let data = match data {
                            Data::Caller(buffer) => Bytes::from_owner(buffer),
                            Data::Runtime(bytes) => bytes,
                        };
                        Tensor {
                            datatype,
                            shape,
                            data,
                        }
                    },
                )
            })
            .collect()
    }
}
