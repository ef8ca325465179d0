//! From the end of a request to the counts of its release: a bounded channel, so that no request ever waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossfade_rollout::ledger::{HardTrigger, Quantiles};
use crossfade_statistics::Arm;

use super::decision::Reading;
use super::outputs::Watch;
use super::shadow::Shadow;

/// Requests that may wait to be counted: some seconds of a busy server.
const WAITING: usize = 1 << 16;

/// One request of a release that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Count {
    /// How requests were divided when it was routed; the counts of an earlier division are void.
    pub(crate) epoch: u64,
    /// Which version it went to.
    pub(crate) arm: Arm,
    /// The draw.
    pub(crate) unit: u64,
    /// It failed, and by whose fault; not by a client's mistake.
    pub(crate) failed: Option<Fault>,
    /// It takes the candidate back at once.
    pub(crate) trigger: Option<HardTrigger>,
    /// When the batch that it ran in began, and how long that took.
    pub(crate) batch: Option<(Instant, Duration)>,
    /// Whether its time is compared: it went to the candidate or to the baseline.
    pub(crate) is_timed: bool,
    /// What its answer says, where that was read.
    pub(crate) reading: Option<Reading>,
}

/// Whose fault it is that a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The version's, or the server's.
    Own,
    /// That is not known: a client's deadline was over, or the model refused what fits its signature. It counts against a
    /// version only beside the other one, which gets such requests, too.
    Doubtful,
}

/// Where the requests of one release are counted.
pub(crate) struct Tally {
    sender: SyncSender<Count>,
    lost: AtomicU64,
    /// Which answers are read, while two versions are compared by them.
    watch: ArcSwapOption<Watch>,
    /// Where requests leave copies of themselves.
    shadow: ArcSwapOption<Shadow>,
}

impl Tally {
    /// A tally and the end that is read at looks.
    pub(super) fn new() -> (Self, Receiver<Count>) {
        let (sender, receiver) = sync_channel(WAITING);
        let tally = Self {
            sender,
            lost: AtomicU64::new(0),
            watch: ArcSwapOption::empty(),
            shadow: ArcSwapOption::empty(),
        };
        (tally, receiver)
    }

    /// Which answers are read. Cost: one atomic load.
    pub(super) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.load_full()
    }

    /// From here on these answers are read, or none.
    pub(super) fn read(&self, watch: Option<Watch>) {
        self.watch.store(watch.map(Arc::new));
    }

    /// Counts a request. Never waits: with too many waiting it is lost, whatever its arm, and that is counted.
    pub(crate) fn count(&self, count: Count) {
        if self.sender.try_send(count).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Where requests leave copies, while there is a shadow. Cost: one atomic load.
    pub(super) fn copies(&self) -> Option<Arc<Shadow>> {
        self.shadow.load_full()
    }

    /// From here on requests leave copies there, or none.
    pub(super) fn shadow(&self, shadow: Option<Arc<Shadow>>) {
        self.shadow.store(shadow);
    }

    /// How many were lost since the last question.
    pub(super) fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

/// Batches whose requests are still coming in: those of one batch end one after the other.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// Since the last look.
    young: BTreeMap<(bool, Instant), Batch>,
    /// Since the look before.
    old: BTreeMap<(bool, Instant), Batch>,
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    pub(super) arm: Arm,
    pub(super) compute: Duration,
    pub(super) units: Vec<u64>,
}

impl Batches {
    /// A request of a batch has ended.
    pub(super) fn add(&mut self, arm: Arm, began: Instant, compute: Duration, unit: u64) {
        let key = (arm == Arm::Canary, began);
        let batch = match self.old.get_mut(&key) {
            Some(batch) => batch,
            None => self.young.entry(key).or_insert_with(|| Batch {
                arm,
                compute,
                units: Vec::new(),
            }),
        };
        batch.units.push(unit);
    }

    /// The batches that are complete: nothing began with them since the last look but one.
    pub(super) fn look(&mut self) -> impl Iterator<Item = Batch> + use<> {
        let done = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        done.into_values()
    }

    /// Forgets everything: another stage begins.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Steps per factor of two: neighbouring quantiles are 9 % apart, well below the guard's 25 % (rollout.md §5.4).
const STEPS: f64 = 8.0;

/// Compute times of one arm.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    /// Requests by the logarithm of their time.
    counts: BTreeMap<i32, u64>,
    requests: u64,
}

