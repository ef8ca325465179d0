//! Which requests run next: a pure decision.
//!
//! Nothing here reads a clock, locks, or changes the queue; the same queue at the same time gives the same decision.

use std::time::{Duration, Instant};

use crossfade_runtimes_core::{ModelSignature, Shape, Tensor};

/// What bounds a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most cost a merged batch has; a request that costs more runs alone.
    pub max_cost: usize,
    /// The most rows a merged batch has, where that is another bound than its cost.
    pub max_rows: usize,
    /// Whether shorter rows are computed as if they were as long as the longest of their batch.
    pub pads: bool,
    /// Batch costs to prefer; empty: as much as fits.
    pub preferred: Vec<usize>,
    /// How long to wait for a fuller batch; zero: never.
    pub max_delay: Duration,
    /// Whether a request may not be overtaken by a later one of another shape.
    pub in_order: bool,
}

/// What the policy knows of one waiting request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What it adds to a batch: its rows, times their length.
    pub cost: usize,
    /// Elements per row in the dimension that is filled up, such as tokens; 1 for models without one.
    pub length: usize,
    /// Requests merge only if their keys are equal.
    pub key: ShapeKey,
    /// It never merges: zero rows, or the model does not batch.
    pub alone: bool,
    /// When it was queued.
    pub queued: Instant,
    /// After this nobody wants its answer.
    pub deadline: Option<Instant>,
}

impl Waiting {
    fn rows(&self) -> usize {
        self.cost / self.length.max(1)
    }

    /// Until when it may wait for company: half of the time that its deadline leaves beside the run, so that
    /// neither a slow wake-up nor a wrong estimate makes it late.
    pub fn latest_start(&self, run_time: Duration) -> Option<Instant> {
        let time = self.deadline?.saturating_duration_since(self.queued);
        Some(self.queued + time.saturating_sub(run_time) / 2)
    }
}

/// A waiting request at the time of the decision.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The request.
    pub waiting: &'a Waiting,
    /// Whether its caller is gone.
    pub cancelled: bool,
}

impl Candidate<'_> {
    /// Whether nobody would want its answer any more after a run of its own.
    fn is_too_late(&self, forecast: Forecast<'_>, now: Instant) -> bool {
        let late = |deadline| deadline < now + (forecast.run)(self.waiting.cost);
        self.waiting.deadline.is_some_and(late)
    }
}

/// How long batches take, by recent experience.
#[derive(Clone, Copy)]
pub struct Forecast<'a> {
    /// The cost of all that waits.
    pub waiting: usize,
    /// How long a batch of this cost takes.
    pub run: &'a dyn Fn(usize) -> Duration,
}

/// What an idle instance does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Run these: positions in service order, ascending, at least one.
    Run(Vec<usize>),
    /// Wait for a fuller batch.
    Wait {
        /// Look again at this time, at the latest.
        until: Instant,
        /// The total cost at which a batch would be ready earlier.
        enough: usize,
    },
    /// There is nothing to run.
    Idle,
}

/// Padding that is computed is at most so small a part of what is not: long rows gain little by company, so that more of
/// it costs more than merging saves (`cargo xtask peers text`).
const WASTE: usize = 8;

/// How far behind the first request the policy looks for others of its shape; bounds the cost of a decision.
const LOOK_AHEAD: usize = 1024;

