//! The one copy of tensor bytes: requests into aligned batch buffers.

use bytes::Bytes;
use crossfade_runtimes_core::{AlignedBuffer, Datatype, ModelSignature, RuntimeError, Shape, TensorView};

use super::Member;

/// What runtimes may rely on (see `TensorView`).
const ALIGNMENT: usize = 64;

/// A buffer larger than this is given back once a batch needs less than an eighth of it.
const KEPT_CAPACITY: usize = 1 << 20;

/// The inputs of one batch at a time; owned by an instance's thread, which reuses its buffers.
pub struct Gather {
    inputs: Vec<Input>,
}

/// One input of the model.
#[derive(Default)]
struct Input {
    /// The shape the model gets; `None`: left out of this batch.
    shape: Option<Shape>,
    /// A request's own bytes, where they can be used as they are.
    shared: Option<Bytes>,
    /// The batch's bytes otherwise.
    buffer: AlignedBuffer,
}

impl Gather {
    /// Empty buffers for the inputs of `signature`.
    pub fn new(signature: &ModelSignature) -> Self {
        Self {
            inputs: signature.inputs.iter().map(|_| Input::default()).collect(),
        }
    }

    /// Copies the rows of `members` into one batch, in their order; [`views`](Self::views) shows it.
    ///
    /// * `members[i].inputs[k]`: client shape `[rows_i, d1, …]`, datatype of input `k`; members agree in which
    ///   inputs they have and in all dimensions but the rows
    /// * the batch's input `k`: model shape `[Σ rows_i, d1, …]`, aligned to 64 bytes; BYTES keep their framing
    ///
    /// A single member's bytes are not copied if they are aligned or BYTES.
    ///
    /// Errors: `InvalidInput` if the model's reshape does not fit an input; `views` is then unspecified.
    /// Cost: one memcpy per request and input. Runs on the instance thread.
    pub fn gather(
        &mut self,
        signature: &ModelSignature,
        members: &[Member<'_>],
        rows: usize,
    ) -> Result<(), RuntimeError> {
        for (index, (input, spec)) in self.inputs.iter_mut().zip(&signature.inputs).enumerate() {
            input.shared = None;
            let Some(first) = members.first().and_then(|member| member.inputs[index].as_ref()) else {
                input.shape = None;
                continue;
            };
            let shape = spec
                .model_shape(&first.shape)
                .ok_or_else(|| RuntimeError::InvalidInput {
                    reason: format!(
                        "input `{}`: shape {} cannot be reshaped for the model",
                        spec.name, first.shape
                    ),
                })?;
            if let [_] = members {
                input.shape = Some(shape);
                if spec.datatype.width().is_none() || first.data.as_ptr().addr().is_multiple_of(ALIGNMENT) {
                    input.shared = Some(first.data.clone());
                    continue;
                }
            } else {
                input.shape = Some(shape.with_rows(rows));
            }
            let parts = members
                .iter()
                .filter_map(|member| member.inputs[index].as_ref().map(|tensor| &tensor.data[..]));
            input.copy(parts);
        }
        Ok(())
    }

    /// The gathered batch, one entry per input of the signature.
    pub fn views(&self, signature: &ModelSignature) -> Vec<Option<TensorView<'_>>> {
        let pairs = self.inputs.iter().zip(&signature.inputs);
        pairs.map(|(input, spec)| input.view(spec.datatype)).collect()
    }

    /// Lets go of the requests' bytes; the buffers stay.
    pub fn release(&mut self) {
        for input in &mut self.inputs {
            input.shared = None;
        }
    }
}

impl Input {
    fn copy<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        let len = parts.clone().map(<[u8]>::len).sum();
        if self.buffer.capacity() > KEPT_CAPACITY && self.buffer.capacity() / 8 > len {
            self.buffer = AlignedBuffer::new();
        }
        self.buffer.resize(len);
        let mut rest = self.buffer.as_mut_slice();
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
    }

    fn view(&self, datatype: Datatype) -> Option<TensorView<'_>> {
        let shape = self.shape.as_ref()?;
        let data = match &self.shared {
            Some(shared) => &shared[..],
            None => self.buffer.as_slice(),
        };
        Some(TensorView {
            datatype,
            shape,
            data,
        })
    }
}
