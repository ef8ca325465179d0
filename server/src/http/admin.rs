//! The admin listener: gRPC goes to `grpc/admin`; over HTTP: who calls, whether they may, then the admin interface or a call of the protocol.

pub(super) mod events;
mod records;
mod routes;
mod subjects;

use std::net::SocketAddr;
use std::sync::Arc;

use crossfade_inference_log::{Follower, Selection};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tonic::service::Routes;
use tower::Service as _;

use self::events::READERS;
use self::routes::Route;
use super::body::{self, Bounds};
use super::inference::refuse;
use super::reply::{self, Failure, ReplyBody, identify, without_body};
use super::routes::{NoRoute, Route as V2};
use super::{Front, control};
use crate::admin::{
    Admin, Caller, Change, Conditions, ControlError, Declined, Keyed, Page, ReleaseControl, Role, change,
};
use crate::audit::{Action, Call};
use crate::grpc;
use crate::listener::reader::{Awaited, HangUp, PATIENCE};
use crate::scope::RequestId;
use crate::status::{Refusal, Status};

/// The last record's place, on answers that hold records: what a later verification is held against.
const AUDIT_HEAD: HeaderName = HeaderName::from_static("x-audit-head");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Records in one answer, unless told otherwise, and at most.
const RECORDS: usize = 1000;
const MAX_RECORDS: usize = 10_000;

/// Headers that make a call depend on something that nothing here would keep.
const NOT_OFFERED: [&str; 2] = ["if-none-match", "if-unmodified-since"];
/// Bytes of a body that says what a release shall do.
const MAX_BODY: usize = 64 << 10;

/// Answers one request.
pub(super) async fn answer(
    front: Arc<Front>,
    admin: Arc<Admin>,
    peer: Option<SocketAddr>,
    hang_up: HangUp,
    head: Parts,
    mut body: Incoming,
) -> Response<ReplyBody> {
    let asked = Asked {
        front: &front,
        admin: &admin,
        peer,
        hang_up,
        head: &head,
    };
    let mut response = match asked.answer(&mut body).await {
        Ok(response) => response,
        Err(failure) => refuse(&failure, &head.headers, body).await,
    };
    identify(&mut response, RequestId::new());
    if head.method == Method::HEAD {
        without_body(response)
    } else {
        response
    }
}

/// Answers one call of gRPC.
pub(super) async fn over_grpc(
    mut routes: Routes,
    peer: Option<SocketAddr>,
    hang_up: HangUp,
    mut request: Request<Incoming>,
) -> Response<ReplyBody> {
    grpc::admin::came_from(&mut request, peer, hang_up);
    let Ok(response) = routes.call(request).await;
    let mut response = response.map(ReplyBody::grpc);
    identify(&mut response, RequestId::new());
    response
}

/// One request and what answers it.
struct Asked<'a> {
    front: &'a Arc<Front>,
    admin: &'a Arc<Admin>,
    peer: Option<SocketAddr>,
    /// Ends the connection that it came on.
    hang_up: HangUp,
    head: &'a Parts,
}

