//! The inference log as requests see it: each that ends becomes one record, or is counted as lost in the log itself.
//!
//! A record is appended after the answer is encoded and before its first byte is sent: log, then respond. What requests do here
//! waits for no disk, unless `ack = "disk"` says so. Two threads do the rest: `log` keeps the next segment ready, syncs and
//! counts; `log-seal` makes Parquet files of segments that are full, at the lowest priority.

mod files;
mod keeper;
mod kept;

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossfade_inference_log::Kind;
use crossfade_inference_log::{
    Gap, LogError, Mark, NO_SCHEMA, Record, Schema, Schemas, Sealer, Writer, Written, schemas_in, segments_in,
};
use crossfade_runtimes_core::ModelSignature;
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use files::seal_all;
pub(crate) use kept::{Kept, Provenance, trace_id};

/// Of a segment.
const SEGMENT_BYTES: u32 = 64 << 20;

/// How the log is kept.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RecorderConfig {
    /// What an answer waits for.
    pub ack: Ack,
    /// The longest time until what was recorded is on disk.
    pub sync: Duration,
    /// The longest time until what was recorded is in a Parquet file.
    pub seal_after: Duration,
    /// Files that are older are removed.
    pub retention: Duration,
    /// The oldest files are removed until the others have no more bytes.
    pub max_bytes: u64,
    /// Larger tensors are not kept.
    pub payload_max_bytes: usize,
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// Nothing; here the same as `kernel`, which costs no more.
    Memory,
    /// The record is in pages of the kernel's: a killed process loses none.
    Kernel,
    /// It is on disk.
    Disk,
}

/// The inference log of a server.
pub struct Recorder {
    config: RecorderConfig,
    writer: Writer,
    /// This start of the server.
    run: Uuid,
    /// The clock of `ts_mono_ns`.
    began: Instant,
    schemas: Mutex<Schemas>,
    counts: Counts,
    /// Requests that were lost since the last gap record.
    gap: Mutex<Option<Gap>>,
    /// When it was last said that the disk refuses.
    said: Mutex<Option<Instant>>,
    /// How many syncs have begun, and how many of those are done.
    syncs: AtomicU64,
    synced: watch::Sender<u64>,
    /// What its threads wait for.
    call: Mutex<Call>,
    called: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What its threads are asked for.
#[derive(Debug, Default)]
struct Call {
    sync: bool,
    end: bool,
}

/// What a scrape shows, since the server started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: AtomicU64,
    pub(crate) recorded: AtomicU64,
    pub(crate) lost_full: AtomicU64,
    pub(crate) lost_size: AtomicU64,
    /// Bytes of records.
    pub(crate) bytes: AtomicU64,
    /// Rows in Parquet files.
    pub(crate) sealed: AtomicU64,
    /// Times that a segment could not be made, synced or sealed.
    pub(crate) failures: AtomicU64,
}

impl Counts {
    pub(crate) fn lost(&self) -> u64 {
        self.lost_full.load(Relaxed) + self.lost_size.load(Relaxed)
    }
}

