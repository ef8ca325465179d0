//! A model and its instances.

use std::sync::Arc;

use crossfade_runtimes_core::{
    Device, Instance, InstanceOptions, Model, ModelSignature, ModelSource, Outputs, RuntimeError, Shape,
    TensorView,
};
use tract_onnx::prelude::multithread::Executor;
use tract_onnx::prelude::{Framework as _, TVec};

use crate::convert;
use crate::error::{guarded, load, unsupported};
use crate::plans::Plans;
use crate::signature;

/// Signature and plans, shared by the instances.
pub(crate) struct TractModel {
    shared: Arc<Shared>,
    file_bytes: u64,
}

struct Shared {
    signature: ModelSignature,
    plans: Plans,
}

impl TractModel {
    /// Reads `source` and makes a first plan.
    pub(crate) fn load(executor: &Executor, source: &ModelSource) -> Result<Self, RuntimeError> {
        if let Some(key) = source.parameters.keys().next() {
            return Err(RuntimeError::Parameter {
                key: key.clone(),
                reason: "runtime `tract` has no parameters".to_owned(),
            });
        }
        let file = source.model_file("model.onnx")?;
        let folder = file.parent().unwrap_or(&file).to_path_buf();
        // Facts that the file states about inner values hold for its own symbols, not for a plan's sizes.
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let proto = guarded(&file, || onnx.proto_model_for_path(&file))
            .map_err(|reason| load(format!("the file is no ONNX model: {reason}")))?;
        let signature = signature::read(&proto)?;
        signature::check_operators(&onnx, &proto)?;
        signature::check_external_data(&proto, &folder)?;
        let parsed = guarded(&file, || onnx.parse(&proto, folder.to_str())).map_err(unsupported)?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(load(format!("value `{name}` is used but never made")));
        }
        drop(proto);
        let file_bytes = source.bytes_on_disk();
        let plans =
            Plans::new(parsed.model, &signature, file, file_bytes, executor.clone()).map_err(unsupported)?;
        Ok(Self {
            shared: Arc::new(Shared { signature, plans }),
            file_bytes,
        })
    }
}

impl Model for TractModel {
    fn signature(&self) -> &ModelSignature {
        &self.shared.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        match options.device {
            Device::Cpu => Ok(Box::new(TractInstance {
                shared: Arc::clone(&self.shared),
            })),
            Device::Cuda(index) => Err(unsupported(format!("CUDA device {index}"))),
        }
    }

    /// The model's files: tract does not say what it holds, and weights are nearly all of it.
    fn memory_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// Shares the model's plans; what a run needs is made anew for each.
struct TractInstance {
    shared: Arc<Shared>,
}

impl Instance for TractInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let Shared { signature, plans } = &*self.shared;
        let mut views = Vec::with_capacity(inputs.len());
        for (spec, view) in signature.inputs.iter().zip(inputs) {
            views.push(view.ok_or_else(|| RuntimeError::InvalidInput {
                reason: format!("input `{}` is missing", spec.name),
            })?);
        }
        if !(0..signature.outputs.len()).any(|index| outputs.wanted(index)) {
            return Ok(());
        }
        let failed = |reason: String| RuntimeError::Run { reason };
        let shapes: Vec<Shape> = views.iter().map(|view| Shape::from(view.shape)).collect();
        let plan = plans.get(&shapes).map_err(failed)?;
        let values = views
            .iter()
            .map(convert::to_tract)
            .collect::<Result<TVec<_>, _>>();
        let values = values.map_err(|error| failed(format!("{error:#}")))?;
        let results = plans.run(&plan, values).map_err(failed)?;
        for (index, (spec, value)) in signature.outputs.iter().zip(&results).enumerate() {
            if outputs.wanted(index) {
                convert::take_output(value, spec, index, outputs)?;
            }
        }
        Ok(())
    }
}
