//! What is asked of a candidate before any traffic, what follows from its answers, and known answers asked for again.

use std::time::Duration;

use crossfade_rollout::State;
use crossfade_rollout::state::{Event, Reason};

use super::{Desk, SERVER, failed};
use crate::release::examination::Examined;
use crate::release::gating::Gating;
use crate::release::record::{Record, Run};
use crate::release::rehearsal::Rehearsal;
use crate::release::report;
use crate::release::world::World;

impl Desk {
    /// What is asked of the candidate before any traffic, while it waits for that.
    pub(in crate::release) fn gating(&self) -> Option<Gating> {
        let run = self.book.active().filter(|run| run.state == State::Gating)?;
        Some(self.asks(run.created.id.clone(), run.created.version))
    }

    /// What is asked of a version beside which nothing is live, before anyone can reach it.
    pub(in crate::release) fn first_gating(&self, version: u64) -> Option<Gating> {
        let waits = self.first.as_ref().is_some_and(|first| first.version == version);
        waits.then(|| self.asks(String::new(), version))
    }

    fn asks(&self, release: String, version: u64) -> Gating {
        Gating {
            release,
            model: self.model.clone(),
            version,
            before: self.book.lineage(),
            directory: self.directory.clone(),
            gates: self.policy.gates.clone(),
            decision: self.policy.decision.clone(),
            resident_before: self.resident,
        }
    }

    /// The gates of a first version have said something: it is live, or does not serve.
    ///
    /// Errors: what they said, and what to do.
    pub(in crate::release) fn first_gated(
        &mut self,
        gating: &Gating,
        examined: &Examined,
        now: u64,
    ) -> Result<(), String> {
        let said = &examined.report;
        self.show_gates(gating, examined);
        if !said.passed() {
            return Err(format!(
                "it is the first version and its gates do not let it go live: {}. Put that right, or change `[gates]` of the \
                 model; a load call, changed files or a restart try it again",
                said.gist()
            ));
        }
        if let Some(first) = self.first.take_if(|first| first.version == gating.version) {
            self.adopt(first, now);
        }
        Ok(())
    }

    /// The gates have said something; nothing follows if the release went another way meanwhile.
    pub(in crate::release) fn gated(
        &mut self,
        world: &World,
        gating: &Gating,
        examined: &Examined,
        now: u64,
    ) {
        let waits = |run: &&Run| run.created.id == gating.release && run.state == State::Gating;
        if self.book.active().filter(waits).is_none() {
            return;
        }
        let said = &examined.report;
        let text = said.canonical();
        let record = Record::Gated {
            id: gating.release.clone(),
            report: text,
            at: now,
        };
        self.note(&record);
        self.write_later(record);
        self.show_gates(gating, examined);
        let event = match said.passed() {
            true => Event::GatesPassed,
            false => failed(Reason::Gate),
        };
        self.advance_or_warn(world, event, SERVER, Some(said.gist()), now);
    }

    /// Has a scrape show what the gates said.
    fn show_gates(&mut self, gating: &Gating, examined: &Examined) {
        self.gates = report::passed(&examined.report.canonical());
        let known: Vec<u64> = gating.before.iter().copied().chain([gating.version]).collect();
        self.rehearsals.keep_only(&known);
        if let Some(diff) = examined.golden_diff {
            self.rehearsals.diffs.insert(gating.version, diff);
        }
    }

    /// The live version's known answers, where it is time to ask for them again.
    ///
    /// * `free`: there is a thread for it
    pub(in crate::release) fn rehearse(
        &mut self,
        world: &World,
        served: Duration,
        free: bool,
    ) -> Option<Rehearsal> {
        let limits = self.policy.gates.golden.clone()?;
        let servable = world.servable(&self.model, self.book.champion?)?;
        let due = self.rehearsals.due(limits.interval, served, free);
        due.then(|| Rehearsal {
            servable,
            limits,
            directory: self.directory.clone(),
        })
    }

    /// A repetition has ended.
    pub(in crate::release) fn rehearsed(&mut self, version: u64, found: Option<(bool, Option<f64>, String)>) {
        self.rehearsals.ended();
        let Some((passed, diff, why)) = found else {
            return;
        };
        let model = &self.model;
        self.gates.insert("golden_interval".to_owned(), passed);
        if let Some(diff) = diff {
            self.rehearsals.diffs.insert(version, diff);
        }
        if passed {
            return tracing::debug!(%model, version, why, "known answers of the live version");
        }
        *self.rehearsals.failures.entry(version).or_default() += 1;
        tracing::error!(%model, version, why, "the live version does not give its known answers");
    }
}