impl Tail {
    /// A request took this long.
    pub(super) fn add(&mut self, compute: Duration) {
        let steps = (compute.as_secs_f64().max(1e-9).log2() * STEPS).ceil();
        #[expect(clippy::cast_possible_truncation, reason = "durations are below 2^64 seconds")]
        self.add_step(steps as i32);
    }

    fn add_step(&mut self, step: i32) {
        *self.counts.entry(step).or_default() += 1;
        self.requests += 1;
    }

    /// How many requests.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// The upper edge of the step that holds a quantile, seconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        self.step(share)
            .map_or(0.0, |step| (f64::from(step) / STEPS).exp2())
    }

    /// The step that holds a quantile.
    fn step(&self, share: f64) -> Option<i32> {
        let wanted = share * self.requests as f64;
        let mut below = 0;
        let mut steps = self.counts.iter();
        let found = steps.find(|(_, count)| {
            below += **count;
            below as f64 >= wanted
        });
        found.map(|(step, _)| *step)
    }

    /// As the ledger wants them.
    pub(super) fn quantiles(&self) -> Quantiles {
        Quantiles {
            requests: self.requests,
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
        }
    }
}

/// What is slow for a version, by what its batches took so far: of every hundred of them the 99th percentile, and of those the
/// median. A few slow seconds fill some hundreds and leave the median alone; in a percentile of all of them they would be seen
/// for a hundred times as long.
#[derive(Debug, Default)]
pub(super) struct Limit {
    block: Tail,
    tails: Tail,
}

impl Limit {
    /// A batch took this long; `size` of them make a block.
    pub(super) fn add(&mut self, compute: Duration, size: u64) {
        self.block.add(compute);
        if self.block.requests() >= size {
            let tail = std::mem::take(&mut self.block).step(0.99);
            tail.into_iter().for_each(|tail| self.tails.add_step(tail));
        }
    }

    /// Seconds; nothing before the first block is full.
    pub(super) fn seconds(&self) -> Option<f64> {
        (self.tails.requests() > 0).then(|| self.tails.quantile(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_median_of_the_tails_of_blocks() {
        let mut limit = Limit::default();
        let mut block = |slow, fast| {
            (0..slow).for_each(|_| limit.add(Duration::from_millis(50), 100));
            (0..fast).for_each(|_| limit.add(Duration::from_millis(1), 100));
            limit.seconds()
        };
        assert_eq!(block(0, 99), None);
        let is = |found: Option<f64>, seconds: f64| {
            assert!(
                found.is_some_and(|found| found >= seconds && found < seconds * 1.1),
                "{found:?}"
            );
        };
        is(block(1, 0), 0.001);
        is(block(2, 98), 0.001);
        is(block(100, 0), 0.05);
        is(block(0, 100), 0.001);
    }

    #[test]
    fn quantiles_are_upper_edges() {
        let mut tail = Tail::default();
        (0..990).for_each(|_| tail.add(Duration::from_millis(1)));
        (0..10).for_each(|_| tail.add(Duration::from_millis(50)));
        let check = |share, time: f64| {
            let got = tail.quantile(share);
            assert!(got >= time && got < time * 1.1, "{share}: {got}");
        };
        check(0.5, 0.001);
        check(0.99, 0.001);
        check(0.995, 0.05);
        assert_eq!(Tail::default().quantile(0.5), 0.0);
    }

    #[test]
    fn a_batch_is_given_out_whole() {
        let mut batches = Batches::default();
        let (began, time) = (Instant::now(), Duration::from_millis(1));
        batches.add(Arm::Canary, began, time, 1);
        assert_eq!(batches.look().count(), 0, "some of it may still come");
        batches.add(Arm::Canary, began, time, 2);
        batches.add(Arm::Control, began, time, 3);
        let whole: Vec<Batch> = batches.look().collect();
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].arm, &whole[0].units[..]), (Arm::Canary, &[1, 2][..]));
        assert_eq!(batches.look().count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted() {
        let (tally, waiting) = Tally::new();
        let count = Count {
            epoch: 0,
            arm: Arm::Control,
            unit: 0,
            failed: None,
            trigger: None,
            batch: None,
            is_timed: false,
            reading: None,
        };
        (0..WAITING + 3).for_each(|_| tally.count(count));
        assert_eq!((waiting.try_iter().count(), tally.lost()), (WAITING, 3));
    }
}
