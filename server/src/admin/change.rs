//! A call that changes releases, as either protocol brings it: who may, what the audit calls it, and on what condition
//! it is carried out.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;

use super::repeats::Begun;
use super::{
    Admin, ApproveRelease, Caller, ControlError, CreateRelease, ReleaseAction, ReleaseControl, Role,
};
use crate::audit::Action;
use crate::config::revision;
use crate::control::object;
use crate::status::{Refusal, Status};

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// What is asked of releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub enum Change {
    /// Begin one.
    Create {
        /// Of this model.
        model: String,
        /// With what.
        request: CreateRelease,
    },
    /// Move one on.
    Act {
        /// Of this model.
        model: String,
        /// Which.
        id: String,
        /// How.
        action: ReleaseAction,
        /// Why.
        reason: Option<String>,
    },
    /// Agree to one.
    Approve {
        /// Of this model.
        model: String,
        /// Which.
        id: String,
        /// To what.
        request: Box<ApproveRelease>,
    },
    /// Go back.
    Rollback {
        /// This model.
        model: String,
        /// To this version.
        to: Option<u64>,
        /// Why.
        reason: String,
    },
}

impl Change {
    /// As the audit names it, and its object.
    pub fn audited(&self) -> (Action, String) {
        match self {
            Change::Create { model, .. } => (Action::ReleaseCreate, object("", model)),
            Change::Act {
                model, id, action, ..
            } => (of(*action), release(model, id)),
            Change::Approve { model, id, request } if request.bypass => {
                (Action::ReleaseOverride, release(model, id))
            }
            Change::Approve { model, id, .. } => (Action::ReleaseApprove, release(model, id)),
            Change::Rollback { model, .. } => (Action::Rollback, object("", model)),
        }
    }

    fn model(&self) -> &str {
        match self {
            Change::Create { model, .. }
            | Change::Act { model, .. }
            | Change::Approve { model, .. }
            | Change::Rollback { model, .. } => model,
        }
    }

    fn carry_out(
        self,
        releases: &dyn ReleaseControl,
        call: &Caller,
        peer: Option<SocketAddr>,
    ) -> Result<Value, ControlError> {
        match self {
            Change::Create { model, request } => releases.create(call, peer, &model, request),
            Change::Act {
                model,
                id,
                action,
                reason,
            } => releases.act(call, peer, &model, &id, action, reason.as_deref()),
            Change::Approve { model, id, request } => releases.approve(call, peer, &model, &id, *request),
            Change::Rollback { model, to, reason } => releases.rollback(call, peer, &model, to, &reason),
        }
    }
}

/// As the audit names a release.
pub(crate) fn release(model: &str, id: &str) -> String {
    format!("{}/rollout/{id}", object("", model))
}

/// As the audit names what is done to a release.
pub(crate) fn of(action: ReleaseAction) -> Action {
    match action {
        ReleaseAction::Pause => Action::ReleasePause,
        ReleaseAction::Resume => Action::ReleaseResume,
        ReleaseAction::Promote => Action::ReleasePromote,
        ReleaseAction::Abort => Action::ReleaseAbort,
    }
}

/// Who may: whoever has one of these roles.
pub(crate) fn roles(action: Action) -> &'static [Role] {
    match action {
        Action::Load | Action::Unload | Action::LogSettings | Action::TraceSettings => &[Role::Deploy],
        Action::ReleaseCreate | Action::ReleasePause | Action::ReleaseResume => &[Role::Deploy],
        Action::ReleasePromote => &[Role::Promote],
        Action::ReleaseAbort | Action::Rollback => &[Role::Rollback],
        // Which of them, the call itself says.
        Action::ReleaseApprove => &[Role::Approve, Role::Override],
        Action::ReleaseOverride => &[Role::Override],
        Action::SubjectErase
        | Action::SubjectRestrict
        | Action::SubjectObject
        | Action::SubjectLift
        | Action::SubjectRectify => &[Role::Dpo],
        // What logs say was done: nobody asks for it.
        Action::FollowsLog
        | Action::Adopted
        | Action::Seen
        | Action::Created
        | Action::Moved
        | Action::Gated
        | Action::Approved
        | Action::Restored
        | Action::Withdrawn => &[],
    }
}

/// On what condition a call is carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `Idempotency-Key`: once, however often it comes.
    pub key: Option<String>,
    /// `If-Match`: only while this is the configuration in force.
    pub config_rev: Option<String>,
}

impl Conditions {
    /// What headers, or the metadata of gRPC, ask for.
    ///
    /// Errors: `InvalidInput` for what cannot be read.
    pub fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: &str| match headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(text)) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(Refusal::invalid(format!("header `{name}` is no visible text"))),
        };
        let key = text("idempotency-key")?;
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            let message = format!("header `idempotency-key` is longer than {MAX_KEY} bytes");
            return Err(Refusal::invalid(message));
        }
        let rev = text("if-match")?.filter(|rev| rev != "*");
        Ok(Self {
            key,
            config_rev: rev.map(|rev| rev.trim_matches('"').to_owned()),
        })
    }
}

/// A change that was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// Why.
    pub refusal: Refusal,
    /// Whether the audit has it already; else the one that was called records it.
    pub recorded: bool,
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            recorded: false,
        }
    }
}

impl Admin {
    /// Carries out a change, if its conditions hold. Blocks for the disk.
    ///
    /// A call whose key was seen before is not carried out again: it gets the answer of then.
    ///
    /// * `peer`: where the call comes from
    ///
    /// Errors: `Stale` if another configuration is in force; `Conflict` for a key of another call, or of one under way; what
    /// releases say.
    pub fn change(
        &self,
        caller: &Caller,
        peer: Option<SocketAddr>,
        change: Change,
        conditions: &Conditions,
    ) -> Result<Value, Declined> {
        let releases = Arc::clone(self.releases()?);
        let Some(key) = &conditions.key else {
            self.must_match(conditions, change.model())?;
            return answered(change.carry_out(&*releases, caller, peer));
        };
        let call = revision::of(&(&change, &conditions.config_rev));
        let call = call.map_err(|error| Refusal::new(Status::Internal, error))?;
        let turn = match self.repeats.begin(&caller.actor, key, call)? {
            Begun::Before(answer) => {
                return answer.map_err(|refusal| Declined {
                    refusal,
                    recorded: true,
                });
            }
            Begun::Now(turn) => turn,
        };
        self.must_match(conditions, change.model())?;
        let answer = answered(change.carry_out(&*releases, caller, peer));
        turn.end(answer.as_ref().map_err(|declined| &declined.refusal));
        answer
    }

    /// Holds `If-Match` against the configuration in force for a model, or for the server. Blocks.
    ///
    /// Errors: `Stale`.
    pub fn must_match(&self, conditions: &Conditions, model: &str) -> Result<(), Refusal> {
        let Some(expected) = &conditions.config_rev else {
            return Ok(());
        };
        let now = self.releases()?.config_rev(model).to_string();
        if now == *expected {
            return Ok(());
        }
        let message = format!("`if-match` is {expected}, and the configuration in force is {now}");
        Err(Refusal::new(Status::Stale, message))
    }
}

fn answered(answer: Result<Value, ControlError>) -> Result<Value, Declined> {
    answer.map_err(|error| Declined {
        refusal: error.into(),
        recorded: true,
    })
}
