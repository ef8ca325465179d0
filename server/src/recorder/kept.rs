//! What the log keeps of a request besides its times.

use std::sync::Arc;

use crossfade_inference_log::{LoggedTensor, Side};
use crossfade_runtimes_core::Tensor;
use twox_hash::XxHash3_128;

/// What answers a loaded version's requests, as their records say.
#[derive(Debug)]
pub(crate) struct Provenance {
    /// The number of its schema.
    pub(crate) schema: u16,
    pub(crate) artifact_sha256: Option<[u8; 32]>,
    pub(crate) config_rev: Option<[u8; 32]>,
    /// Such as `ort`.
    pub(crate) runtime: &'static str,
    /// Such as `cpu`.
    pub(crate) device: String,
}

/// What was sent and answered.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) provenance: Option<Arc<Provenance>>,
    /// One entry per input of the signature.
    inputs: Vec<Option<Tensor>>,
    /// With their places among the outputs of the signature.
    outputs: Vec<(usize, Tensor)>,
    pub(crate) rows: u32,
    pub(crate) error: Option<Box<str>>,
    pub(crate) trace_id: Option<[u8; 16]>,
}

impl Kept {
    /// Keeps the inputs of a request that fits its signature. Cost: no copy of tensor bytes.
    pub(crate) fn asked(&mut self, inputs: &[Option<Tensor>], rows: usize) {
        self.inputs = inputs.to_vec();
        self.rows = u32::try_from(rows).unwrap_or(u32::MAX);
    }

    /// Keeps the answer: `outputs` are places in the signature, `tensors` in the same order.
    pub(crate) fn answered(&mut self, outputs: &[usize], tensors: &[Tensor]) {
        self.outputs = outputs.iter().copied().zip(tensors.iter().cloned()).collect();
    }

    /// XXH3-128 of the input, or of the digests of several in the order of the signature, big-endian; `None` where they were never
    /// read whole.
    pub(crate) fn digest(&self) -> Option<[u8; 16]> {
        let mut present = self.inputs.iter().flatten();
        let of = |tensor: &Tensor| XxHash3_128::oneshot(&tensor.data).to_be_bytes();
        let first = of(present.next()?);
        let mut all = first.to_vec();
        all.extend(present.flat_map(of));
        let is_one = all.len() == first.len();
        Some(if is_one {
            first
        } else {
            XxHash3_128::oneshot(&all).to_be_bytes()
        })
    }

    /// Those tensors that are no larger than `most` bytes.
    pub(crate) fn tensors(&self, most: usize) -> Vec<LoggedTensor<'_>> {
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.filter_map(|(place, tensor)| Some((Side::Input, place, tensor.as_ref()?)));
        let outputs = self.outputs.iter();
        let outputs = outputs.map(|(place, tensor)| (Side::Output, *place, tensor));
        let all = inputs
            .chain(outputs)
            .filter(|(.., tensor)| tensor.data.len() <= most);
        let logged = all.filter_map(|(side, place, tensor)| {
            Some(LoggedTensor {
                side,
                column: u16::try_from(place).ok()?,
                shape: tensor.shape.iter().map(|&size| size as u64).collect(),
                bytes: &tensor.data,
            })
        });
        logged.collect()
    }
}
