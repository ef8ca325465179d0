//! The rules that a release began with, and the configuration that is in force: a release ends by the rules that it
//! began with.

use crossfade_journal::Hash;
use crossfade_models::Found;
use crossfade_rollout::Policy;
use serde_json::json;

use super::desk::Desk;
use super::record::Run;
use super::world::World;
use crate::config::revision;

impl Desk {
    /// Takes up the rules that a release began with.
    pub(super) fn keep_rules(&mut self, run: &Run) {
        let (model, release) = (&self.model, &run.created.id);
        match serde_json::from_value::<Policy>(run.created.policy.clone()) {
            Ok(rules) if rules == self.policy => {}
            Ok(rules) => {
                tracing::warn!(
                    %model,
                    release,
                    "the rules of releases have changed since this one began; it ends by those that it began with"
                );
                self.policy = rules;
            }
            Err(error) => tracing::warn!(
                %model,
                release,
                %error,
                "the rules that this release began with cannot be read; it goes on by those of the configuration"
            ),
        }
    }
}

impl World {
    /// The configuration in force for a model: the server's, the model's own, and what its tier adds.
    pub(super) fn config_rev(&self, found: &Found<'_>) -> Hash {
        let whole = json!({
            "server": self.server_rev,
            "model": found.config.document(),
            "policy": found.policy,
        });
        revision::of(&whole).unwrap_or_else(|error| {
            tracing::warn!(
                model = found.model,
                error,
                "the configuration has no canonical form"
            );
            Hash::ZERO
        })
    }
}
