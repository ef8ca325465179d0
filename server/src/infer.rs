//! The one function that every front end calls: route → check → submit → await.

mod classification;
mod parameters;
mod pieces;
mod raw_body;
pub(crate) mod trigger;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crossfade_batcher::{Answer, Job, JobError, Pending, SubmitError};
use crossfade_models::{Routed, Wish};
use crossfade_runtimes_core::{InputError, ModelSignature, RuntimeError, Tensor};
use crossfade_text::{Cut, Staged, TextError};

use crate::scope::{Chosen, RequestScope};
use crate::servable::Servable;
use crate::service::Service;
use crate::status::{Refusal, Status};
use http::{HeaderMap, HeaderValue};
use parameters::Reserved;

/// The header with the version: of a request the wished one, of an answer the one that made it.
pub const MODEL_VERSION: &str = "x-model-version";
/// The header of an answer with the release that was active.
pub const RELEASE_ID: &str = "x-release-id";

/// An inference request, decoded from either protocol.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// Model name as the client wrote it.
    pub model: String,
    /// Version as the client wrote it: empty, digits or a label.
    pub version: String,
    /// The client's id, echoed in the answer.
    pub id: Option<String>,
    /// Request parameters, reserved ones included.
    pub parameters: BTreeMap<String, Parameter>,
    /// The tensors.
    pub inputs: Inputs,
    /// Requested outputs in order; `None` means all.
    pub outputs: Option<Vec<RequestedOutput>>,
    /// In place of `outputs`: the one that is found in the signature of the version which answers.
    pub wanted: Option<Wanted>,
}

/// An output that is told by what it is.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its name in a signature; `None` where there is none.
    pub output: fn(&ModelSignature) -> Option<&str>,
    /// What a model with such an output does, in a sentence about it.
    pub what: &'static str,
    /// How many numbers of each row are kept, where not all are.
    pub dimensions: Option<usize>,
}

impl Wanted {
    /// Its name in the signature of a version.
    ///
    /// Errors: `InvalidInput` where there is none, or more is to be kept than it has.
    fn name<'a>(&self, version: &'a Routed<Servable>) -> Result<&'a str, Refusal> {
        let signature = version.signature();
        let name = (self.output)(signature).ok_or_else(|| {
            let (name, version) = (version.name(), version.version());
            Refusal::invalid(format!(
                "version {version} of model `{name}` is none that {}",
                self.what
            ))
        })?;
        let spec = signature.outputs.iter().find(|spec| *spec.name == *name);
        let width = spec.and_then(|spec| spec.shape.last()?.fixed());
        match (self.dimensions, width) {
            (Some(kept), Some(width)) => dimensions(kept, width).map(|()| name),
            _ => Ok(name),
        }
    }
}

/// Checks how many numbers of each row are to be kept of those that there are.
///
/// Errors: `InvalidInput`.
pub(crate) fn dimensions(kept: usize, width: usize) -> Result<(), Refusal> {
    match (1..=width).contains(&kept) {
        true => Ok(()),
        false => Err(Refusal::invalid(format!(
            "`dimensions` is {kept}; the model's vectors have {width}"
        ))),
    }
}

/// The tensors of a request.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Name and tensor, in request order; not yet checked against the signature.
    Named(Vec<(String, Tensor)>),
    /// HTTP's raw-body request: the whole body is the only input, its shape follows from the signature.
    RawBody(Bytes),
}

impl Default for Inputs {
    fn default() -> Self {
        Inputs::Named(Vec::new())
    }
}

/// A parameter's value: any of the five types of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `bool_param`
    Bool(bool),
    /// `int64_param`
    Int(i64),
    /// `uint64_param`
    Uint(u64),
    /// `double_param`
    Double(f64),
    /// `string_param`
    String(String),
}

/// An output that the client asked for.
#[derive(Debug, Clone, Default)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Top-n classes instead of the tensor, where n > 0 (Triton's classification extension).
    pub classification: usize,
    /// HTTP: the client wants it binary; `None`: the request's default decides.
    pub binary: Option<bool>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// Model that answered.
    pub model: Arc<str>,
    /// Version that answered.
    pub version: u64,
    /// The client's id.
    pub id: Option<String>,
    /// In requested order, or model order.
    pub outputs: Vec<(Arc<str>, Tensor)>,
    /// Tokens of the request, where the model takes text.
    pub tokens: Option<usize>,
}

