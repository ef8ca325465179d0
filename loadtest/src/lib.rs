//! A load tester for any server of the Open Inference Protocol: it talks only to the wire.
//!
//! A [`plan::Plan`] says what to send, when and where; [`engine::run`] sends it and gives a [`result::RunResult`],
//! which is also the JSON file that reports and comparisons read.

pub mod engine;
pub mod plan;
pub mod result;

pub mod capacity;
pub mod sweep;

pub mod compare;
pub mod interval;
pub mod noise;

pub mod csv;
pub mod live;
pub mod report;

pub mod rng;
