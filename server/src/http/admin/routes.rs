//! Which path of the admin listener means what (rollout.md §10).

use http::Method;

use super::super::routes::{self, NoRoute};
use super::subjects::SubjectCall;
use crate::admin::{ReleaseAction, change};
use crate::audit::Action;
use crate::control::object;

/// A path that is served, with the names in it decoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Audit,
    Events,
    /// Records of the inference log as they come.
    LogStream,
    /// Something is done for a person.
    Subject(SubjectCall),
    /// The releases of every model.
    AllReleases,
    Plan {
        model: String,
    },
    Releases {
        model: String,
    },
    Release {
        model: String,
        id: String,
    },
    Act {
        model: String,
        id: String,
        action: ReleaseAction,
    },
    Approve {
        model: String,
        id: String,
    },
    Rollback {
        model: String,
    },
    /// A call of the protocol that changes something, or the index of what there is to change.
    V2(routes::Route),
}

impl Route {
    /// The route of a path.
    pub(super) fn of(path: &str) -> Result<Self, NoRoute> {
        let Some(own) = path.strip_prefix("/crossfade/v1/") else {
            let route = routes::Route::of(path)?;
            let index = matches!(route, routes::Route::Index { .. });
            return match index || super::super::control::change(&route).is_some() {
                true => Ok(Self::V2(route)),
                false => Err(NoRoute::UnknownPath),
            };
        };
        let segments: Vec<&str> = own.splitn(6, '/').collect();
        let name = |segment: &str| match segment {
            "" => Err(NoRoute::UnknownPath),
            segment => routes::decode(segment),
        };
        match segments[..] {
            ["health"] => Ok(Self::Health),
            ["audit"] => Ok(Self::Audit),
            ["events"] => Ok(Self::Events),
            ["log", "stream"] => Ok(Self::LogStream),
            ["rollouts"] => Ok(Self::AllReleases),
            [own] => match own.strip_prefix("subjects:").and_then(SubjectCall::of) {
                Some(call) => Ok(Self::Subject(call)),
                None => Err(NoRoute::UnknownPath),
            },
            ["models", model, "plan"] => Ok(Self::Plan { model: name(model)? }),
            ["models", model] => match model.rsplit_once(':') {
                Some((model, "rollback")) => Ok(Self::Rollback { model: name(model)? }),
                _ => Err(NoRoute::UnknownPath),
            },
            ["models", model, "rollouts"] => Ok(Self::Releases { model: name(model)? }),
            ["models", model, "rollouts", id] => {
                let model = name(model)?;
                match id.rsplit_once(':') {
                    None => Ok(Self::Release { model, id: name(id)? }),
                    Some((id, "approve")) => Ok(Self::Approve { model, id: name(id)? }),
                    Some((id, action)) => Ok(Self::Act {
                        model,
                        id: name(id)?,
                        action: action_of(action)?,
                    }),
                }
            }
            _ => Err(NoRoute::UnknownPath),
        }
    }

    /// The methods that the path takes, as `Allow` lists them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Health | Self::Audit | Self::AllReleases | Self::Plan { .. } | Self::Release { .. } => {
                "GET, HEAD"
            }
            Self::Events | Self::LogStream => "GET",
            Self::Releases { .. } => "GET, HEAD, POST",
            Self::Act { .. } | Self::Approve { .. } | Self::Rollback { .. } | Self::Subject(_) => "POST",
            Self::V2(route) => route.allow(),
        }
    }

    /// Whether the path takes this method.
    pub(super) fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// What a POST would change, and of what.
    pub(super) fn change(&self) -> Option<(Action, String)> {
        match self {
            Self::Health
            | Self::Audit
            | Self::Events
            | Self::LogStream
            | Self::AllReleases
            | Self::Plan { .. }
            | Self::Release { .. } => None,
            Self::Releases { model } => Some((Action::ReleaseCreate, object("", model))),
            Self::Act { model, id, action } => Some((change::of(*action), change::release(model, id))),
            // Or an override, which the body says.
            Self::Approve { model, id } => Some((Action::ReleaseApprove, change::release(model, id))),
            Self::Rollback { model } => Some((Action::Rollback, object("", model))),
            Self::Subject(call) => Some((call.action(), "subject".to_owned())),
            Self::V2(route) => super::super::control::change(route),
        }
    }

    /// The model that a POST would change; empty for settings of the server.
    pub(super) fn model(&self) -> &str {
        match self {
            Self::Health
            | Self::Audit
            | Self::Events
            | Self::LogStream
            | Self::Subject(_)
            | Self::AllReleases => "",
            Self::Releases { model }
            | Self::Plan { model }
            | Self::Release { model, .. }
            | Self::Act { model, .. }
            | Self::Approve { model, .. }
            | Self::Rollback { model }
            | Self::V2(routes::Route::Load { model, .. } | routes::Route::Unload { model, .. }) => model,
            Self::V2(_) => "",
        }
    }
}

