//! What one thread of the tester counts: latencies by kind of request and version, and seconds.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::result::Latencies;
use crate::wire::Failure;

/// A send later than this after it was due counts as late, in microseconds.
pub(super) const LATE_US: u64 = 1000;

/// Counts of one thread; times are microseconds from the end of the warm-up, negative before it.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Requests due before this belong to the steady part.
    first_event_us: Option<i64>,
    /// Requests of the warm-up.
    pub(super) warm_up_requests: u64,
    /// By index in the mix, then by version.
    pub(super) by_entry: Vec<Vec<Part>>,
    /// Requests due before the first event, if there is one.
    pub(super) steady: Tally,
    /// Requests due after it.
    pub(super) during: Tally,
    /// How late requests were sent, in microseconds.
    pub(super) lateness: Latencies,
    /// How many were sent more than [`LATE_US`] late.
    pub(super) late_sends: u64,
    /// When the last answer came.
    pub(super) last_answer_us: i64,
    /// Counts of each measured second.
    pub(super) seconds: Vec<Counts>,
    /// Counts of each second of the warm-up, the last first.
    pub(super) warm_up_seconds: Vec<Counts>,
    /// Latencies of the answers of seconds that are over and not yet collected.
    pub(super) closed: Vec<(i64, Latencies)>,
    open: (i64, Latencies),
}

/// Requests that one version answered.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Its name; empty for failures.
    pub(super) version: Bytes,
    /// What it answered.
    pub(super) tally: Tally,
}

/// Counts and latencies of some requests.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    /// Requests due.
    pub(super) sent: u64,
    /// Latencies of those answered.
    pub(super) ok: Latencies,
    /// Tokens of those answered.
    pub(super) tokens: u64,
    /// The others.
    pub(super) errors: BTreeMap<Failure, u64>,
}

/// Counts of one second.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    /// Requests due in it.
    pub(super) sent: u64,
    /// Answers that came in it.
    pub(super) ok: u64,
    /// Failures that came in it.
    pub(super) errors: u64,
}

impl Tally {
    fn count(&mut self, latency_us: u64, tokens: u64, failure: Option<Failure>) {
        self.sent += 1;
        match failure {
            None => {
                self.ok.record(latency_us);
                self.tokens += tokens;
            }
            Some(failure) => *self.errors.entry(failure).or_default() += 1,
        }
    }

    /// Adds the requests of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok.add(&other.ok);
        self.tokens += other.tokens;
        for (failure, count) in &other.errors {
            *self.errors.entry(*failure).or_default() += count;
        }
    }
}

impl Counts {
    fn count(&mut self, failed: bool) {
        if failed {
            self.errors += 1;
        } else {
            self.ok += 1;
        }
    }

    /// Adds the counts of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.errors += other.errors;
    }
}

impl Recorder {
    /// Nothing counted yet, for a mix of `entries`.
    pub(super) fn new(entries: usize, first_event_us: Option<i64>) -> Self {
        Self {
            first_event_us,
            warm_up_requests: 0,
            by_entry: (0..entries).map(|_| Vec::new()).collect(),
            steady: Tally::default(),
            during: Tally::default(),
            lateness: Latencies::default(),
            late_sends: 0,
            last_answer_us: 0,
            seconds: Vec::new(),
            warm_up_seconds: Vec::new(),
            closed: Vec::new(),
            open: (i64::MIN, Latencies::default()),
        }
    }

    /// A request was due at `due_us`.
    pub(super) fn due(&mut self, due_us: i64) {
        self.second(due_us.div_euclid(1_000_000)).sent += 1;
        if due_us < 0 {
            self.warm_up_requests += 1;
        }
    }

    /// The request due at `due_us` was written at `now_us`.
    pub(super) fn sent(&mut self, due_us: i64, now_us: i64) {
        if due_us < 0 {
            return;
        }
        let late = now_us.saturating_sub(due_us).max(0).unsigned_abs();
        self.lateness.record(late);
        self.late_sends += u64::from(late > LATE_US);
    }

