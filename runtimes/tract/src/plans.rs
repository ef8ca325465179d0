//! Plans: the model optimised for the shapes of its inputs, a few of them kept.
//!
//! tract is several times slower where the batch is a symbol (a depthwise convolution 4×, docs/benchmarks.md),
//! so a plan is made per number of rows, other variable dimensions staying symbols; where the model does not
//! build that way, per whole set of shapes. How many are kept is bounded by what their weights take. When
//! all are in use, further shapes run on the one plan whose sizes are all symbols, so that traffic of many
//! shapes does not turn into a stream of optimisations.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossfade_runtimes_core::{Dim, ModelSignature, Shape, TensorSpec};
use tract_onnx::prelude::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::*;

use crate::convert::datum_type;
use crate::error::guarded;

/// Bytes that the plans of one model may take, about: each has packed weights of its own.
const KEPT_BYTES: u64 = 256 << 20;

/// A plan that was not used for this many runs gives way to a new shape.
const IDLE_RUNS: u64 = 64;

/// An executable plan; runs share it.
pub(crate) type Plan = Arc<TypedRunnableModel>;

/// The model before optimisation, and the plans made of it.
pub(crate) struct Plans {
    model: InferenceModel,
    inputs: Vec<TensorSpec>,
    file: PathBuf,
    executor: Executor,
    fix: Fix,
    capacity: usize,
    kept: Mutex<Kept>,
    symbolic: OnceLock<Option<Plan>>,
}

/// Which variable dimensions get their size before optimisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fix {
    /// None: every plan fits every shape.
    Nothing,
    /// Dimension 0 of each input.
    Rows,
    /// Every one.
    Everything,
}

#[derive(Default)]
struct Kept {
    runs: u64,
    plans: Vec<KeptPlan>,
}

struct KeptPlan {
    key: Vec<Option<usize>>,
    plan: Plan,
    last_run: u64,
}

impl Plans {
    /// Makes the first plan, which shows that tract can serve the model.
    ///
    /// Errors: what tract says, of the way of building that gets furthest.
    pub(crate) fn new(
        model: InferenceModel,
        signature: &ModelSignature,
        file: PathBuf,
        file_bytes: u64,
        executor: Executor,
    ) -> Result<Self, String> {
        let capacity = usize::try_from(KEPT_BYTES / file_bytes.max(1))
            .unwrap_or(usize::MAX)
            .clamp(4, 64);
        let mut plans = Self {
            model,
            inputs: signature.inputs.clone(),
            file,
            executor,
            fix: Fix::Rows,
            capacity,
            kept: Mutex::default(),
            symbolic: OnceLock::new(),
        };
        // One row is what most first requests have.
        if let Err(rows) = plans.get(&plans.probe(1)) {
            // Sizes nobody knows yet; large enough for the windows of convolutions.
            plans.fix = Fix::Everything;
            plans.get(&plans.probe(64)).map_err(|_| rows)?;
        }
        Ok(plans)
    }

    /// The plan for inputs of these shapes.
    ///
    /// Errors: what tract says; the shapes do not fit the model or each other.
    pub(crate) fn get(&self, shapes: &[Shape]) -> Result<Plan, String> {
        let key = self.key(shapes, self.fix);
        if let Some(plan) = self.find(&key) {
            return Ok(plan);
        }
        if self.fix == Fix::Rows
            && self.is_full_and_busy()
            && let Some(plan) = self.symbolic()
        {
            return Ok(plan);
        }
        // Not under the lock: other shapes keep running. Two threads may make the same plan; one is kept.
        let plan = self.build(&key)?;
        self.keep(key, &plan);
        Ok(plan)
    }

    /// Runs with the runtime's threads.
    pub(crate) fn run(&self, plan: &Plan, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
        guarded(&self.file, || {
            multithread_tract_scope(self.executor.clone(), || plan.run(inputs))
        })
    }

