//! Every inference as one record, on its way from the request to a file.
//!
//! A [`Segment`] is a preallocated file of framed records that many threads append to without a lock. What
//! [`Segment::append`] has returned for is in pages of the kernel's: a killed process does not lose it. [`scan`] reads a
//! segment back, and says which records were begun and never finished. A [`Writer`] goes from one segment to the next, and a
//! [`Sealer`] makes Parquet files of those that are full, which the [`Manifest`] names. A [`Log`] reads all of it back, a [`Follower`]
//! what comes.
//!
//! What is absent: no server, no protocol, no model, no clock but in the ids of segments. Times and identities are arguments.

mod error;
mod fault;
mod kill;

mod keys;

mod cipher;

mod frame;
mod header;

mod mapping;
mod segment;
mod writer;

pub mod scan;

mod gap;
mod record;
mod schema;

mod blob;
mod columns;
mod compact;
mod correction;
mod erase;
mod manifest;
mod restore;
mod seal;
mod table;
mod table_file;
mod verify;

mod export;
mod follow;
mod json;
mod log;

pub use blob::{BLOBS, blob_days, blob_place, write_blob};
pub use correction::Correction;
pub use erase::{Certificate, Rewritten};
pub use error::{KeyError, LogError, SegmentError};
pub use export::{Labels, export};
#[cfg(feature = "faults")]
pub use fault::FaultyDisk;
pub use follow::{Cursor, Follower};
pub use frame::{FRAME_HEAD_BYTES, Kind, MAX_PAYLOAD_BYTES, Mark};
pub use gap::Gap;
pub use header::{HEADER_BYTES, Header, HeaderProblem};
pub use json::write_lines;
pub use keys::{DataKey, KEY_BYTES, Keys, WrappingKey, wrapped_in};
pub use log::{Log, Readable, Selection, in_memory, memory, with_log};
pub use manifest::{Content, Entry, Manifest, RunMark, Sealed, SealedFile, manifest_in};
pub use record::{Batch, LoggedTensor, Origin, Record, RecordProblem, STAGES, Side};
pub use restore::{Restored, restored, tensors};
pub use scan::{Frame, Hole, Scan};
pub use schema::{Column, NO_SCHEMA, Schema, Schemas};
pub use seal::{Outcome, Sealer, schemas_in, segments_in};
pub use segment::{Appended, Segment};
pub use verify::{Verified, verify};
pub use writer::{EXTENSION, Writer, Written};
