//! What is asked of a candidate that is loaded and has no traffic yet.

use std::path::PathBuf;
use std::sync::Arc;

use crossfade_rollout::gate::GateOutcome;
use crossfade_rollout::policy::Golden;

use super::decision::Reader;
use super::golden;
use super::world::World;

/// The gates of one candidate.
pub(super) struct Gating {
    /// Of which release.
    pub(super) release: String,
    pub(super) model: Arc<str>,
    pub(super) version: u64,
    /// The model's.
    pub(super) directory: PathBuf,
    pub(super) golden: Option<Golden>,
    /// How its decisions are read.
    pub(super) reader: Reader,
}

impl Gating {
    /// Runs the gates; what they found, in a line, or why the candidate may not go on. Blocks: for load threads.
    pub(super) fn run(&self, world: &World) -> Result<Option<String>, String> {
        let servable = world.servable(&self.model, self.version);
        let servable = servable.ok_or_else(|| "the version is gone".to_owned())?;
        self.reader.check(servable.signature())?;
        let Some(limits) = &self.golden else {
            return Ok(None);
        };
        let report = golden::judge(limits, &self.directory.join(&limits.file), &servable)
            .map_err(|error| format!("golden: {error}"))?;
        let worst = report.worst.map_or_else(String::new, |row| {
            let of = row.row + 1;
            format!(
                "; pair {of} is furthest off: {:e} absolute, {:e} relative",
                row.max_abs, row.max_rel
            )
        });
        let found = format!("golden: {:?} of {} pairs{worst}", report.outcome, report.rows);
        match report.outcome {
            GateOutcome::Passed => Ok(Some(found)),
            GateOutcome::Failed | GateOutcome::Inconclusive => Err(found),
        }
    }
}
