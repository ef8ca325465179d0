//! How items leave the queue without running: cancelled, expired, or left without an instance.

use std::time::Instant;

use super::lanes::Verdict;
use super::{Item, Queue, State};
use crate::error::JobError;
use crate::options::TimeoutAction;
use crate::policy::is_past;
use crate::sync::{MutexGuard, Ordering, lock};

impl<T: Item> Queue<T> {
    /// Notes that an item was cancelled after it was pushed; it is removed when an instance next looks.
    pub fn note_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::SeqCst);
    }

    /// Refuses what is not to run, letting go of the lock for it.
    pub(super) fn clear<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<T>>,
        now: Instant,
    ) -> MutexGuard<'a, State<T>> {
        let removed = self.sweep(&mut state, now);
        if removed.is_empty() {
            return state;
        }
        drop(state);
        for (item, reason) in removed {
            item.refuse(reason);
        }
        lock(&self.state)
    }

    /// Removes what is not to run, and moves what is delayed behind the others.
    fn sweep(&self, state: &mut State<T>, now: Instant) -> Vec<(T, JobError)> {
        let cancelled = self.cancelled.swap(0, Ordering::SeqCst) > 0;
        if !cancelled && !is_past(state.next_expiry, now) {
            return Vec::new();
        }
        state.next_expiry = None;
        let next_expiry = &mut state.next_expiry;
        let levels = &self.settings.levels;
        let removed = state.lanes.sweep(|level, entry| {
            if entry.item.is_cancelled() || is_past(entry.waiting.deadline, now) {
                return Verdict::Remove(JobError::DeadlineExceeded);
            }
            let delayed = is_past(entry.timeout, now);
            if delayed && levels[level].timeout_action == TimeoutAction::Reject {
                return Verdict::Remove(JobError::QueueTimeout);
            }
            if delayed {
                entry.timeout = None;
            }
            for expiry in [entry.waiting.deadline, entry.timeout].into_iter().flatten() {
                *next_expiry = Some(next_expiry.map_or(expiry, |next| next.min(expiry)));
            }
            if delayed { Verdict::Delay } else { Verdict::Keep }
        });
        self.depth.store(state.lanes.len(), Ordering::SeqCst);
        removed
    }

    /// Notes that an instance is lost for now; if it was the last healthy one, refuses every waiting item.
    pub fn retire(&self) {
        let mut state = lock(&self.state);
        state.healthy -= 1;
        self.healthy.store(state.healthy, Ordering::SeqCst);
        if state.healthy > 0 {
            return;
        }
        let items = state.lanes.drain();
        self.depth.store(0, Ordering::SeqCst);
        drop(state);
        for item in items {
            item.refuse(JobError::NoInstance);
        }
    }
}
