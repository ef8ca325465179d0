//! What is asked of a candidate that is loaded and has no traffic yet.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use crossfade_rollout::policy::{Decision, Gates};

use super::decision::Reader;
use super::examination::{Examination, Examined};
use super::history;
use super::report::{Gate, GateReport};
use super::world::World;
use crate::servable::Servable;

/// The gates of one candidate.
pub(super) struct Gating {
    /// Of which release; empty for a version that goes live without one.
    pub(super) release: String,
    pub(super) model: Arc<str>,
    pub(super) version: u64,
    /// The versions that were live before it, oldest first; the last one is.
    pub(super) before: Vec<u64>,
    /// The model's.
    pub(super) directory: PathBuf,
    pub(super) gates: Gates,
    pub(super) decision: Option<Decision>,
    /// Resident memory before the candidate was loaded, bytes.
    pub(super) resident_before: u64,
}

impl Gating {
    /// Runs the gates and keeps what is worth looking back on; `None` if the process ends meanwhile. Blocks: for load
    /// threads.
    pub(super) fn run(&self, world: &World) -> Option<Examined> {
        match world.servable(&self.model, self.version) {
            Some(candidate) => self.run_on(world, &candidate),
            None => Some(self.broken("the version is gone")),
        }
    }

    /// Likewise, of a version that no request can find yet.
    pub(super) fn run_on(&self, world: &World, candidate: &Servable) -> Option<Examined> {
        // Files that others wrote are read here, and models run that nobody has seen run.
        let examined = catch_unwind(AssertUnwindSafe(|| self.examine(world, candidate)));
        examined.unwrap_or_else(|_| Some(self.broken("a gate panicked; the log has where")))
    }

    fn examine(&self, world: &World, candidate: &Servable) -> Option<Examined> {
        if let Err(why) = Reader::new(self.decision.clone()).check(candidate.signature()) {
            return Some(self.broken(&why));
        }
        let live = self.before.last();
        let champion = live.and_then(|version| world.servable(&self.model, *version));
        if let (Some(live), None, Some(_)) = (live, &champion, &self.gates.quality) {
            let why =
                format!("version {live}, which is live, is not loaded: there is nothing to compare with");
            return Some(self.broken(&why));
        }
        let mut history = match self.gates.quality {
            Some(_) => history::read(&world.folder, &self.model),
            None => history::History::default(),
        };
        let examined = Examination {
            candidate,
            champion: champion.as_deref(),
            directory: &self.directory,
            gates: &self.gates,
            decision: self.decision.as_ref(),
            before: &self.before,
            history: &history,
            resident_before: self.resident_before,
            stop: &world.stop,
        };
        let examined = examined.run()?;
        if !examined.points.is_empty() {
            examined
                .points
                .iter()
                .cloned()
                .for_each(|point| history.note(point));
            if let Err(error) = history::keep(&world.folder, &self.model, &history) {
                tracing::error!(model = %self.model, %error, "the quality of a version is not kept");
            }
        }
        Some(examined)
    }

    fn broken(&self, why: &str) -> Examined {
        Examined {
            report: GateReport {
                model: self.model.to_string(),
                version: self.version.to_string(),
                champion: self.before.last().map(u64::to_string),
                gates: vec![Gate::broken("load", why.to_owned())],
            },
            points: Vec::new(),
            golden_diff: None,
        }
    }
}
