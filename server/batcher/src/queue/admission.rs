//! Which items the queue takes: those with room, an instance, and time enough by the estimate.

use std::time::Duration;

use super::{Item, Queue, State};
use crate::error::SubmitError;
use crate::policy::Waiting;
use crate::sync::lock;

impl<T: Item> Queue<T> {
    /// Refuses what has no room, no instance or no time.
    pub(super) fn admit(&self, state: &State<T>, waiting: &Waiting, level: usize) -> Result<(), SubmitError> {
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if state.healthy == 0 {
            return Err(SubmitError::NoInstance);
        }
        let own_limit = self.settings.levels[level]
            .max_requests
            .filter(|&limit| limit > 0);
        let full = |len: usize, limit: usize| len >= limit;
        if full(state.lanes.len(), self.settings.max_requests) {
            return Err(SubmitError::QueueFull {
                limit: self.settings.max_requests,
            });
        }
        if let Some(limit) = own_limit
            && full(state.lanes.len_at(level), limit)
        {
            return Err(SubmitError::QueueFull { limit });
        }
        if let Some(deadline) = waiting.deadline
            && let Some(needed) = self.time_needed(state, waiting, level)
            && waiting.queued + needed > deadline
        {
            return Err(SubmitError::WouldBeLate {
                ahead: state.lanes.len(),
            });
        }
        Ok(())
    }

    /// How long an item pushed now at `level` would take to be answered; `None` where an instance is idle and nothing
    /// waits, so that a wrong estimate cannot keep out everything for ever.
    ///
    /// It is run with those ahead of it that fill no batch of their own, which takes longer than it would alone.
    fn time_needed(&self, state: &State<T>, waiting: &Waiting, level: usize) -> Option<Duration> {
        let wait = self.wait_ahead(state, level);
        if wait.is_zero() {
            return None;
        }
        let max = state.limits.max_cost.max(1);
        if !self.settings.merges || waiting.alone || waiting.cost >= max {
            return Some(wait + state.costs.surely(1, waiting.cost));
        }
        let (_, ahead) = state.lanes.ahead_of(level);
        let (full, rest) = (ahead / max, ahead % max);
        // What is left over and the item itself: one batch, or two.
        let (full, last) = match rest + waiting.cost {
            together if together <= max => (full, together),
            _ => (full + 1, waiting.cost),
        };
        let before = state.costs.surely(full, full * max) + self.running(state);
        Some(before / self.instances(state) + state.costs.surely(1, last))
    }

    /// How long an item pushed now at `level` would wait for its run, by recent experience.
    pub fn estimated_wait(&self, level: usize) -> Duration {
        self.wait_ahead(&lock(&self.state), level)
    }

    /// Whether every instance runs a batch.
    pub fn is_busy(&self) -> bool {
        let state = lock(&self.state);
        state.healthy > 0 && state.running >= state.healthy
    }

    /// Zero while an instance is idle; else half of what runs, and the items of the same or higher priority.
    fn wait_ahead(&self, state: &State<T>, level: usize) -> Duration {
        let (requests, cost) = state.lanes.ahead_of(level);
        if state.healthy == 0 || (requests == 0 && state.running < state.healthy) {
            return Duration::ZERO;
        }
        let batches = if self.settings.merges {
            cost.div_ceil(state.limits.max_cost.max(1)).min(requests)
        } else {
            requests
        };
        let queued = state.costs.surely(batches, cost);
        (queued + self.running(state)) / self.instances(state)
    }

    /// Half of what runs.
    fn running(&self, state: &State<T>) -> Duration {
        state.costs.surely(state.running, state.running_cost) / 2
    }

    /// At least one.
    fn instances(&self, state: &State<T>) -> u32 {
        u32::try_from(state.healthy).unwrap_or(u32::MAX).max(1)
    }
}
