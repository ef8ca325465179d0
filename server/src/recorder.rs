//! The inference log as requests see it: each that ends becomes one record, or is counted as lost in the log itself.
//!
//! A record is appended after the answer is encoded and before its first byte is sent: log, then respond. What requests do here
//! waits for no disk, unless `ack = "disk"` says so. Two threads do the rest: `log` keeps the next segment ready, syncs and
//! counts; `log-seal` makes Parquet files of segments that are full, at the lowest priority.

mod blobs;
mod detect;
mod encryption;
mod files;
mod keeper;
mod kept;
mod losses;
mod pepper;
mod policy;
mod sampling;
mod wishes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossfade_batcher::Timings;
use crossfade_inference_log::{
    Batch, Certificate, Correction, Keys, Kind, LogError, Mark, NO_SCHEMA, Record, Schema, Schemas,
    SealedFile, Sealer, Writer, Written, schemas_in, segments_in,
};
use crossfade_journal::Hash;
use crossfade_runtimes_core::ModelSignature;
use http::{HeaderMap, HeaderName};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use blobs::Blobs;
pub(crate) use encryption::keys_to_read;
pub use encryption::{Encryption, KeySource, NoSource};
pub(crate) use files::seal_all;
pub(crate) use kept::{Kept, Provenance, trace_id};
pub(crate) use losses::Loss;
use losses::Losses;
pub(crate) use pepper::{Pepper, pepper_in};
use policy::Policies;
pub use policy::{FieldPolicy, NoPolicy};
use sampling::Sampling;
pub(crate) use wishes::Wish;
use wishes::Wishes;
pub(crate) use wishes::{objecting_in, restricted_in};

/// Of a segment.
pub(crate) const SEGMENT_BYTES: u32 = 64 << 20;
/// Characters that are kept of the name of who asks.
const MAX_CALLER: usize = 128;
/// What a record is beside the tensors, at most.
const HEAD_BYTES: usize = 64 << 10;

/// How the log is kept.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RecorderConfig {
    /// What an answer waits for.
    pub ack: Ack,
    /// What becomes of a request whose record has no room.
    pub on_full: OnFull,
    /// With [`OnFull::Block`]: the longest that an answer waits for room.
    pub max_wait: Duration,
    /// The probability with which a request is recorded; what failed, a canary and a copy always are.
    pub rate: f64,
    /// The longest time until what was recorded is on disk.
    pub sync: Duration,
    /// The longest time until what was recorded is in a Parquet file.
    pub seal_after: Duration,
    /// Files that are older are removed.
    pub retention: Duration,
    /// The oldest files are removed until the others have no more bytes.
    pub max_bytes: u64,
    /// The oldest files are removed until so much of the disk is free; where that does not help, there is no room.
    pub min_free_bytes: u64,
    /// Segments that are not sealed have no more bytes: beyond it there is no room.
    pub buffer_bytes: u64,
    /// Of a segment: a multiple of 4096, and more than two times the largest record.
    pub segment_bytes: u32,
    /// Larger tensors are not kept in the record.
    pub payload_max_bytes: usize,
    /// But in a file of its own.
    pub blobs: bool,
    /// What becomes of inputs and outputs before they are written: by model, then by `in.NAME`, `out.NAME` and `*`.
    pub fields: BTreeMap<String, BTreeMap<String, FieldPolicy>>,
    /// The header with the id of the person that a request is about.
    #[serde(serialize_with = "as_text")]
    pub subject_header: HeaderName,
    /// The header in which a gateway says who asks.
    #[serde(serialize_with = "as_text_if_any")]
    pub caller_header: Option<HeaderName>,
    /// The secret behind keyed digests; by default one that is made in the data folder.
    pub pepper_file: Option<PathBuf>,
    /// What records are encrypted with.
    pub encryption: Option<Encryption>,
}

fn as_text_if_any<S: serde::Serializer>(header: &Option<HeaderName>, to: S) -> Result<S::Ok, S::Error> {
    match header {
        Some(header) => to.serialize_some(header.as_str()),
        None => to.serialize_none(),
    }
}

fn as_text<S: serde::Serializer>(header: &HeaderName, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(header.as_str())
}

