//! A request's record in the inference log (inference-log.md §1).

use std::time::Duration;

use crossfade_inference_log::{NO_SCHEMA, Origin, Record};
use crossfade_rollout::routing::Traffic;
use crossfade_text::Cut;

use super::{Outcome, RequestScope};
use crate::metrics::Series;
use crate::recorder::{Kept, Recorder, saturated_us};
use crate::status::{Refusal, Status};

/// The stage of a version that nothing is decided about.
const STABLE: &str = "stable";

/// The answer to a request that could not be recorded, where nothing is served unrecorded.
pub(super) fn no_room() -> Refusal {
    Refusal::new(
        Status::Overloaded,
        "the inference log has no room, and `log.on_full = \"block\"` lets nothing be answered unrecorded; the server's own log says \
         what its disk refuses"
            .to_owned(),
    )
}

impl RequestScope {
    /// Bytes of the tensors in its record.
    pub(super) fn recorded_bytes(&self, recorder: &Recorder) -> usize {
        let kept = self.kept.as_deref();
        kept.map_or(0, |kept| kept.bytes(recorder.payload_max_bytes()))
    }

    /// Writes the request's record, unless sampling leaves it out. Returns whether it is in the log, or need not be.
    pub(super) fn record(
        &self,
        recorder: &Recorder,
        kept: &Kept,
        outcome: Outcome,
        series: &Series,
        total: Duration,
    ) -> bool {
        let chosen = self.chosen.as_ref();
        let release = chosen.and_then(|chosen| chosen.division.as_ref()?.release.as_deref());
        let stage = self.stage(series.version);
        let exempt = outcome != Outcome::Ok || stage != STABLE;
        let Some(sampling_p) = recorder.draw(self.id.as_bytes(), release, exempt) else {
            recorder.leave_out();
            return true;
        };
        let (ts_us, ts_mono_ns) = recorder.times(self.arrived);
        let timings = self.answered.as_ref().map(|(timings, _)| timings);
        let decode = self
            .submitted
            .map(|submitted| submitted.duration_since(self.arrived));
        let encode = timings.zip(decode).map(|(timings, decode)| {
            total.saturating_sub(decode + timings.queue + timings.gather + timings.compute + timings.scatter)
        });
        let times = [
            decode,
            timings.map(|timings| timings.queue),
            timings.map(|timings| timings.gather),
            timings.map(|timings| timings.compute),
            timings.map(|timings| timings.scatter),
            encode,
            Some(total),
        ];
        let provenance = kept.provenance.as_deref();
        // As in the registry: what clients make up would become folders of the log.
        let model = series.version.map_or("", |_| &*series.model);
        let version = series.version.map(|version| version.to_string());
        let place = recorder.place_of(kept, *self.id.as_bytes(), ts_us);
        let record = Record {
            request_id: *self.id.as_bytes(),
            ts_us,
            ts_mono_ns,
            outcome: outcome.name(),
            status_code: self.protocol.code(outcome),
            protocol: self.protocol.logged(),
            stage,
            rows: kept.rows,
            times_us: times.map(|time| time.map(saturated_us)),
            batch: timings.and_then(|timings| recorder.batch(timings)),
            sampling_p,
            in_digest: kept.digest(),
            trace_id: kept.trace_id,
            shadow_of: None,
            route_key_hash: chosen
                .filter(|chosen| chosen.reason.is_randomised())
                .map(|chosen| chosen.unit),
            route_reason: chosen.map(|chosen| chosen.reason.name()),
            release_id: release,
            client_request_id: self.client_id.as_deref(),
            error: kept.error.as_deref(),
            caller: kept.caller.as_deref(),
            subject_key: kept.subject,
            truncated: kept.cut.and_then(Cut::side),
            blob_ref: place.as_ref().map(|place| place.reference.as_str()),
            origin: match provenance {
                Some(provenance) => provenance.origin(model, version.as_deref().unwrap_or_default()),
                None => Origin {
                    model,
                    version: version.as_deref().unwrap_or_default(),
                    ..Origin::default()
                },
            },
            tensors: kept.tensors(recorder.payload_max_bytes()),
        };
        let schema = provenance.map_or(NO_SCHEMA, |provenance| provenance.schema);
        let is_recorded = recorder.record(schema, &record);
        if let Some(place) = place.as_ref().filter(|_| is_recorded) {
            recorder.keep_blob(place, schema, &record, kept);
        }
        is_recorded
    }

    /// What its version was when it was routed.
    fn stage(&self, version: Option<u64>) -> &'static str {
        let division = self.chosen.as_ref().and_then(|chosen| chosen.division.as_ref());
        match division.map(|division| &division.traffic) {
            Some(Traffic::Canary { candidate, .. }) if version == Some(*candidate) => "canary",
            _ => STABLE,
        }
    }
}
