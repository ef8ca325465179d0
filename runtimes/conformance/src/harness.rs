//! Loading a built model and running it, as the cases do it.

use crossfade_runtimes_core::{
    Instance, InstanceOptions, Model, ModelSource, OutputSlot, Outputs, RuntimeError, Shape, Tensor,
    TensorView,
};

use crate::Subject;
use crate::onnx::ModelBuilder;

/// A loaded model; its file lives as long as this.
pub(crate) struct Loaded {
    pub(crate) model: Box<dyn Model>,
    _folder: tempfile::TempDir,
}

impl Loaded {
    pub(crate) fn instance(&self) -> Box<dyn Instance> {
        self.model
            .instantiate(&InstanceOptions::default())
            .expect("an instance on the CPU can be made")
    }
}

impl Subject<'_> {
    /// Writes and loads a model.
    pub(crate) fn try_load(&self, builder: &ModelBuilder) -> Result<Loaded, RuntimeError> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("model.onnx");
        builder.write(&path).expect("the model can be written");
        let source = ModelSource {
            path,
            ..ModelSource::default()
        };
        let model = self.runtime.load(&source)?;
        Ok(Loaded {
            model,
            _folder: folder,
        })
    }

    pub(crate) fn load(&self, builder: &ModelBuilder) -> Loaded {
        self.try_load(builder)
            .unwrap_or_else(|error| panic!("{} does not load the model: {error}", self.runtime.name()))
    }

    /// Asserts that the model is refused as unsupported, with `named` in the reason.
    pub(crate) fn refuses(&self, builder: &ModelBuilder, named: &str) {
        match self.try_load(builder) {
            Err(RuntimeError::Unsupported { runtime, what }) => {
                assert_eq!(runtime, self.runtime.name());
                assert!(what.contains(named), "the refusal does not name {named}: {what}");
            }
            Err(other) => panic!("refused for another reason: {other:?}"),
            Ok(_) => panic!("{} loaded a model it cannot serve ({named})", self.runtime.name()),
        }
    }
}

/// Runs with every output wanted and of unknown shape.
pub(crate) fn run(
    instance: &mut dyn Instance,
    inputs: &[&Tensor],
    outputs: usize,
) -> Result<Vec<Tensor>, RuntimeError> {
    let set = run_slots(instance, inputs, Outputs::all(outputs))?;
    Ok(set
        .into_iter()
        .map(|tensor| tensor.expect("a wanted output is set"))
        .collect())
}

/// Runs with every output wanted and of the given shapes.
pub(crate) fn run_foretold(
    instance: &mut dyn Instance,
    inputs: &[&Tensor],
    shapes: &[Shape],
) -> Result<Vec<Tensor>, RuntimeError> {
    let slots = shapes
        .iter()
        .map(|shape| OutputSlot::new(true, Some(shape.clone())))
        .collect();
    let set = run_slots(instance, inputs, Outputs::new(slots))?;
    Ok(set
        .into_iter()
        .map(|tensor| tensor.expect("a wanted output is set"))
        .collect())
}

pub(crate) fn run_slots(
    instance: &mut dyn Instance,
    inputs: &[&Tensor],
    mut outputs: Outputs,
) -> Result<Vec<Option<Tensor>>, RuntimeError> {
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|tensor| Some(tensor.view())).collect();
    instance.run(&views, &mut outputs)?;
    Ok(outputs.into_tensors())
}
