//! Shadow: copies of requests go to the candidate, and what it answers goes to nobody (rollout.md §3).
//!
//! A request of the live version that is drawn leaves its tensors behind when it ends, shared and not copied. The
//! thread `shadow`, and an instance of the candidate that only copies use, take them up at the lowest priority, and
//! only while the live version has nothing waiting. `pair` compares both answers, `breaker` says how much is copied.
//!
//! What is absent: no request waits for a copy, or for room for one. What does not fit is dropped and counted.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossfade_batcher::{Answer, JobError};
use crossfade_rollout::ledger::{HardTrigger, Pair};
use crossfade_rollout::routing::{Portion, Purpose, Salt};
use crossfade_runtimes_core::{ModelSignature, RuntimeError, Tensor};
use crossfade_text::Cut;

use super::decision::Reader;
use super::lock;
use crate::scope::{Protocol, RequestId};

mod breaker;
mod pair;
mod recording;
mod stage;
mod worker;

use breaker::Breaker;
pub(crate) use pair::{Difference, Rule};
pub(super) use stage::{Candidate, Stage};

/// Copies that wait, and the bytes of their tensors.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 64 << 20;
/// Pairs between two looks.
const PAIRS: usize = 1 << 16;

/// Where the requests of a release leave their copies.
pub(crate) struct Shadow {
    salt: Salt,
    /// Of the requests, as the policy says.
    percent: f64,
    /// The part of that which is copied now: the bits of a number from 0 to 1.
    share: AtomicU64,
    reader: Reader,
    copies: SyncSender<RequestCopy>,
    bytes: AtomicUsize,
    dropped: AtomicU64,
    /// Which slice of its cycle it is.
    slice: AtomicUsize,
    /// Microseconds that requests of this cycle took, by slice.
    times: [Mutex<Vec<u32>>; breaker::SLICES],
    /// Microseconds that the slowest of them took.
    slowest: AtomicU64,
    /// The candidate is being waited for.
    waits: AtomicBool,
    /// Copies that it has answered, well or not.
    answered: AtomicU64,
    /// Pairs since the last look.
    pairs: Mutex<Vec<Paired>>,
}

/// A request of the live version that is run again.
pub(crate) struct RequestCopy {
    id: RequestId,
    protocol: Protocol,
    /// Whom it is about, for the inference log.
    pub(crate) subject: Option<[u8; 16]>,
    /// As the canary draws it: of a key, the first pair counts.
    unit: u64,
    inputs: Vec<(Arc<str>, Tensor)>,
    /// What becomes of texts that are too long, where the request says.
    pub(crate) cut: Option<Cut>,
    /// What the live version answered; nothing yet.
    primary: Option<Primary>,
}

/// What the live version answered.
enum Primary {
    Answered(Vec<(Arc<str>, Tensor)>),
    /// Nothing, by its own fault.
    Failed {
        /// What was asked for.
        outputs: Vec<Arc<str>>,
    },
}

/// What came of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Paired {
    id: RequestId,
    unit: u64,
    pair: Pair,
    /// Where both answered.
    difference: Option<Difference>,
    /// How long the candidate computed.
    compute: Option<Duration>,
    trigger: Option<HardTrigger>,
}

impl Shadow {
    /// A place for copies, and the end that takes them up.
    fn new(release: &str, percent: f64, reader: Reader) -> (Self, Receiver<RequestCopy>) {
        let (copies, waiting) = sync_channel(WAITING);
        let shadow = Self {
            salt: Salt::of(release),
            percent,
            share: AtomicU64::new(1f64.to_bits()),
            reader,
            copies,
            bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            slice: AtomicUsize::new(0),
            times: Default::default(),
            slowest: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            pairs: Mutex::default(),
        };
        (shadow, waiting)
    }

    /// Of the requests, what is copied now.
    fn percent(&self) -> f64 {
        self.percent * f64::from_bits(self.share.load(Relaxed))
    }

