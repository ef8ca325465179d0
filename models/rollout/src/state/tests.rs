//! The machine's ways, refusals, and the rules around it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::policy::OnNewVersion;

fn full() -> Path {
    Path {
        champion: true,
        shadow: true,
        steps: 2,
        approvals: BTreeSet::from([Approvable::Promoting]),
        bake: true,
    }
}

/// Follows `events` from the start and names the states on the way.
fn check(path: &Path, events: &[Event], expected: &str) {
    let mut state = State::Registered;
    let mut names = Vec::new();
    for event in events {
        state = path.next(&state, event).expect("the test's way exists");
        names.push(state.name());
    }
    assert_eq!(names.join(" "), expected);
}

const TO_GATES: [Event; 3] = [Event::Created, Event::Verified, Event::Loaded];

fn after_gates(events: &[Event]) -> Vec<Event> {
    [&TO_GATES[..], &[Event::GatesPassed], events].concat()
}

fn failure(reason: Reason) -> Event {
    Event::Failed { reason }
}

#[test]
fn good_release_walks_the_whole_path() {
    let passed = Event::StagePassed;
    check(
        &full(),
        &after_gates(&[
            passed.clone(),
            passed.clone(),
            passed,
            Event::Approved,
            Event::Switched,
            Event::Baked,
        ]),
        "verifying loading gating shadow canary canary awaiting_approval promoting baking live",
    );
}

#[test]
fn first_version_goes_live_after_its_gates() {
    let path = Path {
        champion: false,
        approvals: BTreeSet::new(),
        bake: false,
        ..full()
    };
    check(
        &path,
        &after_gates(&[Event::Switched]),
        "verifying loading gating promoting live",
    );
}

#[test]
fn approvals_stand_before_the_states_they_name() {
    let path = Path {
        approvals: BTreeSet::from([Approvable::Shadow, Approvable::Canary, Approvable::Promoting]),
        steps: 1,
        ..full()
    };
    let (yes, passed) = (Event::Approved, Event::StagePassed);
    check(
        &path,
        &after_gates(&[yes.clone(), passed.clone(), yes.clone(), passed, yes]),
        "verifying loading gating awaiting_approval shadow awaiting_approval canary awaiting_approval promoting",
    );
}

#[test]
fn operator_pauses_resumes_and_promotes() {
    check(
        &full(),
        &after_gates(&[
            Event::StagePassed,
            Event::Paused,
            Event::Resumed,
            Event::Held,
            Event::Promoted,
            Event::Approved,
        ]),
        "verifying loading gating shadow canary paused canary paused awaiting_approval promoting",
    );
}

#[test]
fn shadow_is_held_and_goes_on() {
    check(
        &full(),
        &after_gates(&[
            Event::Held,
            Event::Resumed,
            Event::Paused,
            Event::Resumed,
            Event::StagePassed,
        ]),
        "verifying loading gating shadow paused shadow paused shadow canary",
    );
}

#[test]
fn failures_lead_where_they_must() {
    let path = full();
    let check = |state: State, expected: Option<State>| {
        let got = path.next(&state, &failure(Reason::Check)).ok();
        assert_eq!(got, expected, "{state}");
    };
    let reason = Reason::Check;
    for state in [State::Verifying, State::Loading, State::Gating] {
        check(state, Some(State::Failed { reason }));
    }
    check(
        State::AwaitingApproval {
            next: Approvable::Shadow,
        },
        Some(State::Failed { reason }),
    );
    for state in [
        State::Shadow,
        State::Canary { step: 1 },
        State::Paused { step: Some(0) },
        State::Paused { step: None },
        State::Promoting,
    ] {
        check(
            state,
            Some(State::RollingBack {
                reason,
                restore: false,
            }),
        );
    }
    for state in [State::Baking, State::Live] {
        check(
            state,
            Some(State::RollingBack {
                reason,
                restore: true,
            }),
        );
    }
    for state in [
        State::Registered,
        State::Warm,
        State::RolledBack { reason },
        State::Failed { reason },
    ] {
        check(state, None);
    }
    let rolling = State::RollingBack {
        reason,
        restore: false,
    };
    assert_eq!(
        path.next(&rolling, &Event::Drained),
        Ok(State::RolledBack { reason })
    );
    assert!(rolling.is_quarantined() && !State::Failed { reason }.is_quarantined());
}

fn any_event() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![
        Event::Created,
        Event::Verified,
        Event::Loaded,
        Event::GatesPassed,
        Event::Approved,
        Event::StagePassed,
        Event::Held,
        Event::Paused,
        Event::Resumed,
        Event::Promoted,
        Event::Switched,
        Event::Baked,
        Event::Replaced,
        Event::Unloaded,
        Event::Reloaded,
        Event::Retired,
        failure(Reason::HardTrigger),
        Event::Drained,
    ])
}

