//! What all threads counted, put together: once a second for the observer, and at the end for the result.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::recorder::{Counts, LATE_US, Recorder, Tally};
use super::worker::Spent;
use super::{Phase, Tick};
use crate::machine;
use crate::plan::{Load, Plan};
use crate::result::{
    self, Latencies, LoadKind, MixEntry, ModelSummary, RunResult, Second, Summary, Tester, VersionSummary,
};

/// Late sends above this share of all make the tester a bottleneck.
const LATE_SHARE: f64 = 0.001;
/// CPU time above this share of a thread's time makes it a bottleneck.
const BUSY_SHARE: f64 = 0.9;

/// The recorders of a run, and what was read from them.
pub(super) struct Gathered<'a> {
    recorders: Vec<Arc<Mutex<Recorder>>>,
    plan: &'a Plan,
    measured_from: Instant,
    /// The second whose end is awaited; negative in the warm-up.
    second: i64,
    latencies: BTreeMap<i64, Latencies>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(recorders: Vec<Arc<Mutex<Recorder>>>, plan: &'a Plan, measured_from: Instant) -> Self {
        let warm_up_seconds = i64::try_from(plan.warm_up.as_millis().div_ceil(1000)).unwrap_or(0);
        Self {
            recorders,
            plan,
            measured_from,
            second: -warm_up_seconds,
            latencies: BTreeMap::new(),
        }
    }

    /// When [`Self::tick`] is due.
    pub(super) fn next_tick(&self) -> Instant {
        let distance = Duration::from_secs((self.second + 1).unsigned_abs());
        if self.second + 1 < 0 {
            self.measured_from
                .checked_sub(distance)
                .unwrap_or(self.measured_from)
        } else {
            self.measured_from + distance
        }
    }

    /// Tells `observer` about the second that is over.
    pub(super) fn tick(&mut self, observer: &mut (dyn FnMut(&Tick) + Send)) {
        self.collect(self.second + 1);
        let mut before = Counts::default();
        let mut counts = Counts::default();
        for recorder in &self.recorders {
            let recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            let (seconds, index) = match usize::try_from(self.second) {
                Ok(index) => (&recorder.seconds, index),
                Err(_) => (
                    &recorder.warm_up_seconds,
                    usize::try_from(-1 - self.second).unwrap_or(0),
                ),
            };
            if let Some(own) = seconds.get(index) {
                counts.add(own);
            }
            let past: Vec<&Counts> = if self.second < 0 {
                seconds.iter().skip(index).collect()
            } else {
                recorder
                    .warm_up_seconds
                    .iter()
                    .chain(seconds.iter().take(index + 1))
                    .collect()
            };
            past.into_iter().for_each(|second| before.add(second));
        }
        let warm_up_seconds = i64::try_from(self.plan.warm_up.as_millis().div_ceil(1000)).unwrap_or(0);
        let number = if self.second < 0 {
            self.second + warm_up_seconds
        } else {
            self.second
        };
        let second = second(
            number.unsigned_abs(),
            counts,
            self.latencies.get(&self.second),
            before.sent.saturating_sub(before.ok + before.errors),
        );
        let phase = match u64::try_from(self.second) {
            Err(_) => Phase::WarmUp,
            Ok(second) if Duration::from_secs(second) < self.plan.duration => Phase::Measuring,
            Ok(_) => Phase::Draining,
        };
        let now = Instant::now();
        let start = self
            .measured_from
            .checked_sub(self.plan.warm_up)
            .unwrap_or(self.measured_from);
        observer(&Tick {
            phase,
            second,
            elapsed: now.saturating_duration_since(start),
            planned: self.plan.warm_up + self.plan.duration,
        });
        self.second += 1;
    }

    /// Takes the latencies of seconds before `second` out of the recorders.
    fn collect(&mut self, second: i64) {
        for recorder in &self.recorders {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.roll(second);
            for (second, latencies) in recorder.closed.drain(..) {
                self.latencies.entry(second).or_default().add(&latencies);
            }
        }
    }

    /// Everything that was counted; what the recorders do not know is left empty.
    pub(super) fn result(mut self, spent: &[Spent]) -> RunResult {
        self.collect(i64::MAX);
        let recorders: Vec<_> = self
            .recorders
            .iter()
            .map(|recorder| recorder.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let last_us = recorders
            .iter()
            .map(|recorder| recorder.last_answer_us)
            .max()
            .unwrap_or(0);
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a run are far below 2^53"
        )]
        let until_s = (last_us as f64 / 1e6).max(self.plan.duration.as_secs_f64());

        let mut total = Tally::default();
        let mut by_model: Vec<(String, Tally)> = Vec::new();
        let mut by_version: BTreeMap<(String, String), Tally> = BTreeMap::new();
        for (index, entry) in self.plan.mix.iter().enumerate() {
            for part in recorders.iter().flat_map(|recorder| &recorder.by_entry[index]) {
                total.add(&part.tally);
                let version = String::from_utf8_lossy(&part.version).into_owned();
                by_version
                    .entry((entry.model.clone(), version))
                    .or_default()
                    .add(&part.tally);
                match by_model.iter_mut().find(|(model, _)| *model == entry.model) {
                    Some((_, tally)) => tally.add(&part.tally),
                    None => by_model.push((entry.model.clone(), part.tally.clone())),
                }
            }
        }
        let part = |of: fn(&Recorder) -> &Tally, seconds: f64| {
            let mut tally = Tally::default();
            recorders.iter().for_each(|recorder| tally.add(of(recorder)));
            summary(&tally, seconds)
        };
        let first_event = self
            .plan
            .during
            .iter()
            .flat_map(|deed| deed.times(self.plan.duration))
            .map(|(at, _)| at)
            .min();
        let event_s = first_event.map(|at| at.as_secs_f64());
        RunResult {
            schema: result::SCHEMA,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: 0,
            command: self.plan.command.clone(),
            target: result::Target::default(),
            machine: machine::this(),
            load: load(
                self.plan,
                spent,
                recorders.iter().map(|recorder| recorder.warm_up_requests).sum(),
            ),
            mix: self.plan.mix.iter().map(mix_entry).collect(),
            total: summary(&total, until_s),
            by_model: by_model
                .into_iter()
                .map(|(model, tally)| ModelSummary {
                    model,
                    summary: summary(&tally, until_s),
                })
                .collect(),
            by_version: by_version
                .into_iter()
                .map(|((model, version), tally)| VersionSummary {
                    model,
                    version,
                    summary: summary(&tally, until_s),
                })
                .collect(),
            steady: event_s.map(|at| part(|recorder| &recorder.steady, at.min(until_s))),
            during: event_s.map(|at| part(|recorder| &recorder.during, (until_s - at).max(0.0))),
            series: self.series(&recorders),
            tester: tester(self.plan, &recorders, spent, total.sent),
            server: None,
            events: Vec::new(),
            assertions: Vec::new(),
        }
    }

    fn series(&self, recorders: &[std::sync::MutexGuard<'_, Recorder>]) -> Vec<Second> {
        let seconds = recorders
            .iter()
            .map(|recorder| recorder.seconds.len())
            .max()
            .unwrap_or(0);
        let mut in_flight = 0_u64;
        (0..seconds)
            .map(|index| {
                let mut counts = Counts::default();
                recorders
                    .iter()
                    .filter_map(|recorder| recorder.seconds.get(index))
                    .for_each(|own| counts.add(own));
                in_flight = (in_flight + counts.sent).saturating_sub(counts.ok + counts.errors);
                let latencies = i64::try_from(index)
                    .ok()
                    .and_then(|index| self.latencies.get(&index));
                second(index as u64, counts, latencies, in_flight)
            })
            .collect()
    }
}

