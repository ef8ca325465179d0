//! The runtime that reads fake models from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossfade_runtimes_core::{Model, ModelSource, Runtime, RuntimeError};

use crate::file::{self, ModelFile};
use crate::gate::Gate;
use crate::model::FakeModel;
use crate::probe::Probe;

/// Loads files as [`file`](mod@crate::file) describes; clones are the same runtime.
///
/// Tests look up a model's history by the path that it was loaded from, and may hold back loads and runs.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    probes: BTreeMap<PathBuf, Probe>,
    run_gate: Option<Gate>,
    load_gate: Option<Gate>,
    loads: usize,
}

impl FakeRuntime {
    /// A runtime that has loaded nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The history of the model file at `path`, over all its loads; empty if it was never loaded.
    pub fn probe(&self, path: &Path) -> Probe {
        self.lock().probes.entry(path.to_owned()).or_default().clone()
    }

    /// How many loads began.
    pub fn loads(&self) -> usize {
        self.lock().loads
    }

    /// Every run of a model loaded from now on comes to `gate` first.
    pub fn hold_runs(&self, gate: Gate) {
        self.lock().run_gate = Some(gate);
    }

    /// Every load from now on comes to `gate` first.
    pub fn hold_loads(&self, gate: Gate) {
        self.lock().load_gate = Some(gate);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn platform(&self) -> &'static str {
        "fake"
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        let gate = {
            let mut shared = self.lock();
            shared.loads += 1;
            shared.load_gate.clone()
        };
        if let Some(gate) = gate {
            gate.enter();
        }
        let path = if source.path.is_dir() {
            source.path.join(file::NAME)
        } else {
            source.path.clone()
        };
        let text = std::fs::read_to_string(&path).map_err(|error| RuntimeError::Load {
            reason: error.to_string(),
        })?;
        let parsed: ModelFile = text
            .parse()
            .map_err(|error: file::FileError| RuntimeError::Load {
                reason: error.to_string(),
            })?;
        let mut model: FakeModel = parsed.into_model()?.with_probe(self.probe(&path));
        if let Some(gate) = self.lock().run_gate.clone() {
            model = model.with_gate(gate);
        }
        Ok(Box::new(model))
    }
}

#[cfg(test)]
mod tests;
