//! Approvals of a release: what is agreed to, who may, and what follows (rollout.md §9).
//!
//! An approval is written down before it counts, and counts for as long as what it was given to is what is released.

use std::collections::BTreeSet;

use crossfade_journal::Hash;
use crossfade_rollout::approval::{Given, Refusal, Standing, Subject, weigh};
use crossfade_rollout::state::{Action, Approvable, Event, Reason, State};
use serde_json::{Value, json};

use super::control::{Accepted, allowed, unknown};
use super::desk::{Desk, SERVER};
use super::record::{Record, Run};
use super::report;
use super::world::World;
use crate::admin::{ApproveRelease, Caller, ControlError};
use crate::config::revision;

/// sha256 of the canonical JSON (RFC 8785) of what the gates of a release found: what an approver has read.
pub(super) fn report_sha256(run: &Run) -> Hash {
    match &run.report {
        Some(report) => report::report_sha256(report),
        // Of a log of an earlier release, which kept a line only.
        None => revision::of(&json!({ "gates": run.findings })).expect("a text has canonical JSON"),
    }
}

impl Desk {
    /// What is agreed to: a change of any part makes earlier approvals void.
    fn subject(&self, run: &Run, before: Approvable) -> Subject {
        Subject {
            release_id: run.created.id.clone(),
            before,
            artifact_sha256: run.created.digest.clone(),
            report_sha256: report_sha256(run).to_string(),
            config_rev: self.config_rev.to_string(),
        }
    }

    /// How a release stands with those who have to agree to a step.
    fn standing(&self, run: &Run, before: Approvable) -> Standing {
        let given = run.approvals.iter().filter(|(step, _)| *step == before);
        let given: Vec<Given> = given.map(|(_, given)| given.clone()).collect();
        self.weighed(run, before, &given)
    }

    fn weighed(&self, run: &Run, before: Approvable, given: &[Given]) -> Standing {
        let author = self.approvers.person(&run.created.actor);
        weigh(&self.policy.approval, &author, &self.subject(run, before), given)
    }

    /// Takes an approval, or goes on without those that are missing.
    ///
    /// Errors: every one of [`ControlError`].
    pub(super) fn approve(
        &mut self,
        world: &World,
        call: &Caller,
        id: &str,
        request: ApproveRelease,
        accepted: Accepted<'_>,
        now: u64,
    ) -> Result<(), ControlError> {
        let reason = request.reason.clone().unwrap_or_default();
        let right = match request.bypass {
            true => Action::BypassApproval,
            false => Action::Approve,
        };
        allowed(right, call, &reason)?;
        let run = self.book.runs.iter().find(|run| run.created.id == id);
        let run = run.cloned().ok_or_else(|| unknown(&self.model, id))?;
        let State::AwaitingApproval { next } = run.state else {
            let message = format!("release {id} does not wait for an approval: it is {}", run.state);
            return Err(ControlError::Conflict(message));
        };
        if world.series(&self.model, run.created.version).is_none() {
            let message = format!("version {} is not loaded yet", run.created.version);
            return Err(ControlError::Unavailable(message));
        }
        if request.bypass {
            accepted()?;
            let why = Some(format!("without the approvals that are missing: {reason}"));
            return self
                .advance(world, Event::Approved, &call.actor, why, now)
                .map_err(ControlError::Unavailable);
        }
        let given = self.checked(&run, next, call, &request)?;
        self.must_count(&run, next, &given)?;
        accepted()?;
        let record = Record::Approved {
            id: id.to_owned(),
            before: next,
            given,
            key: request.key,
            signature: request.signature,
            at: now,
        };
        self.write(&record).map_err(ControlError::Unavailable)?;
        self.note(&record);
        tracing::info!(model = %self.model, release = id, actor = call.actor, "a release was approved");
        self.wait_for_approval(world, now);
        Ok(())
    }

    /// An approval whose subject is what is released now, and whose signature is its owner's.
    fn checked(
        &self,
        run: &Run,
        next: Approvable,
        call: &Caller,
        request: &ApproveRelease,
    ) -> Result<Given, ControlError> {
        let Some(signed) = &request.subject else {
            let message = "`subject` says what is approved; GET the release to see it";
            return Err(ControlError::Invalid(message.to_owned()));
        };
        let subject = self.subject(run, next);
        let differs = differences(signed, &subject);
        if !differs.is_empty() {
            let differs = differs.join(", ");
            let message = format!("this is not what is released now: {differs}; look at the release again");
            return Err(ControlError::Conflict(message));
        }
        let by = match (self.approvers.sign(), request.key, request.signature) {
            (true, Some(key), Some(signature)) => {
                let owner = self.approvers.owner(&key);
                let owner =
                    owner.ok_or_else(|| forbidden(format!("key {key} is none of `admin.approvers`")))?;
                let approval = crossfade_journal::approval::Approval { key, signature };
                if !approval.verifies(signed) {
                    return Err(forbidden(format!(
                        "the signature is not that of `{}` over the subject",
                        owner.name
                    )));
                }
                owner
            }
            (true, ..) => {
                let message = "only a signature is an approval here: send `key` and `signature`";
                return Err(forbidden(message.to_owned()));
            }
            (false, None, None) => self.approvers.person(&call.actor),
            (false, ..) => {
                let message =
                    "no key is known here (`admin.approvers`): send the call without `key` and `signature`";
                return Err(ControlError::Invalid(message.to_owned()));
            }
        };
        Ok(Given { by, subject })
    }

