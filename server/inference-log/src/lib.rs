//! Every inference as one record, on its way from the request to a file.
//!
//! A [`Segment`] is a preallocated file of framed records that many threads append to without a lock. What
//! [`Segment::append`] has returned for is in pages of the kernel's: a killed process does not lose it. [`scan`] reads a
//! segment back, and says which records were begun and never finished.
//!
//! What is absent: no server, no protocol, no model. Times and identities are arguments.

mod error;

mod frame;
mod header;

mod mapping;
mod segment;

pub mod scan;

pub use error::SegmentError;
pub use frame::{FRAME_HEAD_BYTES, Kind, MAX_PAYLOAD_BYTES, Mark};
pub use header::{HEADER_BYTES, Header, HeaderProblem};
pub use scan::{Frame, Hole, Scan};
pub use segment::{Appended, Segment};
