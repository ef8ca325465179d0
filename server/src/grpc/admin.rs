//! `crossfade.admin.v1.Rollouts`: the admin interface over gRPC, on the admin listener, with the same tokens, roles and
//! records as over HTTP.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crossfade_journal::approval::Subject;
use crossfade_proto::ADMIN_DESCRIPTOR_SET;
use crossfade_proto::admin as wire;
use crossfade_proto::admin::rollouts_server::{Rollouts, RolloutsServer};
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status as Code};

use super::Peer;
use crate::admin::{
    Admin, ApproveRelease, Caller, Change, Conditions, CreateRelease, Page, ReleaseAction, ReleaseControl,
    change,
};
use crate::audit::Call;
use crate::listener::reader::{Awaited, HangUp, PATIENCE};
use crate::service::Service;
use crate::status::{Refusal, Status};

/// Records in one answer, unless told otherwise, and at most.
const RECORDS: usize = 1000;
const MAX_RECORDS: usize = 10_000;
/// Bytes of a call that says what a release shall do.
const MAX_MESSAGE: usize = 64 << 10;
/// Between two looks at a release that is watched.
const LOOK: Duration = Duration::from_millis(500);

/// The interface and its reflection.
///
/// * `readers`: places for those who watch
pub(crate) fn routes(
    service: &Arc<Service>,
    admin: &Arc<Admin>,
    readers: &Arc<Semaphore>,
    stopping: &CancellationToken,
) -> Routes {
    let front = Front {
        service: service.clone(),
        admin: admin.clone(),
        readers: readers.clone(),
        stopping: stopping.clone(),
    };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ADMIN_DESCRIPTOR_SET)
    };
    let ours = "the descriptors were made when this program was built";
    Routes::new(RolloutsServer::new(front).max_decoding_message_size(MAX_MESSAGE))
        .add_service(reflection().build_v1().expect(ours))
        .add_service(reflection().build_v1alpha().expect(ours))
        .prepare()
}

/// Says to the handlers who called, and what ends the connection.
pub(crate) fn came_from<B>(request: &mut http::Request<B>, peer: Option<SocketAddr>, hang_up: HangUp) {
    request.extensions_mut().insert(hang_up);
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer(peer));
    }
}

struct Front {
    service: Arc<Service>,
    admin: Arc<Admin>,
    readers: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl Front {
    /// Who calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        self.admin.caller(&request.metadata().clone().into_headers())
    }

    /// Carries out a change, recorded once whatever becomes of it.
    async fn change<T>(
        &self,
        request: &Request<T>,
        change: Result<Change, Box<Unread>>,
    ) -> Result<Value, Code> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let headers = request.metadata().clone().into_headers();
        let named = match &change {
            Ok(change) => change.audited(),
            Err(unread) => unread.of.audited(),
        };
        let caller = self.admin.caller(&headers);
        let call = Call::admin(caller.as_ref().ok(), change::roles(named.0), peer);
        let asked = caller.and_then(|caller| {
            caller.must_have(change::roles(named.0))?;
            let conditions = Conditions::read(&headers)?;
            Ok((caller, change.map_err(|unread| unread.refusal)?, conditions))
        });
        let (caller, change, conditions) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return Err(self.refused(call, named, refusal).await),
        };
        let admin = self.admin.clone();
        match waited(move || admin.change(&caller, peer, change, &conditions)).await? {
            Ok(answer) => Ok(answer),
            Err(declined) if declined.recorded => Err(declined.refusal.into()),
            Err(declined) => Err(self.refused(call, named, declined.refusal).await),
        }
    }

    async fn refused(&self, call: Call, named: (crate::audit::Action, String), refusal: Refusal) -> Code {
        let (action, object) = named;
        self.service
            .refuse_change(call, action, &object, refusal)
            .await
            .into()
    }

    async fn act(
        &self,
        request: Request<wire::ActRequest>,
        action: ReleaseAction,
    ) -> Result<Response<wire::Rollout>, Code> {
        let wire::ActRequest { model, id, reason } = request.get_ref().clone();
        let change = Change::Act {
            model,
            id,
            action,
            reason,
        };
        Ok(Response::new(rollout(&self.change(&request, Ok(change)).await?)))
    }

    /// Reads of releases.
    async fn read<T>(
        &self,
        request: &Request<T>,
        ask: impl FnOnce(&dyn ReleaseControl) -> Result<Value, crate::admin::ControlError> + Send + 'static,
    ) -> Result<Value, Code> {
        self.caller(request)?;
        let releases = self.admin.releases()?.clone();
        Ok(waited(move || ask(&*releases)).await?.map_err(Refusal::from)?)
    }
}

