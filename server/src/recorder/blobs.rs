//! Tensors that are too large for a segment: a thread writes each such record once more, to a file of its own.
//!
//! What waits for it is bounded; beyond it a record has no file, which is counted. No answer waits for any of this.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use crossfade_inference_log::{Record, blob_place, write_blob};

use super::{Kept, Recorder, lock};
use crate::servable::lower_priority;

/// Of tensors that wait to be written.
const MOST_BYTES: usize = 256 << 20;

/// A record that is to be a file.
pub(super) struct Blob {
    schema: u16,
    /// All but the tensors' bytes.
    head: Vec<u8>,
    tensors: Vec<Bytes>,
    bytes: usize,
}

/// What its thread is asked for.
enum Asked {
    Write(Blob),
    /// What came before is written when this is dropped.
    Passed(Sender<()>),
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Blobs {
    /// `None`: such tensors are not kept, or the log has ended.
    waiting: Mutex<Option<Sender<Asked>>>,
}

/// Room for a record that is to be a file, which is given back if it is not used.
pub(crate) struct Place<'a> {
    recorder: &'a Recorder,
    /// Where the file will be.
    pub(crate) reference: String,
    bytes: usize,
    /// Whoever writes the file gives it back.
    is_used: Cell<bool>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_used.get() {
            self.recorder.counts.blob_bytes.fetch_sub(self.bytes, Relaxed);
        }
    }
}

impl Blobs {
    /// Starts the thread that writes, if such tensors are kept.
    pub(super) fn start(recorder: &Arc<Recorder>) -> std::io::Result<Option<JoinHandle<()>>> {
        if !recorder.config.blobs {
            return Ok(None);
        }
        let (sender, blobs) = channel();
        *lock(&recorder.blobs.waiting) = Some(sender);
        let this = recorder.clone();
        let thread = Builder::new().name("log-blob".to_owned()).spawn(move || {
            lower_priority();
            this.write_blobs(&blobs);
        })?;
        Ok(Some(thread))
    }

    /// No more come; the thread ends when those that wait are written.
    pub(super) fn close(&self) {
        lock(&self.waiting).take();
    }
}

impl Recorder {
    /// Room for the file of a record whose tensors are too large for a segment; `None` if they are not, or are not kept, or too many
    /// wait to be written.
    pub(crate) fn place_of(&self, kept: &Kept, request_id: [u8; 16], ts_us: i64) -> Option<Place<'_>> {
        if !self.config.blobs || kept.is_bare {
            return None;
        }
        let bytes = kept.bytes(usize::MAX);
        if bytes == kept.bytes(self.config.payload_max_bytes) {
            return None;
        }
        let before = self.counts.blob_bytes.fetch_add(bytes, Relaxed);
        let place = Place {
            recorder: self,
            reference: blob_place(request_id, ts_us),
            bytes,
            is_used: Cell::new(false),
        };
        if before.saturating_add(bytes) > MOST_BYTES {
            self.counts.blobs_lost.fetch_add(1, Relaxed);
            return None;
        }
        Some(place)
    }

    /// Has a record written to its file. Never waits; copies no tensor.
    ///
    /// * `record`: as it is in the segment
    pub(crate) fn keep_blob(&self, place: &Place<'_>, schema: u16, record: &Record<'_>, kept: &Kept) {
        let record = Record {
            tensors: kept.tensors(usize::MAX),
            ..record.clone()
        };
        let mut head = Vec::new();
        record.encode(&mut head);
        let blob = Blob {
            schema,
            head,
            tensors: kept.data(),
            bytes: place.bytes,
        };
        let waiting = lock(&self.blobs.waiting);
        let is_sent = waiting
            .as_ref()
            .is_some_and(|waiting| waiting.send(Asked::Write(blob)).is_ok());
        place.is_used.set(is_sent);
    }

    /// Waits until what was recorded before is in its file. Blocks.
    pub(super) fn pass_blobs(&self) {
        let (passed, passes) = channel();
        match &*lock(&self.blobs.waiting) {
            Some(waiting) => {
                // The thread ends after this sender.
                let _sent = waiting.send(Asked::Passed(passed)).is_ok();
            }
            None => drop(passed),
        }
        // Nobody sends: it is dropped.
        let _passed = passes.recv().is_err();
    }

    fn write_blobs(&self, asked: &Receiver<Asked>) {
        for asked in asked {
            let blob = match asked {
                Asked::Write(blob) => blob,
                Asked::Passed(passed) => {
                    drop(passed);
                    continue;
                }
            };
            let mut payload = blob.head;
            blob.tensors
                .iter()
                .for_each(|bytes| payload.extend_from_slice(bytes));
            let folder: &Path = &self.data_dir;
            match write_blob(folder, &self.keys, blob.schema, &payload, &super::replica()) {
                Ok(()) => {
                    self.counts.blobs.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    self.counts.blobs_lost.fetch_add(1, Relaxed);
                    self.attempt("a record with large tensors is not a file", Err(error));
                }
            }
            self.counts.blob_bytes.fetch_sub(blob.bytes, Relaxed);
        }
    }
}
