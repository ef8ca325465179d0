//! The counts of a release: taken in from its requests, kept at a look, begun anew with a stage.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crossfade_rollout::ledger::{HardTrigger, Latency, Ledger, Stage};
use crossfade_rollout::policy::InvalidOutput;
use crossfade_rollout::{Policy, State};
use crossfade_statistics::Arm;

use super::Desk;
use crate::metrics::Series;
use crate::release::log::Counts;
use crate::release::outputs::Window;
use crate::release::record::Run;
use crate::release::silence::Silence;
use crate::release::tally::{Batches, Count, Fault, Limit, Tail, Tally};
use crate::release::world::World;
use crate::status::Status;

/// Batches at the beginning of a stage that say nothing of what is slow: its baseline may have been made for it.
const FIRST: u64 = 20;

/// Batches of which a 99th percentile says something.
const ENOUGH: u64 = 100;

/// The counts of the active release.
pub(super) struct Counting {
    pub(super) ledger: Ledger,
    pub(super) tally: Arc<Tally>,
    waiting: Receiver<Count>,
    batches: Batches,
    window: Window,
    /// Compute times of all requests of the champion …
    control: Tail,
    /// … of those that are compared …
    baseline: Tail,
    /// … and of the candidate's.
    canary: Tail,
    /// What is slow, by the baseline's batches that were counted.
    limit: Limit,
    /// The first ones, which say nothing of it.
    first: u64,
    pub(super) triggers: Vec<HardTrigger>,
    /// Looks until the counts are kept again.
    unkept: usize,
    /// The candidate's counters, once it was loaded.
    pub(super) series: Option<Arc<Series>>,
    /// Requests that had not been waited for any longer at the last look.
    given_up: u64,
    silence: Silence,
}

impl Counting {
    fn new(ledger: Ledger) -> Self {
        let (tally, waiting) = Tally::new();
        Self {
            ledger,
            tally: Arc::new(tally),
            waiting,
            batches: Batches::default(),
            window: Window::default(),
            control: Tail::default(),
            baseline: Tail::default(),
            canary: Tail::default(),
            limit: Limit::default(),
            first: 0,
            triggers: Vec::new(),
            unkept: 0,
            series: None,
            given_up: 0,
            silence: Silence::default(),
        }
    }

    /// Sets the latency above which a batch is slow from here on, once enough has been seen of the champion and of its baseline.
    ///
    /// It follows what was counted before, so that some slow seconds do not make a stage blind; a batch is never held against a
    /// limit that it has a part in.
    pub(super) fn limit(&mut self, policy: &Policy) {
        let limit = self.limit.seconds();
        if let Some(limit) = limit.filter(|_| self.control.requests() >= policy.warmup.max(1)) {
            self.ledger.set_threshold(policy, limit);
        }
    }

    /// Compute times that are compared.
    pub(super) fn latency(&self) -> Latency {
        Latency {
            canary: self.canary.quantiles(),
            control: self.baseline.quantiles(),
        }
    }

    /// Notes for how long the candidate has answered nothing although it was asked.
    pub(super) fn watch(&mut self, served: Duration) {
        let Some(series) = &self.series else { return };
        let answered = [None, Some(Status::Internal), Some(Status::InvalidInput)];
        let answered: u64 = answered.into_iter().map(|status| series.requests(status)).sum();
        let given_up = [Status::Cancelled, Status::DeadlineExceeded];
        let given_up: u64 = given_up
            .into_iter()
            .map(|status| series.requests(Some(status)))
            .sum();
        let asked = series.in_flight() > 0 || given_up > self.given_up;
        self.given_up = given_up;
        let live = self.control.quantile(0.99);
        if self.silence.look(answered, asked, served, live) {
            self.triggers.push(HardTrigger::Hang);
        }
    }

    /// Another stage begins.
    fn restart(&mut self) {
        self.batches.clear();
        self.window.clear();
        self.control = Tail::default();
        self.baseline = Tail::default();
        self.canary = Tail::default();
        self.limit = Limit::default();
        self.first = 0;
        self.triggers.clear();
    }