/// Answers one request.
///
/// The version and the batcher's timings are noted in `scope`; reserved parameters (`timeout`, `priority`) are
/// read here. Dropping the future cancels the request: queued, it never reaches the runtime.
///
/// * `headers`: the request's, which gRPC calls metadata; `x-model-version` and routing keys are read here
///
/// Errors: every row of the status table except Unsupported; never panics on input.
pub async fn infer(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    request: InferRequest,
) -> Result<InferResponse, Refusal> {
    scope.note_trace(headers);
    scope.note_body_id(request.id.as_deref(), headers);
    scope.check_objection()?;
    let routed = route(service, scope, headers, &request)?;
    let signature = routed.signature();

    let reserved = Reserved::read(&request.parameters)?;
    if let Some(timeout) = reserved.timeout {
        scope.limit_to(timeout);
    }
    let (inputs, rows) = match request.inputs {
        Inputs::Named(tensors) => signature.check(tensors)?,
        Inputs::RawBody(body) => signature.check([raw_body::tensor(signature, body)?])?,
    };
    let names: Option<Vec<&str>> = match (&request.wanted, &request.outputs) {
        (Some(wanted), _) => Some(vec![wanted.name(&routed)?]),
        (None, outputs) => outputs
            .as_ref()
            .map(|outputs| outputs.iter().map(|output| output.name.as_str()).collect()),
    };
    let outputs = signature.resolve_outputs(names)?;

    let cut = parameters::cut(&request.parameters);
    scope.copy(
        headers,
        signature,
        &inputs,
        &outputs,
        cut.as_ref().ok().copied().flatten(),
    );
    scope.asked(&routed, &inputs, rows);
    // Of a version that is being released: an answer is held against what was asked.
    let asked = match scope.is_canary() {
        true => inputs.clone(),
        false => Default::default(),
    };
    let (inputs, tokens) = tokens(scope, &routed, inputs, cut).await?;
    let submitted = Instant::now();
    scope.submitted(submitted);
    let job = Job {
        inputs,
        outputs: outputs.clone(),
        rows,
        priority: reserved.priority,
        deadline: scope.deadline(),
        arrived: scope.arrived(),
    };
    let baseline = scope.baseline(&routed);
    let submit = |job: Job| match &baseline {
        Some(baseline) => baseline.submit(job),
        None => routed.running().batcher.submit(job),
    };
    let deadline = scope.deadline();
    let answer = match pieces_of(&routed, &job) {
        None => {
            if let Some(text) = routed.text() {
                text.check_rows(rows)?;
            }
            within(deadline, submit(job)?).await
        }
        Some(pieces) => {
            let answers = within(deadline, in_turn(pieces.jobs(signature, &job), submit, &routed));
            match answers.await {
                Ok(answers) => Ok(pieces::join(&pieces.rows, answers?)),
                Err(error) => Err(error),
            }
        }
    };
    scope.copied(signature, &outputs, &answer);
    if scope.is_canary()
        && let Some(trigger) = trigger::of(&asked, &answer)
    {
        scope.trigger(trigger);
    }
    let Answer {
        outputs: tensors,
        timings,
    } = answer?;
    scope.answered(timings, rows);
    scope.read(signature, &outputs, &tensors, rows);
    scope.told(&outputs, &tensors);

    let mut answers = Vec::with_capacity(tensors.len());
    for (index, tensor) in outputs.into_iter().zip(tensors) {
        let spec = &signature.outputs[index];
        let wanted = request
            .outputs
            .iter()
            .flatten()
            .find(|output| *output.name == *spec.name);
        let tensor = match wanted.map_or(0, |output| output.classification) {
            0 => tensor,
            n => classification::top(&spec.name, &tensor, n, signature.batched, routed.labels(index))?,
        };
        answers.push((spec.name.clone(), tensor));
    }
    Ok(InferResponse {
        model: routed.name().clone(),
        version: routed.version(),
        id: request.id,
        outputs: answers,
        tokens,
    })
}

