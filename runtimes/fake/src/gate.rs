//! A latch that holds runs back until a test lets them through.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Holds every run that comes to it until it is let through; clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: bool,
    /// Runs that may still pass while it is closed.
    permits: usize,
    /// Runs that ever came.
    arrived: usize,
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self::default()
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.lock().open = true;
        self.shared.changed.notify_all();
    }

    /// Holds what comes from now on.
    pub fn close(&self) {
        self.lock().open = false;
    }

    /// Lets `runs` more runs through, those that wait first.
    pub fn pass(&self, runs: usize) {
        self.lock().permits += runs;
        self.shared.changed.notify_all();
    }

    /// Blocks until `runs` runs have come to the gate since it was made, whether or not they passed.
    pub fn wait_for_arrivals(&self, runs: usize) {
        let mut state = self.lock();
        while state.arrived < runs {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Called by a run: blocks until it may pass.
    pub fn enter(&self) {
        let mut state = self.lock();
        state.arrived += 1;
        self.shared.changed.notify_all();
        while !state.open && state.permits == 0 {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !state.open {
            state.permits -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_passes_as_many_runs_as_permitted() {
        let gate = Gate::closed();
        gate.pass(2);
        gate.enter();
        gate.enter();
        let held = std::thread::spawn({
            let gate = gate.clone();
            move || gate.enter()
        });
        gate.wait_for_arrivals(3);
        assert!(!held.is_finished());
        gate.open();
        held.join().unwrap();
    }
}