impl Asked<'_> {
    async fn answer(&self, body: &mut Incoming) -> Result<Response<ReplyBody>, Failure> {
        let route = Route::of(self.head.uri.path()).map_err(|no_route| match no_route {
            NoRoute::UnknownPath => Failure::UnknownPath,
            NoRoute::Name(why) => Refusal::invalid(format!("a name in the path {why}")).into(),
        })?;
        if !route.allows(&self.head.method) {
            return Err(Failure::Method { allow: route.allow() });
        }
        let caller = match self.admin.caller(&self.head.headers) {
            Ok(caller) => caller,
            Err(refusal) => return Err(self.refused(&route, None, refusal.into()).await),
        };
        let conditions = match self.permitted(&route, &caller).await {
            Ok(conditions) => conditions,
            Err(failure) => return Err(self.refused(&route, Some(&caller), failure).await),
        };
        let changes = self.head.method == Method::POST;
        let call = self.call(Some(&caller), &route);
        match route {
            Route::Health => Ok(json_answer(StatusCode::OK, &self.health())),
            Route::Audit => self.audit().await,
            Route::Events => self.events(),
            Route::LogStream => {
                caller.must_have(&[Role::Inspect])?;
                self.records().await
            }
            Route::Subject(asked) => self.subject(asked, call, caller.actor, body).await,
            Route::V2(asked) => match &conditions.key {
                Some(key) => self.once(asked, &caller, key, &conditions, body).await,
                None => control::attempt(self.front, call, asked, self.head, body).await,
            },
            Route::Releases { .. } | Route::Act { .. } | Route::Approve { .. } | Route::Rollback { .. }
                if changes =>
            {
                self.release(route, caller, conditions, body).await
            }
            Route::AllReleases => self.latest().await,
            Route::Plan { model } => {
                let rate = self.rate()?;
                self.read_releases(move |r| r.plan(&model, rate)).await
            }
            Route::Releases { model } => self.page(model).await,
            Route::Release { model, id } => self.read_releases(move |r| r.get(&model, &id)).await,
            // Their only method is POST.
            Route::Act { .. } | Route::Approve { .. } | Route::Rollback { .. } => Err(Failure::UnknownPath),
        }
    }

    /// On what condition a call is carried out, if its caller may have it carried out at all.
    async fn permitted(&self, route: &Route, caller: &Caller) -> Result<Conditions, Failure> {
        let Some((action, _)) = self.change(route) else {
            return Ok(Conditions::default());
        };
        caller.must_have(change::roles(action))?;
        let headers = &self.head.headers;
        if let Some(name) = NOT_OFFERED.into_iter().find(|name| headers.contains_key(*name)) {
            let message = format!("header `{name}` is not offered; send the call without it");
            return Err(Refusal::new(Status::Unsupported, message).into());
        }
        let conditions = Conditions::read(headers)?;
        // With a key: unless it was answered before, which a later configuration does not change.
        if let (Route::V2(_), None) = (route, &conditions.key) {
            let (admin, conditions, model) =
                (self.admin.clone(), conditions.clone(), route.model().to_owned());
            on_a_thread_that_may_wait(move || admin.must_match(&conditions, &model)).await??;
        }
        Ok(conditions)
    }

    /// What this request would change.
    fn change(&self, route: &Route) -> Option<(Action, String)> {
        route.change().filter(|_| self.head.method == Method::POST)
    }

    /// As records name whoever calls.
    fn call(&self, caller: Option<&Caller>, route: &Route) -> Call {
        let change = self.change(route);
        let roles = change.map_or(&[][..], |(action, _)| change::roles(action));
        Call::admin(caller, roles, self.peer)
    }

    /// Records a call that comes no further, if it would have changed something; returns what to answer.
    async fn refused(&self, route: &Route, caller: Option<&Caller>, failure: Failure) -> Failure {
        let Some(change) = self.change(route) else {
            return failure;
        };
        let call = self.call(caller, route);
        control::unread(&self.front.service, call, change, failure).await
    }

    fn health(&self) -> Value {
        let service = &self.front.service;
        let audit = match service.audit().head() {
            Some(head) => json!({ "seq": head.seq, "hash": head.hash.to_string() }),
            None => Value::Null,
        };
        json!({
            "live": true,
            "ready": service.ready(),
            "version": service.server_metadata().version,
            "config_rev": self.admin.releases().ok().map(|releases| releases.config_rev("")),
            // Null while it cannot be written.
            "audit": audit,
        })
    }

    /// Records after `since`, as an export has them.
    async fn audit(&self) -> Result<Response<ReplyBody>, Failure> {
        let (mut since, mut limit) = (0, RECORDS);
        for pair in self.head.uri.query().unwrap_or_default().split('&') {
            let number = |text: &str| text.parse::<u64>().map_err(|_| wrong_query(pair));
            match pair.split_once('=') {
                Some(("since", text)) => since = number(text)?,
                Some(("limit", text)) => {
                    limit = usize::try_from(number(text)?)
                        .unwrap_or(usize::MAX)
                        .min(MAX_RECORDS);
                }
                None if pair.is_empty() => {}
                _ => return Err(wrong_query(pair).into()),
            }
        }
        let (lines, head) = self.front.service.audit_lines(since, limit).await?;
        let mut response = reply::json(StatusCode::OK, lines);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON_LINES);
        if let Some(head) = head {
            let head = HeaderValue::from_str(&format!("{}:{}", head.seq, head.hash));
            headers.insert(AUDIT_HEAD, head.expect("digits and a colon are a header value"));
        }
        Ok(response)
    }

    /// Records and moves of releases from now on, as they are written.
    fn events(&self) -> Result<Response<ReplyBody>, Failure> {
        let place = self.place()?;
        let (records, moves) = (
            self.front.service.audit().follow(),
            self.front.service.releases().follow(),
        );
        let events = events::stream(records, moves, place, self.front.stopping.clone());
        let events = Awaited::new(events, PATIENCE, self.hang_up.clone());
        let mut response = Response::new(ReplyBody::live(events));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// Records of the inference log from now on, as they are appended: `model=NAME` and `version=VERSION` are those that are meant.
    async fn records(&self) -> Result<Response<ReplyBody>, Failure> {
        let recorder = self.front.service.recorder().ok_or_else(|| {
            let message = "the inference log is off: `log.enabled = false` in the configuration";
            Refusal::new(Status::Unsupported, message)
        })?;
        let mut wanted = Selection::default();
        for pair in self.head.uri.query().unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("model", name)) => wanted.model = Some(decoded(name)?),
                Some(("version", version)) => wanted.version = Some(decoded(version)?),
                None if pair.is_empty() => {}
                _ => return Err(wrong_query(pair).into()),
            }
        }
        let place = self.place()?;
        let (folder, keys) = (recorder.data_dir().to_owned(), recorder.keys().clone());
        let follower = on_a_thread_that_may_wait(move || Follower::from_now(&folder, &keys)).await?;
        let follower = follower.map_err(|error| Refusal::new(Status::Internal, error.to_string()))?;
        let lines = records::stream(follower, wanted, place, self.front.stopping.clone());
        let lines = Awaited::new(lines, PATIENCE, self.hang_up.clone());
        let mut response = Response::new(ReplyBody::live(lines));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON_LINES);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// A place among the readers of answers that have no end.
    fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let place = self.front.readers.clone().try_acquire_owned();
        place.map_err(|_| {
            let message = format!("{READERS} readers of events and records are connected already");
            Refusal::new(Status::Overloaded, message).into()
        })
    }

    /// `rate=N` of the query.
    fn rate(&self) -> Result<Option<f64>, Failure> {
        let query = self.head.uri.query().unwrap_or_default();
        let rate = query.strip_prefix("rate=").map(str::parse::<f64>);
        match rate {
            None if query.is_empty() => Ok(None),
            Some(Ok(rate)) => Ok(Some(rate)),
            _ => {
                let query: String = query.chars().take(64).collect();
                Err(Refusal::invalid(format!("`{query}`: a plan takes rate=N, units per second")).into())
            }
        }
    }

    /// The latest release of every model.
    async fn latest(&self) -> Result<Response<ReplyBody>, Failure> {
        if let Some(query) = self.head.uri.query().filter(|query| !query.is_empty()) {
            let query: String = query.chars().take(64).collect();
            let message = format!("`{query}`: pages are of one model: /crossfade/v1/models/MODEL/rollouts");
            return Err(Refusal::invalid(message).into());
        }
        let releases = self.front.service.releases().clone();
        let answer = on_a_thread_that_may_wait(move || releases.latest()).await?;
        Ok(json_answer(StatusCode::OK, &answer))
    }

    /// Releases of a model, newest first: `limit=N` of them, begun before the one of `before=ID`.
    async fn page(&self, model: String) -> Result<Response<ReplyBody>, Failure> {
        let page = Page::read(self.head.uri.query().unwrap_or_default())?;
        let releases = self.front.service.releases().clone();
        let answer = on_a_thread_that_may_wait(move || releases.page(&model, &page)).await?;
        Ok(json_answer(StatusCode::OK, &answer.map_err(Refusal::from)?))
    }

    async fn read_releases(
        &self,
        ask: impl FnOnce(&dyn ReleaseControl) -> Result<Value, ControlError> + Send + 'static,
    ) -> Result<Response<ReplyBody>, Failure> {
        let releases = self.admin.releases()?.clone();
        let answer = on_a_thread_that_may_wait(move || ask(&*releases)).await?;
        Ok(json_answer(StatusCode::OK, &answer.map_err(Refusal::from)?))
    }

    /// A call that changes releases; what does not come as far as the one that records it is recorded here.
    async fn release(
        &self,
        route: Route,
        caller: Caller,
        conditions: Conditions,
        body: &mut Incoming,
    ) -> Result<Response<ReplyBody>, Failure> {
        let change = match self.asked(route.clone(), body).await {
            Ok(change) => change,
            Err(failure) => return Err(self.refused(&route, Some(&caller), failure).await),
        };
        let created = matches!(route, Route::Releases { .. });
        let (admin, by, peer) = (self.admin.clone(), caller.clone(), self.peer);
        let answer = on_a_thread_that_may_wait(move || admin.change(&by, peer, change, &conditions)).await?;
        match answer {
            Ok(answer) if created => Ok(json_answer(StatusCode::CREATED, &answer)),
            Ok(answer) => Ok(json_answer(StatusCode::OK, &answer)),
            Err(declined) if declined.recorded => Err(declined.refusal.into()),
            Err(declined) => Err(self.refused(&route, Some(&caller), declined.refusal.into()).await),
        }
    }

    /// A call of the protocol with a key.
    async fn once(
        &self,
        asked: V2,
        caller: &Caller,
        key: &str,
        conditions: &Conditions,
        body: &mut Incoming,
    ) -> Result<Response<ReplyBody>, Failure> {
        let route = Route::V2(asked.clone());
        let call = self.call(Some(caller), &route);
        let body = control::received(self.front, &call, &asked, self.head, body).await?;
        let keyed = Keyed {
            caller,
            key,
            path: self.head.uri.path(),
            model: route.model(),
            body: &body,
            conditions,
        };
        let (front, carried, text) = (self.front.clone(), asked.clone(), body.clone());
        let deed = async move {
            let done = control::carry_out(&front.service, call, carried, &text).await;
            done.map(|(_, answer)| answer).map_err(Failure::into_refusal)
        };
        match self.admin.once(keyed, deed).await {
            Ok(answer) => Ok(json_answer(StatusCode::OK, &answer)),
            Err(Declined {
                refusal,
                recorded: true,
            }) => Err(match asked {
                V2::Load { .. } | V2::Unload { .. } => Failure::Repository(refusal),
                _ => refusal.into(),
            }),
            Err(Declined { refusal, .. }) => Err(self.refused(&route, Some(caller), refusal.into()).await),
        }
    }

    /// Reads what a call asks of releases.
    async fn asked(&self, route: Route, body: &mut Incoming) -> Result<Change, Failure> {
        Ok(match route {
            Route::Releases { model } => Change::Create {
                model,
                request: self.document(body).await?,
            },
            Route::Act { model, id, action } => {
                let Because { reason } = self.document(body).await?;
                Change::Act {
                    model,
                    id,
                    action,
                    reason,
                }
            }
            Route::Approve { model, id } => Change::Approve {
                model,
                id,
                request: Box::new(self.document(body).await?),
            },
            Route::Rollback { model } => {
                let Back { to, reason } = self.document(body).await?;
                Change::Rollback { model, to, reason }
            }
            Route::Health
            | Route::Audit
            | Route::Events
            | Route::LogStream
            | Route::Subject(_)
            | Route::AllReleases
            | Route::Plan { .. }
            | Route::Release { .. }
            | Route::V2(_) => {
                return Err(Failure::UnknownPath);
            }
        })
    }

    /// Reads a body of JSON; no body is an empty object.
    async fn document<T: DeserializeOwned>(&self, body: &mut Incoming) -> Result<T, Failure> {
        let service = &self.front.service;
        let bounds = Bounds {
            max_bytes: MAX_BODY,
            idle: service.limits().body_idle_timeout,
            deadline: None,
        };
        let bytes = body::read(body, bounds, service.arriving()).await?;
        let text = match bytes.trim_ascii() {
            [] => b"{}",
            text => text,
        };
        let read = serde_json::from_slice(text);
        read.map_err(|error| Refusal::invalid(format!("the request's body: {error}")).into())
    }
}

/// Why, if anyone says so.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Because {
    #[serde(default)]
    reason: Option<String>,
}

/// Where to, by default to the version before, and why.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    #[serde(default)]
    to: Option<u64>,
    reason: String,
}

async fn on_a_thread_that_may_wait<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::new(Status::Internal, error.to_string()))
}

/// A name in a query.
fn decoded(text: &str) -> Result<String, Refusal> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| wrong_query(text))
}

fn wrong_query(pair: &str) -> Refusal {
    let pair: String = pair.chars().take(64).collect();
    Refusal::invalid(format!("`{pair}`: the audit takes since=SEQ and limit=N"))
}

fn json_answer(status: StatusCode, body: &Value) -> Response<ReplyBody> {
    reply::json(status, body.to_string().into_bytes())
}
