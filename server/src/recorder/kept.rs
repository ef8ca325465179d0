//! What the log keeps of a request besides its times.

use std::sync::Arc;

use bytes::Bytes;
use crossfade_inference_log::{LoggedTensor, Origin, Side};
use crossfade_runtimes_core::Tensor;
use crossfade_text::Cut;
use twox_hash::XxHash3_128;

use super::Recorder;
use super::policy::Policies;

/// What answers a loaded version's requests, as their records say.
pub(crate) struct Provenance {
    /// Where they go.
    pub(crate) recorder: Arc<Recorder>,
    /// The number of its schema.
    pub(crate) schema: u16,
    /// What becomes of inputs and outputs before they are written; `None`: nothing.
    pub(crate) policies: Option<Policies>,
    pub(crate) artifact_sha256: Option<[u8; 32]>,
    pub(crate) config_rev: Option<[u8; 32]>,
    /// Such as `ort`.
    pub(crate) runtime: &'static str,
    /// Such as `cpu`.
    pub(crate) device: String,
}

impl Provenance {
    /// What the records of a version say of it.
    pub(crate) fn origin<'a>(&'a self, model: &'a str, version: &'a str) -> Origin<'a> {
        Origin {
            model,
            version,
            artifact_sha256: self.artifact_sha256,
            config_rev: self.config_rev,
            runtime: Some(self.runtime),
            device: Some(self.device.as_str()),
        }
    }
}

/// What was sent and answered.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) provenance: Option<Arc<Provenance>>,
    /// One entry per input of the signature.
    inputs: Vec<Option<Tensor>>,
    /// With their places among the outputs of the signature.
    outputs: Vec<(usize, Tensor)>,
    /// Whether the record is to do without them: it has little room.
    pub(crate) is_bare: bool,
    pub(crate) rows: u32,
    pub(crate) error: Option<Box<str>>,
    pub(crate) trace_id: Option<[u8; 16]>,
    /// Who asks, as whoever checked that says.
    pub(crate) caller: Option<Box<str>>,
    /// Whom the request is about.
    pub(crate) subject: Option<[u8; 16]>,
    /// What was left out of its texts, if any was too long.
    pub(crate) cut: Option<Cut>,
    /// The digest of the inputs would tell what a policy hides.
    hides_digest: bool,
}

/// The trace of a W3C `traceparent` header (version-trace-span-flags); `None` for what is none, or of a trace of zeros.
pub(crate) fn trace_id(header: &[u8]) -> Option<[u8; 16]> {
    let mut parts = std::str::from_utf8(header).ok()?.trim().split('-');
    let version = parts
        .next()
        .filter(|version| version.len() == 2 && *version != "ff")?;
    let trace = parts.next().filter(|trace| trace.len() == 32)?;
    let is_lower = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let span = parts.next().filter(|span| span.len() == 16)?;
    if ![version, trace, span].into_iter().all(is_lower) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    Some(trace.to_be_bytes())
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

    /// Does to inputs and outputs what their policies say. Before anything of them is written.
    ///
    /// Cost: nothing for a version without policies; else a copy of what is changed.
    pub(crate) fn redact(&mut self) {
        let Some(provenance) = self.provenance.clone() else {
            return;
        };
        let Some(policies) = &provenance.policies else {
            return;
        };
        for (place, input) in self.inputs.iter_mut().enumerate() {
            *input = input.as_ref().and_then(|tensor| policies.input(place, tensor));
        }
        let outputs = std::mem::take(&mut self.outputs).into_iter();
        let outputs = outputs.filter_map(|(place, tensor)| Some((place, policies.output(place, &tensor)?)));
        self.outputs = outputs.collect();
        self.hides_digest = policies.hide_inputs();
    }

    /// XXH3-128 of the input, or of the digests of several in the order of the signature, big-endian; `None` where they were never
    /// read whole.
    pub(crate) fn digest(&self) -> Option<[u8; 16]> {
        let mut present = self.inputs.iter().flatten().filter(|_| !self.hides_digest);
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

    /// Bytes of the tensors that are no larger than `most`.
    pub(crate) fn bytes(&self, most: usize) -> usize {
        let outputs = self.outputs.iter().map(|(_, tensor)| tensor);
        let all = self.inputs.iter().flatten().chain(outputs);
        all.map(|tensor| tensor.data.len())
            .filter(|bytes| *bytes <= most)
            .sum()
    }

    /// The bytes of all tensors, in the order of [`tensors`](Self::tensors).
    pub(crate) fn data(&self) -> Vec<Bytes> {
        let outputs = self.outputs.iter().map(|(_, tensor)| tensor);
        let all = self.inputs.iter().flatten().chain(outputs);
        all.map(|tensor| tensor.data.clone()).collect()
    }

    /// Those tensors that are no larger than `most` bytes.
    pub(crate) fn tensors(&self, most: usize) -> Vec<LoggedTensor<'_>> {
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.filter_map(|(place, tensor)| Some((Side::Input, place, tensor.as_ref()?)));
        let outputs = self.outputs.iter();
        let outputs = outputs.map(|(place, tensor)| (Side::Output, *place, tensor));
        let all = inputs
            .chain(outputs)
            .filter(|(.., tensor)| !self.is_bare && tensor.data.len() <= most);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_and_nothing_else() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let header = format!("00-{trace}-b7ad6b7169203331-01");
        let expected = u128::from_str_radix(trace, 16).unwrap().to_be_bytes();
        assert_eq!(trace_id(header.as_bytes()), Some(expected));
        for wrong in [
            "",
            "00",
            "00-0af7-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-01",
        ] {
            assert_eq!(trace_id(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