fn second(number: u64, counts: Counts, latencies: Option<&Latencies>, in_flight: u64) -> Second {
    let at = |quantile| latencies.map_or(0, |latencies| latencies.at(quantile));
    Second {
        second: number,
        sent: counts.sent,
        ok: counts.ok,
        errors: counts.errors,
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: at(1.0),
        in_flight,
    }
}

fn summary(tally: &Tally, seconds: f64) -> Summary {
    let ok = tally.ok.count();
    #[expect(
        clippy::cast_precision_loss,
        reason = "requests and tokens of a run are far below 2^53"
    )]
    let per_s = |count: u64| {
        if seconds > 0.0 {
            count as f64 / seconds
        } else {
            0.0
        }
    };
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for (failure, count) in &tally.errors {
        *errors.entry(failure.name()).or_default() += count;
    }
    Summary {
        sent: tally.sent,
        ok,
        errors,
        throughput_per_s: per_s(ok),
        tokens: tally.tokens,
        tokens_per_s: per_s(tally.tokens),
        latency: tally.ok.summary(),
    }
}

fn load(plan: &Plan, spent: &[Spent], warm_up_requests: u64) -> result::Load {
    let (kind, arrivals, rate, concurrency) = match &plan.load {
        Load::Open(arrivals) => (
            LoadKind::Open,
            arrivals.to_string(),
            Some(arrivals.mean_rate(plan.duration)),
            None,
        ),
        Load::Closed { concurrency } => (LoadKind::Closed, "closed".to_owned(), None, Some(*concurrency)),
    };
    result::Load {
        kind,
        arrivals,
        rate,
        concurrency,
        connections: spent.iter().map(|spent| spent.connections).sum(),
        duration_s: plan.duration.as_secs_f64(),
        warm_up_s: plan.warm_up.as_secs_f64(),
        warm_up_requests,
        seed: plan.seed,
    }
}

