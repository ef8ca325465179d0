//! The engine: a plan is carried out and gives a result.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::plan::Plan;
use crate::result::{RunResult, Second};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requests are sent and not counted.
    WarmUp,
    /// Requests are sent and counted.
    Measuring,
    /// Nothing is sent any more; answers are awaited.
    Draining,
}

/// What an observer of a run is told, about once a second.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Where the run stands.
    pub phase: Phase,
    /// The second that is over; in the warm-up it counts from the start of the run.
    pub second: Second,
    /// Time since the start of the warm-up.
    pub elapsed: Duration,
    /// Warm-up and measured time together.
    pub planned: Duration,
}

/// Carries out `plan`, telling `observer` about each second that is over.
///
/// Errors: if the server cannot be reached or asked about its models before the run. Failures of requests are part of
/// the result. Runs on the calling task and on threads of its own, which are joined; needs a tokio runtime.
pub async fn run(plan: &Plan, observer: &mut (dyn FnMut(&Tick) + Send)) -> Result<RunResult> {
    observer(&Tick {
        phase: Phase::WarmUp,
        second: Second::default(),
        elapsed: Duration::ZERO,
        planned: plan.warm_up + plan.duration,
    });
    bail!("{}: the engine is not written yet", plan.target.url)
}