    /// A copy of a request that is about to run, if it is drawn and its answer will tell a flip. Tensors are shared.
    ///
    /// * `id`: its own, and how it came
    /// * `key`: its routing key, if it has one
    /// * `inputs`, `outputs`: as they go to the batcher
    ///
    /// Cost: one hash; for those that are drawn another one, and a few small allocations.
    pub(crate) fn copy(
        &self,
        (id, protocol): (RequestId, Protocol),
        key: Option<&[u8]>,
        signature: &ModelSignature,
        inputs: &[Option<Tensor>],
        outputs: &[usize],
    ) -> Option<RequestCopy> {
        let drawn = self.salt.draw(Purpose::Shadow, id.as_bytes());
        if !Portion::percent(self.percent()).holds(drawn) {
            return None;
        }
        if let Some(needed) = self.reader.named()
            && !outputs
                .iter()
                .any(|index| named(signature, *index).is_some_and(|name| &**name == needed))
        {
            return None;
        }
        let given = signature.inputs.iter().zip(inputs);
        let given = given.filter_map(|(spec, tensor)| Some((spec.name.clone(), tensor.clone()?)));
        Some(RequestCopy {
            id,
            protocol,
            subject: None,
            unit: self.salt.draw(Purpose::Route, key.unwrap_or(id.as_bytes())),
            inputs: given.collect(),
            cut: None,
            primary: None,
        })
    }

