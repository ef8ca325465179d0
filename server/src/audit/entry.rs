//! What a record says: who called, over which listener, what was asked, and how it ended.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crossfade_journal::audit::{Event, Timestamp};
use crossfade_journal::{Hash, Head};
use serde_json::{Map, Value, json};

use super::logs;
use crate::admin::{Caller, Role};

/// The longest text that a record takes from a client, in characters.
const MAX_TEXT: usize = 1024;

/// The actor of a call whose caller is not known.
const ANONYMOUS: &str = "anonymous";

/// The actor of what the server does by itself, and the role that it does it in.
const SERVER: [&str; 2] = ["crossfade", "server"];

/// Where a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The HTTP listener, which knows no callers.
    Http,
    /// The gRPC listener, likewise.
    Grpc,
    /// The admin listener.
    Admin,
}

impl Listener {
    const fn name(self) -> &'static str {
        match self {
            Listener::Http => "http",
            Listener::Grpc => "grpc",
            Listener::Admin => "admin",
        }
    }
}

/// Who calls, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    actor: String,
    role: String,
    listener: Listener,
    peer: Option<SocketAddr>,
}

impl Call {
    /// A call over a listener that asks nobody for a name.
    pub fn anonymous(listener: Listener, peer: Option<SocketAddr>) -> Self {
        Self {
            actor: ANONYMOUS.to_owned(),
            role: String::new(),
            listener,
            peer,
        }
    }

    /// A call over the admin listener: of `caller` where it is known, in the first of `roles` that the caller has.
    pub fn admin(caller: Option<&Caller>, roles: &[Role], peer: Option<SocketAddr>) -> Self {
        let Some(caller) = caller else {
            return Self::anonymous(Listener::Admin, peer);
        };
        let role = roles.iter().find(|role| caller.roles.contains(role));
        Self {
            actor: caller.actor.clone(),
            role: role.map_or("", |role| role.name()).to_owned(),
            listener: Listener::Admin,
            peer,
        }
    }

    /// Who calls, where that is known.
    pub fn caller(&self) -> Option<&str> {
        Some(self.actor.as_str()).filter(|actor| *actor != ANONYMOUS)
    }

    /// Where it came in.
    pub fn listener(&self) -> Listener {
        self.listener
    }
}

/// What was asked, or what a log of releases says was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Load or reload a model.
    Load,
    /// Unload a model.
    Unload,
    /// Change log settings.
    LogSettings,
    /// Change trace settings.
    TraceSettings,
    /// Begin a release.
    ReleaseCreate,
    /// Keep a release where it is.
    ReleasePause,
    /// Let it go on.
    ReleaseResume,
    /// Move it to its next stage.
    ReleasePromote,
    /// Give it up.
    ReleaseAbort,
    /// Agree to a release.
    ReleaseApprove,
    /// Go on without the approvals that are missing.
    ReleaseOverride,
    /// Go back to an earlier version.
    Rollback,
    /// Take what is known of a person out of the inference log.
    SubjectErase,
    /// Keep what is known of a person, and do not use it.
    SubjectRestrict,
    /// Have no model decide about a person.
    SubjectObject,
    /// Use what is known of a person again, and let models decide.
    SubjectLift,
    /// Put right what a record says of a person.
    SubjectRectify,
    /// The audit follows a log from here on.
    FollowsLog,
    /// A version is live without a release.
    Adopted,
    /// What the files of a version are.
    Seen,
    /// A release began.
    Created,
    /// It came to another state.
    Moved,
    /// Its gates have said something.
    Gated,
    /// Someone has agreed to it.
    Approved,
    /// An earlier version is live again.
    Restored,
    /// The record before it never took effect.
    Withdrawn,
}

impl Action {
    /// As records and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Load => "model.load",
            Action::Unload => "model.unload",
            Action::LogSettings => "settings.log",
            Action::TraceSettings => "settings.trace",
            Action::ReleaseCreate => "release.create",
            Action::ReleasePause => "release.pause",
            Action::ReleaseResume => "release.resume",
            Action::ReleasePromote => "release.promote",
            Action::ReleaseAbort => "release.abort",
            Action::ReleaseApprove => "release.approve",
            Action::ReleaseOverride => "release.override",
            Action::Rollback => "model.rollback",
            Action::SubjectErase => "subject.erase",
            Action::SubjectRestrict => "subject.restrict",
            Action::SubjectObject => "subject.object",
            Action::SubjectLift => "subject.lift",
            Action::SubjectRectify => "subject.rectify",
            Action::FollowsLog => "release.log",
            Action::Adopted => "release.adopted",
            Action::Seen => "release.seen",
            Action::Created => "release.created",
            Action::Moved => "release.moved",
            Action::Gated => "release.gated",
            Action::Approved => "release.approved",
            Action::Restored => "release.restored",
            Action::Withdrawn => "release.withdrawn",
        }
    }
}

