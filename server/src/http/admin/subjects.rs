//! What a person may ask of the inference log (inference-log.md §9): each call is recorded in the audit, by the keyed digest of the
//! person's id and never the id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use crossfade_inference_log::{Correction, Log, LogError, Selection};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Asked, json_answer, on_a_thread_that_may_wait};
use crate::audit::{Action, Call, Entry, Outcome};
use crate::http::control;
use crate::http::reply::{Failure, ReplyBody};
use crate::recorder::{Recorder, Wish};
use crate::status::{Refusal, Status};

/// Around the time that a request's id tells: clocks are not all one.
const AROUND: Duration = Duration::from_secs(60 * 60);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubjectCall {
    /// Records go.
    Erase,
    /// They stay and are not used.
    Restrict,
    /// No model decides about the person any more.
    Object,
    /// Both end.
    Lift,
    /// What a record says is put right beside it.
    Rectify,
}

impl SubjectCall {
    /// By its name in a path.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "erase" => Self::Erase,
            "restrict" => Self::Restrict,
            "object" => Self::Object,
            "lift" => Self::Lift,
            "rectify" => Self::Rectify,
            _ => return None,
        })
    }

    /// As the audit names it.
    pub(super) fn action(self) -> Action {
        match self {
            Self::Erase => Action::SubjectErase,
            Self::Restrict => Action::SubjectRestrict,
            Self::Object => Action::SubjectObject,
            Self::Lift => Action::SubjectLift,
            Self::Rectify => Action::SubjectRectify,
        }
    }
}

/// Whom it is about, and why.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    subject: String,
    reason: String,
    /// To rectify: which record.
    #[serde(default)]
    request_id: Option<Uuid>,
    /// To rectify: what is right, by the names of columns.
    #[serde(default)]
    correction: Option<Map<String, Value>>,
}

/// What is done for a person.
enum Deed {
    Erase,
    Wish(Wish),
    Rectify(Uuid, String),
}

impl Document {
    /// What it asks for.
    ///
    /// Errors: what is missing or too much.
    fn deed(&self, call: SubjectCall) -> Result<Deed, Refusal> {
        if self.subject.is_empty() || self.reason.trim().is_empty() {
            let message = "name the `subject`, as x-subject-id has it, and a `reason`";
            return Err(Refusal::invalid(message));
        }
        let wish = match (call, self.request_id, &self.correction) {
            (SubjectCall::Rectify, Some(id), Some(right)) if !right.is_empty() => {
                return Ok(Deed::Rectify(id, Value::from(right.clone()).to_string()));
            }
            (SubjectCall::Rectify, ..) => {
                let message = "name the `request_id` of the record, and as `correction` what is right, such as {\"in.age\": 41}";
                return Err(Refusal::invalid(message));
            }
            (_, None, None) => match call {
                SubjectCall::Restrict => Wish::Restrict,
                SubjectCall::Object => Wish::Object,
                SubjectCall::Lift => Wish::Lift,
                SubjectCall::Erase | SubjectCall::Rectify => return Ok(Deed::Erase),
            },
            _ => {
                let message = "`request_id` and `correction` belong to subjects:rectify";
                return Err(Refusal::invalid(message));
            }
        };
        Ok(Deed::Wish(wish))
    }
}

impl Asked<'_> {
    /// Does what a person asks for. Recorded before it begins, and when it is done.
    pub(super) async fn subject(
        &self,
        asked: SubjectCall,
        call: Call,
        actor: String,
        body: &mut Incoming,
    ) -> Result<Response<ReplyBody>, Failure> {
        let service = &self.front.service;
        let action = asked.action();
        let off = || {
            let message = "the inference log is off: `log.enabled = false` in the configuration";
            Refusal::new(Status::Unsupported, message)
        };
        let read: Result<Document, Failure> = self.document(body).await;
        let read = read.and_then(|document| {
            let deed = document.deed(asked)?;
            Ok((document, deed, service.recorder().cloned().ok_or_else(off)?))
        });
        let (document, deed, recorder) = match read {
            Ok(read) => read,
            Err(failure) => {
                let change = (action, "subject".to_owned());
                return Err(control::unread(service, call, change, failure).await);
            }
        };
        let key = recorder.subject_key(&document.subject);
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = Entry::new(call, action, &format!("subject/{name}")).reason(&document.reason);
        let (audit, begun) = (service.audit().clone(), entry.clone().ended(Outcome::Accepted));
        let seq = on_a_thread_that_may_wait(move || audit.write(begun)).await??;
        let done = match deed {
            Deed::Erase => recorder
                .erase(key)
                .await
                .map(|certificate| json!(certificate))
                .map_err(failed),
            Deed::Wish(wish) => {
                let recorder = recorder.clone();
                let noted = on_a_thread_that_may_wait(move || recorder.wish(key, wish)).await?;
                let answer = |changed| json!({ "subject_key": name, "changed": changed });
                noted.map(answer).map_err(failed)
            }
            Deed::Rectify(request, right) => {
                let correction = Correction {
                    request_id: *request.as_bytes(),
                    ts_us: now_us(),
                    subject_key: key,
                    correction: right,
                    actor,
                    reason: document.reason,
                };
                rectify(&recorder, correction).await
            }
        };
        let entry = entry.following(seq);
        let entry = match &done {
            Ok(certificate) => entry.ended(Outcome::Ok).after(certificate.clone()),
            Err(refusal) => entry.ended(Outcome::Failed).error(&refusal.message),
        };
        let audit = service.audit().clone();
        on_a_thread_that_may_wait(move || audit.write(entry)).await??;
        let certificate = done?;
        service.metrics().privacy(action.name());
        Ok(json_answer(StatusCode::OK, &certificate))
    }
}

/// Writes a correction down, if there is such a record about the person.
async fn rectify(recorder: &Recorder, correction: Correction) -> Result<Value, Refusal> {
    let (folder, keys) = (recorder.data_dir().to_owned(), recorder.keys().clone());
    let (request, subject) = (correction.request_id, correction.subject_key);
    let is_there = on_a_thread_that_may_wait(move || -> Result<bool, LogError> {
        let log = Log::open(&folder, &keys)?;
        let found = log.find(
            &around(request),
            &["request_id", "subject_key"],
            move |table, row| is(table, "request_id", row, request) && is(table, "subject_key", row, subject),
        );
        Ok(!found?.is_empty())
    });
    if !is_there.await?.map_err(|error| failed(error.to_string()))? {
        let message = "the inference log has no such record about this person: look for it with `crossfade log export --subject`";
        return Err(Refusal::new(Status::NotFound, message));
    }
    let file = recorder.correct(correction).await.map_err(failed)?;
    Ok(json!({ "path": file.path, "sha256": file.sha256 }))
}

/// When a request may have come whose id this is.
fn around(request: [u8; 16]) -> Selection {
    let at = Uuid::from_bytes(request)
        .get_timestamp()
        .map(|time| time.to_unix());
    let at = at.map(|(seconds, _)| Duration::from_secs(seconds));
    let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Selection {
        since_us: at.map(|at| us(at.saturating_sub(AROUND))),
        until_us: at.map(|at| us(at.saturating_add(AROUND))),
        ..Selection::default()
    }
}

fn is(table: &RecordBatch, column: &str, row: usize, wanted: [u8; 16]) -> bool {
    let ids = table
        .column_by_name(column)
        .and_then(|ids| ids.as_fixed_size_binary_opt());
    ids.is_some_and(|ids| ids.is_valid(row) && ids.value(row) == wanted)
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn failed(problem: String) -> Refusal {
    Refusal::new(Status::Internal, problem)
}
