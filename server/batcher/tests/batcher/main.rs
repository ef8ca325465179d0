//! The batcher around a fake model: real threads, gates instead of sleeps, a clock moved by hand.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod batching;
mod deadlines;
mod failures;
mod lending;
mod lifecycle;
mod support;
