//! The thread that runs copies: at the lowest priority, while the live version has nothing waiting.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossfade_batcher::{Answer, Batcher, Job, JobError};
use crossfade_models::{Registry, Routed};
use crossfade_rollout::ledger::{HardTrigger, Pair};
use crossfade_runtimes_core::InputError;
use crossfade_text::TextError;

use super::breaker::{Breaker, SLICES};
use super::pair::Rule;
use super::recording::Asked;
use super::{Paired, Primary, RequestCopy, Shadow, is_own_fault};
use crate::infer::{Started, staged, started, trigger};
use crate::servable::{Servable, ServableLoader};
use crate::status::Refusal;

/// Copies that go to the candidate together.
const TOGETHER: usize = 8;
/// Between two looks for copies, or for a quiet moment. Nobody wakes the thread: that would cost a request a system
/// call.
const TICK: Duration = Duration::from_millis(2);
/// The least that a slice of a cycle lasts; a run in progress ends in the slice in which it began.
const SLICE: Duration = Duration::from_millis(250);

/// All that the thread needs.
pub(super) struct Worker {
    pub(super) shadow: Arc<Shadow>,
    pub(super) copies: Receiver<RequestCopy>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) registry: Weak<Registry<ServableLoader>>,
    pub(super) model: Arc<str>,
    pub(super) release: String,
    pub(super) champion: u64,
    pub(super) candidate: Routed<Servable>,
    pub(super) rule: Rule,
}

/// What the candidate said.
pub(super) enum Said {
    Answer(Answer),
    Failed(Refusal, Option<HardTrigger>),
    /// Nothing, and it is not to blame.
    Nothing,
}

