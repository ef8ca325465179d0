//! A load tester for any server of the Open Inference Protocol: it talks only to the wire.
//!
//! A [`plan::Plan`] says what to send, when and where; [`engine::run`] sends it and gives a [`result::RunResult`],
//! which is also the JSON file that reports and comparisons read.

pub mod arrivals;
pub mod assertion;
pub mod cli;
pub mod control;
pub mod duration;
pub mod during;
pub mod engine;
pub mod machine;
pub mod payload;
pub mod plan;
pub mod result;
pub mod target;
pub mod wire;

pub mod capacity;
pub mod sweep;

pub mod compare;
pub mod interval;
pub mod noise;

pub mod commands;
pub mod csv;
pub mod live;
pub mod report;

pub mod rng;