/// Waits until the deadline at the latest.
///
/// While every instance is busy nobody looks at the queue, so the wait ends here; dropping `pending` takes the job out of
/// the queue.
async fn within<T>(
    deadline: Option<Instant>,
    pending: impl Future<Output = Result<T, JobError>>,
) -> Result<T, JobError> {
    match deadline {
        None => pending.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), pending)
            .await
            .unwrap_or(Err(JobError::DeadlineExceeded)),
    }
}

/// Answers of all jobs, or the first failure: no more of them wait or run at a time than keep the instances busy, so that other requests
/// get their turns between them, and that a long list takes few places of the queue.
///
/// Errors: inside, of the first job that a full queue or the like refuses; the others of the list are dropped with it.
async fn in_turn(
    jobs: impl Iterator<Item = Job>,
    submit: impl Fn(Job) -> Result<Pending, SubmitError>,
    servable: &Servable,
) -> Result<Result<Vec<Answer>, SubmitError>, JobError> {
    let at_once = 2 * servable.running().batcher.healthy_instances().max(1);
    let (mut waiting, mut answers) = (VecDeque::new(), Vec::new());
    for job in jobs {
        if waiting.len() == at_once
            && let Some(first) = waiting.pop_front()
        {
            let first: Pending = first;
            answers.push(first.await?);
        }
        match submit(job) {
            Ok(pending) => waiting.push_back(pending),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    for pending in waiting {
        answers.push(pending.await?);
    }
    Ok(Ok(answers))
}

/// Starts one job, in as many parts as one of a request would have: of several parts none before the future is polled.
///
/// * `submit`: where to
///
/// Errors: as `submit`; inside, of a part that is refused later.
pub(crate) fn started<'a>(
    servable: &'a Servable,
    job: Job,
    submit: impl Fn(Job) -> Result<Pending, SubmitError> + Send + Sync + 'a,
) -> Result<Started<'a>, SubmitError> {
    let Some(pieces) = pieces_of(servable, &job) else {
        let pending = submit(job)?;
        return Ok(Box::pin(async { pending.await.map(Ok) }));
    };
    Ok(Box::pin(async move {
        let answers = in_turn(pieces.jobs(servable.signature(), &job), submit, servable).await?;
        Ok(answers.map(|answers| pieces::join(&pieces.rows, answers)))
    }))
}

/// In how many parts [`started`] runs a job.
pub(crate) fn parts(servable: &Servable, job: &Job) -> usize {
    pieces_of(servable, job).map_or(1, |pieces| pieces.rows.len())
}

/// A job that is answered some time.
pub(crate) type Started<'a> =
    Pin<Box<dyn Future<Output = Result<Result<Answer, SubmitError>, JobError>> + Send + 'a>>;

/// How a request of many rows is divided into jobs.
struct Pieces {
    rows: Vec<Vec<usize>>,
    lengths: Vec<usize>,
}

impl Pieces {
    fn jobs<'a>(&'a self, signature: &'a ModelSignature, whole: &'a Job) -> impl Iterator<Item = Job> + 'a {
        self.rows.iter().map(move |rows| {
            let longest = rows.iter().map(|&row| self.lengths[row]).max().unwrap_or(1);
            Job {
                inputs: pieces::take(signature, &whole.inputs, rows, longest),
                rows: rows.len(),
                outputs: whole.outputs.clone(),
                ..*whole
            }
        })
    }
}

/// Divides a request whose model tells its rows' lengths by a mask, if a batch has no room for all of it; never one whose
/// outputs are as long as its inputs, which differ then.
fn pieces_of(servable: &Servable, job: &Job) -> Option<Pieces> {
    let signature = servable.signature();
    let running = servable.running();
    let batcher = &running.batcher;
    let mask = servable.text()?.mask(&job.inputs)?;
    let long = |&output: &usize| signature.outputs[output].padding.is_some();
    if job.rows < 2 || !batcher.counts_elements() || job.outputs.iter().any(long) {
        return None;
    }
    let lengths = pieces::lengths(mask);
    let room = pieces::Room {
        elements: batcher.max_elements(),
        rows: batcher.max_rows(),
        skips_padding: signature.skips_padding,
    };
    let rows = pieces::divide(&lengths, room);
    (rows.len() > 1).then_some(Pieces { rows, lengths })
}

