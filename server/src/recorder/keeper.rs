//! The threads of the log: one that keeps it going, one that seals.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossfade_inference_log::{Kind, Sealer, Written};

use super::files::{self, Held};
use super::{Recorder, lock};
use crate::servable::lower_priority;

/// Between two marks.
const MARK: Duration = Duration::from_secs(1);
/// Between two lines about a disk that refuses.
const SAY: Duration = Duration::from_secs(10);
/// Between two looks for files that are too old.
const SWEEP: Duration = Duration::from_secs(60);

impl Recorder {
    /// Starts both threads. `left`: segments of an earlier process, which nobody writes to.
    pub(super) fn start(
        self: &Arc<Self>,
        data_dir: &Path,
        sealer: Sealer,
        left: Vec<PathBuf>,
    ) -> io::Result<()> {
        let (full, segments) = channel();
        for path in left {
            // The receiver is the thread that is started next.
            let _sent = full.send(path).is_ok();
        }
        let held = Held::new(data_dir, sealer, &self.config);
        let counts = self.clone();
        let seal = Builder::new().name("log-seal".to_owned()).spawn(move || {
            lower_priority();
            seal_until_closed(&segments, held, &counts);
        })?;
        let this = self.clone();
        let keep = Builder::new()
            .name("log".to_owned())
            .spawn(move || this.keep(&full))?;
        lock(&self.threads).extend([keep, seal]);
        Ok(())
    }

    /// Keeps the log going until it ends.
    fn keep(&self, full: &Sender<PathBuf>) {
        let (mut marked, mut rotated) = (Instant::now(), Instant::now());
        let mut synced = 0;
        loop {
            let ends = self.wait(self.config.sync);
            self.attempt("no next segment", self.writer.prepare());
            self.say_what_is_missing();
            if marked.elapsed() >= MARK || ends {
                marked = Instant::now();
                self.put_mark(ends);
            }
            // What was recorded while it synced is synced by the next one.
            let bytes = self.counts.bytes.load(Relaxed);
            let asked = std::mem::take(&mut lock(&self.call).sync);
            if asked || bytes != synced {
                synced = bytes;
                self.sync();
            }
            if ends {
                break;
            }
            if rotated.elapsed() >= self.config.seal_after {
                rotated = Instant::now();
                self.writer.rotate();
            }
            self.hand_over(full, self.writer.take_full());
        }
        self.hand_over(full, self.writer.end());
        // Whoever still waits for the disk is not kept: what was recorded is synced.
        self.synced.send_replace(u64::MAX);
    }

    /// Waits until there is something to do, at most `longest`. Returns whether the log ends.
    fn wait(&self, longest: Duration) -> bool {
        let call = lock(&self.call);
        let waited = self
            .called
            .wait_timeout_while(call, longest, |call| !call.sync && !call.end);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.end
    }

    /// Waits so long, or until the log ends; returns whether it does.
    fn rests(&self, longest: Duration) -> bool {
        let call = lock(&self.call);
        let waited = self.called.wait_timeout_while(call, longest, |call| !call.end);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.end
    }

    fn sync(&self) {
        let turn = self.syncs.fetch_add(1, SeqCst) + 1;
        self.attempt("records that are not on disk", self.writer.sync());
        // A disk that fails keeps nobody waiting; it is counted and said.
        self.synced.send_replace(turn);
    }

    fn put_mark(&self, last: bool) {
        let mark = self.mark(last).encode();
        // Where there is no room, the next one says as much.
        if self.writer.append(Kind::Mark, 0, &[&mark]) != Written::Done {
            tracing::debug!("no room for a mark");
        }
    }

    /// Writes down how many requests are missing, once there is room.
    fn say_what_is_missing(&self) {
        let mut gap = lock(&self.gap);
        if let Some(missing) = &*gap
            && self.writer.append(Kind::Gap, 0, &[&missing.encode()]) == Written::Done
        {
            tracing::warn!(
                count = missing.count,
                reason = missing.reason,
                "requests that are missing in the inference log"
            );
            *gap = None;
        }
    }

    fn hand_over(&self, full: &Sender<PathBuf>, segments: Vec<Arc<crossfade_inference_log::Segment>>) {
        for segment in segments {
            let path = segment.path().to_owned();
            // Its mapping goes before it is read as a file.
            drop(segment);
            // The receiver goes only after this sender; what stays is sealed at the next start.
            let _sent = full.send(path).is_ok();
        }
    }

    /// Counts what fails, and says it now and then: it is tried again many times a second.
    fn attempt<E: std::fmt::Display>(&self, what: &str, done: Result<(), E>) {
        if let Err(error) = done {
            self.counts.failures.fetch_add(1, Relaxed);
            let mut said = lock(&self.said);
            if said.is_none_or(|said| said.elapsed() >= SAY) {
                *said = Some(Instant::now());
                tracing::error!(%error, "the inference log: {what}");
            }
        }
    }
}

/// Seals what comes, and removes what is too old, until nothing comes any more.
fn seal_until_closed(segments: &Receiver<PathBuf>, mut held: Held, recorder: &Recorder) {
    let mut swept = Instant::now();
    let counts = recorder.counts();
    loop {
        match segments.recv_timeout(SWEEP) {
            Ok(path) => {
                let sealed = files::seal(&mut held, &path, |longest| recorder.rests(longest));
                counts.sealed.fetch_add(sealed.rows, Relaxed);
                counts.failures.fetch_add(sealed.failures, Relaxed);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            if let Err(error) = held.sweep() {
                counts.failures.fetch_add(1, Relaxed);
                tracing::error!(%error, "files of the inference log that cannot be removed");
            }
        }
    }
}