impl Default for RecorderConfig {
    fn default() -> Self {
        Self {
            ack: Ack::Kernel,
            on_full: OnFull::Drop,
            max_wait: Duration::from_secs(1),
            rate: 1.0,
            sync: Duration::from_millis(100),
            seal_after: Duration::from_secs(60),
            retention: Duration::from_hours(7 * 24),
            max_bytes: 20_000_000_000,
            min_free_bytes: 500_000_000,
            buffer_bytes: 1 << 30,
            segment_bytes: SEGMENT_BYTES,
            payload_max_bytes: 64 << 10,
            blobs: false,
            fields: BTreeMap::new(),
            subject_header: HeaderName::from_static("x-subject-id"),
            caller_header: None,
            pepper_file: None,
            encryption: None,
        }
    }
}

/// The files that were sent somewhere, by their places, and the sha256 of each.
pub(crate) type Sent = Arc<Mutex<BTreeMap<String, Hash>>>;

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

/// What becomes of a request whose record has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It is served, counted, and a gap in the log.
    Drop,
    /// It waits for room, and is refused if there is none for too long: nothing is served unrecorded.
    Block,
    /// Fewer requests are recorded while much is not sealed yet; where there is no room all the same, as `drop`.
    Sample,
}

/// The inference log of a server.
pub struct Recorder {
    config: RecorderConfig,
    data_dir: PathBuf,
    writer: Writer,
    /// What records are encrypted with.
    keys: Keys,
    /// This start of the server.
    run: Uuid,
    /// The clock of `ts_mono_ns`.
    began: Instant,
    schemas: Mutex<Schemas>,
    pepper: Arc<Pepper>,
    wishes: Wishes,
    /// What has been sent to whom, where files stay until they are.
    awaited: Mutex<Vec<Sent>>,
    blobs: Blobs,
    counts: Counts,
    losses: Losses,
    sampling: Sampling,
    /// Requests that have begun.
    opened: AtomicU64,
    /// What is recorded now is counted as lost already.
    ended: AtomicBool,
    /// Requests that are being recorded.
    inside: AtomicU64,
    /// Records of a segment that was handed over are not on disk.
    unsynced: AtomicBool,
    /// When the segments began that wait to be sealed, oldest first.
    waiting: Mutex<VecDeque<Instant>>,
    /// When the segment began that takes records.
    segment_began: Mutex<Instant>,
    /// Changes when another segment is ready.
    prepared: watch::Sender<()>,
    /// Bytes that were free on the disk when that was last looked at.
    disk_free: AtomicU64,
    /// When it was last said that the disk refuses.
    said: Mutex<Option<Instant>>,
    /// How many syncs have begun, and how many of those are done.
    syncs: AtomicU64,
    synced: watch::Sender<Synced>,
    /// What its threads wait for.
    call: Mutex<Call>,
    called: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Which syncs are done.
#[derive(Debug, Clone, Copy, Default)]
struct Synced {
    turn: u64,
    /// The last one that failed; 0: none.
    failed: u64,
}

/// What its threads are asked for.
#[derive(Debug, Default)]
struct Call {
    sync: bool,
    /// The next segment is missing.
    next: bool,
    /// What is to be done to the files.
    errands: Vec<Errand>,
    end: bool,
}

/// Someone waits for something to be done to the files.
#[derive(Debug)]
enum Errand {
    /// The records about a person go.
    Erase {
        subject: [u8; 16],
        done: oneshot::Sender<Result<Certificate, String>>,
    },
    /// A correction is written down.
    Correct {
        correction: Correction,
        done: oneshot::Sender<Result<SealedFile, String>>,
    },
}

/// What a scrape shows, since the server started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: AtomicU64,
    pub(crate) recorded: AtomicU64,
    pub(crate) sampled_out: AtomicU64,
    /// Bytes of records.
    pub(crate) bytes: AtomicU64,
    /// Rows in Parquet files.
    pub(crate) sealed: AtomicU64,
    /// Files of records with large tensors, and how many records have none.
    pub(crate) blobs: AtomicU64,
    pub(crate) blobs_lost: AtomicU64,
    /// Bytes of tensors that wait to be in one.
    pub(crate) blob_bytes: AtomicUsize,
    /// Times that a segment could not be made, synced or sealed.
    pub(crate) failures: AtomicU64,
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
        let keys = encryption::keys(data_dir, config.encryption.as_ref()).map_err(|error| LogError::Io {
            path: data_dir.to_owned(),
            doing: "reading the keys of the log",
            source: std::io::Error::other(error),
        })?;
        let sealer = Sealer::open(data_dir, &keys)?;
        let left = sealer.found()?;
        let schemas = Schemas::open(&schemas_in(data_dir)).map_err(|source| LogError::Io {
            path: schemas_in(data_dir),
            doing: "reading the schemas",
            source,
        })?;
        let pepper_at = config.pepper_file.clone().unwrap_or_else(|| pepper_in(data_dir));
        let pepper = Pepper::open(&pepper_at).map_err(|source| LogError::Io {
            path: pepper_at,
            doing: "reading the pepper",
            source,
        })?;
        let wishes = Wishes::open(data_dir).map_err(|error| LogError::Io {
            path: data_dir.to_owned(),
            doing: "reading what persons have asked for",
            source: std::io::Error::other(error),
        })?;
        let run = Uuid::now_v7();
        let recorder = Arc::new(Self {
            config: config.clone(),
            data_dir: data_dir.to_owned(),
            writer: Writer::open(
                &segments_in(data_dir),
                config.segment_bytes,
                &replica(),
                run,
                &keys,
            )?,
            keys,
            run,
            began: Instant::now(),
            schemas: Mutex::new(schemas),
            pepper: Arc::new(pepper),
            wishes,
            awaited: Mutex::default(),
            blobs: Blobs::default(),
            counts: Counts::default(),
            losses: Losses::default(),
            sampling: Sampling::new(config.rate),
            opened: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            inside: AtomicU64::new(0),
            unsynced: AtomicBool::new(false),
            waiting: Mutex::new(left.iter().map(|_| Instant::now()).collect()),
            segment_began: Mutex::new(Instant::now()),
            prepared: watch::Sender::new(()),
            disk_free: AtomicU64::new(u64::MAX),
            said: Mutex::default(),
            syncs: AtomicU64::new(0),
            synced: watch::Sender::new(Synced::default()),
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

    /// What becomes of the inputs and outputs of a model's version.
    ///
    /// Errors: a policy that does not fit the signature.
    pub(crate) fn policies(
        &self,
        model: &str,
        signature: &ModelSignature,
    ) -> Result<Option<Policies>, String> {
        let fields = self.config.fields.get(model);
        fields
            .map(|fields| Policies::of(fields, signature, &self.pepper))
            .transpose()
    }

    /// The number of the schema of a signature; its definition is on disk when this returns. Blocks: for load threads.
    ///
    /// A version whose definition cannot be written is recorded without tensors.
    pub(crate) fn schema(&self, signature: &ModelSignature, policies: Option<&Policies>) -> u16 {
        let mut schema = Schema::of(signature);
        if let Some(policies) = policies {
            policies.note(&mut schema);
        }
        let number = lock(&self.schemas).number(&schema);
        number.unwrap_or_else(|error| {
            self.counts.failures.fetch_add(1, Relaxed);
            tracing::error!(%error, "the inference log keeps no tensors of this version: their columns cannot be written down");
            NO_SCHEMA
        })
    }

    /// Whom a request is about, by the header that says so.
    pub(crate) fn subject(&self, headers: &HeaderMap) -> Option<[u8; 16]> {
        let id = headers.get(&self.config.subject_header)?.as_bytes();
        (!id.is_empty()).then(|| self.pepper.subject(id))
    }

    /// Who asks, by the header in which a gateway says so.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<Box<str>> {
        let name = headers.get(self.config.caller_header.as_ref()?)?.to_str().ok()?;
        let kept: String = name.trim().chars().take(MAX_CALLER).collect();
        (!kept.is_empty()).then(|| kept.into())
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

    /// The batch that a request ran in, by when its run began; `None` where that is not known.
    pub(crate) fn batch(&self, timings: &Timings) -> Option<Batch> {
        let since = timings.started?.saturating_duration_since(self.began);
        let short = |count| u16::try_from(count).unwrap_or(u16::MAX);
        Some(Batch {
            id: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            rows: short(timings.batch_rows),
            index: short(timings.batch_index),
        })
    }

    /// Notes that a request has begun: it will be recorded, or be missing.
    pub(crate) fn open_request(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// The probability with which a request is recorded, or `None` if it is to be left out, and [`leave_out`](Self::leave_out) to be
    /// called.
    ///
    /// * `exempt`: it failed, or belongs to a version that is being judged
    pub(crate) fn draw(&self, id: &[u8; 16], release: Option<&str>, exempt: bool) -> Option<f32> {
        self.sampling.draw(id, release, exempt)
    }

    /// Counts a request that has ended and is left out.
    pub(crate) fn leave_out(&self) {
        self.inside(|| {
            self.counts.sampled_out.fetch_add(1, Relaxed);
            self.counts.received.fetch_add(1, SeqCst);
            true
        });
    }

    /// Records a request that has ended, or counts it as lost; returns whether it is recorded. Never waits.
    pub(crate) fn record(&self, schema: u16, record: &Record<'_>) -> bool {
        self.inside(|| {
            let is_recorded = match self.append(schema, record) {
                Written::Done | Written::Next => true,
                Written::Full => {
                    self.losses.add(Loss::Full, 1, record.ts_us);
                    false
                }
                Written::Size => {
                    self.losses.add(Loss::Size, 1, record.ts_us);
                    false
                }
            };
            if is_recorded {
                self.counts.recorded.fetch_add(1, Relaxed);
            }
            // Last: a mark never says more than is there.
            self.counts.received.fetch_add(1, SeqCst);
            is_recorded
        })
    }

    /// Counts a request, unless the log has ended: then it is counted as lost already.
    fn inside(&self, count: impl FnOnce() -> bool) -> bool {
        self.inside.fetch_add(1, SeqCst);
        let done = !self.ended.load(SeqCst) && count();
        self.inside.fetch_sub(1, SeqCst);
        done
    }

    /// Appends a record; one that is too large without its tensors.
    fn append(&self, schema: u16, record: &Record<'_>) -> Written {
        let written = HEAD.with_borrow_mut(|head| {
            head.clear();
            record.encode(head);
            let mut parts = Vec::with_capacity(1 + record.tensors.len());
            parts.push(head.as_slice());
            parts.extend(record.tensors.iter().map(|tensor| tensor.bytes));
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            let written = self.writer.append(Kind::Inference, schema, &parts);
            if matches!(written, Written::Done | Written::Next) {
                self.counts.bytes.fetch_add(bytes as u64, Relaxed);
            }
            written
        });
        match written {
            Written::Next => self.needs_next(),
            Written::Size if !record.tensors.is_empty() => {
                let bare = Record {
                    tensors: Vec::new(),
                    ..record.clone()
                };
                return self.append(schema, &bare);
            }
            Written::Done | Written::Full | Written::Size => {}
        }
        written
    }

    /// Whether an answer may have to wait for its record.
    pub(crate) fn delays(&self) -> bool {
        self.blocks() || self.config.ack == Ack::Disk
    }

    /// Whether a request may only be answered once it is recorded.
    pub(crate) fn blocks(&self) -> bool {
        self.config.on_full == OnFull::Block
    }

    /// Waits until there is room for a record with tensors of so many bytes; returns whether there is.
    pub(crate) async fn room(&self, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(HEAD_BYTES);
        if self.writer.has_room(bytes) {
            return true;
        }
        let mut prepared = self.prepared.subscribe();
        self.needs_next();
        // The sender is this recorder's own.
        let there = prepared.wait_for(|()| self.writer.has_room(bytes));
        matches!(tokio::time::timeout(self.config.max_wait, there).await, Ok(Ok(_)))
    }

    fn needs_next(&self) {
        lock(&self.call).next = true;
        self.called.notify_all();
    }

    /// Waits until what was recorded before is on disk, where an answer has to. Returns whether it is; a disk that fails keeps nobody
    /// waiting.
    pub(crate) async fn acknowledged(&self) -> bool {
        if self.config.ack != Ack::Disk {
            return true;
        }
        let mut synced = self.synced.subscribe();
        // One that has begun may have missed it; the next one does not.
        let covered = self.syncs.load(SeqCst) + 1;
        lock(&self.call).sync = true;
        self.called.notify_all();
        // The sender is this recorder's own.
        let done = synced.wait_for(|synced| synced.turn >= covered).await;
        done.is_ok_and(|synced| synced.failed < covered)
    }

    /// The digest by which records say that they are about a person.
    pub(crate) fn subject_key(&self, id: &str) -> [u8; 16] {
        self.pepper.subject(id.as_bytes())
    }

    /// Takes the records about a person out of the log, those that are not sealed yet with them. Requests that are under way are recorded
    /// when they end.
    ///
    /// Errors: why it is not done, or not wholly; it may be asked for again.
    pub(crate) async fn erase(&self, subject: [u8; 16]) -> Result<Certificate, String> {
        let (done, certificate) = oneshot::channel();
        lock(&self.call).errands.push(Errand::Erase { subject, done });
        self.called.notify_all();
        let ended = || "the inference log ends; ask again when the server runs".to_owned();
        certificate.await.map_err(|_| ended())?
    }

    /// Writes a correction down.
    ///
    /// Errors: why it is not.
    pub(crate) async fn correct(&self, correction: Correction) -> Result<SealedFile, String> {
        let (done, written) = oneshot::channel();
        lock(&self.call)
            .errands
            .push(Errand::Correct { correction, done });
        self.called.notify_all();
        let ended = || "the inference log ends; ask again when the server runs".to_owned();
        written.await.map_err(|_| ended())?
    }

    /// Writes down what a person asks for; returns whether anything has changed. Blocks for the disk.
    ///
    /// Errors: why it is not.
    pub(crate) fn wish(&self, subject: [u8; 16], wish: Wish) -> Result<bool, String> {
        self.wishes.note(subject, wish).map_err(|error| error.to_string())
    }

    /// Whether no model may decide about a person.
    pub(crate) fn objects(&self, subject: &[u8; 16]) -> bool {
        self.wishes.objects(subject)
    }

    /// Whose records are not used.
    pub(crate) fn restricted(&self) -> BTreeSet<[u8; 16]> {
        self.wishes.restricted()
    }

    /// From now on files stay until they are among these, which their owner adds to.
    pub(crate) fn await_sent(&self, sent: Sent) {
        lock(&self.awaited).push(sent);
    }

    /// Whether nobody waits for a file any more.
    fn may_go(&self, path: &str) -> bool {
        lock(&self.awaited)
            .iter()
            .all(|sent| lock(sent).contains_key(path))
    }

    /// Where its files are.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What opens them.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What was counted since the server started.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Requests without a record since the server started.
    pub(crate) fn lost(&self, loss: Loss) -> u64 {
        self.losses.count(loss)
    }

    /// Bytes of segments that are not sealed yet.
    pub(crate) fn unsealed_bytes(&self) -> u64 {
        let segments = self.writer.segments() + lock(&self.waiting).len();
        u64::from(self.config.segment_bytes).saturating_mul(segments as u64)
    }

    /// How long ago the oldest record was made that is in no file yet, at most.
    pub(crate) fn lag(&self) -> Duration {
        let oldest = lock(&self.waiting).front().copied();
        oldest.unwrap_or_else(|| *lock(&self.segment_began)).elapsed()
    }

    /// Bytes that are free on the disk.
    pub(crate) fn disk_free(&self) -> u64 {
        self.disk_free.load(Relaxed)
    }

    fn mark(&self, last: bool) -> Mark {
        // Before the others, so that it is no larger than what they add up to.
        let received = self.counts.received.load(SeqCst);
        Mark {
            run: self.run,
            received,
            sampled_out: self.counts.sampled_out.load(SeqCst),
            lost: self.losses.total(),
            last,
        }
    }

    /// Ends the log: everything that was recorded is sealed when this returns. Blocks.
    pub fn close(&self) {
        lock(&self.call).end = true;
        self.called.notify_all();
        self.blobs.close();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("a thread of the inference log panicked");
            }
        }
    }
}

/// A time in whole microseconds, as records have it.
pub(crate) fn saturated_us(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
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
