//! Hard triggers: what sends a candidate back at once, without any statistics (rollout.md §4).

use serde::{Deserialize, Serialize};

/// A reason to send the candidate back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardTrigger {
    /// Its runtime panicked.
    Panic,
    /// It ran out of memory.
    OutOfMemory,
    /// NaN, infinite or wrongly shaped outputs, where the policy says that they fail.
    InvalidOutput,
    /// It could not be loaded or warmed up again.
    LoadFailed,
    /// Its device is gone.
    DeviceLost,
    /// Requests wait for it, and none was answered for long.
    Hang,
    /// More than half of at least twenty requests failed.
    ErrorRate,
    /// The 99th percentile of at least a hundred requests is above the hard limit.
    SlowTail,
    /// The process ended uncleanly too often with it.
    CrashLoop,
}

/// Requests until an error rate means something.
const ENOUGH: u64 = 20;
/// Requests until a 99th percentile means something.
pub(super) const ENOUGH_FOR_TAIL: u64 = 100;

/// The candidate's requests since its error rate was last judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recent {
    requests: u64,
    failed: u64,
}

impl Recent {
    pub(super) fn add(&mut self, failed: bool) {
        self.requests += 1;
        self.failed += u64::from(failed);
    }

    /// Whether more than half failed, once there are enough; then a new window begins, so that a failure which comes
    /// late is not outvoted by what went well before.
    pub(super) fn judge(&mut self) -> bool {
        if self.requests < ENOUGH {
            return false;
        }
        let window = std::mem::take(self);
        window.failed > window.requests / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_twenty() {
        let check = |good: u32, bad: u32, expected: bool| {
            let mut recent = Recent::default();
            (0..good).for_each(|_| recent.add(false));
            (0..bad).for_each(|_| recent.add(true));
            assert_eq!(recent.judge(), expected, "{good} good, {bad} bad");
        };
        check(0, 19, false);
        check(10, 10, false);
        check(9, 11, true);
        check(10, 11, true);
        check(0, 20, true);
    }

    #[test]
    fn past_success_does_not_outvote() {
        let mut recent = Recent::default();
        (0..1000).for_each(|_| recent.add(false));
        assert!(!recent.judge());
        (0..19).for_each(|_| recent.add(true));
        assert!(!recent.judge(), "too few yet");
        recent.add(true);
        assert!(recent.judge());
    }
}
