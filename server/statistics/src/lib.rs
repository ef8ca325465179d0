//! Statistics of releases and windows: evidence that may be looked at any time, bounds, and tests of two samples.
//!
//! A release counts events of two arms and asks, at every look, whether the canary is worse. The e-processes
//! ([`Evidence`], [`Exceedance`]) and the bounds of [`rate`] hold at every look at once; the tests of
//! [`distribution`], [`ranks`], [`paired`] and [`bootstrap`] hold for one look each. `rollout.md` §5 is the source of
//! the formulas, the modules name the papers.
//!
//! What is absent: no clock, no input or output, no randomness besides the fixed generator of [`random`]. The same
//! counts give the same numbers, on every machine and after every restart.

mod beta;
mod error;
mod gamma;
mod normal;

mod share;

mod evidence;
mod exceedance;
pub mod rate;
mod seen;

pub mod distribution;
pub mod ranks;

pub mod bootstrap;
pub mod paired;
pub mod quality;
pub mod trend;

pub mod power;
pub mod random;

pub use error::StatisticsError;
pub use evidence::{Arm, Counts, Evidence, log_e};
pub use exceedance::{Exceedance, Look};
pub use seen::SeenKeys;
pub use share::Share;
