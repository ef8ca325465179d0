//! Puts cases to a version, past the front ends, at its lowest priority.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossfade_batcher::{Job, JobError, SubmitError};
use crossfade_runtimes_core::Tensor;
use crossfade_text::TextError;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::dataset::Case;
use crate::infer::{staged, started};
use crate::servable::Servable;

/// How long one answer may take, room in the queue included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to get room in a queue.
const PAUSE: Duration = Duration::from_millis(5);

/// How many cases a version that has no requests gets at once: enough for whole batches.
pub(super) const IDLE: usize = 32;
/// The same beside requests, which must not find a queue of these.
pub(super) const SERVING: usize = 2;

/// Why there is no answer to a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The process ends; nothing follows.
    Stopped,
    /// The case, and what is wrong.
    Wrong(String),
}

impl From<String> for NoAnswer {
    fn from(problem: String) -> Self {
        NoAnswer::Wrong(problem)
    }
}

/// One answer.
pub(super) struct Answered {
    /// In the order of what was asked for.
    pub(super) outputs: Vec<Tensor>,
    /// Rows of the request; 1 for a model that does not batch.
    pub(super) rows: usize,
    /// From the first try to submit it to the answer.
    pub(super) took: Duration,
}

/// Asks versions; on one thread, which may block.
pub(super) struct Asker<'a> {
    runtime: Runtime,
    stop: &'a AtomicBool,
}

impl<'a> Asker<'a> {
    /// * `stop`: nothing more is asked once it is set
    ///
    /// Errors: the system gives no timer.
    pub(super) fn new(stop: &'a AtomicBool) -> Result<Self, NoAnswer> {
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        Ok(Self { runtime, stop })
    }

    /// The answers to these cases, in their order; at most `at_once` are on their way.
    ///
    /// * `output`: the one that is asked for; `None`: those that each case expects, or all where it expects none
    ///
    /// Errors: the first case that gets no answer.
    pub(super) fn answers<'c>(
        &self,
        servable: &Servable,
        cases: impl IntoIterator<Item = &'c Case>,
        output: Option<&str>,
        at_once: usize,
    ) -> Result<Vec<Answered>, NoAnswer> {
        let asked = stream::iter(cases).map(|case| async move {
            let answer = self.ask(servable, case, output).await;
            answer.map_err(|problem| match problem {
                NoAnswer::Wrong(problem) => NoAnswer::Wrong(format!("`{}`: {problem}", case.name)),
                NoAnswer::Stopped => NoAnswer::Stopped,
            })
        });
        let mut answers = Vec::new();
        self.runtime.block_on(async {
            let mut asked = asked.buffered(at_once.max(1));
            while let Some(answer) = asked.next().await {
                answers.push(answer?);
            }
            Ok(answers)
        })
    }

    async fn ask(
        &self,
        servable: &Servable,
        case: &Case,
        output: Option<&str>,
    ) -> Result<Answered, NoAnswer> {
        let signature = servable.signature();
        let tensors = case.inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        let (inputs, rows) = signature.check(tensors).map_err(|error| error.to_string())?;
        let expected = case.outputs.iter().map(|(name, _)| name.as_str());
        let outputs = match output {
            Some(output) => signature.resolve_outputs(Some([output])),
            None if case.outputs.is_empty() => signature.resolve_outputs(None::<[&str; 0]>),
            None => signature.resolve_outputs(Some(expected)),
        };
        let outputs = outputs.map_err(|error| error.to_string())?;
        let began = Instant::now();
        let inputs = loop {
            match staged(servable, inputs.clone(), None).await {
                Ok(staged) => break staged.inputs,
                Err(TextError::Busy) if began.elapsed() < PATIENCE && !self.stop.load(Relaxed) => {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(NoAnswer::Wrong(error.to_string())),
            }
        };
        loop {
            if self.stop.load(Relaxed) {
                return Err(NoAnswer::Stopped);
            }
            let job = Job {
                inputs: inputs.clone(),
                outputs: outputs.clone(),
                rows,
                priority: servable.running().batcher.lowest_priority(),
                deadline: None,
                arrived: Instant::now(),
            };
            let refused = match attempt(servable, job).await? {
                Ok(outputs) => {
                    let took = began.elapsed();
                    return Ok(Answered { outputs, rows, took });
                }
                Err(refused) => refused,
            };
            if began.elapsed() > PATIENCE {
                return Err(NoAnswer::Wrong(refused));
            }
            sleep(PAUSE).await;
        }
    }
}

/// One try; the inner error is worth another one.
async fn attempt(servable: &Servable, job: Job) -> Result<Result<Vec<Tensor>, String>, NoAnswer> {
    let refused = |error: SubmitError| match error {
        SubmitError::QueueFull { .. } | SubmitError::NoInstance | SubmitError::WouldBeLate { .. } => {
            Ok(Err(error.to_string()))
        }
        error => Err(NoAnswer::Wrong(error.to_string())),
    };
    let started = match started(servable, job, |job| servable.running().batcher.submit(job)) {
        Ok(started) => started,
        Err(error) => return refused(error),
    };
    let answer = timeout(PATIENCE, started).await;
    match answer.map_err(|_| format!("no answer within {PATIENCE:?}"))? {
        Ok(Ok(answer)) => Ok(Ok(answer.outputs)),
        Ok(Err(error)) => refused(error),
        Err(error @ (JobError::QueueTimeout | JobError::NoInstance)) => Ok(Err(error.to_string())),
        Err(error) => Err(NoAnswer::Wrong(error.to_string())),
    }
}
