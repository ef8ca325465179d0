//! A batcher over a fake model, with everything a test wants to hold in its hands.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossfade_batcher::{
    Answer, BatchReport, Batcher, BatcherOptions, InstanceFactory, Job, JobError, Observer, Pending,
    SubmitError,
};
use crossfade_runtimes_core::{
    Datatype, InstanceOptions, Model, ModelSignature, Shape, ShapeSpec, Tensor, TensorSpec,
};
use crossfade_runtimes_fake::{FakeModel, Gate, Probe};

/// `x` UINT8 `[-1, -1]` in, `y` the same out.
pub(crate) fn signature() -> ModelSignature {
    let spec = |name| TensorSpec::new(name, Datatype::Uint8, ShapeSpec::from(&[-1, -1][..]));
    ModelSignature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        ..ModelSignature::default()
    }
}

/// What the observer saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) reports: Mutex<Vec<BatchReport>>,
    pub(crate) replaced: Mutex<Vec<String>>,
}

impl Observer for Seen {
    fn batch(&self, report: &BatchReport) {
        self.reports.lock().unwrap().push(*report);
    }

    fn instance_replaced(&self, reason: &str) {
        self.replaced.lock().unwrap().push(reason.to_owned());
    }
}

pub(crate) struct Bench {
    pub(crate) batcher: Batcher,
    pub(crate) gate: Gate,
    pub(crate) probe: Probe,
    pub(crate) seen: Arc<Seen>,
    pub(crate) time: Arc<Mutex<Instant>>,
}

/// What a bench is made of.
pub(crate) struct Setup {
    pub(crate) model: FakeModel,
    pub(crate) instances: usize,
    pub(crate) options: BatcherOptions,
    pub(crate) factory: Option<InstanceFactory>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            model: FakeModel::identity(signature()),
            instances: 1,
            options: BatcherOptions::new("model/1", 8),
            factory: None,
        }
    }
}

impl Bench {
    /// An identity model of one instance behind an open gate, batches of up to 8 rows.
    pub(crate) fn new(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let gate = Gate::closed();
        gate.open();
        let model = setup.model.with_gate(gate.clone());
        let probe = model.probe();
        let instances = (0..setup.instances).map(|_| model.instance()).collect();
        let signature = Arc::new(model.signature().clone());
        let factory = setup
            .factory
            .unwrap_or_else(|| Arc::new(move || model.instantiate(&InstanceOptions::default())));
        let seen = Arc::new(Seen::default());
        let time = Arc::new(Mutex::new(Instant::now()));
        let clock = time.clone();
        let batcher = Batcher::start_with_clock(
            signature,
            instances,
            factory,
            setup.options,
            seen.clone(),
            Arc::new(move || *clock.lock().unwrap()),
        )
        .unwrap();
        Self {
            batcher,
            gate,
            probe,
            seen,
            time,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        *self.time.lock().unwrap()
    }

    pub(crate) fn advance(&self, time: Duration) {
        *self.time.lock().unwrap() += time;
    }

    /// A job of these rows, two elements each.
    pub(crate) fn job(&self, rows: &[[u8; 2]]) -> Job {
        Job {
            inputs: vec![Some(tensor([rows.len(), 2], rows.as_flattened()))],
            outputs: vec![0],
            rows: rows.len(),
            priority: 0,
            deadline: None,
            arrived: self.now(),
        }
    }

    pub(crate) fn submit(&self, rows: &[[u8; 2]]) -> Pending {
        self.batcher.submit(self.job(rows)).unwrap()
    }

    pub(crate) fn submit_until(&self, rows: &[[u8; 2]], time: Duration) -> Result<Pending, SubmitError> {
        let deadline = Some(self.now() + time);
        self.batcher.submit(Job {
            deadline,
            ..self.job(rows)
        })
    }

    /// Occupies every instance: returns once `instances` runs are held at the gate. [`release`](Self::release)
    /// lets everything go.
    pub(crate) fn occupy(&self, instances: usize) -> Vec<Pending> {
        self.gate.close();
        let before = self.probe.executions();
        (0..instances)
            .map(|k| {
                let held = self.submit(&[[0, 0]]);
                self.gate.wait_for_arrivals(before + k + 1);
                held
            })
            .collect()
    }

    pub(crate) fn release(&self) {
        self.gate.open();
    }
}

pub(crate) fn tensor(shape: impl Into<Shape>, data: &[u8]) -> Tensor {
    Tensor {
        datatype: Datatype::Uint8,
        shape: shape.into(),
        data: data.to_vec().into(),
    }
}

/// The bytes of a job's only output.
#[track_caller]
pub(crate) fn data(answer: Result<Answer, JobError>) -> Vec<u8> {
    answer.unwrap().outputs[0].data.to_vec()
}
