//! Who may use GPUs while a CUDA graph is recorded: nobody else in the process.
//!
//! While a stream is recorded, CUDA refuses calls that take or give memory on every thread, and the recording fails with them:
//! ONNX Runtime records with `cudaStreamCaptureModeGlobal`. A recording lasts as long as one run is prepared, so runs wait for
//! it; it does not wait for models that are being loaded, which may take minutes.
//!
//! Source: CUDA Runtime API, `cudaStreamBeginCapture` and `cudaThreadExchangeStreamCaptureMode`.

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// The turns of this process.
pub(crate) static TURNS: Turns = Turns {
    loads: RwLock::new(()),
    runs: RwLock::new(()),
};

/// Whose turn it is.
pub(crate) struct Turns {
    /// Sessions and memory are made and given back.
    loads: RwLock<()>,
    /// Sessions run.
    runs: RwLock<()>,
}

/// A turn; it ends where this is dropped.
pub(crate) enum Turn<'a> {
    /// Others run and load as well.
    Shared { _guard: RwLockReadGuard<'a, ()> },
    /// Nobody else runs or loads.
    Alone {
        _runs: RwLockWriteGuard<'a, ()>,
        _loads: RwLockWriteGuard<'a, ()>,
    },
}

impl Turns {
    /// To make a session or memory, or to give it back; waits for a recording.
    pub(crate) fn load(&self) -> Turn<'_> {
        Turn::Shared {
            _guard: self.loads.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// To run a session; waits for a recording.
    pub(crate) fn run(&self) -> Turn<'_> {
        Turn::Shared {
            _guard: self.runs.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// To record a run; waits for those that run. `None` while something is loaded: the run is then not to be recorded.
    pub(crate) fn record(&self) -> Option<Turn<'_>> {
        let loads = match self.loads.try_write() {
            Ok(loads) => loads,
            Err(TryLockError::Poisoned(loads)) => loads.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Turn::Alone {
            _runs: self.runs.write().unwrap_or_else(PoisonError::into_inner),
            _loads: loads,
        })
    }
}

/// Something whose end gives memory back; dropped in a turn.
pub(crate) struct InTurn<T>(Option<T>);

impl<T> InTurn<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Nothing of it is given back.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(self.0.take());
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("it is there until it is dropped")
    }
}

impl<T> Deref for InTurn<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> DerefMut for InTurn<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl<T> Drop for InTurn<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        if value.is_some() {
            let _turn = TURNS.load();
            drop(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_records_waits_for_runs_and_gives_way_to_loads() {
        let turns = Turns {
            loads: RwLock::new(()),
            runs: RwLock::new(()),
        };
        let loading = turns.load();
        assert!(turns.record().is_none());
        drop(loading);
        let running = turns.run();
        std::thread::scope(|scope| {
            let recording = scope.spawn(|| turns.record().is_some());
            // Whether it has come so far or not: it gets its turn when the run is over.
            drop(running);
            assert!(recording.join().unwrap());
        });
        let recording = turns.record();
        assert!(recording.is_some() && turns.runs.try_read().is_err() && turns.loads.try_read().is_err());
    }

    #[test]
    fn what_is_dropped_in_a_turn_is_dropped_while_nothing_is_recorded() {
        struct Ends;
        impl Drop for Ends {
            fn drop(&mut self) {
                assert!(TURNS.record().is_none());
            }
        }
        drop(InTurn::new(Ends));
        std::mem::forget(InTurn::new(Ends).into_inner());
    }
}