impl Worker {
    /// Runs copies until it is told to stop.
    pub(super) fn run(self) {
        if let Err(error) = rustix::process::nice(19) {
            tracing::debug!(%error, "the thread of copies keeps its priority");
        }
        // On this thread: the instance's own inherits its priority.
        let apart = self.candidate.apart();
        let apart = apart.inspect_err(|error| {
            tracing::warn!(model = %self.model, error, "copies run on the instances of the version itself");
        });
        let apart = apart.ok();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve(apart.as_ref())),
            Err(error) => tracing::error!(%error, "no request is copied"),
        }
    }

    async fn serve(&self, apart: Option<&Batcher>) {
        let mut breaker = Breaker::default();
        // Copies rest in one slice of each cycle, in another one each time.
        let (mut began, mut slice, mut rested) = (Instant::now(), 0, 0);
        let mut taken: Vec<RequestCopy> = Vec::with_capacity(TOGETHER);
        while !self.stop.load(SeqCst) {
            if began.elapsed() >= SLICE {
                (began, slice) = (Instant::now(), (slice + 1) % SLICES);
                self.shadow.slice.store(slice, Relaxed);
                if slice == 0 {
                    self.shadow.adjust(&mut breaker, rested);
                    rested = (rested + 1) % SLICES;
                }
            }
            if taken.is_empty() {
                taken.extend(self.copies.try_iter().take(TOGETHER));
                taken.iter().for_each(|copy| self.shadow.taken(copy));
            }
            if slice == rested || taken.is_empty() || self.is_busy() {
                tokio::time::sleep(TICK).await;
                continue;
            }
            self.pair(apart, std::mem::take(&mut taken)).await;
        }
    }

    /// Whether a request of the live version waits, or would if it came now.
    fn is_busy(&self) -> bool {
        let Some(registry) = self.registry.upgrade() else {
            return true;
        };
        let Ok(champion) = registry.route(&self.model, &self.champion.to_string()) else {
            return true;
        };
        let running = champion.running();
        let instances = running.batcher.healthy_instances() as u64;
        running.batcher.depth() > 0 || champion.series().in_flight() >= instances.max(1)
    }

    /// Puts copies to the candidate, and compares what it says.
    async fn pair(&self, apart: Option<&Batcher>, copies: Vec<RequestCopy>) {
        let mut submitted = Vec::new();
        for copy in copies {
            let pending = self.submit(apart, &copy).await;
            submitted.push((copy, pending));
        }
        for (copy, pending) in submitted {
            let (said, asked) = match pending {
                Ok((pending, asked)) => (self.answer(pending).await, Some(asked)),
                Err(Some(unfit)) => (Said::Failed(unfit, None), None),
                Err(None) => (Said::Nothing, None),
            };
            self.record(&copy, asked, &said);
            if self.stop.load(SeqCst) {
                return;
            }
            if let Some(paired) = self.judge(&copy, said) {
                self.shadow.note(paired);
            }
        }
    }

    /// Puts a copy to the candidate.
    ///
    /// Errors: why it cannot take it; nothing, where it is not to blame.
    async fn submit<'a>(
        &'a self,
        apart: Option<&'a Batcher>,
        copy: &RequestCopy,
    ) -> Result<(Started<'a>, Asked), Option<Refusal>> {
        let signature = self.candidate.signature();
        // What the live version takes, its successor must take.
        let unfit = |error: InputError| Some(Refusal::from(error));
        let (inputs, rows) = signature.check(copy.inputs.iter().cloned()).map_err(unfit)?;
        let names: Vec<&str> = match &copy.primary {
            Some(Primary::Answered(outputs)) => outputs.iter().map(|(name, _)| &**name).collect(),
            Some(Primary::Failed { outputs }) => outputs.iter().map(|name| &**name).collect(),
            None => Vec::new(),
        };
        let outputs = signature.resolve_outputs(Some(names)).map_err(unfit)?;
        let arrived = Instant::now();
        let staged = match staged(&self.candidate, inputs.clone(), copy.cut).await {
            Ok(staged) => staged,
            Err(TextError::Busy) => return Err(None),
            Err(error) => return Err(Some(Refusal::from(error))),
        };
        let asked = Asked {
            arrived,
            inputs,
            rows,
            outputs: outputs.clone(),
            cut: staged.cut,
        };
        let job = Job {
            inputs: staged.inputs,
            outputs,
            rows,
            priority: 0,
            deadline: None,
            arrived: asked.arrived,
        };
        let candidate = &*self.candidate;
        let started = started(candidate, job, move |job| match apart {
            Some(batcher) => batcher.submit(job),
            None => candidate.running().batcher.submit(job),
        });
        Ok((started.map_err(|_| None)?, asked))
    }

    /// Waits for an answer, unless told to stop: which the looks do if there is none for too long.
    async fn answer(&self, mut pending: Started<'_>) -> Said {
        self.shadow.waits.store(true, Relaxed);
        let answer = loop {
            let look = Duration::from_millis(50);
            match tokio::time::timeout(look, &mut pending).await {
                Ok(answer) => break answer,
                Err(_) if self.stop.load(SeqCst) => return Said::Nothing,
                Err(_) => {}
            }
        };
        self.shadow.answered.fetch_add(1, Relaxed);
        self.shadow.waits.store(false, Relaxed);
        let fails = |error: &JobError| {
            let refused = matches!(error, JobError::Runtime(_));
            refused || is_own_fault(error)
        };
        match answer {
            Ok(Ok(answer)) => Said::Answer(answer),
            Ok(Err(_)) => Said::Nothing,
            Err(error) if fails(&error) => {
                let refusal = Refusal::from(error.clone());
                Said::Failed(refusal, trigger::of(&[], &Err(error)))
            }
            Err(_) => Said::Nothing,
        }
    }

    /// What follows from both answers.
    fn judge(&self, copy: &RequestCopy, said: Said) -> Option<Paired> {
        let mut paired = Paired {
            id: copy.id,
            unit: copy.unit,
            pair: Pair::default(),
            difference: None,
            compute: None,
            trigger: None,
        };
        let answer = match said {
            Said::Answer(answer) => Some(answer),
            Said::Failed(_, trigger) => {
                paired.pair.candidate_failed = true;
                paired.trigger = trigger;
                None
            }
            Said::Nothing => return None,
        };
        paired.compute = answer.as_ref().map(|answer| answer.timings.compute);
        match copy.primary.as_ref()? {
            Primary::Failed { .. } => paired.pair.champion_failed = true,
            Primary::Answered(ours) => {
                let theirs = answer.into_iter().flat_map(|answer| answer.outputs);
                let theirs: Vec<_> = ours.iter().map(|(name, _)| name.clone()).zip(theirs).collect();
                if !paired.pair.candidate_failed {
                    let difference = self.rule.compare(ours, &theirs);
                    paired.pair.flipped = difference.flipped;
                    paired.trigger = difference.broken.then_some(HardTrigger::InvalidOutput);
                    paired.difference = Some(difference);
                }
            }
        }
        Some(paired)
    }
}