#[tonic::async_trait]
impl Rollouts for Front {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::Rollout>, Code> {
        let asked = request.get_ref().clone();
        let change = Change::Create {
            model: asked.model,
            request: CreateRelease {
                version: asked.version,
                supersede: asked.supersede,
                reason: asked.reason,
            },
        };
        Ok(Response::new(rollout(&self.change(&request, Ok(change)).await?)))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Rollout>, Code> {
        let wire::GetRequest { model, id } = request.get_ref().clone();
        let found = self.read(&request, move |r| r.get(&model, &id)).await?;
        Ok(Response::new(rollout(&found)))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Code> {
        self.caller(&request)?;
        let wire::ListRequest { model, limit, before } = request.into_inner();
        let releases = self.service.releases().clone();
        let answer = if model.is_empty() {
            if limit != 0 || !before.is_empty() {
                let message = "`limit` and `before` are of the releases of one model; name it";
                return Err(Refusal::invalid(message).into());
            }
            waited(move || releases.latest()).await?
        } else {
            let limit = NonZeroUsize::new(usize::try_from(limit).unwrap_or(usize::MAX));
            let page = Page::new(limit, Some(before).filter(|before| !before.is_empty()));
            let answer = waited(move || releases.page(&model, &page)).await?;
            answer.map_err(Refusal::from)?
        };
        let rollouts = answer["rollouts"].as_array().into_iter().flatten();
        Ok(Response::new(wire::ListResponse {
            rollouts: rollouts.map(rollout).collect(),
            next: answer["next"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    async fn watch(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<BoxStream<wire::Rollout>>, Code> {
        self.caller(&request)?;
        let place = self.readers.clone().try_acquire_owned();
        let place =
            place.map_err(|_| Refusal::new(Status::Overloaded, "too many readers are connected already"))?;
        let hang_up = request.extensions().get::<HangUp>().cloned();
        let wire::GetRequest { model, id } = request.into_inner();
        let watched = Watched {
            releases: self.admin.releases()?.clone(),
            model,
            id,
            before: None,
            stopping: self.stopping.clone(),
            _place: place,
        };
        let states = unfold(Some(watched), next);
        let states = Awaited::new(states, PATIENCE, hang_up.unwrap_or_default());
        Ok(Response::new(Box::pin(states)))
    }

    async fn pause(&self, request: Request<wire::ActRequest>) -> Result<Response<wire::Rollout>, Code> {
        self.act(request, ReleaseAction::Pause).await
    }

    async fn resume(&self, request: Request<wire::ActRequest>) -> Result<Response<wire::Rollout>, Code> {
        self.act(request, ReleaseAction::Resume).await
    }

    async fn promote(&self, request: Request<wire::ActRequest>) -> Result<Response<wire::Rollout>, Code> {
        self.act(request, ReleaseAction::Promote).await
    }

    async fn abort(&self, request: Request<wire::ActRequest>) -> Result<Response<wire::Rollout>, Code> {
        self.act(request, ReleaseAction::Abort).await
    }

    async fn approve(&self, request: Request<wire::ApproveRequest>) -> Result<Response<wire::Rollout>, Code> {
        let change = approval(request.get_ref().clone());
        Ok(Response::new(rollout(&self.change(&request, change).await?)))
    }

    async fn rollback(
        &self,
        request: Request<wire::RollbackRequest>,
    ) -> Result<Response<wire::RollbackResponse>, Code> {
        let wire::RollbackRequest { model, to, reason } = request.get_ref().clone();
        let answer = self
            .change(&request, Ok(Change::Rollback { model, to, reason }))
            .await?;
        Ok(Response::new(wire::RollbackResponse {
            live: answer["live"].as_u64().unwrap_or_default(),
            json: answer.to_string(),
        }))
    }

    async fn list_audit(
        &self,
        request: Request<wire::ListAuditRequest>,
    ) -> Result<Response<wire::ListAuditResponse>, Code> {
        self.caller(&request)?;
        let wire::ListAuditRequest { since, limit } = *request.get_ref();
        let limit = match usize::try_from(limit) {
            Ok(0) => RECORDS,
            Ok(limit) => limit.min(MAX_RECORDS),
            Err(_) => MAX_RECORDS,
        };
        let (lines, head) = self.service.audit_lines(since, limit).await?;
        let text = String::from_utf8_lossy(&lines);
        Ok(Response::new(wire::ListAuditResponse {
            records: text.lines().map(str::to_owned).collect(),
            head: head
                .map(|head| format!("{}:{}", head.seq, head.hash))
                .unwrap_or_default(),
        }))
    }
}

/// A release that someone watches.
struct Watched {
    releases: Arc<dyn ReleaseControl>,
    model: String,
    id: String,
    /// What was sent last.
    before: Option<wire::Rollout>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// The next state of a release, once it is another one; nothing after its end.
async fn next(watched: Option<Watched>) -> Option<(Result<wire::Rollout, Code>, Option<Watched>)> {
    let mut watched = watched?;
    loop {
        let (releases, model, id) = (
            watched.releases.clone(),
            watched.model.clone(),
            watched.id.clone(),
        );
        let found = match waited(move || releases.get(&model, &id)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Some((Err(Refusal::from(error).into()), None)),
            Err(refusal) => return Some((Err(refusal.into()), None)),
        };
        let now = rollout(&found);
        let same = watched
            .before
            .as_ref()
            .is_some_and(|before| is_same(before, &now));
        if !same {
            let over = ["live", "failed", "rolled_back"].contains(&now.state.as_str());
            watched.before = Some(now.clone());
            return Some((Ok(now), (!over).then_some(watched)));
        }
        // Cancel-safe both.
        tokio::select! {
            () = watched.stopping.cancelled() => return None,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Whether nothing has changed that a message of its own is worth: counts change with every look.
fn is_same(one: &wire::Rollout, other: &wire::Rollout) -> bool {
    let told = |rollout: &wire::Rollout| wire::Rollout {
        json: String::new(),
        ..rollout.clone()
    };
    told(one) == told(other)
}

/// A change that cannot be read.
struct Unread {
    /// As far as it can be.
    of: Change,
    refusal: Refusal,
}

/// An approval as releases take it.
fn approval(asked: wire::ApproveRequest) -> Result<Change, Box<Unread>> {
    let change = |request: ApproveRelease| Change::Approve {
        model: asked.model.clone(),
        id: asked.id.clone(),
        request: Box::new(request),
    };
    let empty = ApproveRelease {
        bypass: asked.r#override,
        reason: asked.reason.clone(),
        ..ApproveRelease::default()
    };
    let hexadecimal = |error: crossfade_journal::NotHex| Refusal::invalid(format!("the approval: {error}"));
    let read = || -> Result<ApproveRelease, crossfade_journal::NotHex> {
        let subject = asked.subject.as_ref();
        let subject = subject.map(|subject| {
            Ok::<_, crossfade_journal::NotHex>(Subject {
                release_id: subject.release_id.clone(),
                artifact_sha256: subject.artifact_sha256.parse()?,
                report_sha256: subject.report_sha256.parse()?,
                config_rev: subject.config_rev.parse()?,
                before: subject.before.clone(),
            })
        });
        Ok(ApproveRelease {
            subject: subject.transpose()?,
            key: asked.key.as_deref().map(str::parse).transpose()?,
            signature: asked.signature.as_deref().map(str::parse).transpose()?,
            ..empty.clone()
        })
    };
    read().map(change).map_err(|error| {
        Box::new(Unread {
            of: change(empty.clone()),
            refusal: hexadecimal(error),
        })
    })
}

/// A release as HTTP answers it, with the fields that most callers want beside it.
fn rollout(view: &Value) -> wire::Rollout {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let subject = &view["approval"]["subject"];
    wire::Rollout {
        id: text(&view["id"]),
        model: text(&view["model"]),
        version: view["version"].as_u64().unwrap_or_default(),
        champion: view["champion"].as_u64().unwrap_or_default(),
        live: view["live"].as_u64().unwrap_or_default(),
        state: text(&view["state"]["state"]),
        percent: view["percent"].as_f64().unwrap_or_default(),
        why: text(&view["why"]),
        actor: text(&view["actor"]),
        artifact_sha256: text(&view["artifact_sha256"]),
        subject: subject.is_object().then(|| wire::Subject {
            release_id: text(&subject["release_id"]),
            artifact_sha256: text(&subject["artifact_sha256"]),
            report_sha256: text(&subject["report_sha256"]),
            config_rev: text(&subject["config_rev"]),
            before: text(&subject["before"]),
        }),
        missing_approvals: view["approval"]["missing"].as_u64().unwrap_or_default(),
        json: view.to_string(),
    }
}

async fn waited<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::new(Status::Internal, error.to_string()))
}
