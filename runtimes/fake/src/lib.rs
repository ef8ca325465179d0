//! A programmable runtime for tests.
//!
//! Two ways to a model: [`FakeModel`] in Rust, whose behaviour is a closure, and [`FakeRuntime`], which reads a small
//! text file ([`mod@file`]) so that tests can write a repository of models into a folder. Both count executions
//! ([`Probe`]) and can hold runs back ([`Gate`]), so that no test needs to sleep.

pub mod file;

mod gate;
mod model;
mod operation;
mod probe;
mod runtime;

pub use gate::Gate;
pub use model::{FakeInstance, FakeModel, RunFn};
pub use operation::Operation;
pub use probe::{Execution, Probe};
pub use runtime::FakeRuntime;