    /// The request of `tokens` that was due at `due_us` was answered, or failed, at `now_us`.
    ///
    /// One of the warm-up counts in the warm-up, whenever its answer comes.
    pub(super) fn done(
        &mut self,
        entry: usize,
        due_us: i64,
        now_us: i64,
        result: Result<Bytes, Failure>,
        tokens: u64,
    ) {
        let latency_us = now_us.saturating_sub(due_us).max(0).unsigned_abs();
        let mut second = now_us.div_euclid(1_000_000);
        if due_us < 0 {
            second = second.min(-1);
        }
        self.roll(second);
        let failure = result.as_ref().err().copied();
        if failure.is_none() && second >= self.open.0 {
            self.open.1.record(latency_us);
        }
        self.second(second).count(failure.is_some());
        if due_us < 0 {
            return;
        }
        self.last_answer_us = self.last_answer_us.max(now_us);
        let version = result.unwrap_or_default();
        let parts = &mut self.by_entry[entry];
        let at = parts
            .iter()
            .position(|part| part.version == version)
            .unwrap_or_else(|| {
                parts.push(Part {
                    version,
                    tally: Tally::default(),
                });
                parts.len() - 1
            });
        parts[at].tally.count(latency_us, tokens, failure);
        if let Some(first) = self.first_event_us {
            let part = if due_us < first {
                &mut self.steady
            } else {
                &mut self.during
            };
            part.count(latency_us, tokens, failure);
        }
    }

    /// Closes the seconds before `second`.
    pub(super) fn roll(&mut self, second: i64) {
        if second <= self.open.0 {
            return;
        }
        let (over, latencies) = &mut self.open;
        if latencies.count() > 0 {
            self.closed.push((*over, latencies.clone()));
            latencies.clear();
        }
        self.open.0 = second;
    }

    fn second(&mut self, second: i64) -> &mut Counts {
        let (seconds, index) = match usize::try_from(second) {
            Ok(index) => (&mut self.seconds, index),
            // −1 is the last second of the warm-up.
            Err(_) => (
                &mut self.warm_up_seconds,
                usize::try_from(-1 - second).unwrap_or(0),
            ),
        };
        if seconds.len() <= index {
            seconds.resize(index + 1, Counts::default());
        }
        &mut seconds[index]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Recorder;
    use crate::wire::Failure;

    #[test]
    fn the_warm_up_is_in_no_figure() {
        let mut recorder = Recorder::new(1, None);
        recorder.due(-500_000);
        recorder.done(0, -500_000, 700_000, Ok(Bytes::new()), 7);
        assert_eq!(recorder.warm_up_requests, 1);
        assert!(recorder.by_entry[0].is_empty() && recorder.seconds.is_empty());
        assert_eq!(recorder.warm_up_seconds[0].ok, 1);
    }

    #[test]
    fn latency_counts_from_when_the_request_was_due() {
        let mut recorder = Recorder::new(1, Some(2_000_000));
        recorder.due(1_000_000);
        recorder.sent(1_000_000, 1_600_000);
        recorder.done(0, 1_000_000, 1_601_000, Ok(Bytes::from_static(b"2")), 7);
        recorder.due(2_000_000);
        recorder.sent(2_000_000, 2_000_010);
        recorder.done(0, 2_000_000, 2_001_000, Err(Failure::Timeout), 7);
        let parts = &recorder.by_entry[0];
        assert_eq!(
            (parts[0].version.as_ref(), parts[0].tally.ok.at(1.0) / 1000),
            (b"2".as_slice(), 601)
        );
        assert_eq!(parts[1].tally.errors[&Failure::Timeout], 1);
        assert_eq!((parts[0].tally.tokens, parts[1].tally.tokens), (7, 0));
        assert_eq!(
            (recorder.late_sends, recorder.steady.sent, recorder.during.sent),
            (1, 1, 1)
        );
        assert_eq!((recorder.seconds[1].ok, recorder.seconds[2].errors), (1, 1));
        recorder.roll(3);
        assert_eq!(recorder.closed.len(), 1);
    }
}
