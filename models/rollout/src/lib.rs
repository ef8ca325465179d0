//! Decisions of a release: which version a request goes to, when a stage is passed, when it is taken back.
//!
//! [`policy`] is what the owner of a model wants, [`state`] where its release stands, [`approval`] who agreed to it,
//! [`routing`] who gets the candidate, [`ledger`] what was counted and what follows from it, [`gate`] what is asked
//! before any traffic, and [`plan`] what a stage can see at all. The server runs all this, writes it down and keeps
//! the time. `rollout.md` is the source of the rules.
//!
//! What is absent: no clock, no file, no thread, no protocol. The same state and the same counts give the same
//! decision, so a release that is read back from a snapshot goes on as if nothing had happened.

mod error;

pub mod duration;
pub mod policy;
pub mod state;

pub mod approval;
pub mod routing;

pub mod ledger;

pub mod gate;
pub mod plan;

pub use error::{PolicyError, RolloutError};
pub use policy::Policy;
pub use state::State;
