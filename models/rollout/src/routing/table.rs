//! The order in which a request's wishes count: pin, label, rule, hash, chance.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Portion, Purpose, Salt};
use crate::RolloutError;

/// Why a version was chosen; a column of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteReason {
    /// The request names the version.
    Pin,
    /// The request names a label.
    Label,
    /// A rule matches one of its headers.
    Rule,
    /// The hash of its key.
    Hash,
    /// The hash of its id: it has no key.
    Random,
    /// The version that was meant answered nothing usable.
    Fallback,
    /// There is no other.
    Only,
}

impl RouteReason {
    /// Whether chance chose, so that the request counts in the statistics of a release.
    pub fn is_randomised(self) -> bool {
        matches!(self, RouteReason::Hash | RouteReason::Random)
    }

    /// Its name, as logs have it.
    pub fn name(self) -> &'static str {
        match self {
            RouteReason::Pin => "pin",
            RouteReason::Label => "label",
            RouteReason::Rule => "rule",
            RouteReason::Hash => "hash",
            RouteReason::Random => "random",
            RouteReason::Fallback => "fallback",
            RouteReason::Only => "only",
        }
    }
}

/// Sends requests with a certain header to a certain version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The header's name, lower case.
    pub header: String,
    /// The values that match; empty: any.
    pub values: BTreeSet<String>,
    /// The version that answers.
    pub version: u64,
}

impl Rule {
    /// Whether a request has such a header.
    pub fn holds<'a>(&self, header: &dyn Fn(&str) -> Option<&'a [u8]>) -> bool {
        header(&self.header).is_some_and(|value| {
            self.values.is_empty() || self.values.iter().any(|known| known.as_bytes() == value)
        })
    }

    fn matches(&self, request: &Request<'_>) -> bool {
        let Some(value) = (request.header)(&self.header) else {
            return false;
        };
        self.values.is_empty() || self.values.contains(value)
    }
}

/// Several versions with weights: intervals of the draw, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Where each interval ends, and whose it is.
    ends: Vec<(Portion, u64)>,
}

impl Split {
    /// Versions and their weights; the weights' sum is the whole. `None` unless every weight is a positive number.
    pub fn new(weights: &[(u64, f64)]) -> Option<Self> {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let positive = weights.iter().all(|(_, weight)| *weight > 0.0);
        if weights.is_empty() || !positive || !sum.is_finite() {
            return None;
        }
        let mut below = 0.0;
        let mut ends = Vec::with_capacity(weights.len());
        for (version, weight) in weights {
            below += weight;
            ends.push((Portion::percent(100.0 * (below / sum)), *version));
        }
        // Rounding may leave the last end a little below the whole.
        if let Some(last) = ends.last_mut() {
            last.0 = Portion::percent(100.0);
        }
        Some(Split { ends })
    }

    fn pick(&self, draw: u64) -> Option<u64> {
        self.ends
            .iter()
            .find(|(end, _)| end.holds(draw))
            .map(|(_, version)| *version)
    }
}

/// How the requests that wish for nothing are divided.
#[derive(Debug, Clone, PartialEq)]
pub enum Traffic {
    /// One version answers all of them.
    Only(u64),
    /// A release.
    Canary {
        /// The live version.
        champion: u64,
        /// The version being released.
        candidate: u64,
        /// The candidate's share.
        portion: Portion,
        /// Of the release.
        salt: Salt,
    },
    /// A weighted experiment.
    Weighted {
        /// The versions.
        split: Split,
        /// Of the experiment.
        salt: Salt,
    },
}

/// What a request says about its version.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The version in its path, message or `x-model-version`.
    pub pin: Option<u64>,
    /// A label in the same places.
    pub label: Option<&'a str>,
    /// Looks a header up by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Its routing key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its id.
    pub id: &'a [u8],
}

/// The version that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its number.
    pub version: u64,
    /// Why this one.
    pub reason: RouteReason,
}

/// All that decides about a model's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTable {
    /// The versions that can answer.
    pub versions: BTreeSet<u64>,
    /// Labels and the versions they point at.
    pub labels: BTreeMap<String, u64>,
    /// Tried in order.
    pub rules: Vec<Rule>,
    /// The rest.
    pub traffic: Traffic,
}

impl RouteTable {
    /// Chooses the version that answers `request`.
    ///
    /// A rule for a version that cannot answer does not match; a pin or a label never falls back.
    ///
    /// Errors: `UnknownVersion`, `UnknownLabel`.
    pub fn choose(&self, request: &Request<'_>) -> Result<Chosen, RolloutError> {
        let exactly = |version, reason| {
            if self.versions.contains(&version) {
                return Ok(Chosen { version, reason });
            }
            Err(RolloutError::UnknownVersion { version })
        };
        if let Some(version) = request.pin {
            return exactly(version, RouteReason::Pin);
        }
        if let Some(label) = request.label {
            let version = self.labels.get(label).ok_or_else(|| RolloutError::UnknownLabel {
                label: label.to_owned(),
            })?;
            return exactly(*version, RouteReason::Label);
        }
        let mut rules = self
            .rules
            .iter()
            .filter(|rule| self.versions.contains(&rule.version));
        if let Some(rule) = rules.find(|rule| rule.matches(request)) {
            return exactly(rule.version, RouteReason::Rule);
        }
        let Drawn { version, reason, .. } = self.traffic.draw(request.key, request.id);
        exactly(version, reason)
    }
}

/// What chance chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The version that answers.
    pub version: u64,
    /// What decided.
    pub reason: RouteReason,
    /// The draw: one number per key, or per request without a key; 0 where nothing was drawn.
    pub unit: u64,
}

impl Traffic {
    /// Chooses for a request that wishes for nothing.
    ///
    /// * `key`: its routing key, if it has one
    /// * `id`: its id
    ///
    /// Cost: one hash, or none.
    pub fn draw(&self, key: Option<&[u8]>, id: &[u8]) -> Drawn {
        let (key, reason) = match key {
            Some(key) => (key, RouteReason::Hash),
            None => (id, RouteReason::Random),
        };
        match self {
            Traffic::Only(version) => Drawn {
                version: *version,
                reason: RouteReason::Only,
                unit: 0,
            },
            Traffic::Canary {
                champion,
                candidate,
                portion,
                salt,
            } => {
                let unit = salt.draw(Purpose::Route, key);
                let version = if portion.holds(unit) {
                    *candidate
                } else {
                    *champion
                };
                Drawn {
                    version,
                    reason,
                    unit,
                }
            }
            Traffic::Weighted { split, salt } => {
                let unit = salt.draw(Purpose::Route, key);
                // The intervals cover every draw.
                let version = split.pick(unit).unwrap_or_default();
                Drawn {
                    version,
                    reason,
                    unit,
                }
            }
        }
    }
}
