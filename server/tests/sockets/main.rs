//! The server over real sockets: both protocols, port 0, the fake runtime.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod grpc;
mod harness;
mod http_transport;
mod life;
mod parity;
mod process;