/// How a call ended, as far as it is known when the record is written: before it takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing can fail any more.
    Ok,
    /// It begins; if it fails, the server records that as a deed of its own.
    Accepted,
    /// Nothing was done.
    Refused,
    /// What was accepted earlier has failed.
    Failed,
}

impl Outcome {
    /// As records and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// A record in the making; texts of clients are cut to a bounded length.
#[derive(Debug, Clone)]
pub struct Entry {
    actor: String,
    role: String,
    action: Action,
    object: String,
    before: Value,
    value: Value,
    outcome: Outcome,
    error: Option<String>,
    reason: String,
    evidence: Vec<Value>,
}

impl Entry {
    /// A record of `call`, refused unless told otherwise.
    pub fn new(call: Call, action: Action, object: &str) -> Self {
        let mut came = json!({ "listener": call.listener.name() });
        if let Some(peer) = call.peer {
            came["peer"] = peer.to_string().into();
        }
        Self {
            actor: call.actor,
            role: call.role,
            action,
            object: clip(object),
            before: Value::Null,
            value: Value::Null,
            outcome: Outcome::Refused,
            error: None,
            reason: String::new(),
            evidence: vec![came],
        }
    }

    /// A record of what a model's log says was done, in its record `head`; nobody calls.
    ///
    /// * `what`: the log's evidence, an object; the place in the log is added to it
    pub(crate) fn of_log(
        action: Action,
        actor: &str,
        object: &str,
        what: Value,
        log: &str,
        head: Head,
    ) -> Self {
        let [server, role] = SERVER;
        let mut what = what;
        what["log"] = logs::place(log, head);
        Self {
            actor: actor.to_owned(),
            role: if actor == server { role } else { "" }.to_owned(),
            action,
            object: clip(object),
            before: Value::Null,
            value: Value::Null,
            outcome: Outcome::Ok,
            error: None,
            reason: String::new(),
            evidence: vec![what],
        }
    }

    /// A record of what became of the call that record `seq` accepted: the server's own deed.
    pub fn following(self, seq: u64) -> Self {
        let [server, role] = SERVER;
        Self {
            actor: server.to_owned(),
            role: role.to_owned(),
            evidence: vec![json!({ "seq": seq })],
            ..self
        }
    }

    /// The object before.
    pub fn before(self, before: Value) -> Self {
        Self { before, ..self }
    }

    /// The object after.
    pub fn after(self, value: Value) -> Self {
        Self { value, ..self }
    }

    /// Why, in the caller's words.
    pub fn reason(self, reason: &str) -> Self {
        Self {
            reason: clip(reason),
            ..self
        }
    }

    /// One more thing that the call brought along.
    pub fn evidence(mut self, evidence: Value) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// How it ended.
    pub fn ended(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// Why it was refused or failed.
    pub fn error(self, message: &str) -> Self {
        Self {
            error: Some(clip(message)),
            ..self
        }
    }

    /// Whether nobody knows who called.
    pub(super) fn is_anonymous(&self) -> bool {
        self.actor == ANONYMOUS
    }

    pub(super) fn action(&self) -> Action {
        self.action
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The event, now. Its `after` holds the outcome, the error if there is one, and the object if it is known.
    pub(super) fn event(self, config_rev: Hash) -> Event {
        let mut after = Map::from_iter([("outcome".to_owned(), self.outcome.name().into())]);
        if let Some(error) = self.error {
            after.insert("error".to_owned(), error.into());
        }
        if !self.value.is_null() {
            after.insert("value".to_owned(), self.value);
        }
        Event {
            ts: now(),
            actor: self.actor,
            role: self.role,
            action: self.action.name().to_owned(),
            object: self.object,
            before: self.before,
            after: Value::Object(after),
            reason: self.reason,
            evidence: self.evidence,
            config_rev,
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A clock outside of the years 0 to 9999 shows as 1970.
fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok());
    micros
        .and_then(|micros| Timestamp::from_unix_micros(micros).ok())
        .or_else(|| Timestamp::from_unix_micros(0).ok())
        .expect("1970 is a year between 0 and 9999")
}
