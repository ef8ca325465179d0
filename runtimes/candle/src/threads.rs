//! The threads that runs share.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossfade_runtimes_core::RuntimeError;
use rayon::ThreadPool;

use crate::NAME;

/// Some threads, and how many runs want them.
///
/// A run has all of them to itself while it is alone. As many runs as there are threads have one each, their own: they would
/// only wait for each other in between.
pub(crate) struct Threads {
    pool: ThreadPool,
    running: AtomicUsize,
}

impl Threads {
    /// Starts `count` threads.
    ///
    /// Errors: `Unavailable` if they cannot be started.
    pub(crate) fn start(count: usize) -> Result<Self, RuntimeError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|index| format!("candle-{index}"))
            .build()
            .map_err(|error| RuntimeError::Unavailable {
                runtime: NAME,
                reason: format!("its threads cannot be started: {error}"),
            })?;
        Ok(Self {
            pool,
            running: AtomicUsize::new(0),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.pool.current_num_threads()
    }
}

/// A run, as long as it takes.
pub(crate) struct Run<'a>(Option<&'a Threads>);

impl<'a> Run<'a> {
    /// * `threads`: `None` for a run that stays on its calling thread
    pub(crate) fn begin(threads: Option<&'a Threads>) -> Self {
        if let Some(threads) = threads {
            threads.running.fetch_add(1, Relaxed);
        }
        Self(threads)
    }

    /// The most that share its work.
    pub(crate) fn threads(&self) -> usize {
        self.0.map_or(1, Threads::count)
    }

    /// What shares the work of the next step; `None`: the calling thread does it.
    pub(crate) fn pool(&self) -> Option<&'a ThreadPool> {
        let has_room = |threads: &&Threads| threads.running.load(Relaxed) < threads.count();
        self.0.filter(has_room).map(|threads| &threads.pool)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(threads) = self.0 {
            threads.running.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_the_threads_until_there_are_as_many_runs() {
        let threads = Threads::start(2).unwrap();
        let first = Run::begin(Some(&threads));
        assert!(first.pool().is_some());
        let second = Run::begin(Some(&threads));
        assert!(first.pool().is_none() && second.pool().is_none());
        drop(first);
        assert!(second.pool().is_some());
        assert!(Run::begin(None).pool().is_none());
        assert!(second.pool().is_some());
    }
}
