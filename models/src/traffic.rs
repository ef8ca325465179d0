//! What a request's version text means, and which version answers it; how the requests that name none are divided
//! while a version is being released. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_rollout::routing::{Drawn, RouteReason, Rule, Traffic};

use crate::lifecycle::State;

/// What a request says about the version that shall answer it, and what chance may choose by.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// The version in its path, message or header: empty, a number or a label.
    pub selector: &'a str,
    /// Looks a header up by its lower-case name.
    pub header: &'a (dyn Fn(&str) -> Option<&'a [u8]> + Sync),
    /// Its id.
    pub id: &'a [u8],
}

/// How the requests of a model that name no version are divided among its versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Division {
    /// The release that is active.
    pub release: Option<Arc<str>>,
    /// The live version alone, or beside the one that is being released.
    pub traffic: Traffic,
    /// Differs from that of every division before it.
    pub epoch: u64,
    /// The release whose version gets copies of requests.
    pub shadow: Option<Arc<str>>,
    /// Headers whose value is the routing key, lower case; the first that a request has counts.
    pub key_headers: Vec<String>,
    /// Whose requests are not drawn, tried in order.
    pub rules: Vec<Rule>,
}

impl Division {
    /// The version that is live.
    pub fn champion(&self) -> u64 {
        match &self.traffic {
            Traffic::Only(version)
            | Traffic::Canary {
                champion: version, ..
            } => *version,
        }
    }

    /// The version that is being released.
    pub fn candidate(&self) -> Option<u64> {
        match &self.traffic {
            Traffic::Canary { candidate, .. } => Some(*candidate),
            Traffic::Only(_) => None,
        }
    }

    /// Chooses for a request that names no version. Cost: at most one hash.
    pub fn draw(&self, wish: &Wish<'_>) -> Drawn {
        if let Some(rule) = self.rules.iter().find(|rule| rule.holds(&wish.header)) {
            return Drawn {
                version: rule.version,
                reason: RouteReason::Rule,
                unit: 0,
            };
        }
        self.traffic.draw(self.key(wish.header), wish.id)
    }

    /// The routing key of a request, if it has one.
    ///
    /// * `header`: looks a header up by its lower-case name
    pub fn key<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
        let mut keys = self.key_headers.iter();
        keys.find_map(|name| header(name).filter(|value| !value.is_empty()))
    }

    /// What a label means that the model itself does not define.
    fn label(&self, label: &str) -> Option<u64> {
        match label {
            "stable" => Some(self.champion()),
            "candidate" => self.candidate(),
            _ => None,
        }
    }
}

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
    /// How requests are divided, for a model whose versions are released.
    pub division: Option<&'a Division>,
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
        VersionSelector::Label(label) => {
            let defined = view.labels.get(label).copied();
            defined
                .or_else(|| view.division?.label(label))
                .map_or(Route::Invalid, |version| exact(version, view))
        }
    }
}

/// The version that answers when a request names none: of a model whose versions are released the live one or none at
/// all, else the highest ready one that the policy chooses; while an update is failing, the highest one that still serves.
pub fn default_version(view: &RouteView<'_>) -> Option<u64> {
    if let Some(champion) = view.division.map(Division::champion) {
        // Another one that happens to be ready may be one that has shown nothing yet.
        return matches!(view.versions.get(&champion), Some(State::Ready)).then_some(champion);
    }
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
    use crossfade_rollout::routing::{Portion, Purpose, Salt};

    #[test]
    fn no_other_version_answers_for_one_that_is_live_and_not_ready() {
        let versions = BTreeMap::from([(1, State::Loading), (2, State::Ready)]);
        let division = Division {
            release: None,
            epoch: 1,
            traffic: Traffic::Only(1),
            shadow: None,
            key_headers: Vec::new(),
            rules: Vec::new(),
        };
        let labels = BTreeMap::new();
        let view = |division| RouteView {
            versions: &versions,
            chosen: &[1, 2],
            labels: &labels,
            division,
        };
        assert_eq!(
            route(VersionSelector::Default, &view(Some(&division))),
            Route::NoneReady
        );
        assert_eq!(route(VersionSelector::Default, &view(None)), Route::Ready(2));
    }

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
            division: None,
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

    #[test]
    fn a_release_gives_names_to_its_versions() {
        let versions = BTreeMap::from([(1, State::Ready), (2, State::Ready), (3, State::Loading)]);
        let labels = BTreeMap::from([("mine".to_owned(), 2)]);
        let check = |candidate, text: &str, expected| {
            let division = Division {
                release: Some("r".into()),
                epoch: 1,
                traffic: Traffic::Canary {
                    champion: 1,
                    candidate,
                    portion: Portion::percent(50.0),
                    salt: Salt::of("r"),
                },
                shadow: None,
                key_headers: Vec::new(),
                rules: Vec::new(),
            };
            let view = RouteView {
                versions: &versions,
                chosen: &[1, 2, 3],
                labels: &labels,
                division: Some(&division),
            };
            let selector = VersionSelector::parse(text).expect("the test's texts are readable");
            assert_eq!(route(selector, &view), expected, "{text}");
        };
        check(2, "", Route::Ready(1));
        check(2, "stable", Route::Ready(1));
        check(2, "candidate", Route::Ready(2));
        check(3, "candidate", Route::NotReady(3));
        check(3, "mine", Route::Ready(2));
        check(3, "other", Route::Invalid);
    }

    #[test]
    fn the_first_header_with_a_value_is_the_key() {
        let division = Division {
            release: None,
            epoch: 1,
            traffic: Traffic::Canary {
                champion: 1,
                candidate: 2,
                portion: Portion::percent(50.0),
                salt: Salt::of("r"),
            },
            shadow: None,
            key_headers: vec!["x-user-id".into(), "x-session".into()],
            rules: Vec::new(),
        };
        let check = |headers: &[(&str, &str)], reason, key: &str| {
            let header = |name: &str| {
                let found = headers.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| value.as_bytes())
            };
            let wish = Wish {
                selector: "",
                header: &header,
                id: b"id",
            };
            let drawn = division.draw(&wish);
            assert_eq!(drawn.reason, reason, "{headers:?}");
            assert_eq!(drawn.unit, Salt::of("r").draw(Purpose::Route, key.as_bytes()));
        };
        check(&[("x-session", "s"), ("x-user-id", "u")], RouteReason::Hash, "u");
        check(&[("x-session", "s"), ("x-user-id", "")], RouteReason::Hash, "s");
        check(&[("x-other", "o")], RouteReason::Random, "id");
    }
}
