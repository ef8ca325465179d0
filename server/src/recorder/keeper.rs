//! The threads of the log: one that keeps it going, one that seals.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossfade_inference_log::{Kind, Sealer, Written};

use super::blobs::Blobs;
use super::files::Held;
use super::{Errand, Loss, OnFull, Recorder, lock};
use crate::servable::lower_priority;

/// What is asked of the thread that seals.
pub(super) enum Work {
    Seal(PathBuf),
    Do(Errand),
}

/// Between two marks.
const MARK: Duration = Duration::from_secs(1);
/// Between two lines about a disk that refuses.
const SAY: Duration = Duration::from_secs(10);
/// Between two looks for files that are too old.
const SWEEP: Duration = Duration::from_secs(60);
/// The same while the disk is nearly full.
const SWEEP_SOON: Duration = Duration::from_secs(1);
/// Between two tries to make a segment, where one has failed.
const TRIED: Duration = Duration::from_millis(20);
/// Between two tries to seal a segment.
const AGAIN: Duration = Duration::from_secs(5);
/// How long requests that were cut off have to say so before the log ends.
const CUT_OFF: Duration = Duration::from_secs(1);

/// However the thread ends, whoever still waits for the disk is not kept.
struct LastWord<'a>(&'a Recorder);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let is_panic = std::thread::panicking();
        self.0.synced.send_modify(|synced| {
            // What was recorded is synced, unless the thread came to nothing.
            synced.turn = u64::MAX;
            if is_panic {
                synced.failed = u64::MAX;
            }
        });
    }
}

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
            let _sent = full.send(Work::Seal(path)).is_ok();
        }
        let held = Held::new(data_dir, sealer, &self.config);
        let counts = self.clone();
        let seal = Builder::new().name("log-seal".to_owned()).spawn(move || {
            lower_priority();
            seal_until_closed(&segments, held, &counts);
        })?;
        let (this, folder) = (self.clone(), data_dir.to_owned());
        let keep = Builder::new()
            .name("log".to_owned())
            .spawn(move || this.keep(&folder, &full))?;
        lock(&self.threads).extend([keep, seal]);
        lock(&self.threads).extend(Blobs::start(self)?);
        Ok(())
    }

    /// Keeps the log going until it ends.
    fn keep(&self, data_dir: &Path, full: &Sender<Work>) {
        let _last = LastWord(self);
        let (mut marked, mut rotated) = (Instant::now(), Instant::now());
        let (mut synced, mut last_mark, mut tried) = (0, None, None);
        loop {
            let ends = self.wait(self.config.sync);
            let is_whole = ends && self.await_requests();
            // Whoever waits for room asks again and again.
            if tried.is_none_or(|tried: Instant| tried.elapsed() >= TRIED || ends) {
                tried = self.prepare(data_dir).then(Instant::now);
            }
            let is_time = marked.elapsed() >= MARK || ends;
            self.say_what_is_missing(is_time);
            if is_time {
                marked = Instant::now();
                let mark = self.mark(is_whole);
                // A log in which nothing happens has nothing to say.
                if last_mark != Some(mark) {
                    last_mark = self.put(Kind::Mark, &mark.encode(), true).then_some(mark);
                }
                self.look_at_disk(data_dir);
            }
            // What was recorded while it synced is synced by the next one.
            let bytes = self.counts.bytes.load(Relaxed);
            let asked = std::mem::take(&mut lock(&self.call).sync);
            if (asked || bytes != synced) && self.sync() {
                synced = bytes;
            }
            if ends {
                break;
            }
            if rotated.elapsed() >= self.config.seal_after {
                rotated = Instant::now();
                self.writer.rotate();
            }
            self.hand_over(full, self.writer.take_full());
            let errands = std::mem::take(&mut lock(&self.call).errands);
            self.pass_on(full, errands);
        }
        self.hand_over(full, self.writer.end());
    }

    /// Waits until there is something to do, at most `longest`. Returns whether the log ends.
    fn wait(&self, longest: Duration) -> bool {
        let call = lock(&self.call);
        let waited = self.called.wait_timeout_while(call, longest, |call| {
            !call.sync && !call.next && call.errands.is_empty() && !call.end
        });
        let mut call = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        call.next = false;
        call.end
    }

    /// Has everything that was recorded sealed, and then this done to the files.
    fn pass_on(&self, full: &Sender<Work>, errands: Vec<Errand>) {
        if errands.is_empty() {
            return;
        }
        let is_closed = self.writer.rotate();
        // Those that were begun are finished within a copy of their bytes.
        while is_closed && self.writer.has_full() {
            self.hand_over(full, self.writer.take_full());
            self.rests_at_most(Duration::from_millis(1));
        }
        for errand in errands {
            match errand {
                Errand::Erase { done, .. } if !is_closed => {
                    let why =
                        "what is not in a file yet cannot be sealed: there is no room for another segment";
                    let _told = done.send(Err(why.to_owned())).is_ok();
                }
                errand => {
                    let _sent = full.send(Work::Do(errand)).is_ok();
                }
            }
        }
    }

    /// Whether no request is under way.
    fn is_idle(&self) -> bool {
        // In this order: what was received was opened before.
        let received = self.counts.received.load(SeqCst);
        self.opened.load(SeqCst) == received
    }

    /// Waits for requests that were cut off and are about to say so; counts those that do not as lost. Returns whether there were none.
    fn await_requests(&self) -> bool {
        let until = Instant::now() + CUT_OFF;
        while !self.is_idle() && Instant::now() < until {
            self.rests_at_most(Duration::from_millis(5));
        }
        self.ended.store(true, SeqCst);
        // Those that came before that are counted when they are done, which takes a copy of their bytes.
        while self.inside.load(SeqCst) > 0 {
            self.rests_at_most(Duration::from_millis(1));
        }
        let received = self.counts.received.load(SeqCst);
        let cut_off = self.opened.load(SeqCst).saturating_sub(received);
        let (now, _) = self.times(Instant::now());
        self.losses.add(Loss::Stopped, cut_off, now);
        self.counts.received.fetch_add(cut_off, SeqCst);
        cut_off == 0
    }

    /// Has another segment ready, if there may be one. Returns whether it failed.
    fn prepare(&self, data_dir: &Path) -> bool {
        if self.writer.is_prepared() {
            return false;
        }
        let unsealed = self.unsealed_bytes();
        let needed = u64::from(self.config.segment_bytes);
        let most = self.config.buffer_bytes;
        self.look_at_disk(data_dir);
        let (free, least) = (self.disk_free(), self.config.min_free_bytes);
        let done = if unsealed.saturating_add(needed) > most {
            Err(format!(
                "{unsealed} bytes of segments are not sealed, and log.buffer_bytes is {most}: files are not written as fast as requests come"
            ))
        } else if free < least.saturating_add(needed) {
            Err(format!(
                "{free} bytes of the disk are free, and log.min_free_bytes keeps {least}: make room, or choose another folder with --data-dir"
            ))
        } else {
            self.writer.prepare().map_err(|error| error.to_string())
        };
        let failed = done.is_err();
        if !failed {
            self.prepared.send_replace(());
            // Once for each segment: those that cannot be made are tried many times a second.
            if self.config.on_full == OnFull::Sample && unsealed > self.config.buffer_bytes / 2 {
                self.sampling.press();
            }
        }
        self.attempt("there is no next segment", done);
        failed
    }

    /// Notes how much of the disk is free.
    fn look_at_disk(&self, data_dir: &Path) {
        match rustix::fs::statvfs(data_dir) {
            Ok(disk) => self
                .disk_free
                .store(disk.f_bavail.saturating_mul(disk.f_frsize), Relaxed),
            Err(error) => tracing::debug!(%error, "it is not known how much of the disk is free"),
        }
    }

    /// Waits so long, whatever comes.
    fn rests_at_most(&self, longest: Duration) {
        let call = lock(&self.call);
        drop(self.called.wait_timeout(call, longest));
    }

    /// Returns whether all that was recorded before is on disk.
    fn sync(&self) -> bool {
        let turn = self.syncs.fetch_add(1, SeqCst) + 1;
        let done = self.writer.sync();
        let failed = done.is_err() | self.unsynced.swap(false, SeqCst);
        self.attempt("records are not on disk", done);
        // A disk that fails keeps nobody waiting.
        self.synced.send_modify(|synced| {
            synced.turn = turn;
            if failed {
                synced.failed = turn;
            }
        });
        !failed
    }

    /// Appends what is no request; returns whether there was room.
    ///
    /// * `at_last`: also in what full segments spare
    fn put(&self, kind: Kind, payload: &[u8], at_last: bool) -> bool {
        match self.writer.append(kind, 0, &[payload]) {
            Written::Full if at_last => self.writer.append_last(kind, payload) == Written::Done,
            Written::Done => true,
            Written::Next => {
                self.needs_next();
                true
            }
            Written::Full | Written::Size => false,
        }
    }

    /// Writes down how many requests are missing, once there is room.
    ///
    /// * `at_last`: also where there is none
    fn say_what_is_missing(&self, at_last: bool) {
        self.losses.say(|gap| {
            let is_said = self.put(Kind::Gap, &gap.encode(), at_last);
            if is_said {
                let (count, reason) = (gap.count, &gap.reason);
                tracing::warn!(count, reason, "requests that are missing in the inference log");
            }
            is_said
        });
    }

    fn hand_over(&self, full: &Sender<Work>, segments: Vec<Arc<crossfade_inference_log::Segment>>) {
        for segment in segments {
            let path = segment.path().to_owned();
            // Whoever waits for the disk waits for this, too, and it is not synced with the current one any more.
            let done = segment.sync();
            if done.is_err() {
                self.unsynced.store(true, SeqCst);
            }
            self.attempt("records are not on disk", done);
            // Its mapping goes before it is read as a file.
            drop(segment);
            let began = std::mem::replace(&mut *lock(&self.segment_began), Instant::now());
            lock(&self.waiting).push_back(began);
            // The receiver goes only after this sender; what stays is sealed at the next start.
            let _sent = full.send(Work::Seal(path)).is_ok();
        }
    }

    /// Counts what fails, and says it now and then: it is tried again many times a second.
    pub(super) fn attempt<E: std::fmt::Display>(&self, what: &str, done: Result<(), E>) {
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

/// Seals what comes, and removes what is too old, until nothing comes any more. What cannot be sealed is tried again, and holds up
/// nothing else.
fn seal_until_closed(work: &Receiver<Work>, mut held: Held, recorder: &Recorder) {
    let mut swept = Instant::now();
    let mut failed: VecDeque<PathBuf> = VecDeque::new();
    let mut tried = Instant::now();
    loop {
        match work.recv_timeout(SWEEP_SOON) {
            Ok(Work::Seal(path)) => failed.extend(seal(&mut held, path, recorder)),
            Ok(Work::Do(Errand::Correct { correction, done })) => {
                let written = held.correct(&correction).map_err(|error| {
                    recorder.counts().failures.fetch_add(1, Relaxed);
                    tracing::error!(%error, "a correction that is to be written down");
                    error.to_string()
                });
                // Whoever asked may have gone; it is done all the same.
                let _told = done.send(written).is_ok();
            }
            Ok(Work::Do(Errand::Erase { subject, done })) => {
                retry(&mut failed, &mut held, recorder);
                recorder.pass_blobs();
                let erased = match failed.len() {
                    0 => held.erase(subject).map_err(|error| {
                        recorder.counts().failures.fetch_add(1, Relaxed);
                        tracing::error!(%error, "records that are to be erased");
                        error.to_string()
                    }),
                    count => Err(format!(
                        "{count} segments cannot be sealed; the server's log says why"
                    )),
                };
                // Whoever asked may have gone; it is done all the same.
                let _told = done.send(erased).is_ok();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                retry(&mut failed, &mut held, recorder);
                return;
            }
        }
        let config = &recorder.config;
        // So much that segments can be made again, and not only just.
        let enough = config
            .min_free_bytes
            .saturating_add(2 * u64::from(config.segment_bytes));
        let free = recorder.disk_free();
        if swept.elapsed() >= if free < enough { SWEEP_SOON } else { SWEEP } {
            swept = Instant::now();
            let kept = held.sweep(recorder.unsealed_bytes(), enough.saturating_sub(free), |path| {
                recorder.may_go(path)
            });
            recorder.attempt("files that are too old are not removed", kept);
            recorder.attempt("data keys that open nothing are not removed", held.forget_keys());
            // A minute's files of a day are many.
            recorder.attempt("small files are not put together", held.compact());
        }
        if !failed.is_empty() && tried.elapsed() >= AGAIN {
            tried = Instant::now();
            retry(&mut failed, &mut held, recorder);
        }
    }
}

/// Tries each of them once more.
fn retry(failed: &mut VecDeque<PathBuf>, held: &mut Held, recorder: &Recorder) {
    for path in std::mem::take(failed) {
        failed.extend(seal(held, path, recorder));
    }
}

/// Seals a segment; returns it if it cannot be sealed now.
fn seal(held: &mut Held, path: PathBuf, recorder: &Recorder) -> Option<PathBuf> {
    let counts = recorder.counts();
    match held.seal(&path) {
        Ok(rows) => {
            counts.sealed.fetch_add(rows, Relaxed);
            lock(&recorder.waiting).pop_front();
            if recorder.unsealed_bytes() < recorder.config.buffer_bytes / 4 {
                recorder.sampling.relax();
            }
            // There may be room for another segment now.
            recorder.needs_next();
            None
        }
        Err(error) => {
            counts.failures.fetch_add(1, Relaxed);
            tracing::error!(%error, "a segment of the inference log that is not sealed");
            Some(path)
        }
    }
}
