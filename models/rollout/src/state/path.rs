//! The ways from state to state: which event leads where, given what a policy uses.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Approvable, Event, Reason, State};
use crate::RolloutError;

/// What of the machine a policy uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// A version is live beside it; the first version of a model has none and goes live after its gates.
    pub champion: bool,
    /// Whether there is a shadow stage.
    pub shadow: bool,
    /// How many steps below 100 %.
    pub steps: usize,
    /// States that people agree to.
    pub approvals: BTreeSet<Approvable>,
    /// Whether it bakes before it is live.
    pub bake: bool,
}

impl Path {
    /// The state after `event`.
    ///
    /// Errors: `Transition` if `state` has no such way out; `NoStep` for a step that the path does not have.
    pub fn next(&self, state: &State, event: &Event) -> Result<State, RolloutError> {
        if let State::Canary { step } | State::Paused { step: Some(step) } = state
            && *step >= self.steps
            // A release that must go back goes back, whatever its path is by now.
            && !matches!(event, Event::Failed { .. })
        {
            return Err(RolloutError::NoStep {
                step: *step,
                steps: self.steps,
            });
        }
        let next = match (state, event) {
            (_, Event::Failed { reason }) => self.failed(state, *reason),
            (State::Registered, Event::Created) => Some(State::Verifying),
            (State::Verifying, Event::Verified) => Some(State::Loading),
            (State::Loading, Event::Loaded) => Some(State::Gating),
            (State::Gating, Event::GatesPassed) => Some(self.after_gates()),
            (State::AwaitingApproval { next }, Event::Approved) => Some(self.approved(*next)),
            (State::Shadow, Event::StagePassed) => Some(self.after_shadow()),
            (State::Canary { step }, Event::StagePassed) => Some(self.after_step(*step)),
            (State::Shadow, Event::Held | Event::Paused) => Some(State::Paused { step: None }),
            (State::Canary { step }, Event::Held | Event::Paused) => {
                Some(State::Paused { step: Some(*step) })
            }
            (State::Paused { step: None }, Event::Resumed) => Some(State::Shadow),
            (State::Paused { step: Some(step) }, Event::Resumed) => Some(State::Canary { step: *step }),
            // Nobody passes by those who were to be asked before the first request.
            (State::Shadow | State::Paused { step: None }, Event::Promoted)
                if self.approvals.contains(&Approvable::Canary) =>
            {
                None
            }
            (State::Shadow | State::Canary { .. } | State::Paused { .. }, Event::Promoted) => {
                Some(self.promotion())
            }
            (State::Promoting, Event::Switched) => Some(if self.bake { State::Baking } else { State::Live }),
            (State::Baking, Event::Baked) => Some(State::Live),
            (State::Live, Event::Replaced) => Some(State::Warm),
            (State::Warm, Event::Unloaded) => Some(State::Cold),
            (State::Cold, Event::Reloaded) => Some(State::Warm),
            (State::Cold, Event::Retired) => Some(State::Archived),
            (State::RollingBack { reason, .. }, Event::Drained) => {
                Some(State::RolledBack { reason: *reason })
            }
            _ => None,
        };
        next.ok_or_else(|| RolloutError::Transition {
            state: Box::new(state.clone()),
            event: Box::new(event.clone()),
        })
    }

    fn after_gates(&self) -> State {
        if !self.champion {
            return self.promotion();
        }
        if !self.shadow {
            return self.after_shadow();
        }
        self.unless_approved(Approvable::Shadow)
    }

    fn after_shadow(&self) -> State {
        if self.steps == 0 {
            return self.promotion();
        }
        self.unless_approved(Approvable::Canary)
    }

    fn after_step(&self, step: usize) -> State {
        if step + 1 < self.steps {
            return State::Canary { step: step + 1 };
        }
        self.promotion()
    }

    fn promotion(&self) -> State {
        self.unless_approved(Approvable::Promoting)
    }

    /// The state itself, or the wait for its approval.
    fn unless_approved(&self, next: Approvable) -> State {
        if self.approvals.contains(&next) {
            return State::AwaitingApproval { next };
        }
        self.approved(next)
    }

    fn approved(&self, next: Approvable) -> State {
        match next {
            Approvable::Shadow => State::Shadow,
            Approvable::Canary => State::Canary { step: 0 },
            Approvable::Promoting => State::Promoting,
        }
    }

    /// Where a failure leads; `None` where nothing can fail any more.
    fn failed(&self, state: &State, reason: Reason) -> Option<State> {
        match state {
            State::Verifying | State::Loading | State::Gating => Some(State::Failed { reason }),
            State::AwaitingApproval { next } if !self.has_traffic_before(*next) => {
                Some(State::Failed { reason })
            }
            State::AwaitingApproval { .. }
            | State::Shadow
            | State::Canary { .. }
            | State::Paused { .. }
            | State::Promoting => Some(State::RollingBack {
                reason,
                restore: false,
            }),
            State::Baking | State::Live => Some(State::RollingBack {
                reason,
                restore: true,
            }),
            State::Registered
            | State::Warm
            | State::Cold
            | State::Archived
            | State::Failed { .. }
            | State::RollingBack { .. }
            | State::RolledBack { .. } => None,
        }
    }

    /// Whether requests or copies of them came before this state.
    fn has_traffic_before(&self, next: Approvable) -> bool {
        match next {
            Approvable::Shadow => false,
            Approvable::Canary => self.shadow,
            Approvable::Promoting => self.champion && (self.shadow || self.steps > 0),
        }
    }
}