/// Decides what an idle instance does.
///
/// * `candidates`: every waiting request in service order: by priority, then first come first served
/// * `forecast`: a batch stops waiting when a member has spent half of what its deadline leaves beside the run
///
/// The first live request is always in the batch, so none starves. Those of its shape behind it join while
/// they fit, in order; one that does not fit ends the batch. Others are passed over, unless `in_order`; so are those
/// beside which too much of the batch would be padding.
/// Cancelled and expired requests are never chosen.
///
/// Under overload some of those that wait longest could be answered only too late, even by a run of their own: they are
/// passed over as if they had expired, as long as there are others, and nobody is waited for then. Not so `in_order`, and
/// not where the forecast leaves nobody a chance: it may be wrong.
///
/// Cost: linear in the requests looked at, at most 1024 behind the first live one.
pub fn decide<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    limits: &Limits,
    forecast: Forecast<'_>,
    now: Instant,
) -> Decision {
    let live = candidates
        .enumerate()
        .filter(|(_, candidate)| !candidate.cancelled && !is_past(candidate.waiting.deadline, now))
        .take(LOOK_AHEAD);
    let is_late = |candidate: Candidate<'_>| candidate.is_too_late(forecast, now);
    let mut all = live.clone().map(|(_, candidate)| is_late(candidate));
    let passes_over = !limits.in_order && all.clone().any(|late| late) && all.any(|late| !late);
    let mut live = live
        .filter(|(_, candidate)| !(passes_over && is_late(*candidate)))
        .map(|(position, candidate)| (position, candidate.waiting));
    let Some((position, first)) = live.next() else {
        return Decision::Idle;
    };
    let run_time = (forecast.run)(forecast.waiting.min(limits.max_cost));
    if first.alone || first.cost >= limits.max_cost {
        return Decision::Run(vec![position]);
    }
    let mut batch = Forming::new(position, first, limits, run_time);
    for (position, waiting) in live {
        if batch.full {
            break;
        }
        if waiting.alone || waiting.key != first.key || batch.would_waste(waiting, limits) {
            batch.full |= limits.in_order;
        } else if !batch.has_room_for(waiting, limits) {
            batch.full = true;
        } else {
            batch.add(position, waiting, limits, run_time);
        }
    }
    batch.decide(limits, !passes_over, now)
}

