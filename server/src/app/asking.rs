//! Versions that are asked past the front ends: text becomes tokens and long lists are divided as in the server.

use std::time::Instant;

use anyhow::{Result, anyhow};
use crossfade_batcher::{Answer, Job, JobError};
use crossfade_runtimes_core::Tensor;
use crossfade_text::Cut;
use tokio::runtime::Builder;

use crate::infer::{parts, staged, started};
use crate::servable::Servable;

/// What a version is asked.
pub(super) struct Question {
    /// One entry per input of the signature.
    pub(super) inputs: Vec<Option<Tensor>>,
    pub(super) rows: usize,
    /// Places in the signature.
    pub(super) outputs: Vec<usize>,
    /// What becomes of texts that are too long; `None`: as the version has it.
    pub(super) cut: Option<Cut>,
}

/// Asks a version, and waits; with the number of parts in which that ran.
///
/// Errors: the outer: a version that takes no requests; the inner: text that it does not take, or a run that failed.
pub(super) fn ask(servable: &Servable, question: Question) -> Result<Result<(Answer, usize), String>> {
    let text = |error: &dyn std::fmt::Display| Ok(Err(error.to_string()));
    Builder::new_current_thread().build()?.block_on(async {
        let inputs = match staged(servable, question.inputs, question.cut).await {
            Ok(staged) => staged.inputs,
            Err(error) => return text(&error),
        };
        let job = Job {
            inputs,
            outputs: question.outputs,
            rows: question.rows,
            priority: 0,
            deadline: None,
            arrived: Instant::now(),
        };
        let parts = parts(servable, &job);
        let answer: Result<_, JobError> =
            started(servable, job, |job| servable.running().batcher.submit(job))?.await;
        match answer {
            Ok(Ok(answer)) => Ok(Ok((answer, parts))),
            Ok(Err(refused)) => Err(anyhow!(refused)),
            Err(error) => text(&error),
        }
    })
}
