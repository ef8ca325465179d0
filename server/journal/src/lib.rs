//! Records that are on disk before they take effect, in one hash chain.
//!
//! A [`Journal`] is one file: [`Journal::append`] returns after the record is synced, and opening it again finds every
//! record that was acknowledged. The rollout log, the audit and the inference log's manifest are journals. [`audit`]
//! and [`approval`] say what an audit record and an approval are.
//!
//! What is absent: no clock, no thread, no server, no configuration. Times and identities are arguments. Nothing is
//! cut off a file but the torn end that a crash leaves, and that is kept beside it. A failed write is never repeated
//! as if nothing had happened.

mod error;
mod hex;

mod hash;
mod header;

pub mod frame;
pub mod reader;
pub mod storage;

mod journal;
mod recovery;

pub mod series;
pub mod snapshot;

pub mod keys;

pub mod approval;
pub mod audit;

pub use error::Error;
pub use frame::{Problem, Record};
pub use hash::{Hash, Head};
pub use header::{Header, HeaderProblem, Purpose};
pub use hex::NotHex;
pub use journal::{Cut, Journal};
pub use reader::{Reader, Verified, read_bytes, verify};
pub use series::Series;
