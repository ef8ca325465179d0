//! A model whose behaviour is given in Rust.

use std::sync::Arc;

use crossfade_runtimes_core::{
    Instance, InstanceOptions, Model, ModelSignature, Outputs, RuntimeError, TensorView,
};

use crate::gate::Gate;
use crate::operation::{self, Operation};
use crate::probe::{Execution, Probe};

/// What a fake instance does in a run.
pub type RunFn =
    Arc<dyn Fn(&[Option<TensorView<'_>>], &mut Outputs) -> Result<(), RuntimeError> + Send + Sync>;

/// What a fake model does when it is asked for an instance.
type InstantiateFn = Arc<dyn Fn(&InstanceOptions) -> Result<(), RuntimeError> + Send + Sync>;

/// A model made by a test.
#[derive(Clone)]
pub struct FakeModel {
    signature: Arc<ModelSignature>,
    run: RunFn,
    instantiate: Option<InstantiateFn>,
    gate: Option<Gate>,
    probe: Probe,
    memory_bytes: u64,
}

impl FakeModel {
    /// A model that computes `run`.
    pub fn new(
        signature: ModelSignature,
        run: impl Fn(&[Option<TensorView<'_>>], &mut Outputs) -> Result<(), RuntimeError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            signature: Arc::new(signature),
            run: Arc::new(run),
            instantiate: None,
            gate: None,
            probe: Probe::default(),
            memory_bytes: 0,
        }
    }

    /// A model whose output `k` is input `k`; any datatype.
    pub fn identity(signature: ModelSignature) -> Self {
        Self::of(signature, Operation::Identity)
    }

    /// A model whose output `k` is `operation` on input `k`.
    ///
    /// Panics if the operation cannot compute an output of the signature.
    pub fn of(signature: ModelSignature, operation: Operation) -> Self {
        operation
            .check(&signature, None)
            .expect("the operation fits the signature");
        let own = signature.clone();
        Self::new(signature, move |inputs, outputs| {
            operation.run(&own, None, inputs, outputs)
        })
    }

    /// Every run comes to `gate` first, after it was counted.
    pub fn with_gate(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Asks `instantiate` before every new instance, whose error or panic then stands.
    pub fn with_instantiate(
        mut self,
        instantiate: impl Fn(&InstanceOptions) -> Result<(), RuntimeError> + Send + Sync + 'static,
    ) -> Self {
        self.instantiate = Some(Arc::new(instantiate));
        self
    }

    /// What the model says of its memory.
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Counts into `probe` instead of one of its own.
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// The model's history.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// A new instance on the host.
    ///
    /// Panics if [`with_instantiate`](Self::with_instantiate) refuses.
    pub fn instance(&self) -> Box<dyn Instance> {
        self.instantiate(&InstanceOptions::default())
            .expect("this test's model makes instances")
    }
}

impl Model for FakeModel {
    fn signature(&self) -> &ModelSignature {
        &self.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        if let Some(instantiate) = &self.instantiate {
            instantiate(options)?;
        }
        self.probe.note_made();
        Ok(Box::new(FakeInstance {
            run: self.run.clone(),
            gate: self.gate.clone(),
            probe: self.probe.clone(),
        }))
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// An instance of a [`FakeModel`].
pub struct FakeInstance {
    run: RunFn,
    gate: Option<Gate>,
    probe: Probe,
}

impl Instance for FakeInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let present = || inputs.iter().flatten();
        self.probe.note(Execution {
            rows: present().next().map_or(1, operation::rows),
            shapes: inputs
                .iter()
                .map(|input| input.map(|view| view.shape.to_vec()))
                .collect(),
            aligned: present()
                .filter(|view| view.datatype.width().is_some())
                .all(|view| view.data.as_ptr().addr().is_multiple_of(64)),
            wanted: (0..outputs.len()).map(|index| outputs.wanted(index)).collect(),
            thread: std::thread::current().name().map(str::to_owned),
        });
        if let Some(gate) = &self.gate {
            gate.enter();
        }
        (self.run)(inputs, outputs)
    }
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        self.probe.note_dropped();
    }
}
