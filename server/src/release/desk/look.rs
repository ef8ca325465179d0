//! A look at a release: what has ended since the last one is taken in, and the release moves on if that shows enough.

use std::time::Duration;

use crossfade_rollout::State;
use crossfade_rollout::ledger::{Look, Report};
use crossfade_rollout::state::{Event, Reason};

use super::{Desk, SERVER, failed};
use crate::release::record::Run;
use crate::release::world::World;

impl Desk {
    /// Looks: takes in what has ended, and moves the release on if that shows enough.
    ///
    /// * `served`: serving time since the last look
    pub(in crate::release) fn look(&mut self, world: &World, served: Duration, now: u64) {
        let Some(run) = self.book.active().cloned().filter(|_| !self.closed) else {
            return;
        };
        if run.state.is_armed() && world.series(&self.model, run.created.version).is_none() {
            // The model was unloaded, or is not loaded yet: the release waits for it, and holds nothing of it.
            return self.keep_shadow(world);
        }
        if let Some(unmade) = self.unmade.take().filter(|unmade| unmade.from == run.state) {
            return self.advance_or_warn(world, unmade.event, SERVER, unmade.why, now);
        }
        self.keep_baseline(world);
        let epoch = self.epoch;
        if let Some(counting) = &mut self.counting {
            counting.collect(&self.policy, epoch);
            counting.watch(served);
            self.lost += counting.tally.lost();
            let triggers = self.shadow.collect(&mut counting.ledger, served);
            counting.triggers.extend(triggers);
        } else if run.state.is_armed() {
            let why = Some("its requests cannot be counted".to_owned());
            return self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
        }
        match &run.state {
            State::Shadow | State::Canary { .. } | State::Baking => self.judge(world, served, &run, now),
            State::AwaitingApproval { .. } => self.wait_for_approval(world, now),
            State::Paused { .. } => self.guard(world, &run, now),
            State::Promoting => self.advance_or_warn(world, Event::Switched, SERVER, None, now),
            State::RollingBack { .. } if self.is_drained() => {
                self.advance_or_warn(world, Event::Drained, SERVER, None, now);
            }
            _ => {}
        }
    }

    /// Looks at a release that is held: only hard triggers move it.
    fn guard(&mut self, world: &World, run: &Run, now: u64) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        let triggers = std::mem::take(&mut counting.triggers);
        let look = Look {
            latency: counting.latency(),
            triggers: &triggers,
            ..Look::default()
        };
        match counting.ledger.triggered(&self.policy, &look) {
            Some(trigger) => {
                let why = Some(format!("{trigger:?}"));
                self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
            }
            None => self.keep_counts(&run.created.id),
        }
    }

    fn judge(&mut self, world: &World, served: Duration, run: &Run, now: u64) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        counting.limit(&self.policy);
        let triggers = std::mem::take(&mut counting.triggers);
        let look = Look {
            served,
            latency: counting.latency(),
            triggers: &triggers,
            acknowledged: false,
        };
        let report = match counting.ledger.look(&self.policy, &look) {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(model = %self.model, %error, "a look at a release decides nothing");
                return;
            }
        };
        let event = report.event();
        let why = event.as_ref().map(|_| explain(&report));
        self.report = Some(report);
        match event {
            Some(event) => self.advance_or_warn(world, event, SERVER, why, now),
            None => self.keep_counts(&run.created.id),
        }
    }

    /// Whether the candidate's last request is answered.
    fn is_drained(&self) -> bool {
        let series = self
            .counting
            .as_ref()
            .and_then(|counting| counting.series.as_ref());
        self.shadow.is_over() && series.is_none_or(|series| series.in_flight() == 0)
    }
}

/// What a report's verdict rests on, in a line.
fn explain(report: &Report) -> String {
    let checks = report.checks.iter().map(|check| {
        format!(
            "{}: {:?}, {}/{} events, ln E {:.2}",
            check.metric.name(),
            check.outcome,
            check.events.canary,
            check.events.control,
            check.log_e.unwrap_or_default()
        )
    });
    let checks: Vec<String> = checks.collect();
    format!(
        "{:?} after {} units; {}",
        report.verdict,
        report.units,
        checks.join("; ")
    )
}
