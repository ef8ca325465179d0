//! The server over real sockets: both protocols, port 0, the fake runtime.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod admin;
mod admin_grpc;
mod approval;
mod audit;
mod commands;
mod gates;
mod grpc;
mod harness;
mod http_transport;
mod inference_log;
mod life;
mod listing;
mod outputs;
mod parity;
mod pinning;
mod process;
mod release;
mod shadow;
mod sink;
mod subjects;
mod text;
mod tier;
mod tls;
mod webhook;
