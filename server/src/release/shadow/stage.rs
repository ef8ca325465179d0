//! The shadow of one model's release: when copies are made, and what they have shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossfade_models::{Registry, Routed};
use crossfade_rollout::Policy;
use crossfade_rollout::ledger::{HardTrigger, Ledger};
use serde::Serialize;

use super::super::decision::Reader;
use super::super::lock;
use super::super::silence::Silence;
use super::super::tally::{Tail, Tally};
use super::pair::Rule;
use super::worker::Worker;
use super::{Paired, Shadow};
use crate::scope::RequestId;
use crate::servable::{Servable, ServableLoader};

/// Two decisions that are told apart from others; a model of many classes has more than anyone reads.
const DECISIONS: usize = 64;

/// The version that copies go to.
pub(in crate::release) struct Candidate {
    pub(in crate::release) release: String,
    pub(in crate::release) model: Arc<str>,
    pub(in crate::release) champion: u64,
    pub(in crate::release) servable: Routed<Servable>,
    pub(in crate::release) registry: Weak<Registry<ServableLoader>>,
}

/// The copies of a model's requests, and what came of them since the process began.
#[derive(Default)]
pub(in crate::release) struct Stage {
    running: Option<Running>,
    /// Threads that were told to stop and may be in the middle of a run.
    ending: Vec<JoinHandle<()>>,
    shown: Shown,
    /// Over all releases of the process.
    pub(in crate::release) pairs: u64,
    pub(in crate::release) flips: u64,
    pub(in crate::release) dropped: u64,
}

struct Running {
    release: String,
    shadow: Arc<Shadow>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    silence: Silence,
}

/// What the pairs of one release have shown since the process began.
#[derive(Default)]
struct Shown {
    release: String,
    pairs: u64,
    flips: u64,
    dropped: u64,
    candidate_failed: u64,
    champion_failed: u64,
    forms: u64,
    not_finite: u64,
    max_abs: f64,
    max_rel: f64,
    sum_abs: f64,
    numbers: u64,
    /// The request whose answers are furthest apart.
    worst: Option<RequestId>,
    /// Decisions of the live version and of the candidate, and how often they were these two; the first ones seen.
    decisions: BTreeMap<(u32, u32), u64>,
    compute: Tail,
}

/// As people see it.
#[derive(Debug, Serialize)]
pub(in crate::release) struct View {
    /// Of the requests, what is copied now; the breaker may have lowered it.
    percent: f64,
    pairs: u64,
    flips: u64,
    dropped: u64,
    candidate_failed: u64,
    champion_failed: u64,
    /// Pairs of which an output has another shape or datatype, and of which a number is NaN or infinite on one side.
    other_form: u64,
    not_finite: u64,
    max_abs_diff: f64,
    mean_abs_diff: f64,
    /// Infinite where the live version said zero: then there is no number.
    max_rel_diff: f64,
    worst_request: Option<String>,
    /// What became of which decision, and how often.
    decisions: Vec<Decided>,
    /// Of the candidate, at the lowest priority: reported and not judged.
    compute_p50_seconds: f64,
    compute_p99_seconds: f64,
}

/// Decisions that differ, by their labels.
#[derive(Debug, Serialize)]
struct Decided {
    live: String,
    candidate: String,
    count: u64,
}

impl Stage {
    /// Has copies made for this candidate, and for no other; a candidate that has them already keeps them.
    pub(in crate::release) fn keep(
        &mut self,
        candidate: Option<Candidate>,
        policy: &Policy,
        tally: Option<&Tally>,
    ) {
        let same = |running: &Running, candidate: &Candidate| running.release == candidate.release;
        match (&self.running, candidate) {
            (Some(running), Some(candidate)) if same(running, &candidate) => {}
            (_, candidate) => {
                self.end();
                if let Some(tally) = tally {
                    tally.shadow(None);
                }
                if let (Some(candidate), Some(tally)) = (candidate, tally) {
                    self.begin(candidate, policy, tally);
                }
            }
        }
    }

    fn begin(&mut self, candidate: Candidate, policy: &Policy, tally: &Tally) {
        let Some(rules) = &policy.shadow else {
            return;
        };
        let reader = Reader::new(policy.decision.clone());
        let (shadow, copies) = Shadow::new(&candidate.release, rules.percent, reader.clone());
        let (shadow, stop) = (Arc::new(shadow), Arc::new(AtomicBool::new(false)));
        let worker = Worker {
            shadow: shadow.clone(),
            copies,
            stop: stop.clone(),
            registry: candidate.registry,
            model: candidate.model,
            release: candidate.release.clone(),
            champion: candidate.champion,
            candidate: candidate.servable,
            rule: Rule::new(reader, rules.tolerance),
        };
        let started = Builder::new()
            .name("shadow".to_owned())
            .spawn(move || worker.run());
        let thread = match started {
            Ok(thread) => thread,
            Err(error) => {
                tracing::error!(%error, "no request is copied");
                return;
            }
        };
        if self.shown.release != candidate.release {
            self.shown = Shown {
                release: candidate.release.clone(),
                ..Shown::default()
            };
        }
        tally.shadow(Some(shadow.clone()));
        self.running = Some(Running {
            release: candidate.release,
            shadow,
            stop,
            thread,
            silence: Silence::default(),
        });
    }

