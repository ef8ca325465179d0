//! How the requests of a model are divided, read and copied, as its book says.

use crossfade_models::Division;
use crossfade_rollout::State;
use crossfade_rollout::policy::{KeySource, Metric};
use crossfade_rollout::routing::{Portion, Salt, Traffic};

use super::Desk;
use crate::release::decision::Reader;
use crate::release::outputs::Watch;
use crate::release::record::Run;
use crate::release::shadow;
use crate::release::world::World;

impl Desk {
    /// Has requests divided as the book says.
    pub(super) fn divide(&mut self, world: &World) {
        self.epoch += 1;
        let division = self.division();
        self.watch_outputs(division.as_ref());
        self.keep_shadow(world);
        // Two versions are compared as they run, and not while they change that.
        let compared = self.book.active().is_some();
        let versions = self.book.champion.into_iter().chain(self.book.candidate());
        for servable in versions.filter_map(|version| world.servable(&self.model, version)) {
            servable.rest(compared);
        }
        let mut checks = self.policy.checks.iter();
        let timed = checks.any(|check| check.metric == Metric::Latency);
        let baseline = division
            .as_ref()
            .filter(|division| timed && division.traffic.has_baseline());
        let baseline = baseline.map(Division::champion);
        world.divide(&self.model, division);
        let before = std::mem::replace(&mut self.baseline, baseline);
        let over = before.filter(|before| Some(*before) != baseline);
        if let Some(servable) = over.and_then(|version| world.servable(&self.model, version)) {
            servable.keep_baseline(false);
        }
        self.keep_baseline(world);
    }

    /// Has the live version keep a baseline while the time of a candidate is held against its own; it may have been loaded
    /// anew meanwhile.
    pub(super) fn keep_baseline(&mut self, world: &World) {
        let servable = self
            .baseline
            .and_then(|version| world.servable(&self.model, version));
        self.baseline_failure = servable.and_then(|servable| {
            servable.keep_baseline(true);
            servable.baseline_failure()
        });
    }

    /// Has answers read while two versions are compared by them.
    fn watch_outputs(&self, division: Option<&Division>) {
        let Some(counting) = &self.counting else {
            return;
        };
        let mut checks = self.policy.checks.iter();
        let asked = checks.any(|check| check.metric == Metric::Output);
        let reader = || Reader::new(self.policy.decision.clone());
        let watch = division
            .filter(|_| asked)
            .and_then(|division| Watch::new(reader(), division, self.percent()));
        counting.tally.read(watch);
    }

    /// Has copies made while the release is in shadow, and only then.
    pub(super) fn keep_shadow(&mut self, world: &World) {
        let shadows = |run: &&Run| is_shadow(&run.state) && !self.closed && !world.ends();
        let candidate = self.book.active().filter(shadows).and_then(|run| {
            Some(shadow::Candidate {
                release: run.created.id.clone(),
                model: self.model.clone(),
                champion: self.book.champion?,
                servable: world.servable(&self.model, run.created.version)?,
                registry: world.weak_registry(),
            })
        });
        let tally = self.counting.as_ref().map(|counting| &*counting.tally);
        self.shadow.keep(candidate, &self.policy, tally);
    }

    fn division(&self) -> Option<Division> {
        // Before the first version has passed its gates nothing answers, whatever else is loaded.
        let first = self.first.as_ref().map(|first| first.version);
        let champion = first.or(self.book.champion)?;
        let run = self.book.active();
        let (traffic, shared) = match run.map(|run| (&run.state, &run.created)) {
            Some((State::Canary { step } | State::Paused { step: Some(step) }, created)) => {
                let percent = self.policy.steps.get(*step).map_or(0.0, |step| step.percent);
                let canary = Traffic::Canary {
                    champion,
                    candidate: created.version,
                    portion: Portion::percent(percent),
                    salt: Salt::of(&created.id),
                };
                (canary, true)
            }
            Some((State::Promoting | State::Baking, created)) => (Traffic::Only(created.version), true),
            _ => (Traffic::Only(champion), false),
        };
        let headers = self.policy.route_key.iter().filter_map(|source| match source {
            KeySource::Header(name) => Some(name.clone()),
            KeySource::Input(_) => None,
        });
        Some(Division {
            release: run.filter(|_| shared).map(|run| run.created.id.as_str().into()),
            epoch: self.epoch,
            traffic,
            shadow: run
                .filter(|run| is_shadow(&run.state))
                .map(|run| run.created.id.as_str().into()),
            key_headers: headers.collect(),
            rules: self.route_rules(),
        })
    }

    /// The share of the candidate, percent.
    pub(in crate::release) fn percent(&self) -> f64 {
        match self.book.active().map(|run| &run.state) {
            Some(State::Canary { step } | State::Paused { step: Some(step) }) => {
                self.policy.steps.get(*step).map_or(0.0, |step| step.percent)
            }
            Some(State::Promoting | State::Baking) => 100.0,
            _ => 0.0,
        }
    }
}

/// Whether copies of requests go to the candidate.
fn is_shadow(state: &State) -> bool {
    matches!(state, State::Shadow | State::Paused { step: None })
}
