//! What a candidate said to a copy, in the inference log.

use std::time::Instant;

use crossfade_inference_log::Record;
use crossfade_runtimes_core::Tensor;
use crossfade_text::Cut;

use super::RequestCopy;
use super::worker::{Said, Worker};
use crate::recorder::{Kept, saturated_us};
use crate::scope::{Outcome, RequestId};

/// A copy as it went to the candidate.
pub(super) struct Asked {
    pub(super) arrived: Instant,
    /// One entry per input of the candidate's signature.
    pub(super) inputs: Vec<Option<Tensor>>,
    pub(super) rows: usize,
    /// Places in its signature.
    pub(super) outputs: Vec<usize>,
    /// What was left out of its texts, if any was too long.
    pub(super) cut: Option<Cut>,
}

impl Worker {
    /// Records a run, or that there could be none; nothing of copies that were given up.
    pub(super) fn record(&self, copy: &RequestCopy, asked: Option<Asked>, said: &Said) {
        let Some(provenance) = self.candidate.provenance() else {
            return;
        };
        let recorder = &provenance.recorder;
        let mut kept = Kept::default();
        let arrived = asked.as_ref().map_or_else(Instant::now, |asked| asked.arrived);
        if let Some(asked) = &asked {
            kept.asked(&asked.inputs, asked.rows);
            kept.cut = asked.cut;
        }
        let (outcome, timings) = match said {
            Said::Answer(answer) => {
                let outputs = asked.as_ref().map_or(&[][..], |asked| &asked.outputs);
                kept.answered(outputs, &answer.outputs);
                (Outcome::Ok, Some(&answer.timings))
            }
            Said::Failed(refusal, _) => {
                kept.error = Some(refusal.message.as_str().into());
                (Outcome::Refused(refusal.status), None)
            }
            Said::Nothing => return,
        };
        kept.provenance = Some(provenance.clone());
        kept.redact();
        recorder.open_request();
        let (ts_us, ts_mono_ns) = recorder.times(arrived);
        let version = self.candidate.version().to_string();
        let total = Some(arrived.elapsed());
        let times = [
            None,
            timings.map(|timings| timings.queue),
            timings.map(|timings| timings.gather),
            timings.map(|timings| timings.compute),
            timings.map(|timings| timings.scatter),
            None,
            total,
        ];
        let record = Record {
            request_id: *RequestId::new().as_bytes(),
            ts_us,
            ts_mono_ns,
            outcome: outcome.name(),
            status_code: copy.protocol.code(outcome),
            protocol: copy.protocol.logged(),
            stage: "shadow",
            rows: kept.rows,
            times_us: times.map(|time| time.map(saturated_us)),
            batch: timings.and_then(|timings| recorder.batch(timings)),
            sampling_p: 1.0,
            in_digest: kept.digest(),
            shadow_of: Some(*copy.id.as_bytes()),
            subject_key: copy.subject,
            release_id: Some(&self.release),
            error: kept.error.as_deref(),
            truncated: kept.cut.and_then(Cut::side),
            origin: provenance.origin(&self.model, &version),
            tensors: kept.tensors(recorder.payload_max_bytes()),
            ..Record::default()
        };
        recorder.record(provenance.schema, &record);
    }
}
