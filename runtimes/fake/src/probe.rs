//! What a fake model has been asked to do so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Dimension 0 of the first input that is present; 1 without inputs.
    pub rows: usize,
    /// Shapes of the inputs, `None` where one was left out.
    pub shapes: Vec<Option<Vec<usize>>>,
    /// Whether every present input of fixed width was aligned to 64 bytes.
    pub aligned: bool,
    /// Which outputs were wanted.
    pub wanted: Vec<bool>,
    /// Name of the thread it ran on.
    pub thread: Option<String>,
}

/// A view of a fake model's history; clones see the same model.
#[derive(Clone, Default)]
pub struct Probe {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    executions: Vec<Execution>,
    instances_made: usize,
    instances_alive: usize,
}

impl Probe {
    /// How often any instance was run; counted when the run begins.
    pub fn executions(&self) -> usize {
        self.lock().executions.len()
    }

    /// Every run, in the order in which they began.
    pub fn history(&self) -> Vec<Execution> {
        self.lock().executions.clone()
    }

    /// Rows of every run, in the order in which they began.
    pub fn batch_rows(&self) -> Vec<usize> {
        self.lock().executions.iter().map(|run| run.rows).collect()
    }

    /// Instances ever made.
    pub fn instances_made(&self) -> usize {
        self.lock().instances_made
    }

    /// Instances made and not dropped.
    pub fn instances_alive(&self) -> usize {
        self.lock().instances_alive
    }

    pub(crate) fn note(&self, execution: Execution) {
        self.lock().executions.push(execution);
    }

    pub(crate) fn note_made(&self) {
        let mut state = self.lock();
        state.instances_made += 1;
        state.instances_alive += 1;
    }

    pub(crate) fn note_dropped(&self) {
        self.lock().instances_alive -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