/// Whether a deadline, where there is one, has come.
pub(crate) fn is_past(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

/// A batch being put together.
struct Forming {
    chosen: Vec<usize>,
    cost: usize,
    rows: usize,
    longest: usize,
    /// Nothing can be added any more.
    full: bool,
    /// How many of `chosen` make up the largest preferred cost so far.
    preferred: Option<usize>,
    oldest: Instant,
    /// When the most urgent member must stop waiting.
    latest: Option<Instant>,
}

impl Forming {
    fn new(position: usize, first: &Waiting, limits: &Limits, run_time: Duration) -> Self {
        let mut batch = Self {
            chosen: Vec::new(),
            cost: 0,
            rows: 0,
            longest: 0,
            full: false,
            preferred: None,
            oldest: first.queued,
            latest: None,
        };
        batch.add(position, first, limits, run_time);
        batch
    }

    fn add(&mut self, position: usize, waiting: &Waiting, limits: &Limits, run_time: Duration) {
        self.chosen.push(position);
        self.cost += waiting.cost;
        self.rows += waiting.rows();
        self.longest = self.longest.max(waiting.length);
        self.full = self.cost == limits.max_cost || self.rows == limits.max_rows;
        if limits.preferred.contains(&self.cost) {
            self.preferred = Some(self.chosen.len());
        }
        self.oldest = self.oldest.min(waiting.queued);
        self.latest = match (self.latest, waiting.latest_start(run_time)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// What the batch would cost with `waiting`, padding included where that is computed; and what of it is none.
    fn with(&self, waiting: &Waiting, limits: &Limits) -> (usize, usize) {
        let own = self.cost + waiting.cost;
        let padded = (self.rows + waiting.rows()) * self.longest.max(waiting.length);
        (if limits.pads { padded } else { own }, own)
    }

    fn would_waste(&self, waiting: &Waiting, limits: &Limits) -> bool {
        let (all, own) = self.with(waiting, limits);
        all > own + own / WASTE
    }

    fn has_room_for(&self, waiting: &Waiting, limits: &Limits) -> bool {
        self.with(waiting, limits).0 <= limits.max_cost && self.rows + waiting.rows() <= limits.max_rows
    }

    /// Triton's order of preference: a preferred size at once; else all there is, as soon as the batch cannot
    /// grow or the oldest member has waited long enough.
    fn decide(mut self, limits: &Limits, waits: bool, now: Instant) -> Decision {
        let patience_ends = self.oldest + limits.max_delay;
        let impatient = !limits.max_delay.is_zero() && patience_ends <= now;
        if let Some(count) = self.preferred
            && !impatient
        {
            self.chosen.truncate(count);
            return Decision::Run(self.chosen);
        }
        let until = self
            .latest
            .map_or(patience_ends, |latest| patience_ends.min(latest));
        if !waits || self.full || limits.max_delay.is_zero() || until <= now {
            return Decision::Run(self.chosen);
        }
        let preferred = limits.preferred.iter().copied().filter(|&cost| cost > self.cost);
        Decision::Wait {
            until,
            enough: preferred.min().unwrap_or(limits.max_cost),
        }
    }
}

/// What requests of one model must have in common to be merged: their variable dimensions besides the rows,
/// and which optional inputs they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShapeKey(Shape);

impl From<Shape> for ShapeKey {
    fn from(sizes: Shape) -> Self {
        Self(sizes)
    }
}

/// How requests of one model merge, worked out once from its signature.
#[derive(Debug, Clone)]
pub struct MergeRule {
    merges: bool,
    /// Per input that can differ between requests: its index, whether it may be absent, its variable dimensions.
    variable: Vec<(usize, bool, Vec<usize>)>,
    /// Per input that is filled up: its index, and in which dimension.
    padded: Vec<(usize, usize)>,
}

impl MergeRule {
    /// The rule for `signature`; with `merge` unset, or a first dimension that is not variable, nothing merges.
    pub fn new(signature: &ModelSignature, merge: bool) -> Self {
        let rows_vary = signature.inputs.iter().all(|spec| {
            let model = spec.reshape.as_ref().unwrap_or(&spec.shape);
            [&spec.shape, model]
                .iter()
                .all(|shape| shape.first().is_some_and(|rows| rows.fixed().is_none()))
        });
        let variable = signature.inputs.iter().enumerate().filter_map(|(index, spec)| {
            let padded = spec.padding.map(|padding| padding.dim);
            let dims: Vec<usize> = (1..spec.shape.len())
                .filter(|&dim| spec.shape[dim].fixed().is_none() && padded != Some(dim))
                .collect();
            (spec.optional || !dims.is_empty()).then_some((index, spec.optional, dims))
        });
        Self {
            merges: merge && signature.batched && rows_vary,
            variable: variable.collect(),
            padded: padded_inputs(signature),
        }
    }

    /// Whether requests may be filled up, so that their lengths count.
    pub fn pads(&self) -> bool {
        !self.padded.is_empty()
    }

    /// Elements per row of a request with these checked `inputs`, at least 1; 1 for a model that fills nothing up.
    pub fn length(&self, inputs: &[Option<Tensor>]) -> usize {
        length(&self.padded, inputs).unwrap_or(1).max(1)
    }

    /// Whether any two requests may merge.
    pub fn merges(&self) -> bool {
        self.merges
    }

    /// The key of a request with these checked `inputs`, and whether it runs alone.
    pub fn key(&self, inputs: &[Option<Tensor>], rows: usize) -> (ShapeKey, bool) {
        if !self.merges || rows == 0 || inputs.iter().all(Option::is_none) {
            return (ShapeKey::default(), true);
        }
        let mut sizes = Vec::new();
        for (index, optional, dims) in &self.variable {
            let tensor = inputs[*index].as_ref();
            if *optional {
                sizes.push(usize::from(tensor.is_some()));
            }
            if let Some(tensor) = tensor {
                sizes.extend(dims.iter().map(|&dim| tensor.shape[dim]));
            }
        }
        if !self.may_be_filled_up(inputs) {
            sizes.extend(lengths(&self.padded, inputs).flatten());
        }
        (ShapeKey(Shape::from(&sizes[..])), false)
    }
}

impl MergeRule {
    /// Only where every such input is there: the one that tells padding apart may not be left out. Inputs that disagree
    /// are the model's to refuse.
    fn may_be_filled_up(&self, inputs: &[Option<Tensor>]) -> bool {
        let first = length(&self.padded, inputs);
        lengths(&self.padded, inputs).all(|length| length.is_some() && length == first)
    }
}

/// The inputs of a model that are filled up, and in which dimension; none of a model that does not batch.
pub(crate) fn padded_inputs(signature: &ModelSignature) -> Vec<(usize, usize)> {
    let inputs = signature.inputs.iter().enumerate().filter(|_| signature.batched);
    inputs
        .filter_map(|(index, spec)| Some((index, spec.padding.filter(|_| spec.reshape.is_none())?.dim)))
        .collect()
}

/// The length of each of them, where it is given.
fn lengths(padded: &[(usize, usize)], inputs: &[Option<Tensor>]) -> impl Iterator<Item = Option<usize>> {
    padded
        .iter()
        .map(|&(index, dim)| Some(inputs[index].as_ref()?.shape[dim]))
}

/// The length of the first that is given.
pub(crate) fn length(padded: &[(usize, usize)], inputs: &[Option<Tensor>]) -> Option<usize> {
    lengths(padded, inputs).flatten().next()
}

#[cfg(test)]
mod tests;
