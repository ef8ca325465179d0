//! The one copy of tensor bytes: requests into aligned batch buffers.

use bytes::Bytes;
use crossfade_runtimes_core::{
    AlignedBuffer, Datatype, ModelSignature, RuntimeError, Shape, Tensor, TensorSpec, TensorView,
};

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
    ///   inputs they have and in all dimensions but the rows and the one that is filled up
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
            if let Some((dim, longest)) = differing(spec, index, members) {
                input.fill_up(
                    spec,
                    dim,
                    longest,
                    members.iter().filter_map(|member| member.inputs[index].as_ref()),
                )?;
                continue;
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

/// The dimension in which members differ and are filled up, and the longest of them.
fn differing(spec: &TensorSpec, index: usize, members: &[Member<'_>]) -> Option<(usize, usize)> {
    let dim = spec.padding.filter(|_| spec.reshape.is_none())?.dim;
    let mut lengths = members
        .iter()
        .filter_map(|member| Some(member.inputs[index].as_ref()?.shape[dim]));
    let first = lengths.next()?;
    let (least, most) = lengths.fold((first, first), |(least, most), length| {
        (least.min(length), most.max(length))
    });
    (least < most).then_some((dim, most))
}

/// The bytes of one element that is filled in; `None` for BYTES, which are never.
fn filling(datatype: Datatype, value: i64) -> Option<Vec<u8>> {
    let width = datatype.width()?;
    let float = matches!(
        datatype,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    );
    Some(match float {
        // Of floats there is but zero (`Padding::fill`).
        true => vec![0; width],
        false => value.to_le_bytes()[..width].to_vec(),
    })
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

    /// Copies rows of different lengths in dimension `dim`, each filled up to `longest`; sets the shape.
    fn fill_up<'a>(
        &mut self,
        spec: &TensorSpec,
        dim: usize,
        longest: usize,
        tensors: impl Iterator<Item = &'a Tensor> + Clone,
    ) -> Result<(), RuntimeError> {
        let too_large = || RuntimeError::InvalidInput {
            reason: format!("input `{}`: the batch does not fit into memory", spec.name),
        };
        let fill = spec
            .padding
            .and_then(|padding| filling(spec.datatype, padding.fill));
        let (Some(shape), Some(fill)) = (&mut self.shape, fill) else {
            return Err(too_large());
        };
        *shape = shape
            .iter()
            .enumerate()
            .map(|(index, &size)| if index == dim { longest } else { size })
            .collect();
        let width = fill.len();
        let inner: usize = shape[dim + 1..].iter().product::<usize>() * width;
        let len = shape.element_count().and_then(|count| count.checked_mul(width));
        self.buffer.clear();
        self.buffer.resize(len.ok_or_else(too_large)?);
        let mut rest = self.buffer.as_mut_slice();
        for tensor in tensors {
            let own = tensor.shape[dim] * inner;
            let pieces: usize = tensor.shape[..dim].iter().product();
            for piece in 0..pieces {
                let (place, after) = rest.split_at_mut(longest * inner);
                let (front, back) = place.split_at_mut(own);
                front.copy_from_slice(&tensor.data[piece * own..(piece + 1) * own]);
                if fill.iter().any(|&byte| byte != 0) {
                    back.chunks_exact_mut(width)
                        .for_each(|element| element.copy_from_slice(fill.as_slice()));
                }
                rest = after;
            }
        }
        Ok(())
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
