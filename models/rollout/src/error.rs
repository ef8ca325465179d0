//! Errors of releases, by what a caller can act on.

use crossfade_statistics::StatisticsError;

use crate::state::{Event, Role, State};

/// Why a release or one of its steps is refused, or cannot be judged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RolloutError {
    /// The state has no such way out.
    #[error("a release that is {state} cannot go on by `{event}`")]
    Transition {
        /// Where the release stands.
        state: Box<State>,
        /// What was asked for.
        event: Box<Event>,
    },
    /// The path of the release has no such step.
    #[error("step {step} does not exist: the path has {steps}")]
    NoStep {
        /// The step, from 0.
        step: usize,
        /// How many there are.
        steps: usize,
    },
    /// The caller lacks the role.
    #[error("`{action}` needs the role `{role}`")]
    Role {
        /// What was asked for.
        action: String,
        /// The role that may.
        role: Role,
    },
    /// An action that must say why.
    #[error("`{action}` needs a reason")]
    NoReason {
        /// What was asked for.
        action: String,
    },
    /// The model has an active release already.
    #[error("release `{active}` of this model is active; wait for it, or start with `supersede`")]
    Active {
        /// The active release.
        active: String,
    },
    /// A digest that was rolled back before.
    #[error("artifact {digest} was rolled back before; releasing it again takes `force` and a reason")]
    Quarantined {
        /// sha256 of the artifact.
        digest: String,
    },
    /// A snapshot that does not belong to the policy.
    #[error("the snapshot does not fit the policy: {what}: expected {expected}, got {got}")]
    Snapshot {
        /// What differs.
        what: &'static str,
        /// What the policy asks for.
        expected: String,
        /// What the snapshot holds.
        got: String,
    },
    /// Counts that no statistic is defined for.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// A policy that cannot be read, contradicts itself, or asks for what is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A value that makes no sense.
    #[error("`{key}`: {problem}")]
    Invalid {
        /// The key, with its tables.
        key: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// A part of the design that does not exist yet.
    #[error("`{key}`: {element} is not built yet{advice}")]
    NotBuilt {
        /// The key that asks for it.
        key: String,
        /// What is asked for.
        element: &'static str,
        /// How to do without; begins with punctuation, or is empty.
        advice: String,
    },
}

impl PolicyError {
    pub(crate) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        PolicyError::Invalid {
            key: key.into(),
            problem: problem.into(),
        }
    }
}
