//! The life of a version: which state follows which. Pure; the registry holds the states.

use std::sync::Arc;

/// Where a version is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its files are being read.
    Loading,
    /// It is loaded and runs its warm-up requests.
    WarmingUp,
    /// It answers requests.
    Ready,
    /// It gets no new requests and answers those it has.
    Draining,
    /// It is gone.
    Unloaded,
    /// It could not be loaded, for this reason.
    Failed(Arc<str>),
}

/// What happens to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A load begins.
    Load,
    /// Files are read, warm-up begins.
    WarmUp,
    /// It may answer.
    Loaded,
    /// The load or the warm-up failed.
    Fail(Arc<str>),
    /// It shall go.
    Drain,
    /// Its last request is answered and its memory is returned.
    Drained,
}

/// An event that the state does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not follow {state:?}")]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// The state after `event`.
    ///
    /// A reload of a ready version is the life of its successor: the ready one stays `Ready` until it drains.
    pub fn after(self, event: Event) -> Result<State, Illegal> {
        match (self, event) {
            (State::Unloaded | State::Failed(_), Event::Load) => Ok(State::Loading),
            (State::Loading, Event::WarmUp) => Ok(State::WarmingUp),
            (State::Loading | State::WarmingUp, Event::Loaded) => Ok(State::Ready),
            (State::Loading | State::WarmingUp, Event::Fail(reason)) => Ok(State::Failed(reason)),
            (State::Ready, Event::Drain) => Ok(State::Draining),
            (State::Draining, Event::Drained) => Ok(State::Unloaded),
            // Loaded again while the last requests of its former self are still answered.
            (State::Draining, Event::Load) => Ok(State::Loading),
            // What never served has nothing to answer.
            (State::Failed(_) | State::Unloaded, Event::Drain) => Ok(State::Unloaded),
            (state, event) => Err(Illegal { state, event }),
        }
    }

    /// Whether requests may be routed to it.
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Ready)
    }

    /// As the repository index writes it (protocols.md §8).
    pub fn index_name(&self) -> &'static str {
        match self {
            State::Loading | State::WarmingUp => "LOADING",
            State::Ready => "READY",
            State::Draining => "UNLOADING",
            State::Unloaded | State::Failed(_) => "UNAVAILABLE",
        }
    }

    /// In words, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::WarmingUp => "warming up",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Unloaded => "unloaded",
            State::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: State, events: &[Event], expected: Option<State>) {
        let end = events.iter().cloned().try_fold(start, State::after);
        assert_eq!(end.ok(), expected);
    }

    #[test]
    fn a_version_lives_from_loading_to_unloaded() {
        check(
            State::Unloaded,
            &[
                Event::Load,
                Event::WarmUp,
                Event::Loaded,
                Event::Drain,
                Event::Drained,
            ],
            Some(State::Unloaded),
        );
        check(State::Unloaded, &[Event::Load, Event::Loaded], Some(State::Ready));
    }

    #[test]
    fn a_failed_version_may_be_tried_again() {
        let fail = || Event::Fail("no memory".into());
        check(State::Loading, &[fail()], Some(State::Failed("no memory".into())));
        check(
            State::Loading,
            &[Event::WarmUp, fail(), Event::Load, Event::Loaded],
            Some(State::Ready),
        );
    }

    #[test]
    fn nothing_is_routable_before_its_warm_up_ends() {
        check(State::Loading, &[Event::Drain], None);
        check(State::Ready, &[Event::WarmUp], None);
        check(State::Ready, &[Event::Loaded], None);
        assert!(!State::WarmingUp.is_ready());
        assert!(!State::Draining.is_ready());
    }
}
