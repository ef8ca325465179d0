//! From single requests to batches and back.
//!
//! [`Batcher::submit`] queues a checked request; an instance's thread takes what fits together, copies the inputs
//! into one aligned buffer, runs the model, cuts the outputs apart and answers. Modules follow a request's way.
//!
//! What is absent: `policy` never reads a clock; nothing here knows a protocol, an executor or a file; no request
//! has a thread or a timer of its own; cancelled and expired requests never reach a runtime.

mod batcher;
mod error;
mod options;
mod request;

pub mod reply;

pub mod queue;

pub mod policy;

mod adaptive;
mod cost;

mod instance;

pub mod assemble;

mod observer;
mod outbox;
mod sync;

pub use batcher::Batcher;
pub use error::{BatcherError, JobError, SubmitError};
pub use instance::{Clock, InstanceFactory};
pub use observer::{BatchReport, Observer};
pub use options::{BatcherOptions, QueuePolicy, TimeoutAction};
pub use request::{Answer, Job, Pending, Timings};
