//! What people may ask of releases: start one, see it, hold it, end it, go back.

use std::sync::{Arc, Mutex};

use crossfade_journal::Hash;
use crossfade_rollout::RolloutError;
use crossfade_rollout::state::{Action, Application, Event, Reason, State, admit, permit};
use serde_json::{Value, json};

use super::approving::report_sha256;
use super::desk::Desk;
use super::forecast::{self, Traced, Traffic};
use super::record::Run;
use super::{Releases, lock, now};
use crate::admin::{ApproveRelease, Caller, ControlError, CreateRelease, Page, ReleaseAction};

/// Called once a wish is known to be fulfilled, before anything follows from it; an error leaves everything as it was.
pub type Accepted<'a> = &'a dyn Fn() -> Result<(), ControlError>;

impl Releases {
    /// Starts a release. A digest that was rolled back needs the role `override` and a reason.
    ///
    /// Errors: every one of [`ControlError`].
    pub fn create(
        &self,
        call: &Caller,
        model: &str,
        request: CreateRelease,
        accepted: Accepted<'_>,
    ) -> Result<Value, ControlError> {
        let reason = request.reason.as_deref().unwrap_or_default();
        allowed(Action::Create, call, reason)?;
        let desk = self.known(model)?;
        let version = request.version;
        // Gigabytes may have to be read, and someone may want to go back meanwhile.
        let unread = lock(&desk).unread_new(version);
        let read = unread.read(&self.world.digests);
        let mut desk = lock(&desk);
        desk.learn(read);
        let folder = desk.directory.join(version.to_string());
        // It may have been put there since the last scan.
        let filled = || {
            folder
                .read_dir()
                .is_ok_and(|mut entries| entries.next().is_some())
        };
        if !desk.on_disk.contains(&version) && !filled() {
            return Err(ControlError::Unknown(format!(
                "model `{model}` has no version {version}"
            )));
        }
        let superseded = Event::Failed {
            reason: Reason::Superseded,
        };
        let champion = match desk.book.active().filter(|_| request.supersede) {
            Some(run) => match run.created.path.next(&run.state, &superseded).map_err(conflict)? {
                State::RollingBack { restore: true, .. } => Some(run.created.champion),
                _ => desk.book.champion,
            },
            None => desk.book.champion,
        };
        let Some(champion) = champion else {
            return Err(ControlError::Conflict(format!(
                "no version of `{model}` is live: the first one goes live by itself once it loads and has passed its gates; \
                 the repository index says what keeps it from that"
            )));
        };
        if champion == version {
            return Err(ControlError::Conflict(format!("version {version} is live")));
        }
        let digest = desk.digest_of(&folder, version);
        let digest = digest.map_err(|error| ControlError::Unavailable(error.to_string()))?;
        let active = desk.book.active().map(|run| run.created.id.clone());
        let application = Application {
            digest: &digest,
            active: active.as_deref(),
            supersede: request.supersede,
            force: permit(Action::Force, &call.roles, reason).is_ok(),
        };
        admit(&application, &desk.book.quarantine).map_err(conflict)?;
        if desk.is_changed(version, &digest) && !application.force {
            return Err(ControlError::Conflict(format!(
                "the files of version {version} are not those that were seen first, and its digest is pinned; releasing them \
                 takes the role `override` and a reason"
            )));
        }
        accepted()?;
        let at = now();
        if active.is_some() {
            let why = Some(format!("version {version} takes its place"));
            desk.advance(&self.world, superseded, &call.actor, why, at)
                .map_err(ControlError::Unavailable)?;
            // Its last requests end by themselves; the counters of the new release are its own.
            if matches!(
                desk.book.active().map(|run| &run.state),
                Some(State::RollingBack { .. })
            ) {
                desk.advance(&self.world, Event::Drained, &call.actor, None, at)
                    .map_err(ControlError::Unavailable)?;
            }
        }
        desk.create(
            &self.world,
            version,
            champion,
            digest,
            &call.actor,
            request.reason,
            at,
        )
        .map_err(ControlError::Unavailable)?;
        self.world.refresh(model);
        Ok(view(&desk, desk.book.runs.last()))
    }

    /// The configuration in force for a model; the server's, for one that is not released.
    pub fn config_rev(&self, model: &str) -> Hash {
        let desk = (!model.is_empty()).then(|| self.desk(model)).flatten();
        desk.map_or(self.world.server_rev, |desk| lock(&desk).config_rev)
    }

