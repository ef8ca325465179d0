//! The known answers of the live version, asked for again from time to time: on a thread of its own, one after the other,
//! so that requests wait for no more than one of them.
//!
//! A live version that does not give them any more is logged and counted, and goes on serving: nothing says that an
//! earlier version would do better.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossfade_models::Routed;
use crossfade_rollout::policy::Golden;

use super::asker::{Asker, NoAnswer};
use super::golden;
use super::report::Outcome;
use crate::servable::{Servable, lower_priority};

/// One repetition.
pub(super) struct Rehearsal {
    pub(super) servable: Routed<Servable>,
    pub(super) limits: Golden,
    /// The model's.
    pub(super) directory: PathBuf,
}

impl Rehearsal {
    /// Asks for every answer; whether it passed, how far it was off at most, and why. `None` if the process ends
    /// meanwhile. Blocks.
    pub(super) fn run(&self, stop: &AtomicBool) -> Option<(bool, Option<f64>, String)> {
        let data = self.directory.join(&self.limits.file);
        // Files that others wrote are read here.
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let asker = Asker::new(stop)?;
            golden::judge(&self.limits, &data, &self.servable, &asker, 1)
        }));
        match judged.unwrap_or_else(|_| Err(NoAnswer::Wrong("it panicked; the log has where".to_owned()))) {
            Err(NoAnswer::Stopped) => None,
            Err(NoAnswer::Wrong(problem)) => Some((false, None, problem)),
            Ok(report) => {
                let gate = golden::gate(&report);
                let diff = report.worst.map(|row| row.max_abs);
                Some((gate.outcome == Outcome::Passed, diff, gate.why))
            }
        }
    }
}

/// When a model's live version is tried again, and what was found.
#[derive(Debug, Default)]
pub(super) struct Rehearsals {
    /// Serving time since the last one.
    since: Duration,
    /// One is on its way.
    running: bool,
    /// How far known answers were off at most, by version.
    pub(super) diffs: BTreeMap<u64, f64>,
    /// Repetitions that failed, by version.
    pub(super) failures: BTreeMap<u64, u64>,
}

impl Rehearsals {
    /// Whether one begins now.
    ///
    /// * `served`: serving time since the last call
    /// * `free`: there is a thread for it
    pub(super) fn due(&mut self, interval: Option<Duration>, served: Duration, free: bool) -> bool {
        self.since += served;
        let due = free && !self.running && interval.is_some_and(|interval| self.since >= interval);
        if due {
            (self.since, self.running) = (Duration::ZERO, true);
        }
        due
    }

    /// Forgets all versions but these.
    pub(super) fn keep_only(&mut self, versions: &[u64]) {
        self.diffs.retain(|version, _| versions.contains(version));
        self.failures.retain(|version, _| versions.contains(version));
    }

    /// Notes that the one that ran has ended.
    pub(super) fn ended(&mut self) {
        self.running = false;
    }
}

/// The thread of the repetition that runs, if one does.
#[derive(Default)]
pub(super) struct Stage {
    thread: Option<JoinHandle<()>>,
    busy: Arc<AtomicBool>,
}

impl Stage {
    /// Whether another one may begin.
    pub(super) fn is_free(&self) -> bool {
        !self.busy.load(Acquire)
    }

    /// Does `work` on the thread `golden`, and `then` what follows from it, which must be short.
    ///
    /// Errors: the system gives no thread.
    pub(super) fn begin<T>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T) + Send + 'static,
    ) -> std::io::Result<()> {
        // At most what follows from the one before is still to be done.
        self.end();
        let busy = Busy::new(&self.busy);
        let body = move || {
            lower_priority();
            let done = work();
            drop(busy);
            then(done);
        };
        self.thread = Some(Builder::new().name("golden".to_owned()).spawn(body)?);
        Ok(())
    }

    /// Waits for it.
    pub(super) fn end(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the repetition of known answers had panicked");
        }
    }
}

/// Says that a thread is busy, for as long as it lives.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(busy: &Arc<AtomicBool>) -> Self {
        busy.store(true, Release);
        Busy(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_begins_per_interval_of_serving_and_never_two_at_once() {
        let mut rehearsals = Rehearsals::default();
        let second = Duration::from_secs(1);
        let minute = Some(60 * second);
        assert!(!rehearsals.due(None, 100 * second, true));
        assert!(!rehearsals.due(minute, second, false), "there is no thread");
        assert!(rehearsals.due(minute, second, true), "the time before counts");
        assert!(!rehearsals.due(minute, 200 * second, true), "one is on its way");
        rehearsals.ended();
        assert!(rehearsals.due(minute, second, true));
        rehearsals.ended();
        assert!(!rehearsals.due(minute, 59 * second, true));
        assert!(rehearsals.due(minute, second, true));
    }
}
