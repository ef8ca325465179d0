//! ONNX Runtime passes the whole suite, does everything in it, and adds some of its own.

#![expect(
    clippy::unwrap_used,
    reason = "tests: a panic is how one tells what went wrong"
)]

mod library;
mod memory;
mod sessions;

use crossfade_runtimes_conformance::{Capabilities, Subject, suite};

suite!(Subject {
    runtime: &library::open(),
    capabilities: Capabilities::all(),
});
