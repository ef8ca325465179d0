//! Who may do what to a release (rollout.md §10).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::RolloutError;

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Starts, pauses and resumes releases; loads and unloads models, changes settings.
    Deploy,
    /// Skips what is left of a path.
    Promote,
    /// Ends releases and goes back to earlier versions.
    Rollback,
    /// Agrees to a step.
    Approve,
    /// Does what the rules forbid, with a reason.
    Override,
    /// Reads what models were asked and what they answered.
    Inspect,
    /// Exports and erases what is known of a person.
    Dpo,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 7] = [
        Role::Deploy,
        Role::Promote,
        Role::Rollback,
        Role::Approve,
        Role::Override,
        Role::Inspect,
        Role::Dpo,
    ];

    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Deploy => "deploy",
            Role::Promote => "promote",
            Role::Rollback => "rollback",
            Role::Approve => "approve",
            Role::Override => "override",
            Role::Inspect => "inspect",
            Role::Dpo => "dpo",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start a release.
    Create,
    /// Release a quarantined digest, or at once to everyone.
    Force,
    /// Freeze the share.
    Pause,
    /// Go on.
    Resume,
    /// Skip what is left of the path.
    Promote,
    /// End the release.
    Abort,
    /// Agree.
    Approve,
    /// Go on without the approvals that are missing.
    BypassApproval,
    /// Go back from a live version.
    Rollback,
}

impl Action {
    /// The role that may.
    pub fn role(self) -> Role {
        match self {
            Action::Create | Action::Pause | Action::Resume => Role::Deploy,
            Action::Promote => Role::Promote,
            Action::Abort | Action::Rollback => Role::Rollback,
            Action::Approve => Role::Approve,
            Action::Force | Action::BypassApproval => Role::Override,
        }
    }

    /// Whether it must say why.
    pub fn needs_reason(self) -> bool {
        self.role() == Role::Override || self == Action::Promote
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Create => "create",
            Action::Force => "force",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Promote => "promote",
            Action::Abort => "abort",
            Action::Approve => "approve",
            Action::BypassApproval => "bypass_approval",
            Action::Rollback => "rollback",
        })
    }
}

/// Whether a caller with these roles may do it; what breaks the rules must say why.
///
/// Errors: `Role`, `NoReason`.
pub fn permit(action: Action, roles: &[Role], reason: &str) -> Result<(), RolloutError> {
    let role = action.role();
    if !roles.contains(&role) {
        return Err(RolloutError::Role {
            action: action.to_string(),
            role,
        });
    }
    if action.needs_reason() && reason.trim().is_empty() {
        return Err(RolloutError::NoReason {
            action: action.to_string(),
        });
    }
    Ok(())
}