    /// Some releases of a model, newest first, and `next`: what the page after this one begins before.
    ///
    /// Errors: `Unknown`, also for a page that begins before no release of the model.
    pub fn page(&self, model: &str, page: &Page) -> Result<Value, ControlError> {
        let desk = self.known(model)?;
        let desk = lock(&desk);
        let runs = &desk.book.runs;
        let end = match &page.before {
            None => runs.len(),
            Some(id) => {
                let place = runs.iter().position(|run| run.created.id == *id);
                place.ok_or_else(|| unknown(model, id))?
            }
        };
        let start = end.saturating_sub(page.limit);
        let shown = runs[start..end].iter().rev();
        let rollouts: Vec<Value> = shown.map(|run| view(&desk, Some(run))).collect();
        let next = (start > 0).then(|| runs[start].created.id.clone());
        Ok(json!({ "rollouts": rollouts, "next": next }))
    }

    /// The latest release of every model that has had one.
    pub fn latest(&self) -> Value {
        let desks: Vec<Arc<Mutex<Desk>>> = lock(&self.desks).values().cloned().collect();
        let mut rollouts = Vec::new();
        for desk in desks {
            let desk = lock(&desk);
            rollouts.extend(desk.book.runs.last().map(|run| view(&desk, Some(run))));
        }
        json!({ "rollouts": rollouts, "next": null })
    }

    /// Every release of a model, or of all, oldest first.
    ///
    /// Errors: `Unknown`.
    pub fn list(&self, model: Option<&str>) -> Result<Value, ControlError> {
        let desks: Vec<Arc<Mutex<Desk>>> = match model {
            Some(model) => vec![self.known(model)?],
            None => lock(&self.desks).values().cloned().collect(),
        };
        let mut all = Vec::new();
        for desk in desks {
            let desk = lock(&desk);
            all.extend(desk.book.runs.iter().map(|run| view(&desk, Some(run))));
        }
        Ok(Value::Array(all))
    }

    /// What each step of a model's releases can see at `rate` units per second, or at what was observed.
    ///
    /// Errors: `Unknown`; `Invalid` for a rate that is none; `Unavailable` where nothing was observed.
    pub fn plan(&self, model: &str, rate: Option<f64>) -> Result<Value, ControlError> {
        let desk = self.known(model)?;
        let policy = lock(&desk).policy.clone();
        let observed = || {
            let observed = lock(&self.traced).get(model).and_then(Traced::traffic);
            observed.ok_or_else(|| {
                let message =
                    format!("no requests of `{model}` were observed in the last minutes; give a rate");
                ControlError::Unavailable(message)
            })
        };
        let traffic = rate.map_or_else(observed, |rate| Ok(Traffic::given(rate)))?;
        forecast::plan(model, &policy, &traffic).map_err(ControlError::Invalid)
    }

    /// One release.
    ///
    /// Errors: `Unknown`.
    pub fn get(&self, model: &str, id: &str) -> Result<Value, ControlError> {
        let desk = self.known(model)?;
        let desk = lock(&desk);
        let run = desk.book.runs.iter().find(|run| run.created.id == id);
        match run {
            Some(_) => Ok(view(&desk, run)),
            None => Err(unknown(model, id)),
        }
    }

    /// Holds, lets go, promotes or ends a release.
    ///
    /// Errors: every one of [`ControlError`].
    pub fn act(
        &self,
        call: &Caller,
        model: &str,
        id: &str,
        action: ReleaseAction,
        reason: Option<&str>,
        accepted: Accepted<'_>,
    ) -> Result<Value, ControlError> {
        let (right, event) = match action {
            ReleaseAction::Pause => (Action::Pause, Event::Paused),
            ReleaseAction::Resume => (Action::Resume, Event::Resumed),
            ReleaseAction::Promote => (Action::Promote, Event::Promoted),
            ReleaseAction::Abort => (
                Action::Abort,
                Event::Failed {
                    reason: Reason::Aborted,
                },
            ),
        };
        allowed(right, call, reason.unwrap_or_default())?;
        let desk = self.known(model)?;
        let mut desk = lock(&desk);
        let Some(run) = desk.book.runs.iter().find(|run| run.created.id == id) else {
            return Err(unknown(model, id));
        };
        if !run.state.is_active() {
            let message = format!("release {id} has ended: {}", run.state);
            return Err(ControlError::Conflict(message));
        }
        let next = run.created.path.next(&run.state, &event);
        next.map_err(conflict)?;
        let version = run.created.version;
        let onward = matches!(action, ReleaseAction::Promote | ReleaseAction::Resume);
        if onward && self.world.series(model, version).is_none() {
            let message = format!("version {version} is not loaded yet, and would get requests");
            return Err(ControlError::Unavailable(message));
        }
        accepted()?;
        let why = reason.map(str::to_owned);
        desk.advance(&self.world, event, &call.actor, why, now())
            .map_err(ControlError::Unavailable)?;
        Ok(view(&desk, desk.book.runs.last()))
    }

