//! Where a release stands, and what may happen next (rollout.md §1).
//!
//! The machine is data: a [`State`], an [`Event`] and the [`Path`] of a policy give the next state or a refusal. The
//! server writes the new state down before it acts on it.

use std::fmt;

use serde::{Deserialize, Serialize};

mod admission;
mod path;
mod role;

pub use admission::{Admission, Application, Arrival, admit, arrival};
pub use path::Path;
pub use role::{Action, Role, permit};

/// Where a release stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum State {
    /// Known, not deployed.
    Registered,
    /// Digest, signature, size and format are checked.
    Verifying,
    /// It loads and warms up beside the live version.
    Loading,
    /// The gates run; no request reaches it.
    Gating,
    /// People must agree before the next state.
    AwaitingApproval {
        /// Where the approval leads.
        next: Approvable,
    },
    /// Copies of requests go to it, their answers to nobody.
    Shadow,
    /// A share of the requests goes to it.
    Canary {
        /// Which step of the path, from 0.
        step: usize,
    },
    /// The share is frozen.
    Paused {
        /// The step that goes on afterwards; `None`: shadow.
        step: Option<usize>,
    },
    /// All requests are about to go to it.
    Promoting,
    /// All requests go to it, the previous version is warm.
    Baking,
    /// It is the live version.
    Live,
    /// It was live, stays loaded, and can serve at once.
    Warm,
    /// It was live and is not loaded.
    Cold,
    /// It is out of the list of versions to go back to.
    Archived,
    /// It never had traffic and will not.
    Failed {
        /// Why.
        reason: Reason,
    },
    /// Requests are sent back to the version that serves instead.
    RollingBack {
        /// Why.
        reason: Reason,
        /// It was live: the previous version becomes live again.
        restore: bool,
    },
    /// No request reaches it any more; its digest is quarantined.
    RolledBack {
        /// Why.
        reason: Reason,
    },
}

/// A state that people may have to agree to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approvable {
    /// Before copies of requests.
    Shadow,
    /// Before the first request.
    Canary,
    /// Before all requests.
    Promoting,
}

impl Approvable {
    /// Its name in configurations and interfaces.
    pub const fn name(self) -> &'static str {
        match self {
            Approvable::Shadow => "shadow",
            Approvable::Canary => "canary",
            Approvable::Promoting => "promoting",
        }
    }
}

/// Why a release ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Digest, signature, size or format.
    Verification,
    /// It does not load, or not warm up.
    Load,
    /// A gate said no.
    Gate,
    /// A hard trigger (rollout.md §4).
    HardTrigger,
    /// A critical check failed.
    Check,
    /// The stage's time was over and nothing shown, with `on_inconclusive = "rollback"`.
    Inconclusive,
    /// An operator, or a removed version.
    Aborted,
    /// A later release took its place.
    Superseded,
    /// Nobody approved in time.
    ApprovalTimeout,
    /// The release's own deadline.
    Deadline,
    /// The process ended uncleanly too often with it.
    CrashLoop,
    /// An operator went back from a live version.
    Manual,
}

/// What happens to a release.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// Someone deployed it.
    Created,
    /// All checks of the artifact passed.
    Verified,
    /// It is warm.
    Loaded,
    /// All gates passed.
    GatesPassed,
    /// The quorum is reached.
    Approved,
    /// Shadow, or the current step, has passed.
    StagePassed,
    /// The step's time is over, and the policy says to wait for a person.
    Held,
    /// An operator stops the advance.
    Paused,
    /// An operator lets it go on.
    Resumed,
    /// An operator skips what is left of the path.
    Promoted,
    /// All requests go to it now.
    Switched,
    /// The time of baking is over.
    Baked,
    /// Another version became live.
    Replaced,
    /// Its memory was needed.
    Unloaded,
    /// It is warm again.
    Reloaded,
    /// It is no longer kept.
    Retired,
    /// It is sent back, or never gets traffic.
    Failed {
        /// Why.
        reason: Reason,
    },
    /// The route table no longer holds it, and its last request is answered.
    Drained,
}

impl State {
    /// Whether the release still holds its model's place: no other may start.
    pub fn is_active(&self) -> bool {
        match self {
            State::Verifying
            | State::Loading
            | State::Gating
            | State::AwaitingApproval { .. }
            | State::Shadow
            | State::Canary { .. }
            | State::Paused { .. }
            | State::Promoting
            | State::Baking
            | State::RollingBack { .. } => true,
            State::Registered
            | State::Live
            | State::Warm
            | State::Cold
            | State::Archived
            | State::Failed { .. }
            | State::RolledBack { .. } => false,
        }
    }

    /// Whether hard triggers send it back.
    pub fn is_armed(&self) -> bool {
        matches!(
            self,
            State::Shadow | State::Canary { .. } | State::Paused { .. } | State::Promoting | State::Baking
        )
    }

    /// Whether its digest may be released again only by force.
    pub fn is_quarantined(&self) -> bool {
        matches!(self, State::RollingBack { .. } | State::RolledBack { .. })
    }

    /// Its name, as metrics and logs have it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Registered => "registered",
            State::Verifying => "verifying",
            State::Loading => "loading",
            State::Gating => "gating",
            State::AwaitingApproval { .. } => "awaiting_approval",
            State::Shadow => "shadow",
            State::Canary { .. } => "canary",
            State::Paused { .. } => "paused",
            State::Promoting => "promoting",
            State::Baking => "baking",
            State::Live => "live",
            State::Warm => "warm",
            State::Cold => "cold",
            State::Archived => "archived",
            State::Failed { .. } => "failed",
            State::RollingBack { .. } => "rolling_back",
            State::RolledBack { .. } => "rolled_back",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Created => "created",
            Event::Verified => "verified",
            Event::Loaded => "loaded",
            Event::GatesPassed => "gates_passed",
            Event::Approved => "approved",
            Event::StagePassed => "stage_passed",
            Event::Held => "held",
            Event::Paused => "paused",
            Event::Resumed => "resumed",
            Event::Promoted => "promoted",
            Event::Switched => "switched",
            Event::Baked => "baked",
            Event::Replaced => "replaced",
            Event::Unloaded => "unloaded",
            Event::Reloaded => "reloaded",
            Event::Retired => "retired",
            Event::Failed { .. } => "failed",
            Event::Drained => "drained",
        })
    }
}

#[cfg(test)]
mod tests;
