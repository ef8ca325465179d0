//! Releases as the admin interface has them: each call that changes something is one record of the audit before it takes
//! effect, refused ones included.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use crossfade_journal::Hash;
use serde_json::{Value, json};

use super::Releases;
use super::control::Accepted;
use crate::admin::{
    ApproveRelease, Caller, ControlError, CreateRelease, ReleaseAction, ReleaseControl, Role, change,
};
use crate::audit::{Action, AuditLog, Call, Entry, Outcome};
use crate::control::object;

/// Releases, and where calls are recorded.
pub struct Audited {
    releases: Arc<Releases>,
    audit: Arc<AuditLog>,
}

impl Audited {
    /// Records what is asked of `releases` in `audit`.
    pub fn new(releases: Arc<Releases>, audit: Arc<AuditLog>) -> Self {
        Self { releases, audit }
    }

    /// Does a deed, which says when it is known to be done, and records it.
    fn record(
        &self,
        entry: Entry,
        deed: impl FnOnce(Accepted<'_>) -> Result<Value, ControlError>,
    ) -> Result<Value, ControlError> {
        let seq = Cell::new(None);
        let accepted = || {
            let written = self.audit.write(entry.clone().ended(Outcome::Accepted));
            seq.set(Some(
                written.map_err(|refusal| ControlError::Unavailable(refusal.message))?,
            ));
            Ok(())
        };
        deed(&accepted).map_err(|error| {
            let message = error.to_string();
            let (record, outcome) = match seq.get() {
                None => (entry.clone(), Outcome::Refused),
                Some(seq) => (entry.clone().following(seq), Outcome::Failed),
            };
            let written = self.audit.write(record.ended(outcome).error(&message));
            written.map_or_else(|refusal| ControlError::Unavailable(refusal.message), |_| error)
        })
    }
}

impl ReleaseControl for Audited {
    fn create(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        request: CreateRelease,
    ) -> Result<Value, ControlError> {
        let asked = json!({ "version": request.version.to_string(), "supersede": request.supersede });
        let by = Call::admin(Some(call), &[Role::Deploy], peer);
        let entry = Entry::new(by, Action::ReleaseCreate, &object("", model)).evidence(asked);
        let entry = entry.reason(request.reason.as_deref().unwrap_or_default());
        self.record(entry, |accepted| {
            self.releases.create(call, model, request, accepted)
        })
    }

    fn config_rev(&self, model: &str) -> Hash {
        self.releases.config_rev(model)
    }

    fn get(&self, model: &str, id: &str) -> Result<Value, ControlError> {
        self.releases.get(model, id)
    }

    fn plan(&self, model: &str, rate: Option<f64>) -> Result<Value, ControlError> {
        self.releases.plan(model, rate)
    }

    fn act(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        id: &str,
        action: ReleaseAction,
        reason: Option<&str>,
    ) -> Result<Value, ControlError> {
        let recorded = change::of(action);
        let by = Call::admin(Some(call), change::roles(recorded), peer);
        let entry = Entry::new(by, recorded, &change::release(model, id));
        let entry = entry.reason(reason.unwrap_or_default());
        self.record(entry, |accepted| {
            self.releases.act(call, model, id, action, reason, accepted)
        })
    }

    fn approve(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        id: &str,
        request: ApproveRelease,
    ) -> Result<Value, ControlError> {
        let (role, recorded) = match request.bypass {
            true => (Role::Override, Action::ReleaseOverride),
            false => (Role::Approve, Action::ReleaseApprove),
        };
        let subject = request.subject.as_ref();
        // Not the id of the release, which is a text of the caller's, and stands in `object`.
        let asked = json!({
            "artifact_sha256": subject.map(|subject| subject.artifact_sha256),
            "report_sha256": subject.map(|subject| subject.report_sha256),
            "config_rev": subject.map(|subject| subject.config_rev),
            "key": request.key,
            "signature": request.signature,
        });
        let by = Call::admin(Some(call), &[role], peer);
        let entry = Entry::new(by, recorded, &change::release(model, id)).evidence(asked);
        let entry = entry.reason(request.reason.as_deref().unwrap_or_default());
        self.record(entry, |accepted| {
            self.releases.approve(call, model, id, request, accepted)
        })
    }

    fn rollback(
        &self,
        call: &Caller,
        peer: Option<SocketAddr>,
        model: &str,
        to: Option<u64>,
        reason: &str,
    ) -> Result<Value, ControlError> {
        let by = Call::admin(Some(call), &[Role::Rollback], peer);
        let entry = Entry::new(by, Action::Rollback, &object("", model));
        let entry = entry
            .evidence(json!({ "to": to.map(|to| to.to_string()) }))
            .reason(reason);
        self.record(entry, |accepted| {
            self.releases.rollback(call, model, to, reason, accepted)
        })
    }
}
