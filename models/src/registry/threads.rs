//! The threads of a registry: their start, their bodies, their end.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::control::{Control, Job};
use super::operation::{Operation, panic_message};
use super::table::Reap;
use super::{AtStart, ControlMode, Loader, Registry, lock};
use crate::error::RegistryError;
use crate::scan::Snapshot;
use crate::watch;

/// Who is joined at the end.
#[derive(Default)]
pub(super) struct Threads {
    load_and_watch: Vec<JoinHandle<()>>,
    reaper: Option<JoinHandle<()>>,
}

impl<L: Loader> Registry<L> {
    /// Starts the threads and, on them, the initial load. The threads keep the registry alive until
    /// [`shutdown`](Self::shutdown). A second call does nothing.
    pub fn start(self: &Arc<Self>) {
        let Some(reaper_end) = lock(&self.reaper_end).take() else {
            return;
        };
        let mut threads = lock(&self.threads);
        let registry = Arc::clone(self);
        threads.reaper = Some(spawn("reaper".to_owned(), move || registry.reap(&reaper_end)));
        for k in 0..self.options.load_threads.max(1) {
            let registry = Arc::clone(self);
            threads
                .load_and_watch
                .push(spawn(format!("load-{k}"), move || registry.work()));
        }
        if let ControlMode::Poll(every) = self.options.mode {
            let registry = Arc::clone(self);
            threads
                .load_and_watch
                .push(spawn("watch".to_owned(), move || watch::run(&registry, every)));
        }
        drop(threads);
        self.locked().jobs.push_back(Job::Start);
        self.wake.notify_one();
    }

    /// Waits; false once the registry stops.
    pub(crate) fn wait_unless_stopped(&self, time: Duration) -> bool {
        let control = self.locked();
        let (control, _) = self
            .stopped
            .wait_timeout_while(control, time, |control| !control.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        !control.stopping
    }

    /// Stops routing, loading and watching, and joins the threads. Versions whose requests are still in flight are
    /// dropped by their last request. Waits for loads in progress.
    pub fn shutdown(&self) {
        let abandoned = {
            let mut control = self.locked();
            control.stopping = true;
            control.abandon_all()
        };
        self.wake.notify_all();
        self.stopped.notify_all();
        for operation in abandoned {
            operation.refuse(RegistryError::Conflict("the server is shutting down".to_owned()));
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads.load_and_watch {
            join(thread);
        }
        {
            let mut control = self.locked();
            control.drain_all();
            self.publish_all(&control);
        }
        self.notify();
        if let Some(reaper) = threads.reaper {
            self.reaper.send(Reap::Stop).unwrap_or_default();
            join(reaper);
        }
    }

    /// The body of a load thread.
    fn work(&self) {
        loop {
            let job = {
                let control = self.locked();
                let idle = |control: &mut Control<L::Servable>| !control.stopping && control.jobs.is_empty();
                let mut control = self
                    .wake
                    .wait_while(control, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                if control.stopping {
                    return;
                }
                control.jobs.pop_front()
            };
            match job {
                Some(Job::Start) => self.initial_load(),
                Some(Job::Model(name)) => self.operate(&name),
                None => {}
            }
        }
    }

    fn initial_load(&self) {
        let (all, named) = match &self.options.mode {
            ControlMode::None | ControlMode::Poll(_) | ControlMode::Explicit(AtStart::All) => {
                (true, Vec::new())
            }
            ControlMode::Explicit(AtStart::Models(names)) => {
                (names.iter().any(|name| name == "*"), names.clone())
            }
        };
        let snapshot = if all { self.scan() } else { Ok(Snapshot::default()) };
        let mut control = self.locked();
        match snapshot {
            Ok(snapshot) => {
                control.applied = snapshot.clone();
                control.previous = snapshot;
            }
            Err(error) => {
                tracing::error!(%error, "a repository cannot be read; no model is loaded");
                control.start_failed = true;
            }
        }
        let mut names: Vec<String> = control.applied.models.keys().cloned().collect();
        names.extend(named.into_iter().filter(|name| name != "*"));
        names.sort();
        names.dedup();
        for name in names {
            control.slot(&name).due = true;
            control.enqueue(
                &name,
                Operation::Sync {
                    call: None,
                    done: None,
                },
            );
        }
        control.started = true;
        self.publish_all(&control);
        drop(control);
        self.wake.notify_all();
        self.notify();
    }

    /// The body of the reaper's thread.
    fn reap(&self, end: &Receiver<Reap<L::Servable>>) {
        while let Ok(Reap::Servable {
            name,
            version,
            generation,
            servable,
        }) = end.recv()
        {
            drop(servable);
            let mut control = self.locked();
            control.drained(&name, version, generation);
            drop(control);
            self.notify();
            tracing::info!(model = %name, version, "unloaded");
        }
        // Whatever was let go before the stop.
        while let Ok(reap) = end.try_recv() {
            drop(reap);
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new()
        .name(name)
        .spawn(body)
        .expect("the system has no thread left for the registry")
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        tracing::error!(
            panic = panic_message(&*panic),
            "a thread of the registry has panicked"
        );
    }
}