    /// Agrees to a release, or goes on without those who have to.
    ///
    /// Errors: every one of [`ControlError`].
    pub fn approve(
        &self,
        call: &Caller,
        model: &str,
        id: &str,
        request: ApproveRelease,
        accepted: Accepted<'_>,
    ) -> Result<Value, ControlError> {
        let desk = self.known(model)?;
        let mut desk = lock(&desk);
        desk.approve(&self.world, call, id, request, accepted, now())?;
        Ok(view(&desk, desk.book.runs.last()))
    }

    /// Goes back: ends the active release, or makes an earlier version live again.
    ///
    /// * `to`: the version, which must be at hand; by default the one that was live before
    ///
    /// Errors: every one of [`ControlError`].
    pub fn rollback(
        &self,
        call: &Caller,
        model: &str,
        to: Option<u64>,
        reason: &str,
        accepted: Accepted<'_>,
    ) -> Result<Value, ControlError> {
        allowed(Action::Rollback, call, reason)?;
        if reason.trim().is_empty() {
            return Err(ControlError::Invalid("going back needs a reason".to_owned()));
        }
        let desk = self.known(model)?;
        let mut desk = lock(&desk);
        let why = Some(reason.to_owned());
        if let Some(run) = desk.book.active().cloned() {
            if to.is_some_and(|to| to != run.created.champion) {
                let message = format!("release {} is active; end it first", run.created.id);
                return Err(ControlError::Conflict(message));
            }
            let event = Event::Failed {
                reason: Reason::Manual,
            };
            run.created.path.next(&run.state, &event).map_err(conflict)?;
            accepted()?;
            desk.advance(&self.world, event, &call.actor, why, now())
                .map_err(ControlError::Unavailable)?;
            return Ok(view(&desk, desk.book.runs.last()));
        }
        let at_hand = &desk.book.warm;
        let Some(version) = to.or(at_hand.first().copied()) else {
            return Err(ControlError::Conflict(format!(
                "model `{model}` has no earlier version"
            )));
        };
        if !at_hand.contains(&version) || self.world.series(model, version).is_none() {
            return Err(ControlError::Conflict(format!("version {version} is not loaded")));
        }
        accepted()?;
        desk.restore(&self.world, version, &call.actor, reason, now())
            .map_err(ControlError::Unavailable)?;
        Ok(json!({ "model": model, "live": version }))
    }

    fn known(&self, model: &str) -> Result<Arc<Mutex<Desk>>, ControlError> {
        let missing = || {
            ControlError::Unknown(format!(
                "model `{model}` is unknown, or its versions are not released"
            ))
        };
        self.desk(model).ok_or_else(missing)
    }
}

pub(super) fn allowed(action: Action, call: &Caller, reason: &str) -> Result<(), ControlError> {
    permit(action, &call.roles, reason).map_err(|error| ControlError::Forbidden(error.to_string()))
}

fn conflict(error: RolloutError) -> ControlError {
    ControlError::Conflict(error.to_string())
}

pub(super) fn unknown(model: &str, id: &str) -> ControlError {
    ControlError::Unknown(format!("model `{model}` has no release {id}"))
}

/// A release as people see it.
fn view(desk: &Desk, run: Option<&Run>) -> Value {
    let Some(run) = run else {
        return Value::Null;
    };
    let last = desk
        .book
        .runs
        .last()
        .is_some_and(|last| last.created.id == run.created.id);
    json!({
        "id": run.created.id,
        "model": &*desk.model,
        "version": run.created.version,
        "champion": run.created.champion,
        "live": desk.book.champion,
        "state": run.state,
        "percent": if last { desk.percent() } else { 0.0 },
        "why": run.why,
        "actor": run.created.actor,
        "artifact_sha256": run.created.digest,
        "champion_sha256": desk.book.digests.get(&run.created.champion),
        "config_rev": desk.config_rev,
        "began_with": run.created.config_rev,
        "approval": desk.approvals(run),
        "created": run.created.at,
        "since": run.since,
        "lost_counts": if last { desk.lost } else { 0 },
        "baseline_failure": desk.baseline_failure.as_ref().filter(|_| last),
        "shadow": desk.shadow.view(&run.created.id, &desk.policy),
        "gates": gates(run),
        "report_sha256": run.report.is_some().then(|| report_sha256(run).to_string()),
        "report": desk.report.as_ref().filter(|_| last),
        "rules": last.then(|| forecast::rules(&desk.policy)),
    })
}

/// What each gate said.
fn gates(run: &Run) -> Value {
    let report = run
        .report
        .as_deref()
        .and_then(|report| serde_json::from_str::<Value>(report).ok());
    report.map_or_else(|| json!([]), |mut report| report["gates"].take())
}
