//! crossfade: a model inference server.
//!
//! Modules in the order a request meets them; this list is the map.

pub mod app;
mod client;
pub mod config;
pub mod telemetry;

pub mod service;

mod listener;

pub mod grpc;
pub mod http;

mod arriving;
mod encoding;

pub mod scope;

pub mod admit;

pub mod infer;

pub mod servable;

mod dataset;
pub mod release;

pub mod control;

pub mod admin;
pub mod audit;
pub mod data_dir;
pub mod recorder;

mod outgoing;
pub mod sink;
pub mod webhook;

pub mod fuzzing;
mod gpu;
pub mod metrics;
pub mod status;
