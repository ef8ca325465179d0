//! The life of one request: opened when its head is read, finished exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_batcher::{Answer, Batcher, JobError, Timings};
use crossfade_models::Division;
use crossfade_rollout::ledger::HardTrigger;
use crossfade_rollout::routing::{RouteReason, Traffic};
use crossfade_runtimes_core::{ModelSignature, Tensor};
use crossfade_statistics::Arm;
use crossfade_text::Cut;
use http::{HeaderMap, HeaderValue};

pub use self::id::RequestId;
use crate::metrics::Series;
use crate::recorder::{Kept, trace_id};
use crate::release::{Count, Fault, Reading, RequestCopy, Shadow};
use crate::servable::Servable;
use crate::service::Service;
use crate::status::{Refusal, Status};

mod id;
mod recording;

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// gRPC unary.
    Grpc,
    /// A message on a gRPC stream.
    GrpcStream,
    /// REST v2, over HTTP/1.1 or h2c.
    Http,
    /// OpenAI's embeddings, over HTTP.
    OpenAi,
    /// text-embeddings-inference's routes, over HTTP.
    Tei,
}

impl Protocol {
    /// Every protocol, in the order of their numbers.
    pub const ALL: [Protocol; 5] = [
        Protocol::Grpc,
        Protocol::GrpcStream,
        Protocol::Http,
        Protocol::OpenAi,
        Protocol::Tei,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::GrpcStream => "grpc_stream",
            Protocol::Http => "http",
            Protocol::OpenAi => "openai",
            Protocol::Tei => "tei",
        }
    }

    /// The name in the inference log, which tells protocols apart and not their transports.
    pub(crate) const fn logged(self) -> &'static str {
        match self {
            Protocol::Grpc | Protocol::GrpcStream => "grpc_v2",
            Protocol::Http => "http_v2",
            Protocol::OpenAi => "openai",
            Protocol::Tei => "tei",
        }
    }

    /// The code of an outcome in this protocol.
    pub(crate) fn code(self, outcome: Outcome) -> u16 {
        let status = match outcome {
            Outcome::Ok => None,
            Outcome::Refused(status) => Some(status),
        };
        match self {
            Protocol::Grpc | Protocol::GrpcStream => {
                let code = status.map_or(0, |status| i32::from(status.grpc()));
                u16::try_from(code).unwrap_or_default()
            }
            Protocol::Http | Protocol::OpenAi | Protocol::Tei => {
                status.map_or(200, |status| status.http().as_u16())
            }
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Refused or failed.
    Refused(Status),
}

impl Outcome {
    /// `ok`, or the row of the status table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused(status) => status.name(),
        }
    }
}

impl From<&Refusal> for Outcome {
    fn from(refusal: &Refusal) -> Self {
        Outcome::Refused(refusal.status)
    }
}

/// The version that a request was routed to, as its answer names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The version.
    pub version: u64,
    /// The release that is active.
    pub release: Option<Arc<str>>,
}

/// How a request's version was chosen.
pub(crate) struct Chosen {
    /// What decided.
    pub(crate) reason: RouteReason,
    /// The draw, where chance decided.
    pub(crate) unit: u64,
    /// How the model's requests are divided.
    pub(crate) division: Option<Arc<Division>>,
}

/// A request of a version whose successor gets copies.
struct Shadowed {
    shadow: Arc<Shadow>,
    /// This one's, if it was drawn.
    copy: Option<RequestCopy>,
}

/// One request from its head to its answer. Dropping it unfinished records `Cancelled`.
pub struct RequestScope {
    service: Arc<Service>,
    id: RequestId,
    protocol: Protocol,
    arrived: Instant,
    deadline: Option<Instant>,
    client_id: Option<Box<str>>,
    target: Option<(Box<str>, Box<str>)>,
    routed: Option<Arc<Series>>,
    chosen: Option<Chosen>,
    trigger: Option<HardTrigger>,
    reading: Option<Reading>,
    shadowed: Option<Box<Shadowed>>,
    submitted: Option<Instant>,
    /// Whether its time is compared.
    is_timed: bool,
    answered: Option<(Timings, usize)>,
    /// What the inference log keeps, where there is one.
    kept: Option<Box<Kept>>,
    finished: bool,
}

impl RequestScope {
    /// Opens the scope; `arrived` is when the head was read.
    pub fn open(service: &Arc<Service>, protocol: Protocol, arrived: Instant) -> Self {
        Self {
            service: service.clone(),
            id: RequestId::new(),
            protocol,
            arrived,
            deadline: None,
            client_id: None,
            target: None,
            routed: None,
            chosen: None,
            trigger: None,
            reading: None,
            shadowed: None,
            submitted: None,
            is_timed: false,
            answered: None,
            kept: service.recorder().map(|recorder| {
                recorder.open_request();
                Box::default()
            }),
            finished: false,
        }
    }