fn mix_entry(entry: &crate::plan::MixEntry) -> MixEntry {
    MixEntry {
        name: entry.name.clone(),
        model: entry.model.clone(),
        version: entry.version.clone(),
        rows: entry.rows,
        weight: entry.weight,
        request_bytes: 0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests of a run are far below 2^53")]
fn tester(
    plan: &Plan,
    recorders: &[std::sync::MutexGuard<'_, Recorder>],
    spent: &[Spent],
    sent: u64,
) -> Tester {
    let mut lateness = Latencies::default();
    recorders
        .iter()
        .for_each(|recorder| lateness.add(&recorder.lateness));
    let late_sends: u64 = recorders.iter().map(|recorder| recorder.late_sends).sum();
    let cpu_s: f64 = spent.iter().map(|spent| spent.cpu_s).sum();
    let busiest = spent
        .iter()
        .map(|spent| spent.cpu_s / spent.wall_s.max(1e-9))
        .fold(0.0, f64::max);
    let mut why = Vec::new();
    if busiest > BUSY_SHARE {
        why.push(format!(
            "a thread of the tester was busy {:.0} % of the time; give it more with --threads, or another machine",
            busiest * 100.0
        ));
    }
    let late_share = late_sends as f64 / (sent as f64).max(1.0);
    if matches!(plan.load, Load::Open(_)) && late_share > LATE_SHARE {
        why.push(format!(
            "{:.2} % of the requests were sent more than {} ms after they were due{}",
            late_share * 100.0,
            LATE_US / 1000,
            if busiest > BUSY_SHARE {
                ""
            } else {
                ", though the tester was not busy: the machine is short of cores"
            }
        ));
    }
    Tester {
        threads: plan.threads,
        cpu_s,
        requests_per_core_second: if cpu_s > 0.0 { sent as f64 / cpu_s } else { 0.0 },
        late_sends,
        late_p99_us: lateness.at(0.99),
        late_max_us: lateness.at(1.0),
        is_bottleneck: !why.is_empty(),
        why: why.join("; "),
    }
}
