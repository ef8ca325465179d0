//! What the admin interface asks of releases.

use std::net::SocketAddr;

use crossfade_journal::Hash;
use crossfade_journal::approval::Subject;
use crossfade_journal::keys::{PublicKey, Signature};
pub use crossfade_rollout::state::Role;
use serde_json::Value;

/// What the admin interface asks of releases.
///
/// An implementation checks the caller's roles, and records each call in the audit once, refused ones included. Calls
/// that do not come as far as this were recorded by the interface. Calls may wait for the disk; they come on threads
/// that may. `peer` is the address that a call comes from.
pub trait ReleaseControl: Send + Sync {
    /// Begins a release of a version that is registered. Returns the release.
    fn create(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        request: CreateRelease,
    ) -> Result<Value, ControlError>;

    /// The configuration in force for a model; the server's, for one that is not released. May wait.
    fn config_rev(&self, model: &str) -> Hash;

    /// One release.
    fn get(&self, model: &str, id: &str) -> Result<Value, ControlError>;

    /// What each step of a model's releases can see at `rate` units per second, or at what was observed.
    fn plan(&self, model: &str, rate: Option<f64>) -> Result<Value, ControlError>;

    /// Moves a release on. Returns it.
    fn act(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        id: &str,
        action: ReleaseAction,
        reason: Option<&str>,
    ) -> Result<Value, ControlError>;

    /// Agrees to the release as it stands, or goes on without those who have to. Returns it.
    fn approve(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        id: &str,
        request: ApproveRelease,
    ) -> Result<Value, ControlError>;

    /// Makes an earlier version serve again: `to`, else the one before.
    fn rollback(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        to: Option<u64>,
        reason: &str,
    ) -> Result<Value, ControlError>;
}

/// Who calls, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token, or `local`.
    pub actor: String,
    /// What they may do.
    pub roles: Vec<Role>,
}

/// What is done to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseAction {
    /// Keep the share as it is.
    Pause,
    /// Go on.
    Resume,
    /// To the next stage.
    Promote,
    /// Give up; the champion serves all.
    Abort,
}

impl ReleaseAction {
    /// As paths write it.
    pub const fn name(self) -> &'static str {
        match self {
            ReleaseAction::Pause => "pause",
            ReleaseAction::Resume => "resume",
            ReleaseAction::Promote => "promote",
            ReleaseAction::Abort => "abort",
        }
    }
}

/// What a release is begun with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRelease {
    /// The version to release.
    pub version: u64,
    /// Whether it ends one that is under way.
    #[serde(default)]
    pub supersede: bool,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What is agreed to, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApproveRelease {
    /// What the approver saw; has to be what is released now.
    pub subject: Option<Subject>,
    /// The approver's public key.
    #[serde(alias = "public_key")]
    pub key: Option<PublicKey>,
    /// Its signature over the canonical JSON of `subject`.
    pub signature: Option<Signature>,
    /// Goes on without the approvals that are missing; takes the role `override` and a reason.
    #[serde(rename = "override")]
    pub bypass: bool,
    /// Why.
    pub reason: Option<String>,
}

/// Why a call is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// 404: no such model, version or release.
    #[error("{0}")]
    Unknown(String),
    /// 409: it does not fit the state.
    #[error("{0}")]
    Conflict(String),
    /// 400: it makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// 403: the caller may not.
    #[error("{0}")]
    Forbidden(String),
    /// 503: not now.
    #[error("{0}")]
    Unavailable(String),
}