fn action_of(text: &str) -> Result<ReleaseAction, NoRoute> {
    match text {
        "pause" => Ok(ReleaseAction::Pause),
        "resume" => Ok(ReleaseAction::Resume),
        "promote" => Ok(ReleaseAction::Promote),
        "abort" => Ok(ReleaseAction::Abort),
        _ => Err(NoRoute::UnknownPath),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Role;

    #[test]
    fn every_path_of_the_interface_is_known() {
        let (m, id) = (|| "m".to_owned(), || "r1".to_owned());
        let act = |action| Route::Act {
            model: m(),
            id: id(),
            action,
        };
        for (path, expected) in [
            ("health", Route::Health),
            ("audit", Route::Audit),
            ("events", Route::Events),
            ("rollouts", Route::AllReleases),
            ("models/m/plan", Route::Plan { model: m() }),
            ("models/m/rollouts", Route::Releases { model: m() }),
            ("models/m/rollouts/r1", Route::Release { model: m(), id: id() }),
            ("models/m/rollouts/r1:pause", act(ReleaseAction::Pause)),
            ("models/m/rollouts/r1:resume", act(ReleaseAction::Resume)),
            ("models/m/rollouts/r1:promote", act(ReleaseAction::Promote)),
            ("models/m/rollouts/r1:abort", act(ReleaseAction::Abort)),
            (
                "models/m/rollouts/r1:approve",
                Route::Approve { model: m(), id: id() },
            ),
            ("models/m:rollback", Route::Rollback { model: m() }),
            (
                "models/a%3Ab:rollback",
                Route::Rollback {
                    model: "a:b".to_owned(),
                },
            ),
        ] {
            assert_eq!(
                Route::of(&format!("/crossfade/v1/{path}")),
                Ok(expected),
                "{path}"
            );
        }
        for path in [
            "/v2/repository/models/m/load",
            "/v2/logging",
            "/v2/repository/index",
        ] {
            assert!(matches!(Route::of(path), Ok(Route::V2(_))), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "/crossfade/v1",
            "/crossfade/v1/",
            "/crossfade/v1/models",
            "/crossfade/v1/models/m",
            "/crossfade/v1/models/:rollback",
            "/crossfade/v1/models/m/rollouts/",
            "/crossfade/v1/models/m/rollouts/r1:applaud",
            "/crossfade/v1/models/m/rollouts/:approve",
            "/crossfade/v1/models/m/rollouts/:pause",
            "/crossfade/v1/models/m/rollouts/r1/x",
            "/crossfade/v2/health",
            "/v2/models/m/infer",
            "/v2/health/ready",
            "/metrics",
        ] {
            assert_eq!(Route::of(path), Err(NoRoute::UnknownPath), "{path}");
        }
        let outside = Route::of("/crossfade/v1/models/..%2f/rollouts");
        assert!(matches!(outside, Err(NoRoute::Name(_))), "{outside:?}");
    }

    #[test]
    fn what_changes_something_says_who_may() {
        let roles = |path: &str| {
            Route::of(path)
                .unwrap()
                .change()
                .map(|(action, _)| change::roles(action))
        };
        assert_eq!(
            roles("/crossfade/v1/models/m/rollouts"),
            Some(&[Role::Deploy][..])
        );
        for (action, expected) in [
            ("pause", &[Role::Deploy][..]),
            ("resume", &[Role::Deploy]),
            ("promote", &[Role::Promote]),
            ("abort", &[Role::Rollback]),
            ("approve", &[Role::Approve, Role::Override]),
        ] {
            let path = format!("/crossfade/v1/models/m/rollouts/r:{action}");
            assert_eq!(roles(&path), Some(expected), "{action}");
        }
        assert_eq!(roles("/crossfade/v1/audit"), None);
        assert_eq!(roles("/v2/repository/models/m/unload"), Some(&[Role::Deploy][..]));
        assert_eq!(roles("/v2/repository/index"), None);
    }
}