    fn find(&self, key: &[Option<usize>]) -> Option<Plan> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.runs += 1;
        let runs = kept.runs;
        let found = kept.plans.iter_mut().find(|kept| kept.key == key)?;
        found.last_run = runs;
        Some(Arc::clone(&found.plan))
    }

    fn is_full_and_busy(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.plans.len() >= self.capacity
            && kept
                .plans
                .iter()
                .all(|plan| kept.runs - plan.last_run < IDLE_RUNS)
    }

    fn keep(&self, key: Vec<Option<usize>>, plan: &Plan) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.plans.iter().any(|kept| kept.key == key) {
            return;
        }
        if kept.plans.len() >= self.capacity {
            let oldest = kept
                .plans
                .iter()
                .enumerate()
                .min_by_key(|(_, plan)| plan.last_run);
            let oldest = oldest.map(|(index, _)| index);
            oldest.map(|index| kept.plans.swap_remove(index));
        }
        let last_run = kept.runs;
        let plan = Arc::clone(plan);
        kept.plans.push(KeptPlan { key, plan, last_run });
    }

    /// The plan for all shapes, if the model builds that way.
    fn symbolic(&self) -> Option<Plan> {
        let make = || self.build(&self.key(&[], Fix::Nothing)).ok();
        self.symbolic.get_or_init(make).clone()
    }

    /// Shapes for a first plan: `size` for each variable dimension but the first, which is 1.
    fn probe(&self, size: usize) -> Vec<Shape> {
        let dim = |(at, dim): (usize, &Dim)| dim.fixed().unwrap_or(if at == 0 { 1 } else { size });
        self.inputs
            .iter()
            .map(|spec| spec.shape.iter().enumerate().map(dim).collect())
            .collect()
    }

    /// Per variable dimension of the inputs, in order: the size it is fixed at, if it is.
    fn key(&self, shapes: &[Shape], fix: Fix) -> Vec<Option<usize>> {
        let mut key = Vec::new();
        for (input, spec) in self.inputs.iter().enumerate() {
            for (at, dim) in spec.shape.iter().enumerate() {
                if dim.fixed().is_none() {
                    let fixed = match fix {
                        Fix::Nothing => false,
                        Fix::Rows => at == 0,
                        Fix::Everything => true,
                    };
                    key.push(fixed.then(|| shapes[input][at]));
                }
            }
        }
        key
    }

    fn build(&self, key: &[Option<usize>]) -> Result<Plan, String> {
        guarded(&self.file, || {
            let mut model = self.model.clone();
            for (input, shape) in self.dimensions(&model, key).into_iter().enumerate() {
                let datum_type = datum_type(self.inputs[input].datatype);
                model.set_input_fact(input, InferenceFact::dt_shape(datum_type, shape))?;
            }
            model.into_optimized()?.into_runnable()
        })
    }

    /// The inputs' shapes under `key`: a size, or a symbol, the same wherever the file has the same name.
    fn dimensions(&self, model: &InferenceModel, key: &[Option<usize>]) -> Vec<TVec<TDim>> {
        // A name that has a size anywhere has it everywhere.
        let mut named: HashMap<Arc<str>, TDim> = HashMap::new();
        let variable = self
            .inputs
            .iter()
            .flat_map(|spec| spec.shape.iter())
            .filter(|dim| dim.fixed().is_none());
        for (dim, size) in variable.zip(key) {
            if let (Dim::Named(name), Some(size)) = (dim, size) {
                named.insert(Arc::clone(name), size.to_dim());
            }
        }
        let mut key = key.iter();
        let mut dim = |dim: &Dim| match dim {
            Dim::Fixed(size) => size.to_dim(),
            Dim::Any => match key.next().copied().flatten() {
                Some(size) => size.to_dim(),
                None => model.symbols.new_with_prefix("any").to_dim(),
            },
            Dim::Named(name) => {
                let size = key.next().copied().flatten().map(|size| size.to_dim());
                let symbol = || model.symbols.new_with_prefix("named").to_dim();
                size.unwrap_or_else(|| named.entry(Arc::clone(name)).or_insert_with(symbol).clone())
            }
        };
        self.inputs
            .iter()
            .map(|spec| spec.shape.iter().map(&mut dim).collect())
            .collect()
    }
}
