//! How many refused calls of strangers are recorded one by one.

use std::time::{Duration, Instant};

use super::REFUSALS;

/// Calls that may be recorded; one more per second.
#[derive(Debug)]
pub(super) struct Strangers {
    left: u32,
    since: Instant,
    unrecorded: u64,
}

impl Strangers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: REFUSALS,
            since: now,
            unrecorded: 0,
        }
    }

    /// Whether a call is recorded by itself; then how many were not since the last that was.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        self.since += Duration::from_secs(seconds);
        let more = u32::try_from(seconds).unwrap_or(REFUSALS);
        self.left = self.left.saturating_add(more).min(REFUSALS);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.unrecorded))
            }
            None => {
                self.unrecorded += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_a_burst_one_per_second_says_how_many_there_were() {
        let start = Instant::now();
        let mut strangers = Strangers::new(start);
        for _ in 0..REFUSALS {
            assert_eq!(strangers.admit(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(strangers.admit(start + Duration::from_millis(900)), None);
        }
        assert_eq!(strangers.admit(start + Duration::from_millis(1100)), Some(7));
        assert_eq!(strangers.admit(start + Duration::from_millis(1900)), None);
        assert_eq!(strangers.admit(start + Duration::from_millis(2000)), Some(1));
        let later = start + Duration::from_secs(3600);
        let recorded = (0..1000).filter(|_| strangers.admit(later).is_some()).count();
        assert_eq!(recorded, REFUSALS as usize);
    }
}
