//! What a request's version text means, and which version answers it. Pure, so that traffic splits can join later.

use std::collections::BTreeMap;

use crate::lifecycle::State;

/// A request's version text, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionSelector<'a> {
    /// Empty: the model's own choice.
    Default,
    /// Exactly this version.
    Version(u64),
    /// The version that this label points at.
    Label(&'a str),
}

impl<'a> VersionSelector<'a> {
    /// Reads the text; `None` for what can be neither a version nor a label (0, negative or huge numbers).
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() {
            return Some(VersionSelector::Default);
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(version) if version > 0 && digits.len() == text.len() => {
                    Some(VersionSelector::Version(version))
                }
                _ => None,
            };
        }
        Some(VersionSelector::Label(text))
    }
}

/// Whether `label` can be told from a version number.
pub fn is_label(label: &str) -> bool {
    matches!(VersionSelector::parse(label), Some(VersionSelector::Label(_)))
}

/// What the versions of a model look like to a request.
#[derive(Debug)]
pub struct RouteView<'a> {
    /// Every known version with its state.
    pub versions: &'a BTreeMap<u64, State>,
    /// The versions that the policy chooses.
    pub chosen: &'a [u64],
    /// Labels and the versions they point at.
    pub labels: &'a BTreeMap<String, u64>,
}

/// The outcome of routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// This version answers.
    Ready(u64),
    /// This version is meant, and it cannot answer now.
    NotReady(u64),
    /// There is no such version, or not any more.
    Unknown(u64),
    /// The text names nothing.
    Invalid,
    /// No version is meant in particular, and none is ready.
    NoneReady,
}

/// Decides which version answers.
pub fn route(selector: VersionSelector<'_>, view: &RouteView<'_>) -> Route {
    match selector {
        VersionSelector::Default => default_version(view).map_or(Route::NoneReady, Route::Ready),
        VersionSelector::Version(version) => exact(version, view),
        VersionSelector::Label(label) => view
            .labels
            .get(label)
            .map_or(Route::Invalid, |&version| exact(version, view)),
    }
}

/// The version that answers when a request names none: the highest ready one that the policy chooses; while an
/// update is failing, the highest one that still serves.
pub fn default_version(view: &RouteView<'_>) -> Option<u64> {
    let ready = || {
        view.versions
            .iter()
            .rev()
            .filter(|(_, state)| state.is_ready())
            .map(|(version, _)| *version)
    };
    ready()
        .find(|version| view.chosen.contains(version))
        .or_else(|| ready().next())
}

fn exact(version: u64, view: &RouteView<'_>) -> Route {
    match view.versions.get(&version) {
        Some(State::Ready) => Route::Ready(version),
        Some(State::Loading | State::WarmingUp | State::Failed(_)) => Route::NotReady(version),
        Some(State::Draining | State::Unloaded) | None => Route::Unknown(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_texts_are_numbers_labels_or_invalid() {
        let check = |text, expected| assert_eq!(VersionSelector::parse(text), expected, "{text}");
        check("", Some(VersionSelector::Default));
        check("3", Some(VersionSelector::Version(3)));
        check("stable", Some(VersionSelector::Label("stable")));
        check("v10", Some(VersionSelector::Label("v10")));
        for text in ["0", "-1", "+1", "00", "99999999999999999999999"] {
            check(text, None);
        }
    }

    #[test]
    fn requests_go_where_the_text_points() {
        let versions = BTreeMap::from([
            (1, State::Ready),
            (2, State::Ready),
            (3, State::Loading),
            (4, State::Unloaded),
            (5, State::Failed("broken".into())),
        ]);
        let labels = BTreeMap::from([("stable".to_owned(), 1), ("next".to_owned(), 3)]);
        let view = RouteView {
            versions: &versions,
            chosen: &[1, 5],
            labels: &labels,
        };
        let check = |text: &str, expected| {
            let selector = VersionSelector::parse(text).expect("the test's texts are readable");
            assert_eq!(route(selector, &view), expected, "{text}");
        };
        check("", Route::Ready(1));
        check("2", Route::Ready(2));
        check("stable", Route::Ready(1));
        check("next", Route::NotReady(3));
        check("5", Route::NotReady(5));
        check("4", Route::Unknown(4));
        check("6", Route::Unknown(6));
        check("other", Route::Invalid);
        let nothing = RouteView { chosen: &[5], ..view };
        assert_eq!(route(VersionSelector::Default, &nothing), Route::Ready(2));
        let empty = RouteView {
            versions: &BTreeMap::new(),
            ..nothing
        };
        assert_eq!(route(VersionSelector::Default, &empty), Route::NoneReady);
    }
}
