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
        let wait = self.wait_ahead(state, level);
        if let Some(deadline) = waiting.deadline
            && !wait.is_zero()
            && waiting.queued + wait + state.costs.surely(1, self.batch_with(state, waiting, level))
                > deadline
        {
            return Err(SubmitError::WouldBeLate {
                ahead: state.lanes.len(),
            });
        }
        Ok(())
    }

    /// The cost of the batch that an item will be part of: under overload a full one, which takes longer than the item
    /// alone.
    fn batch_with(&self, state: &State<T>, waiting: &Waiting, level: usize) -> usize {
        if !self.settings.merges || waiting.alone {
            return waiting.cost;
        }
        let (_, ahead) = state.lanes.ahead_of(level);
        waiting.cost.max(state.limits.max_cost.min(ahead + waiting.cost))
    }

    /// How long an item pushed now at `level` would wait for its run, by recent experience.
    pub fn estimated_wait(&self, level: usize) -> Duration {
        self.wait_ahead(&lock(&self.state), level)
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
        let running = state.costs.surely(state.running, state.running_cost) / 2;
        (queued + running) / u32::try_from(state.healthy).unwrap_or(u32::MAX)
    }
}