    /// Takes in what has ended since the last look.
    pub(super) fn collect(&mut self, policy: &Policy, epoch: u64) {
        let sticky = !policy.route_key.is_empty();
        while let Ok(count) = self.waiting.try_recv() {
            let allowed = policy.invalid_output == InvalidOutput::Allow;
            let trigger = count.trigger;
            self.triggers
                .extend(trigger.filter(|trigger| !allowed || *trigger != HardTrigger::InvalidOutput));
            if count.epoch != epoch {
                continue;
            }
            match count.failed {
                None => self.ledger.request(count.arm, count.unit, false),
                Some(Fault::Own) => self.ledger.request(count.arm, count.unit, true),
                Some(Fault::Doubtful) => self.ledger.doubtful(count.arm, count.unit),
            }
            if let Some(reading) = count.reading {
                self.window.add(count.arm, sticky.then_some(count.unit), reading);
            }
            if let Some((began, compute)) = count.batch {
                match count.arm {
                    Arm::Canary => self.canary.add(compute),
                    Arm::Control => {
                        self.control.add(compute);
                        if count.is_timed {
                            self.baseline.add(compute);
                        }
                    }
                }
                if count.is_timed {
                    self.batches.add(count.arm, began, compute, count.unit);
                }
            }
        }
        let threshold = self.ledger.threshold();
        for batch in self.batches.look() {
            let slow = threshold.is_some_and(|limit| batch.compute.as_secs_f64() > limit);
            let units = if slow { batch.units.as_slice() } else { &[] };
            self.ledger.batch(batch.arm, units);
            match batch.arm {
                Arm::Control if self.first < FIRST => self.first += 1,
                Arm::Control => self.limit.add(batch.compute, policy.warmup.clamp(1, ENOUGH)),
                Arm::Canary => {}
            }
        }
        if let Some(cells) = self.window.close(policy.compares_classes())
            && let Err(error) = self.ledger.outputs(&cells.control, &cells.canary)
        {
            tracing::error!(%error, "the outputs of two versions cannot be compared");
        }
    }
}

impl Desk {
    /// The counts of a release: as they were at the last look, or none.
    pub(super) fn begin_counting(&mut self, world: &World, run: &Run) {
        let stage = stage_of(&run.state);
        let kept = self.log.counts(&run.created.id);
        let kept = kept.filter(|ledger| ledger.check_policy(&self.policy).is_ok());
        let ledger = kept.map_or_else(|| Ledger::new(&self.policy), Ok);
        let ledger = ledger.and_then(|mut ledger| {
            // The counts may be those of the stage before: what was seen and shown in it stays.
            if let Some(stage) = stage.filter(|stage| ledger.stage() != *stage) {
                ledger.enter(&self.policy, stage)?;
            }
            Ok(ledger)
        });
        match ledger {
            Ok(ledger) => {
                let counting = Counting::new(ledger);
                world.listen(&run.created.id, &counting.tally);
                self.counting = Some(counting);
            }
            Err(error) => tracing::error!(model = %self.model, %error, "a release cannot be counted"),
        }
    }

    pub(super) fn enter_stage(&mut self, state: &State) {
        let (Some(counting), Some(stage)) = (&mut self.counting, stage_of(state)) else {
            return;
        };
        counting.restart();
        if let Err(error) = counting.ledger.enter(&self.policy, stage) {
            tracing::error!(model = %self.model, %error, "a stage cannot be counted");
        }
        counting.unkept = 0;
        if let Some(release) = self.book.active().map(|run| run.created.id.clone()) {
            self.keep_counts(&release);
        }
    }

    /// Keeps the counts of this look; those with many keys less often, one look is left out per MiB.
    pub(super) fn keep_counts(&mut self, release: &str) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        if let Some(left) = counting.unkept.checked_sub(1) {
            counting.unkept = left;
            return;
        }
        let counts = Counts {
            release: release.to_owned(),
            ledger: counting.ledger.clone(),
        };
        let kept = self.log.keep_counts(&counts);
        let kept = kept.map(|bytes| counting.unkept = bytes >> 20);
        self.warn_unless(kept);
    }
}

/// What is counted in a state, where something is.
pub(super) fn stage_of(state: &State) -> Option<Stage> {
    match state {
        State::Canary { step } | State::Paused { step: Some(step) } => Some(Stage::Canary { step: *step }),
        State::Baking => Some(Stage::Baking),
        State::Shadow | State::Paused { step: None } => Some(Stage::Shadow),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