proptest! {
    /// Whatever happens in whatever order: nothing is served before its gates, nothing serves everyone without the
    /// steps or an operator, and nothing that was sent back ever serves again.
    #[test]
    fn no_way_around_the_path(
        events in prop::collection::vec(any_event(), 0..60),
        shadow: bool,
        approvals in prop::collection::btree_set(
            prop::sample::select(vec![Approvable::Shadow, Approvable::Canary, Approvable::Promoting]), 0..=3,
        ),
    ) {
        let path = Path { shadow, approvals: approvals.clone(), ..full() };
        let asked = |step: Approvable, got: &BTreeSet<Approvable>| !approvals.contains(&step) || got.contains(&step);
        let mut state = State::Registered;
        let (mut gated, mut steps, mut skipped, mut sent_back) = (false, 0, false, false);
        let mut got = BTreeSet::new();
        for event in &events {
            let Ok(next) = path.next(&state, event) else { continue };
            gated |= *event == Event::GatesPassed;
            steps += usize::from(matches!(state, State::Canary { .. }) && *event == Event::StagePassed);
            skipped |= *event == Event::Promoted;
            if let (State::AwaitingApproval { next }, Event::Approved) = (&state, event) {
                got.insert(*next);
            }
            match next {
                State::Shadow => prop_assert!(gated && !sent_back && asked(Approvable::Shadow, &got)),
                State::Canary { .. } => prop_assert!(gated && !sent_back && asked(Approvable::Canary, &got)),
                State::Promoting | State::Baking | State::Live => {
                    prop_assert!(gated && !sent_back && (steps == 2 || skipped));
                    prop_assert!(asked(Approvable::Canary, &got) && asked(Approvable::Promoting, &got));
                }
                State::RollingBack { .. } | State::RolledBack { .. } | State::Failed { .. } => sent_back = true,
                _ => {}
            }
            state = next;
        }
        let text = serde_json::to_string(&state).expect("it is plain data");
        prop_assert_eq!(serde_json::from_str::<State>(&text).expect("it was just written"), state);
    }
}

#[test]
fn refusals_name_state_and_event() {
    let refused = full()
        .next(&State::Live, &Event::GatesPassed)
        .expect_err("live has no gates");
    assert_eq!(
        refused.to_string(),
        "a release that is live cannot go on by `gates_passed`"
    );
    let refused = full()
        .next(&State::Canary { step: 2 }, &Event::StagePassed)
        .expect_err("there are two");
    assert_eq!(refused.to_string(), "step 2 does not exist: the path has 2");
    let back = full().next(&State::Canary { step: 2 }, &failure(Reason::Aborted));
    assert!(matches!(back, Ok(State::RollingBack { .. })), "{back:?}");
}

#[test]
fn one_release_per_model_and_no_quarantined_digest() {
    let quarantine = BTreeSet::from(["bad".to_owned()]);
    let check = |digest, active, supersede, force, expected: Result<Admission, &str>| {
        let application = Application {
            digest,
            active,
            supersede,
            force,
        };
        let got = admit(&application, &quarantine).map_err(|error| error.to_string());
        assert_eq!(
            got.as_ref().copied().map_err(|text| &text[..12]),
            expected,
            "{application:?}"
        );
    };
    check("good", None, false, false, Ok(Admission::Start));
    check("good", Some("r1"), false, false, Err("release `r1`"));
    check("good", Some("r1"), true, false, Ok(Admission::Supersede));
    check("bad", None, false, false, Err("artifact bad"));
    check("bad", Some("r1"), true, false, Err("artifact bad"));
    check("bad", None, false, true, Ok(Admission::Start));
}

#[test]
fn a_new_version_waits_or_is_released() {
    use OnNewVersion::{Canary, Hold, Immediate};
    assert_eq!(arrival(Immediate, true, true), Arrival::Immediate);
    assert_eq!(arrival(Hold, false, false), Arrival::Registered);
    assert_eq!(arrival(Canary, false, false), Arrival::Release);
    assert_eq!(arrival(Canary, false, true), Arrival::Wait);
    assert_eq!(arrival(Canary, true, false), Arrival::Registered);
}

#[test]
fn roles_and_reasons() {
    assert!(permit(Action::Create, &[Role::Deploy], "").is_ok());
    assert!(permit(Action::Promote, &[Role::Deploy, Role::Approve], "").is_err());
    assert!(permit(Action::Force, &[Role::Override], " ").is_err());
    assert!(permit(Action::BypassApproval, &[Role::Override], "incident 12").is_ok());
    let refused = permit(Action::Abort, &[Role::Deploy], "").expect_err("deploy may not");
    assert_eq!(refused.to_string(), "`abort` needs the role `rollback`");
}
