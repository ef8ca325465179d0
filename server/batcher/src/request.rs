//! A job on its way in, its answer on the way out, and the future between them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossfade_runtimes_core::Tensor;

use crate::error::JobError;
use crate::queue::{Item, Queue};
use crate::reply::{Receiver, Sender};

/// A request whose tensors were checked against the signature.
#[derive(Debug, Clone)]
pub struct Job {
    /// In signature order, shapes as the client sent them; `None` where an optional input was left out.
    pub inputs: Vec<Option<Tensor>>,
    /// The wanted outputs, as indices of the signature, in requested order.
    pub outputs: Vec<usize>,
    /// Rows of the request; 1 for a model that does not batch.
    pub rows: usize,
    /// 0: the model's default; 1: highest.
    pub priority: u32,
    /// After this nobody wants the answer.
    pub deadline: Option<Instant>,
    /// When the request's first byte came; queue timeouts count from here.
    pub arrived: Instant,
}

/// The outputs of a job.
#[derive(Debug, Clone)]
pub struct Answer {
    /// In the order of [`Job::outputs`], shapes as clients see them. Slices of the batch's outputs.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub timings: Timings,
}

/// Where a job's time went; the four stages follow each other without a gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to the start of the run that answered it.
    pub queue: Duration,
    /// Building the batch.
    pub gather: Duration,
    /// The model.
    pub compute: Duration,
    /// Checking the outputs and cutting them up.
    pub scatter: Duration,
    /// Rows of the batch it ran in.
    pub batch_rows: usize,
    /// Requests of the batch it ran in.
    pub batch_requests: usize,
    /// Its place among them: its rows are behind those of the ones before it.
    pub batch_index: usize,
    /// When the run began: the same for every request of a batch, so that it tells batches of a version apart.
    pub started: Option<Instant>,
}

/// A job in the queue.
pub(crate) struct Request {
    pub(crate) job: Job,
    pub(crate) submitted: Instant,
    pub(crate) reply: Sender<Result<Answer, JobError>>,
}

impl Item for Request {
    fn is_cancelled(&self) -> bool {
        self.reply.is_cancelled()
    }

    fn refuse(self, reason: JobError) {
        self.reply.send(Err(reason));
    }
}

/// The answer to come; dropping it cancels the job.
///
/// A job that is cancelled while queued never reaches the runtime; one that runs is finished and its answer
/// discarded. A queued job whose deadline passes is answered when an instance next looks at the queue, which
/// may be late while all of them are busy: a caller with a deadline wraps this future in a timer of its own
/// executor (dropping the future removes the job).
#[must_use = "dropping it cancels the job"]
pub struct Pending {
    pub(crate) receiver: Receiver<Result<Answer, JobError>>,
    pub(crate) queue: Arc<Queue<Request>>,
}

impl Pending {
    /// Blocks the thread until the answer is there; for threads outside an executor, such as warm-up and benches.
    pub fn wait(mut self) -> Result<Answer, JobError> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for Pending {
    type Output = Result<Answer, JobError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(JobError::Shutdown)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.receiver.cancel() {
            self.queue.note_cancelled();
        }
    }
}
