//! What a model's configuration says of its releases: collected from every source, completed and validated once.

use toml::{Table, Value};

use crossfade_rollout::policy::{Built, Element, RawPolicy};
use crossfade_rollout::{Policy, PolicyError};

use super::RawConfig;
use crate::error::ConfigError;

/// The tables that say something of releases; the key `risk` of `[model]` stands beside them.
pub(super) const TABLES: [&str; 3] = ["rollout", "gates", "decision"];

/// The elements of a policy that the server has; a policy that asks for another one is refused.
pub fn built() -> Built {
    Built::new([
        Element::PinnedDigest,
        Element::GoldenGate,
        Element::GoldenTable,
        Element::GoldenInterval,
        Element::QualityGate,
        Element::TrendGate,
        Element::PerformanceGate,
        Element::Approval,
        Element::Decision,
        Element::OutputDistribution,
        Element::Shadow,
        Element::Flips,
    ])
}

impl RawConfig {
    /// The rules of the model's releases.
    ///
    /// Errors: the first key that is wrong, contradicts another, or asks for an element that is not [`built`].
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let raw = read(&self.own.release)?;
        Policy::new(raw, &built()).map_err(|error| match error {
            PolicyError::Invalid { key, problem } => ConfigError::invalid(key, problem),
            PolicyError::NotBuilt { key, element, advice } => {
                ConfigError::unsupported(key, format!("{element} is not built yet{advice}"))
            }
        })
    }
}

impl RawConfig {
    /// This configuration, under the rules of releases that `other` has.
    pub(crate) fn with_release_of(mut self, other: RawConfig) -> Self {
        self.own.release = other.own.release;
        self
    }
}

/// Reads the tables of one source, or of several merged.
///
/// Errors: an unknown key, a value of the wrong kind.
pub(super) fn read(release: &Table) -> Result<RawPolicy, ConfigError> {
    let wrong = |error: toml::de::Error| ConfigError::text("releases", error.to_string().trim().to_owned());
    Value::Table(release.clone()).try_into().map_err(wrong)
}

/// Puts `over` on top of `under`, key by key; lists are replaced as a whole.
pub(super) fn merge(over: Table, under: &mut Table) {
    for (key, value) in over {
        match (value, under.get_mut(&key)) {
            (Value::Table(value), Some(Value::Table(below))) => merge(value, below),
            (value, _) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::toml;

    fn policy(text: &str) -> Result<Policy, String> {
        let raw = toml::read(text).map_err(|error| error.to_string())?;
        raw.policy().map_err(|error| error.to_string())
    }

    #[test]
    fn a_model_without_the_tables_is_not_released() {
        let policy = policy("[model]\nfile = 'a'\n").unwrap();
        assert!(!policy.is_active());
    }

    #[test]
    fn the_lowest_tier_needs_nothing_else() {
        let low = policy("[model]\nrisk = 'low'\n").unwrap();
        assert!(low.is_active() && low.checks.len() == 3 && !low.compares_classes());
        let decision = "[decision]\noutput = 'y'\nkind = 'argmax'\n";
        assert!(
            policy(&format!("[model]\nrisk = 'low'\n{decision}"))
                .unwrap()
                .compares_classes()
        );
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let check = |text: &str, expected: &str| {
            let error = policy(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        let signed = "[model]\nrisk = 'low'\n[gates]\nsignature = 'required'\n";
        check(signed, "gates.signature");
        let memory = "[gates.performance]\nmax_vram_bytes = 1\n";
        check(&format!("[model]\nrisk = 'low'\n{memory}"), "gates.performance");
        let text = "[model]\nrisk = 'low'\n[rollout]\nroute_key = ['input:user']\n";
        check(text, "rollout.route_key");
        let quality = "[[rollout.check]]\nmetric = 'quality'\n";
        check(
            &format!("[model]\nrisk = 'low'\n{quality}"),
            "rollout.check.quality",
        );
        check("[rollout]\non_new_version = 'canary'\nstepp = 1\n", "stepp");
        check("[model]\nrisk = 'huge'\n", "huge");
        check("[rollout]\nbake = 5\n", "bake");
    }

    #[test]
    fn the_server_s_file_stands_above_the_model_s() {
        let ours = "[model]\nrisk = 'low'\n[rollout]\nkeep_warm = 2\nalpha = 0.02\n";
        let ours = toml::read(ours).unwrap();
        let server = "risk = 'low'\n[rollout]\nkeep_warm = 3\n".parse().unwrap();
        let server = toml::from_table(server).unwrap();
        let policy = RawConfig::merge(server, ours).policy().unwrap();
        assert_eq!((policy.keep_warm, policy.alpha), (3, 0.02));
        assert!(policy.is_active());
    }
}
