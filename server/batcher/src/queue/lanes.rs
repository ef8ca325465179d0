//! Items in service order: per priority first come first served, then those that were delayed.

use std::collections::VecDeque;
use std::time::Instant;

use crate::error::JobError;
use crate::policy::Waiting;

/// A waiting item.
pub(super) struct Entry<T> {
    pub(super) waiting: Waiting,
    /// When the model's own timeout passes.
    pub(super) timeout: Option<Instant>,
    pub(super) item: T,
}

/// What a sweep does with an entry.
pub(super) enum Verdict {
    Keep,
    Delay,
    Remove(JobError),
}

/// Two lanes per priority level, each first come first served: `2 × level` fresh ones, then the delayed.
pub(super) struct Lanes<T> {
    lanes: Vec<VecDeque<Entry<T>>>,
    /// Items and cost per level.
    totals: Vec<(usize, usize)>,
}

impl<T> Lanes<T> {
    pub(super) fn new(levels: usize) -> Self {
        Self {
            lanes: (0..2 * levels).map(|_| VecDeque::new()).collect(),
            totals: vec![(0, 0); levels],
        }
    }

    pub(super) fn push(&mut self, level: usize, entry: Entry<T>) {
        self.totals[level].0 += 1;
        self.totals[level].1 += entry.waiting.cost;
        self.lanes[2 * level].push_back(entry);
    }

    /// Every entry in service order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> + Clone {
        self.lanes.iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.ahead_of(self.totals.len() - 1).0
    }

    pub(super) fn cost(&self) -> usize {
        self.ahead_of(self.totals.len() - 1).1
    }

    pub(super) fn len_at(&self, level: usize) -> usize {
        self.totals[level].0
    }

    /// Items and cost at `level` and above.
    pub(super) fn ahead_of(&self, level: usize) -> (usize, usize) {
        self.totals[..=level]
            .iter()
            .fold((0, 0), |sum, total| (sum.0 + total.0, sum.1 + total.1))
    }

    /// The highest level with an item.
    pub(super) fn first_level(&self) -> Option<usize> {
        self.totals.iter().position(|total| total.0 > 0)
    }

    /// Takes out the entries at `positions`, which ascend, counted in service order; with their total cost.
    pub(super) fn remove(&mut self, positions: &[usize]) -> (Vec<T>, usize) {
        let mut taken = Vec::with_capacity(positions.len());
        let mut cost = 0;
        let mut positions = positions.iter().copied().peekable();
        let mut start = 0;
        for (lane, queue) in self.lanes.iter_mut().enumerate() {
            let end = start + queue.len();
            let mut passed_over = Vec::new();
            let mut position = start;
            while let Some(&wanted) = positions.peek()
                && wanted < end
            {
                let entry = queue.pop_front().expect("positions are below the lane's end");
                if position == wanted {
                    positions.next();
                    let total = &mut self.totals[lane / 2];
                    total.0 -= 1;
                    total.1 -= entry.waiting.cost;
                    cost += entry.waiting.cost;
                    taken.push(entry.item);
                } else {
                    passed_over.push(entry);
                }
                position += 1;
            }
            for entry in passed_over.into_iter().rev() {
                queue.push_front(entry);
            }
            start = end;
        }
        (taken, cost)
    }

    /// Asks about every entry, and returns the removed ones.
    pub(super) fn sweep(
        &mut self,
        mut verdict: impl FnMut(usize, &mut Entry<T>) -> Verdict,
    ) -> Vec<(T, JobError)> {
        let mut removed = Vec::new();
        for lane in 0..self.lanes.len() {
            let level = lane / 2;
            let mut delayed = Vec::new();
            let queue = &mut self.lanes[lane];
            for _ in 0..queue.len() {
                let mut entry = queue.pop_front().expect("counted on the line above");
                match verdict(level, &mut entry) {
                    Verdict::Keep => queue.push_back(entry),
                    Verdict::Delay => delayed.push(entry),
                    Verdict::Remove(reason) => {
                        self.totals[level].0 -= 1;
                        self.totals[level].1 -= entry.waiting.cost;
                        removed.push((entry.item, reason));
                    }
                }
            }
            self.lanes[2 * level + 1].extend(delayed);
        }
        removed
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.totals.fill((0, 0));
        self.lanes
            .iter_mut()
            .flat_map(|queue| queue.drain(..))
            .map(|entry| entry.item)
            .collect()
    }
}
