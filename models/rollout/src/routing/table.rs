//! Why a version answers a request, and which one answers where the request leaves it to chance.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Portion, Purpose, Salt};

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
    /// Whether the live version has a baseline: instances of their own for as many of its requests as the candidate gets. Only
    /// with these is the time that the candidate takes compared, because a version with few requests has smaller batches and
    /// more often the other version beside it. A live version that gets no more than the candidate is its
    /// own baseline.
    pub fn has_baseline(&self) -> bool {
        matches!(self, Traffic::Canary { portion, .. } if portion.is_minority())
    }

    /// Whether a draw that went to the live version is one of its baseline.
    pub fn is_baseline(&self, unit: u64) -> bool {
        matches!(self, Traffic::Canary { portion, .. } if portion.is_minority() && portion.mirrors(unit))
    }

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
        }
    }
}