    /// No more copies; the thread ends once its run has.
    pub(in crate::release) fn end(&mut self) {
        if let Some(running) = self.running.take() {
            let dropped = running.shadow.dropped.swap(0, Relaxed);
            self.dropped += dropped;
            self.shown.dropped += dropped;
            running.stop.store(true, SeqCst);
            self.ending.push(running.thread);
        }
    }

    /// Takes in the pairs since the last look; returns what sends the candidate back at once.
    ///
    /// * `served`: serving time since the last look
    pub(in crate::release) fn collect(&mut self, ledger: &mut Ledger, served: Duration) -> Vec<HardTrigger> {
        self.ending.retain(|thread| !thread.is_finished());
        let Some(running) = &mut self.running else {
            return Vec::new();
        };
        let pairs = std::mem::take(&mut *lock(&running.shadow.pairs));
        let dropped = running.shadow.dropped.swap(0, Relaxed);
        self.dropped += dropped;
        self.shown.dropped += dropped;
        for paired in &pairs {
            ledger.pair(paired.unit, paired.pair);
            self.pairs += 1;
            self.flips += u64::from(paired.pair.flipped);
            self.shown.add(paired);
        }
        let hangs = running.hangs(served).then_some(HardTrigger::Hang);
        let triggers = pairs.iter().filter_map(|paired| paired.trigger);
        triggers.chain(hangs).collect()
    }

    /// Whether the candidate runs no copy any more.
    pub(in crate::release) fn is_over(&self) -> bool {
        self.running.is_none() && self.ending.iter().all(JoinHandle::is_finished)
    }

    /// Ends the copies and waits for the last run.
    pub(in crate::release) fn close(&mut self) {
        self.end();
        for thread in self.ending.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread of copies had panicked");
            }
        }
    }

    /// What the pairs of this release have shown; `None` if it had none.
    pub(in crate::release) fn view(&self, release: &str, policy: &Policy) -> Option<View> {
        let shown = Some(&self.shown).filter(|shown| shown.release == release)?;
        let quantiles = shown.compute.quantiles();
        let reader = Reader::new(policy.decision.clone());
        let decided = shown.decisions.iter().map(|((live, candidate), count)| Decided {
            live: reader.name(*live),
            candidate: reader.name(*candidate),
            count: *count,
        });
        Some(View {
            percent: self
                .running
                .as_ref()
                .map_or(0.0, |running| running.shadow.percent()),
            pairs: shown.pairs,
            flips: shown.flips,
            dropped: shown.dropped,
            candidate_failed: shown.candidate_failed,
            champion_failed: shown.champion_failed,
            other_form: shown.forms,
            not_finite: shown.not_finite,
            max_abs_diff: shown.max_abs,
            mean_abs_diff: shown.sum_abs / (shown.numbers.max(1) as f64),
            max_rel_diff: shown.max_rel,
            worst_request: shown.worst.map(|id| id.to_string()),
            decisions: decided.collect(),
            compute_p50_seconds: quantiles.p50,
            compute_p99_seconds: quantiles.p99,
        })
    }
}

impl Running {
    /// Whether the candidate has answered no copy for too long, although one waits for it.
    fn hangs(&mut self, served: Duration) -> bool {
        let shadow = &self.shadow;
        let (answered, waits) = (shadow.answered.load(Relaxed), shadow.waits.load(Relaxed));
        let live = Duration::from_micros(shadow.slowest.load(Relaxed));
        self.silence.look(answered, waits, served, live.as_secs_f64())
    }
}

impl Shown {
    fn add(&mut self, paired: &Paired) {
        self.pairs += 1;
        self.flips += u64::from(paired.pair.flipped);
        self.candidate_failed += u64::from(paired.pair.candidate_failed);
        self.champion_failed += u64::from(paired.pair.champion_failed);
        if let Some(compute) = paired.compute {
            self.compute.add(compute);
        }
        let Some(difference) = &paired.difference else {
            return;
        };
        if let Some(two) = difference.decisions
            && (self.decisions.len() < DECISIONS || self.decisions.contains_key(&two))
        {
            *self.decisions.entry(two).or_default() += 1;
        }
        self.forms += u64::from(difference.form);
        self.not_finite += u64::from(difference.finite);
        if difference.max_abs > self.max_abs {
            self.max_abs = difference.max_abs;
            self.worst = Some(paired.id);
        }
        self.max_rel = self.max_rel.max(difference.max_rel);
        self.sum_abs += difference.sum_abs;
        self.numbers += difference.numbers;
    }
}