    /// A request of the live version has ended, and so its answer is made. Never waits.
    ///
    /// * `took`: since it was handed to the batcher, where it was answered
    /// * `copy`: given to the candidate if there is room, else dropped and counted
    pub(crate) fn ended(&self, took: Option<Duration>, copy: Option<RequestCopy>) {
        if let Some(took) = took {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.slowest.fetch_max(micros, Relaxed);
            let slice = self.slice.load(Relaxed);
            // Whoever holds the lock takes all that is there; a time that is lost meanwhile is not missed.
            if let Some(Ok(mut times)) = self.times.get(slice).map(Mutex::try_lock)
                && times.len() < breaker::MOST
            {
                times.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            }
        }
        if let Some(copy) = copy.filter(|copy| copy.primary.is_some()) {
            let bytes = copy.bytes();
            let held = self.bytes.fetch_add(bytes, Relaxed);
            if held.saturating_add(bytes) > WAITING_BYTES || self.copies.try_send(copy).is_err() {
                self.bytes.fetch_sub(bytes, Relaxed);
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// A copy has been taken up.
    fn taken(&self, copy: &RequestCopy) {
        self.bytes.fetch_sub(copy.bytes(), Relaxed);
    }

    /// Judges the live version's requests of a cycle, and changes how much is copied.
    ///
    /// * `rested`: the slice without copies
    fn adjust(&self, breaker: &mut Breaker, rested: usize) {
        let times = self
            .times
            .each_ref()
            .map(|slice| std::mem::take(&mut *lock(slice)));
        let share = breaker.judge(times, rested);
        let before = f64::from_bits(self.share.swap(share.to_bits(), Relaxed));
        if share < before {
            let percent = self.percent();
            tracing::warn!(
                percent,
                "requests are slower beside copies of them; fewer are copied"
            );
        }
    }

    fn note(&self, paired: Paired) {
        let mut pairs = lock(&self.pairs);
        if pairs.len() < PAIRS {
            pairs.push(paired);
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl RequestCopy {
    /// Keeps what the live version answered; nothing is kept of a request that failed by no fault of the version.
    ///
    /// * `outputs`: what was asked for, as indices of the signature
    pub(crate) fn answered(
        &mut self,
        signature: &ModelSignature,
        outputs: &[usize],
        answer: &Result<Answer, JobError>,
    ) {
        let names = || {
            outputs
                .iter()
                .filter_map(|index| named(signature, *index).cloned())
        };
        self.primary = match answer {
            Ok(answer) => Some(Primary::Answered(
                names().zip(answer.outputs.iter().cloned()).collect(),
            )),
            Err(error) => is_own_fault(error).then(|| Primary::Failed {
                outputs: names().collect(),
            }),
        };
    }

    /// Of its tensors; they may be parts of what is held by others, too.
    fn bytes(&self) -> usize {
        let outputs = match &self.primary {
            Some(Primary::Answered(outputs)) => outputs.as_slice(),
            _ => &[],
        };
        let tensors = self.inputs.iter().chain(outputs);
        tensors.map(|(_, tensor)| tensor.data.len()).sum()
    }
}

/// The name of an output.
fn named(signature: &ModelSignature, index: usize) -> Option<&Arc<str>> {
    signature.outputs.get(index).map(|spec| &spec.name)
}

/// Whether a version failed, rather than its client, its queue or its shutdown.
fn is_own_fault(error: &JobError) -> bool {
    match error {
        JobError::Runtime(error) => !matches!(**error, RuntimeError::InvalidInput { .. }),
        JobError::NoInstance => true,
        JobError::DeadlineExceeded | JobError::QueueTimeout | JobError::Shutdown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use crossfade_batcher::Timings;
    use crossfade_runtimes_core::{Datatype, Shape, ShapeSpec, TensorSpec};

    fn signature() -> ModelSignature {
        let spec = |name: &str| TensorSpec::new(name, Datatype::Uint8, ShapeSpec::from(&[-1][..]));
        ModelSignature {
            inputs: vec![spec("x")],
            outputs: vec![spec("y"), spec("z")],
            batched: true,
            ..Default::default()
        }
    }

    fn tensor(bytes: usize) -> Tensor {
        Tensor {
            datatype: Datatype::Uint8,
            shape: Shape::from([bytes]),
            data: Bytes::from(vec![0; bytes]),
        }
    }

    fn answered(shadow: &Shadow, bytes: usize) -> RequestCopy {
        let signature = signature();
        let mut copy = shadow
            .copy(
                (RequestId::new(), Protocol::Http),
                None,
                &signature,
                &[Some(tensor(bytes))],
                &[0],
            )
            .expect("every request is drawn");
        let answer = Answer {
            outputs: vec![tensor(0)],
            timings: Timings::default(),
        };
        copy.answered(&signature, &[0], &Ok(answer));
        copy
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (shadow, waiting) = Shadow::new("r", 100.0, Reader::new(None));
        for _ in 0..WAITING + 3 {
            shadow.ended(None, Some(answered(&shadow, 1)));
        }
        assert_eq!(shadow.dropped.load(Relaxed), 3);
        assert_eq!(shadow.bytes.load(Relaxed), WAITING);
        for copy in waiting.try_iter() {
            shadow.taken(&copy);
        }
        assert_eq!(shadow.bytes.load(Relaxed), 0);
        shadow.ended(None, Some(answered(&shadow, WAITING_BYTES)));
        shadow.ended(None, Some(answered(&shadow, 1)));
        assert_eq!((waiting.try_iter().count(), shadow.dropped.load(Relaxed)), (1, 4));
    }

    #[test]
    fn tensors_are_shared() {
        let (shadow, waiting) = Shadow::new("r", 100.0, Reader::new(None));
        let input = tensor(8);
        let copy = shadow.copy(
            (RequestId::new(), Protocol::Http),
            None,
            &signature(),
            &[Some(input.clone())],
            &[0],
        );
        let copy = copy.expect("every request is drawn");
        assert_eq!(copy.inputs[0].1.data.as_ptr(), input.data.as_ptr());
        shadow.ended(None, Some(copy));
        assert_eq!(
            waiting.try_iter().count(),
            0,
            "without an answer there is no pair"
        );
    }

    #[test]
    fn a_share_of_the_requests_is_drawn_and_of_a_key_the_unit_is_one() {
        let (shadow, _waiting) = Shadow::new("r", 20.0, Reader::new(None));
        let draw = || {
            shadow.copy(
                (RequestId::new(), Protocol::Http),
                Some(b"ann"),
                &signature(),
                &[None],
                &[0],
            )
        };
        let drawn: Vec<RequestCopy> = (0..4000).filter_map(|_| draw()).collect();
        // Four standard deviations around 800.
        assert!((700..900).contains(&drawn.len()), "{}", drawn.len());
        assert!(drawn.iter().all(|copy| copy.unit == drawn[0].unit));
        shadow.share.store(0.5f64.to_bits(), Relaxed);
        let halved = (0..4000).filter_map(|_| draw()).count();
        assert!((310..490).contains(&halved), "{halved}");
    }
}
