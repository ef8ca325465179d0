//! Both ways under the requests of a version whose instances never pause: the served rate says which was right.
//!
//! No quiet moment comes to such a version, and made-up inputs on idle cores are not its load. For some seconds the two
//! ways serve in turn; no request is lost or waits for the change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choice::{Judgement, Slice, Way, compare};
use super::{Candidate, drop_alone};
use crate::servable::Running;

/// The share of the looks at which every instance must be running a batch: below it the requests are too few to tell.
const BUSY: f64 = 0.8;
/// A window ends with this many batches, but not before, and not after.
const BATCHES: u64 = 4;
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(2);
/// What the other way still has to do when a window begins may take so long.
const LEFT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// Lets both ways serve in turn; the one that is chosen serves from then on, the other is gone. Where nothing could be
/// told, that is the one that served before.
///
/// Errors: it was unloaded, or cannot be run in the other way; it then runs as it did.
pub(super) fn run(candidate: &Candidate, current: Way) -> Result<Judgement, String> {
    let turns = Turns {
        candidate,
        current,
        serving: candidate.running()?.load_full(),
        other: candidate.make(current.other())?,
    };
    let judged = compare(current, |way| turns.window(way));
    turns.end(judged)
}

/// How often every instance was found running a batch.
#[derive(Debug, Default, Clone, Copy)]
struct Looks {
    busy: u32,
    all: u32,
}

impl Looks {
    fn add(&mut self, busy: bool) {
        self.busy += u32::from(busy);
        self.all += 1;
    }

    fn busy_share(self) -> f64 {
        f64::from(self.busy) / f64::from(self.all.max(1))
    }

    /// After some looks, whether it is not worth waiting for more.
    fn are_idle(self) -> bool {
        self.all >= 20 && self.busy_share() < BUSY / 2.0
    }
}

/// A version that runs in two ways.
pub(super) struct Turns<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) current: Way,
    pub(super) serving: Arc<Running>,
    pub(super) other: Arc<Running>,
}

impl Turns<'_> {
    /// The way asked for, and the other.
    fn ways(&self, way: Way) -> (&Arc<Running>, &Arc<Running>) {
        if way == self.current {
            (&self.serving, &self.other)
        } else {
            (&self.other, &self.serving)
        }
    }

    /// Lets `way` serve, and measures it.
    fn window(&self, way: Way) -> Result<Slice, String> {
        let (serves, rests) = self.ways(way);
        self.put(serves)?;
        self.wait_for(rests)?;
        let (begun, before) = (Instant::now(), serves.meter.tally());
        let mut looks = Looks::default();
        loop {
            std::thread::park_timeout(LOOK);
            self.candidate.running()?;
            looks.add(serves.batcher.is_busy());
            let (elapsed, done) = (begun.elapsed(), serves.meter.tally().since(before));
            if elapsed >= LONGEST || (elapsed >= SHORTEST && done.batches >= BATCHES) {
                return Ok(Slice {
                    rows_per_s: done.rows_per_s(serves.instances),
                    sound: looks.busy_share() >= BUSY,
                });
            }
            if looks.are_idle() {
                return Ok(Slice {
                    rows_per_s: 0.0,
                    sound: false,
                });
            }
        }
    }

    /// New requests go to `serves`.
    pub(super) fn put(&self, serves: &Arc<Running>) -> Result<(), String> {
        let cell = self.candidate.running()?;
        if !Arc::ptr_eq(&cell.load(), serves) {
            cell.store(serves.clone());
        }
        Ok(())
    }

    /// Waits until `rests` has nothing queued, and for as long as one of its batches takes on top.
    fn wait_for(&self, rests: &Running) -> Result<(), String> {
        let begun = Instant::now();
        while rests.batcher.depth() > 0 && begun.elapsed() < LEFT {
            std::thread::park_timeout(LOOK);
            self.candidate.running()?;
        }
        let tally = rests.meter.tally();
        let batches = u32::try_from(tally.batches).unwrap_or(u32::MAX);
        let one = tally.busy.checked_div(batches).unwrap_or_default();
        let until = Instant::now() + one.min(LEFT);
        while Instant::now() < until {
            std::thread::park_timeout(LOOK);
            self.candidate.running()?;
        }
        Ok(())
    }

    /// Leaves the chosen way serving, or the one before, and frees the other.
    pub(super) fn end(self, judged: Result<Judgement, String>) -> Result<Judgement, String> {
        let way = match &judged {
            Ok(Judgement::Chosen(choice)) => choice.way,
            _ => self.current,
        };
        // Where it was unloaded meanwhile, both go.
        let put = self.put(self.ways(way).0);
        let Self {
            current,
            serving,
            other,
            ..
        } = self;
        let (serves, rests) = if way == current {
            (serving, other)
        } else {
            (other, serving)
        };
        drop(serves);
        drop_alone(rests);
        put.and(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(busy: u32, all: u32) -> Looks {
        let mut looks = Looks::default();
        (0..all).for_each(|look| looks.add(look < busy));
        looks
    }

    #[test]
    fn a_window_with_pauses_tells_nothing() {
        assert!(looks(80, 100).busy_share() >= BUSY);
        assert!(looks(79, 100).busy_share() < BUSY);
        assert_eq!(Looks::default().busy_share(), 0.0);
    }

    #[test]
    fn a_window_without_load_ends_early() {
        assert!(looks(0, 20).are_idle() && looks(7, 20).are_idle());
        assert!(!looks(0, 19).are_idle() && !looks(8, 20).are_idle());
    }
}
