//! Whether a release may start, and what a new version leads to (rollout.md §1).

use std::collections::BTreeSet;

use crate::RolloutError;
use crate::policy::OnNewVersion;

/// A wish to start a release.
#[derive(Debug, Clone, Copy)]
pub struct Application<'a> {
    /// sha256 of the artifact, hexadecimal.
    pub digest: &'a str,
    /// The model's active release, if there is one.
    pub active: Option<&'a str>,
    /// The active release gives way.
    pub supersede: bool,
    /// A quarantined digest is released all the same.
    pub force: bool,
}

/// How a release may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Start,
    /// After the active one was aborted as superseded.
    Supersede,
}

/// Decides whether a release may start; the caller has checked the roles for `supersede` and `force`.
///
/// Errors: `Active` beside another release; `Quarantined` for a digest that was rolled back.
pub fn admit(
    application: &Application<'_>,
    quarantine: &BTreeSet<String>,
) -> Result<Admission, RolloutError> {
    if quarantine.contains(application.digest) && !application.force {
        return Err(RolloutError::Quarantined {
            digest: application.digest.to_owned(),
        });
    }
    match application.active {
        None => Ok(Admission::Start),
        Some(_) if application.supersede => Ok(Admission::Supersede),
        Some(active) => Err(RolloutError::Active {
            active: active.to_owned(),
        }),
    }
}

/// What a version that appeared in the repository leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is loaded and serves, as without a policy.
    Immediate,
    /// It becomes the candidate.
    Release,
    /// It waits until the active release has ended.
    Wait,
    /// It stays registered until someone deploys it.
    Registered,
}

/// Decides what a new version leads to; of several the caller passes the newest, the others stay registered.
///
/// * `quarantined`: whether its digest was rolled back before and has not changed
/// * `active`: whether the model has an active release
pub fn arrival(rule: OnNewVersion, quarantined: bool, active: bool) -> Arrival {
    match rule {
        OnNewVersion::Immediate => Arrival::Immediate,
        OnNewVersion::Hold => Arrival::Registered,
        OnNewVersion::Canary if quarantined => Arrival::Registered,
        OnNewVersion::Canary if active => Arrival::Wait,
        OnNewVersion::Canary => Arrival::Release,
    }
}
