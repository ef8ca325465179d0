//! CUDA graphs: runs of the same shapes are recorded once and then played back, on buffers that never move.

use crossfade_runtimes_core::{ModelSignature, TensorView};
use ort::session::RunOptions;

use super::Place;
use super::staging::Staging;

/// The run option that names the graph; −1 records nothing.
const GRAPH_ID: &str = "gpu_graph_id";

/// Combinations of shapes that are recorded; each holds memory on the device. Others run unrecorded.
const MOST: usize = 16;

/// What is recorded, and the buffers it names.
pub(super) struct Graphs {
    graphs: Vec<Graph>,
    unrecorded: Staging,
    /// For the runs of graphs that are not recorded yet; made beforehand, since making them can fail.
    spare: Vec<RunOptions>,
}

/// What the next run of a graph does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It records.
    New,
    /// It plays back.
    Recorded,
    /// It computes, as recording failed.
    Unrecordable,
}

/// One combination of shapes.
struct Graph {
    key: Vec<usize>,
    staging: Staging,
    state: State,
}

impl Graphs {
    /// Nothing recorded yet.
    pub(super) fn new(run_options: &dyn Fn() -> ort::Result<RunOptions>) -> ort::Result<Self> {
        let numbered = |id: String| {
            let mut options = run_options()?;
            options.set(GRAPH_ID, id)?;
            Ok::<_, ort::Error>(options)
        };
        // 0 is the library's number for runs that name none. They are taken from the end.
        let spare = (1..=MOST).rev().map(|id| numbered(id.to_string()));
        Ok(Self {
            graphs: Vec::new(),
            unrecorded: Staging::new(numbered("-1".to_owned())?),
            spare: spare.collect::<ort::Result<_>>()?,
        })
    }

    /// The number of the graph for these shapes; `None` where there is none and no room for one.
    pub(super) fn number(&mut self, key: Vec<usize>) -> Option<usize> {
        let known = self.graphs.iter().position(|graph| graph.key == key);
        if known.is_some() {
            return known;
        }
        self.graphs.push(Graph {
            key,
            staging: Staging::new(self.spare.pop()?),
            state: State::New,
        });
        Some(self.graphs.len() - 1)
    }

    /// The buffers of a graph.
    pub(super) fn staging(&mut self, number: usize) -> &mut Staging {
        &mut self.graphs[number].staging
    }

    /// What the next run of a graph does.
    pub(super) fn state(&self, number: usize) -> State {
        self.graphs[number].state
    }

    /// What came of recording it.
    pub(super) fn set_state(&mut self, number: usize, state: State) {
        self.graphs[number].state = state;
    }

    /// The buffers of runs that are not recorded.
    pub(super) fn unrecorded(&mut self) -> &mut Staging {
        &mut self.unrecorded
    }
}

/// What tells one graph from another: the shapes of all inputs and of the outputs that are asked for. `None` where a run
/// cannot be recorded, because something of it is not on the device.
pub(super) fn key(
    inputs: &[(TensorView<'_>, &[u8])],
    on_device: &[bool],
    places: &[Place],
    signature: &ModelSignature,
) -> Option<Vec<usize>> {
    let mut key = Vec::new();
    for ((view, _), on_device) in inputs.iter().zip(on_device) {
        if !on_device || view.datatype.width().is_none() {
            return None;
        }
        key.push(view.shape.len());
        key.extend_from_slice(view.shape);
    }
    for (output, shape) in places {
        signature.outputs[*output].datatype.width()?;
        let shape = shape.as_ref()?;
        key.push(*output);
        key.extend_from_slice(shape);
    }
    Some(key)
}