thread_local! {
    /// Where a record's head is put together; keeps its capacity.
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Recorder {
    /// Opens the log of a data folder and starts its threads, which first seal what an earlier process has left.
    ///
    /// Errors: a folder that cannot be written, a manifest that is damaged.
    pub fn open(data_dir: &Path, config: &RecorderConfig) -> Result<Arc<Self>, LogError> {
        let sealer = Sealer::open(data_dir)?;
        let left = sealer.found()?;
        let schemas = Schemas::open(&schemas_in(data_dir)).map_err(|source| LogError::Io {
            path: schemas_in(data_dir),
            doing: "reading the schemas",
            source,
        })?;
        let run = Uuid::now_v7();
        let recorder = Arc::new(Self {
            config: config.clone(),
            writer: Writer::open(&segments_in(data_dir), SEGMENT_BYTES, &replica(), run)?,
            run,
            began: Instant::now(),
            schemas: Mutex::new(schemas),
            counts: Counts::default(),
            gap: Mutex::default(),
            said: Mutex::default(),
            syncs: AtomicU64::new(0),
            synced: watch::Sender::new(0),
            call: Mutex::default(),
            called: Condvar::new(),
            threads: Mutex::default(),
        });
        recorder
            .start(data_dir, sealer, left)
            .map_err(|source| LogError::Io {
                path: data_dir.to_owned(),
                doing: "starting the threads of the log",
                source,
            })?;
        Ok(recorder)
    }

    /// The number of the schema of a signature; its definition is on disk when this returns. Blocks: for load threads.
    ///
    /// A version whose definition cannot be written is recorded without tensors.
    pub(crate) fn schema(&self, signature: &ModelSignature) -> u16 {
        let number = lock(&self.schemas).number(&Schema::of(signature));
        number.unwrap_or_else(|error| {
            self.counts.failures.fetch_add(1, Relaxed);
            tracing::error!(%error, "the inference log keeps no tensors of this version: their columns cannot be written down");
            NO_SCHEMA
        })
    }

    /// The largest tensor that is kept, bytes.
    pub(crate) fn payload_max_bytes(&self) -> usize {
        self.config.payload_max_bytes
    }

    /// When something was, as `ts` and `ts_mono_ns` of a record.
    pub(crate) fn times(&self, at: Instant) -> (i64, i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = now.saturating_sub(at.elapsed());
        let since = at.saturating_duration_since(self.began);
        let number = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
        (number(wall.as_micros()), number(since.as_nanos()))
    }

    /// Nanoseconds from the start of the server to a point in time: what tells batches apart.
    pub(crate) fn batch_id(&self, began: Instant) -> u64 {
        let since = began.saturating_duration_since(self.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Records a request that has ended, or counts it as lost. Never waits.
    pub(crate) fn record(&self, schema: u16, record: &Record<'_>) {
        let written = HEAD.with_borrow_mut(|head| {
            head.clear();
            record.encode(head);
            let mut parts = Vec::with_capacity(1 + record.tensors.len());
            parts.push(head.as_slice());
            parts.extend(record.tensors.iter().map(|tensor| tensor.bytes));
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            let written = self.writer.append(Kind::Inference, schema, &parts);
            if written == Written::Done {
                self.counts.bytes.fetch_add(bytes as u64, Relaxed);
            }
            written
        });
        let lost = match written {
            Written::Done => {
                self.counts.recorded.fetch_add(1, Relaxed);
                None
            }
            Written::Full => Some(("full", &self.counts.lost_full)),
            Written::Size => Some(("size", &self.counts.lost_size)),
        };
        if let Some((reason, count)) = lost {
            count.fetch_add(1, Relaxed);
            self.miss(reason, record.ts_us);
        }
        // Last: a mark never says more than is there.
        self.counts.received.fetch_add(1, SeqCst);
    }

    /// Notes a request that is missing; `log` writes it down as soon as there is room.
    fn miss(&self, reason: &str, at_us: i64) {
        let mut gap = lock(&self.gap);
        let gap = gap.get_or_insert_with(|| Gap {
            from_us: at_us,
            to_us: at_us,
            count: 0,
            reason: reason.to_owned(),
            model: None,
        });
        gap.from_us = gap.from_us.min(at_us);
        gap.to_us = gap.to_us.max(at_us);
        gap.count += 1;
        if gap.reason != reason {
            gap.reason = "full or size".to_owned();
        }
    }

    /// Waits until what was recorded before is on disk, where an answer has to.
    pub(crate) async fn acknowledged(&self) {
        if self.config.ack != Ack::Disk {
            return;
        }
        let mut synced = self.synced.subscribe();
        // One that has begun may have missed it; the next one does not.
        let covered = self.syncs.load(SeqCst) + 1;
        lock(&self.call).sync = true;
        self.called.notify_all();
        // The sender is this recorder's own.
        let _gone = synced.wait_for(|done| *done >= covered).await.is_err();
    }

    /// What was counted since the server started.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Bytes of segments that are not sealed yet.
    pub(crate) fn unsealed_bytes(&self) -> u64 {
        self.writer.unsealed_bytes()
    }

    fn mark(&self, last: bool) -> Mark {
        // Before the others, so that it is no larger than what they add up to.
        let received = self.counts.received.load(SeqCst);
        Mark {
            run: self.run,
            received,
            sampled_out: 0,
            lost: self.counts.lost(),
            last,
        }
    }

    /// Ends the log: everything that was recorded is sealed when this returns. Blocks.
    pub fn close(&self) {
        lock(&self.call).end = true;
        self.called.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("a thread of the inference log panicked");
            }
        }
    }
}

/// The name of this server in its records: the machine's.
fn replica() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