/// Puts tokens in the place of text, where the version takes text.
///
/// * `cut`: what becomes of texts that are too long; `None`: as the version has it
///
/// Errors: `Input`; `Busy`.
pub(crate) async fn staged(
    servable: &Servable,
    inputs: Vec<Option<Tensor>>,
    cut: Option<Cut>,
) -> Result<Staged, TextError> {
    match servable.text() {
        Some(text) => text.tokens(inputs, cut).await,
        None => Ok(Staged {
            inputs,
            tokens: 0,
            cut: None,
        }),
    }
}

/// Puts tokens in the place of text, within the request's deadline; with their number, where the model takes text.
async fn tokens(
    scope: &mut RequestScope,
    servable: &Servable,
    inputs: Vec<Option<Tensor>>,
    cut: Result<Option<Cut>, Refusal>,
) -> Result<(Vec<Option<Tensor>>, Option<usize>), Refusal> {
    let Some(text) = servable.text() else {
        return Ok((inputs, None));
    };
    let tokens = text.tokens(inputs, cut?);
    let staged = match scope.deadline() {
        None => tokens.await?,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), tokens)
            .await
            .map_err(|_| Refusal::from(JobError::DeadlineExceeded))??,
    };
    servable.series().tokens(staged.tokens);
    scope.staged(staged.cut);
    Ok((staged.inputs, Some(staged.tokens)))
}

/// Chooses the version that answers, and notes it in `scope`.
///
/// The version in the path or the message counts before the header.
fn route(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    request: &InferRequest,
) -> Result<Routed<Servable>, Refusal> {
    let id = scope.id();
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let selector = match headers.get(MODEL_VERSION) {
        Some(version) if request.version.is_empty() => version
            .to_str()
            .map_err(|_| Refusal::invalid(format!("header `{MODEL_VERSION}` is not text")))?,
        _ => &request.version,
    };
    let wish = Wish {
        selector,
        header: &header,
        id: id.as_bytes(),
    };
    let choice = service.registry().choose(&request.model, &wish)?;
    let chosen = Chosen {
        reason: choice.reason,
        unit: choice.unit,
        division: choice.division,
    };
    scope.routed(choice.routed.series(), chosen);
    Ok(choice.routed)
}

impl From<InputError> for Refusal {
    fn from(error: InputError) -> Self {
        Refusal::invalid(error.to_string())
    }
}

impl From<TextError> for Refusal {
    fn from(error: TextError) -> Self {
        let status = match error {
            TextError::Busy => Status::Overloaded,
            TextError::Input { .. } => Status::InvalidInput,
            // Of folders, which are read before anyone asks.
            TextError::File { .. } | TextError::Setting { .. } => Status::Internal,
        };
        Refusal::new(status, error.to_string())
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let status = match error {
            SubmitError::QueueFull { .. } => Status::Overloaded,
            SubmitError::Closed | SubmitError::NoInstance => Status::NotReady,
            SubmitError::AlreadyLate | SubmitError::WouldBeLate { .. } => Status::DeadlineExceeded,
            SubmitError::PriorityOutOfRange { .. } => Status::InvalidInput,
        };
        Refusal::new(status, error.to_string())
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        let status = match &error {
            JobError::DeadlineExceeded | JobError::QueueTimeout => Status::DeadlineExceeded,
            JobError::Runtime(error) => match **error {
                RuntimeError::InvalidInput { .. } => Status::InvalidInput,
                RuntimeError::Unavailable { .. }
                | RuntimeError::Load { .. }
                | RuntimeError::Unsupported { .. }
                | RuntimeError::Parameter { .. }
                | RuntimeError::Device { .. }
                | RuntimeError::DeviceLost { .. }
                | RuntimeError::Output { .. }
                | RuntimeError::Run { .. }
                | RuntimeError::Panicked { .. } => Status::Internal,
            },
            JobError::NoInstance | JobError::Shutdown => Status::NotReady,
        };
        Refusal::new(status, error.to_string())
    }
}