    /// Errors: `Forbidden` for an approval that would not count; `Conflict` for one that counts already.
    fn must_count(&self, run: &Run, next: Approvable, given: &Given) -> Result<(), ControlError> {
        let name = &given.by.name;
        let alone = self.weighed(run, next, std::slice::from_ref(given));
        if let Some(refusal) = alone.refused.get(name) {
            return Err(forbidden(format!(
                "the approval of `{name}` does not count: {}",
                because(*refusal)
            )));
        }
        if self.standing(run, next).counted.contains(name) {
            return Err(ControlError::Conflict(format!("`{name}` has approved already")));
        }
        Ok(())
    }

    /// Goes on once enough have agreed, and ends once nobody did in time.
    pub(super) fn wait_for_approval(&mut self, world: &World, now: u64) {
        let Some(run) = self.book.active().cloned() else {
            return;
        };
        let State::AwaitingApproval { next } = run.state else {
            return;
        };
        // What was agreed to has to be at hand; after a start it may still be loading.
        if world.series(&self.model, run.created.version).is_none() {
            return;
        }
        let standing = self.standing(&run, next);
        if standing.is_reached() {
            let names: Vec<_> = standing.counted.iter().map(String::as_str).collect();
            let why = Some(format!("approved by {}", names.join(", ")));
            return self.advance_or_warn(world, Event::Approved, SERVER, why, now);
        }
        let waited = now.saturating_sub(run.since);
        if self
            .policy
            .approval
            .timeout
            .is_some_and(|timeout| waited >= timeout.as_secs())
        {
            let missing = missing(&standing);
            let why = Some(format!(
                "{missing} of {} approvals were missing after {waited} s",
                standing.quorum
            ));
            let failed = Event::Failed {
                reason: Reason::ApprovalTimeout,
            };
            self.advance_or_warn(world, failed, SERVER, why, now);
        }
    }

    /// Who agreed to a release, to what, and what is missing; null where nobody is asked.
    pub(super) fn approvals(&self, run: &Run) -> Value {
        if run.created.path.approvals.is_empty() {
            return Value::Null;
        }
        let names: BTreeSet<&str> = run
            .approvals
            .iter()
            .map(|(_, given)| given.by.name.as_str())
            .collect();
        let active = self
            .book
            .active()
            .is_some_and(|active| active.created.id == run.created.id);
        if !active {
            return json!({ "given": names });
        }
        let rules = &self.policy.approval;
        let mut view = json!({
            "before": rules.before,
            "quorum": rules.quorum,
            "not_author": rules.not_author,
            "independent": rules.independent,
            "groups": rules.groups,
            // Nobody: it began by itself.
            "author": Some(&run.created.actor).filter(|actor| *actor != SERVER),
            "signed": self.approvers.sign(),
            "given": names,
        });
        if let Some(next) = asked_next(run).filter(|_| run.findings.is_some()) {
            view["subject"] = json!(self.subject(run, next));
        }
        if let State::AwaitingApproval { next } = run.state {
            let standing = self.standing(run, next);
            let until = rules
                .timeout
                .map(|timeout| run.since.saturating_add(timeout.as_secs()));
            view["waits_for"] = json!(next);
            view["counted"] = json!(standing.counted);
            view["refused"] = json!(standing.refused);
            view["missing"] = missing(&standing).into();
            view["until"] = json!(until);
        }
        view
    }
}

/// The step that people are asked about now, or will be next.
fn asked_next(run: &Run) -> Option<Approvable> {
    let passed = match run.state {
        State::AwaitingApproval { next } => return Some(next),
        State::Verifying | State::Loading | State::Gating => None,
        State::Shadow | State::Paused { step: None } => Some(Approvable::Shadow),
        State::Canary { .. } | State::Paused { step: Some(_) } => Some(Approvable::Canary),
        _ => return None,
    };
    let mut asked = run.created.path.approvals.iter().copied();
    asked.find(|step| Some(*step) > passed)
}

fn missing(standing: &Standing) -> u64 {
    u64::from(standing.quorum).saturating_sub(standing.counted.len() as u64)
}

/// What of a signed subject is not what stands for approval.
fn differences(signed: &crossfade_journal::approval::Subject, subject: &Subject) -> Vec<String> {
    let parts = [
        ("release_id", signed.release_id.clone(), &*subject.release_id),
        ("before", signed.before.clone(), subject.before.name()),
        (
            "artifact_sha256",
            signed.artifact_sha256.to_string(),
            &*subject.artifact_sha256,
        ),
        (
            "report_sha256",
            signed.report_sha256.to_string(),
            &*subject.report_sha256,
        ),
        ("config_rev", signed.config_rev.to_string(), &*subject.config_rev),
    ];
    let differ = parts.into_iter().filter(|(_, signed, now)| signed != now);
    differ.map(|(name, _, now)| format!("{name} is {now}")).collect()
}

fn because(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Void => "what was agreed to has changed",
        Refusal::Author => "they started the release (`not_author`)",
        Refusal::Group => "they are in none of the groups that may (`groups`)",
        Refusal::NotIndependent => "they are in no group, or in one of the author's (`independent`)",
    }
}

fn forbidden(message: String) -> ControlError {
    ControlError::Forbidden(message)
}