    /// The id that goes out as `x-request-id`.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// When the head was read.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Notes the `x-request-id` that the client sent; logged, never reused.
    pub fn note_client_id(&mut self, id: &str) {
        self.client_id = Some(id.chars().take(128).collect::<String>().into());
    }

    /// Notes the model and version as the client wrote them, so that a request refused before it is routed
    /// still counts under its model.
    pub fn note_target(&mut self, model: &str, version: &str) {
        self.target = Some((model.into(), version.into()));
    }

    /// Bounds the request to end `after` its arrival; only ever shortens.
    pub fn limit_to(&mut self, after: Duration) {
        let Some(at) = self.arrived.checked_add(after) else {
            return;
        };
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// The deadline, if any.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Notes the version that will answer, and why this one.
    pub(crate) fn routed(&mut self, series: &Arc<Series>, chosen: Chosen) {
        series.enter();
        self.routed = Some(series.clone());
        self.chosen = Some(chosen);
    }

    /// The version that the request was routed to, if it came that far.
    pub fn served(&self) -> Option<Served> {
        let division = self.chosen.as_ref().and_then(|chosen| chosen.division.as_ref());
        Some(Served {
            version: self.routed.as_ref()?.version?,
            release: division.and_then(|division| division.release.clone()),
        })
    }

    /// Whether the request counts for the version that is being released.
    pub(crate) fn is_canary(&self) -> bool {
        self.counted().is_some_and(|(_, arm)| arm == Arm::Canary)
    }

    /// Where the request runs, if it is one of the live version whose time is held against that of the version that is being
    /// released. For all others this is one branch.
    pub(crate) fn baseline(&mut self, routed: &Servable) -> Option<Arc<Batcher>> {
        let (_, arm) = self.counted()?;
        let chosen = self.chosen.as_ref()?;
        let traffic = &chosen.division.as_ref()?.traffic;
        let drawn = arm == Arm::Control && traffic.is_baseline(chosen.unit);
        let baseline = drawn.then(|| routed.baseline()).flatten();
        self.is_timed = arm == Arm::Canary || baseline.is_some() || !traffic.has_baseline();
        baseline
    }

    /// Notes what takes the version that is being released back at once.
    pub(crate) fn trigger(&mut self, trigger: HardTrigger) {
        self.trigger = Some(trigger);
    }

    /// Takes a copy of the request that is about to run, if the version that is being released gets copies and this
    /// one was drawn. For all others this is one branch.
    pub(crate) fn copy(
        &mut self,
        headers: &HeaderMap,
        signature: &ModelSignature,
        inputs: &[Option<Tensor>],
        outputs: &[usize],
        cut: Option<Cut>,
    ) {
        let Some(chosen) = &self.chosen else { return };
        let Some((division, release)) = chosen
            .division
            .as_ref()
            .and_then(|division| Some((division, division.shadow.as_ref()?)))
        else {
            return;
        };
        // What someone has chosen is not drawn.
        if chosen.reason != RouteReason::Only {
            return;
        }
        if let Some(shadow) = self.service.releases().shadow(release) {
            let key = division.key(|name| headers.get(name).map(HeaderValue::as_bytes));
            let mut copy = shadow.copy((self.id, self.protocol), key, signature, inputs, outputs);
            if let Some(copy) = &mut copy {
                copy.subject = self.kept.as_ref().and_then(|kept| kept.subject);
                copy.cut = cut;
            }
            self.shadowed = Some(Box::new(Shadowed { shadow, copy }));
        }
    }

    /// Keeps what the live version answered for the copy.
    pub(crate) fn copied(
        &mut self,
        signature: &ModelSignature,
        outputs: &[usize],
        answer: &Result<Answer, JobError>,
    ) {
        if let Some(copy) = self.shadowed.as_mut().and_then(|shadowed| shadowed.copy.as_mut()) {
            copy.answered(signature, outputs, answer);
        }
    }

    /// Reads the answer for the release that the request counts for, where versions are compared by their answers.
    ///
    /// * `outputs`: what was asked for, as indices of the signature; `tensors`: the answer, in the same order
    pub(crate) fn read(
        &mut self,
        signature: &ModelSignature,
        outputs: &[usize],
        tensors: &[Tensor],
        rows: usize,
    ) {
        let Some((release, arm)) = self.counted() else {
            return;
        };
        let id = self.id.as_bytes();
        let watch = self.service.releases().watch(release);
        self.reading = watch.and_then(|watch| watch.read(arm, id, signature, outputs, tensors, rows));
    }

    /// The release that the request counts for, and on which side: only what chance divided counts, or what goes to the
    /// only version while it bakes.
    fn counted(&self) -> Option<(&Arc<str>, Arm)> {
        let chosen = self.chosen.as_ref()?;
        let division = chosen.division.as_ref()?;
        let release = division.release.as_ref()?;
        let version = self.routed.as_ref()?.version;
        let counts = match division.traffic {
            Traffic::Only(only) => chosen.reason == RouteReason::Only && version == Some(only),
            Traffic::Canary { .. } => chosen.reason.is_randomised(),
        };
        let control =
            matches!(division.traffic, Traffic::Canary { champion, .. } if version == Some(champion));
        counts.then_some((release, if control { Arm::Control } else { Arm::Canary }))
    }

    /// Whether the version failed the request; `None` where that cannot be told: the client went away, or its request
    /// was wrong before any model saw it.
    fn judged(&self, outcome: Outcome) -> Option<Option<Fault>> {
        match outcome {
            Outcome::Ok => Some(None),
            Outcome::Refused(Status::Internal | Status::NotReady | Status::Overloaded) => {
                Some(Some(Fault::Own))
            }
            // How long it may take is the client's to say.
            Outcome::Refused(Status::DeadlineExceeded) => Some(Some(Fault::Doubtful)),
            // It fits the signature, so this is what the model makes of it. Clients' mistakes go to both arms alike.
            Outcome::Refused(Status::InvalidInput) => self.submitted.map(|_| Some(Fault::Doubtful)),
            Outcome::Refused(_) => None,
        }
    }

    /// Counts the request for its release.
    fn count(&self, outcome: Outcome) {
        let (Some((release, arm)), Some(chosen)) = (self.counted(), &self.chosen) else {
            return;
        };
        let Some(failed) = self.judged(outcome) else {
            return;
        };
        let timings = self.answered.as_ref().map(|(timings, _)| timings);
        let count = Count {
            epoch: chosen.division.as_ref().map_or(0, |division| division.epoch),
            arm,
            unit: chosen.unit,
            failed,
            trigger: self.trigger.filter(|_| arm == Arm::Canary),
            batch: timings.and_then(|timings| Some((timings.started?, timings.compute))),
            is_timed: self.is_timed,
            reading: self.reading,
        };
        self.service.releases().count(release, count);
    }

    /// Notes why the request is not answered, for the inference log.
    pub(crate) fn note_error(&mut self, message: &str) {
        if let Some(kept) = &mut self.kept {
            kept.error = Some(message.into());
        }
    }

    /// Notes what the client calls the request where no header said so: by the `id` of its body, or as an event.
    pub(crate) fn note_body_id(&mut self, id: Option<&str>, headers: &HeaderMap) {
        if self.client_id.is_none() && self.kept.is_some() {
            let event = || headers.get("ce-id").and_then(|id| id.to_str().ok());
            let id = id.filter(|id| !id.is_empty()).or_else(event);
            id.into_iter().for_each(|id| self.note_client_id(id));
        }
    }

    /// Notes the trace that the request belongs to, who asks, and whom it is about.
    pub(crate) fn note_trace(&mut self, headers: &HeaderMap) {
        if let Some(kept) = &mut self.kept {
            let header = headers.get("traceparent").map(HeaderValue::as_bytes);
            kept.trace_id = header.and_then(trace_id);
            kept.subject = self
                .service
                .recorder()
                .and_then(|recorder| recorder.subject(headers));
            kept.caller = self
                .service
                .recorder()
                .and_then(|recorder| recorder.caller(headers));
        }
    }

    /// Errors: the person whom the request is about objects to being decided about by a model.
    pub(crate) fn check_objection(&self) -> Result<(), Refusal> {
        let subject = self.kept.as_ref().and_then(|kept| kept.subject);
        match subject.zip(self.service.recorder()) {
            Some((subject, recorder)) if recorder.objects(&subject) => Err(Refusal::new(
                Status::HumanReview,
                "the person whom this is about objects to decisions by a model: have a person decide",
            )),
            _ => Ok(()),
        }
    }

    /// Keeps what was asked of a version, once it fits the signature.
    pub(crate) fn asked(&mut self, servable: &Servable, inputs: &[Option<Tensor>], rows: usize) {
        if let Some(kept) = &mut self.kept {
            kept.provenance = servable.provenance().cloned();
            kept.asked(inputs, rows);
        }
    }

    /// Keeps what was left out of its texts.
    pub(crate) fn staged(&mut self, cut: Option<Cut>) {
        if let Some(kept) = &mut self.kept {
            kept.cut = cut;
        }
    }

    /// Keeps what was answered.
    pub(crate) fn told(&mut self, outputs: &[usize], tensors: &[Tensor]) {
        if let Some(kept) = &mut self.kept {
            kept.answered(outputs, tensors);
        }
    }

    /// Notes that the request goes to the batcher now: the `decode` stage ends.
    pub(crate) fn submitted(&mut self, at: Instant) {
        self.submitted = Some(at);
    }

    /// Notes the batcher's answer of `rows` rows.
    pub(crate) fn answered(&mut self, timings: Timings, rows: usize) {
        self.answered = Some((timings, rows));
    }

    /// Ends the request: after encoding, before the first response byte.
    ///
    /// Errors: the answer must not be sent, because nothing is served unrecorded and it could not be.
    pub async fn finish(mut self, outcome: Outcome) -> Result<(), Refusal> {
        let strict = self.service.recorder().filter(|recorder| recorder.delays());
        let Some(recorder) = strict.cloned() else {
            self.end(outcome);
            return Ok(());
        };
        if recorder.blocks() && !recorder.room(self.recorded_bytes(&recorder)).await {
            let refusal = recording::no_room();
            self.note_error(&refusal.message);
            // What happened may still have room.
            if let Some(kept) = &mut self.kept {
                kept.is_bare = true;
            }
            self.end(Outcome::Refused(refusal.status));
            return Err(refusal);
        }
        let is_recorded = self.end(outcome);
        let is_safe = recorder.acknowledged().await;
        match recorder.blocks() && !(is_recorded && is_safe) {
            true => Err(recording::no_room()),
            false => Ok(()),
        }
    }

    /// Ends a request whose answer is not its own: nothing waits for its record.
    pub(crate) fn end_at_once(mut self, outcome: Outcome, message: &str) {
        self.note_error(message);
        let _is_recorded = self.end(outcome);
    }

    /// Returns whether the request is in the inference log, or need not be.
    fn end(&mut self, outcome: Outcome) -> bool {
        self.finished = true;
        let total = self.arrived.elapsed();
        self.count(outcome);
        if let Some(shadowed) = self.shadowed.take() {
            let Shadowed { shadow, copy } = *shadowed;
            let took = self.submitted.filter(|_| outcome == Outcome::Ok);
            shadow.ended(took.map(|submitted| submitted.elapsed()), copy);
        }
        let series = self.routed.take();
        if let Some(series) = &series {
            series.leave();
        }
        let series = series.unwrap_or_else(|| {
            let target = self.target.as_ref();
            target
                .and_then(|(model, version)| self.service.series_of(model, version))
                .unwrap_or_else(|| self.service.metrics().unknown().clone())
        });
        match (outcome, &self.answered, self.submitted) {
            (Outcome::Ok, Some((timings, rows)), Some(submitted)) => {
                let decode = submitted.duration_since(self.arrived);
                let Timings {
                    queue,
                    gather,
                    compute,
                    scatter,
                    ..
                } = *timings;
                let encode = total.saturating_sub(decode + queue + gather + compute + scatter);
                series.success(
                    self.protocol,
                    *rows,
                    &[decode, queue, gather, compute, scatter, encode, total],
                );
            }
            (Outcome::Ok, ..) => series.success(self.protocol, 0, &[Duration::ZERO; 7]),
            (Outcome::Refused(status), ..) => series.failure(self.protocol, status, total),
        }
        if let Some(kept) = &mut self.kept {
            kept.redact();
        }
        let is_recorded = match (self.service.recorder(), &self.kept) {
            (Some(recorder), Some(kept)) => self.record(recorder, kept, outcome, &series, total),
            _ => true,
        };
        if self.service.access_log() {
            self.log(outcome, &series, total);
        }
        is_recorded
    }

    fn log(&self, outcome: Outcome, series: &Series, total: Duration) {
        let status = outcome.name();
        let timings = self.answered.as_ref().map(|(timings, _)| timings);
        tracing::info!(
            target: "access",
            request_id = %self.id,
            client_request_id = self.client_id.as_deref(),
            protocol = self.protocol.name(),
            model = %series.model,
            version = series.version,
            route_reason = self.chosen.as_ref().map(|chosen| chosen.reason.name()),
            status,
            rows = self.answered.as_ref().map(|(_, rows)| rows),
            batch_rows = timings.map(|timings| timings.batch_rows),
            queue_us = timings.map(|timings| timings.queue.as_micros()),
            compute_us = timings.map(|timings| timings.compute.as_micros()),
            total_us = total.as_micros(),
            "request"
        );
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody waits for an answer that may not be sent.
            let _is_recorded = self.end(Outcome::Refused(Status::Cancelled));
        }
    }
}
